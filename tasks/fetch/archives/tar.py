"""Tar: members as the stream arrives.

tarfile's own filters were bypassed again and again (CVE-2024-12718, CVE-2025-4138, -4330, -4435,
-4517) and limit no size: each member is checked here.
"""

from __future__ import annotations

import contextlib
import re
import tarfile
from typing import IO, TYPE_CHECKING, Any, Self, cast

from tasks.fetch.archives.format import Format, Member
from tasks.fetch.archives.stream import BLOCK_BYTES, Stream

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tasks.fetch.archives.extraction import Extraction

MAX_EXTENDED_HEADER_BYTES = 2**16
"""Size of one PAX or GNU header. tarfile takes quadratic time over it before Python 3.11.10
(CVE-2024-6232): 64 KiB keep it busy for seconds, 1 MiB for most of an hour."""
MAX_HEADERS_BYTES = 2**20
"""Size of all headers before one member's content: tarfile keeps the map of a sparse file in
memory, and sets no limit."""
_EXTENDED = {
    tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK,
}  # fmt: skip


def detect(head: bytes) -> bool:
    """Whether a stream begins with a header whose checksum is right, or with an end marker."""
    block = head[: tarfile.BLOCKSIZE]
    if len(block) < tarfile.BLOCKSIZE:
        return False
    if not block.strip(b"\0"):
        return True
    try:
        return tarfile.nti(block[148:156]) in tarfile.calc_chksums(block)  # type: ignore[attr-defined]  # not in typeshed
    except tarfile.HeaderError:
        return False


def members(stream: Stream, extraction: Extraction) -> Iterator[Member | None]:
    """Yield the members; the stream is read to its end, also for a checksum after the last one.

    Raises:
        ArchiveError: The archive is broken or unsafe to extract.
    """
    with extraction.library_errors(), stream.reading_ahead(extraction.input.size):
        file = _ForwardFile(stream, extraction)
        info_class = type("_Info", (_StrictInfo,), {"stream": file})
        with tarfile.TarFile(fileobj=cast("IO[bytes]", file), tarinfo=info_class) as archive:
            while (info := archive.next()) is not None:
                cast("Any", archive).members = []  # it would remember every member of a stream
                path = extraction.path(info.name + ("/" if info.isdir() else ""))
                if info.isdir():
                    continue
                if not extraction.wants(path):
                    yield None
                    continue
                if not info.isreg():
                    raise extraction.error(
                        f"{_kind(info)}, which is not extracted",
                        info.name,
                        "if you do not need it, leave it out with `exclude`",
                    )
                extraction.member_offset = info.offset
                content = archive.extractfile(info) if info.issparse() else None
                yield Member(path, _blocks(file, content, info, extraction))
            _require_padding(file, extraction)


FORMAT = Format(
    "tar",
    (".tar",),
    detect,
    members,
    compressible=True,
    names=re.compile(r"\.tar$", re.IGNORECASE),
)


class _StrictInfo(tarfile.TarInfo):
    """A header that must be valid: tarfile takes a damaged one after the first for the end."""

    stream: _ForwardFile  # set in a subclass for each archive

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Self:
        try:
            with cls.stream.limited_headers():
                info = super().fromtarfile(archive)
        except tarfile.HeaderError as error:
            if str(error) == "end of file header":  # a block of zeros: the end marker
                raise
            raise tarfile.ReadError(f"{error} where a member should begin") from error
        if info.size < 0:  # tarfile would seek back to the first header
            raise tarfile.ReadError(f"a member of {info.size} bytes")
        return info

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        info = super().frombuf(buf, encoding, errors)
        if info.type in _EXTENDED and not 0 <= info.size <= MAX_EXTENDED_HEADER_BYTES:
            raise tarfile.ReadError(f"an extended header of {info.size} bytes")
        return info


class _ForwardFile:
    """A stream as a file that is read forwards only, and whose bytes the extraction counts.

    tarfile's own mode for streams copies all content four times.
    """

    def __init__(self, stream: Stream, extraction: Extraction) -> None:
        self._stream = stream
        self._extraction = extraction
        self._header_bytes: int | None = None

    def tell(self) -> int:
        return self._stream.offset

    def seek(self, offset: int) -> None:
        if offset < self._stream.offset:
            raise tarfile.StreamError(f"byte {offset} was read before")
        while self._stream.offset < offset and self.block(offset - self._stream.offset):
            pass

    def read(self, size: int) -> bytes:
        data = self._stream.exactly(size)
        self._extraction.add_bytes(len(data))
        if self._header_bytes is not None:
            self._header_bytes += len(data)
            if self._header_bytes > MAX_HEADERS_BYTES:
                raise tarfile.ReadError(f"more than {MAX_HEADERS_BYTES} bytes of headers")
        return data

    def block(self, size: int = BLOCK_BYTES) -> bytes:
        """Return at most `size` bytes, b"" at the end."""
        block = self._stream.read(min(size, BLOCK_BYTES))
        self._extraction.add_bytes(len(block))
        return block

    @contextlib.contextmanager
    def limited_headers(self) -> Iterator[None]:
        """Limit what the block reads; headers before a header count as its own."""
        outer = self._header_bytes
        self._header_bytes = outer or 0
        try:
            yield
        finally:
            self._header_bytes = outer


def _require_padding(rest: _ForwardFile, extraction: Extraction) -> None:
    """Read the stream to its end, so that its checksum is verified; only zeros may follow."""
    while block := rest.block():
        if block.strip(b"\0"):
            raise extraction.broken("other data follows the end marker")


def _kind(info: tarfile.TarInfo) -> str:
    kinds = {
        "a symbolic link": info.issym(), "a hard link": info.islnk(),
        "a device": info.ischr() or info.isblk(), "a FIFO": info.isfifo(),
    }  # fmt: skip
    return next((kind for kind, it_is in kinds.items() if it_is), f"a file of type {info.type!r}")


def _blocks(
    file: _ForwardFile, sparse: IO[bytes] | None, info: tarfile.TarInfo, extraction: Extraction
) -> Iterator[bytes]:
    """Yield the content of a member, which is read from `sparse` if it is a sparse file."""
    count = 0
    with extraction.library_errors(info.name):
        if sparse is None:
            file.seek(info.offset_data)
        while left := info.size - count:
            block = sparse.read(min(left, BLOCK_BYTES)) if sparse else file.block(left)
            if not block:
                break
            count += len(block)
            if sparse:  # its holes are not in the stream, where bytes are counted
                extraction.add_bytes(len(block))
            yield block
    if count != info.size:
        raise extraction.broken(f"{count} of {info.size} bytes", info.name)
