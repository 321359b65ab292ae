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
  - Lists the members of one Group, or of all Groups of the admin. Each member is a Backblaze B2 account of its own.
  - With O(vault_dir) the task also compares the Groups with the stored keys; see RV(audit).
  - Keys are never listed. Backblaze shows the key of a member only once, when the account is created.
author:
  - community.backblaze contributors (@ansible-collections)
extends_documentation_fragment:
  - community.backblaze.connection
  - community.backblaze.connection.location
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
      - Name of the Group. Names are not unique. A name that fits several Groups is an error that lists their ids.
    type: str
  email:
    description:
      - List only the member with this address, in upper or lower case.
    type: str
  email_pattern:
    description:
      - List only members whose address matches this shell pattern, in upper or lower case, such as V(*@example.com).
    type: str
  region:
    description:
      - List only members in this region.
    type: str
  account_id:
    description:
      - List only the member with this account id.
    type: str
  vault_dir:
    description:
      - Directory with the stored keys, on the controller or in the location that O(vault_location) names. The keys
        are compared with the Groups; see RV(audit).
      - With this option, the task runs on the controller, whatever host it addresses, and needs the vault secrets of
        the keys.
    type: path
  vault_layout:
    description:
      - How the keys are arranged in O(vault_dir), see M(community.backblaze.b2_group_members).
    type: str
    default: host_vars
    choices:
      - host_vars
      - group_vars
  vault_fallback_dir:
    description:
      - With O(vault_dir), the fallback directory of the runs that stored the keys, see
        M(community.backblaze.b2_group_members). A key in it is V(key_missing) until the next run moves it, and the
        message has its path.
      - The default is C(community.backblaze) in the user's state directory, C($XDG_STATE_HOME) or C(~/.local/state).
    type: path
  verify_keys:
    description:
      - With O(vault_dir), whether each stored key is tried at Backblaze. That is one authorize for each key.
    type: bool
    default: false
  report_file:
    description:
      - With O(vault_dir), a file on the controller for a report with every member of the Groups, and every stored key
        without a member; see O(community.backblaze.b2_group_members#module:report_file).
    type: path
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

- name: Find members without a stored key, keys of ejected members, and invalid keys
  community.backblaze.b2_group_member_info:
    group_name: hosting
    vault_dir: host_vars
    verify_keys: true
  register: result

- name: Check that the Group and the vault directory agree
  ansible.builtin.assert:
    that: result.audit.values() | flatten | length == 0
"""

RETURN = r"""
members:
  description: The members, by Group, in the order in which Backblaze lists them. A field without a value is null.
  returned: success
  type: list
  elements: dict
  contains:
    account_id:
      description: Id of the member's account.
      type: str
      sample: 5f2a1c0b3d4e
    email:
      description: Address of the member.
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
      sample: eu-central
    s3_endpoint:
      description: Host name of the S3 endpoint of the account.
      type: str
      sample: s3.eu-central-003.backblazeb2.com
    bytes_stored:
      description: Number of bytes stored. Backblaze counts once a day, and the count is V(0) before that.
      type: int
      sample: 1073741824
    files_stored:
      description: Number of files stored.
      type: int
      sample: 100
    bucket_count:
      description: Number of buckets.
      type: int
      sample: 2
    stats_timestamp:
      description: Time of these counts, ISO 8601 in UTC; null before the first count.
      type: str
      sample: "2026-02-01T00:00:00Z"
vault_dir:
  description:
    - Absolute path of the vault directory. With O(vault_location=target) it is C(host:path), with
      O(vault_location=git) it is C(repository:path).
  returned: with O(vault_dir)
  type: str
  sample: /srv/hosting/host_vars
report_file:
  description: Absolute path of the report; null if it could not be written.
  returned: with O(report_file)
  type: str
  sample: /srv/hosting/audit.html
audit:
  description:
    - Every difference between the Groups and the vault directory, by outcome. The options that select members have no
      effect on it.
    - The outcomes are those of M(community.backblaze.b2_group_members). Each list is empty if there is no such
      difference.
  returned: with O(vault_dir)
  type: dict
  contains:
    key_missing:
      description: Members whose key is not stored.
      type: list
      elements: dict
      contains: &entry
        email:
          description: Address of the member.
          type: str
          sample: alice@customers.example.com
        account_id:
          description: Id of the member's account.
          type: str
          sample: 5f2a1c0b3d4e
        message:
          description: More about the problem, and what to do.
          type: str
    key_dead:
      description: Members whose stored key Backblaze refuses. With O(verify_keys=false) the list is empty.
      type: list
      elements: dict
      contains: *entry
    conflict:
      description: Members whose stored key is the key of another account.
      type: list
      elements: dict
      contains: *entry
    absent:
      description: Stored keys of accounts that are not in these Groups, such as keys of ejected members.
      type: list
      elements: dict
      contains: *entry
    not_attempted:
      description:
        - Members whose stored key could not be tried, such as because the account is at a cap or suspended. Whether
          the key is valid is not known.
        - Members that another run is creating. The message names that run, and the task does not wait for its end.
      type: list
      elements: dict
      contains: *entry
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.community.backblaze.plugins.module_utils._api.partner import Partner
from ansible_collections.community.backblaze.plugins.module_utils._members import fits
from ansible_collections.community.backblaze.plugins.module_utils._options import MEMBER_INFO_RULES, MEMBER_INFO_SPEC
from ansible_collections.community.backblaze.plugins.module_utils._run import run_module


def find(module: AnsibleModule, client: Partner) -> dict[str, t.Any]:
    group_ids = client.resolve_groups(module.params["group_id"], module.params["group_name"])
    return {
        "changed": False,
        "members": [member.as_dict() for member in client.members_of(group_ids) if fits(member, module.params)],
    }


def main() -> None:
    run_module(find, MEMBER_INFO_SPEC, **MEMBER_INFO_RULES)


if __name__ == "__main__":
    main()
