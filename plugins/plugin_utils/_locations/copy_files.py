# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Read and write the files of a remote copy on the controller's disk, and recreate the obstacles of the remote side."""

from __future__ import annotations

import os
import time
import typing as t

from ansible_collections.community.backblaze.plugins.module_utils._errors import StoreError
from ansible_collections.community.backblaze.plugins.module_utils._files import DIRECTORY, explained, get, opened
from ansible_collections.community.backblaze.plugins.module_utils._vault_paths import is_file_name, is_synced_path
from ansible_collections.community.backblaze.plugins.plugin_utils._locations.remote import Contents


def prove_paths(copy: str, found: Contents) -> None:
    """Raise StoreError if the remote side names an invalid path, such as one that leads out of the remote copy."""
    for path in {*found.files, *found.paths, *found.obstacles}:
        if not (is_synced_path(path) or (path in found.obstacles and is_file_name(path))):
            raise StoreError(
                f"The answer of {copy} contains the path {path!r}, which no key can have.",
                remedy="Do not trust the host or the repository: find the cause before you run again.",
            )


def read_file(copy: str, path: str) -> t.Optional[bytes]:
    """Return the content of a file in the remote copy, None if the file is missing."""
    target = os.path.join(copy, path)
    with explained("cannot be read", target):
        try:
            with opened(None, os.path.dirname(target), DIRECTORY) as directory:
                return get(directory, os.path.basename(target))
        except FileNotFoundError:
            return None


def write_file(copy: str, path: str, data: bytes, written: t.Optional[float] = None) -> None:
    """Write a file of the remote copy, which needs no sync: the original is on the disk of the remote side.

    written: when the original was written, in seconds since the epoch; None for now.
    """
    target = os.path.join(copy, path)
    os.makedirs(os.path.dirname(target), mode=0o700, exist_ok=True)
    with open(target, "wb", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW, 0o600)) as file:
        file.write(data)
    if written is not None:
        # The remote side may name any time. In this order it is now if the time is not a number.
        seconds = max(0.0, min(time.time(), written))
        os.utime(target, (seconds, seconds), follow_symlinks=False)


def recreate_obstacles(copy: str, old: t.Mapping[str, str], new: t.Mapping[str, str]) -> None:
    """Recreate each obstacle in the remote copy, so that the store reports it as it would on the host.

    old: the obstacles of the last call, which are removed.
    """
    for path, kind in old.items():
        (os.rmdir if kind == "directory" else os.unlink)(os.path.join(copy, path))
    for path, kind in new.items():
        target = os.path.join(copy, path)
        if kind == "directory":
            os.makedirs(target, mode=0o700)
        elif kind == "symlink":
            os.makedirs(os.path.dirname(target), mode=0o700, exist_ok=True)
            os.symlink("/nonexistent", target)
        else:
            write_file(copy, path, b"")
