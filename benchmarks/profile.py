"""Where a run of the project spends its time: CPU and waits by thread and by stage.

    python -m benchmarks.profile WORK [--size MB]

Runs the project's side of one of the works of `make bench` three times: alone for its seconds, and
twice under py-spy, which samples what each thread does: once without and once with the threads
that wait. Needs py-spy, and on most systems root.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import tempfile
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from benchmarks import report, works
from benchmarks.arena import Arena, Sample
from benchmarks.data import Dataset
from benchmarks.fetch import arena_and_store

RATE = 500
"""Samples per second."""
CORES = len(os.sched_getaffinity(0))
LEAST_S = 0.01
"""Seconds: what takes less is left out."""


def main(arguments: list[str] | None = None) -> int:
    """Profile one work; return the exit code."""
    names = [work.name for work in works.all_works()]
    parser = argparse.ArgumentParser(description="Show where a run spends its time.")
    parser.add_argument("work", choices=names, metavar="WORK", help=", ".join(names))
    parser.add_argument("--size", type=float, default=works.SIZE, metavar="MB", help="of the CSVs")
    options = parser.parse_args(arguments)
    if shutil.which("py-spy") is None:
        report.say("there is no py-spy here: `make profile` installs it")
        return 2
    work = next(work for work in works.all_works(options.size) if work.name == options.work)
    with arena_and_store(3 * 10**9) as (arena, store), tempfile.TemporaryDirectory() as folder:
        data = work.make(store)
        alone = _run(arena, work, data)
        busy, all_of_it = (
            _sampled(arena, work, data, Path(folder) / "samples", *idle)
            for idle in ((), ("--idle",))
        )
    if alone.fault:
        report.say(f"FAILED: {alone.fault}")
        return 1
    report.say(
        f"{work.name}: {work.title}",
        f"alone: {alone.seconds:.2f} s, {alone.cpu_seconds:.2f} s CPU, "
        f"{alone.peak_bytes / 1e6:.0f} MB, {alone.cipher}",
        f"the host's processes: {alone.host_cpu_seconds:.2f} s CPU; all of it, spread evenly over "
        f"{CORES} cores: {(alone.cpu_seconds + alone.host_cpu_seconds) / CORES:.2f} s",
        "below with py-spy, which slows it",
        f"  {'CPU':>7} {'waits':>7}  stage",
    )
    for thread in sorted({thread for thread, _ in all_of_it}):
        stages = {stage: s for (owner, stage), s in all_of_it.items() if owner == thread}
        report.say(f"{thread}")
        for stage, seconds in sorted(stages.items(), key=lambda item: -item[1]):
            cpu = busy[thread, stage]
            if max(cpu, seconds) >= LEAST_S:
                report.say(f"  {cpu:>5.2f} s {max(seconds - cpu, 0):>5.2f} s  {stage}")
    return 0


def _run(arena: Arena, work: works.Work, data: Dataset, *prefix: str) -> Sample:
    side = work.sides[0]
    shell, flag, line, *words = side.command
    side = replace(side, command=(shell, flag, line, *prefix, *words))
    return arena.run(
        side, data, link=work.link, prior=work.prior, account=work.account,
        to_bucket=work.to_bucket,
    )  # fmt: skip


def _sampled(
    arena: Arena, work: works.Work, data: Dataset, samples: Path, *options: str
) -> dict[tuple[str, str], float]:
    """Run under py-spy; return the seconds by thread and stage."""
    prefix = (
        "py-spy", "record", "--nonblocking", "--rate", str(RATE), "--threads", "--format", "raw",
        "--output", str(samples), *options, "--",
    )  # fmt: skip
    _run(arena, work, data, *prefix)
    found: defaultdict[tuple[str, str], float] = defaultdict(float)
    for line in samples.read_text().splitlines():
        stack, _, count = line.rpartition(" ")
        thread, *frames = stack.split(";")
        found[_thread(thread), _stage(frames)] += int(count) / RATE
    return found


def _thread(text: str) -> str:
    """Return a thread's name without its number: each run has others."""
    name = re.sub(r"^thread \(\w+\):? ?", "", text) or "unnamed"
    return re.sub(r"[-_]\d+$", "", name)


def _stage(frames: list[str]) -> str:
    """Return the innermost function of the project, and what it was waiting for or calling."""
    ours = [frame for frame in frames if "(tasks/" in frame]
    if any("importlib" in frame for frame in frames[-12:]):
        return "imports"
    return re.sub(r":\d+\)$", ")", ours[-1]) if ours else "other"


if __name__ == "__main__":
    sys.exit(main())
