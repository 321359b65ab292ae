# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Show lines on stderr while a task works: how many members are done, and what the task waits for.

No line goes to stdout, where it would break the output of a callback that writes JSON.
"""

from __future__ import annotations

import contextlib

from ansible.utils.display import Display

display = Display()
_quiet = False


def tell(text: str) -> None:
    """Show a text of one or more lines on stderr. Whatever fails while it is shown, the task goes on."""
    if _quiet:
        return
    with contextlib.suppress(OSError):
        display.display(f"community.backblaze: {printable(text)}", stderr=True)


def printable(text: str) -> str:
    """Return a text whose characters do nothing to a terminal: the text may quote Backblaze."""
    return "\n".join("".join(c if c.isprintable() else "?" for c in line) for line in text.split("\n"))


def be_quiet() -> None:
    """Show no more lines, because the process was stopped: nobody reads them. A signal handler may call this."""
    global _quiet  # noqa: PLW0603 - signals belong to the process, and so does its silence
    _quiet = True
