"""Read the members of an archive of any registered format."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from tasks.fetch.archives import registry
from tasks.fetch.archives.compression import Decompressed
from tasks.fetch.archives.extraction import Extraction
from tasks.fetch.archives.format import HEAD_BYTES, Member
from tasks.fetch.archives.stream import Stream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tasks.fetch.archives.extraction import Limits
    from tasks.fetch.archives.format import Format, Input

_UNSUPPORTED = {
    b"Rar!": "a RAR archive", b"7z\xbc\xaf": "a 7z archive", b"\x1f\x9d": "a file of compress",
    b"LZIP": "an lzip file", b"\x04\x22\x4d\x18": "an LZ4 file",
    b"\x02\x21\x4c\x18": "an LZ4 file of the legacy format", b"\x89LZO": "an lzop file",
    b"MSCF": "a cabinet", b"<": "a web page or XML", b"{": "JSON", b"%PDF": "a PDF",
}  # fmt: skip


def members(
    source: Input, limits: Limits, name: str, wants: Callable[[str], bool]
) -> Iterator[Member | None]:
    """Yield the members of an archive as its bytes arrive.

    A compressed file that contains no archive is its own single member: `events.csv` of
    `events.csv.gz`.

    Args:
        source: The archive's bytes. The caller reads what remains at the end.
        limits: What it may contain.
        name: The archive's name, for errors, and for that of a single file.
        wants: Whether a member is selected; for each other file None is yielded.

    Raises:
        ArchiveError: It is broken, unsafe to extract, or of no known format.
    """
    extraction = Extraction(source, limits, name, wants)
    stream = Stream(extraction.read)
    extraction.follow(stream)
    head = stream.peek(HEAD_BYTES)
    if not head:
        raise extraction.error("the file is empty", advice="have the host write it again")
    for compression in registry.COMPRESSIONS:
        if head.startswith(compression.magic):
            with stream.reading_ahead(source.size):
                with extraction.library_errors():
                    content = Stream(Decompressed(stream, compression, extraction).read)
                    extraction.follow(content)
                    inner = registry.compressed_format(content.peek(HEAD_BYTES), name)
                yield from (inner.members if inner else _single_file)(content, extraction)
            return
    yield from _format_of(head, extraction).members(stream, extraction)


def _format_of(head: bytes, extraction: Extraction) -> Format:
    name, source = extraction.name, extraction.input
    for entry in registry.FORMATS:
        if entry.detect(head):
            return entry
    looks_like = next((kind for magic, kind in _UNSUPPORTED.items() if head.startswith(magic)), "")
    for entry in registry.FORMATS:
        if entry.names.search(name) and not looks_like:
            return entry
    for entry in registry.FORMATS:
        if entry.tail_bytes and entry.detect_tail:
            tail = source.end(source.size - entry.tail_bytes(source.size))
            if entry.detect_tail(tail):
                return entry
    reason = f"it looks like {looks_like}" if looks_like else "its content is of no known format"
    raise extraction.error(
        f"not an archive: {reason}",
        advice=f"have it packed in a format that is supported: {registry.supported()}",
    )


def _single_file(content: Stream, extraction: Extraction) -> Iterator[Member | None]:
    """Yield the one file that was compressed, named as the archive without its suffix."""
    path = extraction.path(registry.stem(PurePosixPath(extraction.name).name))
    with content.reading_ahead(extraction.input.size):
        blocks = _counted(content, extraction)
        yield Member(path, blocks) if extraction.wants(path) else None
        for _ in blocks:  # also of a file that is not selected the checksum is verified
            pass


def _counted(content: Stream, extraction: Extraction) -> Iterator[bytes]:
    with extraction.library_errors():
        while block := content.read():
            extraction.add_bytes(len(block))
            yield block
