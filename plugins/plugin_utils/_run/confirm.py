# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Check that keys are still in their files when a run ends; store missing keys in the fallback directory."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import typing as t

from ansible_collections.community.backblaze.plugins.module_utils._errors import StoreError
from ansible_collections.community.backblaze.plugins.module_utils._plan import Outcome
from ansible_collections.community.backblaze.plugins.plugin_utils._run.job import Job, Result
from ansible_collections.community.backblaze.plugins.plugin_utils._run.journal import Journal
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.fallback import FallbackStore
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.key_file import StoredKey
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.store import Store

# The outcome of a member whose key is gone from its file and could not be stored again.
_KEYLESS = {
    Outcome.CREATED: Outcome.KEY_LOST,
    Outcome.ADOPTED: Outcome.KEY_MISSING,
    Outcome.UNCHANGED: Outcome.KEY_MISSING,
}
_UNCERTAIN = "The owner of this key is not known."

#: Keys by the path of their file. None stands for a key that is not known.
_Keys = dict[str, t.Optional[StoredKey]]


def confirmed(
    job: Job,
    store: Store,
    fallback: FallbackStore,
    results: t.Mapping[str, Result],
    concerned: t.Collection[str],
    journal: t.Optional[Journal] = None,
) -> tuple[dict[str, Result], tuple[str, ...]]:
    """Check that the vault directory still holds the keys of this run; store missing keys in the fallback directory.

    A file that somebody else has changed may still hold its keys: another run may have added a member, or the owner a
    variable.

    concerned: addresses whose keys this run may have stored. journal: None if this run does not have the lock of the
    Group. Return the results by address, and warnings.
    """
    found = dict(results)
    try:
        amiss = store.location.confirm()
    except StoreError as exc:
        said = (
            f"The keys of this run could not be confirmed: {store.path} cannot be read ({exc.happened}) Run "
            "again when it can be read."
        )
        return found, (said,)
    if not amiss:
        return found, ()
    emails = sorted(concerned)
    notes: list[str] = []
    changed: frozenset[str] = frozenset()

    def copied(email: str) -> _Keys:
        return _copied(store, email, results.get(email), amiss)

    def rescue(email: str, kept: _Keys) -> tuple[t.Optional[Result], list[str]]:
        gone = _gone(store, email, kept, copied, changed)
        return _rescued(job, fallback, email, results.get(email), gone, amiss, journal)

    with concurrent.futures.ThreadPoolExecutor(job.concurrency) as pool:
        ours = list(pool.map(copied, emails))
        # If a changed file cannot be fetched, its keys count as missing. Only the files of this Group are fetched.
        with contextlib.suppress(StoreError):
            changed = store.location.take_changed({path for kept in ours for path in kept})
        for one, told in pool.map(rescue, emails, ours):
            notes += told
            if one:
                found[one.email] = one
    return found, tuple(notes)


def _copied(store: Store, email: str, one: t.Optional[Result], amiss: t.Collection[str]) -> _Keys:
    """Return the keys of one address that the remote copy has in these files.

    one: the result of the address, None if it is not wanted.
    """
    kept: _Keys = {}
    file = store.file(email)
    if file in amiss and (one is None or one.path == file):
        kept[file] = None
        with contextlib.suppress(StoreError):
            kept[file] = store.read(email)
    with contextlib.suppress(StoreError):
        unproven = {path: key for path, key in store.unproven.of(email).items() if key and path in amiss}
        kept.update((path, dataclasses.replace(key, unproven=True)) for path, key in unproven.items())
    return kept


def _gone(store: Store, email: str, kept: _Keys, copied: t.Callable[[str], _Keys], changed: t.Collection[str]) -> _Keys:
    """Return the keys of one address that are not in their files any more.

    kept: the keys that the remote copy had. copied: returns the keys that the remote copy has now. changed: the files
    that somebody else has changed, and that the remote copy now has.
    """
    there: _Keys = {}
    if kept.keys() & changed:
        # If the file of a Group does not decrypt, its store would otherwise return the keys that it knew before.
        with contextlib.suppress(StoreError):
            store.stored([email])
            there = copied(email)
    return {path: new for path, new in kept.items() if path not in changed or not _is_same(new, there.get(path))}


def _is_same(one: t.Optional[StoredKey], other: t.Optional[StoredKey]) -> bool:
    return one is not None and other is not None and one.secret == other.secret


def _rescued(
    job: Job,
    fallback: FallbackStore,
    email: str,
    one: t.Optional[Result],
    gone: _Keys,
    amiss: t.Mapping[str, str],
    journal: t.Optional[Journal],
) -> tuple[t.Optional[Result], list[str]]:
    """Store the missing keys of one address in the fallback directory.

    one: the result of the address, None if it is not wanted. gone: see _gone. amiss: why a file does not hold its keys
    any more. Return the new result, and warnings about keys of other files.
    """
    notes = []
    for path, new in gone.items():
        unproven = bool(new and new.unproven)
        account = new.account_id if new else one.member.account_id if one and one.member else ""
        saved, why = "", "it is not in the remote copy either."
        try:
            saved = fallback.seal(new) if new else ""
        except StoreError as exc:
            why = exc.happened
        message = f"The key of {email} is gone from {path}: {amiss[path]}. "
        if saved:
            message += f"It was stored in {saved}. The next run {'tries it' if unproven else 'moves it to its file'}."
        else:
            lost = f"the key of account {account or 'unknown'} is lost"
            message += f"It could not be stored anywhere else, so {lost}: {why}"
        if one is None or one.path != path:
            notes.append(f"{message} {_UNCERTAIN}" if unproven else message)
            continue
        outcome = one.outcome if saved else _KEYLESS.get(one.outcome, one.outcome)
        if journal and saved:
            journal.fallback(job.group_id, email, "" if unproven else account, saved)
        elif journal and outcome is Outcome.KEY_LOST:
            with contextlib.suppress(StoreError):
                journal.lost(job.group_id, email, account)
        one = dataclasses.replace(one, outcome=outcome, path=saved).also(message)
    return one, notes
