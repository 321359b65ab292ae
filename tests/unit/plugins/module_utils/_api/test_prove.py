# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Hold the proof of a new key against a model: the account that the key opens, and the member with the address."""

from __future__ import annotations

import dataclasses
import json
import typing as t

from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.community.backblaze.plugins.module_utils._api import partner
from ansible_collections.community.backblaze.plugins.module_utils._api.calls import AUTHORIZE, Caller
from ansible_collections.community.backblaze.plugins.module_utils._api.retries import Repeater
from ansible_collections.community.backblaze.plugins.module_utils._api.transport import Answer
from ansible_collections.community.backblaze.plugins.module_utils._errors import NetworkError
from ansible_collections.community.backblaze.plugins.module_utils._members import Member, NewMember, Proof

GROUP, ALICE = "100001", "alice@x.example"
OURS, FOREIGN = "5f2a1c0b3d4e", "aaaaaaaaaaaa"
KEY, KEY_ID = "K004abc/DEF+ghi_JKL-mno/PQRstuv", f"004{OURS}0000000001"
# How often a key, and one member, is asked for.
LOOKS = 3
NO_ANSWER = "The line is cut."


@dataclasses.dataclass
class Wire:
    """A transport with a service at its other end that knows the key and the member late, or not at all."""

    # The account that the key opens, None if the service does not answer. How often the service refuses the key first.
    account: str | None
    late_key: int
    # The account with the address, None if listings are not answered. How often listings miss the account first.
    listed: str | None
    late_member: int
    tried: int = 0
    looks: list[int] = dataclasses.field(default_factory=list)

    def send(self, method, url, *, auth, is_sound, query=None, body=None):
        status, content = 200, self.content(url.rpartition("/")[2], auth, query)
        if content is None:
            raise NetworkError(NO_ANSWER, sent=False, hopeless=True)
        if not content:
            status, content = 401, {"code": "unauthorized"}
        answer = Answer(status, {}, json.dumps(content).encode())
        is_sound(answer)
        return answer

    def content(self, operation: str, auth: t.Any, query: t.Any) -> t.Any:
        """Return the answer to one request: None for no answer, an empty object for a refusal."""
        if operation == partner.LIST_MEMBERS:
            assert query["groupId"] == GROUP and query.get("startEmail", ALICE) == ALICE
            self.looks.append(query["maxMemberCount"])
            shown = [{"accountId": self.listed, "email": ALICE}] if len(self.looks) > self.late_member else []
            return None if self.listed is None else {"groupName": "hosting", "groupMembers": shown}
        assert operation == AUTHORIZE
        session: dict[str, t.Any] = {"authorizationToken": "token"}
        if auth.username == "admin":
            return {**session, "accountId": "a", "apiInfo": {"groupsApi": {"groupsApiUrl": "http://127.0.0.1:1"}}}
        assert (auth.username, auth.password) == (KEY_ID, KEY)
        self.tried += 1
        if self.account is None:
            return None
        return {**session, "accountId": self.account} if self.account and self.tried > self.late_key else {}


@given(
    account=st.sampled_from([None, "", OURS, FOREIGN]),
    late_key=st.integers(0, LOOKS),
    listed=st.sampled_from([None, OURS, FOREIGN]),
    late_member=st.integers(0, LOOKS + 1),
    key_id=st.sampled_from([KEY_ID, ""]),
    odd=st.sampled_from([{}, {"complaint": "Odd."}, {"doubt": "Doubtful."}]),
)
def test_the_proof_of_a_key_is_what_the_model_says(account, late_key, listed, late_member, key_id, odd):
    wire = Wire(account, late_key, listed, late_member)
    waits: list[float] = []
    caller = Caller(wire, Repeater(0, waits.append), realm="http://127.0.0.1:1", key_id="admin", key="secret")
    client = partner.Partner(caller)
    proof = client.prove(GROUP, NewMember(Member(OURS, ALICE, GROUP), key_id, KEY, **odd))

    # A key is not known everywhere at once, so it is tried again if it is refused.
    tries = 0 if not key_id else 1 if account is None else min(late_key + 1 if account else LOOKS, LOOKS)
    opens = None if not key_id else account and (account if late_key < LOOKS else "")
    assert (wire.tried, proof.opens) == (tries, opens)
    if opens == OURS and not odd:
        assert (proof, wire.looks) == (Proof(OURS), [])
        return
    # One member is asked for first; the whole list is asked for last.
    looks = 1 if listed is None else min(late_member, LOOKS) + 1
    assert wire.looks == [1, 1, 1, 1000][:looks]
    assert len(waits) == max(tries - 1, 0) + min(looks, LOOKS) - 1
    found = late_member <= LOOKS and listed
    assert proof.member == (Member(listed, ALICE, GROUP, "hosting") if found else None)
    problems = [account is None and bool(key_id), listed is None]
    assert proof.problem.count(NO_ANSWER) == sum(problems)
    assert ["could not be tried" in proof.problem, "could not be looked up" in proof.problem] == problems
    # A page names the Group, also a page without a member.
    assert client.group_name(GROUP) == ("hosting" if listed is not None else "")
