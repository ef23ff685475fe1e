"""Dial: open the TCP connection to a host while the modules that use it are still imported."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from typing import TYPE_CHECKING, Final

from tasks.fetch.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

SSH_PORT: Final = 22
FRESH_S: Final = 5.0
"""A connection that waited longer is not used: servers close one without a login."""

_dials: dict[tuple[str, int], _Dial] = {}


def split_address(address: str) -> tuple[str, int | None]:
    """Split `host`, `host:port`, `[v6]:port` or a bare IPv6 address.

    Raises:
        ConfigError: It is none of these.
    """
    match = re.fullmatch(r"(?:\[([^\]\s]+)\]|([^:\s\[\]@]+))(?::(\d{1,5}))?", address)
    if match:
        port = int(match[3]) if match[3] else None
        if port is None or 0 < port < 65536:
            return match[1] or match[2], port
    elif re.fullmatch(r"[0-9A-Fa-f:.%\w]*:[0-9A-Fa-f:.%\w]*:[0-9A-Fa-f:.%\w]*", address):
        return address, None
    raise ConfigError(
        f"remote_host_address is {address!r}",
        advice="expected host or host:port ([address]:port for IPv6);"
        " the account goes into USERNAME",
    )


class _Dial(threading.Thread):
    """Opens a TCP connection."""

    def __init__(self, host: str, port: int, timeout: float) -> None:
        super().__init__(name="dial", daemon=True)
        self._address, self._timeout = (host, port), timeout
        self._result: socket.socket | OSError = OSError()
        self._end = 0.0

    def run(self) -> None:
        try:
            self._result = socket.create_connection(self._address, self._timeout)
        except OSError as error:
            self._result = error
        self._end = time.monotonic()

    def result(self) -> socket.socket | None:
        """Return the connection, None if it is not fresh; raise what prevented it."""
        self.join()
        if isinstance(self._result, OSError):
            raise self._result
        if time.monotonic() - self._end < FRESH_S:
            return self._result
        self._result.close()
        return None


def start(address: str, ssh_config_file: Path, timeout: float) -> None:
    """Start to connect to a host, unless ssh_config may name another address or a way to it.

    Args:
        address: As `split_address` takes it; one that it does not take is reported later.
        ssh_config_file: Which may be missing or empty.
        timeout: Seconds to wait for the host.
    """
    with contextlib.suppress(ConfigError, OSError):  # reported later
        host, port = split_address(address)
        if not (ssh_config_file.exists() and ssh_config_file.stat().st_size):
            dial = _dials[host, port or SSH_PORT] = _Dial(host, port or SSH_PORT, timeout)
            dial.start()


def take(host: str, port: int) -> socket.socket | None:
    """Return the connection to a host that was started, once; None where there is none.

    Raises:
        OSError: The host cannot be reached.
    """
    dial = _dials.pop((host, port), None)
    return dial.result() if dial else None
