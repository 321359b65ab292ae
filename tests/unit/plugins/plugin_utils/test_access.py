# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What file permissions do: as ordinary users, to whom not everything is readable. Root becomes such a user in a child process."""

from __future__ import annotations

# Loaded before a child process becomes a user who cannot read where this Python is.
import concurrent.futures.thread  # noqa: F401
import os
import pathlib
import shutil
import tempfile
import traceback

import pytest

from ansible_collections.community.backblaze.plugins.module_utils._errors import StoreError
from ansible_collections.community.backblaze.plugins.modules import b2_vault_files
from ansible_collections.community.backblaze.plugins.plugin_utils._host_vars import HostVarsStore
from ansible_collections.community.backblaze.plugins.plugin_utils._layouts import Move, move_keys
from ansible_collections.community.backblaze.plugins.plugin_utils._vault import Sealer

ALICE = "alice@x.example"
BOB = "bob@x.example"
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
        moved = move_keys(Move("single_file", path, path, lock_timeout=0.0), sealer)
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
