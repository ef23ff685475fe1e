"""A remote archive as a stream that is hashed, and kept where asked, while its members are read."""

from __future__ import annotations

import hashlib
from typing import IO, TYPE_CHECKING

from tasks.fetch.archives import limits, unpack
from tasks.fetch.archives import zip as unzip
from tasks.fetch.errors import LocalError
from tasks.fetch.stores.local.disk import writing

if TYPE_CHECKING:
    from collections.abc import Callable

    from tasks.fetch.plan import Item
    from tasks.fetch.ssh.stream import Stream

AT_ONCE = 2**20
"""Bytes of an archive that is small enough to be looked at as a whole: asking for its end apart
would take longer."""


class ArchiveStream:
    """A stream that is hashed as it is read, and written to `copy` where there is one.

    Args:
        stream: What follows on the first `begun` bytes, which `copy` has already.
        copy: A file for reading and appending.
        begun: How many bytes of it come first.
        size: Of the whole.
        end: Its last bytes, where they were read beforehand.
        ending: Gives what comes from a byte on, beside the stream.
    """

    def __init__(
        self,
        stream: Stream,
        copy: IO[bytes] | None,
        *,
        begun: int,
        size: int,
        end: bytes,
        ending: Callable[[int], bytes],
    ) -> None:
        self._stream = stream
        self._copy = copy
        self._begun = begun
        self._end = end
        self._ending = ending
        self._seen: list[bytes] | None = [] if size <= AT_ONCE else None
        self._ahead = b""
        self.digest = hashlib.sha256()
        self.size = size
        self.count = 0

    def read(self, size: int = -1) -> bytes:
        """Return at most `size` bytes, b"" at the end."""
        if not self._ahead:
            return self._next(size)
        most = size if size >= 0 else len(self._ahead)
        block, self._ahead = self._ahead[:most], self._ahead[most:]
        return block

    def _next(self, size: int) -> bytes:
        if self._copy is not None and self.count < self._begun:
            left = self._begun - self.count
            block = self._copy.read(min(size if size >= 0 else limits.BLOCK, left))
            if not block:
                raise LocalError(f"{self._stream.path}: what came of it before is gone")
        else:
            block = self._stream.read(size)
            if self._copy is not None:
                with writing(self._stream.path):
                    self._copy.write(block)
        self.digest.update(block)
        self.count += len(block)
        if self._seen is not None:
            self._seen.append(block)
        return block

    def end(self, start: int) -> bytes:
        """Return all from byte `start` on, without taking it from the stream."""
        if self.size - start <= len(self._end):
            return self._end[start - self.size :]
        if self._seen is None:
            return self._ending(start)
        ahead = [self._ahead]
        while block := self._next(-1):
            ahead.append(block)
        self._ahead = b"".join(ahead)
        return b"".join(self._seen)[start:]

    def drain(self) -> None:
        """Read to the end."""
        while self.read():
            pass


def end_first(item: Item) -> list[int]:
    """Say from which byte on to read an archive's end before its beginning, if at all."""
    size = item.source.size
    if not item.packed or size <= AT_ONCE or not unpack.may_be_zip(item.source.path):
        return []
    return [size - unzip.end_size(size)]
