# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Read the answers of Backblaze: pure functions from bytes to a verdict, an error or a key.

An error is known by its ``code``. Backblaze uses the HTTP status loosely (a refused address is a 401), so the status
decides only if the answer has no code.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import datetime
import email.utils
import enum
import itertools
import json
import re
import typing as t

from ansible_collections.community.backblaze.plugins.module_utils._api.transport import Answer
from ansible_collections.community.backblaze.plugins.module_utils._errors import (
    REMEDIES,
    AnswerError,
    ApiError,
    B2Error,
    NetworkError,
)
from ansible_collections.community.backblaze.plugins.module_utils._members import (
    Member,
    NewMember,
    as_text,
    folded,
    one,
    read_member,
)

_TRANSIENT_STATUS = {
    408: "request_timeout",
    429: "too_many_requests",
    500: "internal_error",
    502: "bad_gateway",
    503: "service_unavailable",
    504: "gateway_timeout",
}
_TRANSIENT_CODES = frozenset(_TRANSIENT_STATUS.values())

# The documented forms. They find a key in an answer without the documented fields.
_KEY = re.compile(r"\bK\d{3}[A-Za-z0-9+/_-]{27}(?![A-Za-z0-9+/_-])")
_KEY_ID = re.compile(r"\b\d{3}([0-9a-f]{12})\d{10}\b")
_ACCOUNT_ID = re.compile(r"[0-9a-f]{12}")
_KEY_ID_FIELD = "applicationKeyId"
_KEY_FIELD = "applicationKey"
_API_FIELDS = ("accountId", "email", "groupId", "groupName", "region", "s3Endpoint")


class Verdict(enum.Enum):
    """Name what a call came to, and so what may be done next."""

    DONE = "done"  # executed, and the body can be read
    RENEW = "renew"  # not executed, as the token was refused: authorize again
    THROTTLED = "throttled"  # not executed: wait
    REFUSED = "refused"  # not executed: a retry would be refused again
    UNSENT = "unsent"  # not executed, as the call did not reach the service
    UNCLEAR = "unclear"  # maybe executed
    FUTILE = "futile"  # maybe executed: a retry would end the same


def parse(answer: Answer) -> t.Any:
    """Return the JSON of an answer, or None if its body is not JSON."""
    try:
        return json.loads(answer.body.decode("utf-8"))
    except (ValueError, RecursionError):
        return None


# Keys and tokens of Backblaze are far longer. A shorter text may be a usual word of a message.
_LEAST_SECRET = 12
_LONGEST_MESSAGE = 300


def _code(answer: Answer) -> tuple[str, str]:
    """Return (code, message) of an error body. The code is empty if it cannot be read."""
    body = one(parse(answer))
    code, message = body.get("code"), body.get("message")
    if not isinstance(code, str) or not re.fullmatch(r"[A-Za-z0-9_]{1,64}", code):
        code = ""
    return code, _printable(_hidden(message, answer)) if isinstance(message, str) else ""


def _hidden(text: str, answer: Answer) -> str:
    """Return a text of the service without the credential of its request. A text too short for a credential stays."""
    for secret in answer.asked_with:
        text = text.replace(secret, "[hidden]") if len(secret) >= _LEAST_SECRET else text
    return text


def _printable(text: str) -> str:
    """Make a text of the service fit for one line of a message."""
    return "".join(character if character.isprintable() else " " for character in text[:_LONGEST_MESSAGE])


def judge(answer: Answer) -> Verdict:
    """Return the verdict on an answer."""
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
        return Verdict.FUTILE
    # A client error with an unknown code is a refusal. An error without a code may come from a proxy.
    refused = code and answer.status < 500 and answer.status not in _TRANSIENT_STATUS
    return Verdict.REFUSED if refused else Verdict.UNCLEAR


def judge_error(error: NetworkError) -> Verdict:
    """Return the verdict on a call without an answer."""
    if error.sent:
        return Verdict.FUTILE if error.hopeless else Verdict.UNCLEAR
    return Verdict.REFUSED if error.hopeless else Verdict.UNSENT


def refuses_token(answer: Answer) -> bool:
    """Tell whether an answer refuses the token of its request."""
    return judge(answer) is Verdict.RENEW


def problem(operation: str, answer: Answer, *, of_member: bool = False) -> B2Error:
    """Return the error that an answer stands for. of_member: whether the call was made with a member's key."""
    if 300 <= answer.status < 400:
        return AnswerError(
            f"Backblaze answered {operation} with a redirect (HTTP {answer.status}). A redirect is not followed: "
            "it would take the credentials along.",
            remedy="Check the realm.",
        )
    if 200 <= answer.status < 300:
        odd = "empty" if not answer.body.strip() else "not what the Partner API answers"
        return AnswerError(f"The answer of Backblaze to {operation} is {odd if answer.complete else 'cut short'}.")
    code, message = _code(answer)
    # A text that looks like a code may repeat the credential.
    code = code if _hidden(code, answer) == code else ""
    if not code and answer.status not in _TRANSIENT_STATUS:
        return AnswerError(
            f"The answer to {operation} is an error that the Partner API does not send (HTTP {answer.status}).",
            remedy="Check the realm and the proxy settings of the environment.",
        )
    unclear = judge(answer) is Verdict.UNCLEAR
    return ApiError(
        operation,
        answer.status,
        code or _TRANSIENT_STATUS[answer.status],
        message,
        unclear=unclear,
        of_member=of_member,
    )


def retry_after(answer: Answer, now: datetime.datetime) -> t.Optional[float]:
    """Return the seconds that an answer asks to wait, or None. Retry-After is a number of seconds or a date."""
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
    """Yield every object in a JSON value, outermost first. Without recursion: a server chooses the depth."""
    queue = collections.deque([value])
    while queue:
        current = queue.popleft()
        if isinstance(current, dict):
            yield current
            queue.extend(current.values())
        elif isinstance(current, list):
            queue.extend(current)


# Far longer than any field. A text whose quote is never closed must not cost more than one pass over it.
_LONGEST_FIELD = 4096
_SPACE = r"[ \t\r\n]{0,64}"
# Bytes of the answer to a create that are searched for keys. A true answer has less than one KiB.
_LONGEST_CREATE_ANSWER = 256 * 1024
# The number of objects that are searched in a body that is not JSON as a whole.
_MOST_PIECES = 64


def _field_in_text(text: str, name: str) -> str:
    """Find a string field in a text that is not JSON as a whole."""
    return next((value for _at, value in _fields_in_text(text, name)), "")


def _fields_in_text(text: str, name: str) -> t.Iterator[tuple[int, str]]:
    """Yield the start and the value of each string field with a name, in a text that is not JSON as a whole."""
    for found in re.finditer(rf'"{name}"{_SPACE}:{_SPACE}("(?:[^"\\]|\\.){{0,{_LONGEST_FIELD}}}")', text):
        with contextlib.suppress(ValueError):
            yield found.start(), str(json.loads(found.group(1)))


def _secret(value: t.Any) -> str:
    """Return a key exactly as it was sent, without characters that cannot be encoded."""
    return value.encode("utf-8", errors="replace").decode("utf-8") if isinstance(value, str) else ""


def account_in(key_id: str) -> str:
    """Return the account id inside a key id, empty for an unknown form. A master key's id is the account id."""
    form = _KEY_ID.fullmatch(key_id.lower())
    return form.group(1) if form else key_id.lower() if _ACCOUNT_ID.fullmatch(key_id.lower()) else ""


def _pieces(text: str) -> list[t.Any]:
    """Return the JSON objects in a text that is not JSON as a whole: cut short, or several answers in one."""
    decoder, found, at = json.JSONDecoder(), [], 0
    for _number in range(_MOST_PIECES):
        at = text.find("{", at)
        if at < 0:
            break
        try:
            value, at = decoder.raw_decode(text, at)
            found.append(value)
        except (ValueError, RecursionError):
            at += 1
    return found


def _keys_in(objects: t.Sequence[dict[str, t.Any]], group_id: str) -> list[NewMember]:
    """Return every key in its field, with the other fields of the same object."""
    found = []
    for holder in objects:
        key = _secret(holder.get(_KEY_FIELD))
        if key:
            unproven = one(holder.get("groupMember")) or (holder if "accountId" in holder else {})
            found.append(NewMember(read_member(unproven, group_id), as_text(holder.get(_KEY_ID_FIELD)), key))
    return found


def _keys_in_text(text: str, group_id: str) -> list[NewMember]:
    """Return every key in its field in a text that is not JSON, with the fields up to the object of the next key."""
    keys = list(itertools.islice(_fields_in_text(text, _KEY_FIELD), _MOST_PIECES))
    starts = [max(0, text.rfind("{", 0, at)) for at, _key in keys]
    found = []
    for number, (_at, key) in enumerate(keys):
        end = next((start for start in starts[number:] if start > starts[number]), len(text))
        part = text[starts[number] : end] if len(keys) > 1 else text
        raw = {name: _field_in_text(part, name) for name in _API_FIELDS}
        if key:
            found.append(NewMember(read_member(raw, group_id), _field_in_text(part, _KEY_ID_FIELD), _secret(key)))
    return found


def _completed(new: NewMember, objects: t.Sequence[dict[str, t.Any]], text: str, group_id: str) -> NewMember:
    """Return the only key of an answer, with the key id and the member from other objects of that answer."""
    raw = next((found["groupMember"] for found in objects if one(found.get("groupMember"))), None)
    raw = raw or next((found for found in objects if "accountId" in found), None)
    member = new.member if new.member.account_id or not raw else read_member(raw, group_id)
    return dataclasses.replace(new, member=member, key_id=new.key_id or _field_in_text(text, _KEY_ID_FIELD))


def _loose_key_id(text: str) -> str:
    """Return the first text of the form of a key id; empty if none is found. A number without quotes is none."""
    for match in _KEY_ID.finditer(text):
        if not match.group().isdigit() or text[match.start() - 1 : match.start()] == '"':
            return match.group()
    return ""


def _key_by_form(answer: Answer, text: str, found: t.Optional[NewMember], group_id: str) -> t.Optional[NewMember]:
    """Return a key with its key id; one or both are found by the documented form only.

    Only an answer that claims success is searched: an error page may hold a text of that form by chance.
    """
    if not 200 <= answer.status < 300:
        return found
    # In a text that is not JSON as a whole, slashes may be escaped.
    loose = text.replace("\\/", "/")
    key = _KEY.search(loose)
    if found is None and key is None:
        return None
    found = found or NewMember(read_member({}, group_id), "", t.cast("re.Match[str]", key).group())
    return dataclasses.replace(found, key_id=found.key_id or _loose_key_id(loose))


def _keys_of(answer: Answer, group_id: str) -> tuple[list[NewMember], bool]:
    """Return each key in a create answer once, and whether the answer is JSON with the documented fields."""
    objects = list(_objects(parse(answer)))
    keys = _keys_in(objects, group_id)
    if keys and all(new.key_id and new.member.account_id for new in keys) and not answer.rest.strip():
        return _each_once(keys), True
    text = (answer.body + answer.rest).decode("utf-8", errors="replace")
    pieces = [found for piece in _pieces(text) for found in _objects(piece)]
    keys = _each_once([*keys, *_keys_in(pieces, group_id), *_keys_in_text(text, group_id)])
    if len(keys) == 1:
        keys = [_completed(keys[0], objects or pieces, text, group_id)]
    if not keys or not keys[0].key_id:
        by_form = _key_by_form(answer, text, keys[0] if keys else None, group_id)
        keys = [by_form, *keys[1:]] if by_form else keys
    return keys, False


def _each_once(keys: t.Iterable[NewMember]) -> list[NewMember]:
    """Return each key once, with its first key id and account that are both known."""
    found: dict[str, NewMember] = {}
    for new in keys:
        known = found.setdefault(new.key, new)
        if not (known.key_id and known.member.account_id) and new.key_id and new.member.account_id:
            found[new.key] = new
    return list(found.values())


def find_new_member(answer: Answer, wanted_email: str, group_id: str, region: str) -> t.Optional[NewMember]:
    """Find the key in a create answer of any shape and status. None only if the answer holds no key.

    This never raises, because the key is nowhere else. Oddities of the answer become a ``complaint``, and reasons why
    the key may be another member's become a ``doubt``. Both are looked into after the key is sealed. Of several keys,
    the key beside the wanted address is taken.
    """
    if len(answer.body) > _LONGEST_CREATE_ANSWER:
        answer = dataclasses.replace(answer, body=answer.body[:_LONGEST_CREATE_ANSWER], complete=False)
    keys, plain = _keys_of(answer, group_id)
    ours = [new for new in keys if folded(new.member.email) == wanted_email]
    new = next(iter(ours or keys), None)
    if new is None:
        return None
    # No text of the answer that repeats a key is let into a message or a result.
    secrets = [each.key for each in keys]
    member, inside = _without(new.member, secrets), account_in(new.key_id)
    named = folded(member.email) == wanted_email
    of_another = bool(inside and member.account_id and inside != member.account_id.lower())
    doubts = {
        "it was cut short, or is not the JSON of one answer, or its fields are not where they should be": not plain,
        f"it came with HTTP {answer.status}": not 200 <= answer.status < 300,
        "it holds more than one key of this address": len(ours) > 1,
        "it has no application key id": not new.key_id,
        "its key id is of an unknown form": new.key_id and not inside,
        "it names no account": not member.account_id,
        "its key id is one of another account": of_another,
        "it names no address": not member.email,
        f"it names the address {_printable(member.email)!r}": member.email and not named,
    }
    complaints = {
        "it was cut short": plain and not answer.complete,
        "it names another Group": member.group_id != group_id,
        "it names no region": region and not member.region,
        f"it names the region {_printable(member.region)!r}": region and member.region not in ("", region),
    }
    return dataclasses.replace(
        new,
        # The address is the wanted one: a text of the service must not get near a path or a host name.
        member=dataclasses.replace(_of_key(new, member), email=wanted_email, group_id=group_id),
        complaint=_odd(complaints),
        doubt=_odd(doubts),
        named=named and inside in ("", member.account_id.lower()),
        others=tuple(
            dataclasses.replace(
                other,
                member=_of_key(other, _without(other.member, secrets)),
                doubt=_odd({"it holds the keys of several members": True}),
            )
            for other in keys
            if other is not new
        ),
    )


def _without(member: Member, secrets: t.Sequence[str]) -> Member:
    """Return a member without the texts that hold a secret."""
    cleared: dict[str, t.Any] = {
        name: ""
        for name, value in member.as_dict().items()
        if isinstance(value, str) and any(secret in value for secret in secrets)
    }
    return dataclasses.replace(member, **cleared)


def _of_key(new: NewMember, member: Member) -> Member:
    """Return the member of a key. An account id inside the key id wins over all other fields of the answer."""
    inside = account_in(new.key_id)
    return dataclasses.replace(member, account_id=inside) if inside and inside != member.account_id.lower() else member


def _odd(reasons: t.Mapping[str, t.Any]) -> str:
    """Return a sentence with the reasons that apply; empty if none does."""
    given = [reason for reason, applies in reasons.items() if applies]
    return f"The create answer is odd: {', '.join(given)}." if given else ""
