# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Write an HTML page of the collection: one file that loads nothing, for a desktop, a phone and paper.

Every text is escaped here, because addresses and messages come from outside. The browser is told to load nothing and to
run only the script of this file.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import html
import typing as t

#: How a cell or a count is coloured. The text says the same, for readers who see no colours.
Tone = t.Literal["", "good", "attention", "bad"]


@dataclasses.dataclass(frozen=True)
class Tag:
    """A short word with a colour, such as an outcome."""

    text: str
    tone: Tone = ""


Cell = t.Union[str, int, Tag, None]


@dataclasses.dataclass(frozen=True)
class Counts:
    """Large numbers at the top of a page: (label, number). A label that is a Tag filters the tables by this tag."""

    counts: t.Sequence[tuple[t.Union[str, Tag], t.Union[int, str]]]

    def as_html(self) -> str:
        """Return the numbers as HTML."""
        return f'<div class="counts">{"".join(self._one(label, number) for label, number in self.counts)}</div>'

    @staticmethod
    def _one(label: t.Union[str, Tag], number: t.Union[int, str]) -> str:
        if isinstance(label, Tag):
            return (
                f'<button type="button" class="count {label.tone}" aria-pressed="false" data-tag="{_text(label.text)}">'
                f"<b>{_text(number)}</b> {_text(label.text)}</button>"
            )
        return f'<div class="count"><b>{_text(number)}</b> {_text(label)}</div>'


@dataclasses.dataclass(frozen=True)
class Facts:
    """Terms with their explanations, such as each outcome and what to do about it."""

    title: str
    facts: t.Sequence[tuple[t.Union[str, Tag], str]]

    def as_html(self) -> str:
        """Return the terms as HTML."""
        rows = "".join(f"<dt>{_cell(term)}</dt><dd>{_text(text)}</dd>" for term, text in self.facts)
        return f"<section><h2>{_text(self.title)}</h2><dl>{rows}</dl></section>"


@dataclasses.dataclass(frozen=True)
class Table:
    """A table that the reader can sort and filter. Numbers are aligned to the right."""

    title: str
    columns: t.Sequence[str]
    rows: t.Sequence[t.Sequence[Cell]]

    def as_html(self) -> str:
        """Return the table as HTML."""
        heads = "".join(f'<th scope="col"><button type="button">{_text(one)}</button></th>' for one in self.columns)
        rows = "".join(self._row(row) for row in self.rows)
        return (
            f"<section><h2>{_text(self.title)}</h2>"
            f'<p class="filter"><label>Filter <input type="search" autocomplete="off"></label> '
            f"<output>{len(self.rows)} of {len(self.rows)}</output></p>"
            f'<div class="scroll" role="region" tabindex="0" aria-label="{_text(self.title)}">'
            f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div></section>"
        )

    def _row(self, row: t.Sequence[Cell]) -> str:
        cells = "".join(
            f'<td data-label="{_text(column)}"{" class=number" if isinstance(cell, int) else ""}>{_cell(cell)}</td>'
            for column, cell in zip(self.columns, row, strict=True)
        )
        return f"<tr>{cells}</tr>\n"


Part = t.Union[Counts, Facts, Table]


def page(title: str, subtitle: str, parts: t.Sequence[Part]) -> str:
    """Return a whole page. subtitle: one line below the title, such as the Group and the time."""
    script = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{script}'"
    body = "\n".join(part.as_html() for part in parts)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="no-referrer">\n'
        f"<title>{_text(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"<h1>{_text(title)}</h1>\n<p>{_text(subtitle)}</p>\n{body}\n</main>\n"
        f"<script>{_SCRIPT}</script>\n</body>\n</html>\n"
    )


def _text(value: t.Union[str, int]) -> str:
    return html.escape(str(value))


def _cell(cell: Cell) -> str:
    if isinstance(cell, Tag):
        return f'<span class="tag {cell.tone}">{_text(cell.text)}</span>'
    return "" if cell is None else _text(cell)


_STYLE = """
:root { color-scheme: light dark; --line: #8884; --good: #18794e; --attention: #8a5a00; --bad: #b42318; }
@media (prefers-color-scheme: dark) { :root { --good: #5bd197; --attention: #f0b45a; --bad: #ff8f85; } }
body { margin: 0; font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 80rem; margin: 0 auto; padding: 1rem; }
h1 { margin: 0; font-size: 1.6rem; }
h2 { margin: 2rem 0 .5rem; font-size: 1.2rem; }
.counts { display: flex; flex-wrap: wrap; gap: .5rem; margin: 1rem 0; }
.count { min-width: 6rem; padding: .5rem .75rem; border: 1px solid var(--line); border-radius: .5rem; background: none;
  color: inherit; font: inherit; text-align: left; }
button.count { cursor: pointer; }
.count[aria-pressed=true] { outline: 2px solid; }
.count b { display: block; font-size: 1.4rem; }
.good { color: var(--good); } .attention { color: var(--attention); } .bad { color: var(--bad); }
.tag { font-weight: 600; white-space: nowrap; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1rem; margin: 0; }
dd { margin: 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th { text-align: left; white-space: nowrap; border-bottom: 2px solid var(--line); }
th button { padding: .4rem .5rem; border: 0; background: none; color: inherit; font: inherit; font-weight: 600;
  cursor: pointer; }
th[aria-sort=ascending] button::after { content: " \\25b2"; }
th[aria-sort=descending] button::after { content: " \\25bc"; }
td { padding: .4rem .5rem; border-bottom: 1px solid var(--line); vertical-align: top; overflow-wrap: break-word;
  max-width: 28rem; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
.filter input { font: inherit; padding: .2rem .5rem; }
@media (max-width: 45rem) {
  dl { grid-template-columns: 1fr; } dd { margin-bottom: .5rem; }
  thead { position: absolute; left: -999rem; }
  tr[hidden] { display: none; }
  tr { display: block; padding: .5rem 0; border-bottom: 2px solid var(--line); }
  td { display: flex; gap: 1rem; max-width: none; padding: .15rem .5rem; border: 0; overflow-wrap: anywhere; }
  td.number { text-align: left; }
  td:empty { display: none; }
  td::before { content: attr(data-label); flex: 0 0 7rem; opacity: .7; }
}
@media print {
  .filter { display: none; } .scroll { overflow: visible; } main { max-width: none; padding: 0; }
  tr { break-inside: avoid; }
}
"""

_SCRIPT = """
const number = text => text !== '' && isFinite(text) ? Number(text) : null;
for (const section of document.querySelectorAll('section:has(table)')) {
  const body = section.querySelector('tbody'), rows = [...body.rows];
  const input = section.querySelector('input'), output = section.querySelector('output');
  const show = () => {
    const words = input.value.toLowerCase().split(/\\s+/);
    const tag = document.querySelector('.count[aria-pressed=true]')?.dataset.tag;
    let shown = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      const tagged = !tag || [...row.querySelectorAll('.tag')].some(one => one.textContent === tag);
      row.hidden = !(tagged && words.every(word => text.includes(word)));
      shown += !row.hidden;
    }
    output.value = `${shown} of ${rows.length}`;
  };
  input.addEventListener('input', show);
  document.addEventListener('tag', show);
  [...section.querySelectorAll('th')].forEach((head, column) => head.addEventListener('click', () => {
    const up = head.getAttribute('aria-sort') !== 'ascending';
    for (const one of section.querySelectorAll('th')) one.removeAttribute('aria-sort');
    head.setAttribute('aria-sort', up ? 'ascending' : 'descending');
    const text = row => row.cells[column].textContent;
    rows.sort((a, b) => {
      const [x, y] = [number(text(a)), number(text(b))];
      return (x !== null && y !== null ? x - y : text(a).localeCompare(text(b))) * (up ? 1 : -1);
    });
    body.append(...rows);
  }));
}
for (const count of document.querySelectorAll('button.count')) count.addEventListener('click', () => {
  const on = count.getAttribute('aria-pressed') !== 'true';
  for (const one of document.querySelectorAll('button.count')) one.setAttribute('aria-pressed', 'false');
  count.setAttribute('aria-pressed', String(on));
  document.dispatchEvent(new Event('tag'));
});
"""
