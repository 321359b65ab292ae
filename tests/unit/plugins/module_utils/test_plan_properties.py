# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Hold every decision about a member against a short model: its outcome, and the facts that its message names."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.community.backblaze.plugins.module_utils._errors import recreate_line
from ansible_collections.community.backblaze.plugins.module_utils._members import Member, NewMember, Proof
from ansible_collections.community.backblaze.plugins.module_utils._plan import (
    Event,
    KeyState,
    Open,
    Outcome,
    Settled,
    Step,
    Stored,
    Wanted,
    all_refused,
    audit,
    decide_absent,
    decide_created,
    decide_present,
    diff,
    not_attempted,
    settle,
)

EMAIL = "ada@example.com"
OURS, OTHER = "account-ours", "account-other"
EAST, WEST = "us-east", "us-west"
STORED, FALLBACK, UNPROVEN = "path/stored", "path/fallback", "path/unproven"
STORED_UNTRIED, GIVEN_UNTRIED = "Stored: a cap is used up.", "Given: a cap is used up."
RECREATE = recreate_line(EMAIL)
REFUSED_ALL = "every key that was tried"
FACTS = (OURS, OTHER, EAST, WEST, STORED, FALLBACK, UNPROVEN, STORED_UNTRIED, GIVEN_UNTRIED, RECREATE, REFUSED_ALL)

emails = st.just(EMAIL)
wanteds = st.builds(
    Wanted,
    email=emails,
    region=st.sampled_from([None, EAST, WEST]),
    key_id=st.just("k"),
    key=st.sampled_from(["", "K"]),
)
there = st.builds(Member, account_id=st.just(OURS), email=emails, region=st.sampled_from(["", EAST, WEST]))
stored_keys = st.builds(
    Stored, account_id=st.sampled_from(["", OURS, OTHER]), key_id=st.sampled_from(["", "k"]), path=st.just(STORED)
)
opens = st.sampled_from([None, "", OURS, OTHER])


def maybe(text: str) -> st.SearchStrategy:
    return st.sampled_from(["", text])


key_states = st.builds(
    KeyState,
    stored=st.none() | stored_keys,
    lost=st.booleans(),
    proven=st.booleans(),
    recreate=st.booleans(),
    fallback=maybe(FALLBACK),
    unproven=maybe(UNPROVEN),
    stored_opens=opens,
    given_opens=opens,
    stored_untried=maybe(STORED_UNTRIED),
    given_untried=maybe(GIVEN_UNTRIED),
    given_differs=st.booleans(),
    all_refused=st.booleans(),
)


def facts(message: str) -> set[str]:
    """Return the facts that a message names. It is made of text, and of nothing that is missing."""
    assert isinstance(message, str)
    assert "None" not in message
    assert not message or message[0].isupper() or message.startswith("path/")
    return {fact for fact in FACTS if fact in message}


def opened(account: str, named: set[str], refused: Outcome) -> tuple[Outcome, set[str]]:
    """Return what a key means that opens another account, or none."""
    return (Outcome.CONFLICT, named | {OURS, OTHER}) if account else (refused, named)


def model(wanted: Wanted, member: Member, keys: KeyState) -> tuple[Outcome, set[str]]:
    """Return the outcome of a member of the Group, and the facts that its message has to name."""
    stored = keys.stored
    if wanted.region and member.region and wanted.region != member.region:
        return Outcome.CONFLICT, {EAST, WEST}
    if stored and stored.account_id == OTHER:
        return Outcome.CONFLICT, {STORED, OURS, OTHER}
    if stored and stored.key_id:
        if keys.given_differs:
            return Outcome.CONFLICT, {STORED}
        if keys.stored_opens in ("", OTHER):
            named = {STORED} | ({REFUSED_ALL} if keys.all_refused and not keys.stored_opens else set())
            return opened(keys.stored_opens, named, Outcome.KEY_DEAD)
        return Outcome.UNCHANGED, {STORED, STORED_UNTRIED} if keys.stored_untried else set()
    if wanted.key:
        if keys.given_untried:
            return Outcome.NOT_ATTEMPTED, {GIVEN_UNTRIED}
        if keys.given_opens != OURS:
            return opened(keys.given_opens or "", set(), Outcome.KEY_MISSING)
        return Outcome.ADOPTED, set()
    if keys.fallback and not keys.unproven:
        return Outcome.KEY_MISSING, {FALLBACK}
    if keys.lost and keys.proven and keys.recreate and not stored:
        return Outcome.CREATED, {OURS}
    kept = {UNPROVEN} if keys.unproven else set()
    if keys.lost:
        return Outcome.KEY_LOST, {OURS} | kept | ({RECREATE} if keys.proven else set())
    return Outcome.KEY_MISSING, {OURS} | kept


@settings(max_examples=1000)
@given(wanteds, there, key_states)
def test_a_member_of_the_group(wanted, member, keys):
    step = decide_present(wanted, member, keys)
    outcome, named = model(wanted, member, keys)
    assert (step.outcome, facts(step.message)) == (outcome, named)
    assert step.wanted is wanted
    assert (step.member, step.replaces) == ((None, member) if outcome is Outcome.CREATED else (member, None))
    # A good outcome needs no message.
    assert bool(step.message) is (outcome not in (Outcome.UNCHANGED, Outcome.ADOPTED) or bool(named))


@given(wanteds, there, key_states)
def test_where_no_keys_are_stored_only_the_region_counts(wanted, member, keys):
    outcome, named = model(dataclasses.replace(wanted, key=""), member, KeyState(stored=Stored(OURS, "k")))
    step = decide_present(wanted, member, None)
    assert (step.wanted, step.member, step.outcome, facts(step.message)) == (wanted, member, outcome, named)


@given(wanteds, st.none() | key_states)
def test_an_address_that_is_not_in_the_group(wanted, keys):
    step = decide_present(wanted, None, keys)
    assert (step.wanted, step.member, step.replaces) == (wanted, None, None)
    if keys and keys.stored:
        assert step.outcome is Outcome.CONFLICT
        assert facts(step.message) == {STORED} | ({keys.stored.account_id} - {""})
    else:
        assert step.outcome is (Outcome.CONFLICT if wanted.key else Outcome.CREATED)
        assert bool(step.message) is bool(wanted.key)


@given(wanteds, st.none() | there, key_states, maybe(GIVEN_UNTRIED))
def test_a_step_that_is_not_attempted_keeps_its_member(wanted, member, keys, reason):
    step = decide_present(wanted, member, keys)
    kept = not_attempted(step, reason)
    if not reason or step.outcome is Outcome.UNCHANGED:
        assert kept is step
    else:
        assert kept == Step(wanted, Outcome.NOT_ATTEMPTED, step.member, reason=reason)
    assert decide_absent(wanted, member).member is member
    assert decide_absent(wanted, member).wanted is wanted


listed = st.sampled_from([None, Member(OURS, EMAIL), Member(OTHER, EMAIL)])


@given(
    st.builds(
        NewMember,
        member=st.builds(Member, account_id=st.sampled_from(["", OURS]), email=emails),
        key_id=st.just("k"),
        key=st.just("K"),
        doubt=maybe("odd"),
        named=st.booleans(),
    ),
    st.builds(Proof, opens=opens, member=listed, problem=maybe(STORED_UNTRIED)),
)
def test_the_key_of_an_odd_create_answer(new, proof):
    outcome, *parts = decide_created(new, proof)
    message = " ".join(parts).strip()
    listed_as = proof.member.account_id if proof.member else None
    owner = new.member.account_id if proof.opens is None else proof.opens
    why = {STORED_UNTRIED} if proof.problem else set()
    whose = {owner} - {""}
    if proof.opens is None and new.doubt:
        expected = Outcome.CONFLICT, why
    elif not owner and not new.doubt:
        expected = Outcome.KEY_DEAD, set()
    elif listed_as and owner != listed_as:
        expected = Outcome.KEY_LOST, whose | {listed_as, RECREATE}
    elif listed_as or (owner == OURS == new.member.account_id and new.named):
        expected = Outcome.CREATED, why
    else:
        expected = Outcome.CONFLICT, whose | why
    assert (outcome, facts(message)) == expected
    assert message or outcome is Outcome.CREATED
    # What the message says of the key is what was found out.
    if expected[1] & {OURS, OTHER} or (outcome is Outcome.KEY_LOST and not owner):
        assert ("refuses" in message) is (not owner)
    assert outcome is not Outcome.CONFLICT or proof.problem or proof.opens is None or "not found" in message


@given(
    st.builds(
        Open,
        email=emails,
        group_id=st.just("g"),
        event=st.sampled_from(Event),
        account_id=st.sampled_from(["", OURS, OTHER]),
        path=st.just(FALLBACK),
        told=st.booleans(),
    ),
    st.none() | there,
    st.none() | stored_keys,
)
def test_an_open_address_is_settled(entry, member, stored):
    ours = member is not None and entry.account_id in ("", OURS)
    if not ours:
        outcome = Outcome.EJECTED if entry.event is Event.EJECTING else Outcome.ABSENT
        expected = Settled(EMAIL, outcome, entry.account_id)
    elif stored and stored.key_id and stored.account_id != OTHER:
        expected = Settled(EMAIL, Outcome.CREATED, OURS)
    elif entry.event is Event.FALLBACK:
        expected = Settled(EMAIL, Outcome.KEY_MISSING, OURS, known=True, path=FALLBACK)
    else:
        proven = entry.event in (Event.LOST, Event.EJECTING) and bool(entry.account_id)
        expected = Settled(EMAIL, Outcome.KEY_LOST, OURS, known=entry.told, proven=proven)
    assert settle(entry, member, stored) == expected


ADDRESSES = [f"{name}@example.com" for name in "abcd"]


@given(st.data())
def test_an_audit_says_of_each_member_what_a_run_would_say(data):
    members = [Member(f"id-{email}", email.title()) for email in ADDRESSES if data.draw(st.booleans())]
    accounts = st.sampled_from([f"id-{email}" for email in ADDRESSES])
    stored = {
        email: Stored(data.draw(accounts), data.draw(maybe("k")), f"path/{email}")
        for email in ADDRESSES
        if data.draw(st.booleans())
    }
    tried = {
        email: Proof(data.draw(st.none() | st.just("") | accounts), problem=data.draw(maybe(STORED_UNTRIED)))
        for email in ADDRESSES
        if data.draw(st.booleans())
    }
    busy = {email: "A run is under way." for email in ADDRESSES if data.draw(st.booleans())}
    fallback = {f"id-{email}": f"fallback/{email}" for email in ADDRESSES if data.draw(st.booleans())}
    found = audit(members, stored, tried, busy, fallback)
    expected = {kind: [] for kind in ("key_missing", "absent", "conflict", "key_dead", "not_attempted")}
    for member in members:
        email, proof = member.email.lower(), tried.get(member.email.lower(), Proof())
        keys = KeyState(
            stored=stored.get(email),
            fallback=fallback.get(member.account_id, ""),
            stored_opens=proof.opens,
            stored_untried=proof.problem,
            all_refused=all_refused(tried),
        )
        step = not_attempted(decide_present(Wanted(email), member, keys), busy.get(email, ""))
        kind = step.outcome.value
        if step.outcome is Outcome.UNCHANGED:
            if not proof.problem:
                continue
            kind = "not_attempted"
        expected[kind].append({"email": email, "account_id": member.account_id, "message": step.message})
    for email, key in stored.items():
        if email not in [member.email.lower() for member in members]:
            (entry,) = [one for one in found["absent"] if one["email"] == email]
            assert key.path in entry["message"]
            expected["absent"].append({**entry, "account_id": key.account_id})
    assert found == expected


@pytest.mark.parametrize(
    "opens, expected",
    [
        ([], False),
        ([""], False),
        (["", ""], True),
        (["", None], False),
        (["", "", OURS], False),
        (["", "", None], True),
    ],
)
def test_all_keys_are_refused(opens, expected):
    assert all_refused({str(number): Proof(one) for number, one in enumerate(opens)}) is expected


def test_a_diff_has_a_header_for_each_side():
    assert {"before_header", "after_header"} <= set(diff([]))
