# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Let one run at a time change the keys of a Group: the lock on one machine, the lease across machines.

The lock is a lock of the file system, which ends with the process that holds it. The lease is a record that its holder
refreshes. Other runs may take it over when it is stale. Both are files in the open directory of a Group.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import secrets
import socket
import time
import typing as t

from ansible_collections.community.backblaze.plugins.module_utils._files import exists, look, opened, replace
from ansible_collections.community.backblaze.plugins.module_utils._vault_mode import PRIVATE, Modes
from ansible_collections.community.backblaze.plugins.module_utils._vault_paths import LEASE_NAME, LOCK_NAME

#: Seconds between two refreshes of a lease, and seconds without a refresh after which it is stale.
REFRESH_SECONDS = 60.0
STALE_SECONDS = 600.0


@dataclasses.dataclass(frozen=True)
class Lease:
    """The record of a run that holds a lock or a lease.

    process: identifies the process on its machine, empty if nothing does.
    released: whether its holder has given the lease up, but could not remove the record.
    """

    id: str = ""
    pid: int = 0
    host: str = ""
    since: str = ""
    process: str = ""
    released: bool = False

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}" if self.host else "a run that left no name"

    def as_text(self) -> str:
        """Return the record on one line."""
        return json.dumps(dataclasses.asdict(self))

    @property
    def dead(self) -> bool:
        """Whether its holder is a process of this machine that has ended, so that no run waits until it is stale."""
        machine, _space, started = self.process.rpartition(" ")
        return bool(machine and started) and machine == _machine() and _is_gone(self.pid, started)


class Claim(t.NamedTuple):
    """The answer to a claim. other: the run that holds the Group, or the run from which the lease was taken over."""

    ours: bool
    other: t.Optional[Lease] = None


def new_lease() -> Lease:
    """Return a lease for this process."""
    pid, process = os.getpid(), ""
    with contextlib.suppress(OSError):
        machine, started = _machine(), _started(pid)
        process = f"{machine} {started}" if machine and started else ""
    return Lease(secrets.token_hex(8), pid, socket.gethostname(), time.strftime("%Y-%m-%dT%H:%M:%S%z"), process)


def read_lease(text: t.Union[str, bytes]) -> Lease:
    """Return the lease that as_text wrote. A damaged one has no holder, and gets stale like any other."""
    try:
        record = json.loads(text)
        host, since, process = (str(record[name]) for name in ("host", "since", "process"))
        return Lease(str(record["id"]), int(record["pid"]), host, since, process, record.get("released") is True)
    except (ValueError, LookupError, TypeError, OverflowError):
        return Lease()


def is_stale(age: float) -> bool:
    """Tell whether a lease of this age in seconds is stale; a time in the future is as wrong as one long ago."""
    return not abs(age) <= STALE_SECONDS


# The lock


@contextlib.contextmanager
def opened_lock(group: int, modes: Modes = PRIVATE) -> t.Iterator[int]:
    """Open the lock file in the open directory of a Group, and create it if it is missing."""
    with opened(group, LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC) as lock:
        # Only the owner of an existing file can change its mode, and has done so.
        with contextlib.suppress(PermissionError):
            modes.allow_file(lock)
        yield lock


def lock_holder(lock: int, kind: int = fcntl.LOCK_EX) -> t.Optional[Lease]:
    """Lock an open lock file without waiting; return the run that holds the lock, None if it is locked for us."""
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return read_lease(os.pread(lock, 4096, 0))
    return None


# The lease


@contextlib.contextmanager
def lease_locked(group: int) -> t.Iterator[None]:
    """Keep every other process from changing the lease in the open directory of a Group."""
    fcntl.flock(group, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(group, fcntl.LOCK_UN)


def claim(group: int, lease: Lease, instead_of: str = "", modes: Modes = PRIVATE) -> Claim:
    """Take the lease of a Group if it is free; the caller is in ``lease_locked``.

    It is not free while a run of this machine holds the lock.
    instead_of: the id of a lease whose holder is known to be gone.
    """
    other, fresh = _read(group)
    if other and other.id == lease.id:
        other = None
    if other and fresh and not (instead_of and other.id == instead_of):
        return Claim(False, other)
    with opened_lock(group, modes) as lock:
        if holder := lock_holder(lock):
            return Claim(False, holder)
        _write(group, lease, time.time(), modes)
    return Claim(True, other)


def refresh(group: int, lease: Lease, modes: Modes = PRIVATE) -> t.Optional[Lease]:
    """Refresh the lease of a Group; return the run that has taken it over, if any.

    The caller is in ``lease_locked``.
    """
    other, _fresh = _read(group)
    # A lease that is missing was not taken over by another run: it may be taken again.
    if other and other.id != lease.id:
        return other
    _write(group, lease, time.time(), modes)
    return None


def release(group: int, lease: Lease) -> None:
    """Remove the lease of a Group unless another run has taken it over; the caller is in ``lease_locked``."""
    other, _fresh = _read(group)
    if other and other.id == lease.id:
        os.unlink(LEASE_NAME, dir_fd=group)
        os.fsync(group)


def end_lease(group: int) -> t.Optional[Lease]:
    """End a lease whose holder is gone, or return its holder.

    The caller holds the lock, so that no other run gets the lease. A holder that is not gone after all finds the record
    of this run when it next refreshes its lease.
    """
    if not exists(group, LEASE_NAME):
        return None
    with lease_locked(group):
        lease, fresh = _read(group)
        if fresh:
            return lease
        if lease and not lease.released:
            _write(group, dataclasses.replace(new_lease(), released=True), 0.0)
        return None


def holder_of(group: int) -> t.Optional[Lease]:
    """Return the run that holds a Group by lock or lease, None if no run does; change nothing."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with contextlib.suppress(FileNotFoundError), opened(group, LOCK_NAME, flags) as lock:
        if holder := lock_holder(lock, fcntl.LOCK_SH):
            return holder
    lease, fresh = _read(group)
    return lease if fresh else None


def _read(group: int) -> tuple[t.Optional[Lease], bool]:
    """Return the lease in the open directory of a Group, and whether its holder may still be at work."""
    try:
        content, file = look(group, LEASE_NAME)
    except FileNotFoundError:
        return None, False
    try:
        record = json.loads(content)
        lease, refreshed = read_lease(str(record["lease"])), float(record["refreshed"])
    except (ValueError, LookupError, TypeError, OverflowError):
        lease, refreshed = Lease(), file.st_mtime
    return lease, not (lease.released or lease.dead or is_stale(time.time() - refreshed))


def _write(group: int, lease: Lease, refreshed: float, modes: Modes = PRIVATE) -> None:
    # With the mode of the old one, which lets other users of a team take the lease over.
    like = os.lstat(LEASE_NAME, dir_fd=group) if exists(group, LEASE_NAME) else None
    record = {"lease": lease.as_text(), "refreshed": refreshed}
    replace(group, LEASE_NAME, json.dumps(record).encode(), like, modes=modes)
    os.fsync(group)


# Processes


def _machine() -> str:
    """Return the boot of this machine and the container in which process ids are valid; empty if unknown."""
    with contextlib.suppress(OSError), open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return f"{file.read().strip()} {os.readlink('/proc/self/ns/pid')}"
    return ""


def _is_gone(pid: int, started: str) -> bool:
    """Tell whether no process with this id was started at this time; False if that is unknown."""
    try:
        return _started(pid) != started
    except OSError:
        # The process does not exist, or /proc hides the processes of other users.
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
