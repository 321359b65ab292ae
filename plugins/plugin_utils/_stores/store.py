# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a run asks of a store, whatever its layout."""

from __future__ import annotations

import contextlib
import typing as t

from ansible_collections.community.backblaze.plugins.module_utils._plan import Stored
from ansible_collections.community.backblaze.plugins.module_utils._vault_mode import Modes
from ansible_collections.community.backblaze.plugins.plugin_utils._locations.location import Location
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.key_file import StoredKey
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.unproven import UnprovenKeys


class Store(t.Protocol):
    """Reads and writes the keys of one layout. Safe to use from many threads, for different members.

    Every method raises StoreError. What a store of any layout does as a vault directory is in VaultDir.
    """

    #: Path of the vault directory, or of its remote copy.
    path: str
    location: Location
    #: Modes of new files and directories.
    modes: Modes
    #: The keys without proof of their owners.
    unproven: UnprovenKeys

    # Checks before the first create

    def prove(self, wanted: t.Collection[str], *, write: bool) -> None:
        """Raise StoreError unless every wanted address can get a key. write: false in check mode, to write no file."""

    def prove_not_in_other_layout(self, wanted: t.Collection[str]) -> None:
        """Raise StoreError if a wanted key is stored in the same directory in another layout; prove does so as well."""

    def prove_nothing_switched_off(self, wanted: t.Collection[str]) -> None:
        """Raise StoreError if a new directory for these keys would keep Ansible from loading a file of variables."""

    def prove_room(self, keys: int) -> None:
        """Raise StoreError if there is no room for this number of new keys."""

    def prove_writing(self) -> None:
        """Write a file as a key is written, and remove it; the caller holds the lock."""

    # Locks and journals

    def locked(
        self, group_id: str, patience: float, wait: t.Callable[[float], t.Any]
    ) -> contextlib.AbstractContextManager[int]:
        """Hold the lock of a Group, and yield the open directory of its journal. patience: seconds to wait."""

    def state(self, group_id: str) -> contextlib.AbstractContextManager[int]:
        """Yield the open directory of a Group's journal for reading without the lock, or -1 if there is none."""

    def state_path(self, group_id: str) -> str:
        """Return the path of the directory of a Group's lock and journal."""

    def holder(self, group_id: str) -> str:
        """Return which run works on a Group now, empty for none. This call neither waits nor changes anything."""

    # Keys

    def stored(self, emails: t.Optional[t.Collection[str]] = None) -> dict[str, Stored]:
        """Return what is known of all stored keys, or at least of those of some addresses. No key is returned."""

    def read(self, email: str) -> t.Optional[StoredKey]:
        """Return the key of an address; None if there is no key."""

    def seal(self, key: StoredKey, *, again: bool = False) -> str:
        """Seal a key and return the path of its file: encrypted, and synced to disk.

        Another key is never replaced. again: replace this very key, because more is known about its account.
        """

    def recover(self, email: str, account_id: str, *, write: bool) -> t.Optional[Stored]:
        """Seal the key of an account from a temporary file of a killed run; return None if there is no such file.

        A temporary file that does not decrypt is not changed. It is returned with its own path and without a key id.
        """

    def remember(self) -> None:
        """Write the index, if this layout has one. Called at the end of a run, under its lock. Never raises."""

    def file(self, email: str) -> str:
        """Return the path of the file that holds, or would hold, the key of an address."""


def secret_of(store: Store, email: str) -> tuple[str, str]:
    """Return the key id and the key that are stored for an address; both are empty if there is no key."""
    key = store.read(email)
    return key.secret if key else ("", "")
