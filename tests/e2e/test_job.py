# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The test of the job: two hundred members in one run, then the server's ledger against the vault."""

from __future__ import annotations

import time

from project import Project, serving

MEMBERS = 200
REGIONS = ("us-west", "us-east", "eu-central", "ca-east")


def test_every_key_of_two_hundred_members_is_sealed_and_none_is_shown(tmp_path):
    members = [
        {"email": f"Customer{number:03}@customers.example.com", "region": REGIONS[number % 4]}
        for number in range(MEMBERS)
    ]
    with serving(tmp_path, "hosting", latency_ms=20) as server:
        project = Project(tmp_path, server.url)
        play = project.play(members, concurrency=16)

        started = time.monotonic()
        process, result = project.run(play, "-vvvv", "--diff")
        seconds = time.monotonic() - started

        assert result["counts"] == {"created": MEMBERS}, process.stdout
        assert [one["email"] for one in result["members"]] == [one["email"].lower() for one in members]
        comparison = project.compare()
        assert comparison.complete and comparison.handed_out == comparison.sealed == MEMBERS, str(comparison)
        assert 1 < server.state()["creates_high_water"] <= 16
        output = process.stdout + process.stderr + (tmp_path / "result.json").read_text()
        shown = {needle for needle in project.needles() if needle in output}
        assert not shown and len(project.needles()) == MEMBERS + 2

        before = {
            path: (path.stat().st_mtime_ns, path.read_bytes()) for path in project.vault_dir.glob("*/b2_vault.yml")
        }
        again, second = project.run(play)
        assert second["counts"] == {"unchanged": MEMBERS} and second["changed"] is False, again.stdout
        assert before == {
            path: (path.stat().st_mtime_ns, path.read_bytes()) for path in project.vault_dir.glob("*/b2_vault.yml")
        }
        assert len(before) == MEMBERS
        assert "b2_create_group_member" not in second["calls"]

        calls = ", ".join(f"{count} {operation}" for operation, count in result["calls"].items())
        print(
            f"\njob: {MEMBERS} members in {seconds:.1f} s at concurrency 16; {calls}; {comparison}; needles found "
            f"in output: {len(shown)}"
        )
