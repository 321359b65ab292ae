# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Mistakes that would become accounts, which cannot be deleted; and what a run tells of earlier ones."""

from __future__ import annotations

import json
import subprocess

import pytest
from ansible.parsing.vault import VaultLib, VaultSecret

from project import PATIENCE, Project, serving

LIST = '["ada@customers.example.com","ben@customers.example.com"]'


def provision(project, *arguments, check=False):
    """Run the playbook of the collection as its users do."""
    command = [
        "ansible-playbook",
        "community.backblaze.provision",
        "-e",
        "b2_members_group_name=hosting",
        "-e",
        "b2_members_vault_dir=host_vars",
    ]
    return subprocess.run(
        [*command, *arguments, *(["--check"] if check else [])],
        cwd=project.directory,
        env=project.environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def addresses(server):
    return sorted(account["email"] for account in server.state()["accounts"])


@pytest.mark.parametrize(
    "text", [f"b2_members_list={LIST}", f"b2_members_list='{LIST} '", "b2_members_list=ada@customers.example.com"]
)
def test_a_list_that_comes_as_text_becomes_no_account(tmp_path, text):
    """Up to ansible-core 2.18 a text that is a list as Python has it becomes one; then its two addresses are members,
    and nothing else is."""
    with serving(tmp_path, "hosting") as server:
        project = Project(tmp_path, server.url)
        for check in (True, False):
            done = provision(project, "-e", text, check=check)
            output = done.stdout + done.stderr
            if "members is text" in output:
                assert done.returncode and "b2_members_list" in output and addresses(server) == []
            else:
                assert text.startswith(("b2_members_list=[", "b2_members_list='[")), output
                assert addresses(server) in ([], json.loads(LIST)), output


def test_a_list_given_as_the_message_says_is_taken(tmp_path):
    with serving(tmp_path, "hosting") as server:
        done = provision(Project(tmp_path, server.url), "-e", json.dumps({"b2_members_list": json.loads(LIST)}))
        assert done.returncode == 0 and addresses(server) == json.loads(LIST), done.stdout + done.stderr


def test_an_unknown_region_is_sent_with_a_warning(tmp_path):
    with serving(tmp_path, "hosting") as server:
        project = Project(tmp_path, server.url)
        play = project.play([{"email": "ada@customers.example.com", "region": "ap-south"}, "ben@customers.example.com"])
        for arguments in (["--check"], []):
            done, result = project.run(play, *arguments)
            assert "The region 'ap-south' is not one that this collection knows" in " ".join(
                (done.stdout + done.stderr).split()
            )
        [refused] = result["problems"]
        assert result["counts"] == {"created": 1, "refused": 1} and "members" not in result
        assert (refused["code"], refused["emails"]) == ("invalid_region", ["ada@customers.example.com"])


def test_the_role_shows_what_became_of_what_an_earlier_run_left_open(tmp_path):
    with serving(tmp_path, "hosting") as server:
        project = Project(tmp_path, server.url)
        server.faults([{"operation": "b2_create_group_member", "action": {"kind": "cut_after"}}])
        lost = provision(project, "-e", json.dumps({"b2_members_list": ["ada@customers.example.com"]}))
        assert lost.returncode and "key_lost" in lost.stdout and "b2_members_result.settled" not in lost.stdout
        (account,) = server.state()["accounts"]
        # Nobody asks for that address in this run; it is told all the same, with its account.
        other = provision(project, "-e", json.dumps({"b2_members_list": ["ben@customers.example.com"]}))
        settled = other.stdout.partition('"b2_members_result.settled"')[2]
        assert "ada@customers.example.com" in settled and account["account_id"] in settled and "key_lost" in settled, (
            other.stdout
        )


def failed(project, task, **arguments):
    """Run one task that has to fail; return its message on one line."""
    play = project.directory / "one-task.yml"
    host = {
        "hosts": "localhost",
        "gather_facts": False,
        "tasks": [{"name": "One task", f"community.backblaze.{task}": arguments}],
    }
    play.write_text(json.dumps([host]))
    done, _result = project.run(play)
    assert done.returncode, done.stdout
    return " ".join((done.stdout + done.stderr).split())


def test_a_misspelt_option_is_named_with_the_one_that_was_meant(tmp_path):
    with serving(tmp_path, "hosting") as server:
        project = Project(tmp_path, server.url)
        said = failed(
            project,
            "b2_group_members",
            group_name="hosting",
            members=["ada@customers.example.com"],
            vault_dir="keys",
            vaultid="x",
        )
        assert "There is no option vaultid. Did you mean vault_id?" in said and "Supported parameters" not in said
        said = failed(
            project,
            "b2_group_members",
            groups=[{"group_nam": "hosting", "group_id": "1", "members": ["a@b.example"]}],
            vault_dir="keys",
        )
        assert "There is no option groups.group_nam. Did you mean groups.group_name?" in said
        assert addresses(server) == []


@pytest.mark.parametrize(
    "forgotten", [{"vault_layout": "group_vars"}, {"vault_location": "target"}, {"verify_keys": True}]
)
@pytest.mark.parametrize("task", ["b2_group_member", "b2_group_member_info"])
def test_where_keys_are_to_be_without_a_vault_dir_is_refused(tmp_path, task, forgotten):
    with serving(tmp_path, "hosting") as server:
        member = {"email": "ada@customers.example.com"} if task == "b2_group_member" else {}
        said = failed(Project(tmp_path, server.url), task, group_name="hosting", **member, **forgotten)
        assert f"{next(iter(forgotten))} is given, but vault_dir is not." in said
        assert addresses(server) == []


def test_a_repository_on_another_machine_is_no_local_path(tmp_path):
    with serving(tmp_path, "hosting") as server:
        project = Project(tmp_path, server.url)
        options = {
            "group_name": "hosting",
            "members": ["ada@customers.example.com"],
            "vault_dir": "keys",
            "vault_location": "git",
        }
        said = failed(project, "b2_group_members", **options, vault_git_repo="file://elsewhere/srv/keys.git")
        assert "names a path on another machine" in said and addresses(server) == []
        repository = tmp_path / "keys.git"
        subprocess.run(["git", "init", "--quiet", "--bare", str(repository)], check=True)
        play = project.play(
            options["members"], vault_dir="keys", vault_location="git", vault_git_repo=f"file://localhost{repository}"
        )
        _done, result = project.run(play)
        assert result["counts"] == {"created": 1}, result


def test_a_value_of_the_members_file_may_be_vaulted(tmp_path):
    with serving(tmp_path, "hosting") as server:
        project = Project(tmp_path, server.url)
        sealed = (
            VaultLib([("default", VaultSecret(project.password.encode()))])
            .encrypt(b"ada@customers.example.com")
            .decode()
        )
        lines = "\n".join(f"      {line}" for line in sealed.splitlines())
        (tmp_path / "members.yml").write_text(f"- email: !vault |\n{lines}\n- !unsafe ben@customers.example.com\n")
        done = provision(project, "-e", "b2_members_file=members.yml")
        assert done.returncode == 0 and addresses(server) == [
            "ada@customers.example.com",
            "ben@customers.example.com",
        ], done.stdout + done.stderr
        (tmp_path / "members.yml").write_text(f"- email: !vault |\n{lines.replace('6', '7')}\n")
        done = provision(project, "-e", "b2_members_file=members.yml")
        assert done.returncode and "does not decrypt with the vault secrets of this run" in " ".join(
            (done.stdout + done.stderr).split()
        )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            "- !vault {email: ada@customers.example.com, application_key: K004secret}",
            "the tag !vault on something that is not a text (line 1)",
        ),
        ("- " * 5000 + "ada@customers.example.com", "is nested too deep"),
    ],
)
def test_a_members_file_with_odd_tags_shows_nothing_of_a_key(tmp_path, content, said):
    with serving(tmp_path, "hosting") as server:
        project = Project(tmp_path, server.url)
        (tmp_path / "members.yml").write_text(f"{content}\n")
        done = provision(project, "-e", "b2_members_file=members.yml")
        output = " ".join((done.stdout + done.stderr).split())
        assert done.returncode and said in output and "K004secret" not in output and addresses(server) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"vault_git_repo": "https://user:12/s3cr3t@git.example.com/keys.git"}, "vault_git_repo is an invalid URL"),
        (
            {"vault_git_repo": "keys.git", "vault_git_branch": "refs/heads/trunk"},
            "vault_git_branch 'refs/heads/trunk' is not a valid name",
        ),
        ({"vault_git_repo": "keys.git", "vault_git_branch": "HEAD"}, "vault_git_branch 'HEAD' is not a valid name"),
    ],
)
def test_a_repository_or_branch_that_cannot_be_is_refused_without_a_password(tmp_path, options, said):
    with serving(tmp_path, "hosting") as server:
        members = {
            "group_name": "hosting",
            "members": ["ada@customers.example.com"],
            "vault_dir": "keys",
            "vault_location": "git",
        }
        output = failed(Project(tmp_path, server.url), "b2_group_members", **members, **options)
        assert said in output and "s3cr3t" not in output and addresses(server) == []
