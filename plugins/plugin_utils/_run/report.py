# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Turn the report of a run into the result of a task: members, counts, message, and whether the task fails."""

from __future__ import annotations

import collections
import typing as t

from ansible_collections.community.backblaze.plugins.module_utils._errors import UNCHANGED, B2Error
from ansible_collections.community.backblaze.plugins.module_utils._plan import Outcome, Step, diff, lost_message
from ansible_collections.community.backblaze.plugins.plugin_utils._move.move import Moved
from ansible_collections.community.backblaze.plugins.plugin_utils._run.input import WantedGroup
from ansible_collections.community.backblaze.plugins.plugin_utils._run.job import Done, Plan, Report, Result

#: Outcomes that make a task fail, whatever its options say.
_FAILURES = frozenset({Outcome.CONFLICT, Outcome.REFUSED, Outcome.KEY_LOST, Outcome.KEY_DEAD, Outcome.NOT_ATTEMPTED})


def summary(group: WantedGroup, plan: Plan, report: Report, on_key_missing: str) -> dict[str, t.Any]:
    """Return the result of a task for the members of one Group."""
    return _without_empty(_summary(group, plan.steps, report, on_key_missing))


def summary_of_groups(
    groups: t.Sequence[tuple[WantedGroup, Done]], on_key_missing: str, notes: t.Sequence[str] = ()
) -> dict[str, t.Any]:
    """Return the result of a task for several Groups: the summaries of all Groups, joined. notes: more warnings."""
    total: dict[str, t.Any] = {"changed": False, "members": [], "settled": [], "groups": [], "diff": []}
    total["warnings"] = [*notes]
    counts: collections.Counter[str] = collections.Counter()
    problems = []
    for group, one in groups:
        if isinstance(one, B2Error):
            share = _not_started(group, one)
        else:
            plan, report = one
            share = _summary(group, plan.steps, report, on_key_missing)
        total["changed"] |= share["changed"]
        for part in ("members", "settled", "warnings"):
            total[part] += share[part]
        total["diff"] += [share["diff"]] if share["diff"] else []
        counts.update(share["counts"])
        problems += [f"{group}: {share['msg']}"] * share["failed"]
        shown = {part: share[part] for part in ("changed", "failed", "counts", "msg")}
        total["groups"].append({**_names(group), **shown})
    msg = f"{len(groups)} Groups: {_said(counts)}"
    if problems:
        msg = f"{len(problems)} of {len(groups)} Groups are not as wanted. {' '.join(problems)}"
    return _without_empty({**total, "counts": dict(counts), "failed": bool(problems), "msg": msg})


def _not_started(group: WantedGroup, error: B2Error) -> dict[str, t.Any]:
    """Return the summary of a Group that could not be started."""
    results = tuple(Result(one.email, Outcome.NOT_ATTEMPTED, error.happened) for one in group.members)
    share = _summary(group, (), Report(results, ()), "fail")
    share.update((name, error.facts[name]) for name in ("changed", "warnings") if name in error.facts)
    return {**share, "msg": error.explain(UNCHANGED)}


def _without_empty(result: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """Return a result without its warnings and its diff if it has none, and without ``failed`` if it succeeded."""
    return {name: value for name, value in result.items() if value or name not in ("warnings", "diff", "failed")}


def _names(group: WantedGroup) -> dict[str, t.Optional[str]]:
    """Return the id and the name of a Group as results show them: an unknown one is None."""
    return {"group_id": group.group_id or None, "group_name": group.group_name or None}


def summary_of_move(moved: Moved) -> dict[str, t.Any]:
    """Return the result of a task that moved keys to another layout."""
    result: dict[str, t.Any] = {
        "changed": moved.changed,
        "moved": [{"email": one.email, "path": one.path} for one in moved.moved],
        "left": [{"email": one.email or None, "path": one.path, "message": one.message} for one in moved.left],
        "msg": f"{len(moved.moved)} keys moved.",
        "warnings": moved.notes,
        "failed": bool(moved.left),
    }
    if moved.left:
        lines = [f"{one.email or one.path}: {one.message}" for one in moved.left]
        result["msg"] = f"{len(moved.moved)} keys moved, {len(lines)} not moved. " + " ".join(lines)
    return _without_empty(result)


def summary_of_stop(result: t.Mapping[str, t.Any], reason: str, *, check_mode: bool = False) -> str:
    """Return the summary of a stopped task as text: the counts, and each member that needs attention."""
    lines = [f"community.backblaze: The run ended, because {reason}."]
    if "counts" in result:
        lines[0] += f" {', '.join(f'{name}: {count}' for name, count in result['counts'].items())}."
        lines += [
            f"  {one['email']}: {one['outcome']}. {one['message']}".rstrip()
            for one in result["members"]
            if one["outcome"] != Outcome.NOT_ATTEMPTED.value and one["message"]
        ]
        if not check_mode:
            lines.append(
                "  The key of each created or adopted member is sealed. Run again to go on: the next run finds out the "
                "outcome of each member that was being created."
            )
    elif "outcome" in result:
        email = (result.get("member") or {}).get("email", "The member")
        lines.append(f"  {email}: {result['outcome']}. {result.get('msg', '')}".rstrip(". "))
    else:
        lines.append(f"  {result.get('msg', '')}")
    if check_mode:
        lines.append("  This was check mode: nothing was changed.")
    # A terminal shows this text unchanged, and messages quote Backblaze.
    return "".join("".join(c if c.isprintable() else "?" for c in line) + "\n" for line in lines)


def _summary(group: WantedGroup, steps: t.Sequence[Step], report: Report, on_key_missing: str) -> dict[str, t.Any]:
    """Return the part of a result that says what a run did in one Group."""
    counts = collections.Counter(one.outcome.value for one in report.results)
    named = {one.email for one in report.results}
    made = {one.email for one in report.results if one.made or one.ejected}
    problems = [_line(one).strip() for one in report.results if _fails(one, on_key_missing)]
    problems += [
        f"{one.email}: {one.outcome.value}. {lost_message(one.email, one.account_id, proven=one.proven)}"
        for one in report.settled
        if one.outcome is Outcome.KEY_LOST and not one.known and one.email not in named
    ]
    msg = f"{'Would be: ' if report.check_mode else ''}{_said(counts)}"
    if problems:
        msg = f"Not as wanted: {len(problems)} (of {len(report.results)} members: {msg}). {' '.join(problems)}"
    return {
        "changed": report.moved or any(one.changed for one in report.results),
        "failed": bool(problems),
        "members": [{**one.as_dict(), **_names(group)} for one in report.results],
        "counts": dict(counts),
        "settled": [{**one.as_dict(), **_names(group)} for one in report.settled],
        "msg": msg,
        "warnings": [*report.notes, *(_line(one) for one in report.results if _warns(one, on_key_missing))],
        "diff": diff([step for step in steps if step.wanted.email in made]) if made else {},
    }


def _said(counts: t.Mapping[str, int]) -> str:
    return ", ".join(f"{count} {outcome}" for outcome, count in counts.items())


def _line(one: Result) -> str:
    return f"{one.email}: {one.outcome.value}. {one.message}"


def _fails(one: Result, on_key_missing: str) -> bool:
    if one.outcome is Outcome.KEY_MISSING or (one.outcome is Outcome.KEY_LOST and one.known):
        return on_key_missing == "fail"
    return one.outcome in _FAILURES


def _warns(one: Result, on_key_missing: str) -> bool:
    if one.outcome in (Outcome.CREATED, Outcome.ADOPTED, Outcome.UNCHANGED):
        return bool(one.message)
    return one.outcome in (Outcome.KEY_MISSING, Outcome.KEY_LOST) and not _fails(one, on_key_missing)
