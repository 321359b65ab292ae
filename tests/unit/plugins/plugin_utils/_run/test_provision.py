# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The provisioner under a service that misbehaves at random: no key that arrived is lost, no member without an
outcome."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import pathlib
import subprocess
import time

import pytest
from ansible.parsing.vault import VaultSecret
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.community.backblaze.plugins.module_utils._api.partner import Partner
from ansible_collections.community.backblaze.plugins.module_utils._errors import B2Error, MemberExistsError, StoreError
from ansible_collections.community.backblaze.plugins.module_utils._members import Member, Proof
from ansible_collections.community.backblaze.plugins.module_utils._plan import Event, Outcome, Step, Wanted
from ansible_collections.community.backblaze.plugins.modules import b2_vault_files
from ansible_collections.community.backblaze.plugins.plugin_utils._locations import location as location_module
from ansible_collections.community.backblaze.plugins.plugin_utils._locations import remote_copy as remote_copy_module
from ansible_collections.community.backblaze.plugins.plugin_utils._locations.git import Repository
from ansible_collections.community.backblaze.plugins.plugin_utils._locations.remote_copy import RemoteCopy
from ansible_collections.community.backblaze.plugins.plugin_utils._locations.target import Target
from ansible_collections.community.backblaze.plugins.plugin_utils._move.move import Move, move_keys
from ansible_collections.community.backblaze.plugins.plugin_utils._run import provision as provision_module
from ansible_collections.community.backblaze.plugins.plugin_utils._run import workers as workers_module
from ansible_collections.community.backblaze.plugins.plugin_utils._run.input import WantedGroup
from ansible_collections.community.backblaze.plugins.plugin_utils._run.job import Job, Plan, Policy, Stop
from ansible_collections.community.backblaze.plugins.plugin_utils._run.journal import Journal
from ansible_collections.community.backblaze.plugins.plugin_utils._run.provision import (
    mark_told,
    provision,
    provision_groups,
    try_keys,
)
from ansible_collections.community.backblaze.plugins.plugin_utils._run.report import summary
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.fallback import FallbackStore
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.group_vars import GroupVarsStore
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.host_vars import HostVarsStore
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.key_file import StoredKey, read_key
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.layouts import open_store
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.sealer import Sealer
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.store import secret_of
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.vault_dir import VaultDir

CREATE = "b2_create_group_member"
#: The id that the stand-in gives to its first Group.
GROUP = "100001"
EMAILS = [f"m{number}@x.example" for number in range(5)]
RECREATE = Policy(recreate=True, throwaway="lost-{account_id}@{domain}")
#: Besides, the user's word about losses of earlier runs.
REPLACE = dataclasses.replace(RECREATE, recreate_members=frozenset(EMAILS))


@pytest.fixture
def fallback(tmp_path, secrets):
    return FallbackStore(str(tmp_path / "fallback"), Sealer(secrets))


@pytest.fixture
def run(standin, make_client, store, fallback, monkeypatch):
    """One run; what it would have slept between tries to store a key is not slept."""
    monkeypatch.setattr(workers_module, "STORE_DELAYS", (0.0, 0.0))
    monkeypatch.setattr(provision_module, "LISTING_DELAYS", (0.0, 0.0))

    def go(
        emails=EMAILS,
        check_mode=False,
        policy=Policy(),
        concurrency=4,
        timeout=1.0,
        region=None,
        key=("", ""),
        stop=None,
        store=store,
        fallback=fallback,
        told=True,
    ):
        client = make_client(standin, timeout=timeout, connections=concurrency, max_retries=3)
        try:
            wanted = [Wanted(email, region, *key) for email in emails]
            job = Job(
                standin.groups["hosting"], wanted, policy, concurrency, vault_lock_timeout=0.0, check_mode=check_mode
            )
            done = provision(client, job, store, fallback, stop or Stop())
            if told:
                mark_told([(job, store)], [done])
            return done[1]
        finally:
            client.close()

    return go


def provision_all(client, ids, stores, fallback):
    """Provision two members of each Group in one go; return what came of each Group."""
    jobs = [
        (Job(group_id, [Wanted(f"{name}{group_id}@x.example") for name in "ab"], vault_lock_timeout=0.0), store)
        for group_id, store in zip(ids, stores, strict=True)
    ]
    done = provision_groups(client, jobs, fallback, Stop())
    client.close()
    return done


def outcomes(report):
    return {result.email: result.outcome.value for result in report.results}


def still_open(store, group_id):
    with store.state(GROUP) as state:
        return {
            entry.email: entry for entry in Journal(state, store.state_path(GROUP), writable=False).entries(group_id)
        }


def leave_open(store, group_id, *emails):
    """Leave what a run leaves that was killed before it had an answer."""
    store.prove(emails, write=True)
    with store.locked(GROUP, 0.0, lambda seconds: None) as state:
        journal = Journal(state, store.state_path(GROUP))
        for email in emails:
            journal.pending(group_id, email)
        journal.finish()


def lose(standin, run, email):
    """Let the answer with the key of a new member be lost, and return the member; the journal proves that we made
    it."""
    standin.faults([{"operation": CREATE, "email": email, "action": {"kind": "cut_after"}}])
    (result,) = run([email]).results
    assert result.outcome is Outcome.KEY_LOST
    standin.faults([])
    return result.member


def members_named(standin, email):
    return [member["account_id"] for member in standin.control("members") if member["email"] == email]


def test_check_mode_predicts_and_changes_nothing(standin, store, run):
    foreseen = run(check_mode=True)
    assert not os.path.exists(store.path)
    assert standin.ledger() == []
    done = run()
    assert outcomes(foreseen) == outcomes(done) == dict.fromkeys(EMAILS, "created")
    assert outcomes(run(check_mode=True)) == outcomes(run()) == dict.fromkeys(EMAILS, "unchanged")


def test_pending_is_on_disk_before_a_create_is_sent(store, run, monkeypatch):
    """A run that is killed while the answer is on its way has left word of it."""
    create, journals = Partner.create_member, {}

    def looking(client, group_id, email, *others):
        with open(os.path.join(store.state_path(GROUP), "journal.jsonl"), encoding="utf-8") as journal:
            journals[email] = journal.read()
        return create(client, group_id, email, *others)

    monkeypatch.setattr(Partner, "create_member", looking)
    run(concurrency=1)
    for email in EMAILS:
        assert [one["event"] for one in map(json.loads, journals[email].splitlines()) if one["email"] == email] == [
            "pending"
        ]
    with open(os.path.join(store.state_path(GROUP), "journal.jsonl"), encoding="utf-8") as journal:
        assert journal.read() == "", "something is left in the journal after a run that ended well"


def test_what_a_killed_run_left_open_is_settled(standin, store, run):
    run(EMAILS[:1])
    made = standin.add_member("hosting", EMAILS[1])
    with open(os.path.join(store.state_path(GROUP), "journal.jsonl"), "a", encoding="utf-8") as journal:
        journal.writelines(
            json.dumps({"event": "pending", "email": email, "group_id": standin.groups["hosting"]}) + "\n"
            for email in EMAILS[:3]
        )
    for check_mode in (True, False):
        report = run(EMAILS[1:2], check_mode=check_mode)
        assert {one.email: one.outcome.value for one in report.settled} == {
            EMAILS[0]: "created",
            EMAILS[1]: "key_lost",
            EMAILS[2]: "absent",
        }
        assert outcomes(report) == {EMAILS[1]: "key_lost"}
        assert report.results[0].member.account_id == made["accountId"]
    # What was not made may still be for a while, so it stays open.
    assert [(one.email, one.known) for one in run(EMAILS[1:2]).settled] == [(EMAILS[1], True), (EMAILS[2], False)]


def test_without_a_vault_directory_nothing_is_created(standin, store, run):
    os.symlink("/nowhere", store.path)
    with pytest.raises(StoreError):
        run()
    assert standin.state()["calls"] == {}


def test_a_directory_in_which_nothing_can_be_renamed_is_found_out_before_the_first_create(
    standin, store, run, monkeypatch
):
    """A key gets its name by a rename. What can be seen without writing says that all is well."""
    store.prove(EMAILS, write=True)
    rename, refused = os.rename, []

    def failing_once(source, *others, **options):
        # The journal has proven itself: it is written first, in a directory of its own.
        if not refused and "journal" not in source:
            refused.append(source)
            raise OSError(errno.EPERM, "Operation not permitted")
        rename(source, *others, **options)

    monkeypatch.setattr(os, "rename", failing_once)
    with pytest.raises(StoreError, match="host_vars cannot be written"):
        run()
    assert len(refused) == 1
    assert CREATE not in standin.state()["calls"] and standin.ledger() == []
    assert outcomes(run()) == dict.fromkeys(EMAILS, "created")
    assert [name for name in os.listdir(store.path) if "probe" in name] == []


def test_a_long_run_says_how_far_it_is(run, monkeypatch):
    told = []

    monkeypatch.setattr(workers_module, "show_progress", lambda *figures: told.append(figures))
    run(EMAILS[:1])
    assert told == [], "a run that is over at once has nothing to say"
    monkeypatch.setattr(workers_module, "PROGRESS_SECONDS", 0.0)
    run(check_mode=True)
    assert told == []
    run()
    # One is there already. The last line is that of the last one, each comes once, and a moment without news changes no
    # count.
    assert {group for group, *_figures in told} == {"hosting"}
    counts = [done for _group, done, _total, _seconds in told]
    assert counts == sorted(counts) and set(counts) - {0} == {1, 2, 3, 4} and counts[-1] == 4
    assert {total for _group, _done, total, _seconds in told} == {4}
    seconds = [passed for _group, _done, _total, passed in told]
    assert seconds == sorted(seconds) and seconds[0] >= 0 and seconds[-1] < 60


def test_a_key_that_cannot_be_stored_goes_to_the_fallback_directory_and_ends_the_run(
    standin, store, fallback, run, monkeypatch
):
    """The disk fails after the first member was created."""

    def failing(new, *, again=False):
        raise StoreError("The disk is full.")

    with monkeypatch.context() as broken:
        broken.setattr(store, "seal", failing)
        report = run(concurrency=1)
    assert outcomes(report) == {EMAILS[0]: "created", **dict.fromkeys(EMAILS[1:], "not_attempted")}
    assert "The disk is full." in report.results[0].message
    (entry,) = standin.ledger()
    ((path, variables),) = fallback.found()
    assert (variables.email, variables.key) == (EMAILS[0], entry["key"])
    assert report.results[0].path == path
    # The next run moves it home.
    report = run()
    assert outcomes(report) == {EMAILS[0]: "unchanged", **dict.fromkeys(EMAILS[1:], "created")}
    assert fallback.path in report.notes[0]
    assert list(fallback.found()) == []
    assert store.read(EMAILS[0]).key == entry["key"]


def test_a_key_in_the_fallback_directory_that_is_not_the_stored_key_stays_in_it(standin, store, fallback, run):
    run(EMAILS[:1])
    with open(store.file(EMAILS[0]), "rb") as file:
        before = file.read()
    (account_id,) = members_named(standin, EMAILS[0])
    path = fallback.seal(
        StoredKey(EMAILS[0], "0045f2a1c0b3d4e0000000002", "K004another", account_id, standin.groups["hosting"])
    )
    # That of an account which is not the member is none of this Group.
    foreign = fallback.seal(
        StoredKey(EMAILS[1], "004ffffffffffff0000000001", "K004foreign", "ffffffffffff", standin.groups["hosting"])
    )
    report = run(EMAILS[:2])
    assert outcomes(report) == {EMAILS[0]: "unchanged", EMAILS[1]: "created"}
    assert report.notes == ()
    assert {found for found, _variables in fallback.found()} == {path, foreign}
    with open(store.file(EMAILS[0]), "rb") as file:
        assert file.read() == before


def test_moving_a_key_to_its_vault_file_switches_off_no_file_of_variables(standin, store, fallback, run):
    """Its member need not be a wanted one, and keeps nobody else from being created."""
    run(EMAILS[:2])
    new = store.read(EMAILS[1])
    os.unlink(store.file(EMAILS[1]))
    os.rmdir(os.path.dirname(store.file(EMAILS[1])))
    path = fallback.seal(new)
    with open(f"{store.path}/{EMAILS[1]}.yml", "wb"):
        pass
    for check_mode in (True, False):
        report = run([EMAILS[0], EMAILS[2]], check_mode=check_mode)
        assert outcomes(report) == {EMAILS[0]: "unchanged", EMAILS[2]: "created"}
        assert path in report.notes[0] and "would switch off the variables" in report.notes[0] and not report.moved
    assert [found for found, _variables in fallback.found()] == [path]
    os.unlink(f"{store.path}/{EMAILS[1]}.yml")
    run(EMAILS[:1])
    assert secret_of(store, EMAILS[1]) == (new.key_id, new.key)


def test_an_unexpected_error_while_a_key_is_sealed_loses_no_key(standin, store, fallback, run, monkeypatch):
    seal, broken = store.seal, []

    def failing(key, *, again=False):
        if key.email == EMAILS[2] and not broken:
            broken.append(key.email)
            raise RuntimeError("a bug")
        return seal(key, again=again)

    monkeypatch.setattr(store, "seal", failing)
    assert outcomes(run()) == dict.fromkeys(EMAILS, "created")
    assert broken == [EMAILS[2]]
    assert {email: secret_of(store, email) for email in EMAILS} == {
        entry["email"]: (entry["key_id"], entry["key"]) for entry in standin.ledger()
    }
    assert still_open(store, standin.groups["hosting"]) == {}
    assert list(fallback.found()) == []


@pytest.mark.parametrize("concurrency", [1, 5])
def test_an_unexpected_error_of_one_worker_does_not_lose_the_others_results(
    standin, store, run, monkeypatch, concurrency
):
    create = Partner.create_member

    def failing(client, group_id, email, *others):
        if email == EMAILS[2]:
            # Not before the others are under way.
            while len(standin.ledger()) < 2:
                time.sleep(0.01)
            raise RuntimeError("a bug")
        return create(client, group_id, email, *others)

    with monkeypatch.context() as broken:
        broken.setattr(Partner, "create_member", failing)
        report = run(concurrency=concurrency)
    assert [result.email for result in report.results] == EMAILS
    assert report.results[2].outcome is Outcome.NOT_ATTEMPTED
    assert "RuntimeError" in report.results[2].message
    assert "a bug" not in report.results[2].message
    made = {entry["email"]: entry["key"] for entry in standin.ledger()}
    assert len(made) >= 2
    for result in report.results:
        assert result.outcome is (Outcome.CREATED if result.email in made else Outcome.NOT_ATTEMPTED)
        assert secret_of(store, result.email)[1] == made.get(result.email, "")
    assert EMAILS[2] in still_open(store, standin.groups["hosting"])
    assert set(outcomes(run()).values()) <= {"unchanged", "created"}


def test_what_may_take_effect_only_now_stays_open_until_it_is_created(standin, store, run):
    group_id = standin.groups["hosting"]
    leave_open(store, group_id, *EMAILS[:2])
    stop = Stop()
    stop.ask("a test ended it")
    report = run(EMAILS[:1], stop=stop)
    assert outcomes(report) == {EMAILS[0]: "not_attempted"}
    assert {one.email: one.outcome.value for one in report.settled} == dict.fromkeys(EMAILS[:2], "absent")
    # The other one was not wanted any more, so it is settled when a day has gone by.
    assert list(still_open(store, group_id)) == EMAILS[:2]
    journal = os.path.join(store.state_path(GROUP), "journal.jsonl")
    with open(journal, encoding="utf-8") as file:
        lines = [json.loads(line) for line in file]
    with open(journal, "w", encoding="utf-8") as file:
        file.writelines(
            json.dumps({**line, "at": "2026-01-01T00:00:00Z"} if line["email"] == EMAILS[1] else line) + "\n"
            for line in lines
        )
    run(EMAILS[2:3])
    assert list(still_open(store, group_id)) == EMAILS[:1]
    # Only now the create of the killed run takes effect: it is known for ours.
    there = standin.add_member("hosting", EMAILS[0])
    report = run(EMAILS[:1])
    assert outcomes(report) == {EMAILS[0]: "key_lost"}
    assert report.results[0].member.account_id == there["accountId"]
    assert run(EMAILS[1:2]).results[0].outcome is Outcome.CREATED
    assert list(still_open(store, group_id)) == EMAILS[:1]


def test_an_account_that_turns_up_after_a_killed_run_is_never_replaced(standin, store, run):
    """That a create was about to be sent is no proof that we made what is there now: somebody may have made it by hand
    meanwhile."""
    leave_open(store, standin.groups["hosting"], EMAILS[0])
    there = standin.add_member("hosting", EMAILS[0])
    for known in (False, True, True):
        for check_mode in (True, False):
            report = run(EMAILS[:1], policy=REPLACE, check_mode=check_mode)
            assert outcomes(report) == {EMAILS[0]: "key_lost"}
            assert report.results[0].known is known
            assert "does not replace it" in report.results[0].message
    assert members_named(standin, EMAILS[0]) == [there["accountId"]]
    entry = still_open(store, standin.groups["hosting"])[EMAILS[0]]
    assert (entry.event, entry.account_id) == (Event.PRESUMED, there["accountId"])
    assert "b2_eject_group_member" not in standin.state()["calls"]
    # The way that the message names.
    standin.remove_member(EMAILS[0], "thrown-away@x.example")
    assert outcomes(run(EMAILS[:1])) == {EMAILS[0]: "created"}
    assert still_open(store, standin.groups["hosting"]) == {}


def test_an_account_that_was_made_by_hand_after_a_failed_run_is_never_replaced(standin, store, run):
    standin.faults(
        [{"operation": CREATE, "times": None, "action": {"kind": "error", "status": 420, "code": "method_failure"}}]
    )
    assert outcomes(run(EMAILS[:1], policy=RECREATE)) == {EMAILS[0]: "refused"}
    standin.faults([])
    there = standin.add_member("hosting", EMAILS[0])
    for _run in range(3):
        assert outcomes(run(EMAILS[:1], policy=REPLACE)) == {EMAILS[0]: "key_lost"}
    assert members_named(standin, EMAILS[0]) == [there["accountId"]]


@pytest.mark.parametrize("open_before", [False, True])
def test_a_refused_create_leaves_open_only_what_an_earlier_run_left_open(standin, store, run, open_before):
    """The create of an earlier run may still take effect; the refused one has not."""
    if open_before:
        leave_open(store, standin.groups["hosting"], EMAILS[0])
    refusal = {"kind": "error", "status": 401, "code": "invalid_email"}
    standin.faults([{"operation": CREATE, "email": EMAILS[0], "times": None, "action": refusal}])
    report = run(EMAILS[:2])
    assert outcomes(report) == {EMAILS[0]: "refused", EMAILS[1]: "created"}
    assert (report.results[0].code, report.results[0].status) == ("invalid_email", 401)
    assert report.results[0].member is None and not report.results[0].changed
    assert list(still_open(store, standin.groups["hosting"])) == EMAILS[:open_before]


@pytest.mark.parametrize(
    "note, outcome, event",
    [
        (None, "key_missing", None),
        (("pending",), "key_lost", Event.PRESUMED),
        (("lost", "5f2a1c0b3d4e"), "key_lost", Event.PRESUMED),
        (("lost", "0a1b2c3d4e5f"), "key_missing", None),
    ],
)
def test_an_account_that_the_listing_did_not_show_is_ours_only_if_the_journal_had_it_open(
    standin, store, run, monkeypatch, note, outcome, event
):
    group_id = standin.groups["hosting"]
    store.prove(EMAILS[:1], write=True)
    if note:
        with store.locked(GROUP, 0.0, lambda seconds: None) as state:
            journal = Journal(state, store.state_path(GROUP))
            getattr(journal, note[0])(group_id, EMAILS[0], *note[1:])
            journal.finish()
    member = Member("5f2a1c0b3d4e", EMAILS[0], group_id)

    def existing(*_arguments):
        raise MemberExistsError(member)

    monkeypatch.setattr(Partner, "create_member", existing)
    (result,) = run(EMAILS[:1], policy=REPLACE, told=False).results
    assert (result.outcome.value, result.member, result.changed) == (outcome, member, False)
    assert {entry.event for entry in still_open(store, group_id).values()} == ({event} if event else set())
    assert all(entry.account_id == "5f2a1c0b3d4e" for entry in still_open(store, group_id).values())


def test_an_account_of_which_the_journal_proves_that_we_made_it_is_replaced_when_asked(standin, store, run):
    lost = lose(standin, run, EMAILS[0])
    assert still_open(store, standin.groups["hosting"])[EMAILS[0]].event is Event.LOST
    for check_mode in (True, False):
        # Others may write to the journal: what it says of earlier runs has no account ejected unless the user names its
        # address.
        report = run(EMAILS[:1], policy=RECREATE, check_mode=check_mode)
        assert outcomes(report) == {EMAILS[0]: "key_lost"}
        assert f'recreate_members: ["{EMAILS[0]}"]' in report.results[0].message
    assert "b2_eject_group_member" not in standin.state()["calls"]
    foreseen = run(EMAILS[:1], policy=REPLACE, check_mode=True)
    done = run(EMAILS[:1], policy=REPLACE)
    assert outcomes(foreseen) == outcomes(done) == {EMAILS[0]: "created"}
    assert foreseen.results[0].ejected == done.results[0].ejected == lost.account_id
    assert members_named(standin, EMAILS[0]) == [done.results[0].member.account_id] != [lost.account_id]
    assert still_open(store, standin.groups["hosting"]) == {}


def test_a_key_that_lies_in_another_fallback_directory_is_not_lost(
    standin, store, fallback, run, tmp_path, secrets, monkeypatch
):
    """The account is not replaced. The next run, of another user or in AWX, may use another fallback directory."""

    def failing(new, *, again=False):
        raise StoreError("The disk is full.")

    with monkeypatch.context() as broken:
        broken.setattr(store, "seal", failing)
        (in_fallback,) = run(EMAILS[:1]).results
    other = FallbackStore(str(tmp_path / "elsewhere"), Sealer(secrets))
    for check_mode in (True, False, True, False):
        report = run(EMAILS[:1], policy=REPLACE, fallback=other, check_mode=check_mode)
        assert outcomes(report) == {EMAILS[0]: "key_missing"}
        assert in_fallback.path in report.results[0].message
    assert members_named(standin, EMAILS[0]) == [in_fallback.member.account_id]
    assert outcomes(run(EMAILS[:1])) == {EMAILS[0]: "unchanged"}
    assert still_open(store, standin.groups["hosting"]) == {}


def test_a_lost_account_in_another_region_than_wanted_is_not_replaced(standin, store, run):
    standin.settings(default_region="us-east")
    there = lose(standin, run, EMAILS[0])
    for check_mode in (True, False):
        assert outcomes(run(EMAILS[:1], policy=REPLACE, region="eu-central", check_mode=check_mode)) == {
            EMAILS[0]: "conflict"
        }
    assert members_named(standin, EMAILS[0]) == [there.account_id]
    assert "b2_eject_group_member" not in standin.state()["calls"]
    assert outcomes(run(EMAILS[:1], policy=REPLACE, region="us-east")) == {EMAILS[0]: "created"}
    assert store.stored()[EMAILS[0]].account_id == members_named(standin, EMAILS[0])[0] != there.account_id


def test_an_eject_that_stays_unclear_is_told_as_such_and_settled_by_the_next_run(standin, store, run):
    there = lose(standin, run, EMAILS[0])
    standin.faults([{"operation": "b2_eject_group_member", "times": None, "action": {"kind": "cut_before"}}])
    (result,) = run(EMAILS[:1], policy=REPLACE).results
    assert result.outcome is Outcome.KEY_LOST
    assert f"Account {there.account_id} may have been ejected." in result.message
    assert "Nothing was changed" not in result.message
    assert not result.changed
    entry = still_open(store, standin.groups["hosting"])[EMAILS[0]]
    assert (entry.event, entry.account_id) == (Event.EJECTING, there.account_id)
    # It was: by whoever answers for the lost request.
    standin.faults([])
    standin.remove_member(EMAILS[0], "left@x.example")
    report = run(EMAILS[:1], policy=RECREATE)
    assert [one.outcome.value for one in report.settled] == ["ejected"]
    assert outcomes(report) == {EMAILS[0]: "created"}
    assert still_open(store, standin.groups["hosting"]) == {}


@pytest.mark.parametrize(
    "action, code",
    [
        ({"kind": "error", "status": 401, "code": "unauthorized"}, None),
        ({"kind": "error", "status": 401, "code": "bad_auth_token"}, None),
        ({"kind": "error", "status": 401, "code": "expired_auth_token"}, None),
        ({"kind": "error", "status": 403, "code": "transaction_cap_exceeded"}, "transaction_cap_exceeded"),
        ({"kind": "error", "status": 403, "code": "cap_exceeded"}, "cap_exceeded"),
        ({"kind": "error", "status": 403, "code": "access_denied"}, "access_denied"),
        ({"kind": "error", "status": 400, "code": "bad_request"}, "bad_request"),
        ({"kind": "throttle"}, "too_many_requests"),
        ({"kind": "error", "status": 503, "code": "service_unavailable"}, "service_unavailable"),
    ],
)
def test_a_key_is_dead_only_where_the_service_says_so(standin, make_client, action, code):
    """Whatever else it says, it says of the account or of this moment, and a good key must not be taken for a bad
    one."""
    member = standin.add_member("hosting", EMAILS[0])
    keys = {EMAILS[0]: (member["applicationKeyId"], member["applicationKey"])}
    client = make_client(standin, max_retries=0)
    assert try_keys(client, keys, 2) == {EMAILS[0]: Proof(member["accountId"])}
    standin.faults([{"operation": "b2_authorize_account", "action": action}])
    [tried] = list(try_keys(client, keys, 2).values())
    assert tried.opens == ("" if code is None else None)
    assert (code or "") in tried.problem
    assert bool(tried.problem) is (code is not None)


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("transaction_cap_exceeded", "A cap of the member's account"),
        ("access_denied", "The member's account is suspended"),
    ],
)
def test_one_key_that_cannot_be_tried_does_not_spoil_the_rest(standin, make_client, run, code, says):
    """What is wrong with the account of one member is said of that member, and not of the Group admin."""
    run()
    refusal = {"kind": "error", "status": 403, "code": code}
    standin.faults([{"operation": "b2_authorize_account", "email": EMAILS[1], "times": None, "action": refusal}])
    report = run(policy=Policy(verify_keys=True))
    assert outcomes(report) == dict.fromkeys(EMAILS, "unchanged")
    assert [result.email for result in report.results if result.message] == [EMAILS[1]]
    assert says in report.results[1].message
    assert "admin" not in report.results[1].message


def test_when_every_key_is_refused_the_service_is_suspected_first(standin, run):
    run()
    standin.faults(
        [
            {
                "operation": "b2_authorize_account",
                "after": 1,
                "times": None,
                "action": {"kind": "error", "status": 401, "code": "unauthorized"},
            }
        ]
    )
    report = run(policy=Policy(verify_keys=True))
    assert outcomes(report) == dict.fromkeys(EMAILS, "key_dead")
    assert all("Backblaze refused every key" in result.message for result in report.results)


def test_a_member_that_is_not_listed_yet_is_waited_for(standin, store, run, monkeypatch):
    """The listing may lag behind what was created just now; what left longer ago is not waited for."""
    waited = []
    monkeypatch.setattr(Stop, "wait", lambda self, seconds: [waited.append(seconds), time.sleep(0.4)])
    standin.settings(lag_seconds=0.6)
    assert outcomes(run()) == dict.fromkeys(EMAILS, "created")
    assert outcomes(run()) == dict.fromkeys(EMAILS, "unchanged")
    assert waited
    waited.clear()
    standin.remove_member(EMAILS[0])
    assert outcomes(run())[EMAILS[0]] == "conflict"
    assert waited == list(provision_module.LISTING_DELAYS)
    waited.clear()
    os.utime(store.file(EMAILS[0]), (0, 0))
    assert outcomes(run())[EMAILS[0]] == "conflict"
    assert waited == []


@pytest.fixture(params=["target", "git"])
def remote_copy(request, tmp_path, secrets):
    """Open the store of a vault directory in another location, with the time of its files long ago."""
    there, origin = tmp_path / "there", tmp_path / "origin.git"
    if request.param == "git":
        subprocess.run(["git", "init", "--quiet", "--bare", "--initial-branch=main", str(origin)], check=True)

    def opened():
        directory = tmp_path / os.urandom(4).hex()
        (directory / "repository").mkdir(parents=True)
        options = {"bundle": None, "group": None, "lease": None, "instead_of": None}
        target = Target("srv1", str(there), lambda arguments: b2_vault_files.run({**options, **arguments}))
        remote = target if request.param == "target" else Repository(str(directory), str(origin), "", "keys")
        location = RemoteCopy(str(directory / "copy"), remote)
        return HostVarsStore(location.copy, Sealer(secrets), location=location)

    def age():
        for path in there.rglob("b2_vault.yml"):
            os.utime(path, (1000, 1000))
        if request.param == "git":
            who = {f"GIT_{role}_{what}": "x@x" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
            environment = {**os.environ, **who, "GIT_COMMITTER_DATE": "@1000000000 +0000"}
            command = ["git", "-C", str(origin), "commit-tree", "main^{tree}", "-m", "x"]
            made = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
            subprocess.run(["git", "-C", str(origin), "update-ref", "refs/heads/main", made.stdout.strip()], check=True)

    opened.age = age
    return opened


def test_in_a_remote_copy_a_run_waits_for_a_missing_member_only_if_its_key_is_new(
    standin, remote_copy, run, monkeypatch
):
    # However slow this machine is.
    monkeypatch.setattr(provision_module, "_NEW_SECONDS", 3600)

    def lists():
        return standin.state()["calls"]["b2_list_group_members"]

    assert outcomes(run(store=remote_copy())) == dict.fromkeys(EMAILS, "created")
    before = lists()
    assert outcomes(run(store=remote_copy())) == dict.fromkeys(EMAILS, "unchanged")
    whole = lists() - before
    standin.remove_member(EMAILS[0])
    before = lists()
    assert outcomes(run(store=remote_copy()))[EMAILS[0]] == "conflict"
    assert lists() - before == whole + 1 + len(provision_module.LISTING_DELAYS), (
        "what was stored just now is waited for"
    )
    remote_copy.age()
    before = lists()
    assert outcomes(run(store=remote_copy()))[EMAILS[0]] == "conflict"
    assert lists() - before == whole + 1, "what was stored long ago is not"


def test_an_account_is_replaced_only_once_in_a_run(standin, run):
    standin.faults([{"operation": CREATE, "email": EMAILS[0], "times": 2, "action": {"kind": "cut_after"}}])
    (result,) = run(EMAILS[:1], policy=RECREATE).results
    assert result.outcome is Outcome.KEY_LOST and result.ejected and result.ejected != result.member.account_id
    assert standin.state()["calls"]["b2_eject_group_member"] == 1


def test_an_adopted_key_closes_the_address_whose_key_was_lost(standin, store, run):
    lost = lose(standin, run, EMAILS[0])
    key = keys_of(standin)[EMAILS[0]]
    (result,) = run(EMAILS[:1], key=key).results
    assert result.changed and result.member.account_id == lost.account_id
    assert (secret_of(store, EMAILS[0]), result.path) == (key, store.file(EMAILS[0]))
    assert still_open(store, standin.groups["hosting"]) == {}


def test_a_lost_key_is_told_again_and_replaced_only_when_asked(standin, store, run):
    standin.faults([{"operation": CREATE, "email": EMAILS[0], "action": {"kind": "cut_after"}}])
    first = run()
    assert outcomes(first) == {EMAILS[0]: "key_lost", **dict.fromkeys(EMAILS[1:], "created")}
    lost = first.results[0].member.account_id
    second = run()
    assert outcomes(second) == {EMAILS[0]: "key_lost", **dict.fromkeys(EMAILS[1:], "unchanged")}
    assert second.results[0].known
    # An account was made by the first run only.
    assert (first.results[0].changed, second.results[0].changed) == (True, False)
    third = run(policy=REPLACE)
    assert outcomes(third)[EMAILS[0]] == "created"
    assert {account["email"] for account in standin.state()["accounts"]} == {*EMAILS, f"lost-{lost}@x.example"}
    assert outcomes(run()) == dict.fromkeys(EMAILS, "unchanged")


# A key that may belong to somebody else


def keys_of(standin):
    return {entry["email"]: (entry["key_id"], entry["key"]) for entry in standin.ledger()}


def aside(store, secrets):
    """What is kept beside the places of keys, by path."""
    found = {}
    for path in pathlib.Path(store.path).glob("*/.b2_vault.yml.*.aside"):
        found[str(path)] = read_key(Sealer(secrets).open(path.read_bytes(), str(path)), str(path))
    return found


PARTS = [
    ["applicationKey", "applicationKeyId", "groupMember"],
    ["applicationKey", "applicationKeyId"],
    ["applicationKeyId"],
]


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("of", [None, EMAILS[4]])
def test_another_members_key_is_kept_and_never_called_created(standin, store, secrets, run, parts, of):
    """It is sealed first of all, where Ansible does not load it for the member, and no account id is written over its
    own."""
    run(EMAILS[4:])
    standin.faults([{"operation": CREATE, "action": {"kind": "foreign", "parts": parts, "of": of}}])
    (result,) = run(EMAILS[:1]).results
    assert (result.outcome, result.changed) == (Outcome.KEY_LOST, True)
    (account_id,) = members_named(standin, EMAILS[0])
    assert result.member.account_id == account_id
    assert store.read(EMAILS[0]) is None
    [(path, variables)] = list(aside(store, secrets).items())
    assert result.path == path and path in result.message
    (foreign,) = (
        entry
        for entry in standin.ledger()
        if entry["email"] == of or (of is None and entry["email"].startswith("foreign"))
    )
    assert (variables.account_id, variables.key_id) == (
        foreign["account_id"],
        foreign["key_id"],
    )
    # The next run says the same, and takes it for nobody's.
    assert outcomes(run(EMAILS[:1])) == {EMAILS[0]: "key_lost"}
    assert run(EMAILS[:1], policy=REPLACE).results[0].outcome is Outcome.CREATED
    assert (
        secret_of(store, EMAILS[0])[1]
        == [entry["key"] for entry in standin.ledger() if entry["email"] == EMAILS[0]][-1]
    )


def test_a_key_that_came_with_another_members_answer_goes_to_its_own_member(standin, store, secrets, run):
    """Two answers out of step: each member's key came with the other's answer, and goes to its own when it was
    tried."""
    first, second = (lose(standin, run, email) for email in EMAILS[:2])
    keys = keys_of(standin)
    for email, other in ((EMAILS[0], EMAILS[1]), (EMAILS[1], EMAILS[0])):
        account = {EMAILS[0]: first, EMAILS[1]: second}[other].account_id
        store.unproven.put(email, StoredKey(email, *keys[other], account, GROUP, unproven=True))
    for check_mode in (True, False):
        report = run(EMAILS[:2], policy=REPLACE, check_mode=check_mode)
        assert outcomes(report) == dict.fromkeys(EMAILS[:2], "unchanged")
        assert len(report.notes) == 2 + 1 and all(
            "was tried, and opens the account of" in note for note in report.notes[:2]
        )
    assert {email: secret_of(store, email) for email in EMAILS[:2]} == keys
    assert aside(store, secrets) == {} and still_open(store, GROUP) == {}
    assert "b2_eject_group_member" not in standin.state()["calls"]


@pytest.mark.parametrize("layout", ["host_vars", "group_vars"])
def test_a_warning_names_the_file_of_an_unproven_key_that_does_not_decrypt(standin, tmp_path, secrets, run, layout):
    """The file may hold the key that counts as lost. In the layout group_vars it is named once for the whole Group."""
    store, other = (
        open_store(layout, str(tmp_path / "vault"), Sealer(each), GROUP)
        for each in (secrets, [("default", VaultSecret(b"another"))])
    )
    for email in EMAILS[:2]:
        standin.faults([{"operation": CREATE, "action": {"kind": "cut_after"}}])
        run([email], store=store)
    path = other.unproven.put(EMAILS[0], StoredKey(EMAILS[0], *keys_of(standin)[EMAILS[0]], unproven=True))
    for check_mode in (True, False):
        report = run(EMAILS[:2], store=store, check_mode=check_mode)
        assert outcomes(report) == dict.fromkeys(EMAILS[:2], "key_lost")
        (note,) = (note for note in report.notes if path in note)
        assert "does not decrypt" in note and os.path.exists(path)
    report = run(
        EMAILS[:2], store=open_store(layout, store.path, Sealer([*secrets, ("other", VaultSecret(b"another"))]), GROUP)
    )
    assert outcomes(report)[EMAILS[0]] == "unchanged" and not os.path.exists(path)


def test_a_doubtful_key_that_backblaze_refuses_is_nobodys_in_any_later_run(standin, store, secrets, run):
    """The account inside its id is the member's, and its secret is not."""
    member = {"email": "mallory@x.example"}
    standin.faults(
        [
            {
                "operation": CREATE,
                "action": {"kind": "patch", "body": {"applicationKey": "K004" + "x" * 27, "groupMember": member}},
            }
        ]
    )
    (result,) = run(EMAILS[:1]).results
    assert result.outcome is Outcome.KEY_LOST
    for check_mode in (True, False, True, False):
        (again,) = run(EMAILS[:1], check_mode=check_mode).results
        assert again.outcome is Outcome.KEY_LOST
        assert result.path in again.message and "recreate_members" in again.message
    assert store.read(EMAILS[0]) is None
    assert list(aside(store, secrets)) == [result.path]


def test_a_word_for_a_member_whose_key_is_not_lost_is_remarked(run):
    run(EMAILS[:1])
    report = run(EMAILS[:1], policy=dataclasses.replace(REPLACE, recreate_members=frozenset(EMAILS[:1])))
    assert outcomes(report) == {EMAILS[0]: "unchanged"}
    assert EMAILS[0] in report.notes[0] and "Nothing is replaced" in report.notes[0]


def test_a_key_that_is_moved_from_the_fallback_directory_is_a_change(store, secrets, fallback, run):
    blocked = FallbackStore(fallback.path, Sealer(secrets))
    made = run(EMAILS[:1])
    (result,) = made.results
    blocked.seal(store.read(EMAILS[0]))
    os.unlink(result.path)
    for check_mode in (True, False):
        report = run(EMAILS[:1], check_mode=check_mode)
        assert outcomes(report) == {EMAILS[0]: "unchanged"}
        assert summary(WantedGroup(GROUP, "", ()), Plan(GROUP, (), (), {}), report, "fail")["changed"], (
            "a file was written"
        )
        assert f"The key of {EMAILS[0]} {'would be' if check_mode else 'was'} moved from" in report.notes[0]
    assert not summary(WantedGroup(GROUP, "", ()), Plan(GROUP, (), (), {}), run(EMAILS[:1]), "fail")["changed"]


@pytest.mark.parametrize(
    ("answer", "said"),
    [({"email": "other@x.example"}, "was ejected as other@x.example: "), ({"email": None}, "names no address")],
)
def test_recreate_says_which_address_the_answer_names(standin, run, answer, said):
    lose(standin, run, EMAILS[0])
    standin.faults([{"operation": "b2_eject_group_member", "action": {"kind": "patch", "body": answer}}])
    (foreseen,) = run(EMAILS[:1], policy=REPLACE, check_mode=True).results
    assert "would be ejected first" in foreseen.message
    (result,) = run(EMAILS[:1], policy=REPLACE).results
    assert said in result.message and "lost-" in result.message and "asked for" in result.message


def test_a_member_whose_directory_is_not_made_is_no_reason_to_refuse(standin, store, run):
    """It is in the Group, its key is not stored, and its variables are in a file of its own."""
    standin.control("members", {"group": "hosting", "email": EMAILS[0]})
    os.mkdir(store.path)
    with open(f"{store.path}/{EMAILS[0]}.yml", "wb"):
        pass
    for check_mode in (True, False):
        assert outcomes(run(EMAILS[:2], check_mode=check_mode)) == {EMAILS[0]: "key_missing", EMAILS[1]: "created"}
    with open(f"{store.path}/{EMAILS[2]}.yml", "wb"):
        pass
    for check_mode in (True, False):
        with pytest.raises(StoreError, match="switch off the variables"):
            run(EMAILS[2:4], check_mode=check_mode)
    assert sorted(keys_of(standin)) == EMAILS[:2]


@pytest.mark.parametrize("check_mode", [False, True])
@pytest.mark.parametrize("moved", [False, True])
def test_a_run_that_fails_says_whether_it_moved_a_key(store, fallback, run, monkeypatch, moved, check_mode):
    (result,) = run(EMAILS[:1]).results
    if moved:
        fallback.seal(store.read(EMAILS[0]))
        os.unlink(result.path)
    monkeypatch.setattr(location_module.Controller, "room", lambda self, path: (0, None))
    with pytest.raises(StoreError, match="no room") as refused:
        run(EMAILS[:2], check_mode=check_mode)
    if moved and not check_mode:
        assert refused.value.facts["changed"] is True and "was moved from" in refused.value.facts["warnings"][0]
    else:
        assert not {"changed", "warnings"} & refused.value.facts.keys()
    monkeypatch.undo()
    assert outcomes(run(EMAILS[:1])) == {EMAILS[0]: "unchanged"}


def test_a_service_that_does_not_answer_is_not_asked_for_each_key(standin, make_client, run):
    run()
    client = make_client(standin, max_retries=1)
    standin.faults([{"operation": "b2_authorize_account", "times": None, "action": {"kind": "cut_before"}}])
    before = standin.state()["calls"]["b2_authorize_account"]
    tried = try_keys(client, {f"{email}.{number}": ("k", "s") for email in EMAILS for number in range(10)}, 1)
    assert len(tried) == 50 and all(proof.opens is None and proof.problem for proof in tried.values())
    assert standin.state()["calls"]["b2_authorize_account"] - before == 3 * 2


@pytest.mark.parametrize("place", ["before", "after"])
def test_of_two_keys_in_one_answer_the_members_own_is_sealed_and_the_other_kept(standin, store, secrets, run, place):
    standin.faults([{"operation": CREATE, "action": {"kind": "foreign", "place": place}}])
    (result,) = run(EMAILS[:1]).results
    keys = keys_of(standin)
    assert result.outcome is Outcome.CREATED
    assert secret_of(store, EMAILS[0]) == keys.pop(EMAILS[0])
    kept = aside(store, secrets)
    assert {variables.key for variables in kept.values()} == {key for _key_id, key in keys.values()}
    assert all(path in result.message for path in kept)
    assert outcomes(run(EMAILS[:1])) == {EMAILS[0]: "unchanged"}


ODD = [
    {"kind": "patch", "body": {"groupMember": None}},
    {"kind": "patch", "body": {"groupMember": {"email": "mallory@x.example"}}},
    {"kind": "patch", "body": {"groupMember": {"accountId": "ffffffffffff"}}},
    {"kind": "truncate", "fraction": 0.6},
    {"kind": "truncate", "fraction": 0.9},
    {"kind": "raw", "body": "no json @BODY@"},
]


@pytest.mark.parametrize("action", ODD, ids=str)
def test_a_doubtful_key_that_opens_the_members_account_is_its_key(standin, store, secrets, run, action):
    standin.faults([{"operation": CREATE, "action": action}])
    (result,) = run(EMAILS[:1]).results
    assert (result.outcome, result.path) == (Outcome.CREATED, store.file(EMAILS[0]))
    assert "odd" in result.message
    assert secret_of(store, EMAILS[0]) == keys_of(standin)[EMAILS[0]]
    (account_id,) = members_named(standin, EMAILS[0])
    assert store.stored()[EMAILS[0]].account_id == result.member.account_id == account_id
    assert aside(store, secrets) == {}
    assert still_open(store, GROUP) == {}
    assert outcomes(run(EMAILS[:1])) == {EMAILS[0]: "unchanged"}


@pytest.mark.parametrize("operation", ["b2_authorize_account", "b2_list_group_members"])
def test_a_doubtful_key_that_cannot_be_tried_waits_for_the_next_run(standin, store, secrets, run, operation):
    broken = {"operation": operation, "email": EMAILS[0], "times": None, "action": {"kind": "error", "status": 500}}
    standin.faults(
        [
            {"operation": CREATE, "action": {"kind": "patch", "body": {"groupMember": {"email": "mallory@x.example"}}}},
            broken,
        ]
    )
    (result,) = run(EMAILS[:1]).results
    assert result.outcome is Outcome.CONFLICT
    assert "could not be" in result.message
    assert store.read(EMAILS[0]) is None
    [(path, variables)] = list(aside(store, secrets).items())
    assert path == result.path
    entry = still_open(store, standin.groups["hosting"])[EMAILS[0]]
    assert (entry.event, entry.account_id, entry.path) == (Event.FALLBACK, "", path)
    assert variables.key == keys_of(standin)[EMAILS[0]][1]
    standin.faults([])
    for check_mode in (True, False):
        report = run(EMAILS[:1], check_mode=check_mode)
        assert outcomes(report) == {EMAILS[0]: "unchanged"}
        assert report.notes
    assert secret_of(store, EMAILS[0]) == keys_of(standin)[EMAILS[0]]
    assert aside(store, secrets) == {} and still_open(store, GROUP) == {}


def test_an_unproven_key_that_finds_no_room_goes_to_the_fallback_directory(standin, store, fallback, run, monkeypatch):
    def failing(_email, _new):
        raise StoreError("The disk is full.")

    with monkeypatch.context() as broken:
        broken.setattr(store.unproven, "put", failing)
        standin.faults([{"operation": CREATE, "action": {"kind": "foreign"}}])
        (result,) = run(EMAILS[:1]).results
    assert result.outcome is Outcome.KEY_LOST
    ((path, variables),) = fallback.found()
    assert result.path == path
    assert variables.account_id not in ("", members_named(standin, EMAILS[0])[0])
    # It is tried, and goes to the member that it opens.
    assert outcomes(run(EMAILS[:1])) == {EMAILS[0]: "key_lost"}
    assert list(fallback.found()) == []
    (foreign,) = (entry for entry in standin.ledger() if entry["email"].startswith("foreign"))
    assert secret_of(store, foreign["email"]) == (foreign["key_id"], foreign["key"])


@pytest.mark.parametrize("opens", [True, False])
def test_an_unproven_key_in_the_fallback_directory_is_tried_before_it_is_used(standin, store, fallback, run, opens):
    lost = lose(standin, run, EMAILS[0])
    key_id, key = keys_of(standin)[EMAILS[0]]
    path = fallback.seal(
        StoredKey(EMAILS[0], key_id, key if opens else "K004wrong", lost.account_id, GROUP, unproven=True)
    )
    for check_mode in (True, False):
        (result,) = run(EMAILS[:1], check_mode=check_mode).results
        assert result.outcome is (Outcome.UNCHANGED if opens else Outcome.KEY_LOST)
        assert opens or path in result.message
    assert [found for found, _variables in fallback.found()] == ([] if opens else [path])


def test_a_key_that_comes_a_second_time_is_doubted(standin, store, run):
    """An answer that says it is about this member, with the account and the key of another one."""
    run(EMAILS[:1])
    (first,) = standin.ledger()
    member = {"accountId": first["account_id"], "email": EMAILS[1], "groupId": GROUP}
    body = {"applicationKeyId": first["key_id"], "applicationKey": first["key"], "groupMember": member}
    standin.faults([{"operation": CREATE, "action": {"kind": "raw", "body": json.dumps(body)}}])
    (result,) = run(EMAILS[1:2]).results
    assert result.outcome is Outcome.KEY_LOST
    assert EMAILS[0] in result.message
    assert store.read(EMAILS[1]) is None


def answering(standin, email, member, execute=True):
    """Let the create of an address be answered with a key of another member as if it were its own."""
    body = {"applicationKeyId": member["applicationKeyId"], "applicationKey": member["applicationKey"]}
    about = {"accountId": member["accountId"], "email": email, "groupId": GROUP}
    answer = {"kind": "raw", "execute": execute, "body": json.dumps({**body, "groupMember": about})}
    standin.faults([{"operation": CREATE, "email": email, "action": answer}])


def test_a_key_that_is_known_as_anothers_is_not_believed_where_the_group_says_nothing(standin, store, run):
    """Nothing was created, and the answer repeats that of another member as if it were this one's."""
    run(EMAILS[:1])
    (first,) = standin.ledger()
    answering(
        standin,
        EMAILS[1],
        {"applicationKeyId": first["key_id"], "applicationKey": first["key"], "accountId": first["account_id"]},
        False,
    )
    (result,) = run(EMAILS[1:2]).results
    assert result.outcome is Outcome.CONFLICT and EMAILS[0] in result.message
    assert store.read(EMAILS[1]) is None


def test_an_answer_with_the_account_of_another_member_that_comes_first_is_found_out(standin, run, monkeypatch):
    """Nothing was created for this address, and when the answer came nobody knew that account; the Group knows it at
    the end."""
    create = Partner.create_member

    def meanwhile(client, group_id, email, *others):
        answering(standin, email, standin.add_member("hosting", "stranger@x.example"), False)
        return create(client, group_id, email, *others)

    with monkeypatch.context() as patch:
        patch.setattr(Partner, "create_member", meanwhile)
        report = run(EMAILS[:1])
    assert report.results[0].outcome is Outcome.CONFLICT and "stranger@x.example" in report.results[0].message
    assert report.notes == ()


def test_a_new_member_that_the_group_does_not_list_is_named(standin, run):
    standin.settings(lag_seconds=3600)
    report = run(EMAILS[:2])
    assert outcomes(report) == dict.fromkeys(EMAILS[:2], "created")
    (note,) = report.notes
    assert EMAILS[0] in note and "1 more" in note


def test_a_part_of_a_key_is_kept_in_its_vault_file(standin, store, secrets, run):
    """Without its id it opens nothing, for nobody; with the rest it may be of use."""
    standin.faults([{"operation": CREATE, "action": {"kind": "truncate", "bytes": 51}}])
    (result,) = run(EMAILS[:1]).results
    assert (result.outcome, result.path) == (Outcome.KEY_LOST, store.file(EMAILS[0]))
    assert secret_of(store, EMAILS[0]) == ("", standin.ledger()[0]["key"]) and aside(store, secrets) == {}


def test_an_account_that_is_known_under_another_address_is_never_ejected(standin, make_client, store, fallback):
    """Not even at the user's word: the journal or the listing has it wrong."""
    account = standin.add_member("hosting", "other@x.example")["accountId"]
    step = Step(Wanted(EMAILS[0]), Outcome.CREATED, replaces=Member(account, EMAILS[0], GROUP))
    plan = Plan(GROUP, (step,), (), {}, {account: "other@x.example"})
    store.prove(EMAILS[:1], write=True)
    with store.locked(GROUP, 0.0, lambda seconds: None) as state:
        journal = Journal(state, store.state_path(GROUP))
        workers = workers_module.Workers(
            make_client(standin), Job(GROUP, [Wanted(EMAILS[0])], REPLACE), plan, store, fallback, journal, Stop()
        )
        [result] = list(workers.act().values())
        journal.finish()
    assert result.outcome is Outcome.KEY_LOST and "other@x.example" in result.message
    assert "b2_eject_group_member" not in standin.state()["calls"]


def test_an_answer_that_is_right_in_itself_and_about_another_account_is_held_against_the_group(
    standin, run, monkeypatch
):
    """The Group says what account an address is; somebody else's account came into the Group after the run had listed
    it."""
    create = Partner.create_member

    def meanwhile(client, group_id, email, *others):
        answering(standin, email, standin.add_member("hosting", "stranger@x.example"))
        return create(client, group_id, email, *others)

    with monkeypatch.context() as patch:
        patch.setattr(Partner, "create_member", meanwhile)
        (result,) = run(EMAILS[:1]).results
    (account_id,) = members_named(standin, EMAILS[0])
    assert result.outcome is Outcome.CONFLICT
    assert result.member.account_id == account_id and account_id in result.message
    assert outcomes(run(EMAILS[:1])) == {EMAILS[0]: "conflict"}


@pytest.mark.parametrize("whose", ["listed", "sealed in this run"])
def test_a_look_up_that_names_anothers_account_has_nobody_ejected(standin, run, whose):
    """Our create has no answer, and the listing calls the account of somebody else ours."""
    other = EMAILS[1] if whose == "sealed in this run" else "other@x.example"
    if whose == "listed":
        standin.add_member("hosting", other)
    wanted = [EMAILS[1], EMAILS[0]] if whose == "sealed in this run" else EMAILS[:1]
    lie = {"groupMembers": {"0": {"email": EMAILS[0]}}}
    standin.faults(
        [
            {"operation": CREATE, "email": EMAILS[0], "times": None, "action": {"kind": "cut_before"}},
            {
                "operation": "b2_list_group_members",
                "email": EMAILS[0],
                "times": None,
                "action": {"kind": "patch", "body": lie},
            },
        ]
    )
    results = {result.email: result for result in run(wanted, policy=RECREATE, concurrency=1).results}
    assert results[EMAILS[0]].outcome in (Outcome.KEY_LOST, Outcome.NOT_ATTEMPTED)
    assert "b2_eject_group_member" not in standin.state()["calls"]
    assert len(members_named(standin, other)) == 1


def test_an_old_answer_after_an_eject_is_not_taken_for_the_new_one(standin, run):
    standin.faults([{"operation": CREATE, "action": {"kind": "cut_after"}}])
    create, old = Partner.create_member, []

    def repeating(client, group_id, email, *others):
        if others and others[-1]:
            entry = standin.ledger()[0]
            old.append(entry["account_id"])
            answering(
                standin,
                email,
                {"applicationKeyId": entry["key_id"], "applicationKey": entry["key"], "accountId": entry["account_id"]},
            )
        return create(client, group_id, email, *others)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Partner, "create_member", repeating)
        (result,) = run(EMAILS[:1], policy=RECREATE).results
    assert old == [result.ejected]
    assert result.outcome is Outcome.KEY_LOST and result.member.account_id != result.ejected


def test_new_keys_are_tried_where_stored_ones_are(standin, store, run):
    """A secret of another account, under the right id: nothing in the answer shows it."""
    standin.faults(
        [{"operation": CREATE, "email": EMAILS[0], "action": {"kind": "foreign", "parts": ["applicationKey"]}}]
    )
    report = run(EMAILS[:2], policy=Policy(verify_keys=True))
    assert outcomes(report) == {EMAILS[0]: "key_dead", EMAILS[1]: "created"}
    assert standin.state()["calls"]["b2_authorize_account"] == 1 + 3 + 1


@pytest.mark.parametrize("kind", ["killed before anything", "killed before its report"])
def test_a_lost_key_stays_news_until_a_run_has_delivered_its_report(standin, store, run, kind):
    """A run that found out and was killed has told nobody, whatever is in its journal."""
    if kind == "killed before anything":
        leave_open(store, standin.groups["hosting"], EMAILS[0])
        standin.add_member("hosting", EMAILS[0])
    else:
        standin.faults([{"operation": CREATE, "email": EMAILS[0], "action": {"kind": "cut_after"}}])
        assert outcomes(run(EMAILS[:1], told=False)) == {EMAILS[0]: "key_lost"}
    for _run in range(2):
        # Both when the address is wanted and when it is not.
        assert [one.known for one in run(EMAILS[:1], told=False).results] == [False]
        assert [(one.email, one.known) for one in run(EMAILS[1:2], told=False).settled] == [(EMAILS[0], False)]
    run(EMAILS[:1])
    assert [one.known for one in run(EMAILS[:1]).results] == [True]
    assert [(one.email, one.known) for one in run(EMAILS[1:2]).settled] == [(EMAILS[0], True)]


def test_a_forged_journal_has_no_account_ejected(standin, store, run):
    """Anybody who can push to the branch, or write on the target host, can write that we lost the key of a live
    account."""
    there = standin.add_member("hosting", EMAILS[0])
    run(EMAILS[1:2])
    forged = {
        "event": "lost",
        "email": EMAILS[0],
        "group_id": standin.groups["hosting"],
        "account_id": there["accountId"],
    }
    with open(os.path.join(store.state_path(GROUP), "journal.jsonl"), "a", encoding="utf-8") as journal:
        journal.write(json.dumps(forged) + "\n" + json.dumps({**forged, "event": "ejecting"}) + "\n")
    for _run in range(2):
        assert outcomes(run(EMAILS[:1], policy=RECREATE)) == {EMAILS[0]: "key_lost"}
    assert members_named(standin, EMAILS[0]) == [there["accountId"]]
    assert "b2_eject_group_member" not in standin.state()["calls"]


def test_an_account_that_is_not_ours_is_never_replaced(standin, run):
    there = standin.add_member("hosting", EMAILS[0])
    report = run(policy=REPLACE)
    assert outcomes(report)[EMAILS[0]] == "key_missing"
    assert [member["account_id"] for member in standin.control("members") if member["email"] == EMAILS[0]] == [
        there["accountId"]
    ]


KINDS = [
    {"kind": "cut_before"},
    {"kind": "cut_after"},
    {"kind": "truncate", "fraction": 0.2},
    {"kind": "truncate", "fraction": 0.8},
    {"kind": "empty"},
    {"kind": "html", "execute": True},
    {"kind": "raw", "body": "[[@BODY@]]"},
    {"kind": "raw", "body": "nonsense @BODY@"},
    {"kind": "patch", "body": {"groupMember": "@NULL@"}},
    {"kind": "patch", "body": {"applicationKey": None}},
    {"kind": "throttle"},
    {"kind": "expire_token"},
    {"kind": "error", "status": 503},
    {"kind": "error", "status": 500, "execute": True},
    {"kind": "error", "status": 401, "code": "invalid_email"},
    {"kind": "error", "status": 403, "code": "access_denied"},
    {"kind": "error", "status": 420, "code": "method_failure"},
]
RULES = st.lists(
    st.builds(
        lambda email, operation, action, times: {
            "operation": operation,
            "action": action,
            "times": times,
            **({"email": email} if operation == CREATE else {}),
        },
        st.sampled_from(EMAILS),
        st.sampled_from([CREATE, CREATE, CREATE, "b2_list_group_members"]),
        st.sampled_from(KINDS[:1] + KINDS[10:13]) | st.sampled_from(KINDS),
        st.integers(1, 3),
    ).filter(lambda rule: rule["operation"] == CREATE or rule["action"] in (KINDS[0], KINDS[10], KINDS[11], KINDS[12])),
    max_size=6,
)


@settings(max_examples=30)
@given(rules=RULES)
def test_whatever_the_service_does_each_member_has_an_outcome_and_no_key_that_arrived_is_lost(
    standin, store, run, rules
):
    standin.reset()
    for where, _directories, names in os.walk(store.path):
        for name in names:
            os.unlink(os.path.join(where, name))
    standin.faults(rules)
    try:
        first = run()
    except B2Error:
        # Before the first change, and only there, a run may end without an outcome for each.
        assert CREATE not in standin.state()["calls"]
        first = None
    standin.faults([])
    second = run()
    for report in filter(None, (first, second)):
        assert [result.email for result in report.results] == EMAILS
        for result in report.results:
            if result.outcome in (Outcome.CREATED, Outcome.UNCHANGED):
                assert store.read(result.email).key_id
    ledger = standin.ledger()
    # Never two accounts for one address, and each is told of.
    assert len({entry["email"] for entry in ledger}) == len(ledger)
    stored = {email: secret_of(store, email)[1] for email in EMAILS}
    for entry in ledger:
        if entry["delivered"]:
            assert stored[entry["email"]] == entry["key"]
        elif not stored[entry["email"]]:
            assert outcomes(second)[entry["email"]] in ("key_lost", "key_missing")
    # Where nothing stood in the way any more, every member that was not there is now.
    assert {account["email"] for account in standin.state()["accounts"]} == set(EMAILS)


def test_an_account_is_not_ejected_after_the_wish_to_stop(standin, store, run, monkeypatch):
    there = lose(standin, run, EMAILS[0])
    stop, ejecting = Stop(), Journal.ejecting
    monkeypatch.setattr(
        Journal, "ejecting", lambda self, *args: [ejecting(self, *args), stop.ask("it received SIGTERM")]
    )
    report = run(EMAILS[:1], policy=RECREATE, stop=stop)
    assert outcomes(report) == {EMAILS[0]: "key_lost"} and not report.results[0].changed
    assert "b2_eject_group_member" not in standin.state()["calls"]
    assert members_named(standin, EMAILS[0]) == [there.account_id]


def test_an_unreadable_fallback_directory_does_not_count_as_empty(standin, store, fallback, run):
    """There may be the key of an account that would else count as one whose key is lost."""
    leave_open(store, standin.groups["hosting"], EMAILS[0])
    standin.add_member("hosting", EMAILS[0])
    os.symlink(fallback.path, fallback.path)
    with pytest.raises(StoreError, match="cannot be read"):
        run(EMAILS[:1], policy=RECREATE)
    assert next(iter(still_open(store, standin.groups["hosting"]).values())).account_id == ""
    os.unlink(fallback.path)
    assert outcomes(run(EMAILS[:1])) == {EMAILS[0]: "key_lost"}


def test_keys_that_were_moved_away_while_a_run_waited_for_the_lock_are_not_missing(
    standin, run, tmp_path, secrets, monkeypatch
):
    """Least of all is their account replaced, though an earlier run had it down as lost."""
    sealer, group_id, vault_dir = Sealer(secrets), standin.groups["hosting"], str(tmp_path / "host_vars")
    run(EMAILS[:1])
    store = open_store("host_vars", vault_dir, sealer, group_id)
    account_id = store.stored()[EMAILS[0]].account_id
    with store.locked(group_id, 0.0, lambda seconds: None) as state:
        journal = Journal(state, store.state_path(group_id))
        journal.lost(group_id, EMAILS[0], account_id)
        journal.finish()
    locked = VaultDir.locked

    @contextlib.contextmanager
    def late(self, *args):
        monkeypatch.setattr(VaultDir, "locked", locked)
        assert len(move_keys(Move("group_vars", vault_dir, vault_dir), sealer).moved) == 1
        with locked(self, *args) as state:
            yield state

    monkeypatch.setattr(VaultDir, "locked", late)
    with pytest.raises(StoreError, match="b2_vault_layout"):
        run(EMAILS[:1], policy=RECREATE, store=store)
    assert members_named(standin, EMAILS[0]) == [account_id]


# What somebody else does to keys on another machine


class There(RemoteCopy):
    """A remote copy whose target host is a directory of this machine.

    meddle: a change by somebody else before the keys are confirmed. closed: operations that fail after that change.
    """

    def __init__(self, copy, there, meddle=lambda there: None, closed=()):
        super().__init__(copy, Target("srv1", str(there), self.execute))
        self.there, self.meddle = there, meddle
        self.closing, self.closed = closed, ()

    def execute(self, arguments):
        if arguments["operation"] in self.closed:
            return {"failed": True, "msg": "Closed for today."}
        options = {"bundle": None, "group": None, "lease": None, "instead_of": None, **arguments}
        return b2_vault_files.run(options)

    def confirm(self):
        self.meddle(self.there)
        self.closed = self.closing
        return super().confirm()


@pytest.fixture(params=["host_vars", "group_vars"])
def place_of(request, tmp_path, secrets, monkeypatch):
    """Give a store of the keys on a host, whose first run is meddled with."""
    monkeypatch.setattr(remote_copy_module, "_GATHER_SECONDS", 0.001)

    def make(**meddling):
        location = There(str(tmp_path / f"copy{os.urandom(4).hex()}"), tmp_path / "there", **meddling)
        if request.param == "host_vars":
            return HostVarsStore(location.copy, Sealer(secrets), location=location)
        return GroupVarsStore(location.copy, Sealer(secrets), GROUP, location)

    return make


def remove_keys(there):
    for path in there.glob("*/*b2_vault.yml*"):
        path.unlink()


def replace_keys(there, sealer, change=lambda text: b"a: b\n"):
    for path in there.glob("*/b2_vault.yml"):
        path.write_bytes(sealer.seal(change(path.read_bytes())))


def test_a_key_that_is_gone_at_the_end_is_put_back(standin, run, place_of, fallback):
    report = run(store=place_of(meddle=remove_keys))
    assert outcomes(report) == dict.fromkeys(EMAILS, "created") and not report.notes and not list(fallback.found())
    assert {one.message for one in report.results} == {""}
    assert outcomes(run(store=place_of())) == dict.fromkeys(EMAILS, "unchanged")


def test_a_key_that_is_gone_and_cannot_be_put_back_is_in_the_fallback_directory(standin, run, place_of, fallback):
    report = run(store=place_of(meddle=remove_keys, closed=("write",)))
    assert outcomes(report) == dict.fromkeys(EMAILS, "created")
    there = dict(fallback.found())
    assert {one.email: there[one.path].key for one in report.results} == {
        one["email"]: one["key"] for one in standin.ledger()
    }
    for one in report.results:
        assert f"The key of {one.email} is gone from " in one.message
        assert (
            f"cannot be written again: On srv1: Closed for today. It was stored in {one.path}. The next run moves "
            "it to its file." in one.message
        )
    store = place_of()
    report = run(store=store)
    assert outcomes(report) == dict.fromkeys(EMAILS, "unchanged") and not list(fallback.found())
    assert {email: secret_of(store, email)[1] for email in EMAILS} == {
        one["email"]: one["key"] for one in standin.ledger()
    }


@pytest.mark.parametrize("rekeyed", [False, True])
def test_a_key_that_was_replaced_is_in_the_fallback_directory(standin, run, place_of, fallback, secrets, rekeyed):
    """Also if the file has the key still, but under a password that this run does not know."""

    def replace(there):
        if rekeyed:
            theirs = Sealer([("default", VaultSecret(b"of somebody else"))])
            replace_keys(there, theirs, lambda sealed: Sealer(secrets).open(sealed, ""))
        else:
            replace_keys(there, Sealer(secrets))

    report = run(store=place_of(meddle=replace))
    assert outcomes(report) == dict.fromkeys(EMAILS, "created") and len(list(fallback.found())) == len(EMAILS)
    assert all("somebody else has changed the file. It was stored in" in one.message for one in report.results)


def test_a_key_in_a_file_that_its_owner_has_changed_is_not_gone(standin, run, place_of, fallback, secrets):
    def edit(there):
        # Only blank lines: a file of a Group is this collection's alone.
        replace_keys(there, Sealer(secrets), lambda sealed: Sealer(secrets).open(sealed, "") + b"\n\n")

    store = place_of(meddle=edit)
    report = run(store=store)
    assert outcomes(report) == dict.fromkeys(EMAILS, "created") and not report.notes and not list(fallback.found())
    assert {one.message for one in report.results} == {""}
    assert {one.path for one in report.results} == {store.file(email) for email in EMAILS}
    for path in store.location.there.glob("*/b2_vault.yml"):
        assert Sealer(secrets).open(path.read_bytes(), "").endswith(b"\n\n")
    assert outcomes(run(store=place_of())) == dict.fromkeys(EMAILS, "unchanged")


def test_only_the_key_that_is_not_in_a_changed_file_is_gone(standin, run, tmp_path, secrets, fallback, monkeypatch):
    monkeypatch.setattr(remote_copy_module, "_GATHER_SECONDS", 0.001)

    def take_out(there):
        theirs = GroupVarsStore(str(there), Sealer(secrets), GROUP)
        assert theirs.remove({EMAILS[1]: theirs.keys()[EMAILS[1]]}) == {EMAILS[1]}

    location = There(str(tmp_path / "copy"), tmp_path / "there", take_out)
    store = GroupVarsStore(location.copy, Sealer(secrets), GROUP, location)
    report = run(store=store)
    assert outcomes(report) == dict.fromkeys(EMAILS, "created")
    ((path, variables),) = fallback.found()
    paths = {one.email: one.path for one in report.results}
    assert paths == {**dict.fromkeys(EMAILS, store.file(EMAILS[0])), EMAILS[1]: path}
    assert {one.email for one in report.results if one.message} == {EMAILS[1]} and variables.email == EMAILS[1]


def test_a_key_that_is_gone_and_goes_nowhere_is_lost(standin, run, place_of, tmp_path, secrets):
    (tmp_path / "file").write_text("")
    nowhere = FallbackStore(str(tmp_path / "file" / "fallback"), Sealer(secrets))
    report = run(store=place_of(meddle=remove_keys, closed=("write",)), fallback=nowhere)
    assert outcomes(report) == dict.fromkeys(EMAILS, "key_lost")
    for one in report.results:
        assert not one.path and f"the key of account {one.member.account_id} is lost: " in one.message


def test_keys_that_cannot_be_confirmed_are_remarked(standin, run, place_of):
    report = run(store=place_of(closed=("read",)))
    assert outcomes(report) == dict.fromkeys(EMAILS, "created") and {one.message for one in report.results} == {""}
    (note,) = report.notes
    assert note.startswith("The keys of this run could not be confirmed: ") and "Closed for today." in note


def test_a_doubtful_key_that_is_gone_is_in_the_fallback_directory(standin, run, place_of, fallback):
    broken = {
        "operation": "b2_authorize_account",
        "email": EMAILS[0],
        "times": None,
        "action": {"kind": "error", "status": 500},
    }
    standin.faults(
        [
            {"operation": CREATE, "action": {"kind": "patch", "body": {"groupMember": {"email": "mallory@x.example"}}}},
            broken,
        ]
    )
    report = run(EMAILS[:1], store=place_of(meddle=remove_keys, closed=("write",)))
    ((path, variables),) = fallback.found()
    assert report.results[0].path == path and "The next run tries it." in report.results[0].message
    assert variables.unproven and outcomes(report) == {EMAILS[0]: "conflict"}
    standin.faults([])
    assert outcomes(run(EMAILS[:1], store=place_of())) == {EMAILS[0]: "unchanged"} and not list(fallback.found())


def test_a_key_that_was_moved_to_its_vault_file_and_removed_goes_back(standin, run, place_of, fallback, monkeypatch):
    store = place_of()
    with monkeypatch.context() as broken:
        broken.setattr(store, "seal", lambda new, again=False: store.file(1 / 0))
        assert outcomes(run(EMAILS[:1], store=store)) == {EMAILS[0]: "created"}
    report = run(EMAILS[:1], store=place_of(meddle=remove_keys, closed=("write",)))
    ((path, variables),) = fallback.found()
    assert report.results[0].path == path and variables.key == standin.ledger()[0]["key"]
    assert outcomes(run(EMAILS[:1], store=place_of())) == {EMAILS[0]: "unchanged"}


@pytest.mark.parametrize(("amiss", "when"), [("removed", 2), ("replaced", 2), ("replaced", 3)])
def test_keys_of_a_group_that_are_gone_at_the_end_are_named(
    standin, make_client, place_of, fallback, secrets, amiss, when
):
    """Somebody else removes the keys while the second Group is under way, and then nothing can be written.

    Or the keys are replaced then, or after that.
    """
    ids = [standin.groups["hosting"], standin.add_group("other")["id"]]
    store = place_of()
    location, confirmed = store.location, []
    stores = [
        store,
        store if isinstance(store, HostVarsStore) else GroupVarsStore(location.copy, Sealer(secrets), ids[1], location),
    ]

    def meddle(there):
        confirmed.append(there)
        if len(confirmed) == when and amiss == "removed":
            remove_keys(there)
            location.closing = ("write",)
        elif len(confirmed) == when:
            replace_keys(there, Sealer(secrets))

    location.meddle = meddle
    done = provision_all(make_client(standin), ids, stores, fallback)
    results = [one for _plan, report in done for one in report.results]
    there = dict(fallback.found())
    assert {one.outcome.value for one in results} == {"created"} and len(there) == 4
    assert {one.email: there[one.path].key for one in results} == {one["email"]: one["key"] for one in standin.ledger()}


@pytest.mark.parametrize("new", [True, False])
def test_keys_of_earlier_runs_that_were_removed_are_named(standin, make_client, run, place_of, secrets, fallback, new):
    """They are not written again. A run that stores no key does not read the location once more."""
    run(EMAILS, store=place_of())
    store = place_of(meddle=remove_keys)
    location = store.location
    stores, ids = [store], [standin.groups["hosting"]]
    if new:
        ids.append(standin.add_group("other")["id"])
        host_vars = isinstance(store, HostVarsStore)
        stores.append(store if host_vars else GroupVarsStore(location.copy, Sealer(secrets), ids[1], location))
    emails = EMAILS, ["b@x.example"]
    jobs = [
        (Job(group_id, [Wanted(email) for email in wanted], vault_lock_timeout=0.0), one)
        for group_id, wanted, one in zip(ids, emails, stores, strict=False)
    ]
    client = make_client(standin)
    done = provision_groups(client, jobs, fallback, Stop())
    client.close()
    report, *rest = (report for _plan, report in done)
    assert outcomes(report) == dict.fromkeys(EMAILS, "unchanged") and len(report.notes) == new
    assert [(outcomes(one), one.notes) for one in rest] == [({"b@x.example": "created"}, ())] * new
    for note in report.notes:
        others = len({one.path for one in report.results}) - 1
        files = f"{store.file(EMAILS[0])}{f' and {others} more' if others else ''}"
        assert f"During this run the keys of 5 members were removed from {location.copy}: {files}. " in note
        assert note in summary(WantedGroup(GROUP, "", ()), *done[0], "fail")["warnings"]
    assert len(list(location.there.glob("*/b2_vault.yml"))) == new


def test_a_key_that_is_lost_after_the_last_group_is_in_the_journal(
    standin, make_client, run, place_of, tmp_path, secrets
):
    """Somebody else replaces the files while the second Group is under way. The next run can recreate the member."""
    ids = [standin.groups["hosting"], standin.add_group("other")["id"]]
    (tmp_path / "file").write_text("")
    nowhere = FallbackStore(str(tmp_path / "file" / "fallback"), Sealer(secrets))
    store, confirmed = place_of(), []
    location = store.location
    other = (
        store if isinstance(store, HostVarsStore) else GroupVarsStore(location.copy, Sealer(secrets), ids[1], location)
    )

    def meddle(there):
        confirmed.append(there)
        if len(confirmed) == 2:
            replace_keys(there, Sealer(secrets))

    location.meddle = meddle
    emails = EMAILS[:1], ["b@x.example"]
    jobs = [
        (Job(group_id, [Wanted(email) for email in wanted], vault_lock_timeout=0.0), one)
        for group_id, wanted, one in zip(ids, emails, (store, other), strict=True)
    ]
    client = make_client(standin)
    done = provision_groups(client, jobs, nowhere, Stop())
    mark_told(jobs, done)
    client.close()
    assert [outcomes(report) for _plan, report in done] == [dict.fromkeys(one, "key_lost") for one in emails]
    remove_keys(location.there)
    (lost,) = done[0][1].results
    (again,) = run(EMAILS[:1], policy=REPLACE, store=place_of()).results
    assert (again.outcome.value, again.ejected) == ("created", lost.member.account_id)


def test_a_file_that_another_run_has_changed_meanwhile_holds_its_keys(
    standin, make_client, place_of, fallback, secrets
):
    """It adds a member to the first Group while this run is at the second one."""
    ids = [standin.groups["hosting"], standin.add_group("other")["id"]]

    def stores():
        store = place_of()
        if isinstance(store, HostVarsStore):
            return [store, store]
        location = store.location
        return [store, GroupVarsStore(location.copy, Sealer(secrets), ids[1], location)]

    ours, theirs, confirmed, added = stores(), stores(), [], []

    def meddle(there):
        confirmed.append(there)
        if len(confirmed) == 2:
            job = Job(ids[0], [Wanted("c@x.example")], vault_lock_timeout=0.0)
            added.append(provision(client, job, theirs[0], fallback, Stop())[1])

    ours[0].location.meddle = meddle
    client = make_client(standin)
    done = provision_all(client, ids, ours, fallback)
    results = [one for _plan, report in done for one in report.results]
    assert outcomes(added[0]) == {"c@x.example": "created"} and not list(fallback.found())
    assert {(one.outcome.value, one.message) for one in results} == {("created", "")}
    local = stores()
    local[0].location.fetch()
    sealed = {"c@x.example": secret_of(local[0], "c@x.example")[1]}
    for store, (_plan, report) in zip(local, done, strict=True):
        sealed.update((one.email, secret_of(store, one.email)[1]) for one in report.results)
    assert sealed == {one["email"]: one["key"] for one in standin.ledger()}
