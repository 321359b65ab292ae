# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The playbook that sets up AWX, with the real modules of awx.awx, against a stand-in for AWX's REST resources; and the
jobs that it describes.

No test uses a live AWX, so no test shows the behaviour of one.
"""

from __future__ import annotations

import json
import os
import pathlib
import re
import subprocess
import textwrap

import pytest
import yaml

from project import KEY_ID, PATIENCE, Project, forms, serving  # first: it makes what follows importable

import awx  # isort: skip
import awx_resources  # isort: skip

ROOT = pathlib.Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "docs/docsite/rst/guide_awx.rst").read_text(encoding="utf-8")
PLAYBOOK = "community.backblaze.awx_setup"
TOKEN = "TokenOfAwxForTests"
#: Whatever a template, a shell, JSON or YAML could take for its own.
ODD = """"'\\{{7*7}}{%x%}{#y#}$HOME%s#:&<a>"""
SECRETS = {"B2_APPLICATION_KEY": f"K004{ODD}", "B2_AWX_VAULT_PASSWORD": f"vault{ODD}"}
GIVEN = {"CONTROLLER_OAUTH_TOKEN": TOKEN, "B2_APPLICATION_KEY_ID": KEY_ID, **SECRETS}
TEMPLATES = {
    "provision": "provision.yml",
    "check": "provision.yml",
    "one more": "one-customer.yml",
    "audit": "audit.yml",
}


def from_guide(name: str) -> str:
    """Return the file of this name as the guide shows it."""
    return textwrap.dedent(re.search(rf"   :caption: {re.escape(name)}\n\n((?:   .*\n|\n)+)", GUIDE)[1])


def resources():
    return awx_resources.Resources(TOKEN, sorted(set(TEMPLATES.values())))


class User:
    """A directory with the guide's example of variables, and the means to run the playbook against a server."""

    def __init__(self, directory: pathlib.Path, server: awx_resources.Server) -> None:
        self.directory = directory
        self.server = server
        self.example = yaml.safe_load(from_guide("awx.yml"))
        (directory / "awx.yml").write_text(from_guide("awx.yml"))

    def run(
        self, *arguments: str, playbook: str = PLAYBOOK, collections: str = "", **environment: str
    ) -> subprocess.CompletedProcess:
        """Run the playbook; what was sent to the server before is forgotten."""
        del self.server.resources.log[:]
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("ANSIBLE_", "B2_", "CONTROLLER_", "TOWER_"))
        }
        given = {
            "ANSIBLE_COLLECTIONS_PATH": collections
            or f"{os.environ['ANSIBLE_COLLECTIONS_PATH']}:{os.environ['AWX_COLLECTIONS']}",
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_LOCALHOST_WARNING": "false",
            "ANSIBLE_INVENTORY_UNPARSED_WARNING": "false",
            "CONTROLLER_HOST": self.server.url,
            "HOME": str(self.directory),
        }
        return subprocess.run(
            ["ansible-playbook", playbook, "-e", "@awx.yml", *arguments],
            cwd=self.directory,
            env={**kept, **given, **GIVEN, **environment},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    def vault_file(self) -> list[str]:
        """Write the secrets into a vault file; return the arguments that make a run read it."""
        variables = {
            "b2_awx_master_key": SECRETS["B2_APPLICATION_KEY"],
            "b2_awx_vault_password": SECRETS["B2_AWX_VAULT_PASSWORD"],
        }
        (self.directory / "password").write_text("of the vault file")
        (self.directory / "secrets.yml").write_text(
            "".join(f"{name}: !unsafe {json.dumps(value)}\n" for name, value in variables.items())
        )
        password = ["--vault-password-file", str(self.directory / "password")]
        subprocess.run(
            ["ansible-vault", "encrypt", *password, str(self.directory / "secrets.yml")],
            check=True,
            capture_output=True,
        )
        return [*password, "-e", "@secrets.yml"]

    def written(self) -> list[tuple[str, str]]:
        """Return what was sent that is no question."""
        return [
            (method, re.sub(r"\d+", "N", path.removeprefix("/api/v2/")))
            for method, path in self.server.resources.log
            if method != "GET"
        ]


def changed(process: subprocess.CompletedProcess) -> int:
    assert process.returncode == 0, process.stdout + process.stderr
    return int(re.search(r"changed=(\d+)", process.stdout)[1])


def unwrapped(process: subprocess.CompletedProcess) -> str:
    return " ".join((process.stdout + process.stderr).split())


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A user whose AWX has been set up once, with all that was said."""
    with awx_resources.Server(resources()) as server:
        user = User(tmp_path_factory.mktemp("user"), server)
        process = user.run("-vvvv")
        user.things = changed(process)
        user.said = process.stdout + process.stderr
        yield user


def test_what_is_made_is_what_the_guide_describes(made):
    found = made.server.resources
    kind = found.named("credential_types")["Backblaze B2 Partner"]
    assert {name: kind[name] for name in awx.credential_type()} == awx.credential_type()
    credentials = found.named("credentials")
    assert {name: credential["inputs"] for name, credential in credentials.items()} == {
        "B2 master key": {"application_key_id": KEY_ID, "application_key": SECRETS["B2_APPLICATION_KEY"]},
        "B2 vault": {"vault_password": SECRETS["B2_AWX_VAULT_PASSWORD"]},
    }
    inventories = found.named("inventories")
    assert sorted(inventories) == ["B2 control", "B2 members"]
    host = found.named("hosts")["localhost"]
    assert host["inventory"] == inventories["B2 control"]["id"]
    assert json.loads(host["variables"]) in shown_fields()

    environment = found.named("execution_environments")["B2"]
    assert environment["image"] == made.example["b2_awx_execution_environment_image"]
    project = found.named("projects")["B2 customers"]
    assert project["scm_url"] == made.example["b2_awx_project_url"] and project["scm_update_on_launch"]
    source = found.named("inventory_sources")["B2 members"]
    assert (
        from_guide(source["source_path"])
        and source["overwrite"]
        and source["update_on_launch"]
        and source["update_cache_timeout"]
    )
    assert [source[name] for name in ("inventory", "source_project", "credential", "execution_environment")] == [
        one["id"] for one in (inventories["B2 members"], project, credentials["B2 master key"], environment)
    ]

    templates = {
        name.removeprefix("B2 customers: "): template for name, template in found.named("job_templates").items()
    }
    assert {name: template["playbook"] for name, template in templates.items()} == TEMPLATES
    for name, template in templates.items():
        assert f"``B2 customers: {name}``" in GUIDE
        assert json.loads(template["extra_vars"]) == yaml.safe_load(from_guide("variables.yml"))
        assert template["job_type"] == ("check" if name == "check" else "run")
        fields = ("timeout", "job_slice_count", "allow_simultaneous", "diff_mode", "use_fact_cache")
        assert [template[field] for field in fields] == [0, 1, False, True, False]
        assert [value for field, value in template.items() if field.startswith("ask_")] == [False] * 7
        assert [template[field] for field in ("inventory", "project", "execution_environment")] == [
            one["id"] for one in (inventories["B2 control"], project, environment)
        ]
        assert found.associated(template, "credentials") == ["B2 master key", "B2 vault"]
        assert template["survey_enabled"] == (template["id"] in found.surveys) == (name == "one more")
    schedule = found.named("schedules")["B2 customers: audit"]
    assert schedule["unified_job_template"] == templates["audit"]["id"] and "FREQ=DAILY" in schedule["rrule"]
    print(f"\n{made.things} tasks changed something, {len(found.named('job_templates'))} templates")


def shown_fields():
    """Return what the guide shows as the content of a field in AWX."""
    return [
        yaml.safe_load(textwrap.dedent(text))
        for text in re.findall(r"not run: a field in AWX\n.*\n\n((?:   .*\n|\n)+)", GUIDE)
    ]


def test_no_secret_is_in_what_a_run_says(made):
    for secret in (*SECRETS.values(), TOKEN):
        assert not [form for form in forms(secret) if form in made.said.encode()]
    assert "K004" not in made.said and len(made.said) > 10_000


def test_a_second_run_changes_nothing_and_secrets_are_renewed_on_request(made):
    """As if master key and vault password were others when AWX was set up."""
    credentials = made.server.resources.named("credentials")
    credentials["B2 master key"]["inputs"]["application_key"] = credentials["B2 vault"]["inputs"]["vault_password"] = (
        "the one before"
    )
    assert changed(made.run()) == 0
    assert made.written() == [("POST", "projects/N/update/")]
    assert changed(made.run("--check")) == 0 and made.written() == []
    assert credentials["B2 vault"]["inputs"]["vault_password"] == "the one before"

    # A user's playbook in another directory imports the playbook, with its own variables and a vault file of secrets.
    (made.directory / "mine").mkdir()
    renew = {"b2_awx_update_secrets": True, "b2_awx_audit_rrule": ""}
    (made.directory / "mine" / "setup.yml").write_text(json.dumps([{"import_playbook": PLAYBOOK, "vars": renew}]))
    process = made.run("-vvvv", *made.vault_file(), playbook="mine/setup.yml", **dict.fromkeys(SECRETS, ""))
    assert changed(process) == 3 and "K004" not in process.stdout + process.stderr
    writes = [
        ("PATCH", "credentials/N/"),
        ("PATCH", "credentials/N/"),
        ("POST", "projects/N/update/"),
        ("DELETE", "schedules/N/"),
    ]
    assert made.written() == writes and not made.server.resources.named("schedules")
    assert credentials["B2 master key"]["inputs"]["application_key"] == SECRETS["B2_APPLICATION_KEY"]
    assert credentials["B2 vault"]["inputs"]["vault_password"] == SECRETS["B2_AWX_VAULT_PASSWORD"]


def test_the_jobs_that_it_describes_do_their_work(made, tmp_path):
    """A job as AWX puts it together from the resources, but for the container: project, inventory, variables, survey
    and what credentials inject."""
    found = made.server.resources
    with serving(tmp_path, "hosting", admin_key=SECRETS["B2_APPLICATION_KEY"]) as server:
        project = Project(tmp_path, server.url)
        for name in ("provision.yml", "one-customer.yml", "audit.yml", "customers.csv"):
            (tmp_path / name).write_text(from_guide(name))
        host = found.named("hosts")["localhost"]
        (tmp_path / "inventory.yml").write_text(
            json.dumps({"all": {"hosts": {host["name"]: json.loads(host["variables"])}}})
        )
        project.password = found.named("credentials")["B2 vault"]["inputs"]["vault_password"]
        (tmp_path / "vault-password").write_text(project.password)
        inputs = {**found.named("credentials")["B2 master key"]["inputs"], "realm": server.url}
        injected = awx.inject(found.named("credential_types")["Backblaze B2 Partner"], inputs, tmp_path)
        assert not [name for name, value in injected.items() if SECRETS["B2_APPLICATION_KEY"] in value]
        # So that every job is one of AWX to the tasks.
        injected.update({"AWX_HOST": "https://awx.example.com", "JOB_ID": "61"})
        environment = {name: value for name, value in project.environment().items() if not name.startswith("B2_")}
        here = {
            f"b2_members_vault_{name}": str(tmp_path / directory)
            for name, directory in (("dir", "host_vars"), ("fallback_dir", "fallback"))
        }

        def launch(name, **answers):
            template = found.named("job_templates")[f"B2 customers: {name}"]
            assert {question["variable"] for question in found.surveys.get(template["id"], {"spec": []})["spec"]} == {
                *answers
            }
            variables = {**json.loads(template["extra_vars"]), **answers, **here}
            (tmp_path / "extra.json").write_text(json.dumps(variables))
            command = ["ansible-playbook", template["playbook"], "-i", "inventory.yml", "-e", "@extra.json", "--diff"]
            process = subprocess.run(
                [*command, *(["--check"] if template["job_type"] == "check" else [])],
                cwd=tmp_path,
                env={**environment, **injected},
                capture_output=True,
                text=True,
                timeout=PATIENCE,
                check=False,
            )
            assert process.returncode == 0, process.stdout + process.stderr
            return len(server.ledger())

        answers = {"customer_email": "cleo@customers.example.com", "customer_region": "us-east"}
        assert [launch("check"), launch("provision"), launch("one more", **answers), launch("audit")] == [0, 2, 3, 3]
        compared = project.compare()
        assert compared.complete and compared.sealed == 3, str(compared)
        print(f"\n4 jobs; {compared}")


MISSING = {
    "b2_awx_project_url": {"b2_awx_project_url": ""},
    "b2_awx_master_key_id, b2_awx_master_key, b2_awx_vault_password": {},
    "b2_awx_master_key_id, b2_awx_vault_password, b2_awx_group_name": {
        "b2_awx_group_name": "",
        "b2_awx_master_key": "K004x",
        "b2_awx_master_key_id": 123456789012,
    },
}


@pytest.mark.parametrize("missing", MISSING)
def test_what_is_missing_is_named_before_anything_is_sent(missing, tmp_path):
    secrets = {} if missing == "b2_awx_project_url" else dict.fromkeys((*SECRETS, "B2_APPLICATION_KEY_ID"), "")
    with awx_resources.Server(resources()) as server:
        user = User(tmp_path, server)
        process = user.run("-e", json.dumps(MISSING[missing]), **secrets)
        assert process.returncode == 2 and f"Missing, or a number without quotes: {missing}. Give" in unwrapped(
            process
        ), process.stdout
        assert "Nothing was changed." in unwrapped(process) and "K004" not in process.stdout + process.stderr
        assert server.resources.log == []


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        (["-e", "b2_awx_vault_dir=host_vars"], {}, "must be absolute paths"),
        ([], {"collections": os.environ["ANSIBLE_COLLECTIONS_PATH"]}, "ansible-galaxy collection install awx.awx"),
        ([], {"CONTROLLER_HOST": "https://no-such-host.invalid"}, "name your AWX in CONTROLLER_HOST"),
    ],
    ids=["a directory that does not stay", "no awx.awx", "no AWX"],
)
def test_what_cannot_go_well_is_not_begun(arguments, environment, said, tmp_path):
    with awx_resources.Server(resources()) as server:
        process = User(tmp_path, server).run(*arguments, **environment)
        assert (
            process.returncode == 2 and said in unwrapped(process) and "Nothing was changed." in unwrapped(process)
        ), process.stdout
        assert server.resources.log == []


def test_what_awx_refuses_at_once_is_said(tmp_path):
    with awx_resources.Server(resources()) as server:
        user = User(tmp_path, server)
        process = user.run(CONTROLLER_OAUTH_TOKEN="another")
        assert process.returncode == 2 and "Invalid authentication credentials" in unwrapped(process), process.stdout
        process = user.run("-e", "b2_awx_organization=Nobody")
        assert process.returncode == 2 and "name=Nobody returned 0 items, expected 1" in unwrapped(process), (
            process.stdout
        )
        assert user.written() == []
