"""Archives: the only module that knows them.

Takes a stream of bytes, gives members one by one, and refuses what no archive of data needs:
links, devices, names that lead out, more than the limits, counted on actual bytes. Whoever
consumes the members must let nothing be seen before the last one came.
"""

from __future__ import annotations

import bz2
import contextlib
import errno
import gzip
import io
import lzma
import stat
import struct
import tarfile
import zipfile
import zlib
from dataclasses import dataclass
from functools import partial
from typing import IO, TYPE_CHECKING, Any, Protocol, Self, cast

from isal import igzip, isal_zlib
from isal.igzip_lib import IsalError

from tasks.engine import names
from tasks.engine.errors import ArchiveError
from tasks.engine.threads import ReadAhead

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import PurePosixPath

    from tasks.settings import Settings

BLOCK = 2**18
"""Bytes handed on at once."""
BLOCKS_AHEAD = 8
"""Blocks that may wait between unpacking a stream and taking a tar apart."""
RATIO_FROM = 10 * 2**20
"""Unpacked bytes below which a ratio is no bomb: a file of zeros is small, and harmless."""

MAX_EXTENDED_HEADER = 2**16
"""Bytes of one PAX or GNU header. tarfile takes quadratic time over it before Python 3.11.10
(CVE-2024-6232): 64 KiB keep it busy for seconds, 1 MiB for most of an hour."""
MAX_HEADERS = 2**20
"""Bytes of all headers before one member's content, in whole blocks of `BLOCK`: tarfile keeps
the map of a sparse file in memory, and bounds it by nothing."""
_EXTENDED = {
    tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK,
}  # fmt: skip

_DEFLATE64 = 9  # APPNOTE.TXT 4.4.5
_ZIP_METHODS = {
    zipfile.ZIP_STORED: "stored", zipfile.ZIP_DEFLATED: "deflate",
    zipfile.ZIP_BZIP2: "bzip2", zipfile.ZIP_LZMA: "lzma",
}  # fmt: skip
_LOCAL_HEADER = struct.Struct("<4s5H3L2H")  # APPNOTE.TXT 4.3.7
_END_RECORD = struct.Struct("<4s4H2LH")  # 4.3.16
_ZIP64_RECORD = struct.Struct("<4sQ2H2L4Q")  # 4.3.14
_ZIP64_LOCATOR = 20  # 4.3.15
_NUMBERS_COME_LATER, _NAME_IS_UTF8 = 1 << 3, 1 << 11  # 4.4.4
_SEE_ZIP64 = 0xFFFFFFFF  # 4.4.8

# What the standard library's readers raise on bytes that are not what they should be.
_BROKEN = (
    tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, cast("type[Exception]", IsalError),
    zlib.error, lzma.LZMAError,
    EOFError, NotImplementedError, UnicodeDecodeError, struct.error, ValueError, RuntimeError,
)  # fmt: skip


class Source(Protocol):
    """A stream of bytes that is read once, and counts them."""

    count: int

    def read(self, size: int = -1) -> bytes:
        """Return at most `size` bytes, b"" at the end."""


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
    """What one archive may hold at most; counted, not believed."""

    members: int
    size: int
    ratio: float

    @classmethod
    def of(cls, settings: Settings) -> Limits:
        """Take the limits from the settings."""
        return cls(settings.max_members, settings.max_unpacked_size, settings.max_ratio)


class _Budget:
    """Counts what an archive has given, and stops it at a limit."""

    def __init__(self, limits: Limits, origin: str, packed: Callable[[], int]) -> None:
        self._limits = limits
        self._origin = origin
        self._packed = packed
        self._members = 0
        self._size = 0

    def member(self) -> None:
        self._members += 1
        if self._members > self._limits.members:
            raise ArchiveError(
                f"{self._origin}: more than {self._limits.members} members (max_members)"
            )

    def size(self, count: int) -> None:
        self._size += count
        if self._size > self._limits.size:
            raise ArchiveError(
                f"{self._origin}: more than {self._limits.size} bytes unpacked (max_unpacked_size)"
            )
        most = self._limits.ratio * max(self._packed(), 1)
        if self._size > RATIO_FROM and self._size > most:
            raise ArchiveError(
                f"{self._origin}: unpacks to more than {self._limits.ratio:g} times its size "
                "(max_ratio): a bomb, or a limit that is too low"
            )


@contextlib.contextmanager
def _reading(origin: str) -> Iterator[None]:
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


# --- tar ----------------------------------------------------------------------------------


def tar_members(
    source: Source, limits: Limits, origin: str, wanted: Callable[[PurePosixPath], bool]
) -> Iterator[Member | None]:
    """Yield the members of a tar, plain or packed (gzip, bzip2, xz), as the stream comes.

    Args:
        source: The archive's bytes; read to their end, so that a checksum behind the last
            member is checked too.
        limits: What it may hold.
        origin: Its name, for errors.
        wanted: Which members to give; for the others None is given, once each.

    Raises:
        ArchiveError: It is broken, or not safe to unpack.
    """
    with _reading(origin), contextlib.ExitStack() as stack:
        budget = _Budget(limits, origin, lambda: source.count)
        ahead = ReadAhead(partial(_decompressed(source, origin).read, BLOCK), BLOCKS_AHEAD)
        stack.callback(ahead.close)
        unpacked = _Counted(ahead, budget)
        info_class = type("_Info", (_StrictInfo,), {"stream": unpacked})
        with tarfile.open(
            fileobj=cast("IO[bytes]", unpacked), mode="r|", bufsize=BLOCK, tarinfo=info_class
        ) as archive:
            while (info := archive.next()) is not None:
                cast("Any", archive).members = []  # it would remember every member of a stream
                unpacked.budget.member()
                path = names.safe(info.name + ("/" if info.isdir() else ""), origin)
                if info.isdir():
                    continue
                if not info.isreg():
                    raise ArchiveError(
                        f"{origin}: member {info.name!r} is a {_kind(info)}: refused"
                    )
                if not wanted(path):
                    yield None
                    continue
                content = archive.extractfile(info)
                if content is None:
                    raise ArchiveError(f"{origin}: member {info.name!r} has no content")
                with content:
                    yield Member(path, _tar_blocks(content, info, unpacked.budget, origin))
            _drain(cast("IO[bytes]", archive.fileobj), origin)


class _StrictInfo(tarfile.TarInfo):
    """A header that must be whole: tarfile takes a damaged one, later on, for the end."""

    stream: _Counted  # of the archive at hand, by a subclass of its own

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Self:
        try:
            with cls.stream.reading_headers():
                info = super().fromtarfile(archive)
        except tarfile.HeaderError as error:
            if str(error) == "end of file header":  # a block of zeros: the end marker
                raise
            raise tarfile.ReadError(f"{error} where a member should begin") from error
        if info.size < 0:  # back to the first header, for tarfile, is the end as well
            raise tarfile.ReadError(f"a member of {info.size} bytes")
        return info

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        info = super().frombuf(buf, encoding, errors)
        if info.type in _EXTENDED and not 0 <= info.size <= MAX_EXTENDED_HEADER:
            raise tarfile.ReadError(f"an extended header of {info.size} bytes")
        return info


def _drain(rest: IO[bytes], origin: str) -> None:
    """Read on to the end, for the checksum behind it; only padding may come."""
    while block := rest.read(BLOCK):
        if block.strip(b"\0"):
            raise ArchiveError(f"{origin}: broken archive: more comes after the end marker")


def _kind(info: tarfile.TarInfo) -> str:
    kinds = {
        "symbolic link": info.issym(), "hard link": info.islnk(),
        "device": info.ischr() or info.isblk(), "FIFO": info.isfifo(),
    }  # fmt: skip
    return next((kind for kind, it_is in kinds.items() if it_is), f"file of type {info.type!r}")


def _tar_blocks(
    content: IO[bytes], info: tarfile.TarInfo, budget: _Budget, origin: str
) -> Iterator[bytes]:
    count = 0
    with _reading(f"{origin}: member {info.name!r}"):
        while block := content.read(BLOCK):
            count += len(block)
            if info.issparse():  # its holes are nowhere in the stream
                budget.size(len(block))
            yield block
    if count != info.size:
        raise ArchiveError(f"{origin}: member {info.name!r}: {count} of {info.size} bytes")


class _Counted:
    """A stream whose bytes count against the budget."""

    def __init__(self, stream: Any, budget: _Budget) -> None:
        self._stream = stream
        self._headers: int | None = None
        self.budget = budget

    def read(self, size: int = -1) -> bytes:
        block: bytes = self._stream.read(size if size >= 0 else BLOCK)
        self.budget.size(len(block))
        if self._headers is not None:
            self._headers += len(block)
            if self._headers > MAX_HEADERS:
                raise tarfile.ReadError(f"more than {MAX_HEADERS} bytes of headers for a member")
        return block

    @contextlib.contextmanager
    def reading_headers(self) -> Iterator[None]:
        """Bound what the block reads; headers before a header count as its own."""
        before = self._headers
        self._headers = before or 0
        try:
            yield
        finally:
            self._headers = before


class _Peeked(io.RawIOBase):
    """A source whose first bytes were looked at, as the file that decompressors want."""

    def __init__(self, source: Source, size: int) -> None:
        super().__init__()
        self._source = source
        self.head = b""
        while len(self.head) < size and (block := source.read(BLOCK)):
            self.head += block
        self._rest = self.head

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        block = self._rest[: len(buffer)] or self._source.read(len(buffer))
        self._rest = self._rest[len(block) :]
        buffer[: len(block)] = block
        return len(block)


def _decompressed(source: Source, origin: str) -> Any:
    """Return the stream inside; which packing it has is read from its first bytes."""
    peeked = _Peeked(source, 6)
    if peeked.head.startswith(b"\x1f\x8b"):
        return cast("Any", igzip.IGzipFile)(fileobj=peeked, mode="rb")
    if peeked.head.startswith(b"BZh"):
        return bz2.BZ2File(cast("IO[bytes]", peeked))
    if peeked.head.startswith(b"\xfd7zXZ\0"):
        return lzma.LZMAFile(cast("IO[bytes]", peeked))
    if peeked.head.startswith(b"PK"):
        raise ArchiveError(f"{origin}: this is a zip archive, not a tar: task 1 takes zips")
    if not peeked.head:
        raise ArchiveError(f"{origin}: the file is empty")
    return peeked


# --- zip ----------------------------------------------------------------------------------


def zip_members(
    file: IO[bytes], limits: Limits, origin: str, wanted: Callable[[PurePosixPath], bool]
) -> Iterator[Member | None]:
    """Yield the members of a zip; all names and kinds are checked before the first comes.

    Args:
        file: The whole archive, seekable.
        limits: What it may hold.
        origin: Its name, for errors.
        wanted: Which members to give; for the others None is given, once each.

    Raises:
        ArchiveError: It is broken, or not safe to unpack.
    """
    packed = file.seek(0, 2)
    file.seek(0)
    if not packed:
        raise ArchiveError(f"{origin}: the file is empty")
    head = file.read(2)
    if head == b"\x1f\x8b":
        raise ArchiveError(f"{origin}: this is a gzip file, not a zip: task 2 takes tar.gz")
    budget = _Budget(limits, origin, lambda: packed)
    with _reading(origin), zipfile.ZipFile(file) as archive:
        infos = archive.infolist()
        for info in infos:
            budget.member()
            _check_zip_member(info, origin)
        _check_count(file, archive, origin)
        starts = _check_headers(file, infos, archive.start_dir, origin)
        for info in infos:
            path = names.safe(info.orig_filename, origin)
            if info.is_dir():
                continue
            if not wanted(path):
                yield None
                continue
            if info.compress_type == zipfile.ZIP_DEFLATED:
                blocks = _inflated(file, starts[info.header_offset], info)
                yield Member(path, _zip_blocks(blocks, info, budget, origin))
                continue
            with archive.open(info) as content:
                blocks = iter(partial(content.read, BLOCK), b"")
                yield Member(path, _zip_blocks(blocks, info, budget, origin))


def _check_zip_member(info: zipfile.ZipInfo, origin: str) -> None:
    member = f"{origin}: member {info.orig_filename!r}"
    names.safe(info.orig_filename, origin)
    mode = info.external_attr >> 16
    if stat.S_IFMT(mode) not in {0, stat.S_IFREG, stat.S_IFDIR}:
        kind = "symbolic link" if stat.S_ISLNK(mode) else "special file"
        raise ArchiveError(f"{member} is a {kind}: refused")
    if info.is_dir() and info.file_size:
        raise ArchiveError(f"{member} is a folder with content: refused")
    if info.flag_bits & 0x1:
        raise ArchiveError(f"{member} is encrypted: not supported")
    if info.compress_type not in _ZIP_METHODS:
        method = "deflate64" if info.compress_type == _DEFLATE64 else f"{info.compress_type}"
        known = ", ".join(_ZIP_METHODS.values())
        raise ArchiveError(f"{member} has compression method {method}: not supported, only {known}")


def _check_headers(
    file: IO[bytes], infos: list[zipfile.ZipInfo], end: int, origin: str
) -> dict[int, int]:
    """Require that each member's own header says what the table of contents does.

    One flipped bit in the table is enough to lose a member without a word. No byte may be two
    members' either: the trick of the densest bombs (D. Fifield, "A better zip bomb", WOOT 2019).

    Returns:
        Where the bytes of each member start, by the offset of its header.
    """
    limit, starts = end, {}
    for info in sorted(infos, key=lambda info: info.header_offset, reverse=True):
        member = f"{origin}: member {info.orig_filename!r}"
        file.seek(info.header_offset)
        header = file.read(_LOCAL_HEADER.size)
        if len(header) < _LOCAL_HEADER.size or header[:4] != b"PK\3\4":
            raise ArchiveError(f"{member} is not where it should be")
        _, _, flags, method, _, _, *numbers, name_size, extra_size = _LOCAL_HEADER.unpack(header)
        name = file.read(name_size).decode("utf-8" if info.flag_bits & _NAME_IS_UTF8 else "cp437")
        if (name, method) != (info.orig_filename, info.compress_type):
            raise ArchiveError(f"{member}: broken archive: its own header calls it {name!r}")
        told = (info.CRC, info.compress_size, info.file_size)
        if not flags & _NUMBERS_COME_LATER and any(
            mine not in {theirs, _SEE_ZIP64} for mine, theirs in zip(numbers, told, strict=True)
        ):
            raise ArchiveError(
                f"{member}: broken archive: its own header gives another size or CRC"
            )
        start = info.header_offset + _LOCAL_HEADER.size + name_size + extra_size
        if start + info.compress_size > limit:
            raise ArchiveError(f"{member} overlaps with another")
        limit = info.header_offset
        starts[info.header_offset] = start
    return starts


def _check_count(file: IO[bytes], archive: zipfile.ZipFile, origin: str) -> None:
    """Require as many members as the end record tells: zipfile stops early in a damaged table."""
    file.seek(-_END_RECORD.size - len(archive.comment), 2)
    magic, *_, count, _, _, _ = _END_RECORD.unpack(file.read(_END_RECORD.size))
    if magic != b"PK\5\6":
        raise ArchiveError(f"{origin}: broken archive: more comes after its end record")
    found = len(archive.infolist())
    if count == 0xFFFF:
        file.seek(-_END_RECORD.size - len(archive.comment) - _ZIP64_LOCATOR - _ZIP64_RECORD.size, 2)
        magic, *_, large, _, _ = _ZIP64_RECORD.unpack(file.read(_ZIP64_RECORD.size))
        count = large if magic == b"PK\6\6" else count
    if found != count and found % 2**16 != count:
        raise ArchiveError(f"{origin}: broken archive: {found} of {count} members are in its table")


def _inflated(file: IO[bytes], start: int, info: zipfile.ZipInfo) -> Iterator[bytes]:
    """Yield the content of a deflated member, and check its CRC; zipfile does it with slow zlib."""
    inflater = isal_zlib.decompressobj(-15)
    crc, left, packed = 0, info.compress_size, b""
    file.seek(start)
    while not inflater.eof:
        if not packed:
            packed = file.read(min(BLOCK, left))
            left -= len(packed)
            if not packed:
                raise EOFError("the member ends early")
        block = inflater.decompress(packed, BLOCK)
        packed = inflater.unconsumed_tail
        crc = isal_zlib.crc32(block, crc)
        yield block
    if crc != info.CRC:
        raise zipfile.BadZipFile("bad CRC")


def _zip_blocks(
    blocks: Iterable[bytes], info: zipfile.ZipInfo, budget: _Budget, origin: str
) -> Iterator[bytes]:
    count = 0
    with _reading(f"{origin}: member {info.orig_filename!r}"):
        for block in blocks:
            budget.size(len(block))
            count += len(block)
            yield block
    if count != info.file_size:
        raise ArchiveError(
            f"{origin}: member {info.orig_filename!r}: {count} of {info.file_size} bytes"
        )
