# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Everything that can go wrong, in one tree, each error with what happened, what was changed and what to do.

Code below the edges raises these; the edges (``_run.py`` for modules, ``plugin_utils/_plugin.py`` for controller plugins)
turn them into a result. No error ever carries a key or a token: messages are built from names, codes and addresses only.
"""

from __future__ import annotations

import json
import typing as t

UNCHANGED = "Nothing was changed at Backblaze."

#: What each error code of the Partner API means and what its reader can do about it: code -> (meaning, remedy).
#: Source: Backblaze's reference pages for the four operations, and recorded answers of the service.
REMEDIES: dict[str, tuple[str, str]] = {
    "bad_request": (
        "The request has wrong or missing fields.",
        "Check the values of this task, the realm and api_version; if they are right, this is a bug of the collection: please report it.",
    ),
    "bad_auth_token": (
        "The authorization token was refused, and so was a fresh one.",
        "Check that the application key was not deleted while the task ran, then run again.",
    ),
    "expired_auth_token": (
        "The authorization token has expired, and so did a fresh one.",
        "Check this machine's clock and that the application key does not expire, then run again.",
    ),
    "unauthorized": (
        "The credentials are wrong, or they do not allow this call.",
        "Use the Group admin's master application key: its key id equals the account id. Check application_key_id, application_key and the realm.",
    ),
    "unsupported": (
        "The application key is valid, but not for this version of the API.",
        "Make a new key with the current version of Backblaze's tools, and use that; for the Partner API only the master application key works.",
    ),
    "invalid_group_id": (
        "There is no such Group, it was deleted, or this account is not its admin.",
        "List the Groups with community.backblaze.b2_group_info and use one of their ids.",
    ),
    "invalid_email": (
        "The address is malformed or refused, or it already belongs to a Backblaze account somewhere, perhaps to a member ejected earlier.",
        "Use another address; in a Group with single sign-on it must be of the Group's domain. An ejected account keeps its address.",
    ),
    "invalid_region": (
        "The region is not one of Backblaze's, or not open to this account.",
        "Use us-west, us-east, eu-central or ca-east (not an S3 label such as us-west-004), or leave region out for the default.",
    ),
    "too_many_members": (
        "The Group is full (Backblaze documents 5,000 members a Group).",
        "Put the remaining members into another Group.",
    ),
    "out_of_range": (
        "A number in the request is outside what the service accepts.",
        "This is a bug of the collection unless you set the number yourself: please report it.",
    ),
    "invalid_member_account_id": (
        "There is no such member in this Group.",
        "List the members with community.backblaze.b2_group_member_info; the member may have been ejected already.",
    ),
    "invalid_sms_phone": (
        "The Group admin's account has no valid SMS phone number.",
        "Sign in to Backblaze as the Group admin, verify a phone number, and run again.",
    ),
    "method_failure": (
        "The creation was backed out by Backblaze, or the domain of the address is refused.",
        "Run again later; if it stays, try an address of another domain.",
    ),
    "access_denied": (
        "The account is not enabled for this, is not in good standing, or has no verified phone.",
        "Sign in to Backblaze as the Group admin and look for notices; ask Backblaze to enable the Partner API.",
    ),
    "cap_exceeded": (
        "A cap of the account is used up.",
        "Raise the cap under Caps & Alerts in the Group admin's account, then run again.",
    ),
    "request_timeout": ("The service took too long.", "Run again; what was in the middle is settled by that run."),
    "too_many_requests": (
        "The service asked to slow down for longer than this task may wait.",
        "Run again later, or with lower concurrency.",
    ),
    "internal_error": ("The service failed inside.", "Run again; what was in the middle is settled by that run."),
    "bad_gateway": ("The service could not be reached behind its gateway.", "Run again later."),
    "service_unavailable": ("The service is not available just now.", "Run again later."),
    "gateway_timeout": ("The service did not answer its gateway in time.", "Run again later."),
}


#: The codes by which authorize says that a key is no good. Only there, "bad_auth_token" is not about a token.
WRONG_KEY_CODES = frozenset({"unauthorized", "bad_auth_token", "expired_auth_token"})

_WRONG_KEY = (
    "The key id or the key is wrong, or the key was deleted or has expired.",
    "Use the Group admin's master application key: its key id equals the account id. Check application_key_id, application_key and the realm.",
)

#: The same for a call that was made with a member's key: what it says is about that member, and not about the Group admin.
_REMEDIES_OF_MEMBER: dict[str, tuple[str, str]] = {
    **dict.fromkeys(
        WRONG_KEY_CODES,
        (
            "Backblaze refuses the member's key: its key id or key is wrong, or it was deleted or has expired.",
            "Sign in to Backblaze as the member, make a new key, and adopt it.",
        ),
    ),
    "access_denied": (
        "The member's account is suspended, or not in good standing.",
        "Sign in to Backblaze as the member and look for notices.",
    ),
    "cap_exceeded": (
        "A cap of the member's account is used up.",
        "Raise the cap under Caps & Alerts in the member's account, then run again.",
    ),
}


def remedy_for(code: str, *, authorize: bool = False, of_member: bool = False) -> tuple[str, str]:
    """Return (meaning, remedy) of an error code; every cap has one text, an unknown code a general one.

    authorize: whether authorize answered it. of_member: whether the call was made with a member's key.
    """
    if code.endswith("_cap_exceeded"):
        code = "cap_exceeded"
    if of_member and code in _REMEDIES_OF_MEMBER:
        return _REMEDIES_OF_MEMBER[code]
    if authorize and code in WRONG_KEY_CODES:
        return _WRONG_KEY
    return REMEDIES.get(
        code, ("Backblaze gave a reason that this collection does not know.", "See the message of the service.")
    )


class B2Error(Exception):
    """Something a user meets: what happened, what was changed, what to do. ``facts`` are the extra keys of a failed result.

    changed: empty where whoever raises cannot know it; then the edge does.
    may_have_acted: whether the service may have done what was asked, although a look-up did not show it.
    """

    def __init__(self, happened: str, *, changed: str = "", remedy: str = "", **facts: t.Any) -> None:
        self.happened = happened
        self.changed = changed
        self.remedy = remedy
        self.facts = facts
        self.may_have_acted = False
        super().__init__(happened)

    def __str__(self) -> str:
        return self.explain()

    def explain(self, changed: str = "") -> str:
        """Return the whole message; ``changed`` stands in where the error itself does not know."""
        return " ".join(part for part in (self.happened, self.changed or changed, self.remedy) if part)


class OptionError(B2Error):
    """The task or its environment asks for something that cannot be: found before anything was changed."""

    def __init__(self, happened: str, *, changed: str = UNCHANGED, remedy: str = "", **facts: t.Any) -> None:
        super().__init__(happened, changed=changed, remedy=remedy, **facts)


class NetworkError(B2Error):
    """No answer, or none that can be read.

    ``sent`` is false only where the request cannot have reached the service, so that it may be sent again blindly.
    ``hopeless`` says that another try cannot end otherwise.
    """

    def __init__(self, happened: str, *, sent: bool, hopeless: bool = False, remedy: str = "") -> None:
        super().__init__(happened, remedy=remedy)
        self.sent = sent
        self.hopeless = hopeless


class AnswerError(B2Error):
    """The service answered something that cannot be understood or must not be followed."""

    def __init__(self, happened: str, *, remedy: str = "Run again; if it stays, please report it.") -> None:
        super().__init__(happened, remedy=remedy)


class ApiError(B2Error):
    """The service said no: ``status``, ``code`` and ``message`` are its own words.

    ``unclear`` is true where that no may have come after something was done all the same. of_member: see remedy_for.
    """

    def __init__(
        self, operation: str, status: int, code: str, message: str, *, unclear: bool = False, of_member: bool = False
    ) -> None:
        meaning, known = remedy_for(code, authorize=operation == "b2_authorize_account", of_member=of_member)
        self.status = status
        self.code = code
        self.unclear = unclear
        said = f"{code}: {message}" if message else code
        super().__init__(
            f"Backblaze {'answered' if unclear else 'refused'} {operation} ({said}). {meaning}",
            remedy=known,
            code=code,
            status=status,
        )


class PatienceError(B2Error):
    """A call was not sent, because the service asked everybody to wait for longer than the user allows."""

    def __init__(self, seconds: float) -> None:
        super().__init__(
            f"Backblaze asks to wait for {seconds:.0f} seconds, which is longer than max_retries allows for.",
            remedy="Run again later, or raise max_retries.",
        )


def recreate_line(email: str) -> str:
    """Return the option that has an account replaced whose key is lost, ready to be copied into a task."""
    return f"recreate_members: {json.dumps([email])}"


class KeyLostError(B2Error):
    """An account was made, or may have been, and its key never arrived: nobody can show that key again.

    ``account_id`` is empty where even a look-up could not confirm that the account exists. What it says to do rests on the journal; where
    there is none, ``without_journal`` says something else.
    """

    def __init__(self, email: str, account_id: str, cause: str) -> None:
        self.account_id = account_id
        super().__init__(
            f"The answer with the key of {email} never arrived ({cause.rstrip('.')}).",
            changed=f"Account {account_id} was created." if account_id else "An account may have been created.",
            remedy="Backblaze shows a key only once. Make a new key as the member and adopt it with b2_group_members; or have the account "
            f"replaced, with this option: {recreate_line(email)}"
            if account_id
            else "Run again: the next run looks first and says what became of it.",
            account_id=account_id,
        )
        # In the result of a task, where that is the word for whether anything was changed.
        self.facts["changed"] = bool(account_id)

    def without_journal(self, email: str) -> None:
        """Say what to do where no journal remembers the address."""
        self.remedy = (
            f"Backblaze shows a key only once, and a later run cannot know of this. See with b2_group_member_info whether {email} is in the Group. "
            "If it is, make a new key as the member; or eject it, with new_email to free the address, and create it anew. With vault_dir a journal "
            "remembers such addresses."
        )


class UnprovenKeyError(B2Error):
    """A create answer held a key that is not certainly the member's. ``facts`` hold that key: it is nowhere else."""

    def __init__(self, email: str, happened: str, **facts: t.Any) -> None:
        super().__init__(
            f"{email}: {happened}",
            changed="An account was most probably created. The key that came is in the result of this task, and nowhere else.",
            remedy="Keep that key, if the task registers its result. See with b2_group_member_info whether the address is in the Group. With "
            "vault_dir such a key is stored.",
            **facts,
        )
        # In the result of a task, where that is the word for whether anything was changed.
        self.facts["changed"] = True


class MemberExistsError(B2Error):
    """The address turned out to be a member of the Group already, though the look-up before did not find it."""

    def __init__(self, member: t.Any) -> None:
        super().__init__(f"{member.email} is in the Group already (account {member.account_id}).")
        self.member = member


class StoreError(B2Error):
    """A key could not be stored, or the place for it is not fit (controller only)."""


class StoppedError(B2Error):
    """The run was asked to end while this waited."""

    def __init__(self) -> None:
        super().__init__("The run was asked to stop.")
