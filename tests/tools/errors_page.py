# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Write the guide to errors from the tables in the code, so that the page says what the messages say."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import tree

sys.path.append(str(tree.ROOT / "tests" / "sandbox"))

import fault  # lies beside the sandbox, which is no package

TEMPLATE = Path(__file__).with_suffix(".rst")
PAGE = Path("docs/docsite/rst/guide_errors.rst")


def page(collections: Path) -> str:
    """Return the page for the collection that lies in this collections directory."""
    sys.path.insert(0, str(collections))
    try:
        from ansible_collections.community.backblaze.plugins.module_utils import _errors, _plan
    finally:
        sys.path.remove(str(collections))
    if missing := set(_plan.Outcome) - set(_plan.OUTCOMES):
        raise SystemExit(f"OUTCOMES in _plan.py does not say what these mean: {', '.join(sorted(missing))}")
    codes = {("*_" if code == "cap_exceeded" else "") + code: said for code, said in _errors.REMEDIES.items()}
    outcomes = [(f"``{outcome.value}``", *said) for outcome, said in _plan.OUTCOMES.items()]
    rows = [*((f"``{code}``", *said) for code, said in codes.items()), ("any other", *_errors.remedy_for(""))]
    faults = [(f"``{f'fault {one.name} {one.argument}'.rstrip()}``", one.effect) for one in fault.FAULTS]
    parts = {
        "outcomes": _table({"Outcome": 20, "Meaning": 40, "What to do": 40}, outcomes),
        "codes": _table({"Code": 20, "Meaning": 40, "What to do": 40}, rows),
        "faults": _table({"Command": 40, "Effect": 60}, faults),
    }
    text = TEMPLATE.read_text(encoding="utf-8")
    for name, table in parts.items():
        text = text.replace(f".. {name}: written by {Path(__file__).name}\n", table)
    return text


def _table(columns: Mapping[str, int], rows: Iterable[tuple[str, ...]]) -> str:
    """Return a table. columns: each title with its width. The first cell of a row is markup, the others are text."""
    lines = [".. list-table::", "   :header-rows: 1", f"   :widths: {' '.join(map(str, columns.values()))}", ""]
    for name, *texts in [tuple(columns), *rows]:
        lines += [f"   * - {name}", *(f"     - {_plain(text)}" for text in texts)]
    return "\n".join(lines) + "\n"


def _plain(text: str) -> str:
    """Escape what would be markup in reStructuredText."""
    return re.sub(r"([\\*`|]|_(?=\W|$))", r"\\\1", text)


if __name__ == "__main__":
    tree.make()
    (tree.ROOT / PAGE).write_text(page(tree.TREE), encoding="utf-8")
