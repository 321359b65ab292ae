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
    DIRECTORY,
    explained,
    get,
    make_in,
    opened,
    put,
)
from ansible_collections.community.backblaze.plugins.module_utils._members import unsafe_name
from ansible_collections.community.backblaze.plugins.module_utils._vault_paths import aside_name, is_aside
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.key_file import StoredKey, key_text, read_key
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.sealer import Sealer
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.vault_dir import VaultDir


class UnprovenKeys:
    """One vault file for each key without proof of its owner. A key is tried before it leaves this file. Thread-safe.

    name: name of the key file beside these files. folder_of: returns the directory of the key file of an address,
    within the vault directory.
    """

    def __init__(self, directory: VaultDir, sealer: Sealer, name: str, folder_of: t.Callable[[str], str]) -> None:
        self._directory = directory
        self._sealer = sealer
        self._name = name
        self._folder_of = folder_of

    def put(self, email: str, key: StoredKey) -> str:
        """Seal a key that arrived for an address; return the path of its file. Raises StoreError if that fails."""
        if unsafe_name(email):
            raise StoreError("An address that is not safe as a name came as far as the store.")
        folder, name = self._folder_of(email), aside_name(self._name)
        path = os.path.join(self._directory.path, folder, name)
        with explained("cannot be written", path), self._directory.root() as root:
            with contextlib.suppress(FileExistsError):
                make_in(root, folder, self._directory.modes)
            with opened(root, folder, DIRECTORY) as directory:
                put(directory, name, self._sealer.seal(key_text(key)), modes=self._directory.modes)
                os.fsync(directory)
            os.fsync(root)
        self._directory.location.publish(path)
        return path

    def of(self, email: str) -> dict[str, StoredKey]:
        """Return each key that arrived for an address, by path. Files that do not decrypt are left out."""
        folder = os.path.join(self._directory.path, self._folder_of(email))
        found: dict[str, StoredKey] = {}
        with explained("cannot be read", folder):
            try:
                with self._directory.root() as root, opened(root, self._folder_of(email), DIRECTORY) as directory:
                    for name in sorted(name for name in os.listdir(directory) if is_aside(name, self._name)):
                        path = os.path.join(folder, name)
                        # In the layout group_vars, files of other addresses share the directory.
                        with contextlib.suppress(StoreError):
                            found[path] = read_key(self._sealer.open(get(directory, name), path), path, email)
            except FileNotFoundError:
                pass
        return found

    def discard(self, path: str) -> None:
        """Remove the file of a key that is sealed in its key file now. If that fails, the file does no harm."""
        with contextlib.suppress(OSError):
            os.unlink(path)
            self._directory.location.later(path)
