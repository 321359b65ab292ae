# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Turn the report of a run into the result of a task: members, counts, problems, message, and whether it fails."""

from __future__ import annotations

import collections
import dataclasses
import typing as t

from ansible_collections.community.backblaze.plugins.module_utils._errors import UNCHANGED, B2Error
from ansible_collections.community.backblaze.plugins.module_utils._plan import (
    OUTCOMES,
    Outcome,
    Step,
    diff,
    lost_message,
)
from ansible_collections.community.backblaze.plugins.plugin_utils._move.move import Moved
from ansible_collections.community.backblaze.plugins.plugin_utils._progress import printable
from ansible_collections.community.backblaze.plugins.plugin_utils._run.input import WantedGroup
from ansible_collections.community.backblaze.plugins.plugin_utils._run.job import Done, Plan, Report, Result
from ansible_collections.community.backblaze.plugins.plugin_utils._run.problems import (
    GOOD,
    MOST_EMAILS,
    Problem,
    in_short,
    problems_of,
)

#: Outcomes that make a task fail, whatever its options say.
_FAILURES = frozenset({Outcome.CONFLICT, Outcome.REFUSED, Outcome.KEY_LOST, Outcome.KEY_DEAD, Outcome.NOT_ATTEMPTED})
#: Outcomes of members that a run has changed.
_CHANGED = GOOD - {Outcome.UNCHANGED}


@dataclasses.dataclass(frozen=True)
class _Share:
    """One Group's part of a result.

    failing: the results that make the task fail, with the lost keys of earlier runs. warned: those with a warning.
    """

    group: WantedGroup
    report: Report
    failing: t.Sequence[Result]
    warned: t.Sequence[Result]
    diff: t.Mapping[str, str]
    changed: bool

    @property
    def names(self) -> dict[str, t.Optional[str]]:
        """The id and the name of the Group as results show them: an unknown one is None."""
        return {"group_id": self.group.group_id or None, "group_name": self.group.group_name or None}

    @property
    def counts(self) -> dict[str, int]:
        """The count of each outcome."""
        return _counts(self.report.results)


def summary(group: WantedGroup, plan: Plan, report: Report, on_key_missing: str) -> dict[str, t.Any]:
    """Return the result of a task for the members of one Group."""
    share = _share(group, plan.steps, report, on_key_missing)
    return _without_empty({**_joined([share]), "diff": share.diff})


def summary_of_groups(
    groups: t.Sequence[tuple[WantedGroup, Done]], on_key_missing: str, notes: t.Sequence[str] = ()
) -> dict[str, t.Any]:
    """Return the result of a task for several Groups. notes: more warnings."""
    shares = [
        _not_started(group, one) if isinstance(one, B2Error) else _share(group, one[0].steps, one[1], on_key_missing)
        for group, one in groups
    ]
    result = _joined(shares)
    result["warnings"] = [*notes, *result["warnings"]]
    result["groups"] = [
        {
            **one.names,
            "changed": one.changed,
            "failed": bool(one.failing),
            "counts": one.counts,
            "msg": _headline(one.counts, check_mode=one.report.check_mode),
        }
        for one in shares
    ]
    return _without_empty({**result, "diff": [one.diff for one in shares if one.diff]})


def shown(result: dict[str, t.Any], return_members: str) -> dict[str, t.Any]:
    """Return a result with or without its members, as the option return_members wants it.

    Ansible prints the whole result of a failed task. So without the members it has only some of the settled addresses:
    all whose key is lost, and a few others.
    """
    if return_members == "always" or (return_members == "success" and not result.get("failed")):
        return result
    result = {name: value for name, value in result.items() if name != "members"}
    if result.get("failed") and "settled" in result:
        lost = [one for one in result["settled"] if one["outcome"] == Outcome.KEY_LOST.value]
        others = [one for one in result["settled"] if one["outcome"] != Outcome.KEY_LOST.value]
        result["settled"] = [*lost, *others[:MOST_EMAILS]]
    return result


def _joined(shares: t.Sequence[_Share]) -> dict[str, t.Any]:
    """Return the result of all Groups of a task together."""
    counts = _counts(result for one in shares for result in one.report.results)
    check_mode = any(one.report.check_mode for one in shares)
    problems = problems_of(result for one in shares for result in one.failing)
    # Ansible shows no diff of a failed task, so the message names the members that change as well.
    changes = _changes(shares, check_mode=check_mode)
    message, entries = in_short(_headline(counts, check_mode=check_mode), problems, changes)
    return {
        "changed": any(one.changed for one in shares),
        "failed": bool(problems),
        "members": [{**result.as_dict(), **one.names} for one in shares for result in one.report.results],
        "counts": counts,
        "problems": entries,
        "settled": [{**result.as_dict(), **one.names} for one in shares for result in one.report.settled],
        "msg": message,
        "warnings": [
            *(note for one in shares for note in one.report.notes),
            *(one.paragraph() for one in _warnings(shares, check_mode=check_mode)),
        ],
    }


def _changes(shares: t.Sequence[_Share], *, check_mode: bool) -> list[Problem]:
    """Return the members that were created and adopted, or would be, for the message of a task."""
    groups: dict[str, list[Result]] = {}
    for one in (one for share in shares for one in share.report.results if one.outcome in _CHANGED):
        title = "ejected and created again" if one.ejected else one.outcome.value
        groups.setdefault(title, []).append(dataclasses.replace(one, detail="", reason=""))
    would = "would be " if check_mode else ""
    return [
        Problem(members[0].outcome, "", "", tuple(members), title=f"{would}{title}")
        for title, members in sorted(groups.items(), key=lambda group: list(OUTCOMES).index(group[1][0].outcome))
    ]


def _warnings(shares: t.Sequence[_Share], *, check_mode: bool) -> list[Problem]:
    """Return the members with a warning, by its reason."""
    found = problems_of(result for one in shares for result in one.warned)
    if not check_mode:
        return found
    return [
        dataclasses.replace(one, title=f"would be {one.outcome.value}") if one.outcome in _CHANGED else one
        for one in found
    ]


def _share(group: WantedGroup, steps: t.Sequence[Step], report: Report, on_key_missing: str) -> _Share:
    """Return one Group's part of a result."""
    named = {one.email for one in report.results}
    made = {one.email for one in report.results if one.made or one.ejected}
    failing = [one for one in report.results if _fails(one, on_key_missing)]
    for one in report.settled:
        if one.outcome is Outcome.KEY_LOST and not one.known and one.email not in named:
            detail, reason = lost_message(one.email, one.account_id, proven=one.proven)
            failing.append(Result(one.email, one.outcome, detail, reason=reason))
    return _Share(
        group,
        report,
        failing,
        [one for one in report.results if _warns(one, on_key_missing)],
        diff([step for step in steps if step.wanted.email in made]) if made else {},
        report.moved or any(one.changed for one in report.results),
    )


def _not_started(group: WantedGroup, error: B2Error) -> _Share:
    """Return the part of a Group that could not be started."""
    detail = f"{group} was not started. {error.happened} {error.changed or UNCHANGED}"
    reason = error.remedy or "Fix the cause, and run again."
    results = tuple(Result(one.email, Outcome.NOT_ATTEMPTED, detail, reason=reason) for one in group.members)
    report = Report(results, (), tuple(error.facts.get("warnings", ())))
    return _Share(group, report, results, (), {}, bool(error.facts.get("changed", False)))


def _counts(results: t.Iterable[Result]) -> dict[str, int]:
    """Return the count of each outcome that occurs, in the order of OUTCOMES."""
    counts = collections.Counter(one.outcome for one in results)
    return {outcome.value: counts[outcome] for outcome in OUTCOMES if counts[outcome]}


def _headline(counts: t.Mapping[str, int], *, check_mode: bool) -> str:
    """Return the count of each outcome in one line."""
    said = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
    return f"{sum(counts.values())} wanted{'. Planned' if check_mode else ''}: {said}."


def _fails(one: Result, on_key_missing: str) -> bool:
    if one.outcome is Outcome.KEY_MISSING or (one.outcome is Outcome.KEY_LOST and one.known):
        return on_key_missing == "fail"
    return one.outcome in _FAILURES


def _warns(one: Result, on_key_missing: str) -> bool:
    if one.outcome in GOOD:
        return bool(one.message)
    return one.outcome in (Outcome.KEY_MISSING, Outcome.KEY_LOST) and not _fails(one, on_key_missing)


def _without_empty(result: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """Return a result without its warnings and its diff if it has none, and without ``failed`` if it succeeded."""
    return {name: value for name, value in result.items() if value or name not in ("warnings", "diff", "failed")}


def summary_of_move(moved: Moved) -> dict[str, t.Any]:
    """Return the result of a task that moved keys to another layout."""
    result: dict[str, t.Any] = {
        "changed": moved.changed,
        "moved": [{"email": one.email, "path": one.path} for one in moved.moved],
        "left": [{"email": one.email or None, "path": one.path, "message": one.message} for one in moved.left],
        "msg": f"{len(moved.moved)} {'key' if len(moved.moved) == 1 else 'keys'} moved.",
        "warnings": moved.notes,
        "failed": bool(moved.left),
    }
    if moved.left:
        lines = [f"  {one.email or one.path}: {one.message}" for one in moved.left[:MOST_EMAILS]]
        more = [f"  and {len(moved.left) - MOST_EMAILS} more"] if moved.left[MOST_EMAILS:] else []
        result["msg"] = "\n".join([f"{len(moved.moved)} keys moved, {len(moved.left)} not moved:", *lines, *more])
    elif moved.moved:
        by_email = sorted(moved.moved, key=lambda one: one.email)
        header = f"vault files of {len(by_email)} keys"
        result["diff"] = {
            "before_header": header,
            "after_header": header,
            "before": "".join(f"{one.email}: {one.former}\n" for one in by_email),
            "after": "".join(f"{one.email}: {one.path}\n" for one in by_email),
        }
    return _without_empty(result)


def summary_of_stop(result: t.Mapping[str, t.Any], reason: str, *, check_mode: bool = False) -> str:
    """Return the summary of a stopped task as text: its message, and how to go on."""
    message = str(result.get("msg", ""))
    lines = [f"community.backblaze: The run ended, because {reason}.", *message.splitlines()]
    email = (result.get("member") or {}).get("email", "")
    if email and email not in message:
        lines.append(f"{email}: {result['outcome']}.")
    if "counts" in result and not check_mode:
        lines.append(
            "The key of each created or adopted member is sealed. Run again to go on: the next run finds out the "
            "outcome of each member that was being created."
        )
    if check_mode:
        lines.append("This was check mode: nothing was changed.")
    return "".join(f"{printable(line)}\n" for line in lines)
