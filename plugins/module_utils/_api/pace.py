# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How fast calls may be sent: as fast as they come until the service throttles, then at a pace that finds the limit again by itself.

Two rates are known of the limit, after the first throttling: ``low`` went well from one throttling to the next, pauses included, and ``high``
was too much at that moment. Neither is the limit: a service that lets bursts through is fooled by a high rate for a while, and with the pauses
less than the limit may have been used. So the pace starts in the middle between the two and climbs evenly towards ``high``, until the next
throttling brings them closer together. The closer they are, the slower is the climb: each throttling costs the pause that the service asks for,
and is to be rare. A climb that gets beyond ``high`` goes on faster and faster, for then the limit is not what it was.
"""

from __future__ import annotations

import collections
import math
import random
import typing as t

# From the very middle, a limit that is known well would be met again at once.
_BELOW_MIDDLE = 0.98
# What is left of ``low`` where even that was too much.
_DECREASE = 0.5
# How far a climb goes at least, or it would take minutes until a service that allows more is found out.
_LEAST_CLIMB = 1.05
# A climb takes so many times what a throttling costs, divided by the share of the rate that is to be won.
_CLIMB_COSTS = 4.0
# A throttling costs its pause and the time of so many calls.
_COST_CALLS = 2.0
# The pause where none is asked for, in seconds: without one, most of the next calls would be throttled too.
_PAUSE = 1.0
# What a service lets through at once, after a pause or at first, is taken for what it allows in so many seconds.
_BURST_SECONDS = 2.0
# Bounds, in seconds and in calls a second: two answers may come at the same time, a slower pace helps nobody, and nobody gets to the last.
_LEAST_SPAN = 0.05
_SLOWEST = 0.2
_FREE = 10000.0


class Turn(t.NamedTuple):
    """Leave to send one call.

    at: from when on. rate: in calls a second, what was tried with it. era: which throttlings it is that the turn takes into account.
    """

    at: float
    rate: float
    era: int


#: Everybody's turn as long as nothing was throttled.
AT_ONCE = Turn(0.0, 0.0, 0)


class Pace:
    """When the next call may be sent, as a function of time and of what became of the calls before.

    Whoever wants to send takes a ``turn``, waits until then, and sends if it ``holds`` and else takes another one; then tells what came of it:
    ``passed`` or ``throttled``. Times are seconds of one clock that does not jump. Threads share a pace under a lock, but ``free`` and ``holds``
    need none. chance: gives a number from 0 to 1, so that several runs do not come back from a pause at the same moment.
    """

    def __init__(self, chance: t.Callable[[], float] = random.random) -> None:
        self._chance = chance
        # In calls a second; 0 where there is no limit.
        self._rate = self._low = 0.0
        # The climb: from where to where, and by how much each second.
        self._foot = self._high = self._climb = 0.0
        self._next = self._quiet_until = 0.0
        self._era = self._first_era = 0
        # While there is no limit: when the last calls passed.
        self._times: collections.deque[float] = collections.deque(maxlen=1000)
        # With one: how many passed since the last decrease, when that was, and when its pause was over.
        self._count = 0
        self._since = self._resumed = 0.0

    @property
    def free(self) -> bool:
        """Whether there is no limit: nothing was throttled, or so long ago that it does not matter any more."""
        return not self._rate

    def turn(self, now: float) -> Turn:
        """Return the next turn: they are spread evenly, and each raises the rate a little."""
        if self.free:
            return AT_ONCE
        turn = Turn(max(now, self._next), self._rate, self._era)
        self._next = turn.at + 1 / self._rate
        if turn.at > now:
            # Where nobody has to wait the rate is not really tried, and does not rise.
            self._rate += self._climb / self._rate
        if self._rate > self._high:
            self._foot, self._high = self._high, self._high + 2 * (self._high - self._foot)
            self._climb *= 4
        if self._rate > _FREE:
            self._rate = 0.0
        return turn

    def holds(self, turn: Turn) -> bool:
        """Tell whether a turn still stands: a throttling takes back all that were not used."""
        return turn.era == self._era or self.free

    def passed(self, turn: Turn, now: float) -> None:
        """Take note that a call was answered, and not throttled."""
        if self.free:
            self._times.append(now)
        elif turn.era >= self._first_era:
            self._count += 1

    def throttled(self, turn: Turn, now: float, asked: float) -> None:
        """Take note that a call was throttled: nobody gets a turn for as many seconds as were ``asked``, 0 where the service did not say.

        What was sent before the last decrease says nothing new about the rate; it may ask for a longer pause.
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
        """Return (low, high) at the first throttling: what passed just before may all have been a burst."""
        times = [time for time in self._times if time > now - _BURST_SECONDS] or [now]
        span = max(now - times[0], _LEAST_SPAN)
        return len(times) / (span + _BURST_SECONDS), len(times) / span

    def _bounds(self, turn: Turn, now: float) -> tuple[float, float]:
        """Return (low, high) at a later throttling: what passed since the last one is no more than the service allows in that time."""
        pause = max(0.0, min(self._resumed, now) - self._since)
        span = now - self._since - max(0.0, pause - _BURST_SECONDS)
        average = self._count / span if span > 0 else 0.0
        known = self._low if self._low < turn.rate else turn.rate * _DECREASE
        return min(max(known, average), turn.rate), turn.rate
