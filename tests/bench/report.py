# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the figures come to: names, ratios and tables."""

from __future__ import annotations

import dataclasses
import os
import platform
import typing as t

import ansible.release

from measure import LATENCY_MS, Figures
from provisioning import cores

EMPTY = "c: empty play"
ENCRYPTION = "c: one vault encryption"
WRITE = "c: one durable write"
CALL = f"c: one call at {LATENCY_MS} ms"
URI_LOOP = "b: uri and encrypt_string"
MODULE_LOOP = "b: our module for one member"
EMPTY_BESIDE = "d: empty play"
CONVERGED = "d: converged run"
COLD = "d: converged run without its index"
LISTING = "d: list calls alone"
EMPTY_TREE = "d: empty play, all processes"
CONVERGED_TREE = "d: converged run, all processes"
NO_HOSTS = "e: no hosts"
VARIANTS = ("plain", "constructed", "cached")

FLOOR_TARGET = 1.3
LOOP_TARGET = 50
ABOVE_LISTING_TARGET = 1.0
MEMORY_TARGET = 1.5
BARE_TARGET = 1.2
CALLS_TARGET = {"b2_authorize_account": 1, "b2_list_group_members": 5}


def provisioning_cell(size: int, concurrency: int) -> str:
    """Name a cell of section a."""
    return f"a: {size} members, {concurrency} at once"


def hosts_cell(count: int, variant: str, who: str = "") -> str:
    """Name a cell of section e."""
    return f"e: {count} hosts, {variant}{who and ', '}{who}"


@dataclasses.dataclass
class Table:
    """A table. A cell is shown as the column's format says; None is a dash."""

    title: str
    columns: t.Sequence[tuple[str, str]]
    rows: t.Sequence[t.Sequence[t.Any]]
    notes: t.Sequence[str] = ()

    def as_dict(self) -> dict[str, t.Any]:
        """Return it as JSON has it, figures as they are."""
        return {
            "title": self.title,
            "rows": [dict(zip((name for name, _format in self.columns), row, strict=True)) for row in self.rows],
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        lines = [[name for name, _format in self.columns]]
        lines += [
            [
                "-" if value is None else format(value, form)
                for value, (_name, form) in zip(row, self.columns, strict=True)
            ]
            for row in self.rows
        ]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        texts = (
            {position for position, value in enumerate(self.rows[0]) if isinstance(value, str)} if self.rows else set()
        )
        shown = [
            "  ".join(
                cell.ljust(width) if position in texts else cell.rjust(width)
                for position, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        ]
        return "\n".join([self.title, "=" * len(self.title), *shown, *self.notes])


def facts() -> dict[str, t.Any]:
    """Return what the figures depend on."""
    return {
        "python": platform.python_version(),
        "ansible-core": ansible.release.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        "cores": cores(),
        "load": round(os.getloadavg()[0], 2),
    }


def heading(machine: t.Mapping[str, t.Any]) -> str:
    """Return the first line."""
    line = ", ".join(f"{name} {value}" for name, value in machine.items())
    busy = (
        "\nThis machine is busy: the figures will be worse than they are."
        if machine["load"] > 0.5 * machine["cores"]
        else ""
    )
    return f"{line}, {LATENCY_MS} ms of latency{busy}"


def floor(figures: Figures, size: int, concurrency: int) -> float:
    """Return the seconds that nobody can be under: the network's or the encryption's, and a play that does nothing."""
    network = size * LATENCY_MS / 1000 / concurrency
    sealing = size * figures.median(ENCRYPTION) / cores()
    return max(network, sealing) + figures.median(EMPTY)


def loop_seconds(figures: Figures, looped: int) -> float | None:
    """Return the seconds a member of the faster of the two loops, None where they were not measured."""
    measured = [figures.median(name) / looped for name in (URI_LOOP, MODULE_LOOP) if name in figures]
    return min(measured, default=None)


def _spread(figures: Figures, cell: str) -> tuple[int, float, float, float, float]:
    seconds = figures.summary(cell)["seconds"]
    return figures.count(cell), seconds["median"], seconds["mad"], seconds["min"], seconds["max"]


_SPREAD = (("runs", "d"), ("median s", ".3f"), ("± MAD", ".3f"), ("min s", ".3f"), ("max s", ".3f"))


def floor_table(figures: Figures) -> Table:
    """Section c."""
    rows = [(name[3:], *_spread(figures, name)) for name in (EMPTY, ENCRYPTION, WRITE, CALL)]
    note = (
        f"floor = max(members x {LATENCY_MS} ms / at once, members x one encryption / {cores()} cores) + empty play; "
        "the write is not in it, nor what a call takes longer."
    )
    columns = (("what", ""), ("runs", "d"), ("median s", ".5f"), ("± MAD", ".5f"), ("min s", ".5f"), ("max s", ".5f"))
    return Table("c. What the floor is made of", columns, rows, (note,))


def loops_table(figures: Figures, looped: int) -> Table:
    """Section b."""
    rows = [
        (name[3:], *_spread(figures, name), figures.median(name) / looped * 1000) for name in (URI_LOOP, MODULE_LOOP)
    ]
    return Table(
        f"b. {looped} members as it is done now, in a loop over", (("loop", ""), *_SPREAD, ("ms a member", ".1f")), rows
    )


def provisioning_table(figures: Figures, sizes: t.Sequence[int], concurrency: t.Sequence[int], looped: int) -> Table:
    """Section a."""
    loop = loop_seconds(figures, looped)
    rows = []
    for size in sizes:
        for workers in concurrency:
            cell = provisioning_cell(size, workers)
            seconds, least = figures.median(cell), floor(figures, size, workers)
            rows.append(
                (
                    size,
                    workers,
                    *_spread(figures, cell),
                    figures.median(cell, "cpu_seconds"),
                    figures.median(cell, "server_seconds"),
                    least,
                    seconds / least,
                    seconds / size * 1000,
                    loop and loop / (seconds / size),
                )
            )
    columns = (
        ("members", ",d"),
        ("at once", "d"),
        *_SPREAD,
        ("CPU s", ".2f"),
        ("stand-in's", ".2f"),
        ("floor s", ".3f"),
        ("x floor", ".2f"),
        ("ms a member", ".2f"),
        ("x faster than b", ".1f"),
    )
    return Table("a. New members with sealed keys, one task b2_group_members", columns, rows)


def converged_table(figures: Figures) -> Table:
    """Section d."""
    rows = []
    for cell, whole in ((EMPTY_BESIDE, EMPTY_TREE), (CONVERGED, CONVERGED_TREE), (COLD, ""), (LISTING, "")):
        memory = [figures.median(*key) / 2**20 or None for key in ((cell, "peak_bytes"), (whole, "peak_tree_bytes"))]
        rows.append((cell[3:], *_spread(figures, cell), figures.median(cell, "cpu_seconds") or None, *memory))
    beside = figures.median(CONVERGED) - figures.median(EMPTY_BESIDE)
    calls = f"{beside - figures.median(LISTING):.3f} s more than its list calls alone"
    note = f"The converged run takes {beside:.3f} s more than an empty play, which is {calls}."
    columns = (("what", ""), *_SPREAD, ("CPU s", ".2f"), ("largest MiB", ".1f"), ("all MiB", ".1f"))
    return Table("d. A run that finds 5,000 members as they are to be", columns, rows, (note,))


def calls_table(figures: Figures) -> Table:
    """The calls of section d."""
    return Table("d. Its calls", (("operation", ""), ("calls", "d")), list(figures.calls[CONVERGED].items()))


def inventory_table(figures: Figures, counts: t.Sequence[int]) -> Table:
    """Section e."""
    first = figures.median(NO_HOSTS, "cpu_seconds"), figures.median(NO_HOSTS, "peak_bytes") / 2**20
    rows: list[t.Sequence[t.Any]] = [("", "no hosts", *_spread(figures, NO_HOSTS), None, *first, None)]
    for count in counts:
        rows.append(
            (f"{count:,}", "list calls alone", *_spread(figures, hosts_cell(count, "listing")), None, None, None, None)
        )
        for variant in VARIANTS:
            # What is cached is plain.
            bare = hosts_cell(count, "plain" if variant == "cached" else variant, "bare")
            cells = [hosts_cell(count, variant, "ours")] + [bare] * (variant != "cached")
            for cell in cells:
                seconds, memory = (
                    figures.median(cell, field) / figures.median(bare, field) for field in ("seconds", "peak_bytes")
                )
                ours = cell != bare
                name = f"{variant}, {'our plugin' if ours else 'bare plugin'}"
                burned, peak = figures.median(cell, "cpu_seconds"), figures.median(cell, "peak_bytes") / 2**20
                rows.append(
                    (
                        f"{count:,}",
                        name,
                        *_spread(figures, cell),
                        seconds if ours else None,
                        burned,
                        peak,
                        memory if ours else None,
                    )
                )
    columns = (
        ("hosts", ""),
        ("what", ""),
        *_SPREAD,
        ("x bare's s", ".2f"),
        ("CPU s", ".2f"),
        ("MiB", ".1f"),
        ("x bare's MiB", ".2f"),
    )
    return Table("e. The inventory, as ansible-inventory --graph", columns, rows)


def targets_table(figures: Figures, looped: int) -> Table:
    """What was to be reached, and whether it is."""
    rows: list[tuple[str, str, str, str]] = []

    def row(
        what: str, wanted: str, figure: float | None, reached: t.Callable[[float], bool], shown: str = ".2f"
    ) -> None:
        verdict = "not measured" if figure is None else "reached" if reached(figure) else "NOT REACHED"
        rows.append((what, wanted, "-" if figure is None else format(figure, shown), verdict))

    loop = loop_seconds(figures, looped)
    cells = [(f"{size:,} members, 16 at once", size, provisioning_cell(size, 16)) for size in (1000, 5000)]
    for what, size, cell in cells:
        row(
            f"a. {what}: x floor",
            f"<= {FLOOR_TARGET}",
            figures.median(cell) / floor(figures, size, 16) if cell in figures else None,
            lambda x: x <= FLOOR_TARGET,
        )
    for what, size, cell in cells:
        faster = loop / (figures.median(cell) / size) if loop and cell in figures else None
        row(f"a. {what}: x faster a member than b", f">= {LOOP_TARGET}", faster, lambda x: x >= LOOP_TARGET, ".1f")
    measured = CONVERGED in figures
    above = figures.median(CONVERGED) - figures.median(EMPTY_BESIDE) - figures.median(LISTING)
    row(
        "d. seconds above an empty play and the list calls",
        f"<= {ABOVE_LISTING_TARGET}",
        above if measured else None,
        lambda x: x <= ABOVE_LISTING_TARGET,
    )
    calls = figures.calls.get(CONVERGED, {})
    row(
        "d. calls other than one authorize and five lists",
        "0",
        _differing(calls) if measured else None,
        lambda x: x == 0,
        ".0f",
    )
    for what, cell, than, field in (
        ("the largest process", CONVERGED, EMPTY_BESIDE, "peak_bytes"),
        ("all processes", CONVERGED_TREE, EMPTY_TREE, "peak_tree_bytes"),
    ):
        ratio = figures.median(cell, field) / figures.median(than, field) if measured else None
        row(f"d. memory of {what}: x an empty play's", f"<= {MEMORY_TARGET}", ratio, lambda x: x <= MEMORY_TARGET)
    for count in (5000, 50000):
        ours, bare = hosts_cell(count, "plain", "ours"), hosts_cell(count, "plain", "bare")
        for what, field in (("seconds", "seconds"), ("memory", "peak_bytes")):
            ratio = figures.median(ours, field) / figures.median(bare, field) if ours in figures else None
            row(
                f"e. {count:,} hosts, plain, {what}: x the bare plugin",
                f"<= {BARE_TARGET}",
                ratio,
                lambda x: x <= BARE_TARGET,
            )
    return Table("Targets", (("target", ""), ("wanted", ""), ("figure", ""), ("verdict", "")), rows)


def _differing(calls: t.Mapping[str, int]) -> int:
    return sum(abs(calls.get(name, 0) - CALLS_TARGET.get(name, 0)) for name in {*calls, *CALLS_TARGET})
