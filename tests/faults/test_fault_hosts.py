"""Full disks, foreign files, hosts that refuse or lie, and clocks: the old data or the new stays.

In the world of test_faults.py, with the same checks after each fault.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
import threading
from pathlib import Path
from typing import Any

import asyncssh
import pytest

import hosts
import sshd
from client import ended, left_over, tree, wait_for, zipped
from small_disk import disk
from world import NEW, OLD, PATHS, SOON, Schedule, World, flags, noise

pytestmark = pytest.mark.sshd


# --- disks ------------------------------------------------------------------------------------


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
        errors = [line for line in done.err.splitlines() if " WARNING " not in line]
        assert len(errors) == (1 if done.code else 0)
        change("size=2m,nr_inodes=999")
        world.check(client, schedule, done)
    return done.code


@pytest.mark.parametrize(("kind", "keeps", "free"), [
    ("blocks", "2", [0, 3, 15, 24, 100]), ("inodes", "1", [0, 2, 6, 20])
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


ANSWERS = [
    b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-1.5-old\r\n", noise(100_000),
    b"\0" * 100_000, b"SSH-2.0-x\r\n" + noise(100_000), b"line\r\n" * 10_000,
]  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "closes"),
    [*((answer, True) for answer in ANSWERS), *((answer, False) for answer in ANSWERS[::3])],
)
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
