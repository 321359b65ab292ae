# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Run steps in a process and a copy of the tree of their own, beside others."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import typing as t
from pathlib import Path

import tree

TOOLS = Path(__file__).parent


class Row(t.NamedTuple):
    """The verdict on one step. problem: empty if it passed. cpu: seconds of one core; other load changes it little."""

    step: str
    problem: str
    seconds: float
    cpu: float
    tests: int


def run(
    python: Path, work: Path, names: t.Sequence[str], show: t.Callable[[str], t.Any], **environment: str
) -> list[Row]:
    """Run steps one after the other with a Python; return a row for each step, also if the process ended before it.

    work: directory for the copy of the tree and for all that the steps write. show: called with each line of output.
    """
    shutil.rmtree(work, ignore_errors=True)
    copy = work / "tree" / tree.COLLECTION.relative_to(tree.TREE)
    tree.git("clone", "--quiet", str(tree.COLLECTION), str(copy), cwd=tree.ROOT)
    report = work / "report.json"
    process = subprocess.Popen(
        [str(python), str(TOOLS / "steps.py"), "--tree-stands", *names],
        env={**os.environ, **environment, "STEPS_WORK": str(work), "STEPS_REPORT": str(report)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    )
    for line in process.stdout:
        show(line)
    process.wait()
    rows = [Row(**row) for row in json.loads(report.read_text())] if report.exists() else []
    ran = {row.step for row in rows}
    return rows + [Row(name, "its process ended before it", 0.0, 0.0, 0) for name in names if name not in ran]
