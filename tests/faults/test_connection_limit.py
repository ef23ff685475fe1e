"""max_connections: how many connections the runs of one folder have open at once."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator

import pytest

from client import Client, ended, put, tree, trusted, wait_for
from relay import Relay
from tasks.fetch.errors import BusyError
from tasks.fetch.shards.names import Hosts
from tasks.fetch.ssh.connection import connect
from tasks.settings import Settings

pytestmark = pytest.mark.sshd
FILES = {"a.csv": b"a\n", "b.csv": b"b\n"}
WAITING = "connections are open (max_connections); waiting until one ends"


@pytest.fixture
def client(client: Client, relay: Relay) -> Client:
    """Give a client that reaches the server through a relay, with at most one connection."""
    put(client.server.home / "tree", FILES)
    client.options["max-connections"] = "1"
    return client


@contextlib.contextmanager
def holding(client: Client, number: int) -> Iterator[None]:
    """Hold some connections, in this process."""
    settings = Settings(
        remote_host_address=Hosts(client.options["remote-host-address"]),
        username=client.server.user, ssh_key_file=client.server.user_key,
        known_hosts_file=client.known_hosts, max_connections=9,
        connections_folder=client.folder / "data/.connections",
    )  # fmt: skip
    with contextlib.ExitStack() as stack:
        for _ in range(number):
            stack.enter_context(connect(settings))
        yield


@pytest.mark.parametrize("number", [1, 2])
def test_run_waits_for_a_connection_of_another(client: Client, relay: Relay, number: int) -> None:
    with holding(client, number):
        process = client.start("3", "tree", max_connections=str(number))
        wait_for(lambda: f"{number} {WAITING}" in process.said())
        assert (process.poll(), relay.connections) == (None, number)
        more = client.run("3", "tree", max_connections=str(number + 1), file_save_path="out/more")
        assert (more.code, WAITING in more.err) == (0, False), more.err
    done = ended(process)
    assert done.code == 0, done.err
    assert tree(client.target) == FILES


def test_another_host_has_places_of_its_own(client: Client) -> None:
    with holding(client, 1), Relay(client.server.port).running() as other:
        done = client.run("3", "tree", remote_host_address=trusted(client, other.address))
    assert (done.code, done.err) == (0, "")


def test_place_of_a_run_that_is_killed_is_free(client: Client, relay: Relay) -> None:
    put(client.server.home / "large", {"large.csv": os.urandom(10**6)})
    relay.rate = 200_000
    first = client.start("3", "large", file_save_path="out/large")
    wait_for(lambda: relay.passed > 100_000)
    second = client.start("3", "tree")
    wait_for(lambda: WAITING in second.said())
    relay.rate = 0
    os.kill(first.pid, signal.SIGKILL)
    assert ended(second).code == 0


def test_run_does_not_wait_for_itself(client: Client) -> None:
    with (
        pytest.raises(BusyError, match="one of them by this run itself"),
        holding(client, 9),
        holding(client, 1),
    ):
        pass


def test_signal_ends_a_run_that_waits(client: Client) -> None:
    with holding(client, 1):
        process = client.start("3", "tree")
        wait_for(lambda: WAITING in process.said())
        os.kill(process.pid, signal.SIGINT)
        assert ended(process).code == 130


def test_second_connection_with_compression_counts(client: Client, relay: Relay) -> None:
    put(client.server.home / "slow", {"slow.csv": b"2026-01-01,1,Genova\n" * 600_000})
    relay.rate = 3_000_000
    done = client.run("3", "slow", "--explain", "--verify=size", log_level="INFO")
    assert done.code == 0, done.err
    assert "staying on the first connection" in done.err
    assert ("SSH compression" in done.out, relay.connections) == (False, 1)


def test_folder_that_cannot_be_used_is_named(client: Client) -> None:
    (client.folder / "file").write_bytes(b"")
    done = client.run("3", "tree", connections_folder=str(client.folder / "file/locks"))
    assert (done.code, "set connections_folder to a folder" in done.err) == (8, True), done.err
