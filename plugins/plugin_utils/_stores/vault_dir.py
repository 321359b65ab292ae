# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A vault directory: it is proven before the first member is created, and locked while a run changes it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
import time
import typing as t

from ansible import constants as C

from ansible_collections.community.backblaze.plugins.module_utils._errors import StoreError
from ansible_collections.community.backblaze.plugins.module_utils._files import (
    DIRECTORY,
    explained,
    get,
    make_directory,
    make_in,
    opened,
    opened_below,
    prove_directory,
    prove_file,
    put,
)
from ansible_collections.community.backblaze.plugins.module_utils._lease import (
    STALE_SECONDS,
    end_lease,
    holder_of,
    lock_holder,
    new_lease,
    opened_lock,
)
from ansible_collections.community.backblaze.plugins.module_utils._plan import Stored
from ansible_collections.community.backblaze.plugins.module_utils._vault_mode import PRIVATE, Modes
from ansible_collections.community.backblaze.plugins.module_utils._vault_paths import (
    FILE_NAME,
    STATE_NAME,
    is_temporary,
    name_of,
    temporary_name,
)
from ansible_collections.community.backblaze.plugins.plugin_utils._locations.location import CONTROLLER, Location
from ansible_collections.community.backblaze.plugins.plugin_utils._progress import tell_wait
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.key_file import StoredKey
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.sealer import Sealer
from ansible_collections.community.backblaze.plugins.plugin_utils._sync import Shared

# A sealed key is 2 KiB; with its directory, a temporary twin and the journal it takes no more than this.
_ROOM_PER_KEY = 16 * 1024
_INODES_PER_KEY = 3
_LOCK_POLL_SECONDS = 0.2
_LOOK_SECONDS = 0.5


class VaultDir:
    """A vault directory of any layout: the part of a store that is the same for all layouts."""

    def __init__(self, path: str, sealer: Sealer, location: Location = CONTROLLER, modes: Modes = PRIVATE) -> None:
        # Without a last slash: with one, O_NOFOLLOW would follow a symlink.
        self.path = os.path.normpath(path)
        #: Size in bytes of the file that is written again with each key; None if each key has a file of its own.
        self.rewritten: t.Optional[int] = None
        #: The location of the vault directory. If that is not the controller, ``path`` is the remote copy.
        self.location = location
        #: Modes of new files and directories.
        self.modes = modes
        self._sealer = sealer
        # By device and inode: the path may lead to another directory later.
        self._root_syncs: dict[tuple[int, int], Shared] = {}
        # The keys in temporary files of killed runs, by path, see ``leftovers``.
        self._leftovers: dict[str, t.Optional[t.Mapping[str, StoredKey]]] = {}

    # The methods that each layout has to define, see also Store

    def folder(self, email: str) -> str:
        """Return the name of the directory of an address within the vault directory."""
        raise NotImplementedError

    def keys_in(self, sealed: bytes, path: str, email: str) -> t.Mapping[str, StoredKey]:
        """Decrypt the vault file of an address, or a temporary file of it; return the keys in it by address."""
        raise NotImplementedError

    def prove_not_in_other_layout(self, wanted: t.Collection[str]) -> None:
        """Raise StoreError if a wanted key is stored in the same vault directory in another layout."""
        raise NotImplementedError

    def stored(self, emails: t.Optional[t.Collection[str]] = None) -> dict[str, Stored]:
        """Return what is known of all stored keys, or at least of those of some addresses. No key is returned."""
        raise NotImplementedError

    def read(self, email: str) -> t.Optional[StoredKey]:
        """Return the key of an address; None if there is no key."""
        raise NotImplementedError

    def seal(self, key: StoredKey, *, again: bool = False) -> str:
        """Seal a key and return the path of its file."""
        raise NotImplementedError

    # Files and directories

    def root(self) -> contextlib.AbstractContextManager[int]:
        """Open the vault directory."""
        return opened(None, self.path, DIRECTORY)

    def file(self, email: str) -> str:
        """Return the path of the vault file that holds, or would hold, the key of an address."""
        return os.path.join(self.path, self.folder(email), FILE_NAME)

    @contextlib.contextmanager
    def opened_folder(self, email: str) -> t.Iterator[int]:
        """Open the directory of an address. Raises FileNotFoundError if there is none."""
        with self.root() as root, opened(root, self.folder(email), DIRECTORY) as directory:
            yield directory

    @contextlib.contextmanager
    def changed_folder(self, email: str) -> t.Iterator[int]:
        """Open the directory of an address to write files; create it if it is missing, and sync it at the end.

        A vault directory that is gone is not created again.
        """
        with self.root() as root:
            with contextlib.suppress(FileExistsError):
                make_in(root, self.folder(email), self.modes)
            with opened(root, self.folder(email), DIRECTORY) as directory:
                yield directory
                # Always: an earlier write of the same keys may have failed at this step.
                os.fsync(directory)
            there = os.fstat(root)
            # Once for all threads that wait for it.
            self._root_syncs.setdefault((there.st_dev, there.st_ino), Shared())(lambda: os.fsync(root))

    # Checks before the first create

    def prove(self, wanted: t.Collection[str], *, write: bool) -> None:
        """Raise StoreError unless the directory and the vault file of every wanted address can take keys."""
        self.prove_directory(write=write)
        with explained("cannot be used", self.path):
            for folder in dict.fromkeys(map(self.folder, wanted)):
                prove_file(os.path.join(self.path, folder), FILE_NAME)
        self.prove_not_in_other_layout(wanted)

    def prove_directory(self, *, write: bool) -> None:
        """Raise StoreError unless the vault directory can take keys. write: false in check mode, to write no file."""
        self._sealer.prove()
        self.location.fetch()
        with explained("cannot be used", self.path):
            if write:
                make_directory(self.path, self.modes)
            prove_directory(self.path)

    def switched_off(self, emails: t.Iterable[str]) -> dict[str, str]:
        """Return the file of variables that each new directory of an address would switch off, by directory.

        Ansible loads no file beside a directory of the same name. The vault directory is listed once.
        """
        there: frozenset[str] = frozenset()
        with explained("cannot be read", self.path), contextlib.suppress(FileNotFoundError):
            there = frozenset(os.listdir(self.path))
        found: dict[str, str] = {}
        for folder in dict.fromkeys(map(self.folder, emails)):
            for extension in C.YAML_FILENAME_EXTENSIONS if folder not in there else ():
                if f"{folder}{extension}" in there:
                    found.setdefault(folder, f"{folder}{extension}")
        return found

    def prove_nothing_switched_off(self, wanted: t.Collection[str]) -> None:
        """Raise StoreError if a new directory for these keys would keep Ansible from loading a file of variables."""
        found = self.switched_off(wanted)
        for name, file in found.items():
            raise switches_off(self.path, name, file, len(found) - 1)

    def prove_room(self, keys: int) -> None:
        """Raise StoreError if there is no room for this number of new keys."""
        with explained("cannot be used", self.path):
            room, inodes = self.location.room(self.path)
            files, twin = (keys, 0) if self.rewritten is None else (1, self.rewritten)
            inodes_short = inodes is not None and inodes < files * _INODES_PER_KEY
            if keys and (room < keys * _ROOM_PER_KEY + twin or inodes_short):
                raise StoreError(
                    f"There is no room for {keys} keys in {self.path}.",
                    remedy="Make room, or choose another vault_dir.",
                )

    def prove_writing(self) -> None:
        """Write a file as a key is written, and remove it; the caller holds the lock."""
        with explained("cannot be written", self.path), self.root() as root:
            name = temporary_name("probe")
            probe = self._sealer.seal(b"probe")
            try:
                put(root, name, probe)
                os.rename(name, f"{name}.2", src_dir_fd=root, dst_dir_fd=root)
                os.fsync(root)
            finally:
                for left in (name, f"{name}.2"):
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(left, dir_fd=root)
        self.location.prove_writing()

    # Leftovers of killed runs

    def leftovers(self, email: str) -> dict[str, t.Optional[t.Mapping[str, StoredKey]]]:
        """Return the keys in temporary files of killed runs beside the vault file of an address, by path.

        None for a file that does not decrypt: it may be torn, or encrypted with another password.
        """
        found = {}
        folder = os.path.dirname(self.file(email))
        with (
            explained("cannot be read", folder),
            contextlib.suppress(FileNotFoundError),
            self.opened_folder(email) as directory,
        ):
            for name in sorted(name for name in os.listdir(directory) if is_temporary(name, FILE_NAME)):
                path = os.path.join(folder, name)
                if path not in self._leftovers:
                    sealed = get(directory, name)
                    try:
                        self._leftovers[path] = self.keys_in(sealed, path, email)
                    except StoreError:
                        self._leftovers[path] = None
                found[path] = self._leftovers[path]
        return found

    def recover(self, email: str, account_id: str, *, write: bool) -> t.Optional[Stored]:
        """Seal the key of an account from a temporary file of a killed run; return None if there is no such file.

        A temporary file that does not decrypt is not changed. It is returned with its own path and without a key id.
        write: false to change nothing.
        """
        found = None
        for path, keys in self.leftovers(email).items() if email not in self.stored([email]) else ():
            key = keys.get(email) if keys else None
            if keys is None:
                found = found or Stored("", "", path)
            elif key and key.account_id in ("", account_id):
                if write:
                    # Not renamed: the temporary file may never have been synced.
                    self.seal(key)
                found = key.known(self.file(email))
                break
        if write:
            self.tidy(email)
        return found

    def tidy(self, email: str) -> None:
        """Remove each temporary file beside the vault file of an address if all its keys are sealed."""
        for path, keys in self.leftovers(email).items():
            if keys is not None and all(
                (there := self.read(key.email)) and there.secret == key.secret for key in keys.values()
            ):
                with contextlib.suppress(OSError), self.opened_folder(email) as directory:
                    os.unlink(os.path.basename(path), dir_fd=directory)
                self.location.later(path)

    # One run at a time for each Group

    @contextlib.contextmanager
    def locked(self, group_id: str, patience: float, wait: t.Callable[[float], t.Any]) -> t.Iterator[int]:
        """Hold the lock of a Group in this vault directory, and yield the open directory of its journal.

        patience: seconds to wait for another run. Raises StoreError that names the other run.
        """
        with self.location.lease(name_of(group_id), patience, wait):
            self.location.fetch()
            with self._locked(group_id, patience, wait) as state:
                yield state

    @contextlib.contextmanager
    def _locked(self, group_id: str, patience: float, wait: t.Callable[[float], t.Any]) -> t.Iterator[int]:
        """Hold the lock on this machine."""
        with explained("cannot be locked", self.path), contextlib.ExitStack() as stack:
            state = stack.enter_context(self._opened_state(group_id, self.modes))
            lock = stack.enter_context(opened_lock(state, self.modes))
            # A run that looks for the holder of the lock has the lock for a moment.
            deadline = time.monotonic() + max(patience, _LOOK_SECONDS)
            told = False
            while error := self._refused(group_id, lock, state):
                if time.monotonic() >= deadline:
                    raise error
                if not told:
                    told = True
                    tell_wait(error.happened, patience)
                wait(_LOCK_POLL_SECONDS)
            os.ftruncate(lock, 0)
            os.pwrite(lock, new_lease().as_text().encode(), 0)
            # An error of the caller is not an error of the lock.
            held = stack.pop_all()
        with held:
            try:
                yield state
            finally:
                # A lock file in a Git repository is the same after every run.
                with contextlib.suppress(OSError):
                    os.ftruncate(lock, 0)

    def _refused(self, group_id: str, lock: int, state: int) -> t.Optional[StoreError]:
        """Take the lock of a Group; return the error that another run holds the lock or the lease, None if it is taken.

        A run on another machine holds a lease in this directory if this machine is its target host. The lease of a
        remote copy is in its location.
        """
        what, run, remedy = "lock", lock_holder(lock), ""
        if not run and self.location is CONTROLLER:
            what, run = "lease", end_lease(state)
            if run:
                fcntl.flock(lock, fcntl.LOCK_UN)
            remedy = f" If it was killed, its lease is taken over after {STALE_SECONDS / 60:.0f} minutes."
        if not run:
            return None
        return StoreError(
            f"Another run holds the {what} of {self.path} for Group {group_id}: {run}.",
            remedy=f"Wait for that run to end, then run again, or raise vault_lock_timeout.{remedy}",
        )

    def holder(self, group_id: str) -> str:
        """Return the run that works on a Group in this vault directory now, empty for none.

        This call neither waits nor changes anything. If the location is not the controller, fetch the files first. A
        lock that this user may not read counts as free.
        """
        if self.location is not CONTROLLER:
            return str(self.location.holder(name_of(group_id)) or "")
        with (
            explained("cannot be read", self.state_path(group_id)),
            contextlib.suppress(FileNotFoundError, PermissionError),
            self._opened_state(group_id) as state,
        ):
            return str(holder_of(state) or "")
        return ""

    def state_path(self, group_id: str) -> str:
        """Return the path of the directory of a Group's lock and journal."""
        return os.path.join(self.path, STATE_NAME, name_of(group_id))

    @contextlib.contextmanager
    def state(self, group_id: str) -> t.Iterator[int]:
        """Yield the open directory of a Group's journal for reading without the lock, or -1 if there is none."""
        with contextlib.ExitStack() as stack:
            state = -1
            with explained("cannot be read", self.state_path(group_id)), contextlib.suppress(FileNotFoundError):
                state = stack.enter_context(self._opened_state(group_id))
            yield state

    @contextlib.contextmanager
    def _opened_state(self, group_id: str, make: t.Optional[Modes] = None) -> t.Iterator[int]:
        """Open the directory of a Group's lock and journal. make: modes of missing directories, to create them."""
        with self.root() as root, opened_below(root, (STATE_NAME, name_of(group_id)), make) as state:
            yield state


def switches_off(path: str, name: str, file: str, more: int = 0) -> StoreError:
    """Return the error that a new directory would switch off a file of variables. more: number of other such files."""
    others = f", and {more} more such files" if more else ""
    directory, moved = shlex.quote(name), shlex.quote(f"{name}/vars{os.path.splitext(file)[1]}")
    # Ansible loads a directory of that name as well.
    way = (
        f"mv {shlex.quote(file)} {directory}"
        if os.path.isdir(os.path.join(path, file))
        else f"mkdir {directory} && mv {shlex.quote(file)} {moved}"
    )
    return StoreError(
        f"A new directory {os.path.join(path, name)} would switch off the variables in {file} beside it{others}: "
        "Ansible then loads only the files in the directory.",
        remedy=f"Move its variables into the directory. In {path}: {way}",
    )


def unsafe_address() -> StoreError:
    """Return the error of an address that is unsafe as the name of a file. Such addresses are refused long before."""
    return StoreError("The store was given an address that is unsafe as the name of a file.")
