"""The rate of a download: at most so many bytes per second, by the time of day."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, NamedTuple, Self

if TYPE_CHECKING:
    from collections.abc import Callable

_PART = re.compile(r"(.*?)(?:\s+([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-4]):([0-5]\d))?")
_DAY = 24 * 60


class _Window(NamedTuple):
    """A limit in bytes per second, and the minutes of the day from and to which it applies."""

    limit: int
    start: int
    end: int

    def has(self, minute: int) -> bool:
        if self.start < self.end:
            return self.start <= minute < self.end
        return minute >= self.start or minute < self.end  # over midnight


class Rate(int):
    """Bytes per second, 0 for no limit; as a number it is the lowest limit of the day.

    Written as `20MB/s`, or as `20MB/s 08:00-18:00, 50MB/s 18:00-22:00`.
    """

    _text = ""
    _windows: tuple[_Window, ...] = ()

    @classmethod
    def parse(cls, text: str, size: Callable[[str], int]) -> Self:
        """Read a rate.

        Args:
            text: The limits; times of day are those of the local time zone.
            size: Reads the bytes of one limit.

        Raises:
            ValueError: It is not written as a rate, or the times of two limits overlap.
        """
        windows = [_window(part.strip(), size) for part in text.split(",")]
        if any(sum(window.has(minute) for window in windows) > 1 for minute in range(_DAY)):
            raise ValueError(text)
        rate = cls(min((window.limit for window in windows if window.limit), default=0))
        rate._text, rate._windows = text, tuple(windows)
        return rate

    def __str__(self) -> str:
        return self._text or int.__repr__(self)

    def at(self, minute: int) -> int:
        """Return the limit at a minute of the day, 0 for none."""
        if not self._windows:
            return int(self)
        return next((window.limit for window in self._windows if window.has(minute)), 0)


def _window(text: str, size: Callable[[str], int]) -> _Window:
    match = _PART.fullmatch(text)
    if match is None:
        raise ValueError(text)
    limit, *times = match.groups()
    if times[0] is None:
        return _Window(size(limit), 0, _DAY)
    hour, minute, last_hour, last_minute = map(int, times)
    start, end = 60 * hour + minute, 60 * last_hour + last_minute
    if end > _DAY or start == end:
        raise ValueError(text)
    return _Window(size(limit), start, end)


class RateLimit:
    """Keeps to a rate."""

    def __init__(self, rate: Rate) -> None:
        self._rate = rate
        self._next_s = time.monotonic()  # when the bytes so far have had their time

    def wait(self, count: int) -> None:
        """Wait until so many more bytes are within the rate."""
        if not self._rate:
            return
        clock = time.localtime()
        limit = self._rate.at(60 * clock.tm_hour + clock.tm_min)
        if not limit:
            return
        now = time.monotonic()
        # After a pause of the host, at most one second's worth arrives at once.
        self._next_s = max(self._next_s, now - 1) + count / limit
        if self._next_s > now:
            time.sleep(self._next_s - now)
