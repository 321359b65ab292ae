# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Hold the repetitions of a call against a model: how often it is sent, how long it waits, and what is asked before.

The clock is simulated: it moves only while the call waits.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing as t

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ansible_collections.community.backblaze.plugins.module_utils._api import retries
from ansible_collections.community.backblaze.plugins.module_utils._api.answers import problem
from ansible_collections.community.backblaze.plugins.module_utils._api.retries import Repeater
from ansible_collections.community.backblaze.plugins.module_utils._api.transport import Answer
from ansible_collections.community.backblaze.plugins.module_utils._errors import B2Error, NetworkError

OPERATION = "b2_list_groups"


@dataclasses.dataclass(frozen=True)
class End:
    """How one request ends, and what that means.

    asked: the seconds of Retry-After. before: what is called before the request is repeated, or the call fails.
    final: whether the request is never repeated. most: how often it is repeated at most.
    """

    answer: tuple[int, str] | NetworkError
    before: str = ""
    final: bool = False
    most: int = 99
    asked: float = 0.0

    @property
    def throttled(self) -> bool:
        return self.answer == (429, "too_many_requests")

    def come(self) -> Answer:
        """Return the answer, or raise the error."""
        if isinstance(self.answer, NetworkError):
            raise self.answer
        status, code = self.answer
        headers = {"Retry-After": str(self.asked)} if self.asked else {}
        return Answer(status, headers, json.dumps({"code": code}).encode())


THROTTLED, BUSY = End((429, "too_many_requests"), "resend"), End((503, "service_unavailable"), "settle")
ENDS = [
    THROTTLED,
    *(dataclasses.replace(THROTTLED, asked=asked) for asked in (0.25, 7.0, 64.0, 200.0)),
    BUSY,
    *(dataclasses.replace(BUSY, asked=asked) for asked in (0.25, 7.0, 63.5, 64.0, 64.5)),
    End((420, "method_failure"), "settle", most=1),
    End((401, "invalid_email"), final=True),
    End((403, "access_denied"), final=True),
    End((401, "expired_auth_token"), "resend", final=True),
    End((302, ""), "settle", final=True),
    End(NetworkError("cut", sent=True), "settle"),
    End(NetworkError("cut", sent=True, hopeless=True), "settle", final=True),
    End(NetworkError("no connection", sent=False)),
    End(NetworkError("no connection", sent=False, hopeless=True), final=True),
]
# After the pause that the service asks for, the calls of many machines are spread over some seconds.
SPREAD = 5.0


class Call:
    """One call: its requests end as in the script, and then one is answered. It notes what happens, and when."""

    def __init__(self, script: list[End], of_member: bool | None = None) -> None:
        self.script = [*script]
        self.options = {} if of_member is None else {"of_member": of_member}
        self.now = 1000.0
        self.log: list[tuple[str, t.Any]] = []

    def send(self) -> tuple[Answer, str | None]:
        self.log.append(("send", self.now))
        if not self.script:
            return Answer(200, {}, b"{}"), "value"
        return self.script.pop(0).come(), None

    def wait(self, seconds: float) -> None:
        self.log.append(("wait", seconds))
        self.now += seconds

    def run(self, max_retries: int) -> str | B2Error:
        repeater = Repeater(max_retries, self.wait)
        try:
            return repeater.run(
                OPERATION,
                self.send,
                lambda error: self.log.append(("settle", error)),
                lambda error: self.log.append(("resend", error)),
                **self.options,
            )
        except B2Error as exc:
            return exc


def check(call: Call, script: list[End], max_retries: int, outcome: t.Any) -> None:
    """Walk through what happened, and compare each step with the model."""
    log, attempts, throttles, quiet_until = [*call.log], 0, 0, 0.0
    patience = max_retries * 64.0
    for end in script:
        kind, now = log.pop(0)
        assert kind == "send" and now >= quiet_until
        if end.before:
            kind, error = log.pop(0)
            assert kind == end.before
            assert log or error is outcome
        if end.throttled or end.asked:
            quiet_until = max(quiet_until, now + (max(end.asked, 0.5) if end.asked else 1.0))
        delay = max(end.asked, 0.5) if end.asked else 2.0 ** min(throttles if end.throttled else attempts, 6)
        spent = not end.throttled and attempts >= min(max_retries, end.most)
        patience -= delay
        if end.final or spent or patience < 0:
            assert log == []
            break
        assert log.pop(0) == ("wait", delay)
        throttles, attempts = throttles + end.throttled, attempts + (not end.throttled)
        if not log:
            # There was no patience for the turn after the pause. A call that was never throttled has more.
            assert throttles and patience < SPREAD
            break
        while log[0][0] == "wait":
            assert quiet_until and 0 < log[0][1] < SPREAD + 1
            patience -= log.pop(0)[1]
    else:
        assert [kind for kind, _detail in log] == ["send"]
        assert outcome == "value"
        return
    if isinstance(end.answer, NetworkError):
        assert outcome is end.answer
    else:
        expected = problem(OPERATION, end.come(), of_member=bool(call.options.get("of_member")))
        assert (type(outcome), outcome.explain()) == (type(expected), expected.explain())


@settings(max_examples=300)
@given(st.lists(st.sampled_from(ENDS), max_size=9), st.integers(0, 6), st.sampled_from([None, False, True]))
@example([THROTTLED] * 9, 6, None)
@example([BUSY] * 9, 6, None)
@example([dataclasses.replace(BUSY, asked=64.0)], 1, None)
@example([dataclasses.replace(BUSY, asked=7.0), BUSY, THROTTLED, BUSY], 3, None)
@example([End((403, "access_denied"), final=True)], 0, None)
def test_a_call_is_repeated_as_the_model_says(script, max_retries, of_member):
    call = Call(script, of_member)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(retries, "time", types.SimpleNamespace(monotonic=lambda: call.now))
        patched.setattr(retries, "random", types.SimpleNamespace(uniform=lambda low, high: (low + high) / 2))
        outcome = call.run(max_retries)
    check(call, script, max_retries, outcome)


@pytest.fixture
def clock(monkeypatch):
    """A clock that moves only while a call waits, and the waits."""
    made = types.SimpleNamespace(now=1000.0, waits=[])

    def wait(seconds: float) -> None:
        made.waits.append(seconds)
        made.now += seconds

    made.wait = wait
    monkeypatch.setattr(retries, "time", types.SimpleNamespace(monotonic=lambda: made.now))
    return made


def fine() -> tuple[Answer, str]:
    return Answer(200, {}, b"{}"), "value"


@pytest.mark.parametrize("calls_a_second", [5, 50])
def test_the_calls_after_a_throttling_come_nearly_as_fast_as_those_before(clock, calls_a_second):
    repeater = Repeater(5, clock.wait)
    for _number in range(2 * calls_a_second):
        clock.now += 1 / calls_a_second
        repeater.run(OPERATION, fine)
    assert clock.waits == []
    repeater.run(OPERATION, Call([THROTTLED]).send)
    assert sum(clock.waits) >= 1
    for _number in range(5):
        clock.waits.clear()
        repeater.run(OPERATION, fine)
        assert 1 <= sum(clock.waits) * calls_a_second < 2
    # A call that comes later than its turn does not wait at all.
    clock.now, clock.waits = clock.now + 60, []
    repeater.run(OPERATION, fine)
    assert clock.waits == []
