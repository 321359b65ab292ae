# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The contract of a store: what holds in both layouts, on a real file system and with real vault secrets."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import errno
import os
import shutil
import socket
import stat

import pytest
from ansible.parsing.vault import VaultSecret

from ansible_collections.community.backblaze.plugins.module_utils._errors import StoreError
from ansible_collections.community.backblaze.plugins.module_utils._plan import Stored
from ansible_collections.community.backblaze.plugins.module_utils._vault_mode import PRIVATE, modes_of
from ansible_collections.community.backblaze.plugins.plugin_utils._locations.location import CONTROLLER, Controller
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.fallback import FallbackStore
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.key_file import key_text
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.layouts import (
    GROUP_VARS,
    HOST_VARS,
    groups_in,
    open_store,
    open_stores,
    stores_to_read,
)
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.sealer import Sealer
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.store import secret_of
from ansible_collections.community.backblaze.tests.utils.vault_files import (
    TEMPORARY,
    beside,
    contents,
    prove,
    read,
    untouched,
    with_a_full_disk,
    write,
)

ALICE = "alice@x.example"
BOB = "bob@x.example"
ACCOUNT = "5f2a1c0b3d4e"
GROUP = "100001"
FILES = {HOST_VARS: f"{ALICE}/b2_vault.yml", GROUP_VARS: f"b2_group_{GROUP}/b2_vault.yml"}
ANOTHER_PASSWORD = [("default", VaultSecret(b"another"))]


class Recorder(Controller):
    """The controller as a location, which notes what the store asks of it."""

    def __init__(self, events):
        super().__init__()
        self.events = events

    def publish(self, *paths):
        self.events.append(("publish", paths))

    def later(self, path):
        self.events.append(("later", path))


@pytest.fixture(params=[HOST_VARS, GROUP_VARS])
def layout(request):
    return request.param


@pytest.fixture
def path(tmp_path):
    """The vault directory, which no test but by a store creates."""
    return str(tmp_path / "vault")


@pytest.fixture
def make_store(layout, path, secrets):
    """A factory of stores of one vault directory, each with a memory of its own."""

    def make(location=CONTROLLER, modes=PRIVATE, password=None, layout=layout):
        return open_stores(layout, path, Sealer(password or secrets), location, modes)(GROUP)

    return make


@pytest.fixture
def store(make_store):
    return make_store()


@pytest.fixture
def elsewhere(make_store, new_member, path, tmp_path):
    """Return another vault directory of the same layout with a key for Alice, for symlinks that lead to it."""
    make_store().prove([ALICE], write=True)
    make_store().seal(new_member())
    os.rename(path, tmp_path / "elsewhere")
    with untouched(tmp_path / "elsewhere"):
        yield tmp_path / "elsewhere"


@pytest.fixture
def events(monkeypatch):
    """What is asked of the file system in its order: the name of the call, and the inode of a file that is synced."""
    made = []
    for name in ("rename", "unlink", "mkdir"):
        call = getattr(os, name)

        def noted(*args, _name=name, _call=call, **options):
            _call(*args, **options)
            made.append((_name, args[1 if _name == "rename" else 0]))

        monkeypatch.setattr(os, name, noted)
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (fsync(fd), made.append(("fsync", os.fstat(fd).st_ino))))
    return made


def failing(name, error=errno.ENOSPC, *, directories=False):
    """Return a function of ``os`` that fails; directories: only for them."""
    call = getattr(os, name)

    def fails(*args, **options):
        if directories and not stat.S_ISDIR(os.fstat(args[0]).st_mode):
            return call(*args, **options)
        raise OSError(error, os.strerror(error))

    return fails


# Seal and read


def test_a_key_is_read_as_it_was_sealed(layout, store, make_store, new_member, vault, path):
    prove(store, ALICE, BOB)
    alice, bob = new_member(s3_endpoint="https://s3.x.example"), new_member(BOB, "K004bob", account_id="0" * 12)
    file = store.seal(alice)
    assert file == store.file(ALICE) == os.path.join(path, FILES[layout])
    assert store.seal(bob) == store.file(BOB)
    for one in (store, make_store(), *stores_to_read(layout, path, Sealer(vault.secrets))):
        assert [one.read(email) for email in (ALICE, BOB)] == [alice, bob]
        assert secret_of(one, BOB) == (bob.key_id, "K004bob")
        assert one.read("nobody@x.example") is None and secret_of(one, "nobody@x.example") == ("", "")
        found = one.stored()
        assert sorted(found) == [ALICE, BOB] and found[ALICE] == one.stored([ALICE])[ALICE]
        assert [found[key.email] for key in (alice, bob)] == [
            Stored(key.account_id, key.key_id, store.file(key.email), GROUP) for key in (alice, bob)
        ]
        assert alice.key not in repr((found, one.read(ALICE)))
    assert set(contents(path)) == {os.path.relpath(store.file(email), path) for email in (ALICE, BOB)}
    for email in (ALICE, BOB):
        assert b"K004" not in read(store.file(email)) and b"K004" in vault.decrypt(read(store.file(email)))
        assert stat.S_IMODE(os.stat(store.file(email)).st_mode) == 0o600
        assert stat.S_IMODE(os.stat(os.path.dirname(store.file(email))).st_mode) == 0o700


def test_nothing_is_stored_in_a_directory_without_keys(layout, store, path):
    def nothing():
        store.remember()
        left = [store.stored(), store.stored([ALICE]), store.read(ALICE), store.recover(ALICE, ACCOUNT, write=True)]
        assert left == [{}, {}, None, None] and store.unproven.of(ALICE) == {}
        assert store.holder(GROUP) == ""
        with store.state(GROUP) as state:
            assert state == -1

    nothing()
    prove(store, write=False)
    assert not os.path.exists(path) and groups_in(path) == []
    prove(store)
    nothing()
    # A directory for a Group or a member without a key file in it.
    os.mkdir(os.path.dirname(store.file(ALICE)))
    prove(store)
    nothing()
    assert contents(path) == {} and os.listdir(path) == [os.path.dirname(FILES[layout])]


def test_another_key_is_never_replaced(store, make_store, new_member, path):
    prove(store)
    store.seal(new_member())
    with untouched(path):
        for one in (store, make_store()):
            for again in (False, True):
                with pytest.raises(StoreError, match="replaced") as refused:
                    one.seal(new_member(key="K004another"), again=again)
                assert store.file(ALICE) in str(refused.value) and refused.value.remedy


def test_the_same_key_sealed_twice_is_byte_for_byte_the_same_file(store, make_store, new_member, path):
    prove(store)
    file = store.seal(new_member())
    before = os.stat(file)
    with untouched(path):
        for one in (store, make_store()):
            assert one.seal(new_member(region="us-east")) == file
            assert one.seal(new_member(), again=True) == file
    assert (os.stat(file).st_ino, os.stat(file).st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_the_same_key_is_sealed_again_when_more_is_known_about_its_account(store, make_store, new_member):
    prove(store)
    for one, more in ((store, new_member(region="us-east")), (make_store(), new_member(account_id="0" * 12))):
        one.seal(new_member())
        assert one.seal(more, again=True) == store.file(ALICE)
        assert one.read(ALICE) == make_store().read(ALICE) == more
        assert one.stored()[ALICE].account_id == make_store().stored()[ALICE].account_id == more.account_id


def test_a_part_of_a_key_gives_way_to_a_whole_one(store, make_store, new_member):
    prove(store, ALICE, BOB)
    for one, email in ((store, ALICE), (make_store(), BOB)):
        one.seal(dataclasses.replace(new_member(email), key_id=""))
        assert one.stored()[email].key_id == ""
        whole = new_member(email, "K004another")
        one.seal(whole)
        assert one.read(email) == make_store().read(email) == whole


def test_a_key_without_its_key_id_gives_way_to_the_same_key_with_it(store, make_store, new_member, path):
    """An answer that was cut after the key leaves the whole key, and the user adopts the same key."""
    prove(store, ALICE)
    whole = new_member(ALICE)
    file = store.seal(dataclasses.replace(whole, key_id=""))
    assert make_store().seal(whole) == file
    assert make_store().read(ALICE).secret == whole.secret
    with untouched(path):
        make_store().seal(whole)
        make_store().seal(dataclasses.replace(whole, key_id=""))


@pytest.mark.parametrize("email", ["../evil@x.example", "a/b@x.example", ".hidden@x.example", "", "a b@x.example"])
def test_an_unsafe_name_reaches_no_file(store, new_member, path, tmp_path, email):
    prove(store)
    for seal in (store.seal, lambda key: store.unproven.put(email, key)):
        with pytest.raises(StoreError):
            seal(new_member(email))
    assert store.stored() == {} and contents(tmp_path) == {}


def test_a_vault_directory_that_has_vanished_is_not_created_again(store, new_member, path):
    """The journal went with it: a key in a new one would belong to no run."""
    prove(store)
    os.rmdir(path)
    for seal in (store.seal, lambda key: store.unproven.put(ALICE, key), lambda key: store.prove_writing()):
        with pytest.raises(StoreError, match="cannot be written"):
            seal(new_member())
    assert not os.path.exists(path)
    prove(store)
    store.seal(new_member())
    shutil.rmtree(path)
    assert store.stored() == {}
    with pytest.raises(StoreError, match="cannot be written"):
        store.seal(new_member(BOB))
    assert not os.path.exists(path)


@pytest.mark.parametrize(
    "mode, file, directory", [(None, 0o600, 0o700), ("0640", 0o640, 0o750), ("0660", 0o660, 0o770)]
)
def test_files_and_directories_get_the_modes_that_were_asked_for(make_store, new_member, path, mode, file, directory):
    old, store = os.umask(0o027), make_store(modes=modes_of(mode))
    try:
        prove(store)
        store.seal(new_member())
        store.unproven.put(ALICE, new_member(key="K004unproven"))
        with store.locked(GROUP, 0.0, lambda seconds: None):
            store.remember()
    finally:
        os.umask(old)
    for where, _directories, names in os.walk(path):
        assert stat.S_IMODE(os.stat(where).st_mode) == directory
        assert {stat.S_IMODE(os.stat(os.path.join(where, name)).st_mode) for name in names} <= {file}


def test_many_threads_seal_at_once_and_each_key_is_on_disk_when_seal_returns(store, make_store, new_member):
    news = [new_member(f"m{number}@x.example", f"K004{number}") for number in range(16)]
    prove(store, *(one.email for one in news))

    def sealed(key):
        store.seal(key)
        return make_store().read(key.email) == key

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert all(pool.map(sealed, news))
    assert sorted(make_store().stored()) == sorted(one.email for one in news)


# What is in the way


@pytest.mark.parametrize("level", ["vault directory", "with a slash", "directory", "file"])
def test_a_symlink_is_never_followed(layout, store, secrets, new_member, path, elsewhere, level):
    whole, folder = os.path.join(elsewhere, FILES[layout]), os.path.dirname(store.file(ALICE))
    os.makedirs(folder)
    if level == "file":
        os.symlink(whole, store.file(ALICE))
    elif level == "directory":
        os.rmdir(folder)
        os.symlink(os.path.dirname(whole), folder)
    else:
        os.removedirs(folder)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.symlink(elsewhere, path)
    if level == "with a slash":
        store = open_store(layout, f"{path}/", Sealer(secrets), GROUP)
    works = [
        lambda: prove(store),
        lambda: prove(store, write=False),
        lambda: store.seal(new_member()),
        lambda: store.seal(new_member(key="K004another")),
        lambda: store.stored([ALICE]),
        lambda: store.read(ALICE),
    ]
    if level != "file":
        works += [
            lambda: store.recover(ALICE, ACCOUNT, write=True),
            lambda: store.unproven.put(ALICE, new_member()),
            lambda: store.unproven.of(ALICE),
        ]
    for work in works:
        with pytest.raises(StoreError) as refused:
            work()
        assert "symlink" in str(refused.value) and path in str(refused.value)


@pytest.mark.parametrize("what", ["file", "fifo", "directory", "socket"])
def test_what_is_neither_a_directory_nor_a_key_file_is_refused(store, new_member, path, monkeypatch, what):
    """A pipe has nobody at its other end: whoever waits for one hangs."""
    file = store.file(ALICE)
    os.makedirs(os.path.dirname(file))
    if what == "fifo":
        os.mkfifo(file)
    elif what == "directory":
        os.mkdir(file)
    elif what == "socket":
        # The path of a socket may have about a hundred characters only.
        monkeypatch.chdir(os.path.dirname(file))
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(os.path.basename(file))
    else:
        os.rmdir(os.path.dirname(file))
        write(os.path.dirname(file), b"mine")
    before = [(where, names) for where, _directories, names in os.walk(path)]
    for work in (lambda: prove(store), lambda: prove(store, write=False)):
        with pytest.raises(StoreError, match="is not a") as refused:
            work()
        assert refused.value.remedy
    for work in (
        lambda: store.seal(new_member()),
        lambda: store.read(ALICE),
        lambda: store.stored([ALICE]),
    ):
        with pytest.raises(StoreError, match="cannot be"):
            work()
    assert [(where, names) for where, _directories, names in os.walk(path)] == before


@pytest.mark.parametrize("below", ["", "/below"])
def test_a_vault_directory_that_is_a_plain_file_is_refused(layout, secrets, path, new_member, below):
    write(path, b"mine")
    store = open_store(layout, f"{path}{below}", Sealer(secrets), GROUP)
    for work in (
        lambda: prove(store),
        lambda: prove(store, write=False),
        lambda: store.seal(new_member()),
        store.prove_writing,
    ):
        with pytest.raises(StoreError):
            work()
    assert read(path) == b"mine"


@pytest.mark.parametrize(
    "content, message",
    [
        (b"b2_application_key: plain\n", "not an Ansible Vault file"),
        (b"", "not an Ansible Vault file"),
        (b"$ANSIBLE_VAULT;1.1;AES256\n00\n", "does not decrypt"),
        (None, "does not decrypt"),
        ("", "hold"),
        ("- 1\n", "hold"),
        ("b2_application_key: k\n", "hold"),
        ("b2_member_keys: 1\n", "hold"),
        ("b2_member_keys:\n  alice@x.example: 1\n", "hold"),
        ("b2_member_keys:\n  ../x@x.example: {}\n", "hold"),
        ("{", "hold"),
    ],
)
def test_an_invalid_file_stops_everything_and_is_not_changed(
    store, make_store, new_member, secrets, path, content, message
):
    if content is None:
        prove(make_store())
        make_store(password=ANOTHER_PASSWORD).seal(new_member())
    else:
        write(store.file(ALICE), content if isinstance(content, bytes) else Sealer(secrets).seal(content.encode()))
    with untouched(path):
        for one in (store, make_store()):
            for work in (
                one.stored,
                lambda one=one: one.stored([ALICE]),
                lambda one=one: one.read(ALICE),
                lambda one=one: one.seal(new_member()),
                lambda one=one: one.seal(new_member(), again=True),
            ):
                with pytest.raises(StoreError, match=message) as failed:
                    work()
                assert store.file(ALICE) in str(failed.value) and failed.value.remedy


@pytest.mark.parametrize("extension", [".yml", ".yaml", ".json"])
def test_a_file_of_variables_is_not_switched_off(store, new_member, path, extension):
    """Beside a directory of its name Ansible does not load it."""
    directory = os.path.dirname(store.file(ALICE))
    name = os.path.basename(directory)
    store.prove_nothing_switched_off([ALICE])
    write(f"{directory}{extension}", b"mine: 1\n")
    with pytest.raises(StoreError) as refused:
        store.prove_nothing_switched_off([ALICE])
    assert f"the variables in {name}{extension} beside it: " in str(refused.value)
    assert f"In {path}: mkdir {name} && mv {name}{extension} {name}/vars{extension}" in str(refused.value)
    store.prove_nothing_switched_off([])
    # As the message says.
    os.mkdir(directory)
    os.rename(f"{directory}{extension}", f"{directory}/vars{extension}")
    store.prove_nothing_switched_off([ALICE])
    prove(store)
    store.seal(new_member())
    assert read(f"{directory}/vars{extension}") == b"mine: 1\n"


def test_a_directory_of_variables_is_not_switched_off(store, path):
    """Ansible loads a directory with the ending of a file as well, and one within a directory."""
    directory = os.path.dirname(store.file(ALICE))
    write(f"{directory}.yml/mine.yml", b"mine: 1\n")
    name = os.path.basename(directory)
    with pytest.raises(StoreError) as refused:
        store.prove_nothing_switched_off([ALICE])
    assert refused.value.remedy.endswith(f"In {path}: mv {name}.yml {name}")


@pytest.mark.parametrize("killed", [False, True], ids=["key file", "temporary file"])
def test_keys_in_the_other_layout_are_not_taken_for_missing(layout, store, make_store, new_member, path, killed):
    other = make_store(layout=HOST_VARS if layout == GROUP_VARS else GROUP_VARS)
    prove(store)
    other.seal(new_member())
    if killed:
        os.rename(other.file(ALICE), beside(other.file(ALICE), TEMPORARY))
    prove(store, BOB)
    with untouched(path):
        for write_ in (True, False):
            with pytest.raises(StoreError, match=r"in the layout .*b2_vault_layout") as failed:
                prove(store, BOB, ALICE, write=write_)
            assert ALICE in str(failed.value) and layout in str(failed.value)
    # As a move leaves it that was killed: the key is in both.
    store.seal(new_member())
    prove(store, BOB, ALICE)


# Leftovers of killed runs


@pytest.fixture
def leave(store, make_store, new_member):
    """Leave a key in a temporary file, as a run does that is killed before it gives the file its name."""

    def left(email=ALICE, name=TEMPORARY, password=None, size=None, **fields):
        file = store.file(email)
        kept = read(file) if os.path.exists(file) else None
        if kept:
            os.unlink(file)
        key = new_member(email, **{"key": f"K004{email}", **fields})
        make_store(password=password).seal(key)
        write(beside(file, name), read(file)[:size])
        os.unlink(file)
        if kept:
            write(file, kept)
        return key

    return left


def test_a_key_that_was_written_but_not_renamed_is_recovered(store, make_store, leave, path, events):
    prove(store)
    key = leave()
    temporary = os.path.relpath(beside(store.file(ALICE), TEMPORARY), path)
    store = make_store(location=Recorder(events))
    with untouched(path):
        assert store.recover(ALICE, ACCOUNT, write=False) == key.known(store.file(ALICE))
        assert store.read(ALICE) is None and store.stored() == {}
    events.clear()
    assert store.recover(ALICE, ACCOUNT, write=True) == key.known(store.file(ALICE))
    # Written and synced as every key is: the temporary file may never have been synced.
    assert ("fsync", os.stat(store.file(ALICE)).st_ino) in events
    assert ("publish", (store.file(ALICE),)) in events
    assert events[-2:] == [("unlink", TEMPORARY), ("later", os.path.join(path, temporary))]
    assert store.read(ALICE) == make_store().read(ALICE) == key
    assert list(contents(path)) == [os.path.relpath(store.file(ALICE), path)]
    assert store.recover(ALICE, ACCOUNT, write=True) is None


def test_a_leftover_that_cannot_be_removed_does_no_harm(store, make_store, leave, monkeypatch):
    prove(store)
    key = leave()
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", failing("unlink", errno.EPERM))
        assert store.recover(ALICE, ACCOUNT, write=True) == key.known(store.file(ALICE))
    assert make_store().read(ALICE) == key
    assert set(os.listdir(os.path.dirname(store.file(ALICE)))) == {"b2_vault.yml", TEMPORARY}
    assert make_store().recover(ALICE, ACCOUNT, write=True) is None


def test_a_leftover_of_an_account_that_is_not_known_is_recovered(store, leave):
    prove(store)
    key = leave(account_id="")
    assert store.recover(ALICE, ACCOUNT, write=True) == key.known(store.file(ALICE))
    assert store.read(ALICE) == key


def test_the_leftovers_of_others_are_not_taken(store, leave, path):
    prove(store)
    leave(account_id="f" * 12)
    leave(BOB)
    with untouched(path):
        assert store.recover(ALICE, ACCOUNT, write=True) is None
        assert store.recover("nobody@x.example", ACCOUNT, write=True) is None
        assert store.stored() == {}
    # The file of another account does not hide one of this account.
    key = leave(name=TEMPORARY.replace("0", "a"))
    assert store.recover(ALICE, ACCOUNT, write=True) == key.known(store.file(ALICE))


def test_a_leftover_that_cannot_be_read_is_named_and_not_changed(store, make_store, leave, new_member, path, tmp_path):
    """It may be the key."""
    prove(store)
    key = leave(name=TEMPORARY.replace("0", "a"))
    unread = [
        beside(store.file(ALICE), TEMPORARY.replace("0", "b")),
        beside(store.file(ALICE), TEMPORARY.replace("0", "c")),
    ]
    leave(name=os.path.basename(unread[0]), size=500)
    leave(name=os.path.basename(unread[1]), password=ANOTHER_PASSWORD)
    os.rename(beside(store.file(ALICE), TEMPORARY.replace("0", "a")), tmp_path / "aside")
    with untouched(path):
        for write_ in (False, True):
            left = make_store().recover(ALICE, ACCOUNT, write=write_)
            assert (left.account_id, left.key_id) == ("", "") and left.path in unread
    # They do not hide a file that does decrypt.
    os.rename(tmp_path / "aside", beside(store.file(ALICE), TEMPORARY.replace("0", "d")))
    store = make_store()
    assert store.recover(ALICE, ACCOUNT, write=True) == key.known(store.file(ALICE))
    assert set(contents(path)) == {os.path.relpath(one, path) for one in (*unread, store.file(ALICE))}
    # Now that a key is stored, no such file can be the missing one.
    assert store.recover(ALICE, ACCOUNT, write=True) is None


def test_a_leftover_never_replaces_a_key(store, make_store, leave, new_member, path):
    prove(store)
    leave(key="K004of-a-killed-run")
    store.seal(new_member())
    with untouched(os.path.dirname(store.file(ALICE))):
        for write_ in (False, True):
            assert make_store().recover(ALICE, ACCOUNT, write=write_) is None
    assert make_store().read(ALICE) == new_member()


def test_a_symlink_is_no_leftover(store, leave, path, tmp_path):
    prove(store)
    leave()
    os.rename(beside(store.file(ALICE), TEMPORARY), tmp_path / "aside")
    os.symlink(tmp_path / "aside", beside(store.file(ALICE), TEMPORARY))
    with pytest.raises(StoreError, match="symlink"):
        store.recover(ALICE, ACCOUNT, write=True)
    assert store.read(ALICE) is None and (tmp_path / "aside").exists()


def test_a_key_in_the_fallback_directory_moves_to_its_file_and_replaces_nothing(store, new_member, secrets, tmp_path):
    prove(store)
    fallback = FallbackStore(str(tmp_path / "fallback"), Sealer(secrets))
    fallback.seal(new_member())
    ((_path, key),) = fallback.found()
    store.seal(key)
    fallback.seal(new_member(key="K004another"))
    (another,) = [key for _path, key in fallback.found() if key.key == "K004another"]
    with pytest.raises(StoreError, match="replaced"):
        store.seal(another)
    assert store.read(ALICE) == new_member()
    assert len(list(fallback.found())) == 2


# Keys without proof of their owners


def test_unproven_keys_are_kept_beside_the_key_file_where_ansible_loads_none(
    store, make_store, new_member, path, events
):
    store = make_store(location=Recorder(events))
    prove(store)
    store.seal(new_member())
    one, two = (new_member(key=key, account_id="", region="") for key in ("K004one", "K004two"))
    events.clear()
    paths = [store.unproven.put(ALICE, key) for key in (one, two)]
    store.unproven.put(BOB, new_member(BOB, "K004bob"))
    for put, file in enumerate(paths):
        assert os.path.dirname(file) == os.path.dirname(store.file(ALICE)) and os.path.basename(file).startswith(".")
        synced = [("fsync", os.stat(where).st_ino) for where in (file, os.path.dirname(file), path)]
        assert events[4 * put : 4 * put + 4] == [*synced, ("publish", (file,))]
    # A file of another password does no harm, and is named.
    unread = make_store(password=ANOTHER_PASSWORD).unproven.put(ALICE, one)
    for each in (store, make_store()):
        assert each.unproven.of(ALICE) == {**dict(zip(paths, (one, two), strict=True)), unread: None}
        assert list(each.stored()) == [ALICE] and each.read(ALICE) == new_member()
        assert each.recover(BOB, ACCOUNT, write=False) is None
    store.unproven.discard(paths[0])
    assert events[-2:] == [("unlink", paths[0]), ("later", paths[0])]
    store.unproven.discard(paths[0])
    assert set(store.unproven.of(ALICE)) == {paths[1], unread}


# On disk before the result


def test_a_key_is_synced_to_disk_before_seal_returns(store, make_store, new_member, path, events):
    store = make_store(location=Recorder(events))
    prove(store, ALICE, BOB)
    for key in (new_member(), new_member(BOB)):
        events.clear()
        file = store.seal(key)
        seen = [event for event in events if event[0] != "mkdir"]
        assert seen == [
            ("fsync", os.stat(file).st_ino),
            ("rename", "b2_vault.yml"),
            ("fsync", os.stat(os.path.dirname(file)).st_ino),
            ("fsync", os.stat(path).st_ino),
            ("publish", (file,)),
        ]
    # Always: an earlier write of the same key may have failed at a sync of a directory.
    events.clear()
    store.seal(new_member())
    assert events == [
        ("fsync", os.stat(os.path.dirname(store.file(ALICE))).st_ino),
        ("fsync", os.stat(path).st_ino),
        ("publish", (store.file(ALICE),)),
    ]


@pytest.mark.parametrize("name", ["write", "fsync", "rename"])
def test_a_write_that_fails_leaves_nothing_half(store, make_store, new_member, monkeypatch, path, name):
    prove(store)
    for again in (False, True):
        key = new_member(region="us-east" if again else "us-west")
        with untouched(path), monkeypatch.context() as patch, pytest.raises(StoreError, match="No space left"):
            patch.setattr(os, name, failing(name))
            store.seal(key, again=again)
        assert store.stored() == make_store().stored() and len(store.stored()) == again
        store.seal(key, again=again)
        assert make_store().read(ALICE) == key


def test_a_directory_that_was_not_synced_is_synced_by_the_next_attempt(store, make_store, new_member, monkeypatch):
    prove(store)
    with monkeypatch.context() as patch, pytest.raises(StoreError):
        patch.setattr(os, "fsync", failing("fsync", errno.EIO, directories=True))
        store.seal(new_member())
    before = read(store.file(ALICE))
    store.seal(new_member())
    assert read(store.file(ALICE)) == before
    assert make_store().read(ALICE) == new_member()


def test_a_full_disk_leaves_no_half_file(store, new_member, path):
    prove(store)
    assert "StoreError" in with_a_full_disk(lambda: store.seal(new_member()))
    assert contents(path) == {}
    store.seal(new_member())
    with untouched(path):
        assert "StoreError" in with_a_full_disk(lambda: store.seal(new_member(region="us-east"), again=True))


def test_what_cannot_be_published_is_no_success(store, make_store, new_member):
    class Unreachable(Controller):
        def publish(self, *paths):
            raise StoreError("The host is gone.")

    prove(store)
    for seal in (make_store(Unreachable()).seal, lambda key: make_store(Unreachable()).unproven.put(ALICE, key)):
        with pytest.raises(StoreError, match=r"The host is gone\."):
            seal(new_member())


def test_a_key_file_is_what_ansible_vault_writes(layout, store, new_member, secrets, vault):
    """A file that ansible-vault has encrypted again, as after a change of the password, is as good."""
    prove(store)
    file = store.seal(new_member())
    write(file, vault.encrypt(vault.decrypt(read(file)), secrets[0][1]))
    assert open_store(layout, store.path, Sealer(secrets), GROUP).read(ALICE) == new_member()
    assert layout == GROUP_VARS or vault.decrypt(read(file)) == key_text(new_member())
