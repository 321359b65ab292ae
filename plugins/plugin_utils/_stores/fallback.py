# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The fallback directory: it takes a key that the vault directory did not accept."""

from __future__ import annotations

import contextlib
import os
import secrets
import typing as t

from ansible_collections.community.backblaze.plugins.module_utils._errors import StoreError
from ansible_collections.community.backblaze.plugins.module_utils._files import (
    DIRECTORY,
    explained,
    get,
    make_directory,
    nearest,
    opened,
    replace,
)
from ansible_collections.community.backblaze.plugins.module_utils._vault_paths import FALLBACK_SUFFIX, is_temporary
from ansible_collections.community.backblaze.plugins.plugin_utils._locations.durable import is_job
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.key_file import StoredKey, key_text, read_key
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.sealer import Sealer

_DEFAULT_NAME = "community.backblaze"


class FallbackStore:
    """A fallback directory, with one vault file for each key, under a name that no other file has."""

    def __init__(self, path: str, sealer: Sealer, doubt: str = "") -> None:
        self.path = os.path.normpath(path)
        # The reason why this directory may not keep keys. It takes keys all the same.
        self._doubt = doubt
        self._sealer = sealer

    def seal(self, key: StoredKey) -> str:
        """Seal a key and return the path of its file."""
        # The id helps users to find the file. The service sends this text, so only a valid id becomes a name.
        account = key.account_id if key.account_id.isalnum() else "unknown"
        name = f"{account}-{secrets.token_hex(6)}{FALLBACK_SUFFIX}"
        path = os.path.join(self.path, name)
        with explained("cannot be written", path):
            make_directory(self.path)
            with opened(None, self.path, DIRECTORY) as root:
                replace(root, name, self._sealer.seal(key_text(key)))
                os.fsync(root)
        return path

    def remove(self, path: str) -> None:
        """Remove the file of a key that is in its key file now. If that fails, the file does no harm."""
        with contextlib.suppress(OSError):
            os.unlink(path)

    def unfit(self) -> str:
        """Return the reason why this directory may not take or keep keys; empty if no reason is known.

        Nothing is written to find out.
        """
        existing = nearest(self.path)
        if (
            os.path.isdir(existing)
            and os.access(existing, os.W_OK | os.X_OK)
            and not (existing == self.path and os.path.islink(existing))
        ):
            return self._doubt
        return f"vault_fallback_dir {self.path} cannot be used: {existing} is no directory that this user can write."

    def found(self) -> t.Iterator[tuple[str, t.Optional[StoredKey]]]:
        """Yield the path and the key of each file, temporary files of killed runs included.

        The key is None if a file does not decrypt with the vault secrets of this run. A temporary file that does not
        decrypt is left out: it may be torn.

        Raises StoreError if the directory cannot be read: an account would count as one whose key is lost.
        """
        with explained("cannot be read", self.path):
            try:
                names = sorted(os.listdir(self.path))
            except (FileNotFoundError, NotADirectoryError):
                return
        for name in names:
            path = os.path.join(self.path, name)
            whole = name.endswith(FALLBACK_SUFFIX) and not name.startswith(".")
            if whole or is_temporary(name, name[1:].partition(FALLBACK_SUFFIX)[0] + FALLBACK_SUFFIX):
                try:
                    with opened(None, self.path, DIRECTORY) as root:
                        key: t.Optional[StoredKey] = read_key(self._sealer.open(get(root, name), path), path)
                except FileNotFoundError:
                    # A run for another Group has just moved this key.
                    continue
                except (OSError, StoreError):
                    key = None
                if whole or key:
                    yield path, key

    def paths(self) -> dict[str, str]:
        """Return the path of each key whose account is certain, by the id of that account."""
        found = {}
        for path, key in self.found():
            # A file that does not decrypt has the id in its name.
            account = key.account_id if key else account_in(path)
            if account and not (key and key.unproven):
                found[account] = path
        return found


def account_in(path: str) -> str:
    """Return the account id in the name of a file of the fallback directory."""
    return os.path.basename(path).partition("-")[0]


def open_fallback(
    options: t.Mapping[str, t.Any], sealer: Sealer, controller_path: t.Callable[[str], str]
) -> FallbackStore:
    """Open the fallback directory that the options name, or the default one.

    In a job, a directory that may not outlive the job is used with a warning: a key in that directory is better than a
    lost key.
    """
    named = options["vault_fallback_dir"]
    path = controller_path(named or _default_path())
    doubt = ""
    if is_job() and not named:
        doubt = (
            f"vault_fallback_dir is not given, and its default {path} may be lost with this job. Name a directory that "
            "outlives the job."
        )
    elif is_job() and not options.get("vault_dir_is_durable"):
        doubt = (
            f"vault_fallback_dir {path} may be lost with this job. If this directory outlives the job, set "
            "vault_dir_is_durable: true."
        )
    return FallbackStore(path, sealer, doubt)


def _default_path() -> str:
    """Return the default fallback directory, which is in the user's state directory."""
    state = os.environ.get("XDG_STATE_HOME", "")
    return os.path.join(state if os.path.isabs(state) else os.path.expanduser("~/.local/state"), _DEFAULT_NAME)
