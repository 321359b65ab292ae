# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Hold the end of a run against a model: what the Group says of new members, and what stays open in the journal."""

from __future__ import annotations

import dataclasses
import tempfile

import pytest
from ansible.parsing.vault import VaultSecret
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.community.backblaze.plugins.module_utils._errors import NetworkError
from ansible_collections.community.backblaze.plugins.module_utils._members import Member, NewMember
from ansible_collections.community.backblaze.plugins.module_utils._plan import Event, Open, Outcome, Wanted
from ansible_collections.community.backblaze.plugins.plugin_utils._run import provision as provision_module
from ansible_collections.community.backblaze.plugins.plugin_utils._run.job import Job, Stop
from ansible_collections.community.backblaze.plugins.plugin_utils._run.journal import open_journal
from ansible_collections.community.backblaze.plugins.plugin_utils._run.provision import provision
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.fallback import FallbackStore
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.host_vars import HostVarsStore
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.key_file import StoredKey
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.sealer import Sealer

GROUP = "100001"
EMAILS = ["ada@x.example", "ben@x.example", "cleo@x.example"]
STRANGER = "stranger@x.example"


def account_of(email):
    return f"account-{email}"


@dataclasses.dataclass
class Group:
    """A client of a Group, which has other members, and says one thing of each new member at the end of a run."""

    others: list[Member]
    said: dict[str, str]
    stop: Stop
    stopped: bool = False
    fails: bool = False
    created: list[str] = dataclasses.field(default_factory=list)
    looks: list[str] = dataclasses.field(default_factory=list)

    def create_member(self, group_id, email, region, gate, replaced=""):
        gate()
        self.created.append(email)
        if self.stopped and len(self.created) == len(self.said):
            self.stop.ask("a test ended it")
        return NewMember(Member(account_of(email), email, group_id), f"id-{email}", f"key-{email}")

    def now(self):
        new = {
            "same": lambda email: [Member(account_of(email), email.title(), GROUP)],
            "another account": lambda email: [Member("another", email, GROUP)],
            "another address": lambda email: [Member(account_of(email), STRANGER, GROUP)],
            "nothing": lambda email: [],
        }
        return [*self.others, *(member for email in self.created for member in new[self.said[email]](email))]

    def look(self, what):
        if self.created:
            self.looks.append(what)
            if self.fails:
                raise NetworkError("cut", sent=True)

    def members(self, group_id):
        assert group_id == GROUP
        self.look("all")
        return self.now()

    def find_member(self, group_id, email):
        assert group_id == GROUP
        self.look(email)
        return next((member for member in self.now() if member.email.lower() == email), None)


@pytest.fixture(scope="module", autouse=True)
def no_delays():
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(provision_module, "LISTING_DELAYS", ())
        yield


def stores(path):
    sealer = Sealer([("default", VaultSecret(b"correct horse"))])
    return HostVarsStore(f"{path}/host_vars", sealer), FallbackStore(f"{path}/fallback", sealer)


@settings(max_examples=30)
@given(
    said=st.lists(st.sampled_from(["same", "another account", "another address", "nothing"]), min_size=1, max_size=3),
    others=st.sampled_from([0, 999, 1000, 2000, 2999]),
    stopped=st.sampled_from([False, False, False, True]),
    fails=st.sampled_from([False, False, False, True]),
)
def test_new_members_are_compared_with_the_group(said, others, stopped, fails):
    # One new account only can be a stranger's.
    said = [one if one != "another address" or number == 0 else "same" for number, one in enumerate(said)]
    stop, states = Stop(), dict(zip(EMAILS, said, strict=False))
    client = Group([Member(f"{n}", f"m{n}@x.example", GROUP) for n in range(others)], states, stop, stopped, fails)
    job = Job(GROUP, [Wanted(email) for email in states], concurrency=1, vault_lock_timeout=0.0)
    with tempfile.TemporaryDirectory() as path:
        store, fallback = stores(path)
        _plan, report = provision(client, job, store, fallback, stop)
        files = {email: store.file(email) for email in states}
        assert {email: store.read(email).key for email in states} == {email: f"key-{email}" for email in states}
    results = {one.email: one for one in report.results}
    assert list(results) == list(states) == sorted(client.created)
    assert all(one.made and one.changed and one.path == files[one.email] for one in results.values())
    compared = not (stopped or fails)
    # Each new member alone, if that takes fewer calls than a list of all; the list of all, if one is missing then.
    few = len(states) < (others + len(states)) / 1000
    alone = [one in ("same", "another account") for one in said]
    looks = [*states, *([] if all(alone) else ["all"])] if few else ["all"]
    assert client.looks == ([] if stopped else looks[:1] if fails else looks)
    unlisted = []
    for email, one in results.items():
        state = states[email] if compared else "same"
        if state == "another account":
            assert (one.outcome, one.member) == (Outcome.CONFLICT, Member("another", email, GROUP))
            assert files[email] in one.message and account_of(email) in one.message
        elif state == "another address":
            assert (one.outcome, one.member) == (Outcome.CONFLICT, None)
            assert STRANGER in one.message and files[email] in one.message
        else:
            assert (one.outcome, one.member) == (Outcome.CREATED, Member(account_of(email), email, GROUP))
            assert one.message == ""
            unlisted += [email] * (state == "nothing")
    assert len(report.notes) == bool(unlisted)
    if unlisted:
        assert report.notes[0].startswith(f"{unlisted[0]}{' and 1 more' if len(unlisted) == 2 else ''}")
        assert f" and {len(unlisted) - 1} more " in f"{report.notes[0]} and 0 more "


LEFT = st.tuples(
    st.sampled_from([Event.PENDING, Event.LOST, Event.PRESUMED, Event.EJECTING, Event.FALLBACK]),
    st.sampled_from(["listed", "listed as another", "not listed"]),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)


@settings(max_examples=40)
@given(st.lists(LEFT, min_size=1, max_size=3))
def test_an_address_stays_open_as_long_as_its_outcome_is_not_settled(left):
    states = dict(zip(EMAILS, left, strict=False))
    members = []
    for email, (_event, listed, *_others) in states.items():
        account = {"listed": account_of(email), "listed as another": "another"}.get(listed)
        members += [Member(account, email, GROUP)] if account else []
    wanted = [email for email, (*_others, wanted) in states.items() if wanted]
    client = Group(members, dict.fromkeys(wanted, "same"), Stop())
    with tempfile.TemporaryDirectory() as path:
        store, fallback = stores(path)
        store.prove(EMAILS, write=True)
        with open_journal(store, GROUP, 0.0, lambda seconds: None) as journal:
            for email, (event, _listed, stored, recent, _wanted) in states.items():
                account = "" if event is Event.PENDING else account_of(email)
                elsewhere = "elsewhere" if event is Event.FALLBACK else ""
                at = "" if recent else "2026-01-01T00:00:00Z"
                journal.note(Open(email, GROUP, event, account, elsewhere, at))
                if stored:
                    store.seal(StoredKey(email, f"id-{email}", f"key-{email}", account_of(email), GROUP))
        job = Job(GROUP, [Wanted(email) for email in wanted], concurrency=1, vault_lock_timeout=0.0)
        plan, _report = provision(client, job, store, fallback, Stop())
        with open_journal(store, GROUP, 0.0, lambda seconds: None, write=False) as journal:
            still_open = {entry.email for entry in journal.entries(GROUP)}
    settled = {one.email: one.outcome for one in plan.settled}
    assert set(settled) == set(states)
    for email, (event, listed, _stored, recent, is_wanted) in states.items():
        if is_wanted and email in client.created:
            # The worker closes the address when the key is sealed.
            assert email not in still_open
        elif settled[email] in (Outcome.KEY_LOST, Outcome.KEY_MISSING):
            assert email in still_open
        else:
            # A create that was sent a short time ago may still take effect.
            possible = event is Event.PENDING and recent and settled[email] is Outcome.ABSENT
            assert (email in still_open) is possible
            assert not possible or listed == "not listed"
