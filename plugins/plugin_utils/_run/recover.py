# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Move keys that earlier runs did not store in their files to these files, before the plan is made."""

from __future__ import annotations

import dataclasses
import typing as t

from ansible_collections.community.backblaze.plugins.module_utils._api.partner import Partner
from ansible_collections.community.backblaze.plugins.module_utils._errors import B2Error, StoppedError, StoreError
from ansible_collections.community.backblaze.plugins.module_utils._members import Member, unsafe_name
from ansible_collections.community.backblaze.plugins.module_utils._plan import Open, Stored
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.fallback import FallbackStore, account_in
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.key_file import StoredKey
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.store import Store, secret_of


@dataclasses.dataclass
class Moves:
    """The keys of earlier runs that are moved to their files, or would be in check mode, by address; and warnings."""

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
        """Whether any key is moved. A file that does not decrypt is found and stays where it is."""
        return any(one.path == self.store.file(email) for email, one in self.found.items())

    def move(self, key: StoredKey, path: str, remove: t.Callable[[str], None], proof: str = "") -> bool:
        """Move a key to its file, unless that holds another key; tell whether it is moved, or would be in check mode.

        path: the present file of the key. remove: removes that file. proof: a sentence about the owner of the key.
        """
        email = key.email
        there = secret_of(self.store, email)
        if any(there) and there != key.secret:
            return False
        try:
            # The member need not be wanted, so its file was not proven before.
            self.store.prove_nothing_switched_off([email])
        except StoreError as exc:
            self.notes.append(f"The key of {email} stays in {path}. {exc}")
            return False
        if self.write:
            self.store.seal(key)
            remove(path)
        # If an earlier run was killed before it removed the file, the key itself is not new.
        if not any(there):
            file = self.store.file(email)
            self.found[email] = key.known(file)
            self.notes.append(f"The key of {email} {self.done} moved from {path} to {file}.{proof}")
        return True


def recover(entries: t.Sequence[Open], members: t.Mapping[str, Member], moves: Moves) -> None:
    """Move keys that a killed run left in temporary files."""
    for entry in entries:
        member = members.get(entry.email)
        recovered = moves.store.recover(entry.email, member.account_id, write=moves.write) if member else None
        if not recovered:
            continue
        moves.found[entry.email] = recovered
        if recovered.path == moves.store.file(entry.email):
            note = (
                f"A run was killed before the key of {entry.email} was in its file. The key {moves.done} moved there."
            )
        else:
            note = (
                f"{recovered.path} may hold the key of {entry.email}, and does not decrypt with the vault secrets of "
                "this run. A killed run left it: it is torn, or encrypted with another password. It was not changed."
            )
        moves.notes.append(note)


def seal_from_fallback(fallback: FallbackStore, members: t.Mapping[str, Member], moves: Moves) -> None:
    """Move keys of this Group's members from the fallback directory to their files."""
    accounts = {member.account_id: email for email, member in members.items()}
    for path, found in fallback.found():
        if not found:
            owner = accounts.get(account_in(path))
            if owner and not unsafe_name(owner) and moves.store.read(owner) is None:
                raise StoreError(
                    f"{path} holds the key of {owner} and does not decrypt.",
                    remedy="Give the run the vault password of that file.",
                )
            continue
        member = members.get(found.email)
        if not found.unproven and member and found.account_id in ("", member.account_id):
            moves.move(dataclasses.replace(found, account_id=member.account_id), path, fallback.remove)


def try_unproven(
    client: Partner, fallback: FallbackStore, entries: t.Sequence[Open], members: t.Mapping[str, Member], moves: Moves
) -> dict[str, str]:
    """Try the unproven keys of earlier runs, and move each to the file of the member whose account it opens.

    Return the path of each key that is still unproven, by the address that it arrived for.
    """
    unproven: dict[str, str] = {}
    accounts = {
        member.account_id: dataclasses.replace(member, email=email)
        for email, member in members.items()
        if not unsafe_name(email)
    }
    aside = [(entry.email, *found) for entry in entries for found in moves.store.unproven.of(entry.email).items()]
    # In the layout group_vars, a file that does not decrypt is found for each open address of the Group.
    moves.notes += [
        f"{path} is the file of an unproven key, and does not decrypt with the vault secrets of this run: it is torn, "
        "or encrypted with another password. If you have that password, give it to the run and run again."
        for path in dict.fromkeys(path for _email, path, key in aside if key is None)
    ]
    waiting = [(email, path, key, moves.store.unproven.discard) for email, path, key in aside if key]
    waiting += [(key.email, path, key, fallback.remove) for path, key in fallback.found() if key and key.unproven]
    for arrived_for, path, key, remove in waiting:
        owner = None
        try:
            owner = accounts.get(client.opens(*key.secret))
        except StoppedError:
            raise
        except B2Error as exc:
            moves.notes.append(
                f"The owner of the key in {path} is not known, because the key could not be tried. {exc.explain()}"
            )
        proof = " It was tried, and opens the account of that member."
        if owner is None or not moves.move(key.of(owner), path, remove, proof):
            unproven[arrived_for] = path
    return unproven
