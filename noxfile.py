# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The checks of antsibull-nox.toml, and what antsibull-nox has no session for."""

# /// script
# dependencies = ["nox", "antsibull-nox"]
# ///

from __future__ import annotations

import os
import pathlib

import antsibull_nox
import nox

# What else is installed on a machine is not to change what is found, and listing it wants an ansible-galaxy outside the
# sessions.
os.environ["ANTSIBULL_NOX_IGNORE_INSTALLED_COLLECTIONS"] = "true"
antsibull_nox.load_antsibull_nox_toml()


@nox.session(name="changelog-check")
def changelog_check(session: nox.Session) -> None:
    """Run 'antsibull-changelog lint' on fragments and on changelog.yaml"""
    session.install("antsibull-changelog")
    session.run("antsibull-changelog", "lint")
    session.run("antsibull-changelog", "lint-changelog-yaml", "--strict", "changelogs/changelog.yaml")


@nox.session(name="wording-check")
def wording_check(session: nox.Session) -> None:
    """Refuse the wording that tests/tools/wording.py lists, and name its replacement"""
    session.run("python", "tests/tools/wording.py")


@nox.session(name="workflows-check")
def workflows_check(session: nox.Session) -> None:
    """Run 'zizmor' and 'check-jsonschema' on what GitHub reads"""
    session.install("check-jsonschema", "zizmor")
    session.run("zizmor", "--offline", "--persona", "pedantic", ".github")
    for schema, files in (
        ("github-workflows", "workflows/*.yml"),
        ("dependabot", "dependabot.yml"),
        ("github-issue-forms", "ISSUE_TEMPLATE/*.yml"),
    ):
        found = sorted(str(path) for path in pathlib.Path(".github").glob(files))
        session.run("check-jsonschema", "--builtin-schema", f"vendor.{schema}", *found)


if __name__ == "__main__":
    nox.main()
