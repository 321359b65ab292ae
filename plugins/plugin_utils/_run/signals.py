# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Stop a run on a signal, or if ansible-playbook, which started its process, is gone.

The keys of members that are being created are sealed, no more members are created, and the process writes a summary to
the user's stderr and ends. It does not write to Ansible's result queue any more. Often no process reads that queue
then, and this process holds the read end itself: a result that is larger than the pipe's buffer would block for ever.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sys
import termios
import threading
import time
import typing as t

from ansible.utils.display import Display

from ansible_collections.community.backblaze.plugins.plugin_utils._locations.waiting import hurry
from ansible_collections.community.backblaze.plugins.plugin_utils._progress import be_quiet, write
from ansible_collections.community.backblaze.plugins.plugin_utils._run.job import Stop

display = Display()

#: Returns the summary of a stopped task. Its argument is the reason why the task was stopped.
Summary = t.Callable[[str], str]

_POLL_SECONDS = 0.2
# Seconds for Ansible to read a result, before a signal ends the process.
_DELIVERY_SECONDS = 2.0
# The most bytes to read at once from the queue.
_PIPE = 65536
# The most seconds to wait for a stderr that nobody reads.
_STDERR_SECONDS = 5.0

# ansible-playbook imports actions before it forks the process for a task.
_imported_by = os.getpid()

# The request to end the process, and those to stop its runs. A process has one task, which may loop over several items.
_end = Stop()
_stops: list[Stop] = []
# The summary of a finished task whose result Ansible has not read yet.
_undelivered: t.Optional[Summary] = None
_leaving = threading.Lock()
_watching = False


def begin() -> None:
    """Begin a task or an item of a loop; end the process if it was stopped before."""
    global _undelivered  # noqa: PLW0603 - signal handlers belong to the process, and so does their state
    _undelivered = None
    if _end.asked and _is_worker():
        _leave(lambda reason: f"community.backblaze: The next item of the loop was not started, because {reason}.\n")


def stop_on_signals() -> Stop:
    """Return the stop request of a new run. From now on a signal makes this request, and does not end the process.

    Raises StoppedError if a signal has already arrived, such as during an earlier item of a loop.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        return stop
    _stops.append(stop)

    def ask(number: int, _frame: t.Any) -> None:
        _ask(f"it received {signal.Signals(number).name}")

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # An ignored signal, such as SIGHUP under nohup, stays ignored.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, ask)
    # The task keyword timeout stops this task or item only. Ansible's own handler would lose the report.
    if callable(signal.getsignal(signal.SIGALRM)):
        signal.signal(signal.SIGALRM, lambda _number, _frame: stop.ask("the timeout of the task is over"))
    _watch()
    _end.check()
    return stop


def stopped() -> bool:
    """Tell whether the process was stopped: then Ansible gets no result of its task."""
    return _end.asked


def deliver(summary: Summary) -> None:
    """Let Ansible get the result of a finished task; end the process with a summary if it was stopped."""
    global _undelivered  # noqa: PLW0603 - see begin
    if _end.asked and _is_worker():
        _leave(summary)
    _undelivered = summary
    _watch()


def _ask(reason: str) -> None:
    # Otherwise Ansible may still write its verbose output to the queue, such as each command of ssh.
    display.verbosity = 0
    be_quiet()
    for one in (_end, *_stops):
        one.ask(reason)
    hurry()


def _is_worker() -> bool:
    """Tell whether ansible-playbook has forked this process for a task."""
    return os.getpid() != _imported_by


def _watch() -> None:
    """Start the thread that watches ansible-playbook and the queue, once per process."""
    global _watching  # noqa: PLW0603 - see begin
    if _is_worker() and not _watching:
        _watching = True
        threading.Thread(target=_watch_parent, name="b2-watch", daemon=True).start()


def _watch_parent() -> None:
    """Stop the runs if ansible-playbook is gone; end a stopped process whose result nobody reads."""
    deadline, queued, since = 0.0, 0, time.monotonic()
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
        if not deadline:
            deadline = time.monotonic() + _DELIVERY_SECONDS
            if _undelivered is None:
                write(
                    f"community.backblaze: The run ends, because {_end.reason}. No more members are created. Keys "
                    "of creates that were sent are sealed first.\n",
                    _STDERR_SECONDS,
                )
        if _undelivered is not None and (orphan or time.monotonic() >= deadline):
            _leave(_undelivered)


def _queue() -> t.Any:
    """Return the read end of Ansible's result queue, None if it is unknown."""
    return getattr(getattr(display, "_final_q", None), "_reader", None)


def _queued() -> int:
    """Return the count of unread bytes in the queue, 0 if it is unknown."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return int.from_bytes(fcntl.ioctl(_queue().fileno(), termios.FIONREAD, bytes(4)), sys.byteorder)
    return 0


def _drain() -> None:
    """Empty a queue that nobody reads, so that no thread blocks for ever while it writes to the queue."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        while _queued():
            os.read(_queue().fileno(), _PIPE)


def _leave(summary: Summary) -> t.NoReturn:
    """Write the summary and end the process with all its threads. Every key that arrived is sealed before."""
    # Never released: the first thread that gets here ends the process.
    _leaving.acquire()
    # An error in the summary must not keep the process alive.
    with contextlib.suppress(Exception):
        write(summary(_end.reason), _STDERR_SECONDS)
    # Not 0, because ansible-playbook waits for the result of a process that succeeded.
    os._exit(1)
