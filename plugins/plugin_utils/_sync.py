# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Share one sync to disk among all threads that wait for it."""

from __future__ import annotations

import concurrent.futures
import copy
import threading
import typing as t

from ansible_collections.community.backblaze.plugins.module_utils._errors import StoreError


class Shared:
    """Share one round of work, such as a sync, among all threads that asked before the round began.

    A failed round has failed for all of these threads, and no later round repairs that: the kernel reports a failed
    sync only once.
    """

    def __init__(self) -> None:
        self._working = threading.Lock()
        # The next round, which has not begun: the first of its threads that may work does so for all of them.
        self._next: concurrent.futures.Future[None] = concurrent.futures.Future()

    def __call__(self, work: t.Callable[[], None]) -> None:
        """Return when a round is done that began after this call. Raises OSError or StoreError if the round failed."""
        mine = self._next
        with self._working:
            if not mine.done():
                # Before the work: from now on a new call is not part of this round.
                self._next = concurrent.futures.Future()
                try:
                    work()
                    mine.set_result(None)
                except (OSError, StoreError) as exc:
                    mine.set_exception(exc)
        failed = mine.exception()
        if failed:
            raise copy.copy(failed)
