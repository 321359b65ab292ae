# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The installed artifact: the main job, the inventory and what comes beside, from a directory that knows nothing of the
checkout."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess

import pytest
import yaml

from project import Project, serving


def test_the_installed_collection_provisions_and_lists(tmp_path):
    with serving(tmp_path, "hosting") as server:
        project = Project(tmp_path, server.url)
        # Not host_vars: from 2.22 on ansible-core masks what it reads there, addresses too.
        project.vault_dir = tmp_path / "keys"
        variables = {
            "b2_members_group_name": "hosting",
            "b2_members_vault_dir": "keys",
            "b2_members_list": ["ada@customers.example.com"],
        }
        (tmp_path / "customers.json").write_text(json.dumps(variables))
        (tmp_path / "x.b2_group_members.yml").write_text("plugin: community.backblaze.b2_group_members\n")

        def run(*command: str) -> str:
            process = subprocess.run(
                command,
                cwd=tmp_path,
                env=project.environment(),
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
            assert process.returncode == 0, process.stdout + process.stderr
            return process.stdout

        assert "changed=1" in run("ansible-playbook", "community.backblaze.provision", "-e", "@customers.json")
        assert project.compare().complete and project.compare().sealed == 1
        hosts = json.loads(run("ansible-inventory", "-i", "x.b2_group_members.yml", "--list", "--playbook-dir", "."))[
            "_meta"
        ]["hostvars"]
        # Text that is not to be trusted is shown wrapped.
        assert server.ledger()[0]["account_id"] in json.dumps(hosts["ada@customers.example.com"]["b2_account_id"])


def test_an_execution_environment_with_it_gets_what_the_code_imports_and_starts():
    command = ["ansible-builder", "introspect", os.environ["ANSIBLE_COLLECTIONS_PATH"]]
    process = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert process.returncode == 0, process.stdout + process.stderr
    found = yaml.safe_load(process.stdout)
    assert [line.split()[0] for line in found["python"]] == ["requests", "urllib3"], process.stdout
    system = {line.partition("  #")[0] for line in found["system"]}
    assert system == {
        "git [platform:rpm]",
        "git [platform:dpkg]",
        "openssh-clients [platform:rpm]",
        "openssh-client [platform:dpkg]",
    }


@pytest.mark.parametrize(
    "name",
    [
        "awx_setup.yml",
        "files/awx_credential_type.yml",
        "files/awx_credential_type_environment.yml",
        "tasks/awx_setup.yml",
    ],
)
def test_what_awx_is_set_up_with_comes_with_it(name):
    shipped = pathlib.Path("playbooks", name)
    installed = pathlib.Path(os.environ["ANSIBLE_COLLECTIONS_PATH"], "ansible_collections", "community", "backblaze")
    assert (installed / shipped).read_bytes() == (pathlib.Path(__file__).parents[2] / shipped).read_bytes()
