# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Decide the step of each wanted member from the Group, the stored keys and the journal. All functions here are pure.

Check mode, the diff, the result and the calls to Backblaze all come from these steps.
"""

from __future__ import annotations

import dataclasses
import enum
import typing as t

from ansible_collections.community.backblaze.plugins.module_utils._errors import (
    LOST_REMEDY,
    ApiError,
    B2Error,
    KeyLostError,
    replace_with,
)
from ansible_collections.community.backblaze.plugins.module_utils._members import Member, NewMember, Proof, folded


class Outcome(str, enum.Enum):
    """Name the outcome of a wanted member: one vocabulary in results, documentation and tests."""

    UNCHANGED = "unchanged"
    CREATED = "created"
    ADOPTED = "adopted"
    KEY_MISSING = "key_missing"
    KEY_LOST = "key_lost"
    CONFLICT = "conflict"
    REFUSED = "refused"
    NOT_ATTEMPTED = "not_attempted"
    KEY_DEAD = "key_dead"
    EJECTED = "ejected"
    ABSENT = "absent"


_TAKE_OUT = "move the stored key out of the vault and keep it (layout host_vars: its file; layout group_vars: its line)"
_ALL_REFUSED = (
    "Backblaze refused every key that was tried, so the service may be at fault: run again later before you take any "
    "key out of the vault. "
)
_AGAIN = "Run again: the next run tries the key once more."
_FIND_KEY = (
    "Backblaze shows a key only once, when the account is created. Look for the key in backups and other vault "
    "directories. Or create a new key in the member's account, and adopt it."
)
#: The meaning of each outcome, and what to do about it. The guide to errors is made from this table.
OUTCOMES: t.Mapping[Outcome, tuple[str, str]] = {
    Outcome.UNCHANGED: ("The member is in the Group, and its key is stored.", "Nothing."),
    Outcome.CREATED: (
        "This run created the member, and its key is sealed.",
        "Back up the vault directory, or commit it.",
    ),
    Outcome.ADOPTED: (
        "The member was in the Group. The given key opens its account, and this run sealed the key.",
        "Back up the vault directory, or commit it.",
    ),
    Outcome.KEY_MISSING: (
        (
            "The member is in the Group, but its key is not stored: this collection did not create the member, or "
            "its key is in another directory. Or Backblaze refuses a key to adopt."
        ),
        (
            "Look for the vault file in backups and other directories. If you have the key, adopt it: give "
            "application_key_id and application_key in the member's entry, or member_application_key_id and "
            "member_application_key in a task of b2_group_member. If nobody has the key, create a "
            "new key in the member's account, and adopt that key. With on_key_missing: warn, the task does not fail "
            "until then."
        ),
    ),
    Outcome.KEY_LOST: (
        "This collection created the account, or most likely did, but the answer with the key never arrived.",
        (
            "Create a new key in the member's account, and adopt it. Or recreate the member: name its address in "
            "recreate_members, with the line that the message contains. The account is then ejected. on_key_lost: "
            "recreate does this by itself, but only for a key that is lost in the same run."
        ),
    ),
    Outcome.CONFLICT: (
        (
            "The member is not as wanted: it is in another region; the stored key is another key, or the key of "
            "another account; a key to adopt opens another account, or its member is not in the Group; or it is not "
            "proven whose key a create answer contained."
        ),
        (
            "Do what the message says. A region cannot be changed, so correct the list. If another key is stored, "
            f"{_TAKE_OUT}: its account may be in use."
        ),
    ),
    Outcome.REFUSED: ("Backblaze refused the request.", "Look up the code below."),
    Outcome.NOT_ATTEMPTED: (
        "The run ended before this member. Or Backblaze gave no answer, and a look-up did not find the member.",
        "Fix the problem that the message of the task names, and run again.",
    ),
    Outcome.KEY_DEAD: (
        (
            "The stored key was tried (verify_keys), and Backblaze refuses it: it was deleted or has expired. If every "
            "key is refused, the service may be at fault: run again later first."
        ),
        f"Create a new key in the member's account; {_TAKE_OUT}; then adopt the new key.",
    ),
    Outcome.EJECTED: (
        "The member left the Group. The account lives on, with its data and its keys.",
        "Nothing. Ejecting cannot be undone.",
    ),
    Outcome.ABSENT: (
        "The member is not in the Group, as wanted. In an audit: a stored key belongs to an account outside the Group.",
        "Nothing. Keep the key in the vault as long as the account may be in use.",
    ),
}


def outcome_of(error: B2Error) -> Outcome:
    """Return the outcome of a member whose create ended in an error."""
    if isinstance(error, KeyLostError):
        return Outcome.KEY_LOST
    return Outcome.REFUSED if isinstance(error, ApiError) else Outcome.NOT_ATTEMPTED


@dataclasses.dataclass(frozen=True)
class Wanted:
    """A member as the user wants it. email: in lower case. region: None for any region.

    key_id, key: a key of an existing member, which the user gives to adopt it.
    """

    email: str
    region: t.Optional[str] = None
    key_id: str = ""
    key: str = dataclasses.field(default="", repr=False)


@dataclasses.dataclass(frozen=True)
class Stored:
    """A stored key, without the key itself. key_id: empty if only a part of the key could be saved."""

    account_id: str
    key_id: str
    path: str = ""
    group_id: str = ""


@dataclasses.dataclass(frozen=True)
class KeyState:
    """The state of one member's key: in the store, in the journal, and at Backblaze.

    stored: the key in the store. lost: whether the journal says that the key of the account never arrived. proven:
    whether the journal also proves that an earlier run created the account. recreate: whether the user names the member
    in recreate_members. Without that, no account is ejected because of the journal: other users may be able to write to
    the journal.
    fallback: the path of the key if an earlier run did not store it in its file. unproven: the path of a key that may
    be the member's, without proof.
    stored_opens, given_opens: the account that the stored or the given key opens, empty if Backblaze refuses the key,
    None if it was not tried.
    stored_untried, given_untried: why the key could not be tried.
    given_differs: whether the given key is not the stored key. all_refused: whether Backblaze refuses every key that
    was tried.
    """

    stored: t.Optional[Stored] = None
    lost: bool = False
    proven: bool = False
    recreate: bool = False
    fallback: str = ""
    unproven: str = ""
    stored_opens: t.Optional[str] = None
    given_opens: t.Optional[str] = None
    stored_untried: str = ""
    given_untried: str = ""
    given_differs: bool = False
    all_refused: bool = False


@dataclasses.dataclass(frozen=True)
class Step:
    """What a run does for one wanted member, and the outcome if that succeeds.

    detail: what is true of this member only. reason: what is the same for every member in this case, with the remedy.
    replaces: the account to eject first, because its key is lost.
    """

    wanted: Wanted
    outcome: Outcome
    member: t.Optional[Member] = None
    detail: str = ""
    reason: str = ""
    replaces: t.Optional[Member] = None

    @property
    def message(self) -> str:
        """The whole message about the member."""
        return f"{self.detail} {self.reason}".strip()

    @property
    def changes(self) -> bool:
        """Whether this step changes anything, at Backblaze or in the vault."""
        return self.outcome in (Outcome.CREATED, Outcome.ADOPTED, Outcome.EJECTED)


#: The outcome of a member in its Group, the detail and the reason (see Step); or None if another case decides.
_Decision = t.Optional[t.Tuple[Outcome, str, str]]


def decide_present(wanted: Wanted, member: t.Optional[Member], keys: t.Optional[KeyState] = None) -> Step:
    """Decide the step of a member that has to be in the Group.

    member: the member as listed in the Group, None if it is not listed. keys: None if the task stores no keys.
    """
    if member is None:
        return _not_in_group(wanted, keys)
    if wanted.region and member.region and wanted.region != member.region:
        detail = f"The member is in region {member.region}, not in {wanted.region}."
        return Step(wanted, Outcome.CONFLICT, member, detail, "A region cannot be changed: correct the entry.")
    if keys is None:
        return Step(wanted, Outcome.UNCHANGED, member)
    outcome, detail, reason = next(filter(None, (case(wanted, member, keys) for case in _CASES)))
    if outcome is Outcome.CREATED:
        return Step(wanted, outcome, None, detail, reason, replaces=member)
    return Step(wanted, outcome, member, detail, reason)


def _not_in_group(wanted: Wanted, keys: t.Optional[KeyState]) -> Step:
    """Create the member, unless its key exists already: the account of that key may be alive."""
    if keys is not None and keys.stored is not None:
        detail = f"{keys.stored.path} holds the key of account {keys.stored.account_id}."
        reason = (
            "A stored key belongs to an account that is not listed in this Group. The member was not created, because "
            "that account may still exist: it was ejected, or is not listed at the moment. Keep the key."
        )
        return Step(wanted, Outcome.CONFLICT, None, detail, reason)
    if wanted.key:
        reason = (
            "A key to adopt is given, but the member is not in this Group. The member was not created. Correct the "
            "address or the Group."
        )
        return Step(wanted, Outcome.CONFLICT, reason=reason)
    return Step(wanted, Outcome.CREATED)


def _stored_for_another_account(wanted: Wanted, member: Member, keys: KeyState) -> _Decision:
    """Report a conflict if the stored key is the key of another account."""
    stored = keys.stored
    if stored is None or stored.account_id in ("", member.account_id):
        return None
    detail = (
        f"{stored.path} holds the key of account {stored.account_id}, but the member is account {member.account_id}."
    )
    return Outcome.CONFLICT, detail, f"The stored key is the key of another account. To adopt a key, {_TAKE_OUT}."


def _stored_differs_from_given(wanted: Wanted, member: Member, keys: KeyState) -> _Decision:
    """Report a conflict if the user gives another key than the stored key."""
    if keys.stored is None or not keys.stored.key_id or not keys.given_differs:
        return None
    detail = f"{keys.stored.path} holds another key than the given key."
    return Outcome.CONFLICT, detail, f"To adopt the given key, {_TAKE_OUT}."


def _stored_key(wanted: Wanted, member: Member, keys: KeyState) -> _Decision:
    """Leave a complete stored key unchanged, unless it was tried and does not open the member's account."""
    if keys.stored is None or not keys.stored.key_id:
        return None
    name = f"The key in {keys.stored.path}"
    untried = f"{name} could not be tried. {keys.stored_untried}" if keys.stored_untried else ""
    remedy = f"{_ALL_REFUSED if keys.all_refused else ''}{OUTCOMES[Outcome.KEY_DEAD][1]}"
    return _wrong_key(member, keys.stored_opens, name, Outcome.KEY_DEAD, remedy) or (Outcome.UNCHANGED, untried, "")


def _given_key(wanted: Wanted, member: Member, keys: KeyState) -> _Decision:
    """Adopt the given key if it opens the member's account."""
    if not wanted.key:
        return None
    if keys.given_untried:
        return Outcome.NOT_ATTEMPTED, "", f"The given key could not be tried and was not stored. {keys.given_untried}"
    # Without proof the key is not stored: a key that was not tried counts as refused.
    remedy = "Give a key of the member's account. The given key was not stored."
    wrong = _wrong_key(member, keys.given_opens or "", "The given key", Outcome.KEY_MISSING, remedy)
    return wrong or (Outcome.ADOPTED, "", "")


def _wrong_key(member: Member, opens: t.Optional[str], name: str, refused: Outcome, remedy: str) -> _Decision:
    """Report a key that was tried and does not open the member's account.

    refused, remedy: the outcome if the key opens no account, and what to do then.
    """
    if opens is None or opens == member.account_id:
        return None
    if opens:
        detail = f"{name} opens account {opens}, but the member is account {member.account_id}."
        return Outcome.CONFLICT, detail, f"A key opens another account than the member's. To adopt a key, {_TAKE_OUT}."
    return refused, f"{name} opens no account: Backblaze refused it.", remedy


def _key_in_fallback(wanted: Wanted, member: Member, keys: KeyState) -> _Decision:
    """Name the path of a key that an earlier run stored in the fallback directory."""
    if not keys.fallback or keys.unproven:
        return None
    detail = f"An earlier run stored the key in {keys.fallback}."
    reason = "To move a key to its file, run b2_group_members with the directory of the key as vault_fallback_dir."
    return Outcome.KEY_MISSING, detail, reason


def _replace_lost(wanted: Wanted, member: Member, keys: KeyState) -> _Decision:
    """Replace an account whose key is lost, if the user asks for that.

    The journal has to prove that an earlier run created the account, and no part of its key may be stored.
    """
    if not (keys.lost and keys.proven and keys.recreate) or keys.stored is not None:
        return None
    return Outcome.CREATED, f"Account {member.account_id}, whose key was lost, would be ejected first.", ""


def _key_lost(wanted: Wanted, member: Member, keys: KeyState) -> _Decision:
    """Report a key that is lost according to the journal."""
    if not keys.lost:
        return None
    detail, reason = lost_message(wanted.email, member.account_id, proven=keys.proven)
    return Outcome.KEY_LOST, detail + _unproven_note(keys), reason


def _key_missing(wanted: Wanted, member: Member, keys: KeyState) -> _Decision:
    """Report a member without a stored key."""
    detail = f"Account {member.account_id} is in the Group, but its key is not stored.{_unproven_note(keys)}"
    return Outcome.KEY_MISSING, detail, _FIND_KEY


def _unproven_note(keys: KeyState) -> str:
    return f" {keys.unproven} holds a key that may be the member's, without proof." if keys.unproven else ""


#: The cases of decide_present for a member in its Group: the first case that returns a decision decides.
_CASES: tuple[t.Callable[[Wanted, Member, KeyState], _Decision], ...] = (
    _stored_for_another_account,
    _stored_differs_from_given,
    _stored_key,
    _given_key,
    _key_in_fallback,
    _replace_lost,
    _key_lost,
    _key_missing,
)


def not_attempted(step: Step, reason: str) -> Step:
    """Return the step, or one that changes nothing if there is a reason not to attempt it.

    A member whose key is stored keeps its step.
    """
    if not reason or step.outcome is Outcome.UNCHANGED:
        return step
    return Step(step.wanted, Outcome.NOT_ATTEMPTED, step.member, reason=reason)


def lost_message(email: str, account_id: str, *, proven: bool) -> tuple[str, str]:
    """Explain why an account has no key, and what to do; return detail and reason (see Step). proven: see Open."""
    if proven:
        detail = f"Account {account_id} was created by an earlier run, and its key never arrived."
        return f"{detail} {replace_with(email)}", LOST_REMEDY
    detail = f"Account {account_id} was most likely created by an earlier run that ended before its key arrived."
    reason = (
        "It is not proven that an earlier run created the account, so recreate_members does not replace it. Create a "
        "new key in the member's account, and adopt the key. Or, if the account is not in use, eject the account with "
        "b2_group_member, state: absent and new_email, which frees the member's address. Then run again."
    )
    return detail, reason


def decide_created(new: NewMember, proof: Proof) -> tuple[Outcome, str, str]:
    """Decide the outcome of a member whose create answer is odd, after its key was tried.

    Return it with the detail and the reason, see Step.
    """
    member, opens = proof.member, proof.opens
    if opens is None and new.doubt:
        return Outcome.CONFLICT, f"The owner of the key is not known yet. {proof.problem}", _AGAIN
    owner = new.member.account_id if opens is None else opens
    if not owner and not new.doubt:
        reason = "Create a new key in the member's account, and adopt it."
        return Outcome.KEY_DEAD, "Backblaze refuses the new key.", reason
    found = f"it opens account {owner}" if owner else "Backblaze refuses it"
    if member is not None and owner != member.account_id:
        detail = f"The key in the answer is not the key of account {member.account_id}, which is the member: {found}."
        return Outcome.KEY_LOST, f"{detail} {replace_with(new.member.email)}", LOST_REMEDY
    if member is not None or (owner and owner == new.member.account_id and new.named):
        return Outcome.CREATED, proof.problem, ""
    problem = proof.problem or "The member is not found in the Group."
    detail = f"The key in the answer may not be the member's: {found}. {problem}"
    return Outcome.CONFLICT, detail, _AGAIN


def decide_absent(wanted: Wanted, member: t.Optional[Member]) -> Step:
    """Decide the step of a member that has to leave the Group."""
    return Step(wanted, Outcome.EJECTED if member else Outcome.ABSENT, member)


class Event(str, enum.Enum):
    """Name the last event of an address in the journal."""

    PENDING = "pending"  # a run was about to send a create
    PRESUMED = "presumed"  # a later run found an account, which the earlier run or somebody else created
    LOST = "lost"  # a create had no answer, and the next look-up found the account
    EJECTING = "ejecting"  # a run was about to eject an account whose key is lost
    FALLBACK = "fallback"  # a run stored the key, but not in its file
    CLOSED = "closed"  # the address is settled


@dataclasses.dataclass(frozen=True)
class Open:
    """An address that is open in the journal.

    path: of a key that is not in its file. at: the time of the event, ISO 8601 in UTC.
    told: whether a later run has reported that the key is lost.
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
        """Whether the journal proves that an earlier run created the account and never got its key."""
        return self.event in (Event.LOST, Event.EJECTING) and bool(self.account_id)


@dataclasses.dataclass(frozen=True)
class Settled:
    """The outcome of an address that an earlier run left open in the journal.

    ``created``: its key is sealed. ``key_lost``. ``key_missing``: its key is not in its file, but in ``path``.
    ``ejected``: to be created again. ``absent``: not in the Group.

    known: whether an earlier run has reported this outcome. proven: see Open.
    """

    email: str
    outcome: Outcome
    account_id: str = ""
    known: bool = False
    proven: bool = False
    path: str = ""

    def as_dict(self) -> dict[str, t.Any]:
        """Return the entry of ``settled`` in a task's result."""
        return {"email": self.email, "outcome": self.outcome.value, "account_id": self.account_id or None}


def settle(entry: Open, member: t.Optional[Member], stored: t.Optional[Stored]) -> Settled:
    """Decide the outcome of an address that is open in the journal."""
    if member is None or entry.account_id not in ("", member.account_id):
        # The account of the journal is not in the Group: another account under its address is not ours.
        outcome = Outcome.EJECTED if entry.event is Event.EJECTING else Outcome.ABSENT
        return Settled(entry.email, outcome, entry.account_id)
    if stored is not None and stored.key_id and stored.account_id in ("", member.account_id):
        return Settled(entry.email, Outcome.CREATED, member.account_id)
    if entry.event is Event.FALLBACK:
        return Settled(entry.email, Outcome.KEY_MISSING, member.account_id, known=True, path=entry.path)
    return Settled(entry.email, Outcome.KEY_LOST, member.account_id, known=entry.told, proven=entry.proven)


def all_refused(opened: t.Mapping[str, Proof]) -> bool:
    """Tell whether Backblaze refused every one of several keys: then the service may be at fault, not the keys."""
    tried = [one.opens for one in opened.values() if one.opens is not None]
    return len(tried) > 1 and not any(tried)


#: The outcomes that an audit looks for.
_AUDITED = (Outcome.KEY_MISSING, Outcome.KEY_DEAD, Outcome.CONFLICT, Outcome.NOT_ATTEMPTED, Outcome.ABSENT)


def audit(
    members: t.Sequence[Member],
    stored: t.Mapping[str, Stored],
    opened: t.Mapping[str, Proof],
    other_run: t.Mapping[str, str],
    fallback: t.Mapping[str, str],
) -> dict[str, list[dict[str, t.Optional[str]]]]:
    """Compare the members of Groups with the stored keys; return what is not in order, by outcome.

    members: all members of the Groups. stored: the stored keys of these Groups. opened: the account that each key
    opens, by address; empty if no key was tried. other_run: the addresses that another run is creating, with the reason
    why nothing is known of their keys. fallback: the paths of keys in the fallback directory, by account.
    """
    listed = by_email(members)
    refused = all_refused(opened)
    found: dict[str, list[dict[str, t.Optional[str]]]] = {outcome.value: [] for outcome in _AUDITED}
    for email, member in listed.items():
        tried = opened.get(email, Proof())
        keys = KeyState(
            stored=stored.get(email),
            fallback=fallback.get(member.account_id, ""),
            stored_opens=tried.opens,
            stored_untried=tried.problem,
            all_refused=refused,
        )
        step = not_attempted(decide_present(Wanted(email), member, keys), other_run.get(email, ""))
        # The key is stored, but it is not known whether it still opens the account.
        untried = step.outcome is Outcome.UNCHANGED and tried.problem
        outcome = Outcome.NOT_ATTEMPTED if untried else step.outcome
        if outcome in _AUDITED:
            found[outcome.value].append({"email": email, "account_id": member.account_id, "message": step.message})
    for email, key in stored.items():
        if email not in listed:
            message = (
                f"{key.path} holds the key of account {key.account_id}, which is in none of these Groups. Keep the key "
                "as long as the account may be in use."
            )
            found[Outcome.ABSENT.value].append(
                {"email": email, "account_id": key.account_id or None, "message": message}
            )
    return found


def by_email(members: t.Iterable[Member]) -> dict[str, Member]:
    """Return members by their address, in the form in which addresses are compared."""
    return {folded(member.email): member for member in members}


def diff(steps: t.Sequence[Step]) -> dict[str, str]:
    """Return Ansible's diff of the planned changes, with their numbers. It holds no secret."""
    leaving = [(step, step.member if step.outcome is Outcome.EJECTED else step.replaces) for step in steps]
    before = [_line(step.wanted.email, member.region) for step, member in leaving if member]
    after = [_line(step.wanted.email, step.wanted.region) for step in steps if step.outcome is Outcome.CREATED]
    return {
        "before": "".join(before),
        "after": "".join(after),
        "before_header": f"members of the Group, {len(before)} ejected",
        "after_header": f"members of the Group, {len(after)} created",
    }


def _line(email: str, region: t.Optional[str]) -> str:
    return f"{email} ({region or 'default region'})\n"
