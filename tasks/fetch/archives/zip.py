"""Zip: members as the stream arrives, checked against the table of contents, which is read first.

The table is at the end of a zip. It is read from there, and checked; then the archive is read once,
from the first byte to the last, and each member extracted on the way: the archive itself need not
touch the disk. zipfile is not used: it repairs names, believes declared sizes, and allocates half a
kilobyte per member before anyone can count them.
"""

from __future__ import annotations

import bz2
import lzma
import re
import stat
import struct
import zipfile
from itertools import chain
from typing import TYPE_CHECKING

from isal import isal_zlib

from tasks.fetch.archives import zip_table
from tasks.fetch.archives.format import Format, Member
from tasks.fetch.archives.stream import BLOCK_BYTES, Stream
from tasks.fetch.archives.zip_table import SEE_ZIP64, Entry

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tasks.fetch.archives.extraction import Extraction

MAX_DICTIONARY_BYTES = 2**26
"""Size of LZMA's dictionary, which is allocated at once."""

_MAGIC = (b"PK\3\4", b"PK\5\6", b"PK\7\10")  # APPNOTE.TXT 4.3.6: members, none, split over disks
_SPLIT_MAGIC = b"PK\7\10"  # 8.5.3: before the first part
_DEFLATE64 = 9  # 4.4.5
_METHODS = {
    zipfile.ZIP_STORED: "stored", zipfile.ZIP_DEFLATED: "deflate",
    zipfile.ZIP_BZIP2: "bzip2", zipfile.ZIP_LZMA: "lzma",
}  # fmt: skip
_LOCAL_HEADER = struct.Struct("<4s5H3L2H")  # 4.3.7
_LZMA_HEADER = struct.Struct("<2sHBL")  # 5.8.8: version, size of the properties, and those
_ENCRYPTED, _SIZES_FOLLOW_DATA = 1, 1 << 3  # 4.4.4
_PART_NAME = re.compile(r"\.z\d\d+$", re.IGNORECASE)
_FILE_KINDS = {0, stat.S_IFREG, stat.S_IFDIR}
_SMALL_BYTES = 2**16
"""A deflated member up to this size is extracted in one step, without generators."""


def members(stream: Stream, extraction: Extraction) -> Iterator[Member | None]:
    """Yield the members in the order of their data.

    All names and kinds are checked before the first member is yielded.

    Raises:
        ArchiveError: The archive is broken or unsafe to extract.
    """
    # The table has all sizes: the ratio can refer to the whole archive from the start.
    extraction.compressed_bytes = lambda: extraction.input.size
    with extraction.library_errors():
        split = stream.peek(4).startswith(_SPLIT_MAGIC) or bool(_PART_NAME.search(extraction.name))
        table_start, table = zip_table.read(extraction, split=split)
        # One by one: the first that is refused ends it.
        entries = [(entry, _checked_path(entry, extraction)) for entry in table]
        entries.sort(key=lambda found: found[0].offset)
        if entries and entries[0][0].offset and stream.peek(4).startswith(b"PK\3\4"):
            raise extraction.broken("another archive precedes it")
        ends = [entry.offset for entry, _ in entries[1:]]
        with stream.reading_ahead(extraction.input.size):
            for (entry, path), end in zip(entries, [*ends, table_start], strict=False):
                _go_to_data(stream, entry, end, extraction)
                if path:
                    yield Member(path, _blocks(stream, entry, extraction))
                elif not entry.is_folder:
                    yield None
            while stream.read():  # the table, which is part of the archive's checksum
                pass


FORMAT = Format(
    "zip",
    (".zip",),
    lambda head: head.startswith(_MAGIC),
    members,
    tail_bytes=zip_table.tail_bytes,
    detect_tail=lambda tail: zip_table.END_MAGIC in tail,  # a program may precede the archive
    names=_PART_NAME,
)


def _checked_path(entry: Entry, extraction: Extraction) -> str:
    """Return the path of an entry that is selected; an empty text of each other one.

    Each must have a safe name, and those that are selected a supported kind.
    """
    path = extraction.path(entry.name)
    if entry.is_folder:
        if entry.size:
            raise extraction.error("a folder with content, which is refused", entry.name)
        return ""
    if not extraction.wants(path):
        return ""
    if stat.S_IFMT(entry.mode) not in _FILE_KINDS:
        kind = "symbolic link" if stat.S_ISLNK(entry.mode) else "special file"
        raise extraction.error(
            f"a {kind}, which is not extracted",
            entry.name,
            "if you do not need it, leave it out with `exclude`",
        )
    if entry.flags & _ENCRYPTED:
        raise extraction.error(
            "encrypted, which is not supported",
            entry.name,
            "have the zip written without a password; SSH encrypts the transfer",
        )
    if entry.method not in _METHODS:
        method = "deflate64" if entry.method == _DEFLATE64 else f"{entry.method}"
        known = ", ".join(_METHODS.values())
        raise extraction.error(
            f"compression method {method} is not supported",
            entry.name,
            f"have the zip written with one of {known}",
        )
    return path


def _go_to_data(stream: Stream, entry: Entry, end: int, extraction: Extraction) -> None:
    """Read up to a member's data.

    Its own header must agree with the table: one flipped bit in the table is enough to lose a
    member unnoticed. No byte may belong to two members either: the trick of the densest bombs
    (D. Fifield, "A better zip bomb", WOOT 2019): `end` is where the next one, or the table, begins.
    """
    extraction.member_offset = entry.offset
    stream.skip_to(entry.offset)
    header = stream.exactly(_LOCAL_HEADER.size)
    if entry.offset < 0 or len(header) < _LOCAL_HEADER.size or header[:4] != b"PK\3\4":
        raise extraction.broken("it is not where the table of contents says", entry.name)
    _, _, flags, method, _, _, crc, compressed_size, size, name_size, extra_size = (
        _LOCAL_HEADER.unpack(header)
    )
    name = zip_table.decoded(stream.exactly(name_size), entry.flags)
    if name != entry.name or method != entry.method:
        raise extraction.broken(f"its own header names {name!r}, method {method}", entry.name)
    sizes = (crc, compressed_size, size)
    expected = (entry.crc, entry.compressed_size, entry.size)
    if (
        sizes != expected
        and not flags & _SIZES_FOLLOW_DATA
        and any(own not in {other, SEE_ZIP64} for own, other in zip(sizes, expected, strict=True))
    ):
        raise extraction.broken("its own header has another size or CRC", entry.name)
    start = entry.offset + _LOCAL_HEADER.size + name_size + extra_size
    if start + entry.compressed_size > end:
        raise extraction.broken("it overlaps with another member", entry.name)
    if extra_size:
        stream.exactly(extra_size)


def _read(stream: Stream, size: int) -> Iterator[bytes]:
    while size:
        block = stream.read(min(BLOCK_BYTES, size))
        if not block:
            raise EOFError("the member ends early")
        size -= len(block)
        yield block


def _blocks(stream: Stream, entry: Entry, extraction: Extraction) -> Iterable[bytes]:
    """Return the content of a member, counted, and verify its size and CRC.

    That of a small one is extracted at once.
    """
    size = entry.compressed_size
    if max(size, entry.size) > _SMALL_BYTES or entry.method != zipfile.ZIP_DEFLATED:
        return _checked(_read(stream, size), entry, extraction)
    compressed = stream.exactly(size)
    inflater = isal_zlib.decompressobj(-15)
    try:
        content = inflater.decompress(compressed, entry.size + 1)
    except Exception:  # as in `_checked`
        with extraction.library_errors(entry.name):
            raise
    if inflater.eof and len(content) == entry.size and isal_zlib.crc32(content) == entry.crc:
        extraction.add_bytes(len(content))
        return (content,)
    return _checked(iter([compressed]), entry, extraction)  # raises what is wrong


def _checked(compressed: Iterator[bytes], entry: Entry, extraction: Extraction) -> Iterator[bytes]:
    count = crc = 0
    try:
        for block in _decompressed(compressed, entry, extraction):
            extraction.add_bytes(len(block))
            count += len(block)
            crc = isal_zlib.crc32(block, crc)
            yield block
    except Exception:  # entered only now: it takes longer than to extract a small member
        with extraction.library_errors(entry.name):
            raise
    if count != entry.size:
        raise extraction.broken(f"{count} of {entry.size} bytes", entry.name)
    if crc != entry.crc:
        raise extraction.broken("bad CRC", entry.name)


def _decompressed(
    compressed: Iterator[bytes], entry: Entry, extraction: Extraction
) -> Iterator[bytes]:
    if entry.method == zipfile.ZIP_STORED:
        return compressed
    if entry.method == zipfile.ZIP_DEFLATED:
        return _inflated(compressed)
    if entry.method == zipfile.ZIP_BZIP2:
        return _all_of(bz2.BZ2Decompressor(), compressed)
    return _of_lzma(compressed, entry, extraction)


def _inflated(compressed: Iterator[bytes]) -> Iterator[bytes]:
    """Decompress deflate with isal, which is more than twice as fast as zlib."""
    inflater = isal_zlib.decompressobj(-15)
    unread = b""
    while not inflater.eof:
        unread = unread or next(compressed, b"")
        if not unread:
            raise EOFError("the member ends early")
        yield inflater.decompress(unread, BLOCK_BYTES)
        unread = inflater.unconsumed_tail


def _all_of(
    decompressor: bz2.BZ2Decompressor | lzma.LZMADecompressor, compressed: Iterable[bytes]
) -> Iterator[bytes]:
    for block in compressed:
        data = block
        while not decompressor.eof:
            yield decompressor.decompress(data, BLOCK_BYTES)
            data = b""
            if decompressor.needs_input:
                break


def _of_lzma(compressed: Iterator[bytes], entry: Entry, extraction: Extraction) -> Iterator[bytes]:
    """Decompress LZMA: its properties precede the data."""
    head = b""
    while len(head) < _LZMA_HEADER.size and (block := next(compressed, b"")):
        head += block
    _, size, properties, dictionary = _LZMA_HEADER.unpack_from(head)
    if size != 5 or properties >= 225:
        raise lzma.LZMAError(f"LZMA properties of {size} bytes")
    if dictionary > MAX_DICTIONARY_BYTES:
        raise extraction.error(
            f"its LZMA dictionary of {dictionary} bytes is above the limit of "
            f"{MAX_DICTIONARY_BYTES}",
            entry.name,
            "have the zip written with a smaller one",
        )
    options = {
        "id": lzma.FILTER_LZMA1, "dict_size": max(dictionary, 4096),
        "lc": properties % 9, "lp": properties // 9 % 5, "pb": properties // 45,
    }  # fmt: skip
    decompressor = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[options])
    yield from _all_of(decompressor, chain([head[_LZMA_HEADER.size :]], compressed))
