# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Several Groups: in one task, and as the hosts of a play that two runs share between them."""

from __future__ import annotations

import json
import subprocess

from project import PATIENCE, Project, serving

FEW = 12


def addresses(group, count=FEW):
    return [f"customer{number:02}@{group}.example.com" for number in range(count)]


def id_of(server, name):
    return next(group["id"] for group in server.state()["groups"] if group["name"] == name)


def groups_play(project, groups, **options):
    """A play with one task for several Groups."""
    play = json.loads(project.play([], **options).read_text())
    arguments = play[0]["tasks"][0]["community.backblaze.b2_group_members"]
    del arguments["group_name"], arguments["members"]
    arguments["groups"] = groups
    path = project.directory / "groups.yml"
    path.write_text(json.dumps(play))
    return path


def test_one_task_takes_care_of_several_groups_and_none_stops_the_others(tmp_path):
    with serving(tmp_path, "hosting", "resale", "school") as server:
        project = Project(tmp_path, server.url)
        (tmp_path / "school.csv").write_text(
            "email,region\n" + "".join(f"{email},us-east\n" for email in addresses("school"))
        )
        refused = addresses("resale")[3]
        server.taken([refused])
        groups = [
            {"group_name": "hosting", "members": addresses("hosting")},
            {"group_name": "nobody has it", "members": addresses("nobody")},
            {"group_id": id_of(server, "resale"), "members": addresses("resale")},
            {"group_name": "school", "members_file": "school.csv"},
        ]
        play = groups_play(project, groups, return_members="always")

        foreseen, plan = project.run(play, "--check", "--diff")
        assert server.ledger() == [] and plan["counts"] == {"created": 3 * FEW, "not_attempted": FEW}, foreseen.stdout

        process, result = project.run(play, "--diff")
        assert result["failed"] and result["changed"] and result["vault_dir"] == str(project.vault_dir), process.stdout
        assert result["counts"] == {"created": 3 * FEW - 1, "refused": 1, "not_attempted": FEW}
        assert [(one["failed"], one["changed"]) for one in result["groups"]] == [
            (False, True),
            (True, False),
            (True, True),
            (False, True),
        ]
        wanted = f"{4 * FEW} wanted: {3 * FEW - 1} created, 1 refused, {FEW} not_attempted.\n"
        assert result["msg"].startswith(wanted) and refused in result["msg"] and "nobody has it" in result["msg"]
        assert [one["email"] for one in result["members"]] == [
            email for name in ("hosting", "nobody", "resale", "school") for email in addresses(name)
        ]
        assert {one["group_name"] for one in result["members"]} == {
            "hosting",
            "nobody has it",
            "resale",
            "school",
        }
        assert {one["region"] for one in result["members"] if one["email"].endswith("school.example.com")} == {
            "us-east"
        }
        assert result["calls"]["b2_authorize_account"] == 1 and server.state()["calls"]["b2_authorize_account"] == 2
        comparison = project.compare()
        assert comparison.complete and comparison.sealed == 3 * FEW - 1, str(comparison)

        again = project.run(play)[1]
        assert (
            again["counts"] == {"unchanged": 3 * FEW - 1, "refused": 1, "not_attempted": FEW} and not again["changed"]
        )
        print(f"\ngroups: 4 in one task, 1 of them unknown, 1 member refused: {result['counts']}; {comparison}")


def test_the_role_and_the_playbook_take_several_groups_too(tmp_path):
    with serving(tmp_path, "hosting", "resale") as server:
        project = Project(tmp_path, server.url)
        (tmp_path / "resale.csv").write_text(
            "email,region\n" + "".join(f"{email},us-east\n" for email in addresses("resale"))
        )
        groups = [
            {"group_name": "hosting", "members": addresses("hosting")},
            {"group_id": id_of(server, "resale"), "members_file": "resale.csv"},
        ]
        variables = {"b2_members_groups": groups, "b2_members_vault_dir": str(project.vault_dir)}
        (tmp_path / "groups.yml").write_text(json.dumps(variables))
        play = [
            {
                "name": "Provision",
                "hosts": "localhost",
                "gather_facts": False,
                "roles": [{"role": "community.backblaze.b2_members"}],
            }
        ]
        (tmp_path / "role.yml").write_text(json.dumps(play))

        def run(play):
            command = ["ansible-playbook", play, "-e", "@groups.yml"]
            done = subprocess.run(
                command,
                cwd=tmp_path,
                env=project.environment(),
                capture_output=True,
                text=True,
                timeout=PATIENCE,
                check=False,
            )
            assert done.returncode == 0, done.stdout + done.stderr
            return done.stdout

        assert f"created: {2 * FEW}" in run("community.backblaze.provision")
        comparison = project.compare()
        assert comparison.complete and comparison.sealed == 2 * FEW, str(comparison)
        of_groups = {group["name"]: group["members"] for group in server.state()["groups"]}
        assert of_groups == {"hosting": FEW, "resale": FEW}
        again = run("role.yml")
        assert f"unchanged: {2 * FEW}" in again and "changed=0" in again and project.compare() == comparison
        print(f"\ngroups: two of them by the playbook, and again by the role: {comparison}")


def test_what_is_wrong_with_the_list_of_groups_is_said_before_anything_is_sent(tmp_path):
    with serving(tmp_path, "hosting", "resale") as server:
        project = Project(tmp_path, server.url)
        groups = [
            {"group_name": "hosting", "members": ["a@x.example", "b@x.example"]},
            {"group_name": "school", "members": ["d@x.example", "no address"]},
            {"group_name": "resale", "members": ["B@x.example"]},
            {"group_name": "resale", "members": ["c@x.example"]},
        ]
        result = project.run(groups_play(project, groups))[1]
        assert result["failed"] and not result["changed"]
        for said in (
            "Entry 2",
            "b@x.example is wanted in Group hosting too",
            "Group resale is in the list more than once",
        ):
            assert said in result["msg"], result["msg"]
        # By name and by id it is the same Group; that shows only when the name is looked up.
        mixed = [
            {"group_name": "hosting", "members": ["a@x.example"]},
            {"group_id": id_of(server, "hosting"), "members": ["b@x.example"]},
        ]
        assert server.state()["calls"] == {}
        result = project.run(groups_play(project, mixed))[1]
        assert result["counts"] == {"created": 1, "not_attempted": 1} and "the same as one before it" in result["msg"]


def test_two_slices_of_a_play_over_groups_share_one_vault_directory(tmp_path):
    names = [f"group{number}" for number in range(6)]
    # So long that they are at work together, however late the one starts after the other.
    with serving(tmp_path, *names, latency_ms_by_operation={"b2_create_group_member": 400}) as server:
        project = Project(tmp_path, server.url)
        hosts = {name: {"b2_members_group_name": name, "b2_members_list": addresses(name)} for name in names}
        inventory = {
            "b2_groups": {
                "hosts": hosts,
                "vars": {"b2_members_vault_dir": str(project.vault_dir), "b2_members_concurrency": 2},
            }
        }
        (tmp_path / "groups.yml").write_text(json.dumps(inventory))
        command = [
            "ansible-playbook",
            "community.backblaze.provision",
            "-i",
            "groups.yml",
            "-e",
            "b2_members_hosts=b2_groups",
            "--forks",
            "2",
        ]

        def both_slices():
            slices = [
                subprocess.Popen(
                    [*command, "--limit", ",".join(half)],
                    cwd=tmp_path,
                    env=project.environment(),
                    stdout=subprocess.PIPE,
                    text=True,
                )
                for half in (names[:3], names[3:])
            ]
            output = [one.communicate(timeout=PATIENCE)[0] for one in slices]
            assert [one.returncode for one in slices] == [0, 0], output
            return output

        both_slices()
        comparison = project.compare()
        assert comparison.complete and comparison.sealed == len(names) * FEW, str(comparison)
        # Both worked at the same time, and each on two Groups: more creates were under way than one of them may have.
        together = server.state()["creates_high_water"]
        assert together > 4, "the slices waited for each other"

        output = both_slices()
        assert all("changed=0" in one and "failed=0" in one for one in output), output
        assert project.compare() == comparison
        print(f"\ngroups: two slices of three Groups, up to {together} creates under way at once: {comparison}")
