# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A report that cannot be written is a warning: the result of the task is delivered all the same."""

from __future__ import annotations

import pytest

from ansible_collections.community.backblaze.plugins.plugin_utils import _tasks
from ansible_collections.community.backblaze.plugins.plugin_utils._report.file import Report

RESULT = {"changed": True, "counts": {"created": 1}, "msg": "1 wanted: 1 created.", "warnings": ["Before."]}
REPORT = Report("members", ["email"], [{"email": "a@x.example"}], {}, title="", subtitle="", parts=[])


def broken(_written):
    raise KeyError("a bug")


@pytest.mark.parametrize(
    ("make", "directory", "warning"),
    [
        (lambda written: REPORT, "none", "cannot be written (No such file or directory)"),
        (broken, "", "unexpected KeyError"),
    ],
)
def test_a_report_that_cannot_be_written_costs_no_result(monkeypatch, tmp_path, make, directory, warning):
    monkeypatch.setattr(_tasks, "controller_path", lambda _action, path: path)
    path = str(tmp_path / directory / "report.csv")
    result = _tasks._reported(None, {"report_file": path}, RESULT, make)
    *before, said = result["warnings"]
    assert warning in said and "a bug" not in said
    assert result == {**RESULT, "warnings": [*before, said], "report_file": None} and before == ["Before."]


def test_a_result_has_the_path_of_its_report(monkeypatch, tmp_path):
    monkeypatch.setattr(_tasks, "controller_path", lambda _action, path: str(tmp_path / path))
    result = _tasks._reported(None, {"report_file": "report.csv"}, RESULT, lambda written: REPORT)
    assert result == {**RESULT, "report_file": str(tmp_path / "report.csv")}
    assert (tmp_path / "report.csv").read_text().split() == ["email", "a@x.example"]
    assert _tasks._reported(None, {"report_file": None}, RESULT, broken) == RESULT
