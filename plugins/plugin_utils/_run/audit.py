# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Compare the members of Groups with the keys in a vault directory."""

from __future__ import annotations

import typing as t

from ansible_collections.community.backblaze.plugins.module_utils._api.partner import Partner
from ansible_collections.community.backblaze.plugins.module_utils._members import Member, unsafe_name
from ansible_collections.community.backblaze.plugins.module_utils._plan import Stored, audit, by_email
from ansible_collections.community.backblaze.plugins.plugin_utils._run.job import Stop
from ansible_collections.community.backblaze.plugins.plugin_utils._run.other_runs import look
from ansible_collections.community.backblaze.plugins.plugin_utils._run.provision import try_keys
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.fallback import FallbackStore
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.store import Store, secret_of

AUDIT_WORKERS = 8


def audit_groups(
    client: Partner, stores: t.Mapping[str, Store], fallback: FallbackStore, stop: Stop, *, verify_keys: bool
) -> tuple[t.Sequence[Member], dict[str, list[dict[str, t.Optional[str]]]], list[str]]:
    """Compare Groups with their stores; return the members of these Groups, the audit, and warnings.

    stores: the store of each Group by its id; all Groups may share one. verify_keys: try each stored key at Backblaze.
    """
    members = client.members_of(list(stores))
    there = by_email(members)
    found: dict[str, tuple[Stored, Store]] = {}
    for store in dict.fromkeys(stores.values()):
        store.prove_not_in_other_layout([email for email in there if not unsafe_name(email)])
        kept = {email: (key, store) for email, key in store.stored().items()}
        found = {**found, **concerned(kept, found, there, stores)}
    reasons: dict[str, str] = {}
    notes: list[str] = []
    for group_id, store in stores.items():
        missing = [email for email, member in there.items() if member.group_id == group_id and email not in found]
        if missing:
            other = look(store, group_id)
            reasons.update(other.reasons)
            notes += other.notes
            # Another run may have sealed these keys since the vault directory was read.
            sealed = store.stored([email for email in missing if not unsafe_name(email)])
            found.update((email, (sealed[email], store)) for email in missing if email in sealed)
    tried = {email: secret_of(store, email) for email, (key, store) in found.items() if verify_keys and key.key_id}
    opened = try_keys(client, tried, AUDIT_WORKERS, stop)
    keys = {email: key for email, (key, _store) in found.items()}
    return members, audit(members, keys, opened, reasons, fallback.paths()), notes


def concerned(
    kept: t.Mapping[str, tuple[Stored, Store]],
    found: t.Collection[str],
    there: t.Mapping[str, Member],
    groups: t.Collection[str],
) -> dict[str, tuple[Stored, Store]]:
    """Return those keys of a store that an audit is about: keys of these Groups, and keys of their present members.

    kept: the keys of the store by address. found: addresses whose key is known from another store. A member who has
    left one Group for another may have a key in both stores: the key of the present Group counts.
    """
    return {
        email: (key, store)
        for email, (key, store) in kept.items()
        if (key.group_id in groups or email in there)
        and (email not in found or (email in there and there[email].group_id == key.group_id))
    }
