# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Find another run in a Group, for check mode and the audit, which take no lock."""

from __future__ import annotations

import typing as t

from ansible_collections.community.backblaze.plugins.module_utils._errors import StoreError
from ansible_collections.community.backblaze.plugins.module_utils._plan import Open
from ansible_collections.community.backblaze.plugins.plugin_utils._run.journal import open_journal
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.store import Store


class OtherRun(t.NamedTuple):
    """The open addresses in the journal of a Group, and the run that has the lock, empty if there is none.

    problem: why that is not known, such as because the user may read the keys but not the journal.
    """

    entries: list[Open]
    run: str = ""
    problem: str = ""

    @property
    def notes(self) -> tuple[str, ...]:
        """Warnings about the other run."""
        if self.problem:
            return (f"Whether a run is under way is not known. {self.problem}",)
        return (f"A run is under way: {self.run}. Members that it is creating are not checked.",) if self.run else ()

    @property
    def reasons(self) -> dict[str, str]:
        """Why the outcome of some members is not known yet, by address."""
        reason = f"A run is under way, and this member is open in its journal: {self.run}. Run again when it has ended."
        return dict.fromkeys((entry.email for entry in self.entries), reason) if self.run else {}


def look(store: Store, group_id: str) -> OtherRun:
    """Read the journal of a Group and find the run that has its lock, without waiting and without changes.

    Call this after the members are listed, and read the stored keys again afterwards: a run closes an address in the
    journal after the key is stored, so each new member is in one of the two.
    """
    store.location.fetch()
    try:
        before = store.holder(group_id)
        with open_journal(store, group_id, 0.0, lambda seconds: None, write=False) as journal:
            entries = journal.entries(group_id)
        return OtherRun(entries, before or store.holder(group_id))
    except StoreError as exc:
        return OtherRun([], problem=exc.happened)
