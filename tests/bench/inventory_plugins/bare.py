# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The yardstick of the bench: hosts and variables from memory, and nothing else."""

from __future__ import annotations

DOCUMENTATION = r"""
name: bare
short_description: Hosts and variables from memory
description:
  - Adds the hosts that a file made ready, with their variables, and does nothing else.
author:
  - community.backblaze contributors (@ansible-collections)
extends_documentation_fragment:
  - ansible.builtin.constructed
options:
  plugin:
    description: Marks the file as one for this plugin.
    type: str
    required: true
    choices: [bare]
  hosts:
    description: A file with all hosts, each with its variables, as Python's marshal wrote it.
    type: path
    required: true
"""

import marshal
import typing as t

from ansible.plugins.inventory import BaseInventoryPlugin, Constructable


class InventoryModule(BaseInventoryPlugin, Constructable):  # type: ignore[misc]  # ansible-core is not typed for subclassing
    """The plugin."""

    NAME = "bare"

    def verify_file(self, path: str) -> bool:
        """Take only files of this plugin's name."""
        return bool(super().verify_file(path)) and path.endswith("bare.yml")

    def parse(self, inventory: t.Any, loader: t.Any, path: str, cache: bool = True) -> None:
        """Fill the inventory."""
        super().parse(inventory, loader, path, cache)
        self._read_config_data(path)
        with open(self.get_option("hosts"), "rb") as file:
            hosts = marshal.load(file)
        compose, groups, keyed_groups = (self.get_option(name) for name in ("compose", "groups", "keyed_groups"))
        constructs = bool(compose or groups or keyed_groups)
        for name, variables in hosts.items():
            self.inventory.add_host(name)
            # As our own plugin does: set_variable looks at each value again.
            self.inventory.get_host(name).vars.update(variables)
            if constructs:
                self._set_composite_vars(compose, variables, name)
                self._add_host_to_composed_groups(groups, variables, name)
                self._add_host_to_keyed_groups(keyed_groups, variables, name)
