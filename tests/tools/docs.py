# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Build the documentation as HTML, as the collection's own site would have it. Nothing is fetched."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import tree

SITE = tree.BUILD / "docs"
#: Other projects' pages are out of reach, so references to them stay text; every reference to a page of ours has to
#: lead somewhere.
CONFIGURATION = """
intersphinx_mapping = {}
nitpick_ignore_regex = [
    ("std:ref", r"(?!ansible_collections\\.community\\.backblaze\\.).*"),
    ("std:envvar", "ANSIBLE_.*"),
]
"""


def build() -> list[Path]:
    """Build from the copy and return the pages.

    Raises CalledProcessError, after output that says what is wrong, a warning being an error; SystemExit where
    something has no page.
    """
    shutil.rmtree(SITE, ignore_errors=True)
    source, html = SITE / "rst", SITE / "html"
    # antsibull-docs writes only where nobody else may.
    for directory in (SITE, source):
        directory.mkdir(mode=0o755)
    titles = [f"--{name}={tree.NAME}" for name in ("title", "project")]
    of_this = ["--use-current", "--squash-hierarchy", tree.NAME]
    _run("antsibull-docs", "sphinx-init", *titles, f"--dest-dir={SITE}", *of_this, stdout=subprocess.DEVNULL)
    with open(SITE / "conf.py", "a", encoding="utf-8") as configuration:
        configuration.write(CONFIGURATION)
    _run("antsibull-docs", f"--config-file={SITE}/antsibull-docs.cfg", "collection", f"--dest-dir={source}", *of_this)
    _run("sphinx-build", "-q", "-W", "--keep-going", "-b", "html", "-c", str(SITE), str(source), str(html))
    if missing := [page for page in expected() if not (html / page).exists()]:
        raise SystemExit(f"These pages were not built: {', '.join(missing)}")
    print(html / "index.html", flush=True)
    return sorted(html.rglob("*.html"))


def expected() -> list[str]:
    """Return the pages that there have to be, relative to the site."""
    guides = [f"docsite/{path.stem}.html" for path in tree.COLLECTION.glob("docs/docsite/rst/*.rst")]
    kinds = {
        "module": "plugins/modules/*.py",
        "inventory": "plugins/inventory/*.py",
        "lookup": "plugins/lookup/*.py",
        "role": "roles/*",
    }
    return guides + [
        f"{path.stem}_{kind}.html" for kind, pattern in kinds.items() for path in tree.COLLECTION.glob(pattern)
    ]


def _run(*command: str, stdout: int | None = None) -> None:
    subprocess.run(command, cwd=SITE, env=tree.environment(), stdin=subprocess.DEVNULL, stdout=stdout, check=True)
