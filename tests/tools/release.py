# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The version number, which a person gives once, and the changelog that goes with it.

    release.py 0.2.0           set the version, write what follows from it and turn the fragments into the changelog
    release.py --check 0.2.0   say whether the checkout is that release

The number's home is galaxy.yml. Modules name it to the service, and only Python files travel to a target, also where
the
collection was installed from git: so a Python file that is kept in git repeats it, and nobody writes that file by hand.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

import yaml

import tree

GALAXY = tree.ROOT / "galaxy.yml"
MODULE = tree.ROOT / "plugins/module_utils/_version.py"
CHANGELOG = tree.ROOT / "changelogs/changelog.yaml"
FRAGMENTS = tree.ROOT / "changelogs/fragments"
# What antsibull-changelog remembers of the plugins, to be quick; it takes it for true when it is old.
CACHE = tree.ROOT / "changelogs/.plugin-cache.yaml"


def number(version: str) -> tuple[int, ...]:
    """Return a version as numbers to compare; SystemExit if it is not three numbers."""
    if not re.fullmatch(r"(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*)){2}", version):
        sys.exit(f"A version is three numbers, such as 0.2.0, not {version!r}: make release VERSION=0.2.0")
    return tuple(int(part) for part in version.split("."))


def why_not(version: str, current: str, released: Collection[str], fragments: Collection[str], changed: str) -> str:
    """Say what stands against releasing a version, in words for the terminal; nothing if nothing does.

    current: what galaxy.yml says. released: the versions in the changelog. changed: what git says of a work tree that
    is not clean.
    """
    if changed:
        return f"Commit or stash first, so that the release is all that is new:\n{changed}"
    if version in released:
        return f"{version} is released already."
    if number(version) < number(current):
        return f"{version} is older than {current}, which is what galaxy.yml says."
    if newer := [other for other in released if number(other) > number(version)]:
        return f"{version} is older than {', '.join(newer)}, which is released."
    if not fragments:
        return "There is nothing in changelogs/fragments: a release without a change is none."
    return ""


def what_is_missing(version: str, current: str, released: Collection[str], fragments: Collection[str]) -> str:
    """Say why a checkout is not the release of a version; nothing if it is."""
    if version != current:
        return f"The version in galaxy.yml is {current}, not {version}."
    if version not in released:
        return f"{version} is not in the changelog: make release VERSION={version}"
    if fragments:
        return f"Not in the changelog yet: {', '.join(fragments)}"
    return ""


def replace(path: Path, pattern: str, line: str) -> None:
    """Rewrite one line of a file, found by a pattern."""
    text, found = re.subn(pattern, line, path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    if found != 1:
        sys.exit(f"{path} has {found} lines with a version, not one.")
    path.write_text(text, encoding="utf-8")


def changelog(*arguments: str) -> None:
    subprocess.run(["antsibull-changelog", *arguments], cwd=tree.ROOT, env=tree.environment(), check=True)


def main() -> None:
    *check, version = sys.argv[1:]
    number(version)
    current = str(yaml.safe_load(GALAXY.read_text(encoding="utf-8"))["version"])
    released = [str(name) for name in yaml.safe_load(CHANGELOG.read_text(encoding="utf-8"))["releases"]]
    fragments = sorted(path.name for path in FRAGMENTS.glob("*.y*ml"))
    if check:
        sys.exit(what_is_missing(version, current, released, fragments) or None)

    changed = tree.git("status", "--porcelain", cwd=tree.ROOT).decode()
    if problem := why_not(version, current, released, fragments, changed):
        sys.exit(problem)
    changelog("lint")
    replace(GALAXY, r"^version: .*$", f"version: {version}")
    replace(MODULE, r"^VERSION = .*$", f'VERSION = "{version}"')
    changelog("release", "--reload-plugins")
    CACHE.unlink(missing_ok=True)
    print(tree.git("status", "--short", cwd=tree.ROOT).decode())
    print(f"{version} is ready. Read CHANGELOG.rst, then:")
    print(f"  git add -A && git commit -m 'Release {version}'")
    print(f"  git tag {version} && git push origin HEAD {version}")


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(
            f"{error}\nNothing is committed. This takes back what was written: git restore . && git clean -f "
            "CHANGELOG.rst changelogs"
        )
