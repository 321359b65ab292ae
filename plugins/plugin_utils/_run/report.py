# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Turn the report of a run into the result of a task: members, counts, message, and whether the task fails."""

from __future__ import annotations

import typing as t

from ansible_collections.community.backblaze.plugins.module_utils._errors import UNCHANGED, B2Error
from ansible_collections.community.backblaze.plugins.module_utils._plan import Outcome, diff, lost_message
from ansible_collections.community.backblaze.plugins.plugin_utils._move.move import Moved
from ansible_collections.community.backblaze.plugins.plugin_utils._run.input import WantedGroup
from ansible_collections.community.backblaze.plugins.plugin_utils._run.job import Done, Plan, Report, Result

#: Outcomes that make a task fail, whatever its options say.
_FAILURES = frozenset({Outcome.CONFLICT, Outcome.REFUSED, Outcome.KEY_LOST, Outcome.KEY_DEAD, Outcome.NOT_ATTEMPTED})


def summary(group: WantedGroup, plan: Plan, report: Report, on_key_missing: str) -> dict[str, t.Any]:
    """Return the result of a task for the members of one Group."""
    result = _summary(group, report, on_key_missing)
    made = {one.email for one in report.results if one.made or one.ejected}
    if made:
        result["diff"] = diff([step for step in plan.steps if step.wanted.email in made])
    return result


def summary_of_groups(groups: t.Sequence[tuple[WantedGroup, Done]], on_key_missing: str) -> dict[str, t.Any]:
    """Return the result of a task for several Groups: the summaries of all Groups, joined."""
    total: dict[str, t.Any] = {"changed": False, "members": [], "counts": {}, "settled": [], "groups": []}
    several: dict[str, list[t.Any]] = {"warnings": [], "diff": []}
    problems = []
    for group, one in groups:
        share = _not_started(group, one) if isinstance(one, B2Error) else summary(group, *one, on_key_missing)
        total["changed"] = total["changed"] or share["changed"]
        for part in ("members", "settled"):
            total[part] += share[part]
        for outcome, count in share["counts"].items():
            total["counts"][outcome] = total["counts"].get(outcome, 0) + count
        several["warnings"] += share.get("warnings", [])
        several["diff"] += [share["diff"]] if "diff" in share else []
        failed = share.get("failed", False)
        problems += [f"{group}: {share['msg']}"] * failed
        shown = {"changed": share["changed"], "failed": failed, "counts": share["counts"], "msg": share["msg"]}
        total["groups"].append({**_names(group), **shown})
    total["msg"] = f"{len(groups)} Groups: " + ", ".join(f"{count} {name}" for name, count in total["counts"].items())
    if problems:
        total["failed"] = True
        total["msg"] = f"{len(problems)} of {len(groups)} Groups are not as wanted. " + " ".join(problems)
    return {**total, **{part: collected for part, collected in several.items() if collected}}


def _not_started(group: WantedGroup, error: B2Error) -> dict[str, t.Any]:
    """Return the summary of a Group that could not be started."""
    results = tuple(Result(one.email, Outcome.NOT_ATTEMPTED, error.happened) for one in group.members)
    share = _summary(group, Report(results, ()), "fail")
    share.update((name, error.facts[name]) for name in ("changed", "warnings") if name in error.facts)
    return {**share, "msg": error.explain(UNCHANGED)}


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
    }
    if moved.notes:
        result["warnings"] = moved.notes
    if moved.left:
        result["failed"] = True
        lines = [f"{one.email or one.path}: {one.message}" for one in moved.left]
        result["msg"] = f"{len(moved.moved)} keys moved, {len(lines)} not moved. " + " ".join(lines)
    return result


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


def _summary(group: WantedGroup, report: Report, on_key_missing: str) -> dict[str, t.Any]:
    """Return the part of a result that says what a run did in one Group."""
    counts: dict[str, int] = {}
    for one in report.results:
        counts[one.outcome.value] = counts.get(one.outcome.value, 0) + 1
    named = {one.email for one in report.results}
    lines = [
        f"{one.email}: {one.outcome.value}. {one.message}".strip()
        for one in report.results
        if _fails(one, on_key_missing)
    ]
    lines += [
        f"{one.email}: {one.outcome.value}. {lost_message(one.email, one.account_id, proven=one.proven)}"
        for one in report.settled
        if one.outcome is Outcome.KEY_LOST and not one.known and one.email not in named
    ]
    result: dict[str, t.Any] = {
        "changed": report.moved or any(one.changed for one in report.results),
        "members": [{**one.as_dict(), **_names(group)} for one in report.results],
        "counts": counts,
        "settled": [{**one.as_dict(), **_names(group)} for one in report.settled],
        "msg": ("Would be: " if report.check_mode else "") + ", ".join(f"{n} {name}" for name, n in counts.items()),
    }
    warnings = [
        *report.notes,
        *(f"{one.email}: {one.outcome.value}. {one.message}" for one in report.results if _warns(one, on_key_missing)),
    ]
    if warnings:
        result["warnings"] = warnings
    if lines:
        result["failed"] = True
        result["msg"] = f"Not as wanted: {len(lines)} (of {len(report.results)} members: {result['msg']}). " + " ".join(
            lines
        )
    return result


def _fails(one: Result, on_key_missing: str) -> bool:
    if one.outcome is Outcome.KEY_MISSING or (one.outcome is Outcome.KEY_LOST and one.known):
        return on_key_missing == "fail"
    return one.outcome in _FAILURES


def _warns(one: Result, on_key_missing: str) -> bool:
    if one.outcome in (Outcome.CREATED, Outcome.ADOPTED, Outcome.UNCHANGED):
        return bool(one.message)
    return one.outcome in (Outcome.KEY_MISSING, Outcome.KEY_LOST) and not _fails(one, on_key_missing)
