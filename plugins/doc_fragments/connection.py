# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Document the options that several pages share."""

from __future__ import annotations


class ModuleDocFragment:
    """Document the connection; ``.group`` the Group, ``.vault`` the stored keys, ``.location`` their location."""

    DOCUMENTATION = r"""
requirements:
  - requests >= 2.30
  - urllib3 >= 2.2
options:
  application_key_id:
    description:
      - Id of the Group admin's B(master) application key. It equals the account id.
      - If it is not given, the environment variables E(B2_APPLICATION_KEY_ID) and E(B2_MASTER_KEY_ID) are tried, in
        this order.
    type: str
  application_key:
    description:
      - The Group admin's master application key. The Partner API accepts no other key.
      - If it is not given, the environment variables E(B2_APPLICATION_KEY) and E(B2_MASTER_KEY) are tried, in this
        order.
    type: str
  realm:
    description:
      - The realm of Backblaze, as V(production), V(staging), or a URL.
      - Credentials are sent over HTTPS or to a loopback address only. Other URLs are refused.
      - If it is not given, the environment variable E(B2_ENVIRONMENT) is tried. The default is V(production).
    type: str
  credentials_file:
    description:
      - Path of a JSON file with C(application_key_id), C(application_key) and C(realm), or some of them, as texts.
      - If it is not given, the environment variable E(B2_CREDENTIALS_FILE) is tried. A relative path starts at the
        working directory.
      - Each of the three values is taken from the first source that has it. The sources are the option of its name,
        the file that this option names, the environment variables, and the file that E(B2_CREDENTIALS_FILE) names.
        That last file is read only if the id or the key is still missing. An empty value in the environment or in a
        file counts as missing.
      - The file has to belong to the user that reads it, without any permission for others (C(chmod 600)). A symlink
        is not followed.
    type: path
  api_version:
    description:
      - Version of the API for calls about Groups and their members. Backblaze documents V(v3), and its newest samples
        use V(v4).
      - Authorizing always uses V(v4), because V(v3) refuses some application keys.
    type: str
    default: v3
    choices:
      - v3
      - v4
  api_timeout:
    description:
      - Seconds to wait for the whole answer after the request was sent. Connecting before that may take as long, but
        at most 15 seconds.
    type: float
    default: 60.0
  max_retries:
    description:
      - Maximum number of times that a failed call is sent again, with pauses that double from 1 second to 64 seconds.
      - With V(0) no call is sent again.
    type: int
    default: 5
  ca_path:
    description:
      - Path of a file or a directory with certificates of certification authorities, instead of the default ones of
        C(requests).
    type: path
  validate_certs:
    description:
      - Whether certificates are verified. Set it to V(false) on test installations only.
    type: bool
    default: true
notes:
  - Environment variables and files are those of the machine that does the work. That is the controller if a key is
    sealed or an inventory is read, and the host of the task otherwise. The keyword C(environment) of a play or task
    has an effect only if the task runs as a module.
"""

    GROUP = r"""
options:
  group_id:
    description:
      - Id of the Group, an opaque string.
      - Exactly one of O(group_id) and O(group_name) is required.
    type: str
  group_name:
    description:
      - Name of the Group. Names are not unique. A name that fits several Groups is an error that lists their ids.
    type: str
"""

    LOCATION = r"""
options:
  vault_location:
    description:
      - The location of O(vault_dir).
      - V(controller) is the machine that runs Ansible.
      - V(target) is the host that the task addresses, over its own connection and as the user that the task becomes.
        Keys are encrypted on the controller, and the host receives only encrypted keys. O(vault_dir) is an absolute
        path on that host. The host needs Python, as for any module. A host that C(delegate_to) names is refused if
        its connection is C(local), unless its own variables say C(ansible_connection=local) or its name is
        C(localhost).
      - V(git) is the repository O(vault_git_repo), and O(vault_dir) is a path in it. Keys that arrive together are
        one commit. A key is stored when its push was accepted. If somebody else has pushed before, the commit is
        repeated on top of theirs. The controller needs the command C(git).
      - The promises are the same in every location. A member has its result only after its encrypted key is in the
        location, and the journal in the location names an address before its account is created. So a run on any
        machine can find out the outcome of an address that another run left open.
      - At its end a run on V(target) or V(git) looks at its keys once more. If somebody has removed a key file, such
        as by deleting or rewriting the branch, the file is written again. If that fails, or if a changed file does
        not hold the key any more, the key goes to the fallback directory. If key files of earlier runs were removed,
        a warning names them, and they are not written again.
      - On V(target) and V(git) each Group has a lease instead of a lock, and the run renews it. If a run is killed,
        another run takes the lease over after ten minutes, or at once if it is on the same machine. With V(git) the
        lease is a branch, see O(vault_git_lock_branch), and the clocks of all controllers must agree to within some
        minutes.
    type: str
    default: controller
    choices:
      - controller
      - target
      - git
  vault_git_repo:
    description:
      - URL or path of the repository for the keys, required with O(vault_location=git). A relative path starts at the
        same directory as O(vault_dir).
      - Git logs in by its own means, such as an ssh key or a credential helper. It never asks on a terminal.
      - A URL with C(https://) or C(http://) can have a user name and a password, with special characters
        percent-encoded. If it has a password, Git reads both from a pipe. They are on no command line, in no
        environment and in no file, and the user's own credential helpers are not used for that server. A user name
        without a password stays in the URL.
      - Git, its helpers and hooks on the controller run without the environment variables of this collection and
        without C(ANSIBLE_*).
    type: str
  vault_git_branch:
    description:
      - Branch for the keys. It must exist, unless the repository is empty. The default is the default branch of the
        repository.
    type: str
  vault_git_message:
    description:
      - Subject of every commit that the task pushes, in one line. Use it if the server has rules for subjects.
      - C({keys}) in it is replaced by the number of key files in the commit, which is V(0) for the journal and the
        lease.
      - The default subject describes the commit.
    type: str
  vault_git_lock_branch:
    description:
      - First part of the name of the branch that is the lease of a Group. Use it if the server has rules for names of
        branches. The whole name is C(<vault_git_lock_branch>/<group_id>). The default is
        C(b2-members-lock/<group_id>).
      - Letters, digits and C(._+-) are allowed, and slashes between parts. One branch cannot be in the path of another,
        so O(vault_git_branch) must have another name.
      - All tasks that use the repository need the same value, or they do not see each other's leases.
    type: str
"""

    VAULT = r"""
options:
  vault_id:
    description:
      - The vault id to encrypt with. The default is Ansible's own rule, which is C(vault_encrypt_identity) or else
        the first secret of the run.
    type: str
  vault_layout:
    description:
      - How the keys are arranged in O(vault_dir).
      - V(host_vars) stores each key in a vault file of its member, C(<vault_dir>/<email>/b2_vault.yml), with
        variables of its own.
      - V(group_vars) stores all keys of a Group in one vault file, C(<vault_dir>/b2_group_<group_id>/b2_vault.yml),
        as the variable C(b2_member_keys), a dictionary by address. With C(group_vars) as O(vault_dir), and an
        inventory that makes a group C(b2_group_<group_id>) of the Group's members, Ansible itself loads it for them.
        Keys that arrive together share one write. If a run is killed with SIGKILL, or the machine stops, the keys
        that were waiting for that write are lost, and the next run names their members.
      - M(community.backblaze.b2_vault_layout) moves keys from one layout to the other.
    type: str
    default: host_vars
    choices:
      - host_vars
      - group_vars
  vault_fallback_dir:
    description:
      - Directory on the controller for a key that cannot be stored in O(vault_dir), such as when the disk fills up
        after the member was created. The next run moves the key to its vault file.
      - The default is C(community.backblaze) in the user's state directory, C($XDG_STATE_HOME) or C(~/.local/state).
    type: path
  vault_dir_is_durable:
    description:
      - Your promise that O(vault_dir), and O(vault_fallback_dir) if you name it, outlive a job of AWX or of
        C(ansible-runner).
      - The container of such a job and its copy of the project are deleted at the end, and nothing in the job shows
        which directories stay. So the task is refused without this promise if O(vault_location=controller), if the
        connection of the target is local, or if O(vault_git_repo) is a path. Set V(true) only if the directory is on
        a volume that outlives the container or pod. An C(emptyDir) of Kubernetes does not.
      - A fallback directory is never refused. In a job the task warns of the default one, and of a named one without
        this promise.
      - Outside of such jobs this option has no effect.
    type: bool
    default: false
  vault_mode:
    description:
      - Mode of the new files in O(vault_dir), as text in quotes, such as V("0640") or V("u=rw,g=r"). New directories
        get the same mode, with x added to each r. An octal number without quotes is refused, because YAML reads it as
        another number.
      - The C(umask) has no effect on this mode. Only r and w can be given, and the owner must have both. A symbolic
        mode is taken as a change of V(0600).
      - The default is V("0600") for files and V("0700") for directories, so that a second user cannot run the task on
        the same directory. For a team use V("0660"), and make the vault directory one of the team's group with the
        setgid bit, which new directories in it inherit.
      - Existing files and directories keep their mode, except for a file that is replaced. The fallback directory is
        for its owner only.
      - It is refused with O(vault_location=git), because Git keeps no modes.
    type: raw
  vault_lock_timeout:
    description:
      - Seconds to wait for another run that holds the lock of the same Group in the same O(vault_dir). A task that
        addresses many hosts is many runs. Use C(run_once) for such a task, unless each host has a Group of its own.
    type: float
    default: 60.0
  on_key_missing:
    description:
      - Whether the task fails because of members that are in the Group while no key is stored. These are members with
        the outcome V(key_missing), and members with the outcome V(key_lost) whose lost key an earlier run has already
        reported.
      - With V(warn) a warning names each of these members. With V(fail) the message does, and the task fails after
        all other members are done.
      - A key that is lost in this run, or that no run has reported yet, fails the task in either case.
    type: str
    default: fail
    choices:
      - fail
      - warn
  on_key_lost:
    description:
      - What to do about an account that this run created, and whose key never arrived.
      - V(fail) names the member. V(recreate) ejects the account under the address of O(throwaway_email), and creates
        the member once more under its own address. Ejecting cannot be undone. The ejected account lives on and is
        billed on its own.
      - Accounts whose key an earlier run lost are not ejected because of this option; see O(recreate_members).
      - Do not use V(recreate) if others create members of the same addresses at the same time. If an answer does not
        arrive, the task cannot know who created the account.
      - It is not confirmed that Backblaze frees the old address. If Backblaze does not, the message of the member
        says so.
    type: str
    default: fail
    choices:
      - fail
      - recreate
  recreate_members:
    description:
      - Addresses of members to recreate, because an earlier run created the account and never got its key. The
        account is ejected, and the member is created once more, as O(on_key_lost=recreate) does for a key that is
        lost in the same run.
      - The message of the outcome V(key_lost) contains this option, ready to be copied. Check first whether the
        account is in use.
      - An account is ejected only if this option and the journal in O(vault_dir) both name it. The journal is a file
        that others may be able to write to, so it is not sufficient alone.
      - An account that appears after a run was killed may be somebody else's, and is not recreated. Eject it with
        M(community.backblaze.b2_group_member), and the next run creates the member once more.
    type: list
    elements: str
  throwaway_email:
    description:
      - Form of the address that an account gets when O(on_key_lost=recreate) or O(recreate_members) ejects it.
        C({account_id}), C({local}) and C({domain}) are replaced by its account id and the two sides of its address.
    type: str
    default: lost-{account_id}@{domain}
  verify_keys:
    description:
      - Whether the stored key of each wanted member is tried at Backblaze, and each new key as well. That is one
        authorize for each key.
      - A key that Backblaze refuses has the outcome V(key_dead), a key that opens another account V(conflict).
      - A key that cannot be tried, such as because the account of its member is at a cap, is named in a warning. The
        other keys are tried.
    type: bool
    default: false
"""
