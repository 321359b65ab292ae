# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What ansible-test needs beyond its own command line."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import ansible_test

from tree import WORK, environment

HERE = Path(ansible_test.__path__[0])

# Stands in for the bootstrap script: runs pip from its own wheel, which lies beside it.
BOOTSTRAP = """\
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), {wheel!r}))
from pip._internal.cli.main import main
sys.exit(main(["install"] + [arg for arg in sys.argv[1:] if arg not in ("--no-setuptools", "--no-wheel")]))
"""


def works(python: Path) -> bool:
    return (
        subprocess.run(
            [str(python), "-c", "import venv"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False
        ).returncode
        == 0
    )


def clean_path(path: str) -> str:
    """Leave out directories with a Python that does not start: ansible-test takes every python3.N on PATH for a real
    one.

    A version manager's shims for versions that are not active are like that. Real interpreters that lie beside the one
    we run on come last, so that sanity looks at more Pythons where there are any.
    """
    directories = [Path(entry) for entry in dict.fromkeys(path.split(os.pathsep)) if entry]
    prefix = Path(sys.base_prefix).resolve()
    if prefix.parent.name == "versions":
        directories += [entry for entry in sorted(prefix.parent.glob("*/bin")) if pythons(entry)]
    return os.pathsep.join(
        str(entry) for entry in dict.fromkeys(directories) if all(works(python) for python in pythons(entry))
    )


def pythons(directory: Path) -> list[Path]:
    return [python for python in directory.glob("python3.*") if re.fullmatch(r"python3\.\d+", python.name)]


def provide_pip() -> None:
    """Put a pip bootstrap script into ansible-test's cache where the host that it fetches one from cannot be reached.

    This is the way out that its own error message names.
    """
    url = re.search(r"url = '(\S+)' % pip_version", (HERE / "_util/target/setup/requirements.py").read_text())
    version = re.search(r"\bpip='([\d.]+)'", (HERE / "_internal/python_requirements.py").read_text())
    if not url or not version:
        return  # a release that does it in another way
    cache = Path.home() / ".ansible/test/cache"
    script = cache / f"get_pip_{version[1].replace('.', '_')}.py"
    if script.exists() or reachable(url[1] % version[1]):
        return
    download = WORK / "pip"
    shutil.rmtree(download, ignore_errors=True)
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
            "--dest",
            str(download),
            f"pip=={version[1]}",
        ],
        check=True,
    )
    wheel = next(download.glob("*.whl"))
    cache.mkdir(parents=True, exist_ok=True)
    written = download / script.name
    written.write_text(BOOTSTRAP.format(wheel=wheel.name))
    # Each at once as a whole: other steps may look for them. The script comes last, because it needs the wheel.
    for file in (wheel, written):
        shutil.copy(file, cache / f".{os.getpid()}")
        os.replace(cache / f".{os.getpid()}", cache / file.name)


def provide_key() -> None:
    """Make the ssh key that ansible-test integration wants in the home directory.

    If two of them start at once and find no key, both make it, and one of them fails.
    """
    key = Path.home() / ".ansible/test/id_rsa"
    if not key.exists():
        key.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["ssh-keygen", "-m", "PEM", "-q", "-t", "rsa", "-N", "", "-f", str(key)], check=True)


def reachable(url: str) -> bool:
    try:
        with urllib.request.build_opener().open(urllib.request.Request(url, method="HEAD"), timeout=5):
            return True
    except (urllib.error.URLError, OSError):
        return False


def command(name: str) -> list[str]:
    """The command line for units, sanity or integration."""
    args = ["ansible-test", name, "--local", "--color", "no"]
    if name != "sanity":
        # Only our own Python has pytest and the rest; sanity makes environments of its own for each Python that it
        # finds.
        args += ["--python", f"{sys.version_info.major}.{sys.version_info.minor}"]
    pylint = (HERE / "_data/requirements/sanity.pylint.txt").read_text()
    pinned = re.search(r"@ (https://\S+)", pylint)
    if name == "sanity" and pinned and not reachable(pinned[1]):
        # Prereleases of ansible-core pin an unreleased pylint by its address.
        print("pylint is left out: this ansible-core wants it from an address that cannot be reached.", flush=True)
        args += ["--skip-test", "pylint"]
    return args


def prepared_environment() -> dict[str, str]:
    provide_pip()
    env = environment()
    return {**env, "PATH": clean_path(env["PATH"])}
