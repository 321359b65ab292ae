# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The connection options, documented once."""

from __future__ import annotations


class ModuleDocFragment:
    """``connection`` for all; ``.group`` names a Group; ``.vault`` is about keys, ``.place`` about where they are."""

    DOCUMENTATION = r"""
requirements:
  - requests >= 2.30
  - urllib3 >= 2.2
options:
  application_key_id:
    description:
      - Id of the Group admin's B(master) application key. It equals the account id.
      - If it is not given, the environment variables E(B2_APPLICATION_KEY_ID) and E(B2_MASTER_KEY_ID) are tried, in this order.
    type: str
  application_key:
    description:
      - The Group admin's master application key. The Partner API accepts no other.
      - If it is not given, the environment variables E(B2_APPLICATION_KEY) and E(B2_MASTER_KEY) are tried, in this order.
    type: str
  realm:
    description:
      - Where Backblaze is, as V(production), V(staging), or a URL.
      - Credentials are sent over HTTPS or to a loopback address only; other URLs are refused.
      - If it is not given, the environment variable E(B2_ENVIRONMENT) is tried. The default is V(production).
    type: str
  credentials_file:
    description:
      - Path of a JSON file with C(application_key_id), C(application_key) and C(realm), or some of them, as texts.
      - If it is not given, the environment variable E(B2_CREDENTIALS_FILE) is tried. A relative path starts at the working directory.
      - Each of the three is taken from the nearest place that has it. That is the option of its name, then the file that this option names,
        then the environment variables, then the file that E(B2_CREDENTIALS_FILE) names, which is read only if the id or the key is still missing.
        What is empty in the environment or in a file is not given.
      - The file has to belong to the user that reads it, and has to be closed to everybody else (C(chmod 600)). A symlink is not followed.
    type: path
  api_version:
    description:
      - Version of the API for calls about Groups and their members. V(v3) is the one that Backblaze documents; its newest samples use V(v4).
      - Authorizing is always done at V(v4), because V(v3) refuses some application keys there.
    type: str
    default: v3
    choices:
      - v3
      - v4
  api_timeout:
    description:
      - Seconds in which an answer has to be there, from the request being sent to the last byte of the answer. Connecting may take as long before
        that, but at most 15 seconds.
    type: float
    default: 60.0
  max_retries:
    description:
      - How often a call that failed on the way is sent again, at most, with pauses of 1 second doubling to 64 seconds.
      - V(0) for never.
    type: int
    default: 5
  ca_path:
    description:
      - Path of a file or a directory with certificates of certification authorities, instead of those that C(requests) uses by default.
    type: path
  validate_certs:
    description:
      - Whether certificates are verified. Set it to V(false) on test installations only.
    type: bool
    default: true
notes:
  - Environment variables are those of the process that does the work, and files are those of its machine. That is the controller where a key is
    sealed or an inventory is read, and the host of the task for all else; C(environment) on a play or task reaches only what runs as a module.
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
      - Name of the Group. Names are not unique; a name that fits several Groups is an error that lists their ids.
    type: str
"""

    PLACE = r"""
options:
  vault_location:
    description:
      - Where O(vault_dir) is.
      - V(controller) is the machine that runs Ansible.
      - V(target) is the host that the task addresses, over its own connection and as the user that the task becomes. Keys are encrypted on the
        controller, and the host sees them encrypted only. O(vault_dir) is an absolute path there. The host needs Python, as for any module.
        A host that C(delegate_to) names is refused if its connection is C(local), unless its own variables say C(ansible_connection=local) or its
        name is C(localhost).
      - V(git) is a repository, O(vault_git_repo), which O(vault_dir) is a path in. Keys that arrive together are one commit, and what counts is that
        its push was accepted. If somebody else was faster, it is made anew on what they have pushed. The controller needs the command C(git).
      - Elsewhere than on the controller the same holds as there. A member has its result when its encrypted key is in that place for good, and
        an address is noted in the journal there before its account is made. So a run on any machine can settle what another one left open.
      - A run that provisions there looks at its keys once more before it ends. If somebody has removed a key file meanwhile, such as by deleting or
        rewriting the branch, it is written again. If it cannot be written, or somebody has changed it and the key
        is not in it any more, the key goes to the fallback directory. If key files of earlier runs were removed, a
        warning names them, and they are not written again.
      - Elsewhere no lock can be held, so each Group has a lease that its run keeps fresh. If a run is killed, its lease is taken over after ten
        minutes, or at once by a run on the same machine. With V(git) the lease is a branch, see
        O(vault_git_lock_branch), and the clocks of all controllers have to agree to within some minutes.
    type: str
    default: controller
    choices:
      - controller
      - target
      - git
  vault_git_repo:
    description:
      - URL or path of the repository for the keys, required with O(vault_location=git). A relative path starts where that of O(vault_dir) does.
      - How to log in is git's own affair, such as an ssh key or a credential helper; it is never asked on a terminal.
      - The URL can have a user name and a password, for C(https://) and C(http://), with special characters percent-encoded. Git reads them from a
        pipe. They are on no command line, in no environment and in no file, and the user's own credential helpers are not used for that server.
        This holds if the URL has a password. A user name alone stays in the URL.
      - Git, its helpers and hooks on the controller run without the environment variables of this collection and without C(ANSIBLE_*).
    type: str
  vault_git_branch:
    description:
      - Branch for the keys. It has to be there, unless the repository is empty. By default it is the repository's own default branch.
    type: str
  vault_git_message:
    description:
      - Subject of every commit that the task pushes, if the server has rules for it. It is one line.
      - C({keys}) in it stands for the number of key files in the commit, which is V(0) for the journal and the lease.
      - By default the subject says what the commit is for.
    type: str
  vault_git_lock_branch:
    description:
      - First part of the name of the branch that is the lease of a Group, if the server has rules for names of
        branches. The whole name is C(<vault_git_lock_branch>/<group_id>). By default it is C(b2-members-lock/<group_id>).
      - Letters, digits and C(._+-) are allowed, and slashes between parts. One branch cannot be in the path of another,
        so O(vault_git_branch) has to have another name.
      - All tasks that use the repository need the same value, or they do not see each other's leases.
    type: str
"""

    VAULT = r"""
options:
  vault_id:
    description:
      - The vault id to encrypt with. By default Ansible's own rule holds, C(vault_encrypt_identity) or else the first secret of the run.
    type: str
  vault_layout:
    description:
      - How keys are kept in O(vault_dir).
      - V(host_vars) gives each member a file of its own, C(<vault_dir>/<email>/b2_vault.yml), with variables of its own.
      - V(group_vars) keeps all keys of a Group in one vault file, C(<vault_dir>/b2_group_<group_id>/b2_vault.yml), as the variable
        C(b2_member_keys), a dictionary by address. Other variables and comments in that file stay as they are. With C(group_vars) as O(vault_dir),
        and an inventory that makes a group C(b2_group_<group_id>) of the Group's members, Ansible itself loads it for them. Keys that arrive
        together share one write; if a run is killed with SIGKILL, or the machine stops, those that were waiting for it are lost, and named.
      - M(community.backblaze.b2_vault_layout) moves keys from one to the other.
    type: str
    default: host_vars
    choices:
      - host_vars
      - group_vars
  vault_fallback_dir:
    description:
      - Directory on the controller for a key that cannot be stored in O(vault_dir), such as when the disk fills up after the member was
        created. The next run moves it home.
      - The default is C(community.backblaze) in the user's state directory, C($XDG_STATE_HOME) or C(~/.local/state).
    type: path
  vault_dir_is_durable:
    description:
      - Your promise that O(vault_dir), and O(vault_fallback_dir) if you name it, outlive a job of AWX or of C(ansible-runner).
      - In such a job the container and the copy of the project are thrown away at the end, and nothing in the job shows which directories stay. So
        the task is refused without this promise if O(vault_location=controller), if the target's connection is local, or if O(vault_git_repo) is a
        path. Set V(true) only if the directory is on a volume that outlives the container or pod. An C(emptyDir) of Kubernetes does not.
      - A fallback directory is never refused. In a job the task warns of the default one, and of a named one without this promise.
      - Outside of such jobs this option has no effect.
    type: bool
    default: false
  vault_mode:
    description:
      - Mode of the files that the task makes in O(vault_dir), as text in quotes, such as V("0640") or V("u=rw,g=r"). Directories get the same,
        with x added to each r. An octal number without quotes is refused, since YAML makes another number of it.
      - Whatever the C(umask) is, files and directories have just this mode. Only r and w can be given, and the owner has to keep both. A symbolic
        mode is taken as a change of V(0600).
      - By default files are V("0600") and directories V("0700"), so that a second user cannot run the task on the same directory. For a team give
        V("0660"), and make the vault directory one of the team's group with the setgid bit, which directories in it inherit.
      - What is there already keeps its mode, except for a file that is replaced. The fallback directory stays its owner's.
      - It has no meaning with O(vault_location=git), and is refused there.
    type: raw
  vault_lock_timeout:
    description:
      - Seconds to wait for another run that works on the same Group in the same O(vault_dir). A task that addresses many hosts is many
        runs; use C(run_once) there, unless each host is for a Group of its own.
    type: float
    default: 60.0
  on_key_missing:
    description:
      - What to do about members that are in the Group while no key is stored. Each is named either way, and all others are done first.
    type: str
    default: fail
    choices:
      - fail
      - warn
  on_key_lost:
    description:
      - What to do about an account that this run made, and whose key never arrived.
      - V(fail) names it. V(recreate) ejects it, which no API undoes, under the address of O(throwaway_email), and creates the member once more
        under its own address. The ejected account lives on and is billed on its own.
      - Accounts whose key an earlier run lost are never ejected by this alone; see O(recreate_members).
      - Do not use V(recreate) where others create members of the same addresses at the same time. An answer that does not arrive does not tell
        whose account it was.
      - Whether Backblaze frees the old address is not confirmed; if it does not, the task says so.
    type: str
    default: fail
    choices:
      - fail
      - recreate
  recreate_members:
    description:
      - Addresses of members whose account is to be replaced, because an earlier run made it and never got its key. The account is ejected, and the
        member is created once more, as O(on_key_lost=recreate) does for a key that is lost in the same run.
      - The message of the outcome V(key_lost) has this line ready to be copied. Look whether the account is used before you do that.
      - Both this word and the journal in O(vault_dir) are needed. The journal is a file that others may be able to write to, so nothing that cannot
        be undone rests on it alone.
      - An account that turns up after a run was killed may be somebody else's, and is not replaced. Eject it with
        M(community.backblaze.b2_group_member), and the next run creates the member once more.
    type: list
    elements: str
  throwaway_email:
    description:
      - Form of the address that an account gets when O(on_key_lost=recreate) or O(recreate_members) ejects it. C({account_id}), C({local}) and
        C({domain}) stand for its account id and the two sides of its address.
    type: str
    default: lost-{account_id}@{domain}
  verify_keys:
    description:
      - Whether the stored key of each wanted member is tried, and each new key as well. A key that Backblaze refuses ends in the outcome
        V(key_dead), one that opens another account in V(conflict).
      - A key that cannot be tried, such as because its member's account is at a cap, is named in a warning, and the others are tried all the same.
    type: bool
    default: false
"""
