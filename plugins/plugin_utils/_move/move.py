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
from ansible_collections.community.backblaze.plugins.module_utils._vault_mode import PRIVATE, Modes
from ansible_collections.community.backblaze.plugins.module_utils._vault_paths import STATE_NAME, name_of
from ansible_collections.community.backblaze.plugins.plugin_utils._move.entry import Entry
from ansible_collections.community.backblaze.plugins.plugin_utils._move.journal_copy import move_entries
from ansible_collections.community.backblaze.plugins.plugin_utils._move.key_files import KeyFiles, each
from ansible_collections.community.backblaze.plugins.plugin_utils._run.journal import Journal, open_journal
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.group_vars import GroupVarsStore, groups_in
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.key_file import StoredKey
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.layouts import (
    GROUP_VARS,
    HOST_VARS,
    open_store,
    stores_to_read,
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


#: The keys of one Group in one of the two layouts.
_Keys = t.Union[KeyFiles, GroupVarsStore]


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
        origin = GroupVarsStore(move.source, sealer, group_id, modes=move.modes)
        with _named(result, origin.file("")):
            _move_group(move, sealer, group_id, origin, KeyFiles(move.target, sealer, modes=move.modes), result)
    return result


def _move_files(move: Move, sealer: Sealer, result: Moved) -> None:
    """Move the key files of members into one file for each Group."""
    files = KeyFiles(move.source, sealer, modes=move.modes)
    files.refresh()
    journals = _groups_with_journal(move)
    done: set[str] = set()
    # Another run may create keys of one more Group meanwhile.
    while due := ({*files.groups(), *journals} if move.group_id is None else {move.group_id}) - done:
        group_id = min(due)
        done.add(group_id)
        with _named(result, move.source):
            target = GroupVarsStore(move.target, sealer, group_id, modes=move.modes)
            _move_group(move, sealer, group_id, files.of(group_id), target, result)
    with _named(result, move.source):
        result.left += [entry for entry in _leftovers(move, sealer, files) if entry not in result.left]
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


def _move_group(move: Move, sealer: Sealer, group_id: str, origin: _Keys, target: _Keys, result: Moved) -> None:
    """Move the keys of one Group under its lock in both directories."""
    with contextlib.ExitStack() as stack:
        journals = _locked(stack, move, group_id, origin, target) if move.write else []
        # An unreadable file of the new layout is reported once.
        target.stored(())
        keys = origin.keys()
        leftovers = _leftovers(move, sealer, origin)
        if leftovers:
            result.left += [entry for entry in leftovers if entry not in result.left]
            return
        fit, unfit = _fit(origin, target, keys)
        result.left += unfit
        target.prove_room(len(fit))
        if len(journals) == 2:
            # A key that the old directory holds, or may hold, is not lost, whatever the journal says.
            unread = origin.unfit() if isinstance(origin, KeyFiles) else []
            kept = {*keys, *origin.leftover(), *(entry.email for entry in unread)}
            old, new = journals
            unsettled = move_entries(old, new, {group_id, *(key.group_id for key in keys.values())}, kept)
            if unsettled:
                result.notes.append(
                    f"An earlier run in {move.source} was about to create {', '.join(unsettled)} when it ended. Run "
                    "b2_group_members in that directory to find out whether these members exist. Then move again."
                )
        sealed, failed = bool(fit), dict[str, str]()
        if move.write and fit:
            fresh = open_store(move.layout, move.target, sealer, group_id)
            sealed, failed = _seal_and_remove(origin, target, fresh, fit)
        result.changed |= sealed
        result.moved += [
            Entry(email, target.file(email), former=origin.file(email)) for email in fit if email not in failed
        ]
        result.left += [Entry(email, origin.file(email), failed[email]) for email in fit if email in failed]


def _locked(stack: contextlib.ExitStack, move: Move, group_id: str, origin: _Keys, target: _Keys) -> list[Journal]:
    """Take the lock of a Group in both directories; return the journal of each, only one if they are the same."""
    with explained("cannot be locked", move.source):
        both = [origin] if os.path.samefile(origin.path, target.path) else [origin, target]
    # Every move takes locks in the same order, so that two opposite moves do not wait for each other.
    journals = {
        one: stack.enter_context(open_journal(one, group_id, move.vault_lock_timeout, time.sleep))
        for one in sorted(both, key=lambda one: os.path.realpath(one.path))
    }
    return [journals[one] for one in both]


def _fit(origin: _Keys, target: _Keys, keys: t.Mapping[str, StoredKey]) -> tuple[dict[str, StoredKey], list[Entry]]:
    """Return the keys that can be moved, and an entry for each other key."""
    switched_off = target.switched_off(keys)
    reasons = dict(each(lambda email: _unfit(target, keys[email], switched_off), keys))
    unfit = [Entry(email, origin.file(email), reason) for email, reason in reasons.items() if reason]
    return {email: key for email, key in keys.items() if not reasons[email]}, unfit


def _unfit(target: _Keys, key: StoredKey, switched_off: t.Mapping[str, str]) -> str:
    """Return the reason why a key cannot be moved; empty if it can. switched_off: see VaultDir."""
    folder = target.folder(key.email)
    if folder in switched_off:
        return str(switches_off(target.path, folder, switched_off[folder]))
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


def _seal_and_remove(
    origin: _Keys, target: _Keys, fresh: Store, fit: t.Mapping[str, StoredKey]
) -> tuple[bool, dict[str, str]]:
    """Seal keys in the new layout, read them back, and remove them from the old one.

    Return whether any key was sealed, and the reason for each key that was not moved, by address.

    fresh: a store of the new layout that has written nothing, so that it reads from disk.
    """
    target.prove_writing()
    failed = {email: str(error) for email, error in target.seal_all(fit.values()).items()}
    sealed = [email for email in fit if email not in failed]
    checked = each(lambda email: _difference(fresh, email, fit[email]), sealed)
    failed.update((email, reason) for email, reason in checked if reason)
    removed, reason = set[str](), "the old file has changed meanwhile, or cannot be removed."
    try:
        removed = origin.remove({email: key for email, key in fit.items() if email not in failed})
    except StoreError as exc:
        reason = str(exc)
    target.remember()
    for email in fit.keys() - removed:
        failed.setdefault(email, f"It is in {target.file(email)} as well: {reason}")
    return bool(sealed), failed


def _leftovers(move: Move, sealer: Sealer, origin: _Keys) -> list[Entry]:
    """Return an entry for each key that is only in a temporary file of a killed run.

    Only a run in the old layout can recover these keys. A key that the new layout has is no leftover.
    """
    leftover = origin.leftover()
    stores = stores_to_read(move.layout, move.target, sealer) if leftover else []
    message = _LEFTOVER.format(HOST_VARS if move.layout == GROUP_VARS else GROUP_VARS)
    return [
        Entry(email, origin.file(email), message)
        for email, key in leftover.items()
        if not any(_has(store, email, key) for store in stores)
    ]


def _has(store: Store, email: str, left: t.Optional[StoredKey]) -> bool:
    """Tell whether a store has the whole key of an address. left: that key in a temporary file, None if unreadable."""
    # An unreadable file of the new layout is reported with its own Group.
    with contextlib.suppress(StoreError):
        there = store.read(email)
        if there and there.key_id:
            # A whole key replaces a part of it.
            return left is None or (left.account_id in ("", there.account_id) and left.key_id in ("", there.key_id))
    return False


def _difference(store: Store, email: str, key: StoredKey) -> str:
    """Return what is wrong with a key that was just sealed; empty if the store returns it unchanged."""
    try:
        if store.read(email) == key:
            return ""
    except StoreError as exc:
        return f"It is in {store.file(email)} as well, but could not be read back: {exc}"
    return f"{store.file(email)} does not hold it as it was sealed."


def _groups_with_journal(move: Move) -> list[str]:
    """Return the Groups whose journal may have to move to another directory."""
    path = os.path.join(move.source, STATE_NAME)
    with explained("cannot be read", path), contextlib.suppress(FileNotFoundError):
        if move.write and not os.path.samefile(move.source, move.target):
            return [
                name for name in os.listdir(path) if name_of(name) == name and os.path.isdir(os.path.join(path, name))
            ]
    return []
