# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Repeat calls within ``max_retries``, with a back-off and at a pace that the service accepts.

The code that makes a call decides, before the call is repeated, whether the service has executed the call already.
"""

from __future__ import annotations

import collections
import datetime
import random
import threading
import time
import typing as t

from ansible_collections.community.backblaze.plugins.module_utils._api.answers import (
    Verdict,
    judge,
    judge_error,
    problem,
    retry_after,
)
from ansible_collections.community.backblaze.plugins.module_utils._api.pace import AT_ONCE, Pace, Turn
from ansible_collections.community.backblaze.plugins.module_utils._api.transport import Answer
from ansible_collections.community.backblaze.plugins.module_utils._errors import B2Error, NetworkError, PatienceError

# Backblaze recommends 1 s doubling to 64 s.
_FIRST_DELAY = 1.0
_LEAST_DELAY = 0.5
_DOUBLINGS = 6
_LONGEST_DELAY = 64.0
# A wait of more than this number of seconds is told to the user.
_TOLD = 2.0
# A method_failure may be a background job, which is worth one retry, or a refused domain, which never changes.
_METHOD_FAILURE_RETRIES = 1

T = t.TypeVar("T")


def ignore(_error: B2Error) -> None:
    """Do nothing about an error."""


def keep_silent(_line: str) -> None:
    """Show no line about a wait to the user."""


class Repeater:
    """Send calls, repeat them, and count them. Safe to use from many threads.

    max_retries: how often a call is repeated, at most. 0 means never.
    wait: waits for a number of seconds. Raises StoppedError if the run was asked to stop.
    tell: shows a line about a long wait to the user.
    """

    def __init__(
        self,
        max_retries: int = 5,
        wait: t.Callable[[float], t.Any] = time.sleep,
        tell: t.Callable[[str], t.Any] = keep_silent,
    ) -> None:
        self.wait = wait
        self._tell = tell
        # When the last line about a wait was told, on the clock of time.monotonic.
        self._told = float("-inf")
        self._max_retries = max_retries
        # One pace for all operations and keys: Backblaze does not document what it counts.
        self._pace = Pace()
        self._calls: collections.Counter[str] = collections.Counter()
        self._lock = threading.Lock()

    @property
    def calls(self) -> dict[str, int]:
        """Return the number of requests that were sent so far, by operation."""
        with self._lock:
            return dict(sorted(self._calls.items()))

    def count(self, operation: str) -> None:
        """Count one request."""
        with self._lock:
            self._calls[operation] += 1

    def run(
        self,
        operation: str,
        send: t.Callable[[], tuple[Answer, t.Optional[T]]],
        settle: t.Callable[[B2Error], None] = ignore,
        resend: t.Callable[[B2Error], None] = ignore,
        *,
        of_member: bool = False,
    ) -> T:
        """Send a call until its answer holds the wanted value or is a refusal; return the value.

        send: returns an answer, and the value that it holds, if any. settle, resend: see Handling. of_member: see
        remedy_for.
        """
        # A throttled call was not executed. So throttling is limited by patience, in seconds, and not by attempts.
        attempt = throttles = 0
        patience = self._max_retries * _LONGEST_DELAY
        # A call that was never sent waits for a pause that another call brought about, even if nothing is to be
        # repeated.
        turn, _waited = self._await_turn(max(patience, _LONGEST_DELAY))
        while True:
            asked = 0.0
            try:
                answer, value = send()
            except NetworkError as exc:
                failed: B2Error = exc
                verdict = judge_error(exc)
            else:
                if value is not None:
                    self._note(turn)
                    return value
                failed, verdict = problem(operation, answer, of_member=of_member), judge(answer)
                asked = _asked(answer)
                self._note(turn, asked, throttled=verdict is Verdict.THROTTLED)
            if verdict in (Verdict.THROTTLED, Verdict.RENEW):
                resend(failed)
            elif verdict not in (Verdict.REFUSED, Verdict.UNSENT):
                settle(failed)
            throttled = verdict is Verdict.THROTTLED
            delay = asked or back_off(throttles if throttled else attempt)
            patience -= delay
            backed_out = failed.facts.get("code") == "method_failure" and attempt >= _METHOD_FAILURE_RETRIES
            spent = backed_out or (attempt >= self._max_retries and not throttled)
            if verdict in (Verdict.REFUSED, Verdict.RENEW, Verdict.FUTILE) or spent or patience < 0:
                raise failed
            self._announce(operation, failed, delay, attempt if not throttled else None)
            self.wait(delay)
            throttles, attempt = throttles + throttled, attempt + (not throttled)
            try:
                turn, waited = self._await_turn(max(patience, 0.0 if throttles else _LONGEST_DELAY))
            except PatienceError:
                raise failed from None
            patience -= waited

    def look(self, find: t.Callable[[], T], looks: int) -> T:
        """Repeat a look-up, with a back-off, until it finds something. Return its last result.

        A listing may be late to show a change, and a new key may not be known everywhere at once.
        """
        for number in range(1, looks):
            found = find()
            if found:
                return found
            self.wait(back_off(number))
        return find()

    def _await_turn(self, patience: float) -> tuple[Turn, float]:
        """Wait until a call may be sent: at once, unless the service throttled. Return the turn and the seconds waited.

        Raises PatienceError, without waiting, if the wait would be longer than ``patience``, in seconds.
        """
        waited = 0.0
        while not self._pace.free:
            now = time.monotonic()
            with self._lock:
                turn = self._pace.turn(now)
            if turn.at > now:
                waited += turn.at - now
                if waited > patience:
                    raise PatienceError(turn.at - now)
                self.wait(turn.at - now)
            if self._pace.holds(turn):
                return turn, waited
        return AT_ONCE, waited

    def _announce(self, operation: str, failed: B2Error, delay: float, attempt: t.Optional[int]) -> None:
        """Tell the user about a long wait. Threads that begin to wait at about the same time tell it once.

        attempt: how often the call was repeated before; None if Backblaze has throttled it.
        """
        now = time.monotonic()
        with self._lock:
            if delay <= _TOLD or now - self._told < _TOLD:
                return
            self._told = now
        next_call = (
            "The call is sent again" if attempt is None else f"Try {attempt + 2} of {self._max_retries + 1} follows"
        )
        self._tell(f"{operation}: {failed.happened} {next_call} in {delay:.0f} s.")

    def _note(self, turn: Turn, asked: float = 0.0, *, throttled: bool = False) -> None:
        """Tell the pace about an answer. A Retry-After slows all threads down: it is about the whole account."""
        with self._lock:
            if throttled or asked:
                self._pace.throttled(turn, time.monotonic(), asked)
            else:
                self._pace.passed(turn, time.monotonic())


def back_off(attempt: int) -> float:
    """Return the seconds before the next attempt."""
    jitter = random.uniform(0.75, 1.25)  # noqa: S311 - no secret
    return float(min(_LONGEST_DELAY, _FIRST_DELAY * 2 ** min(attempt, _DOUBLINGS)) * jitter)


def _asked(answer: Answer) -> float:
    """Return the seconds that an answer asks to wait, or 0. The least delay prevents a loop without a pause."""
    asked = retry_after(answer, datetime.datetime.now(datetime.timezone.utc))
    return max(asked, _LEAST_DELAY) if asked else 0.0
