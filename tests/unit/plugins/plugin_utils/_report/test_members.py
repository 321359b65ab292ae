# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The reports about members: every member is a row, and the page begins with the problems."""

from __future__ import annotations

import pytest

from ansible_collections.community.backblaze.plugins.module_utils._members import Member
from ansible_collections.community.backblaze.plugins.module_utils._plan import OUTCOMES, Outcome
from ansible_collections.community.backblaze.plugins.plugin_utils._report.members import audit_report, members_report
from ansible_collections.community.backblaze.plugins.plugin_utils._report.page import Tag


def row(email, outcome, path=None, message=None):
    return {"email": email, "outcome": outcome, "path": path, "message": message, "code": None, "account_id": None}


def parts_of(report):
    counts, facts, table = report.parts
    return counts.counts, facts.facts, [dict(zip(table.columns, cells, strict=True)) for cells in table.rows]


def test_an_address_that_an_earlier_run_left_open_has_a_row_if_it_is_not_wanted_any_more():
    created = row("a@x.example", "created")
    settled = [{"email": one, "outcome": "key_lost", "account_id": "9"} for one in ("a@x.example", "z@x.example")]
    result = {"members": [created], "vault_dir": "/srv", "counts": {}, "problems": [], "settled": settled}
    report = members_report(result, "2026-01-01 12:00 UTC", check_mode=False)
    assert [(one["email"], one["outcome"]) for one in report.rows] == [
        ("a@x.example", "created"),
        ("z@x.example", "key_lost"),
    ]
    assert report.rows[1]["message"].startswith("An earlier run left this address open.")
    assert all(set(one) >= set(report.fields) for one in report.rows)
    assert parts_of(report)[0] == [("wanted", 1), (Tag("created", "good"), 1), (Tag("key_lost", "bad"), 1)]


@pytest.mark.parametrize("check_mode", [False, True])
def test_a_report_has_a_row_for_each_member_and_the_remedy_of_each_problem(check_mode):
    members = [
        row("a@x.example", "created", "/srv/keys/a@x.example/b2_vault.yml"),
        row("b@x.example", "unchanged", "/srv/other/b"),
        row("c@x.example", "refused", message="Choose another address."),
    ]
    result = {
        "members": members,
        "vault_dir": "/srv/keys",
        "counts": {"unchanged": 1, "created": 1, "refused": 1},
        "problems": [{"outcome": "refused", "code": "invalid_email", "message": "Choose another.", "count": 1}],
        "settled": [],
    }
    report = members_report(result, "2026-01-01 12:00 UTC", check_mode=check_mode)
    assert [one["email"] for one in report.rows] == ["a@x.example", "b@x.example", "c@x.example"]
    assert {one["foretold"] for one in report.rows} == {check_mode} and report.facts["foretold"] is check_mode
    assert ("Check mode" in report.subtitle) is check_mode

    created, refused, unchanged = Tag("created", "good"), Tag("refused", "bad"), Tag("unchanged")
    counts, facts, rows = parts_of(report)
    assert counts == [("wanted", 3), (unchanged, 1), (created, 1), (refused, 1)]
    assert facts == [
        (unchanged, OUTCOMES[Outcome.UNCHANGED][0]),
        (
            created,
            "A run would create the member and seal its key." if check_mode else " ".join(OUTCOMES[Outcome.CREATED]),
        ),
        (refused, "1 member. invalid_email: Choose another."),
    ]
    assert [one["Address"] for one in rows] == ["c@x.example", "a@x.example", "b@x.example"]
    # Only a path in the directory of the keys is shortened. A column without a value is left out.
    assert [one["Vault file"] for one in rows] == [None, "a@x.example/b2_vault.yml", "/srv/other/b"]
    assert "Code" not in rows[0]


def test_an_audit_has_a_row_for_each_member_and_for_each_key_without_a_member():
    members = [Member("1", "a@x.example", "7", region="us-west"), Member("2", "B@x.example", "7")]
    audit = {
        "key_missing": [{"email": "b@x.example", "account_id": "2", "message": "Adopt its key."}],
        "absent": [{"email": "z@x.example", "account_id": "9", "message": "Move it away."}],
    }
    report = audit_report(members, audit, "2026-01-01 12:00 UTC", "/srv/keys")
    assert [(one["email"], one["outcome"], one["message"]) for one in report.rows] == [
        ("a@x.example", "unchanged", None),
        ("B@x.example", "key_missing", "Adopt its key."),
        ("z@x.example", "absent", "Move it away."),
    ]
    assert all(set(one) == set(report.fields) for one in report.rows)
    assert parts_of(report)[0][0] == ("members and keys", 3)
