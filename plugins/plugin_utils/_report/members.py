# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Make the report about the members of a run: one row for each member, with its outcome and what to do."""

from __future__ import annotations

import collections
import typing as t

from ansible_collections.community.backblaze.plugins.module_utils._members import Member, folded
from ansible_collections.community.backblaze.plugins.module_utils._plan import OUTCOMES, Outcome
from ansible_collections.community.backblaze.plugins.plugin_utils._report.file import Report, Row
from ansible_collections.community.backblaze.plugins.plugin_utils._report.page import Counts, Facts, Table, Tag, Tone
from ansible_collections.community.backblaze.plugins.plugin_utils._run.job import Result

_TONES: t.Mapping[Outcome, Tone] = {
    Outcome.CREATED: "good",
    Outcome.ADOPTED: "good",
    Outcome.KEY_MISSING: "attention",
    Outcome.NOT_ATTEMPTED: "attention",
    Outcome.KEY_LOST: "bad",
    Outcome.KEY_DEAD: "bad",
    Outcome.CONFLICT: "bad",
    Outcome.REFUSED: "bad",
}
# The explanations of outcomes in check mode that a run has not brought about.
_PLANNED = {
    Outcome.CREATED.value: "A run would create the member and seal its key.",
    Outcome.ADOPTED.value: "A run would seal the given key. The key opens the account of the member.",
}
# The order of the rows of the page.
_FIRST: t.Sequence[Tone] = ("bad", "attention", "good", "")
#: The columns of the page, with their titles. A column without a value is left out.
_COLUMNS = {
    "email": "Address",
    "group_name": "Group",
    "outcome": "Outcome",
    "message": "Message",
    "code": "Code",
    "account_id": "Account",
    "region": "Region",
    "path": "Vault file",
    "ejected_account_id": "Ejected account",
}


def members_report(result: t.Mapping[str, t.Any], written: str, *, check_mode: bool) -> Report:
    """Return the report of a task that seals the keys of members. written: the time, as the report shows it."""
    facts = {"foretold": check_mode, **{part: result[part] for part in ("counts", "problems", "settled")}}
    named = {one["email"] for one in result["members"]}
    left_open = [_left_open(one) for one in result["settled"] if one["email"] not in named]
    rows = [{**one, "foretold": check_mode} for one in (*result["members"], *left_open)]
    note = "Check mode: a run would have these outcomes. Nothing was changed." if check_mode else ""
    remedies: dict[str, list[str]] = {outcome: [text] for outcome, text in _PLANNED.items() if check_mode}
    for one in result["problems"]:
        code = f"{one['code']}: " if one["code"] else ""
        members = "1 member" if one["count"] == 1 else f"{one['count']} members"
        remedies.setdefault(one["outcome"], []).append(f"{members}. {code}{one['message']}")
    total = ("wanted", len(result["members"]))
    return _report("Members of Backblaze B2 Groups", total, rows, written, result["vault_dir"], note, facts, remedies)


def _left_open(settled: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """Return the row of an address that an earlier run left open, and that is not wanted any more."""
    row = dict.fromkeys(Result("", Outcome.UNCHANGED).as_dict())
    message = f"An earlier run left this address open. {' '.join(OUTCOMES[Outcome(settled['outcome'])])}"
    return {**row, **settled, "message": message}


def audit_report(
    members: t.Iterable[Member], audit: t.Mapping[str, t.Sequence[t.Mapping[str, t.Any]]], written: str, vault_dir: str
) -> Report:
    """Return the report of an audit: every member of the Groups, and every stored key without a member."""
    entries = [{"outcome": outcome, **entry} for outcome, found in audit.items() for entry in found]
    # An audit names addresses in lower case, a Group as Backblaze has them.
    differs = {(one["email"], one["account_id"]): one for one in entries}
    rows = []
    for member in members:
        entry = differs.pop(
            (folded(member.email), member.account_id), {"outcome": Outcome.UNCHANGED.value, "message": None}
        )
        rows.append({**member.as_dict(), "outcome": entry["outcome"], "message": entry["message"]})
    fields = list(rows[0]) if rows else ["email", "outcome", "message", "account_id"]
    rows += [{**dict.fromkeys(fields), **one} for one in differs.values()]
    note = "Stored keys, compared with the Groups. Nothing was changed."
    total = ("members and keys", len(rows))
    return _report("Audit of Backblaze B2 Groups", total, rows, written, vault_dir, note, {}, {})


def _report(
    title: str,
    total: tuple[str, int],
    rows: t.Sequence[Row],
    written: str,
    vault_dir: str,
    note: str,
    facts: t.Mapping[str, t.Any],
    remedies: t.Mapping[str, t.Sequence[str]],
) -> Report:
    """Return a report with one row for each member.

    total: the first number of the page, with its label. remedies: for an outcome, texts that replace its general
    explanation.
    """
    counts = collections.Counter(row["outcome"] for row in rows)
    tags = {one.value: Tag(one.value, _TONES.get(one, "")) for one in OUTCOMES if counts[one.value]}
    explained = [
        (tags[one.value], text)
        for one in OUTCOMES
        if counts[one.value]
        for text in remedies.get(one.value, [" ".join(OUTCOMES[one]).replace(" Nothing.", "")])
    ]
    return Report(
        name="members",
        fields=list(rows[0]) if rows else list(_COLUMNS),
        rows=rows,
        facts={"written": written, "vault_dir": vault_dir, **facts},
        title=title,
        subtitle=" ".join(filter(None, (f"{written}.", f"Keys in {vault_dir}.", note))),
        parts=[
            Counts([total, *((tag, counts[outcome]) for outcome, tag in tags.items())]),
            Facts("Outcomes", explained),
            _table(rows, tags, f"{vault_dir}/"),
        ],
    )


def _table(rows: t.Sequence[Row], tags: t.Mapping[t.Any, Tag], directory: str) -> Table:
    """Return the table of a page, problems first. A path in the directory of the keys is shown without it."""
    by_tone = sorted(rows, key=lambda row: _FIRST.index(tags[row["outcome"]].tone))
    shown = {field: title for field, title in _COLUMNS.items() if any(row.get(field) for row in rows)}
    cells = [
        [tags[row[field]] if field == "outcome" else _without(row[field], directory) for field in shown]
        for row in by_tone
    ]
    return Table("Members", list(shown.values()), cells)


def _without(value: t.Any, beginning: str) -> t.Any:
    return value.removeprefix(beginning) if isinstance(value, str) else value
