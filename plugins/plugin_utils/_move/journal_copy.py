# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Move the record of lost keys along with the keys of a Group. This record is only in the journal."""

from __future__ import annotations

import contextlib
import typing as t

from ansible_collections.community.backblaze.plugins.module_utils._vault_mode import PRIVATE, Modes
from ansible_collections.community.backblaze.plugins.plugin_utils._run.journal import Journal

#: Path of the directory of a journal, and the open directory.
State = tuple[str, int]


def hand_over(
    source: State, target: State, group_ids: t.Collection[str], kept: t.Collection[str], modes: Modes = PRIVATE
) -> list[str]:
    """Move the entries of accounts whose key is lost to another journal; the caller holds both locks.

    Return the addresses whose create a killed run was about to send. Their entries stay in the old journal, because
    only a run in the old directory finds their keys. Raises StoreError if a journal cannot be written.

    kept: addresses whose entries stay as well.
    """
    read = Journal(source[1], source[0], writable=False)
    entries = [entry for group_id in group_ids for entry in read.entries(group_id)]
    lost = [entry for entry in entries if entry.account_id and entry.email not in kept]
    unsettled = sorted(entry.email for entry in entries if not entry.account_id)
    if not lost:
        return unsettled
    with contextlib.ExitStack() as stack:
        here, there = (Journal(state, path, modes=modes) for path, state in (source, target))
        for journal in (here, there):
            stack.callback(journal.finish)
        known = {
            (entry.group_id, entry.email): entry.account_id
            for group_id in group_ids
            for entry in there.entries(group_id)
        }
        for entry in lost:
            account = known.get((entry.group_id, entry.email))
            if account is None:
                there.note(entry)
            # After the new entry is on disk. With an entry in both journals, the account could be replaced twice.
            if account in (None, entry.account_id):
                here.close(entry.group_id, entry.email)
    return unsettled
