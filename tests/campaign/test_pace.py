# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Manners: a service is asked for more until it throttles, seldom throttles once the pace is found, and no key is lost
on the way.

The rates are far below what a busy machine can do, so that the service limits the run, and not the machine.
"""

from __future__ import annotations

import re

from conftest import CREATE, LONG, PATIENCE

CONCURRENCY = 16
LATENCY_MS = 50
#: Creates a second that the stand-in allows. It lets as many through at once as it allows in a second, and asks for a
#: pause of a second.
RATES = (5, 10)
#: So long does a run take that is driven at all that is allowed; the first part of it is for finding out how much that
#: is.
SECONDS = 90 if LONG else 40
SETTLED_AFTER = 4.0


def settled_part(log):
    """Return (creates made a second, share of them that were throttled, seconds) from the stand-in's log, some seconds
    after the first."""
    creates = [call for call in log if call["operation"] == CREATE]
    start, end = min(call["at"] for call in creates) + SETTLED_AFTER, max(call["at"] for call in creates)
    settled = [call for call in creates if call["at"] > start]
    made = sum(call["status"] == 200 for call in settled)
    return made / (end - start), 1 - made / len(settled), end - start


def test_the_workers_find_the_pace_of_a_service_that_throttles(campaigns):
    """All rates at the same time: most of it is waiting."""
    runs = []
    for rate in RATES:
        campaign = campaigns(f"rate-{rate}", creates_per_second=rate, latency_ms=LATENCY_MS)
        wanted = campaign.addresses(rate * SECONDS)
        runs.append((rate, campaign, wanted, campaign.start(campaign.play(wanted, concurrency=CONCURRENCY))))

    for rate, campaign, wanted, run in runs:
        result = run.end(PATIENCE + 2 * SECONDS)
        found = campaign.outcomes(result, wanted)
        assert set(found) == {"created"}, f"{result['counts']}; {run.output}"
        count = campaign.count(result, campaign.vault_dir)
        assert count.holds and not count.lost and count.sealed == len(wanted), f"{count}; {run.output}"
        # A user who watches sees that it goes on, and for how long.
        line = r"community\.backblaze: Group hosting: (\d+) of (\d+) members, [\d.]+ a second, about \d+ s left"
        told = re.findall(line, run.output)
        counts = [int(done) for done, _all in told]
        assert len(told) > 1 and counts == sorted(counts) and {int(every) for _done, every in told} == {len(wanted)}, (
            run.output
        )
        log = campaign.server.log()
        made, throttled, seconds = settled_part(log)
        all_throttled = sum(call["status"] == 429 for call in log)
        print(
            f"pace: {rate} a second allowed: {made:.1f} made ({made / rate:.1%}), {throttled:.1%} throttled over "
            f"the last {seconds:.0f} s "
            f"(in all {all_throttled} of {len(log)} calls); {count}"
        )
        assert all_throttled, "the service had no reason to throttle, so no pace was looked for"
        assert made >= 0.9 * rate
        assert throttled < 0.05
