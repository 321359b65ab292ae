# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A report file holds what it was given, in each form, and nothing that a browser or a spreadsheet would run."""

from __future__ import annotations

import csv
import html.parser
import json
import os
import signal
import stat

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ansible_collections.community.backblaze.plugins.module_utils._errors import B2Error, OptionError
from ansible_collections.community.backblaze.plugins.plugin_utils._report.file import (
    Report,
    prove_report_file,
    write_report,
)
from ansible_collections.community.backblaze.plugins.plugin_utils._report.page import Counts, Facts, Table, Tag
from ansible_collections.community.backblaze.tests.utils.vault_files import in_child, with_a_full_disk

COLUMNS = {"email": "Address", "outcome": "Outcome", "message": "Message", "code": "Code"}
#: What comes from outside: formulas, markup, quotes, line ends, other scripts.
texts = st.text(st.sampled_from("=+-@|<>&\"'\n\r\t,;a\u00e4\u05d0{}%"), max_size=12)
rows = st.lists(
    st.fixed_dictionaries({"email": texts, "outcome": st.just("refused"), "message": texts, "code": st.none() | texts}),
    max_size=4,
)


def report_of(found):
    tag = Tag("refused", "bad")
    cells = [[tag if name == "outcome" else row[name] for name in COLUMNS] for row in found]
    return Report(
        "members",
        list(COLUMNS),
        found,
        {"written": "noon"},
        title="Members <b>",
        subtitle="At noon & later.",
        parts=[
            Counts([("wanted", len(found)), (tag, 1)]),
            Facts("Outcomes", [(tag, "Choose <another> address.")]),
            Table("Members", list(COLUMNS.values()), cells),
        ],
    )


class Page(html.parser.HTMLParser):
    """Collects the tags of a page, and the text of each cell of its table."""

    def __init__(self):
        super().__init__()
        self.tags, self.cells, self._open = [], [], False

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        assert not [name for name, _value in attrs if name.startswith("on") or name in ("src", "href")]
        if tag == "td":
            self.cells.append("")
        self._open = self._open or tag == "td"

    def handle_endtag(self, tag):
        self._open = self._open and tag != "td"

    def handle_data(self, data):
        if self._open:
            self.cells[-1] += data


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows)
def test_each_form_holds_the_rows_and_runs_nothing_of_them(tmp_path, found):
    paths = {form: str(tmp_path / f"report.{form}") for form in ("csv", "json", "html")}
    for path in paths.values():
        prove_report_file(path, str(tmp_path / "keys"))
        write_report(path, report_of(found))
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600

    with open(paths["csv"], newline="") as file:
        head, *lines = csv.reader(file)
    assert head == list(COLUMNS) and len(lines) == len(found)
    for line, row in zip(lines, found, strict=True):
        for name, cell in zip(head, line, strict=True):
            assert not cell.startswith(("=", "+", "-", "@", "\t", "\r"))
            assert cell in (row[name] or "", f"'{row[name]}")

    with open(paths["json"]) as file:
        assert json.load(file) == {"written": "noon", "members": found}

    page = Page()
    with open(paths["html"], newline="") as file:
        page.feed(file.read())
    assert page.tags.count("script") == 1 and "b" not in page.tags[page.tags.index("td") :] if found else True
    normal = [str(row[name] or "").replace("\r\n", "\n").replace("\r", "\n") for row in found for name in COLUMNS]
    assert [cell.replace("\r\n", "\n").replace("\r", "\n") for cell in page.cells] == normal
    assert sorted(os.listdir(tmp_path)) == ["report.csv", "report.html", "report.json"]


@pytest.mark.parametrize("name", ["report.txt", "report", "report.html.bak"])
def test_another_extension_is_refused(tmp_path, name):
    with pytest.raises(OptionError, match=r"\.csv, \.json or \.html"):
        prove_report_file(str(tmp_path / name), str(tmp_path / "keys"))


@pytest.mark.parametrize(
    "obstacle",
    [
        "no directory",
        "a directory",
        "a symlink",
        "a symlink to the directory",
        "the vault directory",
        "the members file",
    ],
)
def test_a_path_that_cannot_be_written_is_found_before_the_run(tmp_path, obstacle):
    path = tmp_path / "report.csv"
    if obstacle == "no directory":
        path = tmp_path / "none" / "report.csv"
    elif obstacle == "a directory":
        path.mkdir()
    elif obstacle == "a symlink":
        path.symlink_to(tmp_path / "other.csv")
    elif obstacle == "the vault directory":
        (tmp_path / "keys").mkdir()
        path = tmp_path / "keys" / "report.csv"
    elif obstacle == "the members file":
        path = tmp_path / "members.json"
        path.touch()
    else:
        (tmp_path / "real").mkdir()
        (tmp_path / "link").symlink_to(tmp_path / "real")
        path = tmp_path / "link" / "report.csv"
    with pytest.raises(B2Error):
        prove_report_file(str(path), str(tmp_path / "keys"), [str(tmp_path / "members.json")])
    assert not (tmp_path / "other.csv").exists()


FORMS = ["csv", "json", "html"]
ROW = {"email": "a@x.example", "outcome": "refused", "message": "No.", "code": None}


@pytest.mark.parametrize("form", FORMS)
def test_what_is_not_utf_8_does_not_keep_a_report_from_being_written(tmp_path, form):
    """A path with other bytes has half characters in Python, and an answer of Backblaze may have some as well."""
    path = tmp_path / f"report.{form}"
    write_report(str(path), report_of([{**ROW, "message": os.fsdecode(b"/srv/caf\xe9") + "\ud83d"}]))
    assert "/srv/caf\\udce9\\ud83d" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("moment", ["write", "fsync", "rename"])
def test_a_kill_leaves_the_old_report_and_the_next_run_removes_the_part_of_the_new_one(tmp_path, form, moment):
    path = tmp_path / f"report.{form}"
    write_report(str(path), report_of([ROW]))
    before = path.read_bytes()

    def killed():
        setattr(os, moment, lambda *args, **options: os.kill(os.getpid(), signal.SIGKILL))
        write_report(str(path), report_of([ROW] * 900))

    assert in_child(killed)[1] == signal.SIGKILL
    assert path.read_bytes() == before
    (tmp_path / f".{path.name}.mine.tmp").touch()
    write_report(str(path), report_of([ROW] * 2))
    assert path.read_bytes() != before
    # A file with another name is not a part of a report.
    assert sorted(os.listdir(tmp_path)) == [f".{path.name}.mine.tmp", path.name]


@pytest.mark.parametrize("form", FORMS)
def test_a_full_disk_leaves_the_old_report_and_nothing_else(tmp_path, form):
    path = tmp_path / f"report.{form}"
    write_report(str(path), report_of([]))
    before = path.read_bytes()
    said = with_a_full_disk(lambda: write_report(str(path), report_of([ROW] * 900)))
    assert said.startswith(f"StoreError {path} cannot be written")
    assert path.read_bytes() == before and os.listdir(tmp_path) == [path.name]
