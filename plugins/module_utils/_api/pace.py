# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Limit the rate of calls once the service throttles, and find the rate that the service allows.

Calls are not limited until the first throttling. From then on two rates are known. ``low`` was accepted on average from
one throttling to the next, pauses included. ``high`` was the rate at the last throttling. Neither is the limit: a
service may accept a burst above its limit, and a pause brings the average below the limit. So the pace starts in the
middle between the two rates and climbs evenly towards ``high``. The next throttling brings the two rates closer
together.

The closer the two rates are, the slower is the climb: each throttling costs the pause that the service asks for. Above
``high`` the climb gets faster and faster, because the limit must have risen.
"""

from __future__ import annotations

import collections
import math
import random
import typing as t

# A little below the middle, or a well-known limit would be reached again at once.
_BELOW_MIDDLE = 0.98
# The part of the rate that is left if even ``low`` was throttled.
_DECREASE = 0.5
# The least climb. Without it, the pace would take minutes to use a limit that has risen.
_LEAST_CLIMB = 1.05
# The length of a climb: this number times the cost of a throttling, divided by the share of the rate that the climb
# wins.
_CLIMB_COSTS = 4.0
# The cost of a throttling: its pause, and the time of this number of calls.
_COST_CALLS = 2.0
# The pause, in seconds, if the service asks for none. Without a pause, most of the next calls would be throttled too.
_PAUSE = 1.0
# A burst that the service accepts at once counts as the calls of this number of seconds.
_BURST_SECONDS = 2.0
# Bounds, in seconds and in calls a second. Two answers may come at the same time. No service needs a slower pace. No
# client is faster than the last rate.
_LEAST_SPAN = 0.05
_SLOWEST = 0.2
_FREE = 10000.0


class Turn(t.NamedTuple):
    """Allow one call.

    at: the time from which the call may be sent. rate: the rate that the turn tries, in calls a second. era: the number
    of the last throttling before the turn was given.
    """

    at: float
    rate: float
    era: int


#: The turn of every call until the first throttling.
AT_ONCE = Turn(0.0, 0.0, 0)


class Pace:
    """Give turns to calls, as a function of time and of the answers to earlier calls.

    Before a call, take a ``turn`` and wait until its time. Send the call if the turn still ``holds``, else take another
    turn. After the answer, call ``passed`` or ``throttled``. Times are seconds of one clock that does not jump. Threads
    share a pace under a lock; ``free`` and ``holds`` need no lock.

    chance: returns a number from 0 to 1, so that several runs do not resume at the same moment after a pause.
    """

    def __init__(self, chance: t.Callable[[], float] = random.random) -> None:
        self._chance = chance
        # In calls a second. 0 if there is no limit.
        self._rate = self._low = 0.0
        # The climb: its start, its end, and the calls a second that it wins each second.
        self._foot = self._high = self._climb = 0.0
        self._next = self._quiet_until = 0.0
        self._era = self._first_era = 0
        # The times of the last answers while there is no limit.
        self._times: collections.deque[float] = collections.deque(maxlen=1000)
        # With a limit: the calls that passed since the last decrease, the time of the decrease, and the end of its
        # pause.
        self._count = 0
        self._since = self._resumed = 0.0

    @property
    def free(self) -> bool:
        """Tell whether there is no limit: no call was throttled, or the pace has climbed beyond any limit since."""
        return not self._rate

    def turn(self, now: float) -> Turn:
        """Return the next turn. Turns are spread evenly, and each raises the rate a little."""
        if self.free:
            return AT_ONCE
        turn = Turn(max(now, self._next), self._rate, self._era)
        self._next = turn.at + 1 / self._rate
        if turn.at > now:
            # If no call has to wait, the rate is not tried, so it does not rise.
            self._rate += self._climb / self._rate
        if self._rate > self._high:
            self._foot, self._high = self._high, self._high + 2 * (self._high - self._foot)
            self._climb *= 4
        if self._rate > _FREE:
            self._rate = 0.0
        return turn

    def holds(self, turn: Turn) -> bool:
        """Tell whether a turn is still valid. A throttling takes back all turns that were not used."""
        return turn.era == self._era or self.free

    def passed(self, turn: Turn, now: float) -> None:
        """Note that a call was answered and not throttled."""
        if self.free:
            self._times.append(now)
        elif turn.era >= self._first_era:
            self._count += 1

    def throttled(self, turn: Turn, now: float, asked: float) -> None:
        """Note that a call was throttled. asked: the pause that the service asked for, in seconds, or 0.

        A call that was sent before the last decrease says nothing new about the rate. It may ask for a longer pause.
        """
        if self.free or turn.era >= self._first_era:
            asked = asked or _PAUSE
            self._decrease(turn, now, asked)
        elif now + asked <= self._quiet_until:
            return
        self._era += 1
        self._quiet_until = max(self._quiet_until, now + asked)
        self._next = self._resumed = self._quiet_until + self._chance() / self._rate

    def _decrease(self, turn: Turn, now: float, pause: float) -> None:
        self._low, high = self._first_bounds(now) if self.free else self._bounds(turn, now)
        self._rate = self._foot = max(math.sqrt(self._low * high) * _BELOW_MIDDLE, _SLOWEST)
        self._high = max(high, self._foot * _LEAST_CLIMB)
        cost = pause + _COST_CALLS / self._rate
        self._climb = (self._high - self._foot) * (1 - self._foot / self._high) / (_CLIMB_COSTS * cost)
        self._count, self._since = 0, now
        self._first_era = self._era + 1

    def _first_bounds(self, now: float) -> tuple[float, float]:
        """Return (low, high) at the first throttling. The calls just before may all have been one burst."""
        times = [time for time in self._times if time > now - _BURST_SECONDS] or [now]
        span = max(now - times[0], _LEAST_SPAN)
        return len(times) / (span + _BURST_SECONDS), len(times) / span

    def _bounds(self, turn: Turn, now: float) -> tuple[float, float]:
        """Return (low, high) at a later throttling. The service allows at least the average since the last one."""
        pause = max(0.0, min(self._resumed, now) - self._since)
        span = now - self._since - max(0.0, pause - _BURST_SECONDS)
        average = self._count / span if span > 0 else 0.0
        known = self._low if self._low < turn.rate else turn.rate * _DECREASE
        return min(max(known, average), turn.rate), turn.rate
