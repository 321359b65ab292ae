# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Describe a location: the controller, a target host or a Git repository.

Stores and journals write files on the controller's disk. If the vault directory is in another location, that location
publishes them.
"""

from __future__ import annotations

import contextlib
import typing as t

from ansible_collections.community.backblaze.plugins.module_utils._files import room_in
from ansible_collections.community.backblaze.plugins.module_utils._lease import Lease
from ansible_collections.community.backblaze.plugins.plugin_utils._locations.lease import Wait


class Location(t.Protocol):
    """The location of a vault directory. Safe to use from many threads; every method raises StoreError."""

    #: Notes about other runs, for the result of the task.
    notes: list[str]
    #: Whether the vault directory existed at the last fetch.
    exists: bool
    #: Files that existed during this run and were missing at the last confirm, but for those published again.
    removed: frozenset[str]

    def fetch(self) -> None:
        """Update the files on the controller's disk."""

    def room(self, path: str) -> tuple[int, t.Optional[int]]:
        """Return the free bytes and the free files for a directory; None for files if it has no limit."""

    def prove_writing(self) -> None:
        """Prove that files can be published, as far as a test without a key can show it."""

    def publish(self, *paths: str) -> None:
        """Publish files that the caller has written and synced, and all files noted by ``later``.

        Return when they are on disk in the location.
        """

    def later(self, path: str) -> None:
        """Publish a file together with the next ones."""

    def confirm(self) -> dict[str, str]:
        """Look for the key files that this run has published, and publish missing ones again.

        Return why, for each path that still does not hold its key. StoreError if the location cannot be read.
        """

    def take_changed(self, paths: t.Collection[str]) -> frozenset[str]:
        """Write those of some key files to the controller's disk that the last confirm found changed by somebody else.

        Return their paths. They replace files that this run has written, and may have done so if StoreError is raised.
        """

    def lease(self, group: str, patience: float, wait: Wait) -> contextlib.AbstractContextManager[None]:
        """Hold the lease of a Group against runs on other machines; publish all files noted by ``later`` at the end.

        group: the name of its directory. patience: seconds to wait for another run.
        """

    def holder(self, group: str) -> t.Optional[Lease]:
        """Return the run that holds the lease of a Group, None if no run does. Called after ``fetch``."""


class Controller:
    """The controller: files that are written and synced need no publishing, and runs need no lease beside the lock."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.exists = True
        self.removed: frozenset[str] = frozenset()

    def fetch(self) -> None:
        """Do nothing."""

    def room(self, path: str) -> tuple[int, t.Optional[int]]:
        """Return the room in the file system."""
        return room_in(path)

    def prove_writing(self) -> None:
        """Do nothing."""

    def publish(self, *paths: str) -> None:
        """Do nothing."""

    def later(self, path: str) -> None:
        """Do nothing."""

    def confirm(self) -> dict[str, str]:
        """Do nothing: synced files stay, and files that somebody else removes are not written again."""
        return {}

    def take_changed(self, paths: t.Collection[str]) -> frozenset[str]:
        """Do nothing."""
        return frozenset()

    def lease(self, group: str, patience: float, wait: Wait) -> contextlib.AbstractContextManager[None]:
        """Do nothing."""
        return contextlib.nullcontext()

    def holder(self, group: str) -> t.Optional[Lease]:
        """Return None: the lock in the directory names its holder."""
        return None


CONTROLLER = Controller()
