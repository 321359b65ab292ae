# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where a vault directory is: stores and journal write on the controller's disk, and a place says when that is where it has to be."""

from __future__ import annotations

import contextlib
import os
import typing as t

from ansible_collections.community.backblaze.plugins.module_utils._files import nearest
from ansible_collections.community.backblaze.plugins.plugin_utils._locations.lease import Lease


class Location(t.Protocol):
    """Safe to use from many threads; every method raises StoreError."""

    #: What is to be said of other runs.
    notes: list[str]
    #: Whether the vault directory is there, as far as the last fetch has shown.
    exists: bool
    #: Files that were there during this run and that the last confirm did not find, but for those published again.
    removed: frozenset[str]

    def fetch(self) -> None:
        """Bring what is on the controller's disk up to date."""

    def room(self, path: str) -> tuple[int, t.Optional[int]]:
        """Return how many bytes and how many files a directory can still take; None for files where that has no limit."""

    def prove_writing(self, probe: bytes) -> None:
        """Show that files can be put in place, as far as that can be seen beforehand."""

    def publish(self, *paths: str) -> None:
        """Return when these files, which the caller has written and synced, are in their place for good, and so is all that came ``later``."""

    def later(self, path: str) -> None:
        """Note that a file was written that need not be in its place before something else is."""

    def confirm(self) -> dict[str, str]:
        """Look once more for the key files that this run has published, and publish those again that are gone.

        Return why, for each path that does not hold its key all the same. StoreError if the place cannot be looked at: then nothing is known.
        """

    def take_changed(self, paths: t.Collection[str]) -> frozenset[str]:
        """Put those of some key files on the controller's disk that the last confirm found changed by somebody else.

        Return their paths. What this run had written into them is gone from there then, and on StoreError it may be.
        """

    def held(
        self, group: str, patience: float, wait: t.Callable[[float], t.Any]
    ) -> contextlib.AbstractContextManager[None]:
        """Keep other machines from changing what is kept about a Group; on leaving, what came ``later`` is put in its place.

        group: its name as a directory. patience: seconds to wait for another run.
        """

    def holder(self, group: str) -> t.Optional[Lease]:
        """Return which run is at a Group, None if none is; neither waits nor changes anything. Called after ``fetch``."""


class Controller:
    """The controller's own disk: what is written and synced is in its place, and a lock of the file system keeps others out."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.exists = True
        self.removed: frozenset[str] = frozenset()

    def fetch(self) -> None:
        """Do nothing."""

    def room(self, path: str) -> tuple[int, t.Optional[int]]:
        """Ask the file system."""
        found = os.statvfs(nearest(path))
        return found.f_bavail * found.f_frsize, found.f_favail if found.f_files else None

    def prove_writing(self, probe: bytes) -> None:
        """Do nothing."""

    def publish(self, *paths: str) -> None:
        """Do nothing."""

    def later(self, path: str) -> None:
        """Do nothing."""

    def confirm(self) -> dict[str, str]:
        """Do nothing: what was synced stays, and a file that somebody else removes is gone for good."""
        return {}

    def take_changed(self, paths: t.Collection[str]) -> frozenset[str]:
        """Do nothing."""
        return frozenset()

    def held(
        self, group: str, patience: float, wait: t.Callable[[float], t.Any]
    ) -> contextlib.AbstractContextManager[None]:
        """Do nothing."""
        return contextlib.nullcontext()

    def holder(self, group: str) -> t.Optional[Lease]:
        """Return None: the directory itself shows that."""


CONTROLLER = Controller()
