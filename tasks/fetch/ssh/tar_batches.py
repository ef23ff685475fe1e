"""Tar batches: many small files in one answer, which the host's tar writes.

SFTP takes four requests for each file: of a small one they cost more than its bytes. A batch is
used whole or not at all: where tar reports any fault, or a header differs from the listing, the
files of the batch are read by SFTP, which says what is wrong with which file.
"""

from __future__ import annotations

import logging
import struct
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from typing import Final

import paramiko

from tasks.fetch.errors import NetworkError, printable
from tasks.fetch.ssh import checksums, commands
from tasks.fetch.ssh.errors import SessionRefusedError
from tasks.fetch.ssh.link import Link
from tasks.fetch.ssh.remote_files import RemoteFile
from tasks.fetch.ssh.sftp_packets import encoded
from tasks.fetch.ssh.sftp_reader import FAR_S

log = logging.getLogger(__name__)

COMMAND: Final = (
    "tar --create --file=- --format=gnu --blocking-factor=64 --absolute-names --no-recursion "
    "--hard-dereference --null --files-from=-"
)
"""GNU tar; another one ends with an error. It reads names as `checksums.COMMANDS` do."""
SMALL_BYTES: Final = 2**16
"""Larger files are read by SFTP: their bytes cost more than their requests."""
MIN_FILES: Final = 256
"""Fewer are read by SFTP before a command has started."""
BATCH_BYTES: Final = 2**22
"""Bytes of the archive of a batch, at most: the names fit into the window of a channel."""
AHEAD, FAR_AHEAD = 1, 2
"""Batches on their way while one is written; more where a round trip takes longer."""
FAULTS: Final = 3
"""Batches that may fail before tar is used no longer; the first batch of all must not."""
BLOCK: Final = 512
HEADER: Final = struct.Struct("100s24x11sx11s9xc")
"""Of a header: name, size, mtime, type."""
REGULAR: Final = {b"0", b"\0"}
LONG_NAME: Final = b"L"
SHORT_NAME_BYTES: Final = 100
"""Bytes of a name at most that is not in a record of its own."""
END_BYTES: Final = 66 * BLOCK
"""Bytes of the end of an archive, at most."""


class _UnusableError(Exception):
    """An archive is not what was asked for."""


@dataclass
class _Batch:
    """The files from position `start` to `end`, and the archive of them that is on its way."""

    start: int
    end: int
    max_bytes: int
    archive: Future[bytes | bytearray] = field(default_factory=Future)
    transport: paramiko.Transport | None = None  # that it comes from


class TarBatches:
    """The batches of a download.

    Args:
        link: To the host.
        files: All files of the download, and the byte of each at which to start.
    """

    def __init__(self, link: Link, files: Sequence[tuple[RemoteFile, int]]) -> None:
        self._link = link
        self._files = files
        settings = link.settings
        possible = settings.exec == "auto" and not settings.max_rate and self._is_usable()
        self._batches = deque(_batches(files) if possible else ())
        self._threads = ThreadPoolExecutor(FAR_AHEAD, "tar") if self._batches else None

    def next(self, index: int) -> tuple[int, list[memoryview]]:
        """Return what to read from a file on: the position where it ends, and the contents.

        Where there are no contents, the files up to that position are to be read by SFTP.

        Raises:
            NetworkError: The connection is lost.
        """
        batches = self._batches
        while batches and batches[0].start < index:
            batches.popleft()
        if not batches:
            return len(self._files), []
        self._ask(1)
        batch = batches[0]
        if batch.start > index:
            return batch.start, []
        try:
            contents = _contents(memoryview(batch.archive.result()), self._files[index : batch.end])
        except (_UnusableError, SessionRefusedError) as error:
            self._link.tar_faults += 1
            log.debug("a tar batch cannot be used: %s", error)
            if not self._is_usable():
                batches.clear()
                log.info("small files are read by SFTP: %s", printable(str(error)))
            return (batch.end if batches else len(self._files)), []
        except NetworkError:
            batch.transport = None  # it is asked for again
            raise
        self._link.tar_is_proved = True
        batches.popleft()
        self._ask(FAR_AHEAD if self._link.session().round_trip > FAR_S else AHEAD)
        return batch.end, contents

    def _is_usable(self) -> bool:
        link = self._link
        return link.tar_faults < (FAULTS if link.tar_is_proved else 1)

    def _ask(self, count: int) -> None:
        """Ask for the next batches that are not on their way in the connection of now."""
        transport = self._link.transport
        for batch, _ in zip(self._batches, range(count), strict=False):
            if self._threads and (batch.transport is None or batch.transport is not transport):
                batch.transport = transport
                batch.archive = self._threads.submit(self._archive, batch)

    def _archive(self, batch: _Batch) -> bytes | bytearray:
        """Return the archive of a batch, in a thread."""
        seconds = self._link.settings.timeout
        done = commands.run(
            self._link,
            COMMAND,
            checksums.standard_input(
                checksums.input_name(file.path) for file, _ in self._files[batch.start : batch.end]
            ),
            batch.max_bytes,
            lambda last: last + seconds - time.monotonic(),
        )
        if not done.ended:  # a fault of one file is known from the exit status alone
            raise _UnusableError(f"tar: {done.failure or 'it gave no exit status'}")
        return done.output


def _batches(files: Sequence[tuple[RemoteFile, int]]) -> Iterator[_Batch]:
    """Yield the batches of the small files, where there are enough of them in a row."""
    at = 0
    for small, group in groupby(files, _is_small):
        sizes = [_archived_bytes(file) for file, _ in group]
        if small and len(sizes) >= MIN_FILES:
            yield from _batches_of(at, sizes)
        at += len(sizes)


def _batches_of(at: int, sizes: Iterable[int]) -> Iterator[_Batch]:
    """Yield the batches of files in a row, by the bytes that each takes in an archive."""
    batch = _Batch(at, at, END_BYTES)
    for size in sizes:
        if batch.max_bytes + size > BATCH_BYTES:
            yield batch
            batch = _Batch(batch.end, batch.end, END_BYTES)
        batch.end += 1
        batch.max_bytes += size
    yield batch


def _is_small(item: tuple[RemoteFile, int]) -> bool:
    file, start = item
    return file.size <= SMALL_BYTES and start == 0 and "\0" not in file.path


def _archived_bytes(file: RemoteFile) -> int:
    """Return how many bytes a file takes in an archive, at most."""
    # A name has at most 4 bytes for each of its characters.
    name = 2 * BLOCK + 4 * len(file.path) if 4 * len(file.path) > SHORT_NAME_BYTES else 0
    return 2 * BLOCK + file.size + name


def _contents(archive: memoryview, files: Sequence[tuple[RemoteFile, int]]) -> list[memoryview]:
    """Return the content of each of these files, which an archive has in this order.

    Raises:
        _UnusableError: The archive has another one, or one of another size or time.
    """
    at, found = 0, []
    for file, _ in files:
        name, kind, size, mtime = _header(archive, at)
        at += BLOCK
        if kind == LONG_NAME:  # the name of the next one
            name = bytes(archive[at : at + size]).rstrip(b"\0")
            at += size + -size % BLOCK
            _, kind, size, mtime = _header(archive, at)
            at += BLOCK
        wanted = encoded(checksums.input_name(file.path))
        if kind not in REGULAR or (name, size, mtime) != (wanted, file.size, file.mtime):
            raise _UnusableError(f"{file.path}: changed on the host, or is not what was listed")
        found.append(archive[at : at + size])
        at += size + -size % BLOCK
    if len(archive) < at + BLOCK or any(archive[at : at + BLOCK]):
        raise _UnusableError("the archive does not end where it should")
    return found


def _header(archive: memoryview, at: int) -> tuple[bytes, bytes, int, int]:
    """Return the name, type, size and time of a header (POSIX.1-1988 ustar, as GNU tar has it)."""
    try:
        name, size, mtime, kind = HEADER.unpack_from(archive, at)
        return name.rstrip(b"\0"), kind, int(size, 8), int(mtime, 8)
    except (struct.error, ValueError) as error:
        raise _UnusableError(f"no header at byte {at}: {error}") from error
