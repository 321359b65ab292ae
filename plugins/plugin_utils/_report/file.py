# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Write a report file: CSV, JSON or HTML by its extension, with mode 0600, whole or not at all. It holds no secret."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import json
import os
import stat
import typing as t

from ansible_collections.community.backblaze.plugins.module_utils._errors import OptionError, StoreError
from ansible_collections.community.backblaze.plugins.module_utils._files import DIRECTORY, explained, opened, replace
from ansible_collections.community.backblaze.plugins.module_utils._vault_paths import is_temporary
from ansible_collections.community.backblaze.plugins.plugin_utils._report.page import Part, page

#: A cell that begins with one of these characters is a formula for a spreadsheet.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")

Row = t.Mapping[str, t.Union[str, int, bool, None]]


@dataclasses.dataclass(frozen=True)
class Report:
    """The content of a report file.

    fields, rows: the columns and the lines of the CSV file. Each row has all fields. name: the name of the rows in the
    JSON file, beside ``facts``. title, subtitle, parts: the HTML page.
    """

    name: str
    fields: t.Sequence[str]
    rows: t.Sequence[Row]
    facts: t.Mapping[str, t.Any]
    title: str
    subtitle: str
    parts: t.Sequence[Part]


def prove_report_file(path: str, vault_dir: str, lists: t.Iterable[str] = ()) -> None:
    """Check before the first change that a report file can be written. Raises OptionError or StoreError if not.

    vault_dir: Ansible would load some files in it as variables, and a report has texts from outside. lists: the members
    files of the task, which the report must not replace.
    """
    if _form(path) not in _FORMS:
        raise OptionError(
            f"report_file {path} does not end in .csv, .json or .html.",
            remedy="Name a file with one of these extensions.",
        )
    real = os.path.realpath(path)
    if real in map(os.path.realpath, lists):
        raise OptionError(f"report_file {path} is the members file.", remedy="Name another file.")
    if os.path.commonpath([real, os.path.realpath(vault_dir)]) == os.path.realpath(vault_dir):
        raise OptionError(f"report_file {path} is in the vault directory.", remedy="Name a file outside of it.")
    with explained("cannot be written", path), opened(None, os.path.dirname(path), DIRECTORY) as directory:
        if not os.access(".", os.W_OK | os.X_OK, dir_fd=directory):
            raise StoreError(f"{os.path.dirname(path)} cannot be written by this user.", remedy="Fix its permissions.")
        try:
            found = os.lstat(os.path.basename(path), dir_fd=directory).st_mode
        except FileNotFoundError:
            return
        if not stat.S_ISREG(found):
            raise StoreError(f"report_file {path} is not a plain file.", remedy="Move it away, or name another file.")


def write_report(path: str, report: Report) -> None:
    """Write a report file, or replace it. Raises StoreError if it cannot be written."""
    # A path may have bytes, and a message of Backblaze may have half characters, that are not UTF-8.
    data = _FORMS[_form(path)](report).encode("utf-8", "backslashreplace")
    name = os.path.basename(path)
    with explained("cannot be written", path), opened(None, os.path.dirname(path), DIRECTORY) as directory:
        # A run that was killed while it wrote the report may have left a part of it.
        for left in (one for one in os.listdir(directory) if is_temporary(one, name)):
            with contextlib.suppress(OSError):
                os.unlink(left, dir_fd=directory)
        replace(directory, name, data)
        os.fsync(directory)


def _form(path: str) -> str:
    return os.path.splitext(path)[1].lower()


def _as_csv(report: Report) -> str:
    text = io.StringIO()
    lines = csv.writer(text)
    lines.writerow(report.fields)
    lines.writerows([[_csv_cell(row[field]) for field in report.fields] for row in report.rows])
    return text.getvalue()


def _csv_cell(value: t.Union[str, int, bool, None]) -> t.Union[str, int]:
    """Return a value that no spreadsheet takes for a formula: addresses and messages come from outside."""
    if value is None:
        return ""
    if isinstance(value, str):
        return f"'{value}" if value.startswith(_FORMULA) else value
    return str(value).lower() if isinstance(value, bool) else value


def _as_json(report: Report) -> str:
    return json.dumps({**report.facts, report.name: list(report.rows)}, indent=2) + "\n"


def _as_html(report: Report) -> str:
    return page(report.title, report.subtitle, report.parts)


_FORMS: t.Mapping[str, t.Callable[[Report], str]] = {".csv": _as_csv, ".json": _as_json, ".html": _as_html}
