# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A user's project directory and the stand-in, each real: a server process, ansible-playbook processes, vault files."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import pathlib
import secrets
import subprocess
import sys
import typing as t
import urllib.parse

TESTS = pathlib.Path(__file__).resolve().parent.parent
UTILS = TESTS / "utils"
#: The folder of the action write_file, which writes the result of a play without starting a module.
ACTIONS = TESTS / "integration" / "targets" / "setup_standin" / "action_plugins"
sys.path.insert(0, str(UTILS))

import ledger  # noqa: E402  # lies beside the stand-in, which is no package
import standin  # noqa: E402

KEY_ID = str(standin.Settings().admin_key_id)
KEY = str(standin.Settings().admin_key)
#: No run of these tests takes longer; a hang is a failure, not a wait.
PATIENCE = 300


@contextlib.contextmanager
def serving(directory: pathlib.Path, *groups: str, **settings: t.Any) -> t.Iterator[standin.Control]:
    """Run the stand-in as a process of its own."""
    arguments = ["--parent", str(os.getpid()), "--settings", json.dumps(settings)]
    for group in groups:
        arguments += ["--group", group]
    process, ready = standin.start_process(str(directory), *arguments)
    with process:
        try:
            yield standin.Control(ready["url"])
        finally:
            process.terminate()


def forms(secret: str) -> set[bytes]:
    """Return a secret in the forms in which it may be written; the middle of Base64 depends on where the secret
    stands."""
    written = {secret, urllib.parse.quote(secret), urllib.parse.quote(secret, safe=""), urllib.parse.quote_plus(secret)}
    written |= {
        json.dumps(secret)[1:-1],
        secret.replace("/", "\\/"),
        repr(secret)[1:-1],
        secret.encode().hex(),
        secret[::-1],
    }
    found = {text.encode() for text in written}
    for before in range(3):
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            found.add(encode(b"x" * before + secret.encode())[4 if before else 0 : -4])
    return found


class Project:
    """A directory with a vault password, a play that provisions a list, and the means to run it."""

    def __init__(self, directory: pathlib.Path, url: str) -> None:
        self.directory = directory
        self.url = url
        self.vault_dir = directory / "host_vars"
        self.password = secrets.token_urlsafe(24)
        (directory / "vault-password").write_text(self.password)

    def environment(self, **extra: str) -> dict[str, str]:
        """Return the environment of a run, with credentials and vault password as a user would have them."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "B2_"))}
        return {
            **kept,
            "ANSIBLE_COLLECTIONS_PATH": os.environ["ANSIBLE_COLLECTIONS_PATH"],
            "ANSIBLE_ACTION_PLUGINS": str(ACTIONS),
            "ANSIBLE_VAULT_PASSWORD_FILE": str(self.directory / "vault-password"),
            "ANSIBLE_LOCALHOST_WARNING": "false",
            "ANSIBLE_INVENTORY_UNPARSED_WARNING": "false",
            "ANSIBLE_LOCAL_TEMP": str(self.directory / "tmp"),
            "ANSIBLE_NOCOLOR": "1",
            "XDG_STATE_HOME": str(self.directory / "state"),
            "B2_ENVIRONMENT": self.url,
            "B2_APPLICATION_KEY_ID": KEY_ID,
            "B2_APPLICATION_KEY": KEY,
            **extra,
        }

    def play(self, members: t.Union[str, t.Sequence[t.Any]], name: str = "play.yml", **options: t.Any) -> pathlib.Path:
        """Write a play with one task that provisions a list or what a template gives, and writes its result beside it
        as JSON."""
        arguments = {
            "group_name": "hosting",
            "members": members if isinstance(members, str) else list(members),
            "vault_dir": "host_vars",
            **options,
        }
        tasks = [
            {
                "name": "Provision",
                "community.backblaze.b2_group_members": arguments,
                "register": "provisioned",
                "ignore_errors": True,
            },
            {
                "name": "Keep the result for the test",
                "write_file": {
                    "content": "{{ provisioned | to_json }}",
                    "dest": str(self.directory / "result.json"),
                },
            },
        ]
        play = [
            {
                "name": "Provision",
                "hosts": "localhost",
                "connection": "local",
                "gather_facts": False,
                "vars": {"ansible_python_interpreter": "{{ ansible_playbook_python }}"},
                "tasks": tasks,
            }
        ]
        path = self.directory / name
        path.write_text(json.dumps(play))
        return path

    def run(
        self, play: pathlib.Path, *arguments: str, **environment: str
    ) -> tuple[subprocess.CompletedProcess[str], dict[str, t.Any]]:
        """Run a play to its end; return the process and the task's result (empty if it did not come that far)."""
        result = self.directory / "result.json"
        result.unlink(missing_ok=True)
        process = subprocess.run(
            ["ansible-playbook", str(play), *arguments],
            cwd=self.directory,
            env=self.environment(**environment),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        return process, json.loads(result.read_text()) if result.exists() else {}

    def compare(self) -> ledger.Comparison:
        """Hold the ledger against the vault."""
        return ledger.compare(self.url, str(self.vault_dir), self.password.encode())

    def needles(self) -> set[str]:
        """Return every secret that must not stand anywhere in clear."""
        return {KEY, self.password} | {entry["key"] for entry in ledger.handed_out(self.url)}
