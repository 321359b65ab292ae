# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The ``git`` command, in a bare repository that is made for one run: nothing is ever checked out, so no hook, filter or attribute has a say."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
import typing as t
import urllib.parse

from ansible_collections.community.backblaze.plugins.module_utils._errors import OptionError, StoreError
from ansible_collections.community.backblaze.plugins.module_utils._options import ENVIRONMENT
from ansible_collections.community.backblaze.plugins.plugin_utils._run.signals import patience

#: Seconds that one command may take; what talks with a server and gets no answer ends then.
PATIENCE = 120.0
# So often a command that takes longer is looked at.
_LOOK_SECONDS = 0.5
_CONFIG = {
    "core.hooksPath": os.devnull,
    "gc.auto": "0",
    "maintenance.auto": "false",
    "push.followTags": "false",
    "push.recurseSubmodules": "no",
    "fetch.recurseSubmodules": "no",
}
# They name another repository, would print what is sent, or date a lease; all else that a user may have set, such as how to log in, holds.
_DROPPED = re.compile(
    r"GIT_(?:DIR|WORK_TREE|IMPLICIT_WORK_TREE|COMMON_DIR|INDEX_FILE|OBJECT_DIRECTORY|ALTERNATE_OBJECT_DIRECTORIES|SHALLOW_FILE|GRAFT_FILE|NAMESPACE|"
    r"PREFIX|REPLACE_REF_BASE|NO_REPLACE_OBJECTS|CONFIG|TRACE.*|CURL_VERBOSE|REFLOG_ACTION|AUTHOR_DATE|COMMITTER_DATE)"
    # Hooks and what else git starts have no use for the master key, nor for what Ansible was told.
    rf"|{'|'.join(name for names in ENVIRONMENT.values() for name in names)}|ANSIBLE_.*"
)
_USERINFO = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)[^/\s]*@")
_PASSWORD = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/]*:[^/]*@")
_WEB_URL = re.compile(r"(https?)://(?:([^/]*)@)?([^/]*)(.*)", re.IGNORECASE)
_WEB_HOST = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]*)?")
# Git tells its credential helper the operation, and on stdin whose password it wants. The host's name is checked, as it may have redirected git.
_HELPER = (
    '!f() { p= h=; while IFS="=" read -r name value; do case $name in protocol) p=$value;; host) h=$value;; esac; done; '
    'test "$1 $p $h" = "get %s %s" && cat /dev/fd/%d; }; f'
)
# What certainly fits into a pipe that nobody reads yet.
_PIPE_BYTES = 4096
_LINES_TOLD = 4


class Answer(t.NamedTuple):
    """What a command came to. said: the end of what it said on stderr, fit to be shown."""

    code: int
    output: bytes
    said: str


class Login(t.NamedTuple):
    """The password of a URL, as a credential helper gives it to git, and which server it is for."""

    protocol: str
    host: str
    answer: bytes


class Git:
    """Runs commands in one repository; url is that of its remote ``origin``. A password in it reaches git through a pipe and nothing else."""

    def __init__(self, directory: str, url: str) -> None:
        self._directory = directory
        #: The URL without user name and password, if it has a password.
        self.url, self._login = without_password(url)

    def create(self) -> None:
        """Make the repository."""
        self("init", "--quiet", "--bare")
        self("config", "remote.origin.url", self.url)

    def identity(self) -> str:
        """Return who commits, as git writes it."""
        environment = _environment()
        return f"{environment['GIT_COMMITTER_NAME']} <{environment['GIT_COMMITTER_EMAIL']}>"

    def __call__(
        self, *arguments: str, given: bytes = b"", environment: t.Optional[t.Mapping[str, str]] = None
    ) -> bytes:
        """Run a command; return its output, or raise StoreError with what it said."""
        answer = self.ask(*arguments, given=given, environment=environment)
        if answer.code:
            raise StoreError(
                f"git {arguments[0]} failed ({answer.said or f'exit code {answer.code}'}).",
                remedy="Mend that, then run again.",
            )
        return answer.output

    def ask(self, *arguments: str, given: bytes = b"", environment: t.Optional[t.Mapping[str, str]] = None) -> Answer:
        """Run a command that may fail."""
        settings = [part for name, value in _CONFIG.items() for part in ("-c", f"{name}={value}")]
        try:
            with self._piped() as (fds, login):
                process = subprocess.Popen(  # noqa: S603 - no shell, and what the user wrote comes after an option that takes it
                    ["git", *settings, *login, *arguments],  # noqa: S607 - the user's own git
                    env={**_environment(), "GIT_DIR": self._directory, **(environment or {})},
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    pass_fds=fds,
                    # Ctrl-C is for the run and not for a push in the middle; and nothing can ask questions on a terminal.
                    start_new_session=True,
                )
        except OSError as exc:
            raise StoreError(
                f"git cannot be run on the controller ({exc.strerror}).",
                remedy="Install git there, or choose another place.",
            ) from exc
        output, errors = _communicate(process, given, arguments[0])
        lines = [
            line.strip()
            for line in errors.decode("utf-8", "replace").splitlines()
            if line.strip() and not line.startswith("hint:")
        ]
        return Answer(process.returncode, output, without_userinfo(" ".join(lines[-_LINES_TOLD:])).rstrip("."))

    @contextlib.contextmanager
    def _piped(self) -> t.Iterator[tuple[tuple[int, ...], list[str]]]:
        """Give the descriptor that a command has to inherit to be able to log in, and the settings that have it read there."""
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
                # The user's own helpers for this server are forgotten: git would hand them the password to keep.
                f"{helper}=",
                f"{helper}={_HELPER % (protocol, host, reading)}",
                # No rule of the user's is for a URL with a password, such as to use ssh instead.
                f"url.{self.url}.insteadOf={self.url}",
                f"url.{self.url}.pushInsteadOf={self.url}",
            ]
            yield (reading,), [part for setting in settings for part in ("-c", setting)]
        finally:
            os.close(reading)


def without_userinfo(text: str) -> str:
    """Return a text in which no URL says who logs in, and with what password."""
    return _USERINFO.sub(r"\1", text)


def without_password(url: str) -> tuple[str, t.Optional[Login]]:
    """Return a URL without its user name and password, and these; the URL as it is, and None, if it has no password.

    Raises OptionError, which never shows the URL, if git could not be given the password.
    """
    found = _WEB_URL.fullmatch(url)
    if not found:
        if _PASSWORD.search(url):
            raise OptionError(
                "vault_git_repo has a password, which only https:// and http:// can use.",
                remedy="Take the password out of the URL.",
            )
        return url, None
    protocol, userinfo, host, path = found.groups()
    # With a slash in its password, what looks like host and port is the beginning of a user name and a password.
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
            "vault_git_repo has a user name or password that git cannot take: too long, or with a line end or NUL in it."
        )
    # As git tells the protocol, and so that the URL can be a part of a setting's name.
    path = path.replace("=", "%3D")
    return f"{protocol.lower()}://{host}{path}", Login(protocol.lower(), host, answer)


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not _DROPPED.fullmatch(name)}
    who = {
        f"GIT_{role}_{what}": value
        for role in ("AUTHOR", "COMMITTER")
        for what, value in (("NAME", "community.backblaze"), ("EMAIL", "noreply@localhost"))
    }
    # With SHA-256, which no service takes by default, git here says at once that it does not fit the repository.
    return {**who, **kept, "GIT_TERMINAL_PROMPT": "0", "GIT_DEFAULT_HASH": "sha1", "LC_ALL": "C"}


def _communicate(process: subprocess.Popen[bytes], given: bytes, command: str) -> tuple[bytes, bytes]:
    """Return what a command writes to stdout and stderr; StoreError if it takes too long."""
    started = time.monotonic()
    while True:
        try:
            return process.communicate(given, timeout=_LOOK_SECONDS)
        except subprocess.TimeoutExpired:
            limit = patience(PATIENCE)
            if time.monotonic() - started >= limit:
                _end(process)
                raise StoreError(
                    f"git {command} did not come to its end within {limit:.0f} seconds.", remedy="Run again."
                ) from None
        except BaseException:
            # Whoever ends this process means the command as well.
            _end(process)
            raise


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a command with all that it started, which would hold its output open."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
