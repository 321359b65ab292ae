# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Write the guide to errors from the tables in the code, so that the page says what the messages say."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path

import tree

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
    parts = {
        "outcomes": _table("Outcome", ((f"``{outcome.value}``", *said) for outcome, said in _plan.OUTCOMES.items())),
        "codes": _table(
            "Code", [*((f"``{code}``", *said) for code, said in codes.items()), ("any other", *_errors.remedy_for(""))]
        ),
    }
    text = TEMPLATE.read_text(encoding="utf-8")
    for name, table in parts.items():
        text = text.replace(f".. {name}: written by {Path(__file__).name}\n", table)
    return text


def _table(first: str, rows: Iterable[tuple[str, str, str]]) -> str:
    lines = [".. list-table::", "   :header-rows: 1", "   :widths: 20 40 40", ""]
    for name, meaning, remedy in [(first, "Meaning", "What to do"), *rows]:
        lines += [f"   * - {name}", f"     - {_plain(meaning)}", f"     - {_plain(remedy)}"]
    return "\n".join(lines) + "\n"


def _plain(text: str) -> str:
    """Escape what would be markup in reStructuredText."""
    return re.sub(r"([\\*`|]|_(?=\W|$))", r"\\\1", text)


if __name__ == "__main__":
    tree.make()
    (tree.ROOT / PAGE).write_text(page(tree.TREE), encoding="utf-8")
