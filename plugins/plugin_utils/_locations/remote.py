# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Describe the remote side of a remote copy: a vault directory on a target host or in a Git repository."""

from __future__ import annotations

import dataclasses
import typing as t

from ansible_collections.community.backblaze.plugins.module_utils._lease import Claim, Lease


@dataclasses.dataclass(frozen=True)
class Contents:
    """The files of a remote vault directory, by path. They are not trusted: a host sends them, or whoever can push.

    files: the content of those whose digest was not known. paths: all files.
    obstacles: the kind of each path that should be of another kind: file, directory, symlink, submodule, special file.
    exists: whether the vault directory exists. room: bytes and files that it can still take.
    times: when each of ``files`` was written at the latest, in seconds since the epoch by the controller's clock.
    """

    files: t.Mapping[str, bytes]
    paths: frozenset[str]
    obstacles: t.Mapping[str, str] = dataclasses.field(default_factory=dict)
    exists: bool = True
    room: tuple[int, t.Optional[int]] = (2**63, None)
    times: t.Mapping[str, float] = dataclasses.field(default_factory=dict)


class Change(t.NamedTuple):
    """A file to write.

    replaces: digests of the content that may be replaced, empty for no file.
    They are several if an earlier write got no answer.
    """

    data: bytes
    replaces: frozenset[str]


@dataclasses.dataclass(frozen=True)
class Written:
    """The answer to a write.

    refused: why, for each file that was not written. holder: the run that has taken the lease over, if any.
    """

    refused: t.Mapping[str, str]
    holder: t.Optional[Lease] = None


class Remote(t.Protocol):
    """A remote vault directory. One thread at a time uses it; every method raises StoreError if it fails."""

    #: Stands in results and messages for the path of the remote copy.
    name: str
    #: Whether it stores the index, which each run changes and only saves time.
    takes_index: bool

    def digest(self, data: bytes) -> str:
        """Return the digest that tells the content of one file from that of another."""

    def read(self, known: t.Mapping[str, str]) -> Contents:
        """Return the files, without the content of those whose digest is known."""

    def write(self, changes: t.Mapping[str, Change], gone: t.Collection[str]) -> Written:
        """Write files, each whole or not at all, and remove others.

        The journal of a Group is written only by the holder of its lease.
        """

    def prove_writing(self) -> None:
        """Prove that files can be written."""

    def claim(self, group: str, lease: Lease, instead_of: str) -> Claim:
        """Claim the lease of a Group. A stale lease is taken over, and so is the lease with the id ``instead_of``."""

    def refresh(self) -> t.Optional[Lease]:
        """Refresh the lease; return the run that has taken it over, if any."""

    def release(self) -> None:
        """Give the lease up."""

    def peek(self, group: str) -> t.Optional[Lease]:
        """Return the fresh lease of a Group, None if there is none; change nothing. Called after ``read``."""
