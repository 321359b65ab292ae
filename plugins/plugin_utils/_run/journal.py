# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The write-ahead journal: what was about to be created when a run ended. It holds no secret.

One JSON object a line, in ``<vault_dir>/.b2_members/<group>/journal.jsonl``. ``pending`` is on disk before a create is sent, and is
closed after the key is sealed, so that the next run can say of every open address what became of it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import errno
import json
import os
import stat
import threading
import typing as t

from ansible_collections.community.backblaze.plugins.module_utils._errors import StoreError
from ansible_collections.community.backblaze.plugins.module_utils._members import unsafe_name
from ansible_collections.community.backblaze.plugins.module_utils._plan import Event, Open
from ansible_collections.community.backblaze.plugins.module_utils._vault_mode import PRIVATE, Modes
from ansible_collections.community.backblaze.plugins.module_utils._vault_paths import JOURNAL_NAME
from ansible_collections.community.backblaze.plugins.plugin_utils._locations.location import CONTROLLER, Location
from ansible_collections.community.backblaze.plugins.plugin_utils._sync import Shared

_CLOSED = "closed"
_CONFLICT_MARKERS = (b"<<<<<<<", b"|||||||", b"=======", b">>>>>>>")
_TIME = "%Y-%m-%dT%H:%M:%SZ"


class Journal:
    """The journal in an open directory; the caller holds the lock of the vault directory. Safe to use from many threads."""

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
        self._lock = threading.Lock()
        self._sync = Shared()
        self._location = location
        self._modes = modes
        self._directory_fd = directory_fd
        self._entries = self._load(directory_fd) if directory_fd >= 0 else {}
        self._fd = -1
        if writable:
            self._rewrite()

    def entries(self, group_id: str) -> list[Open]:
        """Return what is open in a Group."""
        with self._lock:
            return [entry for (group, _email), entry in self._entries.items() if group == group_id]

    def note(self, entry: Open) -> None:
        """Put on disk what is known of an address that is open."""
        self._append(entry, entry.event.value)

    def pending(self, group_id: str, email: str) -> None:
        """Put on disk that a create is about to be sent."""
        self.note(Open(email, group_id))

    def presumed(self, group_id: str, email: str, account_id: str) -> None:
        """Put on disk that an account was found, where a run that is over was about to create one."""
        self.note(Open(email, group_id, Event.PRESUMED, account_id))

    def lost(self, group_id: str, email: str, account_id: str) -> None:
        """Put on disk that we made an account and never got its key."""
        self.note(Open(email, group_id, Event.LOST, account_id))

    def ejecting(self, group_id: str, email: str, account_id: str) -> None:
        """Put on disk that an account whose key is lost is about to be ejected."""
        self.note(Open(email, group_id, Event.EJECTING, account_id))

    def fallback(self, group_id: str, email: str, account_id: str, path: str) -> None:
        """Put on disk where the key of an account is, which its place would not take. If that fails the next run still finds it there."""
        with contextlib.suppress(StoreError):
            self.note(Open(email, group_id, Event.FALLBACK, account_id, path))

    def told(self, group_id: str, email: str, account_id: str) -> None:
        """Put on disk that a run has reported that the key of an account is lost. If that fails the next run reports it again."""
        with self._lock:
            entry = self._entries.get((group_id, email))
        if entry and not entry.told:
            event = Event.PRESUMED if entry.event is Event.PENDING else entry.event
            with contextlib.suppress(StoreError):
                self.note(dataclasses.replace(entry, event=event, account_id=account_id, told=True))

    def close(self, group_id: str, email: str, *, sync: bool = True) -> None:
        """Record that an address is settled. If that fails, the next run settles the address again."""
        with contextlib.suppress(StoreError):
            self._append(Open(email, group_id), _CLOSED, sync=sync)

    def finish(self) -> None:
        """Leave only what is open, and close the file.

        What is settled would be in the way when two clones of a repository are merged, and elsewhere a next run with nothing to do would have it
        to bring there. Where this fails the file stays as it is, and the next run makes it shorter.
        """
        if self._fd < 0:
            return
        with contextlib.suppress(OSError, StoreError):
            # What somebody else has put there meanwhile, such as git, is not ours to replace.
            self._prove_in_place()
            os.close(self._fd)
            self._fd = -1
            self._rewrite()
            self._location.later(self._path)
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _load(self, directory_fd: int) -> dict[tuple[str, str], Open]:
        try:
            fd = os.open(JOURNAL_NAME, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=directory_fd)
        except FileNotFoundError:
            return {}
        except OSError as exc:
            raise StoreError(f"The journal {self._path} cannot be read ({exc.strerror}).") from exc
        with os.fdopen(fd, "rb") as file:
            lines = file.read().split(b"\n")
        # Without its line end the last line was never acknowledged, so nothing was sent on its strength.
        entries: dict[tuple[str, str], Open] = {}
        for number, line in enumerate(lines[:-1], 1):
            try:
                record = json.loads(line)
                event, *texts = (
                    record.get(name, "") for name in ("event", "email", "group_id", "account_id", "path", "at")
                )
                email, group_id, account_id, path, moment = texts
                if not all(isinstance(value, str) for value in (event, *texts)) or unsafe_name(email):
                    raise ValueError("not a line of ours")
                known = Event.PENDING if event == _CLOSED else Event(event)
                entry = Open(email, group_id, known, account_id, path, moment, record.get("told") is True)
            except (ValueError, AttributeError):
                if line.startswith(_CONFLICT_MARKERS):
                    raise StoreError(
                        f"Line {number} of the journal {self._path} is of a merge conflict that Git has left there.",
                        remedy="Keep the lines of both sides, and remove the lines that begin with <<<<<<<, ======= and >>>>>>>. Where a line begins "
                        "with |||||||, remove it with all that follows up to =======.",
                    ) from None
                raise StoreError(
                    f"Line {number} of the journal {self._path} is damaged.",
                    remedy="Look at it: an address in it may be an account whose key was lost. Repair or remove that line.",
                ) from None
            if event == _CLOSED:
                entries.pop((entry.group_id, entry.email), None)
            else:
                entries[entry.group_id, entry.email] = entry
        return entries

    def _rewrite(self) -> None:
        """Start the run with a journal of only what is open, and keep it open for appending."""
        temporary, directory_fd = f".{JOURNAL_NAME}.tmp", self._directory_fd
        try:
            # What a killed run has left may be another user's.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=directory_fd)
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=directory_fd)
            try:
                self._allow(fd)
                for entry in self._entries.values():
                    _write(fd, _line(entry, entry.event.value))
                os.fsync(fd)
                os.rename(temporary, JOURNAL_NAME, src_dir_fd=directory_fd, dst_dir_fd=directory_fd)
                os.fsync(directory_fd)
            finally:
                os.close(fd)
            self._fd = os.open(JOURNAL_NAME, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW, dir_fd=directory_fd)
        except OSError as exc:
            raise StoreError(f"The journal {self._path} cannot be written ({exc.strerror}).") from exc

    def _allow(self, fd: int) -> None:
        """Give the journal the mode that the user asks for, or that it had: a run that names no mode locks nobody of a team out."""
        with contextlib.suppress(OSError):
            like = os.lstat(JOURNAL_NAME, dir_fd=self._directory_fd)
            os.fchown(fd, -1, like.st_gid)
            os.fchmod(fd, stat.S_IMODE(like.st_mode) & 0o666)
        self._modes.allow_file(fd)

    def _append(self, entry: Open, event: str, *, sync: bool = True) -> None:
        with self._lock:
            try:
                self._prove_in_place()
                size = os.fstat(self._fd).st_size
            except OSError as exc:
                raise StoreError(f"The journal {self._path} is gone ({exc.strerror}).") from exc
            try:
                _write(self._fd, _line(entry, event))
            except OSError as exc:
                self._cut(size)
                raise StoreError(f"The journal {self._path} cannot be written ({exc.strerror}).") from exc
            if event == _CLOSED:
                self._entries.pop((entry.group_id, entry.email), None)
            else:
                self._entries[entry.group_id, entry.email] = entry
        if sync:
            try:
                self._sync(lambda: os.fsync(self._fd))
            except OSError as exc:
                # The line stays: that an address is open which is not costs the next run a look.
                raise StoreError(f"The journal {self._path} cannot be written ({exc.strerror}).") from exc
            self._location.publish(self._path)

    def _prove_in_place(self) -> None:
        """Show that what is written here can be found by the next run: the directory may have been moved or removed under us."""
        there, ours = os.stat(self._path, follow_symlinks=False), os.fstat(self._fd)
        if (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    def _cut(self, size: int) -> None:
        """Take half a line back, so that the next one does not run into it."""
        # Where that fails too the line stays torn, and the next run says so.
        with contextlib.suppress(OSError):
            os.ftruncate(self._fd, size)


def is_recent(entry: Open) -> bool:
    """Tell whether a create that was about to be sent may still take effect: within a day, for want of a documented limit."""
    try:
        moment = datetime.datetime.strptime(entry.at, _TIME).replace(tzinfo=datetime.timezone.utc)
    except ValueError:
        return True
    return datetime.datetime.now(datetime.timezone.utc) - moment < datetime.timedelta(days=1)


def _line(entry: Open, event: str) -> bytes:
    record: dict[str, t.Any] = {"event": event, "email": entry.email, "group_id": entry.group_id}
    record.update((name, value) for name, value in (("account_id", entry.account_id), ("path", entry.path)) if value)
    if entry.told:
        record["told"] = True
    record["at"] = entry.at or datetime.datetime.now(datetime.timezone.utc).strftime(_TIME)
    return json.dumps(record).encode() + b"\n"


def _write(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]
