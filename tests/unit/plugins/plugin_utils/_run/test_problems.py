# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The message of a task is short, whatever happened to how many members, and says each reason once."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.community.backblaze.plugins.module_utils._errors import KeyLostError
from ansible_collections.community.backblaze.plugins.module_utils._plan import Outcome
from ansible_collections.community.backblaze.plugins.plugin_utils._run.job import Result
from ansible_collections.community.backblaze.plugins.plugin_utils._run.problems import (
    MOST_BYTES,
    MOST_EMAILS,
    in_short,
    problems_of,
)

HEADLINE = "300 wanted: 300 refused."
results = st.builds(
    Result,
    email=st.integers(0, 10**6).map("member-{}@customers.example.com".format),
    outcome=st.sampled_from([Outcome.REFUSED, Outcome.CONFLICT, Outcome.KEY_LOST]),
    code=st.sampled_from(["", "invalid_email", "too_many_members"]),
    detail=st.sampled_from(["", "Account 1 is in us-west.", "Umlaut \u00e4. " * 200]),
    reason=st.sampled_from(
        ["Correct the entry.", "Choose another address. " * 40, *(f"Reason {n}." for n in range(30))]
    ),
)


@given(st.lists(results, max_size=300))
def test_every_member_is_counted_in_one_problem_and_the_text_is_short(found):
    problems = problems_of(found)

    assert sum(len(one.members) for one in problems) == len(found)
    assert len({(one.outcome, one.code, one.message) for one in problems}) == len(problems)
    for one in problems:
        entry = one.as_dict()
        assert entry["count"] == len(one.members)
        assert {(member.outcome, member.code) for member in one.members} == {(one.outcome, one.code)}
    text, entries = in_short(HEADLINE, problems)
    assert text.startswith(f"{HEADLINE}\n" if problems else HEADLINE) and len(text.encode()) <= MOST_BYTES
    assert [(one["outcome"], one["code"], one["count"]) for one in entries] == [
        (one.outcome.value, one.code or None, len(one.members)) for one in problems
    ]
    # The message about a single member contains its details.
    assert [one["message"] for one in entries] == [
        one.message if one.members[1:] or not one.members[0].detail else one.members[0].message for one in problems
    ]
    for one in entries:
        lost = one["outcome"] == "key_lost"
        assert len(one["emails"]) == one["count"] if lost else 1 <= len(one["emails"]) <= MOST_EMAILS
    assert len([line for line in text.split("\n")[1:] if not line.startswith("  ")]) <= len(problems) + 1


def test_a_reason_of_all_members_is_said_once_with_ten_addresses():
    found = [
        Result(f"m{n}@x.example", Outcome.REFUSED, "Backblaze refused.", code="too_many_members") for n in range(33)
    ]
    addresses = ", ".join(f"m{n}@x.example" for n in range(10))
    [problem] = problems_of(found)
    assert problem.paragraph().split("\n") == [
        f"refused, too_many_members: {problem.message}",
        f"  {addresses} and 23 more",
    ]
    assert problem.message.startswith("Backblaze refused. ")


def test_what_differs_between_members_is_on_their_lines():
    found = [
        Result("a@x.example", Outcome.CONFLICT, "It is in us-west.", reason="Correct the entry."),
        Result("b@x.example", Outcome.CONFLICT, "It is in us-east.", reason="Correct the entry."),
    ]
    assert in_short("2 wanted.", problems_of(found))[0].split("\n") == [
        "2 wanted.",
        "conflict: Correct the entry.",
        "  a@x.example: It is in us-west.",
        "  b@x.example: It is in us-east.",
    ]


def test_eight_reasons_of_300_members_are_printed_in_less_than_8_kb():
    codes = [f"code_{n % 8}" for n in range(300)]
    found = [
        Result(
            email=f"m{n:03}@x.example",
            outcome=Outcome.REFUSED,
            detail=f"Backblaze: {'no, ' * 20}m{n:03}@x.example.",
            code=code,
            reason=f"{code}: {'Use another address. ' * 15}",
        )
        for n, code in enumerate(codes)
    ]
    text, entries = in_short(HEADLINE, problems_of(found))
    assert 2 * len(text) + len(json.dumps(entries)) <= 7000
    assert sum(one["count"] for one in entries) == 300 and "More reasons: " in text


def test_fifty_groups_that_cannot_be_started_are_one_short_problem():
    found = [
        Result(f"m{m}@g{g}.example", Outcome.NOT_ATTEMPTED, f"Group g{g} was not started.", reason="Correct the name.")
        for g in range(50)
        for m in range(20)
    ]
    text, entries = in_short("1000 wanted: 1000 not_attempted.", problems_of(found))
    assert [one["count"] for one in entries] == [1000]
    assert text.split("\n") == [
        "1000 wanted: 1000 not_attempted.",
        "not_attempted: Correct the name.",
        *(
            f"  m0@g{g}.example, m1@g{g}.example, m2@g{g}.example and 17 more: Group g{g} was not started."
            for g in range(10)
        ),
        "  and 800 more",
    ]


def test_the_option_to_copy_is_not_cut_after_a_long_address_and_a_long_cause():
    email = f"{'a' * 60}@{'b' * 60}.example"
    error = KeyLostError(email, "5f2a1c0b3d4e", "The connection broke: " + "x" * 400)
    found = [Result(email, Outcome.KEY_LOST, error.detail, reason=error.remedy)]
    text, [entry] = in_short("1 wanted: 1 key_lost.", problems_of(found))
    assert f'recreate_members: ["{email}"]' in text and f'recreate_members: ["{email}"]' in entry["message"]
