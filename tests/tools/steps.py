# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Run the named steps, go on after a failure, and close with one verdict.

Several steps run at a time, each in a tree of its own, and the output of a step is shown when it has ended. With
--tree-stands first, the caller has made the tree and holds its lock, and all steps run one after the other.
STEPS_REPORT in the environment is a file for the verdict as JSON.
"""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent import futures
from pathlib import Path

import artifact
import awx_collection
import copies
import docs
import ee
import matrix
import run_ansible_test
import tree
from copies import Row

PYTEST_COUNT = r"^=+ .*?(\d+) passed\b.* in [\d.]+s"
#: How pytest names what failed, and why, at its end.
PYTEST_FAILED = r"^(?:FAILED|ERROR) (.+)"
#: What is skipped, or expected to fail, nobody looks at: that fails the step.
PYTEST_NEVER = r"^=+ (?:.*\D)?\d+ (?:skipped|xfailed|xpassed)\b.* in [\d.]+s"
E2E = "tests/e2e"
LEAKS = "tests/campaign/test_leaks.py"
LOCATIONS = "tests/campaign/test_location_kills.py"


#: How many steps run at a time: one more than there are cores, because a step often waits.
AT_A_TIME = (os.cpu_count() or 1) + 1


class Failed(Exception):
    """A step did not do what it is for."""


def stream(command: list[str], cwd: Path, env: dict[str, str], count: str, never: str = r"(?!)") -> int:
    """Run a command, show its output as it comes and return how many tests it ran.

    count is a pattern: with a group its numbers are added up, without one its matches are counted. never: pattern of
    what fails the step.
    """
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    )
    tests, refused, named = 0, "", []
    for line in process.stdout:
        print(line, end="", flush=True)
        plain = re.sub(r"\x1b\[[0-9;]*m", "", line)
        refused = refused or (plain.strip() if re.search(never, plain) else "")
        named += re.findall(PYTEST_FAILED, plain)
        for match in re.finditer(count, plain):
            tests += int(match[1]) if match.re.groups else 1
    if process.wait():
        # Each on a line of its own, for whoever sees no more than the end of the output.
        raise Failed("\n    ".join([f"{command[0]} ended with {process.returncode}", *named]))
    if refused:
        raise Failed(refused)
    return tests


def stream_pytest(command: list[str], cwd: Path, env: dict[str, str]) -> int:
    """Run pytest, by itself or by ansible-test; every test that it finds has to be run."""
    return stream(command, cwd, env, PYTEST_COUNT, never=PYTEST_NEVER)


def units() -> int:
    return stream_pytest(run_ansible_test.command("units"), tree.COLLECTION, run_ansible_test.prepared_environment())


def sanity() -> int:
    return stream(
        run_ansible_test.command("sanity"),
        tree.COLLECTION,
        run_ansible_test.prepared_environment(),
        r'^Running sanity test "',
    )


def integration() -> int:
    return stream(
        run_ansible_test.command("integration"),
        tree.COLLECTION,
        run_ansible_test.prepared_environment(),
        r"^Running \S+ integration test ",
    )


def lint() -> int:
    """The sessions of noxfile.py that need no container; each is counted once."""
    # With CI the formatter says what it would change, and changes nothing. Each session has an environment of its own,
    # and Python compiles what a session imports.
    env = {**tree.environment(), "CI": "true", "PIP_NO_COMPILE": "1"}
    # The tree is recreated each time, the environments are not. Galaxy's importer only warns of much that keeps a
    # collection out of Automation Hub, and antsibull-nox of a check that finds nothing to look at.
    return stream(
        ["nox", "--envdir", str(tree.ROOT / ".nox"), "--reuse-existing-virtualenvs", "--nocolor"],
        tree.COLLECTION,
        env,
        r"^nox > Session (?!lint )\S+ was successful",
        never=r"^(?:ERROR|WARNING): |^nox > Skipping ",
    )


def molecule() -> int:
    return stream(
        ["molecule", "test", "--all"],
        tree.COLLECTION / "extensions",
        tree.environment(),
        r"^(?!INFO).*(?:idempotence|verify): Executed: Successful",
    )


def pytest(*args: str) -> list[str]:
    # Shown output (-rP): the tests print figures of their own. And at the end what failed (-rfE).
    return ["pytest", "-p", "no:cacheprovider", "-rfEP", "--durations=5", "--color=no", *args]


def artifact_step() -> int:
    pages = artifact.check()
    # Away from the checkout, where nothing of it is found by accident.
    return pages + stream_pytest(
        pytest(str(tree.ROOT / E2E / "test_artifact.py")), artifact.INSTALLED, tree.environment(artifact.INSTALLED)
    )


def job() -> int:
    """All of the end-to-end tests that have no step of their own. Two at a time, as the locations."""
    others = ("test_artifact.py", "test_awx_setup.py", "test_official_clients.py", "test_locations.py", "test_vault.py")
    return stream_pytest(
        pytest("-n", "2", *(f"--ignore={E2E}/{name}" for name in others), E2E), tree.COLLECTION, tree.environment()
    )


def awx() -> int:
    # Beside our own collection and not within reach of all, as most users have no awx.awx.
    env = {**tree.environment(), "AWX_COLLECTIONS": str(awx_collection.provide())}
    return stream_pytest(pytest(f"{E2E}/test_awx_setup.py"), tree.COLLECTION, env)


def clients() -> int:
    """Backblaze's own clients against the stand-in: what they make of it does not depend on ansible-core."""
    return stream_pytest(pytest(f"{E2E}/test_official_clients.py"), tree.COLLECTION, tree.environment())


def locations() -> int:
    """Keys on another host and in a Git repository, and what may go wrong there. Two at a time: most of it is
    waiting."""
    return campaign("-n", "2", f"{E2E}/test_locations.py", LOCATIONS)


def campaign(*tests: str) -> int:
    """Run tests that import the collection themselves."""
    return stream_pytest(pytest(*tests), tree.COLLECTION, {**tree.environment(), "PYTHONPATH": str(tree.TREE)})


def faults() -> int:
    """The campaigns: short, unless CAMPAIGN=long is in the environment. Two files at a time: most of it is waiting."""
    return campaign("-n", "2", "--dist", "loadfile", f"--ignore={LEAKS}", f"--ignore={LOCATIONS}", "tests/campaign")


def vault() -> int:
    """Test the vault files, and search for shown keys: releases of ansible-core differ in both."""
    return campaign(f"{E2E}/test_vault.py", LEAKS)


def docs_step() -> int:
    return len(docs.build())


def examples() -> int:
    """Every example of every page, by the rules of tests/docs/README.md."""
    return campaign("-n", "auto", "tests/docs")


def ee_step() -> int:
    """A real execution environment, and jobs in it."""
    with ee.built() as environment:
        return stream(pytest("tests/ee"), tree.COLLECTION, environment, PYTEST_COUNT)


STEPS: dict[str, Callable[[], int]] = {
    "units": units,
    "sanity": sanity,
    "integration": integration,
    "lint": lint,
    "molecule": molecule,
    "artifact": artifact_step,
    "job": job,
    "awx": awx,
    "clients": clients,
    "locations": locations,
    "faults": faults,
    "docs": docs_step,
    "examples": examples,
    "vault": vault,
    "cores": matrix.ends,
    "ee": ee_step,
}


def processor() -> float:
    """Return the seconds of one core that ended child processes have used."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run(name: str) -> Row:
    """Run one step."""
    print(f"\n===== {name} =====", flush=True)
    start, used, tests, problem = time.monotonic(), processor(), 0, ""
    try:
        tests = STEPS[name]()
        problem = "" if tests else "ran no test"
    except (Failed, SystemExit, subprocess.CalledProcessError, OSError) as error:
        problem = str(error)
    if problem:
        print(f"{name}: {problem}", flush=True)
    return Row(name, problem, time.monotonic() - start, processor() - used, tests)


def run_apart(name: str) -> Row:
    """Run one step in a process and a tree of its own; show its output at its end."""
    print(f"{name} ...", flush=True)
    shown: list[str] = []
    [row] = copies.run(Path(sys.executable), tree.BUILD / "steps" / name, [name], shown.append)
    print("".join(shown), end="", flush=True)
    return row


def main() -> int:
    names = sys.argv[1:]
    alone = names[:1] == ["--tree-stands"]
    if alone:
        del names[0]
    else:
        tree.make()
    if alone or len(names) == 1:
        rows = [run(name) for name in names]
    else:
        with futures.ThreadPoolExecutor(AT_A_TIME) as pool:
            rows = list(pool.map(run_apart, names))

    if report := os.environ.get("STEPS_REPORT"):
        Path(report).write_text(json.dumps([row._asdict() for row in rows]))
    failed = sum(bool(row.problem) for row in rows)
    print(f"\n{'step':<12} {'result':<7} {'seconds':>7} {'cpu':>7} {'tests':>6}")
    for name, problem, seconds, cpu, tests in rows:
        verdict = "FAILED" if problem else "passed"
        print(f"{name:<12} {verdict:<7} {seconds:>7.1f} {cpu:>7.1f} {tests or '-':>6}  {problem}".rstrip())
    print(f"\n{len(rows) - failed} passed, {failed} failed", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
