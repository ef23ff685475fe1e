"""Dial: a TCP connection that is opened ahead is used once, fresh, and only to the right host."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.fetch import dial


@pytest.fixture
def server() -> Iterator[socket.socket]:
    """Give a socket that listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)
        yield server


def start(server: socket.socket, ssh_config_file: Path = Path("/nonexistent")) -> tuple[str, int]:
    """Start to connect to a server; return its address."""
    host, port = server.getsockname()
    dial.start(f"{host}:{port}", ssh_config_file, 10)
    return host, port


def test_a_connection_is_used_once(server: socket.socket) -> None:
    address = start(server)
    sock = dial.take(*address)
    assert sock is not None
    with sock, server.accept()[0] as accepted:
        sock.sendall(b"x")
        assert accepted.recv(1) == b"x"
    assert dial.take(*address) is None


def test_a_connection_that_waited_for_long_is_closed(
    server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dial, "FRESH_S", 0.0)
    assert dial.take(*start(server)) is None
    with server.accept()[0] as accepted:
        assert accepted.recv(1) == b""


def test_a_host_that_refuses_is_an_error_at_its_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
    dial.start("{}:{}".format(*address), Path("/nonexistent"), 10)
    with pytest.raises(ConnectionRefusedError):
        dial.take(*address)


def test_none_is_started_where_ssh_config_may_name_another_address(
    server: socket.socket, tmp_path: Path
) -> None:
    config = tmp_path / "ssh_config"
    config.write_text("Host *\n")
    assert dial.take(*start(server, config)) is None
    dial.start("no address: at all", Path("/nonexistent"), 10)
