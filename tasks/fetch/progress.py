"""Progress of a run: a bar on a terminal, a plain line every few seconds elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
import unicodedata
from typing import TYPE_CHECKING, Literal

from tasks.fetch.errors import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

ProgressMode = Literal["auto", "bar", "lines", "none"]

LINE_SECONDS = 5.0
"""Time between two lines; a shorter run prints none."""
MIN_BAR = 10
"""Columns below which a bar, or the end of a name, is not shown."""


class Progress:
    """Counts the bytes of a run's files, one file after another; shows nothing.

    The bytes that an earlier run downloaded count from the start of a file, and the whole size at
    its end: the sum never exceeds the total, and ends there.

    Args:
        total: Bytes of all files.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._finished = 0
        self._size: int | None = None
        self._of_file = 0
        self._downloaded = 0
        self._start = time.monotonic()

    @property
    def count(self) -> int:
        """Bytes done."""
        return self._finished + min(self._of_file, self._size or 0)

    def start(self, size: int, resumed: int = 0) -> None:
        """Start a file, also one that is downloaded again.

        Args:
            size: Its bytes, as counted in the total.
            resumed: Bytes that an earlier run downloaded: they do not count for the rate.
        """
        self._size, self._of_file = size, resumed
        self._show()

    def add(self, count: int) -> None:
        """Count downloaded bytes, except between files: the tail of a zip, which is read first."""
        if self._size is None:
            return
        self._of_file += count
        self._downloaded += count
        self._show()

    def finish(self, size: int) -> None:
        """End a file of that size: it is complete, or will not be downloaded."""
        self._finished += size
        self._size = None
        self._show()

    def text(self, width: int | None = None) -> str:
        """Describe the progress in at most `width` columns, of which rate and time come first."""
        rate = self._downloaded / max(time.monotonic() - self._start, 1e-9)
        seconds = f"{(self._total - self.count) / rate:.0f}" if rate else "?"
        share = 100 * self.count // self._total if self._total else 100
        speed = f"{human(rate)}/s, {seconds} s left"
        full = f"{human(self.count)} of {human(self._total)} ({share} %), {speed}"
        if width is None or len(full) <= width:
            return full
        return f"{share} %, {speed}"[:width]

    def close(self) -> None:
        """Show the end of a successful run."""

    def _show(self) -> None:
        """Show the progress, if it is time."""


class _Bar(Progress):
    def __init__(self, name: str, total: int) -> None:
        super().__init__(total)
        self._name = name
        from tqdm import tqdm

        # tqdm cuts a long line at its end, where the rate and the remaining time are.
        fitted = type("_Fitted", (tqdm,), {"format_meter": self._meter})
        # By time, not by count: the steps of a resumed file differ widely.
        self.bar = fitted(
            total=total, leave=False, file=sys.stderr, dynamic_ncols=True, miniters=0,
            mininterval=0.1,
        )  # fmt: skip

    def _meter(self, *_: object, ncols: int | None = None, **__: object) -> str:
        return self.line((ncols or 80) - 1)

    def line(self, width: int) -> str:
        """Lay out one line: the end of the name, a bar, and the text."""
        text = self.text(width)
        room = width - len(text) - 3
        if room < MIN_BAR:
            return text
        name = _shortened(f"{self._name}: ", room - MIN_BAR)
        cells = min(room - _columns(name), 4 * MIN_BAR)
        full = cells * self.count // self._total if self._total else cells
        return f"{name}|{'#' * full}{' ' * (cells - full)}| {text}"

    def _show(self) -> None:
        self.bar.update(self.count - self.bar.n)

    def close(self) -> None:
        self.bar.refresh()


class _Lines(Progress):
    def __init__(self, name: str, total: int) -> None:
        super().__init__(total)
        self._name = name
        self._first = self._last = self._start

    def _show(self) -> None:
        now = time.monotonic()
        if now - self._last >= LINE_SECONDS:
            self._last = now
            self._print()

    def close(self) -> None:
        if self._last > self._first:
            self._print()

    def _print(self) -> None:
        print(f"{self._name}: {self.text()}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def progress(name: str, total: int, mode: ProgressMode) -> Iterator[Progress]:
    """Show on standard error how much of `total` bytes is done.

    Args:
        name: What is downloaded.
        total: Bytes.
        mode: `auto` is a bar on a terminal, lines elsewhere.
    """
    name = printable(name)
    if mode == "auto":
        mode = "bar" if sys.stderr.isatty() else "lines"
    if mode == "bar":
        bar = _Bar(name, total)
        with contextlib.closing(bar.bar):
            yield bar
            bar.close()
        return
    shown = Progress(total) if mode == "none" else _Lines(name, total)
    yield shown
    shown.close()


def _shortened(name: str, width: int) -> str:
    """Return as much of a name's end as fits; an empty text if that is too little."""
    if _columns(name) <= width:
        return name
    while name and _columns(name) > width - 3:
        name = name[1:]
    return f"...{name}" if _columns(name) >= MIN_BAR else ""


def _columns(text: str) -> int:
    """Return how many columns of a terminal a text needs at most."""
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)


def human(count: float) -> str:
    """Format a number of bytes: `13.6 MB`, in powers of 1000."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
