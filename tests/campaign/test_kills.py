# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Kill -9 at any moment, and again in the rerun: each key that was handed out is sealed, or its member is named
key_lost."""

from __future__ import annotations

import itertools
import json
import os
import signal
import time

from conftest import CREATE, under_way

CONCURRENCY = 8
SHORT_KILLS, LONG_KILLS = 10, 200
#: Then a new Group begins, so that no run spends its time on reading thousands of files.
KILLS_PER_GROUP = 25
#: What a kill is aimed at; aimed ones are the more telling.
MOMENTS = ("any", "create", "create", "seal")


def _aim(campaign, run, moment, usual, new, chance):
    """Wait for the moment of a kill; the run may end before it comes."""
    if moment == "any":
        time.sleep(chance.uniform(0, usual))
        return
    if moment == "create":
        goal = campaign.creates() + chance.randint(1, max(1, new * 2 // 3))
        run.watch(lambda: campaign.creates() >= goal)
    else:
        goal = len(list(campaign.vault_dir.glob("*@*"))) + chance.randint(1, max(1, new * 2 // 3))
        run.watch(lambda: len(list(campaign.vault_dir.glob("*@*"))) >= goal)
    time.sleep(chance.uniform(0, 0.02))


def test_a_kill_at_any_moment_loses_no_key_silently(campaigns, chance, seed, long_form):
    wanted_kills = LONG_KILLS if long_form else SHORT_KILLS
    kills = members = handed_out = sealed = lost = recovered = 0
    for number in itertools.count():
        campaign = campaigns(f"group{number}", latency_ms=10)
        usual, wanted, kills_here = 1.5, [], 0
        while kills < wanted_kills and kills_here < KILLS_PER_GROUP:
            new = chance.randint(8, 28)
            wanted += campaign.addresses(new, len(wanted))
            campaign.server.settings(latency_ms_by_operation={"b2_create_group_member": chance.choice((5, 30, 30, 80))})
            play = campaign.play(wanted, on_key_missing="warn", concurrency=CONCURRENCY, report_file="report.json")
            report = campaign.directory / "report.json"
            for _again in range(chance.choice((1, 1, 1, 2, 3))):
                run = campaign.start(play)
                _aim(campaign, run, chance.choice(MOMENTS), usual, new, chance)
                hit = run.kill()
                kills, kills_here = kills + hit, kills_here + hit
                # There is no report yet, or a whole one, of this run or of an earlier one.
                assert not report.exists() or json.loads(report.read_text())["members"]

            last = campaign.start(play)
            result = last.end()
            usual = time.monotonic() - last.started
            found = campaign.outcomes(result, wanted)
            assert set(found) <= {"created", "unchanged", "key_lost"}, f"seed {seed}: {result['msg']}"
            assert json.loads(report.read_text())["counts"] == result["counts"]
            assert not list(campaign.directory.glob(".report*")), "a part of a report is left"
            count = campaign.count(result, campaign.vault_dir, campaign.fallback)
            assert count.holds and count.handed_out == len(wanted), (
                f"seed {seed}, after {kills} kills: {count}; {count!r}"
            )
            # Only what was under way at a kill can be lost.
            assert len(count.lost) <= under_way(CONCURRENCY) * kills_here, (
                f"seed {seed}: {len(count.lost)} lost by {kills_here} kills"
            )
            # Each lost member is also named, with its account, to a user who does not ask for all members.
            accounts = {one["email"]: one["account_id"] for one in campaign.server.ledger()}
            said = campaign.shown(result)
            assert all(email in said and accounts[email] in said for email in count.lost), said
            recovered += sum("A run was killed before the key of" in note for note in result.get("warnings", ()))
        assert not campaign.exposed()
        assert not list(campaign.fallback.glob("*")), (
            "a key is in the fallback directory, although the vault directory was writable"
        )
        members, handed_out = members + len(wanted), handed_out + count.handed_out
        sealed, lost = sealed + count.sealed, lost + len(count.lost)
        if kills >= wanted_kills:
            break
    print(
        f"kills: {kills} kills over {members} members; {handed_out} handed out = {sealed} sealed + {lost} reported "
        "lost; "
        f"0 silent, 0 undecryptable, 0 doubled; {recovered} keys recovered from temporary files; seed {seed}"
    )


#: What befalls the answers to creates, each with its share of them.
ODD_ANSWERS = (
    (0.15, {"kind": "interim", "statuses": [103], "seconds": 0.02}),
    (0.1, {"kind": "early", "seconds": 0.02}),
    (0.1, {"kind": "early", "status": 204, "seconds": 0.02}),
    (0.1, {"kind": "foreign"}),
    (0.1, {"kind": "foreign", "place": "before"}),
    (0.1, {"kind": "foreign", "parts": ["applicationKeyId"]}),
    (0.1, {"kind": "truncate", "fraction": 0.8}),
    (0.1, {"kind": "error", "status": 429, "code": "too_many_requests", "execute": True}),
    (0.1, {"kind": "error", "status": 401, "code": "expired_auth_token", "execute": True}),
)


def test_a_kill_while_answers_are_odd_gives_nobody_another_members_key(campaigns, chance, seed, long_form):
    """Kill the run between the answer, the sealing, the trial and the move of a key to its vault file."""
    wanted_kills = LONG_KILLS // 2 if long_form else SHORT_KILLS // 2
    campaign, wanted, kills = campaigns(latency_ms=10), [], 0
    while kills < wanted_kills:
        new = chance.randint(8, 28)
        wanted += campaign.addresses(new, len(wanted))
        play = campaign.play(wanted, on_key_missing="warn", concurrency=CONCURRENCY)
        campaign.server.faults(
            [
                {"operation": CREATE, "times": None, "probability": share, "action": action}
                for share, action in ODD_ANSWERS
            ]
        )
        for _again in range(chance.choice((1, 1, 2))):
            run = campaign.start(play)
            _aim(campaign, run, chance.choice(MOMENTS), 1.5, new, chance)
            kills += run.kill()
        campaign.finish(play)
        campaign.server.faults([])
        result = campaign.finish(play)
        found = campaign.outcomes(result, wanted)
        assert set(found) <= {"created", "unchanged", "key_lost"}, f"seed {seed}: {result['msg']}"
        count = campaign.count(result, campaign.vault_dir, campaign.fallback)
        assert not (count.silent or count.wrongly_lost or count.undecryptable or count.doubled), (
            f"seed {seed}: {count!r}"
        )
        # Each key is in the vault file of its owner, also the tried keys of other accounts in the Group.
        everybodys = {one["key"]: one["email"] for one in campaign.server.ledger()}
        in_place = campaign.keys_in_place()
        assert all(everybodys.get(key) == email for email, key in in_place.items()), f"seed {seed}: {count!r}"
        # A key in a file beside a vault file is another account's, or is in the vault file too, or has a wrong id and
        # opens no account.
        own = {one["key"]: one["email"] for one in campaign.server.ledger() if one["operation"] == CREATE}
        unproven = own.keys() & set(campaign.keys_beside()) - set(in_place.values())
        assert {own[key] for key in unproven} <= set(count.lost), f"seed {seed}: {count!r}"
    foreign = {*campaign.keys_beside(), *in_place.values()} - own.keys()
    assert foreign and not campaign.exposed()
    sealed = len(own.keys() & set(in_place.values()))
    print(
        f"kills, odd answers: {kills} kills over {len(wanted)} members; {count.handed_out} handed out = {sealed} "
        f"sealed + {len(count.lost)} "
        f"reported lost; 0 silent, 0 of another member, {len(foreign)} of other accounts kept; seed {seed}"
    )


def test_a_lost_key_is_told_by_the_first_run_that_comes_to_its_end(campaigns):
    """Runs that found out and were killed have told nobody, whatever they wrote into the journal."""
    campaign = campaigns(latency_ms=10)
    lost, *others, slow = campaign.addresses(6)
    hanging = {"operation": CREATE, "email": slow, "times": None, "action": {"kind": "hang_before", "seconds": 60}}
    campaign.server.faults([{"operation": CREATE, "email": lost, "action": {"kind": "cut_after"}}, hanging])
    play = campaign.play([lost, *others, slow], on_key_missing="warn", api_timeout=60)
    for goal in (6, 7):
        run = campaign.start(play)
        assert run.watch(lambda goal=goal: campaign.creates() >= goal), run.output
        journals = list(campaign.vault_dir.glob(".b2_members/*/journal.jsonl"))
        assert run.watch(lambda journals=journals: any('"lost"' in path.read_text() for path in journals)), run.output
        assert run.kill()
    assert journals and '"told"' not in "".join(path.read_text() for path in journals)
    campaign.server.faults([])
    told = []
    for _run in range(2):
        # Also where nobody asks for that address any more.
        result = campaign.finish(campaign.play(others, on_key_missing="warn"))
        told.append(bool(result.get("failed")) and lost in result["msg"])
    assert told == [True, False]
    print("kills: a lost key is told by the first run that comes to its end, after two that were killed, and once")


def test_a_create_that_takes_effect_after_the_next_run_looked_is_lost_by_name(campaigns):
    campaign = campaigns(latency_ms_by_operation={"b2_create_group_member": 12_000})
    late, *others = wanted = campaign.addresses(24)
    first = campaign.start(campaign.play([late]))
    assert first.watch(lambda: campaign.creates() == 1), first.output
    assert first.kill()
    # Half of its time goes by before the create takes effect: meanwhile a run looks, and is ended before it comes to
    # that address.
    campaign.server.settings(latency_ms_by_operation={"b2_create_group_member": 300})
    second = campaign.start(campaign.play([*others, late], concurrency=1))
    assert second.watch(lambda: campaign.creates() > 1), second.output
    assert late not in {one["email"] for one in campaign.server.ledger()}, "this machine is too slow for this test"
    os.kill(second.worker(), signal.SIGTERM)
    second.end()
    # It is the last of its list.
    assert "because it received SIGTERM" in second.output and "not_attempted: " in second.output, second.output
    deadline = time.monotonic() + 30
    while late not in {one["email"] for one in campaign.server.ledger()}:
        assert time.monotonic() < deadline
        time.sleep(0.1)

    result = campaign.finish(campaign.play(wanted))

    assert campaign.outcomes(result, wanted).get("key_lost") == [late], result["msg"]
    count = campaign.count(result, campaign.vault_dir)
    assert count.holds and count.lost == [late] and count.handed_out == len(wanted), repr(count)
    print(f"kills: a create that took effect late: {count}")
