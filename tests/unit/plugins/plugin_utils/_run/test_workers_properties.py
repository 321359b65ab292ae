# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Hold a worker against a model: for each answer to a create, what is stored, what the journal says, and the result.

The client, the store, the fallback directory and the journal are small stand-ins that write down what is done to them,
in order.
"""

from __future__ import annotations

import dataclasses
import types

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.community.backblaze.plugins.module_utils._errors import (
    GROUP_CODES,
    ApiError,
    B2Error,
    KeyLostError,
    MemberExistsError,
    NetworkError,
    StoppedError,
    StoreError,
)
from ansible_collections.community.backblaze.plugins.module_utils._members import Member, NewMember, Proof
from ansible_collections.community.backblaze.plugins.module_utils._plan import Outcome, Settled, Step, Wanted
from ansible_collections.community.backblaze.plugins.plugin_utils._run import workers as workers_module
from ansible_collections.community.backblaze.plugins.plugin_utils._run.job import Job, Plan, Policy, Stop
from ansible_collections.community.backblaze.plugins.plugin_utils._run.workers import Workers
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.key_file import StoredKey, key_of

GROUP, EMAIL, OTHER = "100001", "ada@example.com", "bob@example.com"
OLD, NEW, FOREIGN = "old0", "new1", "foreign2"
FILE, UNPROVEN, FALLBACK = f"vault/{EMAIL}", f"vault/{EMAIL}/aside", "fallback/file"
THROWAWAY = f"lost-{OLD}-ada@example.com"
RECREATE = Policy(recreate=True, throwaway="lost-{account_id}-{local}@{domain}")
DELAYS = (0.0, 0.0)


def new_key(account: str = NEW, **fields: object) -> NewMember:
    return NewMember(Member(account, EMAIL, GROUP), f"id-{account}", f"key-{account}", **fields)


def refused(code: str = "invalid_email") -> ApiError:
    return ApiError("b2_create_group_member", 401, code, "")


def may_have_acted() -> B2Error:
    error = NetworkError("No answer.", sent=True)
    error.may_have_acted = True
    return error


class World:
    """Everything that a worker works with, and the log of all that it did."""

    def __init__(self, answers, *, failures=0, fallback_fails=False, in_fallback=False, left=None, proof=None):
        self.log: list[tuple[str, ...]] = []
        self.journal_fails: set[str] = set()
        self.open: dict[str, tuple[str, str]] = {}
        self.answers, self.failures, self.left, self.proof_found = list(answers), failures, left, proof
        self.fallback_fails, self.in_fallback = fallback_fails, in_fallback
        self.stop = Stop()
        self.keys: dict[str, str] = {}
        self.stored: dict[str, StoredKey] = {}
        self.directory, self.path = types.SimpleNamespace(path="vault"), "vault"
        self.unproven = types.SimpleNamespace(put=self.put, discard=lambda path: self.drop("discard", path))

    # The client

    def create_member(self, group_id, email, region, may_create, replaced=""):
        may_create()
        assert group_id == GROUP
        # The journal says so on disk before anything is sent.
        assert self.open[email][0] == "pending"
        self.log.append(("create", email, region or "", replaced))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def eject_member(self, group_id, account_id, new_email, may_eject):
        may_eject()
        assert (group_id, self.open[EMAIL]) == (GROUP, ("ejecting", account_id))
        self.log.append(("eject", account_id, new_email))
        if isinstance(self.left, Exception):
            raise self.left
        return self.left

    def prove(self, group_id, new):
        # Nothing is asked about a key before it is on disk.
        assert group_id == GROUP
        assert new.key in self.keys.values()
        self.log.append(("prove", new.member.email))
        return self.proof_found

    # The store and the fallback directory

    def file(self, email):
        return f"vault/{email}"

    def write(self, path, key):
        if self.failures:
            self.failures -= 1
            raise StoreError("The disk is full.")
        self.keys[path], self.stored[path] = key.key, key
        self.log.append(("store", path, key.account_id))
        return path

    def seal(self, key, *, again=False):
        return self.write(self.file(key.email), key)

    def put(self, email, key):
        return self.write(f"vault/{email}/aside", key)

    def drop(self, verb, path):
        del self.keys[path]
        self.log.append((verb, path))

    def fallback_seal(self, key):
        if self.fallback_fails:
            raise StoreError("The fallback directory is full.")
        self.keys[FALLBACK] = key.key
        self.log.append(("store", FALLBACK, key.account_id))
        return FALLBACK

    # The journal

    def note(self, event, group_id, email, account_id="", path=""):
        assert group_id == GROUP
        if event in self.journal_fails:
            raise StoreError("The journal cannot be written.")
        self.log.append((event, email, account_id, path))
        self.open[email] = (event, account_id)

    def close(self, group_id, email, *, sync=True):
        assert group_id == GROUP
        self.log.append(("close", email, "synced" if sync else "", ""))
        self.open.pop(email, None)

    def run(self, steps, *, policy=Policy(), open_before=None, accounts=None, concurrency=1):
        journal = types.SimpleNamespace(close=self.close)
        for event in ("pending", "presumed", "lost", "ejecting", "fallback"):
            setattr(journal, event, lambda *args, event=event: self.note(event, *args))
        fallback = types.SimpleNamespace(
            seal=self.fallback_seal,
            remove=lambda path: self.drop("remove", path),
            paths=lambda: {NEW: FALLBACK} if self.in_fallback else {},
        )
        settled = () if open_before is None else (Settled(EMAIL, Outcome.ABSENT, open_before),)
        plan = Plan(GROUP, tuple(steps), settled, {}, accounts or {})
        job = Job(GROUP, [step.wanted for step in steps], policy, concurrency)
        return Workers(self, job, plan, self, fallback, journal, self.stop).act()

    def did(self, *verbs):
        return [entry[0] for entry in self.log if entry[0] in verbs]


CREATE = Step(Wanted(EMAIL, "us-east"), Outcome.CREATED)


@pytest.fixture(autouse=True)
def no_delays(monkeypatch):
    monkeypatch.setattr(workers_module, "STORE_DELAYS", DELAYS)


@given(st.integers(0, 4), st.booleans(), st.booleans())
def test_a_key_is_stored_before_anything_else(failures, fallback_fails, verify):
    world = World([new_key()], failures=failures, fallback_fails=fallback_fails, proof=Proof(NEW))
    result = world.run([CREATE], policy=Policy(verify_keys=verify))[EMAIL]
    assert world.log[:2] == [("pending", EMAIL, "", ""), ("create", EMAIL, "us-east", "")]
    assert result.made and result.member == new_key().member
    if failures <= len(DELAYS):
        path, said = FILE, [("close", EMAIL, "", "")]
    elif not fallback_fails:
        path, said = FALLBACK, [("fallback", EMAIL, NEW, FALLBACK)]
    else:
        assert (result.outcome, result.path, world.keys) == (Outcome.KEY_LOST, "", {})
        assert world.open[EMAIL] == ("lost", NEW)
        assert NEW in result.message and "The disk is full." in result.message and "directory is full" in result.message
        assert "vault" in world.stop.reason
        return
    # A key that was in the fallback directory and opens the account gets a last chance to reach its file.
    if verify and path == FALLBACK:
        path = FILE if failures == len(DELAYS) + 1 else FALLBACK
        assert world.log[2] == ("store", FALLBACK, NEW)
        assert world.did("remove") == (["remove"] if path == FILE else [])
        assert world.open.get(EMAIL) == (None if path == FILE else ("fallback", NEW))
    else:
        assert world.log[2] == ("store", path, NEW)
        assert world.log[-1:] == said
    assert world.did("prove") == (["prove"] if verify else [])
    assert (result.outcome, result.path) == (Outcome.CREATED, path)
    assert world.keys == {path: new_key().key}
    assert bool(world.stop.reason) is (failures > len(DELAYS))
    if failures > len(DELAYS):
        assert "The disk is full." in result.message
    else:
        assert result.message == ""


@given(st.sampled_from([None, "", NEW, FOREIGN]), st.booleans())
def test_an_address_that_is_taken_is_ours_only_by_the_journal(open_before, in_fallback):
    member = Member(NEW, EMAIL, GROUP)
    world = World([MemberExistsError(member)], in_fallback=in_fallback)
    result = world.run([CREATE], open_before=open_before, policy=RECREATE)[EMAIL]
    ours = open_before in ("", NEW)
    assert result.member == member
    assert not result.made and not result.ejected
    assert world.did("eject") == []
    if in_fallback:
        assert (result.outcome, world.open[EMAIL][0]) == (Outcome.KEY_MISSING, "pending")
        assert FALLBACK in result.message
    elif ours:
        assert (result.outcome, world.open[EMAIL]) == (Outcome.KEY_LOST, ("presumed", NEW))
    else:
        assert (result.outcome, world.open) == (Outcome.KEY_MISSING, {})


ERRORS = [refused(), may_have_acted(), NetworkError("No connection.", sent=False), StoppedError()]


@pytest.mark.parametrize("open_before", [None, "", OLD])
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: f"{type(error).__name__}-{error.may_have_acted}")
def test_the_journal_forgets_only_what_cannot_have_happened(error, open_before):
    world = World([error])
    result = world.run([CREATE], open_before=open_before)[EMAIL]
    assert not result.made and result.member is None
    assert result.message
    # A line that an earlier run has left open stays, and so does one of a create that may be executed.
    closed = not error.may_have_acted and open_before is None
    assert (EMAIL in world.open) is not closed
    if closed:
        assert world.log[-1] == ("close", EMAIL, "synced", "")
    expected = (
        (Outcome.REFUSED, "invalid_email", 401) if isinstance(error, ApiError) else (Outcome.NOT_ATTEMPTED, "", 0)
    )
    assert (result.outcome, result.code, result.status) == expected


@given(
    account=st.sampled_from(["", OLD]),
    recreate=st.booleans(),
    known=st.booleans(),
    left=st.sampled_from([None, Member(OLD, THROWAWAY), Member(OLD, "x@y"), Member(OLD, ""), refused("bad_request")]),
    again=st.sampled_from([new_key(), refused(), KeyLostError(EMAIL, NEW, "cut"), StoppedError()]),
)
def test_only_an_account_of_this_run_is_replaced_and_only_once(account, recreate, known, left, again):
    world = World([KeyLostError(EMAIL, account, "cut"), again], left=left)
    policy = RECREATE if recreate else Policy(throwaway=RECREATE.throwaway)
    result = world.run([CREATE], policy=policy, accounts={OLD: OTHER} if known else {})[EMAIL]
    ours = account and not known
    if not (ours and recreate):
        assert world.did("eject", "ejecting") == []
        assert (result.outcome, bool(result.made), result.ejected) == (Outcome.KEY_LOST, bool(ours), "")
        assert world.open[EMAIL] == (("lost", OLD) if ours else ("pending", ""))
        assert (OTHER in result.message) is bool(account and known)
        assert result.member == (Member(OLD, EMAIL, GROUP) if ours else None)
        return
    assert world.log[3:5] == [("ejecting", EMAIL, OLD, ""), ("eject", OLD, THROWAWAY)]
    assert OLD in result.message
    if isinstance(left, Exception):
        assert (result.outcome, result.ejected, result.member.account_id) == (Outcome.KEY_LOST, "", OLD)
        assert world.open[EMAIL] == ("ejecting", OLD)
        assert world.did("create") == ["create"]
        return
    assert ("create", EMAIL, "us-east", OLD) in world.log
    assert world.did("eject") == ["eject"]
    assert (result.ejected, result.changed) == (OLD, True)
    named = left.email if left else ""
    assert ("left the Group already" in result.message) is (left is None)
    if left:
        assert (named or THROWAWAY) in result.message
        assert (f"was ejected as {THROWAWAY};" in result.message) is (named == THROWAWAY)
    if isinstance(again, NewMember):
        assert (result.outcome, result.path, world.keys) == (Outcome.CREATED, FILE, {FILE: again.key})
    elif isinstance(again, ApiError):
        assert result.outcome is Outcome.REFUSED
        assert f"did not free the address {EMAIL}" in result.message
    elif isinstance(again, KeyLostError):
        assert (result.outcome, result.member.account_id) == (Outcome.KEY_LOST, NEW)
        assert world.open[EMAIL] == ("lost", NEW)
    else:
        assert result.outcome is Outcome.NOT_ATTEMPTED


@pytest.mark.parametrize("known", [False, True])
def test_a_step_that_replaces_ejects_first(known):
    lost = Member(OLD, EMAIL, GROUP)
    world = World([new_key()], left=Member(OLD, THROWAWAY))
    step = dataclasses.replace(CREATE, replaces=lost)
    result = world.run([step], policy=RECREATE, accounts={OLD: OTHER if known else EMAIL})[EMAIL]
    if known:
        assert (world.log, result.outcome, result.member) == ([], Outcome.KEY_LOST, lost)
        assert OTHER in result.message and OLD in result.message
    else:
        assert world.did("ejecting", "eject", "pending", "create") == ["ejecting", "eject", "pending", "create"]
        assert (result.outcome, result.ejected) == (Outcome.CREATED, OLD)


@pytest.mark.parametrize("stops", [False, True])
def test_an_account_that_is_ejected_and_not_created_again_is_named(stops, monkeypatch):
    world = World([new_key()], left=Member(OLD, THROWAWAY))
    if stops:
        eject = world.eject_member
        monkeypatch.setattr(world, "eject_member", lambda *args: [eject(*args), world.stop.ask("Ctrl-C")][0])
    else:
        world.journal_fails.add("pending")
    result = world.run([dataclasses.replace(CREATE, replaces=Member(OLD, EMAIL, GROUP))], policy=RECREATE)[EMAIL]
    assert (result.outcome, result.ejected, result.changed) == (Outcome.NOT_ATTEMPTED, OLD, True)
    assert result.message.startswith(f"Account {OLD}, whose key was lost, was ejected as {THROWAWAY}; ")
    assert ("The journal cannot be written." in result.message) is not stops
    assert "None" not in result.message
    assert world.did("create") == []


def test_a_full_group_does_not_stop_the_create_of_an_account_that_was_ejected_for_it(monkeypatch):
    """The ejected account has made room, and without the create its member would be in the Group no more."""
    world = World([new_key()], left=Member(OLD, THROWAWAY))
    workers = []
    stop_early = Workers._stop_early
    monkeypatch.setattr(Workers, "act", lambda self, act=Workers.act: [workers.append(self), act(self)][1])
    eject = world.eject_member
    monkeypatch.setattr(
        world, "eject_member", lambda *args: [eject(*args), stop_early(workers[0], "too_many_members")][0]
    )
    steps = [dataclasses.replace(CREATE, replaces=Member(OLD, EMAIL, GROUP)), Step(Wanted(OTHER), Outcome.CREATED)]
    results = world.run(steps, policy=RECREATE)
    assert (results[EMAIL].outcome, results[EMAIL].ejected) == (Outcome.CREATED, OLD)
    assert world.keys == {FILE: new_key().key}


@pytest.mark.parametrize("code", sorted(GROUP_CODES))
def test_after_a_refusal_about_the_group_nobody_is_ejected_and_keys_are_adopted(monkeypatch, code):
    monkeypatch.setattr(workers_module, "_MORE_WORKERS", 0)
    world = World([refused(code)])
    eve = "eve@example.com"
    steps = [
        CREATE,
        Step(Wanted(OTHER), Outcome.CREATED, replaces=Member(OLD, OTHER, GROUP)),
        Step(Wanted(eve, None, "id", "key"), Outcome.ADOPTED, Member(FOREIGN, eve, GROUP)),
    ]
    results = world.run(steps, policy=RECREATE)
    assert [results[email].outcome for email in (EMAIL, OTHER, eve)] == [
        Outcome.REFUSED,
        Outcome.KEY_LOST,
        Outcome.ADOPTED,
    ]
    assert results[OTHER].member == Member(OLD, OTHER, GROUP) and code in results[OTHER].message
    assert world.did("create", "eject") == ["create"] and world.open == {}


OPENS = [None, "", NEW, FOREIGN]
LISTED = [None, Member(NEW, EMAIL.title(), region="us-west", s3_endpoint="s3.example"), Member(FOREIGN, EMAIL)]


@given(
    doubt=st.sampled_from(["", "Doubtful."]),
    complaint=st.sampled_from(["", "Odd."]),
    named=st.booleans(),
    key_id=st.booleans(),
    opens=st.sampled_from(OPENS),
    listed=st.sampled_from(LISTED),
)
def test_a_key_of_an_odd_answer_is_stored_tried_and_kept(doubt, complaint, named, key_id, opens, listed):
    new = new_key(doubt=doubt, complaint=complaint, named=named)
    new = new if key_id else dataclasses.replace(new, key_id="")
    world = World([new], proof=Proof(opens, listed, "Why."))
    result = world.run([CREATE], policy=Policy(verify_keys=True))[EMAIL]
    first = UNPROVEN if doubt and key_id else FILE
    assert world.log[2] == ("store", first, NEW)
    assert world.log[3] == ("prove", EMAIL)
    # Whatever is found out, the key is on disk, and once.
    assert list(world.keys.values()) == [new.key]
    assert result.made and doubt in result.message and complaint in result.message
    [path] = list(world.keys)
    assert result.path == path
    if not key_id:
        assert (result.outcome, path) == (Outcome.KEY_LOST, FILE)
        assert result.member == (listed or new.member)
        assert world.open[EMAIL] == ("lost", result.member.account_id)
        return
    expected = workers_module.decide_created(new, Proof(opens, listed, "Why."))[0]
    assert result.outcome is expected
    if expected is Outcome.CREATED:
        assert path == FILE
        assert world.open == {}
        owner = listed or new.member
        assert result.member == dataclasses.replace(owner, email=EMAIL, group_id=GROUP)
        # The file has all that is known about the account, and Ansible may load it.
        assert world.stored[FILE] == key_of(dataclasses.replace(new, member=result.member))
        assert not world.stored[FILE].unproven
    elif expected is Outcome.KEY_DEAD:
        assert (path, world.open, result.member) == (FILE, {}, new.member)
    elif expected is Outcome.KEY_LOST:
        assert (path, world.open[EMAIL], result.member) == (first, ("lost", listed.account_id), listed)
        assert path in result.message
    else:
        # The account is not named, because nobody knows whose key it is.
        assert (path, world.open[EMAIL], result.member) == (first, ("fallback", ""), listed)
        assert path in result.message


@pytest.mark.parametrize("fallback_fails", [False, True])
def test_a_doubtful_key_without_room_names_no_account(fallback_fails):
    new = new_key(doubt="Doubtful.")
    world = World([new], failures=9, fallback_fails=fallback_fails, proof=Proof(None, None, "Why."))
    result = world.run([CREATE])[EMAIL]
    assert result.made
    if fallback_fails:
        assert (result.outcome, result.member, world.open[EMAIL][0]) == (Outcome.KEY_LOST, None, "pending")
        assert NEW in result.message and "Doubtful." in result.message
    else:
        assert (result.outcome, result.path, world.open[EMAIL]) == (Outcome.CONFLICT, FALLBACK, ("fallback", ""))


def test_keys_of_other_members_are_stored_too():
    """Each of them is kept with the unproven keys of the address that was asked for, and their accounts are theirs."""
    other = NewMember(Member(FOREIGN, "x@y", GROUP), "id", "key-other")
    world = World([dataclasses.replace(new_key(), others=(other,)), KeyLostError(EMAIL, FOREIGN, "cut")])
    second = dataclasses.replace(CREATE, wanted=Wanted(OTHER))
    results = world.run([CREATE, second], policy=RECREATE)
    assert world.keys == {FILE: new_key().key, UNPROVEN: other.key}
    assert results[EMAIL].outcome is Outcome.CREATED
    assert UNPROVEN in results[EMAIL].message
    # An account that belongs to another member is never ejected.
    assert world.did("eject") == []
    assert (results[OTHER].outcome, results[OTHER].made) == (Outcome.KEY_LOST, False)


@pytest.mark.parametrize("repeated", ["key", "key_id", "account"])
def test_a_key_that_arrives_twice_is_doubted(repeated):
    first = new_key()
    second = {
        "key": dataclasses.replace(new_key(FOREIGN), key=first.key),
        "key_id": dataclasses.replace(new_key(FOREIGN), key_id=first.key_id),
        "account": dataclasses.replace(first, key_id="id-second", key="key-second"),
    }[repeated]
    second = dataclasses.replace(second, member=dataclasses.replace(second.member, email=OTHER))
    world = World([first, second], proof=Proof(None, None, "Why."))
    results = world.run([CREATE, dataclasses.replace(CREATE, wanted=Wanted(OTHER))])
    assert results[EMAIL].outcome is Outcome.CREATED
    assert (results[OTHER].outcome, results[OTHER].path) == (Outcome.CONFLICT, f"vault/{OTHER}/aside")
    assert EMAIL in results[OTHER].message
    assert world.keys == {FILE: first.key, f"vault/{OTHER}/aside": second.key}


ADOPT = Step(Wanted(EMAIL, None, "id", "key"), Outcome.ADOPTED, Member(NEW, EMAIL.title(), GROUP))


@pytest.mark.parametrize("failures", [0, 1])
def test_a_given_key_is_sealed_and_its_address_closed(failures):
    world = World([], failures=failures)
    world.open[EMAIL] = ("lost", NEW)
    result = world.run([ADOPT])[EMAIL]
    assert result.member == Member(NEW, EMAIL, GROUP)
    if failures:
        assert (result.outcome, world.open) == (Outcome.KEY_MISSING, {EMAIL: ("lost", NEW)})
        assert "The disk is full." in result.message
    else:
        assert (result.outcome, result.path, world.open) == (Outcome.ADOPTED, FILE, {})
        assert world.keys == {FILE: "key"}


@pytest.mark.parametrize("step", [CREATE, ADOPT, dataclasses.replace(CREATE, replaces=Member(OLD, EMAIL, GROUP))])
def test_after_the_wish_to_stop_nothing_is_begun(step):
    world = World([new_key()])
    world.stop.ask("somebody pressed Ctrl-C")
    result = world.run([step], policy=RECREATE)[EMAIL]
    assert world.log == []
    assert result.outcome is (Outcome.KEY_LOST if step.replaces else Outcome.NOT_ATTEMPTED)
    assert step.replaces or "Ctrl-C" in result.message


def test_the_first_key_without_room_is_the_last_that_is_asked_for():
    world = World([new_key(), new_key(FOREIGN)], failures=9)
    results = world.run([CREATE, dataclasses.replace(CREATE, wanted=Wanted(OTHER))])
    assert world.did("create") == ["create"]
    assert (results[EMAIL].path, results[OTHER].outcome) == (FALLBACK, Outcome.NOT_ATTEMPTED)


@pytest.mark.parametrize("event", ["pending", "lost", "presumed"])
def test_a_journal_that_cannot_be_written_ends_the_run(event):
    answer = MemberExistsError(Member(NEW, EMAIL, GROUP)) if event == "presumed" else KeyLostError(EMAIL, NEW, "cut")
    world = World([answer])
    world.journal_fails.add(event)
    result = world.run([CREATE], open_before="")[EMAIL]
    assert "journal" in world.stop.reason
    assert "The journal cannot be written." in result.message
    assert world.did("create") == ([] if event == "pending" else ["create"])


def test_an_unexpected_error_ends_the_run_and_names_its_kind():
    world = World([RuntimeError("secret")])
    result = world.run([CREATE])[EMAIL]
    assert (result.outcome, "RuntimeError" in result.message, "secret" in result.message) == (
        Outcome.NOT_ATTEMPTED,
        True,
        False,
    )
    assert world.stop.asked


def test_a_step_that_changes_nothing_is_not_done():
    world = World([])
    assert world.run([Step(Wanted(EMAIL), Outcome.UNCHANGED, Member(NEW, EMAIL))]) == {}
    assert world.log == []
