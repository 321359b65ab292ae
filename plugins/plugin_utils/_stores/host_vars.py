# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The layout ``host_vars``: ``<vault_dir>/<email>/b2_vault.yml``. Ansible loads the file for the host of that name."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import typing as t

from ansible_collections.community.backblaze.plugins.module_utils._errors import StoreError
from ansible_collections.community.backblaze.plugins.module_utils._files import (
    exists,
    explained,
    get,
    replace,
)
from ansible_collections.community.backblaze.plugins.module_utils._members import unsafe_name
from ansible_collections.community.backblaze.plugins.module_utils._plan import Stored
from ansible_collections.community.backblaze.plugins.module_utils._vault_mode import PRIVATE, Modes
from ansible_collections.community.backblaze.plugins.module_utils._vault_paths import (
    FILE_NAME,
    INDEX_NAME,
    STATE_NAME,
    is_member_directory,
)
from ansible_collections.community.backblaze.plugins.plugin_utils._locations.location import CONTROLLER, Location
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.group_vars import (
    GroupVarsStore,
    groups_in,
    kept_in_other_layout,
)
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.index import Index
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.key_file import (
    StoredKey,
    is_another,
    key_text,
    read_key,
    says_more,
)
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.sealer import Sealer
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.unproven import UnprovenKeys
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.vault_dir import VaultDir, unsafe_address


class HostVarsStore(VaultDir):
    """One vault file for each member. Safe to use from many threads, for different members."""

    def __init__(self, path: str, sealer: Sealer, location: Location = CONTROLLER, modes: Modes = PRIVATE) -> None:
        super().__init__(path, sealer, location, modes)
        self.unproven = UnprovenKeys(self, sealer)
        self._index = Index(sealer)
        # The stores of the other layout in the same vault directory, by the id of their Group.
        self._group_vars: dict[str, GroupVarsStore] = {}

    def folder(self, email: str) -> str:
        """Return the name of the directory of an address, which is the address."""
        return email

    def prove_not_in_other_layout(self, wanted: t.Collection[str]) -> None:
        """Raise StoreError if a wanted key is stored in the same directory in the layout group_vars."""
        missing = [email for email in wanted if not os.path.lexists(self.file(email))]
        for group_id in groups_in(self.path) if missing else ():
            other = self._group_vars.setdefault(group_id, GroupVarsStore(self.path, self._sealer, group_id))
            kept = {*other.stored(), *other.leftover()}
            found = [email for email in missing if email in kept]
            if found:
                raise kept_in_other_layout(found, other.file(""), "group_vars", "host_vars")

    # Reading

    def stored(self, emails: t.Optional[t.Collection[str]] = None) -> dict[str, Stored]:
        """Return what is known of all stored keys, or of those of some addresses, by address. No key is returned.

        Each file has to decrypt, and to hold the key of its address. The index knows the bytes of files that did.
        """
        found: dict[str, Stored] = {}
        unknown: dict[str, bytes] = {}
        with explained("cannot be read", self.path):
            try:
                names = self._names() if emails is None else emails
                with self.root() as root:
                    self._index.load(root)
            except FileNotFoundError:
                return {}
        if emails is None:
            self._index.keep(names)
        for name in sorted(names):
            sealed = self._sealed(name)
            if sealed is not None:
                known = self._index.get(name, sealed)
                if known:
                    found[name] = Stored(known.account_id, known.key_id, self.file(name), known.group_id)
                else:
                    unknown[name] = sealed
        # Decryption is slow by design, and releases the interpreter lock.
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            found.update(zip(unknown, pool.map(self._opened, unknown, unknown.values()), strict=True))
        return found

    def _names(self) -> list[str]:
        """Return the names of all directories of members."""
        with os.scandir(self.path) as entries:
            return [
                entry.name
                for entry in entries
                if is_member_directory(entry.name) and entry.is_dir(follow_symlinks=False)
            ]

    def _sealed(self, email: str) -> t.Optional[bytes]:
        """Return the encrypted content of the file of an address; None if there is no file."""
        with (
            explained("cannot be read", self.file(email)),
            contextlib.suppress(FileNotFoundError),
            self.opened_folder(email) as directory,
        ):
            return get(directory, FILE_NAME)
        return None

    def _opened(self, email: str, sealed: bytes) -> Stored:
        """Decrypt a file, and tell the index about it."""
        key = self._key(sealed, email)
        if self._sealer.opens_alone(sealed):
            self._index.put(email, sealed, key)
        return key.known(self.file(email))

    def remember(self) -> None:
        """Write the index, so that the next run need not decrypt the same files. The caller holds the lock."""
        with contextlib.suppress(OSError, StoreError), self.root() as root:
            self._index.save(root, self.modes)
            self.location.later(os.path.join(self.path, STATE_NAME, INDEX_NAME))

    def read(self, email: str) -> t.Optional[StoredKey]:
        """Return the key of an address; None if there is no file."""
        sealed = self._sealed(email)
        return None if sealed is None else self._key(sealed, email)

    def _key(self, sealed: bytes, email: str) -> StoredKey:
        """Decrypt the key in the file of an address."""
        return self.keys_in(sealed, self.file(email), email)[email]

    def keys_in(self, sealed: bytes, path: str, email: str) -> dict[str, StoredKey]:
        """Decrypt a key file, or a temporary file of it; return the one key in it by its address."""
        return {email: read_key(self._sealer.open(sealed, path), path, email)}

    # Writing

    def seal(self, key: StoredKey, *, again: bool = False) -> str:
        """Seal a key and return the path of its file.

        A file with another key is never replaced, only a file with part of a key. again: replace a file with this very
        key too, because more is known about its account, unless its owner has added lines. Otherwise such a file is
        only synced.
        """
        email = key.email
        if unsafe_name(email):
            raise unsafe_address()
        path = self.file(email)
        with explained("cannot be written", path), self.changed_folder(email) as directory:
            there = self._key(get(directory, FILE_NAME), email) if exists(directory, FILE_NAME) else None
            if is_another(key, there):
                raise StoreError(f"{path} holds another key. The file was not replaced.", remedy="Move the file away.")
            if not there or says_more(key, there) or (again and not there.more and there != key):
                sealed = self._sealer.seal(key_text(key))
                replace(directory, FILE_NAME, sealed, modes=self.modes)
                self._index.put(email, sealed, key)
        self.location.publish(path)
        return path
