"""What the tests of faults share: a real OpenSSH server, and a client of it."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import sshd
from client import Client, trusted, write_datasets, zipped
from relay import Relay
from selection import PACKED, TREE
from sshd import Sshd
from world import World


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """Give a server with an empty home; one for each module."""
    sshd.need_sshd()
    with Sshd(tmp_path_factory.mktemp("sshd")).running() as server:
        yield server


@pytest.fixture
def client(tmp_path: Path, server: Sshd) -> Iterator[Client]:
    """Give a client of the server, whose home is empty after each test."""
    yield Client(tmp_path, server)
    for path in server.home.iterdir():
        if path.is_dir() and not path.is_symlink() and path.name != ".ssh":
            shutil.rmtree(path)
        elif path.name != ".ssh":
            path.unlink()


@pytest.fixture
def dataset_client(client: Client) -> Client:
    """Give a client of the server, which has the three datasets in its home."""
    write_datasets(client.server.home)
    return client


@pytest.fixture
def folder() -> Iterator[Path]:
    """Give a folder for a server of the test's own; its path is short, as real paths are."""
    sshd.need_sshd()
    with tempfile.TemporaryDirectory(prefix="lw-") as folder:
        yield Path(folder)


@pytest.fixture
def home(client: Client) -> Path:
    """Give the server's home, with a folder `tree` of three CSVs and a zip of two."""
    client.put({f"tree/{name}": content for name, content in TREE.items()})
    client.put({"tree/zips/packed.zip": zipped(PACKED), "tree/notes.txt": b"no csv"})
    return client.server.home


@pytest.fixture
def relay(client: Client) -> Iterator[Relay]:
    """Give a relay that the client's runs go through, and that counts what the server sends."""
    with Relay(client.server.port).running() as relay:
        client.options["remote-host-address"] = trusted(client, relay.address)
        yield relay


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
