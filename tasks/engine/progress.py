"""Progress of a run: a bar on a terminal, a plain line every few seconds elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import TYPE_CHECKING, Any, Protocol

from tasks.engine.errors import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tasks.settings import ProgressMode

LINE_SECONDS = 5.0
"""Between two lines; a shorter run prints none."""


class Progress(Protocol):
    """What counts the bytes that came."""

    def add(self, count: int) -> None:
        """Count that many more bytes."""


class _Silent:
    def add(self, count: int) -> None:
        """Count nothing."""


class _Bar:
    def __init__(self, bar: Any) -> None:
        self._bar = bar

    def add(self, count: int) -> None:
        self._bar.update(count)


class _Lines:
    def __init__(self, name: str, total: int) -> None:
        self._name, self._total, self._count = name, total, 0
        self._start = self._last = time.monotonic()

    def add(self, count: int) -> None:
        self._count += count
        now = time.monotonic()
        if now - self._last < LINE_SECONDS:
            return
        self._last = now
        rate = self._count / (now - self._start)
        left = (self._total - self._count) / rate if rate else 0
        share = 100 * self._count / self._total if self._total else 100
        print(
            f"{self._name}: {human(self._count)} of {human(self._total)} ({share:.0f} %), "
            f"{human(rate)}/s, {left:.0f} s left",
            file=sys.stderr,
            flush=True,
        )


@contextlib.contextmanager
def progress(name: str, total: int, mode: ProgressMode) -> Iterator[Progress]:
    """Show on standard error how much of `total` bytes has come.

    Args:
        name: What is fetched.
        total: Bytes.
        mode: `auto` is a bar on a terminal, lines elsewhere.
    """
    name = printable(name)
    if mode == "auto":
        mode = "bar" if sys.stderr.isatty() else "lines"
    if mode == "none":
        yield _Silent()
    elif mode == "lines":
        yield _Lines(name, total)
    else:
        from tqdm import tqdm

        with tqdm(
            total=total, desc=name, unit="B", unit_scale=True, leave=False, file=sys.stderr
        ) as bar:
            yield _Bar(bar)


def human(count: float) -> str:
    """Write a number of bytes for people: `13.6 MB`, in powers of 1000."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
