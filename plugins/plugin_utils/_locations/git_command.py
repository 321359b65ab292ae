# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Run the ``git`` command in a bare repository that is created for one run.

Git never checks files out there, so that no hook, filter or attribute of the user can change them.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import tempfile
import typing as t
import urllib.parse

from ansible_collections.community.backblaze.plugins.module_utils._errors import OptionError, StoreError
from ansible_collections.community.backblaze.plugins.module_utils._options import ENVIRONMENT
from ansible_collections.community.backblaze.plugins.plugin_utils._locations.waiting import wait_until

#: Seconds that one command may take, such as one whose server does not answer.
PATIENCE = 120.0
_CONFIG = {
    "core.hooksPath": os.devnull,
    "gc.auto": "0",
    "maintenance.auto": "false",
    "push.followTags": "false",
    "push.recurseSubmodules": "no",
    "fetch.recurseSubmodules": "no",
}
# Variables that name another repository, print what is sent, or set the date of a lease. The other variables of a user
# are kept, such as those for logging in.
_DROPPED = re.compile(
    r"GIT_(?:DIR|WORK_TREE|IMPLICIT_WORK_TREE|COMMON_DIR|INDEX_FILE|OBJECT_DIRECTORY|ALTERNATE_OBJECT_DIRECTORIES|"
    r"SHALLOW_FILE|GRAFT_FILE|NAMESPACE|PREFIX|REPLACE_REF_BASE|NO_REPLACE_OBJECTS|CONFIG|TRACE.*|CURL_VERBOSE|REFLOG_ACTION|"
    r"AUTHOR_DATE|COMMITTER_DATE)"
    # Hooks and other programs that git starts must not see the master key, nor the settings of Ansible.
    rf"|{'|'.join(name for names in ENVIRONMENT.values() for name in names)}|ANSIBLE_.*"
)
_USERINFO = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)[^/\s]*@")
_PASSWORD = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/]*:[^/]*@")
_WEB_URL = re.compile(r"(https?)://(?:([^/]*)@)?([^/]*)(.*)", re.IGNORECASE)
_WEB_HOST = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]*)?")
# Git gives its credential helper the operation, and on stdin the server. The server is checked, as it may have
# redirected git to another one.
_HELPER = (
    '!f() { p= h=; while IFS="=" read -r name value; '
    "do case $name in protocol) p=$value;; host) h=$value;; esac; done; "
    'test "$1 $p $h" = "get %s %s" && cat /dev/fd/%d; }; f'
)
# Bytes that fit into a pipe before git reads it.
_PIPE_BYTES = 4096
_LINES_SHOWN = 4


class Answer(t.NamedTuple):
    """The answer of a command. said: the last lines of its stderr, fit to be shown; its exit code if there are none."""

    command: str
    code: int
    output: bytes
    said: str

    def checked(self) -> bytes:
        """Return the output, or raise StoreError if the command failed."""
        if self.code:
            raise StoreError(f"git {self.command} failed ({self.said}).", remedy="Fix that, then run again.")
        return self.output


class Pushed(t.NamedTuple):
    """The answer to a push. refs: why each ref on the server was refused, empty if accepted. said: see Answer."""

    said: str
    refs: t.Mapping[str, str]


class Login(t.NamedTuple):
    """The password of a URL, as a credential helper gives it to git, and the server that it is for."""

    protocol: str
    host: str
    answer: bytes


class Git:
    """Runs commands in one repository. url: of its remote; a password in it reaches git through a pipe only."""

    def __init__(self, directory: str, url: str) -> None:
        self.directory = directory
        #: The URL, without user name and password if it has a password.
        self.url, self._login = without_password(url)

    def create(self) -> None:
        """Create the repository."""
        self("init", "--quiet", "--bare")
        self("config", "remote.origin.url", self.url)

    def fetch(self, ref: str, name: str) -> str:
        """Fetch the last commit of a ref on the server into the ref ``name``; return it, empty if there is no ref."""
        answer = self.ask("fetch", "--quiet", "--no-tags", "--depth=1", "origin", f"+{ref}:{name}")
        if answer.code and "couldn't find remote ref" in answer.said.lower():
            return ""
        answer.checked()
        return self("rev-parse", name).decode().strip()

    def push(self, *refs: str, conditions: t.Sequence[str] = ()) -> Pushed:
        """Push refs, which may be refused. conditions: options such as ``--atomic``."""
        answer = self.ask("push", "--porcelain", "--no-verify", *conditions, "origin", *refs)
        found = {}
        for line in answer.output.decode("utf-8", "replace").splitlines():
            flag, *fields = line.split("\t")
            if len(fields) == 2 and len(flag) == 1:
                found[fields[0].rpartition(":")[2]] = without_userinfo(fields[1]) if flag == "!" else ""
        return Pushed(answer.said, found)

    def __call__(self, *arguments: str, given: bytes = b"") -> bytes:
        """Run a command; return its output, or raise StoreError if it fails."""
        return self.ask(*arguments, given=given).checked()

    def ask(self, *arguments: str, given: bytes = b"") -> Answer:
        """Run a command that may fail. given: its stdin."""
        settings = [part for name, value in _CONFIG.items() for part in ("-c", f"{name}={value}")]
        try:
            # A file and not a pipe: communicate() takes no input again after a timeout.
            with self._piped() as (fds, login), tempfile.TemporaryFile(dir=os.path.dirname(self.directory)) as stdin:
                stdin.write(given)
                stdin.seek(0)
                process = subprocess.Popen(  # noqa: S603 - no shell, and user input follows an option that takes it
                    ["git", *settings, *login, *arguments],  # noqa: S607 - the user's own git
                    env={**_environment(), "GIT_DIR": self.directory},
                    stdin=stdin,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    pass_fds=fds,
                    # Ctrl-C must not end a push halfway, and git must not ask questions on a terminal.
                    start_new_session=True,
                )
        except OSError as exc:
            raise StoreError(
                f"git cannot be run on the controller ({exc.strerror}).",
                remedy="Install git on the controller, or choose another vault_location.",
            ) from exc
        output, errors = _communicate(process, arguments[0])
        lines = [
            line.strip()
            for line in errors.decode("utf-8", "replace").splitlines()
            if line.strip() and not line.startswith("hint:")
        ]
        said = without_userinfo(" ".join(lines[-_LINES_SHOWN:])).rstrip(".") or f"exit code {process.returncode}"
        return Answer(arguments[0], process.returncode, output, said)

    @contextlib.contextmanager
    def _piped(self) -> t.Iterator[tuple[tuple[int, ...], list[str]]]:
        """Yield the file descriptor from which git reads the password, and the settings that make it do so."""
        if not self._login:
            yield (), []
            return
        protocol, host, answer = self._login
        reading, writing = os.pipe()
        try:
            with open(writing, "wb") as file:
                file.write(answer)
            helper = f"credential.{protocol}://{host}.helper"
            settings = [
                # Without the user's own helpers for this server, to which git would give the password to store.
                f"{helper}=",
                f"{helper}={_HELPER % (protocol, host, reading)}",
                # The user's rules do not apply to a URL with a password, such as a rule to use ssh instead.
                f"url.{self.url}.insteadOf={self.url}",
                f"url.{self.url}.pushInsteadOf={self.url}",
            ]
            yield (reading,), [part for setting in settings for part in ("-c", setting)]
        finally:
            os.close(reading)


def without_userinfo(text: str) -> str:
    """Return a text without the user names and passwords of URLs."""
    return _USERINFO.sub(r"\1", text)


def without_password(url: str) -> tuple[str, t.Optional[Login]]:
    """Return a URL without its user name and password, and these; the unchanged URL and None if it has no password.

    Raises OptionError, which never shows the URL, if git cannot take the password.
    """
    found = _WEB_URL.fullmatch(url)
    if not found:
        if _PASSWORD.search(url):
            raise OptionError(
                "vault_git_repo has a password, which only https:// and http:// can use.",
                remedy="Remove the password from the URL.",
            )
        return url, None
    protocol, userinfo, host, path = found.groups()
    # If a password contains a slash, the part before it looks like host and port.
    if not _WEB_HOST.fullmatch(host) or (not userinfo and ":" in host and "@" in path):
        raise OptionError(
            "vault_git_repo is an invalid URL.",
            remedy="Percent-encode special characters in its user name and password, such as %2F for a slash.",
        )
    user, colon, password = (userinfo or "").partition(":")
    if not colon:
        return url, None
    values = [urllib.parse.unquote_to_bytes(value) for value in (user, password)]
    answer = b"username=%b\npassword=%b\n" % (values[0], values[1])
    if any(set(value) & {*b"\n\r\0"} for value in values) or len(answer) > _PIPE_BYTES:
        raise OptionError(
            "vault_git_repo has a user name or password that is too long for git, or contains a line end or NUL.",
            remedy="Use a shorter access token.",
        )
    # In lower case, as git gives the protocol to the helper. Without "=", which ends the name of a setting.
    path = path.replace("=", "%3D")
    return f"{protocol.lower()}://{host}{path}", Login(protocol.lower(), host, answer)


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not _DROPPED.fullmatch(name)}
    who = {
        f"GIT_{role}_{what}": value
        for role in ("AUTHOR", "COMMITTER")
        for what, value in (("NAME", "community.backblaze"), ("EMAIL", "noreply@localhost"))
    }
    # A repository with SHA-256, which no service uses by default, is refused at once. No path is a pattern.
    fixed = {"GIT_TERMINAL_PROMPT": "0", "GIT_DEFAULT_HASH": "sha1", "GIT_LITERAL_PATHSPECS": "1", "LC_ALL": "C"}
    return {**who, **kept, **fixed}


def _communicate(process: subprocess.Popen[bytes], command: str) -> tuple[bytes, bytes]:
    """Return the stdout and stderr of a command; StoreError if it takes too long."""
    written: list[tuple[bytes, bytes]] = []

    def done(seconds: float) -> bool:
        with contextlib.suppress(subprocess.TimeoutExpired):
            written.append(process.communicate(timeout=seconds))
        return bool(written)

    try:
        wait_until(done, PATIENCE, f"git {command} did not end")
    except BaseException:
        # Also if this process is being ended: neither the command nor a process that it started must go on alone.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise
    return written[0]
