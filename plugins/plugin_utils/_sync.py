# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Share one sync to disk among all threads that wait for it."""

from __future__ import annotations

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
        self._counting = threading.Lock()
        self._working = threading.Lock()
        self._asked = 0
        self._done = 0
        # (after, up to, error): the kernel tells of a failed sync once only.
        self._failed: list[tuple[int, int, Exception]] = []

    def __call__(self, work: t.Callable[[], None]) -> None:
        """Return when a round is done that began after this was called; OSError or StoreError where it failed."""
        with self._counting:
            self._asked += 1
            mine = self._asked
        with self._working:
            for after, upto, error in self._failed:
                if after < mine <= upto:
                    raise copy.copy(error)
            if mine <= self._done:
                return
            upto = self._asked
            try:
                work()
            except (OSError, StoreError) as exc:
                self._failed.append((self._done, upto, exc))
                raise
            self._done = upto
