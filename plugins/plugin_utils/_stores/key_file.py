# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Write and read the text of a key file: the one serialiser of keys."""

from __future__ import annotations

import contextlib
import re
import typing as t

import yaml

from ansible_collections.community.backblaze.plugins.module_utils._errors import StoreError
from ansible_collections.community.backblaze.plugins.module_utils._members import (
    Member,
    NewMember,
    folded,
    may_be_template,
)
from ansible_collections.community.backblaze.plugins.module_utils._plan import Stored

_HEADER = "---\n# Sealed by community.backblaze. Backblaze shows this key nowhere else: keep this file.\n"


# What stands for itself between double quotes, as nearly all that Backblaze sends does; a YAML emitter costs more than all else here.
_PLAIN = re.compile(r"[A-Za-z0-9@._+/:=-]*")


# Tags of a value that is text however it looks: YAML on its own takes an account id for a number, and one in octal at that.
_TEXT_TAGS = (None, "!", "!unsafe", "tag:yaml.org,2002:str")


_NULLS = frozenset({"", "~", "null", "Null", "NULL"})


def is_null(value: str, *, bare: bool) -> bool:
    """Tell whether a scalar is nothing; bare: it stands there without quotes and tag."""
    return bare and value in _NULLS


def text_of(value: str, tag: t.Optional[str], *, bare: bool) -> t.Optional[str]:
    """Return what a scalar of a key file stands for, which is the text that is written there; None where its tag says that it is no text."""
    if tag not in _TEXT_TAGS:
        return None
    return "" if is_null(value, bare=bare) else value


def quoted(value: str) -> str:
    """Return a text as YAML, on one line and in printable ASCII."""
    if _PLAIN.fullmatch(value):
        return f'"{value}"'
    return str(yaml.safe_dump(value, default_style='"', width=float("inf"), allow_unicode=False)).strip()


def _scalar(value: str) -> str:
    """Return a value as YAML that Ansible does not take for a template, whatever the service sent."""
    text = quoted(value)
    # Only where it is needed: on a plain text Ansible would resolve the type anew, and a date or "~" would be text no more.
    return f"!unsafe {text}" if may_be_template(value) else text


#: What a key is stored with.
FIELDS = frozenset(
    {
        "b2_application_key_id",
        "b2_application_key",
        "b2_account_id",
        "b2_email",
        "b2_group_id",
        "b2_region",
        "b2_s3_endpoint",
    }
)


def key_variables(new: NewMember) -> dict[str, str]:
    """Return the host variables of a member, its key among them."""
    member = new.member
    return {
        "b2_application_key_id": new.key_id,
        "b2_application_key": new.key,
        "b2_account_id": member.account_id,
        "b2_email": member.email,
        "b2_group_id": member.group_id,
        "b2_region": member.region,
        "b2_s3_endpoint": member.s3_endpoint,
    }


def key_text(new: NewMember) -> bytes:
    """Return the text of a file that holds the host variables of a member."""
    return (_HEADER + "".join(f"{name}: {_scalar(value)}\n" for name, value in key_variables(new).items())).encode(
        "utf-8"
    )


def holds_more(plaintext: bytes, variables: t.Mapping[str, str]) -> bool:
    """Tell whether the text of a key file holds more than its key: other variables, or a comment."""
    if plaintext == key_text(as_new_member(variables)):
        return False
    ours = _HEADER.encode("utf-8").splitlines()
    return not FIELDS.issuperset(variables) or any(b"#" in line for line in plaintext.splitlines() if line not in ours)


def key_line(new: NewMember) -> str:
    """Return the host variables of a member as one value on one line, to stand under its address.

    Its address is not among them: from 2.22 on ansible-core masks every value of a vault file wherever it is shown, and hosts have that name.
    """
    return (
        "{"
        + ", ".join(f"{name}: {_scalar(value)}" for name, value in key_variables(new).items() if name != "b2_email")
        + "}"
    )


def as_new_member(variables: t.Mapping[str, str]) -> NewMember:
    """Return what key_text made its text from."""
    member = Member(
        account_id=variables.get("b2_account_id", ""),
        email=folded(variables["b2_email"]),
        group_id=variables.get("b2_group_id", ""),
        region=variables.get("b2_region", ""),
        s3_endpoint=variables.get("b2_s3_endpoint", ""),
    )
    return NewMember(member, variables.get("b2_application_key_id", ""), variables["b2_application_key"])


def as_stored(variables: t.Mapping[str, str], path: str = "") -> Stored:
    """Return what is known of a stored key, without the key."""
    return Stored(
        variables.get("b2_account_id", ""),
        variables.get("b2_application_key_id", ""),
        path,
        variables.get("b2_group_id", ""),
    )


def read_key_text(plaintext: bytes, path: str, email: t.Optional[str] = None) -> dict[str, str]:
    """Return the variables of a key file, or say that it is none, or not that of an address; one that is no text is under a name that is none."""
    variables: dict[str, str] = {}
    # No tag is resolved, so every scalar is as it is written. RecursionError: what is nested deeper than anybody means.
    with contextlib.suppress(yaml.YAMLError, ValueError, RecursionError):
        root = yaml.compose(plaintext, Loader=yaml.BaseLoader)
        variables = dict(_pair(name, value) for name, value in root.value) if isinstance(root, yaml.MappingNode) else {}
    if not is_key(variables):
        raise StoreError(
            f"{path} decrypts, but does not hold a member's key.",
            remedy="Move it away: this name is where the key of that member belongs.",
        )
    if email is not None and not is_key_of(variables, email):
        raise StoreError(
            f"{path} holds the key of another address.", remedy="Move it to the directory of its own address."
        )
    return variables


def _pair(name: yaml.Node, value: yaml.Node) -> tuple[str, str]:
    texts = [
        text_of(node.value, node.tag, bare=node.style is None) if isinstance(node, yaml.ScalarNode) else None
        for node in (name, value)
    ]
    if texts[0] is None or texts[1] is None:
        return yaml.serialize(name), yaml.serialize(value)
    return texts[0], texts[1]


def is_key(variables: t.Mapping[str, str]) -> bool:
    """Tell whether variables are those of a key."""
    return "b2_application_key" in variables and "b2_email" in variables


def is_key_of(variables: t.Mapping[str, str], email: str) -> bool:
    """Tell whether the variables of a key belong to an address."""
    return folded(variables["b2_email"]) == email
