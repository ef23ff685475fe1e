"""SIGINT, SIGTERM and SIGHUP: end a run within seconds, with clean-up.

The first signal raises `Interrupted` in the main thread; later ones are ignored. A watchdog thread
ends the process if the main thread does not: a call into C, such as a name lookup, can block it for
minutes. The watchdog never interrupts a publish: it waits for the end of an `uninterrupted` block,
and once it ends the process no such block starts. The exit code is 128 plus the signal's number.

A signal just before a system call does not interrupt it: the watchdog sends the signal to the main
thread again until the handler has run.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
import time
from typing import TYPE_CHECKING, Final

from tasks.fetch.errors import Interrupted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
GRACE_SECONDS = 1.5
"""Time for the main thread to end after a signal, or after an uninterrupted block."""
CLEAN_UP_SECONDS = 5.0
"""Time for the clean-up of the watchdog, which may wait for a disk or a network that hangs."""
AGAIN_SECONDS = 0.1
"""Until a signal that the handler has not seen is sent again."""
FORCED: Final = b"""\
lighterage: interrupted: ended by force, since a call did not return; no data is published in part
"""

_clean_ups: list[Callable[[], None]] = []
_deferrals: list[None] = []  # one per `deferred` block that the main thread is in
_pending: list[int] = []  # the signal that arrived during such a block
_handled = threading.Event()  # the handler has run
_publishing = threading.RLock()  # held during `uninterrupted`, and by the watchdog to the end


def install(
    at_forced_end: Callable[[int], None] = lambda _: None, line_start: Callable[[], str] = str
) -> None:
    """Raise the first signal as `Interrupted` in the main thread, and start the watchdog.

    Args:
        at_forced_end: Called with the exit code where the watchdog ends the process, beside the
            clean-ups, and in another thread than the main one.
        line_start: Gives what a line on standard error starts with.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    watchdog = threading.Thread(
        target=_watch, args=(reading, at_forced_end, line_start), name="watchdog"
    )
    watchdog.daemon = True
    watchdog.start()
    for signum in SIGNALS:
        # Shells start background jobs with SIGINT ignored; nohup ignores SIGHUP on purpose.
        if signal.getsignal(signum) is not signal.SIG_IGN or signum == signal.SIGINT:
            signal.signal(signum, _on_signal)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # the images start Python with them blocked


def uninstall() -> None:
    """Let another handler take the signals: the watchdog no longer ends the process."""
    signal.set_wakeup_fd(-1)


def _on_signal(signum: int, _frame: FrameType | None) -> None:
    if _handled.is_set():
        return
    _handled.set()
    for other in SIGNALS:  # the clean-up itself must not be interrupted
        signal.signal(other, signal.SIG_IGN)
    if _deferrals:
        _pending.append(signum)
    else:
        raise Interrupted(signum)


def _watch(
    reading: int, at_forced_end: Callable[[int], None], line_start: Callable[[], str]
) -> None:
    """Wait for a signal; then end the process if the main thread does not end it in time."""
    while (signum := os.read(reading, 1)[0]) not in SIGNALS:
        pass
    end = time.monotonic() + GRACE_SECONDS
    while not _handled.wait(AGAIN_SECONDS) and time.monotonic() < end:
        signal.pthread_kill(threading.main_thread().ident or 0, signum)
    while True:
        threading.Event().wait(GRACE_SECONDS)
        if _publishing.acquire(blocking=False):
            break  # and never release it: nothing is published any more
        with _publishing:  # wait for the end of the block; then the main thread gets its time
            pass
    try:
        # Side by side, since each may wait for a disk of its own.
        threads = [
            threading.Thread(target=at_forced_end, args=(128 + signum,), daemon=True),
            threading.Thread(target=clean_up, name="clean-up", daemon=True),
        ]
        for thread in threads:
            thread.start()
        end = time.monotonic() + CLEAN_UP_SECONDS
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))
    finally:
        if select.select([], [2], [], 0)[1]:  # not where its reader hangs
            os.write(2, line_start().encode() + FORCED)
        os._exit(128 + signum)


def clean_up() -> None:
    """Run the clean-ups of blocks that did not end, the last block first."""
    for action in reversed(_clean_ups.copy()):
        with contextlib.suppress(Exception):
            action()


@contextlib.contextmanager
def cleaned_up_by(clean_up: Callable[[], None]) -> Iterator[None]:
    """Call `clean_up` at the end of the block, also when a signal ends the process.

    Args:
        clean_up: May be called twice, and from another thread; the second call does nothing.
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
    """Raise a signal only after the block; the watchdog may still end the process.

    Blocking signals in this thread does not help: another thread receives the signal then, and
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
    """Let signals and the watchdog wait for the end of the block, which must be complete."""
    with deferred(), _publishing:
        yield
