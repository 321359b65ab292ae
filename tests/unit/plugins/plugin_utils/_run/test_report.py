# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a user sees of a long run while it goes on."""

from __future__ import annotations

import contextlib
import os
import signal
import time

import pytest

from ansible_collections.community.backblaze.plugins.module_utils._errors import OptionError
from ansible_collections.community.backblaze.plugins.module_utils._members import Member
from ansible_collections.community.backblaze.plugins.module_utils._plan import Outcome, Settled, Wanted
from ansible_collections.community.backblaze.plugins.plugin_utils import _progress
from ansible_collections.community.backblaze.plugins.plugin_utils._run import report as run_report
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
    """What is shown on stderr."""
    lines = []
    monkeypatch.setattr(_progress, "write", lambda text, _seconds: lines.append(text))
    return lines


@pytest.mark.parametrize(
    "done, total, seconds, line",
    [
        (
            1017,
            5000,
            5.008,
            "community.backblaze: Group hosting: 1017 of 5000 members, 203.1 a second, about 20 s left",
        ),
        (5000, 5000, 25.0, "community.backblaze: Group hosting: 5000 of 5000 members, 200.0 a second, about 0 s left"),
        # Nothing is known of the rest as long as nobody is done.
        (0, 3, 5.0, "community.backblaze: Group hosting: 0 of 3 members, 0.0 a second"),
        (0, 3, 0.0, "community.backblaze: Group hosting: 0 of 3 members, 0.0 a second"),
    ],
)
def test_a_line_of_progress_says_how_far_it_is_and_how_long_it_takes(shown, done, total, seconds, line):
    workers.show_progress("hosting", done, total, seconds)
    assert shown == [f"{line}\n"]


@pytest.mark.parametrize("stderr", ["gone", "full", "terminal", "none"])
def test_a_line_that_nobody_can_read_delays_the_task_for_a_moment_only(monkeypatch, stderr):
    reader, writer = os.openpty() if stderr == "terminal" else os.pipe()
    own = _progress.opened(writer) if stderr != "none" else -1
    monkeypatch.setattr(_progress, "_stderr", own)
    monkeypatch.setattr(_progress, "_SECONDS", 0.05)
    if stderr == "full":
        os.set_blocking(writer, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writer, bytes(4096))
        os.set_blocking(writer, True)
    elif stderr == "gone":
        os.close(reader)
    # If this blocks, pytest ends with the alarm.
    signal.alarm(60)
    # A terminal gets full in the middle of a line, at a length that depends on the system.
    for length in range(100, 300) if stderr == "terminal" else [100]:
        began = time.monotonic()
        _progress.tell("x" * length)
        if time.monotonic() - began >= 0.05:
            break
    signal.alarm(0)
    for descriptor in (writer, *([own] if own >= 0 else ()), *([reader] if stderr != "gone" else ())):
        os.close(descriptor)


def test_a_line_names_the_vault_directory_and_not_its_remote_copy(shown, monkeypatch):
    monkeypatch.setitem(_progress.names, "/tmp/b2_vault_1/keys", "backup.example:/srv/keys")
    _progress.tell("/tmp/b2_vault_1/keys/a@x.example cannot be written.")
    assert shown == ["community.backblaze: backup.example:/srv/keys/a@x.example cannot be written.\n"]


def test_a_line_that_is_longer_than_one_write_arrives_whole(monkeypatch):
    reader, writer = os.pipe()
    monkeypatch.setattr(_progress, "_stderr", writer)
    _progress.tell("\u00e4" * 3000)
    os.close(writer)
    with open(reader, encoding="utf-8") as file:
        assert file.read() == "community.backblaze: " + "\u00e4" * 3000 + "\n"


def test_a_stopped_process_shows_nothing_and_no_line_commands_the_terminal(shown, monkeypatch):
    monkeypatch.setattr(_progress, "_quiet", False)
    _progress.tell("Backblaze said \x1b[2Jno\r.\nAgain.")
    assert shown == ["community.backblaze: Backblaze said ?[2Jno?.\nAgain.\n"]
    _progress.be_quiet()
    _progress.tell("More.")
    assert len(shown) == 1


def test_the_summary_of_a_stopped_task_is_its_message_and_commands_no_terminal():
    result = {"msg": "2 wanted: 1 created, 1 key_lost.\nAccount \x1b[2J1 is lost.", "counts": {"created": 1}}
    lines = summary_of_stop(result, "it received SIGINT").splitlines()
    assert lines[0] == "community.backblaze: The run ended, because it received SIGINT."
    assert lines[1:3] == ["2 wanted: 1 created, 1 key_lost.", "Account ?[2J1 is lost."]
    assert "Run again" in lines[3] and len(lines) == 4
    assert summary_of_stop({"msg": "Nothing was changed."}, "it received SIGTERM").splitlines()[1:] == [
        "Nothing was changed."
    ]


def test_the_summary_of_a_stopped_task_about_one_member_names_the_member():
    member = {"email": "ada@x.example"}
    result = {"msg": "1 ejected", "outcome": "ejected", "member": member}
    assert summary_of_stop(result, "it received SIGTERM").splitlines()[1:] == [
        "1 ejected",
        "ada@x.example: ejected.",
    ]
    named = {**result, "msg": "1 wanted: 1 created.\ncreated:\n  ada@x.example", "outcome": "created"}
    assert summary_of_stop(named, "it received SIGTERM").count("ada@x.example") == 1


def test_the_summary_of_a_stopped_check_says_what_is_true():
    result = {"msg": "2 wanted. Planned: 2 created.", "counts": {"created": 2}, "application_key": "K004secret"}
    said = summary_of_stop(result, "it received SIGTERM", check_mode=True)
    assert "nothing was changed" in said and "sealed" not in said and "K004secret" not in said


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
            "message": "Group nobody was not started. There is no such Group. Nothing was changed at Backblaze. "
            "Fix the cause, and run again.",
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


@pytest.mark.parametrize(
    ("failed", "wanted"), [(True, "success"), (True, "never"), (True, "always"), (False, "success")]
)
def test_a_failed_result_without_members_still_names_every_lost_key(failed, wanted):
    settled = [{"email": f"{n}@x.example", "outcome": "key_lost" if n % 2 else "created"} for n in range(60)]
    result = {"failed": failed, "members": [1], "settled": settled}
    short = run_report.shown(result, wanted)
    if wanted == "always" or not failed:
        assert short == result
    else:
        assert "members" not in short
        lost = [one["email"] for one in short["settled"] if one["outcome"] == "key_lost"]
        assert len(lost) == 30 and len(short["settled"]) == 40
