"""Bytes that are read once, from the first to the last."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import TYPE_CHECKING

from tasks.fetch.threads import ReadAhead

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BLOCK_BYTES = 2**18
"""Size of the blocks in which content is passed on."""
BLOCKS_AHEAD = 8
"""Blocks that may wait between two threads."""
THREAD_BYTES = 2**20


class Stream:
    """A stream whose next bytes can be looked at.

    Args:
        read: Returns at most so many bytes, b"" at the end.

    Attributes:
        offset: Bytes read so far.
    """

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read
        self._block = b""
        self._at = 0  # where the unread bytes of `_block` begin
        self.offset = 0

    def peek(self, size: int) -> bytes:
        """Return the next `size` bytes, or more, without reading them; fewer at the end."""
        self._block, self._at = self._block[self._at :], 0
        while len(self._block) < size and (block := self._read(BLOCK_BYTES)):
            self._block += block
        return self._block

    def read(self, size: int = BLOCK_BYTES) -> bytes:
        """Return at most `size` bytes; b"" only at the end."""
        if self._at == len(self._block):
            self._block, self._at = self._read(BLOCK_BYTES), 0
        block = self._block[self._at : self._at + size]
        self._at += len(block)
        self.offset += len(block)
        return block

    def exactly(self, size: int) -> bytes:
        """Return `size` bytes; fewer at the end."""
        block = self.read(size)
        if len(block) == size:
            return block
        blocks = [block]
        size -= len(block)
        while size and (block := self.read(size)):
            blocks.append(block)
            size -= len(block)
        return b"".join(blocks)

    def skip_to(self, offset: int) -> None:
        """Read up to an offset."""
        while self.offset < offset and self.read(min(BLOCK_BYTES, offset - self.offset)):
            pass

    @contextlib.contextmanager
    def reading_ahead(self, size: int) -> Iterator[None]:
        """Read in another thread during the block, which reads to the end unless it raises.

        Args:
            size: Bytes of the whole archive; a thread costs more than it saves for a small one.
        """
        if size < THREAD_BYTES:
            yield
            return
        ahead = ReadAhead(partial(self._read, BLOCK_BYTES), BLOCKS_AHEAD)
        self._read = lambda _: ahead.read()
        try:
            yield
        finally:
            ahead.close()
