# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Name the files of a vault directory, on the controller and on a target host."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import typing as t

from ansible_collections.community.backblaze.plugins.module_utils._members import unsafe_name

FILE_NAME = "b2_vault.yml"
#: The end of the name of each file in the fallback directory.
FALLBACK_SUFFIX = f".{FILE_NAME}"
JOURNAL_NAME = "journal.jsonl"
STATE_NAME = ".b2_members"
#: With a dot, which no Group's directory begins with.
INDEX_NAME = ".index"
#: The lock of a Group, for runs on one machine, and its lease, for runs on several.
LOCK_NAME = "lock"
LEASE_NAME = "lease"

_GROUP_PREFIX = "b2_group_"
_PLAIN_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_TEMPORARY_SUFFIX = ".tmp"
_ASIDE_SUFFIX = ".aside"


def temporary_name(name: str) -> str:
    """Return a name for the temporary file that replaces a file, in the same directory."""
    return f".{name}.{secrets.token_hex(6)}{_TEMPORARY_SUFFIX}"


def is_temporary(candidate: str, name: str) -> bool:
    """Tell whether a file has a name of ``temporary_name``."""
    return bool(re.fullmatch(rf"\.{re.escape(name)}\.[0-9a-f]+{re.escape(_TEMPORARY_SUFFIX)}", candidate))


def aside_name(name: str) -> str:
    """Return a name for the file of an unproven key, which may not belong into the key file beside it."""
    return f".{name}.{secrets.token_hex(6)}{_ASIDE_SUFFIX}"


def is_aside(candidate: str, name: str) -> bool:
    """Tell whether a file has a name of ``aside_name``."""
    return bool(re.fullmatch(rf"\.{re.escape(name)}\.[0-9a-f]+{re.escape(_ASIDE_SUFFIX)}", candidate))


def group_directory(group_id: str) -> str:
    """Return the name of the directory of a Group, which Ansible itself loads for the members of the Group."""
    return f"{_GROUP_PREFIX}{name_of(group_id)}"


def is_group_directory(name: str) -> bool:
    """Tell whether a name is that of a Group's directory, and not an address."""
    return name.startswith(_GROUP_PREFIX) and "@" not in name


def is_member_directory(name: str) -> bool:
    """Tell whether a name is that of a member's directory: an address. Other names, such as lost+found, are not."""
    return "@" in name and not unsafe_name(name)


def group_of(name: str) -> str:
    """Return the id of the Group in the name of its directory, or another text that has the same ``name_of``."""
    return name[len(_GROUP_PREFIX) :]


def name_of(group_id: str) -> str:
    """Return the name for the files of a Group: its id, or a digest if the opaque id is no plain name."""
    return group_id if _PLAIN_ID.fullmatch(group_id) else hashlib.sha256(group_id.encode()).hexdigest()[:32]


def is_key_file(name: str) -> bool:
    """Tell whether a file of this name may hold keys: a key file, its temporary file, or a file of an unproven key."""
    return name == FILE_NAME or is_temporary(name, FILE_NAME) or is_aside(name, FILE_NAME)


def is_switched_off(name: str, directories: t.Container[str]) -> bool:
    """Tell whether Ansible does not load a variables file because a directory of its name exists beside it."""
    stem, extension = os.path.splitext(name)
    return extension in (".yml", ".yaml", ".json") and stem in directories


def is_obstacle(path: str, kind: str, directories: t.Container[str]) -> bool:
    """Tell whether something of another kind is at a path of a key file, a journal or the index, or of its directory.

    kind: such as ``file``. directories: those beside a path without a slash, see is_switched_off.
    """
    if "/" in path:
        return kind != "file" and is_synced_path(path)
    return kind != "directory" and not is_switched_off(path, directories)


def is_file_name(name: str) -> bool:
    """Tell whether a text is a valid name of a file, which stays in its directory."""
    try:
        encoded = os.fsencode(name)
    except UnicodeEncodeError:
        return False
    return encoded not in (b"", b".", b"..") and b"/" not in encoded and b"\0" not in encoded


def is_synced_path(path: str) -> bool:
    """Tell whether a path within a vault directory is that of a key file, a journal or the index."""
    parts = path.split("/")
    if not all(map(is_file_name, parts)):
        return False
    folder, name = parts[0], parts[-1]
    if folder == STATE_NAME:
        return parts[1:] == [INDEX_NAME] or (len(parts) == 3 and name == JOURNAL_NAME)
    return len(parts) == 2 and (is_member_directory(folder) or is_group_directory(folder)) and is_key_file(name)


def is_synced_directory(path: str) -> bool:
    """Tell whether a path within a vault directory is that of a directory for key files, journals or the index."""
    return path == STATE_NAME or is_synced_path(f"{path}/{FILE_NAME}") or is_synced_path(f"{path}/{JOURNAL_NAME}")
