# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Decide, then act: the decisions."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.community.backblaze.plugins.module_utils._errors import (
    ApiError,
    KeyLostError,
    NetworkError,
    StoppedError,
)
from ansible_collections.community.backblaze.plugins.module_utils._members import Member, NewMember, Proof
from ansible_collections.community.backblaze.plugins.module_utils._plan import (
    Event,
    KeyState,
    Open,
    Outcome,
    Step,
    Stored,
    Wanted,
    audit,
    by_email,
    decide_absent,
    decide_created,
    decide_present,
    diff,
    not_attempted,
    outcome_of,
    settle,
)

WANTED = Wanted("alice@x.example")
THERE = Member("5f2a1c0b3d4e", "Alice@x.example", region="us-west")
OURS = Stored("5f2a1c0b3d4e", "0045f2a1c0b3d4e0000000001", "hv/alice@x.example/b2_vault.yml")
FOREIGN = Stored("ffffffffffff", "004ffffffffffff0000000001", "hv/alice@x.example/b2_vault.yml")
HALF = Stored("5f2a1c0b3d4e", "", "hv/alice@x.example/b2_vault.yml")

HAS_KEY = {"key_id": "0045f2a1c0b3d4e0000000009", "key": "K004"}

PRESENT = [
    # wanted besides the address, member, what is known about the key (None: the task stores no keys), outcome
    ({}, None, KeyState(), Outcome.CREATED),
    ({"region": "us-east"}, None, None, Outcome.CREATED),
    ({}, None, KeyState(lost=True), Outcome.CREATED),
    ({}, None, KeyState(stored=OURS), Outcome.CONFLICT),
    (HAS_KEY, None, KeyState(given_opens="5f2a1c0b3d4e"), Outcome.CONFLICT),
    ({}, THERE, None, Outcome.UNCHANGED),
    ({"region": "us-east"}, THERE, None, Outcome.CONFLICT),
    ({}, THERE, KeyState(stored=OURS), Outcome.UNCHANGED),
    ({"region": "us-west"}, THERE, KeyState(stored=OURS), Outcome.UNCHANGED),
    ({"region": "us-east"}, THERE, KeyState(stored=OURS), Outcome.CONFLICT),
    ({"region": "us-east"}, THERE, KeyState(lost=True, proven=True, recreate=True), Outcome.CONFLICT),
    ({}, THERE, KeyState(), Outcome.KEY_MISSING),
    ({}, THERE, KeyState(recreate=True), Outcome.KEY_MISSING),
    ({}, THERE, KeyState(lost=True), Outcome.KEY_LOST),
    ({}, THERE, KeyState(lost=True, proven=True), Outcome.KEY_LOST),
    ({}, THERE, KeyState(lost=True, recreate=True), Outcome.KEY_LOST),
    ({}, THERE, KeyState(lost=True, proven=True, recreate=True), Outcome.CREATED),
    ({}, THERE, KeyState(lost=True, proven=True, recreate=True, fallback="/else/where"), Outcome.KEY_MISSING),
    ({}, THERE, KeyState(stored=FOREIGN), Outcome.CONFLICT),
    ({}, THERE, KeyState(stored=FOREIGN, lost=True, proven=True, recreate=True), Outcome.CONFLICT),
    ({}, THERE, KeyState(stored=HALF), Outcome.KEY_MISSING),
    ({}, THERE, KeyState(stored=HALF, lost=True, proven=True, recreate=True), Outcome.KEY_LOST),
    ({}, THERE, KeyState(stored=OURS, lost=True, proven=True, recreate=True), Outcome.UNCHANGED),
    ({}, THERE, KeyState(stored=OURS, stored_opens="5f2a1c0b3d4e"), Outcome.UNCHANGED),
    ({}, THERE, KeyState(stored=OURS, stored_opens=""), Outcome.KEY_DEAD),
    ({}, THERE, KeyState(stored=OURS, stored_opens="ffffffffffff"), Outcome.CONFLICT),
    (HAS_KEY, THERE, KeyState(given_opens="5f2a1c0b3d4e"), Outcome.ADOPTED),
    (HAS_KEY, THERE, KeyState(given_opens="ffffffffffff"), Outcome.CONFLICT),
    (HAS_KEY, THERE, KeyState(given_opens=""), Outcome.KEY_MISSING),
    (HAS_KEY, THERE, KeyState(), Outcome.KEY_MISSING),
]


@pytest.mark.parametrize("wanted, member, keys, outcome", PRESENT)
def test_present(wanted, member, keys, outcome):
    step = decide_present(Wanted("alice@x.example", **wanted), member, keys)
    assert step.outcome is outcome
    assert step.changes is (outcome in (Outcome.CREATED, Outcome.ADOPTED))
    assert step.replaces is (THERE if outcome is Outcome.CREATED and member else None)
    # Whoever reads of trouble reads what it is about.
    if outcome in (Outcome.KEY_MISSING, Outcome.KEY_LOST, Outcome.CONFLICT, Outcome.KEY_DEAD):
        assert len(step.message) > 20
        assert "K004" not in step.message
    assert "K004" not in repr(step)


def test_absent():
    leaves, gone = decide_absent(WANTED, THERE), decide_absent(WANTED, None)
    assert (leaves.outcome, leaves.changes, gone.outcome, gone.changes) == (
        Outcome.EJECTED,
        True,
        Outcome.ABSENT,
        False,
    )


members = st.none() | st.builds(
    Member,
    account_id=st.sampled_from(["a", "b"]),
    email=st.just("x@y"),
    region=st.sampled_from(["", "us-west", "us-east"]),
)
opens = st.sampled_from([None, "", "a", "b"])

# Every value that makes a difference to decide_present, for a member that is account "a".
CASES = {
    "there": (False, True),
    "region": ("us-west", "us-east"),
    "key": ("", "K004"),
    "stored": (None, *(Stored(account, key_id, "p") for account in ("", "a", "b") for key_id in ("", "k"))),
    "lost, proven, recreate": tuple(itertools.product((False, True), repeat=3)),
    "fallback, unproven": tuple(itertools.product(("", "/path"), repeat=2)),
    "stored_opens": (None, "", "a", "b"),
    "given_opens": (None, "", "a", "b"),
    "given_untried": ("", "A cap."),
    "given_differs": (False, True),
}


def test_every_case_has_the_outcome_of_the_design():
    """Hold all combinations against one condition per outcome, of which exactly one is true in each case."""
    for there, region, key, stored, journal, paths, stored_opens, given_opens, untried, differs in itertools.product(
        *CASES.values()
    ):
        (lost, proven, recreate), (fallback, unproven) = journal, paths
        keys = KeyState(
            stored=stored,
            lost=lost,
            proven=proven,
            recreate=recreate,
            fallback=fallback,
            unproven=unproven,
            stored_opens=stored_opens,
            given_opens=given_opens,
            given_untried=untried,
            given_differs=differs,
        )
        member = Member("a", "x@y", region="us-west") if there else None
        wanted = Wanted("x@y", region, "k" if key else "", key)
        whole = stored is not None and stored.key_id != ""
        # The account, its region and a stored key agree with what is wanted, as far as they are known.
        fits = there and region == "us-west" and (stored is None or stored.account_id != "b")
        keyed, keyless = fits and whole, fits and not whole
        kept, adoptable = keyed and not differs, keyless and key and not untried
        keyless_for_good = keyless and not key
        recovered = fallback and not unproven
        replaced = keyless_for_good and stored is None and lost and proven and recreate and not recovered
        conditions = {
            Outcome.UNCHANGED: kept and stored_opens in (None, "a"),
            Outcome.ADOPTED: adoptable and given_opens == "a",
            Outcome.CREATED: (not there and stored is None and not key) or replaced,
            Outcome.KEY_DEAD: kept and stored_opens == "",
            Outcome.KEY_LOST: keyless_for_good and lost and not recovered and not replaced,
            Outcome.KEY_MISSING: (keyless_for_good and (recovered or not lost)) or (adoptable and not given_opens),
            Outcome.NOT_ATTEMPTED: keyless and key and untried,
            Outcome.CONFLICT: (there and not fits)
            or (not there and (stored is not None or key))
            or (keyed and (differs or stored_opens == "b"))
            or (adoptable and given_opens == "b"),
        }
        step = decide_present(wanted, member, keys)
        assert [outcome for outcome, holds in conditions.items() if holds] == [step.outcome], (wanted, member, keys)
        assert step.replaces is (member if step.outcome is Outcome.CREATED else None)
        assert step.changes == (step.outcome in (Outcome.CREATED, Outcome.ADOPTED))
        assert "K004" not in step.message


@pytest.mark.parametrize(
    "event, account_id, member, stored, outcome, known, proven",
    [
        (Event.PENDING, "", None, None, Outcome.ABSENT, False, False),
        (Event.LOST, "5f2a1c0b3d4e", None, None, Outcome.ABSENT, False, False),
        (Event.EJECTING, "5f2a1c0b3d4e", None, None, Outcome.EJECTED, False, False),
        (Event.EJECTING, "5f2a1c0b3d4e", THERE, None, Outcome.KEY_LOST, False, True),
        (Event.LOST, "ffffffffffff", THERE, None, Outcome.ABSENT, False, False),
        (Event.LOST, "", THERE, None, Outcome.KEY_LOST, False, False),
        (Event.PENDING, "", THERE, OURS, Outcome.CREATED, False, False),
        (Event.LOST, "5f2a1c0b3d4e", THERE, OURS, Outcome.CREATED, False, False),
        (Event.PENDING, "", THERE, None, Outcome.KEY_LOST, False, False),
        (Event.PRESUMED, "5f2a1c0b3d4e", THERE, None, Outcome.KEY_LOST, False, False),
        (Event.LOST, "5f2a1c0b3d4e", THERE, None, Outcome.KEY_LOST, False, True),
        (Event.PENDING, "", THERE, FOREIGN, Outcome.KEY_LOST, False, False),
        (Event.PENDING, "", THERE, HALF, Outcome.KEY_LOST, False, False),
        (Event.FALLBACK, "5f2a1c0b3d4e", THERE, None, Outcome.KEY_MISSING, True, False),
        (Event.FALLBACK, "5f2a1c0b3d4e", THERE, OURS, Outcome.CREATED, False, False),
        (Event.FALLBACK, "ffffffffffff", THERE, None, Outcome.ABSENT, False, False),
    ],
)
def test_what_an_earlier_run_left_open_is_settled(event, account_id, member, stored, outcome, known, proven):
    settled = settle(Open("alice@x.example", "100001", event, account_id, "/else/where"), member, stored)
    assert (settled.outcome, settled.known, settled.proven) == (outcome, known, proven)
    assert settled.path == ("/else/where" if outcome is Outcome.KEY_MISSING else "")
    if outcome is not Outcome.ABSENT:
        assert settled.as_dict() == {
            "email": "alice@x.example",
            "outcome": outcome.value,
            "account_id": THERE.account_id,
        }


@pytest.mark.parametrize("told", [False, True])
@pytest.mark.parametrize("event", [Event.PRESUMED, Event.LOST, Event.EJECTING])
def test_a_lost_key_is_news_until_a_run_has_reported_it(event, told):
    """That the journal names its account says only that a run found out, not that anybody was told."""
    assert settle(Open("alice@x.example", "100001", event, THERE.account_id, told=told), THERE, None).known is told


def test_an_audit_names_what_each_side_lacks():
    others = [
        Member("bbbbbbbbbbbb", "bob@x.example"),
        Member("cccccccccccc", "cleo@x.example"),
        Member("dddddddddddd", "dora@x.example"),
    ]
    stored = {
        "alice@x.example": OURS,
        "cleo@x.example": Stored("cccccccccccc", "k", "p"),
        "dora@x.example": Stored("ffffffffffff", "k", "p"),
        "gone@x.example": Stored("eeeeeeeeeeee", "k", "p"),
    }
    found = audit(
        [THERE, *others], stored, {"alice@x.example": Proof(THERE.account_id), "cleo@x.example": Proof("")}, {}, {}
    )
    assert {kind: [one["email"] for one in entries] for kind, entries in found.items()} == {
        "key_missing": ["bob@x.example"],
        "absent": ["gone@x.example"],
        "conflict": ["dora@x.example"],
        "key_dead": ["cleo@x.example"],
        "not_attempted": [],
    }


def test_a_key_that_could_not_be_tried_is_named_and_the_others_are_judged():
    stored = {"alice@x.example": OURS, "bob@x.example": Stored("bbbbbbbbbbbb", "k", "p")}
    members = [THERE, Member("bbbbbbbbbbbb", "bob@x.example")]
    found = audit(
        members,
        stored,
        {"alice@x.example": Proof(problem="A cap of the member's account is used up."), "bob@x.example": Proof("")},
        {},
        {},
    )
    (untried,), (dead,) = found["not_attempted"], found["key_dead"]
    assert (untried["email"], dead["email"]) == ("alice@x.example", "bob@x.example")
    assert "A cap of the member's account" in untried["message"]
    assert "every key" not in dead["message"]


@pytest.mark.parametrize("refused, told", [({"alice@x.example", "bob@x.example"}, True), ({"bob@x.example"}, False)])
def test_when_every_key_is_refused_the_service_is_suspected_first(refused, told):
    """People would take good keys out of their vault while the service is at fault. What could not be tried says
    nothing."""
    stored = {
        "alice@x.example": OURS,
        "bob@x.example": Stored("bbbbbbbbbbbb", "k", "p"),
        "cleo@x.example": Stored("cccccccccccc", "k", "p"),
    }
    opened = {
        email: Proof("" if email in refused else THERE.account_id) for email in ("alice@x.example", "bob@x.example")
    }
    opened["cleo@x.example"] = Proof(problem="A cap of the member's account is used up.")
    dead = audit(
        [THERE, Member("bbbbbbbbbbbb", "bob@x.example"), Member("cccccccccccc", "cleo@x.example")],
        stored,
        opened,
        {},
        {},
    )["key_dead"]
    assert len(dead) == len(refused)
    assert all(("Backblaze refused every key" in entry["message"]) is told for entry in dead)


NEW = NewMember(Member("5f2a1c0b3d4e", "alice@x.example", "100001"), "0045f2a1c0b3d4e0000000001", "K004")
DOUBTED = dataclasses.replace(NEW, doubt="It is odd.", named=False)
OTHER = Member("ffffffffffff", "alice@x.example")

CREATED = [
    # what came, what was found out about it, outcome
    (NEW, Proof(THERE.account_id), Outcome.CREATED),
    (NEW, Proof(THERE.account_id, THERE), Outcome.CREATED),
    (NEW, Proof(None, None, "no answer"), Outcome.CREATED),
    (NEW, Proof(None, THERE, "no answer"), Outcome.CREATED),
    (NEW, Proof(None, OTHER, "no answer"), Outcome.KEY_LOST),
    (NEW, Proof(""), Outcome.KEY_DEAD),
    (NEW, Proof("", THERE), Outcome.KEY_DEAD),
    (NEW, Proof("ffffffffffff"), Outcome.CONFLICT),
    (NEW, Proof("ffffffffffff", THERE), Outcome.KEY_LOST),
    (NEW, Proof("ffffffffffff", OTHER), Outcome.CREATED),
    (DOUBTED, Proof(THERE.account_id, THERE), Outcome.CREATED),
    (DOUBTED, Proof(THERE.account_id), Outcome.CONFLICT),
    (DOUBTED, Proof(None, THERE, "no answer"), Outcome.CONFLICT),
    (DOUBTED, Proof("", THERE), Outcome.KEY_LOST),
    (DOUBTED, Proof(""), Outcome.CONFLICT),
    (DOUBTED, Proof("ffffffffffff", THERE), Outcome.KEY_LOST),
    (dataclasses.replace(DOUBTED, named=True), Proof(THERE.account_id), Outcome.CREATED),
]


@pytest.mark.parametrize("new, proof, outcome", CREATED)
def test_whose_the_key_of_an_odd_answer_is(new, proof, outcome):
    found, *parts = decide_created(new, proof)
    message = " ".join(parts).strip()
    assert found is outcome
    assert message or outcome is Outcome.CREATED
    assert outcome is not Outcome.CONFLICT or proof.problem in message


@given(
    st.builds(
        NewMember,
        member=st.builds(Member, account_id=st.sampled_from(["", "a", "b"]), email=st.just("x@y")),
        key_id=st.just("k"),
        key=st.just("K004"),
        doubt=st.sampled_from(["", "odd"]),
        named=st.booleans(),
    ),
    st.builds(Proof, opens=opens, member=members, problem=st.just("why")),
)
def test_a_key_that_is_not_shown_to_be_the_members_is_never_called_created(new, proof):
    outcome = decide_created(new, proof)[0]
    if outcome is Outcome.CREATED:
        assert proof.opens != ""
        assert proof.member is None or proof.opens in (None, proof.member.account_id)
        # What is doubted was tried, and opens the account that is listed, or that the answer itself named.
        assert not new.doubt or proof.opens == (
            proof.member.account_id if proof.member else new.named and new.member.account_id
        )
    assert outcome is not Outcome.KEY_LOST or proof.member is not None


@pytest.mark.parametrize(
    "error, outcome",
    [
        (KeyLostError("a@x", "", "cut"), Outcome.KEY_LOST),
        (ApiError("b2_create_group_member", 401, "invalid_email", ""), Outcome.REFUSED),
        (NetworkError("no answer", sent=False), Outcome.NOT_ATTEMPTED),
        (StoppedError(), Outcome.NOT_ATTEMPTED),
    ],
)
def test_the_outcome_of_a_failed_creation(error, outcome):
    assert outcome_of(error) is outcome


def test_the_diff_shows_changes_only():
    steps = [
        Step(Wanted("new@x.example", "us-east"), Outcome.CREATED),
        Step(Wanted("any@x.example"), Outcome.CREATED),
        Step(WANTED, Outcome.UNCHANGED, THERE),
        Step(Wanted("old@x.example"), Outcome.EJECTED, THERE),
        Step(Wanted("again@x.example"), Outcome.CREATED, replaces=THERE),
    ]
    shown = diff(steps)
    assert shown["before"].splitlines() == ["old@x.example (us-west)", "again@x.example (us-west)"]
    assert shown["after"].splitlines() == [
        "new@x.example (us-east)",
        "any@x.example (default region)",
        "again@x.example (default region)",
    ]
    assert shown["before_header"] == "members of the Group, 2 ejected"
    assert shown["after_header"] == "members of the Group, 3 created"


def test_a_member_whose_key_is_stored_keeps_its_step_during_another_run():
    kept, missing = Step(WANTED, Outcome.UNCHANGED, THERE), Step(WANTED, Outcome.KEY_MISSING, THERE, "why")
    assert not_attempted(kept, "A run is under way.") is kept
    assert not_attempted(missing, "") is missing
    waiting = not_attempted(missing, "A run is under way.")
    assert waiting == Step(WANTED, Outcome.NOT_ATTEMPTED, THERE, reason="A run is under way.")


def test_members_are_found_whatever_the_case_of_their_address():
    assert by_email([THERE])["alice@x.example"] is THERE


def test_an_audit_tells_what_is_under_way_and_what_is_in_the_fallback_directory():
    members = [THERE, Member("bbbbbbbbbbbb", "bob@x.example"), Member("cccccccccccc", "cleo@x.example")]
    found = audit(members, {}, {}, {"alice@x.example": "A run is under way."}, {"bbbbbbbbbbbb": "/fallback/b.yml"})
    assert [(one["email"], one["message"]) for one in found["not_attempted"]] == [
        ("alice@x.example", "A run is under way.")
    ]
    assert [one["email"] for one in found["key_missing"]] == ["bob@x.example", "cleo@x.example"]
    assert (
        "/fallback/b.yml" in found["key_missing"][0]["message"]
        and "/fallback" not in found["key_missing"][1]["message"]
    )
