# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The fallback directory: it takes every key, and gives back no file of others."""

from __future__ import annotations

import dataclasses
import errno
import os
import re
import stat

import pytest
from ansible.parsing.vault import VaultSecret

from ansible_collections.community.backblaze.plugins.module_utils._errors import StoreError
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.fallback import (
    FallbackStore,
    account_in,
    open_fallback,
)
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


def test_the_key_of_an_account_is_found_unless_it_is_not_certain_to_be_its_own(fallback, new_member):
    own = fallback.seal(new_member())
    fallback.seal(dataclasses.replace(new_member(account_id="1" * 12), unproven=True))
    fallback.seal(new_member(account_id=""))
    # A file that does not decrypt has the id in its name.
    foreign = FallbackStore(fallback.path, Sealer([("default", VaultSecret(b"another"))]))
    unread = foreign.seal(new_member(account_id="2" * 12))
    assert fallback.paths() == {"5f2a1c0b3d4e": own, "2" * 12: unread}
    assert account_in(unread) == "2" * 12
    fallback.remove(own)
    fallback.remove(own)
    assert fallback.paths() == {"2" * 12: unread}


def test_a_key_that_is_moved_while_it_is_looked_for_is_left_out(fallback, new_member):
    """By a run for another Group."""
    paths = sorted(fallback.seal(new_member(key=key)) for key in ("K004one", "K004two"))
    found = fallback.found()
    assert next(found)[0] == paths[0]
    os.unlink(paths[1])
    assert list(found) == []


def test_a_fallback_directory_that_cannot_be_listed_is_no_empty_one(fallback, new_member, monkeypatch):
    """An account whose key is in it would count as one whose key is lost."""
    fallback.seal(new_member())

    def refused(path):
        raise PermissionError(errno.EACCES, "no")

    monkeypatch.setattr(os, "listdir", refused)
    with pytest.raises(StoreError, match="cannot be read"):
        list(fallback.found())


@pytest.mark.parametrize("job", [False, True])
@pytest.mark.parametrize("named", ["", "given"])
@pytest.mark.parametrize("durable", [False, True])
def test_the_fallback_directory_of_a_job_is_used_with_a_warning(monkeypatch, tmp_path, secrets, job, named, durable):
    for name in ("AWX_ISOLATED_DATA_DIR", "AWX_PRIVATE_DATA_DIR", "AWX_HOST", "JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    if job:
        monkeypatch.setenv("AWX_PRIVATE_DATA_DIR", "/runner")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    options = {"vault_fallback_dir": named, "vault_dir_is_durable": durable}
    fallback = open_fallback(options, Sealer(secrets), lambda path: str(tmp_path / path))
    assert fallback.path == str(tmp_path / (named or "community.backblaze"))
    if job and not (named and durable):
        assert fallback.path in fallback.unfit()
        assert ("vault_fallback_dir is not given" if not named else "vault_dir_is_durable: true") in fallback.unfit()
    else:
        assert fallback.unfit() == ""


@pytest.mark.parametrize("state", ["", "not/absolute"])
def test_the_default_fallback_directory_is_in_the_home_of_the_user(monkeypatch, secrets, state):
    monkeypatch.setenv("XDG_STATE_HOME", state)
    monkeypatch.setenv("HOME", "/home/ada")
    for options in ({"vault_fallback_dir": None}, {"vault_fallback_dir": ""}):
        fallback = open_fallback(options, Sealer(secrets), lambda path: path)
        assert fallback.path == "/home/ada/.local/state/community.backblaze"


def test_a_fallback_directory_is_fit_if_this_user_can_write_it(secrets, tmp_path, monkeypatch):
    """Root may do everything; the answer of the system is taken from a stand-in."""
    (tmp_path / "there").mkdir()
    os.symlink(tmp_path / "there", tmp_path / "link")
    # A link on the way is the business of those who made it.
    stores = [FallbackStore(str(tmp_path / path), Sealer(secrets)) for path in ("there", "there/a/b", "link/a")]
    assert [store.unfit() for store in stores] == ["", "", ""]
    for missing in (os.W_OK, os.X_OK):
        monkeypatch.setattr(os, "access", lambda path, wanted, missing=missing: not wanted & missing)
        assert all("no directory that this user can write" in store.unfit() for store in stores)
