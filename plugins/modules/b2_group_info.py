#!/usr/bin/python
# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""List the Groups of a Group admin."""

from __future__ import annotations

DOCUMENTATION = r"""
module: b2_group_info
short_description: List the Groups of a Backblaze B2 Group admin
version_added: 0.1.0
description:
  - Lists the Groups of which the account is the admin, all Groups or the Groups of one name.
  - The Partner API cannot create, rename or delete a Group. Do that on the web site of Backblaze.
author:
  - community.backblaze contributors (@ansible-collections)
extends_documentation_fragment:
  - community.backblaze.connection
  - community.backblaze.attributes
  - community.backblaze.attributes.actiongroup_b2
  - community.backblaze.attributes.info
  - community.backblaze.attributes.target
options:
  group_name:
    description:
      - List only the Groups with exactly this name. Names are not unique, so there can be several.
    type: str
seealso:
  - module: community.backblaze.b2_group_member_info
"""

EXAMPLES = r"""
- name: List all Groups
  community.backblaze.b2_group_info:
  register: result

- name: Show the ids of the Groups
  ansible.builtin.debug:
    msg: "{{ result.groups | items2dict(key_name='group_id', value_name='group_name') }}"
"""

RETURN = r"""
groups:
  description: The Groups, in the order in which Backblaze lists them.
  returned: success
  type: list
  elements: dict
  contains:
    group_id:
      description: Id of the Group.
      type: str
      sample: "4a48fe8875c6214145260818"
    group_name:
      description: Name of the Group.
      type: str
      sample: hosting
    products:
      description: Products of the Group, such as V(STORAGE) or V(BACKUP).
      type: list
      elements: str
      sample: [STORAGE]
    member_count:
      description: Number of members at RV(groups[].stats_timestamp).
      type: int
      sample: 12
    created_timestamp:
      description: Time when the Group was created, ISO 8601 in UTC; null if Backblaze does not tell it.
      type: str
      sample: "2026-01-31T09:00:00Z"
    stats_timestamp:
      description: Time when the members were counted, ISO 8601 in UTC; null if Backblaze does not tell it.
      type: str
      sample: "2026-02-01T00:00:00Z"
    state:
      description: Standing of the account, in the words of Backblaze; null if Backblaze does not tell it.
      type: str
      sample: GOOD
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.community.backblaze.plugins.module_utils._api.partner import Partner
from ansible_collections.community.backblaze.plugins.module_utils._run import run_module


def list_groups(module: AnsibleModule, client: Partner) -> dict[str, t.Any]:
    return {"changed": False, "groups": [group.as_dict() for group in client.groups(module.params["group_name"])]}


def main() -> None:
    run_module(list_groups, {"group_name": {"type": "str"}})


if __name__ == "__main__":
    main()
