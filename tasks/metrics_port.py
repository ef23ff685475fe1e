"""The metrics over HTTP: `GET /metrics`, for a Prometheus that scrapes the service.

A client can neither stop the service nor keep others out: each connection has a thread of its
own, each read a timeout, and one connection too many closes the oldest.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
import socketserver
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any

from tasks import metrics
from tasks.fetch.errors import ConfigError
from tasks.history import FOLDER, History

if TYPE_CHECKING:
    from collections.abc import Iterator

log = logging.getLogger(__name__)

PATH = "/metrics"
LOOPBACK = "127.0.0.1"
"""Where an empty address listens; for the system it would be all interfaces."""
MAX_CONNECTIONS = 8
TIMEOUT_S = 5.0
"""Without a byte from a client for this long its connection is closed."""
_TEXT = "text/plain; version=0.0.4; charset=utf-8"
"""https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format"""


class _Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """A server that gives the metrics of a history."""

    allow_reuse_address = True  # connections of an earlier service may still be closing
    daemon_threads = True

    def __init__(self, address: str, port: int, history: History) -> None:
        self.address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._history = history
        self._lock = threading.Lock()
        self._state: object = None
        self._content = b""
        self._connections: list[socket.socket] = []
        super().__init__((address or LOOPBACK, port), _Handler)

    def content(self) -> bytes:
        """Return the metrics, made again when a history has changed.

        Raises:
            OSError: A history cannot be read.
        """
        with self._lock:
            state = self._history.state()
            if state != self._state:
                self._content = metrics.text(self._history.all()).encode()
                self._state = state
            return self._content

    def process_request_thread(self, request: Any, client_address: object) -> None:
        """Answer a client; close the connection of another one if there are too many."""
        with self._lock:
            self._connections.append(request)
            oldest = self._connections[0] if len(self._connections) > MAX_CONNECTIONS else None
            if oldest:
                self._connections.remove(oldest)
        if oldest:
            with contextlib.suppress(OSError):  # it has just ended
                oldest.shutdown(socket.SHUT_RDWR)
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._lock, contextlib.suppress(ValueError):
                self._connections.remove(request)

    def handle_error(self, *_: object) -> None:
        """Log a client that went away, or a bug, without ending anything."""
        log.debug("metrics: a request failed", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = TIMEOUT_S
    server_version, sys_version = "lighterage", ""

    def do_GET(self) -> None:
        """Give the metrics."""
        status, content = HTTPStatus.OK, b""
        if self.path.partition("?")[0] != PATH:
            status, content = HTTPStatus.NOT_FOUND, f"not found; see {PATH}\n".encode()
        else:
            try:
                content = self.server.content()
            except OSError as error:
                log.warning("%s: %s: cannot give metrics", error.filename, error.strerror)
                status = HTTPStatus.SERVICE_UNAVAILABLE
                content = b"the history cannot be read; see the log of the service\n"
        self.send_response(status)
        self.send_header("Content-Type", _TEXT)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_HEAD = do_GET  # noqa: N815 (the name that http.server calls)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (http.server's)
        """Log requests for debugging only: a scrape every few seconds is no news."""
        log.debug("metrics: %s", format % args)


@contextlib.contextmanager
def served(address: str, port: int) -> Iterator[None]:
    """Serve the metrics for the time of a block; with port 0 do nothing.

    Raises:
        ConfigError: The port cannot be used.
    """
    if not port:
        yield
        return
    try:
        server = _Server(address, port, History(FOLDER.absolute()))
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(
            f"metrics_port is {port} and metrics_address {address}: {reason}",
            advice="set another port or address in config.yaml, or metrics_port: 0 for none",
        ) from error
    # A signal that one of these threads received would not wake the scheduler.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    log.info("metrics at http://%s:%d%s", f"[{address}]" if ":" in address else address, port, PATH)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
