# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the provisioner asks of a place for keys, whatever its layout."""

from __future__ import annotations

import typing as t

from ansible_collections.community.backblaze.plugins.module_utils._members import NewMember
from ansible_collections.community.backblaze.plugins.module_utils._plan import Stored
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.unproven import UnprovenKeys
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.vault_dir import VaultDir


class Store(t.Protocol):
    """A place for keys. Safe to use from many threads, for different members; every method raises StoreError."""

    directory: VaultDir
    #: Where keys go of which it is not certain whose they are.
    unproven: UnprovenKeys

    def prove(self, wanted: t.Collection[str], *, write: bool) -> None:
        """Show that the place of every wanted address is fit for a key; write: false in check mode, where nothing is made on disk."""

    def prove_not_in_other_layout(self, wanted: t.Collection[str]) -> None:
        """Show that no wanted key is kept in the same directory in another layout, where this store would not find it; prove does so as well."""

    def prove_nothing_switched_off(self, wanted: t.Collection[str]) -> None:
        """Show that a directory for the keys of these addresses, if it has to be made, keeps Ansible from loading no file of variables."""

    def stored(self, emails: t.Optional[t.Collection[str]] = None) -> dict[str, Stored]:
        """Return the stored keys by address, never the keys themselves: all, or at least those of some addresses."""

    def read(self, email: str) -> t.Optional[dict[str, str]]:
        """Return the variables stored for an address, the key among them; None where there are none."""

    def key(self, email: str) -> tuple[str, str]:
        """Return the id and the secret stored for an address, both empty where there are none."""

    def seal(self, new: NewMember, *, again: bool = False) -> str:
        """Encrypt a key and put it on disk before this returns; return the path of its file.

        No other key is ever replaced. again: the same key, with more known about its account.
        """

    def recover(self, email: str, account_id: str, *, write: bool) -> t.Optional[Stored]:
        """Bring home the key of an account that a killed run had written, but not into its place; None where there is none.

        What may be that key and does not decrypt stays where it is: it is returned with its own path, and without a key id.
        """

    def remember(self) -> None:
        """Write down what spares the next run work, if anything; called at the end of a run, under its lock. Never raises."""

    def file(self, email: str) -> str:
        """Return the path of the file that holds, or would hold, the key of an address."""
