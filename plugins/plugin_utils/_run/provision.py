# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Create members and seal their keys: pre-flight, plan, act.

Nothing is created before the place for its key is proven. The plan says all that will be done; check mode ends with it, and a real
run hands it to the workers. Whatever happens, every wanted member ends in exactly one outcome.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import os
import time
import typing as t

from ansible_collections.community.backblaze.plugins.module_utils._api.partner import Client
from ansible_collections.community.backblaze.plugins.module_utils._errors import ApiError, B2Error, StoppedError
from ansible_collections.community.backblaze.plugins.module_utils._members import Member, Proof, folded
from ansible_collections.community.backblaze.plugins.module_utils._plan import (
    KeyState,
    Open,
    Outcome,
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
from ansible_collections.community.backblaze.plugins.plugin_utils._run.journal import Journal, is_recent
from ansible_collections.community.backblaze.plugins.plugin_utils._run.other_runs import UnderWay, look
from ansible_collections.community.backblaze.plugins.plugin_utils._run.recover import (
    Moves,
    recover,
    seal_from_fallback,
    try_doubtful,
)
from ansible_collections.community.backblaze.plugins.plugin_utils._run.workers import Workers
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.fallback import FallbackStore
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.store import Store

#: Seconds between looks for a member whose key was stored just now, and how long that is.
LISTING_DELAYS = (1.0, 2.0, 4.0)
_NEW_SECONDS = 120
# Members that one call lists.
_PER_CALL = 1000
# Seconds to wait for the lock once more, only to put in the journal what is reported.
_TELLING_PATIENCE = 2.0
# After so many keys in a row to which the service gives no answer, no more are tried.
_MOST_UNANSWERED = 3


def provision_groups(
    client: Client,
    jobs: t.Sequence[tuple[Job, Store]],
    fallback: FallbackStore,
    stop: Stop,
) -> list[Done]:
    """Take care of several Groups, one after the other, see provision.

    Return for each its plan and what came of it, or the error that kept it from being begun; the others are done all the same.
    """
    done: list[Done] = []
    seen: list[Store] = []
    for job, store in jobs:
        try:
            if done and stop.asked:
                raise StoppedError
            done.append(provision(client, job, store, fallback, stop, whole=store not in seen))
            seen.append(store)
        except B2Error as exc:
            done.append(exc)
    done = _confirmed_again(jobs, fallback, done) if done[1:] else done
    stores = [store for _job, store in jobs]
    return [one if isinstance(one, B2Error) else _with_removed(at, *one) for at, one in zip(stores, done, strict=True)]


def _confirmed_again(
    jobs: t.Sequence[tuple[Job, Store]],
    fallback: FallbackStore,
    done: t.Sequence[Done],
) -> list[Done]:
    """Confirm the keys of each Group after the last one: those of the first may be gone by then."""
    again: list[Done] = []
    for (job, store), one in zip(jobs, done, strict=True):
        if isinstance(one, B2Error) or job.check_mode:
            again.append(one)
            continue
        plan, report = one
        results = {each.email: each for each in report.results}
        found, notes = confirmed(job, store, fallback, results, [each.email for each in report.results if each.changed])
        lost = [each for each in found.values() if each.outcome is Outcome.KEY_LOST and each != results[each.email]]
        if lost:
            with contextlib.suppress(B2Error), _journal_of(job, store) as journal:
                for each in lost:
                    journal.lost(job.group_id, each.email, each.member.account_id if each.member else "")
        again.append(
            (
                plan,
                dataclasses.replace(
                    report, results=tuple(found.values()), notes=tuple(dict.fromkeys((*report.notes, *notes)))
                ),
            )
        )
    return again


def _with_removed(store: Store, plan: Plan, report: Report) -> tuple[Plan, Report]:
    """Let a report say which keys of earlier runs somebody has removed meanwhile.

    They are not written again: somebody may have removed them on purpose.
    """
    location = store.directory.location
    paths = [one.path for one in report.results if one.outcome is Outcome.UNCHANGED and one.path in location.removed]
    if not paths:
        return plan, report
    others = len(set(paths)) - 1
    files = f"{min(paths)}{f' and {others} more' if others else ''}"
    members = f"{len(paths)} members" if paths[1:] else "1 member"
    note = (
        f"During this run the keys of {members} were removed from {store.directory.path}: {files}. "
        "Find out who did that. The history of the branch or a backup has these files."
    )
    return plan, dataclasses.replace(report, notes=(*report.notes, note))


def provision(
    client: Client,
    job: Job,
    store: Store,
    fallback: FallbackStore,
    stop: Stop,
    *,
    whole: bool = True,
) -> tuple[Plan, Report]:
    """Bring the wanted members into a Group and their keys into the store; return the plan and what came of it.

    In check mode the report is what the plan foresees, and nothing is changed, neither at Backblaze nor on disk. whole: look at every key
    in the store, and not only at those that this job and its journal are about.

    Raises B2Error only where the run ends before the first change.
    """
    write = not job.check_mode
    with contextlib.ExitStack() as stack:
        store.prove([one.email for one in job.wanted], write=write)
        state = stack.enter_context(
            store.directory.locked(job.group_id, job.vault_lock_timeout, stop.wait)
            if write
            else store.directory.state(job.group_id)
        )
        journal = Journal(
            state,
            store.directory.state_path(job.group_id),
            writable=write,
            location=store.directory.location,
            modes=store.directory.modes,
        )
        stack.callback(journal.finish)
        entries = journal.entries(job.group_id)
        concerned = {*(one.email for one in job.wanted), *(one.email for one in entries)}
        # Once more under the lock: keys may have been moved to another layout while this run waited for it.
        store.prove_not_in_other_layout(concerned)
        stored = store.stored(None if whole else concerned)
        if write:
            stack.callback(store.remember)
        members = by_email(client.members(job.group_id))
        members.update(_not_listed(client, job, members, stored, stop))
        other = UnderWay([])
        if job.check_mode:
            other = look(store, job.group_id)
            stored.update(store.stored([email for email in concerned if email in members and email not in stored]))
            if not other.problem:
                # What another run has open is not what a killed run has left.
                entries = [] if other.run else other.entries
        moves = Moves(store, write)
        try:
            recover(entries, members, moves)
            seal_from_fallback(fallback, members, moves)
            kept = try_doubtful(client, fallback, entries, members, moves)
            stored.update(moves.found)
            plan = make_plan(
                job,
                members,
                stored,
                entries,
                lambda keys: keys_open(client, keys, job.concurrency, stop),
                store.key,
                kept,
            )
            plan = dataclasses.replace(
                plan, steps=tuple(not_attempted(step, other.reasons.get(step.wanted.email, "")) for step in plan.steps)
            )
            changing = [step.wanted.email for step in plan.changes]
            store.prove_nothing_switched_off(changing)
            store.directory.prove_room(len(changing))
            if write and changing:
                store.directory.prove_writing()
        except B2Error as exc:
            # Nothing was created, and yet files were written.
            if write and moves.any:
                exc.facts.update(changed=True, warnings=moves.notes)
            raise
        notes = (*moves.notes, *other.notes, *_remarks(job, plan, fallback))
        if job.check_mode:
            return plan, Report(
                tuple(foreseen(step, plan) for step in plan.steps), plan.settled, notes, moves.any, check_mode=True
            )
        _close_settled(plan, journal)
        made = Workers(client, job, plan, store, fallback, journal, stop).act()
        made, unconfirmed = confirmed(job, store, fallback, _results(plan, made), {*made, *moves.found}, journal)
        notes += unconfirmed
        made, unlisted = _compared(client, plan, made, stop)
        notes += unlisted
        return plan, Report(tuple(_results(plan, made).values()), plan.settled, notes, moves.any)


def _remarks(job: Job, plan: Plan, fallback: FallbackStore) -> tuple[str, ...]:
    """Return what is to be said of options that do nothing, and of a fallback directory that takes no keys."""
    idle = [
        step.wanted.email
        for step in plan.steps
        if step.wanted.email in job.policy.recreate_members and not step.replaces
    ]
    replaced = "would be replaced" if job.check_mode else "is replaced"
    said = f"recreate_members names {', '.join(idle)}, whose key is not lost as far as the journal says. Nothing {replaced}."
    return (*([said] if idle else []), *filter(None, [fallback.unfit() if plan.changes else ""]))


def _results(plan: Plan, made: t.Mapping[str, Result]) -> dict[str, Result]:
    """Return the result of each step by address: that of the workers, or what the plan foresees."""
    return {step.wanted.email: made.get(step.wanted.email) or foreseen(step, plan) for step in plan.steps}


def _compared(
    client: Client, plan: Plan, made: dict[str, Result], stop: Stop
) -> tuple[dict[str, Result], tuple[str, ...]]:
    """Hold created members against the Group, which says what account each is: the answer to a create may be right in itself, and about another one.

    What is not listed yet, or cannot be listed now, stays as it is: the next run compares it once more. Return the results and what is to be said.
    """
    created = {email: one.member for email, one in made.items() if one.outcome is Outcome.CREATED and one.member}
    if not created or stop.asked:
        return made, ()
    try:
        # By whatever takes fewer calls.
        few = len(created) < (len(plan.accounts) + len(created)) / _PER_CALL
        looked_up = [client.find_member(plan.group_id, email) for email in created] if few else [None]
        found = client.members(plan.group_id) if None in looked_up else [member for member in looked_up if member]
    except B2Error:
        return made, ()
    members, owners = by_email(found), {member.account_id: folded(member.email) for member in found}
    unlisted = []
    for email, sealed in sorted(created.items()):
        one, member, owner = made[email], members.get(email), owners.get(sealed.account_id, email)
        if member and member.account_id != sealed.account_id:
            step = decide_present(Wanted(email), member, KeyState(stored=Stored(sealed.account_id, "", one.path)))
            made[email] = dataclasses.replace(
                one, outcome=step.outcome, message=f"{step.message} {one.message}".strip(), member=member
            )
        elif owner != email:
            message = f"{one.path} holds the key of account {sealed.account_id}, which is {owner} in the Group; {email} is not in it. Move that file away."
            made[email] = dataclasses.replace(
                one, outcome=Outcome.CONFLICT, message=f"{message} {one.message}".strip(), member=None
            )
        elif not member:
            unlisted.append(email)
    if not unlisted:
        return made, ()
    more = f" and {len(unlisted) - 1} more" if unlisted[1:] else ""
    return made, (
        f"{unlisted[0]}{more} is not listed in the Group yet, though its key came. Run again: the next run compares it with the Group.",
    )


def make_plan(
    job: Job,
    members: t.Mapping[str, Member],
    stored: t.Mapping[str, Stored],
    entries: t.Sequence[Open],
    opens: t.Callable[[dict[str, tuple[str, str]]], dict[str, Proof]],
    key_of: t.Callable[[str], tuple[str, str]],
    unproven: t.Mapping[str, str],
) -> Plan:
    """Return the plan for what is wanted, there, stored and open in the journal.

    opens: tries keys, see keys_open. key_of: gives the stored key of an address. unproven: see try_doubtful.
    """
    settled = tuple(settle(entry, members.get(entry.email), stored.get(entry.email)) for entry in entries)
    lost = {one.email: one for one in settled if one.outcome is Outcome.KEY_LOST}
    in_fallback = {one.email: one.path for one in settled if one.outcome is Outcome.KEY_MISSING}
    present = [one for one in job.wanted if one.email in members]
    whole = {email for email, found in stored.items() if found.key_id}
    stored_opens = opens(
        {one.email: key_of(one.email) for one in present if job.policy.verify_keys and one.email in whole}
    )
    given_opens = opens({one.email: (one.key_id, one.key) for one in present if one.key and one.email not in whole})
    refused = all_refused({**stored_opens, **given_opens})
    steps = []
    for one in job.wanted:
        stored_one, given_one = stored_opens.get(one.email, Proof()), given_opens.get(one.email, Proof())
        keys = KeyState(
            stored=stored.get(one.email),
            lost=one.email in lost,
            # That a create was about to be sent is no proof that we made what is there now.
            proven=one.email in lost and lost[one.email].proven,
            recreate=one.email in job.policy.recreate_members,
            fallback=in_fallback.get(one.email, ""),
            unproven=unproven.get(one.email, ""),
            stored_opens=stored_one.opens,
            given_opens=given_one.opens,
            stored_untried=stored_one.problem,
            given_untried=given_one.problem,
            all_refused=refused,
            given_differs=bool(one.key) and one.email in whole and key_of(one.email) != (one.key_id, one.key),
        )
        steps.append(decide_present(one, members.get(one.email), keys))
    paths = {email: found.path for email, found in stored.items()}
    return Plan(
        job.group_id, tuple(steps), settled, paths, {member.account_id: email for email, member in members.items()}
    )


def keys_open(
    client: Client, keys: t.Mapping[str, tuple[str, str]], concurrency: int, stop: t.Optional[Stop] = None
) -> dict[str, Proof]:
    """Try keys, many at a time: the account that each opens, empty where Backblaze says that it is no good; or why it could not be tried.

    One that cannot be tried, for its member's account is suspended or at a cap, says nothing about the others. Where the service gives no
    answer some times in a row, the rest is not tried. Raises StoppedError where the run was asked to stop.
    """
    if not keys:
        return {}
    # Appended to and cleared by several threads; what counts is whether it grows.
    unanswered: list[B2Error] = []

    def opens(email: str) -> Proof:
        if stop and stop.asked:
            raise StoppedError
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
    """Put in the journals that it is told now which keys are lost; to be called last of all, when the report is on its way.

    Until then a lost key is news, and a later run fails because of it. What cannot be put there is told again by the next run.
    """
    for (job, store), one in zip(jobs, done, strict=True):
        if job.check_mode or isinstance(one, B2Error):
            continue
        plan, report = one
        lost = {
            each.email: each.account_id for each in plan.settled if each.outcome is Outcome.KEY_LOST and not each.known
        }
        lost.update(
            {
                each.email: each.member.account_id
                for each in report.results
                if each.outcome is Outcome.KEY_LOST and each.member
            }
        )
        if not lost:
            continue
        with contextlib.suppress(B2Error), _journal_of(job, store) as journal:
            for email, account in lost.items():
                journal.told(job.group_id, email, account)


@contextlib.contextmanager
def _journal_of(job: Job, store: Store) -> t.Iterator[Journal]:
    """Open the journal of a Group once more after its run, under the lock. StoreError if another run keeps the lock."""
    directory = store.directory
    with directory.locked(job.group_id, _TELLING_PATIENCE, time.sleep) as state:
        journal = Journal(state, directory.state_path(job.group_id), location=directory.location, modes=directory.modes)
        try:
            yield journal
        finally:
            journal.finish()


def _not_listed(
    client: Client, job: Job, members: t.Mapping[str, Member], stored: t.Mapping[str, Stored], stop: Stop
) -> dict[str, Member]:
    """Look once more for wanted members whose key is stored and that the listing did not show: lists may lag behind.

    Where a key was stored just now, its member is given some seconds to turn up.
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
    """Tell whether a key was stored so lately that its member may not be listed yet."""
    try:
        return time.time() - os.stat(stored.path).st_mtime < _NEW_SECONDS
    except OSError:
        return False


def _close_settled(plan: Plan, journal: Journal) -> None:
    """Write down what the plan found out about earlier runs.

    An address that is about to be created stays open until its own ``pending`` takes over: the create of a killed run may take effect
    only now, and this run may end before it comes to that address. So does one that is not wanted any more, for a while.
    """
    there = {one.email for one in plan.settled if one.outcome is not Outcome.ABSENT}
    still_possible = {
        entry.email for entry in journal.entries(plan.group_id) if not entry.account_id and is_recent(entry)
    } - there
    about_to_be_created = {step.wanted.email for step in plan.changes}
    for one in plan.settled:
        if (
            one.outcome not in (Outcome.KEY_LOST, Outcome.KEY_MISSING)
            and one.email not in about_to_be_created | still_possible
        ):
            journal.close(plan.group_id, one.email)
