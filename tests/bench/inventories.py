# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is measured of the inventory: our plugin, against one that has the same hosts and variables in memory."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re
import typing as t

from measure import HERE, Failed, Measured, Site

PLAIN: dict[str, t.Any] = {}
CONSTRUCTED = {
    "keyed_groups": [{"prefix": "region", "key": "b2_region"}],
    "compose": {"b2_gigabytes_stored": "b2_bytes_stored // 1000 ** 3"},
    "groups": {"empty": "b2_files_stored == 0"},
}
_HOST = re.compile(r"--([^@][^@\n]*@\S+)$", re.MULTILINE)


@dataclasses.dataclass
class Hosts:
    """The members of a site's Groups as hosts, and the inventory files that load them."""

    site: Site
    count: int
    expected: dict[str, list[str]] = dataclasses.field(default_factory=dict)

    def prepare(self) -> None:
        """Put the hosts and their variables, as our plugin has them, where the bare plugin finds them, and fill the
        cache."""
        self.site.probe("hosts", str(self._ours("plain")), str(self.site.directory / "hosts.marshal"))
        self._load(self._ours("cached"), "plain")

    def ours(self, variant: str) -> Measured:
        """Load the inventory with our plugin: from Backblaze, or where it is the variant ``cached`` from a warm
        cache."""
        measured = self._load(self._ours(variant), "plain" if variant == "cached" else variant)
        listings = measured.calls.get("b2_list_group_members", 0)
        if bool(listings) is (variant == "cached"):
            raise Failed(f"{variant}: {listings} list calls were made")
        return measured

    def bare(self, variant: str) -> Measured:
        """Load it with the bare plugin."""
        options = {
            "plugin": "bare",
            "hosts": str(self.site.directory / "hosts.marshal"),
            **(CONSTRUCTED if variant == "constructed" else PLAIN),
        }
        return self._load(self._write(f"{variant}.bare.yml", options), variant)

    def nothing(self) -> Measured:
        """Load an inventory without hosts: what the command itself costs."""
        (self.site.directory / "nothing.yml").write_text("all: {}\n")
        return self.site.measure("ansible-inventory", "-i", "nothing.yml", "--graph")

    def _ours(self, variant: str) -> pathlib.Path:
        cache = {
            "cache": True,
            "cache_plugin": "ansible.builtin.jsonfile",
            "cache_connection": str(self.site.directory / "cache"),
            "cache_timeout": 86400,
        }
        own = {"plain": PLAIN, "constructed": CONSTRUCTED, "cached": cache}[variant]
        return self._write(f"{variant}.b2_group_members.yml", {"plugin": "community.backblaze.b2_group_members", **own})

    def _write(self, name: str, options: t.Mapping[str, t.Any]) -> pathlib.Path:
        path = self.site.directory / name
        path.write_text(json.dumps(options))
        return path

    def _load(self, path: pathlib.Path, variant: str) -> Measured:
        # --graph shows every host, so that they can be counted, and costs no more than --host of one. --list costs
        # three times as much as loading does: it looks for files of variables, and formats them, host by host.
        measured = self.site.measure(
            "ansible-inventory", "-i", str(path), "--graph", ANSIBLE_INVENTORY_PLUGINS=str(HERE / "inventory_plugins")
        )
        shown = sorted(measured.output.splitlines())
        hosts = set(_HOST.findall(measured.output))
        if len(hosts) != self.count or shown != self.expected.setdefault(variant, shown):
            raise Failed(
                f"{path.name}: {self.count} hosts were to be shown, the same with every plugin, but there are "
                f"{len(hosts)}"
            )
        return measured
