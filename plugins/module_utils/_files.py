# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Read and write files by their name in an open directory, on the controller and on a target host.

A file is written whole or not at all: under a temporary name, synced, renamed, and its directory synced. No symlink is
followed. An error about permissions names the path.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import typing as t

from ansible_collections.community.backblaze.plugins.module_utils._errors import StoreError
from ansible_collections.community.backblaze.plugins.module_utils._vault_mode import PRIVATE, Modes
from ansible_collections.community.backblaze.plugins.module_utils._vault_paths import temporary_name

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Larger than anything that is ever sealed: an answer is at most 32 MiB, and a vault text twice its plaintext.
_LARGEST_FILE = 128 * 1024 * 1024


@contextlib.contextmanager
def opened(directory: t.Optional[int], name: str, flags: int) -> t.Iterator[int]:
    """Open a file or a directory by its name in an open directory."""
    with _named(directory, name):
        fd = os.open(name, flags, 0o600, dir_fd=directory)
    try:
        yield fd
    finally:
        os.close(fd)


def make_in(directory: int, name: str, modes: Modes = PRIVATE) -> None:
    """Create a directory in an open one, which the caller syncs. Raises FileExistsError if the directory exists."""
    with _named(directory, name):
        os.mkdir(name, modes.directory, dir_fd=directory)
    if modes.given:
        with opened(directory, name, DIRECTORY) as made:
            modes.allow_directory(made)


@contextlib.contextmanager
def _named(directory: t.Optional[int], name: str) -> t.Iterator[None]:
    """Set the path of an error about missing permissions."""
    try:
        yield
    except PermissionError as exc:
        # Without /proc the error keeps the name alone.
        with contextlib.suppress(OSError):
            exc.filename = name if directory is None else os.path.join(os.readlink(f"/proc/self/fd/{directory}"), name)
        raise


@contextlib.contextmanager
def explained(what: str, path: str) -> t.Iterator[None]:
    """Turn errors of the operating system into ours."""
    try:
        yield
    except OSError as exc:
        raise StoreError(f"{path} {what} ({reason_of(exc, path)}).", remedy="Fix that, then run again.") from exc


def reason_of(exc: OSError, path: str) -> str:
    """Return the reason of an error at a path, with the other path if permissions are missing for another one."""
    if exc.errno in (errno.ELOOP, errno.ENOTDIR):
        return "a symlink or a plain file is in the way"
    reason = exc.strerror or type(exc).__name__
    other = isinstance(exc, PermissionError) and isinstance(exc.filename, str) and exc.filename != path
    return f"{exc.filename}: {reason}" if other else reason


def nearest(path: str) -> str:
    """Return a path, or the nearest existing one above it."""
    while not os.path.lexists(path):
        path = os.path.dirname(path) or "."
    return path


def room_in(path: str) -> tuple[int, t.Optional[int]]:
    """Return the free bytes and the free files of a directory's file system; None for files if it has no limit."""
    found = os.statvfs(nearest(path))
    return found.f_bavail * found.f_frsize, found.f_favail if found.f_files else None


@contextlib.contextmanager
def opened_below(directory: int, names: t.Iterable[str], make: t.Optional[Modes] = None) -> t.Iterator[int]:
    """Open a directory some levels below an open one. make: modes of missing directories, to create them."""
    with contextlib.ExitStack() as stack:
        for name in names:
            if make is not None:
                with contextlib.suppress(FileExistsError):
                    make_in(directory, name, make)
                # Also if the directory exists: the run that created it may have been killed before it was synced.
                os.fsync(directory)
            directory = stack.enter_context(opened(directory, name, DIRECTORY))
        yield directory


def make_directory(path: str, modes: Modes = PRIVATE) -> None:
    """Create a directory and the missing ones above it, and sync each of them to disk."""
    existing = nearest(path)
    if existing != path:
        flags, names = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, os.path.relpath(path, existing).split("/")
        with opened(None, existing, flags) as above, opened_below(above, names, modes):
            pass


def prove_directory(path: str) -> str:
    """Return a directory, or the nearest existing one above it; StoreError if this user cannot write there."""
    existing = nearest(path)
    if existing == path and os.path.islink(path):
        raise StoreError(f"{path} is a symlink, which is not followed.", remedy="Name the directory itself.")
    if not os.path.isdir(existing):
        raise StoreError(f"{existing} is not a directory.", remedy="Choose another vault_dir.")
    if not os.access(existing, os.R_OK | os.W_OK | os.X_OK):
        raise StoreError(
            f"{existing} cannot be written by this user.", remedy="Fix its permissions, or choose another vault_dir."
        )
    return existing


def prove_file(directory: str, name: str) -> None:
    """Raise StoreError if a directory or a file in it is of another kind, or the directory cannot be written."""
    for path, fits, what in (
        (directory, stat.S_ISDIR, "a directory"),
        (os.path.join(directory, name), stat.S_ISREG, "a plain file"),
    ):
        try:
            found = os.lstat(path).st_mode
        except FileNotFoundError:
            return
        if not fits(found):
            raise StoreError(
                f"{path} is not {what}{' but a symlink' if stat.S_ISLNK(found) else ''}.", remedy="Move it away."
            )
        if stat.S_ISDIR(found) and not os.access(path, os.R_OK | os.W_OK | os.X_OK):
            raise StoreError(f"{path} cannot be written by this user.", remedy="Fix its permissions.")


def replace(
    directory: int,
    name: str,
    data: bytes,
    like: t.Optional[os.stat_result] = None,
    last_look: t.Callable[[], None] = lambda: None,
    modes: Modes = PRIVATE,
) -> os.stat_result:
    """Write a file whole or not at all, and return its status; the caller syncs the directory.

    like, modes: see put. last_look: called before the rename; raises StoreError if the file must not be replaced.
    """
    temporary = temporary_name(name)
    try:
        written = put(directory, temporary, data, like, modes)
        last_look()
        os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    except (OSError, StoreError):
        with contextlib.suppress(OSError):
            os.unlink(temporary, dir_fd=directory)
        raise
    return written


def exists(directory: int, name: str) -> bool:
    """Tell whether a directory contains a file, a directory or a symlink of this name."""
    try:
        os.lstat(name, dir_fd=directory)
    except FileNotFoundError:
        return False
    return True


def get(directory: int, name: str) -> bytes:
    """Read a plain file."""
    return look(directory, name)[0]


def look(directory: int, name: str) -> tuple[bytes, os.stat_result]:
    """Return the content of a plain file, and its status before it was read."""
    with opened(directory, name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC) as fd:
        before = os.fstat(fd)
        if not stat.S_ISREG(before.st_mode):
            raise OSError(errno.EINVAL, "not a plain file")
        with open(fd, "rb", closefd=False) as file:
            return file.read(min(before.st_size, _LARGEST_FILE)), before


def put(
    directory: int, name: str, data: bytes, like: t.Optional[os.stat_result] = None, modes: Modes = PRIVATE
) -> os.stat_result:
    """Write a new file and sync it to disk; return its status.

    like: a file whose owner the new file gets, and whose mode if the user has not asked for one.
    """
    with opened(directory, name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC) as fd:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(fd, rest) :]
        if like:
            with contextlib.suppress(OSError):
                os.fchown(fd, -1, like.st_gid)
                if not modes.given:
                    # Only if the new file has the group that this mode was meant for.
                    os.fchmod(fd, stat.S_IMODE(like.st_mode) & 0o777)
        modes.allow_file(fd)
        if like:
            with contextlib.suppress(OSError):
                os.fchown(fd, like.st_uid, -1)
        os.fsync(fd)
        return os.fstat(fd)


def identity(found: os.stat_result) -> tuple[int, ...]:
    """Return the part of a file's status that changes when the file is written or replaced."""
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size


def digest(data: bytes) -> str:
    """Return the digest that tells the content of one file from that of another."""
    return hashlib.sha256(data).hexdigest()
