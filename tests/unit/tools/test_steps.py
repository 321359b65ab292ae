# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What makes a step green."""

from __future__ import annotations

import os
import pathlib
import re
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tools"))

import steps


def of_pytest(tmp_path, *tests):
    """Run pytest over these tests as a step does."""
    (tmp_path / "test_few.py").write_text("import pytest\n" + "\n".join(f"{body}\n" for body in tests))
    # ansible-test gives its own pytest plugins along, which look at collections only.
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "PYTHONPATH"))}
    return steps.stream_pytest([sys.executable, "-m", *steps.pytest("-p", "no:xdist", "test_few.py")], tmp_path, env)


PASSES = "def test_passes(): pass"


def test_tests_that_passed_are_counted(tmp_path):
    assert (
        of_pytest(tmp_path, PASSES, "@pytest.mark.parametrize('x', [1, 2])\ndef test_more(x): print('1 skipped in 1s')")
        == 3
    )


@pytest.mark.parametrize(
    "test, says",
    [
        ("def test_skips(): pytest.skip('not here')", "1 skipped"),
        ("@pytest.mark.skipif(True, reason='not here')\ndef test_skips(): pass", "1 skipped"),
        ("@pytest.mark.xfail\ndef test_fails(): assert False", "1 xfailed"),
        ("@pytest.mark.xfail\ndef test_fails(): pass", "1 xpassed"),
        ("def test_fails(): assert False", "ended with 1"),
    ],
)
def test_a_test_that_nobody_looks_at_fails_the_step(tmp_path, test, says):
    with pytest.raises(steps.Failed, match=says):
        of_pytest(tmp_path, PASSES, test)


@pytest.mark.parametrize(
    "line, count, refused",
    [
        ("============================= 650 passed in 40.12s =============================", 650, False),
        ("=========== 650 passed, 3 warnings in 61.20s (0:01:01) ===========", 650, False),
        ("=========== 649 passed, 1 skipped in 61.20s (0:01:01) ===========", 649, True),
        ("=========== 1 skipped, 3 warnings in 0.20s ===========", None, True),
        ("========== 12 passed, 10 xfailed, 2 warnings in 1s ==========", 12, True),
        ("the leak hunt: 1 skipped in 1s", None, False),
    ],
)
def test_the_last_line_of_pytest_is_understood(line, count, refused):
    counted = re.search(steps.PYTEST_COUNT, line)
    assert (int(counted[1]) if counted else None) == count
    assert bool(re.search(steps.PYTEST_NEVER, line)) is refused
