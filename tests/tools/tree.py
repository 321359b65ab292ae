# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where things are, and the copy of the checkout that the steps work on.

ansible-test insists on .../ansible_collections/<namespace>/<name> and looks at every file that git does not ignore
there.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / ".build"
# Where steps put what is theirs alone: those of a pair of the matrix run beside those of another.
WORK = Path(os.environ.get("STEPS_WORK") or BUILD)
TREE = WORK / "tree"
NAME = "community.backblaze"
COLLECTION = TREE / "ansible_collections" / "community" / "backblaze"
BIN = Path(sys.prefix) / "bin"


def environment(collections: Path = TREE) -> dict[str, str]:
    """Return the caller's environment, with our virtual environment first and one directory of collections only."""
    return {
        **os.environ,
        "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "PYTHONUNBUFFERED": "1",
        "ANSIBLE_COLLECTIONS_PATH": str(collections),
    }


def git(*args: str, cwd: Path) -> bytes:
    # A hook or a worktree may have set GIT_DIR and its like for another repository than the one in cwd.
    env = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    return subprocess.run(["git", *args], cwd=cwd, env=env, check=True, stdout=subprocess.PIPE).stdout


def wait_for_others() -> None:
    """Runs in the same checkout share .build: hold a lock to the end of this process, closed with it."""
    BUILD.mkdir(exist_ok=True)
    descriptor = os.open(BUILD / "lock", os.O_CREAT | os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print("Another run in this checkout is under way, waiting for its end ...", flush=True)
        fcntl.flock(descriptor, fcntl.LOCK_EX)


def make() -> None:
    """Copy tracked files and new ones that are not ignored, and commit them so that git lists exactly these."""
    wait_for_others()
    shutil.rmtree(TREE, ignore_errors=True)
    COLLECTION.mkdir(parents=True)
    for name in sorted(set(os.fsdecode(git("ls-files", "-z", "-co", "--exclude-standard", cwd=ROOT)).split("\0"))):
        source, target = ROOT / name, COLLECTION / name
        if name and os.path.lexists(source):  # deleted in the checkout, still in its index
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target, follow_symlinks=False)
    git("init", "-q", cwd=COLLECTION)
    git("add", "-A", cwd=COLLECTION)
    git(
        "-c",
        "user.name=tree",
        "-c",
        "user.email=tree@localhost",
        "-c",
        "commit.gpgsign=false",
        "commit",
        "-q",
        "--no-verify",
        "-m",
        "Copy of the checkout",
        cwd=COLLECTION,
    )


if __name__ == "__main__":
    make()
