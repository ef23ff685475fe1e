"""SFTP with many requests under way at once: the speed of the project comes from here.

Paramiko's own client waits for one answer before the next request, or prefetches without a
bound. Here requests go ahead, bounded in bytes and in files, and answers are taken as they come;
one session serves a single large file, a tree of small ones, and a listing alike, and needs no
command on the host. Protocol: draft-ietf-secsh-filexfer-02, version 3, which every server has.
"""

from __future__ import annotations

import contextlib
import stat
import struct
import time
from collections import deque
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Final

import paramiko
from paramiko.sftp import (
    CMD_ATTRS,
    CMD_CLOSE,
    CMD_DATA,
    CMD_EXTENDED,
    CMD_EXTENDED_REPLY,
    CMD_FSTAT,
    CMD_HANDLE,
    CMD_INIT,
    CMD_NAME,
    CMD_OPEN,
    CMD_OPENDIR,
    CMD_READ,
    CMD_READDIR,
    CMD_STAT,
    CMD_STATUS,
    CMD_VERSION,
    SFTP_EOF,
    SFTP_NO_SUCH_FILE,
    SFTP_PERMISSION_DENIED,
)  # fmt: skip

from tasks.fetch import names
from tasks.fetch.errors import IntegrityError, LighterageError, NetworkError, RemotePathError
from tasks.fetch.ssh.transport import ask_for_subsystem, hand_over

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    OnFault = Callable[[str, bool, Exception], None]

VERSION: Final = 3
PIECE: Final = 2**16
"""Bytes of one READ; less where the server gives less at once, see `_PieceSize`."""
LEAST_PIECE: Final = 2**12
SHORT_ANSWERS: Final = 8
"""Short answers of one length in a row that are taken for the server's limit."""
FULL_ANSWERS: Final = 64
"""Answers in full after which more is asked for at once again."""
AHEAD: Final = 2 * 2**20
"""Bytes asked for ahead where the host is near."""
AHEAD_FAR: Final = 32 * 2**20
"""The same at most, where it is far: this much may wait in memory."""
BYTES_PER_SECOND: Final = 400e6
"""What a link may be worth: the bytes ahead are this times the round trip."""
FILES_AHEAD: Final = 64
FOLDERS_AHEAD: Final = 16
NAMELESS_ANSWERS: Final = 100
"""Answers to READDIR in a row without a name, after which a folder is taken to have no end."""
STATS_AHEAD: Final = 256
REQUESTS_AT_ONCE: Final = 16
"""Requests sent in one packet while answers keep coming; else each when there is none to take."""
BLOCK: Final = 2**18
"""Bytes handed on at once, where the file has as many."""
CHECKS_TRIED: Final = 16
"""Files of which a host that tells checksums tells one; ProFTPD tells none of an empty file."""
SHA256_BYTES: Final = 32
QUOTED: Final = 200
"""Characters of a server's own text in a message."""
TEXT_BYTES: Final = 2**14
CLOSING_SECONDS: Final = 1.0
"""How long to wait for the end of a session that is no SFTP: error output may be on its way."""
REFUSALS: Final = 10
CHANNEL_WINDOW: Final = 2 * AHEAD_FAR
CHANNEL_PACKET: Final = 2**18

_HEADER: Final = struct.Struct(">IBI")  # length of what follows, kind, number
_RANGE: Final = struct.Struct(">QI")  # offset, length
_WHOLE_FILE: Final = struct.pack(">QQI", 0, 0, 0)  # from where, how much, in blocks of

_READ_ONLY = struct.pack(">II", 1, 0)  # SSH_FXF_READ, no attributes
_SIZE, _OWNER, _MODE, _TIMES = 1, 2, 4, 8  # SSH_FILEXFER_ATTR_*


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """What the host says of a path.

    Attributes:
        path: As it was asked for, or as the listing gives it.
        size: Bytes.
        mtime: Seconds since 1970.
        folder: Whether it is a directory.
        special: Whether it is neither a file nor a directory, as a link in a listing.
    """

    path: str
    size: int
    mtime: int
    folder: bool = False
    special: bool = False

    def same_as(self, other: RemoteFile) -> bool:
        """Whether size and time are the same, as far as a host tells."""
        return (self.size, self.mtime) == (other.size, other.mtime)


class ProtocolError(paramiko.SSHException):
    """The server's answer breaks the protocol."""


class SessionRefusedError(paramiko.SSHException):
    """The server opens no further session, as at its limit (`MaxSessions`)."""


class NoSftpError(paramiko.SSHException):
    """The server did not begin SFTP.

    Attributes:
        text: What it wrote instead.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    @property
    def first_line(self) -> str:
        """The first line of it, at most `QUOTED` characters."""
        return first_line(self.text)


def first_line(text: str) -> str:
    """Return the first line of a server's text that is not empty, shortened."""
    return next((line.strip()[:QUOTED] for line in text.splitlines() if line.strip()), "")


class Session:
    """An SFTP session of a transport.

    Args:
        transport: Authenticated.
        timeout: Seconds without an answer until a fault.
        max_rate: Bytes per second at most, 0 for no limit: no more is asked for ahead.
    """

    def __init__(self, transport: paramiko.Transport, timeout: float, max_rate: int = 0) -> None:
        started = time.monotonic()
        channel = transport.open_session(
            window_size=CHANNEL_WINDOW, max_packet_size=CHANNEL_PACKET, timeout=timeout
        )
        self.round_trip = time.monotonic() - started
        channel.settimeout(timeout)
        hand_over(channel)
        ask_for_subsystem(channel, "sftp")
        self._channel = channel
        self._agreed = False
        self._rest = memoryview(b"")
        # Sent with the first requests: a host takes one after the other anyway.
        self._requests = [struct.pack(">IBI", 5, CMD_INIT, VERSION)]
        self._number = 0
        self._unanswered = 0
        self.deadline = float("inf")
        self._most_ahead = max(PIECE, max_rate) if max_rate else AHEAD_FAR

    def stat(self, path: str) -> RemoteFile:
        """Say what `path` is, links followed; measures the round trip as well."""
        started = time.monotonic()
        (facts,) = self.stats([path])
        self.round_trip = min(self.round_trip, time.monotonic() - started)
        if isinstance(facts, Exception):
            raise facts
        return facts

    def stats(self, paths: Sequence[str]) -> list[RemoteFile | Exception]:
        """Say what each path is, links followed, or why that cannot be told."""
        found: dict[str, RemoteFile | Exception] = {}
        requests = {path: _packed(encoded(path)) for path in paths}
        for path, kind, body in self._answers(CMD_STAT, requests):
            found[path] = (
                _attributes(path, body)[1] if kind == CMD_ATTRS else _error(path, kind, body)
            )
        return [found[path] for path in paths]

    def checksums(self, paths: Sequence[str]) -> Iterator[tuple[str, str]]:
        """Yield the paths of which the host tells the sha256, and that, in hex.

        Through the extension check-file (draft-ietf-secsh-filexfer-extensions-00, 3), which needs
        no command. Hosts that have it need not say so: it is tried with a few.
        """
        name, whole = _packed(b"check-file-name"), _packed(b"sha256") + _WHOLE_FILE
        requests = {path: name + _packed(encoded(path)) + whole for path in paths}
        told = 0
        for answers, (path, kind, body) in enumerate(self._answers(CMD_EXTENDED, requests), 1):
            digest = _digest(body) if kind == CMD_EXTENDED_REPLY else b""
            if len(digest) == SHA256_BYTES:
                told += 1
                yield path, digest.hex()
            elif not told and answers == CHECKS_TRIED:
                return

    def _answers(
        self, kind: int, requests: Mapping[str, bytes]
    ) -> Iterator[tuple[str, int, memoryview]]:
        """Send a request for each path, many ahead; yield path, kind and body of each answer."""
        asked = {}
        waiting = iter(requests.items())
        for path, fields in islice(waiting, STATS_AHEAD):
            asked[self.send(kind, fields)] = path
        while asked:
            number, answer, body = self.receive()
            path = asked.pop(number, "")
            if not path:
                continue  # an answer that nobody waits for any more
            yield path, answer, body
            for following, fields in islice(waiting, 1):
                asked[self.send(kind, fields)] = following

    @property
    def ahead(self) -> int:
        """How many bytes to ask for ahead: what the link holds in a round trip."""
        trip = self.round_trip if self.round_trip < 10 else 0
        return int(min(max(AHEAD, trip * BYTES_PER_SECOND), AHEAD_FAR, self._most_ahead))

    @contextlib.contextmanager
    def patient(self, seconds: float) -> Iterator[Session]:
        """Wait longer for each answer, for a block."""
        before = self._channel.gettimeout()
        self._channel.settimeout(seconds)
        yield self
        self._channel.settimeout(before)

    def close(self) -> None:
        """End it, whatever is still under way."""
        with contextlib.suppress(Exception):
            self._channel.close()

    # --- packets --------------------------------------------------------------------------

    def send(self, kind: int, fields: bytes) -> int:
        """Send a request, soon: with those that follow, before an answer is waited for.

        Returns:
            Its number, which its answer will have.
        """
        self._number = self._number + 1 if self._number < 2**32 - 1 else 1
        self._unanswered += 1
        self._requests.append(_HEADER.pack(len(fields) + 5, kind, self._number) + fields)
        return self._number

    def receive(self) -> tuple[int, int, memoryview]:
        """Wait for the next answer: its number, its kind, and what follows those.

        Raises:
            TimeoutError: None came in time.
            EOFError: The session ended.
        """
        if not self._agreed:
            self._agree()
        if len(self._requests) >= REQUESTS_AT_ONCE:
            self._flush()
        size = int.from_bytes(self._exactly(4), "big")
        if not 5 <= size <= 2**20:
            raise ProtocolError(f"unexpected SFTP answer: a packet of {size} bytes")
        packet = self._exactly(size)
        self._unanswered -= 1
        if self._unanswered < 0:
            raise ProtocolError("unexpected SFTP answer: more answers than requests")
        return int.from_bytes(packet[1:5], "big"), packet[0], packet[5:]

    def _agree(self) -> None:
        """Take the server's answer to our version, which comes first (draft-02, 4).

        Raises:
            NoSftpError: There is no SFTP, or the server writes text before it.
        """
        end = time.monotonic() + (self._channel.gettimeout() or 0)
        head = memoryview(b"")
        try:
            head = self._exactly(4)
            size = int.from_bytes(head, "big")
            if 5 <= size < 2**16 and self._exactly(size, end)[0] == CMD_VERSION:
                self._agreed = True
                return
        except TimeoutError:
            if not head and not self._rest and not self._channel.recv_stderr_ready():
                raise
        except (EOFError, OSError):
            transport = self._channel.transport
            if not transport or not transport.is_active():
                raise  # the connection is lost, and not only the session
        raise NoSftpError(self._text(bytes(head)))

    def _text(self, head: bytes) -> str:
        """Return what the server wrote in place of SFTP packets."""
        text = _written(self._channel, head + bytes(self._rest))
        if not text.strip():
            # OpenSSH sends no error output of a subsystem, as that a password has expired.
            self._channel.close()
            with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
                text = self._command_text()
        return text.decode("utf-8", "replace")

    def _command_text(self) -> bytes:
        """Return what the server writes when a command is run that does nothing."""
        transport = self._channel.get_transport()
        for tries in range(REFUSALS, -1, -1):
            try:
                channel = transport.open_session(timeout=CLOSING_SECONDS)
                break
            except paramiko.ChannelException:  # with MaxSessions 1, while the first still counts
                if not tries:
                    raise
                time.sleep(CLOSING_SECONDS / REFUSALS)
        with contextlib.closing(channel):
            channel.settimeout(CLOSING_SECONDS)
            channel.exec_command("exit")
            return _written(channel, b"")

    def _flush(self) -> None:
        self._channel.sendall(b"".join(self._requests))
        self._requests.clear()

    def _exactly(self, size: int, end: float = float("inf")) -> memoryview:
        rest = self._rest
        if len(rest) >= size:
            self._rest = rest[size:]
            return rest[:size]
        parts, missing = [rest], size - len(rest)
        end = min(end, self.deadline)
        try:
            while missing > 0:
                if self._requests and not self._channel.recv_ready():
                    self._flush()
                block = self._channel.recv(CHANNEL_PACKET)
                if not block:
                    raise EOFError  # noqa: TRY301 (as paramiko's own reading has it)
                parts.append(memoryview(block))
                missing -= len(block)
                if missing > 0 and time.monotonic() > end:
                    raise TimeoutError
        except (OSError, EOFError):
            self._rest = memoryview(b"".join(parts))
            raise
        if missing < 0:
            last = parts[-1]
            parts[-1], self._rest = last[:missing], last[missing:]
        else:
            self._rest = memoryview(b"")
        return memoryview(b"".join(parts))


def _written(channel: paramiko.Channel, output: bytes) -> bytes:
    """Return `output` and what else arrives on a channel, its error output last."""
    errors, end = b"", time.monotonic() + CLOSING_SECONDS
    while len(output) + len(errors) < TEXT_BYTES and time.monotonic() < end:
        closed = channel.closed  # first: what it is asked for below arrives before that
        if channel.recv_stderr_ready():
            errors += channel.recv_stderr(TEXT_BYTES)
        elif channel.recv_ready() and (more := channel.recv(TEXT_BYTES)):
            output += more
        elif closed:
            break
        else:
            time.sleep(0.01)
    return output + b"\n" + errors


# --- reading files ------------------------------------------------------------------------


@dataclass(slots=True)
class _Reading:
    """A file under way.

    Attributes:
        file: Which.
        given: Bytes handed on.
        asked: Offset of the next byte to ask for.
        handle: The server's, once it has answered.
        pieces: Pieces that arrived in full and are not handed on, by offset.
        unanswered: How many READs have no answer yet.
        closing: Whether all of it was asked for.
        early: Whether its attributes arrived while READs were unanswered.
        after: The attributes of the open file, which arrived after its last data.
        failed: What went wrong with it, to be raised in its turn.
    """

    file: RemoteFile
    given: int = 0
    asked: int = 0
    handle: bytes | None = None
    pieces: dict[int, memoryview | bytearray] = field(default_factory=dict)
    unanswered: int = 0
    closing: bool = False
    early: bool = False
    after: RemoteFile | None = None
    failed: Exception | None = None


@dataclass(slots=True)
class _Piece:
    """A range of a file that was asked for; `part` has its first bytes after a short answer."""

    start: int
    length: int
    part: bytearray


class Reader:
    """Reads files in the order given, the next ones asked for ahead.

    Args:
        session: Used by nobody else meanwhile.
        files: What to read, and at which byte of each to begin.
    """

    def __init__(self, session: Session, files: Iterable[tuple[RemoteFile, int]]) -> None:
        self._session = session
        self._files = iter(files)
        self._open: deque[_Reading] = deque()
        self._aside: _Reading | None = None
        self._asked: dict[int, tuple[_Reading, _Piece | None]] = {}
        self._under_way = 0
        self._size = _PieceSize()
        self._more = True

    def blocks(self) -> Iterator[bytes | None]:
        """Yield the blocks of each file, then None once it is read and checked.

        Raises:
            IntegrityError: A file is not as long as it was, or changed while it was read.
            RemotePathError: A file is gone, or cannot be read.
        """
        self._ask()
        while self._open:
            yield from self._blocks_of(self._open[0])
            self._open.popleft()
            yield None
            self._ask()

    def tail(self, file: RemoteFile, start: int) -> bytes:
        """Read a file from a byte on to its end, between two blocks of what is read in order.

        In the same session: a server may grant only one (`MaxSessions 1`).

        Raises:
            IntegrityError: The file is not as long as it was, or changed.
            RemotePathError: The file is gone, or cannot be read.
        """
        self._aside = reading = self._opened(file, start)
        try:
            return b"".join(self._blocks_of(reading))
        finally:
            self._aside = None

    def _blocks_of(self, reading: _Reading) -> Iterator[bytes]:
        """Yield the blocks of a file, and check it at its end."""
        while True:
            if reading.failed:
                raise reading.failed
            block = self._contiguous(reading)
            if block:
                yield block
                self._ask()
            elif reading.given == reading.file.size and reading.after:
                if not reading.after.same_as(reading.file):
                    raise IntegrityError(
                        f"{reading.file.path}: changed on the host while it was fetched",
                        transient=True,
                    )
                return
            else:
                self._answer(*self._session.receive())

    def _contiguous(self, reading: _Reading) -> bytes:
        """Take what can be handed on, once a block is full or nothing more comes for it."""
        offset, parts = reading.given, []
        while offset - reading.given < BLOCK and (part := reading.pieces.get(offset)) is not None:
            parts.append(part)
            offset += len(part)
        if offset - reading.given < BLOCK and offset < reading.file.size:
            return b""
        for part in parts:
            del reading.pieces[reading.given]
            reading.given += len(part)
        self._under_way -= sum(map(len, parts))
        return b"".join(parts)

    def _opened(self, file: RemoteFile, start: int) -> _Reading:
        """Ask for a handle of a file."""
        reading = _Reading(file, start, start)
        fields = _packed(encoded(file.path)) + _READ_ONLY
        self._asked[self._session.send(CMD_OPEN, fields)] = (reading, None)
        self._under_way += 1  # empty files count as well
        return reading

    def _ask(self) -> None:
        """Ask for what may be asked ahead."""
        budget = self._session.ahead
        while self._more and self._under_way < budget and len(self._open) < FILES_AHEAD:
            file, start = next(self._files, (None, 0))
            if file is None:
                self._more = False
                break
            self._open.append(self._opened(file, start))
        if self._aside:
            self._ask_for(self._aside, budget, first=True)
        for reading in self._open:
            # The first must go on, whatever the others have taken.
            self._ask_for(reading, budget, first=reading is self._open[0])

    def _ask_for(self, reading: _Reading, budget: int, *, first: bool) -> None:
        """Ask for more of an open file."""
        if reading.handle is None or reading.closing or reading.failed:
            return
        size = reading.file.size
        while reading.asked < size and (
            self._under_way < budget or (first and reading.asked - reading.given < BLOCK)
        ):
            length = min(self._size.value, size - reading.asked)
            self._read(reading, _Piece(reading.asked, length, bytearray()))
            reading.asked += length
            self._under_way += length
        if reading.asked >= size:
            reading.closing = True
            if not size:
                self._read(reading, _Piece(0, 0, bytearray()))
            self._ask_facts(reading)

    def _read(self, reading: _Reading, piece: _Piece) -> None:
        """Ask for what is missing of a piece.

        The last piece is asked for with a byte more, to notice a file that has grown.
        """
        assert reading.handle is not None  # noqa: S101 (asked for only once it arrived)
        offset, length = piece.start + len(piece.part), piece.length - len(piece.part)
        last = offset + length == reading.file.size
        fields = _packed(reading.handle) + _RANGE.pack(offset, length + last)
        self._asked[self._session.send(CMD_READ, fields)] = (reading, piece)
        reading.unanswered += 1

    def _ask_facts(self, reading: _Reading) -> None:
        """Ask for the attributes of the open file, as they are after the READs before."""
        assert reading.handle is not None  # noqa: S101 (asked for only once it arrived)
        number = self._session.send(CMD_FSTAT, _packed(reading.handle))
        self._asked[number] = (reading, None)

    def _answer(self, number: int, kind: int, body: memoryview) -> None:
        reading, piece = self._asked.pop(number, (None, None))
        if reading is None or reading.failed:  # of a CLOSE, or of no use any more
            return
        try:
            if piece is not None:
                self._take_data(reading, piece, kind, body)
            else:
                self._take(reading, kind, body)
        except (OSError, LighterageError) as error:
            reading.failed = error

    def _take(self, reading: _Reading, kind: int, body: memoryview) -> None:
        """Take the answer to OPEN or FSTAT."""
        if kind == CMD_HANDLE:
            reading.handle = bytes(_string(body))
            self._under_way -= 1
            self._ask()
        elif kind == CMD_ATTRS and reading.handle is not None:
            # Attributes that arrive before the last data are too early: they are asked for again.
            reading.early = bool(reading.unanswered)
            if not reading.early:
                _, reading.after = _attributes(reading.file.path, body)
                self._session.send(CMD_CLOSE, _packed(reading.handle))
        else:
            raise _error(reading.file.path, kind, body)

    def _take_data(self, reading: _Reading, piece: _Piece, kind: int, body: memoryview) -> None:
        """Take the answer to a READ; one that is short is normal (draft-02, 6.4)."""
        file = reading.file
        reading.unanswered -= 1
        offset, length = piece.start + len(piece.part), piece.length - len(piece.part)
        if kind == CMD_DATA:
            data = _string(body)
            if not data:
                raise ProtocolError("unexpected SFTP answer: data of no bytes")
            if offset + len(data) > file.size:
                raise IntegrityError(
                    f"{file.path}: the host sends more than its size of {file.size} bytes: it is "
                    "still being written",
                    transient=True,
                )
            if len(data) > length:
                raise ProtocolError(f"unexpected SFTP answer: {len(data)} bytes of {length}")
            self._size.learn(length, len(data))
            if len(data) == piece.length:
                reading.pieces[piece.start] = data
            else:
                piece.part += data
                if len(data) < length:
                    self._read(reading, piece)
                else:
                    reading.pieces[piece.start] = piece.part
        elif kind == CMD_STATUS and _status(body)[0] == SFTP_EOF:
            if offset < file.size:
                raise IntegrityError(
                    f"{file.path}: short data: {offset} of {file.size} bytes came; the file "
                    "shrank, or the server gave up",
                    transient=True,
                )
        else:
            raise _error(file.path, kind, body)
        if reading.early and not reading.unanswered:
            reading.early = False
            self._ask_facts(reading)


class _PieceSize:
    """How many bytes to ask for in one READ: what the server gives at once.

    One short answer says nothing. Several of one length in a row are the server's own limit.

    Attributes:
        value: The bytes of one READ.
    """

    def __init__(self) -> None:
        self.value = PIECE
        self._short = 0  # the length of the last short answer, and how many in a row had it
        self._same = 0
        self._full = 0

    def learn(self, asked: int, given: int) -> None:
        """Note an answer."""
        if given < asked:
            self._same = self._same + 1 if given == self._short else 1
            self._short, self._full = given, 0
            if self._same >= SHORT_ANSWERS:
                # Of a tiny limit a multiple: the rest is asked for again, and many are under way.
                self.value = min(PIECE, max(given, LEAST_PIECE // given * given))
            return
        if asked > self._short:
            self._same = 0
        if asked >= self.value:
            self._full += 1
            if self._full >= FULL_ANSWERS:
                self.value, self._full = min(PIECE, 2 * self.value), 0


# --- listing ------------------------------------------------------------------------------


class ListingLimitError(RemotePathError):
    """A listing has more names or answers than it may."""


class Bounds:
    """What the listings of a run, or of one glob, may take together, of names and of time.

    A server can answer for ever without an end of names, and keep each answer in time.

    Args:
        names: How many files and links at most, and as many folders.
        seconds: How long at most without a new name or a folder's end. All of it may take ten
            times as long, and as long again for each hundred names.
    """

    def __init__(self, names: int, seconds: float) -> None:
        self._names = names
        self._seconds = seconds
        self._files = self._folders = 0
        self._start = time.monotonic()
        self.deadline = self._start + seconds

    def count(self, folder: str, file: RemoteFile) -> None:
        """Count a name.

        Raises:
            ListingLimitError: These are too many.
        """
        if file.folder:
            self._folders += 1
        else:
            self._files += 1
        if max(self._files, self._folders) > self._names:
            raise ListingLimitError(
                f"{folder}: the listing has more than {self._names} names: set max_members higher "
                "if that is right"
            )

    def progress(self) -> None:
        """Note that the listing goes forward."""
        most = self._seconds * (10 + (self._files + self._folders) / 100)
        self.deadline = min(time.monotonic() + self._seconds, self._start + most)

    def late(self, folder: str) -> NetworkError:
        """Give the error of a listing that takes too long."""
        return NetworkError(
            f"{folder}: listing timed out: {self._files + self._folders} names in "
            f"{time.monotonic() - self._start:.0f} s; set timeout higher if the host is that slow",
            transient=True,
        )


@dataclass(slots=True, eq=False)
class _Folder:
    """A folder being listed.

    Attributes:
        path: On the host.
        below: Relative to the top, with a slash at its end.
        depth: How many folders it is below the top.
        handle: The server's, once it has answered.
        nameless: How many answers in a row had no name.
    """

    path: str
    below: str = ""
    depth: int = 0
    handle: bytes | None = None
    nameless: int = 0


class Lister:
    """Lists a folder and the folders in it, many at once. Links are not followed.

    Args:
        session: Used by nobody else meanwhile.
        top: The folder.
        max_depth: How many folders below folders to list; 0 lists only `top`.
        bounds: How many names and how much time it may take.
        on_fault: Called with each path below `top` that is left out, whether it is a folder, and
            why.
    """

    def __init__(
        self, session: Session, top: str, max_depth: int, bounds: Bounds, on_fault: OnFault
    ) -> None:
        self._session = session
        self._max_depth = max_depth
        self._bounds = bounds
        self._on_fault = on_fault
        self._waiting = deque([_Folder(top.rstrip("/") or "/")])
        self._asked: dict[int, _Folder] = {}

    def entries(self) -> Iterator[tuple[str, RemoteFile]]:
        """Yield each name in it: its path relative to the top, and its attributes.

        Raises:
            RemotePathError: `top` cannot be read, or there are too many names.
            NetworkError: It takes too long.
        """
        self._bounds.progress()
        while self._waiting or self._asked:
            while self._waiting and len(self._asked) < FOLDERS_AHEAD:
                folder = self._waiting.popleft()
                fields = _packed(encoded(folder.path))
                self._asked[self._session.send(CMD_OPENDIR, fields)] = folder
            number, kind, body = self._receive()
            if number not in self._asked:
                continue  # of a CLOSE, or after the end of a folder
            folder = self._asked.pop(number)
            if kind == CMD_HANDLE and folder.handle is None:
                folder.handle = bytes(_string(body))
                # Mostly the first answer has all the names, and the second one says so.
                self._ask_names(folder)
                self._ask_names(folder)
            elif kind == CMD_NAME and folder.handle is not None:
                yield from self._take_names(folder, body)
            elif kind == CMD_STATUS and folder.handle is not None and _status(body)[0] == SFTP_EOF:
                self._end(folder)
            else:
                self._end(folder, _error(folder.path, kind, body))

    def _receive(self) -> tuple[int, int, memoryview]:
        session, bounds = self._session, self._bounds
        session.deadline = bounds.deadline
        try:
            answer = session.receive()
            late = time.monotonic() > bounds.deadline
        except TimeoutError:
            late = True
        finally:
            session.deadline = float("inf")
        if late:
            raise bounds.late(next(iter(self._asked.values())).path)
        return answer

    def _ask_names(self, folder: _Folder) -> None:
        assert folder.handle is not None  # noqa: S101 (asked for only once it arrived)
        self._asked[self._session.send(CMD_READDIR, _packed(folder.handle))] = folder

    def _take_names(self, folder: _Folder, body: memoryview) -> Iterator[tuple[str, RemoteFile]]:
        folder.nameless += 1
        for name, file in _names(folder.path, body):
            folder.nameless = 0
            self._bounds.count(folder.path, file)
            if problem := _problem(folder.below, name):
                error = RemotePathError(f"{file.path}: the name {name!r} {problem}")
                self._on_fault(file.path, file.folder, error)
                continue
            if file.folder and self._max_depth:
                self._wait_for(_Folder(file.path, f"{folder.below}{name}/", folder.depth + 1))
            yield folder.below + name, file
        if folder.nameless > NAMELESS_ANSWERS:
            text = f"the listing has no end: {folder.nameless} answers in a row without a name"
            self._end(folder, ListingLimitError(f"{folder.path}: {text}"))
            return
        if not folder.nameless:
            self._bounds.progress()
        self._ask_names(folder)

    def _wait_for(self, folder: _Folder) -> None:
        """Have a folder listed in its turn."""
        if folder.depth <= self._max_depth:
            self._waiting.append(folder)
            return
        error = RemotePathError(f"{folder.path}: more than {self._max_depth} folders deep")
        self._on_fault(folder.path, True, error)

    def _end(self, folder: _Folder, fault: Exception | None = None) -> None:
        """Close a folder, at its end or because of a fault of its own."""
        if fault is not None:
            if not folder.depth or not isinstance(fault, OSError | RemotePathError):
                raise fault
            self._on_fault(folder.path, True, fault)
        self._bounds.progress()
        if folder.handle is not None:
            self._session.send(CMD_CLOSE, _packed(folder.handle))
        self._asked = {n: other for n, other in self._asked.items() if other is not folder}


def _problem(below: str, name: str) -> str:
    """Say why a name of a listing cannot be used, or nothing."""
    if not name:
        return "is empty"
    return "has a slash" if "/" in name else names.problem(below + name)


def _names(folder: str, body: memoryview) -> Iterator[tuple[str, RemoteFile]]:
    count, body = int.from_bytes(body[:4], "big"), body[4:]
    for _ in range(count):
        raw = _string(body)
        body = body[4 + len(raw) :]
        body = body[4 + len(_string(body)) :]  # the line of `ls`, which is not to be parsed
        name = bytes(raw).decode("utf-8", "surrogateescape")
        used, file = _attributes(f"{folder.rstrip('/')}/{name}", body)
        body = body[used:]
        if name not in {".", ".."}:
            yield name, file


def encoded(path: str) -> bytes:
    """Give a path as the host wants it; names that are not UTF-8 come back as they were."""
    return path.encode("utf-8", "surrogateescape")


def _packed(text: bytes) -> bytes:
    return len(text).to_bytes(4, "big") + text


# --- answers ------------------------------------------------------------------------------


def _string(body: memoryview) -> memoryview:
    size = int.from_bytes(body[:4], "big")
    if len(body) < 4 + size:
        raise ProtocolError("unexpected SFTP answer: it ends early")
    return body[4 : 4 + size]


def _digest(body: memoryview) -> bytes:
    """Read the answer to check-file: its name, which some hosts leave out, sha256, the digest."""
    texts = []
    for _ in range(2):
        texts.append(bytes(_string(body)))
        body = body[4 + len(texts[-1]) :]
        if texts[-1] == b"sha256":
            return bytes(body)
    raise ProtocolError(f"unexpected SFTP answer: a checksum of kind {texts}")


def _status(body: memoryview) -> tuple[int, str]:
    code, text = int.from_bytes(body[:4], "big"), ""
    with contextlib.suppress(ProtocolError):
        text = bytes(_string(body[4:])).decode(errors="replace")
    return code, text


def _attributes(path: str, body: memoryview) -> tuple[int, RemoteFile]:
    """Read an ATTRS structure: the bytes that it takes, and what it says."""
    flags, used = int.from_bytes(body[:4], "big"), 4
    size = mode = mtime = 0
    if flags & _SIZE:
        size, used = int.from_bytes(body[used : used + 8], "big"), used + 8
    if flags & _OWNER:
        used += 8
    if flags & _MODE:
        mode, used = int.from_bytes(body[used : used + 4], "big"), used + 4
    if flags & _TIMES:
        mtime, used = int.from_bytes(body[used + 4 : used + 8], "big"), used + 8
    if flags >> 31:  # extended pairs
        pairs, used = int.from_bytes(body[used : used + 4], "big"), used + 4
        for _ in range(2 * pairs):
            used += 4 + len(_string(body[used:]))
    if used > len(body):
        raise ProtocolError("unexpected SFTP answer: attributes end early")
    return used, _remote_file(path, size, mtime, mode)


def _remote_file(path: str, size: int, mtime: int, mode: int) -> RemoteFile:
    kind = stat.S_IFMT(mode)
    special = kind not in {0, stat.S_IFREG, stat.S_IFDIR}
    return RemoteFile(path, size, mtime, folder=kind == stat.S_IFDIR, special=special)


def _error(path: str, kind: int, body: memoryview) -> Exception:
    """Turn an answer that is not the one hoped for into the error that it stands for."""
    if kind != CMD_STATUS:
        return ProtocolError(f"unexpected SFTP answer: of kind {kind}")
    code, text = _status(body)
    if code == SFTP_NO_SUCH_FILE:
        return FileNotFoundError(text or path)
    if code == SFTP_PERMISSION_DENIED:
        return PermissionError(13, text, path)
    return RemotePathError(f"{path}: the host cannot read it: {text or code}")
