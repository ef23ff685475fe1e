"""Many small files: read in batches that the host's tar writes, or by SFTP where it cannot."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from client import Client, put, tree, trusted
from relay import Relay
from selection import manifest
from sshd import Sshd, need_passwords, need_sshd

pytestmark = pytest.mark.sshd

TAR = shutil.which("tar")
COUNT = 300
FILES = {f"{number % 7}/{number:03}.csv": b"%d\n" % number * number for number in range(COUNT)}
ODD = {
    "-n/--help.csv": b"a dash",
    "\N{LATIN SMALL LETTER U WITH DIAERESIS} $(x) 'y\".csv": b"odd",
    f"{'d' * 60}/{'f' * 90}.csv": b"a long path",
    "empty.csv": b"",
    "block.csv": b"x" * 512,
    "small.csv": os.urandom(2**16),
    "large.csv": os.urandom(2**16 + 1),
}


class Host:
    """A server whose accounts have a program `tar` of the test's in their path.

    Attributes:
        runs: A file with a line for each run of tar.
    """

    def __init__(self, folder: Path) -> None:
        self.tar, self.runs = folder / "bin/tar", folder / "runs"
        self.tar.parent.mkdir()
        options = [f"SetEnv PATH={self.tar.parent}:/usr/bin:/bin", "LogLevel VERBOSE"]
        self.server = Sshd(folder / "sshd", options)
        self.use(f'exec {TAR} "$@"')

    def use(self, script: str) -> None:
        """Have tar be a shell script that notes each run."""
        self.runs.write_text("")
        self.tar.write_text(f"#!/bin/sh\necho run >> '{self.runs}'\n{script}\n")
        self.tar.chmod(0o755)

    def count(self) -> int:
        """Give how often tar ran."""
        return len(self.runs.read_text().split())


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """Give the host."""
    need_sshd()
    host = Host(tmp_path_factory.mktemp("tar"))
    with host.server.running():
        yield host


@pytest.fixture
def client(tmp_path: Path, host: Host) -> Client:
    """Give a client of the host, which has the small files; its tar is the real one."""
    host.use(f'exec {TAR} "$@"')
    shutil.rmtree(host.server.home / "many", ignore_errors=True)
    put(host.server.home / "many", FILES)
    return Client(tmp_path, host.server)


def test_many_small_files_are_read_with_tar(client: Client, host: Host) -> None:
    files = {**FILES, **ODD}
    put(host.server.home / "many", ODD)
    os.link(host.server.home / "many/block.csv", host.server.home / "many/linked.csv")
    done = client.run("3", "many", "--json")
    assert done.code == 0, done.err
    assert tree(client.target) == {**files, "linked.csv": ODD["block.csv"]}
    assert {source["verified"] for source in manifest(client)["sources"]} == {"sha256"}
    assert host.count() > 0


@pytest.mark.parametrize("size", [2**16, 2000])
def test_each_batch_is_read_with_one_tar(client: Client, host: Host, size: int) -> None:
    files = {f"{number:04}.csv": b"%04d" % number * (size // 4) for number in range(COUNT)}
    put(host.server.home / "many/more", files)
    done = client.run("3", "many/more", "--verify=size")
    assert done.code == 0, done.err
    assert tree(client.target) == files
    assert host.count() == -(-COUNT * (size + 1024) // 2**22)


def test_few_files_start_no_command(client: Client, host: Host) -> None:
    done = client.run("3", "many/1")
    assert done.code == 0, done.err
    assert host.count() == 0


def test_max_rate_applies_to_small_files(client: Client, host: Host) -> None:
    done = client.run("3", "many", "--max-rate", "100MB")
    assert done.code == 0, done.err
    assert (tree(client.target), host.count()) == (FILES, 0)


FAULTY = {
    "missing": "exit 127",
    "another tar": "echo 'unrecognized option: hard-dereference' >&2; exit 1",
    "a fault at its end": f'{TAR} "$@"; exit 1',
    "no end": f'{TAR} "$@" | head -c 100000',
    "nothing": "exec cat > /dev/null",
    "other bytes": "cat > /dev/null; exec head -c 200000 /dev/zero",
    "a greeting": f'echo Welcome; exec {TAR} "$@"',
    "more": f'{TAR} "$@"; exec head -c 10000000 /dev/zero',
    "another order": f"tr '\\0' '\\n' | tac | tr '\\n' '\\0' | {TAR} \"$@\"",
    "another size": f"{TAR} \"$@\" | sed 's/00000000002/00000000001/'",
    "stuck": "sleep 20 & exec sleep 20",
}


@pytest.mark.parametrize("fault", FAULTY)
def test_small_files_are_read_by_sftp_where_tar_fails(
    client: Client, host: Host, fault: str
) -> None:
    host.use(FAULTY[fault])
    done = client.run("3", "many", "--log-level=INFO", timeout="3")
    assert done.code == 0, done.err
    assert tree(client.target) == FILES
    assert {source["verified"] for source in manifest(client)["sources"]} == {"sha256"}
    assert (host.count(), "small files are read by SFTP" in done.err) == (1, True)


def test_file_that_changes_before_tar_reads_it_is_downloaded_as_it_is(
    client: Client, host: Host
) -> None:
    changed = host.server.home / "many/1/008.csv"
    once = f"'{host.runs}.once'"
    host.use(f"[ -s {once} ] || echo more | tee -a '{changed}' > {once}\nexec {TAR} \"$@\"")
    done = client.run("3", "many")
    assert done.code == 0, done.err
    assert tree(client.target) == {**FILES, "1/008.csv": FILES["1/008.csv"] + b"more\n"}
    assert "1/008.csv: the host sends more than its size of 16 bytes" in done.err


def test_file_that_is_removed_before_tar_reads_it_is_named(client: Client, host: Host) -> None:
    host.use(f"rm -f '{host.server.home}/many/1/008.csv'; exec {TAR} \"$@\"")
    done = client.run("3", "many", max_tries="1")
    assert (done.code, "many/1/008.csv" in done.err) == (6, True), done.err
    assert not client.target.exists()


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_cut_in_a_batch_loses_nothing(client: Client, host: Host, share: float) -> None:
    files = {f"{number:04}.csv": os.urandom(2**15) for number in range(COUNT)}
    put(host.server.home / "many/more", files)
    with Relay(host.server.port).running() as relay:
        client.options["remote-host-address"] = trusted(client, relay.address)
        relay.after, relay.fault = int(share * COUNT * 2**15), "cut"
        done = client.run("3", "many/more")
    assert done.code == 0, done.err
    assert tree(client.target) == files


def test_exec_never_runs_no_command(client: Client, host: Host) -> None:
    log = host.server.folder / "log"
    before = log.stat().st_size
    done = client.run("3", "many", "--exec=never", "--explain", "--checksum")
    assert done.code == 0, done.err
    assert tree(client.target) == FILES
    assert "size only, as exec is never (300)" in done.out
    sessions = [
        line for line in log.read_text()[before:].splitlines() if "Starting session" in line
    ]
    assert sessions
    assert all("subsystem 'sftp'" in line for line in sessions)
    assert {source["verified"] for source in manifest(client)["sources"]} == {"size"}


def test_exec_never_runs_no_command_either_where_sftp_fails(tmp_path: Path) -> None:
    need_sshd()
    server = Sshd(tmp_path / "sshd", ["LogLevel VERBOSE"], sftp="/nonexistent")
    with server.running():
        done = Client(tmp_path, server).run("3", "many", "--exec=never", max_tries="1")
    assert (done.code, "Starting session: command" in (server.folder / "log").read_text()) == (
        5, False,
    ), done.err  # fmt: skip


def test_slow_link_is_compressed_for_small_files(client: Client, host: Host) -> None:
    files = {f"{number:04}.csv": b"2026-01-01,1,Genova\n" * 400 for number in range(1500)}
    put(host.server.home / "many/more", files)
    with Relay(host.server.port, rate=1_500_000).running() as relay:
        client.options["remote-host-address"] = trusted(client, relay.address)
        done = client.run("3", "many/more", "--verify=size", timeout="30")
        assert done.code == 0, done.err
        assert relay.passed < 10_000_000, "of 13 MB"
    assert tree(client.target) == files


def test_account_without_commands_gets_small_files(client: Client, host: Host) -> None:
    need_passwords()
    done = client.run("3", "many", username="sftp")
    assert done.code == 0, done.err
    assert (tree(client.target), host.count()) == (FILES, 0)


def test_server_with_one_session_gives_small_files(tmp_path: Path) -> None:
    need_sshd()
    with Sshd(tmp_path / "sshd", options=["MaxSessions 1"]).running() as server:
        put(server.home / "many", FILES)
        client = Client(tmp_path, server)
        done = client.run("3", "many")
        assert done.code == 0, done.err
        assert tree(client.target) == FILES
        assert {source["verified"] for source in manifest(client)["sources"]} == {"sha256"}
