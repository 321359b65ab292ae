# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Build the execution environment of the guide to AWX with podman: the collection from its artifact, on a base image of
your own, or on a minimal Debian.

BASE in the environment names a base image, with a Python of 3.11 or newer and its pip as python3. Without it a minimal
Debian is one. All that podman keeps is in .build/ee: its configuration, images and locks. Images of the machine are not
seen, and none is left to it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import typing as t
from pathlib import Path

import yaml

import artifact
import tree

EE = tree.BUILD / "ee"
IMAGE = "localhost/b2-ee"
GUIDE = tree.ROOT / "docs/docsite/rst/guide_awx.rst"
#: A program, and what it takes of Debian's and Ubuntu's packages. runc starts containers where crun, which is podman's
#: first choice, does not.
PROGRAMS = {"podman": ["podman", "runc"], "mmdebstrap": ["mmdebstrap", "debian-archive-keyring"]}
#: The base image: the newest Python that a stable Debian has.
DEBIAN = "trixie"
BOOTSTRAP = [
    *("mmdebstrap", "--variant=minbase", "--include=python3-pip", "--dpkgopt=force-unsafe-io"),
    *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "locale", "man")),
]
CONFIGURATION = {
    # Containers reach the stand-in on this machine's loopback address, may use what is mounted also where SELinux is,
    # and have as many files and processes as we have, not podman's own idea of many. Their locks are in files of ours,
    # not in the memory that all containers of a user share.
    "containers.conf": (
        '[containers]\nnetns = "host"\nlabel = false\ndefault_ulimits = []\n'
        '[engine]\nlock_type = "file"\ntmp_dir = "{run}/libpod"\n'
    ),
    "storage.conf": (
        '[storage]\ndriver = "overlay"\ngraphroot = "{storage}"\n'
        'rootless_storage_path = "{storage}"\nrunroot = "{run}/storage"\n'
    ),
    # What this machine's pip has fetched is all there is: the mirrors, proxies and certificates that it knows of are
    # not in there. The packages of the system come from where the base image has its own from.
    "packages/pip.conf": (
        "[global]\nno-index = true\nfind-links = /output/packages\ndisable-pip-version-check = "
        "true\nroot-user-action = ignore\n"
    ),
}
_ABOUT = """
import importlib.util, json, platform, shutil, sys
packages = next(filter(None, map(shutil.which, ("apt-get", "microdnf", "dnf"))), "")
has_pip, libc = bool(importlib.util.find_spec("pip")), platform.libc_ver()[1]
print(json.dumps([sys.executable, sys.version_info[:2], platform.machine(), libc, has_pip, packages]))
"""


class Python(t.NamedTuple):
    """That of an image. packages: the path of the image's package manager."""

    path: str
    version: tuple[int, int]
    machine: str
    glibc: str
    has_pip: bool
    packages: str


def environment() -> dict[str, str]:
    """Return the environment for all that runs containers."""
    return {
        **tree.environment(),
        "CONTAINERS_CONF": str(EE / "containers.conf"),
        "CONTAINERS_STORAGE_CONF": str(EE / "storage.conf"),
        "EE_IMAGE": IMAGE,
    }


def write(path: Path, content: str) -> None:
    """Write a file, unless that is in it: podman builds a file with a new date again."""
    if not path.exists() or path.read_text() != content:
        path.write_text(content)


def run(*command: str, **options: t.Any) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(command, env=environment(), stdin=subprocess.DEVNULL, check=True, **options)


def told(*command: str) -> str:
    return run(*command, stdout=subprocess.PIPE).stdout.decode()


@contextlib.contextmanager
def built() -> t.Iterator[dict[str, str]]:
    """Build, and hand out the environment for what runs containers; none of these, and nothing that was mounted for
    them, is left behind."""
    provide("podman", *([] if os.environ.get("BASE") else ["mmdebstrap"]))
    # As after a start of the machine. The other files save work.
    shutil.rmtree(EE / "run", ignore_errors=True)
    (EE / "packages").mkdir(parents=True, exist_ok=True)
    for name, content in CONFIGURATION.items():
        write(EE / name, content.format(run=EE / "run", storage=EE / "storage"))
    try:
        image = base()
        python = Python(*json.loads(told("podman", "run", "--rm", "--entrypoint=python3", image, "-c", _ABOUT)))
        define(image, python)
        fetch(python)
        builder("build", "--container-runtime=podman", f"--tag={IMAGE}", "--extra-build-cli-args=--pull=never")
        yield environment()
    finally:
        run("podman", "rm", "--all", "--force", "--volumes")
        if os.geteuid():
            # It ends the process that keeps the user's namespace.
            run("podman", "system", "migrate")


def provide(*programs: str) -> None:
    """Install missing programs if this user may; name them otherwise."""
    missing = [program for program in programs if not shutil.which(program)]
    if missing and (os.geteuid() or not shutil.which("apt-get")):
        raise SystemExit(
            f"Not found: {' and '.join(missing)}. Install it, or be root and have apt-get. With BASE=<a base "
            "image> podman is enough."
        )
    if missing:
        packages = [package for program in missing for package in PROGRAMS[program]]
        run("apt-get", "update", "--quiet=2")
        # Nobody is there to answer questions.
        run(
            "env",
            "DEBIAN_FRONTEND=noninteractive",
            "apt-get",
            "install",
            "--quiet=2",
            "--yes",
            "--no-install-recommends",
            *packages,
        )


def base() -> str:
    """Return the name of the base image, which is there."""
    if wanted := os.environ.get("BASE"):
        if not there(wanted):
            run("podman", "pull", "--quiet", wanted)
        return wanted
    archive = str(EE / "base.tar")
    script = [*BOOTSTRAP, *apt_options(), DEBIAN, archive, *mirror()]
    image = f"localhost/b2-ee-base:{hashlib.sha256(repr(script).encode()).hexdigest()[:12]}"
    if not there(image):
        print(f"Making a base image, {DEBIAN} ...", flush=True)
        run(*script, "--quiet")
        run("podman", "import", "--quiet", archive, image)
        os.unlink(archive)
    return image


def there(image: str) -> bool:
    return subprocess.run(["podman", "image", "exists", image], env=environment(), check=False).returncode == 0


def mirror() -> list[str]:
    """Return the mirror of Debian that this machine uses. Nothing for another system: mmdebstrap has a default."""
    if not shutil.which("apt-get"):
        return []
    listed = told(
        "apt-get", "indextargets", "--format", "$(ORIGIN) $(COMPONENT) $(SUITE) $(SITE)", "Created-By: Packages"
    )
    return re.findall(r"^Debian main (?:old)*(?:stable|testing|unstable) (https?://\S+)$", listed, re.MULTILINE)[:1]


def apt_options() -> list[str]:
    """Return what this machine's apt has to know to reach its mirror."""
    if not shutil.which("apt-config"):
        return []
    return [
        f"--aptopt={line}"
        for line in told("apt-config", "dump").splitlines()
        if re.match(r"Acquire::(?:https?|Check-\w+)\b.* \"[^\"]", line)
    ]


def define(image: str, python: Python) -> None:
    """Write the definition that the guide shows, built from local files only. ansible-builder makes the build context
    of it."""
    collection = artifact.build()
    definition = guide()
    assert definition["dependencies"]["galaxy"]["collections"] == [{"name": tree.NAME}]
    definition["images"] = {"base_image": {"name": image}}
    definition["dependencies"]["python_interpreter"] = {"python_path": python.path}
    definition["dependencies"]["galaxy"]["collections"] = [{"name": collection.name, "type": "file"}]
    definition["options"] = {"package_manager_path": python.packages, "skip_pip_install": python.has_pip}
    definition["additional_build_files"] = [
        {"src": "packages", "dest": "packages"},
        {"src": str(collection), "dest": "."},
    ]
    definition["additional_build_steps"] = {
        "prepend_base": [
            "COPY _build/packages /output/packages",
            "ENV PIP_CONFIG_FILE=/output/packages/pip.conf",
            # Images of Debian bring no list of packages.
            *(["RUN apt-get update"] if python.packages.endswith("/apt-get") else []),
        ],
        "append_final": ["ENV PIP_CONFIG_FILE="],
    }
    (EE / "execution-environment.yml").write_text(json.dumps(definition))
    builder("create")


def guide() -> dict[str, t.Any]:
    """Return the definition that users are shown."""
    sys.path.append(str(tree.ROOT / "tests/docs"))
    import blocks  # what it needs is not in every environment that the steps run in

    return t.cast(
        "dict[str, t.Any]",
        next(yaml.safe_load(block.text) for block in blocks.find(GUIDE) if block.name == "execution-environment.yml"),
    )


def fetch(python: Python) -> None:
    """Download what will be installed, for the Python of the base image."""
    if not python.glibc:
        raise SystemExit("The base image has no glibc; packages for other libraries are not supported.")
    major, minor = python.version
    names = ["manylinux2014", *(f"manylinux_2_{number}" for number in range(17, int(python.glibc.split(".")[1]) + 1))]
    wanted = [guide()["dependencies"][name]["package_pip"] for name in ("ansible_core", "ansible_runner")]
    for line in re.findall(r"pip install --no-cache-dir ([^$\n]+)", (EE / "context/Containerfile").read_text()):
        wanted += shlex.split(line)
    run(
        *(
            sys.executable,
            "-m",
            "pip",
            "download",
            "-qq",
            "--disable-pip-version-check",
            "--dest",
            str(EE / "packages"),
            "--only-binary=:all:",
        ),
        *(f"--python-version={major}.{minor}", *(f"--platform={name}_{python.machine}" for name in names)),
        *("-r", str(tree.ROOT / "requirements.txt"), *wanted),
    )


def builder(verb: str, *options: str) -> None:
    run(
        "ansible-builder",
        verb,
        f"--file={EE}/execution-environment.yml",
        f"--context={EE}/context",
        "--output-filename=Containerfile",
        *options,
    )
