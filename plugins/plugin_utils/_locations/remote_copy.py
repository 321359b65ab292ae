# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Keep a remote copy of a vault directory that is on a target host or in a Git repository.

Stores and journals read and write the remote copy, which is private and removed at the end. It holds vault files and
records without secrets. A file counts as written when the remote side has confirmed it.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import typing as t

from ansible_collections.community.backblaze.plugins.module_utils._errors import StoreError
from ansible_collections.community.backblaze.plugins.module_utils._files import explained
from ansible_collections.community.backblaze.plugins.module_utils._lease import Claim, Lease
from ansible_collections.community.backblaze.plugins.module_utils._vault_paths import INDEX_NAME, STATE_NAME
from ansible_collections.community.backblaze.plugins.plugin_utils._locations.copy_files import (
    prove_paths,
    read_file,
    recreate_obstacles,
    write_file,
)
from ansible_collections.community.backblaze.plugins.plugin_utils._locations.lease import (
    Heartbeat,
    Wait,
    wait_for_lease,
)
from ansible_collections.community.backblaze.plugins.plugin_utils._locations.remote import Change, Remote
from ansible_collections.community.backblaze.plugins.plugin_utils._sync import Shared

INDEX = f"{STATE_NAME}/{INDEX_NAME}"

# A round waits so long for other threads that are about to publish: each round is one message to the remote side.
_GATHER_SECONDS = 0.1


class RemoteCopy:
    """The remote copy of a vault directory. Safe to use from many threads.

    copy: path of its directory. lost: called with the reason if another run takes the lease over.
    """

    def __init__(self, copy: str, remote: Remote, lost: t.Callable[[str], None] = lambda reason: None) -> None:
        self.copy = copy
        #: Stands in results and messages for the path of the remote copy.
        self.name = remote.name
        self.exists = False
        self.notes: list[str] = []
        self.removed: frozenset[str] = frozenset()
        self._remote = remote
        self._tell = lost
        self._room: tuple[int, t.Optional[int]] = (0, None)
        # The remote files as this run knows them, and the obstacles.
        self._digests: dict[str, str] = {}
        self._obstacles: t.Mapping[str, str] = {}
        # One thread at a time uses the remote side.
        self._talking = threading.Lock()
        # Files that are not on the remote side yet, with the lock for them; and why, if they were refused.
        self._noting = threading.Lock()
        self._pending: set[str] = set()
        self._refused: t.Mapping[str, str] = {}
        # Digests of content that was sent without an answer: the remote side may have it.
        self._unanswered: dict[str, set[str]] = {}
        # Key files that this run has published, which somebody else may have removed since.
        self._published: set[str] = set()
        # All files that existed when this run fetched.
        self._fetched: set[str] = set()
        # New content of key files that somebody else has changed, as of the last confirm.
        self._changed: dict[str, bytes] = {}
        self._round = Shared()
        # Why the lease is not ours any more.
        self._lost = ""

    # Reading

    def fetch(self) -> None:
        """Update the remote copy, but not the files that are still to be published."""
        with self._talking, explained("cannot be written", self.copy):
            found = self._remote.read(self._digests)
            prove_paths(self.copy, found)
            os.makedirs(self.copy, mode=0o700, exist_ok=True)
            for path in self._digests.keys() - found.paths:
                del self._digests[path]
                if path in self._published:
                    # The remote copy may have the only key.
                    self._pending.add(path)
                if path not in self._pending:
                    os.unlink(os.path.join(self.copy, path))
            recreate_obstacles(self.copy, self._obstacles, found.obstacles)
            self._obstacles = found.obstacles
            # A pending file replaces only the content it was written for, and confirm finds changes of a published one.
            for path in found.files.keys() - self._pending - self._published:
                # A file that changes during this run was written just now.
                written = None if path in self._digests else found.times.get(path)
                self._digests[path] = self._remote.digest(found.files[path])
                write_file(self.copy, path, found.files[path], written)
            self._fetched |= found.paths
            self.exists, self._room = found.exists, found.room

    def room(self, path: str) -> tuple[int, t.Optional[int]]:
        """Return the room on the remote side as of the last fetch."""
        return self._room

    # Writing

    def prove_writing(self) -> None:
        """Prove that files can be written on the remote side."""
        with self._talking:
            self._remote.prove_writing()

    def later(self, path: str) -> None:
        """Publish a file together with the next ones."""
        relative = os.path.relpath(path, self.copy)
        if relative != INDEX or self._remote.takes_index:
            with self._noting:
                self._pending.add(relative)

    def publish(self, *paths: str) -> None:
        """Publish all pending files; StoreError if one of these files is refused."""
        for path, reason in self._try_to_publish(paths).items():
            raise StoreError(f"{path} cannot be written ({reason}).", remedy="Run again.")

    def _try_to_publish(self, paths: t.Collection[str]) -> dict[str, str]:
        """Publish all pending files; return why, for each of these files that is refused."""
        for path in paths:
            self.later(path)
        self._round(self._publish_pending)
        refused = self._refused
        return {path: refused[name] for path in paths if (name := os.path.relpath(path, self.copy)) in refused}

    def _publish_pending(self) -> None:
        time.sleep(_GATHER_SECONDS)
        with self._noting:
            # A file that is written from now on is for the next round.
            due, self._pending = self._pending, set()
        left = due
        try:
            self._refused = self._send(due)
            left = set(self._refused)
        finally:
            with self._noting:
                # They are tried again in the next round.
                self._pending |= left

    def _send(self, due: t.Collection[str]) -> dict[str, str]:
        """Send files to the remote side; return why, for each that was refused."""
        refused = self._withheld(due)
        changes: dict[str, Change] = {}
        gone: list[str] = []
        for path in sorted(set(due) - refused.keys()):
            data, known = read_file(self.copy, path), self._digests.get(path, "")
            if data is None:
                gone += [path] * bool(known)
            # A new file that is empty, such as a journal without entries, is not worth a message.
            elif self._remote.digest(data) != known and (data or known):
                changes[path] = Change(data, frozenset({known, *self._unanswered.get(path, ())}))
        if changes or gone:
            for path, change in changes.items():
                self._unanswered.setdefault(path, set()).add(self._remote.digest(change.data))
            with self._talking:
                written = self._remote.write(changes, gone)
            self._note_holder(written.holder)
            # The remote side can refuse only files that were sent to it.
            refused.update({path: reason for path, reason in written.refused.items() if path in changes})
            refused.update(self._withheld(changes))
            for path in changes.keys() - refused.keys():
                self._digests[path] = self._remote.digest(changes[path].data)
                del self._unanswered[path]
                if not path.startswith(f"{STATE_NAME}/"):
                    self._published.add(path)
            for path in gone:
                self._digests.pop(path, None)
                self._published.discard(path)
        return refused

    def _withheld(self, paths: t.Iterable[str]) -> dict[str, str]:
        """Return why, for each file that only the holder of the lease may write, if this run has lost the lease."""
        return {path: self._lost for path in paths if self._lost and path.startswith(f"{STATE_NAME}/")}

    # Confirming

    def confirm(self) -> dict[str, str]:
        """Look for the key files that this run has published, and publish missing ones again; see Location."""
        self._changed = {}
        published = {path: data for path in self._published if (data := read_file(self.copy, path)) is not None}
        if not published:
            return {}
        with self._talking:
            found = self._remote.read(self._digests)
        prove_paths(self.copy, found)
        removed = self._fetched - found.paths - self._published
        self.removed = frozenset(os.path.join(self.copy, path) for path in removed)
        reasons: dict[str, str] = {}
        gone = []
        for path, data in published.items():
            whole = os.path.join(self.copy, path)
            kind = found.obstacles.get(path) or found.obstacles.get(os.path.dirname(path))
            if kind:
                reasons[whole] = f"a {kind} is in the way"
            elif path not in found.paths:
                self._digests.pop(path, None)
                gone.append(whole)
            elif found.files.get(path, data) != data:
                reasons[whole] = "somebody else has changed the file"
                self._changed[path] = found.files[path]
        return {**reasons, **self._publish_again(gone)}

    def _publish_again(self, paths: t.Collection[str]) -> dict[str, str]:
        """Publish key files that somebody else has removed; return why, for each that cannot be written again."""
        try:
            refused = self._try_to_publish(paths) if paths else {}
        except StoreError as exc:
            refused = dict.fromkeys(paths, exc.happened.rstrip("."))
        return {path: f"the file was removed and cannot be written again: {reason}" for path, reason in refused.items()}

    def take_changed(self, paths: t.Collection[str]) -> frozenset[str]:
        """Write those of some key files that confirm has found changed into the remote copy; see Location."""
        taken = {path: data for path, data in self._changed.items() if os.path.join(self.copy, path) in paths}
        with explained("cannot be written", self.copy):
            for path, data in taken.items():
                self._digests[path] = self._remote.digest(data)
                write_file(self.copy, path, data)
        return frozenset(os.path.join(self.copy, path) for path in taken)

    # One run at a time for each Group

    @contextlib.contextmanager
    def lease(self, group: str, patience: float, wait: Wait) -> t.Iterator[None]:
        """Hold the lease of a Group; see Location."""

        def claim(lease: Lease, instead_of: str) -> Claim:
            with self._talking:
                return self._remote.claim(group, lease, instead_of)

        note = wait_for_lease(claim, group, self.copy, patience, wait)
        self.notes += [note] if note else []
        self._lost = ""
        try:
            with Heartbeat(self._refresh):
                yield
        finally:
            # The next run settles whatever is left.
            with contextlib.suppress(StoreError):
                self.publish()
            self._discard_pending()
            if not self._lost:
                with contextlib.suppress(StoreError), self._talking:
                    self._remote.release()

    def holder(self, group: str) -> t.Optional[Lease]:
        """Return the run that holds the lease of a Group; see Location."""
        with self._talking:
            lease = self._remote.peek(group)
        return None if lease and lease.dead else lease

    def _discard_pending(self) -> None:
        """Discard the files that were not published: this run does not hold their Group any more."""
        with self._noting:
            # A published key that was removed may be in the remote copy only: the next confirm tries again.
            for path in self._pending - (self._published - self._digests.keys()):
                self._published.discard(path)
                # So that the next fetch brings the remote file.
                self._digests.pop(path, None)
                self._unanswered.pop(path, None)
                target = os.path.join(self.copy, path)
                with contextlib.suppress(OSError):
                    os.unlink(target)
                with contextlib.suppress(OSError):
                    os.rmdir(os.path.dirname(target))
            self._pending, self._refused = set(), {}

    def _refresh(self) -> None:
        with self._talking:
            holder = self._remote.refresh() if not self._lost else None
        self._note_holder(holder)

    def _note_holder(self, holder: t.Optional[Lease]) -> None:
        """Note that another run has taken the lease over: keys are still published, but no more members are created."""
        if holder and not self._lost:
            self._lost = f"another run has taken over, {holder}"
            self._tell(self._lost)
