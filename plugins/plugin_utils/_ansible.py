# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Get paths and vault secrets from the loader of a plugin on the controller."""

from __future__ import annotations

import os
import re
import typing as t

_COLLECTION_PLAYBOOKS = re.compile(r"/ansible_collections/[^/]+/[^/]+/playbooks/?$")


def path_of(loader: t.Any, path: str) -> str:
    """Return a path on the controller.

    A relative path starts at the playbook's directory, as everywhere in Ansible. If the playbook is in a collection,
    where keys must not be written, it starts at the working directory.
    """
    return os.path.abspath(os.path.join(start_of(loader)[0], os.path.expanduser(path)))


def start_of(loader: t.Any) -> tuple[str, str]:
    """Return the directory where relative paths start, and its description for messages."""
    base = str(loader.get_basedir())
    if _COLLECTION_PLAYBOOKS.search(os.path.abspath(base)):
        return os.getcwd(), "the working directory, because the playbook is in a collection"
    return base, "the directory of the playbook"


def secrets_of(loader: t.Any) -> t.Sequence[t.Any]:
    """Return the vault secrets of the run. Every supported ansible-core keeps them in this private attribute."""
    return list(getattr(loader._vault, "secrets", None) or ())


def plain(value: t.Any) -> t.Any:
    """Return a value without Ansible's tags, which requests, JSON and YAML do not accept."""
    # Up to ansible-core 2.18 an inline vaulted value is not a str.
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
