"""The project beside its peers, on one machine, in turn, against a real OpenSSH server.

    python -m benchmarks.fetch [--rounds N] [--size MB] [--only NAME ...]
    python -m benchmarks.fetch --growth

Each side is a whole process, from its start to its exit, and fetches from the same server on
loopback into the same file system. A round lets the sides of every work run once, each time
another one first: those that a goal is about, and with --full all of them. What a side downloaded
is compared with the source after the clock stops: a run with other bytes, or that failed, does not
count and is shown. The exit code is 0 when all runs were right, whatever the figures; 1 when one
was not; 2 for a wrong command line.
"""

from __future__ import annotations

import argparse
import compileall
import contextlib
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import bucket, growth, machine, report, works
from benchmarks.arena import Arena
from benchmarks.data import MB, Store
from benchmarks.results import Result, Standing
from benchmarks.sides import OURS, REPOSITORY
from sshd import PROGRAM, ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

SCHEMA = "lighterage-bench/1"
BUDGET, GROWTH_BUDGET = 1500.0, 840.0
"""Seconds: no round and no point is begun that would end later, by what went before."""
MEMORY_SHARE = 0.2
"""Part of the budget that is kept for the memory's runs."""
MEMORY_GOAL = 120 * MB
_FULL_NEED = 3 * 10**9
"""Bytes: all data of the default size, and what the sides make of one."""


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmarks; returns the exit code."""
    options = _options(arguments)
    if PROGRAM is None:
        report.say("there is no OpenSSH server here: install openssh-server")
        return 2
    if options.growth:
        return _growth(options)
    return _fetch(options)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    names = [work.name for work in works.all_works()]
    lines = [series.name for series in growth.all_series()]
    parser = argparse.ArgumentParser(description="Compare the project with its peers.")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each side (default: 5)")
    parser.add_argument(
        "--size", type=float, default=works.SIZE, metavar="MB",
        help=f"of the CSVs; all else in proportion (default: {works.SIZE})",
    )  # fmt: skip
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", default=[],
        help=f"some of {', '.join(names)}, memory; with --growth some of {', '.join(lines)}",
    )  # fmt: skip
    parser.add_argument("--full", action="store_true", help="also the sides that no goal is about")
    parser.add_argument("--sides", nargs="+", metavar="NAME", default=[], help="only these peers")
    parser.add_argument("--growth", action="store_true", help="time against size, and files")
    parser.add_argument(
        "--budget", type=float, metavar="SECONDS",
        help=f"begin no round after (default: {BUDGET:g}; with --growth {GROWTH_BUDGET:g})",
    )  # fmt: skip
    parser.add_argument("--cache", type=Path, help="folder for the data (default: a temporary one)")
    parser.add_argument(
        "--output", type=Path, default=REPOSITORY / ".lighterage/bench",
        help="folder for the JSON and the chart (default: .lighterage/bench)",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    known = lines if options.growth else [*names, "memory"]
    for name in options.only:
        if name not in known:
            parser.error(f"--only {name}: expected some of {', '.join(known)}")
    if options.rounds < 1 or options.size <= 0:
        parser.error("--rounds and --size: expected more than nothing")
    options.budget = options.budget or (GROWTH_BUDGET if options.growth else BUDGET)
    return options


# --- side by side ---------------------------------------------------------------------------


def _fetch(options: argparse.Namespace) -> int:
    share = options.size / works.SIZE
    chosen = [
        w for w in works.all_works(options.size) if w.name in options.only or not options.only
    ]
    if not ROOT and any(work.account == "sftp" for work in chosen):
        report.say("left out: SFTP-only accounts, which only root can give a test server")
        chosen = [work for work in chosen if work.account != "sftp"]
    started = time.monotonic()
    with arena_and_store(int(_FULL_NEED * share), options.cache) as (arena, store):
        report.note("making the data")
        prepared = works.prepare(chosen, store)
        missing: dict[str, list[str]] = {}
        results = []
        for work in chosen:
            standings = []
            for side in work.sides:
                if side.missing:
                    missing[side.name] = side.missing
                elif side.name.startswith(OURS) or not options.sides or side.name in options.sides:
                    standings.append(Standing(side))
            results.append(Result(work, prepared[work.name], standings))
        for program in sorted({program for programs in missing.values() for program in programs}):
            sides = [name for name, programs in missing.items() if program in programs]
            report.say(f"missing here: {program}: left out: {', '.join(sides)}")
        share_of_rounds = 1 - (MEMORY_SHARE if "memory" in options.only or not options.only else 0)
        rounds = _rounds(arena, results, options, started + options.budget * share_of_rounds)
        memory = (
            _memory(arena, store, share, started + options.budget)
            if "memory" in options.only or not options.only
            else []
        )
        facts = _facts(options, arena, "fetch")

    for result in results:
        report.say(*report.table(result))
    report.say(*report.goals(results))
    report.say(*_memory_lines(memory, results))
    report.say("", *_foot(facts))
    data = {
        **facts,
        "rounds": rounds,
        "seconds": round(time.monotonic() - started, 1),
        "missing": missing,
        "works": [result.as_data() for result in results],
        "memory": [series.as_data() for series in memory],
    }
    report.write(options.output, "fetch", data, report.bars(results))
    faults = [fault for result in results for s in result.standings for fault in s.faults]
    faults += [fault for series in memory for p in series.points for fault in p.standing.faults]
    return 1 if faults else 0


def _rounds(arena: Arena, results: list[Result], options: argparse.Namespace, ends: float) -> int:
    """Run the rounds, as many as there is time for; returns how many."""
    for number in range(options.rounds):
        turns = [(result, _turn(result, number, full=options.full)) for result in results]
        guess = sum(s.samples[-1].seconds + 0.5 for _, turn in turns for s in turn if s.samples)
        if number and time.monotonic() + guess > ends:
            report.say(f"stopped after {number} of {options.rounds} rounds: no time for another")
            return number
        for result, turn in turns:
            work = result.work
            for standing in turn:
                report.note(f"round {number + 1}: {work.name}: {standing.side.name}")
                standing.samples.append(
                    arena.run(
                        standing.side,
                        result.data,
                        link=work.link,
                        prior=work.prior,
                        account=work.account,
                        to_bucket=work.to_bucket,
                    )
                )
    return int(options.rounds)


def _turn(result: Result, number: int, *, full: bool) -> list[Standing]:
    """Give who runs in a round, in which order."""
    sides = [s for s in result.standings if full or s.side.name in result.work.measured]
    first = number % len(sides)
    return sides[first:] + sides[:first]


def _memory(arena: Arena, store: Store, share: float, ends: float) -> list[growth.Series]:
    """Fetch a little, more, and a lot, and watch the memory."""
    measured = []
    for series in growth.all_series(share)[:3]:
        series.xs = (series.xs[1], series.xs[3], series.xs[-1])
        for doing in growth.grow(series, arena, store, ends):
            report.note(f"memory: {doing}")
        measured.append(series)
    return measured


def _memory_lines(memory: list[growth.Series], results: list[Result]) -> Iterator[str]:
    peaks = [(result.ours.peak, result.work.name) for result in results if result.ours.good]
    if memory:
        yield ""
        yield f"memory: peak resident size, goal {MEMORY_GOAL / MB:g} MB at any size"
    for series in memory:
        for point in series.points:
            peak = point.standing.peak
            peaks.append((peak, f"{series.name} {point.x:g} MB"))
            yield (
                f"  {series.title:<34} {point.x:>7g} MB {peak / MB:>6.0f} MB "
                f"{point.standing.spread:>13} s"
            )
            yield from (f"    FAILED: {fault}" for fault in point.standing.faults)
        yield from (f"  {series.title}: {text}" for text in series.left_out)
    if peaks:
        peak, where = max(peaks)
        met = "met" if peak <= MEMORY_GOAL else "NOT met"
        yield f"most memory of {OURS} in any run: {peak / MB:.0f} MB ({where}): {met}"


# --- growth ---------------------------------------------------------------------------------


def _growth(options: argparse.Namespace) -> int:
    started = time.monotonic()
    share = options.size / works.SIZE
    lines = [s for s in growth.all_series(share) if s.name in options.only or not options.only]
    with arena_and_store(int(12e9 * share), options.cache) as (arena, store):
        for number, series in enumerate(lines):
            left = started + options.budget - time.monotonic()
            ends = time.monotonic() + left / (len(lines) - number)
            for doing in growth.grow(series, arena, store, ends):
                report.note(doing)
        facts = _facts(options, arena, "growth")
    for series in lines:
        report.say(*report.growth_table(series))
    report.say("", *_foot(facts))
    data = {
        **facts,
        "seconds": round(time.monotonic() - started, 1),
        "series": [series.as_data() for series in lines],
    }
    report.write(options.output, "growth", data, report.lines(lines))
    return 1 if any(p.standing.faults for series in lines for p in series.points) else 0


# --- both -----------------------------------------------------------------------------------


@contextlib.contextmanager
def arena_and_store(need: int, cache: Path | None = None) -> Iterator[tuple[Arena, Store]]:
    """Give a folder to run in, and the data's; both are removed, but not a cache that was named."""
    compileall.compile_dir(
        REPOSITORY / "tasks", quiet=1
    )  # as in an image: not part of the measurement
    with machine.workplace(need) as folder:
        cache = cache or Path(folder, "cache")
        cache.mkdir(parents=True, exist_ok=True)
        with Arena(Path(folder)) as arena:
            yield arena, Store(cache.resolve())


def _facts(options: argparse.Namespace, arena: Arena, mode: str) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "mode": mode,
        "ended": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine.facts(arena.folder),
        "versions": machine.versions(),
        "size_mb": options.size,
        "bucket": bucket.SERVER,
        "flushed_by_us": machine.flushes(),
    }


def _foot(facts: dict[str, Any]) -> Iterator[str]:
    """Say on what it ran, for people."""
    box, versions = facts["machine"], facts["versions"]
    flushed = "is flushed by the project" if facts["flushed_by_us"] else "is flushed by any side"
    yield (
        f"{box['cpu']}, {box['cores']} cores, {box['memory_bytes'] / 2**30:.0f} GiB, "
        f"{box['system']}, Linux {box['kernel']}, load {box['load'][0]:.1f} at the end"
    )
    yield "; ".join(f"{name} {version}" for name, version in versions.items())
    yield f"buckets on {facts['bucket']}"
    yield (
        f"source and target on {box['file_system']}; "
        f"{'what lands' if facts['flushed_by_us'] else 'nothing that lands'} {flushed} (fsync); "
        "ratio: times as long as the project; every run's bytes were compared"
    )


if __name__ == "__main__":
    sys.exit(main())
