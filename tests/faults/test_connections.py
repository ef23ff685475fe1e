"""Connections: when a second one replaces the first, who may do that, and what counts as a cut."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fabric
import paramiko
import pytest

from client import Client, put, tree, trusted, wait_for
from relay import Relay
from sshd import Sshd
from tasks.fetch.errors import NetworkError
from tasks.fetch.shards.names import Hosts
from tasks.fetch.ssh.connection import connect, open_connection
from tasks.fetch.ssh.errors import translated
from tasks.fetch.ssh.host import Host
from tasks.fetch.ssh.remote_files import RemoteFile, Stream
from tasks.fetch.ssh.sftp_reader import Reader
from tasks.settings import Settings

pytestmark = pytest.mark.sshd
ROWS = {f"{n}.csv": b"2026-01-01,%d,Genova\n" % n * 200_000 for n in range(3)}
RATE = 1_500_000


@pytest.fixture
def client(tmp_path: Path, folder: Path) -> Iterator[Client]:
    """Give a client of a server with data that compresses well."""
    with Sshd(folder).running() as server:
        put(server.home, ROWS)
        yield Client(tmp_path, server)


@contextlib.contextmanager
def connected(client: Client, address: str, retry_delay: float = 0.01) -> Iterator[Host]:
    """Connect with the client's settings, in this process."""
    settings = Settings(
        remote_host_address=Hosts(trusted(client, address)), username=client.server.user,
        ssh_key_file=client.server.user_key, known_hosts_file=client.known_hosts,
        timeout=60, retry_delay=retry_delay,
    )  # fmt: skip
    with connect(settings) as connection:
        yield Host(connection, settings)


def read_all(stream: Stream) -> None:
    """Read to the end."""
    while stream.read():
        pass


# --- a slow link ------------------------------------------------------------------------------


def test_a_slow_consumer_is_no_slow_link(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    # So that this machine is fast.
    monkeypatch.setattr("tasks.fetch.ssh.download.SLOW_BYTES_PER_S", 5e5)
    with Relay(client.server.port).running() as relay:
        digests: dict[str, str] = {}
        with connected(client, relay.address) as host:
            files = host.listing(str(client.server.home)).files
            for name, stream in zip(
                files, host.files([(file, 0) for file in files.values()], lambda _: None),
                strict=True,
            ):  # fmt: skip
                digest = hashlib.sha256()
                for count, block in enumerate(stream):
                    digest.update(block)
                    if count < 10 and not digests:  # as a disk that takes 0.4 MB/s
                        time.sleep(0.7)
                digests[name] = digest.hexdigest()
        assert relay.connections == 1
    assert digests == {name: hashlib.sha256(rows).hexdigest() for name, rows in ROWS.items()}


@pytest.mark.parametrize("refusal", ["denied", "refused", "silent", "no SFTP"])
def test_the_first_connection_stays_where_a_second_one_is_refused(
    client: Client, refusal: str
) -> None:
    server = client.server
    other = Sshd(client.folder / "other", ["ForceCommand echo none"], host_key=server.host_key)
    for name in ("user_key", "user_key.pub"):
        shutil.copy(server.folder / name, other.folder)

    def refuse() -> None:
        match refusal:
            case "denied":
                server.user_key.with_suffix(".pub").unlink()
            case "refused":
                relay.port = 1
            case "silent":
                relay.fault, relay.times = "stall", 99
            case "no SFTP":
                relay.port = other.port

    with contextlib.ExitStack() as stack:
        stack.enter_context(other.running())
        relay = stack.enter_context(Relay(server.port, times=0, rate=RATE).running())
        client.options["remote-host-address"] = trusted(client, relay.address)
        relay.alarm, relay.ring = 2**20, refuse
        done = client.run("3", ".", "--explain", log_level="INFO", timeout="5")
        assert done.code == 0, done.err
        assert relay.connections == 2
    assert tree(client.target) == ROWS
    assert "SSH compression" not in done.out
    assert "WARNING" not in done.err, "a refused second connection is no fault"


def test_task_may_run_a_command_where_one_session_is_allowed(client: Client) -> None:
    with Sshd(client.folder / "one", ["MaxSessions 1"]).running() as server:
        put(server.home, ROWS)
        one = Client(client.folder, server)
        settings = Settings(
            remote_host_address=Hosts(server.address), username=server.user,
            ssh_key_file=server.user_key, known_hosts_file=one.known_hosts,
        )  # fmt: skip
        with connect(settings) as connection:
            assert connection.run("echo done", hide=True, in_stream=False).stdout == "done\n"
            assert Host(connection, settings).listing(str(server.home)).files.keys() == ROWS.keys()


SLOW_COMMANDS = (
    'ForceCommand case "$SSH_ORIGINAL_COMMAND" in xargs*) sleep 4; eval "$SSH_ORIGINAL_COMMAND";; '
    "*) exec /usr/lib/openssh/sftp-server;; esac"
)


@pytest.mark.parametrize("options", [(), ("MaxSessions 1",), (SLOW_COMMANDS,)])
def test_the_second_connection_replaces_the_first_without_a_byte_lost(
    client: Client, options: tuple[str, ...]
) -> None:
    """Nor a checksum that was being computed on the first one."""
    client.server.stop()
    client.server.options = [*options]
    with client.server.running(), Relay(client.server.port, rate=RATE).running() as relay:
        client.options["remote-host-address"] = trusted(client, relay.address)
        done = client.run("3", ".", "--explain", timeout="60")
        assert done.code == 0, done.err
        assert "SSH compression" in done.out
        assert "checked: size, sha256" in done.out, done.err
        assert relay.connections == 2, done.err
    assert tree(client.target) == ROWS


def test_a_second_connection_to_a_host_with_another_key_ends_the_run(client: Client) -> None:
    other = Sshd(client.folder / "other")
    with other.running(), Relay(client.server.port, rate=RATE).running() as relay:
        client.options["remote-host-address"] = trusted(client, relay.address)
        relay.alarm, relay.ring = 2**20, lambda: setattr(relay, "port", other.port)
        assert client.run("3", ".").code == 4
    assert not client.target.exists()


# --- threads whose download was abandoned -------------------------------------------------------


class Reading(threading.Thread):
    """A thread that reads a stream to the end, or to an error."""

    def __init__(self, stream: Stream) -> None:
        super().__init__(name="reader", daemon=True)
        self.stream = stream
        self.error: NetworkError | None = None

    def run(self) -> None:
        try:
            read_all(self.stream)
        except NetworkError as error:
            self.error = error


@contextlib.contextmanager
def reading(
    client: Client, retry_delay: float = 0.01
) -> Iterator[tuple[Host, fabric.Connection, Reading, Relay]]:
    """Read a file in a thread, whose connection is cut."""
    file = client.server.home / "big.csv"
    file.write_bytes(os.urandom(2**23))
    with (
        Relay(client.server.port, "cut", 2**21).running() as relay,
        connected(client, relay.address, retry_delay) as host,
    ):
        thread = Reading(next(host.files([(host.facts(str(file)), 0)], lambda _: None)))
        thread.start()
        yield host, host._link.connection, thread, relay
        assert host.facts(str(file)).size == 2**23


def take_over(host: Host) -> paramiko.Transport:
    """Reset and reconnect, as a run does that gives up an archive."""
    host.reset()
    host._link.reconnect()
    assert host._link.transport is not None
    return host._link.transport


def test_a_thread_that_outlived_its_archive_leaves_the_connection_alone(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    with reading(client, retry_delay=1) as (host, connection, thread, relay):
        wait_for(lambda: "resuming at byte" in caplog.text)
        transport = take_over(host)
        thread.join(30)
        assert thread.error
        assert connection.transport is transport
        assert transport.is_active()
        assert relay.connections == 2


def test_a_thread_that_is_connecting_again_gives_way(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reset falls between the login of the thread's new connection and its use."""
    opening, done = threading.Event(), threading.Event()

    def slow_open(*arguments: Any, **options: Any) -> object:
        connection = open_connection(*arguments, **options)
        if threading.current_thread().name == "reader":
            opening.set()
            assert done.wait(30)
        return connection

    monkeypatch.setattr("tasks.fetch.ssh.link.open_connection", slow_open)
    with reading(client) as (host, connection, thread, _):
        assert opening.wait(30)
        transport = take_over(host)
        done.set()
        thread.join(30)
        assert thread.error
        assert connection.transport is transport


# --- bugs -------------------------------------------------------------------------------------


def test_an_exception_of_our_own_code_is_a_bug() -> None:
    with pytest.raises(TypeError), translated("here"):
        len(3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("data", "parse"),
    [
        (b"\0\0\0\2\xff\xff", paramiko.Message.get_text),  # UnicodeDecodeError
        (b"", lambda message: paramiko.Ed25519Key(data=message.asbytes())),
        (b"\0\0\0\1x", lambda message: paramiko.RSAKey(msg=message)),
        (b"\0\0\0\x0bssh-ed25519\0\0\0\1x", lambda message: paramiko.Ed25519Key(msg=message)),
    ],
)
def test_an_exception_of_paramiko_is_the_hosts_fault(
    data: bytes, parse: Callable[[paramiko.Message], object]
) -> None:
    with pytest.raises(NetworkError) as caught, translated("here"):
        parse(paramiko.Message(data))
    assert caught.value.transient


def test_a_bug_in_reading_is_not_retried(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def blocks(self: Reader) -> Iterator[tuple[bytes, bool]]:
        calls.append(self)
        yield b"x", False
        raise KeyError("a bug")

    monkeypatch.setattr(Reader, "blocks", blocks)
    with connected(client, client.server.address) as host:
        stream = next(host.files([(RemoteFile("a", 2, 0), 0)], lambda _: None))
        with pytest.raises(KeyError):
            read_all(stream)
    assert len(calls) == 1


def test_a_bug_in_a_thread_that_asks_for_checksums_is_not_lost(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def computed(*_: object) -> None:
        raise TypeError("a bug")

    monkeypatch.setattr("tasks.fetch.ssh.checksums.read_output", computed)
    with connected(client, client.server.address) as host:
        remote = host.remote_checksums([host.facts(str(client.server.home / "0.csv"))])
        with pytest.raises(TypeError):
            remote.result(20)
