# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the campaigns share: runs that can be hit while they work, and the count of every key afterwards.

CAMPAIGN=long makes them long, CAMPAIGN_SEED repeats one; the seed is in the line of figures that each prints.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import pathlib
import pty
import random
import secrets
import shutil
import signal
import subprocess
import sys
import termios
import threading
import time
import typing as t

import pytest
import yaml
from ansible.errors import AnsibleError
from ansible.parsing.vault import VaultLib, VaultSecret

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "e2e"))

# Campaigns that work in this process import the collection from where the runs find it.
sys.path.extend(path for path in os.environ.get("ANSIBLE_COLLECTIONS_PATH", "").split(os.pathsep) if path)

import project  # lies with the other end-to-end tests
from ansible_collections.community.backblaze.plugins.plugin_utils._run import report
from project import ledger, standin

CREATE = ledger.CREATE
LONG = os.environ.get("CAMPAIGN") == "long"
#: The environment variable that every process of a run carries.
MARK = "B2_CAMPAIGN_RUN"
_IN_NAMESPACE = "B2_CAMPAIGN_NAMESPACE"
#: No wait of these tests for something that has to happen takes longer.
PATIENCE = 90


@dataclasses.dataclass(frozen=True)
class Count:
    """Every key, counted: what was handed out, where it is, and who was told. Lists are of addresses or paths."""

    handed_out: int
    sealed: int
    lost: list[str]
    # Handed out, stored nowhere, and the result does not say so of this account.
    silent: list[str]
    # Said to be lost, and either stored or never made.
    wrongly_lost: list[str]
    # Stored, and never handed out like that; or stored twice.
    invented: list[str]
    undecryptable: list[str]
    doubled: list[str]
    # Whole keys that are only in temporary files.
    astray: list[str]

    @property
    def holds(self) -> bool:
        """Whether every key that was handed out is sealed once, or was said to be lost."""
        bad = self.silent or self.wrongly_lost or self.invented or self.undecryptable or self.doubled or self.astray
        return not bad and self.handed_out == self.sealed + len(self.lost)

    def __str__(self) -> str:
        return (
            f"{self.handed_out} handed out = {self.sealed} sealed + {len(self.lost)} reported lost; "
            f"{len(self.silent)} silent, {len(self.undecryptable)} undecryptable, {len(self.doubled)} doubled"
        )


def _begin(terminal: int) -> None:
    """Heed signals that whoever runs the tests may ignore, as nohup does. terminal: make it the one of a new session,
    if it is one."""
    if terminal >= 0:
        os.setsid()
        fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def _copy(terminal: int, output: pathlib.Path) -> None:
    """Write down what comes to a terminal, until no process has it any more."""
    with open(output, "wb", buffering=0) as file, contextlib.suppress(OSError):
        while data := os.read(terminal, 65536):
            file.write(data.replace(b"\r\n", b"\n"))
    os.close(terminal)


class Run:
    """An ansible-playbook that works in the background. Its worker is a session of its own, so every process of it
    carries a mark."""

    def __init__(
        self,
        campaign: Campaign,
        play: pathlib.Path,
        *arguments: str,
        terminal: bool = False,
        stderr: int | None = None,
        **environment: str,
    ) -> None:
        self._mark = f"{MARK}={secrets.token_hex(8)}"
        self._result = campaign.result_of(play)
        self._result.unlink(missing_ok=True)
        self._output = campaign.directory / f"output-{secrets.token_hex(4)}"
        self._known: list[int] = []
        self.started = time.monotonic()
        self._terminal = -1
        with contextlib.ExitStack() as stack:
            if terminal:
                self._terminal, slave = pty.openpty()
                stack.callback(os.close, slave)
                threading.Thread(target=_copy, args=(self._terminal, self._output), daemon=True).start()
                streams = [slave, slave]
            else:
                streams = [subprocess.DEVNULL, stack.enter_context(open(self._output, "wb"))]
            self.process = subprocess.Popen(
                ["ansible-playbook", str(play), *arguments],
                cwd=campaign.directory,
                env=campaign.environment(**dict([self._mark.split("=")]), **environment),
                stdin=streams[0],
                stdout=streams[1],
                stderr=streams[1] if stderr is None else stderr,
                start_new_session=not terminal,
                preexec_fn=lambda: _begin(slave if terminal else -1),  # noqa: PLW1509 - sets signal handlers, takes no lock
            )

    def interrupt(self) -> None:
        """Press Ctrl-C, or send its signal to the parent where it has no terminal."""
        if self._terminal >= 0:
            os.write(self._terminal, b"\x03")
        else:
            os.kill(self.process.pid, signal.SIGINT)

    @property
    def output(self) -> str:
        """What it has printed so far."""
        return self._output.read_text(errors="replace") if self._output.exists() else ""

    @property
    def result(self) -> dict[str, t.Any]:
        """The task's result, empty if the play did not come that far."""
        return json.loads(self._result.read_text()) if self._result.exists() else {}

    @property
    def alive(self) -> bool:
        """Whether the parent runs."""
        return self.process.poll() is None

    def pids(self) -> list[int]:
        """Return every process of this run; the dead that wait to be buried have no environment any more."""
        mark, found = self._mark.encode(), []
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                with contextlib.suppress(OSError), open(f"/proc/{entry}/environ", "rb") as environ:
                    if mark in environ.read().split(b"\0"):
                        found.append(int(entry))
        self._known = found
        return found

    def worker(self) -> int:
        """Return the process that does the task, or 0."""
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                if pid != self.process.pid and os.getsid(pid) == pid:
                    return pid
        return 0

    def watch(self, condition: t.Callable[[], bool], pause: float = 0.01, patience: float = PATIENCE) -> bool:
        """Wait until something holds while the run is alive; say whether it came to that. pause: seconds between two
        looks."""
        deadline = time.monotonic() + patience
        known = 0
        while self.alive:
            if condition():
                return True
            # So that a kill need not look for its targets first.
            known = known or self.worker()
            time.sleep(pause)
            assert time.monotonic() < deadline, f"what was waited for did not come; the run says: {self.output}"
        return False

    def kill(self) -> bool:
        """Kill -9 every process, until none is left; say whether there was any."""
        hit = self._strike(self._known)
        quiet = 0
        while quiet < 2:
            found = self.pids()
            hit = self._strike(found) or hit
            quiet = 0 if found else quiet + 1
            time.sleep(0.005)
        self.process.wait()
        return hit

    def _strike(self, pids: t.Iterable[int]) -> bool:
        hit = False
        for pid in pids:
            if pid == self.process.pid and not self.alive:
                continue
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                hit = True
        return hit

    def end(self, patience: float = PATIENCE) -> dict[str, t.Any]:
        """Wait for the end of every process; return the task's result."""
        deadline = time.monotonic() + patience
        while self.alive or self.pids():
            assert time.monotonic() < deadline, f"the run did not end; it says: {self.output}"
            time.sleep(0.02)
        return self.result


def _key_files(directory: pathlib.Path) -> t.Iterator[pathlib.Path]:
    """Yield the files that may hold a key. A vault directory has a directory for each address or Group, a fallback
    directory has a file for each account."""
    yield from (path for path in directory.glob("*/*") if path.parent.name != ".b2_members")
    yield from (path for path in directory.glob("*b2_vault.yml*") if path.is_file())


class Campaign(project.Project):
    """A project whose runs are hit while they work, and the stand-in they work against."""

    def __init__(self, directory: pathlib.Path, server: standin.Control) -> None:
        directory.mkdir(exist_ok=True)
        super().__init__(directory, server.url)
        self.server = server
        self.fallback = directory / "state" / "community.backblaze"
        self._runs: list[Run] = []

    @staticmethod
    def addresses(count: int, start: int = 0) -> list[str]:
        """Return that many addresses."""
        return [f"customer{number:04}@customers.example.com" for number in range(start, start + count)]

    @staticmethod
    def result_of(play: pathlib.Path) -> pathlib.Path:
        """Return where a play leaves its result: each has a file of its own, so that two can run at once."""
        return play.with_name(f"{play.stem}-result.json")

    def play(self, members: t.Sequence[t.Any], name: str = "play.yml", **options: t.Any) -> pathlib.Path:
        """Write a play with one task that provisions, and writes its result beside it as JSON.

        Also a failed result has each member's outcome: they are compared with the ledger.
        """
        path = super().play(members, name, **{"return_members": "always", **options})
        path.write_text(path.read_text().replace(str(self.directory / "result.json"), str(self.result_of(path))))
        return path

    def start(
        self,
        play: pathlib.Path,
        *arguments: str,
        terminal: bool = False,
        stderr: int | None = None,
        **environment: str,
    ) -> Run:
        """Start a play in the background. stderr: a descriptor for its stderr, apart from the output."""
        run = Run(self, play, *arguments, terminal=terminal, stderr=stderr, **environment)
        self._runs.append(run)
        return run

    def finish(self, play: pathlib.Path) -> dict[str, t.Any]:
        """Run a play to its end; return the task's result."""
        run = self.start(play)
        result = run.end()
        assert result, f"the play did not come to its end: {run.output}"
        return result

    def clean(self) -> None:
        """Leave no process behind, whatever the test came to."""
        for run in self._runs:
            run.kill()

    def calls(self, operation: str) -> int:
        """Return how many calls of an operation were begun so far."""
        return int(self.server.state()["calls"].get(operation, 0))

    def creates(self) -> int:
        """Return how many creates were begun so far."""
        return self.calls(CREATE)

    def hurry(self) -> None:
        """Let the stand-in answer at once from now on: what was to happen in slow motion has happened."""
        self.server.settings(latency_ms=0, latency_ms_by_operation={})

    def outcomes(self, result: dict[str, t.Any], wanted: t.Sequence[str]) -> dict[str, list[str]]:
        """Return who ended in which outcome, after making sure that each has exactly one."""
        assert "members" in result, result
        assert [one["email"] for one in result["members"]] == list(wanted), "not one outcome for each wanted member"
        found: dict[str, list[str]] = {}
        for one in result["members"]:
            found.setdefault(one["outcome"], []).append(one["email"])
        assert {name: len(emails) for name, emails in found.items()} == result["counts"]
        # A problem names members with its outcome only, or lost keys of earlier runs.
        settled = {(one["email"], one["outcome"]) for one in result["settled"]}
        ended = {(one["email"], one["outcome"]) for one in result["members"]} | settled
        for one in result["problems"]:
            assert {(email, one["outcome"]) for email in one["emails"]} <= ended, result["problems"]
            most = one["count"] if one["outcome"] == "key_lost" else min(one["count"], 10)
            assert 1 <= len(one["emails"]) <= most
        return found

    @staticmethod
    def shown(result: dict[str, t.Any]) -> str:
        """Return the result of a failed task as Ansible shows it by default: see the option return_members."""
        return json.dumps(report.shown(result, "success"))

    def count(self, result: dict[str, t.Any], *directories: pathlib.Path) -> Count:
        """Count every key: the stand-in's ledger against what is in these directories and what the result says is
        lost."""
        vault = VaultLib([("default", VaultSecret(self.password.encode()))])
        given = {
            (one["email"].lower(), one["account_id"], one["key_id"], one["key"]) for one in ledger.handed_out(self.url)
        }
        kept: list[tuple[str, ...]] = []
        whole: list[tuple[str, tuple[str, ...]]] = []
        undecryptable: list[str] = []
        for path in (path for directory in directories for path in _key_files(directory)):
            placed = path.name.endswith("b2_vault.yml")
            try:
                variables = yaml.load(
                    vault.decrypt(path.read_bytes()), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)
                )
                if path.parent.name.startswith("b2_group_"):
                    # It may be somebody's, into which no key was put yet.
                    entries = variables.get("b2_member_keys") or {}
                else:
                    entries = {path.parent.name if path.name == "b2_vault.yml" else variables["b2_email"]: variables}
                names = ("b2_account_id", "b2_application_key_id", "b2_application_key")
                keys = [(email, *(each[name] for name in names)) for email, each in entries.items()]
            except (AnsibleError, yaml.YAMLError, KeyError, TypeError):
                # A kill leaves half a temporary file. Half a vault file is a lost key.
                undecryptable += [str(path)] * placed
                continue
            if placed:
                kept += keys
            else:
                whole += [(str(path), key) for key in keys]
        lost = {
            (one["email"], one["account_id"] or "") for one in result.get("members", ()) if one["outcome"] == "key_lost"
        }
        stored, made = set(kept), {one[:2] for one in given}
        emails = [one["email"].lower() for one in ledger.handed_out(self.url)]
        return Count(
            handed_out=len(emails),
            sealed=len(kept),
            lost=sorted(email for email, _account in lost),
            silent=sorted(one[0] for one in given - stored if one[:2] not in lost),
            wrongly_lost=sorted(one[0] for one in lost if one not in made or one in {key[:2] for key in stored}),
            invented=sorted(one[0] for one in kept if one not in given or kept.count(one) > 1),
            undecryptable=undecryptable,
            doubled=sorted({email for email in emails if emails.count(email) > 1}),
            astray=[path for path, key in whole if key not in stored],
        )

    def keys_in_place(self) -> dict[str, str]:
        """Return the keys that are in their places, by address."""
        return dict(self._keys("*@*/b2_vault.yml"))

    def keys_beside(self) -> list[str]:
        """Return the keys that are beside the places of keys; half a file is what a kill leaves."""
        return [key for _email, key in self._keys("*@*/.b2_vault.yml.*.aside")]

    def _keys(self, pattern: str) -> list[tuple[str, str]]:
        vault = VaultLib([("default", VaultSecret(self.password.encode()))])
        found = []
        for path in self.vault_dir.glob(pattern):
            with contextlib.suppress(AnsibleError, yaml.YAMLError, KeyError, TypeError):
                found.append(
                    (path.parent.name, str(yaml.safe_load(vault.decrypt(path.read_bytes()))["b2_application_key"]))
                )
        return found

    def exposed(self) -> list[str]:
        """Return the files in the project's directory that hold a secret in clear: journal, output, results and all."""
        needles = [needle.encode() for needle in self.needles()]
        found = []
        for path in self.directory.rglob("*"):
            if path.is_file() and path.name != "vault-password":
                content = path.read_bytes()
                if any(needle in content for needle in needles):
                    found.append(str(path))
        return found


def under_way(concurrency: int) -> int:
    """Return how many keys a run may have between their creates and the disk: while some are sealed, at most eight, the
    next are created."""
    return concurrency + min(concurrency, 8)


def mount(directory: pathlib.Path, options: str) -> None:
    """Mount a file system of its own, in memory; the test needs the marker mounts."""
    directory.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(directory)], check=True)


def unmount(directory: pathlib.Path) -> None:
    """Take such a file system away."""
    # Lazily: a try to write may have it open just now.
    subprocess.run(["umount", "--lazy", str(directory)], check=True)


def fill(directory: pathlib.Path) -> pathlib.Path:
    """Fill a file system to its last byte; return the file that does."""
    ballast = directory / "ballast"
    with open(ballast, "wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError:
                pass
    return ballast


@pytest.fixture
def long_form() -> bool:
    """Whether there is time for the long form."""
    return LONG


@pytest.fixture
def seed() -> int:
    """The seed of every choice that a test makes."""
    return int(os.environ.get("CAMPAIGN_SEED") or random.SystemRandom().randrange(1_000_000))


@pytest.fixture
def chance(seed: int) -> random.Random:
    """Random choices, which the seed repeats."""
    print(f"\nseed {seed}", flush=True)
    return random.Random(seed)


@pytest.fixture
def campaigns(tmp_path: pathlib.Path) -> t.Iterator[t.Callable[..., Campaign]]:
    """Make campaigns, each with a directory and a stand-in of its own; the settings given are the stand-in's."""
    with contextlib.ExitStack() as stack:

        def make(name: str = "campaign", **settings: t.Any) -> Campaign:
            directory = tmp_path / name
            directory.mkdir()
            campaign = Campaign(directory, stack.enter_context(project.serving(directory, "hosting", **settings)))
            stack.callback(campaign.clean)
            return campaign

        yield make


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test that mounts in a mount namespace of its own, so that no mount outlives it; whoever is not root is root
    there."""
    if not pyfuncitem.get_closest_marker("mounts") or os.environ.get(_IN_NAMESPACE):
        return None
    unshare = shutil.which("unshare")
    assert unshare, "this test mounts file systems and needs unshare, of the package util-linux"
    namespace = [unshare, "--mount"] if os.geteuid() == 0 else [unshare, "--map-root-user", "--mount"]
    node = f"{pyfuncitem.path}::{pyfuncitem.name}"
    directory = pyfuncitem.funcargs["tmp_path"] / "namespace"
    inner = subprocess.run(
        [
            *namespace,
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "no:cacheprovider",
            "-q",
            "-s",
            "--no-header",
            f"--basetemp={directory}",
            node,
        ],
        env={**os.environ, _IN_NAMESPACE: "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert inner.returncode == 0, f"in a mount namespace of its own ({' '.join(namespace)}):\n{inner.stdout}"
    print("\n".join(line for line in inner.stdout.splitlines() if line.startswith("storage: ")), flush=True)
    return True


def pytest_configure(config: pytest.Config) -> None:
    """Name the marker of tests that mount."""
    config.addinivalue_line("markers", "mounts: mounts file systems, in a namespace of its own")
