# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Test file permissions as ordinary users. Root becomes such a user in a child process."""

from __future__ import annotations

import importlib
import os
import pathlib
import shutil
import stat
import tempfile
import time
import traceback

import pytest

from ansible_collections.community.backblaze.plugins.module_utils._errors import B2Error, StoreError
from ansible_collections.community.backblaze.plugins.module_utils._lease import new_lease
from ansible_collections.community.backblaze.plugins.module_utils._vault_mode import PRIVATE, modes_of
from ansible_collections.community.backblaze.plugins.modules import b2_vault_files
from ansible_collections.community.backblaze.plugins.plugin_utils._locations import remote_copy
from ansible_collections.community.backblaze.plugins.plugin_utils._locations.location import CONTROLLER
from ansible_collections.community.backblaze.plugins.plugin_utils._locations.remote_copy import RemoteCopy
from ansible_collections.community.backblaze.plugins.plugin_utils._locations.target import Target
from ansible_collections.community.backblaze.plugins.plugin_utils._move.move import Move, move_keys
from ansible_collections.community.backblaze.plugins.plugin_utils._run.journal import Journal
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.host_vars import HostVarsStore
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.layouts import (
    GROUP_VARS,
    HOST_VARS,
    open_store,
    open_stores,
)
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.sealer import Sealer

# Loaded before a child process becomes a user who cannot read where this Python is.
for module in ("concurrent.futures.thread", "encodings.ascii", "encodings.latin_1"):
    importlib.import_module(module)

ALICE = "alice@x.example"
BOB = "bob@x.example"
CLEO = "cleo@x.example"
GROUP = "100001"
SHARED = modes_of("0660")
ROOT = os.geteuid() == 0
#: Numbers that no account of a machine needs to have: who a process is does not depend on that.
FIRST, SECOND = (64001, 64002) if ROOT else (os.geteuid(), os.geteuid())
TEAM = 64003 if ROOT else os.getegid()


def as_user(user, work):
    """Run ``work`` in a child process as a user of the team; return what it returned, or the text of its StoreError."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        try:
            if ROOT:
                os.setgroups([TEAM])
                os.setgid(user)
                os.setuid(user)
            # What most users have; it would take from a mode whatever is made without fchmod.
            os.umask(0o077)
            try:
                said = str(work())
            except StoreError as exc:
                said = str(exc)
            os.write(writing, said.encode())
            status = 0
        except BaseException:  # noqa: BLE001 - the parent process shows whatever it is
            os.write(writing, traceback.format_exc().encode())
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    assert os.waitpid(child, 0)[1] == 0, said
    return said


@pytest.fixture
def vault_dir():
    """A directory that both users can reach and the first one owns: the team's, with setgid."""
    top = pathlib.Path(tempfile.mkdtemp(prefix="b2-access-"))
    top.chmod(0o755)
    (top / "copies").mkdir()
    (top / "copies").chmod(0o1777)
    path = top / "host_vars"
    path.mkdir()
    if ROOT:
        os.chown(path, FIRST, TEAM)
    path.chmod(0o2770)
    yield path
    shutil.rmtree(top)


@pytest.fixture
def sealer(secrets):
    return Sealer(secrets)


def closed(path):
    """Make a directory that nobody but root can read."""
    path.mkdir(mode=0)
    path.chmod(0)
    return path


# What cannot be read


@pytest.fixture
def beside_a_closed_one(vault_dir, sealer, new_member):
    """A directory with one key, and what mkfs leaves on a volume of its own."""
    as_user(FIRST, lambda: HostVarsStore(str(vault_dir), sealer).seal(new_member()))
    closed(vault_dir / "lost+found")
    return vault_dir


def test_what_cannot_be_a_members_directory_need_not_be_readable(beside_a_closed_one, sealer):
    path = str(beside_a_closed_one)

    def look():
        store = HostVarsStore(path, sealer)
        store.prove([ALICE, BOB], write=True)
        return list(store.stored())

    assert as_user(FIRST, look) == str([ALICE])


def test_a_move_does_not_look_into_it(beside_a_closed_one, sealer):
    path = str(beside_a_closed_one)

    def move():
        moved = move_keys(Move("group_vars", path, path, vault_lock_timeout=0.0), sealer)
        return [entry.email for entry in moved.moved], [entry.message for entry in moved.left]

    assert as_user(FIRST, move) == str(([ALICE], []))


def test_on_a_host_it_need_not_be_readable_either(beside_a_closed_one):
    path = str(beside_a_closed_one)
    assert as_user(FIRST, lambda: list(b2_vault_files.read(path, {})["files"])) == str([f"{ALICE}/b2_vault.yml"])


def test_a_members_directory_has_to_be_readable(beside_a_closed_one, sealer):
    """There may be a key in it."""
    (beside_a_closed_one / "lost+found").rename(beside_a_closed_one / BOB)
    path = str(beside_a_closed_one)
    assert f"{path}/{BOB}" in as_user(FIRST, lambda: list(HostVarsStore(path, sealer).stored()))
    with pytest.raises(AssertionError):
        as_user(FIRST, lambda: b2_vault_files.read(path, {}))


# A team


def provision(store, new):
    """Do all that a run does in a vault directory."""
    email = new.email
    store.prove([email], write=True)
    with store.locked(GROUP, 0.0, time.sleep) as state:
        journal = Journal(state, store.state_path(GROUP), location=store.location, modes=store.modes)
        stored = store.stored()
        store.prove_writing()
        journal.pending(GROUP, email)
        store.seal(new)
        store.unproven.put(email, new)
        journal.close(GROUP, email, sync=False)
        journal.finish()
        store.remember()
    return sorted(stored)


def found_in(path):
    """Return the modes and the groups of all that is in a directory, by kind."""
    found = [
        os.lstat(os.path.join(where, name)) for where, folders, files in os.walk(path) for name in (*folders, *files)
    ]
    files = {stat.S_IMODE(one.st_mode) for one in found if stat.S_ISREG(one.st_mode)}
    folders = {stat.S_IMODE(one.st_mode) for one in found if stat.S_ISDIR(one.st_mode)}
    return files, folders, {one.st_gid for one in found}


@pytest.mark.parametrize("layout", [HOST_VARS, GROUP_VARS])
@pytest.mark.parametrize("top", ["", "new/host_vars"])
def test_two_users_of_a_group_take_turns(vault_dir, sealer, new_member, layout, top):
    path = str(vault_dir / top)

    def run(email):
        return provision(open_stores(layout, path, sealer, modes=SHARED)(GROUP), new_member(email, f"K004{email}"))

    assert as_user(FIRST, lambda: run(ALICE)) == "[]"
    assert as_user(SECOND, lambda: run(BOB)) == str([ALICE])
    assert as_user(FIRST, lambda: run(CLEO)) == str([ALICE, BOB])
    assert found_in(vault_dir) == ({0o660}, {0o2770}, {TEAM})


@pytest.mark.parametrize("layout", [HOST_VARS, GROUP_VARS])
def test_two_users_of_a_group_take_turns_on_a_host(vault_dir, sealer, new_member, layout, monkeypatch):
    monkeypatch.setattr(remote_copy, "_GATHER_SECONDS", 0.001)
    path = str(vault_dir / "new")

    def execute(arguments):
        optional = {"bundle": None, "group": None, "lease": None, "instead_of": None}
        try:
            return b2_vault_files.run({**optional, **arguments})
        except B2Error as exc:
            return {"failed": True, "msg": exc.happened}

    def run(email):
        # The copy is private, and the user's own.
        copy = tempfile.mkdtemp(dir=vault_dir.parent / "copies")
        location = RemoteCopy(f"{copy}/copy", Target("srv1", path, execute, SHARED))
        try:
            stored = provision(
                open_stores(layout, location.copy, sealer, location)(GROUP), new_member(email, f"K004{email}")
            )
            return stored, found_in(copy)[:2] == ({PRIVATE.file}, {PRIVATE.directory})
        finally:
            shutil.rmtree(copy)

    assert as_user(FIRST, lambda: run(ALICE)) == str(([], True))
    assert as_user(SECOND, lambda: run(BOB)) == str(([ALICE], True))
    assert found_in(vault_dir) == ({0o660}, {0o2770}, {TEAM})
    claimed = as_user(
        FIRST,
        lambda: execute(
            {"path": path, "operation": "claim", "group": GROUP, "lease": new_lease().as_text(), "mode": "0660"}
        )["ours"],
    )
    assert claimed == "True" and (vault_dir / "new" / ".b2_members" / GROUP / "lease").exists()
    assert found_in(vault_dir) == ({0o660}, {0o2770}, {TEAM})


def test_a_move_gives_the_mode_as_well(vault_dir, sealer, new_member):
    path = str(vault_dir)
    as_user(FIRST, lambda: HostVarsStore(path, sealer).seal(new_member()))
    as_user(
        FIRST,
        lambda: move_keys(Move(GROUP_VARS, path, f"{path}/moved", vault_lock_timeout=0.0, modes=SHARED), sealer).moved,
    )
    assert as_user(SECOND, lambda: list(open_store(GROUP_VARS, f"{path}/moved", sealer, GROUP).stored())) == str(
        [ALICE]
    )
    assert found_in(vault_dir) == ({0o660}, {0o2770}, {TEAM})


def test_without_a_mode_all_is_for_the_one_who_made_it(vault_dir, sealer, new_member):
    path = str(vault_dir)
    as_user(FIRST, lambda: provision(HostVarsStore(path, sealer), new_member()))
    files, folders, _groups = found_in(vault_dir)
    # The kernel has inherited setgid.
    assert (files, {mode & 0o777 for mode in folders}) == ({0o600}, {0o700})


def test_a_file_that_is_replaced_keeps_its_mode_unless_one_is_given(vault_dir, sealer, new_member):
    path = str(vault_dir)
    file = vault_dir / f"b2_group_{GROUP}" / "b2_vault.yml"

    def run(email, modes):
        open_stores(GROUP_VARS, path, sealer, CONTROLLER, modes)(GROUP).seal(new_member(email, f"K004{email}"))
        return oct(stat.S_IMODE(os.stat(file).st_mode))

    assert as_user(FIRST, lambda: run(ALICE, PRIVATE)) == "0o600"
    file.chmod(0o640)
    assert as_user(FIRST, lambda: run(BOB, PRIVATE)) == "0o640"
    assert as_user(FIRST, lambda: run(CLEO, SHARED)) == "0o660"


@pytest.mark.parametrize("what", ["lock", "", ".b2_members", ALICE, f"{ALICE}/b2_vault.yml"])
def test_the_path_that_was_refused_is_named(vault_dir, sealer, new_member, what):
    """And not only the directory that all of them are in."""
    path = str(vault_dir)
    as_user(FIRST, lambda: provision(open_stores(HOST_VARS, path, sealer, modes=SHARED)(GROUP), new_member()))
    refused = vault_dir / ".b2_members" / GROUP / what if what in ("lock", "") else vault_dir / what
    refused.chmod(0)
    said = as_user(
        SECOND, lambda: provision(open_stores(HOST_VARS, path, sealer, modes=SHARED)(GROUP), new_member(BOB, "K004bob"))
    )
    assert f"{refused}: Permission denied" in said or f"{refused} cannot be read (Permission denied)" in said, said
    if what in (ALICE, ".b2_members"):
        with pytest.raises(AssertionError, match=f"PermissionError.*{refused}"):
            as_user(SECOND, lambda: b2_vault_files.read(path, {}))
