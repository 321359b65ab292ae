# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Run the steps of a plan: each worker creates one member at a time, and seals its key before it does anything else."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import queue
import threading
import time
import typing as t

from ansible_collections.community.backblaze.plugins.module_utils._api.partner import Partner
from ansible_collections.community.backblaze.plugins.module_utils._errors import (
    GROUP_CODES,
    LOST_REMEDY,
    ApiError,
    B2Error,
    KeyLostError,
    MemberExistsError,
    StoppedError,
    StoreError,
    replace_with,
)
from ansible_collections.community.backblaze.plugins.module_utils._members import Member, NewMember, folded
from ansible_collections.community.backblaze.plugins.module_utils._plan import (
    KeyState,
    Outcome,
    Step,
    decide_created,
    decide_present,
    outcome_of,
)
from ansible_collections.community.backblaze.plugins.plugin_utils._progress import tell
from ansible_collections.community.backblaze.plugins.plugin_utils._run.job import Job, Plan, Result, Stop
from ansible_collections.community.backblaze.plugins.plugin_utils._run.journal import Journal
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.fallback import FallbackStore
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.key_file import StoredKey, key_of
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.store import Store

T = t.TypeVar("T")

#: Seconds between the attempts to store a new key, before the fallback directory is used.
STORE_DELAYS = (0.5, 1.0, 2.0, 4.0, 8.0)
#: Seconds between two lines of progress.
PROGRESS_SECONDS = 5.0
_POLL_SECONDS = 0.5
# The most keys that may be written to disk besides the creates that are sent: the network does not wait for the disk,
# and a kill loses no more keys than that.
_MORE_WORKERS = 8


class Workers:
    """The workers of one run, and the state that they share."""

    def __init__(
        self, client: Partner, job: Job, plan: Plan, store: Store, fallback: FallbackStore, journal: Journal, stop: Stop
    ) -> None:
        self._client = client
        self._job = job
        self._plan = plan
        self._store = store
        self._fallback = fallback
        self._journal = journal
        self._stop = stop
        # The request to create no more members of this Group.
        self._group_stop = Stop(stop)
        self._refused = 0
        # The addresses that earlier runs left open in the journal, with the account if the journal names it.
        self._open_before = {one.email: one.account_id for one in plan.settled}
        # The address of each account and of each key, as far as this run knows. No two members share one.
        self._accounts = dict(plan.accounts)
        self._keys: dict[str, str] = {}
        self._seen_lock = threading.Lock()
        # Limits the creates that are sent at a time. There are more workers, so that the network is not idle while some
        # of them seal keys.
        self._slots = threading.Semaphore(job.concurrency)
        # How many workers have a key or a journal line that could not be written yet: nothing is created meanwhile.
        self._retrying = 0
        self._written = threading.Condition()

    def act(self) -> dict[str, Result]:
        """Do every step of the plan that changes anything; return the result of each by address."""
        steps = self._plan.changes
        results: dict[str, Result] = {}
        finished: queue.SimpleQueue[concurrent.futures.Future[Result]] = queue.SimpleQueue()
        started = last = time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(
            self._job.concurrency + min(self._job.concurrency, _MORE_WORKERS), thread_name_prefix="b2"
        ) as pool:
            try:
                for step in steps:
                    pool.submit(self._do, step).add_done_callback(finished.put)
                while len(results) < len(steps):
                    with contextlib.suppress(queue.Empty):
                        result = finished.get(timeout=_POLL_SECONDS).result()
                        results[result.email] = result
                    if time.monotonic() - last >= PROGRESS_SECONDS:
                        last = time.monotonic()
                        group = self._client.group_name(self._plan.group_id) or self._plan.group_id
                        show_progress(group, len(results), len(steps), last - started)
            except BaseException:
                # If this thread is ended, the workers must not go on to the end of the list.
                self._stop.ask("it was ended from outside")
                raise
        return results

    def _do(self, step: Step) -> Result:
        """Do one step; return any error as its result, so that the other results are not lost."""
        email = step.wanted.email
        try:
            if step.outcome is Outcome.ADOPTED:
                return self._adopt(step)
            if step.replaces:
                return self._recreate(step, step.replaces)
            return self._create(step)
        except StoppedError:
            return Result(email, Outcome.NOT_ATTEMPTED, reason=self._ended())
        except B2Error as exc:
            return Result(email, Outcome.NOT_ATTEMPTED, exc.detail, reason=exc.remedy)
        except Exception as exc:  # noqa: BLE001 - a bug must not lose the results of other members
            self._stop.ask("an unexpected error came up")
            reason = "Please report the error. The next run reports the outcome of this member."
            return Result(email, Outcome.NOT_ATTEMPTED, f"Unexpected {type(exc).__name__}.", reason=reason)

    def _ended(self, happened: str = "The run ended before this member") -> str:
        """Return the reason and the remedy for a member that this run does not attempt any more."""
        remedy = "Run again to go on." if self._stop.asked else "Fix the cause, and run again."
        return f"{happened}, because {self._group_stop.reason}. {remedy}"

    def _may_create(self, replaced: str = "") -> None:
        """Wait until every key is written; raise StoppedError if the run has to stop. Called before each create.

        replaced: the account that was ejected for this create. Then only the end of the whole run stops the create.
        """
        with self._written:
            self._written.wait_for(lambda: not self._retrying)
        (self._stop if replaced else self._group_stop).check()

    def _create(self, step: Step, replaced: str = "") -> Result:
        """Create a member and seal its key. replaced: the account that was ejected for that."""
        email = step.wanted.email
        self._may_create(replaced)
        self._retry(lambda: self._journal.pending(self._plan.group_id, email), "the journal cannot be written")
        try:
            with self._slots:
                new = self._send(step, replaced)
        except MemberExistsError as exc:
            return self._exists(step, exc.member)
        except B2Error as exc:
            result = self._not_created(email, exc)
        else:
            return self._seal_new(new)
        # Only an account that this run created, and only once.
        if result.member and self._job.policy.recreate and not replaced:
            return self._recreate(step, result.member)
        return result

    def _send(self, step: Step, replaced: str) -> NewMember:
        """Send a create. If Backblaze refuses it, decide whether to go on before another worker sends the next one."""
        email, region = step.wanted.email, step.wanted.region
        try:
            return self._client.create_member(
                self._plan.group_id, email, region, lambda: self._may_create(replaced), replaced
            )
        except ApiError as exc:
            self._stop_early(exc.code)
            raise

    def _exists(self, step: Step, member: Member) -> Result:
        """Return the result of an address that is in the Group, although the listing did not show it.

        The account may be ours only if an earlier run left the address open in the journal.
        """
        email = step.wanted.email
        ours = self._open_before.get(email) in ("", member.account_id)
        path = self._fallback.paths().get(member.account_id)
        if path:
            reason = "The next run moves the key to its file."
            return Result(email, Outcome.KEY_MISSING, f"Its key is in {path}.", member, reason=reason)
        note = ""
        if ours:
            note = self._note(self._journal.presumed, email, member.account_id)
        else:
            self._journal.close(self._plan.group_id, email)
        found = decide_present(step.wanted, member, KeyState(lost=ours))
        return Result(email, found.outcome, found.detail, member, reason=found.reason).also(note)

    def _not_created(self, email: str, error: B2Error) -> Result:
        """Return the result of a create that ended in an error.

        Its member is set if this run created an account whose key is lost.
        """
        detail, reason = error.detail, error.remedy
        if isinstance(error, StoppedError):
            # Members that were not sent have one reason, wherever the request to stop met them.
            sent = error.may_have_acted
            detail, reason = (error.changed, self._ended("The run ended")) if sent else ("", self._ended())
        member = None
        if isinstance(error, KeyLostError):
            owner = self._known_as(error.account_id, email)
            if owner:
                detail += f" But that account belongs to {owner}, so it is not certain that an account was created."
                reason = "Run again: the next run finds out whether an account was created."
            elif error.account_id:
                member = Member(error.account_id, email, self._plan.group_id)
                detail += self._note(self._journal.lost, email, error.account_id)
        elif not error.may_have_acted and email not in self._open_before:
            # An address that an earlier run left open stays open, and so does one that only a look-up did not find.
            self._journal.close(self._plan.group_id, email)
        code, status = (error.code, error.status) if isinstance(error, ApiError) else ("", 0)
        made = member is not None
        return Result(email, outcome_of(error), detail, member, code=code, status=status, made=made, reason=reason)

    def _stop_early(self, code: str) -> None:
        """Stop creating members if Backblaze would refuse every other one too, or has refused too many."""
        if code in GROUP_CODES:
            self._group_stop.ask(
                f"Backblaze answered {code}, and would refuse every other member of this Group as well"
            )
        with self._seen_lock:
            self._refused += bool(code)
            too_many = 0 < self._job.policy.max_failures <= self._refused
        if too_many:
            self._group_stop.ask(f"max_failures ({self._job.policy.max_failures}) is reached")

    def _note(self, note: t.Callable[[str, str, str], None], email: str, account_id: str) -> str:
        """Put a lost key in the journal; return an addition to the member's details if that fails."""
        try:
            note(self._plan.group_id, email, account_id)
        except StoreError as exc:
            self._stop.ask("the journal cannot be written")
            return f" {exc.happened}"
        return ""

    def _recreate(self, step: Step, lost: Member) -> Result:
        """Eject an account whose key is lost, under another address, and create the member again, once."""
        email = step.wanted.email
        owner = self._known_as(lost.account_id, email)
        if owner:
            detail = f"Account {lost.account_id} is not ejected, because it belongs to {owner}."
            reason = "Find the account of each address with b2_group_member_info, and correct the list."
            return Result(email, Outcome.KEY_LOST, detail, lost, reason=reason)
        local, _at, domain = email.rpartition("@")
        throwaway = self._job.policy.throwaway.format(account_id=lost.account_id, local=local, domain=domain)
        try:
            # As a create: a refused create that stops the run is known before the account is ejected.
            with self._slots:
                self._may_create()
                self._journal.ejecting(self._plan.group_id, email, lost.account_id)
                left = self._client.eject_member(self._plan.group_id, lost.account_id, throwaway, self._may_create)
        except B2Error as exc:
            detail, reason = f"Account {lost.account_id}, whose key is lost, was not replaced.", exc.remedy
            if isinstance(exc, StoppedError):
                reason = self._ended()
            else:
                detail = f"{detail} {exc.detail}"
            return Result(email, Outcome.KEY_LOST, detail, lost, reason=reason)
        # A later answer that names this account is a repeated old one.
        with self._seen_lock:
            self._accounts[lost.account_id] = throwaway
        history = (
            f"Account {lost.account_id}, whose key was lost, {_ejected_as(left, throwaway)}; it lives on and is "
            "billed on its own."
        )
        try:
            result = self._create(step, replaced=lost.account_id)
        except StoppedError:
            result = Result(email, Outcome.NOT_ATTEMPTED, reason=self._ended())
        except StoreError as exc:
            result = Result(email, Outcome.NOT_ATTEMPTED, exc.happened, reason=exc.remedy)
        if result.code == "invalid_email":
            history += f" Backblaze did not free the address {email} for a new account, so the member was not created."
        return dataclasses.replace(result, detail=f"{history} {result.detail}".strip(), ejected=lost.account_id)

    def _adopt(self, step: Step) -> Result:
        """Seal a key that the user gives. The plan has proven that it opens the member's account."""
        self._stop.check()
        email = step.wanted.email
        member = dataclasses.replace(t.cast(Member, step.member), email=email)
        try:
            path = self._store.seal(key_of(NewMember(member, step.wanted.key_id, step.wanted.key)))
        except StoreError as exc:
            return Result(email, Outcome.KEY_MISSING, exc.detail, member, reason=exc.remedy)
        self._journal.close(self._plan.group_id, email)
        return Result(email, step.outcome, member=member, path=path)

    # From here on a new key exists in this process only.

    def _seal_new(self, new: NewMember) -> Result:
        """Store a new key before anything else, and return the result of its member."""
        new = self._doubted_if_known(new)
        # A key without its id opens nothing, so it does no harm in the member's file.
        path, in_vault_dir, why = self._store_key(new, unproven=bool(new.doubt and new.key_id))
        others = self._store_keys_of_others(new)
        if not path:
            return self._not_stored(new, f"{why} {others}".strip())
        if not in_vault_dir:
            others = f"The key was stored in {path}, because: {why} {others}".strip()
        if new.complaint or new.doubt or self._job.policy.verify_keys:
            return self._try_key(new, path, in_vault_dir).also(others)
        self._close(new.member, path)
        moved = "" if in_vault_dir else f"{self._store.path} did not take the key. The next run moves it to its file."
        return Result(new.member.email, Outcome.CREATED, others, new.member, path, made=True, reason=moved)

    def _not_stored(self, new: NewMember, why: str) -> Result:
        """Return the result of a key that could not be stored anywhere.

        The account of a doubtful key may be another member's, so the journal does not name it.
        """
        email, account = new.member.email, new.member.account_id
        if new.doubt:
            detail = (
                f"A key of account {account or 'unknown'} arrived and could not be stored anywhere: {why} {new.doubt}"
            )
            reason = "Run again: the next run finds out whether the account of the member was created."
            return Result(email, Outcome.KEY_LOST, detail, made=True, reason=reason)
        detail = f"Account {account} was created, but its key could not be stored anywhere: {why}"
        detail += self._note(self._journal.lost, email, account)
        return Result(
            email, Outcome.KEY_LOST, f"{detail} {replace_with(email)}", new.member, made=True, reason=LOST_REMEDY
        )

    def _store_key(self, new: NewMember, *, unproven: bool) -> tuple[str, bool, str]:
        """Store a new key; return its path, whether the vault directory took it, and the error if it did not.

        unproven: not in the member's file, from which Ansible would load it for the member, but with the unproven keys.
        The path is empty if the fallback directory did not take the key either.
        """
        key = key_of(new)
        seal = (lambda one: self._store.unproven.put(one.email, one)) if unproven else self._store.seal
        try:
            return self._retry_seal(seal, key), True, ""
        except StoreError as exc:
            why = exc.happened
        try:
            return _sealed(self._fallback.seal, key), False, why
        except StoreError as exc:
            return "", False, f"{why} {exc.happened}"

    def _retry_seal(self, seal: t.Callable[[StoredKey], str], key: StoredKey) -> str:
        """Store a key in the vault directory, with several attempts, and return its path."""
        return self._retry(lambda: _sealed(seal, key), f"keys can no longer be stored in {self._store.path}")

    def _doubted_if_known(self, new: NewMember) -> NewMember:
        """Doubt a key that arrives a second time, or whose account belongs to another address."""
        email, account = new.member.email, new.member.account_id
        with self._seen_lock:
            addresses = {self._keys.setdefault(part, email) for part in (new.key, new.key_id) if part}
            addresses.add(self._accounts.setdefault(account, email) if account else email)
        addresses.discard(email)
        if not addresses:
            return new
        doubt = f"{new.doubt} The key or its account belongs to {' and '.join(sorted(addresses))}."
        return dataclasses.replace(new, doubt=doubt.strip(), named=False)

    def _known_as(self, account_id: str, email: str) -> str:
        """Return the other address that an account belongs to as far as this run knows, empty if there is none."""
        with self._seen_lock:
            owner = self._accounts.get(account_id, email) if account_id else email
        return owner if owner != email else ""

    def _store_keys_of_others(self, new: NewMember) -> str:
        """Store the keys of other members in the same answer with the unproven keys; return a message about them."""
        if not new.others:
            return ""
        paths, errors = [], []
        for other in new.others:
            if other.member.account_id:
                with self._seen_lock:
                    self._accounts.setdefault(
                        other.member.account_id, "another member, whose key arrived in an answer to a create"
                    )
            own = dataclasses.replace(other.member, email=new.member.email)
            path, _in_vault_dir, why = self._store_key(dataclasses.replace(other, member=own), unproven=True)
            paths.append(path)
            errors.append(why)
        return (
            f"The answer also held {len(new.others)} keys of other members. Those are stored in: "
            f"{', '.join(filter(None, paths)) or 'no file'}. {' '.join(filter(None, errors))}"
        ).strip()

    def _close(self, member: Member, path: str) -> None:
        """Close an address in the journal if its key is in its file; otherwise note the path of the key."""
        if path == self._store.file(member.email):
            # Not synced: the file of the key says the same, so nothing is lost with this line.
            self._journal.close(self._plan.group_id, member.email, sync=False)
        else:
            self._journal.fallback(self._plan.group_id, member.email, member.account_id, path)

    def _try_key(self, new: NewMember, path: str, in_vault_dir: bool) -> Result:
        """Try a stored key at Backblaze, and move it to the member's file if it opens the member's account."""
        email = new.member.email
        proof = self._client.prove(self._plan.group_id, new)
        member = proof.member
        outcome, detail, reason = decide_created(new, proof)
        if not new.key_id:
            outcome, detail = Outcome.KEY_LOST, "The key arrived without its key id, so the key cannot be used."
            member = member or new.member
        detail = " ".join(filter(None, (new.complaint, new.doubt, detail)))
        if outcome is Outcome.CREATED:
            return self._seal_proven(new, member or new.member, path, in_vault_dir, detail)
        if outcome is Outcome.KEY_DEAD:
            member = new.member
            self._close(member, path)
        else:
            detail += f" That key is kept in {path}."
            if outcome is Outcome.KEY_LOST:
                detail += self._note(self._journal.lost, email, t.cast(Member, member).account_id)
            else:
                self._journal.fallback(self._plan.group_id, email, "", path)
        return Result(email, outcome, detail, member, path, made=True, reason=reason)

    def _seal_proven(self, new: NewMember, member: Member, path: str, in_vault_dir: bool, detail: str) -> Result:
        """Seal a proven key in the file of its member, with all that is known about the account."""
        own = dataclasses.replace(member, email=new.member.email, group_id=self._plan.group_id)
        key = key_of(dataclasses.replace(new, member=own, doubt=""))
        try:
            if path != self._store.file(own.email):
                sealed = self._retry_seal(self._store.seal, key)
                (self._store.unproven.discard if in_vault_dir else self._fallback.remove)(path)
                path = sealed
            elif own != new.member:
                _sealed(lambda one: self._store.seal(one, again=True), key)
        except StoreError as exc:
            detail = f"{detail} Its key is in {path}, because: {exc.happened}".strip()
        self._close(own, path)
        return Result(own.email, Outcome.CREATED, detail, own, path, made=True)

    def _retry(self, write: t.Callable[[], T], reason: str) -> T:
        """Write to disk, with several attempts during which nothing is created.

        If all attempts fail, ask the run to stop for this reason, and raise the last StoreError. A run that is asked to
        stop makes no more attempts: its machine may be taken away next.
        """
        try:
            return write()
        except StoreError as exc:
            failed = exc
        with self._written:
            self._retrying += 1
        try:
            for delay in STORE_DELAYS:
                tell(f"{failed.happened} The next attempt follows in {delay:.0f} s; meanwhile no member is created.")
                try:
                    self._stop.wait(delay)
                    return write()
                except StoppedError:
                    break
                except StoreError as exc:
                    failed = exc
            self._stop.ask(reason)
            raise failed
        finally:
            with self._written:
                self._retrying -= 1
                self._written.notify_all()


def show_progress(group: str, done: int, total: int, seconds: float) -> None:
    """Show how many members of a Group are done, in one line every few seconds."""
    rate = done / seconds if seconds else 0.0
    left = f", about {(total - done) / rate:.0f} s left" if rate else ""
    tell(f"Group {group}: {done} of {total} members, {rate:.1f} a second{left}")


def _ejected_as(left: t.Optional[Member], asked: str) -> str:
    """Say how an account was ejected: Backblaze's answer may name another address than the request."""
    if left is None:
        return "had left the Group already"
    named = folded(left.email)
    if named == folded(asked):
        return f"was ejected as {asked}"
    if not named:
        return f"was ejected; Backblaze's answer names no address for it, and {asked} was asked for"
    return f"was ejected as {named}: Backblaze's answer names this address, and not {asked}, which was asked for"


def _sealed(seal: t.Callable[[StoredKey], str], key: StoredKey) -> str:
    """Store a key and return its path; raise any error as a StoreError."""
    try:
        return seal(key)
    except StoreError:
        raise
    except Exception as exc:  # noqa: BLE001 - after any error the key can still be stored, at the next attempt or in the fallback directory
        raise StoreError(f"Unexpected {type(exc).__name__}.") from None
