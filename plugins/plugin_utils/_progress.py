# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Show lines on stderr while a task works: how many members are done, and what the task waits for.

No line goes to stdout, where it would break the output of a callback that writes JSON. No line goes through Ansible's
result queue either: ansible-playbook never reads that queue again after it has failed to show one line, and then the
task would never end.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import time

# The most seconds that a task waits to write one line of progress, if no program reads its stderr.
_SECONDS = 0.5
# The bytes of one write. A pipe that select reports as ready has room for them.
_CHUNK = 512
# Seconds between the attempts to write to a terminal that has no room for a whole chunk.
_PAUSE = 0.05
# A wait of more than this number of seconds is shown.
_LONG_WAIT = 2.0


def opened(stderr: int) -> int:
    """Return a descriptor of its own for a stderr, -1 if it is closed."""
    # A terminal that nobody reads blocks a write of one line, although it has room for one byte. So it is opened again,
    # without blocking: the flag of a duplicate would be that of ansible-playbook's stderr as well.
    with contextlib.suppress(OSError):
        return os.open(os.ttyname(stderr), os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    with contextlib.suppress(OSError):
        return os.dup(stderr)
    return -1


# ansible-playbook imports actions before it forks the process for a task. From ansible-core 2.19 on that process has
# /dev/null as its own stderr, so the user's stderr is opened here, before the fork. Without a stderr, descriptor 2 may
# be any other file.
_stderr = opened(2) if sys.__stderr__ is not None else -1
_quiet = False
#: The name of each vault directory in another location, by the path of its remote copy, which no user knows.
names: dict[str, str] = {}


def tell(text: str) -> None:
    """Show a text of one or more lines on stderr. Whatever fails while it is shown, the task goes on."""
    if not _quiet:
        write(f"community.backblaze: {printable(named(text))}\n", _SECONDS)


def tell_wait(happened: str, patience: float) -> None:
    """Show why this run waits for another run. patience: the most seconds of the wait; a short wait is not shown."""
    if patience > _LONG_WAIT:
        tell(f"{happened} This run waits for at most {patience:.0f} s.")


def write(text: str, seconds: float) -> None:
    """Write a text to the user's stderr. If nobody reads it for so many seconds, leave out the rest of the text."""
    rest = text.encode("utf-8", "replace")
    deadline = time.monotonic() + seconds
    with contextlib.suppress(OSError, ValueError):
        while rest and select.select([], [_stderr], [], max(0.0, deadline - time.monotonic()))[1]:
            try:
                rest = rest[os.write(_stderr, rest[:_CHUNK]) :]
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    return
                time.sleep(_PAUSE)


def named(text: str) -> str:
    """Return a text with the name of each vault directory, instead of the path of its remote copy."""
    for path, name in names.items():
        text = text.replace(path, name)
    return text


def printable(text: str) -> str:
    """Return a text whose characters do nothing to a terminal: the text may quote Backblaze."""
    return "\n".join("".join(c if c.isprintable() else "?" for c in line) for line in text.split("\n"))


def be_quiet() -> None:
    """Show no more lines, because the process was stopped: its summary follows. A signal handler may call this."""
    global _quiet  # noqa: PLW0603 - signals belong to the process, and so does its silence
    _quiet = True
