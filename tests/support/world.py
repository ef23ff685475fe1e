"""A server, a relay before it, and schedules of what fails in a run; what must hold after each."""

from __future__ import annotations

import hashlib
import itertools
import json
import random
import shutil
import signal
import tempfile
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from queue import SimpleQueue
from typing import Literal

from client import Client, Ended, ended, left_over, put, tarred, tree, trusted, zipped
from forks import Fork
from relay import Fault, Relay, Side
from sshd import Sshd

PATHS = {"1": "data.zip", "2": "data.tar.gz", "3": "tree"}
SOON = 0.5
"""The timeout of runs that are to meet a stall."""
Tree = dict[str, bytes]
Hit = Literal["SIGINT", "SIGTERM", "SIGKILL", "server", "replaced", "grown", "shrunk", "removed"]


@dataclass(frozen=True)
class Version:
    """A state of the host: the same CSVs as a zip, as a tar, and as a tree."""

    csvs: Tree

    @cached_property
    def files(self) -> Tree:
        """The files of the host."""
        first, *others = self.csvs
        return {
            "data.zip": zipped(self.csvs),
            "data.tar.gz": tarred(self.csvs),
            "tree/z/packed.zip": zipped({first: self.csvs[first]}),
            **{f"tree/{name}": self.csvs[name] for name in others},
        }

    def landed(self, task: str, *, keep: bool) -> Tree:
        """Return what a task lands."""
        if task != "3":
            return {**self.csvs, **({PATHS[task]: self.files[PATHS[task]]} if keep else {})}
        first, *others = self.csvs
        archive = {"z/packed.zip": self.files["tree/z/packed.zip"]} if keep else {}
        return {f"z/{first}": self.csvs[first], **{n: self.csvs[n] for n in others}, **archive}


def noise(size: int) -> bytes:
    """Return incompressible bytes, the same each time."""
    return random.Random(size).randbytes(size)  # noqa: S311 (no secret)


OLD = Version({"one.csv": noise(3000), "goes.csv": b"gone\n", "changes.csv": b"o\n" * 500,
               "stays/stays.csv": noise(20_000)})  # fmt: skip
NEW = Version({"one.csv": noise(4000), "comes.csv": b"here\n", "changes.csv": b"new\n" * 500,
               "stays/stays.csv": noise(20_000), "stays/big.csv": noise(60_000)})  # fmt: skip
LESS = Version({**NEW.csvs, "changes.csv": b"-\n" * 100})
MORE = Version({**NEW.csvs, "changes.csv": noise(9000)})
WITHOUT = Version({name: content for name, content in NEW.csvs.items() if name != "changes.csv"})


@dataclass(frozen=True)
class Schedule:
    """What fails in a run, and when.

    Attributes:
        task: Which task runs.
        old: Whether something landed before.
        keep: Whether archives are kept.
        fault: What the relay does to `times` connections, at byte `after` of a side's bytes.
        hit: What happens once the server has sent `at` bytes.
    """

    task: str = "3"
    old: bool = True
    keep: bool = False
    fault: Fault | None = None
    side: Side = "server"
    after: int = 0
    times: int = 1
    hit: Hit | None = None
    at: int = 0

    def codes(self) -> set[int]:
        """Return the exit codes that are right."""
        codes = {0}
        if self.fault and (self.times > 1 or self.fault not in {"cut", "half-close", "slow"}):
            codes.add(5)
        of_hits: dict[Hit, set[int]] = {
            "SIGINT": {130}, "SIGTERM": {143}, "SIGKILL": {-9}, "server": {5}, "removed": {3, 6},
            "replaced": {6}, "grown": {6}, "shrunk": {6},
        }  # fmt: skip
        return codes | (of_hits[self.hit] if self.hit else set())


@dataclass(repr=False)
class World:
    """A server, a relay before it, and what each task landed of the old version."""

    folder: Path
    server: Sshd
    relay: Relay
    before: dict[tuple[str, bool], Path] = field(default_factory=dict)
    schedules: int = 0
    has: Version | None = None

    def __post_init__(self) -> None:
        self.show(OLD)
        for task, keep in itertools.product(PATHS, [False, True]):
            client = self.client()
            assert client.run(task, PATHS[task], *flags(keep)).code == 0
            assert tree(client.target) == OLD.landed(task, keep=keep)
            self.before[task, keep] = client.target
        self.show(NEW)

    def show(self, version: Version) -> None:
        """Replace the files of the host by those of a version."""
        if self.has == version:
            return
        self.has = version
        shutil.rmtree(self.server.home)
        self.server.home.mkdir()
        put(self.server.home, version.files)

    def client(self, **options: str | None) -> Client:
        """Return a client in a folder of its own, which connects through the relay."""
        client = Client(Path(tempfile.mkdtemp(dir=self.folder)), self.server)
        client.options.update(options)
        client.options["remote-host-address"] = trusted(client, self.relay.address)
        return client

    def begin(self, schedule: Schedule, **options: str | None) -> Client:
        """Return a client whose target contains the old data, if the schedule has some."""
        self.schedules += 1
        self.relay.renew()
        self.show(NEW)
        client = self.client(**options)
        if schedule.old:
            shutil.copytree(self.before[schedule.task, schedule.keep], client.target)
        return client

    # --- what fails --------------------------------------------------------------------------

    def carry_out(self, schedule: Schedule) -> Ended:
        """Run a task with the faults of a schedule, and check the result."""
        client = self.begin(schedule)
        if schedule.fault in {"stall", "corrupt"}:  # a length may be corrupted
            client.options["timeout"] = str(SOON)
        if schedule.hit == "server":
            client.options["retry-delay"] = "0.1"
        relay = self.relay
        relay.fault, relay.side = schedule.fault, schedule.side
        relay.after, relay.times = schedule.after, schedule.times
        started: SimpleQueue[Fork] = SimpleQueue()
        if schedule.hit:
            relay.alarm = schedule.at
            relay.ring = lambda: self.strike(schedule, started.get(timeout=10))
        process = client.start(schedule.task, PATHS[schedule.task], *flags(schedule.keep))
        started.put(process)
        done = ended(process)
        relay.renew()
        assert done.code in schedule.codes(), done.err
        self.check(client, schedule, done)
        shutil.rmtree(client.folder)
        return done

    def strike(self, schedule: Schedule, process: Fork) -> None:
        """Do what the schedule's `hit` names."""
        home = self.server.home
        path = home / (PATHS[schedule.task] if schedule.task != "3" else "tree/changes.csv")
        name = str(path.relative_to(home))
        if schedule.hit and schedule.hit.startswith("SIG"):
            process.send_signal(signal.Signals[schedule.hit])
        elif schedule.hit == "server":
            self.server.stop()
            self.server.start()
        elif schedule.hit == "removed":
            self.has = WITHOUT if schedule.task == "3" else None
            path.unlink()
        elif schedule.hit == "replaced":
            self.has = MORE
            other = path.with_name("other")
            other.write_bytes(MORE.files[name])
            other.rename(path)
        else:
            self.has = MORE if schedule.hit == "grown" else LESS
            path.write_bytes(self.has.files[name])

    # --- what must hold ----------------------------------------------------------------------

    def check(self, client: Client, schedule: Schedule, done: Ended) -> None:
        """Check the target after any run, and that the next run lands."""
        task, keep = schedule.task, schedule.keep
        now = self.has or NEW
        old = OLD.landed(task, keep=keep) if schedule.old else None
        new = [version.landed(task, keep=keep) for version in (NEW, now)]
        found = tree(client.target) if client.target.exists() else None
        if done.code == 0 or "the new data had landed" in done.err:
            assert found in new
        elif done.code == -signal.SIGKILL:
            assert found in [old, *new]
        else:
            assert found == old
        check_manifest(client)
        if done.code != -signal.SIGKILL:
            self.check_beside(client, schedule, done.code)
        if done.code == 0 and not schedule.hit:
            return
        if self.has is None:
            self.show(NEW)
        client.options["timeout"] = "10"
        again = client.run(task, PATHS[task], *flags(keep))
        assert again.code == 0, again.err
        assert tree(client.target) == now.landed(task, keep=keep)
        check_manifest(client)
        self.check_beside(client, schedule, 0)

    def check_beside(self, client: Client, schedule: Schedule, code: int) -> None:
        """Check that a run left nothing beside its target but a partial download."""
        assert {path.name for path in client.folder.iterdir()} <= {"envs", "out", "data"}
        beside = left_over(client)
        assert beside == [] or (schedule.keep and code and beside == [".data.part"])
        if code and not schedule.old and not beside:
            assert not client.target.parent.exists()


def flags(keep: bool) -> list[str]:
    """Return the flags of a run."""
    return ["--mirror", *(["--keep-archive"] if keep else [])]


def check_manifest(client: Client) -> None:
    """Check that the manifest of a target, if there is one, states exactly its files."""
    if not client.target.exists():
        return
    manifest = json.loads((client.target / "manifest.json").read_text())
    stated = {file["path"]: (file["size"], file["sha256"])
              for file in manifest["files"] + manifest["archives"]}  # fmt: skip
    assert stated == {
        name: (len(content), hashlib.sha256(content).hexdigest())
        for name, content in tree(client.target).items()
    }
    versions = [version.files for version in (OLD, NEW, LESS, MORE)]
    for source in manifest["sources"]:
        name = str(Path(source["path"]).relative_to(client.server.home))
        facts = (source["size"], source["sha256"])
        assert facts in [
            (len(files[name]), hashlib.sha256(files[name]).hexdigest())
            for files in versions
            if name in files
        ]
