"""A terminal: a process runs on it, and what it shows is what a real one would (pyte)."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyte

ROWS = 24
_FRAME_END = re.compile(rb"\x1b\[J\r(?:\x1b\[\d+A)?")


@dataclass
class Terminal:
    """What a process wrote to a terminal, of which the test is the other side.

    Attributes:
        output: All bytes so far.
        code: The exit code, once it has ended.
    """

    columns: int
    output: bytearray = field(default_factory=bytearray)
    code: int = -1
    _ours: int = -1
    _resized: list[tuple[int, int]] = field(default_factory=list)

    def press(self, keys: bytes) -> None:
        """Press keys, such as Ctrl-C."""
        os.write(self._ours, keys)

    def resize(self, columns: int) -> None:
        """Change the width."""
        self._resized.append((len(self.output), columns))
        _set_size(self._ours, columns)

    def run(
        self,
        command: Sequence[str],
        folder: Path,
        env: Mapping[str, str],
        on_output: Callable[[Terminal], None] = lambda _: None,
    ) -> Terminal:
        """Run a command to its end, with its output and errors on this terminal."""
        self._ours, theirs = pty.openpty()
        _set_size(theirs, self.columns)
        process = subprocess.Popen(
            command, cwd=folder, env=env, stdin=theirs, stdout=theirs, stderr=theirs,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 (one thread)
        )  # fmt: skip
        os.close(theirs)
        try:
            while block := self._read():
                self.output += block
                on_output(self)
        finally:
            os.close(self._ours)
            self.code = process.wait(60)
        return self

    def _read(self) -> bytes:
        try:
            return os.read(self._ours, 2**16)
        except OSError:  # the other side has closed it: EIO, on Linux
            return b""

    def screens(self) -> list[pyte.Screen]:
        """Show the output again; return the screen at the end of each frame, and at the end."""
        ends = [match.end() for match in _FRAME_END.finditer(self.output)]
        return [self._screen(end) for end in [*ends, len(self.output)]]

    def frames(self) -> list[list[str]]:
        """Return the lines at and below the cursor at the end of each frame."""
        return [below_cursor(screen) for screen in self.screens()[:-1]]

    def last(self) -> list[str]:
        """Return what is on the screen in the end."""
        return lines(self._screen(len(self.output)))

    def _screen(self, end: int) -> pyte.Screen:
        screen = pyte.Screen(self.columns, ROWS)
        stream, start = pyte.ByteStream(screen), 0
        for offset, columns in [*self._resized, (end, 0)]:
            stream.feed(bytes(self.output[start : min(offset, end)]))
            start = min(offset, end)
            if columns and offset <= end:
                screen.resize(ROWS, columns)
        return screen


def lines(screen: pyte.Screen) -> list[str]:
    """Return the lines of a screen that are not empty."""
    return [line for line in map(str.rstrip, screen.display) if line]


def below_cursor(screen: pyte.Screen) -> list[str]:
    """Return the lines at and below the cursor that are not empty."""
    return [line for line in map(str.rstrip, screen.display[screen.cursor.y :]) if line]


def _set_size(terminal: int, columns: int) -> None:
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", ROWS, columns, 0, 0))
