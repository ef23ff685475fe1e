"""SFTP reader: the bytes of files in order, with READs asked for ahead across files.

The speed of the project comes from here: the same reader serves a single large file and a tree
of small ones.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from tasks.fetch.errors import IntegrityError, LighterageError
from tasks.fetch.ssh import sftp_packets as packets
from tasks.fetch.ssh.remote_files import RemoteFile
from tasks.fetch.ssh.sftp_session import Session

SMALL_READ_BYTES: Final = 2**15
"""The same for a server that answers with less: each server can answer this (draft-02, 3)."""
SHORT_ANSWERS: Final = 8
"""Short answers after which READs are small."""
FILES_AHEAD: Final = 64
FAR_FILES_AHEAD: Final = 200
"""The same where a round trip takes longer than `FAR_S`. Servers built with libssh open 256 files
(its SFTP_HANDLES), OpenSSH about as many as its limit of open files, mostly 1024."""
FAR_S: Final = 0.005
BLOCK_BYTES: Final = 2**17
"""Bytes of a block of a file that has as many."""


@dataclass(slots=True)
class _OpenFile:
    """A file that is being read."""

    file: RemoteFile
    returned: int  # offset of the next byte for the caller
    requested: int  # offset of the next byte to ask for
    handle: bytes = b""  # the server's, once it has answered
    # Ranges that arrived in full and are not returned yet, by offset.
    ranges: dict[int, bytes | bytearray] = field(default_factory=dict)
    unanswered: int = 0  # READs without an answer
    closing: bool = False  # all of it was asked for
    early: bool = False  # its attributes arrived while READs were unanswered
    after: RemoteFile | None = None  # its attributes after its last data
    error: Exception | None = None  # to be raised in its turn


@dataclass(slots=True)
class _Range:
    """A range of a file that was asked for; `part` has its first bytes after a short answer."""

    start: int
    length: int
    part: bytearray = field(default_factory=bytearray)


class Reader:
    """Reads files in order, the next ones asked for ahead.

    Args:
        session: With no other user at the same time.
        files: What to read, and at which byte of each to start.
    """

    def __init__(self, session: Session, files: Iterable[tuple[RemoteFile, int]]) -> None:
        self.session = session
        self._files = iter(files)
        self._open: deque[_OpenFile] = deque()
        self._tail: _OpenFile | None = None
        self._unfinished: list[_OpenFile] = []  # open, and not all of it was asked for
        self._requests: dict[int, tuple[_OpenFile, _Range | None]] = {}
        self._ahead = 0
        self._files_ahead = FAR_FILES_AHEAD if session.round_trip > FAR_S else FILES_AHEAD
        self._most = 2**32 - 2  # bytes of a READ
        self._short_answers = 0

    def blocks(self) -> Iterator[tuple[bytes, bool]]:
        """Yield the blocks of each file, each with whether it is the file's last.

        The last one, which may be empty, is yielded once the file is read and checked.

        Raises:
            IntegrityError: A file is not as long as it was, or changed while it was read.
            RemotePathError: A file no longer exists, or cannot be read.
        """
        self._request()
        while self._open:
            yield from self._blocks_of(self._open[0])
            self._open.popleft()
            self._request()

    def tail(self, file: RemoteFile, start: int) -> bytes:
        """Read a file from a byte to its end, between two blocks of what is read in order.

        In the same session: a server may grant only one (`MaxSessions 1`).

        Raises:
            IntegrityError: The file is not as long as it was, or changed.
            RemotePathError: The file no longer exists, or cannot be read.
        """
        self._tail = self._request_open(file, start)
        try:
            return b"".join(block for block, _ in self._blocks_of(self._tail))
        finally:
            self._tail = None

    def _blocks_of(self, opened: _OpenFile) -> Iterator[tuple[bytes, bool]]:
        """Yield the blocks of a file; see `blocks`."""
        size = opened.file.size
        while True:
            if opened.error:
                raise opened.error
            is_near_end = size - opened.returned <= BLOCK_BYTES
            if (is_near_end and not opened.after) or (block := self._next_block(opened)) is None:
                self._take_answer(*self.session.receive())
                continue
            is_last = opened.returned == size
            yield block, is_last
            if is_last:
                return
            self._request()

    def _next_block(self, opened: _OpenFile) -> bytes | None:
        """Return the next block once it is full, or the file is checked and ends; else None."""
        offset, parts = opened.returned, []
        while (
            offset - opened.returned < BLOCK_BYTES
            and (part := opened.ranges.get(offset)) is not None
        ):
            parts.append(part)
            offset += len(part)
        if offset == opened.file.size:
            if not opened.after:
                return None
            opened.file.require_same(opened.after)
        elif offset - opened.returned < BLOCK_BYTES:
            return None
        for part in parts:
            del opened.ranges[opened.returned]
            opened.returned += len(part)
        self._ahead -= sum(map(len, parts))
        return bytes(parts[0]) if len(parts) == 1 else b"".join(parts)

    # --- requests -------------------------------------------------------------------------

    def _request(self) -> None:
        """Ask for what may be asked for ahead."""
        budget = self.session.ahead
        while self._ahead < budget and len(self._open) < self._files_ahead:
            file, start = next(self._files, (None, 0))
            if file is None:
                break
            self._open.append(self._request_open(file, start))
        if not self._unfinished:
            return
        for opened in self._unfinished:
            # The first must proceed, whatever the others have taken; and a tail.
            first = opened is self._tail or (bool(self._open) and opened is self._open[0])
            self._request_data(opened, budget, first=first)
        self._unfinished = [opened for opened in self._unfinished if not opened.closing]

    def _request_open(self, file: RemoteFile, start: int) -> _OpenFile:
        opened = _OpenFile(file, start, start)
        fields = packets.path_string(file.path) + packets.READ_ONLY
        self._requests[self.session.send(packets.OPEN, fields)] = (opened, None)
        self._ahead += 1  # empty files count as well
        return opened

    def _request_data(self, opened: _OpenFile, budget: int, *, first: bool) -> None:
        """Ask for more of an open file."""
        if opened.error:
            opened.closing = True
            return
        size = opened.file.size
        while opened.requested < size and (
            self._ahead < budget or (first and opened.requested - opened.returned < BLOCK_BYTES)
        ):
            length = min(self.session.read_bytes, self._most, size - opened.requested)
            self._request_range(opened, _Range(opened.requested, length))
            opened.requested += length
            self._ahead += length
        if opened.requested >= size:
            opened.closing = True
            if not size:
                self._request_range(opened, _Range(0, 0))
            self._request_facts(opened)

    def _request_range(self, opened: _OpenFile, span: _Range) -> None:
        """Ask for what is missing of a range."""
        offset, length = span.start + len(span.part), span.length - len(span.part)
        last = offset + length == opened.file.size  # then a byte more: has the file grown?
        fields = packets.string(opened.handle) + packets.RANGE.pack(offset, length + last)
        self._requests[self.session.send(packets.READ, fields)] = (opened, span)
        opened.unanswered += 1

    def _request_facts(self, opened: _OpenFile) -> None:
        """Ask for the attributes of the open file, as they are after the READs before."""
        number = self.session.send(packets.FSTAT, packets.string(opened.handle))
        self._requests[number] = (opened, None)

    # --- answers --------------------------------------------------------------------------

    def _take_answer(self, number: int, kind: int, body: bytes) -> None:
        opened, span = self._requests.pop(number, (None, None))
        if opened is None or opened.error:  # of a CLOSE, or of no use any more
            return
        try:
            if span is not None:
                self._take_data(opened, span, kind, body)
            else:
                self._take_handle_or_facts(opened, kind, body)
        except (OSError, LighterageError) as error:
            opened.error = error

    def _take_handle_or_facts(self, opened: _OpenFile, kind: int, body: bytes) -> None:
        if kind == packets.HANDLE:
            opened.handle = packets.read_handle(body)
            self._unfinished.append(opened)
            self._ahead -= 1
            self._request()
        elif kind == packets.ATTRS and opened.handle:
            # Attributes that arrive before the last data are too early: they are asked for again.
            opened.early = bool(opened.unanswered)
            if not opened.early:
                _, opened.after = packets.read_attributes(opened.file.path, body)
                self.session.send(packets.CLOSE, packets.string(opened.handle))
        else:
            raise packets.error_of(opened.file.path, kind, body)

    def _take_data(self, opened: _OpenFile, span: _Range, kind: int, body: bytes) -> None:
        """Take the answer to a READ; one that is short is normal (draft-02, 6.4)."""
        file = opened.file
        opened.unanswered -= 1
        offset, length = span.start + len(span.part), span.length - len(span.part)
        if kind == packets.DATA:
            data = body
            if not data:
                raise packets.ProtocolError("data of no bytes")
            if offset + len(data) > file.size:
                raise IntegrityError(
                    f"{file.path}: the host sends more than its size of {file.size} bytes: the "
                    "file is still being written",
                    advice="set settle, so that files land only when they no longer change",
                    transient=True,
                )
            if len(data) > length:
                raise packets.ProtocolError(f"{len(data)} bytes of {length}")
            if len(data) == span.length:
                opened.ranges[span.start] = data
            else:
                self._take_part(opened, span, data)
        elif packets.is_end(kind, body):
            if offset < file.size:
                raise IntegrityError(
                    f"{file.path}: short data: {offset} of {file.size} bytes were sent; the file "
                    "shrank, or the server failed",
                    advice="set settle, so that files land only when they no longer change",
                    transient=True,
                )
        else:
            raise packets.error_of(file.path, kind, body)
        if opened.early and not opened.unanswered:
            opened.early = False
            self._request_facts(opened)

    def _take_part(self, opened: _OpenFile, span: _Range, data: bytes) -> None:
        span.part += data
        if len(span.part) == span.length:
            opened.ranges[span.start] = span.part
            return
        self._short_answers += 1
        if self._short_answers == SHORT_ANSWERS:
            self._most = SMALL_READ_BYTES
        self._request_range(opened, span)
