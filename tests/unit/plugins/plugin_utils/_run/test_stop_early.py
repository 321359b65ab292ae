# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Stop the run of a Group after a refusal about the Group, or after max_failures refusals: what is sent is sealed."""

from __future__ import annotations

import pytest

from ansible_collections.community.backblaze.plugins.module_utils._errors import GROUP_CODES
from ansible_collections.community.backblaze.plugins.module_utils._plan import Wanted
from ansible_collections.community.backblaze.plugins.plugin_utils._run.input import WantedGroup
from ansible_collections.community.backblaze.plugins.plugin_utils._run.job import Job, Policy, Stop
from ansible_collections.community.backblaze.plugins.plugin_utils._run.provision import provision_groups
from ansible_collections.community.backblaze.plugins.plugin_utils._run.report import summary_of_groups
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.fallback import FallbackStore
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.sealer import Sealer
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.store import secret_of

CREATE = "b2_create_group_member"
WORKERS = 8
WANTED = [f"m{number:02}@x.example" for number in range(40)]


@pytest.fixture
def run(standin, make_client, store, secrets, tmp_path):
    """Provision Groups, each with its wanted members; return the result of the task, after the keys were compared."""

    def go(groups, policy=Policy(), concurrency=WORKERS):
        client = make_client(standin, connections=concurrency, max_retries=1)
        fallback = FallbackStore(str(tmp_path / "fallback"), Sealer(secrets))
        jobs = [
            (Job(standin.groups[name], [Wanted(email) for email in emails], policy, concurrency, 0.0), store)
            for name, emails in groups.items()
        ]
        done = provision_groups(client, jobs, fallback, Stop())
        client.close()
        wanted = [WantedGroup(job.group_id, name, job.wanted) for (job, _store), name in zip(jobs, groups, strict=True)]
        result = summary_of_groups(list(zip(wanted, done, strict=True)), "fail")
        # Each key that was handed out is sealed, and each wanted member has one outcome.
        handed_out = {entry["email"]: entry["key"] for entry in standin.ledger() if entry["operation"] == CREATE}
        ended = {one["email"]: one["outcome"] for one in result["members"]}
        assert list(ended) == [email for emails in groups.values() for email in emails]
        assert {email for email, outcome in ended.items() if outcome in ("created", "unchanged")} == set(handed_out)
        assert {email: secret_of(store, email)[1] for email in handed_out} == handed_out
        return result

    return go


def reasons(result):
    return [(one["outcome"], one["code"], one["count"]) for one in result["problems"]]


def test_a_full_group_is_asked_once_by_each_worker_at_most(standin, run):
    standin.settings(max_members=10, latency_ms_by_operation={CREATE: 20})
    result = run({"hosting": WANTED})
    refused = result["counts"]["refused"]
    assert 1 <= refused <= WORKERS and result["counts"]["created"] == 10
    assert standin.state()["calls"][CREATE] == 10 + refused
    # The reason is said once for all members that were not attempted, wherever the request to stop met them.
    left = len(WANTED) - 10 - refused
    assert reasons(result) == [("refused", "too_many_members", refused), ("not_attempted", None, left)]
    assert "too_many_members" in result["problems"][1]["message"] and result["msg"].count("not_attempted") == 2

    # Nothing stays open: when there is room, the next run goes on.
    standin.settings(max_members=None)
    again = run({"hosting": WANTED})
    assert again["counts"] == {"unchanged": 10, "created": len(WANTED) - 10} and again["settled"] == []


@pytest.mark.parametrize("code", sorted(GROUP_CODES))
def test_a_reason_about_one_group_does_not_stop_the_others(standin, run, code):
    standin.add_group("resale")
    first, other = WANTED[:20], WANTED[20:]
    standin.faults([{"operation": CREATE, "email": first[0], "action": {"kind": "error", "status": 401, "code": code}}])
    result = run({"hosting": first, "resale": other}, concurrency=1)
    assert result["counts"] == {"created": len(other), "refused": 1, "not_attempted": len(first) - 1}
    assert [(one["failed"], one["changed"]) for one in result["groups"]] == [(True, False), (False, True)]


def test_max_failures_counts_refusals_of_members(standin, run):
    standin.add_group("resale")
    standin.taken(WANTED)
    first, other = WANTED[:30], WANTED[30:32]
    result = run({"hosting": first, "resale": other}, Policy(max_failures=3))
    refused, left = result["groups"][0]["counts"]["refused"], result["groups"][0]["counts"]["not_attempted"]
    # Two refusals before the one that stops the run, and that of each other worker.
    assert 3 <= refused <= 2 + WORKERS and refused + left == len(first)
    # The other Group has refusals of its own, and fewer than three.
    assert result["groups"][1]["counts"] == {"refused": 2}
    assert reasons(result) == [("refused", "invalid_email", refused + 2), ("not_attempted", None, left)]
    assert "max_failures (3) is reached" in result["problems"][1]["message"]


def test_without_max_failures_each_member_is_tried(standin, run):
    standin.taken(WANTED[10:])
    assert run({"hosting": WANTED})["counts"] == {"created": 10, "refused": 30}
