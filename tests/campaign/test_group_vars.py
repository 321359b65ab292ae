# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""All keys of a Group in one file: killed in the middle of its writes, out of room, and moved from one layout to the
other and killed there."""

from __future__ import annotations

import contextlib
import json
import time

import pytest
import yaml
from ansible.parsing.vault import VaultLib, VaultSecret

from ansible_collections.community.backblaze.plugins.plugin_utils._stores.key_file import group_text
from conftest import fill, mount, under_way, unmount

CONCURRENCY = 8
SHORT_KILLS, LONG_KILLS = 8, 100
KILLS_PER_GROUP = 20
MOVED = 200


def _vault(campaign):
    return VaultLib([("default", VaultSecret(campaign.password.encode()))])


def _file(campaign):
    (group,) = {group["id"] for group in campaign.server.state()["groups"]}
    return campaign.vault_dir / f"b2_group_{group}" / "b2_vault.yml"


def _play(campaign, wanted, **options):
    return campaign.play(
        wanted, vault_dir=str(campaign.vault_dir), vault_layout="group_vars", concurrency=CONCURRENCY, **options
    )


def _size(path):
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_size
    return -1


def _aim(campaign, run, file, new, chance):
    """Wait for the moment of a kill: any, or some time after a create, or in the middle of a write. The run may end
    before it comes."""
    moment = chance.choice(("any", "create", "write", "write"))
    if moment == "any":
        time.sleep(chance.uniform(0, 1.5))
        return
    goal = campaign.creates() + chance.randint(1, max(1, new * 2 // 3))
    run.watch(lambda: campaign.creates() >= goal)
    if moment == "create":
        time.sleep(chance.uniform(0, 0.02))
        return
    # A write begins with a temporary file, which gets its name when it is whole and on disk.
    whole = chance.choice((0, file.stat().st_size, file.stat().st_size))
    run.watch(lambda: any(_size(path) >= whole for path in file.parent.glob(".*.tmp")))


def test_a_kill_in_the_middle_of_a_write_loses_no_key_silently(campaigns, chance, seed, long_form):
    wanted_kills = LONG_KILLS if long_form else SHORT_KILLS
    kills = members = sealed = lost = recovered = 0
    while kills < wanted_kills:
        campaign = campaigns(f"group{kills}", latency_ms=10)
        campaign.vault_dir = campaign.directory / "group_vars"
        file, wanted, kills_here = _file(campaign), [], 0
        file.parent.mkdir(parents=True)
        file.write_bytes(_vault(campaign).encrypt(group_text([])))
        while kills < wanted_kills and kills_here < KILLS_PER_GROUP:
            new = chance.randint(12, 40)
            wanted += campaign.addresses(new, len(wanted))
            campaign.server.settings(latency_ms_by_operation={"b2_create_group_member": chance.choice((5, 30, 80))})
            play = _play(campaign, wanted, on_key_missing="warn")
            for _again in range(chance.choice((1, 1, 2))):
                run = campaign.start(play)
                _aim(campaign, run, file, new, chance)
                hit = run.kill()
                kills, kills_here = kills + hit, kills_here + hit
            result = campaign.finish(play)
            found = campaign.outcomes(result, wanted)
            assert set(found) <= {"created", "unchanged", "key_lost"}, f"seed {seed}: {result['msg']}"
            count = campaign.count(result, campaign.vault_dir, campaign.fallback)
            assert count.holds and count.handed_out == len(wanted), (
                f"seed {seed}, after {kills} kills: {count}; {count!r}"
            )
            assert len(count.lost) <= under_way(CONCURRENCY) * kills_here, (
                f"seed {seed}: {len(count.lost)} lost by {kills_here} kills"
            )
            said = campaign.shown(result)
            assert all(email in said for email in count.lost), said
            recovered += sum("A run was killed before the key of" in note for note in result.get("warnings", ()))
        held = yaml.load(
            _vault(campaign).decrypt(file.read_bytes()), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        )
        assert set(held) == {"b2_member_keys"}
        assert not campaign.exposed()
        members, sealed, lost = members + len(wanted), sealed + count.sealed, lost + len(count.lost)
    print(
        f"group_vars: {kills} kills over {members} members; {members} handed out = {sealed} sealed + {lost} "
        "reported lost; "
        f"0 silent, 0 undecryptable, 0 doubled; {recovered} keys recovered from temporary files; seed {seed}"
    )


@pytest.mark.mounts
def test_a_full_disk_sends_keys_to_the_fallback_directory(campaigns):
    campaign = campaigns(latency_ms_by_operation={"b2_create_group_member": 150})
    disk = campaign.directory / "disk"
    mount(disk, "size=4m")
    campaign.vault_dir = disk / "group_vars"
    wanted = campaign.addresses(80)
    play = _play(campaign, wanted)

    run = campaign.start(play)
    assert run.watch(lambda: campaign.creates() > under_way(CONCURRENCY)), run.output
    ballast = fill(disk)
    result = run.end()

    found = campaign.outcomes(result, wanted)
    assert set(found) == {"created", "not_attempted"}, result["msg"]
    held = campaign.count(result, campaign.vault_dir, campaign.fallback)
    away = [one["email"] for one in result["members"] if (one["path"] or "").startswith(str(campaign.fallback))]
    assert held.holds and not held.lost and 1 <= len(away) <= under_way(CONCURRENCY), repr(held)
    ballast.unlink()
    campaign.hurry()
    result = campaign.finish(play)
    assert set(campaign.outcomes(result, wanted)) <= {"created", "unchanged"}, result["msg"]
    count = campaign.count(result, campaign.vault_dir, campaign.fallback)
    assert count.holds and count.sealed == len(wanted) and not list(campaign.fallback.iterdir()), repr(count)
    assert not campaign.exposed()
    unmount(disk)
    print(
        f"storage: full disk, one file: {held.handed_out} made, {len(away)} of their keys in the fallback directory; "
        f"after the rerun {count}"
    )


def _moving(campaign, source, target, layout):
    """Write a play that moves keys; its result is read as that of any other."""
    path = campaign.play([], f"to_{layout}.yml")
    play = json.loads(path.read_text())
    play[0]["tasks"][0] = {
        "name": "Move",
        "community.backblaze.b2_vault_layout": {
            "vault_dir": str(source),
            "dest_dir": str(target),
            "vault_layout": layout,
        },
        "register": "provisioned",
        "ignore_errors": True,
    }
    path.write_text(json.dumps(play))
    return path


def _variables(campaign, directory):
    """Return the variables of every key in a directory, whatever the layout."""
    found = {}
    for path in directory.glob("*/b2_vault.yml"):
        variables = yaml.safe_load(_vault(campaign).decrypt(path.read_bytes()))
        entries = variables.get("b2_member_keys", {path.parent.name: variables})
        assert not set(entries) & set(found), "doubled"
        # In a file for many the address is what stands before the variables.
        found.update({email: {"b2_email": email, **each} for email, each in entries.items()})
    return found


def test_a_move_there_and_back_loses_nothing_though_it_is_killed(campaigns, chance, seed):
    campaign = campaigns()
    wanted = campaign.addresses(MOVED)
    result = campaign.finish(campaign.play(wanted, concurrency=32))
    assert result["counts"] == {"created": MOVED}, result["msg"]
    own, shared = campaign.vault_dir, campaign.directory / "group_vars"
    shared.mkdir()
    before = _variables(campaign, own)
    assert len(before) == MOVED
    kills = 0
    for source, target, layout in ((own, shared, "group_vars"), (shared, own, "host_vars")):
        play = _moving(campaign, source, target, layout)
        for _kill in range(2):
            run = campaign.start(play)
            # In the middle: there are so many files of their own, more with each step or fewer.
            goal = chance.randint(1, MOVED - 1)
            grows = own == target
            run.watch(lambda goal=goal, grows=grows: (len(list(own.glob("*@*/b2_vault.yml"))) >= goal) == grows)
            kills += run.kill()
            assert {**_variables(campaign, own), **_variables(campaign, shared)} == before
        result = campaign.finish(play)
        assert not result.get("failed"), result["msg"]
        assert _variables(campaign, target) == before and _variables(campaign, source) == {}
        assert not campaign.finish(play)["changed"]
    assert campaign.outcomes(campaign.finish(campaign.play(wanted, verify_keys=True)), wanted) == {"unchanged": wanted}
    count = campaign.count({}, own, shared)
    assert count.holds and count.sealed == MOVED and not campaign.exposed(), repr(count)
    print(f"group_vars: {MOVED} keys moved there and back with {kills} kills: {count}; seed {seed}")
