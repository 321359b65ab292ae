# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Keys that earlier runs stored somewhere else than in their files, moved there before anything else is planned."""

from __future__ import annotations

import dataclasses
import os
import typing as t

from ansible_collections.community.backblaze.plugins.module_utils._api.partner import Client
from ansible_collections.community.backblaze.plugins.module_utils._errors import B2Error, StoppedError, StoreError
from ansible_collections.community.backblaze.plugins.module_utils._members import Member, folded, unsafe_name
from ansible_collections.community.backblaze.plugins.module_utils._plan import Open, Stored
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.fallback import UNPROVEN, FallbackStore
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.key_file import as_new_member
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.store import Store


@dataclasses.dataclass
class Moves:
    """Keys of earlier runs that are moved to their files, or in check mode would be. found: by address. notes: what is to be said."""

    store: Store
    write: bool
    found: dict[str, Stored] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)

    @property
    def done(self) -> str:
        """The verb for a note."""
        return "was" if self.write else "would be"

    @property
    def any(self) -> bool:
        """Whether any key is moved; what does not decrypt is found where it is, and stays there."""
        return any(one.path == self.store.file(email) for email, one in self.found.items())

    def fit(self, email: str, path: str) -> bool:
        """Tell whether a key can be moved to its file; if not, note why. Its member need not be a wanted one."""
        try:
            self.store.prove_nothing_switched_off([email])
        except StoreError as exc:
            self.notes.append(f"The key of {email} stays in {path}. {exc}")
            return False
        return True


def recover(entries: t.Sequence[Open], members: t.Mapping[str, Member], moves: Moves) -> None:
    """Find keys that a killed run saved beside their place, and move them there."""
    for entry in entries:
        recovered = (
            moves.store.recover(entry.email, members[entry.email].account_id, write=moves.write)
            if entry.email in members
            else None
        )
        if recovered:
            moves.found[entry.email] = recovered
            moves.notes.append(
                f"The key of {entry.email} was written by a run that was killed before it was in its place; it {moves.done} put there."
                if recovered.path == moves.store.file(entry.email)
                else f"{recovered.path} may hold the key of {entry.email}, and does not decrypt with the vault secrets of this run: a run that was "
                "killed left it there, torn or under another password. It is left alone."
            )


def seal_from_fallback(fallback: FallbackStore, members: t.Mapping[str, Member], moves: Moves) -> None:
    """Find keys that an earlier run saved in the fallback place, and move those of members of this Group to their own."""
    accounts = {member.account_id: member for member in members.values()}
    for path, variables in fallback.found():
        if not variables:
            owner = accounts.get(os.path.basename(path).partition("-")[0])
            if owner and not unsafe_name(folded(owner.email)) and moves.store.read(folded(owner.email)) is None:
                raise StoreError(
                    f"{path} holds the key of {owner.email} and does not decrypt.",
                    remedy="Give the run the vault password of that file.",
                )
            continue
        new = as_new_member(variables)
        email = new.member.email
        if (
            UNPROVEN in variables
            or email not in members
            or new.member.account_id not in ("", members[email].account_id)
        ):
            continue
        new = dataclasses.replace(new, member=dataclasses.replace(new.member, account_id=members[email].account_id))
        there = moves.store.key(email)
        if (any(there) and there != (new.key_id, new.key)) or not moves.fit(email, path):
            continue
        if moves.write:
            # Nothing new where a run was killed between the two.
            moves.store.seal(new)
            fallback.remove(path)
        if any(there):
            continue
        moves.found[email] = Stored(new.member.account_id, new.key_id, moves.store.file(email), new.member.group_id)
        moves.notes.append(f"The key of {email} {moves.done} moved from {path} to {moves.store.file(email)}.")


def try_doubtful(
    client: Client, fallback: FallbackStore, entries: t.Sequence[Open], members: t.Mapping[str, Member], moves: Moves
) -> dict[str, str]:
    """Try the keys that earlier runs kept because it was not certain whose they are, and move each to the member whose account it opens.

    Return the path of each that is kept as it is, by the address that it was kept for.
    """
    kept: dict[str, str] = {}
    accounts = {
        member.account_id: (folded(member.email), member)
        for member in members.values()
        if not unsafe_name(folded(member.email))
    }
    waiting = [
        (entry.email, path, variables, moves.store.unproven.discard)
        for entry in entries
        for path, variables in moves.store.unproven.of(entry.email).items()
    ]
    waiting += [
        (folded(variables["b2_email"]), path, variables, fallback.remove)
        for path, variables in fallback.found()
        if UNPROVEN in variables
    ]
    for kept_for, path, variables, remove in waiting:
        new = as_new_member(variables)
        kept[kept_for] = path
        try:
            account = client.opens(new.key_id, new.key)
        except StoppedError:
            raise
        except B2Error as exc:
            moves.notes.append(
                f"The key in {path}, of which it is not certain whose it is, could not be tried. {exc.explain()}"
            )
            continue
        email, owner = accounts.get(account, ("", None))
        there = moves.store.key(email) if owner else ("", "")
        if owner is None or (any(there) and there != (new.key_id, new.key)) or not moves.fit(email, path):
            continue
        del kept[kept_for]
        if moves.write:
            moves.store.seal(dataclasses.replace(new, member=dataclasses.replace(owner, email=email)))
            remove(path)
        if not any(there):
            moves.found[email] = Stored(account, new.key_id, moves.store.file(email), owner.group_id)
            moves.notes.append(
                f"The key in {path} was tried, and opens the account of {email}. It {moves.done} moved to {moves.store.file(email)}."
            )
    return kept
