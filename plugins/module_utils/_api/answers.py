# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What an answer of the service means: pure functions from bytes to a verdict, a value or a key.

The error table is dispatched on ``code``, never on the HTTP status, which the service uses loosely (a refused address is a 401).
Only where no code can be read does the status decide.
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

# The documented forms, for finding a key in an answer whose fields are not where they should be.
_KEY = re.compile(r"\bK\d{3}[A-Za-z0-9+/_-]{27}(?![A-Za-z0-9+/_-])")
_KEY_ID = re.compile(r"\b\d{3}([0-9a-f]{12})\d{10}\b")
_ACCOUNT_ID = re.compile(r"[0-9a-f]{12}")
_KEY_ID_FIELD = "applicationKeyId"
_KEY_FIELD = "applicationKey"


class Verdict(enum.Enum):
    """What may be done after an answer."""

    DONE = "done"  # executed, the body can be read
    RENEW = "renew"  # the token was refused: nothing was executed, authorize again
    THROTTLED = "throttled"  # nothing was executed, wait
    REFUSED = "refused"  # nothing was executed, and will not be
    UNCLEAR = "unclear"  # it may or may not have been executed
    FUTILE = "futile"  # the same, and a retry would end the same
    UNSENT = "unsent"  # it did not reach the service


def parse(answer: Answer) -> t.Any:
    """Return the JSON of an answer, or None where there is none."""
    try:
        return json.loads(answer.body.decode("utf-8"))
    except (ValueError, RecursionError):
        return None


# Keys and tokens of Backblaze are far longer; of something shorter every other word of a message would be made.
_LEAST_SECRET = 12
_LONGEST_MESSAGE = 300


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
    return "".join(character if character.isprintable() else " " for character in text[:_LONGEST_MESSAGE])


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
        return Verdict.FUTILE
    # An unknown code in a client error is still a "no"; without any code somebody else than the service may have spoken.
    return (
        Verdict.REFUSED if code and answer.status < 500 and answer.status not in _TRANSIENT_STATUS else Verdict.UNCLEAR
    )


def judge_error(error: NetworkError) -> Verdict:
    """Say what may be done after a call that got no answer."""
    if error.sent:
        return Verdict.FUTILE if error.hopeless else Verdict.UNCLEAR
    return Verdict.REFUSED if error.hopeless else Verdict.UNSENT


def refuses_token(answer: Answer) -> bool:
    """Tell whether an answer is one of the only two that mean "authorize again"."""
    return not 200 <= answer.status < 300 and judge(answer) is Verdict.RENEW


def problem(operation: str, answer: Answer, *, of_member: bool = False) -> B2Error:
    """Return the error that an answer stands for; of_member: whether the call was made with a member's key."""
    if 300 <= answer.status < 400:
        return AnswerError(
            f"Backblaze answered {operation} with a redirect (HTTP {answer.status}), which is not followed: it would carry the credentials along.",
            remedy="Check the realm.",
        )
    if 200 <= answer.status < 300:
        what = (
            "cut short"
            if not answer.complete
            else "empty"
            if not answer.body.strip()
            else "not what the Partner API answers"
        )
        return AnswerError(f"The answer of Backblaze to {operation} is {what}.")
    code, message = _code(answer)
    # A code that nobody knows may be anything that looks like one.
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


# Far more than any field that is looked for; a text that is never closed must not cost more than one pass over it.
_LONGEST_FIELD = 4096
_SPACE = r"[ \t\r\n]{0,64}"
#: Bytes of the answer to a create that are read: a true one has less than one KiB.
MAX_CREATE_ANSWER = 256 * 1024
# So many objects are looked for in what is no JSON as a whole, and so many keys of others in one answer are kept.
_MOST_PIECES = 64
_MOST_OTHERS = 8


def _field_in_text(text: str, name: str) -> str:
    """Find a string field in JSON that cannot be parsed as a whole."""
    return next((value for _at, value in _fields_in_text(text, name)), "")


def _fields_in_text(text: str, name: str) -> t.Iterator[tuple[int, str]]:
    """Yield every string field of a name in JSON that cannot be parsed as a whole, and where it begins."""
    for found in re.finditer(rf'"{name}"{_SPACE}:{_SPACE}("(?:[^"\\]|\\.){{0,{_LONGEST_FIELD}}}")', text):
        with contextlib.suppress(ValueError):
            yield found.start(), str(json.loads(found.group(1)))


def _loose_key_id(text: str) -> str:
    """Find what has the documented form of a key id; a number has it too, if it is long enough, but stands without quotes."""
    found = (
        match
        for match in _KEY_ID.finditer(text)
        if not match.group().isdigit() or text[match.start() - 1 : match.start()] == '"'
    )
    return next((match.group() for match in found), "")


def _secret(value: t.Any) -> str:
    """Return a key exactly as it was sent, but for what cannot be encoded."""
    return value.encode("utf-8", errors="replace").decode("utf-8") if isinstance(value, str) else ""


def account_in(key_id: str) -> str:
    """Return the account id inside a key id; empty where the key id has none of the documented forms. That of a master key is the account id."""
    form = _KEY_ID.fullmatch(key_id.lower())
    return form.group(1) if form else key_id.lower() if _ACCOUNT_ID.fullmatch(key_id.lower()) else ""


def _pieces(text: str) -> list[t.Any]:
    """Return the JSON objects in a text that is no JSON as a whole: cut short, with something around it, or several one after the other."""
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
    """Return every key that stands in its field, with what stands beside it in the same object."""
    found = []
    for holder in objects:
        key = _secret(holder.get(_KEY_FIELD))
        if key:
            unproven = one(holder.get("groupMember")) or (holder if "accountId" in holder else {})
            found.append(NewMember(read_member(unproven, group_id), as_text(holder.get(_KEY_ID_FIELD)), key))
    return found


def _keys_in_text(text: str, group_id: str) -> list[NewMember]:
    """Return every key that stands in its field in what is no JSON, with what stands beside it: from its brace to that of the next key."""
    keys = list(itertools.islice(_fields_in_text(text, _KEY_FIELD), _MOST_PIECES))
    starts = [max(0, text.rfind("{", 0, at)) for at, _key in keys]
    found = []
    for number, (_at, key) in enumerate(keys):
        end = next((start for start in starts[number:] if start > starts[number]), len(text))
        part = text[starts[number] : end] if len(keys) > 1 else text
        raw = {
            name: _field_in_text(part, name)
            for name in ("accountId", "email", "groupId", "groupName", "region", "s3Endpoint")
        }
        found += (
            [NewMember(read_member(raw, group_id), _field_in_text(part, _KEY_ID_FIELD), _secret(key))] if key else []
        )
    return found


def _completed(new: NewMember, objects: t.Sequence[dict[str, t.Any]], text: str, group_id: str) -> NewMember:
    """Return the only key of an answer, completed with the key id and the member from other objects of that answer."""
    raw = next((found["groupMember"] for found in objects if one(found.get("groupMember"))), None)
    raw = raw or next((found for found in objects if "accountId" in found), None)
    member = new.member if new.member.account_id or not raw else read_member(raw, group_id)
    return dataclasses.replace(new, member=member, key_id=new.key_id or _field_in_text(text, _KEY_ID_FIELD))


def _key_by_form(answer: Answer, text: str, found: t.Optional[NewMember], group_id: str) -> t.Optional[NewMember]:
    """Return a key with its id, of which one or both were found by the documented form only.

    Only in an answer that claims success: an error page may hold a text of that form by chance.
    """
    if not 200 <= answer.status < 300:
        return found
    # A slash may be escaped in JSON that could not be parsed.
    loose = text.replace("\\/", "/")
    key = _KEY.search(loose)
    if found is None and key is None:
        return None
    found = found or NewMember(read_member({}, group_id), "", t.cast("re.Match[str]", key).group())
    return dataclasses.replace(found, key_id=found.key_id or _loose_key_id(loose))


def _keys_of(answer: Answer, group_id: str) -> tuple[list[NewMember], bool]:
    """Return every key in a create answer, each once, and whether the answer is plain JSON with each key where it should be."""
    value, repeats = _parsed(answer.body)
    objects = list(_objects(value))
    keys = _keys_in(objects, group_id)
    if keys and all(new.key_id and new.member.account_id for new in keys) and not repeats and not answer.rest.strip():
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


def _parsed(body: bytes) -> tuple[t.Any, bool]:
    """Return the JSON of a body, None if the body is not JSON; and whether an object has a field twice, so that parsers may disagree about it."""
    repeats = False

    def read(pairs: list[tuple[str, t.Any]]) -> dict[str, t.Any]:
        nonlocal repeats
        found = dict(pairs)
        repeats = repeats or len(found) != len(pairs)
        return found

    try:
        return json.loads(body.decode("utf-8"), object_pairs_hook=read), repeats
    except (ValueError, RecursionError):
        return None, False


def _each_once(keys: t.Iterable[NewMember]) -> list[NewMember]:
    """Return keys without those that come again; what is known of a key where it comes first stands."""
    found: dict[str, NewMember] = {}
    for new in keys:
        there = found.setdefault(new.key, new)
        if not (there.key_id and there.member.account_id) and new.key_id and new.member.account_id:
            found[new.key] = new
    return list(found.values())


def find_new_member(answer: Answer, wanted_email: str, group_id: str, region: str) -> t.Optional[NewMember]:
    """Find the key in a create answer, whatever shape and status the answer has; None only if there is none.

    This never raises: the key stands nowhere else, so whatever is odd about the rest becomes a ``complaint``, and whatever makes it
    uncertain whose key it is a ``doubt``, both to be looked into when the key is safe. In an answer with several keys the one is taken
    that stands with the wanted address.
    """
    if len(answer.body) > MAX_CREATE_ANSWER:
        # What was compressed may be longer than what was read.
        answer = dataclasses.replace(answer, body=answer.body[:MAX_CREATE_ANSWER], complete=False)
    keys, plain = _keys_of(answer, group_id)
    ours = [new for new in keys if folded(new.member.email) == wanted_email]
    new = next(iter(ours or keys), None)
    if new is None:
        return None
    doubts = (
        []
        if plain
        else ["it was cut short, or is not the JSON of one answer, or its fields are not where they should be"]
    )
    if not 200 <= answer.status < 300:
        doubts.append(f"it came with HTTP {answer.status}")
    if len(ours) > 1:
        doubts.append("it holds more than one key of this address")
    if not new.key_id:
        doubts.append("it has no application key id")
    # No text of the answer that repeats a key is let into a message or a result.
    member, inside = _without(new.member, [other.key for other in keys]), account_in(new.key_id)
    if new.key_id and not inside:
        doubts.append("its key id is of an unknown form")
    if not member.account_id:
        doubts.append("it names no account")
    elif inside and inside != member.account_id.lower():
        doubts.append("its key id is one of another account")
    named = folded(member.email) == wanted_email
    if not named:
        doubts.append(f"it names the address {_printable(member.email)!r}" if member.email else "it names no address")
    complaints = []
    others = [other for other in keys if other is not new]
    if len(others) > _MOST_OTHERS:
        complaints.append(f"it holds {len(others)} keys of others, of which {_MOST_OTHERS} are kept")
    if not answer.complete and plain:
        complaints.append("it was cut short")
    if member.group_id != group_id:
        complaints.append("it names another Group")
    if region and member.region != region:
        complaints.append(
            f"it names the region {_printable(member.region)!r}" if member.region else "it names no region"
        )
    return dataclasses.replace(
        new,
        # The address is the one asked for: what the service sent is not let near a path or a host name.
        member=dataclasses.replace(_of_key(new, member), email=wanted_email, group_id=group_id),
        complaint=_odd(complaints),
        doubt=_odd(doubts),
        named=named and inside in ("", member.account_id.lower()),
        others=tuple(
            dataclasses.replace(
                other,
                member=_of_key(other, _without(other.member, [each.key for each in keys])),
                doubt=_odd(["it holds the keys of several members"]),
            )
            for other in others[:_MOST_OTHERS]
        ),
    )


def _without(member: Member, secrets: t.Sequence[str]) -> Member:
    """Return a member without the texts that hold a secret."""
    texts = {name: value for name, value in member.__dict__.items() if isinstance(value, str)}
    cleared: dict[str, t.Any] = {
        name: "" for name, value in texts.items() if any(secret in value for secret in secrets)
    }
    return dataclasses.replace(member, **cleared)


def _of_key(new: NewMember, member: Member) -> Member:
    """Return the member of a key. Where the key id has an account inside, that is the account of the key, whatever else the answer says."""
    inside = account_in(new.key_id)
    return dataclasses.replace(member, account_id=inside) if inside and inside != member.account_id.lower() else member


def _odd(reasons: t.Sequence[str]) -> str:
    return f"The create answer is odd: {', '.join(reasons)}." if reasons else ""
