# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Places for keys that are not on the controller, each real: a host behind a real sshd on loopback, and a bare
repository."""

from __future__ import annotations

import base64
import contextlib
import getpass
import http.server
import io
import itertools
import json
import os
import pathlib
import random
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import typing as t
import urllib.parse
import zipfile
import zlib

HOST = "srv1"


class Host:
    """A host that plays reach by ssh: a server on a free port of loopback with keys and configuration of its own. Its
    disk is ours."""

    def __init__(self, directory: pathlib.Path) -> None:
        self.directory = directory
        directory.mkdir()
        # Where the keys are to be, on that host.
        self.keys = directory / "srv" / "keys"
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        for name in ("host_key", "user_key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(directory / name)], check=True)
        shutil.copy(directory / "user_key.pub", directory / "authorized_keys")
        (directory / "known_hosts").write_text(f"[127.0.0.1]:{self._port} {(directory / 'host_key.pub').read_text()}")
        (directory / "sshd_config").write_text(
            f"ListenAddress 127.0.0.1:{self._port}\nHostKey {directory}/host_key\nAuthorizedKeysFile "
            f"{directory}/authorized_keys\n"
            "PidFile none\nUsePAM no\nStrictModes no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
            "PermitRootLogin prohibit-password\n"
            "Subsystem sftp internal-sftp\nMaxStartups 100\n"
        )

    @contextlib.contextmanager
    def up(self) -> t.Iterator[Host]:
        """Run the server."""
        command = [sshd(), "-D", "-e", "-f", str(self.directory / "sshd_config")]
        with open(self.directory / "sshd.log", "wb") as log, subprocess.Popen(command, stderr=log) as process:
            try:
                deadline = time.monotonic() + 20
                while True:
                    assert process.poll() is None and time.monotonic() < deadline, (
                        self.directory / "sshd.log"
                    ).read_text()
                    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._port), timeout=1):
                        break
                    time.sleep(0.05)
                yield self
            finally:
                process.send_signal(signal.SIGTERM)

    def _python(self) -> pathlib.Path:
        """Return a Python that keeps what it is given to run: a module with its arguments, as it came."""
        path, sent = self.directory / "python", self.directory / "sent"
        sent.mkdir(exist_ok=True)
        path.write_text(
            f'#!/bin/sh\ncase "$1" in */AnsiballZ_*) cp "$1" {sent}/$(date +%s%N).py;; esac\n'
            f'exec {sys.executable} "$@"\n'
        )
        path.chmod(0o755)
        return path

    def location(self, directory: pathlib.Path) -> HostLocation:
        """Return this host as the location of the keys of a project."""
        return HostLocation(self, self.inventory(directory / "inventory.json"))

    def inventory(self, path: pathlib.Path, **variables: t.Any) -> pathlib.Path:
        """Write an inventory in which this is a host."""
        known = {
            "ansible_connection": "ssh",
            "ansible_host": "127.0.0.1",
            "ansible_port": self._port,
            "ansible_user": getpass.getuser(),
            "ansible_ssh_private_key_file": str(self.directory / "user_key"),
            # A connection that outlives the run for long would look like a run that does not end.
            "ansible_ssh_args": "-o ControlMaster=auto -o ControlPersist=2s -F none",
            "ansible_ssh_extra_args": f"-o UserKnownHostsFile={self.directory}/known_hosts -o IdentitiesOnly=yes",
            "ansible_python_interpreter": str(self._python()),
            "ansible_remote_tmp": str(self.directory / "tmp"),
            # As the guide advises: without it, each call of a module takes four more commands on the host.
            "ansible_pipelining": True,
            **variables,
        }
        path.write_text(json.dumps({"all": {"hosts": {HOST: known}}}))
        return path


class HostLocation:
    """A directory on a host, as a task names it and as one sees it there."""

    kind = "target"
    hosts = HOST

    def __init__(self, host: Host, inventory: pathlib.Path) -> None:
        self.host = host
        self.arguments = ("-i", str(inventory))
        self.options = {"vault_location": "target", "vault_dir": str(host.keys)}
        self.name = f"{HOST}:{host.keys}"

    def keys(self) -> t.ContextManager[pathlib.Path]:
        """Give the directory of the keys, as it is now."""
        return contextlib.nullcontext(self.host.keys)

    @contextlib.contextmanager
    def changing(self) -> t.Iterator[pathlib.Path]:
        """Give the directory of the keys, for somebody else to change it."""
        self.host.keys.mkdir(parents=True, exist_ok=True)
        yield self.host.keys

    def sealed(self) -> int:
        """Return how many keys are there."""
        return len(list(self.host.keys.glob("*@*/b2_vault.yml")))

    def state(self) -> dict[str, int]:
        """Return what a run that changes nothing leaves as it is."""
        return {str(path): path.stat().st_ino for path in self.host.keys.rglob("*") if path.is_file()}

    def fail(self) -> None:
        """Let nothing be written from now on."""
        self.host.keys.rename(self.host.keys.with_name("away"))

    def mend(self) -> None:
        """Let it be written again."""
        self.host.keys.with_name("away").rename(self.host.keys)

    def apart(self, mark: str) -> dict[str, str]:
        """Return the environment of a run in which what works at the far end is without a variable that would have it
        killed with the run."""
        return {}

    def from_another_machine(self, age: float) -> None:
        """Make the lease that is there one of another machine, and so many seconds old."""
        (file,) = self.host.keys.glob(".b2_members/*/lease")
        record = json.loads(file.read_text())
        lease = {**json.loads(record["lease"]), "process": "elsewhere pid:[1] 1"}
        file.write_text(json.dumps({"lease": json.dumps(lease), "refreshed": time.time() - age}))

    def traces(self) -> list[pathlib.Path]:
        """Return where a run leaves anything but in the project."""
        return [self.host.directory]

    def opened(self) -> dict[str, bytes]:
        """Return what a run has sent in a form that has to be opened first: modules, and in their arguments the bundles
        of files."""
        found = {}
        for path in (self.host.directory / "sent").iterdir():
            packed = re.findall(rb"(?:ZIPDATA = |zip_data=)[\"']+([A-Za-z0-9+/=]+)", path.read_bytes())
            for number, text in enumerate(packed):
                with zipfile.ZipFile(io.BytesIO(base64.b64decode(text))) as archive:
                    found.update({f"{path} {number} {name}": archive.read(name) for name in archive.namelist()})
            for bundle in re.findall(rb'bundle[\\"]+: [\\"]+([A-Za-z0-9+/=]+)', path.read_bytes()):
                found[f"{path} bundle"] = zlib.decompress(base64.b64decode(bundle))
        return found


class GitLocation:
    """A directory on a branch of a bare repository, as a task names it and as one sees it in a fresh clone."""

    kind = "git"
    hosts = "localhost"

    def __init__(self, directory: pathlib.Path, folder: str = "inventory/host_vars") -> None:
        self.repository = directory / "keys.git"
        self.folder = folder
        self._clones = directory / "clones"
        self._clones.mkdir()
        self.arguments = ("-e", f"ansible_python_interpreter={sys.executable}")
        self.options = {"vault_location": "git", "vault_git_repo": str(self.repository), "vault_dir": folder}
        self.name = f"{self.repository}:{folder}"
        self.git("init", "--quiet", "--bare", "--initial-branch=trunk", str(self.repository))

    def git(self, *arguments: str, cwd: t.Optional[pathlib.Path] = None, **environment: str) -> str:
        """Run git, as anybody."""
        who = {f"GIT_{role}_{what}": "somebody@else" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        env = {**kept, **who, **environment}
        return subprocess.run(
            ["git", *arguments], cwd=cwd, env=env, check=True, capture_output=True, text=True, errors="replace"
        ).stdout

    def clone(self) -> pathlib.Path:
        """Return a fresh clone."""
        path = self._clones / secrets.token_hex(4)
        self.git("clone", "--quiet", str(self.repository), str(path))
        return path

    @contextlib.contextmanager
    def keys(self) -> t.Iterator[pathlib.Path]:
        """Give the directory of the keys in a fresh clone."""
        yield self.clone() / self.folder

    @contextlib.contextmanager
    def changing(self) -> t.Iterator[pathlib.Path]:
        """Give the directory of the keys, for somebody else to change it and push that."""
        clone = self.clone()
        (clone / self.folder).mkdir(parents=True, exist_ok=True)
        yield clone / self.folder
        self.git("add", "--all", cwd=clone)
        self.git("commit", "--quiet", "--message", "Something else", cwd=clone)
        self.git("push", "--quiet", "origin", "HEAD:trunk", cwd=clone)

    def log(self) -> list[str]:
        """Return the subjects of all commits, the newest first."""
        return self.git("log", "--format=%s", "trunk", cwd=self.repository).splitlines()

    def sealed(self) -> int:
        """Return how many keys are there."""
        if "refs/heads/trunk" not in self.state():
            return 0
        return self.git("ls-tree", "-r", "--name-only", "trunk", cwd=self.repository).count(
            "@customers.example.com/b2_vault.yml"
        )

    def state(self) -> str:
        """Return what a run that changes nothing leaves as it is."""
        return self.git("for-each-ref", cwd=self.repository)

    def fail(self) -> None:
        """Let nothing be pushed from now on."""
        hook = self.repository / "hooks" / "pre-receive"
        hook.write_text("#!/bin/sh\necho Closed for today.\nexit 1\n")
        hook.chmod(0o755)

    def mend(self) -> None:
        """Let it be pushed again."""
        (self.repository / "hooks" / "pre-receive").unlink()

    def lose(self, keys: int, how: str, *, closed: bool = False) -> None:
        """Let the branch be deleted or rewritten as soon as it has so many key files; closed: and then take no push any
        more."""
        rewritten = "$(git commit-tree -m Rewritten $(git rev-list --max-parents=0 trunk)^{tree})"
        command = {"deleted": "-d refs/heads/trunk", "rewritten": f"refs/heads/trunk {rewritten}"}[how]
        who = "export GIT_AUTHOR_NAME=x GIT_AUTHOR_EMAIL=x GIT_COMMITTER_NAME=x GIT_COMMITTER_EMAIL=x"
        count = "git ls-tree -r --name-only trunk | grep -c /b2_vault.yml"
        hooks = {
            "post-receive": (
                f"test -e lost && exit\ntest $({count}) -ge {keys} || exit 0\n{who}\ngit update-ref "
                f"{command}\n: > lost\n"
            )
        }
        if closed:
            hooks["pre-receive"] = "test ! -e lost || { echo Closed for today.; exit 1; }\n"
        for name, script in hooks.items():
            hook = self.repository / "hooks" / name
            hook.write_text(f"#!/bin/sh\n{script}")
            hook.chmod(0o755)

    def apart(self, mark: str) -> dict[str, str]:
        """Return the environment of a run whose git at the far end has no mark, so that it is not killed with the run.

        In real use that is a process of another server. If it were killed with -9, the lock of a branch would stay, and
        no run could push any more.
        """
        command = f"env -u {mark} git receive-pack"
        return {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "remote.origin.receivepack", "GIT_CONFIG_VALUE_0": command}

    def from_another_machine(self, age: float) -> None:
        """Make the lease that is there one of another machine, and so many seconds old."""
        (ref,) = self.git(
            "for-each-ref", "--format=%(refname)", "refs/heads/b2-members-lock", cwd=self.repository
        ).split()
        subject, _blank, text = self.git("log", "-1", "--format=%B", ref, cwd=self.repository).strip().splitlines()
        lease = {**json.loads(text), "process": "elsewhere pid:[1] 1"}
        message = f"{subject}\n\n{json.dumps(lease)}"
        dated = {"GIT_COMMITTER_DATE": f"@{int(time.time() - age)} +0000"}
        commit = self.git("commit-tree", f"{ref}^{{tree}}", "-m", message, cwd=self.repository, **dated).strip()
        self.git("update-ref", ref, commit, cwd=self.repository)

    def traces(self) -> list[pathlib.Path]:
        """Return where a run leaves anything but in the project."""
        return [self.repository]

    def opened(self) -> dict[str, bytes]:
        """Return what a run leaves in a form that has to be opened first: every object of the repository, reachable or
        not."""
        names = self.git(
            "cat-file", "--batch-all-objects", "--batch-check=%(objecttype) %(objectname)", cwd=self.repository
        ).splitlines()
        return {name: self.git("cat-file", *name.split(), cwd=self.repository).encode() for name in names}


class WebServer:
    """Repositories below a directory, over HTTP on a free port of loopback, for one user with a password. Git's own
    program does the work.

    delay: seconds before each answer.
    """

    def __init__(self, root: pathlib.Path, delay: float = 0.0) -> None:
        self._delay = delay
        self.user = "ada@example.com"
        # With what has a meaning in URLs, shells and configuration files.
        self.password = f"{secrets.token_hex(8)}/@:%'\"$# {secrets.token_hex(8)}"
        self._root = root
        self._allowed = "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())

    def url(self, repository: pathlib.Path, password: t.Optional[str] = None) -> str:
        """Return the URL of a repository, with user name and password."""
        login = ":".join(
            urllib.parse.quote(text, safe="") for text in (self.user, self.password if password is None else password)
        )
        return f"http://{login}@127.0.0.1:{self._server.server_port}/{repository.relative_to(self._root)}"

    @contextlib.contextmanager
    def up(self) -> t.Iterator[WebServer]:
        """Run the server."""
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            thread.join()
            self._server.server_close()

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                path, _mark, query = self.path.partition("?")
                body = self._body()
                time.sleep(outer._delay)
                if self.headers.get("Authorization") != outer._allowed:
                    self._answer(401, [("WWW-Authenticate", 'Basic realm="keys"')], b"")
                    return
                environment = {
                    "PATH": os.environ["PATH"],
                    "GIT_PROJECT_ROOT": str(outer._root),
                    "GIT_HTTP_EXPORT_ALL": "1",
                    "REQUEST_METHOD": self.command,
                    "PATH_INFO": urllib.parse.unquote(path),
                    "QUERY_STRING": query,
                    "CONTENT_TYPE": self.headers.get("Content-Type", ""),
                    "CONTENT_LENGTH": str(len(body)),
                    "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
                    "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
                    "REMOTE_USER": "ada",
                    "REMOTE_ADDR": "127.0.0.1",
                }
                done = subprocess.run(
                    ["git", "http-backend"], env=environment, input=body, capture_output=True, check=True
                )
                head, _blank, content = done.stdout.partition(b"\r\n\r\n")
                headers = [tuple(line.split(": ", 1)) for line in head.decode().split("\r\n")]
                status = next((int(value.split()[0]) for name, value in headers if name == "Status"), 200)
                self._answer(status, [pair for pair in headers if pair[0] != "Status"], content)

            do_POST = do_GET

            def _body(self) -> bytes:
                if self.headers.get("Transfer-Encoding") != "chunked":
                    return self.rfile.read(int(self.headers.get("Content-Length", 0)))
                body = b""
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return body

            def _answer(self, status: int, headers: t.Sequence[t.Any], content: bytes) -> None:
                self.send_response(status)
                for name, value in headers:
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_what: t.Any) -> None:
                pass

        return Handler


def sshd() -> str:
    """Return the path of the server's program, and give it what it needs."""
    found = shutil.which("sshd", path=f"{os.environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin:/sbin")
    assert found, (
        "this test needs a program sshd: install the package openssh-server (make setup does where it is root and "
        "has apt-get)"
    )
    if os.geteuid() == 0:
        # Compiled in, and made by whatever starts it as a service.
        os.makedirs("/run/sshd", mode=0o755, exist_ok=True)
    return found


def play(
    project: t.Any,
    members: t.Sequence[t.Any],
    name: str = "play.yml",
    hosts: str = "localhost",
    keywords: t.Optional[t.Mapping[str, t.Any]] = None,
    **options: t.Any,
) -> pathlib.Path:
    """Write a play with one task that creates members, and writes its result beside the play as JSON."""
    path = project.directory / name
    result = path.with_name(f"{path.stem}-result.json")
    tasks = [
        {
            "name": "Provision",
            "community.backblaze.b2_group_members": {"group_name": "hosting", "members": list(members), **options},
            "register": "provisioned",
            "ignore_errors": True,
            **(keywords or {}),
        },
        {
            "name": "Keep the result for the test",
            "write_file": {"content": "{{ provisioned | to_json }}", "dest": str(result)},
        },
    ]
    path.write_text(json.dumps([{"name": "Provision", "hosts": hosts, "gather_facts": False, "tasks": tasks}]))
    return path


def push(repository: str, clone: str) -> None:
    """Push one commit after the other to a repository, each to a file of its own, several a second, until SIGTERM; what
    was begun then is ended."""
    told: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: told.append(number))
    run = ["git", "-C", clone, "-c", "user.name=Somebody", "-c", "user.email=somebody@else"]
    subprocess.run(["git", "clone", "--quiet", repository, clone], check=True)
    for number in itertools.count(1):
        time.sleep(random.uniform(0, 0.3))
        if told:
            return
        pathlib.Path(clone, f"note{number}").write_text(str(number))
        subprocess.run([*run, "add", "--all"], check=True)
        subprocess.run([*run, "commit", "--quiet", "--message", f"Push {number}"], check=True)
        while subprocess.run([*run, "push", "--quiet"], stderr=subprocess.DEVNULL, check=False).returncode:
            subprocess.run([*run, "pull", "--quiet", "--rebase"], check=True)


if __name__ == "__main__":
    push(*sys.argv[2:])
