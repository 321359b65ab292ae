# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Define every error of the collection. Each error says what happened, what was changed and what to do, in that order.

Code below the edges raises these errors. The edges (``_run.py`` for modules, ``plugin_utils/_action.py`` for actions)
turn them into a result. No message has a key or a token in it: messages are made of names, codes and addresses only.
"""

from __future__ import annotations

import json
import typing as t

UNCHANGED = "Nothing was changed at Backblaze."

_USE_MASTER_KEY = (
    "Use the Group admin's master application key: its key id equals the account id. "
    "Check application_key_id, application_key and the realm."
)
_RUN_LATER = "Run again later."
_RUN_AGAIN = "Run again: the next run first checks whether this call was executed."

#: Each error code of the Partner API: code -> (meaning, remedy).
#: Source: Backblaze's reference pages for the four operations, and recorded answers of the service.
REMEDIES: dict[str, tuple[str, str]] = {
    "bad_request": (
        "The request has wrong or missing fields.",
        "Check the options of this task, the realm and api_version. If they are right, please report this as a bug.",
    ),
    "bad_auth_token": (
        "The authorization token was refused, and so was a new token.",
        "Check that the application key was not deleted during the task. Then run again.",
    ),
    "expired_auth_token": (
        "The authorization token has expired, and so has a new token.",
        "Check this machine's clock and the expiry of the application key. Then run again.",
    ),
    "unauthorized": ("The credentials are wrong, or do not allow this call.", _USE_MASTER_KEY),
    "unsupported": (
        "The application key is valid, but not for this version of the API.",
        "Use a key of a current version of Backblaze's tools. The Partner API needs the master application key.",
    ),
    "invalid_group_id": (
        "The Group does not exist, was deleted, or has another admin.",
        "List the Groups with community.backblaze.b2_group_info, and use one of their ids.",
    ),
    "invalid_email": (
        "The address is invalid or refused, or already belongs to a Backblaze account, such as one ejected earlier.",
        "Use another address: an ejected account keeps its address, and single sign-on needs the Group's domain.",
    ),
    "invalid_region": (
        "The region does not exist, or this account cannot use it.",
        "Use us-west, us-east, eu-central or ca-east, or omit region. An S3 label such as us-west-004 is no region.",
    ),
    "too_many_members": (
        "The Group is full. Backblaze documents 5,000 members a Group.",
        "Put the remaining members into another Group.",
    ),
    "out_of_range": (
        "A number in the request is outside the limits of the service.",
        "Check the numbers in the options of this task. If they are right, please report this as a bug.",
    ),
    "invalid_member_account_id": (
        "The Group has no such member.",
        "List the members with community.backblaze.b2_group_member_info. The member may have been ejected already.",
    ),
    "invalid_sms_phone": (
        "The Group admin's account has no valid SMS phone number.",
        "Sign in to Backblaze as the Group admin and verify a phone number. Then run again.",
    ),
    "method_failure": (
        "Backblaze undid the creation, or refuses the domain of the address.",
        "Run again later. If the error stays, use an address of another domain.",
    ),
    "access_denied": (
        "The account is not enabled for this call, is not in good standing, or has no verified phone.",
        "Sign in to Backblaze as the Group admin and look for notices. Ask Backblaze to enable the Partner API.",
    ),
    "cap_exceeded": (
        "A cap of the account is used up.",
        "Raise the cap under Caps & Alerts in the Group admin's account. Then run again.",
    ),
    "request_timeout": ("The service took too long.", _RUN_AGAIN),
    "too_many_requests": (
        "The service asked for a longer pause than this task may wait.",
        "Run again later, or reduce concurrency.",
    ),
    "internal_error": ("The service failed.", _RUN_AGAIN),
    "bad_gateway": ("The gateway of the service cannot reach the service.", _RUN_LATER),
    "service_unavailable": ("The service is not available at the moment.", _RUN_LATER),
    "gateway_timeout": ("The service did not answer its gateway in time.", _RUN_LATER),
}


#: The codes that are about the Group or its admin: Backblaze would refuse every other member for the same reason.
GROUP_CODES = frozenset({"too_many_members", "access_denied", "invalid_group_id", "invalid_sms_phone"})

#: The codes by which authorize refuses a key. Only in an answer of authorize, "bad_auth_token" is not about a token.
WRONG_KEY_CODES = frozenset({"unauthorized", "bad_auth_token", "expired_auth_token"})

_WRONG_KEY = ("The key id or the key is wrong, or the key was deleted or has expired.", _USE_MASTER_KEY)

#: The same for calls with a member's key. Their errors are about the member's account, and not about the Group admin's.
_REMEDIES_OF_MEMBER: dict[str, tuple[str, str]] = {
    **dict.fromkeys(
        WRONG_KEY_CODES,
        (
            "Backblaze refuses the member's key: its key id or key is wrong, or it was deleted or has expired.",
            "Create a new key in the member's account, and adopt it.",
        ),
    ),
    "access_denied": (
        "The member's account is suspended, or not in good standing.",
        "Look for notices in the member's account, on Backblaze's page Group Management.",
    ),
    "cap_exceeded": (
        "A cap of the member's account is used up.",
        "Raise the cap under Caps & Alerts in the member's account. Then run again.",
    ),
}


def remedy_for(code: str, *, authorize: bool = False, of_member: bool = False) -> tuple[str, str]:
    """Return (meaning, remedy) of an error code. All caps have the same text; all unknown codes have the same text.

    authorize: whether the code is from an answer of authorize. of_member: whether the call was made with a member's
    key.
    """
    if code.endswith("_cap_exceeded"):
        code = "cap_exceeded"
    if of_member and code in _REMEDIES_OF_MEMBER:
        return _REMEDIES_OF_MEMBER[code]
    if authorize and code in WRONG_KEY_CODES:
        return _WRONG_KEY
    return REMEDIES.get(code, ("This collection does not know the error code.", "See the message of the service."))


class B2Error(Exception):
    """Report an error: what happened, what was changed, what to do. ``facts``: more keys for the failed result.

    changed: empty if only the edge knows what was changed.
    may_have_acted: whether the service may have executed the call, although a look-up did not show that.
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

    @property
    def detail(self) -> str:
        """What happened, and what was changed as far as the error knows."""
        return f"{self.happened} {self.changed}".strip()

    def explain(self, changed: str = "") -> str:
        """Return the whole message. ``changed`` is used if the error does not know what was changed."""
        return " ".join(part for part in (self.happened, self.changed or changed, self.remedy) if part)


class OptionError(B2Error):
    """Report an invalid option or environment. It is found before anything is changed."""


class NetworkError(B2Error):
    """Report that no readable answer came.

    sent: false only if the request cannot have reached the service, so that it can be repeated without a look-up.
    hopeless: whether every retry would fail in the same way.
    """

    def __init__(self, happened: str, *, sent: bool, hopeless: bool = False, remedy: str = "") -> None:
        super().__init__(happened, remedy=remedy)
        self.sent = sent
        self.hopeless = hopeless


class AnswerError(B2Error):
    """Report an answer that cannot be read, or must not be followed."""

    def __init__(self, happened: str, *, remedy: str = "Run again. If the error stays, please report it.") -> None:
        super().__init__(happened, remedy=remedy)


class ApiError(B2Error):
    """Report an error that the service answered, with its ``status``, ``code`` and ``message``.

    unclear: whether the service may have executed the call all the same. of_member: see remedy_for.
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
            f"Backblaze {'answered' if unclear else 'refused'} {operation} ({said}).",
            remedy=f"{meaning} {known}",
            code=code,
            status=status,
        )


class PatienceError(B2Error):
    """Report a call that was not sent, because the service asks for a longer pause than the user allows."""

    def __init__(self, seconds: float) -> None:
        super().__init__(
            f"Backblaze asks for a wait of {seconds:.0f} seconds, which is longer than max_retries allows.",
            remedy="Run again later, or raise max_retries.",
        )


#: What to do about an account that a run has created and whose key is lost.
LOST_REMEDY = (
    "Backblaze shows a key only once. Create a new key in the member's account, and adopt the key with "
    "b2_group_members. Or, if the account is not in use, replace the account with recreate_members."
)


def recreate_line(email: str) -> str:
    """Return the option that replaces an account whose key is lost, ready to be copied into a task."""
    return f"recreate_members: {json.dumps([email])}"


def replace_with(email: str) -> str:
    """Return a sentence with the option that replaces an account whose key is lost."""
    return f"The option to replace the account is {recreate_line(email)}."


# The most characters of the reason why an answer did not arrive: the remedy below it matters more.
_LONGEST_CAUSE = 150


class KeyLostError(B2Error):
    """Report an account that was created, or may have been, and whose key never arrived. No API shows the key again.

    account_id: empty if no look-up could confirm that the account exists. The remedy needs the journal of a vault
    directory. ``without_journal`` replaces the remedy.
    """

    def __init__(self, email: str, account_id: str, cause: str) -> None:
        self.account_id = account_id
        super().__init__(
            f"The answer with the key of {email} never arrived ({cause[:_LONGEST_CAUSE].rstrip('.')}).",
            changed=f"Account {account_id} was created. {replace_with(email)}"
            if account_id
            else "An account may have been created.",
            remedy=LOST_REMEDY
            if account_id
            else "Run again: the next run first checks whether the account was created.",
            account_id=account_id,
        )
        # The result of a task says by this key whether anything was changed.
        self.facts["changed"] = bool(account_id)

    def without_journal(self, email: str) -> None:
        """Replace the remedy for a task without a journal."""
        self.changed = f"Account {self.account_id} was created." if self.account_id else self.changed
        self.remedy = (
            f"Backblaze shows a key only once. Check with b2_group_member_info whether {email} is in the Group. "
            "If so, create a new key in the member's account. Or eject the member, with new_email to free the "
            "address, and create the member again. With vault_dir, a journal remembers such addresses."
        )


class UnprovenKeyError(B2Error):
    """Report a key in a create answer that may be another member's. ``facts`` hold that key: it is nowhere else."""

    def __init__(self, email: str, happened: str, **facts: t.Any) -> None:
        super().__init__(
            f"{email}: {happened}",
            changed="An account was most probably created. Its key is only in the result of this task.",
            remedy="Keep that key, if the task registers its result. Check with b2_group_member_info whether the "
            "address is in the Group. With vault_dir, such a key is stored.",
            **facts,
        )
        self.facts["changed"] = True


class MemberExistsError(B2Error):
    """Report an address that is in the Group already, although the look-up before did not find it."""

    def __init__(self, member: t.Any) -> None:
        super().__init__(f"{member.email} is in the Group already (account {member.account_id}).")
        self.member = member


class StoreError(B2Error):
    """Report a key that could not be stored, or a vault directory that cannot store keys (controller only)."""


class StoppedError(B2Error):
    """Report that the run was asked to stop during a wait."""

    def __init__(self) -> None:
        super().__init__("The run was asked to stop.")
