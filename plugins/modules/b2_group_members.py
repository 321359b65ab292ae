#!/usr/bin/python
# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Document the action of the same name. No code runs as a module: the action does the work on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: b2_group_members
short_description: Create many members of a Backblaze B2 Group and seal their keys in Ansible Vault
version_added: 0.1.0
description:
  - Creates the members of a list that are not in the Group yet, many at a time, in one task. Existing members are not
    changed.
  - Each new member's key is sealed before the task does anything else for that member. To seal a key means to encrypt
    it into an Ansible Vault file and to sync the file to disk. The key is never returned.
  - Before the first member is created, the task proves that the keys can be stored. It needs a vault secret, a
    writable directory with room for every key, and the lock of the Group in that directory. Every existing vault file
    in the directory must decrypt.
  - Every member of the list has exactly one outcome, and every member that is not as wanted is named. If Backblaze
    refuses some members, the others are created, and the task fails at the end.
  - If a run was interrupted, the next run finds out the outcome of each open address; see RV(settled).
  - Members of the Group that are not in the list are not changed.
  - C(Ctrl-C) ends the task. No more members are created, and the keys of members that are being created are sealed.
    SIGTERM, SIGHUP and the end of C(ansible-playbook) do the same. The task then returns no result. It writes the
    counts, and each member that needs attention, to the stderr of C(ansible-playbook). Before the machine or
    container goes down, give the task the time of one call, and half a minute more if the keys are not on the
    controller.
  - The keyword C(timeout) of the task ends it in the same way, but the task returns its result.
author:
  - community.backblaze contributors (@ansible-collections)
extends_documentation_fragment:
  - community.backblaze.connection
  - community.backblaze.connection.group
  - community.backblaze.connection.vault
  - community.backblaze.connection.location
  - community.backblaze.attributes
  - community.backblaze.attributes.actiongroup_b2
  - community.backblaze.attributes.change
  - community.backblaze.attributes.location
options:
  members:
    description:
      - The members. Each entry is a dictionary with C(email) and, if wanted, C(region), or only an address. A text
        instead of a list is refused.
      - "To adopt the key of an existing member, add C(application_key_id) and C(application_key) to its entry. The
        key is tried, and sealed if it opens the account of the member. Otherwise nothing is stored."
      - Addresses are compared and sent in lower case, and must not repeat. An account cannot be deleted, so an
        address that may be a typing mistake is refused, see O(community.backblaze.b2_group_member#module:email).
        Another name of a region, such as V(us-west-004) for V(us-west), is refused as well. An unknown region is sent
        to Backblaze, with a warning.
      - Exactly one of O(members), O(members_file) and O(groups) is required.
    type: list
    elements: raw
  members_file:
    description:
      - A file on the controller with the members. It may be a vault file, and should be one if it contains keys.
      - The first line of a file whose name ends in C(.csv) has the names of its columns, which are C(email) and, if
        wanted, C(region), C(application_key_id) and C(application_key). Lines that begin with C(#) are skipped.
      - Any other file contains a list in YAML.
    type: path
  groups:
    description:
      - Several Groups in one task, each with its members, instead of O(group_id) or O(group_name) and O(members) or
        O(members_file).
      - The Groups are handled one after the other, with one authorize. A Group that cannot be started, such as a name
        that does not exist, does not stop the others. Its members are V(not_attempted), and the task fails at the
        end.
      - An address can be in one Group only.
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
      - Directory on the controller for the keys, with one file for each member, C(<vault_dir>/<email>/b2_vault.yml).
        A C(host_vars) directory is a good choice, since Ansible loads each key for the inventory host of that name.
        O(vault_layout=group_vars) stores them in one file for each Group.
      - A relative path starts at the directory of the playbook, or at the working directory if the playbook is run by
        its fully qualified name. If the directory does not exist, it is created, and a warning names it.
        RV(vault_dir) has its absolute path.
      - It must not be a symlink.
      - With O(vault_location) it can be in another location.
    type: path
    required: true
  concurrency:
    description:
      - Number of members that are created at the same time, 1 to 32.
    type: int
    default: 8
  max_failures:
    description:
      - Stop creating members of a Group after Backblaze has refused this number of members. At least 1. By default,
        refused members do not stop the run.
      - A refusal about the Group or its admin, such as a full Group, always stops the run of this Group. Backblaze
        would refuse every other member for the same reason.
      - The run completes the calls that were already sent, and seals their keys. The outcome of the other members is
        V(not_attempted).
    type: int
  return_members:
    description:
      - When the task returns RV(members).
      - With V(success), a task that fails returns RV(problems) and no RV(members), because Ansible prints the whole
        result of a failed task.
      - RV(members) is never shortened.
    type: str
    choices:
      - success
      - always
      - never
    default: success
  report_file:
    description:
      - File on the controller for a report about every member after the run, with its outcome and what to do. Check
        mode writes a report as well, and marks it.
      - The extension is the format. C(.html) is a page for a browser, with a table that you can sort and filter. The
        page loads nothing from other servers. C(.csv) is for a spreadsheet, C(.json) for a program.
      - The report contains no key. Only its owner can read it. An existing file is replaced.
      - A relative path starts at the same directory as a relative O(vault_dir). The directory of the report must exist,
        and must not be in O(vault_dir). If the report cannot be written at the end, the task warns, but does not fail.
      - A task that fails before the first change writes no report, and keeps an older report.
      - Give each host and each item of a loop a file of its own, such as C(report-{{ inventory_hostname }}.html).
    type: path
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

- name: Create the members of a file, more at a time
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

- name: Adopt the key of an existing member
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

- name: Keep the keys in a Git repository
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
    - One entry for each wanted member, in the order of the list. A field without a value is null.
    - In check mode, the outcomes that a run would have.
  returned: as O(return_members) says, unless the task failed before the first change
  type: list
  elements: dict
  contains:
    email:
      description: Address of the member.
      type: str
      sample: alice@customers.example.com
    outcome:
      description:
        - V(created), the member was created and its key is sealed.
        - V(adopted), the given key opens the account of the member and is sealed.
        - V(unchanged), the member is in the Group and its key is stored.
        - V(key_missing), the member is in the Group, but its key is not stored.
        - V(key_lost), this collection created the account, but the answer with the key never arrived.
        - V(key_dead), the stored key was tried, and Backblaze refuses it.
        - V(conflict), the member is not as wanted; or a stored, given or new key is the key of another account, or
          may be.
        - V(refused), Backblaze refused to create the member.
        - V(not_attempted), the run ended before this member.
        - The guide to errors says what to do about each of them.
      type: str
      sample: created
    message:
      description: More about the outcome, and what to do.
      type: str
    account_id:
      description: Id of the member's account.
      type: str
      sample: 5f2a1c0b3d4e
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
    path:
      description: Path of the vault file that holds the key.
      type: str
      sample: /srv/hosting/host_vars/alice@customers.example.com/b2_vault.yml
    ejected_account_id:
      description: Id of an account whose key was lost, and that was ejected.
      type: str
    code:
      description: Error code of Backblaze, if Backblaze refused.
      type: str
      sample: invalid_email
    status:
      description: HTTP status of the refusal.
      type: int
      sample: 401
counts:
  description: Number of members by outcome. An outcome that no member has is left out.
  returned: unless the task failed before the first change
  type: dict
  sample:
    created: 8
    unchanged: 2
msg:
  description:
    - First the count of each outcome, then a paragraph for each reason why the task fails, then the created and the
      adopted members. Each paragraph names up to ten members. The message has at most 3 KB.
    - In check mode, the planned counts and members.
  returned: always
  type: str
  sample: |-
    33 wanted: 31 created, 2 conflict.
    conflict: The member is in region us-west, not in ca-east. A region cannot be changed: correct the entry.
      alice@customers.example.com, bob@customers.example.com
problems:
  description:
    - Each reason why the task fails, with its members. Empty if the task succeeds.
  returned: unless the task failed before the first change
  type: list
  elements: dict
  contains:
    outcome:
      description: The outcome of these members.
      type: str
      sample: refused
    code:
      description: Error code of Backblaze, if Backblaze refused; otherwise null.
      type: str
      sample: too_many_members
    message:
      description: The reason, and what to do.
      type: str
    count:
      description: Number of members.
      type: int
      sample: 300
    emails:
      description:
        - Addresses of up to ten of these members, or fewer if there are many reasons. With V(key_lost), all addresses.
      type: list
      elements: str
      sample:
        - alice@customers.example.com
report_file:
  description: Absolute path of the report; null if it could not be written.
  returned: with O(report_file), unless the task failed before the first change
  type: str
  sample: /srv/hosting/report.html
groups:
  description: One entry for each Group, in the order of the list.
  returned: with O(groups), unless the task failed before the first change
  type: list
  elements: dict
  contains:
    group_id:
      description: Id of the Group; null if its name could not be resolved.
      type: str
      sample: "4a48fe8875c6214145260818"
    group_name:
      description: Name of the Group; null if it is not known.
      type: str
      sample: hosting
    changed:
      description: Whether anything was changed in this Group.
      type: bool
    failed:
      description: Whether any member of this Group is not as wanted.
      type: bool
    counts:
      description: Number of members by outcome.
      type: dict
      sample:
        created: 8
    msg:
      description: Summary of this Group.
      type: str
      sample: "8 wanted: 8 created."
settled:
  description:
    - Outcomes of the addresses that an earlier run left open.
    - V(created), the key is sealed. V(key_lost), the key never arrived. V(key_missing), the key is stored, but not in
      its vault file. V(absent), the address is not in the Group. V(ejected), the account was ejected, and the member
      is created again.
    - If the task fails and does not return RV(members), all entries with V(key_lost) and at most ten others. The report
      has all of them.
  returned: unless the task failed before the first change
  type: list
  elements: dict
  contains:
    email:
      description: Address of the member.
      type: str
      sample: alice@customers.example.com
    outcome:
      description: The outcome.
      type: str
      sample: created
    account_id:
      description: Id of the member's account.
      type: str
      sample: 5f2a1c0b3d4e
    group_id:
      description: Id of the Group.
      type: str
      sample: "4a48fe8875c6214145260818"
    group_name:
      description: Name of the Group.
      type: str
      sample: hosting
vault_dir:
  description:
    - Absolute path of the vault directory. With O(vault_location=target) it is C(host:path), with
      O(vault_location=git) it is C(repository:path).
  returned: unless the task failed before the first change
  type: str
  sample: /srv/hosting/host_vars
calls:
  description: Number of requests that were sent, by operation of the API.
  returned: unless the task failed before the first change
  type: dict
  sample:
    b2_authorize_account: 1
    b2_create_group_member: 8
    b2_list_group_members: 2
"""
