# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The layout ``group_vars``: ``<vault_dir>/b2_group_<group id>/b2_vault.yml`` with all keys of a Group, by address.

Ansible loads the file for the hosts of the inventory group of that name. Only this collection writes it. Keys that
arrive together share one write.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import os
import threading
import typing as t

from ansible_collections.community.backblaze.plugins.module_utils._errors import StoreError
from ansible_collections.community.backblaze.plugins.module_utils._files import (
    explained,
    identity,
    look,
    replace,
)
from ansible_collections.community.backblaze.plugins.module_utils._plan import Stored
from ansible_collections.community.backblaze.plugins.module_utils._vault_mode import PRIVATE, Modes
from ansible_collections.community.backblaze.plugins.module_utils._vault_paths import (
    FILE_NAME,
    group_directory,
    group_of,
    is_group_directory,
    is_temporary,
)
from ansible_collections.community.backblaze.plugins.plugin_utils._locations.location import CONTROLLER, Location
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.key_file import (
    StoredKey,
    comes_back,
    group_text,
    is_another,
    read_group,
    says_more,
)
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.sealer import Sealer
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.unproven import UnprovenKeys
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.vault_dir import VaultDir


@dataclasses.dataclass(frozen=True)
class _File:
    """The file as it was read or written last. sealer: encrypts the file again. found: None if there is no file."""

    keys: t.Mapping[str, StoredKey]
    sealer: Sealer
    found: t.Optional[os.stat_result] = None

    @property
    def identity(self) -> tuple[int, ...]:
        return identity(self.found) if self.found else ()


@dataclasses.dataclass
class _Request:
    """A key that waits to be written. error: the reason why it was not written."""

    key: StoredKey
    again: bool = False
    done: bool = False
    error: t.Optional[StoreError] = None


class GroupVarsStore(VaultDir):
    """One vault file for all members of a Group. Safe to use from many threads."""

    def __init__(
        self, path: str, sealer: Sealer, group_id: str, location: Location = CONTROLLER, modes: Modes = PRIVATE
    ) -> None:
        super().__init__(path, sealer, location, modes)
        self._folder = group_directory(group_id)
        self._path = self.file("")
        self.unproven = UnprovenKeys(self, sealer)
        self.rewritten = 0
        # Held by the thread that reads or writes the file.
        self._lock = threading.RLock()
        self._known: t.Optional[_File] = None
        # The keys that this process has sealed. Another writer of the file, such as git, may remove them.
        self._sealed: dict[str, StoredKey] = {}
        # The keys that wait to be written, and whether a thread writes.
        self._turn = threading.Condition()
        self._waiting: list[_Request] = []
        self._writing = False

    def folder(self, email: str) -> str:
        """Return the name of the directory of the Group, which is the same for every address."""
        return self._folder

    def prove_not_in_other_layout(self, wanted: t.Collection[str]) -> None:
        """Raise StoreError if a wanted key is stored in the same directory in the layout host_vars."""
        keys = self._read().keys
        found = [email for email in wanted if email not in keys and self._is_in_host_vars(email)]
        if found:
            raise kept_in_other_layout(found, self.path, "host_vars", "group_vars")

    def _is_in_host_vars(self, email: str) -> bool:
        """Tell whether the other layout has a key file of an address, or a temporary file of it."""
        folder = os.path.join(self.path, email)
        with explained("cannot be read", folder), contextlib.suppress(FileNotFoundError, NotADirectoryError):
            return any(name == FILE_NAME or is_temporary(name, FILE_NAME) for name in os.listdir(folder))
        return False

    # Reading

    def stored(self, emails: t.Optional[t.Collection[str]] = None) -> dict[str, Stored]:
        """Return what is known of all stored keys by address, whatever the addresses. No key is returned."""
        return {email: key.known(self._path) for email, key in self._read().keys.items()}

    def read(self, email: str) -> t.Optional[StoredKey]:
        """Return the key of an address, as the file was read or written last; None if there is no key."""
        return (self._known or self._read()).keys.get(email)

    def _read(self) -> _File:
        """Return the file; one without keys if it does not exist."""
        with self._lock, explained("cannot be read", self._path):
            try:
                with self.opened_folder("") as directory:
                    return self._refreshed(directory)
            except FileNotFoundError:
                return self._learn(_File({}, self._sealer))

    def _refreshed(self, directory: int) -> _File:
        """Return the file in its open directory, decrypted again only if another writer has changed it."""
        if self._known and self._known.identity == _identity(directory):
            return self._known
        try:
            sealed, found = look(directory, FILE_NAME)
        except FileNotFoundError:
            return self._learn(_File({}, self._sealer))
        plaintext, sealer = self._sealer.open_to_rewrite(sealed, self._path)
        return self._learn(_File(read_group(plaintext, self._path), sealer, found))

    def _learn(self, file: _File) -> _File:
        """Keep what is now known of the file, and return it."""
        self._known = file
        self.rewritten = file.found.st_size if file.found else 0
        return file

    # Writing

    def seal(self, key: StoredKey, *, again: bool = False) -> str:
        """Seal a key and return the path of the file.

        Another key is never replaced, only a part of a key. again: replace this very key too, because more is known
        about its account. Keys that arrive while another thread writes share the next write.
        """
        request = _Request(key, again)
        self._write([request])
        if request.error:
            raise request.error
        return self._path

    def seal_all(self, keys: t.Iterable[StoredKey]) -> dict[str, StoreError]:
        """Seal many keys in one write; return the error of each key that was not written, by address."""
        requests = [_Request(key) for key in keys]
        self._write(requests)
        with contextlib.suppress(StoreError):
            self.tidy("")
        return {one.key.email: one.error for one in requests if one.error}

    def _write(self, mine: list[_Request]) -> None:
        """Return when these keys are on disk, or have an error each."""
        with self._turn:
            self._waiting += mine
            self._turn.wait_for(lambda: all(one.done for one in mine) or not self._writing)
            if all(one.done for one in mine):
                return
            batch, self._waiting, self._writing = self._waiting, [], True
        # For the other threads, if this one ends with an unexpected error.
        failed: t.Optional[StoreError] = StoreError(f"{self._path} cannot be written (an unexpected error).")
        try:
            self._commit(batch)
            self.location.publish(self._path)
            failed = None
        except StoreError as exc:
            failed = exc
        finally:
            with self._turn:
                for one in batch:
                    one.error = one.error or copy.copy(failed)
                    one.done = True
                self._writing = False
                self._turn.notify_all()

    def _commit(self, batch: t.Sequence[_Request]) -> None:
        """Seal keys in one write. An invalid key gets an error of its own; a StoreError is raised for all others."""
        with self._lock, explained("cannot be written", self._path):
            with self.changed_folder("") as directory:
                file = self._refreshed(directory)
                removed = [_Request(key) for email, key in self._sealed.items() if email not in file.keys]
                keys = _merged(file.keys, [*removed, *batch], self._path)
                if keys != file.keys:
                    file = self._replaced(directory, file, keys)
            self._learn(file)
            self._sealed.update((one.key.email, one.key) for one in batch if not one.error)

    def _replaced(self, directory: int, file: _File, keys: t.Mapping[str, StoredKey]) -> _File:
        """Replace the file, unless another writer has changed it meanwhile. The caller syncs the directory."""
        sealed = file.sealer.seal(group_text(keys.values()))
        last_look = functools.partial(self._prove_unchanged, directory, file)
        return _File(keys, file.sealer, replace(directory, FILE_NAME, sealed, file.found, last_look, self.modes))

    def _prove_unchanged(self, directory: int, file: _File) -> None:
        """Raise StoreError if another writer has changed the file since it was read."""
        if file.identity != _identity(directory):
            raise StoreError(f"Another process has just changed {self._path}.", remedy="Run again.")

    def remove(self, taken: t.Mapping[str, StoredKey]) -> set[str]:
        """Remove each key that is still the same; return their addresses. A file without keys is removed too."""
        self.tidy("")
        with self._lock, explained("cannot be written", self._path):
            with self.opened_folder("") as directory:
                file = self._refreshed(directory)
                going = {email for email, key in taken.items() if file.keys.get(email) == key}
                self._sealed = {email: key for email, key in self._sealed.items() if email not in going}
                keys = {email: key for email, key in file.keys.items() if email not in going}
                if going and keys:
                    file = self._replaced(directory, file, keys)
                elif going:
                    self._prove_unchanged(directory, file)
                    os.unlink(FILE_NAME, dir_fd=directory)
                    file = _File({}, self._sealer)
                os.fsync(directory)
            if file.found is None:
                with contextlib.suppress(OSError):
                    os.rmdir(os.path.dirname(self._path))
            self._learn(file)
        return going

    # Leftovers of killed runs

    def leftover(self) -> dict[str, StoredKey]:
        """Return the keys that are only in temporary files of killed runs, by address."""
        keys, left = self._read().keys, self.leftovers("").values()
        return {email: key for found in left if found for email, key in found.items() if email not in keys}

    def keys_in(self, sealed: bytes, path: str, email: str) -> dict[str, StoredKey]:
        """Decrypt the file of the Group, or a temporary file of it; return its keys by address."""
        return read_group(self._sealer.open(sealed, path), path)

    def keys(self) -> dict[str, StoredKey]:
        """Return each stored key by address."""
        return dict(self._read().keys)

    def remember(self) -> None:
        """Put back keys that another writer has removed, and forget all keys."""
        with self._lock:
            if self._sealed:
                with contextlib.suppress(StoreError):
                    self._commit(())
            self._known = None
            self._leftovers.clear()
            self._sealed = {}


def groups_in(path: str) -> list[str]:
    """Return the ids of the Groups that have a directory in a vault directory in the layout group_vars."""
    with explained("cannot be read", path), contextlib.suppress(FileNotFoundError):
        return sorted(group_of(name) for name in os.listdir(path) if is_group_directory(name))
    return []


def kept_in_other_layout(emails: t.Sequence[str], path: str, there: str, wanted: str) -> StoreError:
    """Return the error that wanted keys are stored in another layout."""
    more = f" and {len(emails) - 1} more" if emails[1:] else ""
    return StoreError(
        f"The key of {emails[0]}{more} is stored in {path} in the layout {there}, but this task asks for {wanted}.",
        remedy=f"Set vault_layout to {there}, or move the keys with community.backblaze.b2_vault_layout.",
    )


def _identity(directory: int) -> tuple[int, ...]:
    """Return the identity of the file in its open directory; empty if it does not exist."""
    try:
        return identity(os.lstat(FILE_NAME, dir_fd=directory))
    except FileNotFoundError:
        return ()


def _merged(keys: t.Mapping[str, StoredKey], batch: t.Sequence[_Request], path: str) -> dict[str, StoredKey]:
    """Return keys together with those of a batch. A key that must not be written gets its error instead."""
    merged = dict(keys)
    for one in batch:
        email, there = one.key.email, merged.get(one.key.email)
        if not comes_back(one.key):
            one.error = StoreError(f"The key of {email} is not valid: it would not come back from the file unchanged.")
        elif is_another(one.key, there):
            one.error = StoreError(
                f"{path} holds another key of {email}. It was not replaced.",
                remedy="Remove its line with ansible-vault edit, and keep that line in another file.",
            )
        elif one.again or not there or says_more(one.key, there):
            merged[email] = one.key
    return merged
