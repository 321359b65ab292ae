# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A task that is stopped from outside: by a signal, or because ansible-playbook, which started its process, is gone.

The keys of members that are being created are sealed, no more members are created, and the process writes a summary to
the user's stderr and ends. It does not write to Ansible's result queue any more. Often no process reads that queue then,
and this process holds the read end itself: a result that is larger than the pipe's buffer would block for ever.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import sys
import termios
import threading
import time
import typing as t

from ansible.utils.display import Display

from ansible_collections.community.backblaze.plugins.module_utils._errors import StoppedError
from ansible_collections.community.backblaze.plugins.plugin_utils._run.job import Stop

display = Display()

#: Makes the summary for the user out of the reason why the task was stopped.
Summary = t.Callable[[str], str]

_POLL_SECONDS = 0.2
# So long a signal waits for Ansible to read a result that is being delivered.
_DELIVERY_SECONDS = 2.0
# So long a message to another location may take then.
_STOPPED_SECONDS = 30.0
# Bytes that are read at once from a queue that nobody else reads.
_PIPE = 65536
# So long a stderr that nobody reads is waited for, and so much is written to it at once without blocking.
_STDERR_SECONDS = 5.0
_CHUNK = 512


def _duplicate(descriptor: int) -> int:
    try:
        return os.dup(descriptor)
    except OSError:
        return -1


# ansible-playbook imports actions before it forks the process for a task. From ansible-core 2.19 on that process has
# /dev/null as its own stderr, and the user's one survives the fork only as a duplicate.
_imported_by = os.getpid()
_stderr = _duplicate(2)

# Why the process is to end, once it is. One process does one task, which may be a loop with several items.
_end = Stop()
_stops: list[Stop] = []
# What is left to be delivered: the summary of a task that is done.
_undelivered: t.Optional[Summary] = None
_leaving = threading.Lock()
_watching = False


def begin() -> None:
    """Begin a task or an item of a loop; if the process was stopped by now, end it instead."""
    global _undelivered  # noqa: PLW0603 - handlers of signals belong to the process, and so does what they look at
    _undelivered = None
    if _end.asked and _is_worker():
        _leave(lambda reason: f"community.backblaze: The next item of the loop was not begun, because {reason}.\n")


def patience(seconds: float) -> float:
    """Return how long one message may take: less when the process is stopped, as a key in memory has to get to the fallback directory in time."""
    return min(seconds, _STOPPED_SECONDS) if _end.asked else seconds


def heed(stop: Stop) -> None:
    """From now on let a signal end the run after the keys of members that are being created are sealed, instead of at once.

    It stays so to the end of this process.

    Raises StoppedError if the signal has come already, such as for an earlier item of a loop.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    _stops.append(stop)

    def ask(number: int, _frame: t.Any) -> None:
        _ask(f"it was ended by {signal.Signals(number).name}")

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # A signal that is ignored, as SIGHUP is under nohup, stays ignored.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, ask)
    # The task's keyword timeout is for this task or item only. Ansible itself would throw the report away.
    if callable(signal.getsignal(signal.SIGALRM)):
        signal.signal(signal.SIGALRM, lambda _number, _frame: stop.ask("the timeout of the task is over"))
    _watch()
    if _end.asked:
        raise StoppedError


def stopped() -> bool:
    """Tell whether the process is about to end, so that Ansible gets no result of its task."""
    return _end.asked


def deliver(summary: Summary) -> None:
    """Return, so that Ansible gets the result of a task that is done; end the process instead if it was stopped."""
    global _undelivered  # noqa: PLW0603 - see begin
    if _end.asked and _is_worker():
        _leave(summary)
    _undelivered = summary
    _watch()


def _ask(reason: str) -> None:
    # Else Ansible itself would go on to write to the queue what it does, such as each command of ssh.
    display.verbosity = 0
    for one in (_end, *_stops):
        one.ask(reason)


def _is_worker() -> bool:
    """Tell whether ansible-playbook has forked this process for a task."""
    return os.getpid() != _imported_by


def _watch() -> None:
    """Start the thread that notices the end of ansible-playbook, if it is not running yet."""
    global _watching  # noqa: PLW0603 - see begin
    if _is_worker() and not _watching:
        _watching = True
        threading.Thread(target=_watch_parent, name="b2-watch", daemon=True).start()


def _watch_parent() -> None:
    told, deadline = False, 0.0
    queued, since = 0, time.monotonic()
    while True:
        time.sleep(_POLL_SECONDS)
        waiting = _queued()
        if waiting != queued:
            queued, since = waiting, time.monotonic()
        orphan = os.getppid() != _imported_by
        if orphan:
            _ask("ansible-playbook is gone")
        if not _end.asked:
            continue
        if orphan or (queued and time.monotonic() - since >= _DELIVERY_SECONDS):
            _drain()
        if not told:
            told, deadline = True, time.monotonic() + _DELIVERY_SECONDS
            if _undelivered is None:
                _write(
                    f"community.backblaze: The run ends, because {_end.reason}. No more members are created, and keys under way are sealed first.\n"
                )
        if _undelivered is not None and (orphan or time.monotonic() >= deadline):
            _leave(_undelivered)


def _queue() -> t.Any:
    """Return the end of Ansible's result queue that ansible-playbook reads, None if that cannot be told."""
    return getattr(getattr(display, "_final_q", None), "_reader", None)


def _queued() -> int:
    """Return how many bytes in the queue are not read yet, 0 if that cannot be told."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return int.from_bytes(fcntl.ioctl(_queue().fileno(), termios.FIONREAD, bytes(4)), sys.byteorder)
    return 0


def _drain() -> None:
    """Empty a queue that nobody reads, so that no thread waits for ever in the middle of what it does because it has shown something."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        while _queued():
            os.read(_queue().fileno(), _PIPE)


def _leave(summary: Summary) -> t.NoReturn:
    """Write the summary and end this process, whatever its other threads do: each key that arrived is sealed by now."""
    # Never released: the first thread here ends the process.
    _leaving.acquire()
    # A summary that cannot be made or written must not keep the process.
    with contextlib.suppress(Exception):
        _write(summary(_end.reason))
    # Not 0: ansible-playbook waits for the result of a process that ended well.
    os._exit(1)


def _write(text: str) -> None:
    """Write to the user's stderr, as long as something takes it."""
    rest = text.encode("utf-8", "replace")
    deadline = time.monotonic() + _STDERR_SECONDS
    with contextlib.suppress(OSError, ValueError):
        while rest and select.select([], [_stderr], [], max(0.0, deadline - time.monotonic()))[1]:
            rest = rest[os.write(_stderr, rest[:_CHUNK]) :]
