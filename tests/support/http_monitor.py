"""A real HTTP server on loopback that keeps the notifications it is sent."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SECRET = "key-2f1c9a"


class Monitor(ThreadingHTTPServer):
    """A server that keeps what it is sent.

    Attributes:
        posts: The path and the text of each request.
        status: Of its answers; 0 to close the connection, -1 to answer nothing.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.posts: list[tuple[str, str]] = []
        self.status = 200
        self.end = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/{SECRET}"

    def events(self) -> list[str]:
        return [json.loads(text)["event"] for path, text in self.posts if path.endswith("/hook")]

    def handle_error(self, *about: object) -> None:
        """Say nothing: a client that stops waiting is part of a test."""


class Handler(BaseHTTPRequestHandler):
    server: Monitor

    def do_POST(self) -> None:
        size = int(self.headers["Content-Length"] or 0)
        self.server.posts.append((self.path, self.rfile.read(size).decode()))
        if self.server.status < 0:
            self.server.end.wait(60)
        elif self.server.status:
            self.send_response(self.server.status)
            self.end_headers()
        self.close_connection = True

    def log_message(self, *words: object) -> None:
        pass


@contextmanager
def monitored() -> Iterator[Monitor]:
    """Give a running monitor."""
    with Monitor() as monitor:
        threading.Thread(target=monitor.serve_forever, daemon=True).start()
        yield monitor
        monitor.end.set()
        monitor.shutdown()
