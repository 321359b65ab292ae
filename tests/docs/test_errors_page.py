# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The guide to errors says what the code says."""

from __future__ import annotations

import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "tools"))

import errors_page  # noqa: E402  # a tool of the repository, in no package


def test_the_committed_page_is_the_one_that_the_code_gives():
    written = (ROOT / errors_page.PAGE).read_text(encoding="utf-8")
    assert written == errors_page.page(ROOT.parents[2]), f"{errors_page.PAGE} is out of date: make errors-page"
