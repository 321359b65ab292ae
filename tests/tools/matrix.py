# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Run the steps that ansible-core and Python make a difference to, on the pairs of them that this machine can have.

A pair is written core-python, as in 2.18-3.11. The oldest ansible-core is the one that meta/runtime.yml requires; the
newest is what the package index has, release candidates included. Every pair has to run as many tests as the others,
and to open what all others sealed.

As many pairs run at a time as there are cores, each in a copy of its own, and what they print is shown when a pair has
come to its end.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import typing as t
from concurrent import futures
from pathlib import Path

import yaml

import copies
import run_ansible_test
import tree

#: What runs on each pair, and in every ``make test`` on the oldest and the newest.
STEPS = ("units", "sanity", "integration", "artifact", "vault", "job")
ENDS = ("integration", "artifact", "vault")
#: How many checks there are differs between releases of ansible-test.
UNEVEN = {"sanity"}
MATRIX = tree.BUILD / "matrix"
SEALED = MATRIX / "sealed"
TOOLS = Path(__file__).parent
# Asked by its own Python: only an installed ansible-core says what it is and which Pythons it runs on.
_ABOUT = (
    "import ansible.release, json; "
    "from ansible_test._util.target.common.constants import CONTROLLER_PYTHON_VERSIONS as known; "
    "print(json.dumps([ansible.release.__version__, list(known)]))"
)


class Pair(t.NamedTuple):
    """An ansible-core and a Python that it runs on, each as (major, minor)."""

    core: tuple[int, int]
    python: tuple[int, int]

    def __str__(self) -> str:
        return "-".join(".".join(map(str, version)) for version in self)

    @property
    def venv(self) -> Path:
        return MATRIX / str(self)


def version(text: str) -> tuple[int, int]:
    major, minor = text.split(".")[:2]
    return int(major), int(minor)


def pythons() -> dict[tuple[int, int], Path]:
    """Return every Python on this machine that can be a control node; our own is one even where its name says no
    version."""
    found = {(sys.version_info.major, sys.version_info.minor): Path(sys.executable)}
    for directory in run_ansible_test.clean_path(os.environ["PATH"]).split(os.pathsep):
        for python in run_ansible_test.pythons(Path(directory)):
            found.setdefault(version(python.name.removeprefix("python")), python)
    return {
        python: path
        for python, path in found.items()
        if not subprocess.run([str(path), "-c", "import ensurepip"], check=False).returncode
    }


def cores(python: tuple[int, int]) -> set[tuple[int, int]]:
    """Return the releases of ansible-core that can be had for a Python, from the one that the collection requires."""
    least = re.search(r"[\d.]+", yaml.safe_load((tree.ROOT / "meta/runtime.yml").read_text())["requires_ansible"])
    command = [
        sys.executable,
        "-m",
        "pip",
        "index",
        "versions",
        "ansible-core",
        "--pre",
        "--python-version",
        ".".join(map(str, python)),
    ]
    listed = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
    available = re.search(r"^Available versions: (.*)$", listed, re.MULTILINE)
    if not least or not available:
        raise SystemExit(
            "No versions of ansible-core: either meta/runtime.yml requires none, or the package index has none."
        )
    return {release for release in map(version, available[1].split(", ")) if release >= version(least[0])}


def pairs() -> list[Pair]:
    """Return all pairs, the oldest first."""
    return sorted(Pair(core, python) for python in pythons() for core in cores(python))


def prepare(pair: Pair) -> str:
    """Make the environment of a pair; return its release of ansible-core, or nothing where that does not run on this
    Python."""
    (major, minor), python = pair.core, pythons()[pair.python]
    wanted = f"ansible-core>={major}.{minor}.0.dev0,<{major}.{minor + 1}.dev0"
    subprocess.run(
        [str(python), str(TOOLS / "setup.py"), "tests/requirements-core.txt", str(pair.venv), wanted], check=True
    )
    told = subprocess.run([str(pair.venv / "bin/python"), "-c", _ABOUT], check=True, stdout=subprocess.PIPE).stdout
    release, controls = json.loads(told)
    if ".".join(map(str, pair.python)) in controls:
        return str(release)
    print(f"{pair} is left out: ansible-core {release} is for Python {' and '.join(controls)}.", flush=True)
    return ""


class Passed(t.NamedTuple):
    """What steps came to: by step how many tests passed, 0 where it failed; why; and all that was printed."""

    tests: dict[str, int]
    problems: list[str]
    output: str


def run(pair: Pair, steps: t.Sequence[str]) -> Passed:
    """Run steps on a pair, with its own Python, in a copy of the tree."""
    print(f"{pair} begins.", flush=True)
    output: list[str] = []
    work, sealed = MATRIX / f"{pair}.work", str(SEALED / str(pair))
    rows = copies.run(pair.venv / "bin/python", work, steps, output.append, STEPS_SEALED=sealed)
    return Passed(
        {row.step: 0 if row.problem else row.tests for row in rows},
        [f"{pair}, {row.step}: {row.problem}" for row in rows if row.problem],
        "".join(output),
    )


def opened(pair: Pair) -> int:
    """Return how many of all that was sealed a pair opens with ansible-vault; what it opens has to be what it was, byte
    for byte."""
    count = 0
    for sealed in SEALED.glob("*/*"):
        command = [
            str(pair.venv / "bin/ansible-vault"),
            "decrypt",
            "--output=-",
            f"--vault-password-file={sealed / 'password'}",
            str(sealed / "sealed"),
        ]
        shown = subprocess.run(command, env=tree.environment(), check=False, stdout=subprocess.PIPE)
        count += shown.returncode == 0 and shown.stdout == (sealed / "plaintext").read_bytes()
    return count


def matrix(releases: t.Mapping[Pair, str], steps: t.Sequence[str]) -> int:
    """Run steps on pairs and print a table; return how many tests ran, or raise SystemExit where anything failed."""
    shutil.rmtree(SEALED, ignore_errors=True)
    SEALED.mkdir(parents=True)
    run_ansible_test.provide_key()
    table: dict[Pair, dict[str, int]] = {}
    problems: list[str] = []
    with futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        running = {pool.submit(run, pair, steps): pair for pair in releases}
        for done in futures.as_completed(running):
            pair, passed = running[done], done.result()
            print(
                f"\n##### ansible-core {releases[pair]}, Python {'.'.join(map(str, pair.python))} #####\n"
                f"{passed.output}",
                flush=True,
            )
            table[pair] = passed.tests
            problems += passed.problems
    table = {pair: table[pair] for pair in releases}
    most = {step: max(passed.get(step, 0) for passed in table.values()) for step in steps}
    sealed = len(list(SEALED.glob("*/*")))
    failed = 0
    print(f"\n{'ansible-core':<14}{'Python':<7}" + "".join(f"{step:>13}" for step in steps) + f"{'opens':>13}")
    for pair, passed in table.items():
        cells = [str(passed.get(step) or "FAILED") for step in steps]
        cells = [
            cell if step in UNEVEN or passed.get(step) in (0, None, most[step]) else f"{cell} FAILED"
            for cell, step in zip(cells, steps, strict=True)
        ]
        open_ones = opened(pair)
        cells.append(f"{open_ones} of {sealed}" if open_ones == sealed >= len(table) else f"{open_ones} FAILED")
        failed += sum("FAILED" in cell for cell in cells)
        print(
            f"{releases[pair]:<14}{'.'.join(map(str, pair.python)):<7}" + "".join(f"{cell:>13}" for cell in cells),
            flush=True,
        )
    if failed or not table:
        raise SystemExit(
            "\n    ".join([f"{failed} cells of the table failed", *problems]) if table else "There is no pair to run."
        )
    return sum(sum(passed.values()) for passed in table.values())


def ends() -> int:
    """Run what uses ansible-core on the oldest and the newest pair."""
    every = pairs()
    found = (
        next(((pair, release) for pair in order if (release := prepare(pair))), None) for order in (every, every[::-1])
    )
    return matrix(dict(pair for pair in found if pair), ENDS)


def main(names: t.Sequence[str]) -> None:
    tree.make()
    every = {str(pair): pair for pair in pairs()}
    if unknown := set(names) - set(every):
        raise SystemExit(
            f"This machine does not have these pairs: {', '.join(sorted(unknown))}. There are {', '.join(every)}."
        )
    releases = {every[name]: prepare(every[name]) for name in names or every}
    if names and not all(releases.values()):
        raise SystemExit(1)
    matrix({pair: release for pair, release in releases.items() if release}, STEPS)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except subprocess.CalledProcessError as error:
        sys.exit(str(error))
