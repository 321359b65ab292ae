# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Validate lists of members, files of members, and the options for odd cases, before anything else happens."""

from __future__ import annotations

import csv
import dataclasses
import io
import typing as t

import yaml
from ansible.errors import AnsibleError
from ansible.parsing.vault import VaultLib

from ansible_collections.community.backblaze.plugins.module_utils._errors import B2Error, OptionError
from ansible_collections.community.backblaze.plugins.module_utils._members import check_email, check_region
from ansible_collections.community.backblaze.plugins.module_utils._plan import Wanted
from ansible_collections.community.backblaze.plugins.plugin_utils._run.job import Policy

_ENTRY_FIELDS = frozenset({"email", "region", "application_key_id", "application_key"})


#: Entries as the user wrote them, and the line of each if they are from a file.
Entries = tuple[t.Sequence[t.Any], t.Sequence[int]]


def wanted_members(entries: t.Sequence[t.Any], lines: t.Sequence[int] = ()) -> list[Wanted]:
    """Validate a list of members; raise OptionError with every invalid entry.

    lines: the line of each entry in its file.
    """
    if not entries:
        raise OptionError("The list of members is empty.", remedy="Give at least one member, or leave the task out.")
    alone = len(entries) == 1 and not lines
    problems: list[str] = []
    wanted: dict[str, Wanted] = {}
    for number, entry in enumerate(entries):
        try:
            one = _wanted_member(entry)
            if one.email in wanted:
                raise OptionError(
                    f"{one.email} is in the list more than once (addresses are compared without regard to case)."
                )
            wanted[one.email] = one
        except OptionError as exc:
            where = f"Line {lines[number]}" if lines else f"Entry {number + 1}"
            problems.append(exc.happened if alone else f"{where}: {exc.happened}")
    if problems:
        count = f"{len(problems)} of {len(entries)} entries {'are' if problems[1:] else 'is'} invalid."
        raise OptionError(" ".join(problems if alone else [count, *problems]), remedy="Correct the list.")
    return list(wanted.values())


@dataclasses.dataclass(frozen=True)
class WantedGroup:
    """A Group, named by its id or its name, and its members as the user wants them."""

    group_id: str
    group_name: str
    members: t.Sequence[Wanted]

    def __str__(self) -> str:
        return f"Group {self.group_name or self.group_id}"


def wanted_groups(
    entries: t.Sequence[t.Mapping[str, t.Any]], read_file: t.Callable[[str], Entries]
) -> list[WantedGroup]:
    """Validate a list of Groups with their members; raise OptionError with every invalid entry."""
    if not entries:
        raise OptionError("The list of Groups is empty.", remedy="Give at least one Group, or leave the task out.")
    problems: list[str] = []
    groups: list[WantedGroup] = []
    owners: dict[str, WantedGroup] = {}
    for entry in entries:
        group = WantedGroup(entry["group_id"] or "", entry["group_name"] or "", ())
        try:
            file = entry["members_file"]
            members = wanted_members(entry["members"]) if file is None else wanted_members(*read_file(file))
            group = dataclasses.replace(group, members=members)
        except OptionError as exc:
            problems.append(f"{group}: {exc.happened}")
        groups.append(group)
        twice = sorted(one.email for one in group.members if owners.setdefault(one.email, group) is not group)
        problems += [
            f"{group}: {email} is wanted in {owners[email]} too; an account is in one Group only." for email in twice
        ]
    names = [str(group) for group in groups]
    repeated = sorted({name for name in names if names.count(name) > 1})
    problems += [f"{name} is in the list more than once." for name in repeated]
    if problems:
        raise OptionError(" ".join(["The list of Groups is invalid.", *problems]), remedy="Correct the list.")
    return groups


def _wanted_member(entry: t.Any) -> Wanted:
    """Validate one entry of a list of members."""
    if isinstance(entry, str):
        entry = {"email": entry}
    if not isinstance(entry, dict):
        raise OptionError(
            f"The entry is {type(entry).__name__}, but has to be a dictionary with email and, if wanted, region."
        )
    unknown = sorted(str(name) for name in entry if name not in _ENTRY_FIELDS)
    if unknown:
        raise OptionError(f"The entry has unknown fields: {', '.join(unknown)}.")
    values = {name: entry.get(name) for name in _ENTRY_FIELDS - {"email"}}
    for name, value in values.items():
        if value is not None and not isinstance(value, str):
            raise OptionError(f"{name} is {type(value).__name__}, but has to be a string.")
    region, key_id, key = ((values[name] or "").strip() for name in ("region", "application_key_id", "application_key"))
    if not (key_id + key).isascii() or not (key_id + key).isprintable() or " " in key_id + key:
        raise OptionError("The key to adopt contains characters that no Backblaze key has.")
    if bool(key_id) != bool(key):
        raise OptionError("To adopt a key, both application_key_id and application_key are needed.")
    return Wanted(check_email(entry.get("email")), check_region(region) or None, key_id, key)


def policy_of(options: t.Mapping[str, t.Any], wanted: t.Collection[str]) -> Policy:
    """Return how to handle odd cases; raise OptionError for an invalid throwaway_email or recreate_members.

    wanted: the addresses of the task.
    """
    form = options["throwaway_email"]
    try:
        check_email(form.format(account_id="0a1b2c3d4e5f", local="local", domain="domain.example"))
    except (LookupError, ValueError, AttributeError, B2Error):
        raise OptionError(
            f"throwaway_email {form!r} does not give a valid address.",
            remedy="Use {account_id}, {local} and {domain} in it.",
        ) from None
    members = frozenset(check_email(email) for email in options["recreate_members"] or ())
    strangers = sorted(members.difference(wanted))
    if strangers:
        raise OptionError(f"recreate_members names addresses that this task does not want: {', '.join(strangers)}.")
    most = options.get("max_failures")
    if most is not None and most < 1:
        raise OptionError(f"max_failures is {most}, but has to be at least 1.", remedy="Leave it out for no limit.")
    return Policy(options["on_key_lost"] == "recreate", members, form, options["verify_keys"], most or 0)


def read_members(path: str, secrets: t.Sequence[t.Any]) -> Entries:
    """Read a list of members from a YAML or CSV file, which may be encrypted with Ansible Vault, as may each value."""

    def decrypt(content: bytes) -> bytes:
        if not VaultLib.is_encrypted(content):
            return content
        try:
            return bytes(VaultLib(secrets).decrypt(content))
        except AnsibleError:
            raise OptionError(f"members_file {path} does not decrypt with the vault secrets of this run.") from None

    try:
        with open(path, "rb") as file:
            text = decrypt(file.read()).decode("utf-8-sig")
    except OSError as exc:
        raise OptionError(f"members_file {path} cannot be read ({exc.strerror}).") from exc
    except UnicodeDecodeError:
        raise OptionError(f"members_file {path} is not UTF-8 text.") from None
    return _read_csv(path, text) if path.lower().endswith(".csv") else _read_yaml(path, text, decrypt)


def _read_csv(path: str, text: str) -> Entries:
    # A comment counts as an empty line, which is no entry, so that the reader counts each line of the file.
    lines = ("\n" if line.lstrip(" \t").startswith("#") else line for line in io.StringIO(text, newline=""))
    reader = csv.reader(lines, strict=True, skipinitialspace=True)
    entries, numbers = [], []
    try:
        rows = filter(None, reader)
        names = next(rows, [])
        if "email" not in names:
            raise OptionError(f"members_file {path} has no column email in its first line.")
        for row in rows:
            if len(row) > len(names):
                raise OptionError(f"members_file {path}, line {reader.line_num} has more fields than the first line.")
            # Blanks around a value are part of the table's layout.
            entries.append({name: value.strip() for name, value in zip(names, row, strict=False) if value.strip()})
            numbers.append(reader.line_num)
    except csv.Error as exc:
        raise OptionError(f"members_file {path}, line {reader.line_num}: {exc}.") from None
    return entries, numbers


def _read_yaml(path: str, text: str, decrypt: t.Callable[[bytes], bytes]) -> Entries:
    class Loader(yaml.SafeLoader):
        """Load YAML with the tags of Ansible."""

    def vaulted(_loader: yaml.SafeLoader, node: yaml.Node) -> str:
        if not isinstance(node, yaml.ScalarNode):
            raise OptionError(
                f"members_file {path} has the tag !vault on something that is not a text (line "
                f"{node.start_mark.line + 1})."
            )
        return decrypt(node.value.encode()).decode("utf-8")

    def unsafe(loader: yaml.SafeLoader, node: yaml.Node) -> t.Any:
        if isinstance(node, yaml.MappingNode):
            return loader.construct_mapping(node, deep=True)
        return loader.construct_sequence(node, deep=True) if isinstance(node, yaml.SequenceNode) else str(node.value)

    Loader.add_constructor("!vault", vaulted)
    Loader.add_constructor("!unsafe", unsafe)
    form = "Write a list of members, each with email and, if wanted, region."
    try:
        loader = Loader(text)
        node = loader.get_single_node()
        entries: t.Any = loader.construct_document(node) if node else None
    except yaml.YAMLError as exc:
        mark = getattr(exc, "problem_mark", None)
        raise OptionError(f"members_file {path} is not YAML{f' (line {mark.line + 1})' if mark else ''}.") from None
    except RecursionError:
        raise OptionError(f"members_file {path} is nested too deep.", remedy=form) from None
    except ValueError as exc:
        # A value that looks like a date but is not a valid one.
        raise OptionError(
            f"members_file {path} holds a value that YAML cannot read ({exc}).", remedy="Put it in quotes."
        ) from None
    if not isinstance(node, yaml.SequenceNode):
        raise OptionError(f"members_file {path} holds no list.", remedy=form)
    return entries, [item.start_mark.line + 1 for item in node.value]
