# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A polite end, and failing siblings: what is under way is finished and sealed, nothing new is begun, and nothing is lost."""

from __future__ import annotations

import json
import os
import signal
import time

import pytest

from conftest import PATIENCE

MEMBERS = 48
CONCURRENCY = 4
#: Long enough for the signal to come while creates are under way.
LATENCY_MS = 200
#: So many seconds pass between signals that go on: they hit what is under way, the way out and the delivery of the result.
PAUSE = 0.002

SIGNALS = (
    ("parent", signal.SIGINT, "once"),
    ("parent", signal.SIGTERM, "once"),
    ("worker", signal.SIGTERM, "once"),
    ("worker", signal.SIGTERM, "until it is gone"),
    ("worker", signal.SIGHUP, "until it is gone"),
)


def strike(pid: int, number: int, times: str) -> int:
    """Send a signal, once or again and again until the process is gone; return how many reached it."""
    os.kill(pid, number)
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


@pytest.mark.parametrize("arguments", [[], ["-vvvvv"]], ids=["plain", "-vvvvv"])
@pytest.mark.parametrize(("target", "number", "times"), SIGNALS, ids=[f"{number.name} to the {target} {times}" for target, number, times in SIGNALS])
def test_a_signal_ends_the_run_after_what_is_under_way_is_sealed(campaigns, chance, seed, request, target, number, times, arguments):
    campaign = campaigns(latency_ms_by_operation={"b2_create_group_member": LATENCY_MS})
    wanted = campaign.addresses(MEMBERS)
    play = campaign.play(wanted, concurrency=CONCURRENCY)
    run = campaign.start(play, *arguments)
    goal = chance.randint(1, 3 * CONCURRENCY)
    assert run.watch(lambda: campaign.creates() >= goal), run.output
    time.sleep(chance.uniform(0, LATENCY_MS / 1000))
    pid = run.process.pid if target == "parent" else run.worker()
    assert pid, run.output

    before = campaign.creates()
    sent = strike(pid, number, times)
    result = run.end()

    begun = campaign.creates() - before
    assert begun <= CONCURRENCY, f"{begun} creates began after the signal"
    count = campaign.count(result, campaign.vault_dir)
    assert count.holds and not count.lost and count.handed_out < MEMBERS, f"{count}; {count!r}; {run.output}"
    if target == "worker":
        # The parent lives on and gets the result.
        found = campaign.outcomes(result, wanted)
        assert set(found) == {"created", "not_attempted"} and len(found["created"]) == count.sealed
        assert result["failed"] and number.name in result["msg"], result["msg"]

    campaign.hurry()
    again = campaign.outcomes(campaign.finish(play), wanted)
    assert set(again) == {"created", "unchanged"} and len(again["unchanged"]) == count.sealed
    final = campaign.count({}, campaign.vault_dir)
    assert final.holds and final.sealed == MEMBERS and not campaign.exposed()
    print(
        f"signals: {request.node.callspec.id}: {count.handed_out} of {MEMBERS} were made when it ended, {begun} begun after {sent} signals; "
        f"after the rerun {final}; seed {seed}"
    )


def test_a_signal_ends_a_loop_too(campaigns):
    campaign = campaigns(latency_ms_by_operation={"b2_create_group_member": LATENCY_MS})
    wanted = campaign.addresses(12)
    play = campaign.play(wanted)
    [only] = json.loads(play.read_text())
    provision = only["tasks"][0]
    provision["community.backblaze.b2_group_member"] = {"group_name": "hosting", "email": "{{ item }}", "vault_dir": "host_vars"}
    del provision["community.backblaze.b2_group_members"]
    play.write_text(json.dumps([{**only, "tasks": [{**provision, "loop": wanted}, only["tasks"][1]]}]))
    run = campaign.start(play)
    assert run.watch(lambda: campaign.creates() >= 3), run.output

    strike(run.worker(), signal.SIGTERM, "once")
    items = run.end()["results"]

    made = [one["item"] for one in items if not one.get("failed")]
    assert 2 <= len(made) <= 4 and made == wanted[: len(made)], "items were begun after the signal"
    assert all("asked to stop" in one["msg"] and not one["changed"] for one in items[len(made) :]), items
    count = campaign.count({}, campaign.vault_dir)
    assert count.holds and count.sealed == len(made)
    print(f"signals: in a loop: {len(made)} of {len(wanted)} items done: {count}")


def test_the_timeout_of_the_task_ends_the_run_with_its_report(campaigns):
    """Ansible raises an error in the task's main thread then, with which the names of all that was made would be gone."""
    campaign = campaigns(latency_ms_by_operation={"b2_create_group_member": LATENCY_MS})
    wanted = campaign.addresses(MEMBERS)
    play = campaign.play(wanted, concurrency=1)
    [only] = json.loads(play.read_text())
    only["tasks"][0]["timeout"] = 3
    play.write_text(json.dumps([only]))

    result = campaign.finish(play)

    found = campaign.outcomes(result, wanted)
    count = campaign.count(result, campaign.vault_dir)
    assert set(found) == {"created", "not_attempted"} and len(found["created"]) == count.sealed == campaign.creates() < MEMBERS
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
