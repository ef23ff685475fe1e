"""Pacing: keep a download to a rate."""

from __future__ import annotations

import time


class RateLimit:
    """Keeps to a rate: bytes per second, or 0 for none."""

    def __init__(self, bytes_per_s: int) -> None:
        self._bytes_per_s = bytes_per_s
        self._next_s = time.monotonic()  # when the bytes so far have had their time

    def wait(self, count: int) -> None:
        """Wait until so many more bytes are within the rate."""
        if not self._bytes_per_s:
            return
        now = time.monotonic()
        # A pause of the host gives back no more than a second.
        self._next_s = max(self._next_s, now - 1) + count / self._bytes_per_s
        if self._next_s > now:
            time.sleep(self._next_s - now)
