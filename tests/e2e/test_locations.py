# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Store keys in other locations than the controller, as users do: on the host of the task, behind a real sshd, and in a
Git repository."""

from __future__ import annotations

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

import pytest
from ansible.parsing.vault import VaultSecret

from ansible_collections.community.backblaze.plugins.module_utils._errors import StoreError
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.sealer import Sealer
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.vault_dir import VaultDir
from project import Project, forms, ledger, serving  # before locations: it makes that importable

import locations  # isort: skip

MEMBERS = [f"customer{number:03}@customers.example.com" for number in range(50)]
FEW = MEMBERS[:3]
CREATE = "b2_create_group_member"


class Scene:
    """A project, its stand-in, and the location of its vault directory."""

    def __init__(self, directory, server, location):
        self.server = server
        self.location = location
        self.project = Project(directory, server.url)

    def run(self, members, *arguments, keywords=None, environment=None, **options):
        """Provision; return all that was said and the task's result."""
        play = locations.play(
            self.project, members, hosts=self.location.hosts, keywords=keywords, **{**self.location.options, **options}
        )
        result = play.with_name("play-result.json")
        result.unlink(missing_ok=True)
        process, _none = self.project.run(play, *self.location.arguments, *arguments, **(environment or {}))
        said = process.stdout + process.stderr
        assert result.exists(), said
        return said, json.loads(result.read_text())

    def tasks(self, *tasks, **variables):
        """Run tasks that may fail; return all that was said and whether it went well."""
        path = self.project.directory / "tasks.yml"
        path.write_text(
            json.dumps([{"hosts": self.location.hosts, "gather_facts": False, "vars": variables, "tasks": list(tasks)}])
        )
        process, _none = self.project.run(path, *self.location.arguments)
        return process.stdout + process.stderr, process.returncode == 0

    def compare(self):
        """Compare the ledger with the keys in the location."""
        with self.location.keys() as directory:
            return ledger.compare(self.server.url, str(directory), self.project.password.encode())

    def leftovers(self):
        """Return copies that a run has left on the controller."""
        return list((self.project.directory / "tmp").rglob("b2_vault_*"))


@pytest.fixture
def server(tmp_path):
    (tmp_path / "server").mkdir()
    with serving(tmp_path / "server", "hosting") as running:
        yield running


@pytest.fixture
def host(tmp_path):
    with locations.Host(tmp_path / "host").up() as running:
        yield running


@pytest.fixture
def project(tmp_path):
    directory = tmp_path / "project"
    directory.mkdir()
    return directory


@pytest.fixture
def on_host(project, server, host):
    return Scene(project, server, host.location(project))


@pytest.fixture
def in_git(project, server, tmp_path):
    return Scene(project, server, locations.GitLocation(tmp_path))


@pytest.fixture(params=["on_host", "in_git"])
def scene(request):
    return request.getfixturevalue(request.param)


def test_a_module_that_dies_on_the_host_is_shown_with_its_last_words(on_host, host, project):
    python = host.directory / "no-python"
    python.write_text("#!/bin/sh\necho 'the disk of this host is on fire' >&2\nexit 7\n")
    python.chmod(0o755)
    inventory = host.inventory(project / "other.json", ansible_python_interpreter=str(python))
    on_host.location.arguments = ("-i", str(inventory))
    said, result = on_host.run(FEW)
    assert "the disk of this host is on fire" in result["msg"] and "Shared connection" not in result["msg"], said
    assert on_host.server.ledger() == []


def test_fifty_members_and_a_second_run_that_changes_nothing(scene):
    started = time.monotonic()
    said, result = scene.run(MEMBERS, concurrency=16)
    first = time.monotonic() - started
    assert result["counts"] == {"created": 50} and result["changed"], said
    assert {one["path"] for one in result["members"]} == {
        f"{scene.location.name}/{email}/b2_vault.yml" for email in MEMBERS
    }
    found = scene.compare()
    assert found.complete and found.sealed == 50, str(found)
    before = scene.location.state()

    said, again = scene.run(MEMBERS, concurrency=16)

    assert again["counts"] == {"unchanged": 50} and not again["changed"] and "warnings" not in again, said
    assert scene.location.state() == before and scene.leftovers() == []
    assert CREATE not in again["calls"]
    print(f"\n{scene.location.kind}: 50 created in {first:.0f} s; second run 50 unchanged; {found}")


@pytest.mark.parametrize("layout", ["host_vars", "group_vars"])
def test_check_mode_and_audit_read_the_location_and_write_nothing(scene, layout):
    _said, foreseen = scene.run(FEW, "--check", vault_layout=layout)
    assert foreseen["counts"] == {"created": 3} and foreseen["changed"], foreseen
    assert not scene.location.state()
    _said, result = scene.run(FEW[:2], vault_layout=layout)
    assert result["counts"] == {"created": 2}, result
    before = scene.location.state()
    _said, foreseen = scene.run(FEW, "--check", vault_layout=layout)
    assert foreseen["counts"] == {"unchanged": 2, "created": 1} and scene.location.state() == before

    scene.server.add_member("hosting", "else@customers.example.com")
    audit = {
        "community.backblaze.b2_group_member_info": {
            "group_name": "hosting",
            "vault_layout": layout,
            **scene.location.options,
        },
        "register": "found",
    }
    said, fine = scene.tasks(
        audit,
        {
            "ansible.builtin.debug": {
                "msg": "AMISS {{ found.audit.values() | flatten | map(attribute='email') | join }}."
            }
        },
    )
    assert fine and "AMISS else@customers.example.com." in said, said


def test_a_file_of_variables_is_not_switched_off(scene):
    """Beside a directory of its name Ansible does not load it any more; one that has such a directory already is not
    loaded anyway."""
    with scene.location.changing() as keys:
        for email in FEW:
            (keys / f"{email}.yml").write_text("greeting: hello\n")
        (keys / FEW[2]).mkdir()
        (keys / FEW[2] / "vars.yml").write_text("greeting: hello\n")
    for arguments in (["--check"], []):
        said, result = scene.run(FEW, *arguments)
        assert (
            result["failed"]
            and f"switch off the variables in {FEW[0]}.yml beside it, and 1 more such files" in result["msg"]
        ), said
        assert f"{scene.location.name}: mkdir {FEW[0]} && mv {FEW[0]}.yml {FEW[0]}/vars.yml" in result["msg"], said
    assert not scene.server.ledger()
    with scene.location.changing() as keys:
        for email in FEW[:2]:
            (keys / email).mkdir()
            (keys / f"{email}.yml").rename(keys / email / "vars.yml")
    said, result = scene.run(FEW)
    assert result["counts"] == {"created": 3} and result["vault_dir"] == scene.location.name, said


@pytest.mark.parametrize("layout", ["host_vars", "group_vars"])
def test_an_unproven_key_waits_in_the_location_for_the_run_that_tries_it(scene, layout):
    """Its file is beside the vault file in the location, and is removed when the key is in the vault file."""
    odd = {"kind": "patch", "body": {"groupMember": {"email": "mallory@customers.example.com"}}}
    untried = {
        "operation": "b2_authorize_account",
        "email": FEW[0],
        "times": None,
        "action": {"kind": "error", "status": 500},
    }
    scene.server.faults([{"operation": CREATE, "email": FEW[0], "action": odd}, untried])
    said, result = scene.run(FEW, vault_layout=layout, max_retries=0, return_members="always")
    assert result["counts"] == {"conflict": 1, "created": 2}, said
    assert result["members"][0]["path"].startswith(scene.location.name) and result["members"][0]["path"].endswith(
        ".aside"
    )
    with scene.location.keys() as directory:
        assert len(list(directory.glob("*/.b2_vault.yml.*.aside"))) == 1
    scene.server.faults([])
    said, result = scene.run(FEW, vault_layout=layout)
    assert result["counts"] == {"unchanged": 3}, said
    with scene.location.keys() as directory:
        assert not list(directory.glob("*/.b2_vault.yml.*.aside"))
    assert layout == "group_vars" or scene.compare().complete


def test_one_member(scene):
    task = {
        "community.backblaze.b2_group_member": {"group_name": "hosting", "email": FEW[0], **scene.location.options},
        "register": "made",
    }
    said, fine = scene.tasks(task, {"ansible.builtin.debug": {"msg": "IN {{ made.path }}, {{ made.changed }}"}})
    assert fine and f"IN {scene.location.name}/{FEW[0]}/b2_vault.yml, True" in said, said
    found = scene.compare()
    assert found.complete and found.sealed == 1
    # A location without vault_dir is an error, and no reason to return the key.
    args = {"group_name": "hosting", "email": FEW[1], **scene.location.options}
    del args["vault_dir"]
    said, fine = scene.tasks({"community.backblaze.b2_group_member": args})
    assert not fine and "but vault_dir is not" in said and len(scene.server.ledger()) == 1, said


def test_the_role_keeps_keys_where_it_is_told(scene):
    variables = {"b2_members_group_name": "hosting", "b2_members_list": FEW}
    if scene.location.kind == "target":
        variables["b2_members_vault_host"] = locations.HOST
    variables.update({f"b2_members_{name}": value for name, value in scene.location.options.items()})
    (scene.project.directory / "customers.json").write_text(json.dumps(variables))
    for counted in ("created: 3", "unchanged: 3"):
        process, _none = scene.project.run(
            pathlib.Path("community.backblaze.provision"), *scene.location.arguments, "-e", "@customers.json"
        )
        assert process.returncode == 0 and counted in process.stdout, process.stdout + process.stderr
    found = scene.compare()
    assert found.complete and found.sealed == 3


def test_nothing_in_clear_leaves_the_controller_or_is_shown(scene):
    environment = {
        "ANSIBLE_KEEP_REMOTE_FILES": "1",
        "ANSIBLE_DEBUG": "1",
        "ANSIBLE_LOG_PATH": str(scene.project.directory / "ansible.log"),
    }
    said, result = scene.run(FEW, "-vvvv", "--diff", environment=environment)
    assert result["counts"] == {"created": 3}, said
    needles = {form for secret in scene.project.needles() for form in forms(secret)}
    roots = [scene.project.directory, *scene.location.traces()]
    heaps = {"output": said.encode()}
    for root in roots:
        heaps.update(
            {
                str(path): path.read_bytes()
                for path in root.rglob("*")
                if path.is_file() and path.name != "vault-password"
            }
        )
    heaps.update(scene.location.opened())
    assert sum(b"$ANSIBLE_VAULT;1." in heap for heap in scene.location.opened().values()) >= 1, (
        "what was sent was not seen"
    )
    leaks = [name for name, heap in heaps.items() for needle in needles if needle in heap]
    assert not leaks and scene.compare().complete, leaks
    print(
        f"\n{scene.location.kind}: {len(heaps)} outputs, files and objects searched for {len(needles)} forms: 0 leaks"
    )


def test_what_is_in_the_way_there_is_named_and_nothing_is_created(scene):
    with scene.location.changing() as keys:
        (keys / "elsewhere").mkdir(parents=True)
        (keys / FEW[0]).symlink_to("elsewhere")
    said, result = scene.run(FEW)
    assert result["failed"] and f"{scene.location.name}/{FEW[0]} is not a directory but a symlink" in result["msg"], (
        said
    )
    with scene.location.changing() as keys:
        (keys / FEW[0]).unlink()
        (keys / FEW[0]).mkdir()
        (keys / FEW[0] / "b2_vault.yml").write_text("b2_application_key: plain\n")
    said, result = scene.run(FEW)
    assert (
        result["failed"]
        and f"{scene.location.name}/{FEW[0]}/b2_vault.yml is not an Ansible Vault file" in result["msg"]
    ), said
    assert not scene.server.ledger()
    with scene.location.changing() as keys:
        (keys / FEW[0] / "b2_vault.yml").unlink()
        (keys / "group_notes.yml").write_text("a: b\n")
    said, result = scene.run(FEW)
    assert result["counts"] == {"created": 3} and scene.compare().complete, said


def test_a_vault_directory_that_is_a_symlink_is_refused(scene):
    with scene.location.changing() as keys:
        keys.rmdir()
        (keys.parent / "real").mkdir()
        (keys.parent / "real" / "file").write_text("")
        keys.symlink_to("real")
    said, result = scene.run(FEW)
    assert result["failed"] and "is a symlink, which is not followed" in result["msg"], said
    assert not scene.server.ledger() and scene.leftovers() == []


# What only a host has


def test_keys_belong_to_the_user_that_the_task_becomes(on_host):
    """With become, and with a way to become that leaves a trace."""
    become = on_host.project.directory / "become"
    become.write_text(
        f'#!/bin/sh\necho "$@" >> {on_host.project.directory}/became\n'
        'while [ "$1" != /bin/sh ]; do shift; done\nexec "$@"\n'
    )
    become.chmod(0o755)
    keywords = {"become": True, "vars": {"ansible_become_exe": str(become)}}
    said, result = on_host.run(FEW, keywords=keywords, environment={"ANSIBLE_BECOME_ALLOW_SAME_USER": "1"})
    assert result["counts"] == {"created": 3}, said
    assert (on_host.project.directory / "became").read_text().count("root") > 3 and on_host.compare().complete
    modes = {oct(path.stat().st_mode & 0o777) for path in on_host.location.host.keys.rglob("*") if path.is_file()}
    assert modes == {"0o600"}


def test_a_run_on_the_host_and_a_run_that_reaches_it_by_ssh_wait_for_each_other(on_host):
    """The one takes the directory for its own and has a lock, the other has a lease."""
    sealer = Sealer([("default", VaultSecret(on_host.project.password.encode()))])
    directory, group = VaultDir(str(on_host.location.host.keys), sealer), on_host.server.groups["hosting"]
    directory.prove_directory(write=True)
    with directory.locked(group, 0, time.sleep):
        said, result = on_host.run(FEW, vault_lock_timeout=0)
        assert result["failed"] and f"Another run works on Group {group}" in result["msg"], said
        assert f"process {os.getpid()} on" in result["msg"] and not on_host.server.ledger(), said
        # In check mode it can be asked as well.
        asked = {"path": directory.path, "operation": "peek", "group": group}
        peek = {"community.backblaze.b2_vault_files": asked, "check_mode": True, "register": "seen"}
        seen = {"msg": "PID {{ (seen.holder | from_json).pid }}, {{ seen is changed }}."}
        said, fine = on_host.tasks(peek, {"ansible.builtin.debug": seen})
        assert fine and f"PID {os.getpid()}, False." in said, said

    on_host.server.settings(latency_ms_by_operation={CREATE: 5000})
    play = locations.play(on_host.project, FEW, hosts=on_host.location.hosts, concurrency=1, **on_host.location.options)
    command = ["ansible-playbook", str(play), *on_host.location.arguments]
    cwd, environment = on_host.project.directory, on_host.project.environment()
    with open(cwd / "first.log", "wb") as log:
        first = subprocess.Popen(command, cwd=cwd, env=environment, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 120
        while CREATE not in on_host.server.state()["calls"]:
            assert time.monotonic() < deadline and first.poll() is None, (cwd / "first.log").read_text()
            time.sleep(0.1)
        assert re.match(r"process \d+ on .*, since 20", directory.holder(group))
        with pytest.raises(StoreError, match="Another run holds the lease of"), directory.locked(group, 0, time.sleep):
            pass
    finally:
        on_host.server.settings(latency_ms_by_operation={})
        first.wait()
    with directory.locked(group, 0, time.sleep):
        assert directory.holder(group) and on_host.compare().complete


@pytest.mark.parametrize("path", ["keys", "~/keys", "/srv/../keys"])
def test_a_path_that_is_none_on_the_host_is_refused(on_host, path):
    said, result = on_host.run(FEW, vault_dir=path)
    assert result["failed"] and "is not an absolute path" in result["msg"] and not on_host.server.ledger(), said


JOB = {"AWX_ISOLATED_DATA_DIR": "/runner/artifacts/1"}


def test_in_a_job_the_target_must_not_be_the_job_itself(on_host):
    """With a local connection the target is where Ansible runs, and nothing there is known to outlive the job."""
    keywords = {"connection": "local", "vars": {"ansible_connection": "local"}}
    said, result = on_host.run(FEW, environment=JOB, keywords=keywords)
    assert result["failed"] and f"vault_dir {on_host.location.host.keys} may be lost with this job" in result["msg"], (
        said
    )
    assert "vault_dir_is_durable: true" in result["msg"] and not on_host.server.ledger()
    # For a host behind a connection, the task needs no promise. The fallback directory is on this machine, so the task
    # warns of it.
    said, result = on_host.run(FEW, environment=JOB)
    assert result["counts"] == {"created": 3}, said
    assert "vault_fallback_dir is not given" in said and "may be lost with this job" in " ".join(said.split())


@pytest.mark.parametrize(("promised", "warned"), [(False, True), (True, False)])
def test_in_a_job_a_named_fallback_directory_is_warned_of_until_it_is_promised(on_host, promised, warned):
    options = {"vault_fallback_dir": "fallback", "vault_dir_is_durable": promised}
    said, result = on_host.run(FEW, environment=JOB, **options)
    assert result["counts"] == {"created": 3} and ("may be lost with this job" in " ".join(said.split())) is warned, (
        said
    )


def test_an_audit_in_a_job_only_reads(in_git):
    said, result = in_git.run(FEW, environment=JOB, vault_dir_is_durable=True)
    assert result["counts"] == {"created": 3}, said
    audit = {
        "group_name": "hosting",
        "vault_location": "git",
        "vault_git_repo": str(in_git.location.repository),
        "vault_dir": in_git.location.folder,
    }
    path = in_git.project.directory / "audit.yml"
    tasks = [{"community.backblaze.b2_group_member_info": audit}]
    path.write_text(json.dumps([{"hosts": "localhost", "gather_facts": False, "tasks": tasks}]))
    process, _none = in_git.project.run(path, **JOB)
    assert process.returncode == 0, process.stdout + process.stderr


@pytest.fixture
def ssh(tmp_path):
    """Record each start of ssh; return the environment for that, and the file of the records."""
    (tmp_path / "bin").mkdir()
    started = tmp_path / "ssh-started"
    program = tmp_path / "bin" / "ssh"
    program.write_text(f'#!/bin/sh\necho "$@" >> {started}\nexec {shutil.which("ssh")} "$@"\n')
    program.chmod(0o755)
    return {"PATH": f"{tmp_path}/bin{os.pathsep}{os.environ['PATH']}"}, started


def without_connection(scene):
    """Let the inventory say of the host how it is reached, but not by which connection."""
    path = scene.project.directory / "inventory.json"
    inventory = json.loads(path.read_text())
    del inventory["all"]["hosts"][locations.HOST]["ansible_connection"]
    path.write_text(json.dumps(inventory))
    return inventory


def test_the_playbook_reaches_a_host_whose_inventory_names_no_connection(on_host, ssh):
    without_connection(on_host)
    variables = {"group_name": "hosting", "list": FEW, "vault_host": locations.HOST, **on_host.location.options}
    (on_host.project.directory / "customers.json").write_text(
        json.dumps({f"b2_members_{name}": value for name, value in variables.items()})
    )
    arguments = (*on_host.location.arguments, "-e", "@customers.json")
    process, _none = on_host.project.run(pathlib.Path("community.backblaze.provision"), *arguments, **ssh[0])
    assert process.returncode == 0 and "created: 3" in process.stdout, process.stdout + process.stderr
    found = on_host.compare()
    assert ssh[1].exists() and found.complete and found.sealed == 3, str(found)


def test_groups_as_hosts_that_name_no_connection_are_reached_by_none(project, server, ssh):
    groups = {
        name: {"b2_members_group_name": "hosting", "b2_members_list": [FEW[number]]}
        for number, name in enumerate(("hosting", "resale"))
    }
    (project / "groups.json").write_text(
        json.dumps({"b2_groups": {"hosts": groups, "vars": {"b2_members_vault_dir": "host_vars"}}})
    )
    scene = Project(project, server.url)
    playbook = pathlib.Path("community.backblaze.provision")
    process, _none = scene.run(
        playbook,
        "-i",
        "groups.json",
        "-e",
        "b2_members_hosts=b2_groups",
        "-e",
        "b2_members_on_key_missing=warn",
        **ssh[0],
    )
    assert process.returncode == 0 and process.stdout.count("created: 1") == 2, process.stdout + process.stderr
    assert not ssh[1].exists() and scene.compare().sealed == 2


DELEGATED = {
    "many": {"community.backblaze.b2_group_members": {"members": FEW}},
    "check mode": {"community.backblaze.b2_group_members": {"members": FEW}, "check_mode": True},
    "one": {"community.backblaze.b2_group_member": {"email": FEW[0]}},
    "audit": {"community.backblaze.b2_group_member_info": {}},
}


def delegated(scene, which, *arguments, host=locations.HOST, task=None, **keywords):
    """Run a task for a delegated host in a play with these keywords; return all that was said and the task's result."""
    ((action, options), *more) = DELEGATED[which].items()
    task = {
        action: {"group_name": "hosting", **options, **scene.location.options},
        "delegate_to": host,
        **dict(more),
        **(task or {}),
    }
    path, result = scene.project.directory / "delegated.yml", scene.project.directory / "result.json"
    tasks = [
        {**task, "register": "done", "ignore_errors": True},
        {"write_file": {"content": "{{ done | to_json }}", "dest": str(result)}},
    ]
    path.write_text(json.dumps([{"hosts": "localhost", "gather_facts": False, "tasks": tasks, **keywords}]))
    process, done = scene.project.run(path, *scene.location.arguments, *arguments)
    return process.stdout + process.stderr, done


@pytest.mark.parametrize("which", DELEGATED)
def test_a_delegated_host_that_only_the_play_makes_this_machine_is_refused(on_host, which):
    without_connection(on_host)
    said, done = delegated(on_host, which, connection="local")
    assert done["failed"] and f"they would be on this machine and not on {locations.HOST}" in done["msg"], said
    assert (
        "Nothing was changed at Backblaze" in done["msg"]
        and f"set ansible_connection: local as a variable of {locations.HOST}" in done["msg"]
    )
    assert not on_host.server.log() and not on_host.location.host.keys.exists()


def test_a_delegated_host_is_this_machine_by_its_own_variables_alone(on_host):
    inventory = without_connection(on_host)
    for arguments, keywords in (
        (("-c", "local"), {}),
        ((), {"vars": {"ansible_connection": "local"}}),
        ((), {"task": {"connection": "local"}}),
        ((), {"task": {"vars": {"ansible_connection": "ansible.builtin.local"}}}),
    ):
        said, done = delegated(on_host, "many", *arguments, **keywords)
        assert done["failed"] and "they would be on this machine" in done["msg"], said
    assert not on_host.server.log()

    said, done = delegated(on_host, "many", host="localhost", connection="local")
    assert done["counts"] == {"created": 3}, said
    said, done = delegated(on_host, "many", "-e", "ansible_connection=local")
    assert done["counts"] == {"unchanged": 3}, said
    inventory["all"]["children"] = {"mine": {"hosts": {locations.HOST: {}}, "vars": {"ansible_connection": "local"}}}
    (on_host.project.directory / "inventory.json").write_text(json.dumps(inventory))
    said, done = delegated(on_host, "many", connection="ssh")
    assert done["counts"] == {"unchanged": 3}, said


def test_a_host_that_cannot_be_reached_costs_nothing(on_host, tmp_path):
    inventory = json.loads((on_host.project.directory / "inventory.json").read_text())
    inventory["all"]["hosts"][locations.HOST]["ansible_port"] = 1
    (on_host.project.directory / "inventory.json").write_text(json.dumps(inventory))
    said, result = on_host.run(FEW)
    assert result["failed"] and f"{on_host.location.name} cannot be reached" in result["msg"], said
    assert "Nothing was changed at Backblaze" in result["msg"] and not on_host.server.ledger()
    assert not os.path.exists(on_host.location.host.keys)


# What only a repository has


def test_every_key_is_pushed_while_somebody_else_pushes(in_git, tmp_path):
    """Another process pushes to the same branch all the time; nothing of either is lost."""
    location = in_git.location
    with location.changing() as keys:
        (keys / "readme").write_text("")
    pusher = subprocess.Popen(
        [sys.executable, str(locations.__file__), "push", str(location.repository), str(tmp_path / "pusher")]
    )
    try:
        deadline = time.monotonic() + 30
        while "Push 1" not in location.log():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        before = len(location.log())
        said, result = in_git.run(MEMBERS, concurrency=16)
    finally:
        pusher.terminate()
        pusher.wait()
    log = location.log()
    assert result["counts"] == {"created": 50}, said
    found = in_git.compare()
    assert found.complete and found.sealed == 50, str(found)
    pushed = [subject for subject in log if subject.startswith("Push ")]
    assert pushed == [f"Push {number}" for number in range(len(pushed), 0, -1)], "a commit of somebody else is gone"
    between = log[: len(log) - before].index(next(subject for subject in log if subject.startswith("Seal")))
    said, again = in_git.run(MEMBERS, concurrency=16)
    assert again["counts"] == {"unchanged": 50} and location.log() == log, said
    ours = sum(subject.startswith(("Seal", "Note")) for subject in log)
    assert between >= 0 and ours < 50, "keys that come together are to share a commit"
    print(f"\ngit: {found}; {ours} commits of ours among {len(pushed)} of somebody else")


@pytest.mark.parametrize(
    ("how", "keys", "layout"),
    [
        ("deleted", 1, "host_vars"),
        ("deleted", 6, "host_vars"),
        ("deleted", 1, "group_vars"),
        ("rewritten", 1, "host_vars"),
        ("rewritten", 6, "host_vars"),
        ("rewritten", 1, "group_vars"),
    ],
)
def test_keys_are_in_a_branch_that_was_deleted_or_rewritten_during_the_run(in_git, how, keys, layout):
    """Either while members are still created, or after the last one; in both cases there is more in the branch than the
    run knows."""
    location = in_git.location
    for name in ("readme", "another"):
        with location.changing() as directory:
            (directory / name).write_text("")
    location.lose(keys, how)
    said, result = in_git.run(MEMBERS[:6], concurrency=2, vault_layout=layout)
    assert (location.repository / "lost").exists() and result["counts"] == {"created": 6}, said
    assert len({one["path"] for one in result["members"]}) == (6 if layout == "host_vars" else 1)
    assert all(one["path"].startswith(location.name) for one in result["members"]), said
    assert layout == "group_vars" or in_git.compare().complete
    said, again = in_git.run(MEMBERS[:6], vault_layout=layout, verify_keys=True)
    assert again["counts"] == {"unchanged": 6} and not again["changed"], said


@pytest.mark.parametrize("how", ["deleted", "rewritten"])
def test_keys_that_are_gone_from_a_branch_and_cannot_be_pushed_are_in_the_fallback_directory(in_git, how):
    location = in_git.location
    location.lose(3, how, closed=True)
    said, result = in_git.run(FEW)
    assert (location.repository / "lost").exists() and result["counts"] == {"created": 3}, said
    for one in result["members"]:
        assert one["path"].startswith(str(in_git.project.directory / "state")) and pathlib.Path(one["path"]).exists(), (
            said
        )
        expected = (
            f"is gone from {location.name}/{one['email']}/b2_vault.yml: the file was removed and cannot be written "
            "again: "
            f"A push to {location.name} failed"
        )
        assert expected in one["message"] and "Closed for today" in one["message"] and one["path"] in one["message"]
    location.mend()
    said, again = in_git.run(FEW)
    assert again.get("counts") == {"unchanged": 3} and in_git.compare().complete, said
    assert not list((in_git.project.directory / "state").rglob("*.b2_vault.yml"))


def test_a_repository_has_one_branch_for_the_keys(in_git):
    location = in_git.location
    # Empty, so that any branch is as good.
    said, result = in_git.run(FEW[:1], vault_git_branch="vault", vault_dir=".")
    assert (
        result["counts"] == {"created": 1}
        and result["members"][0]["path"] == f"{location.repository}:./{FEW[0]}/b2_vault.yml"
    ), said
    assert [line.split()[2] for line in location.state().splitlines()] == ["refs/heads/vault"]
    for options, error in (({}, "has no default branch"), ({"vault_git_branch": "vualt"}, "has no branch vualt")):
        said, result = in_git.run(FEW, **options)
        assert result["failed"] and error in result["msg"] and len(in_git.server.ledger()) == 1, said


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"vault_dir": "/srv/keys"}, "is not a path within a repository"),
        ({"vault_dir": "a/../../keys"}, "is not a path within a repository"),
        ({"vault_dir": ".git/hooks"}, "is not a path within a repository"),
        ({"vault_git_repo": "--upload-pack=touch /tmp/x"}, "is not an address"),
        ({"vault_git_repo": "no/such/repository"}, "git ls-remote failed"),
        ({"vault_git_repo": None}, "vault_git_repo"),
        ({"vault_location": "controller"}, "vault_git_repo can be used with vault_location: git only"),
        ({"vault_git_lock_branch": "a b"}, "is not a valid name of a branch"),
        ({"vault_git_message": "Seal\nkeys"}, "is not one line of text"),
        ({"vault_git_branch": "b2-members-lock"}, "is in the way of branch b2-members-lock"),
    ],
)
def test_what_is_no_repository_is_refused(in_git, options, error):
    said, result = in_git.run(FEW, **options)
    assert result["failed"] and error in result["msg"] and not in_git.server.ledger(), said


RULES = """#!/bin/sh
while read old new ref; do
    case "$ref" in refs/heads/trunk|refs/heads/ops/locks/*) ;; *) echo "no branch $ref"; exit 1;; esac
    expr "$new" : '0*$' > /dev/null && { echo "no branch is deleted"; exit 1; }
    git log -1 --format=%s "$new" | grep -q '^OPS-7 ' || { echo "no ticket in the subject"; exit 1; }
done
"""


def test_a_server_with_rules_takes_what_the_role_pushes(in_git):
    """It has rules for subjects and for names of branches, and deletes no branch. The second run need not wait."""
    hook = in_git.location.repository / "hooks" / "pre-receive"
    hook.write_text(RULES)
    hook.chmod(0o755)
    variables = {"b2_members_group_name": "hosting", "b2_members_list": FEW, "b2_members_vault_lock_timeout": 0}
    variables.update({f"b2_members_{name}": value for name, value in in_git.location.options.items()})
    variables.update(b2_members_vault_git_message="OPS-7 {keys} keys", b2_members_vault_git_lock_branch="ops/locks")
    (in_git.project.directory / "customers.json").write_text(json.dumps(variables))
    for counted in ("created: 3", "unchanged: 3"):
        playbook = pathlib.Path("community.backblaze.provision")
        process, _none = in_git.project.run(playbook, *in_git.location.arguments, "-e", "@customers.json")
        said = process.stdout + process.stderr
        assert process.returncode == 0 and counted in process.stdout and "taken over" not in said, said
    assert all(subject.startswith("OPS-7 ") for subject in in_git.location.log())
    assert any(subject != "OPS-7 0 keys" for subject in in_git.location.log()) and in_git.compare().complete


def test_a_password_in_the_url_is_in_no_output(in_git):
    url = f"http://ada:secret-token@127.0.0.1:1{in_git.location.repository}"
    said, result = in_git.run(FEW, "-vvvv", vault_git_repo=url)
    assert result["failed"] and "git ls-remote failed" in result["msg"] and "secret-token" not in json.dumps(result), (
        said
    )
    assert "secret-token" not in said


@pytest.mark.parametrize(("options", "command"), [({}, "ls-remote"), ({"vault_git_branch": "vault"}, "fetch")])
def test_a_repository_behind_a_password(in_git, tmp_path, options, command):
    """Over HTTP, with user name and password in the URL."""
    with locations.WebServer(tmp_path).up() as web:
        wrong = web.url(in_git.location.repository, "secret-token")
        said, result = in_git.run(FEW, vault_git_repo=wrong, **options)
        assert (
            result["failed"]
            and f"git {command} failed (fatal: Authentication failed for 'http://127.0.0.1:" in result["msg"]
        ), said
        assert "secret-token" not in said and not in_git.server.ledger()
        url = web.url(in_git.location.repository)
        said, result = in_git.run(FEW, vault_git_repo=url, **options)
        assert (
            result["counts"] == {"created": 3} and "/keys.git:inventory/host_vars/" in result["members"][0]["path"]
        ), said
        said, again = in_git.run(FEW, vault_git_repo=url, **options)
        assert again["counts"] == {"unchanged": 3} and not again["changed"], said
    assert (
        in_git.location.state().split()[2] == f"refs/heads/{options.get('vault_git_branch', 'trunk')}"
        and not in_git.leftovers()
    )
    assert options or in_git.compare().complete


def test_in_a_job_a_repository_that_is_a_path_is_refused(in_git):
    for repository in (str(in_git.location.repository), in_git.location.repository.as_uri()):
        said, result = in_git.run(FEW, environment=JOB, vault_git_repo=repository)
        assert (
            result["failed"]
            and f"vault_git_repo {in_git.location.repository} may be lost with this job" in result["msg"]
        ), said
    assert not in_git.server.ledger()
