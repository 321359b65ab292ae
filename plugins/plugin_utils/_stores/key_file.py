# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Write and read keys as text: the one serialiser of keys, and the one file with the names of their variables."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import re
import typing as t

import yaml

from ansible_collections.community.backblaze.plugins.module_utils._errors import StoreError
from ansible_collections.community.backblaze.plugins.module_utils._members import (
    Member,
    NewMember,
    folded,
    may_be_template,
    unsafe_name,
)
from ansible_collections.community.backblaze.plugins.module_utils._plan import Stored

_HEADER = "---\n# Sealed by community.backblaze. Backblaze shows this key nowhere else: keep this file.\n"
_GROUP_HEADER = "---\n# Sealed by community.backblaze. Backblaze shows these keys nowhere else: keep this file.\n"
#: The variable of the layout group_vars: a mapping from the address of each member to the variables of its key.
GROUP_VARIABLE = "b2_member_keys"
#: The field of StoredKey that each variable of a key file holds, in the order of the file.
_FIELDS = {
    "b2_application_key_id": "key_id",
    "b2_application_key": "key",
    "b2_account_id": "account_id",
    "b2_email": "email",
    "b2_group_id": "group_id",
    "b2_region": "region",
    "b2_s3_endpoint": "s3_endpoint",
}
_KEY, _EMAIL = "b2_application_key", "b2_email"
# Marks a key without proof of its owner. Such a key is tried before it is used.
_UNPROVEN = "b2_unproven"
# Texts that need no escapes in double quotes: nearly all that Backblaze sends. A YAML emitter is many times slower.
_PLAIN = re.compile(r"[A-Za-z0-9@._+/:=-]*")
# Tags of a text. YAML on its own reads some account ids as numbers, and some of these as octal numbers.
_TEXT_TAGS = (None, "!", "!unsafe", "tag:yaml.org,2002:str")
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
# Resolves no tag, so that every value is the text of the file. The loader in C is ten times faster, and may be missing.
_LOADER = getattr(yaml, "CBaseLoader", yaml.BaseLoader)


@dataclasses.dataclass(frozen=True)
class StoredKey:
    """A member's application key as a vault file holds it. The key is kept out of ``repr``.

    email: in lower case. key_id: empty if only a part of the key could be saved. unproven: the key is not shown to be
    this member's. more: the file holds other variables or comments, which are the owner's.
    """

    email: str
    key_id: str
    key: str = dataclasses.field(repr=False)
    account_id: str = ""
    group_id: str = ""
    region: str = ""
    s3_endpoint: str = ""
    unproven: bool = dataclasses.field(default=False, compare=False)
    more: bool = dataclasses.field(default=False, compare=False)

    @property
    def secret(self) -> tuple[str, str]:
        """The key id and the key."""
        return self.key_id, self.key

    @functools.cached_property
    def line(self) -> str:
        """The line of this key in the file of a Group. The whole file is written with each new key, so it is kept."""
        fields = (f"{name}: {_scalar(getattr(self, field))}" for name, field in _FIELDS.items() if name != _EMAIL)
        return f"  {_quoted(self.email)}: {{{', '.join(fields)}}}\n"

    def of(self, member: Member) -> StoredKey:
        """Return this key, proven to be a member's, with what is known about the account."""
        return key_of(NewMember(member, self.key_id, self.key))

    def known(self, path: str = "") -> Stored:
        """Return what is known of this key, without the key."""
        return Stored(self.account_id, self.key_id, path, self.group_id)


def key_of(new: NewMember) -> StoredKey:
    """Return the key of a new member as a vault file holds it."""
    member = new.member
    return StoredKey(
        member.email,
        new.key_id,
        new.key,
        member.account_id,
        member.group_id,
        member.region,
        member.s3_endpoint,
        unproven=bool(new.doubt),
    )


def is_another(key: StoredKey, there: t.Optional[StoredKey]) -> bool:
    """Tell whether a stored key is another one, which must not be replaced. A part of a key may be replaced."""
    return there is not None and bool(there.key_id) and there.key != key.key


def says_more(key: StoredKey, there: StoredKey) -> bool:
    """Tell whether a key is more complete than the stored key: its text differs, or the stored key has no key id."""
    return there.key != key.key or bool(key.key_id and not there.key_id)


# One key: the variables of a host


def key_text(key: StoredKey) -> bytes:
    """Return the text of a file with the host variables of one member."""
    lines = [f"{name}: {_scalar(getattr(key, field))}\n" for name, field in _FIELDS.items()]
    return "".join([_HEADER, *lines, f"{_UNPROVEN}: true\n" if key.unproven else ""]).encode()


def read_key(plaintext: bytes, path: str, email: t.Optional[str] = None) -> StoredKey:
    """Return the key of a file. Raises StoreError if the file holds no key, or the key of another address."""
    root = _composed(plaintext)
    variables = dict(map(_pair, root.value)) if isinstance(root, yaml.MappingNode) else {}
    if _KEY not in variables or _EMAIL not in variables:
        raise StoreError(
            f"{path} decrypts, but does not hold a member's key.",
            remedy="Move the file away: this name is for the key of that member.",
        )
    if email is not None and folded(variables[_EMAIL]) != email:
        raise StoreError(
            f"{path} holds the key of another address.", remedy="Move the file to the directory of its own address."
        )
    key = _key(variables)
    ours = _HEADER.encode().splitlines()
    comments = any(b"#" in line for line in plaintext.splitlines() if line not in ours)
    more = plaintext != key_text(key) and (comments or not {*_FIELDS, _UNPROVEN}.issuperset(variables))
    return dataclasses.replace(key, more=more)


# Many keys: the variable of a Group


def group_text(keys: t.Iterable[StoredKey]) -> bytes:
    """Return the text of a file with the keys of a Group, one line each, by address.

    The address is not repeated among the variables: from ansible-core 2.22 on every value of a vault file is masked in
    all output, and inventory hosts have that name.
    """
    return "".join([_GROUP_HEADER, f"{GROUP_VARIABLE}:\n", *(key.line for key in keys)]).encode()


def read_group(plaintext: bytes, path: str) -> dict[str, StoredKey]:
    """Return the keys of a Group by address. Raises StoreError unless ``group_text`` would write the same text."""
    keys = [_key({**dict(map(_pair, fields.value)), _EMAIL: email}) for email, fields in _entries(_composed(plaintext))]
    # Blanks and line ends do not count: an editor may have changed them.
    by_email = {key.email: key for key in keys}
    # Compared without duplicates: of two keys of one address, neither may be dropped.
    if group_text(by_email.values()).split() == plaintext.split() and not any(map(unsafe_name, by_email)):
        return by_email
    raise StoreError(
        f"{path} holds something else than keys that this collection has sealed. The file was not changed.",
        remedy="Move other variables and comments to a file beside it, such as vars.yml, which Ansible loads as well. "
        "Leave each key on its line, as it was sealed.",
    )


def comes_back(key: StoredKey) -> bool:
    """Tell whether a key can be read back unchanged. One invalid line would make the file of a Group unreadable."""
    with contextlib.suppress(StoreError):
        return read_group(group_text([key]), "") == {key.email: key}
    return False


def _entries(root: t.Optional[yaml.Node]) -> list[tuple[str, yaml.MappingNode]]:
    """Return address and variables of each key in the text of a Group."""
    found = root.value[0][1] if isinstance(root, yaml.MappingNode) and len(root.value) == 1 else None
    pairs = found.value if isinstance(found, yaml.MappingNode) else ()
    return [(str(name.value), fields) for name, fields in pairs if isinstance(fields, yaml.MappingNode)]


# YAML


def _composed(plaintext: bytes) -> t.Optional[yaml.Node]:
    """Return a text as YAML nodes; None if it is no YAML, or is nested deeper than any key file."""
    with contextlib.suppress(yaml.YAMLError, ValueError, RecursionError):
        return yaml.compose(plaintext, Loader=_LOADER)
    return None


def _pair(pair: tuple[yaml.Node, yaml.Node]) -> tuple[str, str]:
    """Return the name and the text of a variable. If its value is not text, its name is empty, which no key has."""
    name, value = map(_text_of, pair)
    return ("", "") if name is None or value is None else (name, value)


def _text_of(node: yaml.Node) -> t.Optional[str]:
    """Return the text that a scalar of a key file stands for; None for other nodes."""
    if not isinstance(node, yaml.ScalarNode) or node.tag not in _TEXT_TAGS:
        return None
    # Without quotes, a null is the empty text.
    return "" if not node.style and node.value in _NULLS else str(node.value)


def _key(variables: t.Mapping[str, str]) -> StoredKey:
    """Return a key by its variables."""
    fields: dict[str, t.Any] = {field: variables.get(name, "") for name, field in _FIELDS.items()}
    return StoredKey(**{**fields, "email": folded(fields["email"]), "unproven": _UNPROVEN in variables})


def _quoted(value: str) -> str:
    """Return a text as YAML, on one line and in printable ASCII."""
    if _PLAIN.fullmatch(value):
        return f'"{value}"'
    return str(yaml.safe_dump(value, default_style='"', width=float("inf"), allow_unicode=False)).strip()


def _scalar(value: str) -> str:
    """Return a value as YAML that Ansible does not take for a template, whatever the service sent."""
    # Ansible resolves the type of a value without this tag, as it should for most values.
    return f"!unsafe {_quoted(value)}" if may_be_template(value) else _quoted(value)
