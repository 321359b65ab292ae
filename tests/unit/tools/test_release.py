# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One version number, and what stands against a release."""

from __future__ import annotations

import pathlib
import sys

import pytest
import yaml

from ansible_collections.community.backblaze.plugins.module_utils import _version

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tools"))

import release


def test_the_version_that_is_sent_is_that_of_galaxy_yml():
    assert yaml.safe_load(release.GALAXY.read_text(encoding="utf-8"))["version"] == _version.VERSION


def test_one_line_is_rewritten(tmp_path):
    path = tmp_path / "galaxy.yml"
    path.write_text("name: backblaze\nversion: 0.1.0\nversions: many\n")
    release.replace(path, r"^version: .*$", "version: 0.2.0")
    assert path.read_text() == "name: backblaze\nversion: 0.2.0\nversions: many\n"
    with pytest.raises(SystemExit, match="has 0 lines"):
        release.replace(path, r"^VERSION = .*$", "")


@pytest.mark.parametrize("version", ["0.2", "v0.2.0", "0.2.0-rc1", "0.02.0", "0.2.0\n", ""])
def test_a_version_is_three_numbers(version):
    with pytest.raises(SystemExit, match="three numbers"):
        release.number(version)


@pytest.mark.parametrize(
    ("version", "current", "released", "fragments", "changed", "problem"),
    [
        ("0.1.0", "0.1.0", [], ["a.yml"], "", None),
        ("0.2.0", "0.1.0", ["0.1.0"], ["a.yml"], "", None),
        ("0.10.0", "0.9.0", ["0.9.0"], ["a.yml"], "", None),
        ("0.1.0", "0.1.0", ["0.1.0"], ["a.yml"], "", "released already"),
        ("0.1.1", "0.2.0", ["0.1.0"], ["a.yml"], "", "older than 0.2.0"),
        ("0.1.1", "0.1.0", ["0.1.0", "0.2.0"], ["a.yml"], "", "older than 0.2.0"),
        ("0.2.0", "0.1.0", ["0.1.0"], [], "", "nothing in changelogs/fragments"),
        ("0.2.0", "0.1.0", ["0.1.0"], ["a.yml"], " M README.md", "README.md"),
    ],
)
def test_what_stands_against_a_release(version, current, released, fragments, changed, problem):
    found = release.why_not(version, current, released, fragments, changed)
    assert problem in found if problem else found == ""


@pytest.mark.parametrize(
    ("current", "released", "fragments", "problem"),
    [
        ("0.2.0", ["0.1.0", "0.2.0"], [], None),
        ("0.1.0", ["0.1.0"], [], "galaxy.yml"),
        ("0.2.0", ["0.1.0"], [], "not in the changelog"),
        ("0.2.0", ["0.2.0"], ["a.yml"], "a.yml"),
    ],
)
def test_what_a_checkout_lacks_to_be_a_release(current, released, fragments, problem):
    found = release.what_is_missing("0.2.0", current, released, fragments)
    assert problem in found if problem else found == ""
