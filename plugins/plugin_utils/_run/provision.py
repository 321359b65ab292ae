# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Create the wanted members of Groups and seal their keys: prove the store, plan, act, confirm.

Nothing is created before the store is proven. Check mode ends with the plan, and otherwise the workers do its steps.
Every wanted member ends in exactly one outcome, whatever happens.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import os
import time
import typing as t

from ansible_collections.community.backblaze.plugins.module_utils._api.partner import Partner
from ansible_collections.community.backblaze.plugins.module_utils._errors import ApiError, B2Error, StoppedError
from ansible_collections.community.backblaze.plugins.module_utils._members import Member, Proof, folded
from ansible_collections.community.backblaze.plugins.module_utils._plan import (
    KeyState,
    Open,
    Outcome,
    Settled,
    Stored,
    Wanted,
    all_refused,
    by_email,
    decide_present,
    not_attempted,
    settle,
)
from ansible_collections.community.backblaze.plugins.plugin_utils._run.confirm import confirmed
from ansible_collections.community.backblaze.plugins.plugin_utils._run.job import (
    Done,
    Job,
    Plan,
    Report,
    Result,
    Stop,
    foreseen,
)
from ansible_collections.community.backblaze.plugins.plugin_utils._run.journal import Journal, is_recent, open_journal
from ansible_collections.community.backblaze.plugins.plugin_utils._run.other_runs import OtherRun, look
from ansible_collections.community.backblaze.plugins.plugin_utils._run.recover import (
    Moves,
    recover,
    seal_from_fallback,
    try_unproven,
)
from ansible_collections.community.backblaze.plugins.plugin_utils._run.workers import Workers
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.fallback import FallbackStore
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.store import Store, secret_of

#: Seconds between look-ups of a member that is not listed and whose key is new; and for how many seconds a key is new.
LISTING_DELAYS = (1.0, 2.0, 4.0)
_NEW_SECONDS = 120
# Members in one answer of a listing.
_PER_CALL = 1000
# Seconds to wait for the lock again, to record in the journal which lost keys are reported.
_TELLING_TIMEOUT = 2.0
# After so many keys in a row without an answer from Backblaze, no more keys are tried.
_MOST_UNANSWERED = 3
_MOVE_AWAY = "Move the file with the key out of the vault directory, and keep it."


def provision_groups(
    client: Partner, jobs: t.Sequence[tuple[Job, Store]], fallback: FallbackStore, stop: Stop
) -> list[Done]:
    """Provision several Groups, one after the other; see provision.

    Return the plan and the report of each Group, or the error that kept it from starting. Such a Group does not stop
    the others.
    """
    done: list[Done] = []
    seen: list[Store] = []
    for job, store in jobs:
        try:
            if done:
                stop.check()
            done.append(provision(client, job, store, fallback, stop, whole=store not in seen))
            seen.append(store)
        except B2Error as exc:
            done.append(exc)
    for number, ((job, store), one) in enumerate(zip(jobs, done, strict=True)):
        if not isinstance(one, B2Error):
            plan, report = one
            if done[1:] and not job.check_mode:
                report = _confirmed_again(job, store, fallback, report)
            done[number] = plan, _with_removed(store, report)
    return done


def _confirmed_again(job: Job, store: Store, fallback: FallbackStore, report: Report) -> Report:
    """Confirm the keys of a Group after the last Group: somebody may have removed them meanwhile."""
    results = {each.email: each for each in report.results}
    found, notes = confirmed(job, store, fallback, results, [each.email for each in report.results if each.changed])
    lost = [each for each in found.values() if each.outcome is Outcome.KEY_LOST and each != results[each.email]]
    if lost:
        with contextlib.suppress(B2Error), _journal_again(job, store) as journal:
            for each in lost:
                journal.lost(job.group_id, each.email, each.member.account_id if each.member else "")
    notes = tuple(dict.fromkeys((*report.notes, *notes)))
    return dataclasses.replace(report, results=tuple(found.values()), notes=notes)


def _with_removed(store: Store, report: Report) -> Report:
    """Add a warning to a report about keys of earlier runs that somebody removed during this run.

    Such a key is not written again: the user may have removed it on purpose.
    """
    removed = store.location.removed
    paths = [one.path for one in report.results if one.outcome is Outcome.UNCHANGED and one.path in removed]
    if not paths:
        return report
    others = len(set(paths)) - 1
    files = f"{min(paths)}{f' and {others} more' if others else ''}"
    members = f"{len(paths)} members" if paths[1:] else "1 member"
    note = (
        f"During this run the keys of {members} were removed from {store.path}: {files}. "
        "Find out who did that. The history of the branch or a backup has these files."
    )
    return dataclasses.replace(report, notes=(*report.notes, note))


def provision(
    client: Partner, job: Job, store: Store, fallback: FallbackStore, stop: Stop, *, whole: bool = True
) -> tuple[Plan, Report]:
    """Create the wanted members of one Group and seal their keys; return the plan and the report.

    In check mode the report has the foreseen results, and nothing is changed, neither at Backblaze nor on disk. whole:
    read every key in the store, and not only those of the job and of its journal.

    Raises B2Error only if the run ends before the first create.
    """
    write = not job.check_mode
    store.prove([one.email for one in job.wanted], write=write)
    with (
        open_journal(store, job.group_id, job.vault_lock_timeout, stop.wait, write=write) as journal,
        contextlib.ExitStack() as at_end,
    ):
        entries = journal.entries(job.group_id)
        concerned = {*(one.email for one in job.wanted), *(one.email for one in entries)}
        # Again, under the lock: keys may have been moved to another layout while this run waited for the lock.
        store.prove_not_in_other_layout(concerned)
        stored = store.stored(None if whole else concerned)
        if write:
            at_end.callback(store.remember)
        members = by_email(client.members(job.group_id))
        members.update(_not_listed(client, job, members, stored, stop))
        other = OtherRun([])
        if job.check_mode:
            other = look(store, job.group_id)
            stored.update(store.stored([email for email in concerned if email in members and email not in stored]))
            if not other.problem:
                # Open addresses of a live run are not those of a killed run.
                entries = [] if other.run else other.entries
        moves = Moves(store, write)
        try:
            recover(entries, members, moves)
            seal_from_fallback(fallback, members, moves)
            unproven = try_unproven(client, fallback, entries, members, moves)
            stored.update(moves.found)
            plan = _make_plan(client, job, store, members, stored, entries, unproven, other, stop)
            _prove_for(plan, store, write=write)
        except B2Error as exc:
            # Nothing was created, but files were written.
            if write and moves.any:
                exc.facts.update(changed=True, warnings=moves.notes)
            raise
        notes = (*moves.notes, *other.notes, *_remarks(job, plan, fallback))
        if job.check_mode:
            foreseen_results = tuple(_all_results(plan, {}).values())
            return plan, Report(foreseen_results, plan.settled, notes, moves.any, check_mode=True)
        _close_settled(plan, journal)
        results = Workers(client, job, plan, store, fallback, journal, stop).act()
        concerned = {*results, *moves.found}
        results, unconfirmed = confirmed(job, store, fallback, _all_results(plan, results), concerned, journal)
        results, unlisted = _compared(client, plan, results, stop)
        return plan, Report(tuple(results.values()), plan.settled, (*notes, *unconfirmed, *unlisted), moves.any)


def _prove_for(plan: Plan, store: Store, *, write: bool) -> None:
    """Prove that the store can take the keys of a plan; raise StoreError if it cannot."""
    changing = [step.wanted.email for step in plan.changes]
    store.prove_nothing_switched_off(changing)
    store.prove_room(len(changing))
    if write and changing:
        store.prove_writing()


def _remarks(job: Job, plan: Plan, fallback: FallbackStore) -> tuple[str, ...]:
    """Return warnings about members in recreate_members that stay, and about an unfit fallback directory."""
    idle = [
        step.wanted.email
        for step in plan.steps
        if step.wanted.email in job.policy.recreate_members and not step.replaces
    ]
    replaced = "would be replaced" if job.check_mode else "is replaced"
    said = f"recreate_members names {', '.join(idle)}, but the journal does not prove a lost key. Nothing {replaced}."
    return tuple(filter(None, [said if idle else "", fallback.unfit() if plan.changes else ""]))


def _all_results(plan: Plan, results: t.Mapping[str, Result]) -> dict[str, Result]:
    """Return the result of each step by address: that of the workers, or the foreseen one if nothing changes."""
    return {step.wanted.email: results.get(step.wanted.email) or foreseen(step, plan) for step in plan.steps}


def _compared(
    client: Partner, plan: Plan, results: dict[str, Result], stop: Stop
) -> tuple[dict[str, Result], tuple[str, ...]]:
    """Compare created members with the Group: a valid answer to a create may be about another account.

    A member that is not listed yet keeps its result: the next run compares it again. Return the results and warnings.
    """
    created = {email: one for email, one in results.items() if one.outcome is Outcome.CREATED and one.member}
    if not created or stop.asked:
        return results, ()
    try:
        # By the method with fewer calls.
        few = len(created) < (len(plan.accounts) + len(created)) / _PER_CALL
        looked_up = [client.find_member(plan.group_id, email) for email in created] if few else [None]
        found = client.members(plan.group_id) if None in looked_up else [member for member in looked_up if member]
    except B2Error:
        return results, ()
    members, owners = by_email(found), {member.account_id: folded(member.email) for member in found}
    unlisted: list[str] = []
    for email, one in sorted(created.items()):
        account = one.member.account_id if one.member else ""
        member, owner = members.get(email), owners.get(account, email)
        if member and member.account_id != account:
            step = decide_present(Wanted(email), member, KeyState(stored=Stored(account, "", one.path)))
            detail, reason = step.detail, step.reason
        elif owner != email:
            detail = f"{one.path} holds the key of account {account}, which is {owner} in the Group."
            reason = f"The member is not in the Group. {_MOVE_AWAY}"
        else:
            unlisted += [] if member else [email]
            continue
        detail = f"{detail} {one.message}".strip()
        results[email] = dataclasses.replace(one, outcome=Outcome.CONFLICT, detail=detail, reason=reason, member=member)
    if not unlisted:
        return results, ()
    more = f" and {len(unlisted) - 1} more" if unlisted[1:] else ""
    note = (
        f"{unlisted[0]}{more} is not listed in the Group yet, though its key arrived. Run again: the next run "
        "compares it with the Group."
    )
    return results, (note,)


def _make_plan(
    client: Partner,
    job: Job,
    store: Store,
    members: t.Mapping[str, Member],
    stored: t.Mapping[str, Stored],
    entries: t.Sequence[Open],
    unproven: t.Mapping[str, str],
    other: OtherRun,
    stop: Stop,
) -> Plan:
    """Try keys as the job wants it, and return the plan.

    unproven: see try_unproven. other: another run, which has the members that are open in its journal.
    """
    settled = {entry.email: settle(entry, members.get(entry.email), stored.get(entry.email)) for entry in entries}
    present = [one for one in job.wanted if one.email in members]
    whole = {email for email, found in stored.items() if found.key_id}
    # Only the keys that are tried or compared are decrypted.
    needed = [one.email for one in present if one.email in whole and (job.policy.verify_keys or one.key)]
    secrets = {email: secret_of(store, email) for email in needed}
    given = {one.email: (one.key_id, one.key) for one in present if one.key}
    # Of each member one key is tried: the given key only if no key is stored.
    to_try = {email: secret for email, secret in given.items() if email not in secrets}
    to_try.update(secrets if job.policy.verify_keys else {})
    opened = try_keys(client, to_try, job.concurrency, stop)
    refused = all_refused(opened)
    steps = []
    for one in job.wanted:
        before = settled.get(one.email, Settled(one.email, Outcome.ABSENT))
        tried = opened.get(one.email, Proof())
        of_stored, of_given = (tried, Proof()) if one.email in secrets else (Proof(), tried)
        keys = KeyState(
            stored=stored.get(one.email),
            lost=before.outcome is Outcome.KEY_LOST,
            proven=before.proven,
            recreate=one.email in job.policy.recreate_members,
            fallback=before.path,
            unproven=unproven.get(one.email, ""),
            stored_opens=of_stored.opens,
            given_opens=of_given.opens,
            stored_untried=of_stored.problem,
            given_untried=of_given.problem,
            all_refused=refused,
            given_differs=one.email in given and secrets.get(one.email, given[one.email]) != given[one.email],
        )
        step = decide_present(one, members.get(one.email), keys)
        steps.append(not_attempted(step, other.reasons.get(one.email, "")))
    paths = {email: found.path for email, found in stored.items()}
    accounts = {member.account_id: email for email, member in members.items()}
    return Plan(job.group_id, tuple(steps), tuple(settled.values()), paths, accounts)


def try_keys(
    client: Partner, keys: t.Mapping[str, tuple[str, str]], concurrency: int, stop: t.Optional[Stop] = None
) -> dict[str, Proof]:
    """Try several keys at a time; return for each the account that it opens, or why it could not be tried.

    The account is empty if Backblaze refuses the key. A key that cannot be tried, such as because its account is
    suspended, says nothing about the other keys. After several keys in a row without an answer from Backblaze, the rest
    is not tried. Raises StoppedError if the run was asked to stop.
    """
    if not keys:
        return {}
    # Several threads append to this list and clear it, so its length is not exact.
    unanswered: list[B2Error] = []

    def opens(email: str) -> Proof:
        if stop:
            stop.check()
        recent = list(unanswered)
        if len(recent) >= _MOST_UNANSWERED:
            return Proof(problem=f"It was not tried, because others had no answer: {recent[0].explain()}")
        try:
            proof = Proof(client.opens(*keys[email]))
        except StoppedError:
            raise
        except B2Error as exc:
            if not isinstance(exc, ApiError) or exc.unclear:
                unanswered.append(exc)
            return Proof(problem=exc.explain())
        unanswered.clear()
        return proof

    with concurrent.futures.ThreadPoolExecutor(concurrency) as pool:
        return dict(zip(keys, pool.map(opens, keys), strict=True))


def mark_told(jobs: t.Sequence[tuple[Job, Store]], done: t.Sequence[Done]) -> None:
    """Record in the journals which lost keys are reported. Call this last of all, after the report is complete.

    Until then a lost key is news, and fails a later run. If this fails, the next run reports the key again.
    """
    for (job, store), one in zip(jobs, done, strict=True):
        if job.check_mode or isinstance(one, B2Error):
            continue
        plan, report = one
        lost = {
            each.email: each.account_id for each in plan.settled if each.outcome is Outcome.KEY_LOST and not each.known
        }
        for each in report.results:
            if each.outcome is Outcome.KEY_LOST and each.member:
                lost[each.email] = each.member.account_id
        if lost:
            with contextlib.suppress(B2Error), _journal_again(job, store) as journal:
                for email, account in lost.items():
                    journal.told(job.group_id, email, account)


def _journal_again(job: Job, store: Store) -> contextlib.AbstractContextManager[Journal]:
    """Open the journal of a Group again after its run."""
    return open_journal(store, job.group_id, _TELLING_TIMEOUT, time.sleep)


def _not_listed(
    client: Partner, job: Job, members: t.Mapping[str, Member], stored: t.Mapping[str, Stored], stop: Stop
) -> dict[str, Member]:
    """Look up wanted members whose key is stored and that are not listed: the listing may be late.

    If a key is new, the member is looked up for some seconds.
    """
    missing = [one.email for one in job.wanted if one.email in stored and one.email not in members]
    found = by_email(member for email in missing if (member := client.find_member(job.group_id, email)))
    for delay in LISTING_DELAYS:
        if not any(_is_new(stored[email]) for email in missing if email not in found):
            break
        stop.wait(delay)
        listed = by_email(client.members(job.group_id))
        found.update((email, listed[email]) for email in missing if email in listed)
    return found


def _is_new(stored: Stored) -> bool:
    """Tell whether a key is so new that its member may not be listed yet."""
    try:
        return time.time() - os.stat(stored.path).st_mtime < _NEW_SECONDS
    except OSError:
        return False


def _close_settled(plan: Plan, journal: Journal) -> None:
    """Close the addresses in the journal whose outcome the plan has settled.

    An address that will be created stays open until its own ``pending``: the create of a killed run may still take
    effect, and this run may end before that address. A recent address that is not wanted any more stays open too.
    """
    recent = {entry.email for entry in journal.entries(plan.group_id) if not entry.account_id and is_recent(entry)}
    to_be_created = {step.wanted.email for step in plan.changes}
    for one in plan.settled:
        has_no_key = one.outcome in (Outcome.KEY_LOST, Outcome.KEY_MISSING)
        may_appear = one.outcome is Outcome.ABSENT and one.email in recent
        if not (has_no_key or may_appear or one.email in to_be_created):
            journal.close(plan.group_id, one.email)
