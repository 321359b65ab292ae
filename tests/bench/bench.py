# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Measure provisioning and the inventory at scale, each beside what it is to be compared with. See README.md."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import shutil
import sys
import typing as t
from functools import partial

HERE = pathlib.Path(__file__).resolve().parent
# None of these is a package: the copy of the checkout, the project of the end-to-end tests, the stand-in and its
# ledger.
sys.path[1:1] = [str(HERE.parent / name) for name in ("tools", "e2e", "utils")]

import inventories  # noqa: E402  # found on the path above
import provisioning  # noqa: E402  # found on the path above
import report  # noqa: E402  # found on the path above
import tree  # noqa: E402  # found on the path above
from measure import LATENCY_MS, Cell, Clock, Failed, Figures, interleave, site  # noqa: E402  # found on the path above

WORK = tree.BUILD / "bench"
SECTIONS = "abcde"
SIZES = (50, 200, 1000, 5000)
CONCURRENCY = (1, 8, 16, 32)
HOSTS = (5000, 50000)
#: A Group holds no more.
GROUP = 5000
LOOPED = 50
#: What the targets of provisioning are about.
NAMED = {(1000, 16), (5000, 16)}


@dataclasses.dataclass(frozen=True)
class Choice:
    """What is to be measured."""

    runs: int
    sections: frozenset[str]
    sizes: tuple[int, ...]
    concurrency: tuple[int, ...]
    hosts: tuple[int, ...]


def chosen(environment: t.Mapping[str, str]) -> Choice:
    """Read the choice from the environment; ValueError where nothing is left to measure."""

    def among(name: str, known: t.Sequence[int]) -> tuple[int, ...]:
        wanted = {int(number) for number in re.findall(r"\d+", environment.get(name, ""))}
        return tuple(number for number in known if number in wanted or not wanted)

    sizes, concurrency, hosts = (
        among("BENCH_SIZES", SIZES),
        among("BENCH_CONCURRENCY", CONCURRENCY),
        among("BENCH_SIZES", HOSTS),
    )
    empty = {section for section, cells in (("a", sizes and concurrency), ("e", hosts)) if not cells}
    sections = (set(SECTIONS) & set(environment.get("BENCH_ONLY") or SECTIONS)) - empty
    if not sections:
        raise ValueError("nothing is left to measure: look at BENCH_ONLY, BENCH_SIZES and BENCH_CONCURRENCY")
    return Choice(int(environment.get("BENCH_RUNS") or 3), frozenset(sections), sizes, concurrency, hosts)


def provision(choice: Choice, figures: Figures, clock: Clock) -> None:
    """Sections a, b and c, all in the same rounds."""
    with site(WORK / "work" / "abc", "hosting") as place:
        cells = [
            Cell(report.EMPTY, partial(provisioning.empty, place), named=True),
            Cell(report.ENCRYPTION, partial(place.probe, "encrypt"), named=True),
            Cell(report.WRITE, partial(place.probe, "write", str(place.directory)), named=True),
            Cell(report.CALL, partial(place.probe, "call"), named=True),
        ]
        if "b" in choice.sections:
            cells += [
                Cell(report.URI_LOOP, partial(provisioning.uri_loop, place, LOOPED), named=True),
                Cell(report.MODULE_LOOP, partial(provisioning.module_loop, place, LOOPED), named=True),
            ]
        if "a" in choice.sections:
            cells += [
                Cell(
                    report.provisioning_cell(size, concurrency),
                    partial(provisioning.our_task, place, size, concurrency),
                    named=(size, concurrency) in NAMED,
                )
                for size in choice.sizes
                for concurrency in choice.concurrency
            ]
        # Not counted: the first of each kind compiles what it imports.
        provisioning.our_task(place, 20, 4)
        if "b" in choice.sections:
            provisioning.uri_loop(place, 2)
            provisioning.module_loop(place, 2)
        interleave(cells, figures, choice.runs, clock.say)


def converge(choice: Choice, figures: Figures, clock: Clock) -> None:
    """Section d."""
    with site(WORK / "work" / "d", "hosting") as place:
        clock.say(f"provisioning {GROUP} members, whose next run has nothing to do")
        converged = provisioning.Converged(place, GROUP)
        cells = [
            Cell(report.EMPTY_BESIDE, partial(provisioning.empty, place), named=True),
            Cell(report.CONVERGED, converged.run, named=True),
            Cell(report.COLD, converged.run_without_index),
            Cell(report.LISTING, partial(place.probe, "list", *place.group_ids), named=True),
            Cell(report.EMPTY_TREE, partial(provisioning.empty, place, "tree"), named=True),
            Cell(report.CONVERGED_TREE, partial(converged.run, "tree"), named=True),
        ]
        interleave(cells, figures, choice.runs, clock.say)


def load(choice: Choice, figures: Figures, clock: Clock) -> None:
    """Section e."""
    with contextlib.ExitStack() as stack:
        cells: list[Cell] = []
        for count in choice.hosts:
            groups = [f"hosting{number}:{GROUP}" for number in range(count // GROUP)]
            place = stack.enter_context(site(WORK / "work" / f"e{count}", *groups))
            hosts = inventories.Hosts(place, count)
            clock.say(f"preparing {count} hosts")
            hosts.prepare()
            if not cells:
                cells.append(Cell(report.NO_HOSTS, hosts.nothing, named=True))
                hosts.nothing()
                hosts.ours("constructed")
            cells.append(Cell(report.hosts_cell(count, "listing"), partial(place.probe, "list", *place.group_ids)))
            for variant in report.VARIANTS:
                for who, run in (("ours", hosts.ours), ("bare", hosts.bare)):
                    if (who, variant) != ("bare", "cached"):
                        cells.append(
                            Cell(
                                report.hosts_cell(count, variant, who), partial(run, variant), named=variant == "plain"
                            )
                        )
        interleave(cells, figures, choice.runs, clock.say)


def main() -> int:
    """Measure what is chosen, print a table for each section and one with the targets, and write it all down."""
    choice = chosen(os.environ)
    tree.make()
    os.environ.update(tree.environment())
    for name in ("PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED"):
        os.environ.pop(name, None)
    shutil.rmtree(WORK, ignore_errors=True)
    figures, clock = Figures(), Clock()
    facts = report.facts()
    print(report.heading(facts), flush=True)
    tables = []

    def show(table: report.Table) -> None:
        tables.append(table)
        print(f"\n{table}", flush=True)

    if choice.sections & set("abc"):
        provision(choice, figures, clock)
        show(report.floor_table(figures))
        if "b" in choice.sections:
            show(report.loops_table(figures, LOOPED))
        if "a" in choice.sections:
            show(report.provisioning_table(figures, choice.sizes, choice.concurrency, LOOPED))
    if "d" in choice.sections:
        converge(choice, figures, clock)
        show(report.converged_table(figures))
        show(report.calls_table(figures))
    if "e" in choice.sections:
        load(choice, figures, clock)
        show(report.inventory_table(figures, choice.hosts))
    show(report.targets_table(figures, LOOPED))

    written = {
        "machine": facts,
        "latency_ms": LATENCY_MS,
        "tables": [table.as_dict() for table in tables],
        "figures": figures.report(),
    }
    (WORK / "bench.json").write_text(json.dumps(written, indent=2) + "\n")
    figures.dump(WORK / "pyperf.json")
    shutil.rmtree(WORK / "work")
    print(
        f"\n{clock.seconds / 60:.0f} minutes; figures: {WORK / 'bench.json'}, for python -m pyperf: "
        f"{WORK / 'pyperf.json'}"
    )
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (Failed, ValueError) as error:
        sys.exit(f"bench: {error}")
