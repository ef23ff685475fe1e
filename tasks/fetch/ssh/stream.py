"""The byte stream of a remote file, its pace, and the judgement of a slow link."""

from __future__ import annotations

import logging
import time
import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


log = logging.getLogger(__name__)


SLOW_RATE = 4e6
"""Bytes per second below which a link is worth packing for: a processor packs ten times as many."""
SLOW_AFTER = 2**21
"""Bytes that must have been received before a link is judged."""
WELL_PACKED = 0.6
"""Of a block's size: what packs worse is packed already, or is not worth it."""


class Pace:
    """Keeps to a rate: bytes per second, or 0 for none."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._free = time.monotonic()  # when the bytes so far have had their time

    def keep(self, count: int) -> None:
        """Wait until so many bytes may have come."""
        if not self._rate:
            return
        now = time.monotonic()
        self._free = max(self._free, now - 1) + count / self._rate  # at most a second's worth late
        if self._free > now:
            time.sleep(self._free - now)


class Link:
    """Judges whether the network, and not a processor or a disk, is what a download waits for."""

    def __init__(self) -> None:
        self._waited_s = 0.0
        self._count = 0

    def slow(self, block: bytes, waited_s: float) -> bool:
        """Count a block; return whether the link is slow and blocks like this one compress well.

        Args:
            block: As received.
            waited_s: How long the session was waited for, without the time to consume a block.
        """
        self._waited_s += waited_s
        self._count += len(block)
        if self._count < SLOW_AFTER or self._count > SLOW_RATE * self._waited_s:
            return False
        self._waited_s, self._count = 0.0, 0  # judge again later, by other data
        return len(zlib.compress(block, 1)) < len(block) * WELL_PACKED


class Stream:
    """The bytes of a remote file, in order, read once.

    Reading raises `IntegrityError` where fewer or more bytes come than the host's size, or the
    file changed meanwhile, and `NetworkError` where the connection is lost for good.
    """

    def __init__(self, path: str, start: int, items: Iterator[bytes | None]) -> None:
        self.path = path
        self.start = start
        self._items = items
        self._rest = b""
        self._ended = False

    def read(self, size: int = -1) -> bytes:
        """Return at most `size` bytes (some, not none, before the end), or b"" at the end."""
        if not self._rest and not self._ended:
            block = next(self._items)
            self._ended = block is None
            self._rest = block or b""
        if not 0 <= size < len(self._rest):
            block, self._rest = self._rest, b""
            return block
        block, self._rest = self._rest[:size], self._rest[size:]
        return block

    def __iter__(self) -> Iterator[bytes]:
        """Yield the rest, block by block."""
        while block := self.read():
            yield block
