# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The key files of the layout ``host_vars``, with what a move to the other layout wants to know about them."""

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
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.key_file import (
    as_stored,
    holds_more,
    read_key_text,
)
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.sealer import Sealer
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.vault_dir import VaultDir

_THREADS = 16

T = t.TypeVar("T")
Variables = dict[str, str]


@dataclasses.dataclass(frozen=True)
class Entry:
    """One key that was moved, or was not and why. Never the key. email: empty where it is not about one member."""

    email: str
    path: str
    message: str = ""


def each(work: t.Callable[[str], T], emails: t.Iterable[str]) -> list[tuple[str, T]]:
    """Do something for many addresses at once: what is slow about it releases the interpreter lock."""
    names = list(emails)
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        return list(zip(names, pool.map(work, names), strict=True))


@dataclasses.dataclass(frozen=True)
class _File:
    """A key file. remarks: whether it holds more than a key. problem: why it is none that can be moved.

    astray: whether it is only what a killed run left, whose variables are empty where it cannot be opened.
    """

    identity: tuple[int, ...] = ()
    variables: Variables = dataclasses.field(default_factory=dict, repr=False)
    remarks: bool = False
    problem: str = ""
    astray: bool = False


class KeyFiles:
    """The key files of a vault directory. Each is opened once, and again only where it changed."""

    def __init__(self, path: str, sealer: Sealer) -> None:
        self.directory = VaultDir(path, sealer)
        self._sealer = sealer
        self._files: dict[str, _File] = {}

    def refresh(self, group_id: t.Optional[str] = None) -> None:
        """Read what is new, and what has changed of a Group."""
        with explained("cannot be read", self.directory.path), os.scandir(self.directory.path) as entries:
            names = [
                entry.name
                for entry in entries
                if is_member_directory(entry.name) and entry.is_dir(follow_symlinks=False)
            ]
        due = [name for name in names if self._group(name) in ("", group_id)]
        files = {**self._files, **dict(each(self._read, due))}
        self._files = {name: files[name] for name in sorted(names)}

    def _group(self, email: str) -> str:
        """Return of which Group a file is; empty where that is not known, or nothing is known of the file."""
        return self._files[email].variables.get("b2_group_id", "") if email in self._files else ""

    def _read(self, email: str) -> _File:
        """Return the key file of an address, an empty one where there is nothing of that kind."""
        path = self.file(email)
        try:
            with (
                explained("cannot be read", path),
                self.directory.root() as root,
                opened(root, email, DIRECTORY) as directory,
            ):
                if not exists(directory, FILE_NAME):
                    lefts = [
                        self._left(directory, name, email)
                        for name in os.listdir(directory)
                        if is_temporary(name, FILE_NAME)
                    ]
                    return _File(variables=next(filter(None, lefts), {}), astray=bool(lefts))
                known = self._files.get(email)
                if known and known.identity == identity(os.lstat(FILE_NAME, dir_fd=directory)):
                    return known
                sealed, found = look(directory, FILE_NAME)
        except StoreError as exc:
            return _File(problem=str(exc))
        try:
            plaintext = self._sealer.open(sealed, path)
            variables = read_key_text(plaintext, path, email)
        except StoreError as exc:
            return _File(identity(found), problem=str(exc))
        problem = (
            ""
            if variables.get("b2_group_id")
            else "It does not say of which Group it is. Add b2_group_id to it with ansible-vault edit."
        )
        return _File(identity(found), variables, holds_more(plaintext, variables), problem)

    def _left(self, directory: int, name: str, email: str) -> Variables:
        """Return the key in what a killed run left, empty where there is none that can be read."""
        try:
            return read_key_text(self._sealer.open(look(directory, name)[0], name), name, email)
        except (OSError, StoreError):
            return {}

    def file(self, email: str) -> str:
        """Return the path of the file for an address."""
        return os.path.join(self.directory.path, email, FILE_NAME)

    def groups(self) -> list[str]:
        """Return the ids of all Groups of which there are keys."""
        return sorted({self._group(email) for email, file in self._files.items() if not file.problem} - {""})

    def of(self, group_id: str) -> dict[str, _File]:
        """Return the files of a Group, by address."""
        return {
            email: file
            for email, file in self._files.items()
            if not file.problem and not file.astray and self._group(email) == group_id
        }

    def astray(self, group_id: str) -> dict[str, Variables]:
        """Return by address what there is only in what killed runs left, of a Group or of one that cannot be seen."""
        return {
            email: file.variables
            for email, file in self._files.items()
            if file.astray and self._group(email) in ("", group_id)
        }

    def unfit(self) -> list[Entry]:
        """Return what belongs to no Group that could be told."""
        return [Entry(email, self.file(email), file.problem) for email, file in self._files.items() if file.problem]

    def remove(self, email: str) -> bool:
        """Take a key away, if its file still is the one that was read; tell whether it was."""
        file = self._files[email]
        with self.directory.root() as root:
            with opened(root, email, DIRECTORY) as directory:
                if file.identity != identity(os.lstat(FILE_NAME, dir_fd=directory)):
                    return False
                os.unlink(FILE_NAME, dir_fd=directory)
                for name in os.listdir(directory):
                    if is_temporary(name, FILE_NAME):
                        left = self._left(directory, name, email)
                        if left.get("b2_application_key") == file.variables["b2_application_key"]:
                            os.unlink(name, dir_fd=directory)
                os.fsync(directory)
            with contextlib.suppress(OSError):
                os.rmdir(email, dir_fd=root)
            os.fsync(root)
        return True


class KeyFilesOf:
    """The key files of one Group, as a move takes them."""

    def __init__(self, files: KeyFiles, group_id: str) -> None:
        self._files = files
        self._group_id = group_id
        self._mine: dict[str, _File] = {}

    def tidy(self) -> None:
        """Do nothing: what is left beside a key goes with it."""

    def astray(self) -> list[str]:
        """Return whose keys are only in what killed runs left, of this Group or of one that cannot be seen."""
        return list(self._files.astray(self._group_id))

    def recover(self, email: str, account_id: str, *, write: bool) -> t.Optional[Stored]:
        """Return what is left of the key of an account, without a key id where it cannot be opened."""
        left = as_stored(self._files.astray(self._group_id)[email])
        return left if left.account_id in ("", account_id) else None

    def variables(self) -> dict[str, Variables]:
        """Return the variables of each stored key, by address."""
        self._files.refresh(self._group_id)
        self._mine = self._files.of(self._group_id)
        return {email: file.variables for email, file in self._mine.items()}

    def remarks(self, email: str) -> bool:
        """Tell whether there is more in the file of an address than its key, and would be lost with it: other variables, or a comment."""
        return self._mine[email].remarks

    def remove(self, taken: t.Mapping[str, Variables]) -> set[str]:
        """Take keys away, each only if its file still is the one that was read; return their addresses."""

        def remove(email: str) -> bool:
            # One that cannot be taken away is in both places, which the caller says.
            with contextlib.suppress(OSError):
                return self._files.remove(email)
            return False

        return {email for email, gone in each(remove, taken) if gone}

    def file(self, email: str) -> str:
        """Return the path of the file that holds the key of an address."""
        return self._files.file(email)
