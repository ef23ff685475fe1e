"""The reading of one archive: its limits, enforced on the actual bytes, and its errors."""

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
from typing import TYPE_CHECKING, Protocol, cast

from backports import zstd
from isal.igzip_lib import IsalError

from tasks.fetch import names
from tasks.fetch.errors import ArchiveError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tasks.fetch.archives.format import Input
    from tasks.fetch.archives.stream import Stream

RATIO_FLOOR_BYTES = 64 * 2**20
"""The ratio is enforced above this size only: so much fits on any disk, and a CSV whose rows are
all alike compresses 1000 to 1, which is near the most that deflate can do (1032)."""

# What the libraries raise on bytes that are not of their format.
_LIBRARY_ERRORS = (
    tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, cast("type[Exception]", IsalError),
    zlib.error, lzma.LZMAError, zstd.ZstdError,
    EOFError, NotImplementedError, UnicodeDecodeError, struct.error, ValueError, RuntimeError,
)  # fmt: skip


class Limits(Protocol):
    """The limits of one archive, by the names that users set them by."""

    @property
    def max_members(self) -> int:
        """Files and directories."""

    @property
    def max_unpacked_size(self) -> int:
        """Bytes, extracted."""

    @property
    def max_ratio(self) -> float:
        """Extracted bytes per byte of the archive."""

    @property
    def max_depth(self) -> int:
        """Directory levels."""

    @property
    def max_unpack_time(self) -> float:
        """Seconds from the first byte to the last."""


class Extraction:
    """Checks what a format reads from one archive.

    Args:
        source: The archive's bytes.
        limits: What it may contain.
        name: The archive's name, for errors.
        wants: Whether a member is selected.

    Attributes:
        member_offset: Where the member that is read begins, in the stream of its format.
        compressed_bytes: The bytes of the archive that `max_ratio` refers to: those read so far. A
            format that knows more at the start may replace it.
    """

    def __init__(
        self, source: Input, limits: Limits, name: str, wants: Callable[[str], bool]
    ) -> None:
        self.input = source
        self.limits = limits
        self.name = name
        self.wants = wants
        self.compressed_bytes: Callable[[], int] = lambda: source.count
        self.member_offset = 0
        self._streams: list[Stream] = []
        self._members = 0
        self._bytes = 0
        self._deadline = time.monotonic() + limits.max_unpack_time
        self._input_fault: Exception | None = None

    def read(self, size: int = -1) -> bytes:
        """Read from the archive; its own errors (the network's, the disk's) pass unchanged."""
        try:
            return self.input.read(size)
        except Exception as error:
            self._input_fault = error
            raise

    def path(self, name: str) -> str:
        """Count a member, and return its path; raise `ArchiveError` if it is not safe."""
        path = names.safe(name, self.name)
        self._members += 1
        self.check_count(self._members)
        if path.count("/") >= self.limits.max_depth:
            text = f"member {path!r} is nested more than {self.limits.max_depth} levels deep"
            raise self._exceeded(text, "max_depth")
        return path

    def check_count(self, count: int) -> None:
        """Check a number of members, also one that the archive declares before they are read."""
        if count > self.limits.max_members:
            text = f"contains more than {self.limits.max_members} members (at least {count})"
            raise self._exceeded(text, "max_members")

    def add_bytes(self, count: int) -> None:
        """Count extracted bytes."""
        self._bytes += count
        if time.monotonic() > self._deadline:
            text = f"extraction takes more than {self.limits.max_unpack_time:g} s"
            raise self._exceeded(text, "max_unpack_time")
        if self._bytes > self.limits.max_unpacked_size:
            text = f"extracts to more than {self.limits.max_unpacked_size} bytes"
            raise self._exceeded(text, "max_unpacked_size")
        if self._bytes > RATIO_FLOOR_BYTES and self._bytes > self.limits.max_ratio * max(
            self.compressed_bytes(), 1
        ):
            text = f"extracts to more than {self.limits.max_ratio:g} times its size, as a bomb does"
            raise self._exceeded(text, "max_ratio")

    def follow(self, stream: Stream) -> None:
        """Note a stream for the errors: the archive, then its content if that is compressed."""
        self._streams.append(stream)

    def error(self, reason: str, member: str | None = None, advice: str = "") -> ArchiveError:
        """Return an error about the archive, or about one of its members."""
        where = self.name if member is None else f"{self.name}: member {member!r}"
        return ArchiveError(f"{where}: {reason}", advice=advice)

    def broken(self, reason: str, member: str | None = None) -> ArchiveError:
        """Return an error about damaged bytes, with how far the archive was read."""
        return self.error(f"broken archive: {reason}{self._position(member)}", member)

    def _position(self, member: str | None) -> str:
        if not (self._streams and self._streams[0].offset):
            return ""
        archive, *content = self._streams
        of_content = " of the content" if content else ""
        begins = f"; the member begins at byte {self.member_offset}{of_content}" if member else ""
        read = f"; {archive.offset} of {self.input.size} bytes were read"
        return begins + read + (f", {content[0].offset}{of_content}" if content else "")

    def _exceeded(self, text: str, setting: str) -> ArchiveError:
        return self.error(
            f"{text} ({setting})", advice=f"if you trust the archive, raise {setting}"
        )

    @contextlib.contextmanager
    def library_errors(self, member: str | None = None) -> Iterator[None]:
        """Turn what the libraries raise on damaged bytes into `ArchiveError`."""
        try:
            yield
        except _LIBRARY_ERRORS as error:
            if error is self._input_fault:
                raise
            raise self.broken(str(error) or type(error).__name__, member) from error
        except OSError as error:
            # bz2 raises an OSError without errno; seeking before the beginning is EINVAL. Others
            # are the disk's.
            if error is self._input_fault or error.errno not in {None, errno.EINVAL}:
                raise
            raise self.broken(str(error), member) from error
