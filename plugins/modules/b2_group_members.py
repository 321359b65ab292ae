#!/usr/bin/python
# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Documentation of the action of the same name, which does the work on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: b2_group_members
short_description: Create many members of a Backblaze B2 Group and seal their keys in Ansible Vault
version_added: 0.1.0
description:
  - Creates the members of a list that are not in the Group yet, many at a time, in one task. Each new member's key is encrypted into
    an Ansible Vault file and on disk before anything else can go wrong; it is never returned.
  - Nothing is created before the place for its key is proven. A vault secret has to be at hand, the directory writable with room for
    every key, every key file there has to decrypt, and no other run may hold the lock of the Group in that directory.
  - Every member of the list ends in exactly one outcome, and each one that is not as wanted is named. If some are refused the others are
    done all the same, and the task fails at the end.
  - If a run was interrupted, the next one settles what was open and says what became of it; see RV(settled).
  - Members that are in the Group but not in the list are left alone.
  - C(Ctrl-C) creates no more members, seals the keys of those that are being created, and ends the task. So do SIGTERM, SIGHUP, and the end of
    C(ansible-playbook) itself. The task then returns no result. It writes its counts, and each member that needs attention, to the stderr of
    C(ansible-playbook), and the next run goes on from there. Leave it as long as one call takes before the machine or container goes down, and half
    a minute more if the keys are not on the controller.
  - The keyword C(timeout) of the task ends it in the same way, but with its whole result.
author:
  - community.backblaze contributors (@ansible-collections)
extends_documentation_fragment:
  - community.backblaze.connection
  - community.backblaze.connection.group
  - community.backblaze.connection.vault
  - community.backblaze.connection.place
  - community.backblaze.attributes
  - community.backblaze.attributes.actiongroup_b2
  - community.backblaze.attributes.change
  - community.backblaze.attributes.places
options:
  members:
    description:
      - The members, each a dictionary with C(email) and, if wanted, C(region); or just an address. A text that only looks like a list is refused.
      - "A member that was made elsewhere is adopted with C(application_key_id) and C(application_key): the key is tried, has to open that member's
        account, and is then sealed. Without this proof nothing is written."
      - Addresses are compared and sent in lower case; each may be there once. An account cannot be deleted, so what could be a typing mistake is
        refused, see M(community.backblaze.b2_group_member). So is another name of a region, such as V(us-west-004) for V(us-west); a region that is
        not known is sent, with a warning.
      - Exactly one of O(members), O(members_file) and O(groups) is required.
    type: list
    elements: raw
  members_file:
    description:
      - A file on the controller with the members. A file whose name ends in C(.csv) has a first line with the columns C(email) and, if
        wanted, C(region), C(application_key_id) and C(application_key), and its lines that begin with C(#) are skipped; any other holds a list in
        YAML. It may be a vault file, and should be one if it has keys in it.
    type: path
  groups:
    description:
      - Several Groups in one task, each with its members, instead of O(group_id) or O(group_name) and O(members) or O(members_file).
      - One after the other, with one authorize. What keeps one Group from being begun, such as a name that no Group has, does not stop the
        others; its members are V(not_attempted) and the task fails at the end.
      - An address may be wanted in one Group only.
    type: list
    elements: dict
    suboptions:
      group_id:
        description: Id of the Group. Exactly one of O(groups[].group_id) and O(groups[].group_name) is required.
        type: str
      group_name:
        description: Name of the Group.
        type: str
      members:
        description: As O(members). Exactly one of O(groups[].members) and O(groups[].members_file) is required.
        type: list
        elements: raw
      members_file:
        description: As O(members_file).
        type: path
  vault_dir:
    description:
      - Directory on the controller for the keys, one file a member, C(<vault_dir>/<email>/b2_vault.yml). A C(host_vars) directory is a
        good choice, since Ansible then loads each key for the inventory host of that name. O(vault_layout=group_vars) keeps them in one file a Group.
      - A relative path starts at the playbook's directory; with a playbook that is run by its fully qualified name, at the working directory. If the
        directory is not there yet, a warning names the one that is made. RV(vault_dir) has its absolute path.
      - It must not be a symlink.
      - With O(vault_location) it can be elsewhere.
    type: path
    required: true
  concurrency:
    description:
      - How many members are created at the same time, 1 to 32.
    type: int
    default: 8
seealso:
  - module: community.backblaze.b2_vault_layout
  - module: community.backblaze.b2_group_member
  - module: community.backblaze.b2_group_member_info
  - plugin: community.backblaze.b2_group_members
    plugin_type: inventory
"""

EXAMPLES = r"""
- name: Give each customer an account, and keep the keys in host_vars
  community.backblaze.b2_group_members:
    group_name: hosting
    members:
      - email: alice@customers.example.com
        region: eu-central
      - email: bob@customers.example.com
    vault_dir: host_vars

- name: The same from a file, faster
  community.backblaze.b2_group_members:
    group_name: hosting
    members_file: customers.csv
    vault_dir: host_vars
    concurrency: 16

- name: Several Groups in one task
  community.backblaze.b2_group_members:
    groups:
      - group_name: hosting
        members_file: hosting.csv
      - group_name: resale
        members:
          - dora@resale.example.com
    vault_dir: host_vars
    concurrency: 16

- name: Adopt a member that was made elsewhere
  community.backblaze.b2_group_members:
    group_name: hosting
    members:
      - email: cleo@customers.example.com
        application_key_id: "{{ cleo_key_id }}"
        application_key: "{{ cleo_key }}"
    vault_dir: host_vars

- name: Keep the keys on another host
  community.backblaze.b2_group_members:
    group_name: hosting
    members:
      - emil@customers.example.com
    vault_dir: "{{ store }}/host_vars"
    vault_location: target
  delegate_to: "{{ key_host }}"

- name: Keep the keys in a Git repository, and push them before their members count as made
  community.backblaze.b2_group_members:
    group_name: hosting
    members:
      - fia@customers.example.com
    vault_dir: inventory/host_vars
    vault_location: git
    vault_git_repo: "{{ key_repository }}"
"""

RETURN = r"""
members:
  description:
    - One entry a wanted member, in the order of the list. In check mode, what would become of them.
    - With O(groups) each has the C(group_id) or C(group_name) of its Group as well, and so has each in RV(settled).
  returned: unless the task failed before the first change
  type: list
  elements: dict
  contains:
    email:
      description: Address of the member, in lower case.
      type: str
      sample: alice@customers.example.com
    outcome:
      description:
        - V(unchanged), it is in the Group and its key is stored. V(created), it was created and its key is sealed.
        - V(adopted), the given key opens the account of the member and is sealed.
        - V(key_missing), it is in the Group, but no key is stored. V(key_dead), its stored key was tried and Backblaze refuses it.
        - V(key_lost), it was created by this collection, but the answer with the key never arrived.
        - V(conflict), it is in the Group but not as asked; or the stored key is of another account, such as of one that was ejected; or a key to
          adopt is given where none can be; or the key that came is not certainly its own, and was stored beside its place.
        - V(refused), Backblaze said no. V(not_attempted), the run ended before.
      type: str
      sample: created
    message:
      description: More about the outcome, and what to do. Left out where there is nothing to say.
      type: str
    account_id:
      description: Id of the member's account. Left out where there is none.
      type: str
      sample: 5f2a1c0b3d4e
    region:
      description: Region of the account.
      type: str
      sample: eu-central
    path:
      description: The vault file that holds the key.
      type: str
      sample: /srv/hosting/host_vars/alice@customers.example.com/b2_vault.yml
    ejected_account_id:
      description: An account whose key was lost and that was ejected. Left out where there is none.
      type: str
    code:
      description: Backblaze's own code of a refusal.
      type: str
      sample: invalid_email
    status:
      description: HTTP status of a refusal.
      type: int
      sample: 401
counts:
  description: How many members ended in each outcome.
  returned: unless the task failed before the first change
  type: dict
  sample:
    created: 8
    unchanged: 2
groups:
  description: One entry a Group, in the order of the list.
  returned: with O(groups), unless the task failed before the first change
  type: list
  elements: dict
  contains:
    group_id:
      description: Id of the Group, if it was named by that.
      type: str
    group_name:
      description: Name of the Group, if it was named by that.
      type: str
      sample: hosting
    changed:
      description: Whether anything was changed in this Group.
      type: bool
    failed:
      description: Whether anything is not as wanted in this Group.
      type: bool
    counts:
      description: How many of its members ended in each outcome.
      type: dict
      sample:
        created: 8
    msg:
      description: What came of this Group.
      type: str
      sample: 8 created
settled:
  description:
    - What became of addresses that an earlier run had left open. V(created), its key was found sealed; V(key_lost); V(absent), nothing was made
      or it has left since; V(ejected), to be created anew.
  returned: unless the task failed before the first change
  type: list
  elements: dict
  sample: []
vault_dir:
  description: >-
    The vault directory, as an absolute path. With O(vault_location=target) it is C(host:path), and with V(git) it is C(repository:path).
  returned: unless the task failed before the first change
  type: str
  sample: /srv/hosting/host_vars
calls:
  description: How many requests were sent, by operation of the API.
  returned: unless the task failed before the first change
  type: dict
  sample:
    b2_authorize_account: 1
    b2_create_group_member: 8
    b2_list_group_members: 2
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.community.backblaze.plugins.module_utils._options import (
    CONNECTION_SPEC,
    MEMBERS_RULES,
    MEMBERS_SPEC,
)


def main() -> None:
    module = AnsibleModule(argument_spec={**CONNECTION_SPEC, **MEMBERS_SPEC}, supports_check_mode=True, **MEMBERS_RULES)
    module.fail_json(
        msg="This ran as a plain module, but its work is done by the action of the same name on the controller. Nothing was changed."
    )


if __name__ == "__main__":
    main()
