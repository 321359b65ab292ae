# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Every example of every page does what the page says."""

from __future__ import annotations

import pathlib
import sys

import pytest

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE))
sys.path.insert(0, str(HERE.parent / "e2e"))

import blocks  # noqa: E402  # these lie beside this file, which is in no package
import pages  # noqa: E402
import story  # noqa: E402
from project import serving  # noqa: E402

PLUGINS = ("plugins/modules/*.py", "plugins/inventory/*.py", "plugins/lookup/*.py")
PATTERNS = ("README.md", "roles/*/README.md", "docs/docsite/rst/*.rst", *PLUGINS)
PAGES = [str(path.relative_to(ROOT)) for pattern in PATTERNS for path in sorted(ROOT.glob(pattern))]


def read(page, directory):
    """Do all that a page shows, in a directory; return its blocks, and what went wrong, if anything did."""
    try:
        examples = blocks.find(ROOT / page)
        with serving(directory, admin_key=story.KEY) as server:
            reader = story.Story(directory, server)
            pages.PREPARED.get(page, lambda _reader: None)(reader)
            reader.tell(examples)
    except blocks.PageError as error:
        return [], str(error).removeprefix(f"{ROOT}/")
    return examples, ""


@pytest.mark.parametrize("page", PAGES)
def test_every_example_does_what_its_page_says(page, tmp_path):
    examples, problem = read(page, tmp_path)
    if problem:
        pytest.fail(problem, pytrace=False)
    assert examples or not page.startswith("plugins/"), f"{page} has no example"
    shown = sum(bool(block.not_run) for block in examples)
    files = sum(bool(block.name and not block.not_run) for block in examples)
    print(f"\n{page}: {len(examples) - files - shown} run, {files} files for them, {shown} not run")


def test_what_is_prepared_is_for_a_page_that_there_is():
    assert not set(pages.PREPARED) - set(PAGES)
