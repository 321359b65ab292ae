# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The collection awx.awx, for tests: the last package `ansible` on PyPI that holds it has the rest of that package left
behind."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from tree import BUILD

PACKAGE = "ansible==13.8.0"
COLLECTION = "ansible_collections/awx/awx/"


def provide() -> Path:
    """Return a directory of collections with awx.awx, fetched once. Raises CalledProcessError, after output that says
    why."""
    collections = BUILD / f"awx-from-{PACKAGE}"
    if not collections.exists():
        download = BUILD / "awx-download"
        shutil.rmtree(download, ignore_errors=True)
        print(f"Fetching awx.awx, which comes in {PACKAGE} ...", flush=True)
        # Which Python and which ansible-core that package is for makes no difference to this part of it.
        pip = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
            "--only-binary",
            ":all:",
        ]
        subprocess.run([*pip, "--ignore-requires-python", "--dest", str(download), PACKAGE], check=True)
        with zipfile.ZipFile(next(download.glob("*.whl"))) as wheel:
            wheel.extractall(
                download / "collections", [name for name in wheel.namelist() if name.startswith(COLLECTION)]
            )
        # Whole or not at all.
        os.rename(download / "collections", collections)
        shutil.rmtree(download)
    return collections


if __name__ == "__main__":
    BUILD.mkdir(exist_ok=True)
    print(provide())
