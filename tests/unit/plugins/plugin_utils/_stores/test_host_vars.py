# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One vault file for each member: what only this layout has. test_contract.py has the rest."""

from __future__ import annotations

import os

import pytest

from ansible_collections.community.backblaze.plugins.module_utils._errors import StoreError
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.key_file import key_text
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.sealer import Sealer
from ansible_collections.community.backblaze.tests.utils.vault_files import (
    TEMPORARY,
    beside,
    contents,
    prove,
    read,
    untouched,
    write,
)

ALICE = "alice@x.example"
BOB = "bob@x.example"
ACCOUNT = "5f2a1c0b3d4e"


def test_the_key_of_another_address_stops_everything(store, new_member, secrets):
    prove(store)
    sealed = Sealer(secrets).seal(key_text(new_member(BOB)))
    write(beside(store.file(ALICE), TEMPORARY), sealed)
    with untouched(store.path):
        # It is named, for it may be the key.
        left = store.recover(ALICE, ACCOUNT, write=True)
        assert (left.key_id, left.path) == ("", beside(store.file(ALICE), TEMPORARY))
    write(store.file(ALICE), sealed)
    for work in (store.stored, lambda: store.read(ALICE), lambda: store.seal(new_member())):
        with pytest.raises(StoreError, match="another address"):
            work()
    assert read(store.file(ALICE)) == sealed


def test_only_directories_of_members_are_looked_into(store, new_member, tmp_path):
    prove(store)
    store.seal(new_member())
    for name in ("lost+found", "b2_group_100001", "@dir", "group@x.example"):
        write(os.path.join(store.path, name, "vars.yml"), b"mine: 1\n")
    write(os.path.join(store.path, "lost+found", "b2_vault.yml"), b"not ours")
    write(os.path.join(store.path, "plain@x.example"), b"not ours")
    os.symlink(os.path.join(store.path, ALICE), os.path.join(store.path, "link@x.example"))
    with untouched(store.path):
        assert list(store.stored()) == [ALICE]


def test_a_file_of_one_address_says_nothing_about_another(store, new_member):
    prove(store)
    store.seal(new_member())
    write(store.file(BOB), b"not a vault file")
    assert list(store.stored([ALICE])) == [ALICE]
    with pytest.raises(StoreError, match="not an Ansible Vault file"):
        store.stored([ALICE, BOB])


def test_all_files_of_variables_that_would_be_switched_off_are_found_at_once(store, monkeypatch):
    for name in (ALICE, BOB, "old@x.example"):
        write(f"{store.path}/{name}.yml", b"mine: 1\n")
    os.mkdir(f"{store.path}/old@x.example")
    listed, listdir = [], os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: listed.append(path) or listdir(path))
    many = [f"m{number}@x.example" for number in range(20)]
    with pytest.raises(StoreError, match=r" beside it, and 1 more such files: "):
        store.prove_nothing_switched_off([*many, ALICE, BOB, "old@x.example"])
    assert listed == [store.path]
    store.prove_nothing_switched_off(["old@x.example", *many])
    assert len(contents(store.path)) == 3
