# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Move keys from one layout to the other.

A key is copied, synced, read back and compared before its old file is removed. So a move can be killed at any moment:
the next one finds some keys in both layouts, and goes on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
import typing as t

from ansible_collections.community.backblaze.plugins.module_utils._errors import StoreError
from ansible_collections.community.backblaze.plugins.module_utils._files import explained
from ansible_collections.community.backblaze.plugins.module_utils._plan import Stored
from ansible_collections.community.backblaze.plugins.module_utils._vault_mode import PRIVATE, Modes
from ansible_collections.community.backblaze.plugins.module_utils._vault_paths import STATE_NAME, name_of
from ansible_collections.community.backblaze.plugins.plugin_utils._move.entry import Entry
from ansible_collections.community.backblaze.plugins.plugin_utils._move.journal_copy import hand_over
from ansible_collections.community.backblaze.plugins.plugin_utils._move.key_files import KeyFiles, KeyFilesOf, each
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.group_vars import GroupVarsStore, groups_in
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.host_vars import HostVarsStore
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.key_file import StoredKey
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.layouts import (
    GROUP_VARS,
    HOST_VARS,
    open_store,
)
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.sealer import Sealer
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.store import Store
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.vault_dir import VaultDir, switches_off

_LEFTOVER = (
    "Its key is only in a temporary file of a killed run, beside this file. The keys of its Group are not moved (of "
    "all Groups, if that file does not decrypt). Run b2_group_members with vault_layout {0}, then move again. If that "
    "does not help, give the run the other vault password, or move the temporary file away."
)


@dataclasses.dataclass(frozen=True)
class Move:
    """A move that is asked for.

    group_id: only the keys of that Group. vault_lock_timeout: in seconds. write: false to change nothing. modes: of new
    files and directories.
    """

    layout: str
    source: str
    target: str
    group_id: t.Optional[str] = None
    vault_lock_timeout: float = 60.0
    write: bool = True
    modes: Modes = PRIVATE


@dataclasses.dataclass
class Moved:
    """The report of a move. left: keys that were not moved, and why. notes: warnings.

    changed: whether any key was written or removed, or in check mode would be.
    """

    moved: list[Entry] = dataclasses.field(default_factory=list)
    left: list[Entry] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    changed: bool = False


class _Origin(t.Protocol):
    """The keys of a Group in the old layout."""

    def tidy(self, email: str) -> None:
        """Remove temporary files of killed runs that hold no other key."""

    def leftover(self) -> list[str]:
        """Return the addresses whose keys are only in temporary files of killed runs."""

    def recover(self, email: str, account_id: str, *, write: bool) -> t.Optional[Stored]:
        """Return what is known of the key in a temporary file. write: false to change nothing."""

    def keys(self) -> dict[str, StoredKey]:
        """Return each stored key by address."""

    def remove(self, taken: t.Mapping[str, StoredKey]) -> set[str]:
        """Remove each key that is still the same; return their addresses."""

    def file(self, email: str) -> str:
        """Return the path of the file that holds the key of an address."""


def move_keys(move: Move, sealer: Sealer) -> Moved:
    """Move keys to another layout. Keys that cannot be moved are left unchanged and named.

    Raises StoreError if a directory as a whole is unfit; then no key was changed. Later errors are in the report.
    """
    result = Moved()
    VaultDir(move.target, sealer, modes=move.modes).prove_directory(write=move.write)
    if move.layout == GROUP_VARS:
        _move_files(move, sealer, result)
        return result
    all_groups = sorted({*groups_in(move.source), *_groups_with_journal(move)})
    for group_id in all_groups if move.group_id is None else [move.group_id]:
        origin = GroupVarsStore(move.source, sealer, group_id)
        with _named(result, origin.file("")):
            target = HostVarsStore(move.target, sealer, modes=move.modes)
            _move_group(move, group_id, origin, target, sealer, result)
    return result


def _move_files(move: Move, sealer: Sealer, result: Moved) -> None:
    """Move the key files of members into one file for each Group."""
    files = KeyFiles(move.source, sealer)
    files.refresh()
    journals = _groups_with_journal(move)
    done: list[str] = []
    # Another run may create keys of one more Group meanwhile.
    while (
        due := sorted({*files.groups(), *journals}.difference(done))
        if move.group_id is None
        else [move.group_id][len(done) :]
    ):
        done += due
        for group_id in due:
            with _named(result, move.source):
                target = GroupVarsStore(move.target, sealer, group_id, modes=move.modes)
                _move_group(move, group_id, KeyFilesOf(files, group_id), target, sealer, result, files.unfit)
    with _named(result, move.source):
        _name_leftovers(move, KeyFilesOf(files, ""), sealer, result)
    if move.group_id is None:
        result.left += files.unfit()
    else:
        # These files may be of other Groups.
        result.notes += [f"{entry.path}: {entry.message}" for entry in files.unfit()]


@contextlib.contextmanager
def _named(result: Moved, path: str) -> t.Iterator[None]:
    """Report the error of one Group, and go on with the others."""
    try:
        yield
    except StoreError as exc:
        result.left.append(Entry("", path, str(exc)))


def _move_group(
    move: Move,
    group_id: str,
    origin: _Origin,
    target: t.Union[HostVarsStore, GroupVarsStore],
    sealer: Sealer,
    result: Moved,
    unread: t.Callable[[], list[Entry]] = list,
) -> None:
    """Move the keys of one Group under its lock in both directories. unread: returns files that were not read."""
    with contextlib.ExitStack() as stack:
        source = VaultDir(move.source, sealer, modes=move.modes)
        states: list[int] = []
        if move.write:
            states = _locked(stack, move, group_id, (source, target))
            origin.tidy("")
        # An unreadable file of the new layout is reported once.
        target.stored(())
        keys = origin.keys()
        if _name_leftovers(move, origin, sealer, result):
            return
        fit = _fit(move, origin, target, keys, result)
        target.prove_room(len(fit))
        if not move.write:
            result.moved += [Entry(email, target.file(email)) for email in fit]
            result.changed |= bool(fit)
            return
        if len(states) > 1:
            # A key that is here, or may be here, is not lost, whatever the journal says.
            here = {*keys, *origin.leftover(), *(entry.email for entry in (*result.left, *unread()))}
            ids = {group_id, *(key.group_id for key in keys.values())}
            journals = (source.state_path(group_id), states[0]), (target.state_path(group_id), states[1])
            unsettled = hand_over(*journals, ids, here, move.modes)
            if unsettled:
                result.notes.append(
                    f"An earlier run in {move.source} was about to create {', '.join(unsettled)} when it ended. Run "
                    "b2_group_members in that directory to find out whether these members exist. Then move again."
                )
        if fit:
            _move_fit(move, group_id, origin, target, sealer, result, fit)


def _locked(stack: contextlib.ExitStack, move: Move, group_id: str, directories: t.Sequence[VaultDir]) -> list[int]:
    """Take the lock of a Group in both directories; return the open directory of each journal, once if they are one."""
    with explained("cannot be locked", move.source):
        places = {_identity(one.path): one for one in directories}
    # Every move takes locks in the same order, so that two opposite moves do not wait for each other.
    held = {
        place: stack.enter_context(one.locked(group_id, move.vault_lock_timeout, time.sleep))
        for place, one in sorted(places.items())
    }
    return [held[place] for place in places]


def _fit(
    move: Move,
    origin: _Origin,
    target: t.Union[HostVarsStore, GroupVarsStore],
    keys: t.Mapping[str, StoredKey],
    result: Moved,
) -> dict[str, StoredKey]:
    """Return the keys that can be moved, and report all others."""
    switched_off = target.switched_off(keys)
    fit: dict[str, StoredKey] = {}
    for email, unfit in each(lambda email: _unfit(target, keys[email]), keys):
        folder = target.folder(email)
        off = str(switches_off(move.target, folder, switched_off[folder])) if folder in switched_off else ""
        reason = off or unfit
        if reason:
            result.left.append(Entry(email, origin.file(email), reason))
        else:
            fit[email] = keys[email]
    return fit


def _move_fit(
    move: Move,
    group_id: str,
    origin: _Origin,
    target: t.Union[HostVarsStore, GroupVarsStore],
    sealer: Sealer,
    result: Moved,
    fit: t.Mapping[str, StoredKey],
) -> None:
    """Seal keys in the new layout, read them back, and remove them from the old one."""
    target.prove_writing()
    failed = _seal_all(target, fit)
    result.changed |= len(failed) < len(fit)
    # Read from disk, by a store that has written nothing.
    fresh = open_store(move.layout, move.target, sealer, group_id)
    sealed = [email for email in fit if email not in failed]
    checked = each(lambda email: _difference(fresh, email, fit[email]), sealed)
    failed.update((email, reason) for email, reason in checked if reason)
    removed, reason = set[str](), "the old file has changed meanwhile, or cannot be removed."
    try:
        removed = origin.remove({email: key for email, key in fit.items() if email not in failed})
    except StoreError as exc:
        reason = str(exc)
    target.remember()
    for email in fit:
        if email in removed:
            result.moved.append(Entry(email, target.file(email)))
        else:
            message = failed.get(email, f"It is in {target.file(email)} as well: {reason}")
            result.left.append(Entry(email, origin.file(email), message))


def _identity(path: str) -> tuple[int, int]:
    """Return device and inode: one directory may have several paths."""
    found = os.lstat(path)
    return found.st_dev, found.st_ino


def _name_leftovers(move: Move, origin: _Origin, sealer: Sealer, result: Moved) -> bool:
    """Report the keys that are only in temporary files of killed runs; return whether there are any.

    Only a run in the old layout can recover these keys. A key that the new layout has is no leftover.
    """
    leftover = origin.leftover()
    there = _stored_there(move, sealer, leftover) if leftover else {}
    found = False
    for email in leftover:
        known = there.get(email, Stored("", ""))
        left = origin.recover(email, known.account_id, write=False) if known.key_id else None
        # A whole key replaces a part of it.
        if left is not None and left.key_id in ("", known.key_id):
            continue
        found = True
        entry = Entry(
            email, origin.file(email), _LEFTOVER.format(HOST_VARS if move.layout == GROUP_VARS else GROUP_VARS)
        )
        if entry not in result.left:
            result.left.append(entry)
    return found


def _stored_there(move: Move, sealer: Sealer, emails: t.Collection[str]) -> dict[str, Stored]:
    """Return what is known of the keys of some addresses in the new layout, in all Groups."""
    if move.layout == HOST_VARS:
        return HostVarsStore(move.target, sealer).stored(emails)
    found: dict[str, Stored] = {}
    for group_id in groups_in(move.target):
        # An unreadable file is reported with its own Group.
        with contextlib.suppress(StoreError):
            found.update(GroupVarsStore(move.target, sealer, group_id).stored())
    return found


def _unfit(target: Store, key: StoredKey) -> str:
    """Return the reason why a key cannot be moved; empty if it can."""
    if key.more:
        return "The file holds other variables or comments. Move these to another file of that directory first."
    try:
        there = target.read(key.email)
    except StoreError as exc:
        return str(exc)
    # A whole key replaces a part of it.
    if there is None or there == key or (key.key_id and not there.key_id):
        return ""
    return (
        f"{target.file(key.email)} holds another key of this address, or other facts about its account. Compare both."
    )


def _difference(store: Store, email: str, key: StoredKey) -> str:
    """Return what is wrong with a key that was just sealed; empty if the store returns it unchanged."""
    try:
        if store.read(email) == key:
            return ""
    except StoreError as exc:
        return f"It is in {store.file(email)} as well, but could not be read back: {exc}"
    return f"{store.file(email)} does not hold it as it was sealed."


def _seal_all(target: t.Union[HostVarsStore, GroupVarsStore], keys: t.Mapping[str, StoredKey]) -> dict[str, str]:
    """Seal many keys; return the reason for each key that was not sealed, by address."""
    if isinstance(target, GroupVarsStore):
        failed = {email: str(error) for email, error in target.seal_all(keys.values()).items()}
        with contextlib.suppress(StoreError):
            target.tidy("")
        return failed

    def seal(email: str) -> str:
        try:
            target.seal(keys[email])
        except StoreError as exc:
            return str(exc)
        return ""

    return {email: error for email, error in each(seal, keys) if error}


def _groups_with_journal(move: Move) -> list[str]:
    """Return the Groups whose journal may have to move to another directory."""
    path = os.path.join(move.source, STATE_NAME)
    with explained("cannot be read", path), contextlib.suppress(FileNotFoundError):
        if move.write and _identity(move.source) != _identity(move.target):
            with os.scandir(path) as entries:
                return [
                    entry.name
                    for entry in entries
                    if entry.is_dir(follow_symlinks=False) and name_of(entry.name) == entry.name
                ]
    return []
