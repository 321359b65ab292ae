# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Decide, then act: from what is wanted, what is there and what is stored to what will be done. Pure.

Check mode, diff, result and calls all come from the plan made here; there is no second way to any of them.
"""

from __future__ import annotations

import dataclasses
import enum
import typing as t

from ansible_collections.community.backblaze.plugins.module_utils._errors import (
    ApiError,
    B2Error,
    KeyLostError,
    recreate_line,
)
from ansible_collections.community.backblaze.plugins.module_utils._members import Member, NewMember, Proof, folded


class Outcome(str, enum.Enum):
    """What became of a wanted member: one vocabulary in results, documentation and tests."""

    UNCHANGED = "unchanged"
    CREATED = "created"
    KEY_MISSING = "key_missing"
    KEY_LOST = "key_lost"
    CONFLICT = "conflict"
    REFUSED = "refused"
    NOT_ATTEMPTED = "not_attempted"
    KEY_DEAD = "key_dead"
    EJECTED = "ejected"
    ABSENT = "absent"


_TAKE_OUT = "take the stored one out of the vault, which with the layout host_vars is its file and with group_vars its line, and keep it"
#: What each outcome means, and what to do about it: the guide to errors is made from this.
OUTCOMES: t.Mapping[Outcome, tuple[str, str]] = {
    Outcome.UNCHANGED: ("It is in the Group, and its key is stored.", "Nothing."),
    Outcome.CREATED: ("It was made by this run, and its key is sealed.", "Back up the vault directory, or commit it."),
    Outcome.KEY_MISSING: (
        "It is in the Group, but no key is stored for it: made elsewhere, or its key is in another directory. Or a key to adopt opens nothing.",
        (
            "Look for its key file in backups and other directories. If you have the key elsewhere, adopt it: give the member's entry "
            "application_key_id and application_key. Else sign in as the member, make a new key, and adopt that. With on_key_missing: warn the "
            "task does not fail meanwhile."
        ),
    ),
    Outcome.KEY_LOST: (
        "It was made by this collection, or most likely was, but the answer with the key never arrived.",
        (
            "Sign in as the member, make a new key and adopt it. Or have the account replaced: name its address in recreate_members, with the line "
            "that the message gives. The account is ejected then, and the member is recreated. on_key_lost: recreate does that by itself, but "
            "only for a key that is lost in the same run."
        ),
    ),
    Outcome.CONFLICT: (
        (
            "It is not as asked: in another region; the stored key is another, or of another account, or of one that is not in the Group; a key "
            "to adopt opens another account, or is for nobody in the Group; or the answer to its creation held a key that is not certainly its own."
        ),
        f"Do as the message says; a region cannot be changed, so mend the list. Where a key is in the way, {_TAKE_OUT}: its account may be alive.",
    ),
    Outcome.REFUSED: ("Backblaze said no.", "Look its code up below."),
    Outcome.NOT_ATTEMPTED: (
        "The run ended before it was this member's turn; or Backblaze gave no answer, and a look-up did not find the member.",
        "Mend what the task's message names, and run again.",
    ),
    Outcome.KEY_DEAD: (
        (
            "With verify_keys: its stored key was tried, and Backblaze refuses it: it was deleted or has expired. If every key is refused, the "
            "service may be at fault: run again later first."
        ),
        f"Sign in as the member and make a new key; {_TAKE_OUT}; then adopt the new key.",
    ),
    Outcome.EJECTED: (
        "It left the Group. The account lives on, with its data and its keys.",
        "Nothing; it cannot be undone.",
    ),
    Outcome.ABSENT: ("It was to leave, and is not in the Group.", "Nothing."),
}


def outcome_of(error: B2Error) -> Outcome:
    """Say what became of a member whose creation ended in an error."""
    if isinstance(error, KeyLostError):
        return Outcome.KEY_LOST
    return Outcome.REFUSED if isinstance(error, ApiError) else Outcome.NOT_ATTEMPTED


CHANGES = frozenset({Outcome.CREATED, Outcome.EJECTED})


@dataclasses.dataclass(frozen=True)
class Wanted:
    """A member as the user wants it; ``email`` in lower case, ``region`` None for "whatever it is".

    key_id, key: a key that the user has of a member made elsewhere, to be adopted.
    """

    email: str
    region: t.Optional[str] = None
    key_id: str = ""
    key: str = dataclasses.field(default="", repr=False)


@dataclasses.dataclass(frozen=True)
class Stored:
    """What is known of a stored key, without the key. ``key_id`` is empty where only part of a key could be saved."""

    account_id: str
    key_id: str
    path: str = ""
    group_id: str = ""


@dataclasses.dataclass(frozen=True)
class KeyState:
    """What is known about the key of one address, where keys are stored at all.

    lost: the journal says that the account's key never arrived here; proven: and that we made the account. recreate: the user's word that it is
    to be replaced then, without which nothing that the journal says has an account ejected: others may write to that file.
    parked: where an earlier run stored the key, if not in its place. kept: where an earlier run kept a key that is not shown to be the member's.
    stored_opens, given_opens: the account that the stored or the given key opens, empty for none, None where it was not tried.
    stored_untried, given_untried: why it could not be tried.
    given_differs: whether a given key is another than the stored one. all_refused: whether Backblaze refuses every key that was tried.
    """

    stored: t.Optional[Stored] = None
    lost: bool = False
    proven: bool = False
    recreate: bool = False
    parked: str = ""
    kept: str = ""
    stored_opens: t.Optional[str] = None
    given_opens: t.Optional[str] = None
    stored_untried: str = ""
    given_untried: str = ""
    given_differs: bool = False
    all_refused: bool = False


@dataclasses.dataclass(frozen=True)
class Step:
    """What will be done about one wanted member, and what will have become of it if all goes well.

    replaces: an account of ours whose key is lost, to be ejected before the address is created anew. adopts: whether the given key
    will be stored.
    """

    wanted: Wanted
    outcome: Outcome
    member: t.Optional[Member] = None
    message: str = ""
    replaces: t.Optional[Member] = None
    adopts: bool = False

    @property
    def changes(self) -> bool:
        """Whether this step changes anything, at Backblaze or in the vault."""
        return self.outcome in CHANGES or self.adopts


def decide_present(wanted: Wanted, member: t.Optional[Member], keys: t.Optional[KeyState] = None) -> Step:
    """Decide about one member that has to be in the Group.

    member: as it is in the Group now. keys: None where keys are not stored here.
    """
    if member is None:
        return _decide_missing(wanted, keys)
    if wanted.region and member.region and wanted.region != member.region:
        return Step(
            wanted,
            Outcome.CONFLICT,
            member,
            f"It is in region {member.region}, not in {wanted.region}; a region is fixed when the account is created.",
        )
    if keys is None:
        return Step(wanted, Outcome.UNCHANGED, member)
    stored = keys.stored
    if stored is not None and stored.account_id and stored.account_id != member.account_id:
        return Step(
            wanted,
            Outcome.CONFLICT,
            member,
            f"{stored.path} holds the key of account {stored.account_id}, but the member is account {member.account_id}.",
        )
    if stored is not None and stored.key_id and keys.given_differs:
        return Step(
            wanted,
            Outcome.CONFLICT,
            member,
            f"{stored.path} holds another key than the one that is given. To adopt that one, {_TAKE_OUT}.",
        )
    if stored is not None and stored.key_id:
        message = f"The key in {stored.path} could not be tried. {keys.stored_untried}" if keys.stored_untried else ""
        good = Step(wanted, Outcome.UNCHANGED, member, message)
        dead = f"{_ALL_REFUSED if keys.all_refused else ''}The key in {stored.path}"
        return _decide_opened(wanted, member, keys.stored_opens, dead, good, Outcome.KEY_DEAD)
    if wanted.key and keys.given_untried:
        return Step(
            wanted,
            Outcome.NOT_ATTEMPTED,
            member,
            f"The given key could not be tried and was not stored. {keys.given_untried}",
        )
    if wanted.key:
        adopted = Step(
            wanted, Outcome.UNCHANGED, member, "The given key opens this account, and would be stored.", adopts=True
        )
        # Without proof nothing is written: a key that was not tried counts as one that opens nothing.
        return _decide_opened(wanted, member, keys.given_opens or "", "The given key", adopted, Outcome.KEY_MISSING)
    if keys.parked and not keys.kept:
        message = (
            f"An earlier run stored its key in {keys.parked}. Run b2_group_members with that directory as vault_fallback_dir: "
            "it moves the key to its file."
        )
        return Step(wanted, Outcome.KEY_MISSING, member, message)
    kept = (
        f" The key that came when it was created is kept in {keys.kept}; it is not shown to be this member's."
        if keys.kept
        else ""
    )
    # Where a part of the key could be saved, that is not thrown after the rest.
    if keys.lost and keys.proven and keys.recreate and stored is None:
        return Step(
            wanted,
            Outcome.CREATED,
            message=f"Account {member.account_id}, whose key was lost, would be ejected first.",
            replaces=member,
        )
    if keys.lost:
        return Step(
            wanted, Outcome.KEY_LOST, member, lost_message(wanted.email, member.account_id, proven=keys.proven) + kept
        )
    return Step(
        wanted,
        Outcome.KEY_MISSING,
        member,
        f"Account {member.account_id} is in the Group, but its key is not stored; Backblaze showed it once, when the account was made.{kept}",
    )


def not_attempted(step: Step, reason: str) -> Step:
    """Return a step that does nothing for this reason, if there is one and the member's key is not stored."""
    return (
        Step(step.wanted, Outcome.NOT_ATTEMPTED, step.member, reason)
        if reason and step.outcome is not Outcome.UNCHANGED
        else step
    )


def lost_message(email: str, account_id: str, *, proven: bool) -> str:
    """Say how an account came to be without its key; proven: see Open."""
    if proven:
        return (
            f"Account {account_id} was created by an earlier run, and its key never arrived. Make a new key as the member and adopt it; or, if "
            f"nobody uses the account, have it replaced, with this option: {recreate_line(email)}"
        )
    return (
        f"Account {account_id} is there since an earlier run, which was about to create it, ended before it had the key. Most likely that run made "
        "it, but it may be somebody else's, so recreate_members does not replace it. Make a new key as the member and adopt it; or, if nobody "
        "uses the account, eject it with b2_group_member (state: absent, and new_email to free its address) and run again."
    )


_ALL_REFUSED = "Backblaze refused every key that was tried, so the service may be at fault: run again later before you take any key out of the vault. "


_AGAIN = "Run again: the next run tries the key once more."


def decide_created(new: NewMember, proof: Proof) -> tuple[Outcome, str]:
    """Say what became of a member whose create answer was odd, and why, now that its key was tried."""
    member, opens, email = proof.member, proof.opens, new.member.email
    if opens is None and new.doubt:
        return Outcome.CONFLICT, f"Whose key it is could not be found out. {proof.problem} {_AGAIN}"
    owner = new.member.account_id if opens is None else opens
    whose = f"it opens account {owner}" if owner else "Backblaze refuses it"
    if not owner and not new.doubt:
        return (
            Outcome.KEY_DEAD,
            "The new key was tried, and Backblaze refuses it. Sign in as the member, make a new key, and adopt it.",
        )
    if member is not None and owner != member.account_id:
        remedy = f"Make a new key as the member and adopt it; or, if nobody uses the account, have it replaced, with this option: {recreate_line(email)}"
        return (
            Outcome.KEY_LOST,
            f"The key in that answer is not the one of account {member.account_id}, which is the member: {whose}. {remedy}",
        )
    if member is not None or (owner and owner == new.member.account_id and new.named):
        return Outcome.CREATED, proof.problem
    known = proof.problem or "The member is not found in the Group."
    return Outcome.CONFLICT, f"The key in that answer is not certainly the member's: {whose}. {known} {_AGAIN}"


def _decide_missing(wanted: Wanted, keys: t.Optional[KeyState]) -> Step:
    """Decide about an address that is not in the Group."""
    if keys is not None and keys.stored is not None:
        return Step(
            wanted,
            Outcome.CONFLICT,
            message=f"{keys.stored.path} holds the key of account {keys.stored.account_id}, which is not listed in this Group. The member was not "
            "created, because that would replace the key, and the account may well be alive: ejected, or not listed just now. Keep that file.",
        )
    if wanted.key:
        return Step(
            wanted,
            Outcome.CONFLICT,
            message="A key to adopt is given for it, but it is not in this Group. It was not created.",
        )
    return Step(wanted, Outcome.CREATED)


def _decide_opened(
    wanted: Wanted, member: Member, opens: t.Optional[str], which: str, good: Step, dead: Outcome
) -> Step:
    """Decide by what a key opened when it was tried."""
    if opens is None or opens == member.account_id:
        return good
    if opens:
        return Step(
            wanted,
            Outcome.CONFLICT,
            member,
            f"{which} opens account {opens}, but the member is account {member.account_id}.",
        )
    return Step(wanted, dead, member, f"{which} opens no account: Backblaze refused it.")


def decide_absent(wanted: Wanted, member: t.Optional[Member]) -> Step:
    """Decide about one member that has to leave the Group."""
    return Step(wanted, Outcome.EJECTED if member else Outcome.ABSENT, member)


class Event(str, enum.Enum):
    """What the journal says of an address that it has open."""

    PENDING = "pending"  # a create was about to be sent
    PRESUMED = "presumed"  # and later there was an account, which that run or somebody else has made
    LOST = "lost"  # a create of ours had no answer, and the look-up that followed found the account
    EJECTING = "ejecting"  # such an account was about to be ejected
    PARKED = "parked"  # its key was stored, but not in its place


@dataclasses.dataclass(frozen=True)
class Open:
    """An address that the journal has open. path: where its key is parked. at: since when, ISO 8601 in UTC.

    told: whether a run has reported since that its key is lost.
    """

    email: str
    group_id: str
    event: Event = Event.PENDING
    account_id: str = ""
    path: str = ""
    at: str = dataclasses.field(default="", compare=False)
    told: bool = False

    @property
    def proven(self) -> bool:
        """Whether the journal says that we made the account and that its key never arrived."""
        return self.event in (Event.LOST, Event.EJECTING) and bool(self.account_id)


@dataclasses.dataclass(frozen=True)
class Settled:
    """What became of an address that an earlier run left open.

    ``created`` and sealed; ``key_lost``; ``key_missing``, stored in another place; ``ejected``, to be created anew; or ``absent``, nothing made
    or left since.

    known: whether an earlier run has reported so already. proven: see Open. path: where the key is parked.
    """

    email: str
    outcome: Outcome
    account_id: str = ""
    known: bool = False
    proven: bool = False
    path: str = ""

    def as_dict(self) -> dict[str, t.Any]:
        """Return it as tasks show it."""
        return {"email": self.email, "outcome": self.outcome.value, "account_id": self.account_id}


def settle(entry: Open, member: t.Optional[Member], stored: t.Optional[Stored]) -> Settled:
    """Say what became of an address that the journal has open."""
    if member is None or entry.account_id not in ("", member.account_id):
        # Another account under the address is none of ours.
        return Settled(
            entry.email, Outcome.EJECTED if entry.event is Event.EJECTING else Outcome.ABSENT, entry.account_id
        )
    if stored is not None and stored.key_id and stored.account_id in ("", member.account_id):
        return Settled(entry.email, Outcome.CREATED, member.account_id)
    if entry.event is Event.PARKED:
        return Settled(entry.email, Outcome.KEY_MISSING, member.account_id, known=True, path=entry.path)
    return Settled(entry.email, Outcome.KEY_LOST, member.account_id, known=entry.told, proven=entry.proven)


def all_refused(opened: t.Mapping[str, Proof]) -> bool:
    """Tell whether Backblaze refused every one of several keys, which says more about the service than about the keys."""
    tried = [one.opens for one in opened.values() if one.opens is not None]
    return len(tried) > 1 and not any(tried)


def audit(
    members: t.Sequence[Member],
    stored: t.Mapping[str, Stored],
    opened: t.Mapping[str, Proof],
    under_way: t.Mapping[str, str],
    parked: t.Mapping[str, str],
) -> dict[str, list[dict[str, str]]]:
    """Compare Groups with a vault directory: what each of the two lacks, and keys that are not what they should be.

    members: all of the Groups. stored: the keys of these Groups. opened: by address, what each key opened; empty where none was tried.
    under_way: why nothing can be said of some addresses, which another run is at. parked: paths of keys in the fallback directory, by account.
    """
    there = by_email(members)
    refused = all_refused(opened)
    found: dict[str, list[dict[str, str]]] = {
        "key_missing": [],
        "key_without_member": [],
        "conflict": [],
        "key_dead": [],
        "not_attempted": [],
    }
    for email, member in there.items():
        tried = opened.get(email, Proof())
        keys = KeyState(
            stored=stored.get(email),
            parked=parked.get(member.account_id, ""),
            stored_opens=tried.opens,
            stored_untried=tried.problem,
            all_refused=refused,
        )
        step = not_attempted(decide_present(Wanted(email), member, keys), under_way.get(email, ""))
        # Its key is there, and nothing else can be said of it.
        outcome = "not_attempted" if step.outcome is Outcome.UNCHANGED and tried.problem else step.outcome.value
        if outcome in found:
            found[outcome].append({"email": email, "account_id": member.account_id, "message": step.message})
    for email, key in stored.items():
        if email not in there:
            message = f"{key.path} holds the key of an account that is in none of these Groups."
            found["key_without_member"].append({"email": email, "account_id": key.account_id, "message": message})
    return found


def by_email(members: t.Iterable[Member]) -> dict[str, Member]:
    """Index members by the form of their address in which it is compared."""
    return {folded(member.email): member for member in members}


def diff(steps: t.Sequence[Step]) -> dict[str, str]:
    """Return Ansible's before and after of the planned changes; nothing in it is secret."""
    before: list[str] = []
    after: list[str] = []
    for step in steps:
        leaves = step.replaces or (step.member if step.outcome is Outcome.EJECTED else None)
        if leaves:
            before.append(_line(step.wanted.email, leaves.region))
        if step.outcome is Outcome.CREATED:
            after.append(_line(step.wanted.email, step.wanted.region))
    return {
        "before": "".join(before),
        "after": "".join(after),
        "before_header": "members of the Group",
        "after_header": "members of the Group",
    }


def _line(email: str, region: t.Optional[str]) -> str:
    return f"{email} ({region or 'default region'})\n"
