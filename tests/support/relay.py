"""A relay on loopback between a client and a server, that does what bad networks do."""

from __future__ import annotations

import contextlib
import fcntl
import socket
import sys
import termios
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Fault = Literal["cut", "stall", "slow", "corrupt", "half-close"]
Side = Literal["server", "client"]


@dataclass
class Relay:
    """Hands on what comes, both ways, and meddles with what one side sends.

    Attributes:
        port: The server's.
        fault: What happens at byte `after` of the side's bytes of a connection.
        after: Counted from the connection's first byte.
        times: How many connections meet the fault; the others pass.
        side: Whose bytes.
        rate: Bytes a second from the server, 0 is any.
        passed: Bytes that the server's side sent, all connections together.
        connections: How many there were.
        turns: Of the last connection, how many bytes the server had sent at each word of the
            client, once each.
        alarm: At how many bytes of `passed` to call `ring`, once, before they are handed on.
    """

    port: int
    fault: Fault | None = None
    after: int = 0
    times: int = 1
    side: Side = "server"
    rate: int = 0
    passed: int = 0
    connections: int = 0
    turns: list[int] = field(default_factory=list)
    alarm: int = 0
    ring: Callable[[], object] | None = None
    listener: socket.socket = field(default_factory=socket.socket)
    _open: list[socket.socket] = field(default_factory=list)

    @property
    def address(self) -> str:
        """Where it listens, as `host:port`."""
        host, port = self.listener.getsockname()
        return f"{host}:{port}"

    @contextlib.contextmanager
    def running(self) -> Iterator[Relay]:
        """Relay for a block; at its end every connection is closed."""
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen(16)
        thread = threading.Thread(target=self._accept, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            _close(self.listener)
            self.renew()
            thread.join(5)

    def renew(self) -> None:
        """Close every connection, and be as new: no fault, nothing counted."""
        self.fault, self.ring, self.rate, self.side = None, None, 0, "server"
        self.passed = self.connections = self.alarm = 0
        for sock in self._open:
            _close(sock)
        self._open = []

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                self._open.append(client)
                self.connections += 1
                try:
                    server = socket.create_connection(("127.0.0.1", self.port), 5)
                except OSError:
                    _close(client)
                    continue
                server.settimeout(None)  # a client may ask for nothing for long
                self._open.append(server)
                _Wire(self, client, server, self.connections <= self.times).start()

    def count(self, size: int) -> None:
        """Count what a server sent, and keep to the rate."""
        self.passed += size
        if self.ring is not None and self.passed >= self.alarm:
            ring, self.ring = self.ring, None
            ring()
        if self.rate:
            time.sleep(size / self.rate)


@dataclass
class _Wire:
    """One connection."""

    relay: Relay
    client: socket.socket
    server: socket.socket
    meddle: bool
    of_server: int = 0

    def start(self) -> None:
        self.relay.turns = [0]
        for side in ("server", "client"):
            threading.Thread(target=self._hand_on, args=(side,), daemon=True).start()

    def _hand_on(self, side: Side) -> None:
        relay, sent, turns = self.relay, 0, self.relay.turns
        source, sink = self.server, self.client
        if side == "client":
            source, sink = sink, source
        with contextlib.suppress(OSError):
            while block := source.recv(16384):
                if side == "server":
                    self.of_server += len(block)
                    relay.count(len(block))
                elif turns[-1] != self.of_server:
                    turns.append(self.of_server)
                sent += len(block)
                beyond = sent - relay.after
                if self.meddle and relay.fault and side == relay.side and beyond > 0:
                    self.meddle = False
                    sink.sendall(block[:-beyond])
                    if not self._fault(relay.fault, source, sink, block[-beyond:]):
                        return
                else:
                    sink.sendall(block)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def _fault(self, fault: Fault, source: socket.socket, sink: socket.socket, rest: bytes) -> bool:
        """Do what the fault is; whether to go on with the connection."""
        if fault == "corrupt":
            sink.sendall(bytes([rest[0] ^ 0x55]) + rest[1:])
            return True
        if fault == "slow":
            for byte in rest[:500]:
                sink.sendall(bytes([byte]))
            sink.sendall(rest[500:])
            return True
        if fault == "half-close":
            sink.shutdown(socket.SHUT_WR)
        if fault in {"stall", "half-close"}:
            while source.recv(16384):
                pass
            return False
        _wait_until_received(sink)
        for sock in (source, sink):
            sock.shutdown(socket.SHUT_RDWR)
        return False


def _wait_until_received(sock: socket.socket) -> None:
    """Wait until the other side's system has all that was sent: a reset would discard the rest."""
    for _ in range(500):
        if not int.from_bytes(fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)), sys.byteorder):
            return
        time.sleep(0.01)


def _close(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
    sock.close()
