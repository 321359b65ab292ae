# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One call of the Partner API: authorized, at a pace that the service bears, and sent again as far as that may be.

Who calls says what is accepted of an answer, and settles what may have been executed before it is sent again.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import datetime
import json
import random
import threading
import time
import typing as t

from ansible_collections.community.backblaze.plugins.module_utils._api.answers import (
    Verdict,
    judge,
    parse,
    problem,
    refuses_token,
    retry_after,
)
from ansible_collections.community.backblaze.plugins.module_utils._api.pace import AT_ONCE, Pace, Turn
from ansible_collections.community.backblaze.plugins.module_utils._api.transport import (
    MAX_BODY,
    Answer,
    TokenAuth,
    Transport,
    basic_auth,
    check_service_url,
)
from ansible_collections.community.backblaze.plugins.module_utils._errors import (
    AnswerError,
    B2Error,
    NetworkError,
    OptionError,
    PatienceError,
)
from ansible_collections.community.backblaze.plugins.module_utils._members import as_text, one

AUTHORIZE = "b2_authorize_account"
# At v3 authorize refuses keys that are restricted to buckets and were made through v4; at v4 it takes every key.
_AUTHORIZE_VERSION = "v4"

# Backblaze recommends 1 s doubling to 64 s.
_FIRST_DELAY = 1.0
_LEAST_DELAY = 0.5
_DOUBLINGS = 6
_LONGEST_DELAY = 64.0
# What the service backed out itself is tried once more and no oftener: a refused domain answers the same for ever.
_METHOD_FAILURE_TRIES = 2
# How often a call is sent with yet another token, where other threads have used up the last one.
_MOST_TOKENS = 100

T = t.TypeVar("T")


@dataclasses.dataclass
class Use:
    """What has become of calls with a token: whether one was taken, and how many have no answer yet."""

    taken: bool = False
    under_way: int = 0


@dataclasses.dataclass(frozen=True)
class Session:
    """What authorize answered. ``groups_url`` is empty where the key is not one for the Partner API."""

    account_id: str
    groups_url: str
    token: str = dataclasses.field(repr=False)
    use: Use = dataclasses.field(default_factory=Use, repr=False, compare=False)


def _do_nothing(_error: B2Error) -> None:
    pass


@dataclasses.dataclass(frozen=True)
class Handling(t.Generic[T]):
    """What the maker of a call says about its answers.

    accept: takes what is wanted out of an answer, before anything else looks at it; None where it is not there.
    is_sure: tells whether what was taken is certainly the answer to this request.
    settle: is called before what may have been executed is sent again; raises where it was.
    resend: is called before what most probably was not executed is sent again, and where nothing is sent again after all.
    gate: is called each time before the call is sent; waits, or raises where it must not be sent now.
    most: how many bytes of an answer are read.
    """

    accept: t.Callable[[Answer], t.Optional[T]]
    is_sure: t.Callable[[T], bool] = lambda value: True
    settle: t.Callable[[B2Error], None] = _do_nothing
    resend: t.Callable[[B2Error], None] = _do_nothing
    gate: t.Callable[[], None] = lambda: None
    most: int = MAX_BODY


def _take(send: t.Callable[[t.Callable[[Answer], bool]], Answer], how: Handling[T]) -> tuple[Answer, t.Optional[T]]:
    """Send by a transport; return the answer and what was taken out of it. Its connection is used again only if that is surely what was asked for."""
    taken: list[T] = []

    def is_sound(answer: Answer) -> bool:
        value = how.accept(answer)
        if value is None:
            return False
        taken.append(value)
        return how.is_sure(value)

    answer = send(is_sound)
    return answer, taken[0] if taken else None


class Caller:
    """Makes the calls of one Group admin. Safe to use from many threads; authorizes once, when first needed.

    api_version: of the Group calls; authorize is always sent at v4, whose token is good for both.
    max_retries: how often a call is sent again, at most; 0 for never.
    wait: how to wait for some seconds; raises StoppedError where the run was asked to end.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        key_id: str,
        key: str,
        realm: str,
        api_version: str = "v3",
        max_retries: int = 5,
        wait: t.Callable[[float], t.Any] = time.sleep,
    ) -> None:
        self._transport = transport
        self._key_id = key_id
        self._key = key
        self._realm = realm
        self._version = api_version
        self._max_retries = max_retries
        self.wait = wait
        self._session: t.Optional[Session] = None
        self._session_lock = threading.Lock()
        # One for all operations: what the service counts is not documented, and it may well be the account.
        self._pace = Pace()
        self._pace_lock = threading.Lock()
        self._calls: collections.Counter[str] = collections.Counter()
        self._calls_lock = threading.Lock()

    @property
    def calls(self) -> dict[str, int]:
        """How many requests were sent so far, by operation."""
        with self._calls_lock:
            return dict(sorted(self._calls.items()))

    def close(self) -> None:
        """Close every connection."""
        self._transport.close()

    # Authorize

    def authorize(self) -> Session:
        """Return the session of the Group admin, authorizing if that has not been done.

        Raises OptionError where the key is not one that the Partner API takes.
        """
        with self._session_lock:
            if self._session is None:
                session = self._authorize(self._key_id, self._key)
                if not session.groups_url:
                    raise OptionError(
                        f"Application key {self._key_id} cannot use the Partner API: authorize named no Groups service.",
                        remedy="Either this is not the Group admin's master application key (its key id equals the account id), "
                        "or the account is not enabled for the Partner API: ask Backblaze to enable it.",
                    )
                self._session = session
            return self._session

    def account_of(self, key_id: str, key: str) -> str:
        """Return the id of the account that an application key opens: the proof that a key is good, and whose it is.

        An error of this call is about that key and its account, and not about the Group admin.
        """
        return self._authorize(key_id, key, of_member=True).account_id

    def _authorize(self, key_id: str, key: str, *, of_member: bool = False) -> Session:
        url = f"{self._realm}/b2api/{_AUTHORIZE_VERSION}/{AUTHORIZE}"

        def send() -> tuple[Answer, t.Optional[dict[str, t.Any]]]:
            self._count(AUTHORIZE)
            return _take(
                lambda is_sound: self._transport.send("GET", url, auth=basic_auth(key_id, key), is_sound=is_sound),
                Handling(accept_object),
            )

        body = self._repeat(AUTHORIZE, send, of_member=of_member)
        groups = one(one(body.get("apiInfo")).get("groupsApi"))
        account_id, token = as_text(body.get("accountId")), as_text(body.get("authorizationToken"))
        if not account_id or not token or not token.isascii() or not token.isprintable() or " " in token:
            raise AnswerError(
                "Backblaze answered authorize without a usable account id and token.", remedy="Check the realm."
            )
        groups_url = groups.get("groupsApiUrl")
        return Session(
            account_id=account_id,
            groups_url=check_service_url(groups_url, self._realm, "The groupsApiUrl") if groups_url else "",
            token=token,
        )

    def _renew(self, refused: Session) -> Session:
        """Return a session other than the refused one; of many threads that were refused, one authorizes."""
        with self._session_lock:
            if self._session is refused:
                self._session = None
        return self.authorize()

    # One call

    def _count(self, operation: str) -> None:
        with self._calls_lock:
            self._calls[operation] += 1

    def _send(
        self, method: str, operation: str, fields: dict[str, t.Any], how: Handling[T]
    ) -> tuple[Answer, t.Optional[T]]:
        """Send one call with a valid token; a refused one means that most probably nothing was executed, and is renewed.

        That is once, unless other threads may have used up the fresh token in the meantime: those few codes do not say why a token is refused.
        """

        def send(session: Session) -> tuple[Answer, t.Optional[T]]:
            how.gate()
            self._count(operation)
            with self._using(session):
                taken = _take(lambda is_sound: transmit(session, is_sound), how)
                session.use.taken = session.use.taken or not refuses_token(taken[0])
                return taken

        def transmit(session: Session, is_sound: t.Callable[[Answer], bool]) -> Answer:
            url = f"{session.groups_url}/b2api/{self._version}/{operation}"
            full = {"adminAccountId": session.account_id, **fields}
            content: dict[str, t.Any] = {"query": full} if method == "GET" else {"body": json.dumps(full).encode()}
            return self._transport.send(
                method, url, auth=TokenAuth(session.token), is_sound=is_sound, most=how.most, **content
            )

        session = self.authorize()
        answer, value = send(session)
        for number in range(_MOST_TOKENS):
            if value is not None or not refuses_token(answer) or (number and not self._used_by_others(session)):
                break
            how.resend(problem(operation, answer))
            try:
                session = self._renew(session)
            except NetworkError as exc:
                # Authorize did not come through; the call itself was refused.
                exc.sent = False
                raise
            answer, value = send(session)
        return answer, value

    @contextlib.contextmanager
    def _using(self, session: Session) -> t.Iterator[None]:
        """Count a call as under way."""
        with self._calls_lock:
            session.use.under_way += 1
        try:
            yield
        finally:
            with self._calls_lock:
                session.use.under_way -= 1

    def _used_by_others(self, session: Session) -> bool:
        """Tell whether a token that was refused to this thread was taken from another, or may be just now."""
        with self._calls_lock:
            return session.use.taken or bool(session.use.under_way)

    def _repeat(
        self,
        operation: str,
        send: t.Callable[[], tuple[Answer, t.Optional[T]]],
        how: t.Optional[Handling[T]] = None,
        *,
        of_member: bool = False,
    ) -> T:
        """Send until an answer holds what was asked for or is a refusal, within ``max_retries``.

        send: returns an answer and what was taken out of it, if that was there. of_member: see account_of.
        """
        # Being throttled says nothing about the call itself, so it is counted apart, and bounded by patience instead of attempts.
        attempt = throttles = 0
        patience = self._max_retries * _LONGEST_DELAY
        # Who was never sent waits for the pace that others brought about, even where nothing is to be sent again.
        turn, _waited = self._await_turn(max(patience, _LONGEST_DELAY))
        while True:
            asked = 0.0
            executed = throttled = hopeless = False
            try:
                answer, value = send()
            except NetworkError as exc:
                failed: B2Error = exc
                executed, hopeless = exc.sent, exc.hopeless
            else:
                if value is not None:
                    self._note_passed(turn)
                    return value
                failed = problem(operation, answer, of_member=of_member)
                verdict = judge(answer)
                if verdict in (Verdict.REFUSED, Verdict.RENEW):
                    self._note_passed(turn)
                    if verdict is Verdict.RENEW and how:
                        how.resend(failed)
                    raise failed
                throttled, hopeless = verdict is Verdict.THROTTLED, verdict is Verdict.REDIRECTED
                asked = _asked(answer)
                if throttled or asked:
                    self._note_throttled(turn, asked)
                else:
                    self._note_passed(turn)
                executed = not throttled
            if executed and how:
                how.settle(failed)
            elif throttled and how:
                how.resend(failed)
            backed_out = failed.facts.get("code") == "method_failure" and attempt + 1 >= _METHOD_FAILURE_TRIES
            spent = attempt >= self._max_retries and not throttled
            delay = asked or back_off(throttles if throttled else attempt)
            patience -= delay
            if hopeless or backed_out or spent or patience < 0:
                raise failed
            self.wait(delay)
            throttles, attempt = throttles + throttled, attempt + (not throttled)
            try:
                turn, waited = self._await_turn(max(patience, 0.0 if throttles else _LONGEST_DELAY))
            except PatienceError:
                raise failed from None
            patience -= waited

    def _await_turn(self, patience: float) -> tuple[Turn, float]:
        """Wait until a call may be sent: at once, unless the service throttled. Return the turn, and how many seconds were waited.

        Raises PatienceError, at once, where that would take longer than ``patience``, in seconds.
        """
        waited = 0.0
        while not self._pace.free:
            now = time.monotonic()
            with self._pace_lock:
                turn = self._pace.turn(now)
            if turn.at > now:
                waited += turn.at - now
                if waited > patience:
                    raise PatienceError(turn.at - now)
                self.wait(turn.at - now)
            if self._pace.holds(turn):
                return turn, waited
        return AT_ONCE, waited

    def _note_passed(self, turn: Turn) -> None:
        with self._pace_lock:
            self._pace.passed(turn, time.monotonic())

    def _note_throttled(self, turn: Turn, asked: float) -> None:
        """Slow all threads down: a Retry-After speaks of the whole account."""
        with self._pace_lock:
            self._pace.throttled(turn, time.monotonic(), asked)

    def operate(self, method: str, operation: str, fields: dict[str, t.Any], how: Handling[T]) -> T:
        """Make one call of the Partner API, see _repeat."""

        # Before the loop, so that its attempts are not multiplied by those of authorize.
        self.authorize()
        return self._repeat(operation, lambda: self._send(method, operation, fields, how), how)

    def read(self, operation: str, fields: dict[str, t.Any]) -> dict[str, t.Any]:
        """Make one call that changes nothing, and return the object that it answers."""
        return self.operate("GET", operation, fields, Handling(accept_object))


def back_off(attempt: int) -> float:
    """Return the seconds before the next attempt."""
    return float(min(_LONGEST_DELAY, _FIRST_DELAY * 2 ** min(attempt, _DOUBLINGS)) * random.uniform(0.75, 1.25))  # noqa: S311 - no secret


def _asked(answer: Answer) -> float:
    """Return the seconds that an answer asks to wait, or 0. Never next to none, or being throttled would be a loop without a pause."""
    asked = retry_after(answer, datetime.datetime.now(datetime.timezone.utc))
    return max(asked, _LEAST_DELAY) if asked else 0.0


def accept_object(answer: Answer) -> t.Optional[dict[str, t.Any]]:
    """Take the object of a successful answer, sent bare or as an array of one."""
    if not 200 <= answer.status < 300 or not answer.complete:
        return None
    return one(parse(answer)) or None
