"""SIGINT, SIGTERM and SIGHUP: end a run soon and clean, whatever the main thread is doing.

The first signal raises `Interrupted` in the main thread; later ones are ignored. A watchdog
thread ends the process where the main thread does not: a call into C (a name lookup) can hold it
up for minutes. The watchdog and a publish exclude each other: it waits for a block of
`uninterrupted`, however long that takes, and once it has taken over no such block starts.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from typing import TYPE_CHECKING

from tasks.fetch.errors import Interrupted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
GRACE_SECONDS = 1.5
"""How long the main thread may take to end after a signal, or after an uninterrupted block."""

_clean_ups: list[Callable[[], None]] = []
_deferrals: list[None] = []  # one for each `deferred` block that the main thread is in
_pending: list[int] = []  # the signal that arrived during such a block
_publishing = threading.RLock()  # held during `uninterrupted`, and by the watchdog to the end


def install() -> None:
    """Turn the first signal into `Interrupted` in the main thread, and end the process anyway."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reading,), name="watchdog", daemon=True).start()
    for signum in SIGNALS:
        # An ignored SIGINT is a shell's background job; other ignored signals are nohup's wish.
        if signal.getsignal(signum) is not signal.SIG_IGN or signum == signal.SIGINT:
            signal.signal(signum, _on_signal)


def uninstall() -> None:
    """Leave signals to another handler: the watchdog no longer ends the process."""
    signal.set_wakeup_fd(-1)


def _on_signal(signum: int, _frame: FrameType | None) -> None:
    for other in SIGNALS:  # the clean-up must not be interrupted in its turn
        signal.signal(other, signal.SIG_IGN)
    if _deferrals:
        _pending.append(signum)
    else:
        raise Interrupted(signum)


def _watch(reading: int) -> None:
    """Wait for a signal; then end the process if the main thread has not ended it in time."""
    while (signum := os.read(reading, 1)[0]) not in SIGNALS:
        pass
    while True:
        threading.Event().wait(GRACE_SECONDS)
        if _publishing.acquire(blocking=False):
            break  # never released: nothing is published from now on
        with _publishing:  # wait for the end of the block; then the main thread has time again
            pass
    try:
        clean_up()
    finally:
        os._exit(128 + signum)


def clean_up() -> None:
    """Carry out the clean-ups of the blocks that did not get to their end, the last first."""
    for action in reversed(_clean_ups.copy()):
        with contextlib.suppress(Exception):
            action()


@contextlib.contextmanager
def cleaned_up_by(clean_up: Callable[[], None]) -> Iterator[None]:
    """Have `clean_up` called at the end of the block, also when a signal ends the process.

    Args:
        clean_up: May be called again, and from another thread; the second call does nothing.
    """
    with deferred():
        _clean_ups.append(clean_up)
    try:
        yield
    finally:
        with deferred():
            clean_up()
            with contextlib.suppress(ValueError):
                _clean_ups.remove(clean_up)


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Let a signal wait until the block is done; the watchdog may still end the process.

    Blocking signals in this thread would not do: another thread takes the signal then, and
    Python still runs the handler in this one.
    """
    _deferrals.append(None)
    try:
        yield
    finally:
        _deferrals.pop()
        if _pending and not _deferrals:
            raise Interrupted(_pending.pop())


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Let a signal and the watchdog wait until the block is done: for what must be whole."""
    with deferred(), _publishing:
        yield
