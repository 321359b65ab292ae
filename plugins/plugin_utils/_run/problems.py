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
# Outcomes of members that are as wanted: there is nothing to do about them.
_GOOD = frozenset({Outcome.CREATED, Outcome.ADOPTED, Outcome.UNCHANGED})
# The most bytes of the details of one member, and of one reason.
_MOST_OF_MEMBER = 300
_MOST_OF_REASON = 600


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
        """Return the entry of ``problems`` in a task's result, with up to so many addresses."""
        return {
            "outcome": self.outcome.value,
            "code": self.code or None,
            "message": self.message,
            "count": len(self.members),
            "emails": [one.email for one in self.members[:most]],
        }

    def paragraph(self, most: int = MOST_EMAILS) -> str:
        """Return a line with the reason, and up to so many members: one a line with its details, else in one line."""
        named = self.members[:most]
        rest = f"and {len(self.members) - most} more" if self.members[most:] else ""
        title = self.title or ", ".join(filter(None, (self.outcome.value, self.code)))
        title = f"{title}: {_cut(self.message, _MOST_OF_REASON)}".strip()
        if not any(one.detail for one in named):
            return f"{title}\n  {', '.join(one.email for one in named)} {rest}".rstrip()
        lines = [f"  {one.email}: {_cut(one.detail, _MOST_OF_MEMBER)}".rstrip(": ") for one in named]
        return "\n".join([title, *lines, *([f"  {rest}"] if rest else [])])


def problems_of(results: t.Iterable[Result]) -> list[Problem]:
    """Group results by outcome, code and reason, in the order of the outcomes, the largest first.

    If all members of a problem have the same details, apart from the address, these are a part of the reason.
    """
    groups: dict[tuple[Outcome, str, str], list[Result]] = {}
    for one in results:
        remedy = "" if one.outcome in _GOOD else OUTCOMES[one.outcome][1]
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
        room = min(MOST_BYTES, (_MOST_PRINTED - len(json.dumps(entries))) // 2)
        text = "\n".join([headline, *(one.paragraph(most) for one in paragraphs)])
        if len(text.encode()) <= room:
            return text, entries
    for count in reversed(range(len(paragraphs))):
        left = paragraphs[count:]
        rest = f"{len(left)} more reasons, of {sum(len(one.members) for one in left)} members: see problems."
        text = "\n".join([headline, *(one.paragraph(1) for one in paragraphs[:count]), rest])
        if len(text.encode()) <= room:
            break
    return text, entries


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most].rstrip()} ..."
