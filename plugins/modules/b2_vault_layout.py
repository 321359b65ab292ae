#!/usr/bin/python
# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Documentation of the action of the same name, which does the work on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: b2_vault_layout
short_description: Move the sealed keys of members from one layout to the other
version_added: 0.1.0
description:
  - Moves keys between the two layouts in which M(community.backblaze.b2_group_members) keeps them, a vault file for each member and one for
    all members of a Group. Nothing is asked of Backblaze, and no credentials are needed, only the vault secrets of the keys.
  - Each key is encrypted in its new place, on disk, read back and compared before it is taken away where it was. If the task is interrupted,
    run it again; what is moved already stays so.
  - A key is left alone, and named, where another one is in its new place, where there is something beside it that would be lost
    (other variables, a comment), or where it cannot be opened. So it is where a file of variables is beside its new directory, such as
    C(<email>.yml), which Ansible would not load any more. All others are moved, and the task fails at the end.
  - Where a run was killed before a key was in its place, all keys of that Group are left alone, for only
    M(community.backblaze.b2_group_members) with the present layout can bring it home. If what was left of it cannot be opened, so that its
    Group cannot be told, nothing is moved.
  - It holds the lock of each Group while it moves its keys, so that no other run of this collection changes them meanwhile.
author:
  - community.backblaze contributors (@ansible-collections)
extends_documentation_fragment:
  - community.backblaze.attributes
  - community.backblaze.attributes.change
  - community.backblaze.attributes.controller
attributes:
  diff_mode:
    support: none
    details: The result names each key that was moved, and where it is now.
notes:
  - It speaks to nobody and takes no credentials. So it is not in the action group C(community.backblaze.b2), whose defaults are those of
    a connection.
options:
  vault_dir:
    description:
      - Directory on the controller in which the keys are now.
      - A relative path starts at the playbook's directory; with a playbook that is run by its fully qualified name, at the working directory.
      - It must not be a symlink.
    type: path
    required: true
  vault_layout:
    description:
      - The layout that the keys are to be in.
      - V(host_vars) is C(<email>/b2_vault.yml), with variables of its own for each member.
      - V(group_vars) is C(b2_group_<group_id>/b2_vault.yml), with the variable C(b2_member_keys), a dictionary by address. Other variables and
        comments in such a file stay as they are, whether keys come or go. A file in which nothing else is left goes with its last key.
    type: str
    required: true
    choices:
      - host_vars
      - group_vars
  dest_dir:
    description:
      - Directory on the controller that the keys are to be in. By default it is O(vault_dir).
      - What the journal in O(vault_dir) knows about accounts whose key is lost goes to the journal there, and is closed in the old one. That is so
        for Groups without any key too, unless their id is other than letters, digits, C(-) and C(_). Not for an address of which there is
        something in O(vault_dir) that may be a key.
      - An address whose creation a killed run had under way stays in the old journal. To see what became of it, run
        M(community.backblaze.b2_group_members) in O(vault_dir) before the keys are moved.
    type: path
  vault_dir_is_durable:
    description:
      - Your promise that O(dest_dir) outlives a job of AWX or of C(ansible-runner). In such a job the task is refused without it, see
        O(community.backblaze.b2_group_members#module:vault_dir_is_durable).
    type: bool
    default: false
  vault_mode:
    description:
      - Mode of the files that the task makes, as text in quotes, such as V("0640"). Directories get the same, with x added to each r. By default
        files are V("0600") and directories V("0700"); see O(community.backblaze.b2_group_members#module:vault_mode).
    type: raw
  vault_id:
    description:
      - The vault id to encrypt with. By default Ansible's own rule holds, C(vault_encrypt_identity) or else the first secret of the run; a file
        that is there already keeps its own.
    type: str
  group_id:
    description:
      - Only the keys of the Group with this id. By default those of all Groups.
    type: str
  vault_lock_timeout:
    description:
      - Seconds to wait for another run that works on the same Group in the same directory.
    type: float
    default: 60.0
seealso:
  - module: community.backblaze.b2_group_members
"""

EXAMPLES = r"""
- name: Keep all keys of a Group in one file from now on, which Ansible loads for the hosts of the group b2_group_<group_id>
  community.backblaze.b2_vault_layout:
    vault_dir: host_vars
    dest_dir: group_vars
    vault_layout: group_vars

- name: Go on with the new layout
  community.backblaze.b2_group_members:
    group_name: hosting
    members_file: customers.csv
    vault_dir: group_vars
    vault_layout: group_vars

- name: Go back to one file a member, for one Group
  community.backblaze.b2_vault_layout:
    vault_dir: group_vars
    dest_dir: host_vars
    vault_layout: host_vars
    group_id: "4a48fe8875c6214145260818"
"""

RETURN = r"""
moved:
  description: >-
    The keys that were moved, or in check mode would be. The task has changed something also where it wrote keys and could not take any away.
  returned: unless the task failed before the first change
  type: list
  elements: dict
  contains:
    email:
      description: Address of the member.
      type: str
      sample: alice@customers.example.com
    path:
      description: The vault file that holds the key now.
      type: str
      sample: /srv/hosting/group_vars/b2_group_4a48fe8875c6214145260818/b2_vault.yml
left:
  description: What was left alone. If there is anything in it the task has failed.
  returned: unless the task failed before the first change
  type: list
  elements: dict
  contains:
    email:
      description: Address of the member. Left out where it is not about one member.
      type: str
      sample: bob@customers.example.com
    path:
      description: The file or directory that it is about.
      type: str
      sample: /srv/hosting/host_vars/bob@customers.example.com/b2_vault.yml
    message:
      description: Why it was left alone, and what to do.
      type: str
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.community.backblaze.plugins.module_utils._options import VAULT_LAYOUT_SPEC


def main() -> None:
    module = AnsibleModule(argument_spec=VAULT_LAYOUT_SPEC, supports_check_mode=True)
    module.fail_json(
        msg="This ran as a plain module, but its work is done by the action of the same name on the controller. Nothing was changed."
    )


if __name__ == "__main__":
    main()
