#!/usr/bin/python
# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One member of a Group: made, or ejected."""

from __future__ import annotations

DOCUMENTATION = r"""
module: b2_group_member
short_description: Create or eject one member of a Backblaze B2 Group
version_added: 0.1.0
description:
  - "B(Which way keeps the key safe:) with O(vault_dir) the new member's key is encrypted into an Ansible Vault file and on disk
    before this task does anything else, and it is not returned. Without O(vault_dir) the key is returned to the task, once; if the
    play does not keep it, or dies before it does, that key is lost for good, because Backblaze shows it nowhere else."
  - Creates a member of a Group, which is a whole Backblaze B2 account of its own, or ejects one.
  - An account cannot be deleted, and an ejected member cannot come back through the API.
  - For many members use M(community.backblaze.b2_group_members), which makes them in one task.
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
  - community.backblaze.attributes.either
options:
  email:
    description:
      - Address of the member. It need not be real, must look like an address, and must not belong to any Backblaze account yet.
      - It is compared and sent in lower case. An account cannot be deleted, so what could be a typing mistake is refused. That is anything but
        ASCII, a blank, a bracket, a quote, one of C(,;:\*?), a domain without a dot, and C(#), C(!), C(&), C(-) or C(~) at the beginning.
      - Exactly one of O(email) and O(account_id) is required.
    type: str
  account_id:
    description:
      - Account id of the member, with O(state=absent) only. It names a member whose address O(email) does not take.
    type: str
  region:
    description:
      - Region of the new account, such as V(us-west), V(us-east), V(eu-central) or V(ca-east); Backblaze chooses if it is not given.
      - A region is fixed when the account is made. If the member is in another region, the task fails and changes nothing.
    type: str
  state:
    description:
      - Whether the member is to be in the Group.
      - V(absent) ejects it. The account lives on outside the Group, with its data and its keys, and is billed on its own;
        its owner has to reset the password and accept the terms. Nothing brings it back, and its address stays taken.
    type: str
    default: present
    choices:
      - present
      - absent
  confirm_eject:
    description:
      - Has to be V(true) for O(state=absent), because ejecting cannot be undone.
    type: bool
    default: false
  new_email:
    description:
      - With O(state=absent), the address that the leaving account gets instead of its own.
    type: str
  vault_dir:
    description:
      - Directory on the controller in which the key of a new member is stored, as C(<vault_dir>/<email>/b2_vault.yml), encrypted
        with the vault secret of this run. A C(host_vars) directory is a good choice. See also O(vault_layout) and O(vault_location).
      - With it O(state=present) runs on the controller, whatever host the task addresses. A relative path starts at the playbook's directory; with
        a playbook that is run by its fully qualified name, at the working directory.
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

- name: Eject a member whose address cannot be written here
  community.backblaze.b2_group_member:
    group_name: hosting
    account_id: 5f2a1c0b3d4e
    state: absent
    confirm_eject: true
"""

RETURN = r"""
outcome:
  description:
    - What became of the member.
    - One of V(created), V(unchanged), V(ejected), V(absent); with O(vault_dir) also V(key_missing).
    - In a failed result also V(conflict), V(refused), V(key_lost), V(key_dead), V(not_attempted) or V(key_missing).
  returned: always, except for errors found before the member was looked at
  type: str
  sample: created
member:
  description: The member, as in M(community.backblaze.b2_group_member_info); null where there is none (yet).
  returned: success
  type: dict
  sample:
    account_id: 5f2a1c0b3d4e
    email: alice@customers.example.com
    region: eu-central
application_key_id:
  description: Id of the new member's key.
  returned: when the member was created without O(vault_dir)
  type: str
  sample: 0045f2a1c0b3d4e0000000001
application_key:
  description:
    - The new member's key. It is returned by the run that created the member and never again.
    - It is in a failed result too, if the answer held a key that is not certainly the member's. Then RV(outcome) is V(key_lost), V(key_dead) or
      V(conflict), and the message says whose key it is, as far as that could be found out.
  returned: when the member was created without O(vault_dir)
  type: str
path:
  description: The vault file that holds the key.
  returned: with O(vault_dir), when the key is stored
  type: str
  sample: /srv/hosting/host_vars/alice@customers.example.com/b2_vault.yml
settled:
  description: What became of addresses that an earlier run had left open, as in M(community.backblaze.b2_group_members).
  returned: with O(vault_dir)
  type: list
  elements: dict
  sample: []
vault_dir:
  description: >-
    The vault directory, as an absolute path. With O(vault_location=target) it is C(host:path), and with V(git) it is C(repository:path).
  returned: with O(vault_dir)
  type: str
  sample: /srv/hosting/host_vars
calls:
  description: How many requests were sent, by operation of the API.
  returned: with O(vault_dir)
  type: dict
  sample:
    b2_authorize_account: 1
ejected_account_id:
  description: An account whose key was lost and that was ejected before the member was created anew.
  returned: with O(on_key_lost=recreate), where that happened
  type: str
  sample: 5f2a1c0b3d4e
code:
  description: Backblaze's own code of a refusal.
  returned: when Backblaze refused
  type: str
  sample: invalid_email
status:
  description: HTTP status of a refusal.
  returned: when Backblaze refused
  type: int
  sample: 401
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
from ansible_collections.community.backblaze.plugins.module_utils._options import MEMBER_RULES, MEMBER_SPEC, VAULT_SPEC
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

EJECTING = (
    "Ejecting cannot be undone: the account lives on outside the Group, with its data and keys and billed on its own, and cannot come back. "
    "Its owner has to reset the password and accept the terms."
)


def check(params: dict[str, t.Any]) -> None:
    """Refuse what can be refused before anything is sent."""
    if params["email"] is not None:
        check_address(params["email"], params["state"])
    elif params["state"] == "present":
        raise OptionError("account_id goes with state: absent only.", remedy="Name the member to be created by email.")
    check_region(params["region"] or "")
    if params["vault_dir"] is not None and params["state"] == "present":
        # The action of the same name takes vault_dir for itself: keys are sealed where the vault secrets are.
        raise OptionError("vault_dir works on the controller only, but this ran as a plain module.")
    vault_only = [
        name for name, rule in VAULT_SPEC.items() if params[name] != rule.get("default") and name != "vault_dir"
    ]
    if vault_only and not params["vault_dir"]:
        raise OptionError(
            f"{', '.join(vault_only)} go with vault_dir only.", remedy="Give vault_dir, so that the key is sealed."
        )
    if params["state"] == "absent" and not params["confirm_eject"]:
        raise OptionError(
            f"state is absent without confirm_eject: true. {EJECTING}",
            remedy="Set confirm_eject: true to eject the member.",
        )
    if params["new_email"]:
        check_email(params["new_email"])
        if params["state"] != "absent":
            raise OptionError(
                "new_email goes with state: absent only.",
                remedy="The address of a member cannot be changed through the API.",
            )


def check_address(email: str, state: str) -> None:
    try:
        check_email(email)
    except OptionError as exc:
        if state == "absent":
            exc.remedy = (
                "If there is a member with such an address, name it by account_id: b2_group_member_info lists it."
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
                step = eject(client, group_id, step, module.params["new_email"])
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


def eject(client: Partner, group_id: str, step: Step, new_email: t.Optional[str]) -> Step:
    left = client.eject_member(group_id, t.cast(Member, step.member).account_id, new_email)
    return step if left else dataclasses.replace(step, outcome=Outcome.ABSENT)


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
        outcome, message = decide_created(new, proof)
        message = " ".join(filter(None, (new.complaint, new.doubt, message)))
        if outcome is not Outcome.CREATED:
            raise UnprovenKeyError(step.wanted.email, message, outcome=outcome.value, member=member.as_dict(), **key)
        module.warn(message)
    return dataclasses.replace(step, member=member), key


def main() -> None:
    run_module(ensure, MEMBER_SPEC, check, **MEMBER_RULES)


if __name__ == "__main__":
    main()
