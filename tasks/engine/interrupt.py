"""SIGINT and SIGTERM: end a run soon and clean, whatever the main thread is doing."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from typing import TYPE_CHECKING

from tasks.engine.errors import Interrupted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
GRACE_SECONDS = 1.5
"""How long the main thread may take to notice: a call into C (a name lookup) holds it up."""

_last_resort: list[Callable[[], None]] = []
_held: list[int] = []  # inside `uninterrupted`: a 0, then the signal that came


def install() -> None:
    """Turn the first signal into `Interrupted` in the main thread, and end the process anyway."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reading,), daemon=True).start()
    for signum in SIGNALS:
        if signal.getsignal(signum) is not signal.SIG_IGN or signum == signal.SIGINT:
            signal.signal(signum, _on_signal)


def uninstall() -> None:
    """Leave signals to somebody else from now on: no time runs after one any more."""
    signal.set_wakeup_fd(-1)


def _on_signal(signum: int, _frame: FrameType | None) -> None:
    for other in SIGNALS:  # the clean-up is not to be interrupted in its turn
        signal.signal(other, signal.SIG_IGN)
    if _held:
        _held.append(signum)
    else:
        raise Interrupted(signum)


def _watch(reading: int) -> None:
    """Wait for a signal; then give the main thread a moment, and end the process without it."""
    while (signum := os.read(reading, 1)[0]) not in SIGNALS:
        pass
    threading.Event().wait(GRACE_SECONDS)
    for clean_up in reversed(_last_resort):
        with contextlib.suppress(Exception):
            clean_up()
    os._exit(128 + signum)


@contextlib.contextmanager
def cleaned_up_by(clean_up: Callable[[], None]) -> Iterator[None]:
    """Have `clean_up` called when a signal ends the process inside this block."""
    _last_resort.append(clean_up)
    try:
        yield
    finally:
        _last_resort.remove(clean_up)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Let a signal wait until the block is done: it is short, and must be whole.

    Blocking signals in this thread would not do: another thread takes the signal then, and
    Python still runs the handler in this one.
    """
    _held.append(0)
    try:
        yield
    finally:
        signum = _held[-1]
        _held.clear()
        if signum:
            raise Interrupted(signum)
