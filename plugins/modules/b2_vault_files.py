#!/usr/bin/python
# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The far end of keys on a task's target host: encrypted files in and out, whole or not at all, and never through a symlink."""

from __future__ import annotations

DOCUMENTATION = r"""
module: b2_vault_files
short_description: Read and write the encrypted key files of a vault directory on a host
version_added: 0.1.0
description:
  - This is what M(community.backblaze.b2_group_members) runs on the task's host with
    O(community.backblaze.b2_group_members#module:vault_location=target). There is no need to call it yourself.
  - It sees nothing in clear. What it reads and writes was encrypted on the controller, or is no secret.
  - It looks at key files and at what is kept about Groups, C(<email>/b2_vault.yml), C(b2_group_<group_id>/b2_vault.yml) and C(.b2_members/), and at
    nothing else in the directory.
  - A file is written beside its place, synced, renamed, and its directory synced. No symlink is followed at or below O(path), and a file that
    holds something else than the controller knows is not replaced.
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
      - V(read) returns files, V(write) puts some in their place.
      - V(claim) asks for the lease of a Group, V(refresh) keeps it, and V(release) gives it up.
      - A lease is not given while a run on the host itself holds the lock of the Group.
      - V(peek) tells which run is at the Group, by lock or lease, and changes nothing.
    type: str
    required: true
    choices:
      - read
      - write
      - claim
      - refresh
      - release
      - peek
  bundle:
    description:
      - With V(read) the files that are known, with V(write) the ones to write or remove. JSON, compressed, in Base64.
    type: str
  group:
    description:
      - The Group that the lease is for, by the name of its directory in C(.b2_members).
    type: str
  lease:
    description:
      - The holder's own record. It is a line of JSON with an C(id).
    type: str
  instead_of:
    description:
      - The id of a lease that is taken over, because its holder is known to be gone.
    type: str
  stale_after:
    description:
      - After how many seconds without a V(refresh) a lease may be taken over.
    type: float
    default: 600.0
  mode:
    description:
      - Mode of files that are made, see O(community.backblaze.b2_group_members#module:vault_mode). Directories get the same with x added to each r.
      - By default new files are V(0600) and new directories V(0700), and a file that is replaced keeps its mode.
    type: str
"""

EXAMPLES = r"""
- name: See which files are there
  community.backblaze.b2_vault_files:
    path: /srv/customers/host_vars
    operation: read
"""

RETURN = r"""
bundle:
  description:
    - With O(operation=read) what is there, with O(operation=write) what was not written and why. JSON, compressed, in Base64.
  returned: with O(operation=read) and O(operation=write)
  type: str
holder:
  description:
    - The record of who holds the lease, if that is somebody else; with RV(ours) from whom it was taken over.
    - With O(operation=peek) the record of the run that is at the Group.
  returned: if there is or was another holder
  type: str
ours:
  description:
    - Whether the lease is the caller's.
  returned: with O(operation=claim)
  type: bool
"""

import base64
import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import stat
import time
import typing as t
import uuid
import zlib

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.community.backblaze.plugins.module_utils._errors import OptionError
from ansible_collections.community.backblaze.plugins.module_utils._files import DIRECTORY, make_in, opened
from ansible_collections.community.backblaze.plugins.module_utils._members import unsafe_name
from ansible_collections.community.backblaze.plugins.module_utils._vault_mode import PRIVATE, Modes, modes_of

STATE = ".b2_members"
# What the names of files of variables end with, for Ansible.
VARIABLES = (".yml", ".yaml", ".json")
GROUP_PREFIX = "b2_group_"
FILE = "b2_vault.yml"
# What is beside a key file: on its way into its place, or a key of which it is not certain whose it is.
BESIDE = re.compile(r"\.b2_vault\.yml\.[0-9a-f]+\.(?:tmp|aside)")
INDEX = ".index"
JOURNAL = "journal.jsonl"
LEASE = "lease"
LOCK = "lock"
LARGEST = 128 * 1024 * 1024


class Refused(Exception):
    """One file that must not be written, or a directory that cannot be used, and why."""


# What comes and goes


def pack(content: t.Any) -> str:
    return base64.b64encode(zlib.compress(json.dumps(content).encode())).decode()


def unpack(bundle: str) -> t.Any:
    return json.loads(zlib.decompress(base64.b64decode(bundle)))


def parts_of(path: str) -> list[str]:
    """Return the names that a path within the vault directory is made of, if it is one that a key or what is kept about a Group can have."""
    parts = path.split("/")
    if any(part in ("", ".", "..") or "\0" in part for part in parts):
        raise Refused("its path is none within the directory")
    of_state = parts[0] == STATE and (parts[1:] == [INDEX] or (len(parts) == 3 and parts[2] == JOURNAL))
    if not (of_state or (len(parts) == 2 and holds_keys(parts[0]) and is_key_file(parts[1]))):
        raise Refused("its path is not that of a key")
    return parts


def holds_keys(name: str) -> bool:
    """Tell whether a directory of that name may have keys in it: a member's address, or what stands for a Group."""
    return not unsafe_name(name) if "@" in name else name.startswith(GROUP_PREFIX)


def is_key_file(name: str) -> bool:
    return name == FILE or bool(BESIDE.fullmatch(name))


# Files, by open directories only


def reason_of(exc: OSError, path: str) -> str:
    """Say what went wrong at a path, and where if it is another one."""
    where = exc.filename if isinstance(exc, PermissionError) and isinstance(exc.filename, str) else path
    return f"{where}: {exc.strerror}" if where != path else str(exc.strerror)


def kind_of(name: str, directory: int) -> str:
    """Return what a name stands for, ``absent`` among others."""
    try:
        mode = os.lstat(name, dir_fd=directory).st_mode
    except FileNotFoundError:
        return "absent"
    kinds = ((stat.S_ISDIR, "directory"), (stat.S_ISLNK, "symlink"))
    return next((kind for fits, kind in kinds if fits(mode)), "file" if stat.S_ISREG(mode) else "odd")


def read_file(name: str, directory: int) -> bytes:
    with opened(directory, name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC) as fd:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "not a plain file")
        content = bytearray()
        while len(content) < LARGEST:
            part = os.read(fd, 65536)
            if not part:
                break
            content += part
        return bytes(content)


def write_beside(name: str, data: bytes, directory: int, modes: Modes = PRIVATE) -> str:
    """Write what is to take the place of a file, with that one's owner, and its mode if none was asked for, synced; return its name."""
    temporary = f".{name}.{uuid.uuid4().hex[:12]}.tmp"
    with opened(directory, temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC) as fd:
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(fd, rest) :]
            modes.allow_file(fd)
            with contextlib.suppress(OSError):
                like = os.lstat(name, dir_fd=directory)
                os.fchown(fd, -1, like.st_gid)
                os.fchmod(fd, modes.file if modes.given else stat.S_IMODE(like.st_mode) & 0o777)
                os.fchown(fd, like.st_uid, -1)
            os.fsync(fd)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(temporary, dir_fd=directory)
            raise
    return temporary


def make_directory(path: str, modes: Modes = PRIVATE) -> None:
    """Make a directory, with those above it that are missing, each synced."""
    if not os.path.lexists(path):
        above = os.path.dirname(path)
        make_directory(above, modes)
        with contextlib.suppress(FileExistsError):
            make_in(None, path, modes)
        with opened(None, above, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC) as fd:
            os.fsync(fd)


@contextlib.contextmanager
def entered(directory: int, name: str, modes: Modes) -> t.Iterator[int]:
    """Open a directory in an open one, and create it where it is missing; syncing the open one is the caller's."""
    with contextlib.suppress(FileExistsError):
        make_in(directory, name, modes)
    with opened(directory, name, DIRECTORY) as fd:
        yield fd


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# Reading


def read(path: str, known: t.Mapping[str, str]) -> dict[str, t.Any]:
    """Return what there is: files that are not as known, the paths of all, and what is odd."""
    above = path
    while not os.path.lexists(above):
        above = os.path.dirname(above)
    if not os.path.isdir(above) or (above == path and os.path.islink(path)):
        what = "a symlink, which is not followed" if os.path.islink(above) else "not a directory"
        raise Refused(f"{above} is {what}")
    if not os.access(above, os.R_OK | os.W_OK | os.X_OK):
        raise Refused(f"{above} cannot be written by the user that the task becomes there")
    room = os.statvfs(above)
    found: dict[str, t.Any] = {
        "files": {},
        # Seconds since each of these was written.
        "ages": {},
        "paths": [],
        "odd": {},
        "exists": above == path,
        "room": [room.f_bavail * room.f_frsize, room.f_favail if room.f_files else None],
    }
    if above == path:
        with opened(None, path, DIRECTORY) as root:
            read_tree(root, known, found)
    return found


def read_tree(root: int, known: t.Mapping[str, str], found: dict[str, t.Any]) -> None:
    kinds = {name: kind_of(name, root) for name in os.listdir(root)}
    # The journals first: a run closes an address there when its key is stored, so that what is open in neither is not there.
    for name, kind in sorted(kinds.items(), key=lambda one: one[0] != STATE):
        if kind == "directory":
            # What cannot have keys in it, such as lost+found, need not be readable.
            if name == STATE or holds_keys(name):
                with opened(root, name, DIRECTORY) as folder:
                    read_folder(folder, [name], known, found)
        # A file of variables does not matter if the directory of its name exists: Ansible loads the directory only.
        elif kind != "absent" and not (
            name.endswith(VARIABLES) and kinds.get(os.path.splitext(name)[0]) == "directory"
        ):
            found["odd"][name] = kind


def read_folder(folder: int, above: list[str], known: t.Mapping[str, str], found: dict[str, t.Any]) -> None:
    for name in os.listdir(folder):
        path = "/".join([*above, name])
        kind = kind_of(name, folder)
        if above == [STATE] and kind == "directory":
            with opened(folder, name, DIRECTORY) as inner:
                read_folder(inner, [STATE, name], known, found)
            continue
        try:
            parts_of(path)
        except Refused:
            continue
        if kind != "file":
            found["odd"].update({path: kind} if kind != "absent" else {})
            continue
        try:
            written = os.lstat(name, dir_fd=folder).st_mtime
            data = read_file(name, folder)
        except FileNotFoundError:
            # It was on its way to its place, or removed.
            continue
        found["paths"].append(path)
        if digest(data) != known.get(path):
            found["files"][path] = data.decode("latin-1")
            found["ages"][path] = time.time() - written


# Writing


def write(
    path: str, wanted: t.Mapping[str, t.Any], group: t.Optional[str], lease: t.Optional[str], modes: Modes = PRIVATE
) -> tuple[dict[str, str], t.Optional[str]]:
    """Put files in their place; return the ones that were not and why, and who holds the lease if not the caller."""
    refused: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        root = stack.enter_context(opened(None, path, DIRECTORY))
        if wanted.get("probe"):
            os.unlink(write_beside("probe", b"probe", root), dir_fd=root)
            os.fsync(root)
        # Held to the end: nobody takes the lease over while this writes.
        other = refresh(stack.enter_context(state_of(root, group, modes)), lease, modes) if group and lease else None
        for name, change in sorted(wanted.get("files", {}).items()):
            reason = why_not(root, name, change, group if other is None else None, modes)
            refused.update({name: reason} if reason else {})
        for name in wanted.get("gone", ()):
            with contextlib.suppress(Refused, OSError):
                *folders, last = parts_of(name)
                # All else is never removed.
                if BESIDE.fullmatch(last):
                    with opened(root, folders[0], DIRECTORY) as folder:
                        os.unlink(last, dir_fd=folder)
        # For directories that are new, or were made by a write that failed at this step.
        os.fsync(root)
    return refused, other


def why_not(root: int, name: str, change: t.Mapping[str, t.Any], group: t.Optional[str], modes: Modes) -> str:
    """Put one file in its place; return why it was not, if so. group: whose lease is the caller's."""
    try:
        parts = parts_of(name)
        if parts[0] == STATE and not (group and parts[1] in (INDEX, group)):
            return "the lease of its Group is not the caller's"
        write_one(root, parts, change["data"].encode("latin-1"), change["replaces"], modes)
    except Refused as exc:
        return str(exc)
    except OSError as exc:
        return (
            "a symlink or a plain file is in the way"
            if exc.errno in (errno.ELOOP, errno.ENOTDIR)
            else reason_of(exc, name)
        )
    return ""


def write_one(root: int, parts: list[str], data: bytes, replaces: t.Collection[str], modes: Modes) -> None:
    with contextlib.ExitStack() as stack:
        folder = root
        for name in parts[:-1]:
            folder = stack.enter_context(entered(folder, name, modes))
        name = parts[-1]
        there = ""
        if kind_of(name, folder) != "absent":
            there = digest(read_file(name, folder))
        if there != digest(data):
            if there not in replaces:
                raise Refused("somebody else has changed it")
            temporary = write_beside(name, data, folder, modes)
            try:
                os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
            except OSError:
                with contextlib.suppress(OSError):
                    os.unlink(temporary, dir_fd=folder)
                raise
        # Also where nothing is new: what is there may have been put there by a write that failed at this step.
        os.fsync(folder)


# Leases


@contextlib.contextmanager
def state_of(root: int, group: str, modes: Modes = PRIVATE) -> t.Iterator[int]:
    """Open the directory for what is kept about a Group, and keep every other process that does from changing its lease meanwhile."""
    parts_of("/".join((STATE, group, JOURNAL)))
    with entered(root, STATE, modes) as state, entered(state, group, modes) as folder:
        # Whether they are new or not: whoever made them may have come no further.
        os.fsync(root)
        os.fsync(state)
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield folder


def held(folder: int) -> tuple[t.Optional[str], float]:
    """Return the record of who holds the lease, and for how many seconds it was not refreshed."""
    try:
        record = json.loads(read_file(LEASE, folder))
        return str(record["lease"]), time.time() - float(record["refreshed"])
    except FileNotFoundError:
        return None, 0.0
    except (ValueError, LookupError, TypeError):
        # Of nobody who could be asked; it gets stale like any other.
        return "", time.time() - os.lstat(LEASE, dir_fd=folder).st_mtime


def is_stale(age: float, stale_after: float) -> bool:
    """Tell whether a lease of this age is stale; a time in the future, or none, is as wrong as one long ago."""
    return not abs(age) <= stale_after


def put_lease(folder: int, lease: str, modes: Modes) -> None:
    data = json.dumps({"lease": lease, "refreshed": time.time()}).encode()
    os.rename(write_beside(LEASE, data, folder, modes), LEASE, src_dir_fd=folder, dst_dir_fd=folder)
    os.fsync(folder)


@contextlib.contextmanager
def unlocked(folder: int, modes: Modes) -> t.Iterator[t.Optional[str]]:
    """Take the lock of a Group, which runs on this machine hold; yield the record of the run that has it, if any."""
    with opened(folder, LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC) as lock:
        # One that is there already is its owner's, who gave it a mode.
        with contextlib.suppress(PermissionError):
            modes.allow_file(lock)
        yield locked_by(lock, fcntl.LOCK_EX)


def locked_by(lock: int, kind: int) -> t.Optional[str]:
    """Take the lock, or return the record of the run that holds it, in the form of a lease."""
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except OSError as exc:
        if exc.errno not in (errno.EAGAIN, errno.EACCES):
            raise
    else:
        return None
    try:
        record = json.loads(os.pread(lock, 4096, 0))
        named = {name: str(record[name]) for name in ("host", "since")}
        return json.dumps({"id": "", "pid": int(record["pid"]), "process": "", **named})
    except (ValueError, LookupError, TypeError, OverflowError):
        return ""


def id_of(lease: t.Optional[str]) -> str:
    try:
        return str(json.loads(lease or "")["id"])
    except (ValueError, LookupError, TypeError):
        return ""


def claim(
    folder: int, lease: str, instead_of: t.Optional[str], stale_after: float, modes: Modes = PRIVATE
) -> tuple[bool, t.Optional[str]]:
    there, age = held(folder)
    ours = there is not None and id_of(there) == id_of(lease)
    free = there is None or ours or is_stale(age, stale_after) or (bool(instead_of) and id_of(there) == instead_of)
    if free:
        with unlocked(folder, modes) as holder:
            if holder is not None:
                return False, holder
            put_lease(folder, lease, modes)
    return free, None if ours else there


def peek(path: str, group: str, stale_after: float) -> t.Optional[str]:
    """Return the record of the run that is at a Group; None for nobody. Nothing is made, not even a directory."""
    parts_of("/".join((STATE, group, JOURNAL)))
    with contextlib.ExitStack() as stack:
        try:
            folder = stack.enter_context(opened(None, path, DIRECTORY))
            for name in (STATE, group):
                folder = stack.enter_context(opened(folder, name, DIRECTORY))
        except FileNotFoundError:
            return None
        with contextlib.suppress(FileNotFoundError):
            with opened(folder, LOCK, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC) as lock:
                holder = locked_by(lock, fcntl.LOCK_SH)
            if holder is not None:
                return holder
        there, age = held(folder)
        return None if there is None or is_stale(age, stale_after) else there


def refresh(folder: int, lease: str, modes: Modes = PRIVATE) -> t.Optional[str]:
    """Say that the holder is still there; return who holds the lease if not the caller."""
    there, _age = held(folder)
    # One that is gone was given up by nobody else: it may be taken again.
    if there is not None and id_of(there) != id_of(lease):
        return there
    put_lease(folder, lease, modes)
    return None


def release(folder: int, lease: str) -> None:
    there, _age = held(folder)
    if there is not None and id_of(there) == id_of(lease):
        os.unlink(LEASE, dir_fd=folder)
        os.fsync(folder)


def run(options: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    path, operation, group, lease = (options[name] for name in ("path", "operation", "group", "lease"))
    bundle = unpack(options["bundle"]) if options["bundle"] else {}
    modes = modes_of(options.get("mode"))
    if not os.path.isabs(path) or os.path.normpath(path) != path:
        raise Refused(f"{path} is not an absolute path without detours")
    if operation == "read":
        return {"changed": False, "bundle": pack(read(path, bundle))}
    if operation == "write":
        refused, other = write(path, bundle, group, lease, modes)
        return {"changed": True, "bundle": pack(refused), "holder": other}
    if operation == "peek":
        return {"changed": False, "holder": peek(path, group, options["stale_after"])}
    if operation == "claim":
        # Later on it is not made anew: where it is gone, what it was on may be gone as well.
        make_directory(path, modes)
    with opened(None, path, DIRECTORY) as root, state_of(root, group, modes) as folder:
        if operation == "claim":
            ours, other = claim(folder, lease, options["instead_of"], options["stale_after"], modes)
            return {"changed": ours, "ours": ours, "holder": other}
        if operation == "refresh":
            return {"changed": True, "holder": refresh(folder, lease, modes)}
        release(folder, lease)
        return {"changed": True}


def main() -> None:
    needs = [("operation", operation, ("group", "lease")) for operation in ("claim", "refresh", "release")]
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "str", "required": True},
            "operation": {
                "type": "str",
                "required": True,
                "choices": ["read", "write", "claim", "refresh", "release", "peek"],
            },
            # Not that it were a secret; the log of the host has no use for it.
            "bundle": {"type": "str", "no_log": True},
            "group": {"type": "str"},
            "lease": {"type": "str"},
            "instead_of": {"type": "str"},
            "stale_after": {"type": "float", "default": 600.0},
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
    except Refused as exc:
        module.fail_json(msg=f"{exc}.")
    except OptionError as exc:
        module.fail_json(msg=exc.explain())
    except OSError as exc:
        module.fail_json(msg=f"{module.params['path']} cannot be used ({reason_of(exc, module.params['path'])}).")
    except (ValueError, zlib.error):
        module.fail_json(msg="The bundle is damaged.")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
