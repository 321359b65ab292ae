# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Hold the plan of a run against a model: what is known of each key, what is tried, and the steps that follow.

The store, its journal and the fallback directory are real; the client is a stand-in that knows which key opens what.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import os
import tempfile
import time
import types

import pytest
from ansible.parsing.vault import VaultSecret
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.community.backblaze.plugins.module_utils._errors import ApiError, NetworkError, StoppedError
from ansible_collections.community.backblaze.plugins.module_utils._members import Member, Proof
from ansible_collections.community.backblaze.plugins.module_utils._plan import (
    KeyState,
    Stored,
    Wanted,
    all_refused,
    decide_present,
)
from ansible_collections.community.backblaze.plugins.plugin_utils._run import provision as provision_module
from ansible_collections.community.backblaze.plugins.plugin_utils._run.job import Job, Policy, Stop
from ansible_collections.community.backblaze.plugins.plugin_utils._run.journal import open_journal
from ansible_collections.community.backblaze.plugins.plugin_utils._run.provision import provision, try_keys
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.fallback import FallbackStore
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.host_vars import HostVarsStore
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.key_file import StoredKey
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.sealer import Sealer

GROUP = "100001"
EMAILS = ["ada@x.example", "ben@x.example", "cleo@x.example"]
FOREIGN = "ffffffffffff"


def account_of(email):
    return f"{EMAILS.index(email) + 1:012x}"


@dataclasses.dataclass(frozen=True)
class Known:
    """What is known of one address. stored, given: the kind of a key, which says what it opens."""

    listed: bool
    stored: str
    given: str
    note: str
    named: bool

    @property
    def given_kind(self):
        return (self.stored or "own") if self.given == "same" else self.given


KINDS = ["own", "refused", "foreign", "untried"]
KNOWN = st.builds(
    Known,
    listed=st.sampled_from([True, True, False]),
    stored=st.sampled_from(["", "", *KINDS]),
    given=st.sampled_from(["", "", "same", *KINDS]),
    note=st.sampled_from(["", "", "pending", "lost", "fallback"]),
    named=st.booleans(),
)


def key(email, kind, which):
    return f"id-{which}-{kind}-{email}", f"key-{which}-{kind}-{email}"


def given_key(email, known):
    return key(email, known.given_kind, "stored" if known.given == "same" else "given") if known.given else ("", "")


class Client:
    """The Group and its keys: the name of a key says what it opens."""

    def __init__(self, members):
        self.listed, self.tried = members, collections.Counter()

    def members(self, group_id):
        assert group_id == GROUP
        return self.listed

    def find_member(self, group_id, email):
        assert group_id == GROUP

    def opens(self, key_id, secret):
        _id, which, kind, email = key_id.split("-")
        assert secret == f"key-{which}-{kind}-{email}"
        self.tried[which, email] += 1
        if kind == "untried":
            raise ApiError("b2_authorize_account", 403, "access_denied", email, of_member=True)
        return {"own": account_of(email), "refused": "", "foreign": FOREIGN}[kind]


@contextlib.contextmanager
def world(states):
    """Yield a store and a fallback directory that earlier runs have left so."""
    sealer = Sealer([("default", VaultSecret(b"correct horse"))])
    with tempfile.TemporaryDirectory() as path:
        store = HostVarsStore(f"{path}/host_vars", sealer)
        store.prove(EMAILS, write=True)
        with open_journal(store, GROUP, 0.0, lambda seconds: None) as journal:
            for email, known in states.items():
                if known.stored:
                    store.seal(StoredKey(email, *key(email, known.stored, "stored"), account_of(email), GROUP))
                if known.note == "pending":
                    journal.pending(GROUP, email)
                elif known.note == "lost":
                    journal.lost(GROUP, email, account_of(email))
                elif known.note == "fallback":
                    journal.fallback(GROUP, email, account_of(email), f"elsewhere/{email}")
        yield store, FallbackStore(f"{path}/fallback", sealer)


def proof(email, kind):
    """Return what a trial of a key tells: the account that it opens, and why it could not be tried."""
    if kind == "untried":
        error = ApiError("b2_authorize_account", 403, "access_denied", email, of_member=True)
        return None, error.explain()
    return {"own": account_of(email), "refused": "", "foreign": FOREIGN}[kind], ""


def expected(states, store, verify_keys):
    """Return the step of each address, and the keys that are tried."""
    tried, kinds = {}, {}
    for email, known in states.items():
        # The key of an account outside the Group says nothing about a member. A given key is compared with a stored
        # one, and tried only without one.
        if known.listed and known.stored and verify_keys:
            kinds["stored", email] = known.stored
        if known.listed and known.given and not known.stored:
            kinds["given", email] = known.given_kind
    refused = all_refused({place: Proof(*proof(place[1], kind)) for place, kind in kinds.items()})
    steps = []
    for email, known in states.items():
        stored_opens, stored_untried = (
            proof(email, kinds["stored", email]) if ("stored", email) in kinds else (None, "")
        )
        given_opens, given_untried = proof(email, kinds["given", email]) if ("given", email) in kinds else (None, "")
        lost = known.note in ("pending", "lost") and known.listed and not known.stored
        state = KeyState(
            stored=Stored(account_of(email), key(email, known.stored, "stored")[0], store.file(email), GROUP)
            if known.stored
            else None,
            lost=lost,
            proven=lost and known.note == "lost",
            recreate=known.named,
            fallback=f"elsewhere/{email}" if known.note == "fallback" and known.listed and not known.stored else "",
            stored_opens=stored_opens,
            given_opens=given_opens,
            stored_untried=stored_untried,
            given_untried=given_untried,
            all_refused=refused,
            given_differs=bool(known.listed and known.given and known.stored and known.given != "same"),
        )
        member = Member(account_of(email), email.title(), GROUP) if known.listed else None
        steps.append(decide_present(Wanted(email, None, *given_key(email, known)), member, state))
    for which, email in kinds:
        name = "given" if which == "given" and states[email].given != "same" else "stored"
        tried[name, email] = 1
    return steps, tried


@settings(max_examples=50)
@given(st.lists(KNOWN, min_size=1, max_size=3), st.booleans())
def test_each_step_follows_from_what_is_known_of_the_member(known, verify_keys):
    states = dict(zip(EMAILS, known, strict=False))
    client = Client([Member(account_of(email), email.title(), GROUP) for email, one in states.items() if one.listed])
    policy = Policy(recreate_members=frozenset(email for email, one in states.items() if one.named))
    policy = dataclasses.replace(policy, verify_keys=verify_keys)
    wanted = [Wanted(email, None, *given_key(email, one)) for email, one in states.items()]
    job = Job(GROUP, wanted, policy, 2, vault_lock_timeout=0.0, check_mode=True)
    with world(states) as (store, fallback), pytest.MonkeyPatch.context() as patched:
        patched.setattr(provision_module, "LISTING_DELAYS", ())
        plan, report = provision(client, job, store, fallback, Stop())
        steps, tried = expected(states, store, verify_keys)
        paths = {email: store.file(email) for email, one in states.items() if one.stored}
    assert list(plan.steps) == steps
    assert client.tried == tried
    assert plan.group_id == GROUP
    assert plan.accounts == {account_of(email): email for email, one in states.items() if one.listed}
    assert plan.paths == paths
    assert [(one.email, one.outcome) for one in report.results] == [(step.wanted.email, step.outcome) for step in steps]
    idle = [step.wanted.email for step in steps if states[step.wanted.email].named and not step.replaces]
    assert len(report.notes) == bool(idle)
    if idle:
        assert f"recreate_members names {', '.join(idle)}," in report.notes[0]
        assert "Nothing would be replaced" in report.notes[0]


NEVER = 9


@settings(max_examples=30)
@given(
    states=st.lists(
        st.tuples(st.booleans(), st.sampled_from([60, 200]), st.sampled_from([0, 1, 2, 3, NEVER]), st.booleans()),
        min_size=1,
        max_size=3,
    )
)
def test_a_member_whose_key_is_new_is_looked_for_until_it_is_listed(states):
    """The first look is the listing, the second asks for one member, and the others are listings again."""
    states = dict(zip(EMAILS, states, strict=False))
    waits, listings = [], []

    def members(group_id):
        listings.append(group_id)
        look = 0 if len(listings) == 1 else len(listings)
        return [
            Member(account_of(email), email, GROUP) for email, (*_other, first, _one) in states.items() if first <= look
        ]

    def find_member(group_id, email):
        first, shown_alone = states[email][2:]
        return Member(account_of(email), email, GROUP) if first <= 1 and shown_alone else None

    client = types.SimpleNamespace(members=members, find_member=find_member)
    kinds = {email: Known(False, "own" if stored else "", "", "", False) for email, (stored, *_other) in states.items()}
    stop = Stop()
    stop.wait = waits.append
    with world(kinds) as (store, fallback), pytest.MonkeyPatch.context() as patched:
        patched.setattr(provision_module, "LISTING_DELAYS", (1.0, 2.0))
        for email, (stored, age, *_other) in states.items():
            if stored:
                os.utime(store.file(email), (time.time() - age,) * 2)
        job = Job(GROUP, [Wanted(email) for email in states], vault_lock_timeout=0.0, check_mode=True)
        plan, _report = provision(client, job, store, fallback, stop)
    # The model: only a stored key is a reason to look again, and only a new one is a reason to wait.
    found = {email for email, (_stored, _age, first, _alone) in states.items() if first == 0}
    found |= {email for email, (stored, _age, first, alone) in states.items() if stored and first <= 1 and alone}
    expected_waits = []
    for look, delay in ((2, 1.0), (3, 2.0)):
        if not any(stored and age < 120 and email not in found for email, (stored, age, *_other) in states.items()):
            break
        expected_waits.append(delay)
        found |= {email for email, (stored, _age, first, _alone) in states.items() if stored and first <= look}
    assert waits == expected_waits
    assert {step.wanted.email for step in plan.steps if step.member} == found
    assert set(plan.accounts.values()) == found


ANSWERS = st.sampled_from(["account", "", "clear", "unclear", "unclear", "no answer", "no answer"])
_UNANSWERED = 3


@given(st.lists(ANSWERS, max_size=12), st.none() | st.integers(0, 12), st.booleans())
def test_after_some_keys_without_an_answer_no_more_are_tried(answers, stop_at, raises):
    """One worker tries the keys in their order. An answer about a key, whatever it says of it, is an answer."""
    stop, tried = Stop(), []

    def opens(name, secret):
        assert secret == f"key {name}"
        tried.append(int(name))
        if len(tried) - 1 == stop_at:
            if raises:
                raise StoppedError
            stop.ask("a test ended it")
        kind = answers[int(name)]
        if kind in ("account", ""):
            return kind
        if kind == "no answer":
            raise NetworkError(f"cut {name}", sent=True)
        raise ApiError("b2_authorize_account", 403, f"code{name}", "", unclear=kind == "unclear")

    keys = {f"{number}@x": (str(number), f"key {number}") for number in range(len(answers))}
    stopped = stop_at is not None and stop_at < len(answers)
    client = types.SimpleNamespace(opens=opens)
    unanswered, expected_tried = [], []
    for number, kind in enumerate(answers):
        if len(unanswered) < _UNANSWERED:
            expected_tried.append(number)
            if len(expected_tried) - 1 == stop_at:
                break
            unanswered = [] if kind in ("account", "") else unanswered + [number] * (kind in ("unclear", "no answer"))
    else:
        stopped = False
    # The wish to stop is seen before the next key.
    if stopped and (raises or answers[expected_tried[-1] + 1 :]):
        with pytest.raises(StoppedError):
            try_keys(client, keys, 1, stop)
        # An error that is raised ends the others only when it is seen.
        assert tried[: len(expected_tried)] == expected_tried
        assert raises or tried == expected_tried
        return
    found = try_keys(client, keys, 1, stop)
    assert tried == expected_tried
    assert list(found) == list(keys)
    for number, (one, kind) in enumerate(zip(found.values(), answers, strict=True)):
        if number in tried:
            assert one.opens == (kind if kind in ("account", "") else None)
            assert bool(one.problem) is (kind not in ("account", ""))
            assert kind in ("account", "") or f"{number}" in one.problem
        else:
            assert one.opens is None
            assert "not tried" in one.problem and any(str(first) in one.problem for first in unanswered[:1])
