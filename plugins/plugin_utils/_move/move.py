# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The layouts that keys are kept in, and how they move from one to the other.

A key is copied, synced, read back and compared before it is taken away where it was. So a move can be killed at any moment: the next
one finds some keys in both places, and goes on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
import typing as t

from ansible_collections.community.backblaze.plugins.module_utils._errors import StoreError
from ansible_collections.community.backblaze.plugins.module_utils._files import explained
from ansible_collections.community.backblaze.plugins.module_utils._members import NewMember
from ansible_collections.community.backblaze.plugins.module_utils._plan import Stored
from ansible_collections.community.backblaze.plugins.module_utils._vault_mode import PRIVATE, Modes
from ansible_collections.community.backblaze.plugins.module_utils._vault_paths import STATE_NAME, name_of
from ansible_collections.community.backblaze.plugins.plugin_utils._move.journal_copy import hand_over
from ansible_collections.community.backblaze.plugins.plugin_utils._move.key_files import (
    Entry,
    KeyFiles,
    KeyFilesOf,
    Variables,
    each,
)
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.group_vars import GroupVarsStore
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.host_vars import HostVarsStore
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.key_file import as_new_member
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.layouts import (
    GROUP_VARS,
    HOST_VARS,
    _groups_in,
    open_store,
)
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.sealer import Sealer
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.store import Store
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.vault_dir import VaultDir, switches_off

_ASTRAY = (
    "Its key is only in what a killed run left beside this file, so all keys of its Group stay where they are (of every Group, where it cannot be "
    "opened). Run b2_group_members with layout {0}, then move again. Where that does not help, give the run another vault password, or move that "
    "away."
)


@dataclasses.dataclass(frozen=True)
class Move:
    """What is asked for. group_id: only the keys of that Group. vault_lock_timeout: in seconds. write: false to look only. modes: of what is made."""

    layout: str
    source: str
    target: str
    group_id: t.Optional[str] = None
    vault_lock_timeout: float = 60.0
    write: bool = True
    modes: Modes = PRIVATE


@dataclasses.dataclass
class Moved:
    """What came of it: keys in their new places, those that were left where they are, and what else is to be said.

    changed: whether any key was written or taken away, or in check mode would be.
    """

    moved: list[Entry] = dataclasses.field(default_factory=list)
    left: list[Entry] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    changed: bool = False


class _Origin(t.Protocol):
    """Where the keys of a Group are moved from."""

    def tidy(self) -> None:
        """Remove what killed runs had written beside the keys, where nothing is lost with it."""

    def astray(self) -> list[str]:
        """Return whose keys are only in what killed runs left."""

    def recover(self, email: str, account_id: str, *, write: bool) -> t.Optional[Stored]:
        """Return what is left of the key of an account; nothing is moved with write: false."""

    def variables(self) -> dict[str, Variables]:
        """Return the variables of each stored key, by address."""

    def remarks(self, email: str) -> bool:
        """Tell whether there is more beside the key of an address, and would be lost with it: other variables, or a comment."""

    def remove(self, taken: t.Mapping[str, Variables]) -> set[str]:
        """Take keys away, each only if its variables are still these; return their addresses."""

    def file(self, email: str) -> str:
        """Return the path of the file that holds the key of an address."""


def move_keys(move: Move, sealer: Sealer) -> Moved:
    """Move keys to another layout. What cannot be moved is left alone and named, and all others are moved.

    Raises StoreError where a directory as a whole is not fit; then no key was touched. All that goes wrong later stands in what is returned.
    """
    result = Moved()
    VaultDir(move.target, sealer, modes=move.modes).prove(write=move.write)
    if move.layout == GROUP_VARS:
        _move_files(move, sealer, result)
    else:
        for group_id in (
            sorted({*_groups_in(move.source), *_groups_with_state(move)}) if move.group_id is None else [move.group_id]
        ):
            origin = GroupVarsStore(move.source, sealer, group_id)
            with _named(result, origin.file("")):
                _move_group(
                    move, group_id, origin, HostVarsStore(move.target, sealer, modes=move.modes), sealer, result
                )
    return result


def _move_files(move: Move, sealer: Sealer, result: Moved) -> None:
    """Move files of their own into one file for each Group."""
    files = KeyFiles(move.source, sealer)
    files.refresh()
    states = _groups_with_state(move)
    done: list[str] = []
    # Keys of one more Group may come while another one's are moved.
    while (
        due := sorted({*files.groups(), *states}.difference(done))
        if move.group_id is None
        else [move.group_id][len(done) :]
    ):
        done += due
        for group_id in due:
            with _named(result, move.source):
                target = GroupVarsStore(move.target, sealer, group_id, modes=move.modes)
                _move_group(move, group_id, KeyFilesOf(files, group_id), target, sealer, result, files.unfit)
    with _named(result, move.source):
        _name_astray(move, KeyFilesOf(files, ""), sealer, result)
    if move.group_id is None:
        result.left += files.unfit()
    else:
        # Of which Group these are cannot be seen.
        result.notes += [f"{entry.path}: {entry.message}" for entry in files.unfit()]


@contextlib.contextmanager
def _named(result: Moved, path: str) -> t.Iterator[None]:
    """Name what went wrong about one Group, so that the report of the others is not lost."""
    try:
        yield
    except StoreError as exc:
        result.left.append(Entry("", path, str(exc)))


def _move_group(
    move: Move,
    group_id: str,
    origin: _Origin,
    target: Store,
    sealer: Sealer,
    result: Moved,
    unread: t.Callable[[], list[Entry]] = list,
) -> None:
    """Move the keys of one Group, under its lock in both directories. unread: gives what may be a key of the Group and cannot be read."""
    with contextlib.ExitStack() as stack:
        source = VaultDir(move.source, sealer, modes=move.modes)
        states: list[int] = []
        if move.write:
            with explained("cannot be locked", move.source):
                places = {_location(one.path): one for one in (source, target.directory)}
            # In the same order for everybody, so that two moves in opposite directions do not wait for each other.
            held = {
                location: stack.enter_context(one.locked(group_id, move.vault_lock_timeout, time.sleep))
                for location, one in sorted(places.items())
            }
            states = [held[location] for location in places]
            origin.tidy()
        # What is wrong with the new place as a whole is said once.
        target.stored(())
        variables = origin.variables()
        if _name_astray(move, origin, sealer, result):
            return
        folders = {email: os.path.basename(os.path.dirname(target.file(email))) for email in variables}
        switched_off = target.directory.switched_off(set(folders.values()))
        fit: dict[str, NewMember] = {}
        for email, reason in each(lambda email: _unfit(origin, target, email, variables[email]), variables):
            folder = folders[email]
            if folder in switched_off:
                result.left.append(
                    Entry(email, origin.file(email), str(switches_off(move.target, folder, switched_off[folder])))
                )
            elif reason:
                result.left.append(Entry(email, origin.file(email), reason))
            else:
                fit[email] = as_new_member(variables[email])
        target.directory.prove_room(len(fit))
        if not move.write:
            result.moved += [Entry(email, target.file(email)) for email in fit]
            result.changed |= bool(fit)
            return
        if len(states) > 1:
            # Whose key is here, or may be, is none that was lost, whatever the journal says of earlier runs.
            here = {*variables, *origin.astray(), *(entry.email for entry in (*result.left, *unread()))}
            ids = {group_id, *(one.get("b2_group_id", "") for one in variables.values())}
            journals = (source.state_path(group_id), states[0]), (target.directory.state_path(group_id), states[1])
            unsettled = hand_over(*journals, ids, here, move.modes)
            if unsettled:
                result.notes.append(
                    f"An earlier run in {move.source} was about to create {', '.join(unsettled)} and did not end well. What became of them only a "
                    "run of b2_group_members in that directory can say: do that, then move once more."
                )
        if not fit:
            return
        target.directory.prove_writing()
        failed = _seal_all(target, fit)
        result.changed |= len(failed) < len(fit)
        # What counts is what is read from disk, by a store that has written nothing.
        fresh = open_store(move.layout, move.target, sealer, group_id)
        checked = each(
            lambda email: _not_as_it_was(fresh, email, fit[email]), (email for email in fit if email not in failed)
        )
        failed.update((email, reason) for email, reason in checked if reason)
        removed, reason = set[str](), "here it was changed meanwhile, or could not be taken away."
        try:
            removed = origin.remove({email: variables[email] for email in fit if email not in failed})
        except StoreError as exc:
            reason = str(exc)
        target.remember()
        for email in fit:
            if email in removed:
                result.moved.append(Entry(email, target.file(email)))
            else:
                result.left.append(
                    Entry(
                        email, origin.file(email), failed.get(email, f"It is in {target.file(email)} as well: {reason}")
                    )
                )


def _location(path: str) -> tuple[int, int]:
    """Return what two spellings of one directory have in common."""
    found = os.lstat(path)
    return found.st_dev, found.st_ino


def _name_astray(move: Move, origin: _Origin, sealer: Sealer, result: Moved) -> bool:
    """Name whose keys are only in what killed runs left; tell whether there are any.

    They can be brought home only as long as the layout has not changed. Where the new place has that very key, nothing is astray.
    """
    astray = origin.astray()
    there = _stored_there(move, sealer, astray) if astray else {}
    found = False
    for email in astray:
        known = there.get(email, Stored("", ""))
        left = origin.recover(email, known.account_id, write=False) if known.key_id else None
        # A part of a key, or of its file, gives way to a whole one.
        if left is not None and left.key_id in ("", known.key_id):
            continue
        found = True
        entry = Entry(email, origin.file(email), _ASTRAY.format(HOST_VARS if move.layout == GROUP_VARS else GROUP_VARS))
        if entry not in result.left:
            result.left.append(entry)
    return found


def _stored_there(move: Move, sealer: Sealer, emails: t.Collection[str]) -> dict[str, Stored]:
    """Return the keys of some addresses in the new place, whatever their Groups."""
    if move.layout == HOST_VARS:
        return HostVarsStore(move.target, sealer).stored(emails)
    found: dict[str, Stored] = {}
    for group_id in _groups_in(move.target):
        # One that cannot be read is named where it is its turn.
        with contextlib.suppress(StoreError):
            found.update(GroupVarsStore(move.target, sealer, group_id).stored())
    return found


def _unfit(origin: _Origin, target: Store, email: str, variables: Variables) -> str:
    """Say why a key cannot be moved; empty where it can."""
    if origin.remarks(email):
        return "There are other variables or comments beside the key, which would be lost. Move these elsewhere first."
    try:
        there, new = _there(target, email), as_new_member(variables)
    except StoreError as exc:
        return str(exc)
    # Part of a key gives way to a whole one, as everywhere.
    if there is None or there == new or (new.key_id and not there.key_id):
        return ""
    return f"{target.file(email)} holds another key for this address, or something else about its account. Look which of the two is right."


def _not_as_it_was(store: Store, email: str, new: NewMember) -> str:
    """Say what is wrong with a key that was sealed just now; empty where it came back as it was."""
    try:
        if _there(store, email) == new:
            return ""
    except StoreError as exc:
        return f"It is in {store.file(email)} as well, but could not be read back: {exc}"
    return f"It did not come back from {store.file(email)} as it was."


def _there(store: Store, email: str) -> t.Optional[NewMember]:
    variables = store.read(email)
    return None if variables is None else as_new_member(variables)


def _seal_all(target: Store, news: t.Mapping[str, NewMember]) -> dict[str, str]:
    """Seal many keys; return by address why some could not be."""
    if isinstance(target, GroupVarsStore):
        failed = {email: str(error) for email, error in target.seal_all(news.values()).items()}
        with contextlib.suppress(StoreError):
            target.tidy()
        return failed

    def seal(email: str) -> str:
        try:
            target.seal(news[email])
        except StoreError as exc:
            return str(exc)
        return ""

    return {email: error for email, error in each(seal, news) if error}


def _groups_with_state(move: Move) -> list[str]:
    """Return for which Groups there may be a journal to hand over."""
    path = os.path.join(move.source, STATE_NAME)
    with explained("cannot be read", path), contextlib.suppress(FileNotFoundError):
        if move.write and _location(move.source) != _location(move.target):
            with os.scandir(path) as entries:
                return [
                    entry.name
                    for entry in entries
                    if entry.is_dir(follow_symlinks=False) and name_of(entry.name) == entry.name
                ]
    return []
