# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Jobs in containers of the execution environment that `make ee` has built: by ansible-runner, as AWX starts them, and
by ansible-navigator.

Without a promise that a directory stays no key is made in it. With one, another container finds every key that was
handed out.
"""

from __future__ import annotations

import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import time
import typing as t

import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "e2e"))

import locations  # noqa: E402  # lies with the end-to-end tests
from project import KEY, KEY_ID, PATIENCE, UTILS, forms, ledger, serving, standin  # noqa: E402
from test_runner import Jobs, addresses  # noqa: E402

IMAGE = os.environ["EE_IMAGE"]
PODMAN = ["podman", "run", "--rm"]
#: A queue for messages, which podman shares with containers of ansible-navigator.
QUEUE = pathlib.Path("/dev/mqueue")


class Contained(Jobs):
    """The same jobs, in a container with a directory that stays."""

    def __init__(self, directory: pathlib.Path, server: standin.Control, private: str) -> None:
        super().__init__(directory, server, private)
        self.kept = directory / "kept"
        self.kept.mkdir()
        # For the user of the image too, who is in the group of root.
        self.kept.chmod(0o770)
        self.mounts = [f"--volume={self.kept}:/srv/kept"]
        # Of jobs; for them the key comes out of a vault file.
        self.environment = {"B2_ENVIRONMENT": server.url, "B2_APPLICATION_KEY_ID": KEY_ID}
        self.credentials = {**self.environment, "B2_APPLICATION_KEY": KEY}

    def options(self) -> list[str]:
        """Return podman's options for a job. AWX, too, has it run as root, which is the user who started podman where
        that is not root."""
        return ["--pull=never", "--user=root", *self.mounts]

    def isolated(self) -> list[str]:
        """Return the same for ansible-runner."""
        return [
            "--process-isolation",
            f"--container-image={IMAGE}",
            *(f"--container-option={option}" for option in self.options()),
        ]

    def found(self, vault_dir: str) -> int:
        """Hold the ledger against a directory, in a container of its own; return how many keys there are, all of them
        sealed there."""
        here = [f"--volume={UTILS}:/utils:ro", f"--volume={self.directory}/vault-password:/vault-password:ro"]
        done = say(
            [
                *PODMAN,
                *self.options(),
                *here,
                IMAGE,
                "python3",
                "/utils/ledger.py",
                self.server.url,
                vault_dir,
                "/vault-password",
            ]
        )
        counts = re.search(r"keys handed out (\d+), keys sealed (\d+): every key is in the vault", done)
        assert counts and counts[1] == counts[2], done
        return int(counts[1])


def say(command: t.Sequence[str], directory: pathlib.Path = ROOT, status: int = 0, **environment: str) -> str:
    """Run a command to its end on a machine that has no Ansible of its own, and return all that it says."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "B2_", "AWX_"))}
    done = subprocess.run(
        command,
        cwd=directory,
        env={**kept, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == status, done.stdout
    return done.stdout


@pytest.fixture
def jobs(tmp_path):
    """Make jobs in a private data directory of some name."""
    with serving(tmp_path, "hosting") as server:
        yield lambda private: Contained(tmp_path, server, private)


@pytest.fixture
def queue():
    """Have a queue for messages for as long as a test runs, where the machine has none."""
    made = not QUEUE.exists()
    if made:
        QUEUE.mkdir()
    yield
    if made:
        QUEUE.rmdir()


def test_the_image_holds_the_collection_as_it_was_built_on_an_ansible_that_knows_it():
    in_image = [*PODMAN, IMAGE]
    version = yaml.safe_load((ROOT / "galaxy.yml").read_text())["version"]
    verified = say([*in_image, "ansible-galaxy", "collection", "verify", "--offline", "community.backblaze"])
    assert f"checksums for 'community.backblaze:{version}' are internally consistent" in verified
    page = json.loads(say([*in_image, "ansible-doc", "--json", "community.backblaze.b2_group_members"]))
    assert page["community.backblaze.b2_group_members"]["doc"]["collection"] == "community.backblaze"
    core = say([*in_image, "ansible", "--version"]).splitlines()[0]
    print(f"\nee: {core}, {say([*in_image, 'python3', '--version']).strip()}, community.backblaze {version}")


def test_a_job_makes_keys_where_they_are_said_to_outlive_its_container(jobs):
    started = time.monotonic()
    job = jobs("private")
    runs = {"environment": job.environment}
    emails = addresses("runner", 20)
    kept = "/srv/kept/host_vars"
    for vault_dir in ("host_vars", kept):
        job.refused(emails, *job.isolated(), vault_dir=vault_dir, **runs)
    result = job.run(emails, *job.isolated(), vault_dir=kept, vault_dir_is_durable=True, **runs)
    assert result["counts"] == {"created": 20}, result["msg"]
    assert "vault_fallback_dir is not given" in job.warnings() and "may be lost with this job" in job.warnings(), (
        job.warnings()
    )
    found = job.found(kept)
    assert found == 20 and not job.leaks()
    print(f"\nee: ansible-runner: {found} keys; 0 leaks in {job.searched}; {time.monotonic() - started:.1f} s")


@pytest.fixture
def host(tmp_path):
    """Run an ssh server on this machine, whose loopback address containers share."""
    with locations.Host(tmp_path / "host").up() as running:
        yield running


def test_keys_on_a_host_are_reached_by_the_images_own_ssh(jobs, host):
    """With nothing of the image but its ssh client: the inventory does not even say that the connection is ssh."""
    started = time.monotonic()
    job = jobs("private")
    job.mounts.append(f"--volume={host.directory}:{host.directory}")
    location = host.location(job.private / "project")
    inventory = job.private / "project" / "inventory.json"
    hosts = json.loads(inventory.read_text())
    del hosts["all"]["hosts"][locations.HOST]["ansible_connection"]
    inventory.write_text(json.dumps(hosts))
    job.write("env/cmdline", f"{(job.private / 'env/cmdline').read_text()} -i inventory.json")
    options = {**location.options, "vault_host": locations.HOST, "environment": job.environment}
    for counts in ({"created": 20}, {"unchanged": 20}):
        result = job.run(addresses("host", 20), *job.isolated(), **options)
        assert result.get("counts") == counts, result["msg"]
    found = ledger.compare(job.server.url, str(host.keys), job.project.password.encode())
    assert found.complete and found.sealed == 20 and not job.leaks(), str(found)
    print(f"\nee: on a host: {found}; 0 leaks in {job.searched}; {time.monotonic() - started:.1f} s")


def test_keys_in_a_repository_are_pushed_by_the_images_own_git(jobs, host, tmp_path):
    """Over ssh, with a key of its own, as the guide has it."""
    started = time.monotonic()
    job = jobs("private")
    job.mounts.append(f"--volume={host.directory}:{host.directory}:ro")
    location = locations.GitLocation(tmp_path)
    login = json.loads(host.inventory(tmp_path / "inventory.json").read_text())["all"]["hosts"][locations.HOST]
    ssh = [
        "ssh",
        "-F",
        "none",
        "-i",
        login["ansible_ssh_private_key_file"],
        *shlex.split(login["ansible_ssh_extra_args"]),
    ]
    address = f"ssh://{login['ansible_user']}@127.0.0.1:{login['ansible_port']}{location.repository}"
    environment = {**job.environment, "GIT_SSH_COMMAND": shlex.join(ssh)}
    for counts in ({"created": 20}, {"unchanged": 20}):
        # This server does not take GIT_PROTOCOL, without which an empty repository does not tell its default branch.
        options = {
            **location.options,
            "vault_git_repo": address,
            "vault_git_branch": "trunk",
            "environment": environment,
        }
        result = job.run(addresses("git", 20), *job.isolated(), **options)
        assert result.get("counts") == counts, result["msg"]
    with location.keys() as keys:
        found = ledger.compare(job.server.url, str(keys), job.project.password.encode())
    assert found.complete and found.sealed == 20 and not job.leaks(), str(found)
    print(
        f"\nee: in a repository: {found}; {len(location.log())} commits; 0 leaks in {job.searched}; "
        f"{time.monotonic() - started:.1f} s"
    )


@pytest.mark.parametrize("where", ["node", "pod"])
def test_a_job_of_awx_keeps_nothing_but_what_is_mounted(where, jobs, tmp_path):
    started = time.monotonic()
    job = jobs("awx_61_ifxztvul")
    of_awx = {
        "AWX_PRIVATE_DATA_DIR": str(job.private),
        "AWX_HOST": "https://awx.example.com",
        "JOB_ID": "61",
        "INVENTORY_ID": "1",
    }
    sent = ["ansible-runner", "transmit", str(job.private), "-p", "provision.yml", "-vvvv"]
    if where == "node":
        # The worker is on the node, with a private data directory made for the job, and has podman run a container.
        container = {
            "process_isolation_executable": "podman",
            "container_image": IMAGE,
            "container_options": job.options(),
        }
        job.write("env/settings", {"process_isolation": True, **container})
        worker = ["ansible-runner", "worker", f"--private-data-dir={tmp_path}/node/awx_61_ifxztvul", "--delete"]
    else:
        # The container is there, made for the job, and the worker in it. It runs as whoever the image names.
        worker = [
            *PODMAN,
            "--interactive",
            *job.mounts,
            IMAGE,
            "ansible-runner",
            "worker",
            "--private-data-dir=/runner",
        ]

    def numbered(number: int) -> dict[str, t.Any]:
        """Return a job, which gets a number of its own."""
        ident = f"--ident={number}"
        process = ["ansible-runner", "process", f"{tmp_path}/awx", ident]
        command = " | ".join(map(shlex.join, ([*sent, ident], worker, process)))
        return {"command": command, "environment": {**job.environment, **of_awx}}

    emails = addresses(where, 20)
    job.refused(emails, **numbered(61))
    job.refused(emails, vault_dir="/srv/kept/host_vars", **numbered(62))
    result = job.run(emails, vault_dir="/srv/kept/host_vars", vault_dir_is_durable=True, **numbered(63))
    assert result["counts"] == {"created": 20}, result["msg"]
    found = job.found("/srv/kept/host_vars")
    assert found == 20 and not job.leaks()
    print(f"\nee: AWX, {where}: {found} keys; 0 leaks in {job.searched}; {time.monotonic() - started:.1f} s")


def navigated(job: Contained, *command: str, passed: t.Mapping[str, str], status: int = 0) -> str:
    """Run a command of ansible-navigator in the project's directory, and pass it an environment, which goes into its
    log; return what it says."""
    options = [
        "--mode=stdout",
        "--container-engine=podman",
        f"--execution-environment-image={IMAGE}",
        "--pull-policy=never",
        "--log-level=debug",
    ]
    options += [f"--pass-environment-variable={name}" for name in passed]
    return say(
        ["ansible-navigator", *command, *options], job.private / "project", status, HOME=str(job.directory), **passed
    )


@pytest.mark.usefixtures("queue")
def test_ansible_navigator_keeps_the_directory_that_it_starts_in(jobs):
    started = time.monotonic()
    job = jobs("private")
    project = job.private / "project"
    variables = {"group_name": "hosting", "list": addresses("navigator", 20), "vault_dir": "host_vars"}
    job.write("project/variables.json", {f"b2_members_{name}": value for name, value in variables.items()})
    job.write("project/vault-password", job.project.password)
    command = ["run", "provision.yml", "--inventory=localhost,", "--vault-password-file=vault-password", "-vvvv"]
    command += ["-e", "@master.yml", "-e", "@variables.json"]

    refused = navigated(job, *command, "--playbook-artifact-save-as=refused.json", passed=job.environment, status=2)
    assert "may be lost with this job" in " ".join(refused.split()) and not job.creates(), refused
    promise = ["-e", "b2_members_vault_dir_is_durable=true", "--playbook-artifact-save-as=made.json"]
    made = navigated(job, *command, *promise, passed=job.environment)
    job.mounts.append(f"--volume={project}:/project")
    found = job.found("/project/host_vars")
    assert found == 20, made

    needles = set().union(*map(forms, {KEY, job.project.password, *(entry["key"] for entry in job.server.ledger())}))
    logs = [
        refused,
        made,
        *((project / name).read_text() for name in ("refused.json", "made.json", "ansible-navigator.log")),
    ]
    assert not [needle[:6] for needle in needles for log in logs if needle in log.encode()]
    print(
        f"\nee: ansible-navigator: {found} keys; 0 leaks in {sum(map(len, logs)) / 1e3:.0f} kB; "
        f"{time.monotonic() - started:.1f} s"
    )


@pytest.mark.usefixtures("queue")
def test_the_inventory_is_listed_in_a_container(jobs):
    started = time.monotonic()
    job = jobs("private")
    made = {email: job.server.add_member("hosting", email)["accountId"] for email in addresses("listed", 5)}
    job.write("project/customers.b2_group_members.yml", "plugin: community.backblaze.b2_group_members\n")
    command = ["--inventory=customers.b2_group_members.yml", "--list", "--export"]
    options = [
        *job.options(),
        f"--volume={job.private}:/runner",
        "--workdir=/runner/project",
        *(f"--env={name}" for name in job.credentials),
    ]
    alone = say([*PODMAN, *options, IMAGE, "ansible-inventory", *command], **job.credentials)
    for said in (alone, navigated(job, "inventory", *command, passed=job.credentials)):
        hosts = json.loads(said[said.index("{") :])["_meta"]["hostvars"]
        # Text that is not to be trusted is shown wrapped.
        assert len(hosts) == len(made) and all(
            account in json.dumps(hosts[email]["b2_account_id"]) for email, account in made.items()
        ), said
        assert KEY not in said
    print(f"\nee: ansible-inventory --list --export: {len(made)} hosts; {time.monotonic() - started:.1f} s")
