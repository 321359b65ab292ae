#!/usr/bin/python
# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Document the action of the same name. No code runs as a module: the action does the work on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: b2_vault_layout
short_description: Move the sealed keys of members from one layout to the other
version_added: 0.1.0
description:
  - Moves keys between the two layouts of M(community.backblaze.b2_group_members), which are one vault file for each
    member and one vault file for each Group. It sends nothing to Backblaze, and needs no credentials, only the vault
    secrets of the keys.
  - Each key is sealed in its new vault file, read back and compared. Only then the old one is removed. If the task is
    interrupted, run it again; the keys that were moved stay in their new files.
  - A key is not moved, and is named, if its new vault file holds another key, if other variables or comments beside
    it would be lost, or if it does not decrypt. The same holds if the new directory would switch off a file of
    variables, such as C(<email>.yml), which Ansible would not load any more. All other keys are moved, and the task
    fails at the end.
  - If a run was killed before a key was in its vault file, no key of that Group is moved. First run
    M(community.backblaze.b2_group_members) with the present layout, which moves that key to its file. If such a file
    does not decrypt, its Group is not known, and nothing is moved.
  - The task holds the lock of each Group while it moves the keys, so that no other run changes them.
author:
  - community.backblaze contributors (@ansible-collections)
extends_documentation_fragment:
  - community.backblaze.attributes
  - community.backblaze.attributes.change
  - community.backblaze.attributes.controller
attributes:
  diff_mode:
    support: full
    details: The diff names the vault file of each key before and after. Ansible shows no diff of a failed task.
notes:
  - The task sends nothing and takes no credentials. So it is not in the action group C(community.backblaze.b2), whose
    defaults are connection options.
options:
  vault_dir:
    description:
      - Directory on the controller that holds the keys now.
      - A relative path starts at the directory of the playbook, or at the working directory if the playbook is run by
        its fully qualified name.
      - It must not be a symlink.
    type: path
    required: true
  vault_layout:
    description:
      - The layout to move the keys to.
      - V(host_vars) is C(<email>/b2_vault.yml), with variables of its own for each member.
      - V(group_vars) is C(b2_group_<group_id>/b2_vault.yml), with the variable C(b2_member_keys), a dictionary by
        address.
    type: str
    required: true
    choices:
      - host_vars
      - group_vars
  dest_dir:
    description:
      - Directory on the controller to move the keys to. The default is O(vault_dir).
      - The journal entries of O(vault_dir) about accounts whose key is lost are moved to the journal of this
        directory. That includes Groups without any key, unless their id has characters other than letters, digits,
        C(-) and C(_). It does not include an address of which O(vault_dir) may hold a key.
      - If a killed run was creating an address, its journal entry is not moved. Before you move the keys, run
        M(community.backblaze.b2_group_members) in O(vault_dir), which finds out the outcome of that address.
    type: path
  vault_dir_is_durable:
    description:
      - Your promise that O(dest_dir) outlives a job of AWX or of C(ansible-runner). In such a job the task is refused
        without it, see O(community.backblaze.b2_group_members#module:vault_dir_is_durable).
    type: bool
    default: false
  vault_mode:
    description:
      - Mode of new files, as text in quotes, such as V("0640"). New directories get the same mode, with x added to
        each r. The default is V("0600") for files and V("0700") for directories; see
        O(community.backblaze.b2_group_members#module:vault_mode).
    type: raw
  vault_id:
    description:
      - The vault id to encrypt with. The default is Ansible's own rule, which is C(vault_encrypt_identity) or else
        the first secret of the run. An existing vault file keeps its vault id.
    type: str
  group_id:
    description:
      - Move only the keys of the Group with this id. The default is all Groups.
    type: str
  vault_lock_timeout:
    description:
      - Seconds to wait for another run that holds the lock of the same Group in the same directory.
    type: float
    default: 60.0
seealso:
  - module: community.backblaze.b2_group_members
"""

EXAMPLES = r"""
- name: Move the keys of each Group into one file, which Ansible loads for the hosts of the group b2_group_<group_id>
  community.backblaze.b2_vault_layout:
    vault_dir: host_vars
    dest_dir: group_vars
    vault_layout: group_vars

- name: Create members in the new layout
  community.backblaze.b2_group_members:
    group_name: hosting
    members_file: customers.csv
    vault_dir: group_vars
    vault_layout: group_vars

- name: Move the keys of one Group back into one file for each member
  community.backblaze.b2_vault_layout:
    vault_dir: group_vars
    dest_dir: host_vars
    vault_layout: host_vars
    group_id: "4a48fe8875c6214145260818"
"""

RETURN = r"""
moved:
  description:
    - The keys that were moved, or in check mode would be moved.
    - RV(ignore:changed) is V(true) as well if keys were written to the new vault files, but no key could be removed
      from the old ones.
  returned: unless the task failed before the first change
  type: list
  elements: dict
  contains:
    email:
      description: Address of the member.
      type: str
      sample: alice@customers.example.com
    path:
      description: Path of the vault file that holds the key now.
      type: str
      sample: /srv/hosting/group_vars/b2_group_4a48fe8875c6214145260818/b2_vault.yml
left:
  description: The keys and files that were not moved. If there are any, the task fails.
  returned: unless the task failed before the first change
  type: list
  elements: dict
  contains:
    email:
      description: Address of the member; null if the entry is not about one member.
      type: str
      sample: bob@customers.example.com
    path:
      description: Path of the file or directory.
      type: str
      sample: /srv/hosting/host_vars/bob@customers.example.com/b2_vault.yml
    message:
      description: The reason, and what to do.
      type: str
"""
