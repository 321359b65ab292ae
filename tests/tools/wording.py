# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Refuse a short list of wording in plugins and documentation, and name the replacement."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
#: The files and directories that the check reads.
READ = (
    "plugins",
    "docs",
    "roles",
    "playbooks",
    "README.md",
    "CONTRIBUTING.md",
    "TESTING.md",
    "SECURITY.md",
    "tests/bench/README.md",
)
SUFFIXES = (".py", ".yml", ".md", ".rst")
#: Refused wording as a regular expression of whole words, and its replacement. A space also matches a line break.
WORDING = {
    "mend(s|ed|ing)?": "fix",
    "anew": "again, or recreate",
    "cannot be:": "invalid:",
    "cannot be made": "cannot be created",
    "single_file": "group_vars",
    "(bring|take|move)s? (it |them |a key )?home": "move, or seal",
    "brought home": "moved, or sealed",
    "astray": "leftover",
    "parked": "in the fallback directory",
    "depots?": "location",
    "job of work": "run",
    "what (has )?(became|become|becomes) of": "outcome",
    "puts? away": "archive",
    "of which it is not certain": "unproven",
    "ended how": "the count of each outcome",
    "(is|are) there already": "exists already",
}


def findings(text: str) -> Iterator[tuple[int, str, str]]:
    """Return each refused wording in a text: the number of its line, the wording and the replacement."""
    for wording, replacement in WORDING.items():
        words = wording.replace(" ", r"\s+(?:#:?\s+)?")
        for match in re.finditer(rf"(?<![\w-])(?:{words})(?![\w-])", text, re.IGNORECASE):
            yield text.count("\n", 0, match.start()) + 1, " ".join(match.group().split()), replacement


def files(root: Path) -> Iterable[Path]:
    """Return the files to check, sorted."""
    for name in READ:
        path = root / name
        yield from sorted(file for file in path.rglob("*") if file.suffix in SUFFIXES) if path.is_dir() else [path]


def check(root: Path) -> list[str]:
    """Return one line for each refused wording below this directory."""
    return [
        f"{path.relative_to(root)}:{line}: write {replacement!r} instead of {wording!r}"
        for path in files(root)
        for line, wording, replacement in sorted(findings(path.read_text(encoding="utf-8")))
    ]


if __name__ == "__main__":
    found = check(ROOT)
    print(*found, sep="\n")
    sys.exit(bool(found))
