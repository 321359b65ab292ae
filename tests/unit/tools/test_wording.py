# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The check of wording finds what it refuses, and nothing else."""

from __future__ import annotations

import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tools"))

import wording


def a_repository(tmp_path, **texts):
    """Return a repository whose checked files are empty, except for these."""
    for name in wording.READ:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch() if path.suffix else path.mkdir()
    for name, text in texts.items():
        (tmp_path / "plugins" / f"{name}.py").write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Mend the file.", [(1, "Mend")]),
        ("one\nWrite it anew.", [(2, "anew")]),
        ("3 entries cannot be: entry 1", [(1, "cannot be:")]),
        ("Show what\n    # became of each member", [(1, "what # became of")]),
        ("The next run moves it home.", [(1, "moves it home")]),
        ("Recommend an amendment, and a mend-like b_anew.", []),
        ("A key cannot be read.", []),
    ],
)
def test_refused_wording_is_found_by_whole_words(text, found):
    assert [(line, words) for line, words, _replacement in wording.findings(text)] == found


def test_a_line_names_file_line_and_replacement(tmp_path):
    root = a_repository(tmp_path, good="Fix it.", bad="ok\nMend it.")
    assert wording.check(root) == ["plugins/bad.py:2: write 'fix' instead of 'Mend'"]


def test_every_file_of_the_list_exists():
    assert all((wording.ROOT / name).exists() for name in wording.READ)
