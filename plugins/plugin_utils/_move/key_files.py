# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The key files of the layout ``host_vars``, as a move to the layout ``group_vars`` reads and removes them."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import os
import typing as t

from ansible_collections.community.backblaze.plugins.module_utils._errors import StoreError
from ansible_collections.community.backblaze.plugins.module_utils._files import (
    DIRECTORY,
    exists,
    explained,
    identity,
    look,
    opened,
)
from ansible_collections.community.backblaze.plugins.module_utils._plan import Stored
from ansible_collections.community.backblaze.plugins.module_utils._vault_paths import (
    FILE_NAME,
    is_member_directory,
    is_temporary,
)
from ansible_collections.community.backblaze.plugins.plugin_utils._move.entry import Entry
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.key_file import StoredKey, read_key
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.sealer import Sealer
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.vault_dir import VaultDir

_THREADS = 16

T = t.TypeVar("T")


def each(work: t.Callable[[str], T], emails: t.Iterable[str]) -> list[tuple[str, T]]:
    """Work on many addresses at once. Encryption and decryption release the interpreter lock."""
    names = list(emails)
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        return list(zip(names, pool.map(work, names), strict=True))


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


class KeyFiles(VaultDir):
    """The key files of a vault directory. Each is decrypted once, and again only if it has changed."""

    def __init__(self, path: str, sealer: Sealer) -> None:
        super().__init__(path, sealer)
        self._files: dict[str, _File] = {}

    def refresh(self, group_id: t.Optional[str] = None) -> None:
        """Read new files, and the changed files of a Group."""
        with explained("cannot be read", self.path), os.scandir(self.path) as entries:
            names = [
                entry.name
                for entry in entries
                if is_member_directory(entry.name) and entry.is_dir(follow_symlinks=False)
            ]
        due = [name for name in names if name not in self._files or self._files[name].group_id in ("", group_id)]
        files = {**self._files, **dict(each(self._read, due))}
        self._files = {name: files[name] for name in sorted(names)}

    def _read(self, email: str) -> _File:
        """Return the key file of an address; an empty one if the directory holds no key file."""
        path = self.file(email)
        try:
            with explained("cannot be read", path), self.root() as root, opened(root, email, DIRECTORY) as directory:
                if not exists(directory, FILE_NAME):
                    names = [name for name in os.listdir(directory) if is_temporary(name, FILE_NAME)]
                    keys = [self._leftover_key(directory, name, email) for name in names]
                    return _File(key=next(filter(None, keys), None), leftover=bool(names))
                known = self._files.get(email)
                if known and known.identity == identity(os.lstat(FILE_NAME, dir_fd=directory)):
                    return known
                sealed, found = look(directory, FILE_NAME)
        except StoreError as exc:
            return _File(problem=str(exc))
        try:
            key = read_key(self._sealer.open(sealed, path), path, email)
        except StoreError as exc:
            return _File(identity(found), problem=str(exc))
        problem = "" if key.group_id else "The file does not name its Group. Add b2_group_id with ansible-vault edit."
        return _File(identity(found), key, problem)

    def _leftover_key(self, directory: int, name: str, email: str) -> t.Optional[StoredKey]:
        """Return the key in a temporary file of a killed run; None if the file does not decrypt."""
        try:
            return read_key(self._sealer.open(look(directory, name)[0], name), name, email)
        except (OSError, StoreError):
            return None

    def folder(self, email: str) -> str:
        """Return the name of the directory of an address, which is the address."""
        return email

    def groups(self) -> list[str]:
        """Return the ids of all Groups that have keys."""
        return sorted({file.group_id for file in self._files.values() if not file.problem} - {""})

    def keys_of(self, group_id: str) -> dict[str, StoredKey]:
        """Return the keys of a Group by address."""
        return {
            email: file.key
            for email, file in self._files.items()
            if file.key and not file.problem and not file.leftover and file.group_id == group_id
        }

    def leftovers_of(self, group_id: str) -> dict[str, t.Optional[StoredKey]]:
        """Return keys that are only in temporary files of killed runs: of a Group or of an unknown one."""
        return {
            email: file.key for email, file in self._files.items() if file.leftover and file.group_id in ("", group_id)
        }

    def unfit(self) -> list[Entry]:
        """Return the files whose Group is not known."""
        return [Entry(email, self.file(email), file.problem) for email, file in self._files.items() if file.problem]

    def remove(self, email: str) -> bool:
        """Remove a key file with its temporary files, unless it has changed; return whether it was removed."""
        file = self._files[email]
        with self.root() as root:
            with opened(root, email, DIRECTORY) as directory:
                if file.identity != identity(os.lstat(FILE_NAME, dir_fd=directory)):
                    return False
                os.unlink(FILE_NAME, dir_fd=directory)
                for name in os.listdir(directory):
                    if is_temporary(name, FILE_NAME):
                        left = self._leftover_key(directory, name, email)
                        if left and file.key and left.key == file.key.key:
                            os.unlink(name, dir_fd=directory)
                os.fsync(directory)
            with contextlib.suppress(OSError):
                os.rmdir(email, dir_fd=root)
            os.fsync(root)
        return True


class KeyFilesOf:
    """The key files of one Group."""

    def __init__(self, files: KeyFiles, group_id: str) -> None:
        self._files = files
        self._group_id = group_id

    def tidy(self, email: str) -> None:
        """Do nothing: ``remove`` removes the temporary files of a key as well."""

    def leftover(self) -> list[str]:
        """Return the addresses of keys that are only in temporary files of killed runs."""
        return list(self._files.leftovers_of(self._group_id))

    def recover(self, email: str, account_id: str, *, write: bool) -> t.Optional[Stored]:
        """Return what is known of the key in a temporary file, without a key id if the file does not decrypt."""
        left = self._files.leftovers_of(self._group_id)[email]
        known = left.known() if left else Stored("", "")
        return known if known.account_id in ("", account_id) else None

    def keys(self) -> dict[str, StoredKey]:
        """Return each stored key by address."""
        self._files.refresh(self._group_id)
        return self._files.keys_of(self._group_id)

    def remove(self, taken: t.Mapping[str, StoredKey]) -> set[str]:
        """Remove each key file that has not changed; return their addresses."""

        def remove(email: str) -> bool:
            # The caller reports a key whose file cannot be removed.
            with contextlib.suppress(OSError):
                return self._files.remove(email)
            return False

        return {email for email, gone in each(remove, taken) if gone}

    def file(self, email: str) -> str:
        """Return the path of the file of an address."""
        return self._files.file(email)
