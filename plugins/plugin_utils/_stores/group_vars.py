# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The layout ``group_vars``: ``<vault_dir>/b2_group_<group id>/b2_vault.yml`` with all keys of a Group, by address.

Ansible loads it by itself for the hosts of an inventory group of that name. Keys that arrive together share one write.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import os
import threading
import typing as t

from ansible_collections.community.backblaze.plugins.module_utils._errors import StoreError
from ansible_collections.community.backblaze.plugins.module_utils._files import (
    DIRECTORY,
    explained,
    identity,
    look,
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
    group_directory,
    is_temporary,
)
from ansible_collections.community.backblaze.plugins.plugin_utils._locations.location import CONTROLLER, Location
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.key_file import (
    FIELDS,
    as_new_member,
    as_stored,
    key_variables,
)
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.key_list import KeyList, new_text, read_text
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.sealer import Sealer
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.unproven import UnprovenKeys
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.vault_dir import VaultDir


@dataclasses.dataclass(frozen=True)
class _Known:
    """What was read or written last, and of which file; None where there was none."""

    keys: KeyList
    sealer: Sealer
    found: t.Optional[os.stat_result] = None

    @property
    def identity(self) -> tuple[int, ...]:
        return identity(self.found) if self.found else ()


@dataclasses.dataclass
class _Request:
    """A key that waits to be written. error: why it was not."""

    new: NewMember
    again: bool
    done: bool = False
    error: t.Optional[StoreError] = None


class GroupVarsStore:
    """One vault file for all members of a Group. Safe to use from many threads."""

    def __init__(
        self, path: str, sealer: Sealer, group_id: str, location: Location = CONTROLLER, modes: Modes = PRIVATE
    ) -> None:
        self.directory = VaultDir(path, sealer, location, modes)
        self._sealer = sealer
        self._folder = group_directory(group_id)
        self._path = os.path.join(self.directory.path, self._folder, FILE_NAME)
        self.unproven = UnprovenKeys(self.directory, sealer, FILE_NAME, lambda _email: self._folder)
        self._known: t.Optional[_Known] = None
        self.directory.rewritten = 0
        # Held by whoever reads or writes the file.
        self._file = threading.RLock()
        # What killed runs left beside it, by name; None where it does not decrypt.
        self._leftovers: dict[str, t.Optional[KeyList]] = {}
        # What this process put on disk, which somebody else's writing may take away: an editor, or git.
        self._made: dict[str, NewMember] = {}
        # As what it was last seen that the file has all of these.
        self._has_all: t.Optional[_Known] = None
        # Keys that wait to be written, and whether a thread is at it.
        self._turn = threading.Condition()
        self._waiting: list[_Request] = []
        self._writing = False

    def prove(self, wanted: t.Collection[str], *, write: bool) -> None:
        """Show that the directory is fit for keys, that the file can take them up, and that no wanted key is kept in the other layout."""
        self.directory.prove(write=write)
        folder = os.path.dirname(self._path)
        with explained("cannot be used", folder):
            prove_place(folder, FILE_NAME)
        self.prove_not_in_other_layout(wanted)

    def prove_nothing_switched_off(self, wanted: t.Collection[str]) -> None:
        """Show that the directory of the Group switches off no file of variables."""
        self.directory.prove_nothing_switched_off([self._folder] if wanted else [])

    def prove_not_in_other_layout(self, wanted: t.Collection[str]) -> None:
        """Show that no wanted key is kept in the same directory in another layout."""
        keys = self._refreshed().keys.keys
        remote_copy = [email for email in wanted if email not in keys and self._has_file_of_its_own(email)]
        if remote_copy:
            raise kept_in_other_layout(remote_copy, self.directory.path, "host_vars", "group_vars")

    def _has_file_of_its_own(self, email: str) -> bool:
        folder = os.path.join(self.directory.path, email)
        with explained("cannot be read", folder):
            try:
                names = os.listdir(folder)
            except (FileNotFoundError, NotADirectoryError):
                return False
        return any(name == FILE_NAME or is_temporary(name, FILE_NAME) for name in names)

    # Reading

    def stored(self, emails: t.Optional[t.Collection[str]] = None) -> dict[str, Stored]:
        """Return every stored key by address, never the keys themselves; the file has to decrypt and to hold keys only, each under its address.

        emails: makes no difference here, where all are read in one go.
        """
        return {email: as_stored(variables, self._path) for email, variables in self._refreshed().keys.keys.items()}

    def read(self, email: str) -> t.Optional[dict[str, str]]:
        """Return the variables stored for an address, the key among them, as they were read or written last; None where there are none."""
        known = self._known or self._refreshed()
        found = known.keys.keys.get(email)
        return dict(found) if found else None

    def key(self, email: str) -> tuple[str, str]:
        """Return the id and the secret stored for an address, both empty where there are none."""
        variables = self.read(email) or {}
        return variables.get("b2_application_key_id", ""), variables.get("b2_application_key", "")

    def _refreshed(self) -> _Known:
        """Return what the file holds; it is opened once, and again only if somebody else has changed it."""
        with self._file, explained("cannot be read", self._path):
            try:
                with self.directory.root() as root, opened(root, self._folder, DIRECTORY) as directory:
                    return self._look(directory)
            except FileNotFoundError:
                nothing = self._nothing()
                self._learn(nothing)
                return nothing

    def _look(self, directory: int) -> _Known:
        known = self._known
        if known is None or known.identity != _identity(directory):
            try:
                known = self._open(directory, FILE_NAME)
            except FileNotFoundError:
                known = self._nothing()
            self._learn(known)
        return known

    def _learn(self, known: _Known) -> None:
        self._known = known
        self.directory.rewritten = known.found.st_size if known.found else 0

    def _nothing(self) -> _Known:
        return _Known(new_text(self._path), self._sealer)

    def _open(self, directory: int, name: str) -> _Known:
        path = os.path.join(os.path.dirname(self._path), name)
        sealed, found = look(directory, name)
        plaintext, sealer = self._sealer.open_to_rewrite(sealed, path)
        return _Known(read_text(plaintext, path), sealer, found)

    # Writing

    def seal(self, new: NewMember, *, again: bool = False) -> str:
        """Encrypt a new member's key and put it on disk; return the path of the file. The vault directory itself is not made anew.

        A key that is there is never replaced, unless it is this very key (then again: with more known about its account) or only part of
        one. Keys that come while another thread writes wait for it, and then share one write.
        """
        request = _Request(new, again)
        self._write([request])
        if request.error:
            raise request.error
        return self._path

    def seal_all(self, news: t.Iterable[NewMember]) -> dict[str, StoreError]:
        """Put many keys on disk in one write; return by address why some could not be."""
        requests = [_Request(new, False) for new in news]
        self._write(requests)
        return {one.new.member.email: one.error for one in requests if one.error}

    def _write(self, mine: list[_Request]) -> None:
        """Return when these keys are on disk, or have an error each."""
        with self._turn:
            self._waiting += mine
            self._turn.wait_for(lambda: all(one.done for one in mine) or not self._writing)
            if all(one.done for one in mine):
                return
            batch, self._waiting, self._writing = self._waiting, [], True
        # What the others are told if this thread ends in a way that nobody thought of.
        failed: t.Optional[StoreError] = StoreError(f"{self._path} cannot be written (something unexpected came up).")
        try:
            self._commit(batch)
            self.directory.location.publish(self._path)
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
        """Put keys on disk in one write. One that must not be written gets its error; StoreError holds for all others."""
        with self._file, explained("cannot be written", self._path), self.directory.root() as root:
            with contextlib.suppress(FileExistsError):
                make_in(root, self._folder, self.directory.modes)
            with opened(root, self._folder, DIRECTORY) as directory:
                known = self._look(directory)
                keys = _with(known.keys, [*self._taken_away(known), *batch])
                if keys is not known.keys:
                    known = self._replace(directory, known, keys)
                # Also where nothing is new: what is there may have been put there by a write that failed at this step.
                os.fsync(directory)
            os.fsync(root)
            self._learn(known)
            self._made.update((one.new.member.email, one.new) for one in batch if not one.error)
            self._has_all = known

    def _taken_away(self, known: _Known) -> list[_Request]:
        """Return the keys of this process that somebody else's writing has taken out of the file."""
        made = {} if known is self._has_all else self._made
        return [_Request(new, False) for email, new in made.items() if email not in known.keys.keys]

    def _replace(self, directory: int, known: _Known, keys: KeyList) -> _Known:
        """Write the file anew, unless it is not the one any more that the new text comes from; the caller syncs the directory."""
        sealed = known.sealer.seal(keys.text.encode("utf-8"))
        found = replace(
            directory, FILE_NAME, sealed, known.found, lambda: self._prove_same(directory, known), self.directory.modes
        )
        return _Known(keys, known.sealer, found)

    def _prove_same(self, directory: int, known: _Known) -> None:
        if known.identity != _identity(directory):
            raise StoreError(f"{self._path} was changed by somebody else just now.", remedy="Run again.")

    def remove(self, taken: t.Mapping[str, t.Mapping[str, str]]) -> set[str]:
        """Take out keys, each only if its variables are still these; return their addresses. A file in which nothing is left goes too."""
        with self._file, explained("cannot be written", self._path), self.directory.root() as root:
            with opened(root, self._folder, DIRECTORY) as directory:
                known = self._look(directory)
                going = {email for email, variables in taken.items() if known.keys.keys.get(email) == variables}
                self._made = {email: new for email, new in self._made.items() if email not in going}
                keys = known.keys.without(going) if going else known.keys
                if going and keys.bare:
                    self._prove_same(directory, known)
                    os.unlink(FILE_NAME, dir_fd=directory)
                    known = self._nothing()
                elif going:
                    known = self._replace(directory, known, keys)
                os.fsync(directory)
            if known.found is None:
                with contextlib.suppress(OSError):
                    os.rmdir(self._folder, dir_fd=root)
            os.fsync(root)
            self._learn(known)
        return going

    # What a killed run leaves

    def recover(self, email: str, account_id: str, *, write: bool) -> t.Optional[Stored]:
        """Bring home the key of an account that is only in what a killed run had written beside the file; None where there is none.

        What does not decrypt is left alone, and returned with its own path and without a key id where nothing else is found: it may be torn, or
        whole under another password. What holds nothing that the file does not hold goes.
        """
        left_there = self._left()
        unread = sorted(name for name, left in left_there.items() if left is None)
        found = (
            Stored("", "", os.path.join(os.path.dirname(self._path), unread[0]))
            if unread and not self.read(email)
            else None
        )
        for left in left_there.values():
            variables = left.keys.get(email, {}) if left else {}
            if variables and variables.get("b2_account_id") in ("", account_id) and not self.read(email):
                if write:
                    self.seal(as_new_member(variables))
                found = as_stored(variables, self._path)
                break
        if write:
            self.tidy()
        return found

    def astray(self) -> list[str]:
        """Return whose keys are only in what a killed run had written beside the file."""
        keys = self._refreshed().keys.keys
        return sorted({email for left in self._left().values() if left for email in left.keys if email not in keys})

    def _left(self) -> dict[str, t.Optional[KeyList]]:
        """Return what killed runs had written beside the file, by its name; None where it does not decrypt. It is opened once."""
        with self._file, explained("cannot be read", self._path):
            try:
                with self.directory.root() as root, opened(root, self._folder, DIRECTORY) as directory:
                    self._look(directory)
                    names = [name for name in os.listdir(directory) if is_temporary(name, FILE_NAME)]
                    for name in names:
                        if name not in self._leftovers:
                            try:
                                self._leftovers[name] = self._open(directory, name).keys
                            except StoreError:
                                self._leftovers[name] = None
            except FileNotFoundError:
                names = []
        return {name: self._leftovers[name] for name in names}

    def tidy(self) -> None:
        """Remove what killed runs had written beside the file, where the file holds all of it."""
        keys = self._refreshed().keys.keys
        for name, left in self._left().items():
            if left and all(
                keys.get(email, {}).get("b2_application_key") == variables["b2_application_key"]
                for email, variables in left.keys.items()
            ):
                with (
                    contextlib.suppress(OSError),
                    self.directory.root() as root,
                    opened(root, self._folder, DIRECTORY) as directory,
                ):
                    os.unlink(name, dir_fd=directory)
                self.directory.location.later(os.path.join(os.path.dirname(self._path), name))

    # Small things

    def variables(self) -> dict[str, dict[str, str]]:
        """Return the variables of each stored key, by address."""
        return {email: dict(variables) for email, variables in self._refreshed().keys.keys.items()}

    def remember(self) -> None:
        """Put back what somebody else's writing has taken away meanwhile, and let go of the keys: the next run opens the file in one go."""
        with self._file:
            if self._made:
                with contextlib.suppress(StoreError):
                    self._commit(())
            self._known = self._has_all = None
            self._leftovers = {}
            self._made = {}

    def remarks(self, email: str) -> bool:
        """Tell whether there is more in the entry of an address than its key, and would be lost with it: other variables, or a comment."""
        keys = self._refreshed().keys
        return keys.remarks(email) or not set(keys.keys.get(email, {})) <= FIELDS

    def file(self, email: str) -> str:
        """Return the path of the file, which is the same for every address."""
        return self._path


def kept_in_other_layout(emails: t.Sequence[str], path: str, there: str, wanted: str) -> StoreError:
    """Return the error that wanted keys are kept in another layout."""
    more = f" and {len(emails) - 1} more" if emails[1:] else ""
    return StoreError(
        f"The key of {emails[0]}{more} is kept in {path} in the layout {there}, but this task asks for {wanted}.",
        remedy=f"Set layout to {there}, or move the keys with community.backblaze.b2_vault_layout.",
    )


def _identity(directory: int) -> tuple[int, ...]:
    try:
        return identity(os.lstat(FILE_NAME, dir_fd=directory))
    except FileNotFoundError:
        return ()


def _with(keys: KeyList, batch: t.Sequence[_Request]) -> KeyList:
    """Return a text with the keys that are news to it; the very same text where there are none."""
    news: dict[str, NewMember] = {}
    lines: dict[str, str] = {}
    for one in batch:
        email = one.new.member.email
        there = key_variables(news[email]) if email in news else keys.keys.get(email, {})
        try:
            if _is_news(one, there, keys.path):
                lines[email] = keys.line(one.new)
                news[email] = one.new
        except StoreError as exc:
            one.error = exc
    return keys.plus(lines, news) if lines else keys


def _is_news(request: _Request, there: t.Mapping[str, str], path: str) -> bool:
    """Tell whether a key is to be written over what is stored for its address; StoreError where that is another key."""
    new = request.new
    if unsafe_name(new.member.email):
        raise StoreError("An address that is not safe as a name came as far as the store.")
    same = there.get("b2_application_key") == new.key
    if there and not same and there.get("b2_application_key_id"):
        raise StoreError(
            f"{path} holds another key of {new.member.email}, which is not replaced.",
            remedy="Cut its line out with ansible-vault edit, and keep it.",
        )
    return not same or (request.again and dict(there) != key_variables(new))
