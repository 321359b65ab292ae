# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Hold the moves of keys of earlier runs against a model: each key reaches its member's file, or stays where it is."""

from __future__ import annotations

import types

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.community.backblaze.plugins.module_utils._errors import NetworkError, StoppedError, StoreError
from ansible_collections.community.backblaze.plugins.module_utils._members import Member
from ansible_collections.community.backblaze.plugins.module_utils._plan import Open, Stored
from ansible_collections.community.backblaze.plugins.plugin_utils._run.recover import (
    Moves,
    recover,
    seal_from_fallback,
    try_unproven,
)
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.key_file import StoredKey

GROUP, EMAIL, OTHER, UNSAFE = "100001", "ada@example.com", "bob@example.com", "a/b@example.com"
OURS, FOREIGN, UNSAFE_ACCOUNT = "ours0", "foreign1", "unsafe2"
MEMBERS = {
    EMAIL: Member(OURS, EMAIL.title(), GROUP, region="us-west"),
    UNSAFE: Member(UNSAFE_ACCOUNT, UNSAFE, GROUP),
}
ASIDE = "aside/key"


class World:
    """A store and a fallback directory with one key beside the member's file, and all that was done to them."""

    def __init__(self, key, path, *, there=None, switched_off=False, unproven=False):
        self.files = {EMAIL: there} if there else {}
        self.aside, self.path, self.switched_off = key, path, switched_off
        self.removed = []
        self.unproven = types.SimpleNamespace(
            of=lambda email: {path: key} if unproven and email == EMAIL else {}, discard=self.removed.append
        )
        self.fallback = types.SimpleNamespace(
            found=lambda: iter([] if unproven else [("fallback/nobody-1", None), (path, key)]),
            remove=self.removed.append,
        )

    def file(self, email):
        return f"vault/{email}"

    def read(self, email):
        return self.files.get(email)

    def prove_nothing_switched_off(self, emails):
        if self.switched_off:
            raise StoreError("A file of variables would be switched off.")

    def seal(self, key):
        assert not self.removed
        self.files[key.email] = key
        return self.file(key.email)


secrets = st.sampled_from(["key", "key-other"])
there = st.none() | st.builds(StoredKey, st.just(EMAIL), st.just("id"), secrets, st.just(OURS))


@given(
    account=st.sampled_from(["", OURS, FOREIGN]),
    email=st.sampled_from([EMAIL, OTHER]),
    unproven=st.booleans(),
    there=there,
    switched_off=st.booleans(),
    write=st.booleans(),
)
def test_a_key_in_the_fallback_directory_reaches_its_member(account, email, unproven, there, switched_off, write):
    key = StoredKey(email, "id", "key", account, GROUP, unproven=unproven)
    world = World(key, ASIDE, there=there, switched_off=switched_off)
    moves = Moves(world, write)
    seal_from_fallback(world.fallback, MEMBERS, moves)
    its = email == EMAIL and account in ("", OURS) and not unproven and (there is None or there.key == "key")
    check(world, moves, its, there, switched_off, write)
    if its and write and not switched_off:
        assert world.files[EMAIL] == StoredKey(EMAIL, "id", "key", OURS, GROUP)


def check(world, moves, its, there, switched_off, write):
    """Compare what was done with a key: it is moved only if it is its member's, and removed only after that."""
    moved = its and not switched_off
    assert world.removed == ([ASIDE] if moved and write else [])
    assert (world.files.get(EMAIL) == there) is (not (moved and write) or there == world.files.get(EMAIL))
    assert moves.found == ({EMAIL: Stored(OURS, "id", f"vault/{EMAIL}", GROUP)} if moved and not there else {})
    assert moves.any is bool(moves.found)
    if moves.found:
        (note,) = moves.notes
        assert EMAIL in note and ASIDE in note and f"vault/{EMAIL}" in note
        assert ("would be" in note) is not write
    elif its and switched_off:
        (note,) = moves.notes
        assert EMAIL in note and ASIDE in note and "switched off" in note


@given(
    opens=st.sampled_from(["", OURS, FOREIGN, UNSAFE_ACCOUNT, NetworkError("No answer.", sent=True)]),
    there=there,
    switched_off=st.booleans(),
    write=st.booleans(),
    in_fallback=st.booleans(),
)
def test_an_unproven_key_goes_to_the_member_whose_account_it_opens(opens, there, switched_off, write, in_fallback):
    arrived_for = OTHER if in_fallback else EMAIL
    key = StoredKey(arrived_for, "id", "key", "", GROUP, unproven=True)
    world = World(key, ASIDE, there=there, switched_off=switched_off, unproven=not in_fallback)
    tried = []

    def opened(*secret):
        tried.append(secret)
        if isinstance(opens, Exception):
            raise opens
        return opens

    moves = Moves(world, write)
    client = types.SimpleNamespace(opens=opened)
    left = try_unproven(client, world.fallback, [Open(EMAIL, GROUP)], MEMBERS, moves)
    assert tried == [("id", "key")]
    its = opens == OURS and (there is None or there.key == "key")
    check(world, moves, its, there, switched_off, write)
    assert left == ({} if its and not switched_off else {arrived_for: ASIDE})
    if moves.found and write:
        assert world.files[EMAIL] == StoredKey(EMAIL, "id", "key", OURS, GROUP, "us-west")
        assert not world.files[EMAIL].unproven
    if isinstance(opens, Exception):
        (note,) = moves.notes
        assert ASIDE in note and "No answer." in note


def test_the_wish_to_stop_ends_the_trial_of_unproven_keys():
    world = World(StoredKey(EMAIL, "id", "key", unproven=True), ASIDE, unproven=True)

    def opened(*secret):
        raise StoppedError

    with pytest.raises(StoppedError):
        try_unproven(
            types.SimpleNamespace(opens=opened), world.fallback, [Open(EMAIL, GROUP)], MEMBERS, Moves(world, True)
        )


@pytest.mark.parametrize(
    "account, there, raises",
    [(OURS, None, True), (OURS, "key", False), (FOREIGN, None, False), (UNSAFE_ACCOUNT, None, False)],
)
def test_a_key_that_does_not_decrypt_stops_the_run_if_its_member_has_no_other(account, there, raises):
    stored = StoredKey(EMAIL, "id", there, OURS) if there else None
    world = World(None, f"fallback/{account}-12.b2_vault.yml", there=stored)
    moves = Moves(world, True)
    if raises:
        with pytest.raises(StoreError, match=f"{account}-12.*vault password"):
            seal_from_fallback(world.fallback, MEMBERS, moves)
    else:
        seal_from_fallback(world.fallback, MEMBERS, moves)
    assert not world.removed and moves.notes == []


@given(member=st.booleans(), path=st.sampled_from([None, f"vault/{EMAIL}", "vault/torn"]), write=st.booleans())
def test_a_temporary_file_of_a_killed_run_is_named(member, path, write):
    asked = []
    found = Stored(OURS, "id", path, GROUP) if path else None
    store = types.SimpleNamespace(
        file=lambda email: f"vault/{email}",
        recover=lambda email, account_id, write: asked.append((email, account_id, write)) or found,
    )
    moves = Moves(store, write)
    recover([Open(OTHER, GROUP), Open(EMAIL, GROUP)], MEMBERS if member else {}, moves)
    assert asked == ([(EMAIL, OURS, write)] if member else [])
    assert moves.found == ({EMAIL: found} if member and found else {})
    assert moves.any is bool(member and path == f"vault/{EMAIL}")
    assert len(moves.notes) == len(moves.found)
    for note in moves.notes:
        assert EMAIL in note
        assert (path in note and "does not decrypt" in note) is (path == "vault/torn")
        assert path == "vault/torn" or ("would be" in note) is not write
