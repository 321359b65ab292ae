# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A vault directory that is not on the controller: a copy of it is, private and thrown away at the end, and a depot takes what is written there.

The copy holds what is encrypted and what is no secret. A file counts as written when the depot says that it is in its place for good.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import math
import os
import threading
import time
import typing as t

from ansible_collections.community.backblaze.plugins.module_utils._errors import StoreError
from ansible_collections.community.backblaze.plugins.module_utils._files import DIRECTORY, explained, get, opened
from ansible_collections.community.backblaze.plugins.module_utils._vault_paths import (
    FILE_NAME,
    INDEX_NAME,
    JOURNAL_NAME,
    STATE_NAME,
    is_aside,
    is_group_directory,
    is_member_directory,
    is_temporary,
)
from ansible_collections.community.backblaze.plugins.plugin_utils._locations.lease import (
    STALE_SECONDS,
    Claim,
    Heartbeat,
    Lease,
    new_lease,
)
from ansible_collections.community.backblaze.plugins.plugin_utils._sync import Shared

INDEX = f"{STATE_NAME}/{INDEX_NAME}"

_POLL_SECONDS = 2.0
# So long a round waits for those who are about to ask for one: each is a message, which costs more.
_GATHER_SECONDS = 0.1


@dataclasses.dataclass(frozen=True)
class Contents:
    """What a depot holds, by path within the vault directory.

    files: those that are not as known, with what is in them. paths: of all files. odd: what is no plain file where one could be, or no
    directory, and what it is: ``symlink``, ``file`` or ``directory``. exists: whether the vault directory does. What they are is not to be
    trusted: a host says so, or whoever can push.

    times: when each of ``files`` was written at the latest, in seconds since the epoch by the controller's clock.
    """

    files: t.Mapping[str, bytes]
    paths: frozenset[str]
    odd: t.Mapping[str, str] = dataclasses.field(default_factory=dict)
    exists: bool = True
    room: tuple[int, t.Optional[int]] = (2**63, None)
    times: t.Mapping[str, float] = dataclasses.field(default_factory=dict)


class Change(t.NamedTuple):
    """A file to be written.

    replaces: digests of what may be there now, empty for nothing; anything else is not replaced. They are several where an earlier try of ours
    may have been taken without our being told.
    """

    data: bytes
    replaces: frozenset[str]


@dataclasses.dataclass(frozen=True)
class Written:
    """What came of writing. refused: the files that were not, and why. holder: who has taken our lease over, if anybody has."""

    refused: t.Mapping[str, str]
    holder: t.Optional[Lease] = None


class Remote(t.Protocol):
    """Where the files are. One thread at a time uses it; every method raises StoreError where it did not do what it is for."""

    #: What stands in results and messages for the directory of the copy.
    name: str
    #: Whether it takes the index as well, which is of use to the next run only, and changes with each.
    takes_index: bool

    def read(self, known: t.Mapping[str, str]) -> Contents:
        """Return what there is, without the content of files whose digest is known."""

    def write(self, changes: t.Mapping[str, Change], gone: t.Collection[str]) -> Written:
        """Put files in their place, each whole or not at all and all for good; remove others. What is kept about a Group needs its lease."""

    def prove_writing(self, probe: bytes) -> None:
        """Show that files can be written, as far as that can be seen beforehand."""

    def claim(self, group: str, lease: Lease, instead_of: str) -> Claim:
        """Ask for the lease of a Group. A stale one is taken over, and so is that with the id ``instead_of``."""

    def refresh(self) -> t.Optional[Lease]:
        """Say that the holder is still there; return whose the lease is if it is not ours any more."""

    def release(self) -> None:
        """Give the lease up."""

    def peek(self, group: str) -> t.Optional[Lease]:
        """Return whose fresh lease a Group has, None for nobody; changes nothing. Called after ``read``."""


class RemoteCopy:
    """The place of a vault directory that a depot holds. Safe to use from many threads.

    copy: path of the directory that the copy is in. lost: is told why, if another run has taken over what this one is at.
    """

    def __init__(self, copy: str, remote: Remote, lost: t.Callable[[str], None] = lambda reason: None) -> None:
        self.copy = copy
        #: What stands in results and messages for the path of the copy.
        self.name = remote.name
        self.exists = False
        self.notes: list[str] = []
        self.removed: frozenset[str] = frozenset()
        self._remote = remote
        self._tell = lost
        self._room: tuple[int, t.Optional[int]] = (0, None)
        self._digests: dict[str, str] = {}
        self._odd: dict[str, str] = {}
        # Held by whoever talks with the depot.
        self._talking = threading.Lock()
        # What was written here and is not in its place, with the lock for it; and why, where the depot has refused it.
        self._noting = threading.Lock()
        self._unplaced: set[str] = set()
        self._refused: t.Mapping[str, str] = {}
        # Digests of what was handed over and not confirmed: it may be in its place or not.
        self._offered: dict[str, set[str]] = {}
        # The key files that this run has put in their place, which somebody else may have removed since.
        self._published: set[str] = set()
        # The files that were there when this run looked.
        self._fetched: set[str] = set()
        # What somebody else has written into some of them, as confirm has found it.
        self._changed: dict[str, bytes] = {}
        self._round = Shared()
        # Why the lease is not ours any more.
        self._lost = ""

    # Reading

    def fetch(self) -> None:
        """Make the copy what the depot holds, but for what is not in its place yet."""
        with self._talking, explained("cannot be written", self.copy):
            found = self._remote.read(self._digests)
            self._refuse_strange(found)
            os.makedirs(self.copy, mode=0o700, exist_ok=True)
            for path in [path for path in self._digests if path not in found.paths]:
                del self._digests[path]
                if path in self._published:
                    # The key may be in the copy only.
                    self._unplaced.add(path)
                if path not in self._unplaced:
                    os.unlink(os.path.join(self.copy, path))
            self._mirror(found.odd)
            for path, data in found.files.items():
                # Else it is still to be written, and only over what it was written for, or confirm has to find it changed.
                if path not in self._unplaced | self._published:
                    # What changes while this run has it was written just now.
                    time_there = None if path in self._digests else found.times.get(path)
                    self._digests[path] = digest(data)
                    self._lay(path, data, time_there)
            self._fetched |= found.paths
            self.exists, self._room = found.exists, found.room

    def _refuse_strange(self, found: Contents) -> None:
        """Let nothing through that would lead out of the copy."""
        for path in {*found.files, *found.paths, *found.odd}:
            if not (is_kept(path) or (path in found.odd and _is_name(path))):
                raise StoreError(
                    f"{self.copy} is said to hold {path!r}, which is no path that a key can have.",
                    remedy="What answers there is not to be trusted: find out why before you run again.",
                )

    def _lay(self, path: str, data: bytes, time_there: t.Optional[float] = None) -> None:
        """Write a file of the copy, with the time of its original. Not synced: it is in its own place already."""
        target = os.path.join(self.copy, path)
        os.makedirs(os.path.dirname(target), mode=0o700, exist_ok=True)
        with open(
            target, "wb", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        ) as file:
            file.write(data)
        if time_there is not None:
            now = time.time()
            # A host may say anything.
            seconds = now if math.isnan(time_there) else min(max(time_there, 0.0), now)
            os.utime(target, (seconds, seconds), follow_symlinks=False)

    def _mirror(self, odd: t.Mapping[str, str]) -> None:
        """Put something of the same kind in the way of a store that is in its way elsewhere, so that it says the same of it."""
        for path in self._odd:
            target = os.path.join(self.copy, path)
            (os.rmdir if self._odd[path] == "directory" else os.unlink)(target)
        self._odd = {}
        for path, kind in odd.items():
            target = os.path.join(self.copy, path)
            self._odd[path] = kind
            if kind == "directory":
                os.makedirs(target, mode=0o700)
                continue
            os.makedirs(os.path.dirname(target), mode=0o700, exist_ok=True)
            if kind == "symlink":
                os.symlink("/nonexistent", target)
            else:
                self._lay(path, b"")

    # Writing

    def room(self, path: str) -> tuple[int, t.Optional[int]]:
        """Return what the depot said of itself when it was read last."""
        return self._room

    def prove_writing(self, probe: bytes) -> None:
        """Ask the depot."""
        with self._talking:
            self._remote.prove_writing(probe)

    def later(self, path: str) -> None:
        """Note that a file was written that goes with the next ones."""
        relative = os.path.relpath(path, self.copy)
        if relative != INDEX or self._remote.takes_index:
            with self._noting:
                self._unplaced.add(relative)

    def publish(self, *paths: str) -> None:
        """Put all in its place that was written; StoreError where one of these files is not in it."""
        for path in paths:
            self.later(path)
        self._round(self._send)
        refused = self._refused
        for path in paths:
            reason = refused.get(os.path.relpath(path, self.copy))
            if reason:
                raise StoreError(f"{path} cannot be written ({reason}).", remedy="Run again.")

    def confirm(self) -> dict[str, str]:
        """Look once more for the key files that were published, and publish those again that are gone; see Place."""
        self._changed = {}
        published = {path: data for path in self._published if (data := self._data(path)) is not None}
        if not published:
            return {}
        with self._talking:
            found = self._remote.read(self._digests)
        self._refuse_strange(found)
        removed = self._fetched - found.paths - self._published
        self.removed = frozenset(os.path.join(self.copy, path) for path in removed)
        amiss = {}
        gone = set()
        for path, data in published.items():
            kind = found.odd.get(path) or found.odd.get(os.path.dirname(path))
            if kind:
                amiss[path] = f"a {kind} is in the way"
            elif path not in found.paths:
                gone.add(path)
            elif found.files.get(path, data) != data:
                amiss[path] = "somebody else has changed the file"
                self._changed[path] = found.files[path]
        if gone:
            for path in gone:
                self._digests.pop(path, None)
            with self._noting:
                self._unplaced |= gone
            try:
                self._round(self._send)
                refused = self._refused
            except StoreError as exc:
                refused = dict.fromkeys(gone, exc.happened.rstrip("."))
            amiss.update(
                (path, f"the file was removed and cannot be written again: {refused[path]}")
                for path in gone & refused.keys()
            )
        return {os.path.join(self.copy, path): reason for path, reason in amiss.items()}

    def take_changed(self, paths: t.Collection[str]) -> frozenset[str]:
        """Take files that confirm has found changed into the copy; see Place."""
        taken = {path: data for path, data in self._changed.items() if os.path.join(self.copy, path) in paths}
        with explained("cannot be written", self.copy):
            for path, data in taken.items():
                self._digests[path] = digest(data)
                self._lay(path, data)
        return frozenset(os.path.join(self.copy, path) for path in taken)

    def _send(self) -> None:
        time.sleep(_GATHER_SECONDS)
        with self._noting:
            # What is written anew from now on is for the next round.
            due, self._unplaced = self._unplaced, set()
        left = due
        try:
            self._refused = self._send_all(due)
            left = set(self._refused)
        finally:
            with self._noting:
                # It is tried again with whatever comes next.
                self._unplaced |= left

    def _send_all(self, due: t.Collection[str]) -> dict[str, str]:
        """Hand over what is not in its place; return the files that were refused, and why."""
        refused = self._withheld(due)
        changes: dict[str, Change] = {}
        digests: dict[str, str] = {}
        gone: list[str] = []
        for path in sorted(set(due) - refused.keys()):
            data = self._data(path)
            if data is None:
                gone += [path] * (path in self._digests)
            # An empty file that is not there yet has nothing to say.
            elif (now := digest(data)) != self._digests.get(path) and (data or path in self._digests):
                changes[path] = Change(data, frozenset({self._digests.get(path, ""), *self._offered.get(path, ())}))
                digests[path] = now
        if changes or gone:
            for path, now in digests.items():
                self._offered.setdefault(path, set()).add(now)
            with self._talking:
                written = self._remote.write(changes, gone)
            self._take_note(written.holder)
            # Of what it was not asked for a depot has nothing to say.
            refused.update({path: reason for path, reason in written.refused.items() if path in changes})
            refused.update(self._withheld(changes))
            for path in changes.keys() - refused.keys():
                self._digests[path] = digests[path]
                del self._offered[path]
                if not path.startswith(f"{STATE_NAME}/"):
                    self._published.add(path)
            for path in gone:
                self._digests.pop(path, None)
                self._published.discard(path)
        return refused

    def _withheld(self, paths: t.Iterable[str]) -> dict[str, str]:
        """Return what is not ours to write any more, and why: all that is not a key, after another run has taken over."""
        return {path: self._lost for path in paths if self._lost and path.startswith(f"{STATE_NAME}/")}

    def _data(self, path: str) -> t.Optional[bytes]:
        """Return what is in a file of the copy; None where there is none."""
        target = os.path.join(self.copy, path)
        with explained("cannot be read", target):
            try:
                with opened(None, os.path.dirname(target), DIRECTORY) as directory:
                    return get(directory, os.path.basename(target))
            except FileNotFoundError:
                return None

    # One run at a time for each Group

    @contextlib.contextmanager
    def held(self, group: str, patience: float, wait: t.Callable[[float], t.Any]) -> t.Iterator[None]:
        """Hold the lease of a Group, and keep it fresh; see Place."""
        lease = new_lease()
        deadline = time.monotonic() + patience
        instead_of = ""
        while True:
            with self._talking:
                claim = self._remote.claim(group, lease, instead_of)
            if claim.ours:
                break
            if claim.other and claim.other.dead and claim.other.id != instead_of:
                instead_of = claim.other.id
                continue
            if time.monotonic() >= deadline:
                raise StoreError(
                    f"Another run is at Group {group} in {self.copy}: {claim.other or 'it did not leave its name'}.",
                    remedy="Wait for that run to end, then run again, or raise vault_lock_timeout. If it was killed on another machine, "
                    f"its lease is taken over after {STALE_SECONDS / 60:.0f} minutes.",
                )
            wait(_POLL_SECONDS)
        if claim.other and not claim.other.released:
            why = (
                "is not there any more"
                if claim.other.dead
                else f"had not said for {STALE_SECONDS / 60:.0f} minutes that it is still there"
            )
            self.notes.append(
                f"The lease of Group {group} in {self.copy} was taken over from {claim.other}, which {why}."
            )
        self._lost = ""
        try:
            with Heartbeat(self._refresh):
                yield
        finally:
            # Whatever this costs, the next run settles it.
            with contextlib.suppress(StoreError):
                self.publish()
            self._give_up()
            if not self._lost:
                with contextlib.suppress(StoreError), self._talking:
                    self._remote.release()

    def holder(self, group: str) -> t.Optional[Lease]:
        """Ask the depot which run is at a Group; see Place."""
        with self._talking:
            lease = self._remote.peek(group)
        return None if lease and (lease.dead or lease.released) else lease

    def _give_up(self) -> None:
        """Try no more to write what is not in its place: its Group is not held any more, and who waited for it was told."""
        with self._noting:
            # A key that was in its place and is gone from there may be in the copy only: the next confirm tries again.
            for path in self._unplaced - (self._published - self._digests.keys()):
                self._published.discard(path)
                # So that the next fetch brings what is there instead.
                self._digests.pop(path, None)
                self._offered.pop(path, None)
                target = os.path.join(self.copy, path)
                with contextlib.suppress(OSError):
                    os.unlink(target)
                with contextlib.suppress(OSError):
                    os.rmdir(os.path.dirname(target))
            self._unplaced, self._refused = set(), {}

    def _refresh(self) -> None:
        with self._talking:
            holder = self._remote.refresh() if not self._lost else None
        self._take_note(holder)

    def _take_note(self, holder: t.Optional[Lease]) -> None:
        """Note that another run has taken over, if so: keys go on to their places, but nothing else does, and nothing new is created."""
        if holder and not self._lost:
            self._lost = f"another run has taken over, {holder}"
            self._tell(self._lost)


def is_kept(path: str) -> bool:
    """Tell whether a path within a vault directory is one that a place holds for us: a key file, one on its way, or what is kept about a Group."""
    if not all(map(_is_name, path.split("/"))):
        return False
    folder, _slash, name = path.rpartition("/")
    if path == INDEX:
        return True
    if folder.startswith(f"{STATE_NAME}/"):
        return folder.count("/") == 1 and name == JOURNAL_NAME
    return (is_member_directory(folder) or is_group_directory(folder)) and "/" not in folder and is_key_file(name)


def is_key_file(name: str) -> bool:
    """Tell whether a file of this name may hold keys: in its place, on its way there, or beside it."""
    return name == FILE_NAME or is_temporary(name, FILE_NAME) or is_aside(name, FILE_NAME)


def _is_name(part: str) -> bool:
    try:
        encoded = os.fsencode(part)
    except UnicodeEncodeError:
        return False
    return encoded not in (b"", b".", b"..") and not {b"/"[0], 0} & set(encoded)


def digest(data: bytes) -> str:
    """Return what tells the content of one file from that of another."""
    return hashlib.sha256(data).hexdigest()
