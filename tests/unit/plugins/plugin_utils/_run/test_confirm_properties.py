# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Hold the check at the end of a run against a model: a key that is gone is stored again, or said to be lost."""

from __future__ import annotations

import types

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.community.backblaze.plugins.module_utils._errors import StoreError
from ansible_collections.community.backblaze.plugins.module_utils._members import Member
from ansible_collections.community.backblaze.plugins.module_utils._plan import Outcome
from ansible_collections.community.backblaze.plugins.plugin_utils._run.confirm import confirmed
from ansible_collections.community.backblaze.plugins.plugin_utils._run.job import Job, Result
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.key_file import StoredKey

GROUP, EMAIL, OTHER, ACCOUNT = "100001", "ada@example.com", "bob@example.com", "ours0"
FILE, ASIDE, FALLBACK = f"vault/{EMAIL}", f"vault/{EMAIL}/aside", "fallback/file"
WHY = "somebody removed it"
KEY = StoredKey(EMAIL, "id", "key", ACCOUNT, GROUP)
UNPROVEN = StoredKey(EMAIL, "id-unproven", "key-unproven", "foreign", GROUP)


class World:
    """A store whose location misses files, a fallback directory and a journal, and all that was done to them."""

    def __init__(self, amiss, *, key=KEY, unproven=None, changed=(), after=None, full=False):
        self.amiss, self.changed, self.full = dict.fromkeys(amiss, WHY), changed, full
        self.key, self.aside, self.after = key, {ASIDE: unproven} if unproven else {}, after
        self.path = "vault"
        self.location = types.SimpleNamespace(confirm=lambda: self.amiss, take_changed=self.take_changed)
        self.unproven = types.SimpleNamespace(of=lambda email: self.aside if email == EMAIL else {})
        self.saved, self.noted = [], []
        self.taken = None
        self.journal = types.SimpleNamespace(
            fallback=lambda *args: self.noted.append(("fallback", *args)),
            lost=lambda *args: self.noted.append(("lost", *args)),
        )

    def take_changed(self, paths):
        self.taken = set(paths)
        return frozenset(self.changed)

    def stored(self, emails):
        assert emails == [EMAIL]
        # Somebody else's change is read now.
        self.key = self.after
        return {}

    def file(self, email):
        return f"vault/{email}"

    def read(self, email):
        return self.key if email == EMAIL else None

    def seal(self, key):
        if self.full:
            raise StoreError("The fallback directory is full.")
        self.saved.append(key)
        return FALLBACK

    def confirm(self, results, *, concerned=(EMAIL,), with_journal=True):
        job = Job(GROUP, [], concurrency=2)
        return confirmed(job, self, self, results, concerned, self.journal if with_journal else None)


def result_of(outcome, path=FILE):
    return Result(EMAIL, outcome, "Before.", Member(ACCOUNT, EMAIL, GROUP), path)


@given(
    outcome=st.sampled_from([Outcome.CREATED, Outcome.UNCHANGED, Outcome.ADOPTED]),
    in_copy=st.booleans(),
    full=st.booleans(),
    with_journal=st.booleans(),
)
def test_a_key_that_is_gone_is_stored_again_or_lost(outcome, in_copy, full, with_journal):
    world = World([FILE], key=KEY if in_copy else None, full=full)
    results, notes = world.confirm({EMAIL: result_of(outcome)}, with_journal=with_journal)
    one, saved = results[EMAIL], in_copy and not full
    assert notes == ()
    assert world.taken == {FILE}
    assert one.message.startswith("Before. ")
    assert all(fact in one.message for fact in (EMAIL, FILE, WHY))
    assert world.saved == ([KEY] if saved else [])
    assert one.path == (FALLBACK if saved else "")
    keyless = Outcome.KEY_LOST if outcome is Outcome.CREATED else Outcome.KEY_MISSING
    assert one.outcome is (outcome if saved else keyless)
    if saved:
        assert FALLBACK in one.message and "moves it" in one.message
        expected = [("fallback", GROUP, EMAIL, ACCOUNT, FALLBACK)]
    else:
        assert f"account {ACCOUNT} is lost" in one.message
        assert ("directory is full" in one.message) is in_copy
        expected = [("lost", GROUP, EMAIL, ACCOUNT)] if keyless is Outcome.KEY_LOST else []
    assert world.noted == (expected if with_journal else [])


@pytest.mark.parametrize("amiss", [[], [f"vault/{OTHER}"], [ASIDE]])
def test_a_key_that_is_in_its_file_is_left_alone(amiss):
    world, before = World(amiss), {EMAIL: result_of(Outcome.CREATED)}
    assert world.confirm(before) == (before, ())
    assert (world.saved, world.noted) == ([], [])
    assert (world.taken is None) is (not amiss)


@given(after=st.sampled_from([None, KEY, UNPROVEN]), changed=st.booleans())
def test_a_file_that_somebody_has_changed_may_hold_its_key_still(after, changed):
    world = World([FILE], changed=[FILE] if changed else [], after=after)
    results, notes = world.confirm({EMAIL: result_of(Outcome.CREATED)})
    kept = changed and after == KEY
    assert world.saved == ([] if kept else [KEY])
    assert results[EMAIL].path == (FILE if kept else FALLBACK)
    assert (results[EMAIL].message == "Before.") is kept
    assert notes == ()


@given(full=st.booleans(), wanted=st.booleans())
def test_an_unproven_key_that_is_gone_is_stored_again_without_its_account(full, wanted):
    world = World([ASIDE], unproven=UNPROVEN, full=full)
    before = {EMAIL: result_of(Outcome.CONFLICT, ASIDE)} if wanted else {}
    results, notes = world.confirm(before)
    assert [key.unproven for key in world.saved] == ([] if full else [True])
    if wanted:
        assert notes == ()
        one = results[EMAIL]
        assert (one.outcome, one.path) == (Outcome.CONFLICT, "" if full else FALLBACK)
        assert world.noted == ([] if full else [("fallback", GROUP, EMAIL, "", FALLBACK)])
        message = one.message
    else:
        assert (results, world.noted) == ({}, [])
        (message,) = notes
    assert all(fact in message for fact in (EMAIL, ASIDE, WHY))
    assert ("tries it" in message) is not full
    assert ("account foreign is lost" in message) is full


def test_two_keys_of_one_address_are_both_stored_again():
    world = World([FILE, ASIDE], unproven=UNPROVEN)
    results, notes = world.confirm({EMAIL: result_of(Outcome.CREATED)}, concerned=(OTHER, EMAIL))
    assert {key.key for key in world.saved} == {KEY.key, UNPROVEN.key}
    assert results[EMAIL].path == FALLBACK
    assert len(notes) == 1 and ASIDE in notes[0]
    assert world.noted == [("fallback", GROUP, EMAIL, ACCOUNT, FALLBACK)]


def test_two_keys_of_an_address_that_nobody_wants_are_both_stored_again():
    world = World([FILE, ASIDE], unproven=UNPROVEN)
    results, notes = world.confirm({})
    assert (results, world.noted) == ({}, [])
    assert {key.key for key in world.saved} == {KEY.key, UNPROVEN.key}
    assert [f"gone from {path}: " in note for path, note in zip((FILE, ASIDE), notes, strict=True)] == [True, True]
    assert notes[0].endswith("The next run moves it to its file.")
    assert notes[1].endswith("The next run tries it. The owner of this key is not known.")


def test_an_address_that_nobody_wants_is_named_in_a_warning():
    world = World([FILE, f"vault/{OTHER}"])
    results, notes = world.confirm({}, concerned=(EMAIL, OTHER))
    assert results == {}
    assert [EMAIL in note for note in notes] == [True, False]
    assert "account unknown is lost" in notes[1]


def test_a_location_that_cannot_be_read_is_named():
    world, before = World([FILE]), {EMAIL: result_of(Outcome.CREATED)}

    def fails():
        raise StoreError("No route to host.")

    world.location.confirm = fails
    results, (note,) = world.confirm(before)
    assert results == before
    assert "vault" in note and "No route to host." in note


def test_a_key_that_cannot_be_read_counts_as_gone():
    """Of the keys that the remote copy has, too: neither is stored again."""
    world = World([FILE, ASIDE], unproven=UNPROVEN)

    def fails(email):
        raise StoreError("It does not decrypt.")

    world.read = world.unproven.of = fails
    results, notes = world.confirm({EMAIL: result_of(Outcome.CREATED)})
    assert (results[EMAIL].outcome, results[EMAIL].path, notes) == (Outcome.KEY_LOST, "", ())
    assert f"account {ACCOUNT} is lost: it is not in the remote copy either." in results[EMAIL].message
    assert (world.saved, world.noted) == ([], [("lost", GROUP, EMAIL, ACCOUNT)])


def test_a_changed_file_that_cannot_be_fetched_counts_as_gone():
    world = World([FILE], changed=[FILE], after=KEY)

    def fails(paths):
        raise StoreError("No route to host.")

    world.location.take_changed = fails
    results, _notes = world.confirm({EMAIL: result_of(Outcome.CREATED)})
    assert (world.saved, results[EMAIL].path) == ([KEY], FALLBACK)


def test_a_result_whose_key_is_in_another_file_is_not_about_its_file():
    world = World([FILE])
    before = {EMAIL: result_of(Outcome.CREATED, FALLBACK)}
    assert world.confirm(before) == (before, ())
    assert world.saved == []
