"""Zips: members as the stream comes, by the table of contents that is read beforehand.

The table is at the end of a zip. It is taken from there first, and checked; then the archive
comes once, from its first byte to its last, and each member out of it in its turn: nothing of the
archive need touch the disk. zipfile mends names, believes sizes, and holds half a kilobyte for
each member before anybody can count them: the table is read here.
"""

from __future__ import annotations

import bz2
import lzma
import stat
import struct
import zipfile
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING

from isal import isal_zlib

from tasks.fetch import names
from tasks.fetch.archives.limits import BLOCK, Budget, Limits, Member, Source, reading
from tasks.fetch.errors import ArchiveError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import PurePosixPath

MAX_ENTRY = 640
"""Bytes of the table of contents for each member that max_members allows; 110 are usual."""
MAX_DICTIONARY = 2**26
"""Bytes of LZMA's dictionary, which is taken from memory at once."""
SPLIT = "one part of a split zip: join the parts on the host with `zip -s 0 IN.zip --out OUT.zip`"

_DEFLATE64 = 9  # APPNOTE.TXT 4.4.5
_METHODS = {
    zipfile.ZIP_STORED: "stored", zipfile.ZIP_DEFLATED: "deflate",
    zipfile.ZIP_BZIP2: "bzip2", zipfile.ZIP_LZMA: "lzma",
}  # fmt: skip
_LOCAL_HEADER = struct.Struct("<4s5H3L2H")  # APPNOTE.TXT 4.3.7
_ENTRY = struct.Struct("<4s6H3L5H2L")  # 4.3.12
_END_RECORD = struct.Struct("<4s4H2LH")  # 4.3.16
_ZIP64_RECORD = struct.Struct("<4sQ2H2L4Q")  # 4.3.14
_ZIP64_LOCATOR = struct.Struct("<4sLQL")  # 4.3.15
_ZIP64_EXTRA = 1  # 4.5.3
_LZMA_HEADER = struct.Struct("<2sHBL")  # 5.8.8: version, size of the properties, and those
_ENCRYPTED, _NUMBERS_COME_LATER, _NAME_IS_UTF8 = 1, 1 << 3, 1 << 11  # 4.4.4
_SEE_ZIP64 = 0xFFFFFFFF  # 4.4.8
_SPLIT_MAGIC = b"PK\7\10"  # 8.5.3: before the first part
END_MAGIC = b"PK\5\6"


@dataclass(frozen=True, slots=True)
class _Entry:
    """A member as the table of contents has it."""

    name: str
    flags: int
    method: int
    crc: int
    packed_size: int
    size: int
    offset: int
    mode: int

    @property
    def is_folder(self) -> bool:
        return self.name.endswith("/")


@dataclass(frozen=True)
class _End:
    """What the end records say: where the table lies, and how many entries it has.

    Attributes:
        count: Entries.
        table: Where the table begins.
        table_size: Its bytes.
        shift: What lies before the archive, and is in no offset: a program.
    """

    count: int
    table: int
    table_size: int
    shift: int


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
        tail = source.end(source.size - end_size(source.size))
        end = _end(tail, source.size, split=stream.begins(_SPLIT_MAGIC), origin=origin)
        budget.declared(end.count)
        most = 2**20 + MAX_ENTRY * limits.members
        if end.table_size > most:
            raise ArchiveError(
                f"{origin}: its table of contents has {end.table_size} bytes, more than {most} "
                f"({MAX_ENTRY} for each of max_members): set it higher if that is right"
            )
        behind = source.size - end.table
        table = tail if behind <= len(tail) else source.end(end.table)
        entries = []
        for entry in _entries(table, len(table) - behind, end, origin):
            _check(entry, budget, origin, wanted)
            entries.append(entry)
        del tail, table
        entries.sort(key=lambda entry: entry.offset)
        if entries and entries[0].offset and stream.begins(b"PK\3\4"):
            raise ArchiveError(f"{origin}: broken archive: another one lies before it")
        for entry, following in zip_longest(entries, entries[1:]):
            content = _content(stream, entry, following.offset if following else end.table, origin)
            path = names.safe(entry.name, origin)
            if entry.is_folder:
                continue
            if not wanted(path):
                yield None
                continue
            yield Member(path, _blocks(content, entry, budget, origin))


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


# --- the table of contents ------------------------------------------------------------------


def _end(tail: bytes, size: int, *, split: bool, origin: str) -> _End:
    """Read the end records, and require that they can be read in one way only.

    A zip in the comment of a zip would show other members than other readers see.

    Args:
        tail: The archive's last bytes, with the longest comment there may be.
        size: Of the whole.
        split: Whether it begins as the first part of a split zip does.
        origin: Its name.
    """
    broken = f"{origin}: broken archive"
    found = list(_end_records(tail))
    if not found and split:
        raise ArchiveError(f"{origin}: {SPLIT}")
    if not found and END_MAGIC in tail:
        raise ArchiveError(f"{broken}: other data follows its end record, or it is truncated")
    if not found:
        raise ArchiveError(
            f"{broken}: a truncated zip: it ends after {size} bytes without an end record; have it "
            "written again on the host, or, if it is one of several parts, joined there"
        )
    if len(found) > 1:
        raise ArchiveError(f"{broken}: it has two end records, for one archive within another")
    at = found[0]
    end = size - len(tail) + at
    record = _END_RECORD.unpack_from(tail, at)
    disks = {*record[1:3]}
    count, table_size, offset = record[4:7]
    zip64_offset = None
    at -= _ZIP64_LOCATOR.size
    if at >= 0 and tail.startswith(b"PK\6\7", at):
        _, _, zip64_offset, disk_count = _ZIP64_LOCATOR.unpack_from(tail, at)
        at -= _ZIP64_RECORD.size
        end -= _ZIP64_LOCATOR.size + _ZIP64_RECORD.size
        if at < 0 or not tail.startswith(b"PK\6\6", at):
            raise ArchiveError(f"{broken}: its zip64 end record is not where it should be")
        record = _ZIP64_RECORD.unpack_from(tail, at)
        disks = {*record[4:6], *(disks - {0xFFFF}), max(disk_count, 1) - 1}
        small = zip((count, table_size, offset), record[-3:], (0xFFFF, _SEE_ZIP64, _SEE_ZIP64),
                    strict=True)  # fmt: skip
        if any(old not in (new, mark) for old, new, mark in small):
            raise ArchiveError(f"{broken}: its two end records contradict each other")
        count, table_size, offset = record[-3:]
    if disks != {0}:
        raise ArchiveError(f"{origin}: {SPLIT}")
    table = end - table_size
    shift = table - offset
    if table < 0 or shift < 0:
        raise ArchiveError(f"{broken}: its table of contents is not where it should be")
    if zip64_offset is not None and zip64_offset + shift != end:
        raise ArchiveError(f"{broken}: its zip64 end record is not where it should be")
    return _End(count, table, table_size, shift)


def _end_records(tail: bytes) -> Iterator[int]:
    """Yield where an end record lies whose comment reaches the end."""
    at = tail.find(END_MAGIC)
    while at >= 0 and at + _END_RECORD.size <= len(tail):
        if at + _END_RECORD.size + _END_RECORD.unpack_from(tail, at)[-1] == len(tail):
            yield at
        at = tail.find(END_MAGIC, at + 1)


def _entries(data: bytes, at: int, end: _End, origin: str) -> Iterator[_Entry]:
    """Yield the entries of the table, as many as the end record says, and require no more.

    Args:
        data: The table, and what comes behind it.
        at: Where in `data` it begins.
        end: What the end records say.
        origin: The archive's name.
    """
    broken = f"{origin}: broken archive"
    last = at + end.table_size
    for number in range(end.count):
        if at + _ENTRY.size > last:
            raise ArchiveError(f"{broken}: {number} of {end.count} members are in its table")
        (
            magic, _, _, flags, method, _, _, crc, packed_size, size,
            name_size, extra_size, comment_size, _, _, attributes, offset,
        ) = _ENTRY.unpack_from(data, at)  # fmt: skip
        name_at = at + _ENTRY.size
        extra_at = name_at + name_size
        at = extra_at + extra_size + comment_size
        if magic != b"PK\1\2" or at > last:
            raise ArchiveError(f"{broken}: its table of contents is damaged at member {number + 1}")
        name = data[name_at:extra_at].decode("utf-8" if flags & _NAME_IS_UTF8 else "cp437")
        extra = data[extra_at : extra_at + extra_size]
        size, packed_size, offset = _as_zip64([size, packed_size, offset], extra)
        yield _Entry(
            name, flags, method, crc, packed_size, size, offset + end.shift, attributes >> 16
        )
    if at != last:
        raise ArchiveError(f"{broken}: its table has more than the {end.count} members declared")


def _as_zip64(numbers: list[int], extra: bytes) -> list[int]:
    """Take from the zip64 extra field the numbers that have no room in an entry."""
    at = 0
    while at + 4 <= len(extra):
        kind, size = struct.unpack_from("<2H", extra, at)
        at += 4
        if at + size > len(extra):
            raise zipfile.BadZipFile("an extra field is longer than it can be")
        if kind == _ZIP64_EXTRA:
            missing = [place for place, number in enumerate(numbers) if number == _SEE_ZIP64]
            if size < 8 * len(missing):
                raise zipfile.BadZipFile("the zip64 extra field is too short")
            for place, number in zip(
                missing, struct.unpack_from(f"<{len(missing)}Q", extra, at), strict=True
            ):
                numbers[place] = number
            break
        at += size
    return numbers


def _check(
    entry: _Entry, budget: Budget, origin: str, wanted: Callable[[PurePosixPath], bool]
) -> None:
    """Require a safe name of each entry, and of one that is selected a kind that is taken."""
    member = f"{origin}: member {entry.name!r}"
    path = names.safe(entry.name, origin)
    budget.member(path)
    if entry.is_folder:
        if entry.size:
            raise ArchiveError(f"{member} is a folder with content: refused")
        return
    if not wanted(path):
        return
    if stat.S_IFMT(entry.mode) not in {0, stat.S_IFREG, stat.S_IFDIR}:
        kind = "symbolic link" if stat.S_ISLNK(entry.mode) else "special file"
        raise ArchiveError(
            f"{member} is a {kind}: refused; where it is not needed, leave it out by `exclude`"
        )
    if entry.flags & _ENCRYPTED:
        raise ArchiveError(
            f"{member} is encrypted: not supported; SSH keeps it secret on the way, so have it "
            "packed without a password"
        )
    if entry.method not in _METHODS:
        method = "deflate64" if entry.method == _DEFLATE64 else f"{entry.method}"
        known = ", ".join(_METHODS.values())
        raise ArchiveError(f"{member} has compression method {method}: not supported, only {known}")


# --- contents -------------------------------------------------------------------------------


def _content(stream: _Forward, entry: _Entry, end: int, origin: str) -> Iterator[bytes]:
    """Go to a member, and return its packed bytes.

    Its own header must say what the table does: one flipped bit in the table is enough to lose a
    member without a word. No byte may be two members' either: the trick of the densest bombs
    (D. Fifield, "A better zip bomb", WOOT 2019).

    Args:
        stream: Read up to the member before it.
        entry: Of the table.
        end: Where the next member, or the table, begins.
        origin: The archive's name.
    """
    member = f"{origin}: member {entry.name!r}"
    stream.to(entry.offset)
    header = stream.exactly(_LOCAL_HEADER.size)
    if entry.offset < 0 or len(header) < _LOCAL_HEADER.size or header[:4] != b"PK\3\4":
        raise ArchiveError(f"{member} is not where it should be")
    _, _, flags, method, _, _, *numbers, name_size, extra_size = _LOCAL_HEADER.unpack(header)
    name = stream.exactly(name_size).decode("utf-8" if entry.flags & _NAME_IS_UTF8 else "cp437")
    if (name, method) != (entry.name, entry.method):
        raise ArchiveError(f"{member}: broken archive: its own header calls it {name!r}")
    told = (entry.crc, entry.packed_size, entry.size)
    if not flags & _NUMBERS_COME_LATER and any(
        mine not in {theirs, _SEE_ZIP64} for mine, theirs in zip(numbers, told, strict=True)
    ):
        raise ArchiveError(f"{member}: broken archive: its own header gives another size or CRC")
    begins = entry.offset + _LOCAL_HEADER.size + name_size + extra_size
    if begins + entry.packed_size > end:
        raise ArchiveError(f"{member} overlaps with another")
    stream.exactly(extra_size)
    return _packed(stream, entry.packed_size)


def _packed(stream: _Forward, size: int) -> Iterator[bytes]:
    while size:
        block = stream.read(min(BLOCK, size))
        if not block:
            raise EOFError("the member ends early")
        size -= len(block)
        yield block


def _blocks(packed: Iterator[bytes], entry: _Entry, budget: Budget, origin: str) -> Iterator[bytes]:
    """Yield the content of a member, counted, and check its size and its CRC."""
    count = crc = 0
    member = f"{origin}: member {entry.name!r}"
    with reading(member):
        for block in _unpacked(packed, entry.method, member):
            budget.size(len(block))
            count += len(block)
            crc = isal_zlib.crc32(block, crc)
            yield block
        if count != entry.size:
            raise zipfile.BadZipFile(f"{count} of {entry.size} bytes")
        if crc != entry.crc:
            raise zipfile.BadZipFile("bad CRC")


def _unpacked(packed: Iterator[bytes], method: int, member: str) -> Iterator[bytes]:
    if method == zipfile.ZIP_STORED:
        yield from packed
    elif method == zipfile.ZIP_DEFLATED:
        yield from _inflated(packed)
    elif method == zipfile.ZIP_BZIP2:
        yield from _decompressed(bz2.BZ2Decompressor(), packed)
    else:
        yield from _of_lzma(packed, member)


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


def _of_lzma(packed: Iterator[bytes], member: str) -> Iterator[bytes]:
    """Yield what LZMA packed: its properties come first."""
    head = b""
    while len(head) < _LZMA_HEADER.size and (block := next(packed, b"")):
        head += block
    _, size, packing, dictionary = _LZMA_HEADER.unpack_from(head)
    if size != 5 or packing >= 225:
        raise lzma.LZMAError(f"LZMA properties of {size} bytes")
    if dictionary > MAX_DICTIONARY:
        raise ArchiveError(
            f"{member}: its LZMA dictionary of {dictionary} bytes is above the limit of "
            f"{MAX_DICTIONARY}: have it packed with a smaller one"
        )
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
