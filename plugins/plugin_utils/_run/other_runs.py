# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Another run that is under way in a Group, for check mode and the audit: these only read, and take no lock."""

from __future__ import annotations

import typing as t

from ansible_collections.community.backblaze.plugins.module_utils._errors import StoreError
from ansible_collections.community.backblaze.plugins.module_utils._plan import Open
from ansible_collections.community.backblaze.plugins.plugin_utils._run.journal import Journal
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.store import Store


class UnderWay(t.NamedTuple):
    """What the journal of a Group has open, and the run that is under way there; empty if there is none.

    problem: why that is not known, such as for a user who may read the keys and not the journal.
    """

    entries: list[Open]
    run: str = ""
    problem: str = ""

    @property
    def notes(self) -> tuple[str, ...]:
        """What is to be said of it."""
        if self.problem:
            return (f"Whether a run is under way is not known. {self.problem}",)
        return (f"A run is under way: {self.run}. Members that it is creating are not looked at.",) if self.run else ()

    @property
    def reasons(self) -> dict[str, str]:
        """Why nothing can be said of some members yet, by address."""
        reason = f"A run is under way that is at this member: {self.run}. Run again when it has ended."
        return dict.fromkeys((entry.email for entry in self.entries), reason) if self.run else {}


def look(store: Store, group_id: str) -> UnderWay:
    """Read the journal of a Group and find out which run is under way there; neither waits nor changes anything.

    Call it when the members are listed, and read the stored keys once more after that: a run closes an address in its
    journal when the key is stored, so that each new member is in one of the two.
    """
    directory = store.directory
    directory.location.fetch()
    try:
        before = directory.holder(group_id)
        with directory.state(group_id) as state:
            entries = Journal(state, directory.state_path(group_id), writable=False).entries(group_id)
        return UnderWay(entries, before or directory.holder(group_id))
    except StoreError as exc:
        return UnderWay([], problem=exc.happened)
