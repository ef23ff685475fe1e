"""Progress of a run: live lines on a terminal, a line of the log every few seconds elsewhere."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import time
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from tasks.fetch import live
from tasks.fetch.errors import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

log = logging.getLogger(__name__)

ProgressMode = Literal["auto", "bar", "lines", "none"]

LINE_SECONDS = 5.0
"""Time between two lines of the log; a shorter run prints none."""
MAX_LINE_SECONDS = 300.0
"""The same of a long run: a twentieth of its duration, but not more than this."""
MIN_NAME, MAX_NAME = 15, 40
MIN_BAR, MAX_BAR = 13, 43
"""Columns of a live line for the name and for the bar, with what separates them."""
_CYAN, _PLAIN = "\x1b[36m", "\x1b[0m"


@dataclass
class Meter:
    """The bytes of a file, or of all files.

    Attributes:
        name: The file's, which is not trusted, or what all of them are.
        size: All bytes.
        done: Those that were downloaded by this run or an earlier one, or need no download.
        downloaded: Those of this run.
    """

    name: str
    size: int
    done: int = 0
    downloaded: int = 0

    def __post_init__(self) -> None:
        self._started = time.monotonic()

    def text(self, *, aligned: bool = False, brief: bool = False) -> str:
        """Describe it.

        Args:
            aligned: Whether each number gets a fixed number of columns: nothing moves then.
            brief: Whether to leave out the sizes.
        """
        done, size = min(self.done, self.size), self.size
        rate = self.downloaded / max(time.monotonic() - self._started, 1e-9)
        share = 100 * done // size if size else 100
        seconds = _duration((size - done) / rate) if rate else "? s"
        if brief:
            return f"{share} %, {human(rate)}/s, {seconds} left"
        text = f"{human(done):>8} of {human(size)} ({share:>3} %), "
        text += f"{human(rate):>8}/s, {seconds:>5} left"
        return text if aligned else re.sub(r"(^|[ (]) +", r"\1", text)

    def line(self, width: int, encoding: str = "utf-8", *, color: bool = False) -> str:
        """Lay out one line: the end of the name, a bar where there is room, and the text."""
        text = self.text(aligned=True)
        if width - len(text) < MIN_NAME + MIN_BAR:
            text = self.text(brief=True)[:width]
        name = printable(self.name).encode(encoding, "backslashreplace").decode(encoding) + ": "
        room = width - len(text)
        if room < MIN_NAME + MIN_BAR:
            return _shortened(name, room) + text
        bar = min(MAX_BAR, max(MIN_BAR, room - MAX_NAME))
        name = _shortened(name, room - bar)
        pad = " " * (room - bar - columns(name))
        cells = bar - len("|| ")
        full = "#" * (cells * min(self.done, self.size) // self.size if self.size else cells)
        rest = " " * (cells - len(full))
        if color and full:
            full = f"{_CYAN}{full}{_PLAIN}"
        return f"{name}{pad}|{full}{rest}| {text}"


class Progress:
    """Counts the bytes of a run's files, one file after another; shows nothing.

    The bytes that an earlier run downloaded count from the start of a file, and the whole size at
    its end: the sum never exceeds the total, and ends there.

    Args:
        name: What is downloaded.
        total: Bytes of all files.
        files: How many they are.
    """

    def __init__(self, name: str, total: int, files: int = 1) -> None:
        self._files = files
        self._finished = self._finished_files = 0
        self._run = Meter(name, total)
        self._file: Meter | None = None

    @property
    def count(self) -> int:
        """Bytes done."""
        file = self._file
        return self._finished + (min(file.done, file.size) if file else 0)

    def start(self, name: str, size: int, resumed: int = 0) -> None:
        """Start a file, also one that is downloaded again.

        Args:
            name: Its remote path.
            size: Its bytes, as counted in the total.
            resumed: Bytes that an earlier run downloaded: they do not count for the rate.
        """
        self._file = Meter(name, size, resumed)
        self._update()

    def add(self, count: int) -> None:
        """Count downloaded bytes, except between files: the tail of a zip, which is read first."""
        if self._file is None:
            return
        for meter in (self._file, self._run):
            meter.downloaded += count
        self._file.done += count
        self._update()

    def finish(self, size: int) -> None:
        """End a file of that size: it is complete, or will not be downloaded."""
        self._finished += size
        self._finished_files += 1
        self._file = None
        self._update()

    def meters(self) -> list[Meter]:
        """Return what to show: the file and, if there are several, all of them."""
        if self._files == 1:
            return [self._run]
        self._run.name = f"{self._finished_files}/{self._files} files"
        return [*([self._file] if self._file else []), self._run]

    def _update(self) -> None:
        self._run.done = self.count
        self._show()

    def _show(self) -> None:
        """Show the progress, if it is time."""


class _Bars(Progress):
    """Shows a live line for the file and, if there are several, one for all of them."""

    def __init__(self, name: str, total: int, files: int) -> None:
        super().__init__(name, total, files)
        self._color = not os.environ.get("NO_COLOR")
        self.live = live.Live(sys.stderr, self._lines)

    def _lines(self, width: int) -> list[str]:
        encoding = sys.stderr.encoding
        return [meter.line(width, encoding, color=self._color) for meter in self.meters()]

    def _show(self) -> None:
        self.live.draw_if_due()


class _Lines(Progress):
    """Logs a line every few seconds, and a last one where there was one before."""

    def __init__(self, name: str, total: int, files: int) -> None:
        super().__init__(name, total, files)
        self._name = printable(name)
        self._first = self._last = time.monotonic()

    def _show(self) -> None:
        now = time.monotonic()
        pause = min(max(LINE_SECONDS, (now - self._first) / 20), MAX_LINE_SECONDS)
        if now - self._last >= pause:
            self._last = now
            self._log()

    def close(self) -> None:
        """Log the end of a successful run."""
        if self._last > self._first:
            self._log()

    def _log(self) -> None:
        fields = {"fetched_bytes": self._run.downloaded, "remote_bytes": self._run.size}
        log.info("%s: %s", self._name, self._run.text(), extra={"fields": fields})


@contextlib.contextmanager
def progress(name: str, total: int, mode: ProgressMode, files: int = 1) -> Iterator[Progress]:
    """Show on standard error how much of `total` bytes is done.

    Args:
        name: What is downloaded.
        total: Bytes.
        mode: `auto` is live lines on a terminal that can draw them, lines of the log elsewhere.
        files: How many files they are.
    """
    if mode == "auto":
        mode = "bar" if sys.stderr.isatty() and os.environ.get("TERM") != "dumb" else "lines"
    if mode == "bar":
        bars = _Bars(name, total, files)
        with live.shown(bars.live):
            yield bars
    elif mode == "lines":
        lines = _Lines(name, total, files)
        yield lines
        lines.close()
    else:
        yield Progress(name, total, files)


def _shortened(name: str, width: int) -> str:
    """Return as much of a name's end as fits; an empty text if that is too little."""
    if columns(name) <= width:
        return name
    while name and columns(name) > width - 3:
        name = name[1:]
    return f"...{name}" if len(name) > len("a.b: ") else ""


def columns(text: str) -> int:
    """Return how many columns of a terminal a text needs at most."""
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)


def _duration(seconds: float) -> str:
    """Format a time in at most five columns, but for days: `42 s`, `12 m`, `3 h`."""
    if seconds < 1000:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} m" if seconds < 60000 else f"{seconds / 3600:.0f} h"


def human(count: float) -> str:
    """Format a number of bytes: `13.6 MB`, in powers of 1000."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
