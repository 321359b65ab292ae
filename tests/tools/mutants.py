# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Change the code in small ways and count the changes that the tests notice: mutants.py [WORD ...].

WORD: only files whose path holds one of these words. MUTANTS: how many mutants of a file are tried, 20 without it, or
`all`. MUTANTS_SEED: another sample. MUTANTS_CAMPAIGNS=no: only unit tests.

The tool is mutmut. It changes files in a copy of the checkout, never in the checkout. A mutant is tried by the unit
tests that run its function, the fastest first. If all of them pass, the short campaigns try it.
"""

from __future__ import annotations

import ast
import concurrent.futures
import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tree

COLLECTION = Path("ansible_collections/community/backblaze")
WORK = tree.BUILD / "mutants"
WORKERS = 2
#: The least share of mutants that the tests have to catch, in percent.
WANTED = 90
#: For how long the campaigns try mutants of an area, in seconds. An equivalent mutant costs the time of all of them.
CAMPAIGN_SECONDS = 20 * 60
#: What mutmut writes down for a mutant that all tests let pass, and for one that no test runs.
UNNOTICED = (0, 5, 33)

PYTEST = ("-p", "no:cacheprovider", "-p", "unshrunk", "--hypothesis-seed=1")
UNIT = "tests/unit/plugins"
SEQUENCES, FAULTS = "tests/campaign/test_sequences.py", "tests/campaign/test_faults.py"


@dataclasses.dataclass(frozen=True)
class Area:
    """Files that the same tests judge: unit tests first, and short campaigns if those are silent.

    The paths of files start at plugins, those of tests at the checkout.
    """

    files: tuple[str, ...]
    units: tuple[str, ...]
    campaigns: tuple[str, ...]


def _in(folder: str, *names: str) -> tuple[str, ...]:
    return tuple(f"{folder}/{name}.py" for name in names)


AREAS = {
    "plan": Area(
        _in("module_utils", "_plan"),
        (
            f"{UNIT}/module_utils/test_plan.py",
            f"{UNIT}/module_utils/test_plan_properties.py",
            f"{UNIT}/plugin_utils/_run",
        ),
        (SEQUENCES,),
    ),
    "api": Area(
        _in("module_utils/_api", "answers", "partner", "calls", "retries", "transport", "pace"),
        (f"{UNIT}/module_utils/_api",),
        (SEQUENCES, FAULTS),
    ),
    "run": Area(
        _in("plugin_utils/_run", "workers", "journal", "provision", "recover", "confirm"),
        (f"{UNIT}/plugin_utils/_run",),
        (SEQUENCES, FAULTS),
    ),
    "stores": Area(
        _in(
            "plugin_utils/_stores", "host_vars", "group_vars", "key_file", "sealer", "fallback", "unproven", "vault_dir"
        )
        + _in("module_utils", "_files"),
        (
            f"{UNIT}/plugin_utils/_stores",
            f"{UNIT}/module_utils/test_files.py",
            f"{UNIT}/plugin_utils/_run/test_provision.py",
        ),
        (FAULTS,),
    ),
}


def undecorated(source: str) -> str:
    """Return source with its decorators of functions as calls at its end: mutmut does not change decorated functions.

    A cache is left out: its results of the first run of the tests would be those of each mutant, too.
    """
    lines, calls = source.split("\n"), []

    def visit(nodes: list[ast.stmt], owner: str = "") -> None:
        for node in nodes:
            if isinstance(node, ast.ClassDef):
                visit(node.body, f"{owner}{node.name}.")
            elif isinstance(node, ast.FunctionDef) and node.decorator_list:
                texts = [ast.unparse(decorator) for decorator in node.decorator_list]
                # One that works on the class, or on another decorator's result, stays.
                if len(texts) > 1 or texts[0].endswith(("method", "cached_property", ".setter", "overload", "fixture")):
                    continue
                decorator = node.decorator_list[0]
                for number in range(decorator.lineno - 1, decorator.end_lineno or decorator.lineno):
                    lines[number] = f"{' ' * node.col_offset}# {lines[number].strip()}"
                if "lru_cache" not in texts[0]:
                    calls.append(f"{owner}{node.name} = {texts[0]}({owner}{node.name})")

    visit(ast.parse(source).body)
    return "\n".join([*lines, *calls, ""])


def mutate(sample: str, files: list[str]) -> None:
    """Try mutants of an area by its unit tests; for a process of its own in the area's directory."""
    import mutmut.__main__ as tool
    from mutmut.mutation.file_mutation import mutate_file_contents
    from mutmut.utils.format_utils import get_mutant_name

    teach()
    chosen = {}
    for file in files:
        path = COLLECTION / "plugins" / file
        names = [get_mutant_name(path, name) for name in mutate_file_contents(str(path), path.read_text()).mutant_names]
        if sample != "all" and len(names) > int(sample):
            seed = os.environ.get("MUTANTS_SEED", "1")
            names = sorted(random.Random(f"{seed} {file}").sample(names, int(sample)))
        chosen[file] = names
    Path("chosen.json").write_text(json.dumps(chosen))
    tool.cli(["run", "--max-children", str(WORKERS), *(name for names in chosen.values() for name in names)])


def teach() -> None:
    """Teach mutmut the mutations that matter for this code, and not to change prose."""
    import libcst as cst
    from mutmut.mutation import mutators

    def branch(node: cst.If | cst.While) -> Iterator[cst.CSTNode]:
        """Switch a branch off, and take it always."""
        test = node.test.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])
        for operator, word in ((cst.And(), "False"), (cst.Or(), "True")):
            if word == "False" or isinstance(node, cst.If):  # no loop without an end
                yield node.with_changes(test=cst.BooleanOperation(test, operator, cst.Name(word)))

    def statement(node: cst.Expr) -> Iterator[cst.CSTNode]:
        """Remove a call whose result nobody uses."""
        if isinstance(node.value, cst.Call):
            yield node.with_changes(value=cst.Name("None"))

    def handler(node: cst.ExceptHandler) -> Iterator[cst.CSTNode]:
        """Catch nothing."""
        if node.type:
            yield node.with_changes(type=cst.Tuple([]), whitespace_after_except=cst.SimpleWhitespace(" "))

    def string(node: Any) -> Iterator[Any]:
        """Change a text that a machine reads; messages to people have spaces in them."""
        if isinstance(node, cst.SimpleString) and " " not in node.value:
            yield from list(mutators.operator_string(node))[:1]

    operators: Any = mutators.mutation_operators
    operators[:] = [(kind, string if made is mutators.operator_string else made) for kind, made in operators]
    operators += [
        ((cst.If, cst.While), branch),
        (cst.Expr, statement),
        (cst.ExceptHandler, handler),
    ]


@dataclasses.dataclass(frozen=True)
class Survivor:
    """A mutant that the tests have not noticed."""

    name: str
    diff: str


@dataclasses.dataclass(frozen=True)
class Judged:
    """What the tests made of the mutants of one file."""

    file: str
    mutants: int
    by_units: int
    by_campaigns: int
    survivors: list[Survivor]


def environment(directory: Path, mutant: str = "") -> dict[str, str]:
    """Return the environment in which the mutated copy is the collection."""
    copy = directory / "mutants"
    path = os.pathsep.join([str(copy), str(copy / COLLECTION / "tests/tools")])
    return {**tree.environment(copy), "PYTHONPATH": path, "MUTANT_UNDER_TEST": mutant, "CAMPAIGN_SEED": "1"}


def prepare(name: str, files: list[str]) -> Path:
    """Make a copy of the checkout in which mutmut mutates these files of an area."""
    directory = WORK / name
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(tree.COLLECTION, directory / COLLECTION, symlinks=True, ignore=shutil.ignore_patterns(".git"))
    paths = [COLLECTION / "plugins" / file for file in files]
    for path in paths:
        (directory / path).write_text(undecorated((directory / path).read_text()))
    settings = {
        "source_paths": ["ansible_collections"],
        "only_mutate": paths,
        "pytest_add_cli_args": ["--import-mode=importlib", *PYTEST],
        "pytest_add_cli_args_test_selection": [COLLECTION / path for path in AREAS[name].units],
        "use_git_change_detection": ["false"],
        # Generous: other work on this machine may slow a test down.
        "timeout_multiplier": ["5"],
        "timeout_constant": ["3"],
    }
    lines = [f"{name}=" + "".join(f"\n  {value}" for value in values) for name, values in settings.items()]
    (directory / "setup.cfg").write_text("\n".join(["[mutmut]", *lines, ""]))
    return directory


def passes(directory: Path, mutant: str, campaigns: tuple[str, ...], patience: float) -> bool:
    """Say whether the campaigns pass with this mutant; a campaign that does not come to its end fails."""
    # Through ansible-playbook a few cases are played again, and most of the time is spent to start it.
    command = ["pytest", "-x", "-q", "-k", "not ansible_playbook", *PYTEST, *campaigns]
    process = subprocess.Popen(
        command,
        cwd=directory / "mutants" / COLLECTION,
        env=environment(directory, mutant),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        return process.wait(patience) == 0
    except subprocess.TimeoutExpired:
        return False
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def noticed(directory: Path, campaigns: tuple[str, ...], names: list[str]) -> set[str]:
    """Return the mutants that the campaigns notice. When their time is over, the other mutants count as unnoticed."""
    if not names or os.environ.get("MUTANTS_CAMPAIGNS") == "no":
        return set()
    started = time.monotonic()
    if not passes(directory, "", campaigns, 3600):
        sys.exit(f"The campaigns fail without any mutant: {' '.join(campaigns)}")
    # Generous, as for the unit tests.
    patience = 5 * (time.monotonic() - started) + 60
    end = time.monotonic() + CAMPAIGN_SECONDS
    untried = []

    def lets_pass(name: str) -> bool:
        if time.monotonic() > end:
            untried.append(name)
            return True
        return passes(directory, name, campaigns, patience)

    with concurrent.futures.ThreadPoolExecutor(WORKERS) as pool:
        passed = list(pool.map(lets_pass, names))
    if untried:
        print(f"The campaigns had no time for {len(untried)} mutants, which count as survivors.", flush=True)
    return {name for name, good in zip(names, passed, strict=True) if not good}


def show(directory: Path, name: str) -> str:
    """Return the difference that a mutant makes."""
    code = f"import mutmut.__main__ as tool; tool.cli(['show', {name!r}])"
    command = [sys.executable, "-c", code]
    shown = subprocess.run(
        command, cwd=directory, env=environment(directory), capture_output=True, text=True, check=True
    )
    kept = [
        line for line in shown.stdout.splitlines() if line.startswith(("-", "+")) and line[:3] not in ("---", "+++")
    ]
    return "\n".join(kept)


def judge(name: str, files: list[str], sample: str) -> list[Judged]:
    """Try mutants of files of an area."""
    directory = prepare(name, files)
    command = [sys.executable, str(Path(__file__).resolve()), "--mutate", sample, *files]
    with open(directory / "mutmut.log", "wb") as log:
        done = subprocess.run(command, cwd=directory, env=environment(directory), stdout=log, stderr=log, check=False)
    if done.returncode:
        sys.exit(f"mutmut ended with {done.returncode}, see {directory / 'mutmut.log'}")
    chosen, codes = json.loads((directory / "chosen.json").read_text()), {}
    for file in files:
        meta = directory / "mutants" / COLLECTION / "plugins" / f"{file}.meta"
        codes.update(json.loads(meta.read_text())["exit_code_by_key"])
    silent = {file: [name for name in chosen[file] if codes[name] in UNNOTICED] for file in files}
    late = noticed(directory, AREAS[name].campaigns, [name for names in silent.values() for name in names])
    rows = []
    for file in files:
        left = [name for name in silent[file] if name not in late]
        by_units, by_campaigns = len(chosen[file]) - len(silent[file]), len(silent[file]) - len(left)
        survivors = [Survivor(name.rpartition(".")[2], show(directory, name)) for name in left]
        rows.append(Judged(file, len(chosen[file]), by_units, by_campaigns, survivors))
    return rows


def main(words: list[str]) -> int:
    """Judge the files and print what was caught."""
    sample, started, rows = os.environ.get("MUTANTS") or "20", time.monotonic(), []
    tree.make()
    for name, area in AREAS.items():
        files = [file for file in area.files if not words or any(word in file for word in words)]
        if files:
            judged = judge(name, files, sample)
            rows += judged
            for row in judged:
                print(line(row))
                for survivor in row.survivors:
                    print(f"\n{survivor.name}\n{survivor.diff}\n", flush=True)
    everything = Judged(
        "all",
        sum(row.mutants for row in rows),
        sum(row.by_units for row in rows),
        sum(row.by_campaigns for row in rows),
        [survivor for row in rows for survivor in row.survivors],
    )
    print(f"\n{'file':<40} {'mutants':>7} {'units':>6} {'campaigns':>9} {'survived':>8} {'caught':>7}")
    for row in [*rows, everything]:
        print(line(row))
    print(f"{time.monotonic() - started:.0f} s, {sample} mutants of each file")
    return 0 if rows and share(everything) >= WANTED else 1


def share(row: Judged) -> float:
    """Return the share of mutants that were noticed, in percent."""
    return 100 * (row.by_units + row.by_campaigns) / row.mutants if row.mutants else 100.0


def line(row: Judged) -> str:
    """Return a row of the table."""
    figures = f"{row.mutants:>7} {row.by_units:>6} {row.by_campaigns:>9} {len(row.survivors):>8} {share(row):>6.1f}%"
    return f"{row.file:<40} {figures}"


if __name__ == "__main__":
    if sys.argv[1:2] == ["--mutate"]:
        mutate(sys.argv[2], sys.argv[3:])
    else:
        sys.exit(main(sys.argv[1:]))
