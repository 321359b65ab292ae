# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Hold a run over several Groups against a model: the order, the errors, and what is recorded after the report."""

from __future__ import annotations

import contextlib
import types

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.community.backblaze.plugins.module_utils._errors import NetworkError, StoppedError, StoreError
from ansible_collections.community.backblaze.plugins.module_utils._members import Member
from ansible_collections.community.backblaze.plugins.module_utils._plan import Outcome, Settled, Wanted
from ansible_collections.community.backblaze.plugins.plugin_utils._run import provision as provision_module
from ansible_collections.community.backblaze.plugins.plugin_utils._run.job import Job, Plan, Report, Result, Stop
from ansible_collections.community.backblaze.plugins.plugin_utils._run.provision import mark_told, provision_groups

PLAN = Plan("1", (), (), {})


class Store:
    """A store in a location that has lost some files, and how often its keys were confirmed."""

    def __init__(self, removed=(), *, fails=False):
        self.path, self.confirmed, self.fails = "vault", 0, fails
        self.location = types.SimpleNamespace(confirm=self.confirm, removed=removed)

    def confirm(self):
        self.confirmed += 1
        if self.fails:
            raise StoreError("No route to host.")
        return {}


@given(
    groups=st.lists(st.tuples(st.integers(0, 1), st.sampled_from(["", "", "fails", "stops"])), min_size=1, max_size=4),
    check_mode=st.booleans(),
    stopped_before=st.booleans(),
    unconfirmed=st.booleans(),
)
def test_a_group_that_cannot_be_started_does_not_stop_the_others(groups, check_mode, stopped_before, unconfirmed):
    stores, stop, begun = [Store(fails=unconfirmed), Store(fails=unconfirmed)], Stop(), []
    if stopped_before:
        stop.ask("a test ended it")
    jobs = [
        (Job(str(number), [Wanted("ada@x")], check_mode=check_mode), stores[group[0]])
        for number, group in enumerate(groups)
    ]

    def provision(client, job, store, fallback, stop, *, whole):
        assert (client, fallback) == ("client", "fallback")
        begun.append((job.group_id, stores.index(store), whole))
        end = groups[int(job.group_id)][1]
        if end == "fails":
            raise NetworkError(job.group_id, sent=True)
        if end == "stops":
            stop.ask("a test ended it")
        return PLAN, Report((), (), (f"note {job.group_id}",), check_mode=check_mode)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(provision_module, "provision", provision)
        done = provision_groups("client", jobs, "fallback", stop)
    assert len(done) == len(groups)
    # The first Group says itself that the run was asked to stop. Each store is read as a whole once.
    asked, read, expected, confirmed = stopped_before, set(), [], [0, 0]
    for number, (one, (store, end)) in enumerate(zip(done, groups, strict=True)):
        if number and asked:
            assert isinstance(one, StoppedError)
            continue
        expected.append((str(number), store, store not in read))
        asked = asked or end == "stops"
        if end == "fails":
            assert isinstance(one, NetworkError) and one.happened == str(number)
            continue
        read.add(store)
        # Again, because another Group came after: somebody may have removed keys meanwhile.
        again = len(groups) > 1 and not check_mode
        confirmed[store] += again
        plan, report = one
        assert (plan, report.results, report.check_mode) == (PLAN, (), check_mode)
        assert report.notes[0] == f"note {number}"
        assert [("No route to host." in note) for note in report.notes[1:]] == [True] * (again and unconfirmed)
    assert begun == expected
    assert [store.confirmed for store in stores] == confirmed


PATHS = ["vault/ada", "vault/ben", "vault/cleo"]


@given(
    results=st.lists(
        st.tuples(st.sampled_from(PATHS), st.sampled_from([Outcome.UNCHANGED, Outcome.CREATED])), max_size=4
    ),
    removed=st.frozensets(st.sampled_from(PATHS)),
)
def test_keys_of_earlier_runs_that_somebody_removed_are_counted(results, removed):
    """Several members may be in one file."""
    report = Report(
        tuple(Result(f"{n}@x", outcome, path=path) for n, (path, outcome) in enumerate(results)), (), ("a",)
    )
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(provision_module, "provision", lambda *args, **options: (PLAN, report))
        [(plan, told)] = provision_groups("client", [(Job("1", []), Store(removed))], "fallback", Stop())
    gone = [path for path, outcome in results if outcome is Outcome.UNCHANGED and path in removed]
    assert (plan, told.results, told.notes[0]) == (PLAN, report.results, "a")
    assert len(told.notes) == (2 if gone else 1)
    if gone:
        more = len(set(gone)) - 1
        members = "1 member" if len(gone) == 1 else f"{len(gone)} members"
        assert (
            f"keys of {members} were removed from vault: {min(gone)}{f' and {more} more' if more else ''}."
            in told.notes[1]
        )


LOST = st.sampled_from(
    [
        Settled("ada@x", Outcome.KEY_LOST, "a1", known=False),
        Settled("ada@x", Outcome.KEY_LOST, "a1", known=True),
        Settled("ada@x", Outcome.ABSENT, "a1"),
    ]
)
RESULT = st.sampled_from(
    [
        Result("ada@x", Outcome.KEY_LOST, member=Member("a2", "ada@x")),
        Result("ben@x", Outcome.KEY_LOST, member=Member("b1", "ben@x")),
        Result("ben@x", Outcome.KEY_LOST),
        Result("ben@x", Outcome.CREATED, member=Member("b1", "ben@x")),
    ]
)


@given(
    jobs=st.lists(
        st.tuples(st.booleans(), st.booleans(), st.lists(LOST, max_size=1), st.lists(RESULT, max_size=2)), max_size=3
    ),
    locked=st.booleans(),
)
def test_each_lost_key_of_a_report_is_marked_as_told(jobs, locked):
    noted, opened = [], []

    @contextlib.contextmanager
    def open_journal(store, group_id, timeout, wait):
        opened.append((store, group_id))
        assert timeout > 0
        if locked:
            raise StoreError("Another run has the lock.")
        yield types.SimpleNamespace(told=lambda *args: noted.append(args))

    run, done, expected = [], [], []
    for number, (check_mode, fails, settled, results) in enumerate(jobs):
        group = str(number)
        run.append((Job(group, [], check_mode=check_mode), f"store {group}"))
        plan = Plan(group, (), tuple(settled), {})
        done.append(StoppedError() if fails else (plan, Report(tuple(results), tuple(settled))))
        if not check_mode and not fails:
            lost = {one.email: one.account_id for one in settled if one.outcome is Outcome.KEY_LOST and not one.known}
            # What this run found out is newer.
            lost.update(
                (one.email, one.member.account_id) for one in results if one.outcome is Outcome.KEY_LOST and one.member
            )
            expected += [(group, email, account) for email, account in lost.items()]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(provision_module, "open_journal", open_journal)
        mark_told(run, done)
    assert noted == ([] if locked else expected)
    # A journal without anything new is not opened.
    assert [group for _store, group in opened] == list(dict.fromkeys(group for group, *_more in expected))
    assert all(store == f"store {group}" for store, group in opened)
