"""Connection limit: at most so many connections to a host, of all runs that share a folder.

Each connection holds the lock of one of `max_connections` files; the system releases it however
the process ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import re
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import IO

from tasks.fetch.errors import BusyError, LocalError
from tasks.fetch.ssh.connection_settings import ConnectionSettings

log = logging.getLogger(__name__)

_held: Counter[str] = Counter()
"""How many places this process has, by host."""
FREE_ADVICE = "run it again when one has ended, or set max_connections to a larger number"
POLL_S = 0.2
"""How often a run that waits tries again, at least; up to twice as long, at random."""


@contextlib.contextmanager
def connection_slot(settings: ConnectionSettings, *, wait: bool = True) -> Iterator[None]:
    """Hold one of the places for connections to the host, where their number is limited.

    Args:
        settings: Name the host, the number and the folder.
        wait: Whether to wait for a place.

    Raises:
        BusyError: None is free, and `wait` is false, or this process has one already.
        LocalError: The folder cannot be used.
    """
    if not settings.max_connections:
        yield
        return
    with _holders[-1](settings, wait):
        yield


@contextlib.contextmanager
def limited_by(hold: Hold) -> Iterator[None]:
    """Have `hold` limit the connections of this process, and not files that are locked.

    Args:
        hold: Holds one of the places for a block; see `connection_slot`.
    """
    _holders.append(hold)
    try:
        yield
    finally:
        _holders.pop()


@contextlib.contextmanager
def _hold_file(settings: ConnectionSettings, wait: bool) -> Iterator[None]:
    """Hold the lock of one of the files of `connections_folder`."""
    message = (
        f"{settings.remote_host_address}: {settings.max_connections} connections are open "
        "(max_connections)"
    )
    waiting = False
    while (file := _free_place(settings)) is None:
        if not wait:
            raise BusyError(message, advice=FREE_ADVICE)
        if _held[settings.remote_host_address]:
            raise BusyError(
                f"{message}, one of them by this run itself", advice="set a larger number"
            )
        if not waiting:
            log.warning("%s; waiting until one ends", message)
            waiting = True
        time.sleep(POLL_S * (1 + secrets.randbelow(1001) / 1000))
    _held[settings.remote_host_address] += 1
    try:
        with file:
            yield
    finally:
        _held[settings.remote_host_address] -= 1


Hold = Callable[[ConnectionSettings, bool], contextlib.AbstractContextManager[None]]
_holders: list[Hold] = [_hold_file]


def _free_place(settings: ConnectionSettings) -> IO[bytes] | None:
    """Return a file that is locked by now; None where all are locked by others."""
    name = re.sub(r"[^\w.-]", "_", settings.remote_host_address.lower())
    folder = settings.connections_folder
    for number in range(1, settings.max_connections + 1):
        path = folder / f"{name}.{number}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = path.open("ab")
        except OSError as error:
            raise LocalError(
                f"{path}: {error.strerror}: the lock of a connection (max_connections) cannot be "
                "created",
                advice="set connections_folder to a folder that all runs may write to",
            ) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
        else:
            return file
    return None
