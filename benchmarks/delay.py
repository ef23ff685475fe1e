"""A relay on loopback that makes a round trip take longer, and nothing else.

    python -I -S delay.py PORT RTT BYTES_PER_S ADDRESS

Listens on a port of its own (the first line it prints) of ADDRESS, hands each connection on to
127.0.0.1 PORT, and holds every byte back for half of RTT seconds, both ways. Bandwidth is what the
machine can do, or BYTES_PER_S, unless that is 0, in each direction of all connections together. A
new connection is held back for the one and a half round trips that TCP's own handshake takes before
the server sees it. Ends when its standard input does.

What it cannot do: the two kernels' TCP each see loopback, so there is no slow start and no loss,
and TCP_INFO tells of microseconds. Clients whose limit is the window of SSH or SFTP, which is
what this shows, meet the same limit on a real link; there TCP's own limits come on top.
"""

from __future__ import annotations

import collections
import contextlib
import select
import socket
import sys
import time

BLOCK = 2**18
MOST_HELD = 256 * 2**20
"""Bytes under way in one direction; then the sender waits. At 100 ms that is 5 GB/s."""


class Line:
    """One direction of the link: what is sent on it takes its turn, at the link's rate."""

    def __init__(self, bytes_per_s: float) -> None:
        self._seconds_per_byte = 1 / bytes_per_s if bytes_per_s else 0.0
        self._free = 0.0

    def sent(self, start: float, size: int) -> float:
        """Return when the last of `size` bytes is on its way that are there at `start`."""
        self._free = max(self._free, start) + size * self._seconds_per_byte
        return self._free


class Pipe:
    """One direction of a connection."""

    def __init__(self, source: socket.socket, line: Line, delay: float, opens: float) -> None:
        self.source = source
        self.sink: socket.socket | None = None
        self.held: collections.deque[tuple[float, memoryview]] = collections.deque()
        self.bytes = 0
        self.ended = False
        self._line = line
        self._delay = delay
        self._opens = opens

    @property
    def hungry(self) -> bool:
        """Whether there is room for more."""
        return not self.ended and self.bytes < MOST_HELD

    def due(self, now: float) -> bool:
        """Whether something is to be sent by now."""
        return bool(self.held) and self.held[0][0] <= now

    def take(self) -> None:
        """Read what the source sends; its end is an empty block, and comes in its turn."""
        try:
            block = self.source.recv(BLOCK)
        except BlockingIOError:
            return
        except OSError:
            block = b""
        self.ended = not block
        self.bytes += len(block)
        sent = self._line.sent(max(time.monotonic(), self._opens), len(block))
        self.held.append((sent + self._delay, memoryview(block)))

    def give(self, now: float) -> bool:
        """Send what is due; False when the sink is closed."""
        while self.sink is not None and self.due(now):
            moment, block = self.held.popleft()
            if not block:
                with contextlib.suppress(OSError):
                    self.sink.shutdown(socket.SHUT_WR)
                return False
            try:
                sent = self.sink.send(block)
            except BlockingIOError:
                sent = 0
            except OSError:
                return False
            self.bytes -= sent
            if sent < len(block):
                self.held.appendleft((moment, block[sent:]))
                return True
        return True


class Relay:
    """All connections, in one thread; `select` wakes to the microsecond, where epoll rounds."""

    def __init__(self, port: int, rtt: float, bytes_per_s: float, address: str) -> None:
        self._port, self._rtt = port, rtt
        self._up, self._down = Line(bytes_per_s), Line(bytes_per_s)
        self._listener = socket.create_server((address, 0), backlog=64)
        self._pipes: list[Pipe] = []
        self._waiting: list[tuple[float, Pipe]] = []
        """Connections that the server does not see yet, and when it will."""

    def run(self) -> None:
        """Relay until standard input ends."""
        sys.stdout.write(f"{self._listener.getsockname()[1]}\n")
        sys.stdout.flush()
        while self._step():
            pass

    def _step(self) -> bool:
        now = time.monotonic()
        readers = [pipe.source for pipe in self._pipes if pipe.hungry]
        writers = [pipe.sink for pipe in self._pipes if pipe.sink and pipe.due(now)]
        moments = [moment for moment, _ in self._waiting]
        moments += [p.held[0][0] for p in self._pipes if p.sink and p.held and not p.due(now)]
        wait = max(0.0, min(moments) - now) if moments else None
        readable, writable, _ = select.select(
            [sys.stdin.fileno(), self._listener, *readers], writers, [], wait
        )
        if sys.stdin.fileno() in readable:
            return False  # nothing is ever written there: it has ended
        if self._listener in readable:
            self._accept()
        self._open()
        ready, free = set(readable), set(writable)
        for pipe in list(self._pipes):
            if pipe.source in ready:
                pipe.take()
            if pipe.sink in free and not pipe.give(time.monotonic()):
                self._drop(pipe)
        return True

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        client.setblocking(False)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # SYN, SYN-ACK: the client's first byte leaves a round trip after it began to connect.
        upwards = Pipe(client, self._up, self._rtt / 2, time.monotonic() + self._rtt)
        self._pipes.append(upwards)
        self._waiting.append((time.monotonic() + 1.5 * self._rtt, upwards))

    def _open(self) -> None:
        """Let the server see the connections whose handshake would be through by now."""
        while self._waiting and self._waiting[0][0] <= time.monotonic():
            _, upwards = self._waiting.pop(0)
            try:
                server = socket.create_connection(("127.0.0.1", self._port), 5)
            except OSError:
                upwards.source.close()
                self._pipes.remove(upwards)
                continue
            server.setblocking(False)
            server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            upwards.sink = server
            downwards = Pipe(server, self._down, self._rtt / 2, 0)
            downwards.sink = upwards.source
            self._pipes.append(downwards)

    def _drop(self, pipe: Pipe) -> None:
        """Forget a direction that has ended; with the second, both sockets."""
        self._pipes.remove(pipe)
        if not any(other.source is pipe.sink for other in self._pipes):
            for sock in (pipe.source, pipe.sink):
                if sock is not None:
                    sock.close()


if __name__ == "__main__":
    port, rtt, rate, address = sys.argv[1:]
    Relay(int(port), float(rtt), float(rate), address).run()
