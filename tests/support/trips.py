"""A relay that counts the round trips of a connection: how often a client waits for an answer.

It lets one side speak at a time, and delivers what that side sent once both are quiet. So the
count is that of a link whose delay is long, whatever the machine does at the same time.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

QUIET_S = 0.15
"""Without a byte for so long, a side is taken to wait for the other one."""


@dataclass
class CountingRelay:
    """Relays one connection after the other to a server on loopback.

    Attributes:
        port: The server's.
        trips: Of each connection that ended, without the round trip in which TCP connects.
    """

    port: int
    trips: SimpleQueue[int] = field(default_factory=SimpleQueue)
    _listener: socket.socket = field(default_factory=socket.socket)

    @contextlib.contextmanager
    def running(self) -> Iterator[str]:
        """Relay for a block; gives the address as `host:port`."""
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(4)
        thread = threading.Thread(target=self._accept, daemon=True)
        thread.start()
        try:
            yield "{}:{}".format(*self._listener.getsockname())
        finally:
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            thread.join(5)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                with client, socket.create_connection(("127.0.0.1", self.port)) as server:
                    self.trips.put(_relay(client, server))


def _relay(client: socket.socket, server: socket.socket) -> int:
    """Relay until a side ends the connection; return the round trips."""
    waiting = {client: b"", server: b""}
    trips, asked, ended = 0, False, False
    with contextlib.suppress(OSError):
        while not ended or any(waiting.values()):
            ready, _, _ = select.select([] if ended else [client, server], [], [], QUIET_S)
            for side in ready:
                block = side.recv(2**16)
                waiting[side] += block
                ended = ended or not block
            if ready:
                continue
            if waiting[client]:
                server.sendall(waiting[client])
                waiting[client], asked = b"", True
            elif waiting[server]:
                client.sendall(waiting[server])
                waiting[server] = b""
                trips, asked = trips + asked, False
    return trips
