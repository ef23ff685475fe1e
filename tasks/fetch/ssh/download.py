"""Download: the bytes of some files in order, resumed after a cut where they were.

A link so slow that SSH compression pays is replaced by one that compresses.
"""

from __future__ import annotations

import logging
import time
import zlib
from collections.abc import Callable, Iterator

from tasks.fetch.errors import HostKeyError, LighterageError, NetworkError
from tasks.fetch.rate import RateLimit
from tasks.fetch.ssh.errors import translated
from tasks.fetch.ssh.link import Link
from tasks.fetch.ssh.remote_files import RemoteFile
from tasks.fetch.ssh.retry import Retries
from tasks.fetch.ssh.sftp_reader import Reader
from tasks.fetch.ssh.sftp_session import Session
from tasks.fetch.ssh.tar_batches import TarBatches

log = logging.getLogger(__name__)

SLOW_BYTES_PER_S = 4e6
"""Below this a link is slow: one core compresses ten times as many bytes per second."""
MEASURED_BYTES = 2**21
"""Bytes that must have been received before a link is judged."""
WORTHWHILE_RATIO = 0.6
"""Of a block's size: data that compresses worse is compressed already, or not worth it."""
WORTHWHILE_BYTES = 2**23
"""Bytes that must still be read: to connect again takes about six round trips."""


class Download:
    """One pass over some files.

    Args:
        link: To read from.
        files: The files in order, and the byte of each at which to start.
        on_bytes: Called with the number of bytes of each block that arrived.
    """

    def __init__(
        self,
        link: Link,
        files: list[tuple[RemoteFile, int]],
        on_bytes: Callable[[int], None],
    ) -> None:
        self._link = link
        self._files = files
        self._on_bytes = on_bytes
        self._generation = link.generation
        self._retries = Retries(link.settings)
        self._rate_limit = RateLimit(link.settings.max_rate)
        self._speed = _LinkSpeed()
        self._tar_batches = TarBatches(link, files)
        self._index = 0
        self._offset = files[0][1] if files else 0
        self.reader: Reader | None = None

    def is_current(self) -> bool:
        """Return whether the link was not reset since this download started."""
        return self._generation == self._link.generation

    def items(self) -> Iterator[tuple[bytes, bool]]:
        """Yield the blocks of each file, each with whether it is the file's last.

        Raises:
            LighterageError: The connection is lost for good, or a file's own error.
        """
        while self._index < len(self._files):
            try:
                yield from self._read_session()
            except NetworkError as error:
                if not self.is_current():
                    raise
                self._retries.wait(error, f"resuming at byte {self._offset}")

    def _read_session(self) -> Iterator[tuple[bytes, bool]]:
        """Yield from where we are, until the end or until another session is to be used."""
        file, _ = self._files[self._index]
        with translated(file.path):
            session = self._session(file, self._retries)
            started = time.monotonic()
            end, contents = self._tar_batches.next(self._index)
            blocks: Iterator[tuple[bytes, bool]]
            if contents:
                blocks = ((bytes(content), True) for content in contents)
            else:
                rest = [(file, self._offset), *self._files[self._index + 1 : end]]
                self.reader = Reader(session, rest)
                blocks = self.reader.blocks()
        while self._index < end and self._link.is_current(session):
            file, _ = self._files[self._index]
            with translated(file.path):
                block, is_last = next(blocks)
            waited_s = time.monotonic() - started
            self._retries.failures = 0
            if block:
                self._offset += len(block)
                self._on_bytes(len(block))
                self._rate_limit.wait(len(block))
                self._compress_if_slow(file, block, waited_s)
            if is_last:
                self._index += 1
                if self._index < len(self._files):
                    self._offset = self._files[self._index][1]
            yield block, is_last
            started = time.monotonic()

    def _session(self, file: RemoteFile, retries: Retries) -> Session:
        """Return the link's session; after a failure that of a new connection."""
        if retries.failures:
            return self._link.reopen(file, self._generation)
        return self._link.session_of(self._generation)

    def _compress_if_slow(self, file: RemoteFile, block: bytes, waited_s: float) -> None:
        """Move to a connection with compression where that pays; stay here where it fails."""
        link = self._link
        if link.compressed is not None or link.settings.max_rate:
            return
        if not self._speed.needs_compression(block, waited_s):
            return
        rest = sum(other.size - start for other, start in self._files[self._index + 1 :])
        if file.size - self._offset + rest < WORTHWHILE_BYTES:
            return
        log.info("the link is slow: opening a second connection, with compression")
        link.compressed = False
        try:
            link.compress(file, self._generation)
        except HostKeyError:
            raise
        except LighterageError as error:
            log.info("staying on the first connection, without compression: %s", error)
        else:
            link.compressed = True

    def tail(self, file: RemoteFile, start: int) -> bytes:
        """Read a file from a byte to its end, beside the blocks of `items`.

        Raises:
            LighterageError: See `items`.
        """
        retries = Retries(self._link.settings)
        while True:
            try:
                with translated(file.path):
                    session = self._session(file, retries)
                    if self.reader is None or self.reader.session is not session:
                        self.reader = Reader(session, [])
                    return self.reader.tail(file, start)
            except NetworkError as error:
                retries.wait(error, "reading the end again")


class _LinkSpeed:
    """Judges whether the network, and not a processor or a disk, is what a download waits for."""

    def __init__(self) -> None:
        self._waited_s = 0.0
        self._count = 0

    def needs_compression(self, block: bytes, waited_s: float) -> bool:
        """Count a block and the wait for it; return whether link and data are for compression."""
        self._waited_s += waited_s
        self._count += len(block)
        if self._count < MEASURED_BYTES or self._count > SLOW_BYTES_PER_S * self._waited_s:
            return False
        self._waited_s, self._count = 0.0, 0  # judge again later, by other data
        return len(zlib.compress(block, 1)) < len(block) * WORTHWHILE_RATIO
