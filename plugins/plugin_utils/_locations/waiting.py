# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Wait for an answer of another location, but not without end: a key in memory has to get to the fallback directory."""

from __future__ import annotations

import time
import typing as t

from ansible_collections.community.backblaze.plugins.module_utils._errors import StoreError
from ansible_collections.community.backblaze.plugins.plugin_utils._run.signals import patience

# The limit gets shorter when the task is stopped from outside, so it is checked this often.
_LOOK_SECONDS = 0.5


def wait_until(done: t.Callable[[float], bool], seconds: float, problem: str) -> None:
    """Wait until ``done`` returns True; StoreError with the problem after so many seconds.

    done: waits for the given time at most.
    """
    started = time.monotonic()
    while not done(_LOOK_SECONDS):
        limit = patience(seconds)
        if time.monotonic() - started >= limit:
            raise StoreError(f"{problem} within {limit:.0f} seconds.", remedy="Find the cause, then run again.")
