# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Move the record of lost keys along with the keys of a Group. This record is only in the journal."""

from __future__ import annotations

import typing as t

from ansible_collections.community.backblaze.plugins.plugin_utils._run.journal import Journal


def move_entries(source: Journal, target: Journal, group_ids: t.Collection[str], kept: t.Collection[str]) -> list[str]:
    """Move the entries of accounts whose key is lost to another journal; the caller holds both locks.

    Return the addresses whose create a killed run was about to send. Their entries stay in the old journal, because
    only a run in the old directory finds their keys. Raises StoreError if a journal cannot be written.

    kept: addresses whose entries stay as well.
    """
    entries = [entry for group_id in group_ids for entry in source.entries(group_id)]
    known = {
        (entry.group_id, entry.email): entry.account_id for group_id in group_ids for entry in target.entries(group_id)
    }
    for entry in entries:
        if entry.account_id and entry.email not in kept:
            account = known.get((entry.group_id, entry.email))
            if account is None:
                target.note(entry)
            # After the new entry is on disk. With an entry in both journals, the account could be replaced twice.
            if account in (None, entry.account_id):
                source.close(entry.group_id, entry.email)
    return sorted(entry.email for entry in entries if not entry.account_id)
