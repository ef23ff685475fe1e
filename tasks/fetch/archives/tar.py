"""Tars: members as the stream comes, and nothing that a dataset does not need.

tarfile's own filters were bypassed again and again (CVE-2024-12718, CVE-2025-4138, -4330, -4435,
-4517), and bound no size: each member is judged here.
"""

from __future__ import annotations

import contextlib
import tarfile
from functools import partial
from typing import IO, TYPE_CHECKING, Any, Self, cast

from tasks.fetch import names
from tasks.fetch.archives.limits import BLOCK, Budget, Limits, Member, Source, reading
from tasks.fetch.errors import ArchiveError
from tasks.fetch.threads import ReadAhead

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import PurePosixPath

BLOCKS_AHEAD = 8
"""Blocks that may wait between unpacking a stream and taking a tar apart."""
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


def is_tar(head: bytes) -> bool:
    """Whether a stream begins as a tar does: with a header whose checksum fits, or its end."""
    block = head[: tarfile.BLOCKSIZE]
    if len(block) < tarfile.BLOCKSIZE:
        return False
    if not block.strip(b"\0"):
        return True
    try:
        return tarfile.nti(block[148:156]) in tarfile.calc_chksums(block)  # type: ignore[attr-defined]
    except tarfile.HeaderError:
        return False


def members(
    unpacked: Any,
    source: Source,
    limits: Limits,
    origin: str,
    wanted: Callable[[PurePosixPath], bool],
) -> Iterator[Member | None]:
    """Yield the members of a tar as the stream comes.

    Args:
        unpacked: A file of the tar's bytes, out of its packing; read to their end, so that a
            checksum behind the last member is checked too.
        source: What it is unpacked from.
        limits: What it may hold.
        origin: Its name, for errors.
        wanted: Which members to give; for the others None is given, once each.

    Raises:
        ArchiveError: It is broken, or not safe to unpack.
    """
    with reading(origin), contextlib.ExitStack() as stack:
        budget = Budget(limits, origin, lambda: source.count)
        ahead = ReadAhead(partial(unpacked.read, BLOCK), BLOCKS_AHEAD)
        stack.callback(ahead.close)
        counted = _Counted(ahead, budget)
        info_class = type("_Info", (_StrictInfo,), {"stream": counted})
        with tarfile.open(
            fileobj=cast("IO[bytes]", counted), mode="r|", bufsize=BLOCK, tarinfo=info_class
        ) as archive:
            while (info := archive.next()) is not None:
                cast("Any", archive).members = []  # it would remember every member of a stream
                path = names.safe(info.name + ("/" if info.isdir() else ""), origin)
                counted.budget.member(path)
                if info.isdir():
                    continue
                if not wanted(path):
                    yield None
                    continue
                if not info.isreg():
                    raise ArchiveError(
                        f"{origin}: member {info.name!r} is a {_kind(info)}: refused; where it is "
                        "not needed, leave it out by `exclude`"
                    )
                content = archive.extractfile(info)
                if content is None:
                    raise ArchiveError(f"{origin}: member {info.name!r} has no content")
                with content:
                    yield Member(path, _tar_blocks(content, info, counted.budget, origin))
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
    content: IO[bytes], info: tarfile.TarInfo, budget: Budget, origin: str
) -> Iterator[bytes]:
    count = 0
    with reading(f"{origin}: member {info.name!r}"):
        while block := content.read(BLOCK):
            count += len(block)
            if info.issparse():  # its holes are nowhere in the stream
                budget.size(len(block))
            yield block
    if count != info.size:
        raise ArchiveError(f"{origin}: member {info.name!r}: {count} of {info.size} bytes")


class _Counted:
    """A stream whose bytes count against the budget."""

    def __init__(self, stream: Any, budget: Budget) -> None:
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
