# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Group results by their reason, and write the message of a task from these groups. All functions are pure.

A reason that concerns hundreds of members is said once, with a few of their addresses.
"""

from __future__ import annotations

import dataclasses
import json
import typing as t

from ansible_collections.community.backblaze.plugins.module_utils._plan import OUTCOMES, Outcome
from ansible_collections.community.backblaze.plugins.plugin_utils._run.job import Result

#: The most addresses of one problem in a result or a message.
MOST_EMAILS = 10
#: The most bytes of a message.
MOST_BYTES = 3000
# The most bytes that Ansible prints of a failed task's message, twice, and of its problems.
_MOST_PRINTED = 7000
# The bytes that the message may have in any case.
_LEAST_TEXT = 1200
#: Outcomes of members that are as wanted: there is nothing to do about them.
GOOD = frozenset({Outcome.CREATED, Outcome.ADOPTED, Outcome.UNCHANGED})
# The most bytes of the details of one member, and of one reason.
_MOST_OF_MEMBER = 600
_MOST_OF_REASON = 1000
# The most addresses in front of the same details, if the problem has many members.
_MOST_OF_LINE = 3


@dataclasses.dataclass(frozen=True)
class Problem:
    """The members with one outcome and one reason.

    message: the reason and the remedy, the same for all of them. title: shown instead of the outcome and the code.
    """

    outcome: Outcome
    code: str
    message: str
    members: tuple[Result, ...]
    title: str = ""

    def as_dict(self, most: int = MOST_EMAILS) -> dict[str, t.Any]:
        """Return the entry of ``problems`` in a task's result, with up to so many addresses.

        All addresses whose key is lost are named: the report may be the only other text that names them. The message
        about a single member contains its details.
        """
        named = self.members if self.outcome is Outcome.KEY_LOST else self.members[:most]
        return {
            "outcome": self.outcome.value,
            "code": self.code or None,
            "message": self.members[0].message if not self.members[1:] and self.members[0].detail else self.message,
            "count": len(self.members),
            "emails": [one.email for one in named],
        }

    def paragraph(self, most: int = MOST_EMAILS) -> str:
        """Return a line with the reason, and up to so many lines with members: a line for each detail."""
        title = self.title or ", ".join(filter(None, (self.outcome.value, self.code)))
        lines = [f"{title}: {_cut(self.message, _MOST_OF_REASON)}".strip()]
        by_detail: dict[str, list[str]] = {}
        for one in self.members:
            by_detail.setdefault(one.detail, []).append(one.email)
        named = list(by_detail.items())[:most]
        few = len(self.members) <= most
        for detail, emails in named:
            shown = most if few or not detail else min(most, _MOST_OF_LINE)
            more = f" and {len(emails) - shown} more" if emails[shown:] else ""
            lines.append(f"  {', '.join(emails[:shown])}{more}: {_cut(detail, _MOST_OF_MEMBER)}".rstrip(": "))
        rest = len(self.members) - sum(len(emails) for _detail, emails in named)
        return "\n".join([*lines, *([f"  and {rest} more"] if rest else [])])


def problems_of(results: t.Iterable[Result]) -> list[Problem]:
    """Group results by outcome, code and reason, in the order of the outcomes, the largest first.

    If all members of a problem have the same details, apart from the address, these are a part of the reason.
    """
    groups: dict[tuple[Outcome, str, str], list[Result]] = {}
    for one in results:
        remedy = "" if one.outcome in GOOD else OUTCOMES[one.outcome][1]
        groups.setdefault((one.outcome, one.code, one.reason or remedy), []).append(one)
    problems = []
    for (outcome, code, reason), members in groups.items():
        details = {one.detail.replace(one.email, "<address>") for one in members}
        if len(members) > 1 and len(details) == 1:
            shared = f"{details.pop()} {reason}".strip()
            plain = tuple(dataclasses.replace(one, detail="") for one in members)
            problems.append(Problem(outcome, code, shared, plain))
        else:
            problems.append(Problem(outcome, code, reason, tuple(members)))
    order = list(OUTCOMES)
    return sorted(problems, key=lambda one: (order.index(one.outcome), -len(one.members)))


def in_short(
    headline: str, problems: t.Sequence[Problem], changes: t.Sequence[Problem] = ()
) -> tuple[str, list[dict[str, t.Any]]]:
    """Return the message of a task, a paragraph for each reason, and the entries of ``problems`` in its result.

    Both are short: Ansible prints the message of a failed task twice, and ``problems`` once. If there are many reasons,
    fewer members of each reason are named, and then the message has fewer reasons. changes: more paragraphs.
    """
    paragraphs = [*problems, *changes]
    for most in (MOST_EMAILS, 5, 3, 1):
        entries = [one.as_dict(most) for one in problems]
        room = max(_LEAST_TEXT, min(MOST_BYTES, (_MOST_PRINTED - len(json.dumps(entries))) // 2))
        text = "\n".join([headline, *(one.paragraph(most) for one in paragraphs)])
        if len(text.encode()) <= room:
            return text, entries
    for count in reversed(range(len(paragraphs))):
        left = paragraphs[count:]
        members = sum(len(one.members) for one in left)
        rest = f"More reasons: {len(left)}, for {members} members. See problems in the result."
        text = "\n".join([headline, *(one.paragraph(1) for one in paragraphs[:count]), rest])
        if len(text.encode()) <= room:
            break
    return text, entries


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most].rstrip()} ..."
