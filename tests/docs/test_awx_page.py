# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The guide to AWX shows the credential types that the collection ships."""

from __future__ import annotations

import pathlib
import sys

import yaml

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE))
sys.path.insert(0, str(HERE.parent / "utils"))

import awx  # noqa: E402  # these lie beside this file or in a directory that is no package
import blocks  # noqa: E402

PAGE = ROOT / "docs" / "docsite" / "rst" / "guide_awx.rst"


def test_the_credential_types_in_the_guide_are_those_that_are_shipped():
    kind, environment = awx.credential_type(), awx.credential_type(awx.ENVIRONMENT_TYPE)
    shown = [yaml.safe_load(block.text) for block in blocks.find(PAGE) if block.not_run == "a field in AWX"]
    assert [shown.count(part) for part in (kind["inputs"], kind["injectors"], environment["injectors"])] == [1, 1, 1]
    assert environment["inputs"] == kind["inputs"]
    text = PAGE.read_text(encoding="utf-8")
    assert f"named ``{kind['name']}``" in text and f"     - {kind['name']}\n" in text
    assert f"``{environment['name']}``" in text
    for path in (awx.CREDENTIAL_TYPE, awx.ENVIRONMENT_TYPE):
        assert f"``{path.relative_to(ROOT)}``" in text
