"""What the rest of the program sees of a host's files: their facts, listings and bytes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from msgspec import Struct

from tasks.fetch.errors import IntegrityError, RemotePathError


class RemoteFile(Struct, frozen=True, gc=False):
    """What the host says of a path.

    Attributes:
        path: As it was asked for, or as the listing gives it.
        size: Bytes.
        mtime: Seconds since 1970.
        folder: Whether it is a directory.
        special: Whether it is neither a file nor a directory, as a link in a listing.
    """

    path: str
    size: int
    mtime: int
    folder: bool = False
    special: bool = False

    def require_same(self, now: RemoteFile) -> None:
        """Raise `IntegrityError` where size or time are not as they were."""
        if (self.size, self.mtime) != (now.size, now.mtime):
            raise IntegrityError(
                f"{self.path}: changed on the host during the download",
                advice="set settle, so that files land only when they no longer change",
                transient=True,
            )


@dataclass(frozen=True, slots=True)
class Fault:
    """A path that a listing leaves out, and the reason."""

    path: str
    folder: bool
    error: RemotePathError


@dataclass(frozen=True)
class Listing:
    """What a folder contains.

    Attributes:
        files: The files, by their path relative to it, sorted.
        special: How many links and special files there are.
        faults: What was left out.
    """

    files: dict[str, RemoteFile]
    special: int
    faults: list[Fault]


class Stream:
    """The bytes of a remote file, in order, read once.

    Reading raises `IntegrityError` where fewer or more bytes arrive than the host's size, or the
    file changes during the download, and `NetworkError` where the connection is lost for good.
    """

    def __init__(self, path: str, start: int, items: Iterator[tuple[bytes, bool]]) -> None:
        self.path = path
        self.start = start
        self._items = items
        self._rest = b""
        self._ended = False

    def read(self, size: int = -1) -> bytes:
        """Return at most `size` bytes (some, not none, before the end), or b"" at the end."""
        if not self._rest and not self._ended:
            self._rest, self._ended = next(self._items)
        if not 0 <= size < len(self._rest):
            block, self._rest = self._rest, b""
            return block
        block, self._rest = self._rest[:size], self._rest[size:]
        return block

    def __iter__(self) -> Iterator[bytes]:
        """Yield the rest, block by block."""
        while block := self.read():
            yield block
