# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The vault directory, whatever the layout of its keys: proven before the first create, and locked during a run."""

from __future__ import annotations

import contextlib
import errno
import os
import signal

import pytest

from ansible_collections.community.backblaze.plugins.module_utils._errors import StoreError
from ansible_collections.community.backblaze.plugins.module_utils._files import DIRECTORY, opened
from ansible_collections.community.backblaze.plugins.module_utils._lease import Lease, claim, lease_locked, release
from ansible_collections.community.backblaze.plugins.plugin_utils._locations.location import Controller
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.host_vars import HostVarsStore
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.sealer import Sealer
from ansible_collections.community.backblaze.tests.utils.vault_files import (
    contents,
    in_child,
    prove,
    with_a_full_disk,
    write,
)

GROUP = "100001"


def locked(store, patience=0.0, wait=lambda seconds: None):
    return store.locked(GROUP, patience, wait)


# Proofs


def test_no_room_is_found_before_anything_is_made(store):
    with pytest.raises(StoreError, match="no room"):
        store.prove_room(10**12)


def test_a_full_disk_is_found_by_the_proof_which_leaves_nothing(store):
    os.mkdir(store.path)
    assert "StoreError" in with_a_full_disk(lambda: prove(store), size=100)
    assert contents(store.path) == {}


def test_a_run_killed_in_the_middle_of_the_proof_does_not_block_the_next_one(store):
    write(os.path.join(store.path, ".probe.0123456789ab.tmp"), b"half")
    prove(store)


@pytest.mark.parametrize("name", ["write", "fsync", "rename"])
def test_a_proof_of_writing_that_fails_leaves_nothing(store, monkeypatch, name):
    prove(store)

    def fails(*args, **options):
        raise OSError(errno.ENOSPC, "No space left")

    with monkeypatch.context() as patch, pytest.raises(StoreError, match=r"cannot be written .*No space left"):
        patch.setattr(os, name, fails)
        store.prove_writing()
    assert os.listdir(store.path) == []


# One run at a time


def test_a_second_process_is_told_who_holds_the_lock(store):
    prove(store)

    def second():
        try:
            with locked(store):
                return "had the lock"
        except StoreError as exc:
            return exc

    with locked(store):
        words, _status = in_child(second)
    assert f"process {os.getpid()} on {os.uname().nodename}" in words
    assert "vault_lock_timeout" in words
    assert in_child(second)[0] == "had the lock"


def test_a_lock_of_a_dead_process_holds_nobody(store):
    prove(store)

    def killed():
        with locked(store):
            os.kill(os.getpid(), signal.SIGKILL)

    assert os.WTERMSIG(in_child(killed)[1]) == signal.SIGKILL
    with locked(store):
        pass


def test_a_waiting_process_gets_the_lock_in_the_end(store):
    prove(store)
    held = locked(store)
    held.__enter__()
    waits = []

    def wait(seconds):
        waits.append(seconds)
        if len(waits) == 3:
            held.__exit__(None, None, None)

    with locked(store, 60.0, wait):
        assert len(waits) == 3
    # Neither without a pause nor for longer than another run may have to wait for nothing.
    assert all(0 < seconds <= 1 for seconds in waits)


def test_a_symlinked_lock_is_not_followed(store, tmp_path):
    prove(store)
    os.makedirs(store.state_path(GROUP))
    os.symlink(tmp_path / "victim", os.path.join(store.state_path(GROUP), "lock"))
    with pytest.raises(StoreError), locked(store):
        pass
    assert not (tmp_path / "victim").exists()


def test_errors_of_the_work_under_the_lock_are_not_blamed_on_the_lock(store):
    prove(store)
    with pytest.raises(OSError, match="the caller's own"), locked(store):
        raise OSError("the caller's own")


def test_the_holder_of_a_lock_is_shown_as_long_as_it_holds_it(store):
    assert store.holder(GROUP) == ""
    prove(store)
    assert store.holder(GROUP) == ""
    with locked(store) as state:
        assert f"process {os.getpid()} on {os.uname().nodename}" in store.holder(GROUP)
        assert store.holder("100002") == ""
        assert os.path.samestat(os.fstat(state), os.stat(store.state_path(GROUP)))
        # The journal can be read meanwhile.
        with store.state(GROUP) as seen:
            assert os.path.samestat(os.fstat(state), os.fstat(seen))
    assert store.holder(GROUP) == ""
    # The file is the same after every run, for those who have it in Git.
    assert list(contents(store.path).values()) == [b""]


def test_a_run_on_another_machine_holds_the_lock_by_its_lease(store):
    prove(store)
    with locked(store) as state, lease_locked(state):
        pass
    other = Lease("id", 4711, "another-machine", "2026-01-01T00:00:00+0000")
    with opened(None, store.state_path(GROUP), DIRECTORY) as state:
        with lease_locked(state):
            assert claim(state, other).ours
        with pytest.raises(StoreError) as refused, locked(store):
            pass
        assert f"holds the lease of {store.path} for Group {GROUP}: {other}." in refused.value.happened
        assert "taken over after 10 minutes" in refused.value.remedy
        assert store.holder(GROUP) == str(other)
        with lease_locked(state):
            release(state, other)
        with locked(store):
            pass


# Other locations


class Elsewhere(Controller):
    """Another location, which notes what it is asked."""

    def __init__(self):
        super().__init__()
        self.asked, self.run, self.free = [], None, (10**9, None)

    def fetch(self):
        self.asked.append("fetch")

    def prove_writing(self):
        self.asked.append("prove_writing")

    def room(self, path):
        return self.free

    def holder(self, group):
        return self.run and f"{self.run} of {group}"

    @contextlib.contextmanager
    def lease(self, group, patience, wait):
        self.asked.append(("lease", group, patience, wait))
        yield
        self.asked.append("end of lease")


@pytest.fixture
def elsewhere(tmp_path, secrets):
    return HostVarsStore(str(tmp_path / "vault"), Sealer(secrets), location=Elsewhere())


def test_the_holder_of_a_lock_in_another_location_is_asked_for_there(elsewhere):
    assert elsewhere.holder(GROUP) == ""
    elsewhere.location.run = "the run"
    assert elsewhere.holder(GROUP) == f"the run of {GROUP}"


def test_a_remote_copy_is_fetched_before_it_is_proven_and_again_under_the_lease(elsewhere):
    asked, wait = elsewhere.location.asked, print
    prove(elsewhere)
    assert asked == ["fetch", "prove_writing"]
    asked.clear()
    with locked(elsewhere, 7.0, wait) as state:
        assert asked == [("lease", GROUP, 7.0, wait), "fetch"]
        # The lease in a copy is nobody's: the location has given its own.
        with lease_locked(state):
            assert not claim(state, Lease("id", 4711, "another-machine", "")).ours
    assert asked[-1] == "end of lease" and elsewhere.location.asked.count("fetch") == 1


@pytest.mark.parametrize("rewritten", [None, 0, 5000])
@pytest.mark.parametrize("keys", [1, 7])
def test_room_is_wanted_for_each_key_and_for_a_file_that_is_written_again(elsewhere, rewritten, keys):
    elsewhere.rewritten = rewritten
    room = keys * 16 * 1024 + (rewritten or 0)
    inodes = 3 * (keys if rewritten is None else 1)
    for free, enough in (
        ((room, None), True),
        ((room, inodes), True),
        ((room - 1, None), False),
        ((room, inodes - 1), False),
        ((room, 0), False),
    ):
        elsewhere.location.free = free
        elsewhere.prove_room(0)
        if enough:
            elsewhere.prove_room(keys)
        else:
            with pytest.raises(StoreError, match=f"no room for {keys} keys"):
                elsewhere.prove_room(keys)
