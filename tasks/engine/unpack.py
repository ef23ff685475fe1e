"""Archives: told by their content, not by their name, and taken apart as they come.

Takes a stream of bytes, gives members one by one, and refuses what no archive of data needs:
links, devices, names that lead out, more than the limits, counted on actual bytes. Whoever
consumes the members must let nothing be seen before the last one came.
"""

from __future__ import annotations

import bz2
import io
import lzma
import re
from functools import partial
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, cast

from backports import zstd
from isal import igzip

from tasks.engine import names, untar, unzip
from tasks.engine.errors import ArchiveError
from tasks.engine.limits import BLOCK, Budget, Limits, Member, Source, reading
from tasks.engine.threads import ReadAhead

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SUPPORTED = "zip, tar, and tar or a single file packed by gzip, bzip2, xz or zstd"

_HEAD = 512  # a tar's first header
_ZIP = (b"PK\3\4", b"PK\5\6", b"PK\7\10")  # APPNOTE.TXT 4.3.6: members, none, split over disks
MEMORY = 2**26 + 2**25
"""Bytes that unpacking may take: `xz -9` asks for 65 MiB, a hostile header for 4 GiB."""
ZSTD_WINDOW = 26
"""The same for zstd, as a power of two; `zstd --ultra -22` asks for 27, `--long=31` for 31."""
_PACKINGS: dict[bytes, Callable[[_Peeked], Any]] = {
    b"\x1f\x8b": lambda file: cast("Any", igzip.IGzipFile)(fileobj=file, mode="rb"),  # RFC 1952
    b"BZh": lambda file: _Streams(file, bz2.BZ2Decompressor),
    # xz-file-format 2.1.1.1
    b"\xfd7zXZ\0": lambda file: _Streams(
        file, partial(lzma.LZMADecompressor, lzma.FORMAT_XZ, memlimit=MEMORY)
    ),
    # RFC 8878, 3.1.1
    b"\x28\xb5\x2f\xfd": lambda file: _Streams(
        file,
        partial(
            zstd.ZstdDecompressor,
            options={zstd.DecompressionParameter.window_log_max: ZSTD_WINDOW},
        ),
    ),
}
_OTHERS = {
    b"Rar!": "a RAR archive", b"7z\xbc\xaf": "a 7z archive", b"\x1f\x9d": "a file of compress",
    b"LZIP": "an lzip file", b"\x04\x22\x4d\x18": "an LZ4 file", b"MSCF": "a cabinet",
    b"<": "a web page or XML", b"{": "JSON", b"%PDF": "a PDF",
}  # fmt: skip
_SAYS_TAR = re.compile(r"\.(?:tar(?:\.\w+)?|t(?:gz|bz2?|xz|zst))$", re.IGNORECASE)


def may_be_zip(name: str) -> bool:
    """Whether a name does not say that it is another kind of archive."""
    return names.stem(name) == name or name.lower().endswith(".zip")


def members(
    source: Source, limits: Limits, origin: str, wanted: Callable[[PurePosixPath], bool]
) -> Iterator[Member | None]:
    """Yield the members of an archive of any kind that is known, as its bytes come.

    A packed file that is no tar is its own single member: `events.csv` of `events.csv.gz`.

    Args:
        source: The archive's bytes; a caller reads what is left of them at the end.
        limits: What it may hold.
        origin: Its name, for errors, and for that of a single file.
        wanted: Which members to give; for the others None is given, once each.

    Raises:
        ArchiveError: It is broken, not safe to unpack, or of no known kind.
    """
    peeked = _Peeked(source, _HEAD)
    if not peeked.head:
        raise ArchiveError(f"{origin}: the file is empty")
    says_tar = bool(_SAYS_TAR.search(origin))
    if peeked.head.startswith(_ZIP):
        return unzip.members(peeked, limits, origin, wanted)
    for magic, opened in _PACKINGS.items():
        if peeked.head.startswith(magic):
            with reading(origin):
                inner = _Inner(opened(peeked), _HEAD)
            if says_tar or untar.is_tar(inner.head):
                return untar.members(inner, peeked, limits, origin, wanted)
            return _single(inner, peeked, limits, origin, wanted)
    if says_tar or untar.is_tar(peeked.head):
        return untar.members(peeked, peeked, limits, origin, wanted)
    if unzip.END_MAGIC in source.end(source.size - unzip.end_size(source.size)):  # behind a program
        return unzip.members(peeked, limits, origin, wanted)
    looks = next((what for magic, what in _OTHERS.items() if peeked.head.startswith(magic)), "")
    known = f"it looks like {looks}" if looks else "its content is of no known kind"
    raise ArchiveError(f"{origin}: not an archive: {known}; supported: {SUPPORTED}")


def _single(
    unpacked: _Inner,
    source: Source,
    limits: Limits,
    origin: str,
    wanted: Callable[[PurePosixPath], bool],
) -> Iterator[Member | None]:
    """Yield the one file that was packed, under the archive's name without its ending."""
    name = PurePosixPath(origin).name
    path = names.safe(names.stem(name), origin)
    budget = Budget(limits, origin, lambda: source.count)
    budget.member(path)
    ahead = ReadAhead(partial(unpacked.read, BLOCK), untar.BLOCKS_AHEAD)
    try:
        blocks = _counted(ahead, budget, origin)
        yield Member(path, blocks) if wanted(path) else None
        for _ in blocks:  # what nobody read has a checksum too
            pass
    finally:
        ahead.close()


def _counted(ahead: ReadAhead, budget: Budget, origin: str) -> Iterator[bytes]:
    with reading(origin):
        while block := ahead.read():
            budget.size(len(block))
            yield block


class _Peeked(io.RawIOBase):
    """A source whose first bytes were looked at; also as the file that decompressors want."""

    def __init__(self, source: Source, size: int) -> None:
        super().__init__()
        self._source = source
        self.head = b""
        while len(self.head) < size and (block := source.read(BLOCK)):
            self.head += block
        self._rest = self.head

    @property
    def size(self) -> int:
        """Bytes of the whole."""
        return self._source.size

    @property
    def count(self) -> int:
        """Bytes that were read."""
        return self._source.count

    def end(self, start: int) -> bytes:
        """Return all from byte `start` on."""
        return self._source.end(start)

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> bytes:
        if not self._rest:
            return self._source.read(BLOCK if size is None or size < 0 else size)
        count = len(self._rest) if size is None or size < 0 else size
        block, self._rest = self._rest[:count], self._rest[count:]
        return block

    def readinto(self, buffer: Any) -> int:
        block = self.read(len(buffer))
        buffer[: len(block)] = block
        return len(block)


class _Streams:
    """Packed streams behind each other, as their tools take them: zeros between them pass.

    The standard library's files pass over anything behind the last one.

    Args:
        file: The packed bytes.
        new: Makes a decompressor of the standard library's kind for one stream.
    """

    def __init__(self, file: _Peeked, new: Callable[[], Any]) -> None:
        self._file = file
        self._new = new
        self._stream = new()
        self._rest = b""

    def read(self, size: int) -> bytes:
        """Return at most `size` bytes, b"" at the end of the last stream."""
        while True:
            if self._stream.eof:
                self._rest = (self._rest + self._stream.unused_data).lstrip(b"\0")
                while not self._rest and (more := self._file.read(BLOCK)):
                    self._rest = more.lstrip(b"\0")
                if not self._rest:
                    return b""
                self._stream = self._new()
            if not self._rest and self._stream.needs_input:
                self._rest = self._file.read(BLOCK)
                if not self._rest:
                    raise EOFError("the packed data ends early")
            block: bytes = self._stream.decompress(self._rest, size)
            self._rest = b""
            if block:
                return block


class _Inner:
    """What a decompressor gives, of which the first bytes were looked at."""

    def __init__(self, stream: Any, size: int) -> None:
        self._stream = stream
        self.head = b""
        while len(self.head) < size and (block := stream.read(size - len(self.head))):
            self.head += block
        self._rest = self.head

    def read(self, size: int = -1) -> bytes:
        """Return at most `size` bytes, b"" at the end."""
        block: bytes = self._rest or self._stream.read(size)
        self._rest = b""
        return block
