# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Compare the keys of a result with the page of its module."""

from __future__ import annotations

import importlib

import yaml

# What Ansible itself adds to a result, by name and by prefix.
OWN = ("_", "ansible_")
COMMON = {
    "changed",
    "deprecations",
    "diff",
    "exception",
    "failed",
    "invocation",
    "item",
    "msg",
    "warnings",
}


def undocumented(result, module, without=()):
    """Return each key that a result has and its page has not, or the other way round.

    without: the documented keys that this result does not have, such as the key of a member that exists.
    """
    page = importlib.import_module(f"ansible_collections.community.backblaze.plugins.modules.{module}")
    documented = yaml.safe_load(page.RETURN)
    common = COMMON - documented.keys()
    shown = {name: value for name, value in result.items() if name not in common and not name.startswith(OWN)}
    return list(_differences(shown, {name: documented[name] for name in documented.keys() - set(without)}, ""))


def _differences(value, documented, path):
    for name in sorted(value.keys() ^ documented.keys()):
        yield f"{path}{name} is {'not documented' if name in value else 'missing'}"
    for name in sorted(value.keys() & documented.keys()):
        contains = documented[name].get("contains")
        for entry in value[name] if isinstance(value[name], list) else [value[name]]:
            if contains and entry is not None:
                yield from _differences(entry, contains, f"{path}{name}.")


class FilterModule:
    """The filters of this file."""

    def filters(self):
        """Return them by name."""
        return {"undocumented": undocumented}
