# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Write and read the journal: the addresses that a run was about to create. It holds no secret.

The journal has one JSON object per line, in ``<vault_dir>/.b2_members/<group>/journal.jsonl``. ``pending`` is on disk
before a create is sent, and the address is closed after its key is sealed. So the next run can find the outcome of
every address that is open.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import errno
import json
import os
import threading
import typing as t

from ansible_collections.community.backblaze.plugins.module_utils._errors import StoreError
from ansible_collections.community.backblaze.plugins.module_utils._files import explained, get, put
from ansible_collections.community.backblaze.plugins.module_utils._members import unsafe_name
from ansible_collections.community.backblaze.plugins.module_utils._plan import Event, Open
from ansible_collections.community.backblaze.plugins.module_utils._vault_mode import PRIVATE, Modes
from ansible_collections.community.backblaze.plugins.module_utils._vault_paths import JOURNAL_NAME
from ansible_collections.community.backblaze.plugins.plugin_utils._locations.location import CONTROLLER, Location
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.store import Store
from ansible_collections.community.backblaze.plugins.plugin_utils._sync import Shared

_CONFLICT_MARKERS = (b"<<<<<<<", b"|||||||", b"=======", b">>>>>>>")
_TIME = "%Y-%m-%dT%H:%M:%SZ"


class Journal:
    """The journal in an open directory, under the lock of the Group. Many threads can use it."""

    def __init__(
        self,
        directory_fd: int,
        path: str,
        *,
        writable: bool = True,
        location: Location = CONTROLLER,
        modes: Modes = PRIVATE,
    ) -> None:
        self._path = os.path.join(path, JOURNAL_NAME)
        self._title = f"The journal {self._path}"
        self._lock = threading.Lock()
        self._sync = Shared()
        self._location = location
        self._modes = modes
        self._directory_fd = directory_fd
        self._entries = self._load(directory_fd) if directory_fd >= 0 else {}
        self._fd = -1
        if writable:
            self._rewrite()
            with explained("cannot be written", self._title):
                self._fd = os.open(JOURNAL_NAME, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW, dir_fd=directory_fd)

    def entries(self, group_id: str) -> list[Open]:
        """Return the open addresses of a Group."""
        with self._lock:
            return [entry for (group, _email), entry in self._entries.items() if group == group_id]

    def pending(self, group_id: str, email: str) -> None:
        """Record that a create is about to be sent."""
        self.note(Open(email, group_id))

    def presumed(self, group_id: str, email: str, account_id: str) -> None:
        """Record that an account was found for an address that an earlier run left open."""
        self.note(Open(email, group_id, Event.PRESUMED, account_id))

    def lost(self, group_id: str, email: str, account_id: str) -> None:
        """Record that a run created an account and never got its key."""
        self.note(Open(email, group_id, Event.LOST, account_id))

    def ejecting(self, group_id: str, email: str, account_id: str) -> None:
        """Record that an account whose key is lost is about to be ejected."""
        self.note(Open(email, group_id, Event.EJECTING, account_id))

    def fallback(self, group_id: str, email: str, account_id: str, path: str) -> None:
        """Record the path of a key that is not in its file. If that fails, the next run finds the key all the same."""
        with contextlib.suppress(StoreError):
            self.note(Open(email, group_id, Event.FALLBACK, account_id, path))

    def told(self, group_id: str, email: str, account_id: str) -> None:
        """Record that a run has reported a lost key. If that fails, the next run reports the key again."""
        with self._lock:
            entry = self._entries.get((group_id, email))
        if entry and not entry.told:
            event = Event.PRESUMED if entry.event is Event.PENDING else entry.event
            with contextlib.suppress(StoreError):
                self.note(dataclasses.replace(entry, event=event, account_id=account_id, told=True))

    def close(self, group_id: str, email: str, *, sync: bool = True) -> None:
        """Record that an address is settled. If that fails, the next run settles the address again."""
        with contextlib.suppress(StoreError):
            self.note(Open(email, group_id, Event.CLOSED), sync=sync)

    def finish(self) -> None:
        """Leave only open addresses in the file, and close the file.

        Closed addresses would cause merge conflicts between clones of a repository, and would have to be sent to
        another location by a run without changes. If this fails, the file stays as it is, and the next run makes it
        shorter.
        """
        if self._fd < 0:
            return
        with contextlib.suppress(OSError, StoreError):
            # A journal that somebody else has written there meanwhile, such as git, is not replaced.
            self._prove_not_moved()
            self._rewrite()
            self._location.later(self._path)
        os.close(self._fd)
        self._fd = -1

    def _load(self, directory_fd: int) -> dict[tuple[str, str], Open]:
        """Read the open addresses; raise StoreError if the journal is damaged."""
        with explained("cannot be read", self._title):
            try:
                lines = get(directory_fd, JOURNAL_NAME).split(b"\n")
            except FileNotFoundError:
                return {}
        entries: dict[tuple[str, str], Open] = {}
        # A last line without its line end was never on disk before a create was sent.
        for number, line in enumerate(lines[:-1], 1):
            try:
                entry = _read_line(line)
            except (ValueError, AttributeError):
                raise self._damaged(number, line) from None
            _apply(entries, entry)
        return entries

    def _damaged(self, number: int, line: bytes) -> StoreError:
        """Explain a line that cannot be read."""
        if line.startswith(_CONFLICT_MARKERS):
            remedy = (
                "Keep the lines of both sides, and remove the lines that begin with <<<<<<<, ======= and >>>>>>>. If "
                "a line begins with |||||||, remove it and all lines after it up to =======."
            )
            return StoreError(
                f"Line {number} of the journal {self._path} is the marker of a merge conflict in Git.", remedy=remedy
            )
        return StoreError(
            f"Line {number} of the journal {self._path} is damaged.",
            remedy="Look at it: an address in it may be an account whose key was lost. Repair or remove that line.",
        )

    def _rewrite(self) -> None:
        """Write a journal of the open addresses only. It keeps its mode, so that a team keeps its access."""
        temporary, directory_fd = f".{JOURNAL_NAME}.tmp", self._directory_fd
        like: t.Optional[os.stat_result] = None
        with explained("cannot be written", self._title):
            # The file of a killed run may belong to another user.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=directory_fd)
            with contextlib.suppress(FileNotFoundError):
                like = os.lstat(JOURNAL_NAME, dir_fd=directory_fd)
            put(directory_fd, temporary, b"".join(map(_line, self._entries.values())), like, self._modes)
            os.rename(temporary, JOURNAL_NAME, src_dir_fd=directory_fd, dst_dir_fd=directory_fd)
            os.fsync(directory_fd)

    def note(self, entry: Open, *, sync: bool = True) -> None:
        """Record the last event of an address. sync: return after the line is synced to disk."""
        with self._lock:
            with explained("is gone", self._title):
                self._prove_not_moved()
                size = os.fstat(self._fd).st_size
            with explained("cannot be written", self._title):
                try:
                    _write(self._fd, _line(entry))
                except OSError:
                    # A torn line is removed. If that fails, the next run reports the line.
                    with contextlib.suppress(OSError):
                        os.ftruncate(self._fd, size)
                    raise
            _apply(self._entries, entry)
        if sync:
            # If this fails, the line stays: an address that is open without need costs the next run a look-up.
            with explained("cannot be written", self._title):
                self._sync(lambda: os.fsync(self._fd))
            self._location.publish(self._path)

    def _prove_not_moved(self) -> None:
        """Prove that the next run finds this file: somebody may have moved or removed its directory."""
        there, ours = os.stat(self._path, follow_symlinks=False), os.fstat(self._fd)
        if (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))


@contextlib.contextmanager
def open_journal(
    store: Store, group_id: str, timeout: float, wait: t.Callable[[float], t.Any], *, write: bool = True
) -> t.Iterator[Journal]:
    """Open the journal of a Group under its lock; without the lock if it is only read.

    timeout: seconds to wait for the lock. Raises StoreError if another run has the lock for longer.
    """
    opened = store.locked(group_id, timeout, wait) if write else store.state(group_id)
    with opened as state:
        journal = Journal(state, store.state_path(group_id), writable=write, location=store.location, modes=store.modes)
        try:
            yield journal
        finally:
            journal.finish()


def is_recent(entry: Open) -> bool:
    """Tell whether a pending create may still take effect. Backblaze documents no limit, so a day is assumed."""
    try:
        moment = datetime.datetime.strptime(entry.at, _TIME).replace(tzinfo=datetime.timezone.utc)
    except ValueError:
        return True
    return datetime.datetime.now(datetime.timezone.utc) - moment < datetime.timedelta(days=1)


def _apply(entries: dict[tuple[str, str], Open], entry: Open) -> None:
    """Apply a line of the journal to the open addresses."""
    entries[entry.group_id, entry.email] = entry
    if entry.event is Event.CLOSED:
        del entries[entry.group_id, entry.email]


def _read_line(line: bytes) -> Open:
    """Return the address and the event of a line; raise ValueError or AttributeError if the line is damaged."""
    record = json.loads(line)
    texts = [record.get(name, "") for name in ("email", "group_id", "event", "account_id", "path", "at")]
    if not all(isinstance(value, str) for value in texts) or unsafe_name(texts[0]):
        raise ValueError("damaged")
    email, group_id, event, account_id, path, moment = texts
    return Open(email, group_id, Event(event), account_id, path, moment, record.get("told") is True)


def _line(entry: Open) -> bytes:
    """Return the line of an address and its event. A field without a value is left out."""
    now = datetime.datetime.now(datetime.timezone.utc).strftime(_TIME)
    record = dataclasses.asdict(dataclasses.replace(entry, at=entry.at or now))
    return json.dumps({name: value for name, value in record.items() if value}).encode() + b"\n"


def _write(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]
