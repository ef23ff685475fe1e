"""Whatever fails, a target contains the complete old data or the complete new data.

A schedule states what fails, and when. The same is checked after each: the target, its manifest,
the exit code, and that the next run lands and leaves nothing beside the target.
`LIGHTERAGE_FAULTS=1000` sets the number of random schedules.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Literal

import asyncssh
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import hosts
import sshd
from client import Client, Ended, ended, left_over, put, tarred, tree, trusted, wait_for, zipped
from forks import Fork
from relay import Fault, Relay, Side
from sshd import Sshd

SCHEDULES = int(os.environ.get("LIGHTERAGE_FAULTS", "45"))
PATHS = {"1": "data.zip", "2": "data.tar.gz", "3": "tree"}
SOON = 0.5
"""The timeout of runs that are to meet a stall."""
pytestmark = pytest.mark.sshd

Tree = dict[str, bytes]
Hit = Literal["SIGINT", "SIGTERM", "SIGKILL", "server", "replaced", "grown", "shrunk", "removed"]


# --- the world ------------------------------------------------------------------------------


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
        assert {path.name for path in client.folder.iterdir()} <= {"envs", "out"}
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


@pytest.fixture(scope="module")
def world(pytestconfig: pytest.Config) -> Iterator[World]:
    """Give the world; print at the end how many schedules ran."""
    sshd.need_sshd()
    folder = Path(tempfile.mkdtemp(prefix="lighterage-faults-"))
    try:
        server = Sshd(folder / "sshd")
        with server.running(), Relay(server.port).running() as relay:
            world = World(folder, server, relay)
            yield world
    finally:
        shutil.rmtree(folder)
    with pytestconfig.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        sys.stderr.write(f"\n{world.schedules} schedules of faults\n")


# --- network faults at each step of the conversation -------------------------------------------


def steps(world: World, schedule: Schedule) -> list[range]:
    """Return the byte range of each turn of the server in a run."""
    client = world.begin(schedule)
    assert client.run(schedule.task, PATHS[schedule.task], *flags(schedule.keep)).code == 0
    turns = [*world.relay.turns, world.relay.passed]
    assert len(turns) > 10, "banner, keys, login, session, facts, data"
    return [range(first, last) for first, last in itertools.pairwise(turns) if first < last]


def test_run_lands_despite_one_cut_at_any_step(world: World) -> None:
    for turn in steps(world, Schedule()):
        for after in sorted({turn[0], turn[0] + 1, turn[len(turn) // 2], turn[-1]}):
            assert world.carry_out(Schedule(fault="cut", after=after)).code == 0


@pytest.mark.parametrize("fault", ["stall", "half-close", "corrupt", "slow"])
def test_one_fault_at_any_step_is_retried_or_an_error(world: World, fault: Fault) -> None:
    for turn in steps(world, Schedule())[::2]:
        world.carry_out(Schedule(fault=fault, after=turn[len(turn) // 2]))


@pytest.mark.parametrize("fault", ["cut", "corrupt"])
def test_fault_of_every_connection_is_an_error(world: World, fault: Fault) -> None:
    for turn in steps(world, Schedule("1"))[:: 3 if fault == "cut" else 6]:
        world.carry_out(Schedule("1", fault=fault, after=turn[0], times=99))


@pytest.mark.parametrize("fault", ["cut", "corrupt", "half-close"])
def test_bytes_of_the_client_may_be_lost_too(world: World, fault: Fault) -> None:
    for after in [0, 30, 1500, 2500, 3500]:
        world.carry_out(Schedule(fault=fault, side="client", after=after))


@pytest.mark.parametrize("task", PATHS)
def test_run_retries_when_the_server_restarts(world: World, task: str) -> None:
    for at in [1800, 5000, 60_000]:
        world.carry_out(Schedule(task, hit="server", at=at))


def test_stopped_server_is_a_network_error(world: World) -> None:
    client = world.begin(Schedule())
    world.server.stop()
    try:
        done = client.run("3", "tree", "--mirror")
    finally:
        world.server.start()
    assert done.code == 5
    world.check(client, Schedule(), done)


# --- signals, and sources that change ---------------------------------------------------------


@pytest.mark.parametrize("hit", ["SIGINT", "SIGTERM", "SIGKILL"])
@pytest.mark.parametrize("task", PATHS)
def test_signal_at_any_time_leaves_the_old_or_the_new(world: World, task: str, hit: Hit) -> None:
    for at in [1, 2600, 20_000, 89_000]:
        schedule = Schedule(task, old=at != 2600, keep=task == "2", hit=hit, at=at)
        done = world.carry_out(schedule)
        assert len(done.err.splitlines()) == (1 if done.code > 0 else 0), done.err


@pytest.mark.parametrize("hit", ["replaced", "grown", "shrunk", "removed"])
@pytest.mark.parametrize("task", PATHS)
def test_changing_source_is_downloaded_again_or_an_error(world: World, task: str, hit: Hit) -> None:
    for at in [2700, 5000, 60_000]:
        world.carry_out(Schedule(task, keep=task == "1", hit=hit, at=at))


# --- disks ------------------------------------------------------------------------------------


@contextlib.contextmanager
def disk(client: Client) -> Iterator[Callable[[str], None]]:
    """Move the published data to a small disk; give a function that changes its mount options."""
    if not sshd.ROOT:
        pytest.skip("SMALL DISKS NEED ROOT: only root may mount one")
    folder, before = client.target.parent, client.folder / "before"

    def mount(options: str) -> None:
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", folder], check=True)

    folder.rename(before)
    folder.mkdir()
    mount("size=2m")
    try:
        shutil.copytree(before, folder, dirs_exist_ok=True)
        shutil.rmtree(before)
        yield lambda options: mount(f"remount,{options}")
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def run_on_disk(world: World, schedule: Schedule, kind: str, free: int) -> int:
    """Run with few free 4 KiB blocks or inodes, and check the result; return the exit code."""
    client = world.begin(schedule)
    with disk(client) as change:
        facts = os.statvfs(client.target.parent)
        if kind == "blocks":
            change(f"size={(facts.f_blocks - facts.f_bfree + free) * 4}k")
        else:
            change(f"nr_inodes={facts.f_files - facts.f_ffree + free}")
        done = client.run(schedule.task, PATHS[schedule.task], *flags(schedule.keep))
        assert done.code in {0, 8}, done.err
        assert len(done.err.splitlines()) == (1 if done.code else 0)
        change("size=2m,nr_inodes=999")
        world.check(client, schedule, done)
    return done.code


@pytest.mark.parametrize(("kind", "keeps", "free"), [
    ("blocks", "2", [0, 1, 3, 8, 15, 20, 24, 100]), ("inodes", "1", [0, 1, 2, 4, 6, 20])
])  # fmt: skip
@pytest.mark.parametrize("task", PATHS)
def test_full_disk_is_a_local_error_and_leaves_the_old(
    world: World, task: str, kind: str, keeps: str, free: list[int]
) -> None:
    schedule = Schedule(task, keep=task == keeps)
    codes = [run_on_disk(world, schedule, kind, count) for count in free]
    assert (codes[0], codes[-1]) == (8, 0)


def test_complete_download_survives_a_disk_that_is_full_at_the_manifest(world: World) -> None:
    """The members are empty: there is room for the archive, and none for the manifest."""
    client = world.begin(Schedule("1", keep=True))
    packed = zipped({f"{number}.csv": b"" for number in range(3000)})
    (world.server.home / "many.zip").write_bytes(packed)
    world.has = None
    with disk(client) as change:
        facts = os.statvfs(client.target.parent)
        used = (facts.f_blocks - facts.f_bfree) * 4
        change(f"size={used + len(packed) // 1024 + 100}k,nr_inodes=9999")
        done = client.run("1", "many.zip", "--keep-archive")
        assert done.code == 8, done.err
        assert tree(client.target) == OLD.landed("1", keep=True)
        [part] = client.target.parent.glob(".data.part/*")
        assert part.read_bytes() == packed
        change("size=9m")
        world.relay.renew()
        again = client.run("1", "many.zip", "--keep-archive")
        assert again.code == 0, again.err
        assert world.relay.passed < len(packed) / 2, "the archive is not downloaded again"
        assert len(tree(client.target)) == 3001
        assert left_over(client) == []


# --- foreign files ------------------------------------------------------------------------------


def test_foreign_file_written_during_a_run_stays(world: World) -> None:
    """A run inside the target is refused, and a foreign file fails the run."""
    client = world.begin(Schedule())
    world.relay.rate = 40_000
    process = client.start("3", PATHS["3"], *flags(keep=False))
    wait_for((client.target.parent / ".data.staging").exists)
    inside = world.client(**{"file-save-path": str(client.target / "b")}).run("1", PATHS["1"])
    assert inside.code == 8, inside.err
    (client.target / "notes.txt").write_bytes(b"mine")
    world.relay.rate = 0
    done = ended(process)
    assert done.code == 8, done.err
    assert tree(client.target) == {**OLD.landed("3", keep=False), "notes.txt": b"mine"}
    (client.target / "notes.txt").unlink()
    world.check(client, Schedule(), done)


# --- denied logins, and servers that do not follow the protocol ---------------------------------


@pytest.mark.parametrize(("options", "known"), [
    ({"username": "nobody-here"}, True), ({"ssh-key-file": None}, True), ({}, False)
])  # fmt: skip
def test_denied_login_and_wrong_host_key_leave_the_old(
    world: World, options: dict[str, str | None], known: bool
) -> None:
    client = world.begin(Schedule(), **options)
    if not known:
        other = sshd.make_key(client.folder / "envs/other").with_suffix(".pub").read_text()
        client.known_hosts.write_text(
            f"[127.0.0.1]:{world.relay.address.rpartition(':')[2]} {other}"
        )
    done = client.run("3", "tree", "--mirror")
    assert (done.code, len(done.err.splitlines())) == (4, 1), done.err
    client.options.update(world.client().options)
    client.known_hosts.write_text(world.client().known_hosts.read_text())
    world.check(client, Schedule(), done)


@pytest.mark.parametrize("answer", [
    b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-1.5-old\r\n", noise(100_000), b"\0" * 100_000,
    b"SSH-2.0-x\r\n" + noise(100_000), b"line\r\n" * 10_000,
])  # fmt: skip
@pytest.mark.parametrize("closes", [True, False])
def test_server_without_ssh_is_a_network_error(world: World, answer: bytes, closes: bool) -> None:
    client = world.begin(Schedule())
    client.options["timeout"] = str(SOON)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client.options["remote-host-address"] = f"127.0.0.1:{listener.getsockname()[1]}"
        thread = threading.Thread(target=speak, args=(listener, answer, closes), daemon=True)
        thread.start()
        done = client.run("3", "tree", "--mirror")
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(10)
    assert done.code == 5, done.err
    client.options.update(world.client().options)
    world.check(client, Schedule(), done)


def speak(listener: socket.socket, answer: bytes, closes: bool) -> None:
    """Send the same to each client."""
    sockets = []
    with contextlib.suppress(OSError):
        while True:
            sock, _ = listener.accept()
            sockets.append(sock)
            with contextlib.suppress(OSError):
                sock.sendall(answer)
            if closes:
                sock.close()
    for sock in sockets:
        sock.close()


class Endless(asyncssh.SFTPServer):
    """Lists a folder without an end."""

    async def scandir(self, path: bytes) -> Any:
        facts = asyncssh.SFTPAttrs(permissions=0o100644, size=3, mtime=0)
        for number in itertools.count():
            yield asyncssh.SFTPName(b"%d.csv" % number, attrs=facts)


class Deep(asyncssh.SFTPServer):
    """Lists two folders in each folder."""

    async def scandir(self, path: bytes) -> Any:
        facts = asyncssh.SFTPAttrs(permissions=0o40755, size=3, mtime=0)
        for name in (b"a", b"b"):
            yield asyncssh.SFTPName(name, attrs=facts)


class ShortData(asyncssh.SFTPServer):
    """Ends each file early."""

    def read(self, file_obj: Any, offset: int, size: int) -> bytes:
        return b"" if offset + size > 1500 else os.pread(file_obj.fileno(), size, offset)


class Garbage(asyncssh.SFTPServer):
    """Gives other bytes."""

    def read(self, file_obj: Any, offset: int, size: int) -> bytes:
        return noise(len(os.pread(file_obj.fileno(), size, offset)))


class TooMuch(asyncssh.SFTPServer):
    """Gives more bytes than it was asked for."""

    def read(self, file_obj: Any, offset: int, size: int) -> bytes:
        return noise(size + 10)


class Fails(asyncssh.SFTPServer):
    """Fails in the middle."""

    def read(self, file_obj: Any, offset: int, size: int) -> bytes:
        raise asyncssh.SFTPFailure("no disk")


class Silent(asyncssh.SFTPServer):
    """Does not answer."""

    async def read(self, file_obj: Any, offset: int, size: int) -> bytes:
        await asyncio.sleep(3600)
        return b""


class Escaping(asyncssh.SFTPServer):
    """Lists a name that leads out of the folder."""

    async def scandir(self, path: bytes) -> Any:
        facts = asyncssh.SFTPAttrs(permissions=0o100644, size=3, mtime=0)
        yield asyncssh.SFTPName(b"../../escaped.csv", attrs=facts)


class Huge(asyncssh.SFTPServer):
    """States that a file is larger than all disks."""

    def size(self, size: int) -> int:
        return 2**62

    def stat(self, path: bytes) -> asyncssh.SFTPAttrs:
        facts = asyncssh.SFTPAttrs.from_local(Path(os.fsdecode(path)).stat())
        facts.size = self.size(facts.size or 0)
        return facts

    def fstat(self, file_obj: Any) -> asyncssh.SFTPAttrs:
        return self.stat(file_obj.name)


class Larger(Huge):
    """States that a file has more bytes than it has."""

    def size(self, size: int) -> int:
        return size + 100_000


class Smaller(Huge):
    """States that a file has fewer bytes than it has."""

    def size(self, size: int) -> int:
        return size - 10


@pytest.mark.parametrize(("liar", "task", "codes"), [
    (Endless, "3", {3}), (Deep, "3", {3}), (ShortData, "1", {6}), (ShortData, "3", {6}),
    (Garbage, "1", {7}), (Garbage, "2", {7}), (TooMuch, "1", {5, 6}), (Fails, "2", {3}),
    (Silent, "1", {5}), (Huge, "1", {3, 6}), (Huge, "2", {3, 6}), (Larger, "1", {6}),
    (Smaller, "1", {6}), (Escaping, "3", {3}),
])  # fmt: skip
def test_false_answer_of_the_host_is_an_error(
    world: World, liar: type[asyncssh.SFTPServer], task: str, codes: set[int]
) -> None:
    schedule = Schedule(task)
    client = world.begin(schedule, **{"ssh-key-file": None})
    client.options["timeout"] = str(SOON)
    client.environ["PASSWORD"] = hosts.PASSWORD
    with hosts.host(liar, client.known_hosts) as address:
        limits = ["--mirror", "--max-members=300"]
        done = client.run(task, PATHS[task], *limits, remote_host_address=address)
    assert done.code in codes, done.err
    del client.environ["PASSWORD"]
    client.options.update(world.client().options)
    world.check(client, schedule, done)


# --- clocks -----------------------------------------------------------------------------------


@pytest.mark.parametrize("mtime", [0, 2**31 + 10, 2**32 - 1])
@pytest.mark.parametrize("task", PATHS)
def test_modification_times_may_be_of_any_clock(world: World, task: str, mtime: int) -> None:
    schedule = Schedule(task)
    client = world.begin(schedule)
    world.has = None
    for path in world.server.home.rglob("*.*"):
        os.utime(path, (mtime, mtime))
    assert client.run(task, PATHS[task], "--mirror").code == 0
    assert tree(client.target) == NEW.landed(task, keep=False)
    done = client.run(task, PATHS[task], "--mirror", "--json")
    assert done.data()["status"] == "unchanged"
    manifest = client.target / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"finished": "2', '"finished": "9'))
    assert client.run(task, PATHS[task], "--json").data()["status"] == "unchanged"
    world.check(client, schedule, done)


# --- random -----------------------------------------------------------------------------------

OFFSETS = st.integers(0, 7000) | st.integers(0, 100_000)
SCHEDULES_OF_FAULTS = st.builds(
    Schedule,
    task=st.sampled_from(list(PATHS)),
    old=st.booleans(),
    keep=st.booleans(),
    fault=st.none() | st.sampled_from(["cut", "cut", "half-close", "corrupt", "slow", "stall"]),
    side=st.sampled_from(["server", "server", "client"]),
    after=OFFSETS,
    times=st.sampled_from([1, 2, 3, 99]),
    hit=st.none()
    | st.sampled_from(
        ["SIGTERM", "SIGKILL", "SIGKILL", "server", "replaced", "grown", "shrunk", "removed"]
    ),
    at=OFFSETS,
)


@settings(
    max_examples=SCHEDULES, derandomize=True, database=None, deadline=None,
    phases=[Phase.generate], suppress_health_check=list(HealthCheck),
)  # fmt: skip
@given(SCHEDULES_OF_FAULTS)
def test_any_schedule_leaves_the_old_or_the_new(world: World, schedule: Schedule) -> None:
    world.carry_out(schedule)
