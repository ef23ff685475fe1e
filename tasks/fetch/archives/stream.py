"""Bytes that are read once, from the first to the last."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

BLOCK_BYTES = 2**18
"""Size of the blocks in which content is passed on."""


class Stream:
    """A stream whose next bytes can be looked at.

    Args:
        read: Returns at most so many bytes, b"" at the end.

    Attributes:
        offset: Bytes read so far.
    """

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read
        self._next = b""
        self.offset = 0

    def peek(self, size: int) -> bytes:
        """Return the next `size` bytes, or more, without reading them; fewer at the end."""
        while len(self._next) < size and (block := self._read(BLOCK_BYTES)):
            self._next += block
        return self._next

    def read(self, size: int = BLOCK_BYTES) -> bytes:
        """Return at most `size` bytes; b"" only at the end."""
        if self._next:
            block, self._next = self._next[:size], self._next[size:]
        else:
            block = self._read(size)
        self.offset += len(block)
        return block

    def exactly(self, size: int) -> bytes:
        """Return `size` bytes; fewer at the end."""
        blocks = []
        while size and (block := self.read(size)):
            blocks.append(block)
            size -= len(block)
        return b"".join(blocks)

    def skip_to(self, offset: int) -> None:
        """Read up to an offset."""
        while self.offset < offset and self.read(min(BLOCK_BYTES, offset - self.offset)):
            pass
