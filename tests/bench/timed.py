# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Run one command and leave in a file how long it took, what it burned and how large it got.

    python timed.py REPORT process|tree COMMAND...

A small process between the bench and what it measures: Linux counts the size of whoever starts a command into that
command's peak.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time

# Often enough to see each stage of a run of some seconds; a look costs a few milliseconds, so runs that are sampled are
# not timed.
SAMPLE_SECONDS = 0.005


def tree_bytes(pid: int) -> int:
    """Return what a process and all below it hold: pages that several of them share are counted once (where the system
    tells)."""
    import psutil

    total = 0
    try:
        processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for process in processes:
        try:
            memory = process.memory_full_info()
        except psutil.Error:  # it ended meanwhile
            continue
        total += getattr(memory, "pss", memory.rss)
    return total


def main() -> int:
    """Run the command; end as it does."""
    report, mode, *command = sys.argv[1:]
    peak_tree = 0
    started = time.perf_counter()
    with subprocess.Popen(command) as process:
        while mode == "tree" and process.poll() is None:
            peak_tree = max(peak_tree, tree_bytes(process.pid))
            time.sleep(SAMPLE_SECONDS)
    seconds = time.perf_counter() - started
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    figures = {
        "seconds": seconds,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        # Of the largest process; in bytes on macOS, in KiB on other systems.
        "peak_bytes": usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
        "peak_tree_bytes": peak_tree,
    }
    with open(report, "w", encoding="utf-8") as file:
        json.dump(figures, file)
    return process.returncode


if __name__ == "__main__":
    sys.exit(main())
