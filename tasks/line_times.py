"""The time at the start of each line that the service and its runs print.

A container's log has the lines of all of them: the scheduler's log, and the logs, results and
errors of the runs. Interactive runs print without it.
"""

from __future__ import annotations

import io
import os
import re
import sys
from datetime import datetime
from typing import Any

_VARIABLE = "LIGHTERAGE_LINE_TIMES"
"""Set for the processes of the service."""
_LINE = re.compile(r"[^\n]*\n|[^\n]+")


class _TimedStream(io.TextIOWrapper):
    """A text stream that writes the time at the start of each line."""

    is_timed = True
    _is_inside_line = False

    def write(self, text: str, /) -> int:
        if not self.is_timed:
            return super().write(text)
        lines = _LINE.findall(text)
        if lines:
            first = "" if self._is_inside_line else prefix()
            super().write(first + prefix().join(lines))
            self._is_inside_line = not lines[-1].endswith("\n")
        return len(text)


def begin(*, service: bool = False) -> None:
    """Write the time from now on where this process is one of the service.

    Args:
        service: It is the service itself; the processes that it starts are its runs.
    """
    if service:
        os.environ[_VARIABLE] = "1"
    if is_on():
        sys.stdout, sys.stderr = _timed(sys.stdout), _timed(sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # for names that the terminal cannot show
            stream.reconfigure(errors="backslashreplace")


def time_errors(*, on: bool) -> None:
    """Whether lines on standard error start with the time: those in JSON have it elsewhere."""
    if isinstance(sys.stderr, _TimedStream):
        sys.stderr.is_timed = on


def is_on() -> bool:
    """Whether this process is one of the service."""
    return _VARIABLE in os.environ


def prefix() -> str:
    """Return the start of a line: the time in ISO 8601 with its zone, that of TZ; or nothing."""
    return f"{datetime.now().astimezone().isoformat(timespec='seconds')} " if is_on() else ""


def _timed(stream: Any) -> Any:
    if not isinstance(stream, io.TextIOWrapper) or isinstance(stream, _TimedStream):
        return stream  # closed by the caller, or another one of a test
    encoding, by_line, at_once = stream.encoding, stream.line_buffering, stream.write_through
    return _TimedStream(stream.detach(), encoding, line_buffering=by_line, write_through=at_once)
