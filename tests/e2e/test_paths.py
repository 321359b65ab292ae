# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A relative vault_dir, in a run that is started somewhere else: where the keys are is said."""

from __future__ import annotations

import json
import subprocess

import pytest

from project import PATIENCE, Project, serving

MEMBER = "ada@customers.example.com"
GROUP = {"b2_members_group_name": "hosting", "b2_members_list": [MEMBER], "b2_members_vault_dir": "host_vars"}


def squeezed(text):
    """Return a text without any space: where Ansible wraps a warning depends on the length of paths."""
    return "".join(text.split())


@pytest.mark.parametrize("where", ["collection", "project"])
def test_a_new_directory_from_a_relative_path_is_named(tmp_path, where):
    for name in ("project/plays", "cron", "server"):
        (tmp_path / name).mkdir(parents=True)
    role = {
        "hosts": "localhost",
        "gather_facts": False,
        "tasks": [{"ansible.builtin.include_role": {"name": "community.backblaze.b2_members"}}],
    }
    (tmp_path / "project" / "plays" / "customers.yml").write_text(json.dumps([role]))
    audit = {"group_name": "hosting", "vault_dir": "{{ b2_members_result.vault_dir }}"}
    result = {
        "content": "{{ [b2_members_result.vault_dir, found.vault_dir | default('')] | to_json }}",
        "dest": str(tmp_path / "result.json"),
    }
    tasks = [
        {"community.backblaze.b2_group_member_info": audit, "register": "found", "when": "not ansible_check_mode"},
        {"ansible.builtin.copy": {**result, "mode": "0600"}, "check_mode": False},
    ]
    imported = "community.backblaze.provision" if where == "collection" else "plays/customers.yml"
    site = [{"import_playbook": imported}, {"hosts": "localhost", "gather_facts": False, "tasks": tasks}]
    (tmp_path / "project" / "site.yml").write_text(json.dumps(site))
    made = tmp_path / ("cron" if where == "collection" else "project/plays") / "host_vars"
    starts = (
        "the working directory, because the playbook is in a collection"
        if where == "collection"
        else "the directory of the playbook"
    )
    with serving(tmp_path / "server", "hosting") as server:
        project = Project(tmp_path / "project", server.url)

        def run(*arguments):
            command = [
                "ansible-playbook",
                "-c",
                "local",
                "-e",
                json.dumps(GROUP),
                str(tmp_path / "project" / "site.yml"),
                *arguments,
            ]
            done = subprocess.run(
                command,
                cwd=tmp_path / "cron",
                env=project.environment(),
                capture_output=True,
                text=True,
                timeout=PATIENCE,
                check=False,
            )
            assert done.returncode == 0, done.stdout + done.stderr
            return squeezed(done.stdout + done.stderr)

        said = squeezed(f"starts at {made.parent}, {starts}.")
        for arguments, verb in ((["--check"], "would be created"), ([], "is created")):
            assert not made.exists()
            told = run(*arguments)
            assert (
                squeezed(
                    f"The directory {made} is new, and {verb} for the keys: vault_dir host_vars is a relative path"
                )
                in told
                and said in told
            )
        assert (made / MEMBER / "b2_vault.yml").exists()
        assert json.loads((tmp_path / "result.json").read_text()) == [str(made), str(made)]
        # It is there now.
        assert said not in run()
