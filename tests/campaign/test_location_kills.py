# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Disturb runs whose vault directory is on a host or in a Git repository: kill -9 and the loss of the machine, a
location that fails, two runs at once."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time

import pytest

from conftest import MARK, PATIENCE, under_way  # first: it makes what follows importable

import locations  # isort: skip

CONCURRENCY = 8
SHORT_KILLS, LONG_KILLS = 4, 40
LATENCY_MS = 150
#: A run on a machine that has other things to do, and a message a second.
LONG = 4 * PATIENCE


class Trial:
    """A campaign, and the location of its vault directory."""

    def __init__(self, campaign, location):
        self.campaign = campaign
        self.location = location

    def play(self, wanted, name="play.yml", **options):
        return locations.play(
            self.campaign,
            wanted,
            name,
            hosts=self.location.hosts,
            **{"concurrency": CONCURRENCY, "return_members": "always", **self.location.options, **options},
        )

    def start(self, play, *arguments):
        return self.campaign.start(play, *self.location.arguments, *arguments, **self.location.apart(MARK))

    def finish(self, play):
        run = self.start(play)
        result = run.end(LONG)
        assert result, run.output
        return result

    def count(self, result):
        with self.location.keys() as directory:
            return self.campaign.count(result, directory, self.campaign.fallback)

    def throw_away(self):
        """What a run had on the controller goes with its machine."""
        shutil.rmtree(self.campaign.directory / "tmp", ignore_errors=True)


@pytest.fixture(params=["target", "git"])
def trials(request, campaigns, tmp_path):
    """Make trials; the settings given are the stand-in's."""

    def make(**settings):
        campaign = campaigns(**settings)
        if request.param == "git":
            return Trial(campaign, locations.GitLocation(tmp_path))
        host = request.getfixturevalue("host").location(campaign.directory)
        return Trial(campaign, host)

    return make


@pytest.fixture
def host(tmp_path):
    with locations.Host(tmp_path / "host").up() as running:
        yield running


def test_a_kill_at_any_moment_with_the_machine_gone_loses_no_key_silently(trials, chance, seed, long_form):
    trial = trials(latency_ms=10)
    campaign, location = trial.campaign, trial.location
    wanted, kills, lost_before, goal = [], 0, 0, LONG_KILLS if long_form else SHORT_KILLS
    while kills < goal:
        wanted += campaign.addresses(chance.randint(8, 16), len(wanted))
        play = trial.play(wanted, on_key_missing="warn")
        run = trial.start(play)
        moment = chance.choice(("any", "create", "create", "seal"))
        if moment == "any":
            time.sleep(chance.uniform(1, 12 if location.kind == "target" else 5))
        else:
            progress = campaign.creates if moment == "create" else location.sealed
            aim = progress() + chance.randint(1, 6)
            run.watch(lambda progress=progress, aim=aim: progress() >= aim, pause=0.05)
            time.sleep(chance.uniform(0, 0.3))
        hit = run.kill()
        kills += hit
        trial.throw_away()

        result = trial.finish(play)

        found = campaign.outcomes(result, wanted)
        assert set(found) <= {"created", "unchanged", "key_lost"}, f"seed {seed}: {result['msg']}"
        count = trial.count(result)
        assert count.holds and count.handed_out == len(wanted), f"seed {seed}, after {kills} kills: {count!r}"
        assert len(count.lost) - lost_before <= under_way(CONCURRENCY), f"seed {seed}: {count!r}"
        lost_before = len(count.lost)
        accounts = {one["email"]: one["account_id"] for one in campaign.server.ledger()}
        said = campaign.shown(result)
        assert all(email in said and accounts[email] in said for email in count.lost), said
        assert not campaign.exposed()
    print(f"locations: {location.kind}: {kills} kills, each with its machine thrown away: {count}; seed {seed}")


def test_a_stopped_run_whose_location_fails_keeps_its_keys(trials):
    """What Ansible shows of each message fills a queue that nobody reads any more; the keys are in memory only then."""
    trial = trials(latency_ms_by_operation={"b2_create_group_member": 600_000})
    campaign, location = trial.campaign, trial.location
    wanted = campaign.addresses(40)
    play = trial.play(wanted, api_timeout=900)
    run = trial.start(play, "-vvv")
    assert run.watch(lambda: campaign.creates() >= CONCURRENCY, pause=0.05), run.output

    os.kill(run.process.pid, signal.SIGTERM)
    location.fail()
    campaign.hurry()
    run.end(LONG)

    location.mend()
    count = campaign.count({}, campaign.fallback)
    assert count.holds and count.sealed == CONCURRENCY, f"{count!r}; {run.output[-5000:]}"
    assert set(campaign.outcomes(trial.finish(play), wanted)) == {"created", "unchanged"}
    print(f"locations: {location.kind}: SIGTERM, and the location fails: {count}")


def test_check_mode_and_the_audit_name_the_run_that_is_under_way(trials):
    trial = trials(latency_ms_by_operation={"b2_create_group_member": 1500})
    campaign, location = trial.campaign, trial.location
    wanted = campaign.addresses(24)
    first = trial.start(trial.play(wanted, "first.yml", concurrency=4, api_timeout=900))
    assert first.watch(lambda: campaign.creates() > 4, pause=0.05), first.output
    # Nothing more is created before the test lets it.
    campaign.server.settings(latency_ms_by_operation={"b2_create_group_member": 600_000})

    looked = campaign.start(trial.play(wanted, "look.yml"), *location.arguments, "--check").end(LONG)
    audit = trial.play(["nobody@customers.example.com"], "audit.yml")
    [play] = json.loads(audit.read_text())
    task = play["tasks"][0]
    del task["community.backblaze.b2_group_members"]
    task["community.backblaze.b2_group_member_info"] = {"group_name": "hosting", **location.options}
    audit.write_text(json.dumps([play]))
    audited = trial.finish(audit)

    assert first.alive and campaign.creates() < len(wanted)
    found = campaign.outcomes(looked, wanted)
    assert "not_attempted" in found and set(found) <= {"unchanged", "not_attempted", "created"}, looked
    assert f"A run is under way: process {first.worker()} on " in looked["warnings"][0] and looked["settled"] == []
    assert {name for name, entries in audited["audit"].items() if entries} <= {"not_attempted"}, audited
    campaign.hurry()
    assert campaign.outcomes(first.end(LONG), wanted) == {"created": wanted}


def test_a_run_waits_for_a_location_that_fails_for_a_moment(trials):
    trial = trials(latency_ms_by_operation={"b2_create_group_member": LATENCY_MS})
    campaign, location = trial.campaign, trial.location
    wanted = campaign.addresses(24)
    run = trial.start(trial.play(wanted))
    assert run.watch(lambda: campaign.creates() >= 4, pause=0.05), run.output
    location.fail()
    time.sleep(4)
    during = campaign.creates()
    time.sleep(1.5)
    assert campaign.creates() == during < len(wanted), "members were created while no key could be stored"
    location.mend()
    result = run.end(LONG)

    found = campaign.outcomes(result, wanted)
    assert set(found) <= {"created", "not_attempted"}, result["msg"]
    count = trial.count(result)
    assert count.holds and not count.lost, repr(count)
    result = trial.finish(trial.play(wanted))
    assert set(campaign.outcomes(result, wanted)) <= {"created", "unchanged"}, result["msg"]
    count = trial.count(result)
    assert count.holds and count.sealed == len(wanted) and not count.lost, repr(count)
    print(f"locations: {location.kind}: nothing taken for 5 s, {during} made before: {count}")


def test_a_location_that_fails_to_the_end_sends_keys_to_the_fallback_directory(trials):
    trial = trials(latency_ms_by_operation={"b2_create_group_member": 1000})
    campaign, location = trial.campaign, trial.location
    wanted = campaign.addresses(24)
    play = trial.play(wanted)
    run = trial.start(play)
    assert run.watch(lambda: campaign.creates() >= 4, pause=0.05), run.output
    location.fail()
    result = run.end(LONG)

    found = campaign.outcomes(result, wanted)
    assert set(found) == {"created", "not_attempted"}, result["msg"]
    away = {
        one["email"]: one["path"] for one in result["members"] if (one["path"] or "").startswith(str(campaign.fallback))
    }
    assert 1 <= len(away) <= under_way(CONCURRENCY)
    # One warning has the reason for all of them, and names the first ten with their paths.
    [warning] = [text for text in result["warnings"] if "did not take the key" in text]
    assert all(part in warning for part in location.name.split(":", 1)), warning
    named = [email for email, path in away.items() if email in warning and path in warning]
    assert len(named) == min(10, len(away)), warning
    assert "b2_vault_" not in json.dumps(result), "the path of a copy that is gone is of no use to anybody"
    location.mend()
    held = trial.count(result)
    assert held.holds and not held.lost, repr(held)

    campaign.hurry()
    result = trial.finish(play)

    found = campaign.outcomes(result, wanted)
    assert set(found) == {"created", "unchanged"} and set(away) <= set(found["unchanged"]), result["msg"]
    count = trial.count(result)
    assert count.holds and count.sealed == len(wanted) and not list(campaign.fallback.iterdir()), repr(count)
    print(
        f"locations: {location.kind}: nothing taken to the end: {held.handed_out} made, {len(away)} in the "
        f"fallback directory; after the rerun {count}"
    )


def test_two_runs_in_one_location_wait_or_name_the_holder(trials):
    trial = trials(latency_ms_by_operation={"b2_create_group_member": 2500})
    campaign, location = trial.campaign, trial.location
    wanted = campaign.addresses(12)
    first = trial.start(trial.play(wanted, "first.yml", concurrency=2))
    assert first.watch(lambda: campaign.creates() > 0, pause=0.05), first.output
    running = first.pids()
    hasty = trial.start(trial.play(campaign.addresses(2, 50), "hasty.yml", vault_lock_timeout=0.5))
    result = hasty.end(LONG)
    assert first.alive, "the first run ended too early to hold anything"
    assert result["failed"] and location.name in result["msg"] and "members" not in result, result["msg"]
    holder = re.search(r"Another run works on Group .* process (\d+) on ", result["msg"])
    assert holder and int(holder[1]) in running, result["msg"]
    second = trial.start(trial.play(wanted, "second.yml", vault_lock_timeout=LONG))
    assert second.watch(lambda: bool(second.worker()), pause=0.05), second.output
    campaign.hurry()

    assert campaign.outcomes(first.end(LONG), wanted) == {"created": wanted}
    result = second.end(LONG)

    assert campaign.outcomes(result, wanted) == {"unchanged": wanted} and not result["changed"], result
    count = trial.count(result)
    assert count.holds and count.sealed == len(wanted) == campaign.creates(), repr(count)
    print(f"locations: {location.kind}: one named the holder, one waited: {count}")


def test_a_lease_that_nobody_keeps_is_taken_over_with_a_note(trials):
    trial = trials(latency_ms_by_operation={"b2_create_group_member": 2000})
    campaign, location = trial.campaign, trial.location
    wanted = campaign.addresses(4)
    play = trial.play(wanted, on_key_missing="warn", vault_lock_timeout=1)
    run = trial.start(play)
    assert run.watch(lambda: campaign.creates() > 0, pause=0.05), run.output
    assert run.kill()
    trial.throw_away()
    campaign.hurry()
    # As if it had run in a container of its own: this machine cannot tell whether it is gone.
    location.from_another_machine(60)
    result = trial.finish(play)
    assert result["failed"] and "Another run works on Group" in result["msg"] and "after 10 minutes" in result["msg"], (
        result["msg"]
    )
    location.from_another_machine(601)
    result = trial.finish(play)
    assert any("was taken over from process" in note and location.name in note for note in result["warnings"]), result
    count = trial.count(result)
    assert count.holds and count.handed_out == len(wanted), repr(count)
    print(f"locations: {location.kind}: a lease of 10 minutes ago was taken over: {count}")
