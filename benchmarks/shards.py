"""Runs in shards, measured, and beside them what `benchmarks.simulate` expects.

    python -m benchmarks.shards [--files N] [--rtt SECONDS] [--rounds N] [--publish N]

Runs task 3 over many small files with 1, 2 and 4 shards, which are processes of this machine and
share a folder, over a link with that round trip. The one shard gives the model the cost of a file;
for 2 and 4 the model then has to be right. At the end a shard publishes what ten others landed, as
their records say, without a host.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from benchmarks import report, sides
from benchmarks.arena import Link
from benchmarks.data import MB, tree_digest
from benchmarks.fetch import arena_and_store
from benchmarks.simulate import Costs, Shape, Site, simulated
from shard_records import RecordedRun

if TYPE_CHECKING:
    from benchmarks.arena import Arena
    from benchmarks.data import Dataset

SHARDS = (1, 2, 4)
FILE_BYTES = 2048
WITHIN = 0.25
"""How far the model may be from what was measured."""


class Measured(NamedTuple):
    """One run: seconds from the start of its shards to the end of the last, and peak memory."""

    seconds: float
    peak_bytes: int


def main(arguments: list[str] | None = None) -> int:
    """Measure, and compare; return 1 where the model is too far off."""
    parser = argparse.ArgumentParser(description="Compare runs in shards with the model.")
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--rtt", type=float, default=0.05, metavar="SECONDS")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--publish", type=int, default=100_000, metavar="FILES")
    options = parser.parse_args(arguments)
    with arena_and_store(10**9) as (arena, store):
        published = _publish(arena, options.publish)
        data = store.small(options.files, FILE_BYTES, 100)
        runs: dict[int, list[Measured]] = {count: [] for count in SHARDS}
        for _ in range(options.rounds):
            for count, measured in runs.items():
                measured.append(_run(arena, data, Link(options.rtt), count))
    seconds = {
        count: statistics.median(run.seconds for run in measured)
        for count, measured in runs.items()
    }
    site = Site(node_cores=2, host_cores=2, rtt=options.rtt, same_machine=True)
    shape = Shape("measured", "", options.files, options.files * FILE_BYTES, FILE_BYTES)
    costs = _fitted(shape, site, seconds[1])
    report.say(
        f"{'shards':>6}  {'measured':>9}  {'speed-up':>8}  {'model':>7}  {'off by':>6}  memory"
    )
    far = 0.0
    for count in SHARDS:
        expected = simulated(shape, site, count, costs).seconds
        off = expected / seconds[count] - 1
        far = max(far, abs(off))
        peak = max(run.peak_bytes for run in runs[count]) / MB
        report.say(
            f"{count:>6}  {seconds[count]:>7.2f} s  {seconds[1] / seconds[count]:>7.2f}x  "
            f"{expected:>5.2f} s  {100 * off:>4.0f} %  {peak:.0f} MB"
        )
    report.say(published)
    report.say(f"the model is within {100 * WITHIN:.0f} %: {'yes' if far <= WITHIN else 'NO'}")
    return 0 if far <= WITHIN else 1


def _run(arena: Arena, data: Dataset, link: Link, count: int) -> Measured:
    """Run all shards at once, and check what they published."""
    place = arena.folder / "run"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    environ = {**arena.environ("default", link, "sftp"), "SOURCE": str(data.source)}
    command = sides.ours("tree", "--exec=never").command
    started = time.monotonic()
    launch = [sys.executable, "-I", "-S", str(sides.REPOSITORY / "benchmarks/launch.py"), "log"]
    shards = [
        subprocess.Popen(
            [*launch, *command],
            cwd=place,
            env={**environ, "SHARD": str(number), "OF": str(count), "RUN_ID": "1"},
            stdout=subprocess.PIPE,
        )
        for number in range(1, count + 1)
    ]
    ends = [json.loads(shard.communicate()[0]) for shard in shards]
    seconds = time.monotonic() - started
    failed = any(end["exit"] for end in ends)
    if failed or tree_digest(place / "out") != data.tree:
        raise SystemExit(f"{count} shards: {(place / 'log').read_text()[-500:] or 'other bytes'}")
    return Measured(seconds, max(end["peak_bytes"] for end in ends))


def _publish(arena: Arena, files: int) -> str:
    """Publish what ten shards landed into a folder; return what that took."""
    folder = arena.folder / "publish"
    run = RecordedRun(f"{folder}/data", 10, files=files // 10)
    run.plan()
    run.land(*range(1, 11))
    started, cpu_started = time.monotonic(), time.process_time()
    count = len(run.execute(1).manifest.files)
    seconds, cpu = time.monotonic() - started, time.process_time() - cpu_started
    shutil.rmtree(folder)
    return (
        f"publishing {count:,} files of 10 shards: {seconds:.2f} s, {cpu:.2f} s of processor time"
    )


def _fitted(shape: Shape, site: Site, seconds: float) -> Costs:
    """Return the costs with which one shard takes as long as measured: `files_ahead` is fitted."""
    low, high = 1, 10_000
    costs = Costs()
    while low < high:
        middle = (low + high) // 2
        costs = replace(Costs(), files_ahead=middle)
        if simulated(shape, site, 1, costs).seconds > seconds:
            low = middle + 1
        else:
            high = middle
    return replace(costs, files_ahead=low)


if __name__ == "__main__":
    sys.exit(main())
