"""Live lines: the last lines on a terminal, which are drawn again in place, below the log.

Between two frames the cursor is at the start of the first of them. The next frame overwrites or
erases what is written there, such as the `^C` of the terminal itself, and what is below, such as
lines that a smaller window has wrapped. The cursor is never hidden: a process that is killed leaves
a terminal that works.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from typing import TYPE_CHECKING, TextIO

from tasks.fetch import interrupt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FRAME_SECONDS = 0.1
"""Time between two frames; what is shown is not legible faster."""
_CLEAR = "\r\x1b[J"  # to the start of the line; erase from there to the end of the screen
_DEFAULT_COLUMNS, _DEFAULT_ROWS = 80, 24
_active: list[Live] = []  # at most one: standard error


class Live:
    """Lines on a terminal that are drawn again and again.

    Args:
        terminal: Where to.
        lines: Returns the lines, of at most so many columns; the last ones matter most.
    """

    def __init__(self, terminal: TextIO, lines: Callable[[int], list[str]]) -> None:
        self._file = terminal.fileno()
        self._encoding = terminal.encoding
        self._lines = lines
        self._lock = threading.RLock()
        self._drawn = False
        self._last = 0.0

    def draw_if_due(self) -> None:
        """Draw a frame, unless the last one is too recent."""
        if time.monotonic() - self._last >= FRAME_SECONDS:
            self.draw()

    def draw(self) -> None:
        """Draw a frame, in one write."""
        with self._lock:
            columns, rows = self._size()
            # Less than the whole width: terminals differ in what they do after the last column.
            shown = self._lines(columns - 1)[-max(1, rows - 1) :]
            up = f"\x1b[{len(shown) - 1}A" if len(shown) > 1 else ""
            self._write("\r" + "\x1b[K\r\n".join(shown) + "\x1b[J\r" + up)
            self._drawn, self._last = True, time.monotonic()

    @contextlib.contextmanager
    def hidden(self) -> Iterator[None]:
        """Erase the lines for the time of a block, which writes whole lines."""
        with self._lock:
            was_drawn = self._drawn
            self.clear()
            yield
            if was_drawn:
                self.draw()

    def clear(self) -> None:
        """Erase the lines; the watchdog calls this, too, while `draw` may hang."""
        if self._drawn and select.select([], [self._file], [], 0)[1]:
            self._drawn = False
            self._write(_CLEAR)

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError):  # the terminal is closed: SIGHUP tells
            os.write(self._file, text.encode(self._encoding, "backslashreplace"))

    def _size(self) -> tuple[int, int]:
        try:
            columns, rows = os.get_terminal_size(self._file)
        except OSError:  # no terminal: a bar was asked for
            columns = rows = 0
        return columns or _DEFAULT_COLUMNS, rows or _DEFAULT_ROWS


@contextlib.contextmanager
def shown(live: Live) -> Iterator[None]:
    """Draw live lines during the block, and erase them at its end, also where a signal ends it."""
    with interrupt.cleaned_up_by(live.clear):
        _active.append(live)
        try:
            live.draw()
            yield
            live.draw()
        finally:
            _active.remove(live)


@contextlib.contextmanager
def above() -> Iterator[None]:
    """Hide the live lines, if there are any, for the time of a block that writes whole lines."""
    with contextlib.ExitStack() as stack:
        for live in _active[-1:]:
            stack.enter_context(live.hidden())
        yield
