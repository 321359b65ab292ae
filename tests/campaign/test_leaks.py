# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The leak hunt: keys, the master key and the vault password may stand in clear nowhere but in decrypted vault files.

Real processes, all the output they can be made to give, and every file that they leave are searched for every secret,
in all the forms in which it may be written. While they run, the list of processes is searched too, and temporary files
that are gone before the run ends. CAMPAIGN=long has every way to run with
every way to show.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import itertools
import json
import os
import pathlib
import secrets
import signal
import stat
import subprocess
import sys
import threading
import time
import typing as t
import urllib.parse

import pytest

from project import Project, forms, serving
from project import standin as partner
from test_faults import CREATE, LONG  # first: it makes what follows importable

import locations  # isort: skip

#: How results are shown: each is a set of environment variables.
SHOWN: dict[str, dict[str, str]] = {
    "default": {"ANSIBLE_STDOUT_CALLBACK": "default"},
    "yaml": {"ANSIBLE_STDOUT_CALLBACK": "default", "ANSIBLE_CALLBACK_RESULT_FORMAT": "yaml"},
    "minimal": {"ANSIBLE_STDOUT_CALLBACK": "minimal"},
    "oneline": {"ANSIBLE_STDOUT_CALLBACK": "oneline"},
}
#: A master key of this hunt alone: other tests on the machine use the stand-in's usual one, and may show it.
MASTER_KEY = f"K004{secrets.token_hex(13)}/"
MEMBERS = [f"customer{number}@customers.example.com" for number in range(4)]


class Hunt:
    """A project whose every trace is searched."""

    def __init__(self, directory: pathlib.Path, server: partner.Control) -> None:
        self.project = Project(directory, server.url)
        self.server = server
        self.home = directory / "home"
        self.temporary = directory / "temporary"
        for name in ("home", "inventory", "cache", "remote", "temporary"):
            (directory / name).mkdir()
        self.outputs: list[tuple[str, bytes]] = []
        self.extra: set[str] = set()
        self.processes = 0
        self.samples = 0
        self.looks = 0
        self._seen: dict[bytes, None] = {}
        # The environments of git and of the helpers that it starts: they have no use for any secret.
        self._around_git: dict[bytes, None] = {}
        # What temporary files held, by what changes when they are written.
        self._fleeting: dict[tuple[str, int, int, int], bytes] = {}
        self._watching = True
        # A thread for each: a look at all processes takes longer than many a temporary file is there.
        self._watchers = [
            threading.Thread(target=watch, daemon=True)
            for watch in (self._watch_processes, self._watch_temporary_files)
        ]
        for watcher in self._watchers:
            watcher.start()

    def close(self) -> None:
        self._watching = False
        for watcher in self._watchers:
            watcher.join()

    def _watch_processes(self) -> None:
        """Keep every command line that there ever was, as anybody on the machine could, and every environment of
        git."""
        while self._watching:
            for process in pathlib.Path("/proc").iterdir():
                if process.name.isdecimal():
                    with contextlib.suppress(OSError):
                        self._seen[(process / "cmdline").read_bytes()] = None
                        if (process / "comm").read_bytes().startswith(b"git"):
                            self._around_git[(process / "environ").read_bytes()] = None
            self.samples += 1
            time.sleep(0.01)

    def _watch_temporary_files(self) -> None:
        """Keep what temporary files held while they were there."""
        while self._watching:
            self._look_at_temporary_files()
            self.looks += 1
            time.sleep(0.005)

    def _look_at_temporary_files(self) -> None:
        for location in (self.temporary, self.project.directory / "tmp"):
            # Directories and files may be gone any moment; os.walk takes that as it is.
            for path in (pathlib.Path(folder, name) for folder, _folders, names in os.walk(location) for name in names):
                with contextlib.suppress(OSError):
                    found = path.lstat()
                    version = str(path), found.st_ino, found.st_size, found.st_mtime_ns
                    if stat.S_ISREG(found.st_mode) and version not in self._fleeting:
                        self._fleeting[version] = path.read_bytes()

    def environment(self, **extra: str) -> dict[str, str]:
        directory = self.project.directory
        return (
            self.project.environment(
                HOME=str(self.home),
                TMPDIR=str(self.temporary),
                ANSIBLE_LOG_PATH=str(directory / "ansible.log"),
                ANSIBLE_KEEP_REMOTE_FILES="1",
                ANSIBLE_REMOTE_TEMP=str(self.home / ".ansible" / "tmp"),
                ANSIBLE_CACHE_PLUGIN="jsonfile",
                ANSIBLE_CACHE_PLUGIN_CONNECTION=str(directory / "cache" / "facts"),
                ANSIBLE_RETRY_FILES_ENABLED="1",
                B2_APPLICATION_KEY=MASTER_KEY,
                ANSIBLE_CALLBACKS_ENABLED="tree,junit,ansible.builtin.tree,ansible.builtin.junit",
                ANSIBLE_CALLBACK_TREE_DIR=str(directory / "trees"),
                JUNIT_OUTPUT_DIR=str(directory / "junit"),
            )
            | extra
        )

    def run(self, name: str, *command: str, **environment: str) -> str:
        """Run a program and keep all that it says."""
        done = subprocess.run(
            command,
            cwd=self.project.directory,
            env=self.environment(**environment),
            capture_output=True,
            timeout=300,
            check=False,
        )
        self.processes += 1
        self.outputs += [(f"{name}, stdout", done.stdout), (f"{name}, stderr", done.stderr)]
        output = (done.stdout + done.stderr).decode(errors="replace")
        assert "Traceback" not in output, output[-3000:]
        return output

    def play(self, name: str, tasks: t.Sequence[dict[str, t.Any]]) -> str:
        """Write a play; return its path."""
        path = self.project.directory / f"{name.replace(' ', '-')}.yml"
        variables = {"ansible_python_interpreter": "{{ ansible_playbook_python }}"}
        path.write_text(
            json.dumps(
                [
                    {
                        "name": name,
                        "hosts": "localhost",
                        "connection": "local",
                        "gather_facts": False,
                        "vars": variables,
                        "tasks": tasks,
                    }
                ]
            )
        )
        return str(path)

    def secrets(self) -> set[str]:
        """Every secret there is: the vault password, the master key, every token and the keys of all members, made by
        whomever."""
        keys = {entry["key"] for entry in self.server.ledger()}
        return {MASTER_KEY, self.project.password, *self.extra, *keys, *self.server.tokens_handed_out()}

    def leaks(self) -> list[str]:
        """Search everything; return what was found where."""
        needles = {form: secret for secret in self.secrets() for form in forms(secret)}
        heaps = [*self.outputs, *((f"the command line {line[:80]!r}", line) for line in list(self._seen))]
        heaps += [("the environment of git", variables) for variables in list(self._around_git)]
        heaps += [
            (f"{version[0]}, which was there for a while", content) for version, content in list(self._fleeting.items())
        ]
        heaps += [
            (str(path.relative_to(self.project.directory)), path.read_bytes())
            for path in self.project.directory.rglob("*")
            if path.is_file() and not path.is_symlink() and path != self.project.directory / "vault-password"
        ]
        self.searched = len(heaps)
        self.bytes = sum(len(heap) for _name, heap in heaps)
        return [f"{name}: {form[:6]!r}…" for name, heap in heaps for form in needles if form in heap]


@pytest.fixture
def hunt(tmp_path_factory):
    """A hunt with a stand-in beside it, not inside what is searched."""
    # Not a tmp_path, which has the name of the test in it: temporary files are to be below, and the newest ansible-core
    # opens a socket among them, whose path may be no longer than 107 bytes.
    directory = tmp_path_factory.mktemp("hunt")
    (directory / "server").mkdir()
    (directory / "project").mkdir()
    with serving(directory / "server", "hosting") as server:
        # Not by the server's command line, which is searched too.
        server.settings(admin_key=MASTER_KEY)
        hunt = Hunt(directory / "project", server)
        try:
            yield hunt
        finally:
            hunt.close()


#: Each task writes a report of its own, so that none is gone before the search.
_reports = (f"report{number}.{form}" for number in itertools.count() for form in ("html", "json", "csv"))


def provision(**options: t.Any) -> dict[str, t.Any]:
    arguments = {
        "group_name": "hosting",
        "members": MEMBERS,
        "vault_dir": "host_vars",
        "report_file": next(_reports),
        **options,
    }
    return {
        "name": "Provision",
        "community.backblaze.b2_group_members": arguments,
        "register": "result",
        "ignore_errors": True,
    }


def one(**options: t.Any) -> dict[str, t.Any]:
    return {
        "name": "One",
        "community.backblaze.b2_group_member": {"group_name": "hosting", **options},
        "register": "result",
        "ignore_errors": True,
    }


SHOW = {"name": "Show the result", "ansible.builtin.debug": {"var": "result"}}
FACTS = {"name": "Keep facts", "ansible.builtin.set_fact": {"kept": "{{ result }}", "cacheable": True}}


def tour(hunt: Hunt, show: t.Callable[[], dict[str, str]]) -> None:
    """Everything that can go well and wrong."""
    server = hunt.server

    def playbook(
        name: str, *tasks: dict[str, t.Any], flags: t.Sequence[str] = ("-vvvvv", "--diff"), **environment: str
    ) -> str:
        return hunt.run(name, "ansible-playbook", hunt.play(name, tasks), *flags, **{**show(), **environment})

    playbook("foretell", provision(), SHOW, flags=("-vvvvv", "--check", "--diff"))
    playbook("create", provision(), SHOW, FACTS)
    assert len([entry for entry in server.ledger() if entry["operation"] == CREATE]) == len(MEMBERS)
    playbook("again", provision(verify_keys=True), SHOW)
    playbook("again in check mode", provision(), SHOW, flags=("-vvvvv", "--check", "--diff"))

    server.faults(
        [
            {
                "operation": CREATE,
                "email": "refused@customers.example.com",
                "action": {"kind": "error", "status": 401, "code": "invalid_email"},
            },
            {"operation": CREATE, "email": "lost@customers.example.com", "action": {"kind": "cut_after"}},
            {
                "operation": CREATE,
                "email": "odd@customers.example.com",
                "action": {"kind": "raw", "body": '{"result": [@BODY@], "x": }'},
            },
            {"operation": CREATE, "email": "half@customers.example.com", "action": {"kind": "truncate", "bytes": 51}},
            {
                "operation": CREATE,
                "email": "slow@customers.example.com",
                "action": {"kind": "throttle", "retry_after": 3},
            },
        ]
    )
    troubled = [f"{name}@customers.example.com" for name in ("refused", "lost", "odd", "half")]
    output = playbook("trouble", provision(members=troubled), SHOW)
    assert "key_lost" in output and "invalid_email" in output
    output = playbook("waiting", provision(members=["slow@customers.example.com"], return_members="always"), SHOW)
    assert "community.backblaze: b2_create_group_member: " in output and "The call is sent again in 3 s." in output
    playbook(
        "recreate",
        provision(members=["lost@customers.example.com"], recreate_members=["lost@customers.example.com"]),
        SHOW,
    )

    (hunt.project.directory / "wrong-password").write_text("this is not it")
    playbook(
        "wrong vault password",
        provision(),
        SHOW,
        ANSIBLE_VAULT_PASSWORD_FILE=str(hunt.project.directory / "wrong-password"),
    )
    playbook("no vault password", provision(), SHOW, ANSIBLE_VAULT_PASSWORD_FILE="")
    hunt.extra.add("K004TheWrongMasterKeyOfATest000")
    playbook("wrong master key", provision(), SHOW, B2_APPLICATION_KEY="K004TheWrongMasterKeyOfATest000")

    adopted = server.add_member("hosting", "adopt@customers.example.com")
    for name, key in (
        ("adopt with a wrong key", "K004AnotherWrongKeyOfATest00000"),
        ("adopt", adopted["applicationKey"]),
    ):
        hunt.extra.add(key)
        given = {
            "email": adopted["email"],
            "application_key_id": adopted["applicationKeyId"],
            "application_key": "{{ lookup('env', 'GIVEN') }}",
        }
        output = playbook(name, provision(members=[given]), SHOW, GIVEN=key)
    assert "adopted" in output
    playbook("dead key", provision(members=["refused@customers.example.com", MEMBERS[0]], verify_keys=True), SHOW)
    audit = {
        "name": "Audit",
        "community.backblaze.b2_group_member_info": {
            "vault_dir": "host_vars",
            "verify_keys": True,
            "report_file": next(_reports),
        },
        "register": "result",
    }
    playbook("audit", audit, SHOW, FACTS)

    playbook("one", one(email="single@customers.example.com", vault_dir="host_vars"), SHOW)
    # The contract of the module without vault_dir: the key is in the variable, and there only.
    digest = {"name": "Prove", "ansible.builtin.debug": {"msg": "sha256 {{ result.application_key | hash('sha256') }}"}}
    output = playbook("plain module", one(email="plain@customers.example.com"), digest)
    key = next(entry["key"] for entry in server.ledger() if entry["email"] == "plain@customers.example.com")
    assert hashlib.sha256(key.encode()).hexdigest() in output, output[-2000:]
    server.faults([{"operation": CREATE, "action": {"kind": "cut_after"}}])
    playbook("plain module, key lost", one(email="plain-lost@customers.example.com"), SHOW)

    # With host_vars in reach ansible-inventory --list would show what Ansible itself decrypts for its hosts: that is
    # its purpose.
    away = ("--playbook-dir", "inventory")
    source = hunt.project.directory / "inventory" / "all.b2_group_members.yml"
    cache = {
        "cache": True,
        "cache_plugin": "ansible.builtin.jsonfile",
        "cache_connection": str(hunt.project.directory / "cache" / "inventory"),
    }
    source.write_text(
        json.dumps({"plugin": "community.backblaze.b2_group_members", **cache, "keyed_groups": [{"key": "b2_region"}]})
    )
    for flag in ("--list", "--graph"):
        output = hunt.run(f"inventory {flag}", "ansible-inventory", "-i", str(source), *away, flag, "-vvvvv", **show())
        assert MEMBERS[0] in output, output[-2000:]
    hunt.run(
        "inventory, wrong key",
        "ansible-inventory",
        "-i",
        str(source),
        *away,
        "--list",
        "--flush-cache",
        "-vvvvv",
        B2_APPLICATION_KEY="K004TheWrongMasterKeyOfATest000",
        # It flushes the facts of localhost as well, and those that were kept before are still to be searched.
        ANSIBLE_CACHE_PLUGIN_CONNECTION=str(hunt.project.directory / "cache" / "flushed"),
    )
    _killed(hunt, show())
    playbook("after a kill", provision(members=[f"killed{number}@customers.example.com" for number in range(8)]), SHOW)


def _killed(hunt: Hunt, shown: t.Mapping[str, str], **options: t.Any) -> None:
    """Kill a run with creates under way: every process that carries its mark, at once."""
    hunt.server.settings(latency_ms_by_operation={CREATE: 400})
    mark = f"leak-hunt-{os.getpid()}-{time.monotonic_ns()}"
    path = hunt.play(
        "killed",
        [provision(members=[f"killed{number}@customers.example.com" for number in range(8)], concurrency=2, **options)],
    )
    before = len(hunt.server.ledger())
    with subprocess.Popen(
        ["ansible-playbook", path, "-vvvvv"],
        cwd=hunt.project.directory,
        env=hunt.environment(LEAK_HUNT=mark, **shown),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        hunt.processes += 1
        deadline = time.monotonic() + 60
        while len(hunt.server.ledger()) < before + 3 and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.02)
        for pid in _marked(f"LEAK_HUNT={mark}".encode()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert process.stdout
        hunt.outputs.append(("killed", process.stdout.read()))
    assert process.returncode == -signal.SIGKILL and len(hunt.server.ledger()) >= before + 3
    hunt.server.settings(latency_ms_by_operation={})


def _marked(mark: bytes) -> list[int]:
    found = []
    for process in pathlib.Path("/proc").iterdir():
        if process.name.isdecimal():
            with contextlib.suppress(OSError):
                if mark in (process / "environ").read_bytes().split(b"\0"):
                    found.append(int(process.name))
    return found


def ways(turn: int) -> t.Callable[[], dict[str, str]]:
    """Return what gives the next way to show; in the long form one way for a whole tour."""
    names = list(SHOWN)
    if LONG:
        return lambda: SHOWN[names[turn]]
    position = iter(range(10**6))
    return lambda: SHOWN[names[next(position) % len(names)]]


@pytest.mark.parametrize("turn", range(len(SHOWN) if LONG else 1))
def test_no_secret_stands_anywhere_in_clear(hunt, turn):
    started = time.monotonic()
    tour(hunt, ways(turn))
    leaks = hunt.leaks()
    searched = (
        "ansible.log",
        "host_vars/*/b2_vault.yml",
        "junit/*.xml",
        "trees/*",
        "cache/facts/*",
        "cache/inventory/*",
        "home/**/AnsiballZ_*",
        "report*.html",
        "report*.json",
        "report*.csv",
    )
    for pattern in searched:
        assert any(path.is_file() for path in hunt.project.directory.glob(pattern)), (
            f"{pattern} was to be searched, and was never made"
        )
    # Whether a file that is there for a moment falls into a look is chance; that what falls into one is found shows
    # below, with one that was planted.
    assert hunt.looks > 100
    assert any(secret.startswith("4_") for secret in hunt.secrets())
    assert not leaks, "\n".join(leaks)
    print(
        f"\nleaks: {hunt.processes} processes, {hunt.searched} outputs, files and command lines, "
        f"{hunt.bytes / 1e6:.1f} MB, "
        f"{len(hunt.secrets())} secrets in {len(set().union(*map(forms, hunt.secrets())))} forms, the process list "
        f"{hunt.samples} times: "
        f"{len(leaks)} leaks; {time.monotonic() - started:.0f} s"
    )


def test_the_password_of_a_repository_stands_nowhere_in_clear(hunt):
    """Git gets it through a pipe: it is on no command line, in no environment and in no file, also after a kill."""
    outside = hunt.project.directory.parent
    repository = outside / "keys.git"
    subprocess.run(["git", "init", "--quiet", "--bare", str(repository)], check=True)
    # So long that each process of git falls into a look.
    with locations.WebServer(outside, delay=0.3).up() as web:
        (outside / "url").write_text(web.url(repository))
        hunt.extra |= {web.password, web.user}
        there = {
            "vault_location": "git",
            "vault_git_repo": f"{{{{ lookup('ansible.builtin.file', '{outside / 'url'}') }}}}",
        }
        output = hunt.run(
            "git",
            "ansible-playbook",
            hunt.play("git", [provision(members=MEMBERS[:2], **there), SHOW]),
            "-vvvvv",
            "--diff",
        )
        assert len(hunt.server.ledger()) == 2 and "'created': 2" in output.replace('"', "'"), output[-3000:]
        _killed(hunt, {}, **there)
        assert list((hunt.project.directory / "tmp").rglob("repository/config")), (
            "the killed run was to leave its own repository"
        )
    assert any(b"git-remote-http" in line for line in list(hunt._seen)) and hunt._around_git
    leaks = hunt.leaks()
    assert not leaks, "\n".join(leaks)


@pytest.mark.parametrize(
    "location",
    ["file", "output", "base64", "url", "json", "command line", "temporary file", "temporary file that is removed"],
)
def test_the_hunt_finds_what_was_planted(hunt, location):
    """A hunt that finds nothing has to be able to find."""
    secret = hunt.server.add_member("hosting", "planted@customers.example.com")["applicationKey"]
    while not {"/", "+"} & set(secret):
        secret = hunt.server.add_member("hosting", f"planted{len(hunt.server.ledger())}@customers.example.com")[
            "applicationKey"
        ]
    assert hunt.leaks() == []
    texts = {
        "file": secret,
        "base64": base64.b64encode(f"ab{secret}:c".encode()).decode(),
        "url": urllib.parse.quote(secret, safe=""),
        "json": json.dumps(secret).replace("/", "\\/"),
    }
    if location == "output":
        hunt.run("echo", "printenv", "PLANTED", PLANTED=secret)
    elif location == "command line":
        subprocess.run(["sh", "-c", "sleep 1; :", secret], check=True)
    elif location.startswith("temporary file"):
        # Where any program puts such a file that was not told where.
        left = (
            "import os, tempfile, time; f = tempfile.NamedTemporaryFile(); f.write(os.environb[b'PLANTED']); "
            "f.flush(); time.sleep(0.5)"
        )
        hunt.run(
            "careless",
            sys.executable,
            "-c",
            left + ("" if location.endswith("removed") else "; os._exit(0)"),
            PLANTED=secret,
        )
        assert bool(list(hunt.temporary.iterdir())) is not location.endswith("removed")
    else:
        hidden = hunt.home / ".ansible" / "tmp"
        hidden.mkdir(parents=True)
        (hidden / "planted").write_text(texts[location])
    assert len(hunt.leaks()) >= 1


def test_the_hunt_finds_a_token(hunt):
    hunt.run("provision", "ansible-playbook", hunt.play("provision", [provision(members=MEMBERS[:1])]))
    assert hunt.leaks() == []
    [token] = hunt.server.tokens_handed_out()
    hunt.run("echo", "printenv", "PLANTED", PLANTED=f"Authorization: {token}")
    assert any("stdout" in leak for leak in hunt.leaks())


def test_a_planted_leak_of_a_result_is_found(hunt):
    """The same through Ansible: a task that shows its key is caught on the screen and in the log."""
    shown = {"name": "Careless", "ansible.builtin.debug": {"msg": "{{ result.application_key }}"}}
    hunt.run("careless", "ansible-playbook", hunt.play("careless", [one(email="plain@customers.example.com"), shown]))
    found = hunt.leaks()
    assert any("stdout" in leak for leak in found) and any("ansible.log" in leak for leak in found)
