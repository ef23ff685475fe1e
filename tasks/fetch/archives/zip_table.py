"""The table of contents at the end of a zip."""

from __future__ import annotations

import struct
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tasks.fetch.archives.extraction import Extraction

MAX_ENTRY_BYTES = 640
"""Size of the table per member that max_members allows; 110 are usual."""
END_MAGIC = b"PK\5\6"
SEE_ZIP64 = 0xFFFFFFFF  # APPNOTE.TXT 4.4.8
SPLIT = "one part of a split zip"
_JOIN = "join the parts on the host with `zip -s 0 IN.zip --out OUT.zip`"

_ENTRY = struct.Struct("<4s6H3L5H2L")  # 4.3.12
_END_RECORD = struct.Struct("<4s4H2LH")  # 4.3.16
_ZIP64_RECORD = struct.Struct("<4sQ2H2L4Q")  # 4.3.14
_ZIP64_LOCATOR = struct.Struct("<4sLQL")  # 4.3.15
_ZIP64_EXTRA = 1  # 4.5.3
_NAME_IS_UTF8 = 1 << 11  # 4.4.4


class Entry(Struct, frozen=True, gc=False):
    """A member, by the table of contents."""

    name: str
    flags: int
    method: int
    crc: int
    compressed_size: int
    size: int
    offset: int
    mode: int

    @property
    def is_folder(self) -> bool:
        """Whether it is a directory."""
        return self.name.endswith("/")


@dataclass(frozen=True)
class _End:
    """The table of contents, by the end records."""

    count: int
    start: int
    size: int
    shift: int  # bytes before the archive that its offsets do not include: a program


def tail_bytes(size: int) -> int:
    """Return how many bytes of a zip's end to read first, by its size.

    That is the end record with the longest comment (64 KiB), and mostly the whole table of
    contents before it: a hundred bytes per member.
    """
    return min(size, 2**16 + 2**10 + min(size // 64, 2**20))


def decoded(name: bytes, flags: int) -> str:
    """Decode a member's name."""
    if name.isascii():
        return name.decode("ascii")
    return name.decode("utf-8" if flags & _NAME_IS_UTF8 else "cp437")


def read(extraction: Extraction, *, split: bool) -> tuple[int, Iterator[Entry]]:
    """Return where the table of contents begins, and its entries.

    Args:
        extraction: Of the archive.
        split: Whether it begins, or is named, as a part of a split zip.

    Raises:
        ArchiveError: The table is damaged, ambiguous or too large.
    """
    size = extraction.input.size
    tail = extraction.input.end(size - tail_bytes(size))
    end = _read_end(tail, extraction, split=split)
    extraction.check_count(end.count)
    most = 2**20 + MAX_ENTRY_BYTES * extraction.limits.max_members
    if end.size > most:
        raise extraction.error(
            f"its table of contents has {end.size} bytes, more than {most} ({MAX_ENTRY_BYTES} for "
            "each of max_members)",
            advice="if you trust the archive, raise max_members",
        )
    from_table = size - end.start
    data = tail if from_table <= len(tail) else extraction.input.end(end.start)
    return end.start, _entries(data, len(data) - from_table, end, extraction)


def _read_end(tail: bytes, extraction: Extraction, *, split: bool) -> _End:
    """Read the end records, and require that they can be read in one way only.

    A zip in the comment of a zip would show other members than other programs see.
    """
    size = extraction.input.size
    found = list(_end_records(tail))
    if not found and split:
        raise extraction.error(SPLIT, advice=_JOIN)
    if not found and END_MAGIC in tail:
        raise extraction.broken("other data follows its end record, or it is truncated")
    if not found:
        raise extraction.broken(
            f"a truncated zip: it ends after {size} bytes without an end record, or it is one of "
            "several parts"
        )
    if len(found) > 1:
        raise extraction.broken("it has two end records, of one archive within another")
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
            raise extraction.broken("its zip64 end record is not where it should be")
        record = _ZIP64_RECORD.unpack_from(tail, at)
        disks = {*record[4:6], *(disks - {0xFFFF}), max(disk_count, 1) - 1}
        small = zip((count, table_size, offset), record[-3:], (0xFFFF, SEE_ZIP64, SEE_ZIP64),
                    strict=True)  # fmt: skip
        if any(old not in (new, mark) for old, new, mark in small):
            raise extraction.broken("its two end records contradict each other")
        count, table_size, offset = record[-3:]
    if disks != {0}:
        raise extraction.error(SPLIT, advice=_JOIN)
    start = end - table_size
    shift = start - offset
    if start < 0 or shift < 0:
        raise extraction.broken("its table of contents is not where it should be")
    if zip64_offset is not None and zip64_offset + shift != end:
        raise extraction.broken("its zip64 end record is not where it should be")
    return _End(count, start, table_size, shift)


def _end_records(tail: bytes) -> Iterator[int]:
    """Yield the positions of end records whose comment reaches the end."""
    at = tail.find(END_MAGIC)
    while at >= 0 and at + _END_RECORD.size <= len(tail):
        if at + _END_RECORD.size + _END_RECORD.unpack_from(tail, at)[-1] == len(tail):
            yield at
        at = tail.find(END_MAGIC, at + 1)


def _entries(data: bytes, at: int, end: _End, extraction: Extraction) -> Iterator[Entry]:
    """Yield the entries from position `at` on, and require as many as the end record says."""
    last = at + end.size
    for number in range(end.count):
        if at + _ENTRY.size > last:
            raise extraction.broken(f"{number} of {end.count} members are in its table of contents")
        (
            magic, _, _, flags, method, _, _, crc, compressed_size, size,
            name_size, extra_size, comment_size, _, _, attributes, offset,
        ) = _ENTRY.unpack_from(data, at)  # fmt: skip
        name_at = at + _ENTRY.size
        extra_at = name_at + name_size
        at = extra_at + extra_size + comment_size
        if magic != b"PK\1\2" or at > last:
            raise extraction.broken(
                f"its table of contents is damaged at member {number + 1}, byte {end.start + at}"
            )
        name = decoded(data[name_at:extra_at], flags)
        if extra_size:
            extra = data[extra_at : extra_at + extra_size]
            size, compressed_size, offset = _with_zip64([size, compressed_size, offset], extra)
        yield Entry(
            name, flags, method, crc, compressed_size, size, offset + end.shift, attributes >> 16
        )
    if at != last:
        raise extraction.broken(
            f"its table of contents has more than the {end.count} members declared"
        )


def _with_zip64(numbers: list[int], extra: bytes) -> list[int]:
    """Replace the numbers that do not fit into an entry by those of its zip64 extra field."""
    at = 0
    while at + 4 <= len(extra):
        kind, size = struct.unpack_from("<2H", extra, at)
        at += 4
        if at + size > len(extra):
            raise zipfile.BadZipFile("an extra field is longer than it can be")
        if kind == _ZIP64_EXTRA:
            missing = [place for place, number in enumerate(numbers) if number == SEE_ZIP64]
            if size < 8 * len(missing):
                raise zipfile.BadZipFile("the zip64 extra field is too short")
            values = struct.unpack_from(f"<{len(missing)}Q", extra, at)
            for place, value in zip(missing, values, strict=True):
                numbers[place] = value
            break
        at += size
    return numbers
