# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Test the remote copy of a vault directory on a host. The module that runs on hosts runs in this process."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
import zlib

import pytest
from ansible.errors import AnsibleError

from ansible_collections.community.backblaze.plugins.module_utils import _bundle, _lease
from ansible_collections.community.backblaze.plugins.module_utils._errors import B2Error, StoreError
from ansible_collections.community.backblaze.plugins.module_utils._files import digest
from ansible_collections.community.backblaze.plugins.module_utils._lease import Claim, Lease, new_lease, read_lease
from ansible_collections.community.backblaze.plugins.module_utils._vault_paths import is_synced_path
from ansible_collections.community.backblaze.plugins.modules import b2_vault_files
from ansible_collections.community.backblaze.plugins.plugin_utils._locations import lease as lease_module
from ansible_collections.community.backblaze.plugins.plugin_utils._locations import remote_copy, waiting
from ansible_collections.community.backblaze.plugins.plugin_utils._locations import target as target_location
from ansible_collections.community.backblaze.plugins.plugin_utils._locations.remote import Change, Contents, Written
from ansible_collections.community.backblaze.plugins.plugin_utils._locations.remote_copy import RemoteCopy
from ansible_collections.community.backblaze.plugins.plugin_utils._locations.target import Target
from ansible_collections.community.backblaze.plugins.plugin_utils._run.journal import Journal
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.group_vars import GroupVarsStore
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.host_vars import HostVarsStore
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.sealer import Sealer
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.store import secret_of
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.vault_dir import VaultDir

OPTIONS = {"bundle": None, "group": None, "lease": None, "instead_of": None}
GROUP = "100001"


class Wire:
    """Runs the module and notes its operations. broken: its error message instead of a result."""

    def __init__(self):
        self.asked = []
        self.broken = None
        # Whether a broken module writes all the same, and only its answer is lost.
        self.deaf = False

    def __call__(self, arguments):
        self.asked.append(arguments["operation"])
        # A lease can be released without free room.
        if self.broken and not self.deaf and arguments["operation"] != "release":
            return {"failed": True, "msg": self.broken}
        try:
            result = b2_vault_files.run({**OPTIONS, **arguments})
        except B2Error as exc:
            return {"failed": True, "msg": exc.happened}
        return {"failed": True, "msg": self.broken} if self.broken else result


class Run:
    """One run: its remote copy, its store, and the reasons why it was stopped."""

    def __init__(self, directory, there, sealer, layout="host_vars"):
        self.wire = Wire()
        self.stopped = []
        self.location = RemoteCopy(
            str(directory / f"copy{os.urandom(4).hex()}"), Target("srv1", str(there), self.wire), self.stopped.append
        )
        path = self.location.copy
        self.store = (
            HostVarsStore(path, sealer, location=self.location)
            if layout == "host_vars"
            else GroupVarsStore(path, sealer, GROUP, self.location)
        )

    def held(self, patience=0.0, group=GROUP):
        return self.store.locked(group, patience, time.sleep)

    def journal(self, state, group=GROUP):
        return Journal(state, self.store.state_path(group), location=self.location)


@pytest.fixture(autouse=True)
def hurry(monkeypatch):
    monkeypatch.setattr(remote_copy, "_GATHER_SECONDS", 0.001)
    monkeypatch.setattr(lease_module, "_POLL_SECONDS", 0.01)


@pytest.fixture
def there(tmp_path):
    return tmp_path / "there" / "keys"


@pytest.fixture
def run(tmp_path, there, secrets):
    return lambda **options: Run(tmp_path, there, Sealer(secrets), **options)


@pytest.mark.parametrize("layout", ["host_vars", "group_vars"])
def test_a_sealed_key_is_on_the_host_and_the_next_run_finds_it(run, there, secrets, new_member, layout):
    first = run(layout=layout)
    with first.held():
        first.store.seal(new_member())
        sealer = Sealer(secrets)
        local = (
            HostVarsStore(str(there), sealer) if layout == "host_vars" else GroupVarsStore(str(there), sealer, GROUP)
        )
        assert secret_of(local, "alice@x.example") == (new_member().key_id, new_member().key)
        first.store.remember()
    second = run(layout=layout)
    second.store.prove(["alice@x.example"], write=True)
    with second.held():
        assert set(second.store.stored()) == {"alice@x.example"}
        second.store.remember()
    assert "write" not in second.wire.asked


def test_a_pending_entry_is_on_the_host_before_the_call_returns_and_only_open_ones_are_left(run, there):
    one = run()
    file = there / ".b2_members" / GROUP / "journal.jsonl"
    with one.held() as state:
        journal = one.journal(state)
        assert not file.exists(), "an empty journal is nothing to send"
        journal.pending(GROUP, "ada@x.example")
        assert b"pending" in file.read_bytes()
        journal.close(GROUP, "ada@x.example", sync=False)
        journal.pending(GROUP, "ben@x.example")
        journal.finish()
    assert file.read_text().count("\n") == 1 and "ben@x.example" in file.read_text()


def test_a_key_is_not_sealed_while_the_host_refuses_writes(run, there, new_member):
    one = run()
    with one.held() as state:
        journal = one.journal(state)
        one.wire.broken = "no room"
        with pytest.raises(StoreError, match="On srv1: no room"):
            one.store.seal(new_member())
        with pytest.raises(StoreError, match="no room"):
            journal.pending(GROUP, "ben@x.example")
        one.wire.broken = None
        # The same key again, as a worker does.
        path = one.store.seal(new_member())
        assert path.startswith(one.location.copy) and (there / "alice@x.example" / "b2_vault.yml").exists()
        journal.finish()


def test_a_refused_file_is_sent_with_the_next_one(run, there, new_member):
    one = run()
    with one.held():
        one.wire.broken = "no room"
        with pytest.raises(StoreError):
            one.store.seal(new_member())
        one.wire.broken = None
        one.store.seal(new_member("bob@x.example"))
        assert (there / "alice@x.example" / "b2_vault.yml").exists()


@pytest.mark.parametrize("layout", ["host_vars", "group_vars"])
def test_a_file_that_was_written_without_an_answer_is_ours(run, there, new_member, secrets, layout):
    """The same file is written once more with more in it, and replaces what it is of either."""
    one = run(layout=layout)
    with one.held() as state:
        journal = one.journal(state)
        one.wire.broken, one.wire.deaf = "the connection broke", True
        for _try in range(2):
            with pytest.raises(StoreError, match="the connection broke"):
                journal.pending(GROUP, "ada@x.example")
        with pytest.raises(StoreError, match="the connection broke"):
            one.store.seal(new_member())
        one.wire.broken = None
        journal.pending(GROUP, "ben@x.example")
        one.store.seal(new_member())
        one.store.seal(new_member("bob@x.example"))
    sealer = Sealer(secrets)
    local = HostVarsStore(str(there), sealer) if layout == "host_vars" else GroupVarsStore(str(there), sealer, GROUP)
    assert secret_of(local, "alice@x.example") and secret_of(local, "bob@x.example")
    assert "ben@x.example" in (there / ".b2_members" / GROUP / "journal.jsonl").read_text()


@pytest.mark.parametrize("layout", ["host_vars", "group_vars"])
def test_a_file_that_was_refused_for_one_group_is_not_written_for_the_next(run, there, new_member, secrets, layout):
    one = run(layout=layout)
    file = there / ("alice@x.example" if layout == "host_vars" else f"b2_group_{GROUP}") / "b2_vault.yml"
    theirs = Sealer(secrets).seal(b"a: of somebody else\n")
    with one.held():
        file.parent.mkdir()
        file.write_bytes(theirs)
        with pytest.raises(StoreError):
            one.store.seal(new_member())
    path, sealer = one.location.copy, Sealer(secrets)
    other = (
        HostVarsStore(path, sealer, location=one.location)
        if layout == "host_vars"
        else GroupVarsStore(path, sealer, "100002", one.location)
    )
    other.prove(["bob@x.example"], write=True)
    with one.held(group="100002"):
        other.seal(new_member("bob@x.example"))
    assert file.read_bytes() == theirs and (there / os.path.relpath(other.file("bob@x.example"), path)).exists()


def test_a_refused_journal_is_left_to_the_run_that_holds_its_group(run, there, new_member):
    one, other = run(), run()
    file = there / ".b2_members" / GROUP / "journal.jsonl"
    with one.held() as state:
        journal = one.journal(state)
        journal.pending(GROUP, "ada@x.example")
        before = file.read_bytes()
        journal.close(GROUP, "ada@x.example", sync=False)
        one.wire.broken = "no room"
    one.wire.broken = None
    with other.held() as state:
        assert file.read_bytes() == before
        other.journal(state).pending(GROUP, "ben@x.example")
        with one.held(group="100002"):
            one.store.seal(new_member())
        assert "ben@x.example" in file.read_text()
        # The host refuses it as well.
        change = {f".b2_members/{GROUP}/journal.jsonl": {"data": "x", "replaces": [digest(file.read_bytes())]}}
        lease = new_lease().as_text()
        for group in ("100002", None):
            refused, _holder = b2_vault_files.write(str(there), {"files": change}, group, lease)
            assert list(refused.values()) == ["the lease of its Group is not the caller's"]


def test_refused_keys_of_a_group_are_left_to_the_run_that_holds_it(run, there, new_member, secrets):
    one, other = run(layout="group_vars"), run(layout="group_vars")
    file = there / f"b2_group_{GROUP}" / "b2_vault.yml"
    with one.held():
        one.store.seal(new_member())
        one.wire.broken = "the connection broke"
        with pytest.raises(StoreError):
            one.store.seal(new_member("bob@x.example"))
    one.wire.broken = None
    with other.held():
        theirs = file.read_bytes()
        with one.held(group="100002"):
            HostVarsStore(one.location.copy, Sealer(secrets), location=one.location).seal(new_member("dora@x.example"))
        assert file.read_bytes() == theirs
        other.store.seal(new_member("emil@x.example"))
    with one.held():
        assert set(one.store.stored()) == {"alice@x.example", "emil@x.example"}


def test_an_obstacle_for_one_group_is_none_for_the_next(run, there, new_member):
    one = run()
    with one.held():
        (there / "alice@x.example").symlink_to("elsewhere")
        with pytest.raises(StoreError, match="is in the way"):
            one.store.seal(new_member())
    for _again in range(2):
        with one.held(group="100002"):
            one.store.seal(new_member("bob@x.example"))
    assert (there / "bob@x.example" / "b2_vault.yml").exists()


def test_threads_that_publish_together_share_a_message(run, new_member):
    one = run()
    with one.held():
        before = one.wire.asked.count("write")
        remote_copy._GATHER_SECONDS = 0.2
        threads = [
            threading.Thread(target=one.store.seal, args=(new_member(f"m{number}@x.example"),)) for number in range(12)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert 1 <= one.wire.asked.count("write") - before <= 4


def test_a_file_that_somebody_else_changed_is_not_replaced_and_holds_up_no_other(run, there, new_member):
    one = run()
    with one.held():
        (there / "alice@x.example").mkdir()
        (there / "alice@x.example" / "b2_vault.yml").write_text("of somebody else")
        with pytest.raises(
            StoreError, match=r"alice@x.example/b2_vault.yml cannot be written .somebody else has changed it"
        ):
            one.store.seal(new_member())
        one.store.seal(new_member("bob@x.example"))
    assert (there / "alice@x.example" / "b2_vault.yml").read_text() == "of somebody else"
    assert (there / "bob@x.example" / "b2_vault.yml").exists()


def test_a_key_in_a_temporary_file_is_recovered_and_the_file_removed(run, there, new_member):
    first = run()
    with first.held():
        first.store.seal(new_member())
    location = there / "alice@x.example"
    (location / "b2_vault.yml").rename(location / ".b2_vault.yml.0a1b2c.tmp")
    second = run()
    with second.held():
        assert second.store.recover("alice@x.example", "5f2a1c0b3d4e", write=True)
    assert [path.name for path in location.iterdir()] == ["b2_vault.yml"]


def test_a_directory_that_was_removed_is_not_created_again(run, there, new_member):
    one = run()
    with one.held():
        there.rename(there.with_name("away"))
        with pytest.raises(StoreError):
            one.store.seal(new_member())
        with pytest.raises(StoreError):
            one.location._refresh()
        there.with_name("away").rename(there)
        one.store.seal(new_member())
    one = run()
    with one.held():
        there.rename(there.with_name("away"))
    assert not there.exists()


# Published keys that somebody else removes or changes


@pytest.mark.parametrize("layout", ["host_vars", "group_vars"])
def test_keys_that_are_gone_are_published_again(run, there, new_member, layout):
    one = run(layout=layout)
    with one.held():
        assert one.location.confirm() == {} and "read" not in one.wire.asked[2:], (
            "nothing was published, so there is nothing to look for"
        )
        path = one.store.seal(new_member())
        aside = one.store.unproven.put("alice@x.example", new_member(key="K004other"))
        before = len(one.wire.asked)
        assert one.location.confirm() == {} and one.wire.asked[before:] == ["read"]
        files = {name: (there / os.path.relpath(name, one.location.copy)) for name in (path, aside)}
        was = {name: file.read_bytes() for name, file in files.items()}
        for file in files.values():
            file.unlink()
        assert one.location.confirm() == {} and {name: file.read_bytes() for name, file in files.items()} == was
        # A key that the run itself has discarded is not missed.
        one.store.unproven.discard(aside)
        assert one.location.confirm() == {}


def test_a_key_that_cannot_be_published_again_is_named(run, there, new_member):
    one = run()
    with one.held():
        paths = [one.store.seal(new_member(f"{name}@x.example")) for name in ("alice", "bob", "carl", "dora")]
        (there / "alice@x.example" / "b2_vault.yml").write_text("of somebody else")
        for name in ("bob", "carl"):
            (there / f"{name}@x.example" / "b2_vault.yml").unlink()
        (there / "carl@x.example").rmdir()
        (there / "carl@x.example").symlink_to("elsewhere")
        assert one.location.confirm() == {
            paths[0]: "somebody else has changed the file",
            paths[2]: "a symlink is in the way",
        }
        assert (there / "alice@x.example" / "b2_vault.yml").read_text() == "of somebody else"
        assert (there / "bob@x.example" / "b2_vault.yml").exists()
        there.rename(there.with_name("away"))
        amiss = one.location.confirm()
        assert set(amiss) == set(paths) and all(
            reason.startswith("the file was removed and cannot be written again: On srv1: ")
            for reason in amiss.values()
        )
        there.with_name("away").rename(there)
        one.wire.broken = "no connection"
        with pytest.raises(StoreError, match="no connection"):
            one.location.confirm()


def test_a_key_that_is_gone_when_the_next_group_begins_is_kept(run, there, new_member):
    one = run()
    with one.held():
        path = one.store.seal(new_member())
        other = one.store.seal(new_member("bob@x.example"))
    (there / "alice@x.example" / "b2_vault.yml").unlink()
    (there / "bob@x.example" / "b2_vault.yml").write_text("of somebody else")
    with one.held(group="100002"):
        assert os.path.exists(path)
        assert one.location.confirm() == {other: "somebody else has changed the file"}
    assert (there / "alice@x.example" / "b2_vault.yml").exists() and one.store.read("bob@x.example")


# Leases


def test_a_second_run_waits_and_then_names_the_holder(run):
    first, second = run(), run()
    said = f"Another run works on Group {GROUP} in .*: process {os.getpid()} on "
    with first.held(), pytest.raises(StoreError, match=said), second.held(patience=0.05):
        pass
    with second.held():
        pass
    assert not second.location.notes and not first.stopped


HOLDER = """
import sys, time
from ansible.parsing.vault import VaultSecret
from ansible_collections.community.backblaze.plugins.modules import b2_vault_files
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.vault_dir import VaultDir
from ansible_collections.community.backblaze.plugins.plugin_utils._locations.remote_copy import RemoteCopy
from ansible_collections.community.backblaze.plugins.plugin_utils._locations.location import CONTROLLER
from ansible_collections.community.backblaze.plugins.plugin_utils._locations.target import Target
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.sealer import Sealer

where, there, copy, group, options = sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4], eval(sys.argv[5])
target = Target("srv1", there, lambda arguments: b2_vault_files.run({**options, **arguments}))
location = CONTROLLER if where == "controller" else RemoteCopy(copy, target)
sealer = Sealer([("default", VaultSecret(b"correct horse"))])
directory = VaultDir(there if where == "controller" else copy, sealer, location)
directory.prove_directory(write=True)
with directory.locked(group, 0, time.sleep):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holding(tmp_path, there):
    """Let another process hold a Group until the block ends: as on the controller, or through the module on a host."""

    @contextlib.contextmanager
    def hold(where):
        arguments = [where, str(there), str(tmp_path / f"copy{where}"), GROUP, repr(OPTIONS)]
        command = [sys.executable, "-c", HOLDER, *arguments]
        environment = {**os.environ, "PYTHONPATH": str(pathlib.Path(__file__).resolve().parents[8])}
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        ) as process:
            assert process.stdout.readline() == "held\n"
            yield process
            process.stdin.close()
            assert process.wait() in (0, -signal.SIGKILL)

    return hold


def test_a_run_on_another_machine_waits_for_the_lock(run, there, holding):
    second = run()
    with holding("controller") as process:
        said = rf"Another run works on Group {GROUP} in .*: process {process.pid} on "
        with pytest.raises(StoreError, match=said), second.held():
            pass
        with pytest.raises(StoreError, match=said), second.held(patience=0.1):
            pass
    with second.held(patience=20):
        pass
    assert second.location.notes == []
    assert (there / ".b2_members" / GROUP / "lock").stat().st_mode & 0o777 == 0o600


def test_a_run_on_this_machine_waits_for_the_lease(run, there, secrets, holding):
    directory = VaultDir(str(there), Sealer(secrets))
    with holding("host") as process:
        said = rf"Another run holds the lease of {there} for Group {GROUP}: process {process.pid} on .* 10 minutes"
        with pytest.raises(StoreError, match=said), directory.locked(GROUP, 0, time.sleep):
            pass
        # A waiting run holds nothing.
        with pytest.raises(StoreError, match=f"process {process.pid} on"), run().held():
            pass
    ours = f"process {os.getpid()} on"
    with directory.locked(GROUP, 0, time.sleep), pytest.raises(StoreError, match=ours), run().held():
        pass


@pytest.mark.parametrize("how", ["killed", "stale", "future", "damaged", "not a number"])
def test_a_run_on_this_machine_takes_over_a_lease_without_a_holder(run, there, secrets, holding, how):
    file = there / ".b2_members" / GROUP / "lease"
    directory = VaultDir(str(there), Sealer(secrets))
    first = run()
    with contextlib.ExitStack() as stack:
        if how == "killed":
            with holding("host") as process:
                process.kill()
        else:
            stack.enter_context(first.held())
            with pytest.raises(StoreError, match="holds the lease"), directory.locked(GROUP, 0, time.sleep):
                pass
            now = time.time()
            refreshed = {"stale": now - 601, "future": now + 3600, "damaged": "", "not a number": float("nan")}[how]
            lease = json.loads(file.read_text())["lease"]
            file.write_text(json.dumps({"lease": lease, "refreshed": refreshed}))
            os.utime(file, (1, 1))
        with directory.locked(GROUP, 0, time.sleep):
            # Its former holder notices, and other runs still wait.
            if how != "killed":
                first.location._refresh()
                assert len(first.stopped) == 1 and f"process {os.getpid()} on" in first.stopped[0]
            with pytest.raises(StoreError, match="works on Group"), run().held():
                pass
        last = run()
        with last.held():
            pass
        assert last.location.notes == []


@pytest.mark.parametrize("where", ["controller", "host"])
def test_both_sides_find_the_run_that_holds_a_group(run, there, secrets, holding, where):
    directory, one = VaultDir(str(there), Sealer(secrets)), run()
    one.location.fetch()

    def asked():
        return directory.holder(GROUP), one.store.holder(GROUP)

    assert asked() == ("", "") and not there.parent.exists(), "it made a directory"
    there.mkdir(parents=True)
    assert asked() == ("", "") and not list(there.iterdir()), "it made a directory"
    with holding(where) as process:
        before = _states(there)
        assert all(said.startswith(f"process {process.pid} on ") and ", since 20" in said for said in asked()), asked()
        assert _states(there) == before and directory.holder("100002") == one.store.holder("100002") == ""
    before = _states(there)
    assert asked() == ("", "") and _states(there) == before
    # The question holds nothing.
    with directory.locked(GROUP, 0, time.sleep):
        pass


@pytest.mark.parametrize("how", ["killed", "stale"])
def test_no_run_holds_a_group_if_its_holder_is_gone(run, there, secrets, holding, how):
    directory, one = VaultDir(str(there), Sealer(secrets)), run()
    one.location.fetch()
    with contextlib.ExitStack() as stack:
        if how == "killed":
            with holding("host") as process:
                process.kill()
        else:
            stack.enter_context(run().held())
            file = there / ".b2_members" / GROUP / "lease"
            file.write_text(json.dumps({**json.loads(file.read_text()), "refreshed": time.time() - 601}))
        assert directory.holder(GROUP) == one.store.holder(GROUP) == ""


def _states(there):
    return {path: path.stat().st_mtime_ns for path in there.rglob("*")}


@pytest.mark.parametrize("how", ["stale", "dead"])
def test_a_lease_without_a_holder_is_taken_over_with_a_note(run, monkeypatch, how):
    first, second = run(), run()
    gone = new_lease()
    if how == "dead":
        # Another process has that number now.
        gone = dataclasses.replace(gone, process=f"{gone.process}1")
    first.location._remote.claim(GROUP, gone, "")
    if how == "stale":
        monkeypatch.setattr(_lease.time, "time", lambda now=time.time: now() + 601)
    with second.held():
        pass
    assert len(second.location.notes) == 1 and f"was taken over from process {os.getpid()}" in second.location.notes[0]


def test_a_run_that_lost_its_lease_seals_its_keys_and_creates_no_more(run, there, new_member):
    first = run()
    with first.held() as state:
        journal = first.journal(state)
        journal.pending(GROUP, "ada@x.example")
        other = run()
        assert other.location._remote.claim(
            GROUP, dataclasses.replace(new_lease(), pid=4711, host="other"), _id_of(there)
        ).ours
        before = (there / ".b2_members" / GROUP / "journal.jsonl").read_bytes()
        with pytest.raises(StoreError, match="another run has taken over, process 4711 on other"):
            journal.pending(GROUP, "ben@x.example")
        assert len(first.stopped) == 1 and "process 4711 on other" in first.stopped[0]
        first.store.seal(new_member())
        assert (there / "alice@x.example" / "b2_vault.yml").exists()
        assert (there / ".b2_members" / GROUP / "journal.jsonl").read_bytes() == before
        journal.finish()
    assert _id_of(there) and "4711" in (there / ".b2_members" / GROUP / "lease").read_text(), (
        "the lease of another run was given up"
    )


def test_the_heartbeat_notices_a_lost_lease(run, there, monkeypatch):
    monkeypatch.setattr(lease_module, "REFRESH_SECONDS", 0.02)
    first, other = run(), run()
    with first.held():
        _wait_for(lambda: first.wire.asked.count("write") > 2)
        other.location._remote.claim(GROUP, dataclasses.replace(new_lease(), pid=4711), _id_of(there))
        _wait_for(lambda: first.stopped)


@pytest.mark.parametrize(
    "trouble",
    [
        *(OSError(28, "No space left on device"), AnsibleError("no route"), {"bundle": "!"}, {}),
        *(
            {"bundle": _bundle.pack(content)}
            for content in (
                [],
                {"room": [float("inf"), None], "files": {}, "paths": [], "obstacles": {}, "exists": True},
            )
        ),
    ],
)
def test_all_errors_of_the_connection_are_store_errors(tmp_path, trouble):
    def execute(arguments):
        if isinstance(trouble, Exception):
            raise trouble
        return trouble

    target = Target("srv1", "/srv/keys", execute)
    said = r"srv1:/srv/keys (?:cannot be reached|sent an invalid answer)"
    with pytest.raises(StoreError, match=said):
        target.read({})
    with contextlib.suppress(StoreError):
        target.write({"a@x/b2_vault.yml": Change(b"", frozenset())}, ())


def test_a_small_answer_does_not_fill_the_memory(monkeypatch):
    """What takes 64 KiB on the wire and 64 MiB in memory, without a bound."""
    monkeypatch.setattr(_bundle, "_LARGEST", 2**20)
    bomb = base64.b64encode(zlib.compress(b" " * 2**26)).decode()
    target = Target("srv1", "/srv/keys", lambda _given: {"bundle": bomb})
    tracemalloc.start()
    try:
        with pytest.raises(StoreError, match="sent an invalid answer"):
            target.read({})
        assert tracemalloc.get_traced_memory()[1] < 2**23
    finally:
        tracemalloc.stop()
    # What is cut off is no answer, and what is as large as it may be is one.
    for text, fits in ((b'{"a": "b"}', True), (b'{"a": "b"} ', False)):
        monkeypatch.setattr(_bundle, "_LARGEST", 10)
        answer = {"bundle": base64.b64encode(zlib.compress(text)).decode()}
        with contextlib.nullcontext() if fits else pytest.raises(ValueError):
            assert _bundle.unpack(answer["bundle"]) == {"a": "b"}
    with pytest.raises(ValueError):
        _bundle.unpack(base64.b64encode(zlib.compress(b'{"a": "b"}')[:-1]).decode())


def test_the_heartbeat_outlives_whatever_happens(monkeypatch):
    monkeypatch.setattr(lease_module, "REFRESH_SECONDS", 0.001)
    beats = []

    def refresh():
        beats.append(1)
        raise RuntimeError

    with lease_module.Heartbeat(refresh):
        _wait_for(lambda: len(beats) > 2)


def _wait_for(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _id_of(there):
    return read_lease(json.loads((there / ".b2_members" / GROUP / "lease").read_text())["lease"]).id


def test_a_lease_is_read_as_it_was_written_and_a_damaged_one_has_no_holder(monkeypatch):
    lease = new_lease()
    assert read_lease(lease.as_text()) == lease and not lease.dead
    assert dataclasses.replace(lease, pid=2**22 + 1).dead
    # On another machine, or where that cannot be told, nobody is dead for certain.
    assert not dataclasses.replace(lease, pid=2**22 + 1, process="").dead
    assert not dataclasses.replace(lease, pid=2**22 + 1, process="boot pid:[1] 5").dead
    with monkeypatch.context() as hidden:
        hidden.setattr(_lease, "_machine", lambda: "")
        assert not dataclasses.replace(lease, pid=2**22 + 1, process=" 5").dead and not new_lease().process
    # Where nothing can be seen of processes, one that can be asked for is there.
    with monkeypatch.context() as hidden:
        hidden.setattr(_lease, "_started", lambda pid: os.stat(f"/nonexistent/{pid}"))
        assert (
            not lease.dead
            and dataclasses.replace(lease, pid=2**22 + 1).dead
            and not dataclasses.replace(lease, pid=2**80).dead
        )
    for text in (
        "",
        "{}",
        "[]",
        "null",
        '{"id": 1}',
        '{"id": 1, "pid": 1e999, "host": "", "since": "", "process": ""}',
    ):
        assert isinstance(read_lease(text), Lease) and not read_lease(text).dead


# Paths


@pytest.mark.parametrize(
    "path",
    [
        "a@x/b2_vault.yml",
        "b2_group_1/b2_vault.yml",
        "a@x/.b2_vault.yml.0a1b2c.tmp",
        "a@x/.b2_vault.yml.0a1b2c.aside",
        ".b2_members/.index",
        ".b2_members/1/journal.jsonl",
    ],
)
def test_key_files_journals_and_the_index_are_synced(path):
    assert is_synced_path(path)


@pytest.mark.parametrize(
    "path",
    [
        *("b2_vault.yml", "a/b/b2_vault.yml", "a@x/vars.yml"),
        *("../b2_vault.yml", "./b2_vault.yml", ".b2_members/../journal.jsonl", "a@x/.b2_vault.yml.\nD keys\n#.tmp"),
        *(".b2_members/b2_vault.yml", ".b2_members/1/lock", ".b2_members/1/lease", ".b2_members/a/b/journal.jsonl"),
        *(
            "lost+found/b2_vault.yml",
            "all/b2_vault.yml",
            "b2_groups/b2_vault.yml",
            ".trash@x/b2_vault.yml",
            "a b@x/b2_vault.yml",
        ),
    ],
)
def test_no_other_path_is_synced(path):
    assert not is_synced_path(path)


@pytest.mark.parametrize(
    "path",
    [
        *(
            "../b2_vault.yml",
            "a/../b2_vault.yml",
            "/etc/b2_vault.yml",
            "./b2_vault.yml",
            "a//b2_vault.yml",
            "a\0/b2_vault.yml",
            "",
        ),
        ".b2_members/../journal.jsonl",
    ],
)
def test_no_path_leads_out_of_the_directory(there, path):
    there.mkdir(parents=True)
    refused, _holder = b2_vault_files.write(str(there), {"files": {path: {"data": "x", "replaces": [""]}}}, None, None)
    assert list(refused) == [path] and not list(there.iterdir()) and sorted(there.parent.iterdir()) == [there]


class Liar:
    """A remote side that is not trusted."""

    name = "srv1:/srv/keys"
    takes_index = True
    digest = staticmethod(digest)

    def __init__(self, **contents):
        self.contents = Contents(**{"files": {}, "paths": frozenset(), **contents})

    def read(self, known):
        return self.contents

    def write(self, changes, gone):
        self.told = [*getattr(self, "told", ()), *(change.data for change in changes.values())]
        return Written({self.refuses: "because"})

    def claim(self, group, lease, instead_of):
        return Claim(True)

    def release(self):
        pass


@pytest.mark.parametrize(
    "path",
    [
        "/{outside}/b2_vault.yml",
        "../outside/b2_vault.yml",
        "../b2_vault.yml",
        ".b2_members/../journal.jsonl",
        "..",
        "a@x\0",
        "\ud800/b2_vault.yml",
    ],
)
@pytest.mark.parametrize("kind", ["file", "path", "obstacles"])
def test_nothing_is_written_where_a_host_wants_it(tmp_path, path, kind):
    outside = tmp_path / "outside"
    outside.mkdir()
    path = path.format(outside=str(outside)[1:])
    lie = {
        "file": {"files": {path: b"x"}},
        "path": {"paths": frozenset([path])},
        "obstacles": {"obstacles": {path: "symlink"}},
    }[kind]
    location = RemoteCopy(str(tmp_path / "copy"), Liar(**lie))
    location._digests[path] = "known"
    with pytest.raises(StoreError, match="which no key can have"):
        location.fetch()
    assert sorted(tmp_path.iterdir()) == [outside] and not list(outside.iterdir())


@pytest.mark.parametrize("path", ["{outside}/secret", "../outside/secret"])
def test_nothing_is_read_or_removed_where_a_host_wants_it(tmp_path, path):
    """A host that says of a path it was not asked about that it cannot be written."""
    secret = tmp_path / "outside" / "secret"
    secret.parent.mkdir()
    secret.write_text("the vault password")
    liar = Liar()
    liar.refuses = path.format(outside=secret.parent)
    location = RemoteCopy(str(tmp_path / "copy"), liar)
    location.fetch()
    with location.lease(GROUP, 0, time.sleep):
        for email in ("ada@x", "ben@x"):
            (tmp_path / "copy" / email).mkdir()
            (tmp_path / "copy" / email / "b2_vault.yml").write_text("sealed")
            location.publish(str(tmp_path / "copy" / email / "b2_vault.yml"))
    assert secret.read_text() == "the vault password" and set(liar.told) == {b"sealed"}


NOW = float("nan")


@pytest.mark.parametrize(
    ("said", "seconds"),
    [(5.0, 5), (-5.0, 0), (float("-inf"), 0), (float("inf"), NOW), (float("nan"), NOW), (2.0**70, NOW)],
)
def test_a_copied_file_has_the_time_of_its_original(tmp_path, said, seconds):
    path = "ada@x/b2_vault.yml"
    location = RemoteCopy(str(tmp_path), Liar(files={path: b"x"}, paths=frozenset([path]), times={path: said}))
    before = time.time()
    location.fetch()
    found = (tmp_path / path).stat().st_mtime
    assert found == seconds or (seconds is NOW and before - 1 <= found <= time.time())


def test_invalid_ages_are_ignored(there):
    path = "ada@x/b2_vault.yml"
    (there / path).parent.mkdir(parents=True)
    (there / path).write_text("x")
    os.utime(there / path, (1000, 1000))
    found = b2_vault_files.read(str(there), {})

    def times(ages):
        bundle = _bundle.pack({**found, "ages": ages})
        return Target("srv1", str(there), lambda _given: {"bundle": bundle}).read({}).times

    assert abs(times(found["ages"])[path] - 1000) < 60
    for age in ("1", None, True, [], {}, 10**400):
        assert times({path: age}) == {}


@pytest.mark.parametrize("where", ["folder", "file", "state", "root", "lease"])
def test_no_symlink_is_followed_on_the_host(run, there, tmp_path, new_member, where):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("")
    one = run()
    if where == "root":
        there.parent.mkdir()
        there.symlink_to(outside)
    elif where == "state":
        there.mkdir(parents=True)
        (there / ".b2_members").symlink_to(outside)
    elif where == "lease":
        (there / ".b2_members" / GROUP).mkdir(parents=True)
        (there / ".b2_members" / GROUP / "lease").symlink_to(outside / "file")
    if where in ("root", "state", "lease"):
        with pytest.raises(StoreError), one.held():
            pass
    else:
        with one.held():
            folder = there / "alice@x.example"
            if where == "folder":
                folder.symlink_to(outside)
            else:
                folder.mkdir()
                (folder / "b2_vault.yml").symlink_to(outside / "file")
            with pytest.raises(StoreError, match="a symlink or a plain file is in the way"):
                one.store.seal(new_member())
    assert [path.name for path in outside.iterdir()] == ["file"] and not (outside / "file").read_text()


def test_obstacles_are_recreated_in_the_remote_copy(run, there):
    (there / "dir@x" / "b2_vault.yml").mkdir(parents=True)
    (there / "plain@x").write_text("")
    (there / "link@x").symlink_to("plain@x")
    (there / "odd@x").mkdir()
    os.mkfifo(there / "odd@x" / "b2_vault.yml")
    one = run()
    for email, said in (
        ("dir@x", "not a plain file"),
        ("plain@x", "not a directory"),
        ("link@x", "not a directory but a symlink"),
    ):
        with pytest.raises(StoreError, match=f"{email}.* is {said}"):
            one.store.prove([email], write=False)
    one.store.prove(["fine@x"], write=False)
    for path in (there / "link@x", there / "plain@x"):
        path.unlink()
    (there / "dir@x" / "b2_vault.yml").rmdir()
    one.store.prove(["dir@x", "plain@x", "link@x"], write=False)


def test_a_file_that_ansible_does_not_load_is_no_obstacle(there):
    for name in ("ada@x", "b2_group_1", "all"):
        (there / name).mkdir(parents=True)
        (there / f"{name}.yml").write_text("a: b")
    (there / "ben@x.yml").write_text("a: b")
    found = b2_vault_files.read(str(there), {})
    assert found["obstacles"] == {"ben@x.yml": "file"} and found["paths"] == []


def test_the_room_is_that_of_the_host(run, monkeypatch):
    one = run()
    one.store.prove([], write=True)
    one.store.prove_room(5)
    monkeypatch.setattr(os, "statvfs", lambda path: os.statvfs_result((4096, 4096, 10, 10, 10, 100, 2, 2, 0, 255)))
    one.store.prove([], write=True)
    with pytest.raises(StoreError, match="no room for 5 keys"):
        one.store.prove_room(5)


def test_the_controller_is_a_location_too(tmp_path, secrets):
    directory = VaultDir(str(tmp_path), Sealer(secrets))
    with directory.locked(GROUP, 0, time.sleep):
        directory.prove_room(1)
        directory.prove_writing()


def test_a_host_that_gives_no_answer_is_not_waited_for_without_end(monkeypatch):
    monkeypatch.setattr(target_location, "PATIENCE", 0.2)
    monkeypatch.setattr(waiting, "_LOOK_SECONDS", 0.05)
    answer = threading.Event()
    target = Target("srv1", "/srv/keys", lambda arguments: {"bundle": answer.wait(60)})
    with pytest.raises(StoreError, match="srv1:/srv/keys did not answer within"):
        target.prove_writing()
    answer.set()
