# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Claim the lease of a Group in a remote vault directory, and refresh it while the run is at work."""

from __future__ import annotations

import contextlib
import threading
import time
import typing as t

from ansible_collections.community.backblaze.plugins.module_utils._errors import StoreError
from ansible_collections.community.backblaze.plugins.module_utils._lease import (
    REFRESH_SECONDS,
    STALE_SECONDS,
    Claim,
    Lease,
    new_lease,
)
from ansible_collections.community.backblaze.plugins.plugin_utils._progress import tell_wait

#: Waits for so many seconds, or less if the run is stopped.
Wait = t.Callable[[float], t.Any]

_POLL_SECONDS = 2.0
_STALE = f"{STALE_SECONDS / 60:.0f} minutes"


def wait_for_lease(claim: t.Callable[[Lease, str], Claim], group: str, name: str, patience: float, wait: Wait) -> str:
    """Claim the lease of a Group until it is ours; return a note if it was taken over from another run.

    claim: claims it once, for a lease and instead of another one. name: of the vault directory.
    patience: seconds to wait for another run, after which StoreError names that run.
    """
    lease, instead_of = new_lease(), ""
    deadline = time.monotonic() + patience
    told = False
    while not (answer := claim(lease, instead_of)).ours:
        other = answer.other or Lease()
        happened = f"Another run works on Group {group} in {name}: {other}."
        if other.dead and other.id != instead_of:
            instead_of = other.id
        elif time.monotonic() >= deadline:
            raise StoreError(
                happened,
                remedy="Wait for that run to end, then run again, or raise vault_lock_timeout. "
                f"If it was killed on another machine, its lease is taken over after {_STALE}.",
            )
        else:
            if not told:
                told = True
                tell_wait(happened, patience)
            wait(_POLL_SECONDS)
    former = answer.other
    if not former or former.released:
        return ""
    why = "has ended without giving it up" if former.dead else f"has not refreshed it for {_STALE}"
    return f"The lease of Group {group} in {name} was taken over from {former}, which {why}."


class Heartbeat:
    """Refreshes a lease from a thread of its own while it is entered."""

    def __init__(self, refresh: t.Callable[[], None]) -> None:
        self._refresh = refresh
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="b2-lease", daemon=True)

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(self, *_why: object) -> None:
        self._end.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._end.wait(REFRESH_SECONDS):
            # Any error: without this thread the lease gets stale while the run goes on, and the next refresh may work.
            with contextlib.suppress(Exception):
                self._refresh()
