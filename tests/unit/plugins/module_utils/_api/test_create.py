# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whatever happens to the requests of a create, the client says of the account what a small model says of it.

The model knows nothing of HTTP, of pauses or of how the client is built. It is the text of the documentation: what may
have been executed is looked up before it is sent again, and at the end.
"""

from __future__ import annotations

import dataclasses
import json
import typing as t

import pytest
from hypothesis import event, example, given, settings
from hypothesis import strategies as st

from ansible_collections.community.backblaze.plugins.module_utils._api import partner
from ansible_collections.community.backblaze.plugins.module_utils._api.calls import AUTHORIZE, Caller
from ansible_collections.community.backblaze.plugins.module_utils._api.retries import Repeater
from ansible_collections.community.backblaze.plugins.module_utils._api.transport import Answer
from ansible_collections.community.backblaze.plugins.module_utils._errors import (
    B2Error,
    KeyLostError,
    MemberExistsError,
    NetworkError,
)

ALICE = "alice@x.example"
GROUP = "100001"
OURS, STRANGER, LEFT = "5f2a1c0b3d4e", "aaaaaaaaaaaa", "bbbbbbbbbbbb"
KEY, KEY_ID = "K004abc/DEF+ghi_JKL-mno/PQRstuv", f"004{OURS}0000000001"
# What is said of a create that failed and whose account is not found.
_UNCLEAR = (
    "A create got no clear answer, and a look-up did not find the account. "
    "If the account appears later, its key is lost."
)
_REFUSED_FIRST = "The account was most probably not created. The next run looks for it."
# How often a full look-up is made of an address that is taken after a create that may have been executed.
LATE_LOOKS = 3

# What may come back for one request: the HTTP status and code, or how the connection fails.
UNSENT, UNSENT_FOR_EVER = "no connection", "no connection, for ever"
LOST, LOST_FOR_EVER = "no answer", "no answer, for ever"
NO_KEY, REDIRECT = (200, ""), (302, "")
BROKEN, BUSY, BACKED_OUT = (500, "internal_error"), (503, ""), (420, "method_failure")
THROTTLED, EXPIRED = (429, "too_many_requests"), (401, "expired_auth_token")
FULL, TAKEN = (401, "too_many_members"), (401, "invalid_email")
KEY_ARRIVES = "the key arrives, or the address is taken"

NOT_EXECUTED = [UNSENT, UNSENT_FOR_EVER, FULL]
MAYBE_EXECUTED = [LOST, LOST_FOR_EVER, NO_KEY, REDIRECT, BROKEN, BUSY, BACKED_OUT, THROTTLED, EXPIRED]


class Step(t.NamedTuple):
    """What becomes of one request to create: whether it is executed, and what comes back."""

    executed: bool
    end: t.Any


@dataclasses.dataclass
class World:
    """The service as it really is: what it does with each request, and what its listings show."""

    script: list[Step]
    # Who has the address at first: nobody, somebody else in the Group, or an account outside the Group.
    taken_by: str
    # An account that has just left is still listed.
    left_is_listed: bool
    # Listings are refused, or miss the account for so many times, or miss it if one member is asked for.
    listing: str
    late: int
    created: bool = False
    looks: int = 0

    def create(self) -> t.Any:
        """Execute the next request as the script says; return what comes back."""
        step = self.script.pop(0) if self.script else Step(True, KEY_ARRIVES)
        if step.executed and not self.taken_by:
            self.created, self.taken_by = True, OURS
            return step.end
        return TAKEN if step.end == KEY_ARRIVES else step.end

    def look_up(self, one: bool) -> list[str] | None:
        """Return the accounts that a listing shows with the address, or None if the listing is refused."""
        self.looks += 1
        if self.listing == "refused":
            return None
        hidden = self.looks <= self.late or (self.listing == "by case" and one)
        found = [LEFT] * self.left_is_listed + [self.taken_by] * (self.taken_by in (OURS, STRANGER) and not hidden)
        return found[:1] if one else found


@dataclasses.dataclass
class Wire:
    """A transport with that service at its other end."""

    world: World

    def send(self, method, url, *, auth, is_sound, query=None, body=None):
        operation, status, content = url.rpartition("/")[2], 200, None
        if operation == AUTHORIZE:
            content = {
                "accountId": "admin",
                "authorizationToken": "token",
                "apiInfo": {"groupsApi": {"groupsApiUrl": "http://127.0.0.1:1"}},
            }
        elif operation == partner.LIST_MEMBERS:
            found = self.world.look_up(query["maxMemberCount"] == 1)
            content = {"groupMembers": [{"accountId": one, "email": ALICE.title()} for one in found or []]}
            if found is None:
                status, content = 403, {"code": "access_denied"}
        else:
            end = self.world.create()
            if isinstance(end, tuple):
                status, content = end[0], {"code": end[1]}
            elif end == KEY_ARRIVES:
                member = {"accountId": OURS, "email": ALICE, "groupId": GROUP}
                content = {"applicationKeyId": KEY_ID, "applicationKey": KEY, "groupMember": member}
            else:
                raise NetworkError(
                    end, sent=end in (LOST, LOST_FOR_EVER), hopeless=end in (UNSENT_FOR_EVER, LOST_FOR_EVER)
                )
        answer = Answer(status, {}, json.dumps(content).encode())
        is_sound(answer)
        return answer


def told(world: World, max_retries: int) -> tuple[str, t.Any]:
    """Return what the client says: how the create ended, and with which account, code or doubt."""
    repeater = Repeater(max_retries, lambda seconds: None)
    caller = Caller(Wire(world), repeater, realm="http://127.0.0.1:1", key_id="admin", key="secret")
    try:
        new = partner.Partner(caller).create_member(GROUP, ALICE, ignoring=LEFT if world.left_is_listed else "")
    except KeyLostError as exc:
        assert exc.facts["changed"] is bool(exc.account_id)
        return "lost", exc.account_id
    except MemberExistsError as exc:
        return "exists", exc.member.account_id
    except B2Error as exc:
        return "not created", (exc.facts.get("code", ""), exc.may_have_acted, exc.changed)
    assert (new.key, new.key_id, new.doubt) == (KEY, KEY_ID, "")
    return "created", new.member.account_id


def look(world: World, one: bool, times: int = 1) -> t.Any:
    """Return the account found, "" for none, None if that cannot be known."""
    for _time in range(times):
        shown = world.look_up(one)
        if shown is None:
            return None
        others = [account for account in shown if account != LEFT]
        if others:
            return others[0]
    return ""


def expected(world: World, max_retries: int) -> tuple[str, t.Any]:
    """Return what the client has to say of the same world."""
    unclear = refused_first = renewed = False
    attempts = 0
    while True:
        end = world.create()
        if end == KEY_ARRIVES:
            return "created", OURS
        if end in (UNSENT_FOR_EVER, FULL, TAKEN):
            break
        if end in (THROTTLED, EXPIRED):
            refused_first = True
            if (end == EXPIRED and renewed) or (end == THROTTLED and not max_retries):
                break
            # A new token is tried at once; with a new attempt the token may be renewed again.
            renewed = end == EXPIRED
            continue
        renewed = False
        if end != UNSENT:
            unclear = True
            found = look(world, one=True)
            if found or found is None:
                return "lost", found or ""
        attempts += 1
        if end in (LOST_FOR_EVER, REDIRECT) or attempts > (min(1, max_retries) if end == BACKED_OUT else max_retries):
            break
    return expected_of_a_failure(world, end, unclear, unclear or refused_first)


def expected_of_a_failure(world: World, end: t.Any, unclear: bool, in_doubt: bool) -> tuple[str, t.Any]:
    """Return what the client has to say after the last request has failed."""
    account: t.Any = ""
    if end == TAKEN:
        account = look(world, one=False, times=LATE_LOOKS if in_doubt else 1)
    elif in_doubt:
        account = look(world, one=not unclear)
    if account:
        return "lost" if in_doubt else "exists", account
    if unclear and (account is None or end == TAKEN):
        return "lost", ""
    code = end[1] if isinstance(end, tuple) else ""
    changed = _UNCLEAR if unclear else _REFUSED_FIRST if in_doubt else "The member was not created."
    return "not created", ("service_unavailable" if end == BUSY else code, in_doubt, changed)


STEPS = st.one_of(
    st.sampled_from(NOT_EXECUTED).map(lambda end: Step(False, end)),
    st.builds(Step, st.booleans(), st.sampled_from(MAYBE_EXECUTED)),
    st.just(Step(True, KEY_ARRIVES)),
)
WORLDS = st.builds(
    World,
    st.lists(STEPS, max_size=4),
    taken_by=st.sampled_from(["", "", "", STRANGER, "elsewhere"]),
    left_is_listed=st.booleans(),
    listing=st.sampled_from(["", "", "by case", "refused"]),
    late=st.integers(0, 4),
)


def world(*script: Step, taken_by: str = "", left: bool = False, listing: str = "", late: int = 0) -> World:
    return World(list(script), taken_by, left, listing, late)


@settings(max_examples=600)
@given(WORLDS, st.integers(0, 3))
# The quick look-up misses what the whole list shows.
@example(world(Step(True, LOST), Step(False, FULL), listing="by case"), 3)
# The account that has just left is not the one that was created, and does not hide it.
@example(world(Step(False, LOST), left=True), 0)
@example(world(Step(True, LOST), left=True), 0)
@example(world(Step(True, THROTTLED), late=2), 3)
@example(world(Step(True, EXPIRED), late=3), 3)
@example(world(Step(True, LOST), listing="refused"), 3)
@example(
    world(Step(False, LOST), Step(False, EXPIRED), Step(False, LOST), Step(False, EXPIRED), Step(True, KEY_ARRIVES)), 3
)
@example(world(Step(False, BACKED_OUT), Step(False, BACKED_OUT)), 3)
@example(world(taken_by=STRANGER), 3)
@example(world(taken_by="elsewhere"), 3)
def test_what_is_said_of_an_account_is_what_the_model_says(service, max_retries):
    truth, model = (
        dataclasses.replace(service, script=service.script[:]),
        dataclasses.replace(service, script=service.script[:]),
    )
    end, detail = told(truth, max_retries)
    event(end)
    assert (end, detail) == expected(model, max_retries)
    assert (truth.created, truth.looks, truth.script) == (model.created, model.looks, model.script)
    # And the truth: nothing is created in silence, and what a look-up can show is not denied.
    assert end != "created" or truth.created
    if end == "not created" and truth.created:
        assert detail[1]
        assert truth.listing or truth.late or truth.left_is_listed


@pytest.mark.parametrize("late, end", [(0, ("lost", OURS)), (1, ("lost", OURS)), (4, ("lost", ""))])
def test_an_address_that_is_taken_by_our_own_create_is_looked_for_until_it_is_listed(late, end):
    assert told(world(Step(True, LOST), late=late), 3) == end
