"""SFTP packets: their numbers and how they are written and read.

Protocol: draft-ietf-secsh-filexfer-02, version 3, which every server has. What reads a packet
raises `ProtocolError` where the packet ends early or breaks the protocol.
"""

from __future__ import annotations

import contextlib
import stat
import struct
from collections.abc import Iterator
from typing import Final, TypeVar

import paramiko

from tasks.fetch.errors import RemotePathError
from tasks.fetch.ssh.remote_files import RemoteFile

VERSION_3: Final = 3
INIT, VERSION, OPEN, CLOSE, READ, FSTAT, OPENDIR, READDIR, STAT = 1, 2, 3, 4, 5, 8, 11, 12, 17
REMOVE, MKDIR, REALPATH, RENAME = 13, 14, 16, 18
STATUS, HANDLE, DATA, NAME, ATTRS, EXTENDED, EXTENDED_REPLY = 101, 102, 103, 104, 105, 200, 201
END_OF_FILE, NO_SUCH_FILE, PERMISSION_DENIED = 1, 2, 3  # status codes

READ_ONLY: Final = struct.pack(">II", 1, 0)  # SSH_FXF_READ, no attributes
RANGE: Final = struct.Struct(">QI")  # offset, length
WHOLE_FILE: Final = struct.pack(">QQI", 0, 0, 0)  # from where, how much, in blocks of
HEADER: Final = struct.Struct(">IBI")  # length of what follows, kind, number
LIMITS: Final = struct.Struct(">QQQQ")  # of a packet, a READ, a WRITE, and of open handles
SHA256_BYTES: Final = 32

_SIZE, _OWNER, _MODE, _TIMES = 1, 2, 4, 8  # SSH_FILEXFER_ATTR_*
_ALL: Final = struct.Struct(
    ">IQIIIII"
)  # flags, size, user, group, mode, times of access and change


T = TypeVar("T", bytes, memoryview)


class ProtocolError(paramiko.SSHException):
    """The server's answer breaks the protocol."""

    def __init__(self, text: str) -> None:
        super().__init__(f"unexpected SFTP answer: {text}")


def encoded(path: str) -> bytes:
    """Return a path as the host wants it; names that are not UTF-8 are sent as they were."""
    return path.encode("utf-8", "surrogateescape")


def string(text: bytes) -> bytes:
    """Write a string."""
    return len(text).to_bytes(4, "big") + text


def path_string(path: str) -> bytes:
    """Write a path."""
    return string(encoded(path))


LIMITS_NAME: Final = string(b"limits@openssh.com")


def read_string(body: T) -> T:
    """Read a string at the start of `body`."""
    size = int.from_bytes(body[:4], "big")
    if len(body) < 4 + size:
        raise ProtocolError("it ends early")
    return body[4 : 4 + size]


def read_handle(body: bytes) -> bytes:
    """Read a handle, which is not empty."""
    handle = bytes(read_string(body))
    if not handle:
        raise ProtocolError("a handle of no bytes")
    return handle


def read_sha256(body: bytes) -> bytes:
    """Read the answer to check-file: its name, which some hosts leave out, sha256, the digest.

    Returns:
        The digest; empty where it is no SHA-256 of the whole file.
    """
    texts = []
    for _ in range(2):
        texts.append(bytes(read_string(body)))
        body = body[4 + len(texts[-1]) :]
        if texts[-1] == b"sha256":
            return bytes(body) if len(body) == SHA256_BYTES else b""
    raise ProtocolError(f"a checksum of kind {texts}")


def read_status(body: bytes) -> tuple[int, str]:
    """Read a status: its code and text."""
    code, text = int.from_bytes(body[:4], "big"), ""
    with contextlib.suppress(ProtocolError):
        text = bytes(read_string(body[4:])).decode(errors="replace")
    return code, text


def is_end(kind: int, body: bytes) -> bool:
    """Return whether an answer is the end of a file or of a folder's names."""
    return kind == STATUS and read_status(body)[0] == END_OF_FILE


def read_attributes(path: str, body: T) -> tuple[int, RemoteFile]:
    """Read attributes: the bytes that they take, and what they say of `path`."""
    if len(body) >= _ALL.size:  # mostly: in one step
        flags, size, _, _, mode, _, mtime = _ALL.unpack_from(body)
        if flags == _SIZE | _OWNER | _MODE | _TIMES:
            return _ALL.size, _file(path, size, mode, mtime)
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
            used += 4 + len(read_string(body[used:]))
    if used > len(body):
        raise ProtocolError("attributes end early")
    return used, _file(path, size, mode, mtime)


def _file(path: str, size: int, mode: int, mtime: int) -> RemoteFile:
    kind = stat.S_IFMT(mode)
    special = kind not in {0, stat.S_IFREG, stat.S_IFDIR}
    return RemoteFile(path, size, mtime, folder=kind == stat.S_IFDIR, special=special)


def read_names(folder: str, body: bytes) -> Iterator[tuple[str, RemoteFile]]:
    """Read the names of an answer to READDIR, and their attributes; `.` and `..` aside."""
    start = folder.rstrip("/") + "/"
    view = memoryview(body)
    at, end = 4, len(view)
    for _ in range(int.from_bytes(view[:4], "big")):
        name_at = at + 4
        line_at = name_at + int.from_bytes(view[at:name_at], "big") + 4
        # The line of `ls` is not to be parsed.
        at = line_at + int.from_bytes(view[line_at - 4 : line_at], "big")
        if line_at > end or at > end:
            raise ProtocolError("it ends early")
        name = str(view[name_at : line_at - 4], "utf-8", "surrogateescape")
        used, file = read_attributes(start + name, view[at:])
        at += used
        if name not in {".", ".."}:
            yield name, file


def error_of(path: str, kind: int, body: bytes) -> Exception:
    """Return the error that an answer stands for which is not of the wanted kind."""
    if kind != STATUS:
        return ProtocolError(f"of kind {kind}")
    code, text = read_status(body)
    if code == NO_SUCH_FILE:
        return FileNotFoundError(text or path)
    if code == PERMISSION_DENIED:
        return PermissionError(13, text, path)
    return RemotePathError(f"{path}: the host cannot read it: {text or code}")
