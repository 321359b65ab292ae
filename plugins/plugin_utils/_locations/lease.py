# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Who is at a Group in a place where no lock can be held over the wire: a record that its holder keeps fresh, and that others may replace
once it is stale."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import secrets
import socket
import threading
import time
import typing as t

from ansible_collections.community.backblaze.plugins.module_utils._files import exists, look, replace

#: Name of the file with the lease of a Group, beside the lock; the module b2_vault_files writes it.
LEASE_NAME = "lease"
#: Seconds between two times that a holder says that it is still there, and after how many of silence its lease is anybody's.
REFRESH_SECONDS = 60.0
STALE_SECONDS = 600.0


@dataclasses.dataclass(frozen=True)
class Lease:
    """Whose it is.

    process: by what the holder can be found on its machine, empty if that cannot be told.
    released: whether its holder has given it up, although the lease itself cannot be removed.
    """

    id: str
    pid: int
    host: str
    since: str
    process: str = ""
    released: bool = False

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"

    def as_text(self) -> str:
        """Return it on one line."""
        return json.dumps(dataclasses.asdict(self))

    @property
    def dead(self) -> bool:
        """Whether its holder ran where this runs, and is gone for certain: then nobody has to wait for the lease to get stale."""
        ours, _space, started = self.process.rpartition(" ")
        return bool(ours and started) and ours == _machine() and _is_gone(self.pid, started)


@dataclasses.dataclass(frozen=True)
class Claim:
    """What came of asking for a lease: whether it is ours now, and whose it is, or was until we took it over."""

    ours: bool
    other: t.Optional[Lease] = None


def new_lease() -> Lease:
    """Return one for this process."""
    pid, process = os.getpid(), ""
    with contextlib.suppress(OSError):
        machine, started = _machine(), _started(pid)
        process = f"{machine} {started}" if machine and started else ""
    return Lease(secrets.token_hex(8), pid, socket.gethostname(), time.strftime("%Y-%m-%dT%H:%M:%S%z"), process)


def read_lease(text: str) -> Lease:
    """Return the lease that as_text wrote; one of nobody where it is damaged, which gets stale like any other."""
    try:
        record = json.loads(text)
        host, since, process = (str(record[name]) for name in ("host", "since", "process"))
        return Lease(str(record["id"]), int(record["pid"]), host, since, process, record.get("released") is True)
    except (ValueError, LookupError, TypeError, OverflowError):
        return Lease("", 0, "a machine that did not leave its name", "nobody knows when")


def is_stale(age: float) -> bool:
    """Tell whether a lease of this age in seconds is stale; a time in the future is as wrong as one long ago."""
    return not abs(age) <= STALE_SECONDS


def lease_in(state: int) -> t.Optional[Lease]:
    """Return the lease in the open directory of a Group, see b2_vault_files; None if nobody holds it."""
    lease, fresh = _look(state)
    return lease if fresh else None


def claim_here(state: int) -> t.Optional[Lease]:
    """Take over the lease in the open directory of a Group if its holder is gone, else return whose it is.

    The caller holds the lock, by which nobody else gets the lease. If its last holder is there after all, it finds out
    with its next message.
    """
    if not exists(state, LEASE_NAME):
        return None
    # Nobody refreshes the lease meanwhile.
    fcntl.flock(state, fcntl.LOCK_EX)
    try:
        lease, fresh = _look(state)
        if fresh:
            return lease
        if lease and not lease.released:
            ours = dataclasses.replace(new_lease(), released=True)
            # With its mode, which lets others of a team take the lease.
            like = os.lstat(LEASE_NAME, dir_fd=state)
            replace(state, LEASE_NAME, json.dumps({"lease": ours.as_text(), "refreshed": 0.0}).encode(), like)
        return None
    finally:
        fcntl.flock(state, fcntl.LOCK_UN)


def _look(state: int) -> tuple[t.Optional[Lease], bool]:
    """Return the lease in a directory, and whether its holder may be there."""
    try:
        content, file = look(state, LEASE_NAME)
    except FileNotFoundError:
        return None, False
    try:
        record = json.loads(content)
        lease, refreshed = read_lease(str(record["lease"])), float(record["refreshed"])
    except (ValueError, LookupError, TypeError, OverflowError):
        lease, refreshed = read_lease(""), file.st_mtime
    return lease, not (lease.released or lease.dead or is_stale(time.time() - refreshed))


class Heartbeat:
    """Keeps a lease fresh from a thread of its own, while it is entered."""

    def __init__(self, refresh: t.Callable[[], None]) -> None:
        self._refresh = refresh
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="b2-lease", daemon=True)

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(self, *_why: object) -> None:
        self._end.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._end.wait(REFRESH_SECONDS):
            # A place that cannot be reached for a moment is tried again in time; whether the lease is still ours shows then. Whatever it is that
            # went wrong: without this thread the lease gets stale under a run that goes on.
            with contextlib.suppress(Exception):
                self._refresh()


def _machine() -> str:
    """Return what numbers of processes mean the same in: this boot of this machine, and this container; empty where that cannot be told."""
    with contextlib.suppress(OSError), open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return f"{file.read().strip()} {os.readlink('/proc/self/ns/pid')}"
    return ""


def _is_gone(pid: int, started: str) -> bool:
    """Tell whether no process has a number that was started then; False where that cannot be told."""
    try:
        return _started(pid) != started
    except OSError:
        # Not there, or hidden: /proc may show nobody the processes of others.
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        except (OSError, OverflowError):
            pass
        return False


def _started(pid: int) -> str:
    """Return when a process was started, in ticks of the kernel; empty for a zombie, which holds nothing."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        fields = file.read().rpartition(b") ")[2].split()
    return "" if fields[0] in (b"Z", b"X") else fields[19].decode("ascii")
