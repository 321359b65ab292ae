# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Read and write a vault directory on the task's target host.

Each message is one run of the module ``b2_vault_files`` on the host, over the task's own connection.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import contextvars
import re
import threading
import time
import typing as t

from ansible.errors import AnsibleError

from ansible_collections.community.backblaze.plugins.module_utils._bundle import pack, unpack
from ansible_collections.community.backblaze.plugins.module_utils._errors import StoreError
from ansible_collections.community.backblaze.plugins.module_utils._files import digest
from ansible_collections.community.backblaze.plugins.module_utils._lease import Claim, Lease, read_lease
from ansible_collections.community.backblaze.plugins.module_utils._vault_mode import PRIVATE, Modes
from ansible_collections.community.backblaze.plugins.plugin_utils._locations.remote import Change, Contents, Written
from ansible_collections.community.backblaze.plugins.plugin_utils._locations.waiting import wait_until

MODULE = "community.backblaze.b2_vault_files"

#: Seconds that one message may take. Thousands of keys over a slow line take less.
PATIENCE = 600.0
# Of the output of a module that crashed.
_LINES_SHOWN = 3
_CHARACTERS_SHOWN = 500
_SSH_NOISE = re.compile(r"(?:Shared connection|Connection) to .* closed")

#: Runs the module on the target with these arguments and returns its result.
Execute = t.Callable[[dict[str, t.Any]], t.Mapping[str, t.Any]]


class Target:
    """A vault directory on a host; see Remote. host: its name for messages. path: absolute. modes: of new files."""

    takes_index = True

    def __init__(self, host: str, path: str, execute: Execute, modes: Modes = PRIVATE) -> None:
        self.name = f"{host}:{path}"
        self._host = host
        self._path = path
        self._mode = {"mode": f"{modes.file:04o}"} if modes.given else {}
        self._execute = execute
        # ansible-core keeps data of the task in context variables, which the threads that send messages do not have.
        self._context = contextvars.copy_context()
        self._lease: dict[str, t.Any] = {}
        self.digest = digest

    def read(self, known: t.Mapping[str, str]) -> Contents:
        """Return the files on the host; see Remote."""
        result = self._run("read", bundle=pack(known))
        with self._understood():
            found = unpack(str(result["bundle"]))
            space, names = found["room"]
            return Contents(
                files={path: text.encode("latin-1") for path, text in found["files"].items()},
                paths=frozenset(map(str, found["paths"])),
                obstacles={path: str(kind) for path, kind in found["obstacles"].items()},
                exists=bool(found["exists"]),
                room=(int(space), None if names is None else int(names)),
                # From their age, because the clock of the host may be wrong.
                times={path: time.time() - age for path, age in found["ages"].items() if isinstance(age, float)},
            )

    def write(self, changes: t.Mapping[str, Change], gone: t.Collection[str]) -> Written:
        """Write files on the host; see Remote."""
        files = {
            path: {"data": change.data.decode("latin-1"), "replaces": sorted(change.replaces)}
            for path, change in changes.items()
        }
        result = self._run("write", bundle=pack({"files": files, "gone": list(gone)}), **self._lease)
        with self._understood():
            return Written(
                {path: str(reason) for path, reason in unpack(str(result["bundle"])).items()}, _holder(result)
            )

    def prove_writing(self) -> None:
        """Write a file on the host as a key is written, and remove it."""
        self._run("write", bundle=pack({"probe": True}))

    def claim(self, group: str, lease: Lease, instead_of: str) -> Claim:
        """Claim the lease of a Group; see Remote."""
        self._lease = {"group": group, "lease": lease.as_text()}
        result = self._run("claim", **self._lease, instead_of=instead_of)
        with self._understood():
            return Claim(bool(result["ours"]), _holder(result))

    def refresh(self) -> t.Optional[Lease]:
        """Refresh the lease, as each write does; see Remote."""
        return self.write({}, ()).holder

    def release(self) -> None:
        """Give the lease up."""
        lease, self._lease = self._lease, {}
        self._run("release", **lease)

    def peek(self, group: str) -> t.Optional[Lease]:
        """Return the run that holds a Group, by lock or lease; see Remote."""
        return _holder(self._run("peek", group=group))

    def _run(self, operation: str, **arguments: t.Any) -> t.Mapping[str, t.Any]:
        whole = {"path": self._path, "operation": operation, **self._mode, **arguments}
        try:
            result = self._answered(whole)
        except (AnsibleError, OSError) as exc:
            raise StoreError(
                f"{self.name} cannot be reached ({str(exc).strip().rstrip('.')}).", remedy="Fix that, then run again."
            ) from exc
        if result.get("failed") or result.get("unreachable"):
            raise StoreError(f"On {self._host}: {_why(result)}", remedy="Fix that, then run again.")
        return result

    def _answered(self, arguments: dict[str, t.Any]) -> t.Mapping[str, t.Any]:
        """Return the result of the module; StoreError if the host does not answer in time."""
        answer: concurrent.futures.Future[t.Mapping[str, t.Any]] = concurrent.futures.Future()

        def execute() -> None:
            try:
                # Each thread needs a copy: a context can be entered by one thread at a time.
                answer.set_result(self._context.copy().run(self._execute, arguments))
            except BaseException as exc:  # noqa: BLE001 - raised by the thread that waits
                answer.set_exception(exc)

        # A daemon, because a thread of an executor would keep the process from ending while a host does not answer.
        threading.Thread(target=execute, name="b2-message", daemon=True).start()
        wait_until(
            lambda seconds: bool(concurrent.futures.wait([answer], seconds).done),
            PATIENCE,
            f"{self.name} did not answer",
        )
        return answer.result()

    @contextlib.contextmanager
    def _understood(self) -> t.Iterator[None]:
        """Turn the errors of reading an invalid answer into StoreError."""
        try:
            yield
        except (LookupError, ValueError, TypeError, AttributeError, OverflowError, RecursionError) as exc:
            raise StoreError(
                f"{self.name} sent an invalid answer ({type(exc).__name__}).",
                remedy="Find out which program answers on the host, then run again.",
            ) from exc


def _why(result: t.Mapping[str, t.Any]) -> str:
    """Return why a module failed: its message, and the end of its output if it crashed."""
    message = str(result.get("msg") or "the module failed without a message").strip()
    # With a terminal, ssh sends stderr as part of stdout.
    written = str(result.get("module_stderr") or "").strip() + "\n" + str(result.get("module_stdout") or "").strip()
    lines = [line.strip() for line in written.splitlines() if line.strip() and not _SSH_NOISE.match(line)]
    return (
        f"{message.rstrip('.')}. It wrote: {' '.join(lines[-_LINES_SHOWN:])[-_CHARACTERS_SHOWN:]}" if lines else message
    )


def _holder(result: t.Mapping[str, t.Any]) -> t.Optional[Lease]:
    text = result.get("holder")
    return None if text is None else read_lease(str(text))
