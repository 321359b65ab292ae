# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The fallback directory: it takes every key, and gives back no file of others."""

from __future__ import annotations

import os
import re
import stat

import pytest
from ansible.parsing.vault import VaultSecret

from ansible_collections.community.backblaze.plugins.module_utils._errors import StoreError
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.fallback import FallbackStore
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.sealer import Sealer
from ansible_collections.community.backblaze.tests.utils.vault_files import contents, read, write

ALICE = "alice@x.example"


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
    assert set(contents(fallback.path)) == {os.path.basename(path) for path in made}


def test_a_key_in_the_fallback_place_that_has_not_got_its_name_yet_is_found(fallback, new_member):
    """A run was killed just before it had; half a file is no key."""
    path = fallback.seal(new_member())
    directory, name = os.path.split(path)
    sealed = read(path)
    os.rename(path, os.path.join(directory, f".{name}.0123456789ab.tmp"))
    write(os.path.join(directory, f".{name}.ba9876543210.tmp"), sealed[: len(sealed) // 2])
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
    write(os.path.join(fallback.path, "notes.b2_vault.yml"), b"plain\n")
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
