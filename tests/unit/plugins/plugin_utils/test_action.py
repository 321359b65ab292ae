# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The boundary of actions shows a message on stderr if Ansible does not show it readably."""

from __future__ import annotations

import types

import pytest

from ansible_collections.community.backblaze.plugins.module_utils._errors import OptionError
from ansible_collections.community.backblaze.plugins.plugin_utils import _action

LINES = "2 wanted: 2 refused.\nrefused: Choose another address."
LONG = {"changed": True, "msg": "900 wanted: 900 created.", "members": ["a@x.example"] * 900}


@pytest.fixture
def run(monkeypatch):
    told = []
    display = types.SimpleNamespace(verbosity=0)
    monkeypatch.setattr(_action, "display", display)
    monkeypatch.setattr(_action, "tell", told.append)
    monkeypatch.setattr(_action, "be_quiet", lambda: None)
    monkeypatch.setattr(_action.signals, "begin", lambda: None)
    monkeypatch.setattr(_action.signals, "deliver", lambda summary: None)

    def run_task(result, *, verbosity=0, core="2.19.0", no_log=False):
        monkeypatch.setattr(_action, "_ONLY_JSON", core.startswith("2.18."))
        display.verbosity = verbosity
        action = types.SimpleNamespace(_task=types.SimpleNamespace(no_log=no_log, check_mode=False))
        return _action.run_action(action, lambda: dict(result)), told

    return run_task


@pytest.mark.parametrize(
    ("core", "no_log", "msg", "shown"),
    [
        ("2.18.1", False, LINES, True),
        ("2.18.1", True, LINES, False),
        ("2.18.1", False, "vault_dir is empty.", False),
        ("2.19.0", False, LINES, False),
    ],
)
def test_a_failed_message_of_several_lines_is_readable_on_every_core(run, core, no_log, msg, shown):
    result, told = run({"failed": True, "msg": msg}, core=core, no_log=no_log)
    assert told == ([msg] if shown else [])
    assert result == {"failed": True, "msg": msg}


@pytest.mark.parametrize(("verbosity", "short"), [(0, False), (1, True), (2, True), (3, False)])
def test_a_long_good_result_is_short_at_v_and_whole_at_vvv(run, verbosity, short):
    result, told = run(LONG, verbosity=verbosity)
    assert result.pop("_ansible_verbose_override", False) is short and result == LONG
    assert told == ([LONG["msg"]] if short else [])


def test_what_ansible_adds_to_a_result_of_a_module_does_no_harm(run):
    """From ansible-core 2.19 on, a warning in the result of a module is an object, which is no JSON."""
    result, _told = run({**LONG, "warnings": [object()]}, verbosity=1)
    assert result["_ansible_verbose_override"] is True


def test_a_result_without_a_message_is_what_the_task_is_for(run):
    listed = {"changed": False, "members": LONG["members"]}
    assert run(listed, verbosity=1) == (listed, [])


def test_an_error_is_a_failed_result_with_its_remedy(run):
    def refuse():
        raise OptionError("vault_dir is empty.", remedy="Name a directory.")

    action = types.SimpleNamespace(_task=types.SimpleNamespace(no_log=False, check_mode=False))
    assert _action.run_action(action, refuse) == {
        "failed": True,
        "changed": False,
        "msg": "vault_dir is empty. Nothing was changed at Backblaze. Name a directory.",
    }


def test_the_summary_of_a_stopped_task_with_no_log_has_the_counts_only(run, monkeypatch):
    summaries = []
    monkeypatch.setattr(_action.signals, "deliver", lambda summary: summaries.append(summary("it received SIGINT")))
    monkeypatch.setattr(_action, "be_quiet", lambda: summaries.append("quiet"))
    result = {"counts": {"created": 1}, "msg": "1 wanted: 1 created.\ncreated:\n  a@x.example"}
    run(result, no_log=True)
    run({"msg": "The entry a@x.example is invalid.", "member": {"email": "a@x.example"}}, no_log=True)
    quiet, counted, again, failed = summaries
    assert quiet == again == "quiet"
    assert "1 wanted: 1 created." in counted and "a@x.example" not in counted + failed
