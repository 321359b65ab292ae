# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What AWX injects for the credential type is all that the modules, the actions, the playbook and the inventory
need."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

from project import KEY_ID, PATIENCE, Project, serving  # first: it makes what follows importable

import awx  # isort: skip

# Whatever a template, a shell, JSON or YAML could take for its own. A blank is in no key, and refused.
ODD_KEY = """K004"'\\{{7*7}}{%x%}{#y#}$HOME%s\\u0041#:&<a>"""
#: What AWX sets for an inventory source, beside its credential.
OF_INVENTORY_SOURCES = {
    "ANSIBLE_INVENTORY_UNPARSED_FAILED": "True",
    "ANSIBLE_INVENTORY_EXPORT": "True",
    "ANSIBLE_VERBOSE_TO_STDERR": "True",
}
WAYS = {
    "env": [awx.ENVIRONMENT_TYPE],
    "file": [awx.CREDENTIAL_TYPE],
    "both": [awx.CREDENTIAL_TYPE, awx.ENVIRONMENT_TYPE],
    "none": [],
}
GROUP = {"group_name": "hosting"}
TASKS = [
    {"community.backblaze.b2_group_info": {}},
    {
        "community.backblaze.b2_group_member": {
            **GROUP,
            "email": "gone@x.example",
            "state": "absent",
            "confirm_eject": True,
        }
    },
    {"community.backblaze.b2_group_member": {**GROUP, "email": "ada@x.example", "vault_dir": "host_vars"}},
    {"community.backblaze.b2_group_members": {**GROUP, "members": ["ben@x.example"], "vault_dir": "host_vars"}},
    {"community.backblaze.b2_group_member_info": {**GROUP}},
    {"community.backblaze.b2_group_member_info": {**GROUP, "vault_dir": "host_vars", "verify_keys": True}},
]
#: One module and one action: what refuses them refuses them all.
FEW = [TASKS[0], TASKS[3]]
EVERYBODY = ["ada@x.example", "ben@x.example", "cleo@x.example"]


class Job:
    """A project, and the environment of a job or an inventory source that has a credential of each of these types."""

    def __init__(self, directory, url, way, **inputs):
        self.project = Project(directory, url)
        self.directory = directory
        self.private = directory / "env"
        self.private.mkdir()
        inputs = {"application_key_id": KEY_ID, "application_key": ODD_KEY, "realm": url, **inputs}
        self.injected = {}
        for path in WAYS[way]:
            self.injected.update(awx.inject(awx.credential_type(path), inputs, self.private))
        (directory / "host_vars").mkdir()
        (directory / "sources").mkdir()
        self.source = directory / "sources" / "x.b2_group_members.yml"
        self.source.write_text("plugin: community.backblaze.b2_group_members\n")

    def run(self, *command, **environment):
        """Run a program with what was injected, and what there is no program without."""
        needed = {name: os.environ[name] for name in ("PATH", "ANSIBLE_COLLECTIONS_PATH")}
        return subprocess.run(
            command,
            cwd=self.directory,
            env={**needed, "HOME": str(self.directory), "LC_ALL": "C.UTF-8", **self.injected, **environment},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    def playbook(self, *arguments, **environment):
        """A job, which has the vault password from a credential of its own."""
        return self.run(
            "ansible-playbook",
            *arguments,
            "--vault-password-file",
            str(self.directory / "vault-password"),
            **environment,
        )

    def play(self, tasks, **environment):
        """Run tasks on localhost, whatever becomes of the ones before; return all that was said, and the message of
        each that failed."""
        result = self.directory / "result.json"
        done = [f"done{number}" for number in range(len(tasks))]
        tasks = [{**task, "register": name, "ignore_errors": True} for task, name in zip(tasks, done, strict=True)]
        content = f"{{{{ [{', '.join(done)}] | selectattr('failed') | map(attribute='msg') | to_json }}}}"
        tasks.append({"ansible.builtin.copy": {"content": content, "dest": str(result), "mode": "0600"}})
        variables = {"ansible_python_interpreter": "{{ ansible_playbook_python }}"}
        play = {"hosts": "localhost", "connection": "local", "gather_facts": False, "vars": variables, "tasks": tasks}
        (self.directory / "play.json").write_text(json.dumps([play]))
        process = self.playbook("play.json", **environment)
        assert process.returncode == 0, process.stdout + process.stderr
        return process.stdout + process.stderr, json.loads(result.read_text())

    def provision(self, **variables):
        """Run the collection's playbook for one more member; return all that was said."""
        variables = {
            "b2_members_group_name": "hosting",
            "b2_members_vault_dir": "host_vars",
            "b2_members_list": ["cleo@x.example"],
            **variables,
        }
        (self.directory / "customers.json").write_text(json.dumps(variables))
        process = self.playbook("community.backblaze.provision", "-e", "@customers.json")
        assert process.returncode == 0, process.stdout + process.stderr
        return process.stdout + process.stderr

    def inventory(self):
        """An inventory source, which has no vault password and no extra variables; return all that was said, and the
        names of the hosts."""
        output = self.directory / "output.json"
        output.unlink(missing_ok=True)
        command = (
            "ansible-inventory",
            "--list",
            "--export",
            "-i",
            str(self.source),
            "--output",
            str(output),
            "--playbook-dir",
            str(self.source.parent),
        )
        process = self.run(*command, **OF_INVENTORY_SOURCES)
        # Long lines are wrapped there.
        said = " ".join((process.stdout + process.stderr).split())
        assert bool(process.returncode) != output.exists(), said
        return said, sorted(json.loads(output.read_text())["_meta"]["hostvars"]) if output.exists() else None


def squeezed(text: str) -> str:
    """Return a text without blanks: up to ansible-core 2.18 warnings are broken into lines wherever that fits."""
    return "".join(text.split())


@pytest.mark.parametrize("way", ["env", "file", "both"])
def test_everything_runs_on_what_awx_injects_and_nothing_else(way, tmp_path):
    with serving(tmp_path, "hosting", admin_key=ODD_KEY) as server:
        job = Job(tmp_path, server.url, way)
        played, failed = job.play(TASKS)
        assert failed == []
        provisioned = job.provision()
        listed, hosts = job.inventory()
        assert hosts == EVERYBODY
        found = job.project.compare()
        assert found.complete and found.sealed == len(EVERYBODY), str(found)
        assert "K004" not in played + provisioned + listed
    print(f"\n{way}: {len(TASKS)} tasks, the playbook and the inventory; {found}")


def test_without_the_credential_nothing_runs(tmp_path):
    with serving(tmp_path, "hosting", admin_key=ODD_KEY) as server:
        job = Job(tmp_path, server.url, "none")
        _played, failed = job.play(FEW)
        assert sum("application_key_id is missing" in message for message in failed) == len(FEW), failed
        listed, hosts = job.inventory()
        assert "application_key_id is missing" in listed and hosts is None
        assert server.log() == []


@pytest.mark.parametrize(("way", "stored"), [("file", False), ("env", True)])
def test_facts_that_awx_may_store_hold_the_key_only_if_it_is_in_the_environment(way, stored, tmp_path):
    job = Job(tmp_path, "https://b2.example.com", way)
    job.play(
        [{"ansible.builtin.setup": {"gather_subset": ["!all", "env"]}}],
        ANSIBLE_CACHE_PLUGIN="jsonfile",
        ANSIBLE_CACHE_PLUGIN_CONNECTION="facts",
    )
    (facts,) = (tmp_path / "facts").iterdir()
    assert "B2_" in facts.read_text() and ("K004" in facts.read_text()) is stored


@pytest.mark.parametrize(
    ("way", "key"), [("env", "K004{{ 7 * 7 }}"), ("file", "K004schl\u00fcssel"), ("both", "K004oneline\n")]
)
def test_a_key_that_cannot_be_one_is_refused_before_anything_is_sent(way, key, tmp_path):
    with serving(tmp_path, "hosting") as server:
        job = Job(tmp_path, server.url, way, application_key=key)
        said = "application_key contains characters that no Backblaze key has"
        played, failed = job.play(FEW)
        assert sum(said in message for message in failed) == len(FEW), failed
        listed, hosts = job.inventory()
        assert squeezed(said) in squeezed(listed) and hosts is None
        assert "K004" not in played + listed
        assert server.log() == []


def test_a_credentials_file_that_others_can_read_is_refused_before_anything_is_sent(tmp_path):
    with serving(tmp_path, "hosting", admin_key=ODD_KEY) as server:
        job = Job(tmp_path, server.url, "file")
        path = job.injected["B2_CREDENTIALS_FILE"]
        os.chmod(path, 0o644)
        said = f"Run: chmod 600 {path}"
        _played, failed = job.play(FEW)
        assert sum(said in message for message in failed) == len(FEW), failed
        listed, hosts = job.inventory()
        assert squeezed(said) in squeezed(listed) and hosts is None
        assert server.log() == []


@pytest.mark.parametrize("way", ["env", "file"])
def test_a_module_hides_the_key_wherever_it_came_from(way, tmp_path):
    with serving(tmp_path, "hosting", admin_key=ODD_KEY) as server:
        echo = {"kind": "error", "status": 400, "code": "bad_request", "message": f"not {ODD_KEY}"}
        server.faults([{"operation": "b2_list_groups", "times": None, "action": echo}])
        played, failed = Job(tmp_path, server.url, way).play([{"community.backblaze.b2_group_info": {}}])
        assert len(failed) == 1 and "bad_request: not " in failed[0] and "7*7" not in played, played


def test_the_file_that_an_option_names_goes_before_the_environment_everywhere(tmp_path):
    with serving(tmp_path, "hosting", admin_key=ODD_KEY) as server:
        job = Job(tmp_path, server.url, "both", application_key="K004anotherone")
        (tmp_path / "mine").mkdir()
        mine = awx.inject(
            awx.credential_type(), {"application_key_id": KEY_ID, "application_key": ODD_KEY}, tmp_path / "mine"
        )["B2_CREDENTIALS_FILE"]
        _played, failed = job.play(FEW)
        assert sum("unauthorized" in message for message in failed) == len(FEW), failed
        _played, failed = job.play(
            [{name: {**options, "credentials_file": mine}} for task in TASKS for name, options in task.items()]
        )
        assert failed == []
        job.provision(b2_members_credentials_file=mine)
        assert "unauthorized" in job.inventory()[0]
        job.source.write_text(job.source.read_text() + f"credentials_file: {mine}\n")
        assert job.inventory()[1] == EVERYBODY
