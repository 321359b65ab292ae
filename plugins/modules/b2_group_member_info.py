#!/usr/bin/python
# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""List members of Groups."""

from __future__ import annotations

DOCUMENTATION = r"""
module: b2_group_member_info
short_description: List the members of Backblaze B2 Groups
version_added: 0.1.0
description:
  - Lists the members of one Group, or of all Groups of the admin. Each member is a whole Backblaze B2 account.
  - Keys are never listed; the API shows a member's key once, when the account is made.
author:
  - community.backblaze contributors (@ansible-collections)
extends_documentation_fragment:
  - community.backblaze.connection
  - community.backblaze.connection.place
  - community.backblaze.attributes
  - community.backblaze.attributes.actiongroup_b2
  - community.backblaze.attributes.either
  - community.backblaze.attributes.info
options:
  group_id:
    description:
      - Id of the Group. If neither O(group_id) nor O(group_name) is given, the members of all Groups are listed.
    type: str
  group_name:
    description:
      - Name of the Group. Names are not unique; a name that fits several Groups is an error that lists their ids.
    type: str
  email:
    description:
      - Only the member with this address, whatever its case.
    type: str
  email_pattern:
    description:
      - Only members whose address fits this shell pattern, whatever its case, such as V(*@example.com).
    type: str
  region:
    description:
      - Only members in this region.
    type: str
  account_id:
    description:
      - Only the member with this account id.
    type: str
  vault_dir:
    description:
      - Directory on the controller, or where O(vault_location) says, with stored keys, to be compared with the Groups; see RV(audit).
      - With it the task runs on the controller, whatever host it addresses, and needs the vault secrets of the keys.
    type: path
  vault_layout:
    description:
      - How keys are kept in O(vault_dir), see M(community.backblaze.b2_group_members).
    type: str
    default: host_vars
    choices:
      - host_vars
      - group_vars
  vault_fallback_dir:
    description:
      - With O(vault_dir), the fallback directory of the runs that stored the keys, see M(community.backblaze.b2_group_members). A key in there is
        named with its path, and counts as missing until the next run moves it.
      - The default is C(community.backblaze) in the user's state directory, C($XDG_STATE_HOME) or C(~/.local/state).
    type: path
  verify_keys:
    description:
      - With O(vault_dir), whether each stored key is tried at Backblaze. That is one authorize for each key.
    type: bool
    default: false
seealso:
  - module: community.backblaze.b2_group_member
  - module: community.backblaze.b2_group_members
  - plugin: community.backblaze.b2_group_members
    plugin_type: inventory
"""

EXAMPLES = r"""
- name: List all members of one Group
  community.backblaze.b2_group_member_info:
    group_name: hosting
  register: result

- name: Look up one member
  community.backblaze.b2_group_member_info:
    group_name: hosting
    email: alice@customers.example.com

- name: Find members without a key, keys without a member, and keys that no longer work
  community.backblaze.b2_group_member_info:
    group_name: hosting
    vault_dir: host_vars
    verify_keys: true
  register: result

- name: Nothing is amiss
  ansible.builtin.assert:
    that: result.audit.values() | flatten | length == 0
"""

RETURN = r"""
members:
  description: The members that fit, by Group and then in the order in which Backblaze lists them.
  returned: success
  type: list
  elements: dict
  contains:
    account_id:
      description: Id of the member's account.
      type: str
      sample: 5f2a1c0b3d4e
    email:
      description: Address of the member, as Backblaze has it.
      type: str
      sample: alice@customers.example.com
    group_id:
      description: Id of the Group.
      type: str
      sample: "4a48fe8875c6214145260818"
    group_name:
      description: Name of the Group.
      type: str
      sample: hosting
    region:
      description: Region of the account.
      type: str
      sample: us-west
    s3_endpoint:
      description: Host name of the S3 endpoint of the account.
      type: str
      sample: s3.us-west-004.backblazeb2.com
    bytes_stored:
      description: Bytes stored. Backblaze counts once a day; the counts are V(0) until it has.
      type: int
      sample: 1073741824
    files_stored:
      description: Files stored.
      type: int
      sample: 100
    bucket_count:
      description: Buckets.
      type: int
      sample: 2
    stats_timestamp:
      description: When the counts were made, ISO 8601 in UTC; null where they were not made yet.
      type: str
      sample: "2026-02-01T00:00:00Z"
vault_dir:
  description: >-
    The vault directory, as an absolute path. With O(vault_location=target) it is C(host:path), and with V(git) it is C(repository:path).
  returned: with O(vault_dir)
  type: str
  sample: /srv/hosting/host_vars
audit:
  description: >-
    What is amiss between the Groups and the vault directory, whatever filters are given. Each entry has C(email), C(account_id) and C(message).
  returned: with O(vault_dir)
  type: dict
  contains:
    key_missing:
      description: Members whose key is not stored.
      type: list
      elements: dict
    key_dead:
      description: Members whose stored key Backblaze refuses. With O(verify_keys=false) the list is empty.
      type: list
      elements: dict
    conflict:
      description: Members whose stored key is the key of another account.
      type: list
      elements: dict
    absent:
      description: Stored keys of accounts that are not in these Groups, such as keys of ejected members.
      type: list
      elements: dict
    not_attempted:
      description:
        - Members whose stored key could not be tried, such as because the member's account is at a cap or suspended. Nothing is known of such a key.
        - Members that another run is creating. The message names that run, and the task does not wait for its end.
      type: list
      elements: dict
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.community.backblaze.plugins.module_utils._api.partner import Partner
from ansible_collections.community.backblaze.plugins.module_utils._errors import OptionError
from ansible_collections.community.backblaze.plugins.module_utils._members import fits
from ansible_collections.community.backblaze.plugins.module_utils._options import MEMBER_INFO_RULES, MEMBER_INFO_SPEC
from ansible_collections.community.backblaze.plugins.module_utils._run import run_module


def check(params: dict[str, t.Any]) -> None:
    if params["vault_dir"] is not None:
        # The action of the same name takes vault_dir for itself: keys are read where the vault secrets are.
        raise OptionError("vault_dir works on the controller only, but this ran as a plain module.")


def find(module: AnsibleModule, client: Partner) -> dict[str, t.Any]:
    group_ids = client.resolve_groups(module.params["group_id"], module.params["group_name"])
    return {
        "changed": False,
        "members": [member.as_dict() for member in client.members_of(group_ids) if fits(member, module.params)],
    }


def main() -> None:
    run_module(find, MEMBER_INFO_SPEC, check, **MEMBER_INFO_RULES)


if __name__ == "__main__":
    main()
