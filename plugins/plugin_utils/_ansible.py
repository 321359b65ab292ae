# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a plugin on the controller finds out from its loader: paths and vault secrets."""

from __future__ import annotations

import os
import re
import typing as t

_COLLECTION_PLAYBOOKS = re.compile(r"/ansible_collections/[^/]+/[^/]+/playbooks/?$")


def path_of(loader: t.Any, path: str) -> str:
    """Return a path on the controller.

    A relative one starts at the playbook's directory, as everywhere in Ansible; a playbook inside a collection is nobody's place to
    write to, so with one of those it starts at the working directory.
    """
    return os.path.abspath(os.path.join(start_of(loader)[0], os.path.expanduser(path)))


def start_of(loader: t.Any) -> tuple[str, str]:
    """Return the directory that relative paths start at, and what it is."""
    base = str(loader.get_basedir())
    if _COLLECTION_PLAYBOOKS.search(os.path.abspath(base)):
        return os.getcwd(), "the working directory, since the playbook is one of a collection"
    return base, "the directory of the playbook"


def secrets_of(loader: t.Any) -> t.Sequence[t.Any]:
    """Return the vault secrets of the run; they are on the loader on every release of ansible-core."""
    return list(getattr(loader._vault, "secrets", None) or ())


def plain(value: t.Any) -> t.Any:
    """Return a value without Ansible's tags: those are not for requests, JSON or YAML."""
    # Up to ansible-core 2.18 a value that is vaulted where it stands is of a class of its own, and no str.
    if getattr(value, "__ENCRYPTED__", False):
        return str(value)
    if isinstance(value, dict):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    for kind in (str, int, float):
        if isinstance(value, kind) and not isinstance(value, bool):
            return kind(value)
    return value
