"""Whatever happens on the way, a target holds the whole old data or the whole new data.

A schedule says what goes wrong, and when. After each the same is checked: the target, that its
manifest tells the truth, that the exit code says what happened, and that the next run lands and
leaves nothing beside. `LIGHTERAGE_FAULTS=1000` sets how many random schedules there are.
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
from client import Client, Ended, ended, left_over, tarred, tree, trusted, wait_for, zipped
from forks import Fork
from relay import Fault, Relay, Side
from sshd import Sshd

SCHEDULES = int(os.environ.get("LIGHTERAGE_FAULTS", "45"))
PATHS = {"1": "data.zip", "2": "data.tar.gz", "3": "tree"}
SOON = 0.5
"""Seconds without a byte that are a stall, where one is to be met."""
pytestmark = pytest.mark.sshd

Tree = dict[str, bytes]
Hit = Literal["SIGTERM", "SIGKILL", "server", "replaced", "grown", "shrunk", "removed"]


# --- the world ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Version:
    """What the host has at a time: the same CSVs as a zip, as a tar, and as a tree."""

    csvs: Tree

    @cached_property
    def files(self) -> Tree:
        """Give the files of the host."""
        first, *others = self.csvs
        return {
            "data.zip": zipped(self.csvs),
            "data.tar.gz": tarred(self.csvs),
            "tree/z/packed.zip": zipped({first: self.csvs[first]}),
            **{f"tree/{name}": self.csvs[name] for name in others},
        }

    def landed(self, task: str, *, keep: bool) -> Tree:
        """Give what a task lands."""
        if task != "3":
            return {**self.csvs, **({PATHS[task]: self.files[PATHS[task]]} if keep else {})}
        first, *others = self.csvs
        archive = {"z/packed.zip": self.files["tree/z/packed.zip"]} if keep else {}
        return {f"z/{first}": self.csvs[first], **{n: self.csvs[n] for n in others}, **archive}


def noise(size: int) -> bytes:
    """Give bytes that do not shrink, and are the same each time."""
    return random.Random(size).randbytes(size)  # noqa: S311 (no secret)


OLD = Version({"one.csv": noise(3000), "goes.csv": b"gone\n", "changes.csv": b"o\n" * 500,
               "stays/stays.csv": noise(20_000)})  # fmt: skip
NEW = Version({"one.csv": noise(4000), "comes.csv": b"here\n", "changes.csv": b"new\n" * 500,
               "stays/stays.csv": noise(20_000), "stays/big.csv": noise(60_000)})  # fmt: skip
LESS = Version({**NEW.csvs, "changes.csv": b"-\n" * 100})
MORE = Version({**NEW.csvs, "changes.csv": noise(9000)})
GONE = Version({name: content for name, content in NEW.csvs.items() if name != "changes.csv"})


@dataclass(frozen=True)
class Schedule:
    """What goes wrong in a run, and when.

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
        """Give the exit codes that may be the right ones."""
        codes = {0}
        if self.fault and (self.times > 1 or self.fault not in {"cut", "half-close", "slow"}):
            codes.add(5)
        of_hits: dict[Hit, set[int]] = {
            "SIGTERM": {143}, "SIGKILL": {-9}, "server": {5}, "removed": {3, 6},
            "replaced": {6}, "grown": {6}, "shrunk": {6},
        }  # fmt: skip
        return codes | (of_hits[self.hit] if self.hit else set())


@dataclass(repr=False)
class World:
    """A server, a relay before it, and what landed of the old version, to begin with."""

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
        """Have the host hold a version, and only that."""
        if self.has == version:
            return
        self.has = version
        shutil.rmtree(self.server.home)
        self.server.home.mkdir()
        for name, content in version.files.items():
            path = self.server.home / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    def client(self, **options: str | None) -> Client:
        """Give a client in a folder of its own, whose way leads through the relay."""
        client = Client(Path(tempfile.mkdtemp(dir=self.folder)), self.server)
        client.options.update(options)
        client.options["remote-host-address"] = trusted(client, self.relay.address)
        return client

    def begin(self, schedule: Schedule, **options: str | None) -> Client:
        """Give a client that a schedule can happen to."""
        self.schedules += 1
        self.relay.renew()
        self.show(NEW)
        client = self.client(**options)
        if schedule.old:
            shutil.copytree(self.before[schedule.task, schedule.keep], client.target)
        return client

    # --- what goes wrong ---------------------------------------------------------------------

    def carry_out(self, schedule: Schedule) -> Ended:
        """Run a task while what the schedule says goes wrong; check what must hold, always."""
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
        """Do what hits a run."""
        home = self.server.home
        path = home / (PATHS[schedule.task] if schedule.task != "3" else "tree/changes.csv")
        name = str(path.relative_to(home))
        if schedule.hit in {"SIGTERM", "SIGKILL"}:
            process.send_signal(signal.Signals[schedule.hit])
        elif schedule.hit == "server":
            self.server.stop()
            self.server.start()
        elif schedule.hit == "removed":
            self.has = GONE if schedule.task == "3" else None
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
        """Check what must hold after any run, and that the next one lands."""
        task, keep = schedule.task, schedule.keep
        now = self.has or NEW  # what the host has in the end, or had
        old = OLD.landed(task, keep=keep) if schedule.old else None
        new = [version.landed(task, keep=keep) for version in (NEW, now)]
        holds = tree(client.target) if client.target.exists() else None
        if done.code == 0 or "the new data had landed" in done.err:
            assert holds in new
        elif done.code == -signal.SIGKILL:
            assert holds in [old, *new]
        else:
            assert holds == old
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
        """Check that nothing lies about that a run must not leave."""
        assert {path.name for path in client.folder.iterdir()} <= {"envs", "out"}
        beside = left_over(client)
        assert beside == [] or (schedule.keep and code and beside == [".data.part"])
        if code and not schedule.old and not beside:
            assert not client.target.parent.exists()


def flags(keep: bool) -> list[str]:
    """Give the flags of a run."""
    return ["--mirror", *(["--keep-archive"] if keep else [])]


def check_manifest(client: Client) -> None:
    """Check that a manifest, where there is one, tells what lies beside it, and nothing else."""
    if not client.target.exists():
        return
    manifest = json.loads((client.target / "manifest.json").read_text())
    told = {file["path"]: (file["size"], file["sha256"])
            for file in manifest["files"] + manifest["archives"]}  # fmt: skip
    assert told == {
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
    """Give the world; tell in the end how many schedules it went through."""
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


# --- a network that breaks, at each step of the conversation ----------------------------------


def steps(world: World, schedule: Schedule) -> list[range]:
    """Give the bytes of each turn of the server, from its first word to the last of a run."""
    client = world.begin(schedule)
    assert client.run(schedule.task, PATHS[schedule.task], *flags(schedule.keep)).code == 0
    turns = [*world.relay.turns, world.relay.passed]
    assert len(turns) > 10, "banner, keys, login, session, facts, data"
    return [range(first, last) for first, last in itertools.pairwise(turns) if first < last]


def test_one_cut_at_any_step_is_made_good(world: World) -> None:
    for turn in steps(world, Schedule()):
        for after in sorted({turn[0], turn[0] + 1, turn[len(turn) // 2], turn[-1]}):
            assert world.carry_out(Schedule(fault="cut", after=after)).code == 0


@pytest.mark.parametrize("fault", ["stall", "half-close", "corrupt", "slow"])
def test_one_fault_at_any_step_is_made_good_or_named(world: World, fault: Fault) -> None:
    for turn in steps(world, Schedule())[::2]:
        world.carry_out(Schedule(fault=fault, after=turn[len(turn) // 2]))


@pytest.mark.parametrize("fault", ["cut", "corrupt"])
def test_a_fault_of_every_connection_is_named(world: World, fault: Fault) -> None:
    for turn in steps(world, Schedule("1"))[:: 3 if fault == "cut" else 6]:
        world.carry_out(Schedule("1", fault=fault, after=turn[0], times=99))


@pytest.mark.parametrize("fault", ["cut", "corrupt", "half-close"])
def test_what_the_client_says_may_be_lost_too(world: World, fault: Fault) -> None:
    for after in [0, 30, 1500, 2500, 3500]:
        world.carry_out(Schedule(fault=fault, side="client", after=after))


@pytest.mark.parametrize("task", PATHS)
def test_a_server_that_is_killed_and_back_is_asked_again(world: World, task: str) -> None:
    for at in [1800, 5000, 60_000]:
        world.carry_out(Schedule(task, hit="server", at=at))


def test_a_server_that_is_gone_is_named(world: World) -> None:
    client = world.begin(Schedule())
    world.server.stop()
    try:
        done = client.run("3", "tree", "--mirror")
    finally:
        world.server.start()
    assert done.code == 5
    world.check(client, Schedule(), done)


# --- signals, and sources that change ---------------------------------------------------------


@pytest.mark.parametrize("hit", ["SIGTERM", "SIGKILL"])
@pytest.mark.parametrize("task", PATHS)
def test_a_signal_at_any_time_leaves_the_old_or_the_new(world: World, task: str, hit: Hit) -> None:
    for at in [1, 2600, 20_000, 89_000]:
        world.carry_out(Schedule(task, old=at != 2600, keep=task == "2", hit=hit, at=at))


@pytest.mark.parametrize("hit", ["replaced", "grown", "shrunk", "removed"])
@pytest.mark.parametrize("task", PATHS)
def test_a_source_that_changes_is_fetched_anew_or_named(world: World, task: str, hit: Hit) -> None:
    for at in [2700, 5000, 60_000]:
        world.carry_out(Schedule(task, keep=task == "1", hit=hit, at=at))


# --- the disk, and who may what ---------------------------------------------------------------


@contextlib.contextmanager
def disk(client: Client) -> Iterator[Callable[[str], None]]:
    """Put what landed on a small disk of its own; gives what changes the disk's options."""
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


def meets(world: World, schedule: Schedule, limit: Callable[[os.statvfs_result], str]) -> int:
    """Let a run meet a disk's limit, and check what must hold; gives its exit code."""
    client = world.begin(schedule)
    with disk(client) as change:
        change(limit(os.statvfs(client.target.parent)))
        done = client.run(schedule.task, PATHS[schedule.task], *flags(schedule.keep))
        assert done.code in {0, 8}, done.err
        assert len(done.err.splitlines()) == (1 if done.code else 0)
        change("size=2m,nr_inodes=999,rw")
        world.check(client, schedule, done)
    return done.code


@pytest.mark.parametrize("task", PATHS)
def test_a_full_disk_is_told_and_leaves_the_old(world: World, task: str) -> None:
    codes = [
        meets(
            world,
            Schedule(task, keep=task == "2"),
            lambda facts, more=more: f"size={(facts.f_blocks - facts.f_bfree + more) * 4}k",  # type: ignore[misc]
        )
        for more in [0, 1, 3, 8, 15, 20, 24, 100]
    ]
    assert (codes[0], codes[-1]) == (8, 0)


@pytest.mark.parametrize("task", PATHS)
def test_a_disk_without_inodes_is_told_and_leaves_the_old(world: World, task: str) -> None:
    codes = [
        meets(
            world,
            Schedule(task, keep=task == "1"),
            lambda facts, more=more: f"nr_inodes={facts.f_files - facts.f_ffree + more}",  # type: ignore[misc]
        )
        for more in [0, 1, 2, 4, 6, 20]
    ]
    assert (codes[0], codes[-1]) == (8, 0)


def test_a_finished_download_survives_a_disk_that_is_full_at_the_manifest(world: World) -> None:
    """The members are empty, so that the archive has room, and the manifest has none."""
    client = world.begin(Schedule("1", keep=True))
    packed = zipped({f"{number}.csv": b"" for number in range(3000)})
    (world.server.home / "many.zip").write_bytes(packed)
    world.has = None  # not what it says any more
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
        assert world.relay.passed < len(packed) / 2, "it was downloaded already"
        assert len(tree(client.target)) == 3001
        assert left_over(client) == []


def test_a_disk_that_is_read_only_is_told(world: World) -> None:
    assert meets(world, Schedule(), lambda _: "ro") == 8


# --- other people's files -----------------------------------------------------------------------


def test_what_others_write_into_the_target_during_a_run_stays(world: World) -> None:
    """Another run inside the target is refused, and a file there keeps the target as it is."""
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


# --- who is no friend -------------------------------------------------------------------------


@pytest.mark.parametrize(("options", "known"), [
    ({"username": "nobody-here"}, True), ({"ssh-key-file": None}, True), ({}, False)
])  # fmt: skip
def test_no_login_and_another_key_leave_the_old(
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


@pytest.mark.parametrize("words", [
    b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-1.5-old\r\n", noise(100_000), b"\0" * 100_000,
    b"SSH-2.0-x\r\n" + noise(100_000), b"line\r\n" * 10_000,
])  # fmt: skip
@pytest.mark.parametrize("closes", [True, False])
def test_what_is_no_ssh_server_is_named(world: World, words: bytes, closes: bool) -> None:
    client = world.begin(Schedule())
    client.options["timeout"] = str(SOON)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client.options["remote-host-address"] = f"127.0.0.1:{listener.getsockname()[1]}"
        thread = threading.Thread(target=speak, args=(listener, words, closes), daemon=True)
        thread.start()
        done = client.run("3", "tree", "--mirror")
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(10)
    assert done.code == 5, done.err
    client.options.update(world.client().options)
    world.check(client, Schedule(), done)


def speak(listener: socket.socket, words: bytes, closes: bool) -> None:
    """Say the same to whoever comes."""
    held = []
    with contextlib.suppress(OSError):
        while True:
            sock, _ = listener.accept()
            held.append(sock)
            with contextlib.suppress(OSError):
                sock.sendall(words)
            if closes:
                sock.close()
    for sock in held:
        sock.close()


class Endless(asyncssh.SFTPServer):
    """Lists a folder without an end."""

    async def scandir(self, path: bytes) -> Any:
        facts = asyncssh.SFTPAttrs(permissions=0o100644, size=3, mtime=0)
        for number in itertools.count():
            yield asyncssh.SFTPName(b"%d.csv" % number, attrs=facts)


class Deep(asyncssh.SFTPServer):
    """Has in each folder two folders."""

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


class Huge(asyncssh.SFTPServer):
    """Says that a file is larger than all disks."""

    def stat(self, path: bytes) -> asyncssh.SFTPAttrs:
        facts = asyncssh.SFTPAttrs.from_local(Path(os.fsdecode(path)).stat())
        facts.size = 2**62
        return facts

    def fstat(self, file_obj: Any) -> asyncssh.SFTPAttrs:
        return self.stat(file_obj.name)


@pytest.mark.parametrize(("liar", "task", "codes"), [
    (Endless, "3", {3}), (Deep, "3", {3}), (ShortData, "1", {6}), (ShortData, "3", {6}),
    (Garbage, "1", {7}), (Garbage, "2", {7}), (TooMuch, "1", {5, 6}), (Fails, "2", {3}),
    (Silent, "1", {5}), (Huge, "1", {3, 6}), (Huge, "2", {3, 6}),
])  # fmt: skip
def test_a_host_that_lies_is_found_out(
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
def test_times_of_any_clock_are_only_compared(world: World, task: str, mtime: int) -> None:
    schedule = Schedule(task)
    client = world.begin(schedule)
    world.has = None  # as if it were another
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


# --- by chance --------------------------------------------------------------------------------

PLACES = st.integers(0, 7000) | st.integers(0, 100_000)
SOME = st.builds(
    Schedule,
    task=st.sampled_from(list(PATHS)),
    old=st.booleans(),
    keep=st.booleans(),
    fault=st.none() | st.sampled_from(["cut", "cut", "half-close", "corrupt", "slow", "stall"]),
    side=st.sampled_from(["server", "server", "client"]),
    after=PLACES,
    times=st.sampled_from([1, 2, 3, 99]),
    hit=st.none()
    | st.sampled_from(
        ["SIGTERM", "SIGKILL", "SIGKILL", "server", "replaced", "grown", "shrunk", "removed"]
    ),
    at=PLACES,
)


@settings(
    max_examples=SCHEDULES, derandomize=True, database=None, deadline=None,
    phases=[Phase.generate], suppress_health_check=list(HealthCheck),
)  # fmt: skip
@given(SOME)
def test_any_schedule_keeps_what_must_hold(world: World, schedule: Schedule) -> None:
    world.carry_out(schedule)
