# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""All keys of a Group in one vault file: on a real file system, with real vault secrets, and many threads at once."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import errno
import os
import stat
import threading

import pytest
import yaml
from ansible.parsing.vault import VaultLib, VaultSecret

from ansible_collections.community.backblaze.plugins.module_utils import _files
from ansible_collections.community.backblaze.plugins.module_utils._errors import StoreError
from ansible_collections.community.backblaze.plugins.plugin_utils._stores import group_vars
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.group_vars import GroupVarsStore
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.host_vars import HostVarsStore
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.key_file import group_text
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.sealer import Sealer
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.store import secret_of

ALICE = "alice@x.example"
BOB = "bob@x.example"
ACCOUNT = "5f2a1c0b3d4e"
GROUP = "100001"
FOLDER = f"b2_group_{GROUP}"
TEMPORARY = ".b2_vault.yml.0123456789ab.tmp"


@pytest.fixture
def make_store(tmp_path, secrets):
    """A factory of stores of one file, each with a memory of its own."""
    return lambda group=GROUP: GroupVarsStore(str(tmp_path / "vault"), Sealer(secrets), group)


@pytest.fixture
def store(make_store):
    return make_store()


@pytest.fixture
def vault(secrets):
    return VaultLib(secrets)


@pytest.fixture
def writes(monkeypatch):
    """The names of all files that are put in their place."""
    names = []
    replace = _files.replace

    def counted(directory, name, *rest):
        names.append(name)
        return replace(directory, name, *rest)

    monkeypatch.setattr(group_vars, "replace", counted)
    return names


def prove(store, *emails, write=True):
    store.prove(emails or (ALICE,), write=write)
    store.prove_room(1)
    if write:
        store.prove_writing()


def unproven(store, name):
    return os.path.join(os.path.dirname(store.file(ALICE)), name)


def read(path):
    with open(path, "rb") as file:
        return file.read()


def write(path, content):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(content)


def test_keys_come_back_as_they_were_sealed(store, make_store, new_member, vault):
    prove(store)
    alice, bob = new_member(), new_member(BOB, "K004bob")
    path = store.seal(alice)
    assert path == store.seal(bob) == store.file(BOB) == os.path.join(store.path, FOLDER, "b2_vault.yml")
    for one in (store, make_store()):
        assert one.read(ALICE) == alice
        assert secret_of(one, BOB) == (bob.key_id, "K004bob")
        assert one.read("nobody@x.example") is None and secret_of(one, "nobody@x.example") == ("", "")
        found = one.stored()
        assert list(found) == [ALICE, BOB]
        assert (found[ALICE].account_id, found[ALICE].key_id, found[ALICE].path, found[ALICE].group_id) == (
            ACCOUNT,
            alice.key_id,
            path,
            GROUP,
        )
        assert alice.key not in repr(found)
    # The address stands before the variables, and is not among them.
    entries = yaml.safe_load(vault.decrypt(read(path)))["b2_member_keys"]
    assert list(entries) == [ALICE, BOB]
    assert entries[ALICE] == {
        "b2_application_key_id": alice.key_id,
        "b2_application_key": alice.key,
        "b2_account_id": ACCOUNT,
        "b2_group_id": GROUP,
        "b2_region": "us-west",
        "b2_s3_endpoint": "",
    }
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(os.path.dirname(path)).st_mode) == 0o700
    assert b"K004" not in read(path)
    assert os.listdir(os.path.dirname(path)) == ["b2_vault.yml"]


def test_each_group_has_a_file_of_its_own_whatever_its_id(make_store, new_member):
    stores = [make_store(group) for group in ("100001", "../../etc", "a b", "x" * 300)]
    prove(stores[0])
    for number, one in enumerate(stores):
        one.seal(new_member(f"m{number}@x.example", group_id="any"))
    assert len(os.listdir(stores[0].path)) == 4
    assert [list(one.stored()) for one in stores] == [[f"m{number}@x.example"] for number in range(4)]


def test_nothing_is_stored_where_nothing_is(store):
    assert store.stored() == {}
    assert store.read(ALICE) is None
    assert store.recover(ALICE, ACCOUNT, write=True) is None
    prove(store, write=False)
    assert not os.path.exists(store.path)
    prove(store)
    assert os.listdir(store.path) == []


def test_another_key_is_never_replaced(store, make_store, new_member):
    prove(store)
    path = store.seal(new_member())
    before = read(path)
    for one in (store, make_store()):
        for again in (False, True):
            with pytest.raises(StoreError, match="not replaced"):
                one.seal(new_member(key="K004another"), again=again)
    assert read(path) == before


def test_the_same_key_sealed_twice_is_written_once_but_for_what_more_is_known(store, make_store, new_member):
    prove(store)
    path = store.seal(new_member())
    store.seal(new_member(BOB))
    before = os.stat(path)
    for one in (store, make_store()):
        one.seal(new_member(region="us-east"))
        one.seal(new_member(), again=True)
    assert (os.stat(path).st_ino, os.stat(path).st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    store.seal(new_member(region="us-east"), again=True)
    make_store().seal(new_member(BOB, region="us-west-2"), again=True)
    assert [store.stored() and store.read(email).region for email in (ALICE, BOB)] == ["us-east", "us-west-2"]


def test_a_part_of_a_key_gives_way_to_a_whole_one(store, make_store, new_member):
    prove(store)
    for one in (store, make_store()):
        one.seal(dataclasses.replace(new_member(f"{id(one)}@x.example"), key_id=""))
        assert one.stored()[f"{id(one)}@x.example"].key_id == ""
        whole = new_member(f"{id(one)}@x.example", key="K004another")
        one.seal(whole)
        assert secret_of(one, whole.email) == (whole.key_id, whole.key)


def test_an_unsafe_name_gets_nowhere(store, new_member):
    prove(store)
    for email in ("../evil@x.example", "a/b@x.example", ".hidden@x.example", "", "Alice@x.example"):
        with pytest.raises(StoreError):
            store.seal(new_member(email))
    assert store.stored() == {}


def test_a_vault_directory_that_is_gone_is_not_made_anew(store, new_member):
    prove(store)
    os.rmdir(store.path)
    with pytest.raises(StoreError, match="cannot be written"):
        store.seal(new_member())
    assert not os.path.exists(store.path)


# The file is ours alone


@pytest.mark.parametrize(
    "more",
    [
        b"region: us\n",
        b"# a comment\n",
        b"  bob@x.example: {b2_application_key: k}\n",
        b"  bob@x.example: {b2_application_key: k, b2_email: bob@x.example}\n",
        b'  "bob@x.example": \n',
        b"---\nregion: us\n",
    ],
)
def test_a_file_with_anything_else_is_refused_untouched(store, make_store, new_member, secrets, vault, more):
    prove(store)
    path = store.seal(new_member())
    write(path, Sealer(secrets).seal(vault.decrypt(read(path)) + more))
    before = read(path)
    one = make_store()
    for work in (
        one.stored,
        lambda: one.seal(new_member(BOB)),
        lambda: prove(one),
        lambda: store.seal(new_member(BOB)),
    ):
        with pytest.raises(StoreError, match="The file was not changed") as refused:
            work()
        assert path in str(refused.value) and "vars.yml" in refused.value.remedy
    assert read(path) == before


def test_blanks_of_an_editor_do_not_matter(store, make_store, new_member, secrets, vault):
    prove(store)
    path = store.seal(new_member())
    write(path, Sealer(secrets).seal(vault.decrypt(read(path)).replace(b"\n", b"\r\n") + b"\n\n"))
    before = read(path)
    assert make_store().read(ALICE) == new_member()
    assert read(path) == before
    make_store().seal(new_member(BOB))
    assert set(make_store().stored()) == {ALICE, BOB}


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


def test_a_file_that_a_human_has_changed_is_read_again(store, new_member, secrets, vault):
    prove(store)
    path = store.seal(new_member())
    write(path, Sealer(secrets).seal(vault.decrypt(read(path)).replace(b"us-west", b"us-hand")))
    store.seal(new_member(BOB))
    assert store.read(ALICE).region == "us-hand" and BOB in store.stored()
    os.unlink(path)
    assert store.stored() == {}


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


@pytest.mark.parametrize(
    "content, message",
    [
        (b"b2_member_keys: {}\n", "not an Ansible Vault file"),
        (b"", "not an Ansible Vault file"),
        (b"$ANSIBLE_VAULT;1.1;AES256\n00\n", "does not decrypt"),
        (b"$ANSIBLE_VAULT", "not decrypt|not an Ansible Vault file"),
        ("- 1\n", "something else"),
        ("b2_member_keys: 1\n", "something else"),
        ("b2_member_keys:\n  alice@x.example: 1\n", "something else"),
        ("b2_member_keys:\n  ../x@x.example: {}\n", "something else"),
    ],
)
def test_an_invalid_file_stops_everything(store, secrets, content, message):
    write(store.file(ALICE), Sealer(secrets).seal(content.encode()) if isinstance(content, str) else content)
    for look in (store.stored, lambda: store.read(ALICE), lambda: prove(store), lambda: prove(store, write=False)):
        with pytest.raises(StoreError, match=message) as failed:
            look()
        assert store.file(ALICE) in str(failed.value) and failed.value.remedy


def test_a_file_under_another_password_stops_everything(store, new_member):
    prove(store)
    GroupVarsStore(store.path, Sealer([("default", VaultSecret(b"another"))]), GROUP).seal(new_member())
    with pytest.raises(StoreError, match="does not decrypt"):
        store.stored()


def test_symlinks_are_refused_on_every_level(store, new_member, tmp_path):
    remote_copy = tmp_path / "elsewhere"
    remote_copy.mkdir()
    folder = os.path.dirname(store.file(ALICE))
    for link, what in (
        (store.path, remote_copy),
        (folder, remote_copy),
        (store.file(ALICE), remote_copy / "file"),
    ):
        os.symlink(what, link)
        with pytest.raises(StoreError, match="symlink"):
            prove(store)
        with pytest.raises(StoreError, match="symlink"):
            store.seal(new_member())
        os.unlink(link)
        if link != store.file(ALICE):
            os.mkdir(link)
    assert os.listdir(remote_copy) == []


@pytest.mark.parametrize("what", ["file", "fifo", "directory"])
def test_what_is_neither_a_directory_nor_a_file_is_refused(store, what):
    location = store.file(ALICE)
    os.makedirs(os.path.dirname(location))
    if what == "fifo":
        os.mkfifo(location)
    elif what == "directory":
        os.mkdir(location)
    else:
        os.rmdir(os.path.dirname(location))
        write(os.path.dirname(location), b"")
    with pytest.raises(StoreError, match="is not a"):
        prove(store)


def test_keys_in_the_other_layout_are_not_taken_for_missing(store, new_member, secrets):
    prove(store)
    HostVarsStore(store.path, Sealer(secrets)).seal(new_member())
    prove(store, BOB)
    for write_ in (True, False):
        with pytest.raises(StoreError, match=r"layout host_vars.*b2_vault_layout") as failed:
            prove(store, BOB, ALICE, write=write_)
        assert ALICE in str(failed.value)
    # As a move leaves it that was killed: the key is here.
    store.seal(new_member())
    prove(store, ALICE)
    # And what a killed run left there is a key as well.
    os.rename(os.path.join(store.path, ALICE), os.path.join(store.path, BOB))
    os.rename(os.path.join(store.path, BOB, "b2_vault.yml"), os.path.join(store.path, BOB, TEMPORARY))
    with pytest.raises(StoreError, match="layout host_vars"):
        prove(store, BOB)


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


def test_keys_that_arrive_together_share_a_write(store, make_store, new_member, writes, monkeypatch):
    prove(store)
    syncs = []
    fsync = os.fsync

    def counted(fd):
        syncs.append(fd)
        fsync(fd)

    monkeypatch.setattr(os, "fsync", counted)
    news = [new_member(f"m{number}@x.example", f"K004{number}") for number in range(64)]
    assert set(seal_all(store, news)) == {store.file(ALICE)}
    assert len(writes) <= 16
    assert len(syncs) == 3 * len(writes)
    assert {email: secret_of(make_store(), email)[1] for email in make_store().stored()} == {
        one.email: one.key for one in news
    }
    assert os.listdir(os.path.dirname(store.file(ALICE))) == ["b2_vault.yml"]


def test_a_key_is_on_disk_when_seal_returns(store, make_store, new_member):
    prove(store)

    def seal(number):
        one = new_member(f"m{number}@x.example", f"K004{number}")
        store.seal(one)
        return secret_of(make_store(), one.email) == (one.key_id, one.key)

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert all(pool.map(seal, range(40)))


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


def test_a_write_whose_directory_was_not_synced_is_synced_by_the_next_try(
    store, make_store, new_member, monkeypatch, writes
):
    prove(store)
    store.seal(new_member("first@x.example"))
    fsync = os.fsync

    def fails_for_directories(fd):
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(errno.EIO, "no")
        fsync(fd)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fails_for_directories)
        with pytest.raises(StoreError):
            store.seal(new_member())
    writes.clear()
    store.seal(new_member())
    assert writes == []
    assert set(make_store().stored()) == {"first@x.example", ALICE}


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


def test_five_thousand_keys_are_opened_by_one_decryption(store, make_store, new_member, decrypted):
    prove(store)
    emails = [f"m{number}@x.example" for number in range(5000)]
    assert store.seal_all(new_member(email, f"K004{email}") for email in emails) == {}
    decrypted.clear()
    one = make_store()
    one.prove(emails, write=False)
    # The proof of the vault secret decrypts a probe.
    assert len(decrypted) == 2
    assert len(one.stored()) == 5000
    assert all(secret_of(one, email)[1] == f"K004{email}" for email in emails)
    one.seal(new_member("last@x.example"))
    assert len(decrypted) == 2


# What a killed run leaves


def leave(store, make_store, new_member, *emails, name=TEMPORARY):
    """Leave a whole file with more keys, as a run does that is killed before it gives it its name."""
    path = store.file(ALICE)
    kept = read(path) if os.path.exists(path) else None
    for email in emails:
        make_store().seal(new_member(email, f"K004{email}"))
    os.rename(path, unproven(store, name))
    if kept:
        write(path, kept)


def test_keys_that_were_written_but_not_renamed_come_home(store, make_store, new_member):
    prove(store)
    store.seal(new_member("old@x.example"))
    leave(store, make_store, new_member, ALICE, BOB)
    assert list(make_store().leftover()) == [ALICE, BOB]
    one = make_store()
    assert one.recover(ALICE, ACCOUNT, write=False).account_id == ACCOUNT
    assert set(one.stored()) == {"old@x.example"} and os.path.exists(unproven(store, TEMPORARY))
    found = one.recover(ALICE, ACCOUNT, write=True)
    assert (found.account_id, found.path) == (ACCOUNT, store.file(ALICE))
    assert secret_of(make_store(), ALICE)[1] == f"K004{ALICE}"
    # Bob's is in there still.
    assert os.path.exists(unproven(store, TEMPORARY))
    assert one.recover("old@x.example", ACCOUNT, write=True) is None
    assert one.recover(BOB, ACCOUNT, write=True)
    assert os.listdir(os.path.dirname(store.file(ALICE))) == ["b2_vault.yml"]
    assert set(make_store().stored()) == {"old@x.example", ALICE, BOB}
    assert one.recover(BOB, ACCOUNT, write=True) is None


def test_the_first_file_comes_home_as_well(store, make_store, new_member):
    prove(store)
    leave(store, make_store, new_member, ALICE)
    assert store.recover(ALICE, ACCOUNT, write=True)
    assert os.listdir(os.path.dirname(store.file(ALICE))) == ["b2_vault.yml"]
    assert secret_of(make_store(), ALICE)[1] == f"K004{ALICE}"


def test_what_is_torn_foreign_or_of_another_account_is_left_alone(store, make_store, new_member):
    prove(store)
    leave(store, make_store, new_member, ALICE)
    write(unproven(store, ".b2_vault.yml.a.tmp"), read(unproven(store, TEMPORARY))[:500])
    GroupVarsStore(store.path, Sealer([("default", VaultSecret(b"another"))]), GROUP).seal(new_member(BOB))
    os.rename(store.file(ALICE), unproven(store, ".b2_vault.yml.b.tmp"))
    for email, account in ((BOB, ACCOUNT), (ALICE, "ffffffffffff")):
        # It is named, for it may be the key.
        left = store.recover(email, account, write=True)
        assert (left.key_id, left.path) == ("", unproven(store, ".b2_vault.yml.a.tmp"))
    assert len(os.listdir(os.path.dirname(store.file(ALICE)))) == 3
    assert store.recover(ALICE, ACCOUNT, write=True)
    assert sorted(os.listdir(os.path.dirname(store.file(ALICE)))) == [
        ".b2_vault.yml.a.tmp",
        ".b2_vault.yml.b.tmp",
        "b2_vault.yml",
    ]


# What somebody else takes away


@pytest.mark.parametrize("last", [True, False], ids=["at the end of the run", "with the next key"])
def test_a_key_that_an_editor_takes_away_is_put_back(store, make_store, new_member, vault, last):
    """It had the file open before the key came: it saves the old text."""
    prove(store)
    store.seal(new_member("old@x.example"))
    old = vault.decrypt(read(store.file(ALICE)))
    store.seal(new_member())
    # A look at the file is not to hide that it changed.
    write(store.file(ALICE), vault.encrypt(old))
    assert set(store.stored()) == {"old@x.example"}
    if not last:
        store.seal(new_member(BOB))
    store.remember()
    kept = make_store()
    assert set(kept.stored()) == {"old@x.example", ALICE, *([] if last else [BOB])}
    assert secret_of(kept, ALICE)[1] == new_member().key
    store.remember()
    assert set(make_store().stored()) == set(kept.stored())


# Keys that leave


def test_keys_are_taken_out_only_as_they_are(store, make_store, new_member):
    prove(store)
    for email in (ALICE, BOB):
        store.seal(new_member(email))
    taken = store.keys()
    assert make_store().remove(
        {ALICE: taken[ALICE], BOB: dataclasses.replace(taken[BOB], region="other"), "nobody@x.example": taken[BOB]}
    ) == {ALICE}
    assert set(store.stored()) == {BOB}
    assert store.remove({BOB: taken[BOB]}) == {BOB}
    assert os.listdir(store.path) == []
    store.seal(new_member())
    assert set(make_store().stored()) == {ALICE}


def test_two_keys_of_one_address_are_refused_untouched(store, make_store, new_member, secrets, vault):
    """Each of two lines for one address may hold the working key, as after a merge in Git. Neither may be dropped."""
    prove(store)
    path = store.seal(new_member())
    other = group_text([new_member(key="K004other")]).splitlines(keepends=True)[-1]
    write(path, Sealer(secrets).seal(vault.decrypt(read(path)) + other))
    before = read(path)
    for work in (make_store().stored, lambda: make_store().seal(new_member(BOB)), lambda: prove(make_store())):
        with pytest.raises(StoreError, match="The file was not changed"):
            work()
    assert read(path) == before
