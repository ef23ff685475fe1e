"""What a format declares in the registry, and what reading an archive takes and gives."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from tasks.fetch.archives.extraction import Extraction
    from tasks.fetch.archives.stream import Stream

HEAD_BYTES = 512
"""How much of a stream's beginning a format is detected by: a tar's first header."""


class Input(Protocol):
    """An archive's bytes: read once and counted, with random access to its end."""

    @property
    def size(self) -> int:
        """Bytes of the whole archive."""

    @property
    def count(self) -> int:
        """Bytes read so far."""

    def read(self, size: int = ..., /) -> bytes:
        """Return at most `size` bytes, b"" at the end."""

    def end(self, start: int) -> bytes:
        """Return everything from byte `start` on, without consuming the stream."""


class Member(Struct, frozen=True):
    """A regular file of an archive.

    Attributes:
        path: Its name, checked.
        blocks: Its content, to be read before the next member is requested.
    """

    path: str
    blocks: Iterable[bytes]


@dataclass(frozen=True)
class Format:
    """An archive format.

    Attributes:
        name: For messages.
        suffixes: Of file names, such as `.zip`.
        detect: Whether a stream's first bytes are of this format.
        members: Yields the selected members of a stream, and None for each other file.
        compressible: Whether it is also read from a compressed stream, as a tar.gz is.
        tail_bytes: How many of the last bytes `members` reads first, by the archive's size; None
            for a format that is read forward only.
        detect_tail: Whether the last bytes are of this format although the first ones are not, as
            in a self-extracting archive.
        names: File names that are read as this format whatever the content looks like, so that
            the error describes a damaged archive and not an unknown file.
    """

    name: str
    suffixes: tuple[str, ...]
    detect: Callable[[bytes], bool]
    members: Callable[[Stream, Extraction], Iterator[Member | None]]
    compressible: bool = False
    tail_bytes: Callable[[int], int] | None = None
    detect_tail: Callable[[bytes], bool] | None = None
    names: re.Pattern[str] = re.compile(r"(?!)")  # no name


@dataclass(frozen=True)
class Compression:
    """A compression of one stream.

    Attributes:
        name: For messages.
        suffixes: Of file names, such as `.gz`.
        tar_suffixes: Short forms, such as `.tgz` for `.tar.gz`.
        magic: The first bytes, in each of their forms.
        decompressor: Makes a decompressor, of the interface of `bz2.BZ2Decompressor`.
        memory_limit: What is wrong with a stream that needs more memory than is allowed.
        memory_advice: What to do about it.
    """

    name: str
    suffixes: tuple[str, ...]
    tar_suffixes: tuple[str, ...]
    magic: tuple[bytes, ...]
    decompressor: Callable[[], Any]
    memory_limit: str = ""
    memory_advice: str = ""
