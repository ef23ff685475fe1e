"""What unpacking has in common: the stream it takes, the members it gives, the limits it keeps."""

from __future__ import annotations

import contextlib
import errno
import gzip
import lzma
import struct
import tarfile
import time
import zipfile
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

from backports import zstd
from isal.igzip_lib import IsalError

from tasks.fetch.errors import ArchiveError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import PurePosixPath

    from tasks.settings import Settings

BLOCK = 2**18
"""Bytes handed on at once."""
RATIO_FROM = 64 * 2**20
"""Unpacked bytes below which a ratio is no bomb: so much fits anywhere, and a CSV whose rows are
all alike packs 1000 to 1, which is near the most that deflate can (1032)."""

# What the libraries' readers raise on bytes that are not what they should be.
_BROKEN = (
    tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, cast("type[Exception]", IsalError),
    zlib.error, lzma.LZMAError, zstd.ZstdError,
    EOFError, NotImplementedError, UnicodeDecodeError, struct.error, ValueError, RuntimeError,
)  # fmt: skip


class Source(Protocol):
    """An archive's bytes: a stream that is read once and counts them, and its end beforehand."""

    @property
    def size(self) -> int:
        """Bytes of the whole."""

    @property
    def count(self) -> int:
        """Bytes that were read."""

    def read(self, size: int = -1) -> bytes:
        """Return at most `size` bytes, b"" at the end."""

    def end(self, start: int) -> bytes:
        """Return all from byte `start` on, without taking it from the stream."""


@dataclass(frozen=True)
class Member:
    """A regular file of an archive.

    Attributes:
        path: Its name, checked.
        blocks: Its bytes, to be read before the next member is asked for.
    """

    path: PurePosixPath
    blocks: Iterable[bytes]


@dataclass(frozen=True)
class Limits:
    """What one archive may hold at most; counted, not believed.

    Attributes:
        members: Files and folders.
        size: Unpacked bytes.
        ratio: Unpacked bytes for one packed.
        depth: Folders in each other.
        seconds: From its first byte to its last.
    """

    members: int
    size: int
    ratio: float
    depth: int = 64
    seconds: float = float("inf")

    @classmethod
    def of(cls, settings: Settings) -> Limits:
        """Take the limits from the settings."""
        return cls(
            settings.max_members,
            settings.max_unpacked_size,
            settings.max_ratio,
            settings.max_depth,
            settings.max_unpack_time,
        )


class Budget:
    """Counts what an archive has given, and stops it at a limit."""

    def __init__(self, limits: Limits, origin: str, packed: Callable[[], int]) -> None:
        self._limits = limits
        self._origin = origin
        self._packed = packed
        self._members = 0
        self._size = 0
        self._end = time.monotonic() + limits.seconds

    def member(self, path: PurePosixPath) -> None:
        """Count a member."""
        self._members += 1
        self.declared(self._members)
        if len(path.parts) > self._limits.depth:
            raise ArchiveError(
                f"{self._origin}: member {str(path)!r} lies more than {self._limits.depth} folders "
                "deep (max_depth): set it higher if that is right"
            )

    def declared(self, count: int) -> None:
        """Check the number of members that an archive declares, before any of them is read."""
        if count > self._limits.members:
            raise ArchiveError(
                f"{self._origin}: more than {self._limits.members} members (max_members), at "
                f"least {count}: set it higher if that is right"
            )

    def size(self, count: int) -> None:
        """Count unpacked bytes."""
        self._size += count
        if time.monotonic() > self._end:
            raise ArchiveError(
                f"{self._origin}: takes more than {self._limits.seconds:g} seconds "
                "(max_unpack_time): set it higher if that is right"
            )
        if self._size > self._limits.size:
            raise ArchiveError(
                f"{self._origin}: more than {self._limits.size} bytes unpacked "
                "(max_unpacked_size): set it higher if that is right"
            )
        most = self._limits.ratio * max(self._packed(), 1)
        if self._size > RATIO_FROM and self._size > most:
            raise ArchiveError(
                f"{self._origin}: unpacks to more than {self._limits.ratio:g} times its size "
                "(max_ratio): a decompression bomb; set it higher if that is right"
            )


@contextlib.contextmanager
def reading(origin: str) -> Iterator[None]:
    """Turn what the standard library's readers raise into one error."""
    try:
        yield
    except _BROKEN as error:
        reason = str(error) or type(error).__name__
        raise ArchiveError(f"{origin}: broken archive: {reason}") from error
    except OSError as error:
        # The disk's, not the archive's: bz2 raises a bare OSError, and an offset before the
        # beginning makes a seek fail with EINVAL.
        if error.errno not in {None, errno.EINVAL}:
            raise
        raise ArchiveError(f"{origin}: broken archive: {error}") from error
