# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Make a virtual environment of the Python that runs this, from a requirements file: setup.py FILE [DIRECTORY
[REQUIREMENT ...]].

DIRECTORY is .venv where none is named.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Each holds the one before it.
LEVELS = ("requirements.txt", "tests/requirements-demo.txt", "tests/requirements-core.txt", "tests/requirements.txt")


def check_python() -> None:
    """Say what is missing before pip says it less clearly."""
    if sys.version_info < (3, 11):  # noqa: UP036 - runs on whatever Python there is
        sys.exit(
            f"Python 3.11 or newer is needed, {sys.executable} is {sys.version.split()[0]}.\nName another one: "
            "make PYTHON=/path/to/python3.12 ..."
        )
    if not importlib.util.find_spec("ensurepip"):  # Debian and Ubuntu ship it apart
        sys.exit(
            f"{sys.executable} cannot make virtual environments: on Debian and Ubuntu install "
            f"the package python3.{sys.version_info.minor}-venv, or name another Python: make "
            "PYTHON=/path/to/python3 ..."
        )


def stamps(requirements: str, venv: Path, more: list[str]) -> list[str]:
    """Return one line for each level that the requirements file covers. The lines change with the files, the Python and
    the path of the environment, which its scripts name."""
    lines, content = [], f"{sys.version} {venv} {more}".encode()
    for level in LEVELS[: LEVELS.index(requirements) + 1]:
        content += (ROOT / level).read_bytes()
        lines.append(f"{level} {hashlib.sha256(content).hexdigest()}")
    return lines


def get_sshd() -> None:
    """Install the ssh server that tests start for themselves, where that changes nobody's machine but root's own; else
    those tests ask for it."""
    if (
        shutil.which("sshd", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
        or os.geteuid()
        or not shutil.which("apt-get")
    ):
        return
    print("Installing openssh-server ...", flush=True)
    # Only its program is wanted: with this run level nothing is started.
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    for command in (["update"], ["install", "--yes", "--no-install-recommends", "openssh-server"]):
        if subprocess.run(["apt-get", "--quiet", *command], env=env, stdout=subprocess.DEVNULL, check=False).returncode:
            print("That failed. Tests that need it will say so.", flush=True)
            return


def main(requirements: str, directory: str = str(ROOT / ".venv"), *more: str) -> None:
    check_python()
    if requirements == LEVELS[-1]:
        get_sshd()
    venv = Path(directory)
    stamp, wanted = venv / "made-from.txt", stamps(requirements, venv, list(more))
    # An environment with all tools serves the demo too.
    if stamp.exists() and wanted[-1] in stamp.read_text().splitlines():
        return
    print(
        f"Making {venv.name} with Python {sys.version.split()[0]} from {' and '.join([requirements, *more])} ...",
        flush=True,
    )
    # This may run in the very environment that is recreated, so start from the Python below it.
    base = getattr(sys, "_base_executable", None) or sys.executable
    subprocess.run([base, "-m", "venv", "--clear", str(venv)], check=True)
    # Python compiles what is imported, which is a small part of what is installed.
    options = ["--quiet", "--disable-pip-version-check", "--no-compile"]
    pip = [str(venv / "bin/python"), "-m", "pip", "install", *options]
    subprocess.run([*pip, "-r", str(ROOT / requirements), *more], check=True)
    stamp.write_text("\n".join(wanted) + "\n")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except subprocess.CalledProcessError as error:
        sys.exit(f"Set-up failed: {error}")
