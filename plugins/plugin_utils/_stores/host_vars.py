# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The layout ``host_vars``: ``<vault_dir>/<email>/b2_vault.yml``, which Ansible loads by itself for the inventory host of that name."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import typing as t

from ansible_collections.community.backblaze.plugins.module_utils._errors import StoreError
from ansible_collections.community.backblaze.plugins.module_utils._files import (
    DIRECTORY,
    exists,
    explained,
    get,
    make_in,
    opened,
    prove_place,
    replace,
)
from ansible_collections.community.backblaze.plugins.module_utils._members import NewMember, unsafe_name
from ansible_collections.community.backblaze.plugins.module_utils._plan import Stored
from ansible_collections.community.backblaze.plugins.module_utils._vault_mode import PRIVATE, Modes
from ansible_collections.community.backblaze.plugins.module_utils._vault_paths import (
    FILE_NAME,
    INDEX_NAME,
    STATE_NAME,
    is_member_directory,
    is_temporary,
)
from ansible_collections.community.backblaze.plugins.plugin_utils._locations.location import CONTROLLER, Location
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.index import Index
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.key_file import (
    as_new_member,
    as_stored,
    key_text,
    read_key_text,
)
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.sealer import Sealer
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.unproven import UnprovenKeys
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.vault_dir import VaultDir
from ansible_collections.community.backblaze.plugins.plugin_utils._sync import Shared


class HostVarsStore:
    """One vault file a member. Safe to use from many threads, for different members."""

    def __init__(
        self,
        path: str,
        sealer: Sealer,
        remote_copy: t.Callable[[t.Collection[str]], None] = lambda missing: None,
        location: Location = CONTROLLER,
        modes: Modes = PRIVATE,
    ) -> None:
        self.directory = VaultDir(path, sealer, location, modes)
        # Raises StoreError where one of these keys is kept in another layout.
        self._prove_not_in_other_layout = remote_copy
        self.unproven = UnprovenKeys(self.directory, sealer, FILE_NAME, lambda email: email)
        self._sealer = sealer
        self._index = Index(sealer)
        # By what the path leads to, which may be another directory later on.
        self._root_syncs: dict[tuple[int, int], Shared] = {}

    def prove(self, wanted: t.Collection[str], *, write: bool) -> None:
        """Show that the directory, and in it the place of every wanted address, is fit for keys, or raise StoreError; see VaultDir."""
        self.directory.prove(write=write)
        with explained("cannot be used", self.directory.path):
            for email in wanted:
                prove_place(os.path.join(self.directory.path, email), FILE_NAME)
        self.prove_not_in_other_layout(wanted)

    def prove_nothing_switched_off(self, wanted: t.Collection[str]) -> None:
        """Show that the directory of no wanted address switches off a file of variables."""
        self.directory.prove_nothing_switched_off(wanted)

    def prove_not_in_other_layout(self, wanted: t.Collection[str]) -> None:
        """Show that no wanted key is kept in the same directory in another layout."""
        self._prove_not_in_other_layout([email for email in wanted if not os.path.lexists(self.file(email))])

    # Reading

    def stored(self, emails: t.Optional[t.Collection[str]] = None) -> dict[str, Stored]:
        """Return the stored keys by address, never the keys themselves: all, or those of some addresses.

        Each file has to decrypt and to belong where it stands; one with the bytes that the index knows did so before.
        """
        found: dict[str, Stored] = {}
        unknown: dict[str, bytes] = {}
        with explained("cannot be read", self.directory.path), contextlib.ExitStack() as stack:
            try:
                names = self._names() if emails is None else emails
                root = stack.enter_context(self.directory.root())
            except FileNotFoundError:
                return {}
            self._index.load(root)
            if emails is None:
                self._index.keep(names)
            for name in sorted(names):
                sealed = self._sealed(root, name)
                if sealed is not None:
                    known = self._index.get(name, sealed)
                    if known:
                        found[name] = Stored(known.account_id, known.key_id, self.file(name), known.group_id)
                    else:
                        unknown[name] = sealed
        # Decrypting is slow by design and releases the interpreter lock.
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            found.update(zip(unknown, pool.map(self._opened, unknown, unknown.values()), strict=True))
        return found

    def _names(self) -> list[str]:
        """Return what may be an address with a key, by its directory."""
        with os.scandir(self.directory.path) as entries:
            return [
                entry.name
                for entry in entries
                if is_member_directory(entry.name) and entry.is_dir(follow_symlinks=False)
            ]

    def _sealed(self, root: int, email: str) -> t.Optional[bytes]:
        """Return the content of the file for an address; None where there is none."""
        with explained("cannot be read", self.file(email)):
            try:
                with opened(root, email, DIRECTORY) as directory:
                    return get(directory, FILE_NAME)
            except FileNotFoundError:
                return None

    def _opened(self, email: str, sealed: bytes) -> Stored:
        path = self.file(email)
        stored = as_stored(self._checked(sealed, email, path), path)
        if self._sealer.opens_alone(sealed):
            self._index.put(email, sealed, stored)
        return stored

    def remember(self) -> None:
        """Write down which files are known, so that the next run need not decrypt them; the caller holds a lock of the directory."""
        with contextlib.suppress(OSError, StoreError), self.directory.root() as root:
            self._index.save(root, self.directory.modes)
            self.directory.location.later(os.path.join(self.directory.path, STATE_NAME, INDEX_NAME))

    def read(self, email: str) -> t.Optional[dict[str, str]]:
        """Return the variables stored for an address, the key among them; None where there is no file."""
        with explained("cannot be read", self.directory.path):
            try:
                with self.directory.root() as root:
                    sealed = self._sealed(root, email)
            except FileNotFoundError:
                return None
        return None if sealed is None else self._checked(sealed, email, self.file(email))

    def key(self, email: str) -> tuple[str, str]:
        """Return the id and the secret stored for an address, both empty where there is no file."""
        variables = self.read(email) or {}
        return variables.get("b2_application_key_id", ""), variables.get("b2_application_key", "")

    def _checked(self, sealed: bytes, email: str, path: str) -> dict[str, str]:
        return read_key_text(self._sealer.open(sealed, path), path, email)

    # Writing

    def seal(self, new: NewMember, *, again: bool = False) -> str:
        """Encrypt a new member's key and put it on disk; return the path of its file. The vault directory itself is not made anew.

        A file that is there is never replaced, unless it holds this very key (then again: with more known about its account) or only
        part of one. That it holds this very key is also what a write that failed at its last step leaves: then it is synced once more.
        """
        email = new.member.email
        if unsafe_name(email):
            raise StoreError("An address that is not safe as a name came as far as the store.")
        path = self.file(email)
        with explained("cannot be written", path), self.directory.root() as root:
            with contextlib.suppress(FileExistsError):
                make_in(root, email, self.directory.modes)
            with opened(root, email, DIRECTORY) as directory:
                there = self._checked(get(directory, FILE_NAME), email, path) if exists(directory, FILE_NAME) else {}
                same = there.get("b2_application_key") == new.key
                if there and not same and there.get("b2_application_key_id"):
                    raise StoreError(f"{path} holds another key and is not replaced.", remedy="Move it away.")
                if again or not same:
                    sealed = self._sealer.seal(key_text(new))
                    replace(directory, FILE_NAME, sealed, modes=self.directory.modes)
                    self._index.put(
                        email, sealed, Stored(new.member.account_id, new.key_id, group_id=new.member.group_id)
                    )
                os.fsync(directory)
            self._sync_root(root)
        self.directory.location.publish(path)
        return path

    def _sync_root(self, root: int) -> None:
        there = os.fstat(root)
        self._root_syncs.setdefault((there.st_dev, there.st_ino), Shared())(lambda: os.fsync(root))

    def recover(self, email: str, account_id: str, *, write: bool) -> t.Optional[Stored]:
        """Bring home the key of an account that a killed run had written beside its place but not renamed yet; None where there is none.

        What does not decrypt is left alone and returned with its own path and without a key id: it may be torn, or whole under another
        password. write: false to look only.
        """
        unread = None
        with explained("cannot be read", self.file(email)):
            try:
                with self.directory.root() as root, opened(root, email, DIRECTORY) as directory:
                    if exists(directory, FILE_NAME):
                        return None
                    for name in sorted(name for name in os.listdir(directory) if is_temporary(name, FILE_NAME)):
                        try:
                            variables = self._checked(get(directory, name), email, name)
                        except StoreError:
                            unread = Stored("", "", os.path.join(self.directory.path, email, name))
                            continue
                        if variables.get("b2_account_id") not in ("", account_id):
                            continue
                        if write:
                            # Written anew: whether all of it ever reached the disk nobody knows.
                            self.seal(as_new_member(variables))
                            with contextlib.suppress(OSError):
                                os.unlink(name, dir_fd=directory)
                                self.directory.location.later(os.path.join(self.directory.path, email, name))
                        return as_stored(variables, self.file(email))
            except FileNotFoundError:
                pass
        return unread

    # Small things

    def file(self, email: str) -> str:
        """Return the path of the file for an address."""
        return os.path.join(self.directory.path, email, FILE_NAME)
