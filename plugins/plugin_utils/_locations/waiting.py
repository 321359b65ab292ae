# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Wait for an answer of another location, but not without end: a key in memory has to get to the fallback directory."""

from __future__ import annotations

import time
import typing as t

from ansible_collections.community.backblaze.plugins.module_utils._errors import StoreError

# The limit gets shorter if the process is stopped, so it is checked this often.
_LOOK_SECONDS = 0.5
# The limit of a process that is stopped. The process needs time to store keys in the fallback directory.
_STOPPED_SECONDS = 30.0

_limit = float("inf")


def hurry() -> None:
    """Shorten every wait of this process, because it was stopped. A signal handler may call this."""
    global _limit  # noqa: PLW0603 - signals belong to the process, and so does the limit
    _limit = _STOPPED_SECONDS


def wait_until(done: t.Callable[[float], bool], seconds: float, problem: str) -> None:
    """Wait until ``done`` returns True; StoreError with the problem after so many seconds.

    done: waits for the given time at most.
    """
    started = time.monotonic()
    while not done(_LOOK_SECONDS):
        limit = min(seconds, _limit)
        if time.monotonic() - started >= limit:
            raise StoreError(f"{problem} within {limit:.0f} seconds.", remedy="Find the cause, then run again.")
