# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Two runs at the same time, on one vault_dir and on two."""

from __future__ import annotations

import json
import time

import pytest

MEMBERS = 24
# No create is done before the test lets it (Campaign.hurry), however busy the machine is; the runs wait for it.
SLOW = {"b2_create_group_member": 600_000}
PATIENT = {"api_timeout": 900}


@pytest.mark.parametrize("layout", ["host_vars", "group_vars"])
def test_check_mode_and_the_audit_name_the_run_that_is_under_way(campaigns, layout):
    """They take no lock, and called the members of that run key_lost, and advised to eject them."""
    campaign = campaigns(latency_ms_by_operation={"b2_create_group_member": 1500})
    campaign.vault_dir = campaign.directory / {"host_vars": "host_vars", "group_vars": "group_vars"}[layout]
    options = {"vault_dir": str(campaign.vault_dir), "vault_layout": layout}
    wanted = campaign.addresses(MEMBERS)
    first = campaign.start(campaign.play(wanted, "first.yml", concurrency=4, **options, **PATIENT))
    # Some keys are stored, and the next members are being created.
    assert first.watch(lambda: campaign.creates() > 4, pause=0.05), first.output
    campaign.server.settings(latency_ms_by_operation=SLOW)
    run = f"A run is under way: process {first.worker()} on "

    looked = campaign.start(campaign.play(wanted, "look.yml", **options), "--check").end()
    audited = campaign.finish(audit(campaign, options))

    assert first.alive and campaign.creates() < MEMBERS, "the first run ended too early to be under way"
    found = campaign.outcomes(looked, wanted)
    assert set(found) == {"unchanged", "not_attempted", "created"} and 1 <= len(found["not_attempted"]) <= 8, looked
    assert all("A run is under way" in one["message"] for one in looked["members"] if one["outcome"] == "not_attempted")
    assert looked["settled"] == [] and run in looked["warnings"][0]
    amiss = {name: [one["email"] for one in entries] for name, entries in audited["audit"].items() if entries}
    assert set(amiss) <= {"not_attempted"} and len(amiss.get("not_attempted", ())) <= 8, audited
    campaign.hurry()
    assert campaign.outcomes(first.end(), wanted) == {"created": wanted}
    again = campaign.start(campaign.play(wanted, "look.yml", **options), "--check").end()
    assert campaign.outcomes(again, wanted) == {"unchanged": wanted} and "warnings" not in again


def audit(campaign, options):
    """Write a play that audits, and keeps its result."""
    path = campaign.play(["nobody@customers.example.com"], "audit.yml")
    [play] = json.loads(path.read_text())
    task = play["tasks"][0]
    del task["community.backblaze.b2_group_members"]
    task["community.backblaze.b2_group_member_info"] = {"group_name": "hosting", **options}
    path.write_text(json.dumps([play]))
    return path


@pytest.mark.parametrize("layout", ["host_vars", "group_vars"])
def test_the_second_run_on_a_directory_waits_and_finds_nothing_to_do(campaigns, layout):
    campaign = campaigns(latency_ms_by_operation=SLOW)
    campaign.vault_dir = campaign.directory / {"host_vars": "host_vars", "group_vars": "group_vars"}[layout]
    options = {"vault_dir": str(campaign.vault_dir), "vault_layout": layout, "concurrency": 2, **PATIENT}
    wanted = campaign.addresses(MEMBERS)
    first = campaign.start(campaign.play(wanted, "first.yml", **options))
    assert first.watch(lambda: campaign.creates() > 0), first.output
    second = campaign.start(campaign.play(wanted, "second.yml", **options))
    # The Group is looked up before the lock is taken, and its members are listed under it.
    assert second.watch(lambda: campaign.calls("b2_list_groups") == 2), second.output
    time.sleep(1)
    assert first.alive and second.alive and campaign.creates() < MEMBERS, (
        "the first run ended too early to hold anything"
    )
    assert campaign.calls("b2_authorize_account") == 2 and campaign.calls("b2_list_group_members") == 1, (
        "the second run did not wait"
    )
    campaign.hurry()

    assert campaign.outcomes(first.end(), wanted) == {"created": wanted}
    result = second.end()

    assert campaign.outcomes(result, wanted) == {"unchanged": wanted} and not result["changed"]
    assert "b2_create_group_member" not in result["calls"] and campaign.creates() == MEMBERS
    count = campaign.count(result, campaign.vault_dir)
    assert count.holds and count.sealed == MEMBERS
    print(f"two runs: one directory, {layout}, the second waited: {count}")


def test_a_second_run_that_may_not_wait_names_the_holder_and_creates_nothing(campaigns):
    campaign = campaigns(latency_ms_by_operation=SLOW)
    wanted = campaign.addresses(MEMBERS)
    first = campaign.start(campaign.play(wanted, "first.yml", concurrency=1, **PATIENT))
    assert first.watch(lambda: campaign.creates() > 0), first.output
    holder = first.worker()
    second = campaign.start(campaign.play(campaign.addresses(5, MEMBERS), "second.yml", vault_lock_timeout=0.5))

    result = second.end()

    assert first.alive, "the first run ended too early to hold anything"
    assert result["failed"] and f"process {holder} " in result["msg"] and "members" not in result, result["msg"]
    campaign.hurry()
    done = first.end()
    assert campaign.outcomes(done, wanted) == {"created": wanted} and campaign.creates() == MEMBERS
    count = campaign.count(done, campaign.vault_dir)
    assert count.holds and count.sealed == MEMBERS
    print(f"two runs: one directory, the second gave up and named its holder: {count}")


def test_two_runs_with_two_directories_make_each_member_once(campaigns, chance, seed, long_form):
    for number in range(10 if long_form else 2):
        # Slow enough for both to be at it, however much apart they started.
        campaign = campaigns(
            f"race{number}", latency_ms_by_operation={"b2_create_group_member": chance.choice((100, 200))}
        )
        wanted = campaign.addresses(MEMBERS)
        lists = {name: chance.sample(wanted, MEMBERS) for name in ("a", "b")}
        plays = {
            name: campaign.play(members, f"{name}.yml", vault_dir=name, concurrency=4)
            for name, members in lists.items()
        }
        runs = {name: campaign.start(play) for name, play in plays.items()}
        results = {name: run.end() for name, run in runs.items()}

        found = {name: campaign.outcomes(result, lists[name]) for name, result in results.items()}
        made = {name: set(one.get("created", ())) for name, one in found.items()}
        assert made["a"] | made["b"] == set(wanted) and not made["a"] & made["b"], f"seed {seed}: {results}"
        for name, other in (("a", "b"), ("b", "a")):
            # What the other one made, this one names as a member whose key it does not have.
            missing = set(found[name].get("key_missing", ()))
            assert missing == made[other], results[name]["msg"]
            assert not missing or f"{len(missing)} key_missing" in results[name]["msg"], results[name]["msg"]
        count = campaign.count({}, campaign.directory / "a", campaign.directory / "b")
        assert count.holds and count.sealed == MEMBERS and not campaign.exposed(), f"seed {seed}: {count!r}"
        print(
            f"two runs: two directories: {len(made['a'])} made by one, {len(made['b'])} by the other: {count}; "
            f"seed {seed}"
        )


def test_a_killed_holder_frees_the_lock(campaigns):
    campaign = campaigns(latency_ms_by_operation=SLOW)
    wanted = campaign.addresses(MEMBERS)
    first = campaign.start(campaign.play(wanted, "first.yml", concurrency=4, **PATIENT))
    assert first.watch(lambda: campaign.creates() >= 4), first.output
    second = campaign.start(campaign.play(wanted, "second.yml", concurrency=4, vault_lock_timeout=30))
    assert second.watch(lambda: bool(second.worker())), second.output
    # Time for it to come as far as the lock; what it says of the first run's creates does not hang on it.
    time.sleep(1)
    assert first.kill()
    campaign.hurry()

    result = second.end(25)

    found = campaign.outcomes(result, wanted)
    assert set(found) <= {"created", "unchanged", "key_lost"} and found["created"], result["msg"]
    count = campaign.count(result, campaign.vault_dir)
    assert count.holds and count.handed_out == MEMBERS, repr(count)
    print(f"two runs: the holder was killed, the second went on: {count}")
