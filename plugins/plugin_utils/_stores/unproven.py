# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Keep unproven keys, whose account is not certain, in files that Ansible does not load."""

from __future__ import annotations

import contextlib
import os
import typing as t

from ansible_collections.community.backblaze.plugins.module_utils._errors import StoreError
from ansible_collections.community.backblaze.plugins.module_utils._files import (
    explained,
    get,
    put,
)
from ansible_collections.community.backblaze.plugins.module_utils._members import unsafe_name
from ansible_collections.community.backblaze.plugins.module_utils._vault_paths import FILE_NAME, aside_name, is_aside
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.key_file import StoredKey, key_text, read_key
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.sealer import Sealer
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.vault_dir import VaultDir, unsafe_address


class UnprovenKeys:
    """One vault file for each key without proof of its owner. A key is tried before it leaves this file. Thread-safe.

    Each file is beside the vault file of the address that its key arrived for.
    """

    def __init__(self, store: VaultDir, sealer: Sealer) -> None:
        self._store = store
        self._sealer = sealer

    def put(self, email: str, key: StoredKey) -> str:
        """Seal a key that arrived for an address; return the path of its file. Raises StoreError if that fails."""
        if unsafe_name(email):
            raise unsafe_address()
        name = aside_name(FILE_NAME)
        path = os.path.join(self._store.path, self._store.folder(email), name)
        with explained("cannot be written", path), self._store.changed_folder(email) as directory:
            put(directory, name, self._sealer.seal(key_text(key)), modes=self._store.modes)
        self._store.location.publish(path)
        return path

    def of(self, email: str) -> dict[str, t.Optional[StoredKey]]:
        """Return each key that arrived for an address, by path. The key of a file that does not decrypt is None."""
        folder = os.path.join(self._store.path, self._store.folder(email))
        found: dict[str, t.Optional[StoredKey]] = {}
        with (
            explained("cannot be read", folder),
            contextlib.suppress(FileNotFoundError),
            self._store.opened_folder(email) as directory,
        ):
            for name in sorted(name for name in os.listdir(directory) if is_aside(name, FILE_NAME)):
                path = os.path.join(folder, name)
                sealed = get(directory, name)
                try:
                    plaintext = self._sealer.open(sealed, path)
                except StoreError:
                    found[path] = None
                    continue
                # In the layout group_vars, files of other addresses share the directory.
                with contextlib.suppress(StoreError):
                    found[path] = read_key(plaintext, path, email)
        return found

    def discard(self, path: str) -> None:
        """Remove the file of a key that is sealed in its key file now. If that fails, the file does no harm."""
        with contextlib.suppress(OSError):
            os.unlink(path)
            self._store.location.later(path)
