"""A service that gives its metrics on a port."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from clone import Clone


def free_port() -> int:
    """Return a port that nothing uses."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def answers(port: int) -> bool:
    """Whether something accepts connections."""
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def configured(clone: Clone, port: int, more: str = "") -> Clone:
    """Give a clone whose service has a task and a port."""
    (clone.folder / "config.yaml").write_text(
        f"variants: {{dev: {{metrics_port: {port}}}}}\n"
        "tasks: {9: {remote_file_path: a.zip, file_save_path: data/out, remote_host_address: host, "
        f'schedule: "0 3 1 1 *"}}{more}}}\n'
    )
    return clone


@contextmanager
def service(clone: Clone) -> Iterator[subprocess.Popen[str]]:
    """Give the service of a clone."""
    process = clone.start("schedule")
    try:
        yield process
    finally:
        process.kill()
        process.communicate()
