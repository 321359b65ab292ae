# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The pace against simulated services, on a simulated clock, without sleeping."""

from __future__ import annotations

import dataclasses
import heapq
import itertools
import math
import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ansible_collections.community.backblaze.plugins.module_utils._api.pace import AT_ONCE, Pace

# Services


class Bucket:
    """Lets ``rate`` calls through each second, and ``burst`` at once where nobody came for a while."""

    def __init__(self, rate, burst):
        self.rate, self.burst = rate, burst
        self.left, self.since = burst, 0.0

    def admits(self, now):
        self.left = min(self.burst, self.left + (now - self.since) * self.rate)
        self.since = now
        admitted = self.left >= 1
        self.left -= admitted
        return admitted


class Window:
    """Lets ``rate`` calls through in each whole second of its clock, no matter when in it."""

    def __init__(self, rate):
        self.rate = rate
        self.second, self.used = 0, 0

    def admits(self, now):
        if self.second != math.floor(now):
            self.second, self.used = math.floor(now), 0
        self.used += 1
        return self.used <= self.rate


class Nobody:
    """Lets nothing through."""

    def admits(self, now):
        return False


def as_seconds(pause):
    return lambda now: float(pause)


def as_date(pause):
    """A date has whole seconds only."""
    return lambda now: max(0.0, math.floor(now + pause) - now)


def absent(now):
    return 0.0


# The workers


@dataclasses.dataclass
class Load:
    """Workers that always have another call to send. Times in seconds; ``late``: the average oversleeping."""

    workers: int
    latency: float
    unsteady: float = 0.1
    late: float = 0.0005


def drive(pace, service, asks, load, seconds, chance, *, change=None, more=()):
    """Let the workers work; return (time, admitted, pace) of each call as it arrived.

    change: (time, what to do to the service then). more: paces of other runs, each with as many workers of its own.
    """
    queue, order, calls = [], itertools.count(), []

    def at(when, what, *arguments):
        heapq.heappush(queue, (when, next(order), what, arguments))

    def way():
        return load.latency / 2 * chance.uniform(1 - load.unsteady, 1 + load.unsteady)

    def begin(now, pace, throttles):
        turn = pace.turn(now)
        if turn.at > now:
            at(turn.at + chance.expovariate(1 / load.late), wake, pace, turn, throttles)
        else:
            at(now + way(), arrive, pace, turn, throttles)

    def wake(now, pace, turn, throttles):
        if pace.holds(turn):
            at(now + way(), arrive, pace, turn, throttles)
        else:
            begin(now, pace, throttles)

    def arrive(now, pace, turn, throttles):
        admitted = service.admits(now)
        calls.append((now, admitted, pace))
        at(now + way(), answered, pace, turn, throttles, admitted, 0.0 if admitted else asks(now))

    def answered(now, pace, turn, throttles, admitted, asked):
        if admitted:
            pace.passed(turn, now)
            begin(now, pace, 0)
        else:
            asked = asked and max(asked, 0.5)
            pace.throttled(turn, now, asked)
            at(now + (asked or 2 ** min(throttles, 6) * chance.uniform(0.75, 1.25)), begin, pace, throttles + 1)

    for each in (pace, *more):
        for _number in range(load.workers):
            at(0.0, begin, each, 0)
    if change:
        at(change[0], lambda now: change[1](service))
    while queue[0][0] < seconds:
        now, _number, what, arguments = heapq.heappop(queue)
        what(now, *arguments)
    return calls


def figures(calls, start, end):
    """Return (calls admitted a second, share of the calls that were throttled) between two times."""
    some = [admitted for at, admitted, _pace in calls if start <= at < end]
    return sum(some) / (end - start), 1 - sum(some) / len(some)


# It settles


SERVICES = st.one_of(
    st.tuples(st.just("bucket"), st.integers(1, 200), st.floats(0.1, 2.0)),
    # A service that counts to three in each second is not met within a tenth by calls that take longer at one time than
    # at another.
    st.tuples(st.just("window"), st.integers(5, 200), st.just(0.0)),
)
ASKS = st.one_of(
    st.just((1, absent)),
    st.sampled_from([1, 2, 5]).map(lambda pause: (pause, as_seconds(pause))),
    st.sampled_from([1, 2, 5]).map(lambda pause: (pause, as_date(pause))),
)


@settings(max_examples=60)
@given(SERVICES, ASKS, st.integers(1, 32), st.floats(0.005, 0.3), st.integers(0, 10**6))
@example(("bucket", 1, 0.1), (1, absent), 32, 0.05, 0)
@example(("bucket", 20, 1.0), (1, as_seconds(1)), 16, 0.05, 0)
@example(("bucket", 200, 0.1), (1, as_seconds(1)), 32, 0.05, 0)
@example(("bucket", 60, 2.0), (5, as_date(5)), 16, 0.05, 0)
@example(("window", 200, 0.0), (5, as_seconds(5)), 32, 0.05, 0)
# Here each decrease used to be followed by others, until the second was over.
@example(("window", 56, 0.0), (1, absent), 14, 0.007, 0)
# Here the workers reach what is allowed just so.
@example(("window", 114, 0.0), (5, as_seconds(5)), 25, 0.222, 0)
def test_it_settles_close_to_what_a_service_allows(service, asks, workers, latency, seed):
    kind, rate, burst = service
    pause, asked = asks
    chance = random.Random(seed)
    # Knowing the limit takes some calls, and some pauses; so does an average over what comes after.
    settled = max(60, 100 / rate, 20 * pause)
    end = settled + max(60, 300 / rate, 40 * pause)
    serving = Bucket(rate, max(2, burst * rate)) if kind == "bucket" else Window(rate)
    calls = drive(Pace(chance.random), serving, asked, Load(workers, latency), end, chance)
    made, throttled = figures(calls, settled, end)
    # Few workers cannot do more than one call each at a time; of that, a tenth is left for their unsteadiness.
    assert made >= 0.9 * min(rate, 0.9 * workers / latency)
    assert throttled < 0.05


@pytest.mark.parametrize("late", [0.005, 0.02])
def test_workers_that_oversleep_do_not_lose_the_pace(late):
    """As on a machine that has other things to do."""
    chance = random.Random(1)
    calls = drive(Pace(chance.random), Bucket(60, 60), as_seconds(1), Load(16, 0.05, 0.5, late), 180, chance)
    made, throttled = figures(calls, 60, 180)
    assert made >= 0.9 * 60
    assert throttled < 0.05


@pytest.mark.parametrize(
    "before, after, within", [(60, 30, 30), (60, 6, 90), (200, 100, 30), (20, 60, 180), (60, 180, 180)]
)
@pytest.mark.parametrize("burst", [0.1, 1.0])
def test_it_finds_a_limit_that_has_changed(before, after, within, burst):
    chance = random.Random(2)
    service = Bucket(before, max(2, burst * before))

    def change(service):
        service.rate, service.burst = after, max(2, burst * after)

    end = 60 + within + 60
    calls = drive(Pace(chance.random), service, as_seconds(1), Load(16, 0.05), end, chance, change=(60, change))
    made, throttled = figures(calls, end - 60, end)
    assert made >= 0.9 * after
    assert throttled < 0.05


def test_a_service_that_lets_nothing_through_is_asked_seldom():
    chance = random.Random(3)
    calls = drive(Pace(chance.random), Nobody(), as_seconds(1), Load(32, 0.05), 300, chance)
    assert len(calls) < 32 + 300 / 2


def test_two_runs_share_what_a_service_allows():
    """What the other one takes is for each of them a service that allows less."""
    chance = random.Random(4)
    one, other = Pace(chance.random), Pace(chance.random)
    calls = drive(one, Bucket(60, 60), as_seconds(1), Load(16, 0.05), 300, chance, more=[other])
    made, throttled = figures(calls, 60, 300)
    assert made >= 0.9 * 60
    assert throttled < 0.05
    shares = [
        sum(admitted for at, admitted, pace in calls if at >= 60 and pace is each) / (60 * 240) for each in (one, other)
    ]
    assert min(shares) > 0.1


# What it never does


def throttle_once(pace, now=10.0, asked=2.0, calls=20):
    """Let some calls pass in a tenth of a second each, and throttle one."""
    for number in range(calls):
        pace.passed(AT_ONCE, now - (calls - number) / 10)
    pace.throttled(AT_ONCE, now, asked)


def test_without_a_throttling_there_is_no_limit():
    pace = Pace()
    for number in range(10000):
        assert pace.turn(number / 1e6) is AT_ONCE
        pace.passed(AT_ONCE, number / 1e6)
    assert pace.free and pace.holds(AT_ONCE)


def test_a_throttling_holds_everybody_and_then_spreads_the_calls():
    pace = Pace(lambda: 0.5)
    throttle_once(pace)
    turns = [pace.turn(10.1) for _number in range(8)]
    assert not pace.free
    # 10 calls a second had been made.
    assert 12 < turns[0].at < 12.5
    pauses = [after.at - before.at for before, after in zip(turns, turns[1:])]
    assert all(0.1 < pause < 0.5 for pause in pauses)
    assert pauses == sorted(pauses, reverse=True), "the rate rises"


def test_calls_that_were_under_way_do_not_slow_it_down_again():
    pace, same = Pace(lambda: 0.5), Pace(lambda: 0.5)
    throttle_once(pace)
    throttle_once(same)
    for late in range(30):
        pace.throttled(AT_ONCE, 10.0 + late / 1000, 1.0)
    assert pace.turn(11.0) == same.turn(11.0)


def test_a_call_that_was_under_way_may_ask_for_a_longer_pause():
    pace = Pace(lambda: 0.5)
    throttle_once(pace)
    given_before = pace.turn(10.1)
    pace.throttled(AT_ONCE, 10.2, 30.0)
    assert not pace.holds(given_before)
    turn = pace.turn(10.3)
    assert turn.at > 40.2
    assert turn.rate == pytest.approx(given_before.rate, rel=0.1)


def test_a_throttling_takes_back_the_turns_that_were_not_used():
    pace = Pace(lambda: 0.5)
    throttle_once(pace)
    first, second = pace.turn(10.1), pace.turn(10.1)
    assert pace.holds(first) and pace.holds(second)
    pace.throttled(first, 12.4, 1.0)
    assert not pace.holds(second)
    assert pace.turn(12.5).at > 13.4


def test_nobody_catches_up_on_turns_that_nobody_took():
    pace = Pace(lambda: 0.5)
    throttle_once(pace)
    pace.turn(10.1)
    late = [pace.turn(100.0).at for _number in range(3)]
    assert late[0] == 100.0
    assert late[1] - late[0] > 0.1


def test_a_limit_that_is_not_met_any_more_is_forgotten():
    pace = Pace()
    throttle_once(pace)
    now = 10.0
    for number in itertools.count():
        if pace.free:
            break
        turn = pace.turn(now)
        now = max(now, turn.at)
        pace.passed(turn, now)
        assert number < 1e6
    assert now < 600
    # And it can be found again.
    throttle_once(pace, now)
    assert not pace.free


def played(pace, events, start=0.0):
    """Play events to a pace. Yield each with its time, the pause that was asked for, and the turn that it is about."""
    now, given_out = start, [AT_ONCE]
    for what, later, asked, which in events:
        now += later
        turn = given_out[-1 - which % len(given_out)]
        if what == "pass":
            pace.passed(turn, now)
        elif what == "throttle":
            pace.throttled(turn, now, asked)
        else:
            turn = pace.turn(now)
            given_out.append(turn)
        yield what, now, asked, turn


@settings(max_examples=200)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["turn", "turn", "pass", "throttle"]),
            st.floats(0, 20),
            st.sampled_from([0, 0.5, 1, 5, 300]),
            st.integers(0, 5),
        ),
        max_size=60,
    ),
    st.floats(0, 1),
)
def test_whatever_happens_pauses_are_kept_and_turns_are_spread(events, chance):
    pace = Pace(lambda: chance)
    quiet_until = 0.0
    before = AT_ONCE
    for what, now, asked, turn in played(pace, events):
        if what == "throttle":
            quiet_until = max(quiet_until, now + asked)
        elif what == "turn":
            assert pace.holds(turn)
            assert turn.at >= quiet_until or pace.free
            assert turn is AT_ONCE or 0.2 <= turn.rate <= 10000
            if turn.era == before.era and turn is not AT_ONCE:
                assert turn.at - before.at >= 0.999 / before.rate
            before = turn


# Whole fractions of a second, so that the sums are exact.
EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["turn", "turn", "pass", "throttle"]),
        st.sampled_from([0.0, 0.0, 0.015625, 0.25, 1.0, 16.0]),
        st.sampled_from([0.0, 0.5, 1.0, 300.0]),
        st.integers(0, 5),
    ),
    max_size=60,
)


def turns(events, chance, start):
    """Return the turns that a pace gives out if its clock begins at this time, as if it had begun at 0."""
    pace = Pace(lambda: chance)
    given_out = [AT_ONCE, *(turn for what, _now, _asked, turn in played(pace, events, start) if what == "turn")]
    return [
        (pace.holds(turn), turn.era, turn.rate, turn.at - (0.0 if turn is AT_ONCE else start)) for turn in given_out
    ]


@settings(max_examples=200)
@given(EVENTS, st.sampled_from([0.0, 0.25, 0.5]))
# The first throttling may come at once, and the next ones at the same moment.
@example([("throttle", 0.0, 0.5, 0), ("turn", 0.0, 0.0, 0), ("throttle", 0.0, 0.5, 0), ("turn", 0.0, 0.0, 0)], 0.0)
def test_no_matter_when_the_clock_began(events, chance):
    early, late = turns(events, chance, 0.0), turns(events, chance, 65536.0)
    assert [turn[:2] for turn in early] == [turn[:2] for turn in late]
    assert [turn[2:] for turn in early] == [pytest.approx(turn[2:], abs=1e-6) for turn in late]


@pytest.mark.parametrize(
    "calls, seconds, low, high", [(1, 0.0, 1 / 2.05, 20), (20, 1.0, 20 / 3, 20), (40, 2.0, 10, 20)]
)
def test_the_first_pace_lies_between_a_burst_and_a_steady_flow(calls, seconds, low, high):
    """Either all calls of the last two seconds were one burst, or they came evenly."""
    pace = Pace(lambda: 0.5)
    for number in range(calls):
        pace.passed(AT_ONCE, 100.0 + seconds * number / calls)
    pace.throttled(AT_ONCE, 100.0 + seconds, 1.0)
    assert pace.turn(100.0 + seconds).rate == pytest.approx(0.98 * math.sqrt(low * high), rel=0.05)
