# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What an answer of the service means: pure functions from bytes to a verdict, a value or a key.

The error table is dispatched on ``code``, never on the HTTP status, which the service uses loosely (a refused address is a 401).
Only where no code can be read does the status decide.
"""

from __future__ import annotations

import collections
import dataclasses
import datetime
import email.utils
import enum
import json
import re
import typing as t

from ansible_collections.community.backblaze.plugins.module_utils._errors import REMEDIES, AnswerError, ApiError, B2Error
from ansible_collections.community.backblaze.plugins.module_utils._members import NewMember, as_text, one, read_member
from ansible_collections.community.backblaze.plugins.module_utils._transport import Answer

_TRANSIENT_STATUS = {
    408: "request_timeout",
    429: "too_many_requests",
    500: "internal_error",
    502: "bad_gateway",
    503: "service_unavailable",
    504: "gateway_timeout",
}
_TRANSIENT_CODES = frozenset(_TRANSIENT_STATUS.values())

# The documented forms, for finding a key in an answer whose fields are not where they should be.
_KEY = re.compile(r"\bK\d{3}[A-Za-z0-9+/_-]{27}(?![A-Za-z0-9+/_-])")
_KEY_ID = re.compile(r"\b\d{3}([0-9a-f]{12})\d{10}\b")
_KEY_ID_FIELD = "applicationKeyId"
_KEY_FIELD = "applicationKey"


class Verdict(enum.Enum):
    """What may be done after an answer."""

    DONE = "done"  # executed, the body can be read
    RENEW = "renew"  # the token was refused: nothing was executed, authorize again
    THROTTLED = "throttled"  # nothing was executed, wait
    REFUSED = "refused"  # nothing was executed, and will not be
    UNCLEAR = "unclear"  # it may or may not have been executed
    REDIRECTED = "redirected"  # the same, and to ask again would end the same


def parse(answer: Answer) -> t.Any:
    """Return the JSON of an answer, or None where there is none."""
    try:
        return json.loads(answer.body.decode("utf-8"))
    except (ValueError, RecursionError):
        return None


# Keys and tokens of Backblaze are far longer; of something shorter every other word of a message would be made.
_LEAST_SECRET = 12


def _code(answer: Answer) -> tuple[str, str]:
    """Return (code, message) of an error body; the code is empty where it cannot be read."""
    body = one(parse(answer))
    code, message = body.get("code"), body.get("message")
    if not isinstance(code, str) or not re.fullmatch(r"[A-Za-z0-9_]{1,64}", code):
        code = ""
    return code, _printable(_hidden(message, answer)) if isinstance(message, str) else ""


def _hidden(text: str, answer: Answer) -> str:
    """Return a text of the service without the credential that it was asked with; what is too short to be one stays."""
    for secret in answer.asked_with:
        text = text.replace(secret, "[hidden]") if len(secret) >= _LEAST_SECRET else text
    return text


def _printable(text: str) -> str:
    """Make a text of the service fit for one line of a message."""
    return "".join(character if character.isprintable() else " " for character in text)[:300]


def judge(answer: Answer) -> Verdict:
    """Say what may be done after an answer."""
    if 200 <= answer.status < 300:
        return Verdict.DONE if answer.complete and parse(answer) is not None else Verdict.UNCLEAR
    code = _code(answer)[0]
    if code in ("bad_auth_token", "expired_auth_token"):
        return Verdict.RENEW
    if code == "too_many_requests":
        return Verdict.THROTTLED
    if code == "method_failure" or code in _TRANSIENT_CODES:
        return Verdict.UNCLEAR
    if code in REMEDIES or code.endswith("_cap_exceeded"):
        return Verdict.REFUSED
    if answer.status == 429:
        return Verdict.THROTTLED
    if 300 <= answer.status < 400:
        return Verdict.REDIRECTED
    # An unknown code in a client error is still a "no"; without any code somebody else than the service may have spoken.
    return Verdict.REFUSED if code and answer.status < 500 and answer.status not in _TRANSIENT_STATUS else Verdict.UNCLEAR


def refuses_token(answer: Answer) -> bool:
    """Tell whether an answer is one of the only two that mean "authorize again"."""
    return not 200 <= answer.status < 300 and judge(answer) is Verdict.RENEW


def problem(operation: str, answer: Answer) -> B2Error:
    """Return the error that an answer stands for."""
    if 300 <= answer.status < 400:
        return AnswerError(
            f"Backblaze answered {operation} with a redirect (HTTP {answer.status}), which is not followed: it would carry the credentials along.",
            remedy="Check the realm.",
        )
    if 200 <= answer.status < 300:
        what = "cut short" if not answer.complete else "empty" if not answer.body.strip() else "not what the Partner API answers"
        return AnswerError(f"The answer of Backblaze to {operation} is {what}.")
    code, message = _code(answer)
    # A code that nobody knows may be anything that looks like one.
    code = code if _hidden(code, answer) == code else ""
    if not code and answer.status not in _TRANSIENT_STATUS:
        return AnswerError(
            f"The answer to {operation} is an error that the Partner API does not send (HTTP {answer.status}).",
            remedy="Check the realm and the proxy settings of the environment.",
        )
    return ApiError(operation, answer.status, code or _TRANSIENT_STATUS[answer.status], message, unclear=judge(answer) is Verdict.UNCLEAR)


def retry_after(answer: Answer, now: datetime.datetime) -> t.Optional[float]:
    """Return the seconds that an answer asks to wait (given as seconds or as a date), or None."""
    value = answer.headers.get("Retry-After", "").strip()
    if re.fullmatch(r"\d{1,9}(\.\d+)?", value):
        return float(value)
    try:
        when = email.utils.parsedate_to_datetime(value)
        if when.tzinfo is None:
            when = when.replace(tzinfo=datetime.timezone.utc)
        return max(0.0, (when - now).total_seconds())
    except (TypeError, ValueError, IndexError, OverflowError):
        return None


def _objects(value: t.Any) -> t.Iterator[dict[str, t.Any]]:
    """Yield every object in a JSON value, outermost first, without recursion: the depth is the sender's choice."""
    queue = collections.deque([value])
    while queue:
        current = queue.popleft()
        if isinstance(current, dict):
            yield current
            queue.extend(current.values())
        elif isinstance(current, list):
            queue.extend(current)


def _field_in_text(text: str, name: str) -> str:
    """Find a string field in JSON that cannot be parsed as a whole."""
    found = re.search(rf'"{name}"\s*:\s*("(?:[^"\\]|\\.)*")', text)
    if found:
        try:
            return str(json.loads(found.group(1)))
        except ValueError:
            pass
    return ""


def _loose_key_id(text: str) -> str:
    """Find what has the documented form of a key id; a number has it too, if it is long enough, but stands without quotes."""
    found = (match for match in _KEY_ID.finditer(text) if not match.group().isdigit() or text[: match.start()].endswith('"'))
    return next((match.group() for match in found), "")


def _secret(value: t.Any) -> str:
    """Return a key exactly as it was sent, but for what cannot be encoded."""
    return value.encode("utf-8", errors="replace").decode("utf-8") if isinstance(value, str) else ""


def find_new_member(answer: Answer, wanted_email: str, group_id: str, region: str) -> t.Optional[NewMember]:
    """Find the key in a create answer, whatever shape the answer has; None only if there is none.

    This never raises: the key stands nowhere else, so whatever is odd about the rest becomes the ``complaint``, to be made
    when the key is safe. First the documented fields wherever they are; then, in an answer that claims success, the documented form of
    a key anywhere. An error page may hold a text of that form by chance.
    """
    text = answer.body.decode("utf-8", errors="replace")
    objects = list(_objects(parse(answer)))
    holder = next((found for found in objects if _secret(found.get(_KEY_FIELD))), {})
    key = _secret(holder.get(_KEY_FIELD)) or _secret(_field_in_text(text, _KEY_FIELD))
    key_id = as_text(holder.get(_KEY_ID_FIELD)) or _field_in_text(text, _KEY_ID_FIELD)
    complaints = [] if holder and key_id else ["its fields are not where they should be"]
    if 200 <= answer.status < 300 and not (key and key_id):
        # A slash may be escaped in JSON that could not be parsed.
        loose = text.replace("\\/", "/")
        key_found = _KEY.search(loose)
        key = key or (key_found.group() if key_found else "")
        key_id = key_id or _loose_key_id(loose)
    if not key:
        return None

    raw = next((found["groupMember"] for found in objects if one(found.get("groupMember"))), None)
    raw = raw or next((found for found in objects if "accountId" in found), None)
    raw = raw or {name: _field_in_text(text, name) for name in ("accountId", "email", "groupId", "groupName", "region", "s3Endpoint")}
    member = read_member(raw, group_id)
    if not answer.complete or not objects:
        complaints.append("it was cut short or is not JSON")
    if not key_id:
        complaints.append("it has no application key id")
    # A key id of the documented form has the account's id inside.
    form = _KEY_ID.fullmatch(key_id)
    doubtful = form is not None and form.group(1) != member.account_id
    if not member.account_id:
        complaints.append("it names no account")
        member = dataclasses.replace(member, account_id=form.group(1) if form else "")
    if member.email.lower() != wanted_email:
        complaints.append(f"it names the address {_printable(member.email)!r}")
    if member.group_id != group_id:
        complaints.append("it names another Group")
    if region and member.region != region:
        complaints.append(f"it names the region {_printable(member.region)!r}" if member.region else "it names no region")
    return NewMember(
        # The address is the one asked for: what the service sent is not let near a path or a host name.
        member=dataclasses.replace(member, email=wanted_email, group_id=group_id),
        key_id=key_id,
        key=key,
        complaint="The create answer is odd: " + ", ".join(complaints) + "." if complaints else "",
        doubtful=doubtful,
    )
