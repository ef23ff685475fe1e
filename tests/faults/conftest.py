"""What the tests of faults share: a real OpenSSH server, and a client of it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import sshd
from client import Client, write_datasets
from sshd import Sshd


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
