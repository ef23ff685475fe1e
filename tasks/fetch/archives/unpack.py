"""Archives: told by their content, not by their name, and taken apart as they come.

Takes a stream of bytes, gives members one by one, and refuses what no archive of data needs:
links, devices, names that lead out, more than the limits, counted on actual bytes. Whoever
consumes the members must let nothing be seen before the last one came.
"""

from __future__ import annotations

import bz2
import lzma
import re
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from backports import zstd
from isal import igzip_lib

from tasks.fetch import names
from tasks.fetch.archives import tar as untar
from tasks.fetch.archives import zip as unzip
from tasks.fetch.archives.limits import BLOCK, Budget, Limits, Member, Source, reading
from tasks.fetch.errors import ArchiveError
from tasks.fetch.threads import ReadAhead

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SUPPORTED = "zip, tar, and tar or a single file packed by gzip, bzip2, xz or zstd"

_HEAD = 512  # a tar's first header
_ZIP = (b"PK\3\4", b"PK\5\6", b"PK\7\10")  # APPNOTE.TXT 4.3.6: members, none, split over disks
MEMORY = 2**26 + 2**25
"""Bytes that unpacking may take: `xz -9` asks for 65 MiB, a hostile header for 4 GiB."""
ZSTD_WINDOW = 26
"""The same for zstd, as a power of two; `zstd --ultra -22` asks for 27, `--long=31` for 31."""


@dataclass(frozen=True)
class _Packing:
    """A compression format.

    Attributes:
        name: For people.
        magic: How a stream begins, in each of its forms.
        new: Makes a decompressor of the standard library's kind for one stream.
        memory: What to do where a stream needs more memory than is allowed.
    """

    name: str
    magic: tuple[bytes, ...]
    new: Callable[[], Any]
    memory: str = ""


_PACKINGS = [
    _Packing(
        "gzip",  # RFC 1952
        (b"\x1f\x8b",),
        partial(igzip_lib.IgzipDecompressor, flag=igzip_lib.DECOMP_GZIP),
    ),
    _Packing("bzip2", (b"BZh",), bz2.BZ2Decompressor),
    _Packing(
        "xz",  # xz-file-format 2.1.1.1
        (b"\xfd7zXZ\0",),
        partial(lzma.LZMADecompressor, lzma.FORMAT_XZ, memlimit=MEMORY),
        f"its dictionary needs more than the limit of {MEMORY >> 20} MiB of memory: pack it again "
        "with `xz -9` or lower, and no larger dictionary",
    ),
    _Packing(
        "zstd",  # RFC 8878, 3.1.1; skippable frames are 3.1.2
        (b"\x28\xb5\x2f\xfd", *(bytes([0x50 + n]) + b"\x2a\x4d\x18" for n in range(16))),
        partial(
            zstd.ZstdDecompressor,
            options={zstd.DecompressionParameter.window_log_max: ZSTD_WINDOW},
        ),
        f"its window is above the limit of {2**ZSTD_WINDOW >> 20} MiB: pack it again with "
        f"`zstd -19` or lower, or with `--long={ZSTD_WINDOW}`",
    ),
]
_NEEDS_MEMORY = re.compile("memory usage limit|too much memory", re.IGNORECASE)
_OTHERS = {
    b"Rar!": "a RAR archive", b"7z\xbc\xaf": "a 7z archive", b"\x1f\x9d": "a file of compress",
    b"LZIP": "an lzip file", b"\x04\x22\x4d\x18": "an LZ4 file",
    b"\x02\x21\x4c\x18": "an LZ4 file of the legacy format", b"\x89LZO": "an lzop file",
    b"MSCF": "a cabinet", b"<": "a web page or XML", b"{": "JSON", b"%PDF": "a PDF",
}  # fmt: skip
_SAYS_TAR = re.compile(r"\.(?:tar(?:\.\w+)?|t(?:gz|bz2?|xz|zst))$", re.IGNORECASE)
_SAYS_SPLIT = re.compile(r"\.z\d\d+$", re.IGNORECASE)


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
    for packing in _PACKINGS:
        if peeked.head.startswith(packing.magic):
            with reading(origin):
                inner = _Inner(_Streams(peeked, packing, origin), _HEAD)
            if says_tar or untar.is_tar(inner.head):
                return untar.members(inner, peeked, limits, origin, wanted)
            return _single(inner, peeked, limits, origin, wanted)
    other = next((kind for magic, kind in _OTHERS.items() if peeked.head.startswith(magic)), "")
    if untar.is_tar(peeked.head) or (origin.lower().endswith(".tar") and not other):
        return untar.members(peeked, peeked, limits, origin, wanted)
    if unzip.END_MAGIC in source.end(source.size - unzip.end_size(source.size)):  # behind a program
        return unzip.members(peeked, limits, origin, wanted)
    if _SAYS_SPLIT.search(origin):
        raise ArchiveError(f"{origin}: {unzip.SPLIT}")
    looks = f"it looks like {other}" if other else "its content is of no known kind"
    raise ArchiveError(f"{origin}: not an archive: {looks}; supported: {SUPPORTED}")


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


class _Peeked:
    """A source whose first bytes were looked at."""

    def __init__(self, source: Source, size: int) -> None:
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

    def read(self, size: int = -1) -> bytes:
        """Return at most `size` bytes, b"" at the end."""
        if not self._rest:
            return self._source.read(BLOCK if size < 0 else size)
        count = len(self._rest) if size < 0 else size
        block, self._rest = self._rest[:count], self._rest[count:]
        return block


class _Streams:
    """Packed streams behind each other, as their tools take them: zeros between them pass.

    The standard library's files pass over anything behind the last one.

    Args:
        file: The packed bytes.
        packing: Their format.
        origin: The archive's name, for errors.
    """

    def __init__(self, file: _Peeked, packing: _Packing, origin: str) -> None:
        self._file = file
        self._packing = packing
        self._origin = origin
        self._stream = packing.new()
        self._rest = b""

    def read(self, size: int) -> bytes:
        """Return at most `size` bytes, b"" at the end of the last stream."""
        while True:
            if self._stream.eof and not self._next():
                return b""
            if not self._rest and self._stream.needs_input:
                self._rest = self._file.read(BLOCK)
                if not self._rest:
                    raise EOFError(f"the {self._packing.name} data ends early: the file is cut off")
            block = self._decompressed(size)
            if block:
                return block

    def _next(self) -> bool:
        """Start the next stream, if there is one."""
        self._rest = (self._rest + self._stream.unused_data).lstrip(b"\0")
        longest = max(map(len, self._packing.magic))
        while len(self._rest) < longest and (more := self._file.read(BLOCK)):
            self._rest = (self._rest + more).lstrip(b"\0")
        if not self._rest:
            return False
        if not self._rest.startswith(self._packing.magic):
            raise ArchiveError(
                f"{self._origin}: broken archive: other data follows the end of its "
                f"{self._packing.name} data, from {self._rest[:16]!r} on: something was appended, "
                "or a longer file was overwritten"
            )
        self._stream = self._packing.new()
        return True

    def _decompressed(self, size: int) -> bytes:
        try:
            block: bytes = self._stream.decompress(self._rest, size)
        except (lzma.LZMAError, zstd.ZstdError) as error:
            if not _NEEDS_MEMORY.search(str(error)):
                raise
            raise ArchiveError(f"{self._origin}: {self._packing.memory}") from error
        self._rest = b""
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
