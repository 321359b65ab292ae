# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Jobs of the real ansible-runner, laid out as users and as AWX lay them out: without a promise no key is made, and no
job event shows one."""

from __future__ import annotations

import base64
import json
import pathlib
import shlex
import shutil
import subprocess
import time
import typing as t
from types import MappingProxyType

import pytest

from project import KEY, PATIENCE, Project, forms, ledger, serving, standin

#: Goes where bubblewrap would go, and hides nothing. Copying the project and removing the copy is ansible-runner's own
#: work.
SANDBOX = """\
#!/bin/sh
[ "$1" = --version ] && exit 0
while [ "$1" != ansible-playbook ]; do [ "$1" = --chdir ] && cd "$2"; shift; done
exec "$@"
"""
REMEDIES = ("vault_dir_is_durable: true", "vault_location: target", "vault_location: git")
PROMPT = r"^Vault password \(customers\):\s*?$"


class Jobs:
    """A private data directory of ansible-runner, as its user would have it, and the means to run it."""

    def __init__(self, directory: pathlib.Path, server: standin.Control, private: str) -> None:
        self.server = server
        self.directory = directory
        self.private = directory / private
        (self.private / "env").mkdir(parents=True)
        (self.private / "project").mkdir()
        self.project = Project(directory, server.url)
        self.vault_dir = self.private / "project" / "host_vars"
        self.said: list[tuple[str, bytes]] = []
        self.write(
            "project/provision.yml",
            [{"name": "Customers", "ansible.builtin.import_playbook": "community.backblaze.provision"}],
        )
        # ansible-runner writes the environment of a job into its artifacts, so the master key comes out of a vault
        # file.
        master = self.write("project/master.yml", {"b2_members_application_key": KEY})
        command = [
            "ansible-vault",
            "encrypt",
            "--encrypt-vault-id",
            "customers",
            "--vault-id",
            f"customers@{directory / 'vault-password'}",
            master,
        ]
        subprocess.run(command, env=self._environment(), check=True, capture_output=True, timeout=PATIENCE)
        self.write("env/cmdline", f"--vault-id customers@prompt -e @master.yml -i {shlex.quote('localhost,')}")
        self.write("env/passwords", {PROMPT: self.project.password})

    def write(self, name: str, content: t.Any) -> str:
        """Write a file in the private data directory; return its path."""
        path = self.private / name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return str(path)

    def _environment(self, **extra: str) -> dict[str, str]:
        given = {
            name: value
            for name, value in self.project.environment(**extra).items()
            if not name.startswith(("AWX_", "JOB_ID"))
        }
        del given["B2_APPLICATION_KEY"], given["ANSIBLE_VAULT_PASSWORD_FILE"]
        return given

    def run(
        self,
        emails: t.Sequence[str],
        *arguments: str,
        command: str = "",
        environment: t.Mapping[str, str] = MappingProxyType({}),
        **variables: t.Any,
    ) -> dict[str, t.Any]:
        """Run a job that provisions; return the result of its task, from the job events.

        command: a shell command instead of ``ansible-runner run``. environment: of the job. variables: of the role.
        """
        given = {
            "group_name": "hosting",
            "list": emails,
            "vault_dir": "host_vars",
            "on_key_missing": "warn",
            **variables,
        }
        self.write("env/extravars", {f"b2_members_{name}": value for name, value in given.items()})
        self.write("env/envvars", dict(environment))
        events = self.launch(
            command
            or shlex.join(["ansible-runner", "run", str(self.private), "-p", "provision.yml", "-vvvv", *arguments])
        )
        results = [
            {**event["event_data"]["res"], "failed": event["event"] == "runner_on_failed"}
            for event in events
            if event["event"] in ("runner_on_ok", "runner_on_failed")
            and event["event_data"]["task_action"] == "community.backblaze.b2_group_members"
        ]
        assert len(results) == 1, self.said[-2:]
        return results[0]

    def launch(self, command: str) -> list[dict[str, t.Any]]:
        """Run a shell command; return the job events that it left."""
        known = set(self._events())
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", command],
            cwd=self.directory,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PATIENCE,
            check=False,
        )
        self.said += [("stdout", done.stdout), ("stderr", done.stderr)]
        return [json.loads(path.read_bytes()) for path in self._events() if path not in known]

    def _events(self) -> list[pathlib.Path]:
        return sorted(self.directory.glob("*/artifacts/*/job_events/*.json"))

    def creates(self) -> int:
        return int(self.server.state()["calls"].get(ledger.CREATE, 0))

    def warnings(self) -> str:
        """Return what the last job said, in one line."""
        return " ".join(self.said[-2][1].decode().split())

    def refused(self, emails: t.Sequence[str], *arguments: str, **options: t.Any) -> None:
        """Run a job that must not create anything, and says why."""
        before = self.creates()
        result = self.run(emails, *arguments, **options)
        assert result["failed"] and not result["changed"], result
        for said in ("may be lost with this job", "Nothing was changed at Backblaze.", "Mount a directory", *REMEDIES):
            assert said in result["msg"], result["msg"]
        assert self.creates() == before

    def leaks(self) -> list[str]:
        """Search all artifacts, and what ansible-runner said, for every secret; return what was found where."""
        secrets = {KEY, self.project.password, *(entry["key"] for entry in self.server.ledger())}
        needles = set().union(*map(forms, secrets))
        files = [path for path in self.directory.glob("*/artifacts/**/*") if path.is_file()]
        # What there was to search, or this search is none.
        assert {"command", "rc", "status", "stdout"} <= {path.name for path in files} and self._events()
        heaps = [*self.said, *((str(path), path.read_bytes()) for path in files)]
        size = sum(len(heap) for _name, heap in heaps)
        self.searched = f"{len(heaps)} files and outputs, {size / 1e3:.0f} kB, {len(secrets)} secrets"
        return [f"{name}: {needle[:6]!r}…" for name, heap in heaps for needle in needles if needle in heap]


@pytest.fixture
def jobs(tmp_path):
    """Make jobs in a private data directory of some name."""
    with serving(tmp_path, "hosting") as server:
        yield lambda private: Jobs(tmp_path, server, private)


def addresses(name: str, count: int = 2) -> list[str]:
    return [f"{name}{number}@customers.example.com" for number in range(count)]


def test_a_directory_keeps_keys_once_that_is_promised(jobs):
    """Which a user of ansible-runner alone can do for a directory beside the project, too."""
    started = time.monotonic()
    job = jobs("private")
    job.refused(addresses("plain"))
    job.refused(addresses("plain"), "--cmdline", "--check " + (job.private / "env/cmdline").read_text())
    assert not job.vault_dir.exists()
    result = job.run(addresses("plain"), vault_dir_is_durable=True)
    assert result["counts"] == {"created": 2}, result["msg"]
    assert "vault_fallback_dir is not given" in job.warnings() and "may be lost with this job" in job.warnings(), (
        job.warnings()
    )
    comparison = ledger.compare(job.server.url, str(job.vault_dir), job.project.password.encode())
    assert comparison.complete and comparison.sealed == 2, str(comparison)

    # A named fallback directory is part of the promise.
    result = job.run(addresses("named"), vault_dir_is_durable=True, vault_fallback_dir="fallback")
    assert result["counts"] == {"created": 2} and "may be lost" not in job.warnings(), job.warnings()
    assert not job.leaks()
    print(f"\nrunner: plain: {comparison}; 0 leaks in {job.searched}; {time.monotonic() - started:.1f} s")


def test_a_promise_is_taken_as_it_is(jobs, tmp_path):
    """A copy of the project is thrown away whatever anybody promises, and that is what the promise is asked for."""
    started = time.monotonic()
    job = jobs("private")
    copies = tmp_path / "copies"
    copies.mkdir()
    sandbox = tmp_path / "bwrap"
    sandbox.write_text(SANDBOX)
    sandbox.chmod(0o755)
    isolated = [
        "--process-isolation",
        "--process-isolation-executable",
        str(sandbox),
        "--directory-isolation-base-path",
        str(copies),
    ]
    job.refused(addresses("isolated"), *isolated)
    result = job.run(addresses("isolated"), *isolated, vault_dir_is_durable=True)
    assert result["counts"] == {"created": 2}, result["msg"]
    assert not list(copies.iterdir()) and not job.vault_dir.exists()
    assert not job.leaks()
    print(f"\nrunner: isolated: refused, then promised; 0 leaks in {job.searched}; {time.monotonic() - started:.1f} s")


def test_a_job_of_awx_keeps_only_files_outside_of_the_job(jobs, tmp_path):
    started = time.monotonic()
    job = jobs("awx_61_ifxztvul")
    kept = tmp_path / "kept" / "host_vars"
    # As AWX does for a container group: all that the job needs is sent to a worker, and what comes of it is sent back.
    awx = {
        "environment": {
            "AWX_PRIVATE_DATA_DIR": str(job.private),
            "AWX_HOST": "https://awx.example.com",
            "JOB_ID": "61",
            "INVENTORY_ID": "1",
        },
        "command": f"ansible-runner transmit {job.private} -p provision.yml -vvvv --ident {{0}}"
        f" | ansible-runner worker --private-data-dir={tmp_path}/node/runner | ansible-runner process "
        f"{tmp_path}/awx --ident {{0}}",
    }

    def numbered(number: int) -> dict[str, t.Any]:
        return {**awx, "command": awx["command"].format(number)}

    job.refused(addresses("awx"), **numbered(61))
    job.refused(addresses("awx"), **numbered(62), vault_dir=str(kept))
    result = job.run(addresses("awx"), **numbered(63), vault_dir=str(kept), vault_dir_is_durable=True)
    assert result["counts"] == {"created": 2}, result["msg"]
    comparison = ledger.compare(job.server.url, str(kept), job.project.password.encode())
    assert comparison.complete and comparison.sealed == 2, str(comparison)
    assert not job.leaks()
    print(
        f"\nrunner: as AWX: refused, then {comparison}; 0 leaks in {job.searched}; {time.monotonic() - started:.1f} s"
    )


def test_the_search_finds_a_key_in_a_job_event(jobs):
    job = jobs("private")
    key = job.server.add_member("hosting", "planted@customers.example.com")["applicationKey"]
    # From 2.22 on Ansible hides the vault password by itself, but only as it is.
    for shown in (
        "nothing",
        f"the key {key}.",
        *(base64.b64encode(f"{secret}:".encode()).decode() for secret in (KEY, job.project.password)),
    ):
        task = {"name": "Show", "ansible.builtin.debug": {"msg": shown}}
        job.write(
            "project/show.yml",
            [{"name": "Show", "hosts": "localhost", "connection": "local", "gather_facts": False, "tasks": [task]}],
        )
        job.launch(f"ansible-runner run {job.private} -p show.yml")
        found = job.leaks()
        assert (
            any("job_events" in leak for leak in found)
            is any("artifacts" in leak for leak in found)
            is (shown != "nothing")
        ), found
        shutil.rmtree(job.private / "artifacts")
        job.said.clear()
