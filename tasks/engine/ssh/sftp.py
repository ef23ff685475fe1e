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

from tasks.engine.errors import IntegrityError, LighterageError, RemotePathError
from tasks.engine.ssh.transport import ask_for_subsystem, hand_over

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

VERSION: Final = 3
PIECE: Final = 2**16
"""Bytes of one READ; servers that give less at once are asked for that much from then on."""
AHEAD: Final = 2 * 2**20
"""Bytes asked for ahead where the host is near."""
AHEAD_FAR: Final = 32 * 2**20
"""The same at most, where it is far: this much may wait in memory."""
BYTES_PER_SECOND: Final = 400e6
"""What a link may be worth: the bytes ahead are this times the round trip."""
FILES_AHEAD: Final = 64
FOLDERS_AHEAD: Final = 16
STATS_AHEAD: Final = 256
REQUESTS_AT_ONCE: Final = 16
"""Requests sent in one packet while answers keep coming; else each when there is none to take."""
BLOCK: Final = 2**18
"""Bytes handed on at once, where the file has as many."""
CHECKS_TRIED: Final = 16
"""Files of which a host that tells checksums tells one; ProFTPD tells none of an empty file."""
SHA256_BYTES: Final = 32
CHANNEL_WINDOW: Final = 2 * AHEAD_FAR
CHANNEL_PACKET: Final = 2**18

_HEADER: Final = struct.Struct(">IBI")  # length of what follows, kind, number
_RANGE: Final = struct.Struct(">QI")  # offset, length
_WHOLE_FILE: Final = struct.pack(">QQI", 0, 0, 0)  # from where, how much, in blocks of

_READ_ONLY = struct.pack(">II", 1, 0)  # SSH_FXF_READ, no attributes
_SIZE, _OWNER, _MODE, _TIMES = 1, 2, 4, 8  # SSH_FILEXFER_ATTR_*


@dataclass(frozen=True)
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


class NoSftpError(paramiko.SSHException):
    """The account has no SFTP."""


class Session:
    """An SFTP session of a transport.

    Args:
        transport: Authenticated.
        timeout: Seconds without an answer until a fault.
        max_rate: Bytes per second at most, 0 for no limit: no more is asked for ahead.
    """

    def __init__(self, transport: paramiko.Transport, timeout: float, max_rate: int = 0) -> None:
        started = time.monotonic()
        try:
            channel = transport.open_session(
                window_size=CHANNEL_WINDOW, max_packet_size=CHANNEL_PACKET, timeout=timeout
            )
        except paramiko.ChannelException as error:
            raise NoSftpError from error
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
            raise paramiko.SFTPError(f"a packet of {size} bytes")
        packet = self._exactly(size)
        return int.from_bytes(packet[1:5], "big"), packet[0], packet[5:]

    def _agree(self) -> None:
        """Take the host's answer to our version, which comes first (draft-02, 4)."""
        try:
            size = int.from_bytes(self._exactly(4), "big")
            kind = self._exactly(size)[0] if 0 < size < 2**16 else 0
        except TimeoutError:
            raise
        except (EOFError, OSError):
            transport = self._channel.transport
            if transport and transport.is_active():  # it is the subsystem that there is not
                raise NoSftpError from None
            raise
        if kind != CMD_VERSION:
            raise NoSftpError
        self._agreed = True

    def _flush(self) -> None:
        self._channel.sendall(b"".join(self._requests))
        self._requests.clear()

    def _exactly(self, size: int) -> memoryview:
        rest = self._rest
        if len(rest) >= size:
            self._rest = rest[size:]
            return rest[:size]
        parts, missing = [rest], size - len(rest)
        while missing > 0:
            if self._requests and not self._channel.recv_ready():
                self._flush()
            block = self._channel.recv(CHANNEL_PACKET)
            if not block:
                raise EOFError
            parts.append(memoryview(block))
            missing -= len(block)
        if missing < 0:
            last = parts[-1]
            parts[-1], self._rest = last[:missing], last[missing:]
        else:
            self._rest = memoryview(b"")
        return memoryview(b"".join(parts))


# --- reading files ------------------------------------------------------------------------


@dataclass
class _Reading:
    """A file under way.

    Attributes:
        file: Which.
        given: Bytes handed on.
        asked: Offset of the next byte to ask for.
        handle: The server's, once it came.
        came: Pieces that came and are not handed on, by offset.
        after: What the host said of the open file when it was read.
        closing: Whether all of it was asked for.
        failed: What went wrong with it, to be told in its turn.
    """

    file: RemoteFile
    given: int = 0
    asked: int = 0
    handle: bytes | None = None
    came: dict[int, memoryview] = field(default_factory=dict)
    after: RemoteFile | None = None
    closing: bool = False
    failed: Exception | None = None


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
        self._asked: dict[int, tuple[_Reading, int, int]] = {}  # number: file, offset, length
        self._under_way = 0
        self._piece = PIECE
        self._more = True

    def blocks(self) -> Iterator[bytes | None]:
        """Yield the blocks of each file, then None once it is read and checked.

        Raises:
            IntegrityError: A file is not as long as it was, or changed while it was read.
            RemotePathError: A file is gone, or cannot be read.
        """
        self._ask()
        while self._open:
            reading = self._open[0]
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
                self._open.popleft()
                yield None
                self._ask()
            else:
                self._answer(*self._session.receive())

    def _contiguous(self, reading: _Reading) -> bytes:
        """Take what can be handed on, once a block is full or nothing more comes for it."""
        offset, parts = reading.given, []
        while offset - reading.given < BLOCK and (part := reading.came.get(offset)) is not None:
            parts.append(part)
            offset += len(part)
        if offset - reading.given < BLOCK and offset < reading.file.size:
            return b""
        for part in parts:
            del reading.came[reading.given]
            reading.given += len(part)
        self._under_way -= sum(map(len, parts))
        return b"".join(parts)

    def _ask(self) -> None:
        """Ask for what may be asked ahead."""
        session = self._session
        budget = session.ahead
        while self._more and self._under_way < budget and len(self._open) < FILES_AHEAD:
            file, start = next(self._files, (None, 0))
            if file is None:
                self._more = False
                break
            reading = _Reading(file, start, start)
            self._open.append(reading)
            fields = _packed(encoded(file.path)) + _READ_ONLY
            self._asked[session.send(CMD_OPEN, fields)] = (reading, -1, 0)
            self._under_way += 1  # empty files count as well
        for reading in self._open:
            if reading.handle is None or reading.closing or reading.failed:
                continue
            first = reading is self._open[0]  # it must go on, whatever the others have taken
            while reading.asked < reading.file.size and (
                self._under_way < budget or (first and reading.asked - reading.given < BLOCK)
            ):
                length = min(self._piece, reading.file.size - reading.asked)
                self._read(reading, reading.asked, length)
                reading.asked += length
                self._under_way += length
            if reading.asked >= reading.file.size:
                reading.closing = True
                if not reading.file.size:
                    self._read(reading, 0, 0)
                fields = _packed(reading.handle)
                self._asked[session.send(CMD_FSTAT, fields)] = (reading, -1, 0)

    def _read(self, reading: _Reading, offset: int, length: int) -> None:
        """Ask for a piece; for the last one with a byte more, to see that the file has grown."""
        assert reading.handle is not None  # noqa: S101 (asked for only once it came)
        last = offset + length == reading.file.size
        fields = _packed(reading.handle) + _RANGE.pack(offset, length + last)
        self._asked[self._session.send(CMD_READ, fields)] = (reading, offset, length)

    def _answer(self, number: int, kind: int, body: memoryview) -> None:
        reading, offset, length = self._asked.pop(number, (None, 0, 0))
        if reading is None or reading.failed:  # of a CLOSE, or of no use any more
            return
        try:
            self._take(reading, offset, length, kind, body)
        except (OSError, LighterageError) as error:
            reading.failed = error

    def _take(
        self, reading: _Reading, offset: int, length: int, kind: int, body: memoryview
    ) -> None:
        file = reading.file
        if kind == CMD_HANDLE:
            reading.handle = bytes(_string(body))
            self._under_way -= 1
            self._ask()
        elif kind == CMD_ATTRS:
            _, reading.after = _attributes(file.path, body)
            if reading.handle is not None:
                self._session.send(CMD_CLOSE, _packed(reading.handle))
        elif kind == CMD_DATA:
            data = _string(body)
            if not data:
                raise paramiko.SFTPError("an answer without data")
            if offset + len(data) > file.size:
                raise IntegrityError(
                    f"{file.path}: the host sends more than its size of {file.size} bytes: it is "
                    "still being written",
                    transient=True,
                )
            if len(data) > length:
                raise paramiko.SFTPError(f"{len(data)} bytes, asked for {length}")
            reading.came[offset] = data
            if len(data) < length:  # allowed, also before the end
                self._piece = min(self._piece, len(data))
                self._read(reading, offset + len(data), length - len(data))
        elif kind == CMD_STATUS and _status(body)[0] == SFTP_EOF:
            if offset < file.size:
                raise IntegrityError(
                    f"{file.path}: short data: {offset} of {file.size} bytes came; the file "
                    "shrank, or the server gave up",
                    transient=True,
                )
        else:
            raise _error(file.path, kind, body)


# --- listing ------------------------------------------------------------------------------


def listing(
    session: Session, top: str, max_depth: int, *, deep: bool = True
) -> Iterator[tuple[str, RemoteFile]]:
    """Yield what lies in a folder: its path relative to it, as the host gives it, and facts.

    Links are not followed. With `deep`, what lies in its folders comes as well: many are asked
    ahead at once.

    Raises:
        RemotePathError: Part of it cannot be read, or it is too deep.
    """
    waiting: deque[tuple[str, str, int]] = deque([(top.rstrip("/") or "/", "", 0)])
    asked: dict[int, tuple[str, str, int, bytes | None]] = {}
    while waiting or asked:
        while waiting and len(asked) < FOLDERS_AHEAD:
            folder, below, depth = waiting.popleft()
            if depth > max_depth:
                raise RemotePathError(f"{folder}: more than {max_depth} folders deep")
            number = session.send(CMD_OPENDIR, _packed(encoded(folder)))
            asked[number] = (folder, below, depth, None)
        number, kind, body = session.receive()
        if number not in asked:
            continue  # of a CLOSE, or behind the end of a folder
        folder, below, depth, handle = asked.pop(number)
        if kind == CMD_HANDLE:
            handle = bytes(_string(body))
        elif kind == CMD_NAME and handle is not None:
            for name, file in _names(folder, body):
                if file.folder and deep:
                    waiting.append((file.path, f"{below}{name}/", depth + 1))
                yield below + name, file
        elif kind == CMD_STATUS and handle is not None and _status(body)[0] == SFTP_EOF:
            asked = {number: what for number, what in asked.items() if what[3] != handle}
            session.send(CMD_CLOSE, _packed(handle))
            continue
        else:
            raise _error(folder, kind, body)
        # One more ahead: mostly a first answer has all the names, and a second one says so.
        for _ in range(2 if kind == CMD_HANDLE else 1):
            number = session.send(CMD_READDIR, _packed(handle))
            asked[number] = (folder, below, depth, handle)


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
        raise paramiko.SFTPError("an answer that ends early")
    return body[4 : 4 + size]


def _digest(body: memoryview) -> bytes:
    """Read the answer to check-file: its name, which some hosts leave out, sha256, the digest."""
    texts = []
    for _ in range(2):
        texts.append(bytes(_string(body)))
        body = body[4 + len(texts[-1]) :]
        if texts[-1] == b"sha256":
            return bytes(body)
    raise paramiko.SFTPError(f"a checksum of kind {texts}")


def _status(body: memoryview) -> tuple[int, str]:
    code, text = int.from_bytes(body[:4], "big"), ""
    with contextlib.suppress(paramiko.SFTPError):
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
        raise paramiko.SFTPError("attributes that end early")
    return used, _remote_file(path, size, mtime, mode)


def _remote_file(path: str, size: int, mtime: int, mode: int) -> RemoteFile:
    kind = stat.S_IFMT(mode)
    special = kind not in {0, stat.S_IFREG, stat.S_IFDIR}
    return RemoteFile(path, size, mtime, folder=kind == stat.S_IFDIR, special=special)


def _error(path: str, kind: int, body: memoryview) -> Exception:
    """Turn an answer that is not the one hoped for into the error that it stands for."""
    if kind != CMD_STATUS:
        return paramiko.SFTPError(f"an answer of kind {kind}")
    code, text = _status(body)
    if code == SFTP_NO_SUCH_FILE:
        return FileNotFoundError(text or path)
    if code == SFTP_PERMISSION_DENIED:
        return PermissionError(13, text, path)
    return RemotePathError(f"{path}: the host cannot read it: {text or code}")
