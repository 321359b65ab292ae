# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The workers of one run: each creates one member at a time and seals its key before it looks at anything else."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import queue
import threading
import time
import typing as t

from ansible.utils.display import Display

from ansible_collections.community.backblaze.plugins.module_utils._api.partner import Client
from ansible_collections.community.backblaze.plugins.module_utils._errors import (
    ApiError,
    B2Error,
    KeyLostError,
    MemberExistsError,
    StoppedError,
    StoreError,
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
from ansible_collections.community.backblaze.plugins.plugin_utils._run import signals
from ansible_collections.community.backblaze.plugins.plugin_utils._run.job import (
    Job,
    Places,
    Plan,
    Result,
    Stop,
)

display = Display()

T = t.TypeVar("T")

#: Seconds between the tries to store a key that exists nowhere else, before the fallback place is used.
STORE_DELAYS = (0.5, 1.0, 2.0, 4.0, 8.0)
#: Seconds between two lines of progress.
PROGRESS_SECONDS = 5.0
_POLL_SECONDS = 0.5
# So many keys more than creates may be on their way to the disk: the network does not wait for them, and no more can be lost with it.
_MORE_WORKERS = 8


class Workers:
    """The workers of one run, and what they share."""

    def __init__(self, client: Client, job: Job, plan: Plan, places: Places, stop: Stop) -> None:
        self._client = client
        self._job = job
        self._plan = plan
        self._store = places.store
        self._fallback = places.fallback
        self._journal = places.journal
        self._stop = stop
        # What earlier runs left open, with the account where they knew it.
        self._open_before = {one.email: one.account_id for one in plan.settled}
        # Whose each account and each key is, as far as this run knows: no two members have one.
        self._accounts = dict(plan.accounts)
        self._keys: dict[str, str] = {}
        self._seen_lock = threading.Lock()
        # How many creates are under way. There are more workers than that, so that while some seal, the network is not idle.
        self._slots = threading.Semaphore(job.concurrency)
        # How many workers hold a key that could not be stored yet; nothing is created while there are any.
        self._troubled = 0
        self._trouble = threading.Condition()

    def act(self) -> dict[str, Result]:
        """Do every step of the plan that changes anything, and return the results by address, one for each."""
        steps = self._plan.changes
        if not steps:
            return {}
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
                        show_progress(len(results), len(steps), last - started)
            except BaseException:
                # Whoever ends this thread does not mean the others to go on to the end of the list.
                self._stop.ask("it was ended from outside")
                raise
        return results

    def _do(self, step: Step) -> Result:
        """Do one step; what goes wrong in it becomes its result, so that no report is lost with it."""
        email = step.wanted.email
        try:
            if step.adopts:
                return self._adopt(step)
            if step.replaces:
                return self._recreate(step, step.replaces)
            return self._create(step)
        except StoppedError:
            return Result(email, Outcome.NOT_ATTEMPTED, f"The run ended before: {self._stop.reason}.")
        except B2Error as exc:
            return Result(email, Outcome.NOT_ATTEMPTED, str(exc))
        except Exception as exc:  # noqa: BLE001 - a bug of ours must not take the other members' results along; the journal has this one open
            self._stop.ask("an unexpected error came up")
            return Result(
                email,
                Outcome.NOT_ATTEMPTED,
                f"Unexpected {type(exc).__name__}: please report it. The next run says what became of it.",
            )

    def _may_create(self) -> None:
        """Wait while a key is not stored; StoppedError where the run was asked to end. Called before each create is sent."""
        with self._trouble:
            self._trouble.wait_for(lambda: not self._troubled)
        if self._stop.asked:
            raise StoppedError

    def _create(self, step: Step, replaced: str = "") -> Result:
        """Create a member; ``replaced`` is the account that was ejected for it, empty where there was none."""
        email = step.wanted.email
        self._may_create()
        self._patiently(lambda: self._journal.pending(self._plan.group_id, email), "the journal cannot be written")
        try:
            with self._slots:
                new = self._client.create_member(
                    self._plan.group_id, email, step.wanted.region, self._may_create, replaced
                )
        except MemberExistsError as exc:
            return self._found_there(step, exc.member)
        except KeyLostError as exc:
            lost = self._not_created(email, exc)
        except B2Error as exc:
            return self._not_created(email, exc)
        else:
            return self._keep(step, new)
        # Only what this run asked for itself and got no answer to; and only once.
        return self._recreate(step, lost.member) if lost.member and self._job.policy.recreate and not replaced else lost

    def _found_there(self, step: Step, member: Member) -> Result:
        """The address is in the Group, though the listing did not show it: ours if the journal had it open, else somebody else's."""
        email = step.wanted.email
        ours = self._open_before.get(email) in ("", member.account_id)
        message = ""
        parked = [
            path for path, variables in self._fallback.found() if variables.get("b2_account_id") == member.account_id
        ]
        if parked:
            return Result(email, Outcome.KEY_MISSING, f"Its key is in {parked[0]}; the next run moves it home.", member)
        if ours:
            message = self._note(self._journal.presumed, email, member.account_id)
        else:
            self._journal.close(self._plan.group_id, email)
        found = decide_present(step.wanted, member, KeyState(lost=ours))
        return Result(email, found.outcome, f"{found.message} {message}".strip(), member)

    def _not_created(self, email: str, error: B2Error) -> Result:
        message = str(error)
        if isinstance(error, StoppedError):
            message = f"The run ended: {self._stop.reason}. {error.changed}"
        member = None
        if isinstance(error, KeyLostError):
            owner = self._known_as(error.account_id, email)
            if owner:
                message += f" But that account is the one of {owner}, so it is not certain that an account was created. The next run looks."
            elif error.account_id:
                member = Member(error.account_id, email, self._plan.group_id)
                message += self._note(self._journal.lost, email, error.account_id)
        elif not error.may_have_acted and email not in self._open_before:
            # What rests on a look-up only stays open, and the next run looks again; so does what an earlier run left open.
            self._journal.close(self._plan.group_id, email)
        code, status = (error.code, error.status) if isinstance(error, ApiError) else ("", 0)
        return Result(email, outcome_of(error), message, member, code=code, status=status, made=member is not None)

    def _note(self, note: t.Callable[[str, str, str], None], email: str, account_id: str) -> str:
        """Put in the journal that a key is lost; where that fails, the member's own message says it."""
        try:
            note(self._plan.group_id, email, account_id)
        except StoreError as exc:
            self._stop.ask("the journal cannot be written")
            return f" {exc.happened}"
        return ""

    def _recreate(self, step: Step, lost: Member) -> Result:
        """Eject an account of ours whose key is lost, under another address, and create the member anew, once."""
        email = step.wanted.email
        owner = self._known_as(lost.account_id, email)
        if owner:
            return Result(
                email,
                Outcome.KEY_LOST,
                f"Account {lost.account_id} is not ejected: it is known as the one of {owner}.",
                lost,
            )
        local, _at, domain = email.rpartition("@")
        throwaway = self._job.policy.throwaway.format(account_id=lost.account_id, local=local, domain=domain)
        try:
            self._may_create()
            self._journal.ejecting(self._plan.group_id, email, lost.account_id)
            left = self._client.eject_member(self._plan.group_id, lost.account_id, throwaway, self._may_create)
        except B2Error as exc:
            return Result(
                email,
                Outcome.KEY_LOST,
                f"Account {lost.account_id}, whose key is lost, was not replaced: {exc.explain()}",
                lost,
            )
        # An answer that names it from now on is an old one.
        with self._seen_lock:
            self._accounts[lost.account_id] = throwaway
        history = f"Account {lost.account_id}, whose key was lost, {_ejected_as(left, throwaway)}; it lives on and is billed on its own."
        try:
            result = self._create(step, replaced=lost.account_id)
        except (StoppedError, StoreError) as exc:
            result = Result(email, Outcome.NOT_ATTEMPTED, exc.happened)
        if result.code == "invalid_email":
            history += f" Backblaze did not free the address {email} for a new account, so there is none."
        return dataclasses.replace(result, message=f"{history} {result.message}".strip(), ejected=lost.account_id)

    def _adopt(self, step: Step) -> Result:
        """Store a key that the user gave and that was shown to open the member's account."""
        if self._stop.asked:
            raise StoppedError
        member = dataclasses.replace(t.cast(Member, step.member), email=step.wanted.email)
        try:
            path = self._store.seal(NewMember(member, step.wanted.key_id, step.wanted.key))
        except StoreError as exc:
            return Result(step.wanted.email, Outcome.KEY_MISSING, str(exc), member)
        self._journal.close(self._plan.group_id, step.wanted.email)
        return Result(
            step.wanted.email,
            step.outcome,
            "The given key was adopted: it opens this account and is stored.",
            member,
            path,
            adopted=True,
        )

    # From here on a key exists nowhere else but in this process.

    def _keep(self, step: Step, new: NewMember) -> Result:
        """Store a new key: first of all, and with all patience."""
        new = self._suspected(new)
        tried: list[str] = []
        # Without its id a key opens nothing, for nobody.
        path, home = self._stored(new, tried, aside=bool(new.doubt and new.key_id))
        others = self._keep_others(new)
        email, account = step.wanted.email, new.member.account_id
        if not path:
            return self._not_kept(email, new, f"{' '.join(dict.fromkeys(tried))} {others}".strip())
        if not home:
            others = f"The key was stored in {path}, because: {tried[-1]} {others}"
        if not (new.complaint or new.doubt or self._job.policy.verify_keys):
            self._close(email, account, path, home)
            message = others if home else f"{others} The next run moves it home."
            return Result(email, Outcome.CREATED, " ".join(message.split()), new.member, path, made=True)
        result = self._proven(email, new, path, home)
        return dataclasses.replace(result, message=f"{result.message} {others}".strip())

    def _not_kept(self, email: str, new: NewMember, why: str) -> Result:
        """Say that a key could not be stored anywhere. Whose it was may be doubtful; then the next run finds out what is in the Group."""
        account = new.member.account_id
        if new.doubt:
            message = (
                f"The key that came, of account {account or 'unknown'}, could not be stored anywhere: {why} {new.doubt}"
            )
            return Result(email, Outcome.KEY_LOST, message, made=True)
        message = f"Account {account} was created, but its key could not be stored anywhere: {why}"
        return Result(
            email, Outcome.KEY_LOST, message + self._note(self._journal.lost, email, account), new.member, made=True
        )

    def _stored(self, new: NewMember, tried: list[str], *, aside: bool) -> tuple[str, bool]:
        """Store a new key; return its path, empty where nothing takes it, and whether that is in the vault directory.

        aside: beside its place, because it is not certain whose it is. From its place Ansible would load it for the member.
        """
        email = new.member.email
        seal = (lambda one: self._store.unproven.put(email, one)) if aside else self._store.seal
        try:
            return self._patiently(
                lambda: _sealed(seal, new, tried), f"keys can no longer be stored in {self._store.directory.path}"
            ), True
        except StoreError:
            with contextlib.suppress(StoreError):
                return _sealed(self._fallback.seal, new, tried), False
        return "", False

    def _suspected(self, new: NewMember) -> NewMember:
        """Doubt a key that comes a second time, or whose account is known under another address."""
        email, account = new.member.email, new.member.account_id
        with self._seen_lock:
            addresses = {self._keys.setdefault(part, email) for part in (new.key, new.key_id) if part}
            addresses.add(self._accounts.setdefault(account, email) if account else email)
        addresses.discard(email)
        if not addresses:
            return new
        doubt = f"{new.doubt} The key or its account is known already, as that of {' and '.join(sorted(addresses))}."
        return dataclasses.replace(new, doubt=doubt.strip(), named=False)

    def _known_as(self, account_id: str, email: str) -> str:
        """Return another address that an account is known under, which is listed there or whose key has come; empty where there is none."""
        with self._seen_lock:
            owner = self._accounts.get(account_id, email) if account_id else email
        return owner if owner != email else ""

    def _keep_others(self, new: NewMember) -> str:
        """Store the keys of other members that came in the same answer, beside the place of this one."""
        paths: list[str] = []
        tried: list[str] = []
        email = new.member.email
        for other in new.others:
            if other.member.account_id:
                with self._seen_lock:
                    self._accounts.setdefault(
                        other.member.account_id, "another member, whose key came in an answer to a create"
                    )
            path, _home = self._stored(
                dataclasses.replace(other, member=dataclasses.replace(other.member, email=email)), tried, aside=True
            )
            paths += [path] if path else []
        said = f"The answer also held {len(new.others)} keys of other members; those are stored in: {', '.join(paths) or 'no file'}. {' '.join(tried)}"
        return said.strip() if new.others else ""

    def _close(self, email: str, account: str, path: str, home: bool) -> None:
        """Put in the journal that a key is stored, or where it is, if not in its place."""
        if home:
            self._journal.sealed(self._plan.group_id, email)
        else:
            self._journal.fallback(self._plan.group_id, email, account, path)

    def _proven(self, email: str, new: NewMember, path: str, home: bool) -> Result:
        """Find out whose the key of an odd answer is, now that it is safe, and bring it home if it is the member's."""
        proof = self._client.prove(self._plan.group_id, new)
        odd = f"{new.complaint} {new.doubt}".strip()
        if not new.key_id:
            member = proof.member or new.member
            message = f"The key arrived without its id, without which it opens nothing. {odd}"
            message += self._note(self._journal.lost, email, member.account_id)
            return Result(email, Outcome.KEY_LOST, message, member, path, made=True)
        outcome, message = decide_created(new, proof)
        message = f"{odd} {message}".strip()
        if outcome is Outcome.CREATED:
            return self._bring_home(email, new, proof.member or new.member, path, home, message)
        if outcome is Outcome.KEY_DEAD:
            self._close(email, new.member.account_id, path, home)
            return Result(email, outcome, message, new.member, path, made=True)
        message += f" That key is kept in {path}."
        if outcome is Outcome.KEY_LOST:
            lost = t.cast(Member, proof.member)
            return Result(
                email, outcome, message + self._note(self._journal.lost, email, lost.account_id), lost, path, made=True
            )
        self._journal.fallback(self._plan.group_id, email, "", path)
        return Result(email, outcome, message, proof.member, path, made=True)

    def _bring_home(self, email: str, new: NewMember, member: Member, path: str, home: bool, message: str) -> Result:
        """Store a key in its place that was proven to be the member's, with all that is known about its account."""
        known = dataclasses.replace(
            new, member=dataclasses.replace(member, email=email, group_id=self._plan.group_id), doubt=""
        )
        location = self._store.file(email)
        try:
            if path == location:
                if known.member != new.member:
                    _sealed(lambda one: self._store.seal(one, again=True), known, [])
            else:
                self._patiently(
                    lambda: _sealed(self._store.seal, known, []),
                    f"keys can no longer be stored in {self._store.directory.path}",
                )
                (self._store.unproven.discard if home else self._fallback.remove)(path)
                path, home = location, True
        except StoreError as exc:
            message = f"{message} Its key is in {path}, because: {exc.happened}".strip()
        self._close(email, known.member.account_id, path, path == location)
        return Result(email, Outcome.CREATED, message, known.member, path, made=True)

    def _patiently(self, write: t.Callable[[], T], reason: str) -> T:
        """Write with back-off, while nothing is created; where that is in vain ask the run to stop, and raise the last StoreError.

        A run that is asked to stop does not wait: whoever stops it may take away its machine next.
        """
        try:
            return write()
        except StoreError as exc:
            failed = exc
        with self._in_trouble():
            for delay in STORE_DELAYS:
                try:
                    self._stop.wait(delay)
                except StoppedError:
                    break
                try:
                    return write()
                except StoreError as exc:
                    failed = exc
            self._stop.ask(reason)
        raise failed

    @contextlib.contextmanager
    def _in_trouble(self) -> t.Iterator[None]:
        """Keep every worker from creating members while a key is not stored."""
        with self._trouble:
            self._troubled += 1
        try:
            yield
        finally:
            with self._trouble:
                self._troubled -= 1
                self._trouble.notify_all()


def show_progress(done: int, total: int, seconds: float) -> None:
    """Show how many members of a long run are done, in one line every few seconds."""
    if signals.stopped():
        return
    rate = done / seconds if seconds else 0.0
    left = f", about {(total - done) / rate:.0f} s left" if rate else ""
    # Without ansible-playbook the line cannot be shown; the run goes on all the same.
    with contextlib.suppress(OSError):
        display.display(f"b2_group_members: {done} of {total} members, {rate:.1f} a second{left}")


def _ejected_as(left: t.Optional[Member], asked: str) -> str:
    """Say under which address an account left: the one in Backblaze's answer, which need not be the one that was asked for."""
    if left is None:
        return "had left the Group already"
    named = folded(left.email)
    if named == folded(asked):
        return f"was ejected as {asked}"
    if not named:
        return f"was ejected; Backblaze's answer names no address for it, and {asked} was asked for"
    return f"was ejected as {named}: Backblaze's answer names this address, and not {asked}, which was asked for"


def _sealed(seal: t.Callable[[NewMember], str], new: NewMember, tried: list[str]) -> str:
    """Store a key and return its path; whatever goes wrong is added to ``tried`` and is a StoreError."""
    try:
        return seal(new)
    except StoreError as exc:
        tried.append(exc.happened)
        raise
    except Exception as exc:  # noqa: BLE001 - whatever it is, the key is still here, and may be taken at the next try or in the next place
        tried.append(f"Unexpected {type(exc).__name__}.")
        raise StoreError(tried[-1]) from None
