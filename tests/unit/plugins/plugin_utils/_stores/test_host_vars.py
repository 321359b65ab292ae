# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where keys live: on a real file system, with real vault secrets."""

from __future__ import annotations

import dataclasses
import os
import re
import resource
import signal
import stat

import pytest
from ansible.parsing.vault import VaultSecret

from ansible_collections.community.backblaze.plugins.module_utils._errors import StoreError
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.fallback import FallbackStore
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.host_vars import HostVarsStore
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.key_file import key_text
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.sealer import Sealer
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.store import secret_of

ALICE = "alice@x.example"
ACCOUNT = "5f2a1c0b3d4e"
GROUP = "100001"


def prove(store, *emails, write=True):
    """All that is shown before the first key is made."""
    store.prove(emails or (ALICE,), write=write)
    store.prove_room(1)
    if write:
        store.prove_writing()


def files_below(path):
    return sorted(
        os.path.relpath(os.path.join(where, name), path) for where, _dirs, names in os.walk(path) for name in names
    )


def in_child(work):
    """Run ``work`` in a process of its own; return its last words and its exit status."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        try:
            os.write(writing, str(work()).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        words = pipe.read()
    return words, os.waitpid(child, 0)[1]


def test_a_key_comes_back_as_it_was_sealed(store, new_member):
    prove(store)
    new = new_member()
    path = store.seal(new)
    assert path == os.path.join(store.path, ALICE, "b2_vault.yml")
    assert store.read(ALICE).key == new.key
    found = store.stored()[ALICE]
    assert (found.account_id, found.key_id, found.path) == ("5f2a1c0b3d4e", new.key_id, path)
    assert new.key not in repr(found)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(os.path.dirname(path)).st_mode) == 0o700
    with open(path, "rb") as file:
        assert new.key.encode() not in file.read()
    assert files_below(store.path) == [f"{ALICE}/b2_vault.yml"]


def test_nothing_is_stored_where_nothing_is(store):
    assert store.stored() == {}
    assert store.read(ALICE) is None


def test_an_existing_file_is_never_replaced(store, new_member):
    prove(store)
    path = store.seal(new_member())
    with open(path, "rb") as file:
        before = file.read()
    with pytest.raises(StoreError, match="not replaced"):
        store.seal(new_member(key="K004another"))
    with open(path, "rb") as file:
        assert file.read() == before


def test_a_vault_directory_that_is_gone_is_not_made_anew(store, new_member):
    """The journal went with it; a key in a new one would belong to no run."""
    prove(store)
    os.rmdir(store.path)
    with pytest.raises(StoreError, match="cannot be written"):
        store.seal(new_member())
    assert not os.path.exists(store.path)


def test_the_same_key_sealed_twice_is_written_once_but_for_what_more_is_known(store, new_member):
    prove(store)
    path = store.seal(new_member())
    before = os.stat(path)
    assert store.seal(new_member(region="us-east")) == path
    assert (os.stat(path).st_ino, os.stat(path).st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert store.seal(new_member(region="us-east"), again=True) == path
    assert store.read(ALICE).region == "us-east"
    with pytest.raises(StoreError, match="not replaced"):
        store.seal(new_member(key="K004another"), again=True)
    assert store.read(ALICE).key == new_member().key


def test_a_part_of_a_key_gives_way_to_a_whole_one(store, new_member):
    prove(store)
    store.seal(dataclasses.replace(new_member(), key_id=""))
    assert store.stored()[ALICE].key_id == ""
    whole = new_member(key="K004another")
    store.seal(whole)
    assert secret_of(store, ALICE) == (whole.key_id, whole.key)


def test_the_proof_leaves_nothing_behind_and_in_check_mode_makes_nothing(store):
    prove(store, write=False)
    assert not os.path.exists(store.path)
    prove(store)
    assert os.listdir(store.path) == []


def test_symlinks_are_refused_on_every_level(store, new_member, tmp_path):
    remote_copy = tmp_path / "elsewhere"
    remote_copy.mkdir()
    os.symlink(remote_copy, store.path)
    with pytest.raises(StoreError, match="symlink"):
        prove(store)
    with pytest.raises(StoreError):
        store.seal(new_member())
    os.unlink(store.path)
    os.mkdir(store.path)
    os.symlink(remote_copy, os.path.join(store.path, ALICE))
    with pytest.raises(StoreError, match="symlink"):
        prove(store)
    with pytest.raises(StoreError, match="symlink"):
        store.seal(new_member())
    os.unlink(os.path.join(store.path, ALICE))
    os.mkdir(os.path.join(store.path, ALICE))
    os.symlink(remote_copy / "file", os.path.join(store.path, ALICE, "b2_vault.yml"))
    with pytest.raises(StoreError, match="symlink"):
        prove(store)
    with pytest.raises(StoreError):
        store.seal(new_member())
    assert os.listdir(remote_copy) == []


def test_a_symlink_with_a_slash_behind_it_is_one_too(tmp_path, secrets):
    (tmp_path / "elsewhere").mkdir()
    os.symlink(tmp_path / "elsewhere", tmp_path / "host_vars")
    with pytest.raises(StoreError, match="symlink"):
        prove(HostVarsStore(f"{tmp_path}/host_vars/", Sealer(secrets)))


def test_a_symlinked_file_is_not_read(store, new_member, tmp_path):
    prove(store)
    os.rename(store.seal(new_member()), tmp_path / "key")
    os.symlink(tmp_path / "key", store.file(ALICE))
    with pytest.raises(StoreError):
        store.read(ALICE)


@pytest.mark.parametrize("what", ["file", "fifo"])
def test_what_is_neither_a_directory_nor_a_file_is_refused(store, what):
    os.makedirs(os.path.join(store.path, ALICE))
    location = os.path.join(store.path, ALICE, "b2_vault.yml")
    if what == "fifo":
        os.mkfifo(location)
    else:
        os.rmdir(os.path.join(store.path, ALICE))
        location = os.path.join(store.path, ALICE)
        with open(location, "wb"):
            pass
    with pytest.raises(StoreError, match="is not a"):
        prove(store)


@pytest.mark.parametrize("extension", [".yml", ".yaml", ".json"])
def test_a_file_of_variables_is_not_switched_off(store, new_member, extension, monkeypatch):
    """Beside a directory of its name Ansible does not load it."""
    os.mkdir(store.path)
    for name in (ALICE, "bob@x.example", "old@x.example"):
        with open(f"{store.path}/{name}{extension}", "wb"):
            pass
    os.mkdir(f"{store.path}/old@x.example")
    many = [f"m{number}@x.example" for number in range(5000)]
    listed = []
    listdir = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: listed.append(path) or listdir(path))
    with pytest.raises(StoreError) as refused:
        store.prove_nothing_switched_off([*many, ALICE, "bob@x.example", "old@x.example"])
    assert f"the variables in {ALICE}{extension} beside it, and 1 more such files" in str(refused.value)
    assert f"In {store.path}: mkdir {ALICE} && mv {ALICE}{extension} {ALICE}/vars{extension}" in str(refused.value)
    assert len(listed) == 1
    store.prove_nothing_switched_off(["old@x.example", "new@x.example"])
    # As the message says.
    os.mkdir(f"{store.path}/{ALICE}")
    os.rename(f"{store.path}/{ALICE}{extension}", f"{store.path}/{ALICE}/vars{extension}")
    store.prove_nothing_switched_off([ALICE])
    prove(store)
    store.seal(new_member())


def test_a_place_that_is_a_file(tmp_path, secrets):
    (tmp_path / "plain").write_text("x")
    for path in (tmp_path / "plain", tmp_path / "plain" / "below"):
        for write in (True, False):
            with pytest.raises(StoreError):
                prove(HostVarsStore(str(path), Sealer(secrets)), write=write)


def test_no_room_is_found_before_anything_is_made(store):
    with pytest.raises(StoreError, match="no room"):
        store.prove_room(10**12)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"b2_application_key: plain\n", "not an Ansible Vault file"),
        (b"", "not an Ansible Vault file"),
        (b"$ANSIBLE_VAULT;1.1;AES256\n00\n", "does not decrypt"),
    ],
)
def test_a_file_that_is_no_key_of_ours_stops_everything(store, content, message):
    os.makedirs(os.path.join(store.path, ALICE))
    with open(store.file(ALICE), "wb") as file:
        file.write(content)
    with pytest.raises(StoreError, match=message) as failed:
        store.stored()
    assert store.file(ALICE) in str(failed.value)


def test_a_key_under_another_password_or_address_stops_everything(store, new_member, secrets):
    prove(store)
    HostVarsStore(store.path, Sealer([("default", VaultSecret(b"another"))])).seal(new_member())
    with pytest.raises(StoreError, match="does not decrypt"):
        store.stored()
    os.unlink(store.file(ALICE))
    with open(store.file(ALICE), "wb") as file:
        file.write(Sealer(secrets).seal(key_text(new_member("bob@x.example"))))
    with pytest.raises(StoreError, match="another address"):
        store.stored()


def test_an_unsafe_name_gets_nowhere(store, new_member):
    for email in ("../evil@x.example", "a/b@x.example", ".hidden@x.example", ""):
        with pytest.raises(StoreError):
            store.seal(new_member(email))
    assert not os.path.exists(store.path)


# What a killed run leaves


def leave_temporary(store, sealed, name=".b2_vault.yml.0123456789ab.tmp"):
    os.makedirs(os.path.join(store.path, ALICE), exist_ok=True)
    with open(os.path.join(store.path, ALICE, name), "wb") as file:
        file.write(sealed)


def test_a_key_that_was_written_but_not_renamed_comes_home(store, new_member, secrets, monkeypatch):
    leave_temporary(store, Sealer(secrets).seal(key_text(new_member())))
    synced, fsync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(fd), fsync(fd)))
    assert store.recover(ALICE, ACCOUNT, write=False).account_id == "5f2a1c0b3d4e"
    assert store.read(ALICE) is None
    assert store.recover(ALICE, ACCOUNT, write=True).account_id == "5f2a1c0b3d4e"
    assert store.read(ALICE).key == new_member().key
    # Written anew, so that it is synced as every key is.
    assert len(synced) >= 3
    assert files_below(store.path) == [f"{ALICE}/b2_vault.yml"]
    assert store.recover(ALICE, ACCOUNT, write=True) is None


def test_what_is_torn_or_foreign_is_left_alone(store, new_member, secrets, tmp_path):
    sealed = Sealer(secrets).seal(key_text(new_member()))
    leave_temporary(store, sealed[: len(sealed) // 2], ".b2_vault.yml.a.tmp")
    leave_temporary(
        store, Sealer([("default", VaultSecret(b"another"))]).seal(key_text(new_member())), ".b2_vault.yml.b.tmp"
    )
    leave_temporary(store, Sealer(secrets).seal(key_text(new_member("bob@x.example"))), ".b2_vault.yml.c.tmp")
    before = {name: (tmp_path / "host_vars" / name).read_bytes() for name in files_below(store.path)}
    for write in (False, True):
        left = store.recover(ALICE, ACCOUNT, write=write)
        # It is named, for it may be the key.
        assert (left.key_id, left.path) == ("", f"{store.path}/{ALICE}/.b2_vault.yml.a.tmp")
    assert {name: (tmp_path / "host_vars" / name).read_bytes() for name in files_below(store.path)} == before
    for name in before:
        (tmp_path / "host_vars" / name).unlink()
    leave_temporary(store, Sealer(secrets).seal(key_text(new_member(account_id="ffffffffffff"))), ".b2_vault.yml.d.tmp")
    assert store.recover(ALICE, ACCOUNT, write=True) is None
    assert store.recover("nobody@x.example", ACCOUNT, write=True) is None


def test_a_key_in_the_fallback_place_moves_home_and_replaces_nothing(store, new_member, secrets, tmp_path):
    prove(store)
    fallback = FallbackStore(str(tmp_path / "fallback"), Sealer(secrets))
    path = fallback.seal(new_member())
    ((found, key),) = fallback.found()
    assert found == path
    store.seal(key)
    assert store.read(ALICE).key == new_member().key
    fallback.seal(new_member(key="K004another"))
    (another,) = [key for _path, key in fallback.found() if key.key == "K004another"]
    with pytest.raises(StoreError, match="not replaced"):
        store.seal(another)
    assert store.read(ALICE).key == new_member().key
    assert len(list(fallback.found())) == 2


# The fallback place


@pytest.fixture
def fallback(tmp_path, secrets):
    return FallbackStore(str(tmp_path / "below" / "fallback"), Sealer(secrets))


def test_every_key_in_the_fallback_place_has_a_file_of_its_own(fallback, new_member):
    assert fallback.unfit() == ""
    assert not os.path.exists(fallback.path)
    assert list(fallback.found()) == []
    made = {fallback.seal(new_member(key=key)): key for key in ("K004one", "K004two", "K004two")}
    assert len(made) == 3
    for path in made:
        assert re.fullmatch(r"5f2a1c0b3d4e-[0-9a-f]{12}[.]b2_vault[.]yml", os.path.relpath(path, fallback.path))
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(fallback.path).st_mode) == 0o700
    assert {path: key.key for path, key in fallback.found()} == made
    assert {key.email for _path, key in fallback.found()} == {ALICE}
    assert sorted(files_below(fallback.path)) == sorted(os.path.basename(path) for path in made)


def test_a_key_in_the_fallback_place_that_has_not_got_its_name_yet_is_found(fallback, new_member):
    """A run was killed just before it had; half a file is no key."""
    path = fallback.seal(new_member())
    directory, name = os.path.split(path)
    with open(path, "rb") as file:
        sealed = file.read()
    os.rename(path, os.path.join(directory, f".{name}.0123456789ab.tmp"))
    with open(os.path.join(directory, f".{name}.ba9876543210.tmp"), "wb") as file:
        file.write(sealed[: len(sealed) // 2])
    ((found, key),) = fallback.found()
    assert (os.path.basename(found), key.key) == (f".{name}.0123456789ab.tmp", new_member().key)


@pytest.mark.parametrize("account", ["../../evil", "", "a/b", ".", "5f2a\n"])
def test_what_the_service_calls_an_account_is_no_path(fallback, new_member, account):
    path = fallback.seal(new_member(account_id=account))
    assert re.fullmatch(r"unknown-[0-9a-f]{12}[.]b2_vault[.]yml", os.path.relpath(path, fallback.path))
    assert [key.account_id for _path, key in fallback.found()] == [account]


def test_what_others_left_in_the_fallback_place_is_not_touched(fallback, new_member, tmp_path):
    path = fallback.seal(new_member())
    FallbackStore(fallback.path, Sealer([("default", VaultSecret(b"another"))])).seal(new_member())
    with open(os.path.join(fallback.path, "notes.b2_vault.yml"), "wb") as file:
        file.write(b"plain\n")
    os.symlink(path, os.path.join(fallback.path, "0-link.b2_vault.yml"))
    os.mkfifo(os.path.join(fallback.path, "0-pipe.b2_vault.yml"))
    # Who else's they are cannot be seen, but that they are no keys of this run.
    assert [found for found, key in fallback.found() if key] == [path]
    assert len(list(fallback.found())) == 5
    assert len(os.listdir(fallback.path)) == 5


def test_a_fallback_place_that_cannot_be_is_told(secrets, new_member, tmp_path):
    (tmp_path / "plain").write_text("x")
    (tmp_path / "elsewhere").mkdir()
    os.symlink(tmp_path / "elsewhere", tmp_path / "link")
    for path in (tmp_path / "plain", tmp_path / "plain" / "below", tmp_path / "link"):
        fallback = FallbackStore(f"{path}/", Sealer(secrets))
        assert str(path) in fallback.unfit()
        with pytest.raises(StoreError):
            fallback.seal(new_member())
        assert list(fallback.found()) == []
    assert os.listdir(tmp_path / "elsewhere") == []


# A full disk


def with_a_full_disk(work, size=512):
    """Do ``work`` in a process whose files can grow no further than ``size`` bytes."""

    def limited():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        try:
            return work()
        except StoreError as exc:
            return f"StoreError {exc}"

    words, status = in_child(limited)
    assert status == 0
    return words


def test_a_full_disk_leaves_no_half_file(store, new_member):
    prove(store)
    assert "StoreError" in with_a_full_disk(lambda: store.seal(new_member()))
    assert files_below(store.path) == []
    path = store.seal(new_member())
    with open(path, "rb") as file:
        before = file.read()
    assert "StoreError" in with_a_full_disk(lambda: store.seal(new_member(region="us-east"), again=True))
    with open(path, "rb") as file:
        assert file.read() == before
    assert files_below(store.path) == [f"{ALICE}/b2_vault.yml"]


def test_a_full_disk_is_found_by_the_proof_which_leaves_nothing(store):
    os.mkdir(store.path)
    assert "StoreError" in with_a_full_disk(lambda: prove(store), size=100)
    assert files_below(store.path) == []


def test_a_run_killed_in_the_middle_of_the_proof_does_not_block_the_next_one(store):
    os.mkdir(store.path)
    with open(os.path.join(store.path, ".probe.0123456789ab.tmp"), "wb") as file:
        file.write(b"half")
    prove(store)


# One run at a time


def test_a_second_process_is_told_who_holds_the_lock(store):
    prove(store)

    def second():
        try:
            with store.locked(GROUP, 0.0, lambda seconds: None):
                return "had the lock"
        except StoreError as exc:
            return exc

    with store.locked(GROUP, 0.0, lambda seconds: None):
        words, _status = in_child(second)
    assert f"process {os.getpid()} on {os.uname().nodename}" in words
    assert "vault_lock_timeout" in words
    assert in_child(second)[0] == "had the lock"


def test_a_lock_of_a_dead_process_holds_nobody(store):
    prove(store)

    def killed():
        with store.locked(GROUP, 0.0, lambda seconds: None):
            os.kill(os.getpid(), signal.SIGKILL)

    assert os.WTERMSIG(in_child(killed)[1]) == signal.SIGKILL
    with store.locked(GROUP, 0.0, lambda seconds: None):
        pass


def test_a_waiting_process_gets_the_lock_in_the_end(store):
    prove(store)
    held = store.locked(GROUP, 0.0, lambda seconds: None)
    held.__enter__()
    waits = []

    def wait(seconds):
        waits.append(seconds)
        if len(waits) == 3:
            held.__exit__(None, None, None)

    with store.locked(GROUP, 60.0, wait):
        assert len(waits) == 3


def test_a_symlinked_lock_is_not_followed(store, tmp_path):
    prove(store)
    os.makedirs(store.state_path(GROUP))
    os.symlink(tmp_path / "victim", os.path.join(store.state_path(GROUP), "lock"))
    with pytest.raises(StoreError), store.locked(GROUP, 0.0, lambda seconds: None):
        pass
    assert not (tmp_path / "victim").exists()


def test_errors_of_the_work_under_the_lock_are_not_blamed_on_the_lock(store):
    prove(store)
    with pytest.raises(OSError, match="the caller's own"), store.locked(GROUP, 0.0, lambda seconds: None):
        raise OSError("the caller's own")
