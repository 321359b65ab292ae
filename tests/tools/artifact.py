# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Build the artifact, install it in another directory, and test it as its user would."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import tree

INSTALLED = tree.WORK / "installed"
# What users have a use for, whatever galaxy.yml lets through.
USEFUL = {
    *("MANIFEST.json", "FILES.json", "README.md", "CHANGELOG.rst", "LICENSES", "changelogs", "docs", "meta"),
    *("bindep.txt", "requirements.txt", "plugins", "roles", "playbooks"),
}
# What it works with, where bindep.txt and requirements.txt are what meta/execution-environment.yml names; all else is
# for people to read.
NEEDED = {"MANIFEST.json", "FILES.json", "meta", "bindep.txt", "requirements.txt", "plugins", "roles", "playbooks"}
# Directories of plugins/ that have no page of their own; an action's page is the module of the same name.
UNDOCUMENTED = {"action", "doc_fragments", "module_utils", "plugin_utils"}


def build() -> Path:
    """Build from the copy, so that nothing ignored gets in."""
    for old in tree.WORK.glob("*.tar.gz"):
        old.unlink()
    subprocess.run(
        ["ansible-galaxy", "collection", "build", "--force", "--output-path", str(tree.WORK)],
        cwd=tree.COLLECTION,
        env=tree.environment(),
        check=True,
    )
    return next(tree.WORK.glob("*.tar.gz"))


def install(tarball: Path) -> Path:
    shutil.rmtree(INSTALLED, ignore_errors=True)
    subprocess.run(
        ["ansible-galaxy", "collection", "install", "--offline", "-p", str(INSTALLED), str(tarball)],
        cwd=tree.WORK,
        env=tree.environment(INSTALLED),
        check=True,
    )
    return INSTALLED / tree.COLLECTION.relative_to(tree.TREE)


def strangers(collection: Path) -> list[str]:
    """Files in the artifact that its user has no use for."""
    files = [path.relative_to(collection) for path in collection.rglob("*") if not path.is_dir()]
    return [
        str(path)
        for path in files
        if path.parts[0] not in USEFUL or any(part.startswith(".") or part == "__pycache__" for part in path.parts)
    ]


def documented(collection: Path) -> int:
    """Ask ansible-doc for everything that has a page; return how many pages came."""
    pages = 0
    kinds = {
        "module" if path.name == "modules" else path.name: sorted(path.glob("*.py"))
        for path in sorted(collection.glob("plugins/*"))
        if path.is_dir() and path.name not in UNDOCUMENTED
    }
    kinds["role"] = sorted(collection.glob("roles/*"))
    for kind, paths in kinds.items():
        names = [f"{tree.NAME}.{path.stem}" for path in paths if path.stem != "__init__"]
        if not names:
            continue
        shown = json.loads(
            subprocess.run(
                ["ansible-doc", "-t", kind, "--json", *names],
                cwd=tree.WORK,
                env=tree.environment(INSTALLED),
                check=True,
                stdout=subprocess.PIPE,
            ).stdout
        )
        for name in names:
            page = shown.get(name, {})
            if not page.get("entry_points" if kind == "role" else "doc"):
                raise SystemExit(f"ansible-doc shows nothing for {kind} {name}")
            print(f"ansible-doc: {kind} {name}", flush=True)
            pages += 1
    return pages


def strip(collection: Path) -> None:
    """Leave of what is installed only what it works with."""
    for path in collection.iterdir():
        if path.name in NEEDED:
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def check() -> int:
    """Build, install and look at it; return how many pages it has. What stays installed is only what it works with."""
    collection = install(build())
    if found := strangers(collection):
        raise SystemExit(
            "The artifact holds what it should not (see build_ignore in galaxy.yml):\n  " + "\n  ".join(found)
        )
    pages = documented(collection)
    strip(collection)
    return pages


if __name__ == "__main__":
    tree.make()
    try:
        print(build() if sys.argv[1:] == ["build"] else check())
    except subprocess.CalledProcessError as error:
        sys.exit(str(error))
