# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One vault file for all members of a Group: what only this layout has. test_contract.py has the rest."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import errno
import os
import stat
import threading
import time

import pytest
import yaml
from ansible.parsing.vault import VaultLib, VaultSecret

from ansible_collections.community.backblaze.plugins.module_utils import _files
from ansible_collections.community.backblaze.plugins.module_utils._errors import StoreError
from ansible_collections.community.backblaze.plugins.plugin_utils._stores import group_vars
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.group_vars import GroupVarsStore
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.key_file import group_text
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.sealer import Sealer
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.store import secret_of
from ansible_collections.community.backblaze.tests.utils.vault_files import (
    TEMPORARY,
    beside,
    prove,
    read,
    untouched,
    write,
)

ALICE = "alice@x.example"
BOB = "bob@x.example"
ACCOUNT = "5f2a1c0b3d4e"
GROUP = "100001"


@pytest.fixture
def make_store(tmp_path, secrets):
    """A factory of stores of one file, each with a memory of its own."""
    return lambda group=GROUP: GroupVarsStore(str(tmp_path / "vault"), Sealer(secrets), group)


@pytest.fixture
def store(make_store):
    return make_store()


def test_the_keys_of_all_members_are_one_variable(store, make_store, new_member, vault):
    prove(store)
    alice, bob = new_member(), new_member(BOB, "K004bob")
    assert store.seal(bob) == store.seal(alice)
    # The address stands before the variables, and is not among them.
    entries = yaml.safe_load(vault.decrypt(read(store.file(ALICE))))["b2_member_keys"]
    assert list(entries) == list(make_store().stored()) == list(make_store().keys()) == [BOB, ALICE]
    assert entries[ALICE] == {
        "b2_application_key_id": alice.key_id,
        "b2_application_key": alice.key,
        "b2_account_id": ACCOUNT,
        "b2_group_id": GROUP,
        "b2_region": "us-west",
        "b2_s3_endpoint": "",
    }
    assert make_store().keys() == {ALICE: alice, BOB: bob}


def test_each_group_has_a_file_of_its_own_whatever_its_id(make_store, new_member):
    stores = [make_store(group) for group in ("100001", "../../etc", "a b", "x" * 300)]
    prove(stores[0])
    for number, one in enumerate(stores):
        one.seal(new_member(f"m{number}@x.example", group_id="any"))
    assert len(os.listdir(stores[0].path)) == 4
    assert [list(one.stored()) for one in stores] == [[f"m{number}@x.example"] for number in range(4)]


def test_the_same_key_with_nothing_new_about_its_account_is_not_written_again(store, make_store, new_member):
    prove(store)
    path = store.seal(new_member())
    with untouched(store.path):
        for one in (store, make_store()):
            assert one.seal(new_member(), again=True) == path


def test_an_address_that_would_not_come_back_is_refused(store, new_member):
    """One such line would make the file of all other keys unreadable."""
    prove(store)
    store.seal(new_member())
    with untouched(store.path), pytest.raises(StoreError, match="would not come back"):
        store.seal(new_member("Upper@x.example"))


# An existing file


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o400, 0o664])
def test_an_existing_file_keeps_its_mode(store, make_store, new_member, mode):
    prove(store)
    path = store.seal(new_member())
    os.chmod(path, mode)
    make_store().seal(new_member(BOB))
    assert stat.S_IMODE(os.stat(path).st_mode) == mode


def test_an_existing_file_keeps_its_owner(store, make_store, new_member, monkeypatch):
    """Only root can give files away; for everybody else what is asked of the system is what can be looked at."""
    prove(store)
    path = store.seal(new_member())
    if os.geteuid() == 0:
        os.chown(path, 12345, 54321)
    os.chmod(path, 0o640)
    before, asked, change = os.stat(path), [], os.fchown
    monkeypatch.setattr(os, "fchown", lambda fd, uid, gid: (asked.append((uid, gid)), change(fd, uid, gid)))
    make_store().seal(new_member(BOB))
    found = os.stat(path)
    assert asked == [(-1, before.st_gid), (before.st_uid, -1)]
    assert found.st_ino != before.st_ino
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (before.st_uid, before.st_gid, 0o640)


def test_what_a_group_was_allowed_is_not_for_another_group(store, make_store, new_member, monkeypatch):
    prove(store)
    path = store.seal(new_member())
    os.chmod(path, 0o660)

    def refused(*_arguments):
        raise PermissionError(errno.EPERM, "no")

    monkeypatch.setattr(os, "fchown", refused)
    make_store().seal(new_member(BOB))
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600


def test_a_file_keeps_its_own_secret_unless_another_is_asked_for(store, new_member, secrets):
    prod = ("prod", VaultSecret(b"of production"))
    empty = group_text([])
    write(store.file(ALICE), Sealer([prod]).seal(empty))
    both = [*secrets, prod]
    GroupVarsStore(store.path, Sealer(both), GROUP).seal(new_member())
    assert read(store.file(ALICE)).startswith(b"$ANSIBLE_VAULT;1.2;AES256;prod\n")
    assert ALICE.encode() in VaultLib([prod]).decrypt(read(store.file(ALICE)))
    GroupVarsStore(store.path, Sealer(both, "default"), GROUP).seal(new_member(BOB))
    assert BOB.encode() in VaultLib(secrets).decrypt(read(store.file(ALICE)))
    # A file with a name that the run does not know, but with a password that it does.
    write(store.file(ALICE), Sealer([("theirs", VaultSecret(b"of production"))]).seal(empty))
    GroupVarsStore(store.path, Sealer(both), GROUP).seal(new_member())
    assert read(store.file(ALICE)).startswith(b"$ANSIBLE_VAULT;1.2;AES256;theirs\n")
    assert VaultLib([prod]).decrypt(read(store.file(ALICE)))


def test_a_change_in_the_last_moment_is_not_overwritten(store, new_member, secrets, monkeypatch):
    prove(store)
    path = store.seal(new_member())
    put, theirs = _files.put, dataclasses.replace(new_member("carol@x.example"), region="by hand")

    def put_and_let_somebody_in(*arguments):
        written = put(*arguments)
        monkeypatch.setattr(_files, "put", put)
        write(path, Sealer(secrets).seal(group_text([theirs])))
        return written

    monkeypatch.setattr(_files, "put", put_and_let_somebody_in)
    with pytest.raises(StoreError, match="Another process has just changed"):
        store.seal(new_member(BOB))
    assert os.listdir(os.path.dirname(path)) == ["b2_vault.yml"]
    # The next attempt keeps their change, and puts back the key that they have removed.
    store.seal(new_member(BOB))
    assert set(store.stored()) == {ALICE, BOB, theirs.email} and store.read(theirs.email) == theirs


def test_room_is_wanted_for_a_second_file_of_this_size(store, new_member):
    prove(store)
    store.seal(new_member())
    disk = os.statvfs(store.path)
    # As large as the disk: what is free of it changes all the time.
    store.rewritten = disk.f_blocks * disk.f_frsize
    store.prove_room(0)
    with pytest.raises(StoreError, match="no room"):
        store.prove_room(1)
    assert store.remember() is None and store.stored() and store.rewritten == os.path.getsize(store.file(ALICE))
    store.prove_room(1)


# Many at once


def seal_all(store, news):
    with concurrent.futures.ThreadPoolExecutor(len(news)) as pool:
        return list(pool.map(store.seal, news))


def test_keys_that_arrive_together_share_a_write(store, make_store, new_member, monkeypatch):
    news = [new_member(f"m{number}@x.example", f"K004{number}") for number in range(20)]
    prove(store)
    writes, syncs, replace, fsync = [], [], _files.replace, os.fsync
    together = threading.Barrier(len(news))

    def slow_at_first(*args):
        if not writes:
            # Time for the others to come; those that come later still share a write.
            time.sleep(0.1)
        writes.append(args[1])
        return replace(*args)

    def seal(key):
        together.wait(timeout=30)
        return store.seal(key)

    monkeypatch.setattr(group_vars, "replace", slow_at_first)
    monkeypatch.setattr(os, "fsync", lambda fd: (syncs.append(fd), fsync(fd)))
    with concurrent.futures.ThreadPoolExecutor(len(news)) as pool:
        assert set(pool.map(seal, news)) == {store.file(ALICE)}
    assert len(writes) <= len(news) // 2
    assert len(syncs) == 3 * len(writes)
    assert make_store().keys() == {one.email: one for one in news}
    assert os.listdir(os.path.dirname(store.file(ALICE))) == ["b2_vault.yml"]


def test_two_keys_for_one_address_at_the_same_time_end_with_one_of_them(store, make_store, new_member):
    prove(store)
    news = [new_member(key=f"K004{number}") for number in range(16)]

    def seal(one):
        try:
            return store.seal(one) and one.key
        except StoreError as exc:
            assert "not replaced" in str(exc)

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        (kept,) = [key for key in pool.map(seal, news) if key]
    assert secret_of(make_store(), ALICE)[1] == kept


def with_a_failure(store, news, monkeypatch, name, failure):
    """Seal many keys at once while something fails; return the errors, after making sure that all threads came back."""
    real = getattr(os, name)
    # So that all of them are there before the first write fails.
    together = threading.Barrier(len(news))

    def fails(*arguments, **options):
        raise failure

    def seal(one):
        together.wait(timeout=30)
        try:
            store.seal(one)
        except BaseException as exc:  # noqa: BLE001 - looked at below
            return exc
        return None

    with monkeypatch.context() as patch:
        patch.setattr(os, name, fails)
        pool = concurrent.futures.ThreadPoolExecutor(len(news))
        try:
            errors = [future.result(timeout=30) for future in [pool.submit(seal, one) for one in news]]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    assert getattr(os, name) is real
    return errors


@pytest.mark.parametrize("name", ["write", "rename", "fsync"])
def test_a_write_that_fails_fails_for_every_key_in_it_and_leaves_nothing_half(
    store, make_store, new_member, monkeypatch, name
):
    prove(store)
    first = new_member("first@x.example")
    path = store.seal(first)
    before = read(path)
    news = [new_member(f"m{number}@x.example", f"K004{number}") for number in range(16)]
    errors = with_a_failure(store, news, monkeypatch, name, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert all(isinstance(error, StoreError) and "No space left" in str(error) for error in errors)
    # Each its own: they are raised in threads of their own, and said more about there.
    assert len({id(error) for error in errors}) == 16
    assert read(path) == before and os.listdir(os.path.dirname(path)) == ["b2_vault.yml"]
    assert set(store.stored()) == {"first@x.example"} and secret_of(store, "m0@x.example") == ("", "")
    seal_all(store, news)
    assert len(make_store().stored()) == 17


def test_whatever_happens_to_the_one_that_writes_nobody_hangs(store, make_store, new_member, monkeypatch):
    prove(store)
    news = [new_member(f"m{number}@x.example", f"K004{number}") for number in range(16)]
    errors = with_a_failure(store, news, monkeypatch, "mkdir", MemoryError())
    assert all(isinstance(error, (StoreError, MemoryError)) for error in errors)
    assert make_store().stored() == {}
    errors = with_a_failure(store, news, monkeypatch, "mkdir", KeyboardInterrupt())
    assert all(isinstance(error, (StoreError, KeyboardInterrupt)) for error in errors)
    seal_all(store, news)
    assert len(make_store().stored()) == 16


def test_one_that_must_not_be_written_does_not_keep_the_others(store, make_store, new_member):
    prove(store)
    store.seal(new_member())
    assert "not replaced" in str(
        store.seal_all([new_member(key="K004another"), new_member(BOB), new_member("Upper@x.example")])[ALICE]
    )
    assert set(make_store().stored()) == {ALICE, BOB}


def test_many_keys_are_opened_by_one_decryption(store, make_store, new_member, decrypted):
    news = {f"m{number}@x.example": new_member(f"m{number}@x.example", f"K004{number}") for number in range(20)}
    prove(store)
    assert store.seal_all(news.values()) == {}
    decrypted.clear()
    one = make_store()
    one.prove(list(news), write=False)
    # The proof of the vault secret decrypts a probe.
    assert len(decrypted) == 2
    assert len(one.stored()) == 20
    assert {email: one.read(email) for email in news} == news
    one.seal(new_member("last@x.example"))
    assert len(decrypted) == 2


# What a killed run leaves


def leave(store, make_store, new_member, *emails, name=TEMPORARY):
    """Leave a whole file with more keys, as a run does that is killed before it gives it its name."""
    path = store.file(ALICE)
    kept = read(path)
    for email in emails:
        make_store().seal(new_member(email, f"K004{email}"))
    os.rename(path, beside(path, name))
    write(path, kept)


def test_a_temporary_file_is_kept_until_all_its_keys_are_recovered(store, make_store, new_member):
    prove(store)
    store.seal(new_member("old@x.example"))
    leave(store, make_store, new_member, ALICE, BOB)
    assert list(make_store().leftover()) == [ALICE, BOB]
    one = make_store()
    assert one.recover(ALICE, ACCOUNT, write=False).account_id == ACCOUNT
    assert set(one.stored()) == {"old@x.example"} and os.path.exists(beside(store.file(ALICE), TEMPORARY))
    found = one.recover(ALICE, ACCOUNT, write=True)
    assert (found.account_id, found.path) == (ACCOUNT, store.file(ALICE))
    assert secret_of(make_store(), ALICE)[1] == f"K004{ALICE}"
    # Bob's is in there still.
    assert os.path.exists(beside(store.file(ALICE), TEMPORARY))
    assert one.recover("old@x.example", ACCOUNT, write=True) is None
    assert one.recover(BOB, ACCOUNT, write=True)
    assert os.listdir(os.path.dirname(store.file(ALICE))) == ["b2_vault.yml"]
    assert set(make_store().stored()) == {"old@x.example", ALICE, BOB}
    assert one.recover(BOB, ACCOUNT, write=True) is None


# Keys that leave


def test_the_removal_of_a_key_is_synced(store, new_member, monkeypatch):
    prove(store)
    for email in (ALICE, BOB):
        store.seal(new_member(email))
    fsync, synced = os.fsync, []
    monkeypatch.setattr(os, "fsync", lambda fd: (fsync(fd), synced.append(os.fstat(fd).st_ino)))
    folder = os.stat(os.path.dirname(store.file(ALICE))).st_ino
    # The first removal replaces the file, the second one removes it.
    for email in (ALICE, BOB):
        synced.clear()
        assert store.remove({email: store.keys()[email]}) == {email}
        assert synced[-1] == folder


def test_keys_are_removed_only_as_they_are(store, make_store, new_member):
    prove(store)
    for email in (ALICE, BOB):
        store.seal(new_member(email))
    taken = store.keys()
    changed = {BOB: dataclasses.replace(taken[BOB], region="other"), "nobody@x.example": taken[BOB]}
    with untouched(store.path):
        assert make_store().remove(changed) == set()
    assert store.remove({**changed, ALICE: taken[ALICE]}) == {ALICE}
    assert make_store().keys() == {BOB: taken[BOB]}
    assert store.remove({BOB: taken[BOB]}) == {BOB}
    assert os.listdir(store.path) == []
    # No other writer has removed them, so that they are not put back.
    store.remember()
    assert os.listdir(store.path) == []
    store.seal(new_member())
    assert make_store().keys() == {ALICE: taken[ALICE]}
