# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A polite end, and failing siblings: what is under way is finished and sealed, nothing new is begun, and nothing is
lost."""

from __future__ import annotations

import json
import os
import re
import signal
import time

import pytest

from conftest import LONG, PATIENCE

MEMBERS = 96
CONCURRENCY = 4
#: Long enough for the signal to come while creates are under way.
LATENCY_MS = 200
#: So many seconds pass between signals that go on: they hit what is under way, the way out and the delivery of the
#: result.
PAUSE = 0.002
#: So long no create of a run ends before the test lets it, whatever else the machine does; the run waits for it.
HELD_MS = 600_000
PATIENT = {"api_timeout": 900}
CREATE = "b2_create_group_member"
EJECT = "b2_eject_group_member"

SIGNALS = (
    ("parent", signal.SIGINT, "once"),
    ("parent", signal.SIGTERM, "once"),
    ("parent", signal.SIGHUP, "once"),
    ("parent", signal.SIGKILL, "once"),
    ("worker", signal.SIGTERM, "once"),
    ("worker", signal.SIGTERM, "until it is gone"),
    ("worker", signal.SIGHUP, "until it is gone"),
)
#: Members, layout, arguments, and whether there is a terminal. From 900 members on a result is larger than a pipe's
#: buffer.
CASES = [
    (members, layout, arguments, terminal)
    for members in (10, 900, 5000)
    for layout in ("host_vars", "group_vars")
    for arguments in ((), ("-vvv",))
    for terminal in (True, False)
]
#: The short form: each value of each of the four, and most pairs of two.
if not LONG:
    CASES = [CASES[number] for number in (0, 7, 8, 11, 14, 18, 21)]


def strike(campaign, pid: int, number: int, times: str) -> int:
    """Send a signal, once or again and again until the process is gone, and then let creates end; return how many
    signals reached it."""
    os.kill(pid, number)
    campaign.hurry()
    sent = 1
    deadline = time.monotonic() + PATIENCE
    while times != "once":
        assert time.monotonic() < deadline, "signals keep the worker from coming to its end"
        time.sleep(PAUSE)
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            break
        sent += 1
    return sent


@pytest.mark.parametrize(
    "arguments", [[], ["-vvvvv"]] if LONG else [[]], ids=["plain", "-vvvvv"] if LONG else ["plain"]
)
@pytest.mark.parametrize(
    ("target", "number", "times"),
    SIGNALS,
    ids=[f"{number.name} to the {target} {times}" for target, number, times in SIGNALS],
)
def test_a_signal_ends_the_run_after_what_is_under_way_is_sealed(
    campaigns, chance, seed, request, target, number, times, arguments
):
    campaign = campaigns(latency_ms_by_operation={CREATE: LATENCY_MS})
    wanted = campaign.addresses(MEMBERS)
    play = campaign.play(wanted, concurrency=CONCURRENCY, **PATIENT)
    run = campaign.start(play, *arguments)
    goal = chance.randint(1, 3 * CONCURRENCY)
    assert run.watch(lambda: campaign.creates() >= goal), run.output
    # The creates that are under way are not over before the signal has come.
    campaign.server.settings(latency_ms_by_operation={CREATE: HELD_MS})
    pid = run.process.pid if target == "parent" else run.worker()
    assert pid, run.output

    before = campaign.creates()
    sent = strike(campaign, pid, number, times)
    run.end()

    begun = campaign.creates() - before
    # A worker that is not told has to notice first that its parent is gone.
    assert target == "parent" or begun <= CONCURRENCY, f"{begun} creates began after the signal"
    count = campaign.count({}, campaign.vault_dir)
    assert count.holds and not count.lost and count.handed_out < MEMBERS, f"{count}; {count!r}; {run.output}"
    assert counted(run.output) == {"created": count.sealed, "not_attempted": MEMBERS - count.sealed}, run.output

    campaign.hurry()
    again = campaign.outcomes(campaign.finish(play), wanted)
    assert set(again) == {"created", "unchanged"} and len(again["unchanged"]) == count.sealed
    final = campaign.count({}, campaign.vault_dir)
    assert final.holds and final.sealed == MEMBERS and not campaign.exposed()
    print(
        f"signals: {request.node.callspec.id}: {count.handed_out} of {MEMBERS} were made when it ended, {begun} "
        f"begun after {sent} signals; "
        f"after the rerun {final}; seed {seed}"
    )


def counted(output: str) -> dict[str, int]:
    """Return the counts of the summary that a stopped run writes to stderr; there has to be one summary."""
    [(wanted, line)] = re.findall(
        r"^community\.backblaze: The run ended, because .*?\.\n(\d+) wanted: ((?:\d+ \w+(?:, )?)+)\.$",
        output,
        re.MULTILINE,
    )
    counts = {name: int(number) for number, name in (part.split(" ") for part in line.split(", "))}
    assert sum(counts.values()) == int(wanted)
    return counts


@pytest.mark.parametrize(
    ("members", "layout", "arguments", "terminal"),
    CASES,
    ids=[
        f"{members} {layout} {' '.join(arguments) or 'plain'} {'terminal' if terminal else 'no terminal'}"
        for members, layout, arguments, terminal in CASES
    ],
)
def test_ctrl_c_leaves_no_process(campaigns, chance, seed, request, members, layout, arguments, terminal):
    campaign = campaigns(latency_ms_by_operation={CREATE: 50 if members > 100 else HELD_MS})
    campaign.vault_dir = campaign.directory / {"host_vars": "host_vars", "group_vars": "group_vars"}[layout]
    wanted = campaign.addresses(members)
    options = {"vault_dir": str(campaign.vault_dir), "vault_layout": layout, "report_file": "report.json", **PATIENT}
    play = campaign.play(wanted, **options)
    run = campaign.start(play, *arguments, terminal=terminal)
    goal = chance.randint(1, 100 if members > 100 else CONCURRENCY)
    assert run.watch(lambda: campaign.creates() >= goal), run.output
    campaign.server.settings(latency_ms_by_operation={CREATE: HELD_MS})

    run.interrupt()
    pressed = time.monotonic()
    # The creates under way end once the signal is on its way.
    time.sleep(chance.uniform(0, 0.3))
    campaign.hurry()
    run.end()

    seconds = time.monotonic() - pressed
    count = campaign.count({}, campaign.vault_dir)
    assert count.holds and not count.lost, f"{count!r}; {run.output}"
    assert "User interrupted execution" in run.output
    # Where the last create was under way, nothing is left that was not attempted.
    assert counted(run.output).get("created") == count.sealed, run.output
    assert sum(counted(run.output).values()) == members and not campaign.exposed()
    # The report is whole, says the same, and is the only file that is left of it.
    report = json.loads((campaign.directory / "report.json").read_text())
    assert report["counts"] == counted(run.output) and [one["email"] for one in report["members"]] == wanted
    assert not list(campaign.directory.glob(".report*"))
    print(f"signals: Ctrl-C: {request.node.callspec.id}: {count}; {seconds:.1f} s to the last process; seed {seed}")


@pytest.mark.parametrize("terminal", [True, False], ids=["terminal", "no terminal"])
def test_a_second_ctrl_c_leaves_no_process_either(campaigns, chance, seed, terminal):
    campaign = campaigns(latency_ms_by_operation={CREATE: HELD_MS})
    wanted = campaign.addresses(900)
    run = campaign.start(campaign.play(wanted, **PATIENT), terminal=terminal)
    assert run.watch(lambda: campaign.creates() >= 1), run.output

    run.interrupt()
    time.sleep(chance.uniform(0.05, 0.5))
    run.interrupt()
    campaign.hurry()
    run.end()

    count = campaign.count({}, campaign.vault_dir)
    assert count.holds and not count.lost and count.sealed == campaign.creates() < 900, f"{count!r}; {run.output}"
    print(f"signals: Ctrl-C twice: {count}; seed {seed}")


def end_late(campaign, number: int, delay: float) -> bool:
    """Let a run create its last member, and then send a signal; tell whether it came before the result."""
    wanted = campaign.addresses(400)
    play = campaign.play(wanted, concurrency=16)
    # This task alone: how another one ends is Ansible's own affair.
    [only] = json.loads(play.read_text())
    play.write_text(json.dumps([{**only, "tasks": only["tasks"][:1]}]))
    run = campaign.start(play)
    run.watch(lambda: campaign.creates() >= len(wanted), pause=0.1, patience=4 * PATIENCE)
    time.sleep(delay)
    if run.alive:
        os.kill(run.process.pid, number)
    run.end()
    count = campaign.count({}, campaign.vault_dir)
    assert count.holds and not count.lost, f"{count!r}; {run.output}"
    return "changed: [localhost]" not in run.output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_a_signal_at_the_end_leaves_no_process(campaigns, chance, seed, long_form, number):
    """The result is on its way then, and larger than what a pipe takes when nobody reads it."""
    ended = sum(
        end_late(campaigns(f"end{turn}"), number, chance.uniform(0, 0.4)) for turn in range(10 if long_form else 1)
    )
    print(f"signals: {number.name} at the end: {ended} runs had no result; seed {seed}")


def test_a_signal_ends_a_loop_too(campaigns):
    campaign = campaigns(latency_ms_by_operation={CREATE: LATENCY_MS})
    wanted = campaign.addresses(12)
    play = campaign.play(wanted)
    [only] = json.loads(play.read_text())
    provision = only["tasks"][0]
    provision["community.backblaze.b2_group_member"] = {
        "group_name": "hosting",
        "email": "{{ item }}",
        "vault_dir": "host_vars",
    }
    del provision["community.backblaze.b2_group_members"]
    play.write_text(json.dumps([{**only, "tasks": [{**provision, "loop": wanted}, only["tasks"][1]]}]))
    run = campaign.start(play)
    assert run.watch(lambda: campaign.creates() >= 3), run.output

    strike(campaign, run.worker(), signal.SIGTERM, "once")
    run.end()

    count = campaign.count({}, campaign.vault_dir)
    assert count.holds and not count.lost and 2 <= count.sealed <= 5, f"{count!r}; {run.output}"
    assert "because it received SIGTERM" in run.output
    made = [email for email in wanted if (campaign.vault_dir / email).exists()]
    assert made == wanted[: count.sealed] and campaign.creates() == count.sealed, "items were begun after the signal"
    print(f"signals: in a loop: {len(made)} of {len(wanted)} items done: {count}")


def test_a_signal_in_another_kind_of_item_tells_what_became_of_that_one(campaigns):
    """The item before it has its result, and nothing is left to be told of it."""
    campaign = campaigns(latency_ms_by_operation={EJECT: HELD_MS})
    ada, ben = campaign.addresses(2)
    play = campaign.play([ada])
    [only] = json.loads(play.read_text())
    task = {
        "name": "Provision",
        "community.backblaze.b2_group_member": {
            "group_name": "hosting",
            "email": "{{ item.email }}",
            "state": "{{ item.state }}",
            "confirm_eject": True,
            "vault_dir": "host_vars",
            "api_timeout": 900,
        },
        "loop": [
            {"email": ada, "state": "present"},
            {"email": ada, "state": "absent"},
            {"email": ben, "state": "present"},
        ],
    }
    play.write_text(json.dumps([{**only, "tasks": [task]}]))
    run = campaign.start(play)
    assert run.watch(lambda: campaign.calls(EJECT) >= 1, pause=0.05), run.output

    os.kill(run.worker(), signal.SIGTERM)
    time.sleep(3)
    campaign.hurry()
    run.end()

    assert f"{ada}: ejected" in run.output and f"{ada}: created" not in run.output, run.output
    assert [one["email"] for one in campaign.server.ledger()] == [ada], "an item was begun after the signal"


def test_the_timeout_of_the_task_ends_the_run_with_its_report(campaigns):
    """Ansible raises an error in the task's main thread then, with which the names of all that was made would be
    gone."""
    campaign = campaigns(latency_ms_by_operation={CREATE: LATENCY_MS})
    wanted = campaign.addresses(MEMBERS)
    play = campaign.play(wanted, concurrency=1)
    [only] = json.loads(play.read_text())
    only["tasks"][0]["timeout"] = 8
    play.write_text(json.dumps([only]))

    result = campaign.finish(play)

    found = campaign.outcomes(result, wanted)
    count = campaign.count(result, campaign.vault_dir)
    assert (
        set(found) == {"created", "not_attempted"}
        and len(found["created"]) == count.sealed == campaign.creates() < MEMBERS
    )
    assert count.holds and not count.lost
    assert result["failed"] and "timeout of the task is over" in result["msg"], result["msg"]
    campaign.hurry()
    only["tasks"][0].pop("timeout")
    play.write_text(json.dumps([only]))
    assert set(campaign.outcomes(campaign.finish(play), wanted)) == {"created", "unchanged"}
    print(f"signals: timeout of the task: {count}; {len(found['not_attempted'])} not attempted")


def test_siblings_that_fail_take_no_other_with_them(campaigns):
    campaign = campaigns(latency_ms=20)
    wanted = campaign.addresses(24)
    refused, cut = wanted[5], wanted[11]
    campaign.server.taken([refused])
    campaign.server.faults([{"operation": "b2_create_group_member", "email": cut, "action": {"kind": "cut_after"}}])

    result = campaign.finish(campaign.play(wanted))

    found = campaign.outcomes(result, wanted)
    others = [email for email in wanted if email not in (refused, cut)]
    assert found == {"created": others, "refused": [refused], "key_lost": [cut]}
    count = campaign.count(result, campaign.vault_dir)
    assert count.holds and count.lost == [cut] and count.sealed == len(others)
    account = next(one["account_id"] for one in campaign.server.ledger() if one["email"] == cut)
    assert account in result["msg"] and refused in result["msg"] and "invalid_email" in result["msg"]
    print(f"signals: a refused and a lost sibling: {count}, 1 refused")


@pytest.mark.parametrize("stderr", ["closed", "full"])
def test_a_stderr_that_takes_no_line_ends_no_run(campaigns, stderr):
    """ansible-playbook itself reads no result any more after it has failed to show a line."""
    campaign = campaigns(latency_ms_by_operation={CREATE: 1800})
    campaign.vault_dir.mkdir()
    wanted = campaign.addresses(8)
    play = campaign.play(wanted, concurrency=2)
    if stderr == "closed":
        reader, taking = os.pipe()
        os.close(reader)
    else:
        taking = os.open("/dev/full", os.O_WRONLY)
    run = campaign.start(play, stderr=taking)
    os.close(taking)
    # The run lasts longer than the time to its first line of progress.
    result = run.end()
    assert campaign.outcomes(result, wanted) == {"created": wanted}
    assert campaign.count(result, campaign.vault_dir).holds
