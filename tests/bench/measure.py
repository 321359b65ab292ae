# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How figures are taken and kept: whole processes, over and over, and pyperf for what comes of it."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import time
import typing as t

import psutil
import pyperf

import project  # the end-to-end tests run real processes against the stand-in too
import standin

HERE = pathlib.Path(__file__).resolve().parent
LATENCY_MS = 50
#: What is in no target is repeated as long as this many seconds allow.
CELL_SECONDS = 120.0
_UNITS = {
    "seconds": "second",
    "cpu_seconds": "second",
    "server_seconds": "second",
    "peak_bytes": "byte",
    "peak_tree_bytes": "byte",
}


class Failed(Exception):
    """A run did not do its work, so there is no figure of it."""


@dataclasses.dataclass(frozen=True)
class Measured:
    """One run. Zero is: not measured.

    cpu_seconds: of the run and all below it. server_seconds: of the stand-in meanwhile. peak_bytes: of the largest
    process.
    peak_tree_bytes: of all processes together, pages that they share counted once.
    """

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    server_seconds: float = 0.0
    peak_bytes: int = 0
    peak_tree_bytes: int = 0
    output: str = ""
    calls: t.Mapping[str, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Cell:
    """What is measured again and again: ``once`` does all of it one time, proves that the work was done, and says what
    it cost.

    named: whether a target is about it, so that it is never repeated less often than was asked for.
    """

    name: str
    once: t.Callable[[], Measured]
    named: bool = False


class Figures:
    """All values that were measured, by cell and field."""

    def __init__(self) -> None:
        self._runs: dict[tuple[str, str], list[pyperf.Run]] = collections.defaultdict(list)
        self.calls: dict[str, t.Mapping[str, int]] = {}

    def __contains__(self, cell: str) -> bool:
        return (cell, "seconds") in self._runs

    def add(self, cell: str, measured: Measured) -> None:
        """Keep one run, together with what pyperf knows about the machine at this moment."""
        self.calls[cell] = measured.calls
        for field, unit in _UNITS.items():
            value = getattr(measured, field)
            if value:
                # Otherwise pyperf takes the memory of the bench for that of the run, and bytes for the seconds that it
                # took.
                known = {"mem_max_rss": measured.peak_bytes or 1, "duration": measured.seconds or 1.0}
                metadata = {"name": f"{cell}: {field}", "unit": unit, **known}
                self._runs[cell, field].append(pyperf.Run([value], metadata=metadata))

    def _benchmark(self, cell: str, field: str) -> pyperf.Benchmark:
        return pyperf.Benchmark(self._runs[cell, field])

    def count(self, cell: str) -> int:
        """Return how often a cell was measured."""
        return len(self._runs[cell, "seconds"])

    def median(self, cell: str, field: str = "seconds") -> float:
        """Return the median of a cell's field; 0 where it was not measured."""
        return float(self._benchmark(cell, field).median()) if (cell, field) in self._runs else 0.0

    def summary(self, cell: str) -> dict[str, t.Any]:
        """Return what the machine-readable report says of a cell: every field with its values, their median and
        spread."""
        fields: dict[str, t.Any] = {}
        for name, field in self._runs:
            if name == cell:
                benchmark = self._benchmark(cell, field)
                values = benchmark.get_values()
                spread = {
                    "median": benchmark.median(),
                    "mad": benchmark.median_abs_dev(),
                    "min": min(values),
                    "max": max(values),
                }
                fields[field] = {**spread, "values": list(values)}
        return {"cell": cell, **fields, "calls": dict(self.calls[cell])}

    def report(self) -> list[dict[str, t.Any]]:
        """Return the summary of every cell."""
        return [self.summary(cell) for cell in dict.fromkeys(cell for cell, _field in self._runs)]

    def dump(self, path: pathlib.Path) -> None:
        """Write everything in pyperf's own format, for ``python -m pyperf``."""
        pyperf.BenchmarkSuite([self._benchmark(*key) for key in self._runs]).dump(str(path), replace=True)


def interleave(cells: t.Sequence[Cell], figures: Figures, runs: int, say: t.Callable[[str], None]) -> None:
    """Measure all cells once, then all again: what is compared then has had the same minutes of the machine."""
    for turn in range(runs):
        for cell in cells:
            first = figures.median(cell.name) if turn else 0.0
            if turn and not cell.named and (turn + 1) * first > CELL_SECONDS:
                continue
            measured = cell.once()
            figures.add(cell.name, measured)
            took = f"{measured.seconds:.3f} s" if measured.seconds else f"{measured.peak_tree_bytes / 2**20:.0f} MiB"
            say(f"{cell.name} · run {turn + 1} · {took}")


class Site(project.Project):
    """A user's project directory and the stand-in that it works against."""

    def __init__(self, directory: pathlib.Path, server: standin.Control) -> None:
        super().__init__(directory, server.url)
        # Not the settings of whoever runs the bench.
        (directory / "ansible.cfg").write_text("")
        self.server = server
        self.group_ids = list(server.groups.values())
        self._process = psutil.Process(json.loads((directory / "standin.json").read_text())["pid"])

    def write_play(self, name: str, tasks: t.Sequence[t.Mapping[str, t.Any]], **variables: t.Any) -> pathlib.Path:
        """Write a play of these tasks."""
        own = {"ansible_python_interpreter": "{{ ansible_playbook_python }}", **variables}
        path = self.directory / f"{name}.yml"
        path.write_text(
            json.dumps(
                [
                    {
                        "name": name,
                        "hosts": "localhost",
                        "connection": "local",
                        "gather_facts": False,
                        "vars": own,
                        "tasks": tasks,
                    }
                ]
            )
        )
        return path

    def measure(self, *command: str, mode: str = "process", **environment: str) -> Measured:
        """Run a command to its end; Failed if that is a bad one. Mode tree samples memory, which takes time, so it
        takes none."""
        report, output = self.directory / "timed.json", self.directory / "output"
        calls, server_seconds = self._calls(), self._server_seconds()
        # What earlier runs left to be written is not for this one to wait for.
        os.sync()
        with open(output, "wb") as file:
            status = subprocess.run(
                [sys.executable, str(HERE / "timed.py"), str(report), mode, *command],
                cwd=self.directory,
                env=self.environment(**environment),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                check=False,
            ).returncode
        text = output.read_text(errors="replace")
        if status:
            raise Failed(f"{' '.join(command)} ended with {status}:\n{text[-2000:]}")
        figures = json.loads(report.read_text())
        timed = {"seconds": 0.0} if mode == "tree" else {"server_seconds": self._server_seconds() - server_seconds}
        made = collections.Counter(self._calls())
        made.subtract(calls)
        return Measured(
            **{**figures, **timed}, output=text, calls={name: count for name, count in sorted(made.items()) if count}
        )

    def probe(self, *arguments: str) -> Measured:
        """Measure something inside a process of its own, see probe.py."""
        command = [sys.executable, str(HERE / "probe.py"), *arguments]
        done = subprocess.run(command, cwd=self.directory, env=self.environment(), stdout=subprocess.PIPE, check=False)
        if done.returncode:
            raise Failed(f"probe {arguments} ended with {done.returncode}")
        return Measured(seconds=json.loads(done.stdout)["seconds"], output=done.stdout.decode())

    def _calls(self) -> dict[str, int]:
        return dict(self.server.state()["calls"])

    def _server_seconds(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)


@contextlib.contextmanager
def site(directory: pathlib.Path, *groups: str) -> t.Iterator[Site]:
    """Make a project directory with a stand-in of its own."""
    directory.mkdir(parents=True)
    with project.serving(directory, *groups, latency_ms=LATENCY_MS) as server:
        yield Site(directory, server)


class Clock:
    """Says on standard error what was just measured, and when."""

    def __init__(self) -> None:
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self._started

    def say(self, line: str) -> None:
        """Say it."""
        minutes, seconds = divmod(int(self.seconds), 60)
        print(f"{minutes:3}:{seconds:02}  {line}", file=sys.stderr, flush=True)
