"""Compression: whether a link is so slow, and data so compressible, that SSH should compress."""

from __future__ import annotations

import zlib

SLOW_BYTES_PER_S = 4e6
"""Below this a link is slow: one core compresses ten times as many bytes per second."""
MEASURED_BYTES = 2**21
"""Bytes that must have been received before a link is judged."""
WORTHWHILE_RATIO = 0.6
"""Of a block's size: data that compresses worse is compressed already, or not worth it."""
WORTHWHILE_BYTES = 2**23
"""Bytes that must still be read: to connect again takes about six round trips."""


class LinkSpeed:
    """Judges whether the network, and not a processor or a disk, is what a download waits for."""

    def __init__(self) -> None:
        self._waited_s = 0.0
        self._count = 0

    def needs_compression(self, block: bytes, waited_s: float) -> bool:
        """Count a block; return whether the link is slow and blocks like this one compress well.

        Args:
            block: As received.
            waited_s: How long the session was waited for, without the time to consume a block.
        """
        self._waited_s += waited_s
        self._count += len(block)
        if self._count < MEASURED_BYTES or self._count > SLOW_BYTES_PER_S * self._waited_s:
            return False
        self._waited_s, self._count = 0.0, 0  # judge again later, by other data
        return len(zlib.compress(block, 1)) < len(block) * WORTHWHILE_RATIO
