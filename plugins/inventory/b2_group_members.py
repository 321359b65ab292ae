# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Make inventory hosts of the members of Groups."""

from __future__ import annotations

DOCUMENTATION = r"""
name: b2_group_members
short_description: Members of Backblaze B2 Groups as inventory hosts
version_added: 0.1.0
description:
  - Makes a host of every member of the Groups. Its host variables are the fields of the account.
  - The variable C(ansible_host) of each host is V(b2-member.invalid), a name that never resolves. So no task connects
    to the domain of a member's address by accident. Set the keyword C(connection) of a play over members to V(local).
    O(compose) can set another C(ansible_host).
  - Keys are never among them. With C(host_vars) beside the inventory, in which
    M(community.backblaze.b2_group_members) sealed the keys, Ansible itself loads each member's key for its host.
  - Reads a YAML file whose name ends in C(b2_group_members.yml) or C(b2_group_members.yaml).
  - An address that is not safe as the name of a host is left out with a warning.
  - An unknown option is an error, and nothing is listed.
  - With O(cache), the members are listed again if the Groups, the realm or the key id change, in the options or in
    the environment.
  - Several Groups are listed at the same time. If one of them cannot be listed, none of their members becomes a host.
author:
  - community.backblaze contributors (@ansible-collections)
extends_documentation_fragment:
  - community.backblaze.connection
  - ansible.builtin.constructed
  - ansible.builtin.inventory_cache
attributes:
  check_mode:
    description: Check mode makes no difference.
    support: full
    details: It changes nothing at Backblaze.
options:
  plugin:
    description:
      - Marks the file as one for this plugin.
    type: str
    required: true
    choices:
      - community.backblaze.b2_group_members
  group_id:
    description:
      - Id of the only Group to list. It cannot be combined with other options that name Groups.
      - If no Group is named, by none of O(group_id), O(group_name), O(group_ids) and O(group_names), all Groups of
        the admin are listed.
    type: str
  group_name:
    description:
      - Name of the only Group to list. It cannot be combined with other options that name Groups.
      - Names are not unique. A name that fits several Groups is an error that lists their ids.
    type: str
  group_ids:
    description:
      - Ids of the Groups to list. They can be combined with O(group_names).
    type: list
    elements: str
    default: []
  group_names:
    description:
      - Names of the Groups to list. They can be combined with O(group_ids).
    type: list
    elements: str
    default: []
  hostnames:
    description:
      - The names of hosts, as a list of host variables or Jinja2 expressions. The first one that gives a name is used.
    type: list
    elements: str
    default: [b2_email]
"""

EXAMPLES = r"""
---
# customers.b2_group_members.yml: one host for each member of one Group
plugin: community.backblaze.b2_group_members
group_name: hosting
---
# One host for each member of two Groups
plugin: community.backblaze.b2_group_members
group_names:
  - hosting
  - resale
---
# All Groups, hosts grouped by region and by Group, and kept for ten minutes
plugin: community.backblaze.b2_group_members
keyed_groups:
  - prefix: region
    key: b2_region
  - prefix: group
    key: b2_group_name
compose:
  b2_gigabytes_stored: b2_bytes_stored // 1000 ** 3
groups:
  empty: b2_files_stored == 0
cache: true
cache_plugin: ansible.builtin.jsonfile
cache_connection: .cache
cache_timeout: 600
"""

import difflib
import functools
import hashlib
import json
import os
import typing as t

from ansible.errors import AnsibleError, AnsibleParserError
from ansible.plugins.inventory import BaseInventoryPlugin, Cacheable, Constructable
from ansible.utils.display import Display
from ansible.utils.unsafe_proxy import wrap_var

from ansible_collections.community.backblaze.plugins.module_utils._errors import B2Error, OptionError
from ansible_collections.community.backblaze.plugins.module_utils._members import (
    Member,
    folded,
    may_be_template,
    unsafe_name,
)
from ansible_collections.community.backblaze.plugins.module_utils._options import (
    CONNECTION_SPEC,
    connect,
    credentials,
    realm_url,
)
from ansible_collections.community.backblaze.plugins.plugin_utils._progress import tell

try:
    from ansible.template import trust_as_template
except ImportError:
    # Up to ansible-core 2.18 every text is a template unless it is marked.
    def trust_as_template(value: str) -> str:
        """Return the text as it is."""
        return value


display = Display()

#: The options that name Groups: one Group, or a list of Groups.
_GROUP_OPTIONS = ("group_id", "group_name", "group_ids", "group_names")

#: How many Groups are listed at the same time.
_GROUPS_AT_ONCE = 8

#: The variable ansible_host of each member. Anybody may own the domain of an address, and no name under "invalid"
#: resolves (RFC 2606).
_UNREACHABLE = "b2-member.invalid"


def host_variables(member: Member) -> dict[str, t.Any]:
    """Return the host variables of a member; this is also what the cache holds."""
    fields = {**vars(member), "email": folded(member.email)}
    return {f"b2_{name}": value for name, value in fields.items()}


def marked(variables: dict[str, t.Any]) -> dict[str, t.Any]:
    """Return host variables with marked texts, see _marked."""
    return {name: _marked(value) if isinstance(value, str) else value for name, value in variables.items()}


# Cached: many members share a text, and marking it takes some microseconds.
@functools.lru_cache(maxsize=1024)
def _marked(text: str) -> str:
    """Mark a text as unsafe if it may be a template, else as trusted.

    ansible-inventory shows an unsafe text as a dictionary, and AWX keeps that dictionary. Up to ansible-core 2.18 only
    a marked text is unsafe, later every text that is not trusted.
    """
    return t.cast("str", wrap_var(text) if may_be_template(text) else trust_as_template(text))


def _trusted(value: t.Any) -> t.Any:
    """Return a composed value with each text trusted that cannot be a template. Other marks of a text stay."""
    if isinstance(value, str):
        return value if may_be_template(value) else trust_as_template(value)
    if isinstance(value, dict):
        return {key: _trusted(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_trusted(item) for item in value]
    return value


def list_members(
    options: dict[str, t.Any], group_ids: t.Sequence[str], group_names: t.Sequence[str]
) -> t.Iterator[dict[str, t.Any]]:
    """Yield the host variables of the members of the named Groups, or of all, each account once, as they arrive."""
    client = connect(options, connections=_GROUPS_AT_ONCE, tell=tell)
    ids = [*group_ids, *(client.group_id(name) for name in group_names)]
    if not ids:
        ids = [group.group_id for group in client.groups()]
    for member in client.each_member_of(ids, _GROUPS_AT_ONCE):
        yield host_variables(member)


def prove_named(path: str, config: t.Mapping[str, t.Any]) -> None:
    """Raise OptionError if the options of an inventory file that name Groups have no value, or contradict each other.

    Without a value, such as with all lines of a list commented out, all Groups would be listed. An empty list that is
    written out is meant.
    """
    given = [name for name in _GROUP_OPTIONS if name in config]
    for name in given:
        if config[name] in (None, ""):
            raise OptionError(
                f"{path} names no Group in {name}.",
                remedy=f"Name a Group, or leave {name} out to list all Groups.",
            )
    if len(given) > 1 and {"group_id", "group_name"}.intersection(given):
        raise OptionError(
            f"{path} has {' and '.join(given)}, but group_id and group_name cannot be combined with others.",
            remedy="Name several Groups by group_ids and group_names.",
        )


def prove_known(path: str, given: t.Iterable[t.Any], options: t.Iterable[str]) -> None:
    """Raise OptionError if an inventory file has an option that the plugin does not have.

    With a misspelt option for Groups, all Groups would be listed.
    """
    known = sorted(options)
    unknown = sorted(str(name) for name in given if name not in known)
    if not unknown:
        return
    nearest = [name for one in unknown for name in difflib.get_close_matches(one, known, 1)]
    raise OptionError(
        f"{path} has {'an unknown option' if len(unknown) == 1 else 'unknown options:'} {', '.join(unknown)}.",
        remedy=f"Did you mean {', '.join(nearest)}?" if nearest else f"The options are {', '.join(known)}.",
    )


def cache_digest(realm: str, key_id: str, group_ids: t.Iterable[str], group_names: t.Iterable[str]) -> str:
    """Return a digest of the options that select members. It does not include the secret key."""
    asked = [realm_url(realm), key_id, sorted(set(group_ids)), sorted(set(group_names))]
    return hashlib.sha256(json.dumps(asked, separators=(",", ":")).encode()).hexdigest()


class InventoryModule(BaseInventoryPlugin, Constructable, Cacheable):  # type: ignore[misc]  # ansible-core is not typed for subclassing
    """Make an inventory of the members of Groups."""

    NAME = "community.backblaze.b2_group_members"

    def verify_file(self, path: str) -> bool:
        """Take only files of this plugin's name."""
        return bool(super().verify_file(path)) and path.endswith(("b2_group_members.yml", "b2_group_members.yaml"))

    def parse(self, inventory: t.Any, loader: t.Any, path: str, cache: bool = True) -> None:
        """Fill the inventory."""
        super().parse(inventory, loader, path, cache)
        config = self._read_config_data(path)
        try:
            prove_known(path, config, self.option_definitions)
            prove_named(path, config)
            hosts = self._add_hosts(self._members(path, cache))
        except B2Error as exc:
            raise AnsibleParserError(str(exc)) from None
        self._construct(hosts)

    def _members(self, path: str, cache: bool) -> t.Iterable[dict[str, t.Any]]:
        """Return the variables of the members, from the cache if possible, else as they arrive."""
        options = {name: self.get_option(name) for name in CONNECTION_SPEC}
        group_ids, group_names = (self._named(name) for name in ("group_id", "group_name"))
        if not self.get_option("cache"):
            return list_members(options, group_ids, group_names)
        found = credentials(options, os.environ)
        digest = cache_digest(found["realm"], found["application_key_id"], group_ids, group_names)
        cache_key = f"{self.get_cache_key(path)}_{digest}"
        if cache:
            try:
                return t.cast("list[dict[str, t.Any]]", self._cache[cache_key])
            except KeyError:
                pass
        self._cache[cache_key] = members = list(list_members(options, group_ids, group_names))
        return members

    def _named(self, option: str) -> list[str]:
        """Return the Groups that ``group_id`` or ``group_name`` names, or the list of that name with an s."""
        group = self.get_option(option)
        groups = self.get_option(f"{option}s") if group is None else [group]
        return [str(name) for name in groups]

    def _add_hosts(self, members: t.Iterable[dict[str, t.Any]]) -> dict[str, dict[str, t.Any]]:
        """Add a host for each member, while more members arrive. Return the variables of each host."""
        hostnames = self.get_option("hostnames")
        known = set(self.inventory.hosts)
        hosts: dict[str, dict[str, t.Any]] = {}
        try:
            for member in members:
                variables = {**marked(member), "ansible_host": _marked(_UNREACHABLE)}
                name = self._host_name(hostnames, variables)
                reason = unsafe_name(name) or ("another member has that name already" if name in hosts else "")
                if reason:
                    display.warning(
                        f"The member with account id {member['b2_account_id']!r} is left out: {name!r} cannot be its "
                        f"host name, {reason}."
                    )
                    continue
                self.inventory.add_host(name)
                hosts[name] = variables
        except B2Error:
            # An incomplete list must not look like all members.
            for name in hosts.keys() - known:
                self.inventory.remove_host(self.inventory.get_host(name))
            raise
        for name, variables in hosts.items():
            # In one step, because set_variable checks each value again, which takes longer than all the rest.
            self.inventory.get_host(name).vars.update(variables)
        return hosts

    def _construct(self, hosts: dict[str, dict[str, t.Any]]) -> None:
        """Add the variables and groups that the user composes."""
        strict, compose, groups, keyed_groups = (
            self.get_option(name) for name in ("strict", "compose", "groups", "keyed_groups")
        )
        # Skipped if there is nothing to compose: templates take longer than all the rest.
        if not (compose or groups or keyed_groups):
            return
        for name, variables in hosts.items():
            self._set_composite_vars(compose, variables, name, strict=strict)
            composed = self.inventory.get_host(name).vars
            composed.update((one, _trusted(composed[one])) for one in compose or () if one in composed)
            self._add_host_to_composed_groups(groups, variables, name, strict=strict)
            self._add_host_to_keyed_groups(keyed_groups, variables, name, strict=strict)

    def _host_name(self, hostnames: t.Sequence[str], variables: dict[str, t.Any]) -> str:
        """Return the first name that is not empty. Each expression is the name of a variable, or a template."""
        for expression in hostnames:
            try:
                value = variables[expression] if expression in variables else self._compose(expression, variables)
            except AnsibleError as exc:
                if self.get_option("strict"):
                    happened = f"hostnames: {expression!r} cannot be evaluated ({type(exc).__name__})."
                    raise OptionError(happened) from None
                continue
            if value:
                return str(value)
        return ""
