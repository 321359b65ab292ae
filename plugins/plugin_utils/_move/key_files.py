# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The key files of the layout ``host_vars``, as a move reads, seals and removes them: many at once, Group by Group."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import os
import typing as t

from ansible_collections.community.backblaze.plugins.module_utils._errors import StoreError
from ansible_collections.community.backblaze.plugins.module_utils._files import explained, identity, look
from ansible_collections.community.backblaze.plugins.module_utils._vault_mode import PRIVATE, Modes
from ansible_collections.community.backblaze.plugins.module_utils._vault_paths import FILE_NAME
from ansible_collections.community.backblaze.plugins.plugin_utils._move.entry import Entry
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.host_vars import HostVarsStore
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.key_file import StoredKey
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.sealer import Sealer

_THREADS = 16

S = t.TypeVar("S")
T = t.TypeVar("T")


def each(work: t.Callable[[S], T], items: t.Iterable[S]) -> list[tuple[S, T]]:
    """Work on many keys at once. Encryption and decryption release the interpreter lock."""
    todo = list(items)
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        return list(zip(todo, pool.map(work, todo), strict=True))


@dataclasses.dataclass(frozen=True)
class _File:
    """A key file. problem: the reason why it cannot be moved.

    leftover: there is only a temporary file of a killed run. Its key is None if the file does not decrypt.
    """

    identity: tuple[int, ...] = ()
    key: t.Optional[StoredKey] = None
    problem: str = ""
    leftover: bool = False

    @property
    def group_id(self) -> str:
        """The Group of the key, empty if it is not known."""
        return self.key.group_id if self.key else ""


class KeyFiles(HostVarsStore):
    """The key files of one Group. Each is decrypted once, and again only if it has changed.

    group_id: empty for key files whose Group is not known. files: the key files of all Groups that were read so far.
    """

    def __init__(
        self,
        path: str,
        sealer: Sealer,
        group_id: str = "",
        modes: Modes = PRIVATE,
        files: t.Optional[dict[str, _File]] = None,
    ) -> None:
        super().__init__(path, sealer, modes=modes)
        self._group_id = group_id
        self._files = {} if files is None else files

    def of(self, group_id: str) -> KeyFiles:
        """Return the key files of another Group."""
        return KeyFiles(self.path, self._sealer, group_id, self.modes, self._files)

    def refresh(self) -> None:
        """Read new files, and the changed files of this Group."""
        with explained("cannot be read", self.path):
            names = self._names()
        due = [name for name in names if name not in self._files or self._files[name].group_id in ("", self._group_id)]
        files = {**self._files, **dict(each(self._look, due))}
        self._files.clear()
        self._files.update((name, files[name]) for name in sorted(names))

    def _look(self, email: str) -> _File:
        """Return the key file of an address; an empty one if the directory holds no key file."""
        found: tuple[int, ...] = ()
        try:
            with explained("cannot be read", self.file(email)):
                try:
                    with self.opened_folder(email) as directory:
                        sealed, status = look(directory, FILE_NAME)
                except FileNotFoundError:
                    left = [keys.get(email) if keys else None for keys in self.leftovers(email).values()]
                    return _File(key=next(filter(None, left), None), leftover=bool(left))
            found, known = identity(status), self._files.get(email)
            if known and known.identity == found:
                return known
            key = self._key(sealed, email)
        except StoreError as exc:
            return _File(found, problem=str(exc))
        problem = "" if key.group_id else "The file does not name its Group. Add b2_group_id with ansible-vault edit."
        return _File(found, key, problem)

    def groups(self) -> set[str]:
        """Return the ids of all Groups that have keys."""
        return {file.group_id for file in self._files.values() if not file.problem} - {""}

    def unfit(self) -> list[Entry]:
        """Return the files whose Group is not known."""
        return [Entry(email, self.file(email), file.problem) for email, file in self._files.items() if file.problem]

    def keys(self) -> dict[str, StoredKey]:
        """Return each stored key by address."""
        self.refresh()
        return {
            email: file.key
            for email, file in self._files.items()
            if file.key and not file.problem and not file.leftover and file.group_id == self._group_id
        }

    def leftover(self) -> dict[str, t.Optional[StoredKey]]:
        """Return the keys that are only in temporary files of killed runs: of this Group or of an unknown one."""
        return {
            email: file.key
            for email, file in self._files.items()
            if file.leftover and file.group_id in ("", self._group_id)
        }

    def seal_all(self, keys: t.Iterable[StoredKey]) -> dict[str, StoreError]:
        """Seal many keys; return the error of each key that was not sealed, by address."""

        def seal(key: StoredKey) -> t.Optional[StoreError]:
            try:
                self.seal(key)
            except StoreError as exc:
                return exc
            return None

        return {key.email: error for key, error in each(seal, keys) if error}

    def remove(self, taken: t.Mapping[str, StoredKey]) -> set[str]:
        """Remove each key file that has not changed, with its temporary files; return their addresses."""
        return {email for email, removed in each(self._remove, taken) if removed}

    def _remove(self, email: str) -> bool:
        """Remove a key file unless it has changed; return whether it was removed."""
        # The caller reports a key whose file cannot be removed.
        with contextlib.suppress(OSError, StoreError):
            self.tidy(email)
            with self.opened_folder(email) as directory:
                if self._files[email].identity != identity(os.lstat(FILE_NAME, dir_fd=directory)):
                    return False
                os.unlink(FILE_NAME, dir_fd=directory)
                os.fsync(directory)
            with contextlib.suppress(OSError):
                os.rmdir(os.path.dirname(self.file(email)))
            return True
        return False
