# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Groups and members as values, read from what the API sends.

The API is not to be trusted with types: answers come as an object or as an array of one, counts as numbers or as decimal
strings, timestamps in three forms. Everything is made uniform here, once, and nothing here raises on a create answer.
"""

from __future__ import annotations

import dataclasses
import datetime
import fnmatch
import functools
import re
import typing as t

from ansible_collections.community.backblaze.plugins.module_utils._errors import AnswerError, OptionError

_COMPACT_TIMESTAMP = re.compile(r"d(\d{4})(\d\d)(\d\d)_m(\d\d)(\d\d)(\d\d)")
# What a file system takes as one name, in bytes.
_NAME_MAX = 255
# No identifier is that long, or that large.
_LONGEST_TEXT = 4096
_HUGE = 10**100


@dataclasses.dataclass(frozen=True)
class Member:
    """One member of a Group: a whole B2 account."""

    account_id: str
    email: str
    group_id: str = ""
    group_name: str = ""
    region: str = ""
    s3_endpoint: str = ""
    bytes_stored: int = 0
    files_stored: int = 0
    bucket_count: int = 0
    stats_timestamp: t.Optional[str] = None

    def as_dict(self) -> dict[str, t.Any]:
        """Return the member as results show it."""
        return dict(self.__dict__)


@dataclasses.dataclass(frozen=True)
class Group:
    """One Group of the admin."""

    group_id: str
    group_name: str
    products: tuple[str, ...] = ()
    member_count: int = 0
    created_timestamp: t.Optional[str] = None
    stats_timestamp: t.Optional[str] = None
    state: t.Optional[str] = None

    def as_dict(self) -> dict[str, t.Any]:
        """Return the Group as results show it."""
        return {**self.__dict__, "products": list(self.products)}


@dataclasses.dataclass(frozen=True)
class NewMember:
    """A key that a create answer held, and whose it is. The key stands nowhere else, so it is kept out of ``repr``.

    complaint: what is odd about the answer, though not whose key it holds. doubt: why it is not certain that this key is the member's.
    named: whether the answer says that this is the key of the address that was asked for. others: the keys of other members in the same answer.
    """

    member: Member
    key_id: str
    key: str = dataclasses.field(repr=False)
    complaint: str = ""
    doubt: str = ""
    named: bool = True
    others: tuple[NewMember, ...] = ()


@dataclasses.dataclass(frozen=True)
class Proof:
    """What was found out about a new key whose answer is odd.

    opens: the account that the key opens, empty for none, None where it could not be tried. member: who has the address in the Group, None where
    nobody was found. problem: why something could not be found out.
    """

    opens: t.Optional[str] = None
    member: t.Optional[Member] = None
    problem: str = ""


_BLANKS = " \t\r\n"
_ASCII_LOWER = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}


def folded(email: str) -> str:
    """Return the form in which two addresses are the same member.

    Only ASCII letters are made lower-case. Others stay as they are: Unicode makes a "k" of the Kelvin sign, which would be another member.
    """
    email = email.strip(_BLANKS)
    return email.lower() if email.isascii() else email.translate(_ASCII_LOWER)


_LONGEST_EMAIL = 254
_LONGEST_LOCAL = 64
# What a shell, CSV, YAML or a mail program puts around or between addresses, and what begins a pattern of --limit or a comment.
_NOT_IN_EMAIL = frozenset("()<>[]{},;:\"'`*?")
_NOT_FIRST_IN_EMAIL = "#!&-~"
_DOMAIN_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def check_email(email: t.Any) -> str:
    """Return a wanted address in lower case, or say why it cannot be one.

    An account cannot be deleted, so what could be a typing mistake is refused. The address also becomes the name of a directory and of an
    inventory host, so it has to be safe as both. Whether Backblaze takes it is for Backblaze to say.
    """
    if not isinstance(email, str) or not email.strip():
        raise OptionError("A member needs an email address, as a non-empty string.")
    address = folded(email)
    # A blank at its edge is what a template or a copy leaves, and may have left more.
    reason = "it contains a blank" if email.strip() != email else unsafe_name(address) or _unfit_address(address)
    if reason:
        raise OptionError(f"{email!r} is not a valid address for a member: {reason}.")
    return address


def _unfit_address(address: str) -> str:
    """Say why a text, which is safe as a name, is no address that an account is created for; empty where it is one."""
    if not address.isascii():
        return "it contains a character that is not ASCII"
    strange = sorted(set(address) & _NOT_IN_EMAIL)
    if strange:
        return f"it contains {' '.join(strange)}"
    if address[0] in _NOT_FIRST_IN_EMAIL:
        return f"it begins with {address[0]}"
    local, at, domain = address.partition("@")
    if not (local and at and domain) or "@" in domain:
        return "it does not have the form name@domain"
    if "" in local.split("."):
        return "a dot is at the edge of its name, or beside another dot"
    labels = domain.split(".")
    if len(labels) < 2 or not all(map(_DOMAIN_LABEL.fullmatch, labels)):
        return f"{domain!r} is not a domain"
    return "it is too long" if len(local) > _LONGEST_LOCAL or len(address) > _LONGEST_EMAIL else ""


#: The regions that Backblaze documents, or that its own tools know. There may be more.
REGIONS = ("us-west", "us-east", "eu-central", "ca-east")
_REGION_BY_LETTERS = {region.replace("-", ""): region for region in REGIONS}


def check_region(region: str) -> str:
    """Return a wanted region, or refuse another name of one that is known, such as the S3 label us-west-004 or EU-Central."""
    # Of s3.us-west-004.backblazeb2.com what is between "s3." and the first digit or dot.
    name = re.split(r"[0-9.]", re.sub(r"^s3\.", "", region.strip().lower()))[0]
    meant = _REGION_BY_LETTERS.get(re.sub(r"[^a-z]", "", name))
    if meant and region != meant:
        raise OptionError(f"There is no region {region!r}; write {meant}.")
    return region


def unknown_region(region: t.Optional[str]) -> str:
    """Return a warning about a region that is not known here, empty where it is: it is sent, as Backblaze may have new ones."""
    if not region or region in REGIONS:
        return ""
    return f"The region {region!r} is not one that this collection knows ({', '.join(REGIONS)}). It is sent to Backblaze as it is."


def may_be_template(text: str) -> bool:
    """Tell whether Ansible could take a text for a template. A first line of "#jinja2:" may redefine what begins one."""
    return "{" in text or text.startswith("#jinja2:")


def unsafe_name(name: str) -> str:
    """Say why a text cannot be the name of a file and of a host; empty where it can."""
    if not name or name.startswith(".") or name.strip() != name:
        return "it is empty or begins with a dot or a space"
    if "/" in name or "\\" in name:
        return "it contains a slash"
    # Of all the kinds of space only this one counts as printable.
    if not name.isprintable() or " " in name:
        return "it contains a space or a control character"
    if "{{" in name or "{%" in name or "{#" in name:
        return "it looks like a template"
    try:
        too_long = len(name.encode("utf-8")) > _NAME_MAX
    except UnicodeEncodeError:
        return "it is not valid Unicode"
    return "it is too long" if too_long else ""


def fits(member: Member, filters: t.Mapping[str, t.Any]) -> bool:
    """Tell whether a member is one of those asked for by ``email``, ``email_pattern`` (a shell pattern), ``region`` and ``account_id``."""
    email = folded(member.email)
    return (
        (not filters["email"] or email == folded(filters["email"]))
        and (not filters["email_pattern"] or fnmatch.fnmatchcase(email, folded(filters["email_pattern"])))
        and (not filters["region"] or member.region == filters["region"])
        and (not filters["account_id"] or member.account_id == filters["account_id"])
    )


def one(answer: t.Any) -> dict[str, t.Any]:
    """Return the object of an answer that is an object or an array of one; an empty one where it is neither."""
    if isinstance(answer, list) and len(answer) == 1:
        answer = answer[0]
    return answer if isinstance(answer, dict) else {}


def as_text(value: t.Any) -> str:
    """Return an identifier as one line of printable text: pages print some as integers. Empty for any other type, and for what is no identifier."""
    # What nearly all are: a listing asks for six of each member.
    if isinstance(value, str) and len(value) <= _LONGEST_TEXT and value.isprintable():
        return value
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        return ""
    text = str(value) if isinstance(value, str) or abs(value) < _HUGE else ""
    if len(text) > _LONGEST_TEXT:
        return ""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def _count(value: t.Any) -> int:
    if isinstance(value, int):
        return 0 if isinstance(value, bool) else value
    if isinstance(value, str) and value.strip().isdecimal() and len(value) < 30:
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return 0


def timestamp(value: t.Any) -> t.Optional[str]:
    """Return any of the API's time forms (dYYYYMMDD_mHHMMSS, ISO 8601, milliseconds) as ISO 8601 in UTC, or None."""
    if isinstance(value, str):
        return _timestamp_of(value) if len(value) <= _LONGEST_TEXT else None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return _iso(datetime.datetime.fromtimestamp(value / 1000, datetime.timezone.utc))
    except (ValueError, OverflowError, OSError):
        return None


# The service counts once a day, so most members of a Group share one.
@functools.lru_cache(maxsize=256)
def _timestamp_of(text: str) -> t.Optional[str]:
    compact = _COMPACT_TIMESTAMP.fullmatch(text)
    try:
        if compact:
            moment = datetime.datetime(*(int(part) for part in compact.groups()))  # type: ignore[arg-type]  # noqa: DTZ001 - six ints, UTC below
        else:
            moment = datetime.datetime.fromisoformat(text.strip().replace("Z", "+00:00"))
        return _iso(moment if moment.tzinfo else moment.replace(tzinfo=datetime.timezone.utc))
    except (ValueError, OverflowError):
        return None


def _iso(moment: datetime.datetime) -> str:
    return moment.astimezone(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def read_member(raw: t.Any, group_id: str = "", group_name: str = "") -> Member:
    """Read one member leniently: a field of a wrong type counts as missing."""
    source = one(raw)
    stats = one(source.get("b2Stats"))
    return Member(
        account_id=as_text(source.get("accountId")),
        email=as_text(source.get("email")),
        group_id=as_text(source.get("groupId")) or group_id,
        group_name=as_text(source.get("groupName")) or group_name,
        region=as_text(source.get("region")),
        s3_endpoint=as_text(source.get("s3Endpoint")),
        bytes_stored=_count(stats.get("b2BytesStoredCount")),
        files_stored=_count(stats.get("b2FilesStoredCount")),
        bucket_count=_count(stats.get("bucketCount")),
        stats_timestamp=timestamp(stats.get("b2StatsAsOfTimestamp")),
    )


def listed_member(raw: t.Any, group_id: str, group_name: str) -> Member:
    """Read one member of a listing, in which account id and address have to be there."""
    member = read_member(raw, group_id, group_name)
    if not member.account_id or not member.email:
        raise AnswerError("Backblaze listed a member without an account id or without an email address.")
    return member


def listed_group(raw: t.Any) -> Group:
    """Read one Group of a listing, in which only id and name are required."""
    source = one(raw)
    stats = one(source.get("groupStats"))
    products = source.get("groupProducts")
    group = Group(
        group_id=as_text(source.get("groupId")),
        group_name=as_text(source.get("groupName")),
        products=tuple(as_text(product) for product in products) if isinstance(products, list) else (),
        member_count=_count(stats.get("memberCount")),
        created_timestamp=timestamp(stats.get("createdTimestamp")),
        stats_timestamp=timestamp(stats.get("groupStatsAsOfTimestamp")),
        state=as_text(one(source.get("accountStandingDetails")).get("state")) or None,
    )
    if not group.group_id or not isinstance(source.get("groupName"), str):
        raise AnswerError("Backblaze listed a Group without an id or without a name.")
    return group
