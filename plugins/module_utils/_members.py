# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Define Groups and members, and read them from the answers of Backblaze.

The types in answers vary: an object or an array of one object, counts as numbers or as decimal strings, timestamps in
three forms. This file makes them uniform. Reading a create answer never raises.
"""

from __future__ import annotations

import dataclasses
import datetime
import fnmatch
import re
import typing as t

from ansible_collections.community.backblaze.plugins.module_utils._errors import AnswerError, OptionError

_COMPACT_TIMESTAMP = re.compile(r"d(\d{4})(\d\d)(\d\d)_m(\d\d)(\d\d)(\d\d)")
# The longest name of a file, in bytes.
_NAME_MAX = 255
# The characters of an identifier, at most.
_LONGEST_TEXT = 4096


@dataclasses.dataclass(frozen=True)
class Member:
    """Describe one member of a Group, which is a whole B2 account."""

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
        """Return the member as results show it: an unknown field is None."""
        return {name: None if value == "" else value for name, value in self.__dict__.items()}


@dataclasses.dataclass(frozen=True)
class Group:
    """Describe one Group of the admin."""

    group_id: str
    group_name: str
    products: tuple[str, ...] = ()
    member_count: int = 0
    created_timestamp: t.Optional[str] = None
    stats_timestamp: t.Optional[str] = None
    state: t.Optional[str] = None

    def as_dict(self) -> dict[str, t.Any]:
        """Return the Group as in results."""
        return {**self.__dict__, "products": list(self.products)}


@dataclasses.dataclass(frozen=True)
class NewMember:
    """Hold a key from a create answer, and its member. ``repr`` does not show the key.

    complaint: oddities of the answer that do not concern the owner of the key. doubt: reasons why the key may be
    another member's.
    named: whether the answer says that the key belongs to the wanted address. others: the keys of other members in the
    same answer.
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
    """Hold the results of a trial of a new key, and of a look-up of its address.

    opens: the account that the key opens; empty if Backblaze refuses the key, None if the key could not be tried.
    member: the member of the Group with the address, or None. problem: why the trial or the look-up failed.
    """

    opens: t.Optional[str] = None
    member: t.Optional[Member] = None
    problem: str = ""


_BLANKS = " \t\r\n"
_ASCII_LOWER = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}


def folded(email: str) -> str:
    """Return an address in lower case. Two addresses with the same lower case are the same member.

    Only ASCII letters are changed: Unicode's lower case of the Kelvin sign is "k", which would be another member.
    """
    email = email.strip(_BLANKS)
    return email.lower() if email.isascii() else email.translate(_ASCII_LOWER)


_LONGEST_EMAIL = 254
_LONGEST_LOCAL = 64
# Characters that a shell, CSV, YAML or a mail program puts around or between addresses.
_NOT_IN_EMAIL = frozenset("()<>[]{},;:\"'`*?")
# Characters that begin a comment, an option or a pattern of --limit.
_NOT_FIRST_IN_EMAIL = "#!&-~"
_DOMAIN_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def check_email(email: t.Any) -> str:
    """Return a wanted address in lower case. Raises OptionError if the address is invalid.

    No API deletes an account, so an address that may be a typing mistake is refused. The address also names a directory
    and an inventory host, so it must be safe as both. Backblaze decides whether it accepts the address.
    """
    if not isinstance(email, str) or not email.strip():
        raise OptionError("A member needs an email address, as a non-empty string.")
    address = folded(email)
    # A blank at the start or the end comes from a template or a copy, which may have broken more of the address.
    reason = "it contains a blank" if email.strip() != email else unsafe_name(address) or _unfit_address(address)
    if reason:
        raise OptionError(f"{email!r} is not a valid address for a member: {reason}.")
    return address


def _unfit_address(address: str) -> str:
    """Return why a text, which is safe as a name, is not a valid address for a member. Empty for a valid address."""
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
        return "its name begins or ends with a dot, or has two dots side by side"
    labels = domain.split(".")
    if len(labels) < 2 or not all(map(_DOMAIN_LABEL.fullmatch, labels)):
        return f"{domain!r} is not a domain"
    return "it is too long" if len(local) > _LONGEST_LOCAL or len(address) > _LONGEST_EMAIL else ""


#: The regions that Backblaze documents, or that its own tools know. Backblaze may have more.
REGIONS = ("us-west", "us-east", "eu-central", "ca-east")
_REGION_BY_LETTERS = {region.replace("-", ""): region for region in REGIONS}


def check_region(region: str) -> str:
    """Return a wanted region. Refuse another name of a known region, such as the S3 label us-west-004 or EU-Central."""
    # The text between "s3." and the first digit or dot: us-west in s3.us-west-004.backblazeb2.com.
    name = re.split(r"[0-9.]", re.sub(r"^s3\.", "", region.strip().lower()))[0]
    meant = _REGION_BY_LETTERS.get(re.sub(r"[^a-z]", "", name))
    if meant and region != meant:
        raise OptionError(f"The region {region!r} does not exist: use {meant}.")
    return region


def unknown_region(region: t.Optional[str]) -> str:
    """Return a warning about an unknown region, empty for a known one. An unknown region may be new at Backblaze."""
    if not region or region in REGIONS:
        return ""
    known = ", ".join(REGIONS)
    return f"The region {region!r} is not one that this collection knows ({known}). It is sent to Backblaze unchanged."


def may_be_template(text: str) -> bool:
    """Tell whether a text may be a template to Ansible. A first line "#jinja2:" may redefine the start of templates."""
    return "{" in text or text.startswith("#jinja2:")


def unsafe_name(name: str) -> str:
    """Return why a text is not safe as the name of a file and of a host. Empty for a safe text."""
    if not name or name.startswith(".") or name.strip() != name:
        return "it is empty or begins with a dot or a space"
    if "/" in name or "\\" in name:
        return "it contains a slash"
    # The space is the only white space that is printable. A surrogate, which cannot be encoded, is not printable.
    if not name.isprintable() or " " in name:
        return "it contains a space or a control character"
    if "{{" in name or "{%" in name or "{#" in name:
        return "it looks like a template"
    return "it is too long" if len(name.encode("utf-8")) > _NAME_MAX else ""


def fits(member: Member, filters: t.Mapping[str, t.Any]) -> bool:
    """Tell whether a member matches the filters ``email``, ``email_pattern``, ``region`` and ``account_id``."""
    email = folded(member.email)
    return (
        (not filters["email"] or email == folded(filters["email"]))
        and (not filters["email_pattern"] or fnmatch.fnmatchcase(email, folded(filters["email_pattern"])))
        and (not filters["region"] or member.region == filters["region"])
        and (not filters["account_id"] or member.account_id == filters["account_id"])
    )


def one(answer: t.Any) -> dict[str, t.Any]:
    """Return the object of an answer that is an object or an array of one object, else an empty object."""
    if isinstance(answer, list) and len(answer) == 1:
        answer = answer[0]
    return answer if isinstance(answer, dict) else {}


def as_text(value: t.Any) -> str:
    """Return an identifier, a text or an integer, as one line of printable text. Empty for any other value."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or len(value) > _LONGEST_TEXT:
        return ""
    if value.isprintable():
        return value
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in value)


def _count(value: t.Any) -> int:
    """Return a count that is a number or a decimal string, else 0."""
    if isinstance(value, str) and len(value) < 30 and value.strip().isdecimal():
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def timestamp(value: t.Any) -> t.Optional[str]:
    """Return a time of the API (dYYYYMMDD_mHHMMSS, ISO 8601, milliseconds) as ISO 8601 in UTC, or None."""
    utc = datetime.timezone.utc
    try:
        if isinstance(value, str):
            compact = _COMPACT_TIMESTAMP.fullmatch(value)
            text = "{}-{}-{}T{}:{}:{}".format(*compact.groups()) if compact else value.replace("Z", "+00:00")
            moment = datetime.datetime.fromisoformat(text)
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            moment = datetime.datetime.fromtimestamp(value / 1000, utc)
        else:
            return None
        moment = moment if moment.tzinfo else moment.replace(tzinfo=utc)
        return moment.astimezone(utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return None


def read_member(raw: t.Any, group_id: str = "", group_name: str = "") -> Member:
    """Read one member. A field of a wrong type counts as missing."""
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
    """Read one member of a listing. Raises AnswerError if the account id or the address is missing."""
    member = read_member(raw, group_id, group_name)
    if not member.account_id or not member.email:
        raise AnswerError("Backblaze listed a member without an account id or without an email address.")
    return member


def listed_group(raw: t.Any) -> Group:
    """Read one Group of a listing. Raises AnswerError if the id or the name is missing."""
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
