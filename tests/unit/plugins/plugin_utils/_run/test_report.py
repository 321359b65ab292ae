# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a user sees of a long run while it goes on."""

from __future__ import annotations

import pytest

from ansible_collections.community.backblaze.plugins.module_utils._errors import OptionError
from ansible_collections.community.backblaze.plugins.module_utils._members import Member
from ansible_collections.community.backblaze.plugins.module_utils._plan import Outcome, Settled, Wanted
from ansible_collections.community.backblaze.plugins.plugin_utils._run import workers
from ansible_collections.community.backblaze.plugins.plugin_utils._run.input import WantedGroup
from ansible_collections.community.backblaze.plugins.plugin_utils._run.job import Plan, Report, Result
from ansible_collections.community.backblaze.plugins.plugin_utils._run.report import (
    summary,
    summary_of_groups,
    summary_of_stop,
)


@pytest.fixture
def shown(monkeypatch):
    lines = []
    monkeypatch.setattr(workers.display, "display", lines.append)
    return lines


@pytest.mark.parametrize(
    "done, total, seconds, line",
    [
        (1017, 5000, 5.008, "b2_group_members: 1017 of 5000 members, 203.1 a second, about 20 s left"),
        (5000, 5000, 25.0, "b2_group_members: 5000 of 5000 members, 200.0 a second, about 0 s left"),
        # Nothing is known of the rest as long as nobody is done.
        (0, 3, 5.0, "b2_group_members: 0 of 3 members, 0.0 a second"),
        (0, 3, 0.0, "b2_group_members: 0 of 3 members, 0.0 a second"),
    ],
)
def test_a_line_of_progress_says_how_far_it_is_and_how_long_it_takes(shown, done, total, seconds, line):
    workers.show_progress(done, total, seconds)
    assert shown == [line]


def test_progress_that_nobody_can_read_any_more_ends_nothing(monkeypatch):
    def gone(_line):
        raise BrokenPipeError

    monkeypatch.setattr(workers.display, "display", gone)
    workers.show_progress(1, 2, 3.0)


def test_the_summary_of_a_stopped_task_names_what_needs_attention_and_commands_no_terminal():
    members = [
        {"email": "ada@x.example", "outcome": "created", "message": None},
        {"email": "ben@x.example", "outcome": "key_lost", "message": "Account \x1b[2J1 is\nlost."},
        {"email": "cleo@x.example", "outcome": "not_attempted", "message": "The run ended before."},
    ]
    said = summary_of_stop(
        {"members": members, "counts": {"created": 1, "key_lost": 1, "not_attempted": 1}}, "it was ended by SIGINT"
    )
    lines = said.splitlines()
    assert lines[0] == (
        "community.backblaze: The run ended, because it was ended by SIGINT. created: 1, key_lost: 1, not_attempted: 1."
    )
    assert lines[1] == "  ben@x.example: key_lost. Account ?[2J1 is?lost." and len(lines) == 3
    assert (
        summary_of_stop({"msg": "Nothing was changed."}, "it was ended by SIGTERM").splitlines()[1]
        == "  Nothing was changed."
    )


def test_the_summary_of_a_stopped_check_or_of_one_member_says_what_is_true():
    check = summary_of_stop({"members": [], "counts": {"created": 2}}, "it was ended by SIGTERM", check_mode=True)
    assert "nothing was changed" in check and "sealed" not in check
    one = summary_of_stop(
        {"outcome": "ejected", "member": {"email": "ada@x.example"}, "application_key": "K004secret"},
        "it was ended by SIGTERM",
    )
    assert one.splitlines()[1] == "  ada@x.example: ejected" and "K004secret" not in one


HOSTING = WantedGroup("100001", "hosting", (Wanted("ada@x.example"),))
NOBODY = WantedGroup("", "nobody", (Wanted("ben@x.example"),))


def test_a_field_without_a_value_is_null_and_every_entry_names_its_group():
    ada = Member("5f2a1c0b3d4e", "Ada@x.example", "100001", "hosting", "us-west", "s3.example")
    report = Report(
        (Result("ada@x.example", Outcome.ADOPTED, member=ada, path="/keys/ada"),),
        (Settled("cleo@x.example", Outcome.ABSENT),),
    )
    plan = Plan("100001", (), (), {})
    result = summary_of_groups([(HOSTING, (plan, report)), (NOBODY, OptionError("There is no such Group."))], "fail")
    group = {"group_id": "100001", "group_name": "hosting"}
    nothing = {"message": None, "path": None, "ejected_account_id": None, "code": None, "status": None}
    assert result["members"] == [
        {
            **nothing,
            **group,
            "email": "ada@x.example",
            "account_id": "5f2a1c0b3d4e",
            "region": "us-west",
            "s3_endpoint": "s3.example",
            "outcome": "adopted",
            "path": "/keys/ada",
        },
        {
            **nothing,
            "group_id": None,
            "group_name": "nobody",
            "email": "ben@x.example",
            "account_id": None,
            "region": None,
            "s3_endpoint": None,
            "outcome": "not_attempted",
            "message": "There is no such Group.",
        },
    ]
    assert result["settled"] == [{"email": "cleo@x.example", "outcome": "absent", "account_id": None, **group}]
    assert [(one["group_id"], one["group_name"], one["changed"]) for one in result["groups"]] == [
        ("100001", "hosting", True),
        (None, "nobody", False),
    ]
    alone = summary(HOSTING, plan, report, "fail")
    assert (alone["members"], alone["settled"]) == (result["members"][:1], result["settled"])
    assert alone["counts"] == {"adopted": 1} and "warnings" not in alone
