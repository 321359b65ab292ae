# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Files and directories by their name in an open directory, on the controller and on a host. An error about permissions names the path."""

from __future__ import annotations

import contextlib
import os
import typing as t

from ansible_collections.community.backblaze.plugins.module_utils._modes import PRIVATE, Modes

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@contextlib.contextmanager
def opened(directory: t.Optional[int], name: str, flags: int) -> t.Iterator[int]:
    """Open something by its name in an open directory."""
    with _named(directory, name):
        fd = os.open(name, flags, 0o600, dir_fd=directory)
    try:
        yield fd
    finally:
        os.close(fd)


def make_in(directory: t.Optional[int], name: str, modes: Modes = PRIVATE) -> None:
    """Make a directory in an open one, which the caller syncs; FileExistsError where it is there already, and keeps its mode."""
    with _named(directory, name):
        os.mkdir(name, modes.directory, dir_fd=directory)
    if modes.given:
        with opened(directory, name, DIRECTORY) as made:
            modes.allow_directory(made)


@contextlib.contextmanager
def _named(directory: t.Optional[int], name: str) -> t.Iterator[None]:
    """Let an error that permissions are missing say where."""
    try:
        yield
    except PermissionError as exc:
        # Where there is no /proc the name alone has to do.
        with contextlib.suppress(OSError):
            exc.filename = name if directory is None else os.path.join(os.readlink(f"/proc/self/fd/{directory}"), name)
        raise
