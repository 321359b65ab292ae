#!/usr/bin/python
# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Create or eject one member of a Group."""

from __future__ import annotations

DOCUMENTATION = r"""
module: b2_group_member
short_description: Create or eject one member of a Backblaze B2 Group
version_added: 0.1.0
description:
  - "B(The option vault_dir keeps the key safe.) With it the task encrypts the new member's key into an Ansible Vault
    file and syncs it to disk before it does anything else, and does not return the key. Without O(vault_dir) the task
    returns the key, once. If the play does not store the key, or ends before it does, the key is lost, because
    Backblaze does not show it again."
  - Creates a member of a Group, adopts the key of an existing member, or ejects a member. Each member is a Backblaze
    B2 account of its own.
  - An account cannot be deleted, and an ejected member cannot return through the API.
  - For many members use M(community.backblaze.b2_group_members), which creates them in one task.
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
  - community.backblaze.attributes.either
options:
  email:
    description:
      - Address of the member. It must look like an address, but no mailbox has to exist. No Backblaze account may
        have it yet.
      - The address is compared and sent in lower case. An account cannot be deleted, so an address that may be a
        typing mistake is refused. Such an address contains a character that is not ASCII, a blank, a bracket, a quote
        or one of C(,;:\*?), has a domain without a dot, or begins with C(#), C(!), C(&), C(-) or C(~).
      - Exactly one of O(email) and O(account_id) is required.
    type: str
  account_id:
    description:
      - Account id of the member. It can be used with O(state=absent) only, for a member whose address O(email) refuses.
    type: str
  region:
    description:
      - Region of the new account, such as V(us-west), V(us-east), V(eu-central) or V(ca-east). Backblaze chooses a
        region if none is given.
      - The region of an account cannot be changed. If the member is in another region, the task fails and changes
        nothing.
    type: str
  state:
    description:
      - V(present) creates the member if it is not in the Group.
      - V(absent) ejects the member. The account lives on outside the Group, with its data and its keys, and is billed
        on its own. Its owner has to reset the password and accept the terms. The account cannot return to the Group,
        and keeps its address.
    type: str
    default: present
    choices:
      - present
      - absent
  confirm_eject:
    description:
      - Confirms the ejecting. O(state=absent) requires V(true), because ejecting cannot be undone.
    type: bool
    default: false
  new_email:
    description:
      - With O(state=absent), the address that the ejected account gets.
    type: str
  member_application_key_id:
    description:
      - With O(vault_dir), the id of an application key of the existing member, to adopt that key.
      - The key is tried. If it opens the account of the member, it is sealed, and RV(outcome) is V(adopted).
        Otherwise nothing is stored.
      - If the member is not in the Group, the task fails and creates nothing.
    type: str
  member_application_key:
    description:
      - The application key of O(member_application_key_id).
    type: str
  vault_dir:
    description:
      - Directory on the controller for the keys. The key of the member is stored as
        C(<vault_dir>/<email>/b2_vault.yml), encrypted with the vault secret of this run. A C(host_vars) directory is
        a good choice. See also O(vault_layout) and O(vault_location).
      - With this option, O(state=present) runs on the controller, whatever host the task addresses. A relative path
        starts at the directory of the playbook, or at the working directory if the playbook is run by its fully
        qualified name.
    type: path
seealso:
  - module: community.backblaze.b2_group_members
  - module: community.backblaze.b2_group_member_info
"""

EXAMPLES = r"""
- name: Create a member and seal its key in the vault
  community.backblaze.b2_group_member:
    group_name: hosting
    email: alice@customers.example.com
    region: eu-central
    vault_dir: host_vars

- name: Adopt the key of an existing member
  community.backblaze.b2_group_member:
    group_name: hosting
    email: cleo@customers.example.com
    vault_dir: host_vars
    member_application_key_id: "{{ cleo_key_id }}"
    member_application_key: "{{ cleo_key }}"

- name: Create a member and keep its key by other means
  community.backblaze.b2_group_member:
    group_name: hosting
    email: bob@customers.example.com
  register: bob
  no_log: true

- name: Eject a member, which cannot be undone
  community.backblaze.b2_group_member:
    group_name: hosting
    email: alice@customers.example.com
    state: absent
    confirm_eject: true

- name: Eject a member by its account id, if the option email refuses its address
  community.backblaze.b2_group_member:
    group_name: hosting
    account_id: 5f2a1c0b3d4e
    state: absent
    confirm_eject: true
"""

RETURN = r"""
outcome:
  description:
    - Outcome of the member.
    - V(created), V(unchanged), V(ejected) or V(absent). With O(vault_dir) also V(adopted) or V(key_missing).
    - A failed task has V(conflict), V(refused), V(key_lost), V(key_dead), V(key_missing) or V(not_attempted).
  returned: always, except for errors before the member was looked up
  type: str
  sample: created
member:
  description:
    - The member, with the same keys as in M(community.backblaze.b2_group_member_info). A field without a value is null.
    - It is null if there is no member, such as before it is created in check mode.
  returned: always, except for errors before the member was looked up
  type: dict
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
application_key_id:
  description: Id of the new member's key.
  returned: when the member was created without O(vault_dir)
  type: str
  sample: 0045f2a1c0b3d4e0000000001
application_key:
  description:
    - The new member's key. Only the run that created the member returns it.
    - A failed task returns it as well if the answer held a key that is not proven to be the member's. Then
      RV(outcome) is V(key_lost), V(key_dead) or V(conflict), and the message says whose key it is, as far as that is
      known.
  returned: when the member was created without O(vault_dir)
  type: str
path:
  description: Path of the vault file that holds the key; null if no key is stored, and without O(vault_dir).
  returned: always, except for errors before the member was looked up
  type: str
  sample: /srv/hosting/host_vars/alice@customers.example.com/b2_vault.yml
ejected_account_id:
  description:
    - Id of an account whose key was lost, and that was ejected before the member was created again; null if there is
      none.
  returned: always, except for errors before the member was looked up
  type: str
  sample: 5f2a1c0b3d4e
code:
  description: Error code of Backblaze; null if Backblaze did not refuse.
  returned: always, except for errors before the member was looked up
  type: str
  sample: invalid_email
status:
  description: HTTP status of the refusal; null if Backblaze did not refuse.
  returned: always, except for errors before the member was looked up
  type: int
  sample: 401
settled:
  description:
    - Outcomes of the addresses that an earlier run left open.
    - The list is empty without O(vault_dir).
    - V(created), the key is sealed. V(key_lost), the key never arrived. V(key_missing), the key is stored, but not in
      its vault file. V(absent), the address is not in the Group. V(ejected), the account was ejected, and the member
      is created again.
  returned: always, except for errors before the member was looked up
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
    - It is null without O(vault_dir), and with O(state=absent).
  returned: always, except for errors before the member was looked up
  type: str
  sample: /srv/hosting/host_vars
calls:
  description: Number of requests that were sent, by operation of the API.
  returned: always, except for errors before the member was looked up
  type: dict
  sample:
    b2_authorize_account: 1
    b2_create_group_member: 8
    b2_list_group_members: 2
"""

import dataclasses
import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.community.backblaze.plugins.module_utils._api.partner import Partner
from ansible_collections.community.backblaze.plugins.module_utils._errors import (
    B2Error,
    KeyLostError,
    MemberExistsError,
    OptionError,
    UnprovenKeyError,
)
from ansible_collections.community.backblaze.plugins.module_utils._members import (
    Member,
    Proof,
    check_email,
    check_region,
    folded,
)
from ansible_collections.community.backblaze.plugins.module_utils._options import MEMBER_RULES, MEMBER_SPEC
from ansible_collections.community.backblaze.plugins.module_utils._plan import (
    Outcome,
    Step,
    Wanted,
    decide_absent,
    decide_created,
    decide_present,
    diff,
    outcome_of,
)
from ansible_collections.community.backblaze.plugins.module_utils._run import run_module


def check(params: dict[str, t.Any]) -> None:
    """Refuse invalid options before anything is sent."""
    if params["email"] is not None:
        check_address(params["email"], params["state"])
    elif params["state"] == "present":
        raise OptionError("account_id can be used with state: absent only.", remedy="Name the new member by email.")
    check_region(params["region"] or "")
    if params["member_application_key_id"] is not None and (params["state"] == "absent" or not params["vault_dir"]):
        raise OptionError(
            "member_application_key_id and member_application_key can be used with state: present and vault_dir only.",
            remedy="Give vault_dir, the directory that the key is sealed in, or leave both out.",
        )
    if params["vault_dir"] is not None and params["state"] == "present":
        # The action of this name seals keys, because only the controller has the vault secrets.
        raise OptionError("vault_dir works on the controller only, but this ran as a plain module.")
    if params["state"] == "absent" and not params["confirm_eject"]:
        raise OptionError(
            "state is absent without confirm_eject: true. Ejecting cannot be undone: the account lives on outside the "
            "Group, with its data and its keys, is billed on its own, and cannot return. Its owner has to reset the "
            "password and accept the terms.",
            remedy="Set confirm_eject: true to eject the member.",
        )
    if params["new_email"]:
        check_email(params["new_email"])
        if params["state"] != "absent":
            raise OptionError(
                "new_email can be used with state: absent only.",
                remedy="The address of a member cannot be changed through the API.",
            )


def check_address(email: str, state: str) -> None:
    try:
        check_email(email)
    except OptionError as exc:
        if state == "absent":
            exc.remedy = (
                "To eject a member with such an address, name it by account_id, which b2_group_member_info lists."
            )
        raise


def ensure(module: AnsibleModule, client: Partner) -> dict[str, t.Any]:
    """Decide the step of the member, and do it. In check mode only the calls that change anything are left out."""
    group_id = client.resolve_group(module.params["group_id"], module.params["group_name"])
    member = look_up(client, group_id, module.params["email"], module.params["account_id"])
    wanted = Wanted(folded(module.params["email"] or (member.email if member else "")), module.params["region"] or None)
    step = decide_absent(wanted, member) if module.params["state"] == "absent" else decide_present(wanted, member)
    key: dict[str, str] = {}
    try:
        if step.changes and not module.check_mode:
            if step.outcome is Outcome.EJECTED:
                left = client.eject_member(group_id, t.cast(Member, member).account_id, module.params["new_email"])
                step = step if left else dataclasses.replace(step, outcome=Outcome.ABSENT)
            else:
                step, key = create(module, client, group_id, step)
        if step.outcome is Outcome.CONFLICT:
            shown = t.cast(Member, step.member).as_dict()
            raise OptionError(f"{wanted.email}: {step.message}", outcome=step.outcome.value, member=shown)
    except B2Error as exc:
        # The same keys as with vault_dir, where the member of a failed task has a result too.
        exc.facts = {"outcome": outcome_of(exc).value, "member": None, **without_vault_dir(client), **exc.facts}
        raise
    return {
        "changed": step.changes,
        "outcome": step.outcome.value,
        "member": step.member.as_dict() if step.member else None,
        "msg": f"{'Would be: ' if module.check_mode else ''}1 {step.outcome.value}",
        **without_vault_dir(client),
        **({"diff": diff([step])} if step.changes else {}),
        **key,
    }


def without_vault_dir(client: Partner) -> dict[str, t.Any]:
    """Return the result keys that have a value with vault_dir only, and the count of calls."""
    nothing = dict.fromkeys(("path", "ejected_account_id", "code", "status", "vault_dir"))
    return {**nothing, "settled": [], "calls": client.calls}


def look_up(client: Partner, group_id: str, email: t.Optional[str], account_id: t.Optional[str]) -> t.Optional[Member]:
    if email is None:
        return next((member for member in client.members(group_id) if member.account_id == account_id), None)
    # A miss in one call is no proof of absence.
    return client.find_member(group_id, email) or client.search_member(group_id, email)


def create(module: AnsibleModule, client: Partner, group_id: str, step: Step) -> tuple[Step, dict[str, str]]:
    try:
        new = client.create_member(group_id, step.wanted.email, step.wanted.region)
    except MemberExistsError as exc:
        return decide_present(step.wanted, exc.member), {}
    except B2Error as exc:
        if isinstance(exc, KeyLostError):
            exc.without_journal(step.wanted.email)
            account_id = exc.facts.pop("account_id")
            exc.facts["member"] = Member(account_id, step.wanted.email, group_id).as_dict() if account_id else None
        raise
    key = {"application_key_id": new.key_id, "application_key": new.key}
    member = new.member
    if new.complaint or new.doubt:
        try:
            proof = client.prove(group_id, new)
        except Exception as exc:  # noqa: BLE001 - the key is nowhere else, and has to reach the result whatever this is
            proof = Proof(problem=f"Unexpected {type(exc).__name__} while the key was tried.")
        member = proof.member or member
        outcome, *parts = decide_created(new, proof)
        message = " ".join(filter(None, (new.complaint, new.doubt, *parts)))
        if outcome is not Outcome.CREATED:
            raise UnprovenKeyError(step.wanted.email, message, outcome=outcome.value, member=member.as_dict(), **key)
        module.warn(message)
    return dataclasses.replace(step, member=member), key


def main() -> None:
    run_module(ensure, MEMBER_SPEC, check, **MEMBER_RULES)


if __name__ == "__main__":
    main()
