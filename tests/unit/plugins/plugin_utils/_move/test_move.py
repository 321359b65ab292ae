# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Keys move from one layout to the other, and nothing is lost on the way."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal

import pytest
import yaml
from ansible.parsing.vault import VaultSecret

from ansible_collections.community.backblaze.plugins.module_utils._errors import StoreError
from ansible_collections.community.backblaze.plugins.module_utils._plan import Event
from ansible_collections.community.backblaze.plugins.plugin_utils._move import move as move_module
from ansible_collections.community.backblaze.plugins.plugin_utils._move.key_files import KeyFiles
from ansible_collections.community.backblaze.plugins.plugin_utils._move.move import Move, move_keys
from ansible_collections.community.backblaze.plugins.plugin_utils._run.journal import Journal
from ansible_collections.community.backblaze.plugins.plugin_utils._run.report import summary_of_move
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.group_vars import GroupVarsStore
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.host_vars import HostVarsStore
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.key_file import StoredKey, key_text
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.layouts import open_store, open_stores
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.sealer import Sealer

ALICE = "alice@x.example"
BOB = "bob@x.example"
GROUP = "100001"
OTHER = "100002"
TEMPORARY = ".b2_vault.yml.0123456789ab.tmp"


@pytest.fixture
def sealer(secrets):
    return Sealer(secrets)


@pytest.fixture
def source(tmp_path):
    (tmp_path / "source").mkdir()
    return str(tmp_path / "source")


@pytest.fixture
def target(tmp_path):
    return str(tmp_path / "target")


@pytest.fixture
def members(new_member):
    """Two hundred members of two Groups."""
    return [
        new_member(
            f"m{number}@x.example",
            f"K004{number}",
            group_id=(GROUP, OTHER)[number % 2],
            region=("us-west", "{{ x }}", "")[number % 3],
        )
        for number in range(20)
    ]


@pytest.fixture
def move(source, target, sealer):
    def move(layout, *, here=source, there=target, **options):
        return move_keys(Move(layout, here, there, vault_lock_timeout=0.0, **options), sealer)

    return move


@pytest.fixture
def keys(sealer):
    """Return what is stored in a directory, in each of the layouts."""

    def keys(path):
        own = {email: HostVarsStore(path, sealer).read(email) for email in HostVarsStore(path, sealer).stored()}
        shared = [GroupVarsStore(path, sealer, group).keys() for group in (GROUP, OTHER)]
        return own, {**shared[0], **shared[1]}

    return keys


@pytest.mark.parametrize("layout", ["host_vars", "group_vars"])
def test_a_key_that_is_set_aside_is_nobodys_until_it_was_tried(source, target, sealer, new_member, move, layout):
    """Neither as what a killed run left nor as a stored key, and it does not stand in the way of a move."""
    store = open_store(layout, source, sealer, GROUP)
    store.prove([ALICE, BOB], write=True)
    store.seal(new_member(BOB, "K004bob"))
    path = store.unproven.put(ALICE, new_member(ALICE, "K004aside"))
    assert os.path.basename(path).startswith(".") and os.stat(path).st_mode & 0o777 == 0o600
    with open(path, "rb") as file:
        assert b"K004aside" not in file.read()
    assert store.stored().keys() == {BOB} and store.read(ALICE) is None
    assert store.recover(ALICE, "5f2a1c0b3d4e", write=True) is None
    [(found, key)] = list(store.unproven.of(ALICE).items())
    assert (found, key.key, key.email) == (path, "K004aside", ALICE)
    assert store.unproven.of(BOB) == {}
    moved = move("group_vars" if layout == "host_vars" else "host_vars", there=target)
    assert (emails(moved.moved), moved.left) == ([BOB], [])
    assert os.path.exists(path)
    store.unproven.discard(path)
    store.unproven.discard(path)
    assert store.unproven.of(ALICE) == {} and not os.path.exists(path)


def test_a_move_switches_off_no_file_of_variables(source, target, sealer, new_member, move, keys):
    store = open_store("host_vars", source, sealer, GROUP)
    store.prove([ALICE, BOB], write=True)
    store.seal(new_member(ALICE))
    store.seal(new_member(BOB, "K004bob"))
    os.makedirs(target)
    unproven = os.path.join(target, f"b2_group_{GROUP}.yml")
    with open(unproven, "wb"):
        pass
    for write in (False, True):
        moved = move("group_vars", write=write)
        assert not moved.moved and [one.email for one in moved.left] == [ALICE, BOB]
        assert all(f"switch off the variables in b2_group_{GROUP}.yml beside it" in one.message for one in moved.left)
    os.unlink(unproven)
    assert len(move("group_vars").moved) == 2
    # Back to host_vars: the file of variables is an obstacle for one member only.
    with open(os.path.join(source, f"{BOB}.yaml"), "wb"):
        pass
    back = move("host_vars", here=target, there=source)
    assert (emails(back.moved), emails(back.left)) == ([ALICE], [BOB])
    assert f"mv {BOB}.yaml {BOB}/vars.yaml" in back.left[0].message
    assert set(keys(source)[0]) == {ALICE} and set(keys(target)[1]) == {BOB}


def emails(entries):
    return [entry.email for entry in entries]


def tree(path):
    """Return every file below a directory with its content, but for locks, journals and the index."""
    return {
        os.path.relpath(os.path.join(where, name), path): open(os.path.join(where, name), "rb").read()
        for where, _dirs, names in os.walk(path)
        for name in names
        if ".b2_members" not in where
    }


def seal(path, sealer, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(sealer.seal(text.encode() if isinstance(text, str) else text))


def test_each_layout_has_its_store(source, sealer):
    assert isinstance(open_store("host_vars", source, sealer, GROUP), HostVarsStore)
    assert isinstance(open_store("group_vars", source, sealer, GROUP), GroupVarsStore)
    store_of = open_stores("host_vars", source, sealer)
    assert store_of(GROUP) is store_of(OTHER)
    store_of = open_stores("group_vars", source, sealer)
    assert store_of(GROUP).file("") != store_of(OTHER).file("")


@pytest.mark.parametrize("write", [True, False])
def test_keys_in_the_other_layout_are_not_taken_for_missing(source, sealer, new_member, write):
    single = GroupVarsStore(source, sealer, GROUP)
    single.seal(new_member())
    store = open_store("host_vars", source, sealer, OTHER)
    store.prove([BOB], write=write)
    with pytest.raises(StoreError, match=r"layout group_vars.*b2_vault_layout") as failed:
        store.prove([BOB, ALICE], write=write)
    assert ALICE in str(failed.value)
    store.seal(new_member())
    store.prove([ALICE], write=write)
    # And what a killed run left beside the file are keys as well.
    os.rename(single.file(""), os.path.join(os.path.dirname(single.file("")), TEMPORARY))
    store = open_store("host_vars", source, sealer, GROUP)
    store.prove([ALICE], write=write)
    os.unlink(store.file(ALICE))
    with pytest.raises(StoreError, match="layout group_vars"):
        open_store("host_vars", source, sealer, GROUP).prove([ALICE], write=write)


@pytest.mark.parametrize("remote_copy", [True, False])
def test_keys_move_there_and_back_with_every_byte_of_their_variables(
    move, keys, source, target, sealer, members, remote_copy
):
    target = target if remote_copy else source
    store = HostVarsStore(source, sealer)
    for one in members:
        store.seal(one)
    everything = {one.email: one for one in members}
    before = tree(source)

    there = move("group_vars", there=target, write=False)
    assert sorted(emails(there.moved)) == sorted(everything) and not there.left
    assert tree(source) == before and (not remote_copy or not os.path.exists(target))

    there = move("group_vars", there=target)
    assert sorted(emails(there.moved)) == sorted(everything) and not there.left
    assert {entry.path for entry in there.moved} == {
        GroupVarsStore(target, sealer, group).file("") for group in (GROUP, OTHER)
    }
    assert keys(target) == ({}, everything)
    assert set(tree(target)) == {f"b2_group_{GROUP}/b2_vault.yml", f"b2_group_{OTHER}/b2_vault.yml"}
    assert not remote_copy or os.listdir(source) == [".b2_members"]
    done = tree(target)
    assert not move("group_vars", there=target).moved and tree(target) == done

    back = move("host_vars", here=target, there=source)
    assert sorted(emails(back.moved)) == sorted(everything) and not back.left
    assert keys(source) == (everything, {})
    assert set(tree(source)) == set(before)
    for name, content in tree(source).items():
        assert sealer.open(content, name) == sealer.open(before[name], name)
    assert not move("host_vars", here=target, there=source).moved


def test_one_group_moves_alone(move, keys, source, target, sealer, members):
    for one in members:
        HostVarsStore(source, sealer).seal(one)
    ours = {one.email for one in members if one.group_id == GROUP}
    theirs = {one.email for one in members} - ours
    assert set(emails(move("group_vars", group_id=GROUP).moved)) == ours
    assert set(keys(source)[0]) == theirs and set(keys(target)[1]) == ours
    move("group_vars")
    assert set(emails(move("host_vars", here=target, there=source, group_id=OTHER).moved)) == theirs
    assert set(keys(source)[0]) == theirs and set(keys(target)[1]) == ours
    assert not move("host_vars", here=target, there=source, group_id="unknown").moved


@pytest.fixture
def stores(source, target, sealer):
    """Return the stores of a move to a layout: the store with the keys, and the store that gets them."""

    def make(layout):
        if layout == "host_vars":
            return GroupVarsStore(source, sealer, GROUP), HostVarsStore(target, sealer)
        return HostVarsStore(source, sealer), GroupVarsStore(target, sealer, GROUP)

    return make


@pytest.mark.parametrize("layout", ["group_vars", "host_vars"])
def test_another_key_in_the_new_vault_file_leaves_both_unchanged(
    move, keys, source, target, stores, new_member, layout
):
    here, there = stores(layout)
    os.mkdir(target)
    here.seal(new_member())
    here.seal(new_member(BOB))
    there.seal(new_member(key="K004another"))
    for write in (False, True, True):
        result = move(layout, write=write)
        assert (
            emails(result.left) == [ALICE]
            and "another key" in result.left[0].message
            and there.file(ALICE) in result.left[0].message
        )
        assert result.left[0].path == here.file(ALICE)
    for path, key in ((source, new_member().key), (target, "K004another")):
        own, shared = keys(path)
        assert {**own, **shared}[ALICE].key == key
    assert BOB in {**keys(target)[0], **keys(target)[1]} and BOB not in {**keys(source)[0], **keys(source)[1]}


@pytest.mark.parametrize("layout", ["group_vars", "host_vars"])
def test_a_part_of_a_key_moves_and_gives_way_to_a_whole_one(move, keys, source, target, stores, new_member, layout):
    here, there = stores(layout)
    os.mkdir(target)
    here.seal(new_member())
    there.seal(dataclasses.replace(new_member(key="K004part"), key_id=""))
    here.seal(dataclasses.replace(new_member(BOB), key_id=""))
    assert set(emails(move(layout).moved)) == {ALICE, BOB}
    own, shared = keys(target)
    assert {**own, **shared}[ALICE] == new_member()
    assert {**own, **shared}[BOB] == dataclasses.replace(new_member(BOB), key_id="")


def test_what_would_be_lost_with_a_file_is_named(move, source, sealer, new_member):
    store = HostVarsStore(source, sealer)
    texts = {
        "more": key_text(new_member("more@x.example")) + b"port: 22\n",
        "comment": key_text(new_member("comment@x.example")) + b"# call first\n",
        "groupless": key_text(new_member("groupless@x.example", group_id="")),
        "moved": key_text(new_member()),
        "plain": b"text",
    }
    for name, text in texts.items():
        seal(store.file(f"{name}@x.example"), sealer, text)
    seal(
        store.file("foreign@x.example"),
        Sealer([("default", VaultSecret(b"another"))]),
        key_text(new_member("foreign@x.example")),
    )
    os.makedirs(os.path.dirname(store.file("empty@x.example")))
    # Somebody's hand, and no loss: the same variables, written another way.
    seal(store.file("bare@x.example"), sealer, yaml.safe_dump(yaml.safe_load(key_text(new_member("bare@x.example")))))
    before = tree(source)
    for write in (False, True):
        result = move("group_vars", write=write)
        assert emails(result.moved) == ["bare@x.example"]
        assert {entry.email.partition("@")[0]: entry.message for entry in result.left}.keys() == {*texts, "foreign"}
    said = {entry.email.partition("@")[0]: entry.message for entry in result.left}
    parts = {"more": "comment", "groupless": "b2_group_id", "moved": "another address", "foreign": "not decrypt"}
    assert all(part in said[name] for name, part in parts.items())
    assert set(before) - set(tree(source)) == {"bare@x.example/b2_vault.yml"}


def test_a_file_of_a_group_that_holds_anything_else_is_left_unchanged(move, source, target, sealer, new_member):
    store = GroupVarsStore(source, sealer, GROUP)
    store.seal(new_member())
    with open(store.file(""), "rb") as file:
        seal(store.file(""), sealer, sealer.open(file.read(), "") + b"port: 22\n")
    before = tree(source)
    result = move("host_vars", there=target)
    assert not result.moved and [entry.path for entry in result.left] == [store.file("")]
    assert "The file was not changed" in result.left[0].message and tree(source) == before


def test_a_file_that_cannot_be_opened_does_not_keep_the_other_groups(move, source, sealer, new_member):
    GroupVarsStore(source, sealer, GROUP).seal(new_member())
    bad = GroupVarsStore(source, sealer, OTHER).file("")
    seal(bad, sealer, "b2_member_keys: 1\n")
    result = move("host_vars")
    assert emails(result.moved) == [ALICE]
    assert [(entry.email, entry.path) for entry in result.left] == [("", bad)] and "something else" in result.left[
        0
    ].message


def kill_before_rename(store, email):
    """Leave the temporary file of a key, as a run does that is killed before the rename."""
    os.rename(store.file(email), os.path.join(os.path.dirname(store.file(email)), TEMPORARY))


@pytest.mark.parametrize("write", [True, False])
def test_a_key_that_a_killed_run_left_keeps_its_group_until_it_is_recovered(
    move, keys, source, sealer, new_member, write
):
    single = GroupVarsStore(source, sealer, GROUP)
    single.seal(new_member(BOB))
    kill_before_rename(single, BOB)
    GroupVarsStore(source, sealer, GROUP).seal(new_member())
    GroupVarsStore(source, sealer, OTHER).seal(new_member("carol@x.example", group_id=OTHER))
    result = move("host_vars", write=write)
    assert (
        emails(result.moved) == ["carol@x.example"]
        and emails(result.left) == [BOB]
        and "layout group_vars" in result.left[0].message
    )
    assert set(keys(source)[1]) == ({ALICE} if write else {ALICE, "carol@x.example"})
    # The remedy.
    assert open_store("group_vars", source, sealer, GROUP).recover(BOB, new_member(BOB).account_id, write=True)
    assert {ALICE, BOB} <= set(emails(move("host_vars").moved))


@pytest.mark.parametrize("group_id", [None, GROUP])
def test_a_file_that_a_killed_run_left_keeps_its_group_until_it_is_recovered(
    move, keys, source, sealer, new_member, group_id
):
    store = HostVarsStore(source, sealer)
    for one in (new_member(), new_member(BOB), new_member("carol@x.example", group_id=OTHER)):
        store.seal(one)
    kill_before_rename(store, BOB)
    result = move("group_vars", group_id=group_id)
    assert emails(result.moved) == ([] if group_id else ["carol@x.example"])
    assert emails(result.left) == [BOB] and "layout host_vars" in result.left[0].message and ALICE in keys(source)[0]
    assert open_store("host_vars", source, sealer, GROUP).recover(BOB, new_member(BOB).account_id, write=True)
    result = move("group_vars", group_id=group_id)
    assert set(emails(result.moved)) == {ALICE, BOB} and not result.left


@pytest.mark.parametrize("group_id", [None, GROUP])
def test_what_a_killed_run_left_of_an_unknown_group_keeps_everything(move, source, sealer, new_member, group_id):
    store = HostVarsStore(source, sealer)
    for one in (new_member(), new_member("carol@x.example", group_id=OTHER)):
        store.seal(one)
    os.mkdir(os.path.dirname(store.file(BOB)))
    torn = os.path.join(os.path.dirname(store.file(BOB)), TEMPORARY)
    with open(torn, "wb"):
        pass
    result = move("group_vars", group_id=group_id)
    assert (
        not result.moved
        and not result.changed
        and emails(result.left) == [BOB]
        and "move the temporary file away" in result.left[0].message
    )
    os.unlink(torn)
    assert ALICE in emails(move("group_vars", group_id=group_id).moved)


@pytest.mark.parametrize("layout", ["group_vars", "host_vars"])
@pytest.mark.parametrize("torn", [True, False])
def test_a_temporary_file_of_a_key_that_is_in_the_new_directory_is_no_obstacle(
    move, source, target, sealer, stores, new_member, layout, torn
):
    here, there = stores(layout)
    os.mkdir(target)
    there.seal(new_member(BOB))
    here.seal(new_member(BOB))
    kill_before_rename(here, BOB)
    if torn:
        os.truncate(os.path.join(os.path.dirname(here.file(BOB)), TEMPORARY), 0)
    (HostVarsStore(source, sealer) if layout == "group_vars" else GroupVarsStore(source, sealer, GROUP)).seal(
        new_member()
    )
    result = move(layout)
    assert emails(result.moved) == [ALICE] and not result.left


def test_a_key_that_came_while_others_were_moved_is_moved_too(
    move, keys, source, target, sealer, new_member, monkeypatch
):
    store = HostVarsStore(source, sealer)
    store.seal(new_member())
    os.mkdir(os.path.dirname(store.file(BOB)))
    locked, late = move_module.VaultDir.locked, [new_member(BOB), new_member("carol@x.example", group_id=OTHER)]

    def seal_and_lock(*arguments):
        while late:
            HostVarsStore(source, sealer).seal(late.pop())
        return locked(*arguments)

    monkeypatch.setattr(move_module.VaultDir, "locked", seal_and_lock)
    assert set(emails(move("group_vars").moved)) == {ALICE, BOB, "carol@x.example"} == set(keys(target)[1])


def test_a_file_is_opened_again_only_where_it_changed(move, source, sealer, new_member, monkeypatch):
    store = HostVarsStore(source, sealer)
    for number in range(5):
        store.seal(new_member(f"m{number}@x.example", group_id=f"g{number}"))
    seal(store.file(BOB), sealer, b"text")
    opened = []
    real = Sealer.open
    monkeypatch.setattr(
        Sealer, "open", lambda self, sealed, path, **options: opened.append(path) or real(self, sealed, path, **options)
    )
    move("group_vars", write=False)
    assert opened.count(store.file(BOB)) == 1


def test_a_value_is_the_text_that_is_written(move, keys, source, sealer, new_member):
    text = (
        "b2_application_key_id: 0051234567012345670000001\nb2_application_key: 1e5\nb2_account_id: 123456701234\n"
        f"b2_email: {ALICE}\nb2_group_id: {GROUP}\nb2_region:\nb2_s3_endpoint: ~\n"
    )
    wanted = StoredKey(ALICE, "0051234567012345670000001", "1e5", "123456701234", GROUP)
    store = HostVarsStore(source, sealer)
    seal(store.file(ALICE), sealer, text)
    for number, more in enumerate(
        ("{a: b}: c", "[1]: 2", "mine: [1, {a: b}]", "mine: &x [*x]", "b2_member: !vault x", f"mine: {'[' * 2000}")
    ):
        email = f"m{number}@x.example"
        seal(store.file(email), sealer, text.replace(ALICE, email) + more + "\n")
    result = move("group_vars", there=source)
    assert emails(result.moved) == [ALICE] and len(result.left) == 6
    assert keys_of_single(source, sealer) == {ALICE: wanted}


def keys_of_single(path, sealer):
    return GroupVarsStore(path, sealer, GROUP).keys()


def test_one_directory_under_two_names_is_locked_once(source, keys, sealer, new_member, tmp_path, move):
    HostVarsStore(source, sealer).seal(new_member())
    os.symlink(tmp_path, tmp_path / "another")
    result = move("group_vars", there=str(tmp_path / "another" / "source"))
    assert emails(result.moved) == [ALICE] and not result.left
    assert set(keys(source)[1]) == {ALICE}


@pytest.mark.parametrize("write", [True, False])
def test_where_there_is_no_room_is_said_in_check_mode_too(move, source, sealer, new_member, monkeypatch, write):
    HostVarsStore(source, sealer).seal(new_member())

    def no_room(self, keys):
        raise StoreError("There is no room.")

    monkeypatch.setattr(move_module.VaultDir, "prove_room", no_room)
    result = move("group_vars", write=write)
    assert not result.moved and not result.changed and "no room" in result.left[0].message


@pytest.mark.parametrize("fault", ["read", "remove"])
@pytest.mark.parametrize("layout", ["group_vars", "host_vars"])
def test_keys_that_are_in_both_layouts_are_all_named(
    move, keys, source, sealer, new_member, monkeypatch, layout, fault
):
    here = HostVarsStore(source, sealer) if layout == "group_vars" else GroupVarsStore(source, sealer, GROUP)
    here.seal(new_member())
    here.seal(new_member(BOB))
    sealed = []
    target = GroupVarsStore if layout == "group_vars" else KeyFiles
    seal_all = target.seal_all

    def failing(real):
        def call(*arguments):
            if sealed:
                raise StoreError("Broken.")
            return real(*arguments)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(target, "seal_all", lambda *arguments: (seal_all(*arguments), sealed.append(True))[0])
        if fault == "read":
            reader = GroupVarsStore if layout == "group_vars" else HostVarsStore
            patch.setattr(reader, "read", failing(reader.read))
        else:
            origin = KeyFiles if layout == "group_vars" else GroupVarsStore
            patch.setattr(origin, "remove", failing(origin.remove))
        result = move(layout)
    assert summary_of_move(result)["changed"] and not result.moved
    assert set(emails(result.left)) == {ALICE, BOB} and all(
        "as well" in entry.message and "Broken." in entry.message for entry in result.left
    )
    assert set(emails(move(layout).moved)) == {ALICE, BOB}


def test_a_group_that_another_run_works_on_is_named(move, source, sealer, new_member):
    store = HostVarsStore(source, sealer)
    store.seal(new_member())
    store.seal(new_member(BOB, group_id=OTHER))
    with store.locked(GROUP, 0.0, lambda seconds: None):
        result = move("group_vars")
        assert emails(result.moved) == [BOB]
        assert "holds the lock" in result.left[0].message and GROUP in result.left[0].message
    assert emails(move("group_vars").moved) == [ALICE]


@pytest.mark.parametrize("layout", ["group_vars", "host_vars"])
def test_a_key_that_changed_meanwhile_is_left_alone(move, keys, source, sealer, new_member, monkeypatch, layout):
    here = HostVarsStore(source, sealer) if layout == "group_vars" else GroupVarsStore(source, sealer, GROUP)
    here.seal(new_member())
    here.seal(new_member(BOB))
    target = GroupVarsStore if layout == "group_vars" else KeyFiles
    seal_all = target.seal_all

    def seal_all_and_let_somebody_in(*arguments):
        failed = seal_all(*arguments)
        (HostVarsStore(source, sealer) if layout == "group_vars" else GroupVarsStore(source, sealer, GROUP)).seal(
            new_member(region="changed"), again=True
        )
        return failed

    monkeypatch.setattr(target, "seal_all", seal_all_and_let_somebody_in)
    result = move(layout)
    assert emails(result.left) == [ALICE] and "changed meanwhile" in result.left[0].message
    assert emails(result.moved) == [BOB]
    assert {**keys(source)[0], **keys(source)[1]}[ALICE].region == "changed"


def test_a_key_that_cannot_be_read_back_stays_in_its_old_vault_file(
    move, keys, source, sealer, new_member, monkeypatch
):
    HostVarsStore(source, sealer).seal(new_member())
    monkeypatch.setattr(GroupVarsStore, "seal_all", lambda self, keys: {})
    result = move("group_vars")
    assert emails(result.left) == [ALICE] and "does not hold it as it was sealed" in result.left[0].message
    assert set(keys(source)[0]) == {ALICE}


def test_an_invalid_directory_changes_nothing(move, keys, source, target, sealer, new_member):
    HostVarsStore(source, sealer).seal(new_member())
    with open(target, "w"):
        pass
    with pytest.raises(StoreError):
        move("group_vars")
    assert set(keys(source)[0]) == {ALICE}


def note(path, sealer, group_id, *events):
    """Write events into the journal of a directory: (event, address, account id where it has one)."""
    directory = HostVarsStore(path, sealer)
    with directory.locked(group_id, 0.0, lambda seconds: None) as state:
        journal = Journal(state, directory.state_path(group_id))
        for event, *values in events:
            getattr(journal, event)(group_id, *values)
        journal.finish()


def entries_in(path, sealer, group_id=GROUP):
    directory = HostVarsStore(path, sealer)
    if not os.path.isdir(path):
        return {}
    with directory.state(group_id) as state:
        return {
            entry.email: entry
            for entry in Journal(state, directory.state_path(group_id), writable=False).entries(group_id)
        }


LOST = ("lost", "lost@x.example", "aaaaaaaaaaaa")


def test_the_record_of_lost_keys_moves_along_and_is_in_one_journal_only(move, source, target, sealer, new_member):
    HostVarsStore(source, sealer).seal(new_member())
    note(source, sealer, GROUP, LOST, ("ejecting", "out@x.example", "bbbbbbbbbbbb"), ("pending", "open@x.example"))
    move("group_vars", write=False)
    assert len(entries_in(source, sealer)) == 3
    move("group_vars")
    there = entries_in(target, sealer)
    assert set(there) == {"lost@x.example", "out@x.example"} and set(entries_in(source, sealer)) == {"open@x.example"}
    assert there["lost@x.example"].account_id == "aaaaaaaaaaaa" and there["out@x.example"].event is Event.EJECTING


def test_no_account_counts_as_lost_whose_key_may_be_in_the_old_directory(move, source, target, sealer, new_member):
    store = HostVarsStore(source, sealer)
    store.seal(new_member())
    seal(store.file(BOB), sealer, key_text(new_member(BOB)) + b"port: 22\n")
    seal(store.file("bad@x.example"), sealer, b"text")
    note(
        source,
        sealer,
        GROUP,
        *(("lost", email, "aaaaaaaaaaaa") for email in (ALICE, BOB, "bad@x.example")),
        ("pending", "new@x.example"),
    )
    assert emails(move("group_vars").moved) == [ALICE]
    assert not entries_in(target, sealer) and len(entries_in(source, sealer)) == 4


@pytest.mark.parametrize("layout", ["group_vars", "host_vars"])
def test_what_a_journal_knows_goes_along_though_no_key_does(move, source, target, sealer, new_member, layout):
    here = HostVarsStore(source, sealer) if layout == "group_vars" else GroupVarsStore(source, sealer, GROUP)
    here.seal(new_member())
    there = GroupVarsStore(target, sealer, GROUP) if layout == "group_vars" else HostVarsStore(target, sealer)
    os.mkdir(target)
    there.seal(new_member(key="K004another"))
    for group_id in (GROUP, OTHER):
        note(source, sealer, group_id, LOST)
    result = move(layout)
    assert not result.moved and emails(result.left) == [ALICE]
    for group_id in (GROUP, OTHER):
        assert set(entries_in(target, sealer, group_id)) == {"lost@x.example"} and not entries_in(
            source, sealer, group_id
        )


def test_what_the_new_journal_knows_otherwise_stays_in_both(move, source, target, sealer, new_member):
    HostVarsStore(source, sealer).seal(new_member())
    os.mkdir(target)
    note(source, sealer, GROUP, LOST, ("lost", "same@x.example", "cccccccccccc"))
    note(target, sealer, GROUP, ("lost", "lost@x.example", "bbbbbbbbbbbb"), ("lost", "same@x.example", "cccccccccccc"))
    move("group_vars")
    assert entries_in(target, sealer)["lost@x.example"].account_id == "bbbbbbbbbbbb"
    assert set(entries_in(source, sealer)) == {"lost@x.example"}


@pytest.mark.parametrize("layout", ["group_vars", "host_vars"])
def test_a_move_that_is_killed_anywhere_is_finished_by_the_next_one(move, keys, tmp_path, sealer, members, layout):
    """Once for each step that changes a name in a directory: the process is killed before it."""
    members = members[:3]
    everything = {one.email: one for one in members}
    doubled, sealed = 0, str(tmp_path / "sealed")
    os.mkdir(sealed)
    for one in members:
        (
            HostVarsStore(sealed, sealer) if layout == "group_vars" else GroupVarsStore(sealed, sealer, one.group_id)
        ).seal(one)
    note(sealed, sealer, GROUP, LOST)
    for step in range(1, 200):
        source, target = str(tmp_path / f"source{step}"), str(tmp_path / f"target{step}")
        shutil.copytree(sealed, source)
        child = os.fork()
        if not child:
            try:
                die_before_step(step)
                move(layout, here=source, there=target)
                os._exit(0)
            finally:
                os._exit(1)
        status = os.waitpid(child, 0)[1]
        here, there = ({**keys(path)[0], **keys(path)[1]} for path in (source, target))
        assert {**here, **there} == everything
        assert {**entries_in(source, sealer), **entries_in(target, sealer)}
        doubled += bool(set(here) & set(there))
        if not os.WIFSIGNALED(status):
            break
        result = move(layout, here=source, there=target)
        assert not result.left and set(emails(result.moved)) == set(here)
        assert set(entries_in(target, sealer)) == {"lost@x.example"} and not entries_in(source, sealer)
        assert keys(source) == ({}, {}) and {**keys(target)[0], **keys(target)[1]} == everything
        assert not [name for name in tree(source) if not name.endswith(".tmp")]
        assert layout == "host_vars" or not [
            name for name in tree(target) if name.endswith(".tmp") and "probe" not in name
        ]
    assert status == 0 and step > 15 and doubled > 1


def die_before_step(count):
    """Kill this process before it renames, unlinks or removes for that time."""
    left = [count]

    def dying(real):
        def call(*arguments, **options):
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **options)

        return call

    for name in ("rename", "unlink", "rmdir"):
        setattr(os, name, dying(getattr(os, name)))


def test_a_large_group_moves_with_few_decryptions_more_than_keys(move, source, sealer, members, decrypted):
    GroupVarsStore(source, sealer, GROUP).seal_all(members)
    decrypted.clear()
    move("host_vars")
    # Two probes, the one file, and each key once to see that it came.
    assert len(decrypted) <= len(members) + 5
