#!/usr/bin/python
# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Read and write the files of a vault directory on a target host: whole or not at all, and never through a symlink."""

from __future__ import annotations

DOCUMENTATION = r"""
module: b2_vault_files
short_description: Read and write the encrypted key files of a vault directory on a host
version_added: 0.1.0
description:
  - "This module is internal: M(community.backblaze.b2_group_members) runs it on the target host with
    O(community.backblaze.b2_group_members#module:vault_location=target). Do not call it in your own tasks."
  - It handles nothing in clear. All keys that it reads and writes were encrypted on the controller.
  - It reads and writes key files, journals, leases and the index, which are C(<email>/b2_vault.yml),
    C(b2_group_<group_id>/b2_vault.yml) and files in C(.b2_members/). It does not touch other files in the directory.
  - Each file is written as a temporary file, synced to disk and renamed, and then its directory is synced.
  - No symlink is followed at or below O(path).
  - A file that has changed since the controller last read it is not replaced.
author:
  - community.backblaze contributors (@ansible-collections)
extends_documentation_fragment:
  - community.backblaze.attributes
  - community.backblaze.attributes.files
options:
  path:
    description:
      - Absolute path of the vault directory.
    type: str
    required: true
  operation:
    description:
      - V(read) returns files, and V(write) writes and removes files.
      - V(claim) takes the lease of a Group, each V(write) with this lease refreshes it, and V(release) gives it up.
      - A lease is refused while a run on the host itself holds the lock of the Group.
      - V(peek) returns the run that holds the Group, by lock or lease, and changes nothing.
    type: str
    required: true
    choices:
      - read
      - write
      - claim
      - release
      - peek
  bundle:
    description:
      - With O(operation=read) the digests of the files that the controller has.
      - With O(operation=write) the files to write and remove.
      - It is compressed JSON in Base64.
    type: str
  group:
    description:
      - Name of the Group's directory in C(.b2_members).
    type: str
  lease:
    description:
      - The record of the run that claims, holds or releases the lease. It is one line of JSON with an C(id).
    type: str
  instead_of:
    description:
      - The id of a lease to take over, because its holder is known to be gone.
    type: str
  mode:
    description:
      - Mode of new files, see O(community.backblaze.b2_group_members#module:vault_mode).
        Directories get the same with x added to each r.
      - By default new files are V(0600), new directories are V(0700), and a file that is replaced keeps its mode.
    type: str
"""

EXAMPLES = r"""
- name: List the files of a vault directory on a host
  community.backblaze.b2_vault_files:
    path: /srv/customers/host_vars
    operation: read
"""

RETURN = r"""
bundle:
  description:
    - With O(operation=read) the files of the vault directory.
    - With O(operation=write) the reason for each file that was not written.
    - It is compressed JSON in Base64.
  returned: with O(operation=read) and O(operation=write)
  type: str
holder:
  description:
    - The record of the run that holds the lease, if it is not the caller.
      With RV(ours) it is the run from which the lease was taken over.
    - With O(operation=peek) the record of the run that holds the Group.
  returned: if another run holds or held the lease
  type: str
ours:
  description:
    - Whether the caller holds the lease.
  returned: with O(operation=claim)
  type: bool
"""

import contextlib
import os
import stat
import time
import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.community.backblaze.plugins.module_utils import _lease
from ansible_collections.community.backblaze.plugins.module_utils._bundle import pack, unpack
from ansible_collections.community.backblaze.plugins.module_utils._errors import B2Error, StoreError
from ansible_collections.community.backblaze.plugins.module_utils._files import (
    DIRECTORY,
    digest,
    exists,
    explained,
    look,
    make_directory,
    opened,
    opened_below,
    prove_directory,
    put,
    reason_of,
    replace,
    room_in,
)
from ansible_collections.community.backblaze.plugins.module_utils._vault_mode import PRIVATE, Modes, modes_of
from ansible_collections.community.backblaze.plugins.module_utils._vault_paths import (
    FILE_NAME,
    INDEX_NAME,
    JOURNAL_NAME,
    STATE_NAME,
    is_key_file,
    is_obstacle,
    is_synced_directory,
    is_synced_path,
    temporary_name,
)

# Reading


def read(path: str, known: t.Mapping[str, str]) -> dict[str, t.Any]:
    """Return the content of files whose digest is not known, the paths of all files, and the obstacles."""
    found: dict[str, t.Any] = {
        "files": {},
        # Seconds since each of these was written.
        "ages": {},
        "paths": [],
        "obstacles": {},
        "exists": prove_directory(path) == path,
        "room": room_in(path),
    }
    if found["exists"]:
        with opened(None, path, DIRECTORY) as root:
            read_directory(root, "", known, found)
    return found


def read_directory(directory: int, above: str, known: t.Mapping[str, str], found: dict[str, t.Any]) -> None:
    """Add the files and the obstacles of a directory in a vault directory to what was found.

    above: what comes before a name in its path, empty for the vault directory.
    """
    kinds = {name: kind for name in os.listdir(directory) if (kind := kind_of(name, directory))}
    directories = {name for name, kind in kinds.items() if kind == "directory"}
    # The journals first: a run closes an address there when its key is stored, so a new member is in one of the two.
    for name, kind in sorted(kinds.items(), key=lambda one: one[0] != STATE_NAME):
        path = above + name
        if is_obstacle(path, kind, directories):
            found["obstacles"][path] = kind
        elif is_synced_path(path):
            # A temporary file may be renamed or removed meanwhile.
            with contextlib.suppress(FileNotFoundError):
                data, about = look(directory, name)
                found["paths"].append(path)
                if digest(data) != known.get(path):
                    found["files"][path] = data.decode("latin-1")
                    found["ages"][path] = time.time() - about.st_mtime
        # Other directories, such as lost+found, need not be readable.
        elif kind == "directory" and is_synced_directory(path):
            with opened(directory, name, DIRECTORY) as folder:
                read_directory(folder, f"{path}/", known, found)


def kind_of(name: str, directory: int) -> str:
    """Return the kind of a file in an open directory; an empty text if the file does not exist."""
    try:
        mode = os.lstat(name, dir_fd=directory).st_mode
    except FileNotFoundError:
        return ""
    kinds = ((stat.S_ISDIR, "directory"), (stat.S_ISLNK, "symlink"), (stat.S_ISREG, "file"))
    return next((kind for fits, kind in kinds if fits(mode)), "special file")


# Writing


def write(
    path: str, wanted: t.Mapping[str, t.Any], group: str, lease: str, modes: Modes = PRIVATE
) -> tuple[dict[str, str], t.Optional[_lease.Lease]]:
    """Write files; return why, for each that was not written, and the run that has taken the caller's lease over."""
    refused: dict[str, str] = {}
    other = None
    with contextlib.ExitStack() as stack:
        root = stack.enter_context(opened(None, path, DIRECTORY))
        if wanted.get("probe"):
            name = temporary_name("probe")
            put(root, name, b"probe")
            os.unlink(name, dir_fd=root)
        if group and lease:
            # To the end: no other run takes the lease over while this one writes.
            folder = stack.enter_context(group_directory(root, group, modes))
            other = _lease.refresh(folder, _lease.read_lease(lease), modes)
        for name, change in sorted(wanted.get("files", {}).items()):
            reason = why_not_written(root, name, change, group if lease and not other else "", modes)
            refused.update({name: reason} if reason else {})
        for name in wanted.get("gone", ()):
            remove(root, name)
        # For new directories, and for those of an earlier write that failed at this step.
        os.fsync(root)
    return refused, other


def why_not_written(root: int, path: str, change: t.Mapping[str, t.Any], group: str, modes: Modes) -> str:
    """Write one file; return why it was not written, if so. group: the Group whose lease the caller holds."""
    if not is_synced_path(path):
        return "its path is not that of a key"
    *folders, name = path.split("/")
    if folders[0] == STATE_NAME and not (group and (name == INDEX_NAME or folders[1:] == [group])):
        return "the lease of its Group is not the caller's"
    data = change["data"].encode("latin-1")
    try:
        with opened_below(root, folders, modes) as folder:
            old, like = look(folder, name) if exists(folder, name) else (None, None)
            known = "" if old is None else digest(old)
            if known != digest(data):
                if known not in change["replaces"]:
                    return "somebody else has changed it"
                replace(folder, name, data, like, modes=modes)
            # Also if the file is unchanged: an earlier write of it may have failed at this step.
            os.fsync(folder)
    except OSError as exc:
        return reason_of(exc, path)
    return ""


def remove(root: int, path: str) -> None:
    """Remove a temporary file or the file of an unproven key; nothing else is ever removed."""
    *folders, name = path.split("/")
    if is_synced_path(path) and is_key_file(name) and name != FILE_NAME:
        with contextlib.suppress(OSError), opened_below(root, folders) as folder:
            os.unlink(name, dir_fd=folder)


# Leases


@contextlib.contextmanager
def group_directory(root: int, group: str, modes: Modes) -> t.Iterator[int]:
    """Open the directory of a Group's journal, create it if it is missing, and keep other processes from its lease."""
    with opened_below(root, state_of(group), modes) as folder, _lease.lease_locked(folder):
        yield folder


def state_of(group: str) -> list[str]:
    """Return the names of the directories that lead to the journal of a Group."""
    folders = [STATE_NAME, group]
    if not is_synced_path("/".join([*folders, JOURNAL_NAME])):
        raise StoreError(f"{group!r} is not a valid name of a Group's directory.")
    return folders


def peek(path: str, group: str) -> t.Optional[_lease.Lease]:
    """Return the run that holds a Group, None if no run does. Nothing is created, not even a directory."""
    try:
        with opened(None, path, DIRECTORY) as root, opened_below(root, state_of(group)) as folder:
            return _lease.holder_of(folder)
    except FileNotFoundError:
        return None


def run(options: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """Do what a task asks for; return its result. Raises B2Error."""
    path, operation, group = options["path"], options["operation"], options["group"] or ""
    modes = modes_of(options.get("mode"))
    if not os.path.isabs(path) or os.path.normpath(path) != path:
        raise StoreError(f"{path} is not an absolute path without detours.")
    with explained("cannot be used", path):
        if operation == "read":
            return {"changed": False, "bundle": pack(read(path, unpacked(options["bundle"])))}
        if operation == "write":
            refused, other = write(path, unpacked(options["bundle"]), group, options["lease"] or "", modes)
            return {"changed": True, "bundle": pack(refused), "holder": as_text(other)}
        if operation == "peek":
            return {"changed": False, "holder": as_text(peek(path, group))}
        lease = _lease.read_lease(options["lease"])
        if operation == "claim":
            # Later a missing directory is not created again: the file system that it was on may be gone as well.
            make_directory(path, modes)
        with opened(None, path, DIRECTORY) as root, group_directory(root, group, modes) as folder:
            if operation == "release":
                _lease.release(folder, lease)
                return {"changed": True}
            claim = _lease.claim(folder, lease, options["instead_of"] or "", modes)
            return {"changed": claim.ours, "ours": claim.ours, "holder": as_text(claim.other)}


def unpacked(bundle: t.Optional[str]) -> t.Any:
    """Return the content of a bundle, nothing if none was given."""
    try:
        return unpack(bundle) if bundle else {}
    except ValueError:
        raise StoreError("The bundle is damaged.") from None


def as_text(lease: t.Optional[_lease.Lease]) -> t.Optional[str]:
    """Return a lease as it stands in a result."""
    return lease.as_text() if lease else None


def main() -> None:
    """Run the module."""
    needs = [("operation", operation, ("group", "lease")) for operation in ("claim", "release")]
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "str", "required": True},
            "operation": {"type": "str", "required": True, "choices": ["read", "write", "claim", "release", "peek"]},
            # It is no secret, but the log of the host has no use for it.
            "bundle": {"type": "str", "no_log": True},
            "group": {"type": "str"},
            "lease": {"type": "str"},
            "instead_of": {"type": "str"},
            "mode": {"type": "str"},
        },
        required_if=[*needs, ("operation", "peek", ("group",))],
        required_by={"lease": ("group",)},
        supports_check_mode=True,
    )
    if module.check_mode and module.params["operation"] not in ("read", "peek"):
        module.exit_json(changed=True)
    try:
        result = run(module.params)
    except B2Error as exc:
        # The controller adds what to do.
        module.fail_json(msg=exc.happened)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
