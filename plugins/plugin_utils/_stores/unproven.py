# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Keys of which it is not certain whose they are: beside the place that they came for, where Ansible does not load them."""

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
from ansible_collections.community.backblaze.plugins.module_utils._members import NewMember, unsafe_name
from ansible_collections.community.backblaze.plugins.module_utils._vault_paths import aside_name, is_aside
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.key_file import key_text, read_key_text
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.sealer import Sealer
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.vault_dir import VaultDir


class UnprovenKeys:
    """One vault file a key, with a name of its own. Nothing takes a key from there but what has tried it. Safe to use from many threads.

    name: of the key file beside which they are. folder_of: returns the directory of that file for an address, within the vault directory.
    """

    def __init__(self, directory: VaultDir, sealer: Sealer, name: str, folder_of: t.Callable[[str], str]) -> None:
        self._directory = directory
        self._sealer = sealer
        self._name = name
        self._folder_of = folder_of

    def put(self, email: str, new: NewMember) -> str:
        """Encrypt a key that came for an address, and put it on disk; return the path of its file. StoreError where that fails."""
        if unsafe_name(email):
            raise StoreError("An address that is not safe as a name came as far as the store.")
        folder, name = self._folder_of(email), aside_name(self._name)
        path = os.path.join(self._directory.path, folder, name)
        with explained("cannot be written", path), self._directory.root() as root:
            with contextlib.suppress(FileExistsError):
                make_in(root, folder, self._directory.modes)
            with opened(root, folder, DIRECTORY) as directory:
                put(directory, name, self._sealer.seal(key_text(new)), modes=self._directory.modes)
                os.fsync(directory)
            os.fsync(root)
        self._directory.location.publish(path)
        return path

    def of(self, email: str) -> dict[str, dict[str, str]]:
        """Return the variables of each key that came for an address, by the path of its file; what does not decrypt is left out."""
        folder = os.path.join(self._directory.path, self._folder_of(email))
        found: dict[str, dict[str, str]] = {}
        with explained("cannot be read", folder):
            try:
                with self._directory.root() as root, opened(root, self._folder_of(email), DIRECTORY) as directory:
                    for name in sorted(name for name in os.listdir(directory) if is_aside(name, self._name)):
                        path = os.path.join(folder, name)
                        # Also where it is of another address, which shares the directory.
                        with contextlib.suppress(StoreError):
                            found[path] = read_key_text(self._sealer.open(get(directory, name), path), path, email)
            except FileNotFoundError:
                pass
        return found

    def discard(self, path: str) -> None:
        """Remove a file whose key is in its place now; one that stays does no harm."""
        with contextlib.suppress(OSError):
            os.unlink(path)
            self._directory.location.later(path)
