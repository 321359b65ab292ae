# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where a key goes that its own place would not take."""

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
from ansible_collections.community.backblaze.plugins.module_utils._members import NewMember
from ansible_collections.community.backblaze.plugins.module_utils._vault_paths import is_temporary
from ansible_collections.community.backblaze.plugins.plugin_utils._locations.durable import is_job
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.key_file import key_text, read_key_text
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.sealer import Sealer

_FALLBACK_SUFFIX = ".b2_vault.yml"
_DEFAULT_NAME = "community.backblaze"
#: A variable beside a key of which it is not certain whose it is: it has to be tried before it is used.
UNPROVEN = "b2_unproven"


class FallbackStore:
    """One file a key, under a name that nothing else has."""

    def __init__(self, path: str, sealer: Sealer, doubt: str = "") -> None:
        self.path = os.path.normpath(path)
        # Why it is not much of a place, if that is known; keys go here all the same.
        self._doubt = doubt
        self._sealer = sealer

    def seal(self, new: NewMember) -> str:
        """Encrypt a key and put it on disk; return the path of its file."""
        # The account's id helps whoever looks for it; it comes from the service, so only where it is what such an id is.
        account = new.member.account_id if new.member.account_id.isalnum() else "unknown"
        name = f"{account}-{secrets.token_hex(6)}{_FALLBACK_SUFFIX}"
        path = os.path.join(self.path, name)
        with explained("cannot be written", path):
            make_directory(self.path)
            with opened(None, self.path, DIRECTORY) as root:
                unproven = f"{UNPROVEN}: true\n".encode() if new.doubt else b""
                replace(root, name, self._sealer.seal(key_text(new) + unproven))
                os.fsync(root)
        return path

    def remove(self, path: str) -> None:
        """Remove the file of a key that is in its place now; somebody else may have done so, and a file that stays does no harm."""
        with contextlib.suppress(OSError):
            os.unlink(path)

    def unfit(self) -> str:
        """Say why keys could not go here, or not to stay; empty where they could, as far as that can be seen without writing."""
        existing = nearest(self.path)
        if (
            os.path.isdir(existing)
            and os.access(existing, os.W_OK | os.X_OK)
            and not (existing == self.path and os.path.islink(existing))
        ):
            return self._doubt
        return f"vault_fallback_dir {self.path} cannot be used: {existing} is no directory that this user can write."

    def found(self) -> t.Iterator[tuple[str, dict[str, str]]]:
        """Yield (path, variables) of every key here, also of one that a killed run had not yet given its name.

        The variables are empty where a file does not decrypt with the secrets of this run. One without its name is left out then: it may be torn.

        Raises StoreError where there may be keys that cannot be seen: without one of them an account would count as one that has lost its key.
        """
        with explained("cannot be read", self.path):
            try:
                names = sorted(os.listdir(self.path))
            except (FileNotFoundError, NotADirectoryError):
                return
        for name in names:
            path = os.path.join(self.path, name)
            whole = name.endswith(_FALLBACK_SUFFIX) and not name.startswith(".")
            if whole or is_temporary(name, name[1:].partition(_FALLBACK_SUFFIX)[0] + _FALLBACK_SUFFIX):
                try:
                    with opened(None, self.path, DIRECTORY) as root:
                        variables = read_key_text(self._sealer.open(get(root, name), path), path)
                except FileNotFoundError:
                    # A run for another Group has just moved it home.
                    continue
                except (OSError, StoreError):
                    variables = {}
                if whole or variables:
                    yield path, variables

    def paths(self) -> dict[str, str]:
        """Return the path of each key here that is certain to be its account's, by the id of that account."""
        found = {}
        for path, variables in self.found():
            # A file that does not decrypt has the id in its name.
            account = variables.get("b2_account_id") if variables else os.path.basename(path).partition("-")[0]
            if account and UNPROVEN not in variables:
                found[account] = path
        return found


def open_fallback(
    options: t.Mapping[str, t.Any], sealer: Sealer, controller_path: t.Callable[[str], str]
) -> FallbackStore:
    """Open the fallback directory that the options name, or the default one.

    In a job, a directory that may not outlive the job is used with a warning: a key in that directory is better than a lost key.
    """
    named = options["vault_fallback_dir"]
    path = controller_path(named or _default_path())
    doubt = ""
    if is_job() and not named:
        doubt = f"vault_fallback_dir is not given, and its default {path} may be lost with this job. Name a directory that outlives the job."
    elif is_job() and not options.get("vault_dir_is_durable"):
        doubt = f"vault_fallback_dir {path} may be lost with this job. If this directory outlives the job, set vault_dir_is_durable: true."
    return FallbackStore(path, sealer, doubt)


def _default_path() -> str:
    """Return the default fallback directory, which is in the user's state directory."""
    state = os.environ.get("XDG_STATE_HOME", "")
    return os.path.join(state if os.path.isabs(state) else os.path.expanduser("~/.local/state"), _DEFAULT_NAME)
