"""A relay on loopback between a client and a server, that does what bad networks do."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator

Fault = Literal["cut", "stall", "corrupt", "half-close"]


@dataclass
class Relay:
    """Hands on what comes, both ways, and meddles with what the server sends.

    Attributes:
        port: The server's.
        fault: What happens at byte `after` of the server's bytes of a connection.
        after: Counted from the connection's first byte.
        times: How many connections meet the fault; the others pass.
        rate: Bytes a second from the server, 0 is any.
        passed: Bytes that the server's side sent, all connections together.
        connections: How many there were.
    """

    port: int
    fault: Fault | None = None
    after: int = 0
    times: int = 1
    rate: int = 0
    passed: int = 0
    connections: int = 0
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
            for sock in [self.listener, *self._open]:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
                sock.close()
            thread.join(5)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                self.connections += 1
                server = socket.create_connection(("127.0.0.1", self.port), 5)
                self._open += [client, server]
                meddle = self.fault is not None and self.connections <= self.times
                for source, sink, bad in ((client, server, False), (server, client, meddle)):
                    threading.Thread(
                        target=self._hand_on,
                        args=(source, sink, bad, source is server),
                        daemon=True,
                    ).start()

    def _hand_on(
        self, source: socket.socket, sink: socket.socket, meddle: bool, counted: bool
    ) -> None:
        count = 0
        with contextlib.suppress(OSError):
            while block := source.recv(16384):
                if counted:
                    self.passed += len(block)
                    if self.rate:
                        time.sleep(len(block) / self.rate)
                if meddle and count + len(block) > self.after:
                    sink.sendall(block[: self.after - count])
                    if not self._fault(source, sink, block[self.after - count :]):
                        return
                    meddle = False
                else:
                    sink.sendall(block)
                count += len(block)
            sink.shutdown(socket.SHUT_WR)

    def _fault(self, source: socket.socket, sink: socket.socket, rest: bytes) -> bool:
        """Do what the fault is; whether to go on with the connection."""
        if self.fault == "corrupt":
            sink.sendall(bytes([rest[0] ^ 0x55]) + rest[1:])
            return True
        if self.fault == "half-close":
            sink.shutdown(socket.SHUT_WR)
        if self.fault in {"stall", "half-close"}:
            while source.recv(16384):
                pass
            return False
        for sock in (source, sink):
            sock.shutdown(socket.SHUT_RDWR)
        return False
