# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Fill, remount or remove the vault directory while members are created. No key that was handed out is lost silently.

Each test runs in a mount namespace of its own (see conftest.py), so what it mounts is seen by nobody else and outlives
nothing.
"""

from __future__ import annotations

import pathlib
import shutil
import time

import pytest

from conftest import fill, mount, under_way, unmount

pytestmark = pytest.mark.mounts

MEMBERS = 40
CONCURRENCY = 4
CREATE = "b2_create_group_member"
LATENCY_MS = 150
#: What the delays between the tries to store a key add up to.
STORE_SECONDS = 15.5


def _begin(campaign, play):
    run = campaign.start(play)
    assert run.watch(lambda: campaign.creates() > 2 * CONCURRENCY), run.output
    return run


def _on_a_small_disk(campaigns):
    """Give a campaign whose vault directory is on a disk of its own, the disk, and what is wanted there with its
    play."""
    campaign = campaigns(latency_ms_by_operation={CREATE: LATENCY_MS})
    disk = campaign.directory / "disk"
    mount(disk, "size=4m")
    campaign.vault_dir = disk / "host_vars"
    wanted = campaign.addresses(MEMBERS)
    return campaign, disk, wanted, campaign.play(wanted, vault_dir=str(campaign.vault_dir), concurrency=CONCURRENCY)


def _quiet(campaign, run):
    """Make sure that from a moment after the trouble began to the end of the run no create is begun; return the
    result."""
    time.sleep(3 * LATENCY_MS / 1000)
    during = campaign.creates()
    result = run.end()
    assert campaign.creates() == during, "a member was created while a key was not stored"
    return result


def _check_fallback(campaign, run, result, wanted, fallback, store):
    """Check the result: some keys are in the fallback directory, and the other members were not attempted."""
    found = campaign.outcomes(result, wanted)
    assert set(found) == {"created", "not_attempted"}, result["msg"]
    away = {one["email"]: one for one in result["members"] if (one["path"] or "").startswith(str(fallback))}
    assert 1 <= len(away) <= under_way(CONCURRENCY)
    # One warning has the reason for all of them, and names the first ten with their paths.
    [warning] = [text for text in result["warnings"] if f"{store} did not take the key" in text]
    for one in away.values():
        assert one["account_id"] and pathlib.Path(one["path"]).exists()
        assert one["path"] in one["message"] and str(store) in one["message"], one
    named = [email for email, one in away.items() if email in warning and one["path"] in warning]
    assert len(named) == min(10, len(away)), warning
    assert time.monotonic() - run.started > STORE_SECONDS, "it did not try for as long as it should"
    # Most members were not sent. The journal could not be written for those that were next.
    problems = result["problems"]
    assert result["failed"] and {one["outcome"] for one in problems} == {"not_attempted"}, problems
    assert sum(one["count"] for one in problems) == len(found["not_attempted"]), problems
    return away


def _check_moved(campaign, play, wanted, away, *directories):
    """Check that the next run moves the keys to their vault files, and creates the other members."""
    campaign.hurry()
    result = campaign.finish(play)
    found = campaign.outcomes(result, wanted)
    assert set(found) == {"created", "unchanged"} and set(away) <= set(found["unchanged"]), result["msg"]
    assert all(any(email in note and "was moved" in note for note in result["warnings"]) for email in away)
    count = campaign.count(result, *directories)
    assert count.holds and count.sealed == len(wanted) and not count.lost, repr(count)
    assert not campaign.exposed()
    return count


def test_a_full_disk_sends_keys_to_the_fallback_directory(campaigns):
    campaign, disk, wanted, play = _on_a_small_disk(campaigns)
    run = _begin(campaign, play)
    ballast = fill(disk)
    result = _quiet(campaign, run)

    away = _check_fallback(campaign, run, result, wanted, campaign.fallback, campaign.vault_dir)
    held = campaign.count(result, campaign.vault_dir, campaign.fallback)
    assert held.holds and not held.lost, repr(held)
    ballast.unlink()
    count = _check_moved(campaign, play, wanted, away, campaign.vault_dir, campaign.fallback)
    assert not list(campaign.fallback.iterdir())
    unmount(disk)
    print(
        f"storage: full disk: {held.handed_out} made, {len(away)} of their keys in the fallback directory; after the "
        f"rerun {count}"
    )


def test_a_full_disk_that_gets_room_again_is_only_a_pause_for_its_keys(campaigns):
    campaign, disk, wanted, play = _on_a_small_disk(campaigns)
    run = _begin(campaign, play)
    ballast = fill(disk)
    time.sleep(1.2)
    ballast.unlink()
    result = run.end()

    # The journal may have met the full disk first; then the rest is left to the next run.
    found = campaign.outcomes(result, wanted)
    assert set(found) <= {"created", "not_attempted"}, result["msg"]
    held = campaign.count(result, campaign.vault_dir)
    assert held.holds and not held.lost, repr(held)
    count = _check_again(campaign, play, wanted)
    unmount(disk)
    print(
        f"storage: full disk for a moment: {held.sealed} of {MEMBERS} made and sealed in that run; after the rerun "
        f"{count}"
    )


def _check_again(campaign, play, wanted):
    campaign.hurry()
    result = campaign.finish(play)
    assert set(campaign.outcomes(result, wanted)) <= {"created", "unchanged"}, result["msg"]
    count = campaign.count(result, campaign.vault_dir)
    assert count.holds and count.sealed == len(wanted) and not count.lost, repr(count)
    return count


def test_a_read_only_moment_is_waited_out(campaigns):
    campaign = campaigns(latency_ms_by_operation={CREATE: LATENCY_MS})
    wanted = campaign.addresses(MEMBERS)
    play = campaign.play(wanted, concurrency=CONCURRENCY)

    run = _begin(campaign, play)
    mount(campaign.vault_dir, "ro,size=1m")
    time.sleep(3 * LATENCY_MS / 1000)
    during = campaign.creates()
    time.sleep(1.5)
    assert campaign.creates() == during < MEMBERS, "members were created while a key was not stored"
    unmount(campaign.vault_dir)
    campaign.hurry()
    result = run.end()

    assert campaign.outcomes(result, wanted) == {"created": wanted}, result["msg"]
    count = campaign.count(result, campaign.vault_dir)
    assert count.holds and count.sealed == MEMBERS and not campaign.exposed(), repr(count)
    print(f"storage: read-only for 2 s: {count}")


def test_no_member_is_created_while_one_key_is_not_stored(campaigns):
    campaign = campaigns(latency_ms_by_operation={CREATE: LATENCY_MS})
    wanted = campaign.addresses(MEMBERS)
    one = wanted[12]
    run = campaign.start(campaign.play(wanted, concurrency=CONCURRENCY))
    assert run.watch(lambda: campaign.creates() > 0), run.output
    obstacle = campaign.vault_dir / one
    obstacle.write_text("in the way")
    assert run.watch(lambda: one in {entry["email"] for entry in campaign.server.ledger()}), run.output

    # All others could go on; they are not to.
    time.sleep(3 * LATENCY_MS / 1000)
    during = campaign.creates()
    time.sleep(1.5)
    assert campaign.creates() == during < MEMBERS, "members were created while a key was not stored"
    obstacle.unlink()
    campaign.hurry()
    result = run.end()

    assert campaign.outcomes(result, wanted) == {"created": wanted}, result["msg"]
    count = campaign.count(result, campaign.vault_dir)
    assert count.holds and count.sealed == MEMBERS, repr(count)
    print(f"storage: one key held up: {during} begun meanwhile, and then {count}")


def test_a_directory_that_stays_read_only_sends_keys_to_the_fallback_directory(campaigns):
    campaign = campaigns(latency_ms_by_operation={CREATE: LATENCY_MS})
    fallback = campaign.directory / "elsewhere"
    wanted = campaign.addresses(MEMBERS)
    play = campaign.play(wanted, concurrency=CONCURRENCY, vault_fallback_dir=str(fallback))

    run = _begin(campaign, play)
    mount(campaign.vault_dir, "ro,size=1m")
    result = _quiet(campaign, run)

    away = _check_fallback(campaign, run, result, wanted, fallback, campaign.vault_dir)
    unmount(campaign.vault_dir)
    held = campaign.count(result, campaign.vault_dir, fallback)
    assert held.holds and not held.lost, repr(held)
    count = _check_moved(campaign, play, wanted, away, campaign.vault_dir, fallback)
    print(
        f"storage: read-only to the end: {held.handed_out} made, {len(away)} of them in the fallback directory; after "
        f"the rerun {count}"
    )


def test_a_directory_that_is_moved_away_costs_no_key(campaigns):
    campaign = campaigns(latency_ms_by_operation={CREATE: LATENCY_MS})
    wanted = campaign.addresses(MEMBERS)
    play = campaign.play(wanted, concurrency=CONCURRENCY)

    run = _begin(campaign, play)
    moved = campaign.directory / "moved"
    campaign.vault_dir.rename(moved)
    result = run.end()

    # Where the keys are is for the product to choose, as long as they are somewhere and whole.
    found = campaign.outcomes(result, wanted)
    assert set(found) <= {"created", "not_attempted"}, result["msg"]
    places = [moved, campaign.vault_dir, campaign.fallback]
    held = campaign.count(result, *places)
    assert held.holds and not held.lost and held.sealed == len(found["created"]), repr(held)
    newer = list(campaign.vault_dir.glob("*@*"))
    for path in newer:
        path.rename(moved / path.name)
    if campaign.vault_dir.exists():
        campaign.vault_dir.rename(campaign.directory / "emptied")
    moved.rename(campaign.vault_dir)
    count = _check_again(campaign, play, wanted)
    assert not campaign.exposed()
    print(
        f"storage: moved away: {held.handed_out} made, {len(newer)} of them in a new directory of that name; after "
        f"the rerun {count}"
    )


def test_what_was_removed_with_its_directory_is_missed_and_the_rest_is_kept(campaigns):
    """Somebody removes the directory with all keys in it, for good, while members are created."""
    campaign = campaigns(latency_ms_by_operation={CREATE: LATENCY_MS})
    wanted = campaign.addresses(MEMBERS)
    play = campaign.play(wanted, concurrency=CONCURRENCY, on_key_missing="warn")

    run = _begin(campaign, play)
    # As rm -rf does; what is written meanwhile makes it try again.
    while campaign.vault_dir.exists():
        shutil.rmtree(campaign.vault_dir, ignore_errors=True)
    result = _quiet(campaign, run)

    # Keys that were stored before the removal are gone, which the run cannot know. Every later key is in the fallback
    # directory, or reported as lost.
    found = campaign.outcomes(result, wanted)
    assert set(found) <= {"created", "not_attempted", "key_lost"} and found["not_attempted"], result["msg"]
    kept = campaign.count(result, campaign.fallback)
    assert not campaign.vault_dir.exists(), "the removed directory was recreated"
    gone = [
        one["email"]
        for one in result["members"]
        if one["outcome"] == "created" and one["path"].startswith(str(campaign.vault_dir))
    ]
    away = [
        one["email"]
        for one in result["members"]
        if one["outcome"] == "created" and one["path"].startswith(str(campaign.fallback))
    ]
    assert kept.silent == sorted(gone) and kept.sealed == len(away) and not kept.wrongly_lost, repr(kept)
    assert 1 <= len(away) + len(kept.lost) <= under_way(CONCURRENCY)
    assert result["failed"] and f"{len(found['not_attempted'])} not_attempted" in result["msg"]

    # The next run creates the directory, moves the keys from the fallback directory, and names the members whose keys
    # are not stored.
    campaign.hurry()
    again = campaign.finish(play)
    then = campaign.outcomes(again, wanted)
    assert set(then.get("key_missing", ())) | set(then.get("key_lost", ())) == set(gone) | set(kept.lost), again["msg"]
    assert then.get("unchanged", []) == away and then["created"] == found["not_attempted"]
    said = " ".join([again["msg"], *again.get("warnings", ())])
    assert all(f"{len(then[one])} {one}" in said for one in ("key_missing", "key_lost") if one in then)
    assert any(email in said for email in gone)
    final = campaign.count({}, campaign.vault_dir, campaign.fallback)
    assert final.sealed == MEMBERS - len(gone) - len(kept.lost) and not final.invented and not final.doubled, repr(
        final
    )
    assert campaign.creates() == MEMBERS and not campaign.exposed()
    print(
        f"storage: removed: {kept.handed_out} made, {len(gone)} of their keys removed with it, {len(away)} kept "
        f"in the fallback directory; after the rerun {final}"
    )


def test_a_key_that_no_directory_accepts_is_named_with_its_account(campaigns):
    campaign = campaigns(latency_ms_by_operation={CREATE: LATENCY_MS})
    disk = campaign.directory / "disk"
    mount(disk, "size=4m")
    campaign.vault_dir, fallback = disk / "host_vars", disk / "fallback"
    wanted = campaign.addresses(MEMBERS)
    options = {"vault_dir": str(campaign.vault_dir), "vault_fallback_dir": str(fallback), "concurrency": CONCURRENCY}

    run = _begin(campaign, campaign.play(wanted, **options))
    ballast = fill(disk)
    result = _quiet(campaign, run)

    found = campaign.outcomes(result, wanted)
    assert set(found) == {"created", "not_attempted", "key_lost"}, result["msg"]
    count = campaign.count(result, campaign.vault_dir, fallback)
    assert count.holds and 1 <= len(count.lost) <= under_way(CONCURRENCY), repr(count)
    assert "everything that was created is stored" not in result["msg"], result["msg"]
    lost = [one for one in result["members"] if one["outcome"] == "key_lost"]
    for one in lost:
        for named in (one["account_id"], str(campaign.vault_dir), str(fallback), "No space left"):
            assert named in one["message"], one
    # The message has the count, and the account of each member that it names.
    assert f"{len(lost)} key_lost" in result["msg"]
    named = [one for one in lost if one["email"] in result["msg"]]
    assert named and all(one["account_id"] in result["msg"] for one in named), result["msg"]
    ballast.unlink()
    campaign.hurry()
    # They stay named, even though the full disk may have kept the journal from saying so.
    again = campaign.finish(campaign.play(wanted, **options, on_key_missing="warn"))
    assert campaign.outcomes(again, wanted).get("key_lost") == found["key_lost"], again["msg"]
    final = campaign.count(again, campaign.vault_dir, fallback)
    assert final.holds and final.handed_out == MEMBERS, repr(final)
    unmount(disk)
    print(f"storage: no directory at all: {count}; after the rerun {final}")


def test_lost_answers_and_a_full_disk_at_once_are_all_named(campaigns):
    # So many at once that what the journal has to say about them does not fit into the rest of its last page.
    many = 32
    campaign = campaigns(latency_ms_by_operation={CREATE: 1500})
    campaign.server.faults([{"operation": CREATE, "times": None, "action": {"kind": "cut_after"}}])
    disk = campaign.directory / "disk"
    mount(disk, "size=4m")
    campaign.vault_dir = disk / "host_vars"
    wanted = campaign.addresses(many)
    play = campaign.play(wanted, vault_dir=str(campaign.vault_dir), concurrency=many)

    run = campaign.start(play)
    assert run.watch(lambda: campaign.creates() == many), run.output
    ballast = fill(disk)
    result = run.end()

    assert campaign.outcomes(result, wanted) == {"key_lost": wanted}, result["msg"]
    count = campaign.count(result, campaign.vault_dir, campaign.fallback)
    assert count.holds and len(count.lost) == many, repr(count)
    ballast.unlink()
    campaign.hurry()
    campaign.server.faults([])
    again = campaign.finish(play)
    assert campaign.outcomes(again, wanted) == {"key_lost": wanted}, again["msg"]
    unmount(disk)
    print(f"storage: answers lost on a full disk: {count}")


@pytest.mark.parametrize("options", ["size=256k", "size=64m,nr_inodes=60"])
def test_where_there_is_no_room_nothing_is_created(campaigns, options):
    campaign = campaigns()
    mount(campaign.vault_dir, options)
    wanted = campaign.addresses(MEMBERS)

    result = campaign.finish(campaign.play(wanted))

    assert result["failed"] and "no room" in result["msg"] and str(campaign.vault_dir) in result["msg"], result["msg"]
    assert campaign.creates() == 0 and not campaign.server.ledger()
    unmount(campaign.vault_dir)
    print(f"storage: no room to begin with ({options}): 0 creates")


def test_a_full_disk_for_the_report_costs_no_result(campaigns):
    campaign = campaigns()
    disk = campaign.directory / "disk"
    mount(disk, "size=1m")
    fill(disk)
    wanted = campaign.addresses(MEMBERS)

    result = campaign.finish(campaign.play(wanted, report_file=str(disk / "report.html")))

    assert campaign.outcomes(result, wanted) == {"created": wanted} and not result.get("failed"), result["msg"]
    assert result["report_file"] is None
    assert any("report.html cannot be written" in text and "No space left" in text for text in result["warnings"])
    count = campaign.count(result, campaign.vault_dir)
    assert count.holds and count.sealed == MEMBERS, repr(count)
    assert [path.name for path in disk.iterdir()] == ["ballast"]
    unmount(disk)
    print(f"storage: no room for the report: {count}")
