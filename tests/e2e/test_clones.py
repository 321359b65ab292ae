# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Two clones of a repository with the vault directory in it: their new keys merge, as the guide to keys and vault
says."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess

from project import Project, serving

GUIDE = pathlib.Path(__file__).resolve().parents[2] / "docs" / "docsite" / "rst" / "guide_keys_and_vault.rst"
FIRST, OURS, THEIRS = (
    [f"{name}{number}@customers.example.com" for number in range(2)] for name in ("first", "ours", "theirs")
)


def git(directory: pathlib.Path, *arguments: str) -> str:
    """Run git as somebody, with no settings of whoever runs this."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    who = {f"GIT_{role}_{what}": "somebody@else" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    process = subprocess.run(
        ["git", *arguments],
        cwd=directory,
        env={**kept, **who, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


def ignored() -> str:
    """Return what the guide says to leave out."""
    (block,) = re.findall(r":caption: \.gitignore\n\n((?:   .+\n)+)", GUIDE.read_text(encoding="utf-8"))
    return "".join(f"{line.strip()}\n" for line in block.splitlines())


def provision(project: Project, members: list[str], **counts: int) -> None:
    """Provision a list, and commit all that is in the vault directory then."""
    process, result = project.run(project.play(members))
    assert result.get("counts") == counts, process.stdout + process.stderr
    git(project.directory, "add", ".gitignore", "host_vars")
    git(project.directory, "commit", "--quiet", "--allow-empty", "--message", f"Provision {len(members)}")


def test_the_new_keys_of_two_clones_merge(tmp_path):
    for name in ("server", "ours"):
        (tmp_path / name).mkdir()
    with serving(tmp_path / "server", "hosting") as server:
        ours = Project(tmp_path / "ours", server.url)
        git(ours.directory, "init", "--quiet")
        (ours.directory / ".gitignore").write_text(ignored())
        provision(ours, FIRST, created=2)
        git(tmp_path, "clone", "--quiet", "ours", "theirs")
        theirs = Project(tmp_path / "theirs", server.url)
        theirs.password = ours.password
        (theirs.directory / "vault-password").write_text(ours.password)

        provision(ours, FIRST + OURS, created=2, unchanged=2)
        provision(theirs, FIRST + THEIRS, created=2, unchanged=2)
        git(ours.directory, "pull", "--quiet", "--no-rebase", "--no-edit", "../theirs", "HEAD")

        provision(ours, FIRST + OURS + THEIRS, unchanged=6)
        # A run with nothing to do leaves nothing to commit.
        assert git(ours.directory, "show", "--stat", "--format=") == ""
        found = ours.compare()
        assert found.complete and found.sealed == 6, str(found)
        assert [path.read_text() for path in ours.vault_dir.glob(".b2_members/*/journal.jsonl")] == [""]
        assert [path.read_text() for path in ours.vault_dir.glob(".b2_members/*/lock")] == [""]
