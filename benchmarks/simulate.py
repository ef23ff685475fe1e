"""A model of a run in shards: time against the number of shards, and what limits it.

    python -m benchmarks.simulate [--shards N ...] [--output FOLDER]

A discrete-event simulation (simpy) of planner, shards, nodes, hosts with the limits of their sshd,
and lost nodes. Its costs are measurements, see `Costs`; `benchmarks.shards` compares the model with
real runs of 1, 2 and 4 shards.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import simpy

from benchmarks import report

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    Steps = Generator[simpy.Event, Any, None]

SHARDS = (1, 2, 4, 8, 16, 32, 64, 100, 200, 500, 1000)
CHUNKS = 40
"""Steps in which a shard downloads its part: it shares the host with the others at each of them."""
SEED = 13


@dataclass(frozen=True)
class Costs:
    """What the parts of a run take, in seconds of one core unless said otherwise.

    Measured on 2 cores of an AMD EPYC, see docs/performance.md and docs/scale.md.

    Attributes:
        start: Start of a shard, imports and login.
        list_file: The planner's, for each file: listing, comparing, writing the plan.
        read_file: Each shard's, for each file of the plan.
        file, byte: The shard's, to download and write.
        host_file, host_byte: The host's, to read, encrypt and compute checksums.
        publish_file: To assemble and write the manifest, for each file.
        login: The host's, for a login.
        round_trips: Of a login up to the first byte, and again for each `files_ahead` files.
        files_ahead: Small files on their way at once in a connection.
        bytes_ahead: Bytes on their way at once in a connection.
        poll: Seconds between two looks for the plan, at least; up to twice as long.
        spread: So long after another, on average, does a shard connect.
    """

    start: float = 0.35
    list_file: float = 15e-6
    read_file: float = 3e-6
    file: float = 60e-6
    byte: float = 2.6e-9
    host_file: float = 27e-6
    host_byte: float = 1.7e-9
    publish_file: float = 30e-6
    login: float = 0.02
    round_trips: int = 8
    files_ahead: int = 200
    bytes_ahead: float = 32e6
    poll: float = 1.0
    spread: float = 0.05


@dataclass(frozen=True)
class Shape:
    """A dataset, and where it is.

    Attributes:
        files: On all hosts.
        largest: Bytes of the largest file, which one shard downloads.
        size: Bytes of all files.
        hosts: Each has its own part of the files; a shard reads one, so there are as many shards.
    """

    name: str
    title: str
    files: int
    size: float
    largest: float
    hosts: int = 1


@dataclass(frozen=True)
class Site:
    """Machines, links and settings.

    Attributes:
        node_cores: Cores of a node; each node runs as many shards.
        host_cores: Cores of each host, for sshd.
        host_link: Bytes per second of each host's network.
        rtt: Seconds of a round trip to a host.
        startups: sshd's MaxStartups: start, percent, full.
        max_connections: To a host, over all shards; 0 for no cap.
        node_failures_per_h: Of each node.
        failover: Seconds until the shards of a lost node run elsewhere (13 s to notice, measured).
        same_machine: Whether shards and host share the cores of one machine.
    """

    node_cores: int = 4
    host_cores: int = 16
    host_link: float = 1.25e9
    rtt: float = 0.02
    startups: tuple[int, int, int] = (10, 30, 100)
    max_connections: int = 0
    node_failures_per_h: float = 0.0
    failover: float = 14.5
    same_machine: bool = False


SHAPES = (
    Shape("one", "one file of 100 GB", 1, 100e9, 100e9),
    Shape("many", "10 million files of 20 kB on one host", 10_000_000, 200e9, 2e4),
    Shape("hosts", "100 hosts with 50 files of 200 MB each", 5000, 1e12, 2e8, hosts=100),
)


@dataclass
class Outcome:
    """What a simulated run took.

    Attributes:
        seconds: From the start to the published manifest.
        waits: Seconds of the shard that ended last, by what it waited for.
        refused: Logins that sshd dropped (MaxStartups).
        lost: Shards that ran again since their node was lost.
    """

    seconds: float = 0.0
    waits: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    refused: int = 0
    lost: int = 0

    @property
    def limit(self) -> str:
        """What most of the time went to."""
        return max(self.waits, key=lambda name: self.waits[name])


class _Host:
    """A host: its cores, its link, and sshd's limits."""

    def __init__(self, env: simpy.Environment, site: Site, cores: simpy.Resource | None) -> None:
        self.cores = cores or simpy.Resource(env, site.host_cores)
        self.link = simpy.Resource(env, 1)
        self.logins = 0
        most = site.max_connections
        self.places = simpy.Resource(env, most) if most else None


class Run:
    """One simulated run: `Run(shape, site, costs, shards).outcome()`."""

    def __init__(self, shape: Shape, site: Site, costs: Costs, shards: int) -> None:
        self._shape, self._site, self._costs, self._shards = shape, site, costs, shards
        self._env = env = simpy.Environment()
        self._random = random.Random(SEED)  # noqa: S311 (no secret: runs must repeat)
        nodes = -(-shards // site.node_cores)
        self._nodes = [simpy.Resource(env, site.node_cores) for _ in range(nodes)]
        shared = self._nodes[0] if site.same_machine else None
        self._hosts = [_Host(env, site, shared) for _ in range(shape.hosts)]
        self._planned = env.event()
        self._has_planner = False
        self._outcome = Outcome()
        self._waits: defaultdict[simpy.Process | None, defaultdict[str, float]] = defaultdict(
            lambda: defaultdict(float)
        )

    def outcome(self) -> Outcome:
        """Simulate it."""
        shards = [self._env.process(self._shard(number)) for number in range(self._shards)]
        self._env.run(self._env.all_of(shards))
        publish = self._env.process(self._timed("publish", self._publish()))
        self._env.run(publish)
        self._outcome.waits["publish"] = self._waits[publish]["publish"]
        self._outcome.seconds = self._env.now
        return self._outcome

    def _shard(self, number: int) -> Steps:
        env, site = self._env, self._site
        node = self._nodes[number % len(self._nodes)]
        failure = self._random.expovariate(site.node_failures_per_h / 3600 or 1e-12)
        work = env.process(self._work(number, node))
        yield work | env.timeout(failure)
        if work.is_alive:  # its node is lost: it runs again elsewhere, from the start of its part
            work.interrupt()
            self._outcome.lost += 1
            yield env.timeout(site.failover)
            yield env.process(self._work(number, node))

    def _work(self, number: int, node: simpy.Resource) -> Steps:
        try:
            yield from self._timed("start", self._on(node, self._costs.start))
            yield from self._plan(node)
            spread = self._random.uniform(0, self._costs.spread * (self._shards - 1))
            yield from self._timed("start spread", self._pause(spread))
            hosts = self._hosts[number :: self._shards] or [self._hosts[number % len(self._hosts)]]
            for host in hosts:
                yield from self._download(number, host, node, 1 / len(hosts))
            self._outcome.waits = self._waits[self._env.active_process]  # the last one counts
        except simpy.Interrupt:
            return

    def _plan(self, node: simpy.Resource) -> Steps:
        """Plan, if no other shard does; else wait for the plan, and read it."""
        costs, files = self._costs, self._shape.files
        while not self._planned.triggered:
            if self._has_planner:
                pause = costs.poll * self._random.uniform(1, 2)
                yield from self._timed("plan", self._pause(pause))
                continue
            self._has_planner = True
            try:
                yield from self._timed("plan", self._on(node, costs.list_file * files))
                self._planned.succeed()
            finally:
                self._has_planner = self._planned.triggered  # it may be lost
            return
        yield from self._timed("plan", self._on(node, costs.read_file * files))

    def _download(self, number: int, host: _Host, node: simpy.Resource, share: float) -> Steps:
        """Download a shard's part of one host's files, in one session."""
        place = host.places.request() if host.places else None
        if place:
            yield from self._timed("max_connections", self._wait(place))
        try:
            yield from self._session(number, host, node, share)
        finally:
            if place and host.places:
                host.places.release(place)

    def _session(self, number: int, host: _Host, node: simpy.Resource, share: float) -> Steps:
        shape, costs, site = self._shape, self._costs, self._site
        yield from self._timed("logins", self._login(host))
        files = shape.files / self._shards * share
        size = shape.size / self._shards * share
        if shape.files < self._shards:  # each shard has one file or none
            files, size = (1, shape.largest) if number < shape.files else (0, 0)
        yield self._env.timeout(costs.round_trips * site.rtt)
        chunks = min(CHUNKS, max(int(files), 1)) if files > 1 else CHUNKS
        for _ in range(chunks if files else 0):
            yield from self._chunk(host, node, files / chunks, size / chunks)

    def _chunk(self, host: _Host, node: simpy.Resource, files: float, size: float) -> Steps:
        """Read, send, receive and write a chunk: the slowest of the four decides."""
        costs, env, started = self._costs, self._env, self._env.now
        flight = self._site.rtt * max(files / costs.files_ahead, size / costs.bytes_ahead)
        parts = {
            "own cores": self._on(node, costs.file * files + costs.byte * size),
            "host's cores": self._on(host.cores, costs.host_file * files + costs.host_byte * size),
            "host's link": self._on(host.link, size / self._site.host_link),
            "round trips": self._pause(flight),
        }
        ends: dict[str, float] = {}

        def step(name: str, steps: Steps) -> Steps:
            yield from steps
            ends[name] = env.now

        yield env.all_of([env.process(step(name, steps)) for name, steps in parts.items()])
        last = max(ends, key=lambda name: ends[name])
        self._waits[env.active_process][last] += env.now - started

    def _login(self, host: _Host) -> Steps:
        """Log in; sshd drops some connections while many are not logged in (MaxStartups)."""
        start, percent, full = self._site.startups
        delay = 1.0
        while True:
            over = host.logins - start
            odds = (percent + (100 - percent) * over / (full - start)) / 100 if over >= 0 else 0
            if self._random.random() >= odds:
                break
            self._outcome.refused += 1
            yield self._env.timeout(delay * self._random.uniform(0.5, 1.5))
            delay = min(2 * delay, 60.0)
        host.logins += 1
        try:
            yield from self._on(host.cores, self._costs.login)
            yield self._env.timeout(3 * self._site.rtt)
        finally:
            host.logins -= 1

    def _publish(self) -> Steps:
        yield from self._on(self._nodes[0], self._costs.publish_file * self._shape.files)

    # --- steps ---------------------------------------------------------------------------------

    def _on(self, resource: simpy.Resource, seconds: float) -> Steps:
        with resource.request() as request:
            yield request
            yield self._env.timeout(seconds)

    def _pause(self, seconds: float) -> Steps:
        yield self._env.timeout(seconds)

    def _wait(self, event: simpy.Event) -> Steps:
        yield event

    def _timed(self, name: str, steps: Steps) -> Steps:
        started = self._env.now
        yield from steps
        self._waits[self._env.active_process][name] += self._env.now - started


def simulated(shape: Shape, site: Site, shards: int, costs: Costs | None = None) -> Outcome:
    """Simulate one run."""
    return Run(shape, site, costs or Costs(), shards).outcome()


def main(arguments: list[str] | None = None) -> int:
    """Print a table for each shape, and write the chart; return the exit code."""
    parser = argparse.ArgumentParser(description="Simulate runs in shards.")
    parser.add_argument("--shards", type=int, nargs="+", default=list(SHARDS), metavar="N")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="where the chart is written")
    numbers = {name: value for name, value in vars(Site()).items() if type(value) in (int, float)}
    for name, value in numbers.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    options = parser.parse_args(arguments)
    site = replace(Site(), **{name: getattr(options, name) for name in numbers})
    curves = {}
    for shape in SHAPES:
        counts = [count for count in options.shards if count >= shape.hosts]
        outcomes = {count: simulated(shape, site, count) for count in counts}
        if outcomes:
            curves[shape.title] = [(count, one.seconds) for count, one in outcomes.items()]
        report.say(*_table(shape, outcomes))
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        chart = report.curves("seconds until the data is published, by shards", curves)
        (options.output / "scale.svg").write_text(chart)
        report.say(f"written: {options.output / 'scale.svg'}")
    return 0


def _table(shape: Shape, outcomes: dict[int, Outcome]) -> Sequence[str]:
    lines = ["", f"{shape.name}: {shape.title}"]
    if not outcomes:
        return [*lines, f"  takes at least {shape.hosts} shards: one for each host"]
    first = next(iter(outcomes.values())).seconds
    lines.append(f"  {'shards':>6}  {'time':>8}  {'speed-up':>8}  limited by")
    for count, outcome in outcomes.items():
        notes = [outcome.limit]
        notes += [f"{outcome.refused} logins refused by MaxStartups"] * bool(outcome.refused)
        notes += [f"{outcome.lost} shards of lost nodes ran again"] * bool(outcome.lost)
        speed_up = first / outcome.seconds
        lines.append(
            f"  {count:>6}  {outcome.seconds:>6.0f} s  {speed_up:>7.1f}x  {'; '.join(notes)}"
        )
    return lines


if __name__ == "__main__":
    sys.exit(main())
