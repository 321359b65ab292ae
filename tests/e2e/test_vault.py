# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The same bytes on every ansible-core: what is sealed, and what a play gets of it.

Releases differ in what a vaulted value is: a class of its own, a lazily decrypted string, a str with tags. Here
everything that a task can be given comes out of a vault, in both ways that Ansible knows, and in the end there are the
very bytes that Backblaze sent.
"""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import shutil
import subprocess

import pytest

from project import KEY, PATIENCE, Project, serving, standin

MADE, ADOPTED = "Ada@customers.example.com", "ben@customers.example.com"
#: What a key file holds, as long as there are releases of this collection: the header, then a variable a line.
TEXT = """\
---
# Sealed by community.backblaze. Backblaze shows this key nowhere else: keep this file.
b2_application_key_id: "{key_id}"
b2_application_key: "{key}"
b2_account_id: "{account_id}"
b2_email: "{email}"
b2_group_id: "{group_id}"
b2_region: "{region}"
b2_s3_endpoint: "{s3_endpoint}"
"""


def tool(project: Project, *command: str, stdin: str = "") -> str:
    """Run a tool of Ansible's in the project; return its output."""
    process = subprocess.run(
        command,
        cwd=project.directory,
        env=project.environment(),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


def opened(project: Project, path: pathlib.Path) -> bytes:
    """Open a vault file as its user would."""
    return tool(project, "ansible-vault", "decrypt", "--output=-", str(path)).encode()


def provision(project: Project, key_id: str, key: str, **options: str) -> None:
    """Provision with the master key and an adopted key that are vaulted strings, and a list that lies in a vaulted
    file."""
    secrets = {"master": KEY, "adopted": key}
    strings = [
        tool(project, "ansible-vault", "encrypt_string", "--stdin-name", name, stdin=secret)
        for name, secret in secrets.items()
    ]
    (project.directory / "strings.yml").write_text("\n".join(strings))
    wanted = [
        {"email": MADE, "region": "eu-central"},
        {"email": ADOPTED, "application_key_id": key_id, "application_key": "{{ adopted }}"},
    ]
    (project.directory / "wanted.yml").write_text(json.dumps({"wanted": wanted}))
    tool(project, "ansible-vault", "encrypt", "wanted.yml")
    play = project.play("{{ wanted }}", name="provision.yml", application_key="{{ master }}", **options)
    process, result = project.run(play, "-e", "@strings.yml", "-e", "@wanted.yml", B2_APPLICATION_KEY="not the key")
    assert result.get("counts") == {"created": 1, "adopted": 1}, process.stdout + process.stderr


@pytest.mark.parametrize("layout", ["host_vars", "group_vars"])
def test_what_is_sealed_is_what_was_handed_out_byte_for_byte(tmp_path, layout):
    with serving(tmp_path, "hosting") as server:
        project = Project(tmp_path, server.url)
        adopted = server.add_member("hosting", ADOPTED, "us-east")
        provision(project, adopted["applicationKeyId"], adopted["applicationKey"], vault_layout=layout)
        entries = {entry["email"].lower(): entry for entry in server.ledger()}
        expected = {}
        for email, region in ((MADE.lower(), "eu-central"), (ADOPTED, "us-east")):
            entry = entries[email]
            values = {
                "key_id": entry["key_id"],
                "key": entry["key"],
                "account_id": entry["account_id"],
                "email": email,
                "region": region,
            }
            expected[email] = TEXT.format(
                group_id=server.groups["hosting"], s3_endpoint=standin.s3_endpoint(region), **values
            )

        if layout == "host_vars":
            files = {email: project.vault_dir / email / "b2_vault.yml" for email in expected}
            assert {email: opened(project, path).decode() for email, path in files.items()} == expected
        else:
            files = {"all": project.vault_dir / f"b2_group_{server.groups['hosting']}" / "b2_vault.yml"}
            lines = opened(project, files["all"]).decode().splitlines()
            for email, text in expected.items():
                # Here the address stands before the variables, and not among them.
                variables = [line for line in text.splitlines()[2:] if not line.startswith("b2_email")]
                assert f'  "{email}": {{{", ".join(variables)}}}' in lines
        headers = {path.read_bytes().splitlines()[0] for path in files.values()}
        assert headers == {b"$ANSIBLE_VAULT;1.1;AES256"}
        keep(project, layout, next(iter(files.values())))


def keep(project: Project, layout: str, path: pathlib.Path) -> None:
    """Leave what this release sealed for the other releases of `make matrix`."""
    if location := os.environ.get("STEPS_SEALED"):
        directory = pathlib.Path(location, layout)
        directory.mkdir(parents=True)
        shutil.copy(path, directory / "sealed")
        (directory / "password").write_text(project.password)
        (directory / "plaintext").write_bytes(opened(project, path))


def test_a_play_gets_what_was_handed_out(tmp_path):
    with serving(tmp_path, "hosting") as server:
        project = Project(tmp_path, server.url)
        adopted = server.add_member("hosting", ADOPTED)
        provision(project, adopted["applicationKeyId"], adopted["applicationKey"])
        (tmp_path / "customers.b2_group_members.yml").write_text("plugin: community.backblaze.b2_group_members\n")
        used = {
            "name": "Use the key",
            "ansible.builtin.copy":
                # The ways in which a play passes a key on: alone, joined to other text, through a filter.
                {"content": "{{ [b2_application_key, b2_application_key_id ~ ':' ~ b2_application_key, "
                            "b2_application_key | hash('sha256')] | to_json }}",
                 "dest": str(tmp_path / "used-{{ inventory_hostname }}"), "mode": "0600"},
            "no_log": True,
        }  # fmt: skip
        play = [{"name": "Use the keys", "hosts": "all", "connection": "local", "gather_facts": False, "tasks": [used]}]
        play[0]["vars"] = {"ansible_python_interpreter": "{{ ansible_playbook_python }}"}
        (tmp_path / "use.yml").write_text(json.dumps(play))
        tool(project, "ansible-playbook", "use.yml", "-i", "customers.b2_group_members.yml")
        ledger = server.ledger()
        assert len(ledger) == 2
        for entry in ledger:
            key = entry["key"]
            found = json.loads((tmp_path / f"used-{entry['email'].lower()}").read_text())
            assert found == [key, f"{entry['key_id']}:{key}", hashlib.sha256(key.encode()).hexdigest()]
