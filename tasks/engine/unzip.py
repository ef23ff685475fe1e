"""Zips: members as the stream comes, by the table of contents that is read beforehand.

The table is at the end of a zip. It is taken from there first, and checked; then the archive
comes once, from its first byte to its last, and each member out of it in its turn: nothing of the
archive need touch the disk. zipfile reads the table; what a zip may not do is checked here, since
zipfile mends names and believes sizes.
"""

from __future__ import annotations

import bz2
import errno
import io
import lzma
import stat
import struct
import zipfile
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, cast

from isal import isal_zlib

from tasks.engine import names
from tasks.engine.errors import ArchiveError
from tasks.engine.limits import BLOCK, Budget, Limits, Member, Source, reading

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import PurePosixPath

MAX_TABLE = 2**26
"""Bytes of a table of contents: for a hundred thousand members a sixth of this is enough."""
MAX_DICTIONARY = 2**26
"""Bytes of LZMA's dictionary, which is taken from memory at once."""

_DEFLATE64 = 9  # APPNOTE.TXT 4.4.5
_METHODS = {
    zipfile.ZIP_STORED: "stored", zipfile.ZIP_DEFLATED: "deflate",
    zipfile.ZIP_BZIP2: "bzip2", zipfile.ZIP_LZMA: "lzma",
}  # fmt: skip
_LOCAL_HEADER = struct.Struct("<4s5H3L2H")  # APPNOTE.TXT 4.3.7
_END_RECORD = struct.Struct("<4s4H2LH")  # 4.3.16
_ZIP64_RECORD = struct.Struct("<4sQ2H2L4Q")  # 4.3.14
_ZIP64_LOCATOR = struct.Struct("<4sLQL")  # 4.3.15
_LZMA_HEADER = struct.Struct("<2sHBL")  # 5.8.8: version, size of the properties, and those
_ENCRYPTED, _NUMBERS_COME_LATER, _NAME_IS_UTF8 = 1, 1 << 3, 1 << 11  # 4.4.4
_SEE_ZIP64 = 0xFFFFFFFF  # 4.4.8
END_MAGIC = b"PK\5\6"


def end_size(size: int) -> int:
    """Return how many bytes of a zip's end to read first.

    That is the end record with the longest comment (64 KiB), and mostly the whole table of
    contents before it: a hundred bytes for each member.
    """
    return min(size, 2**16 + 2**10 + min(size // 64, 2**20))


def members(
    source: Source, limits: Limits, origin: str, wanted: Callable[[PurePosixPath], bool]
) -> Iterator[Member | None]:
    """Yield the members of a zip in the order in which they lie in it.

    All names and kinds are checked before the first comes.

    Args:
        source: The archive's bytes.
        limits: What it may hold.
        origin: Its name, for errors.
        wanted: Which members to give; for the others None is given, once each.

    Raises:
        ArchiveError: It is broken, or not safe to unpack.
    """
    budget = Budget(limits, origin, lambda: source.size)
    stream = _Forward(source)
    with reading(origin):
        tail = _Tail(source)
        with zipfile.ZipFile(cast("Any", tail)) as archive:
            infos = archive.infolist()
            for info in infos:
                _check(info, budget, origin)
            _check_end(tail, archive, source.size, origin)
            table = archive.start_dir
        infos.sort(key=lambda info: info.header_offset)
        if infos and infos[0].header_offset and stream.begins(b"PK\3\4"):
            raise ArchiveError(f"{origin}: broken archive: another one lies before it")
        for info, following in zip_longest(infos, infos[1:]):
            end = following.header_offset if following else table
            content = _content(stream, info, end, origin)
            path = names.safe(info.orig_filename, origin)
            if info.is_dir():
                continue
            if not wanted(path):
                yield None
                continue
            yield Member(path, _blocks(content, info, budget, origin))


class _Tail(io.RawIOBase):
    """The end of a source, as the file that zipfile wants to find its table in."""

    def __init__(self, source: Source) -> None:
        super().__init__()
        self._source = source
        self._start = source.size - end_size(source.size)
        self._bytes = source.end(self._start)
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + {0: 0, 1: self._at, 2: self._source.size}[whence]
        if self._at < 0:
            raise OSError(errno.EINVAL, "an offset before the beginning")  # as files have it
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        if self._at < self._start:  # a large table of contents
            if self._source.size - self._at > MAX_TABLE:
                raise zipfile.BadZipFile(f"a table of contents of more than {MAX_TABLE} bytes")
            self._start, self._bytes = self._at, self._source.end(self._at)
        first = self._at - self._start
        last = len(self._bytes) if size is None or size < 0 else first + size
        block = self._bytes[first:last]
        self._at += len(block)
        return block


class _Forward:
    """A source that is read forward only, by the offset."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._rest = b""
        self._at = 0

    def begins(self, magic: bytes) -> bool:
        """Whether what comes next begins so."""
        self._rest = self._rest or self._source.read(BLOCK)
        return self._rest.startswith(magic)

    def to(self, offset: int) -> None:
        """Go on to an offset."""
        while self._at < offset and self.read(min(BLOCK, offset - self._at)):
            pass

    def read(self, size: int) -> bytes:
        """Return at most `size` bytes, some before the end."""
        if not self._rest:
            self._rest = self._source.read(BLOCK)
        block, self._rest = self._rest[:size], self._rest[size:]
        self._at += len(block)
        return block

    def exactly(self, size: int) -> bytes:
        """Return `size` bytes; fewer at the end."""
        block = self.read(size)
        while len(block) < size and (more := self.read(size - len(block))):
            block += more
        return block


# --- checks ---------------------------------------------------------------------------------


def _check(info: zipfile.ZipInfo, budget: Budget, origin: str) -> None:
    """Require that an entry of the table is of a kind that is taken."""
    member = f"{origin}: member {info.orig_filename!r}"
    budget.member(names.safe(info.orig_filename, origin))
    mode = info.external_attr >> 16
    if stat.S_IFMT(mode) not in {0, stat.S_IFREG, stat.S_IFDIR}:
        kind = "symbolic link" if stat.S_ISLNK(mode) else "special file"
        raise ArchiveError(f"{member} is a {kind}: refused")
    if info.is_dir() and info.file_size:
        raise ArchiveError(f"{member} is a folder with content: refused")
    if info.flag_bits & _ENCRYPTED:
        raise ArchiveError(
            f"{member} is encrypted: not supported; SSH keeps it secret on the way, so have it "
            "packed without a password"
        )
    if info.compress_type not in _METHODS:
        method = "deflate64" if info.compress_type == _DEFLATE64 else f"{info.compress_type}"
        known = ", ".join(_METHODS.values())
        raise ArchiveError(f"{member} has compression method {method}: not supported, only {known}")


def _check_end(file: _Tail, archive: zipfile.ZipFile, size: int, origin: str) -> None:
    """Require an end that can be read in one way only.

    zipfile stops early in a damaged table, believes what lies before an end record, and takes the
    last of two: a zip in the comment of a zip would show other members than other readers see.
    """
    broken = f"{origin}: broken archive"
    end = size - _END_RECORD.size - len(archive.comment)
    record = _read(file, end, _END_RECORD.size)
    if record[:4] != END_MAGIC:
        raise ArchiveError(f"{broken}: more comes after its end record")
    if any(other != end for other in _end_records(file, size)):
        raise ArchiveError(f"{broken}: it has two end records, for one archive within another")
    _, _, _, _, count, table_size, offset, _ = _END_RECORD.unpack(record)
    shift = archive.start_dir - offset  # what lies before the archive: a program
    locator = _read(file, end - _ZIP64_LOCATOR.size, _ZIP64_LOCATOR.size)
    if locator[:4] == b"PK\6\7":
        end -= _ZIP64_LOCATOR.size + _ZIP64_RECORD.size
        values = _ZIP64_RECORD.unpack(_read(file, end, _ZIP64_RECORD.size))
        small = zip((count, table_size, offset), values[-3:], (0xFFFF, _SEE_ZIP64, _SEE_ZIP64),
                    strict=True)  # fmt: skip
        if any(old not in (new, mark) for old, new, mark in small):
            raise ArchiveError(f"{broken}: its two end records contradict each other")
        count, table_size, offset = values[-3:]
        shift = archive.start_dir - offset
        if values[0] != b"PK\6\6" or _ZIP64_LOCATOR.unpack(locator)[2] + shift != end:
            raise ArchiveError(f"{broken}: its zip64 end record is not where it should be")
    found = len(archive.infolist())
    if found != count:
        raise ArchiveError(f"{broken}: {found} of {count} members are in its table")
    if archive.start_dir + table_size != end:
        raise ArchiveError(f"{broken}: its table does not end where its end record begins")


def _end_records(file: _Tail, size: int) -> Iterator[int]:
    """Yield where an end record lies whose comment reaches the end."""
    start = max(0, size - _END_RECORD.size - 0xFFFF)
    tail = _read(file, start, size - start)
    at = tail.find(END_MAGIC)
    while at >= 0 and at + _END_RECORD.size <= len(tail):
        if at + _END_RECORD.size + _END_RECORD.unpack_from(tail, at)[-1] == len(tail):
            yield start + at
        at = tail.find(END_MAGIC, at + 1)


def _read(file: _Tail, start: int, size: int) -> bytes:
    if start < 0:
        return b""
    file.seek(start)
    return file.read(size)


# --- contents -------------------------------------------------------------------------------


def _content(stream: _Forward, info: zipfile.ZipInfo, end: int, origin: str) -> Iterator[bytes]:
    """Go to a member, and return its packed bytes.

    Its own header must say what the table does: one flipped bit in the table is enough to lose a
    member without a word. No byte may be two members' either: the trick of the densest bombs
    (D. Fifield, "A better zip bomb", WOOT 2019).

    Args:
        stream: Read up to the member before it.
        info: Of the table.
        end: Where the next member, or the table, begins.
        origin: The archive's name.
    """
    member = f"{origin}: member {info.orig_filename!r}"
    stream.to(info.header_offset)
    header = stream.exactly(_LOCAL_HEADER.size)
    if info.header_offset < 0 or len(header) < _LOCAL_HEADER.size or header[:4] != b"PK\3\4":
        raise ArchiveError(f"{member} is not where it should be")
    _, _, flags, method, _, _, *numbers, name_size, extra_size = _LOCAL_HEADER.unpack(header)
    name = stream.exactly(name_size).decode("utf-8" if info.flag_bits & _NAME_IS_UTF8 else "cp437")
    if (name, method) != (info.orig_filename, info.compress_type):
        raise ArchiveError(f"{member}: broken archive: its own header calls it {name!r}")
    told = (info.CRC, info.compress_size, info.file_size)
    if not flags & _NUMBERS_COME_LATER and any(
        mine not in {theirs, _SEE_ZIP64} for mine, theirs in zip(numbers, told, strict=True)
    ):
        raise ArchiveError(f"{member}: broken archive: its own header gives another size or CRC")
    begins = info.header_offset + _LOCAL_HEADER.size + name_size + extra_size
    if begins + info.compress_size > end:
        raise ArchiveError(f"{member} overlaps with another")
    stream.exactly(extra_size)
    return _packed(stream, info.compress_size)


def _packed(stream: _Forward, size: int) -> Iterator[bytes]:
    while size:
        block = stream.read(min(BLOCK, size))
        if not block:
            raise EOFError("the member ends early")
        size -= len(block)
        yield block


def _blocks(
    packed: Iterator[bytes], info: zipfile.ZipInfo, budget: Budget, origin: str
) -> Iterator[bytes]:
    """Yield the content of a member, counted, and check its size and its CRC."""
    count = crc = 0
    with reading(f"{origin}: member {info.orig_filename!r}"):
        for block in _unpacked(packed, info):
            budget.size(len(block))
            count += len(block)
            crc = isal_zlib.crc32(block, crc)
            yield block
        if count != info.file_size:
            raise zipfile.BadZipFile(f"{count} of {info.file_size} bytes")
        if crc != info.CRC:
            raise zipfile.BadZipFile("bad CRC")


def _unpacked(packed: Iterator[bytes], info: zipfile.ZipInfo) -> Iterator[bytes]:
    if info.compress_type == zipfile.ZIP_STORED:
        yield from packed
    elif info.compress_type == zipfile.ZIP_DEFLATED:
        yield from _inflated(packed)
    elif info.compress_type == zipfile.ZIP_BZIP2:
        yield from _decompressed(bz2.BZ2Decompressor(), packed)
    else:
        yield from _of_lzma(packed)


def _inflated(packed: Iterator[bytes]) -> Iterator[bytes]:
    """Yield what is deflated; by isal, since zlib takes twice as long."""
    inflater = isal_zlib.decompressobj(-15)
    rest = b""
    while not inflater.eof:
        rest = rest or next(packed, b"")
        if not rest:
            raise EOFError("the member ends early")
        yield inflater.decompress(rest, BLOCK)
        rest = inflater.unconsumed_tail


def _decompressed(
    decompressor: bz2.BZ2Decompressor | lzma.LZMADecompressor, packed: Iterable[bytes]
) -> Iterator[bytes]:
    for block in packed:
        data = block
        while not decompressor.eof:
            yield decompressor.decompress(data, BLOCK)
            data = b""
            if decompressor.needs_input:
                break


def _of_lzma(packed: Iterator[bytes]) -> Iterator[bytes]:
    """Yield what LZMA packed: its properties come first."""
    head = b""
    while len(head) < _LZMA_HEADER.size and (block := next(packed, b"")):
        head += block
    _, size, packing, dictionary = _LZMA_HEADER.unpack_from(head)
    if size != 5 or packing >= 225 or dictionary > MAX_DICTIONARY:
        raise lzma.LZMAError(f"LZMA properties of {size} bytes, a dictionary of {dictionary}")
    rest, position_bits = packing // 9, packing // 45
    options = {
        "id": lzma.FILTER_LZMA1, "dict_size": max(dictionary, 4096),
        "lc": packing % 9, "lp": rest % 5, "pb": position_bits,
    }  # fmt: skip
    decompressor = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[options])
    yield from _decompressed(decompressor, _first(head[_LZMA_HEADER.size :], packed))


def _first(head: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield head
    yield from rest
