"""SFTP listing: the names in a folder and the folders in it, within limits of names and time."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from tasks.fetch import names
from tasks.fetch.errors import NetworkError, RemotePathError
from tasks.fetch.ssh import sftp_packets as packets
from tasks.fetch.ssh.errors import folder_fault
from tasks.fetch.ssh.remote_files import Fault, RemoteFile
from tasks.fetch.ssh.sftp_session import Session

REQUESTS_AHEAD: Final = 64
"""Requests under way, of which a folder has up to two."""
MAX_NAMELESS: Final = 100
"""Answers to READDIR in a row without a name, after which a listing is taken to have no end."""


class ListingLimitError(RemotePathError):
    """A listing has more names or answers than it may."""


class Limits:
    """The names and the time that the listings of a run, or of one glob, may take together.

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

    def count(self, folder: str, found: Sequence[tuple[str, RemoteFile]]) -> None:
        """Count the names of an answer.

        Raises:
            ListingLimitError: These are too many.
        """
        folders = sum(file.folder for _, file in found)
        self._folders += folders
        self._files += len(found) - folders
        if max(self._files, self._folders) > self._names:
            raise ListingLimitError(
                f"{folder}: the directory listing has more than {self._names} names",
                advice="set max_members higher if that is right",
            )

    def progress(self) -> None:
        """Note that the listing proceeds."""
        most = self._seconds * (10 + (self._files + self._folders) / 100)
        self.deadline = min(time.monotonic() + self._seconds, self._start + most)

    def late(self, folder: str) -> NetworkError:
        """Return the error of a listing that takes too long."""
        return NetworkError(
            f"{folder}: listing timed out: {self._files + self._folders} names in "
            f"{time.monotonic() - self._start:.0f} s",
            advice="set timeout higher if the host is that slow",
            transient=True,
        )


@dataclass(slots=True, eq=False)
class _Folder:
    """A folder that is being listed."""

    path: str
    below: str = ""  # the path relative to the top, with a slash at its end
    depth: int = 0
    handle: bytes = b""
    nameless: int = 0  # answers in a row without a name


class Lister:
    """Lists a folder and the folders in it, many at once. Links are not followed.

    Args:
        session: With no other user at the same time.
        top: The folder.
        max_depth: How many folders below folders to list; 0 lists only `top`.
        limits: How many names and how much time it may take.

    Attributes:
        faults: The paths below `top` that are left out so far.
    """

    def __init__(self, session: Session, top: str, max_depth: int, limits: Limits) -> None:
        self.faults: list[Fault] = []
        self._session = session
        self._max_depth = max_depth
        self._limits = limits
        self._waiting = deque([_Folder(top.rstrip("/") or "/")])
        self._requests: dict[int, _Folder] = {}

    def entries(self) -> Iterator[tuple[str, RemoteFile]]:
        """Yield each name in it: its path relative to the top, and its attributes.

        Raises:
            RemotePathError: `top` cannot be read, or there are too many names.
            NetworkError: It takes too long.
        """
        self._limits.progress()
        while self._waiting or self._requests:
            while self._waiting and len(self._requests) < REQUESTS_AHEAD:
                folder = self._waiting.popleft()
                self._request(packets.OPENDIR, packets.path_string(folder.path), folder)
            number, kind, body = self._receive()
            if number not in self._requests:
                continue  # of a CLOSE, or after the end of a folder
            folder = self._requests.pop(number)
            if kind == packets.HANDLE and not folder.handle:
                folder.handle = packets.read_handle(body)
                # Mostly the first answer has all the names, and the second one says so.
                self._request_names(folder)
                self._request_names(folder)
            elif kind == packets.NAME and folder.handle:
                yield from self._take_names(folder, body)
            elif folder.handle and packets.is_end(kind, body):
                self._end(folder)
            else:
                self._end(folder, packets.error_of(folder.path, kind, body))

    def _request(self, kind: int, fields: bytes, folder: _Folder) -> None:
        self._requests[self._session.send(kind, fields)] = folder

    def _request_names(self, folder: _Folder) -> None:
        self._request(packets.READDIR, packets.string(folder.handle), folder)

    def _receive(self) -> tuple[int, int, bytes]:
        session, limits = self._session, self._limits
        session.deadline = limits.deadline
        try:
            answer = session.receive()
            late = time.monotonic() > limits.deadline
        except TimeoutError:
            late = True
        finally:
            session.deadline = float("inf")
        if late:
            raise limits.late(next(iter(self._requests.values())).path)
        return answer

    def _take_names(self, folder: _Folder, body: bytes) -> Iterator[tuple[str, RemoteFile]]:
        found = list(packets.read_names(folder.path, body))
        folder.nameless = 0 if found else folder.nameless + 1
        self._limits.count(folder.path, found)
        for name, file in found:
            if problem := _problem(folder.below, name):
                error = RemotePathError(
                    f"{file.path}: the name {name!r} {problem}", advice="rename it on the host"
                )
                self.faults.append(Fault(file.path, file.folder, error))
                continue
            if file.folder and folder.depth < self._max_depth:
                below = f"{folder.below}{name}/"
                self._waiting.append(_Folder(file.path, below, folder.depth + 1))
            elif file.folder and self._max_depth:
                error = RemotePathError(
                    f"{file.path}: more than {self._max_depth} folders deep",
                    advice="set remote_file_path to a directory further down",
                )
                self.faults.append(Fault(file.path, True, error))
            yield folder.below + name, file
        if folder.nameless > MAX_NAMELESS:
            text = f"the listing has no end: {folder.nameless} answers in a row without a name"
            self._end(folder, ListingLimitError(f"{folder.path}: {text}"))
            return
        if not folder.nameless:
            self._limits.progress()
        self._request_names(folder)

    def _end(self, folder: _Folder, error: Exception | None = None) -> None:
        """Close a folder, at its end or because of an error of its own."""
        if error is not None:
            if not folder.depth or not isinstance(error, OSError | RemotePathError):
                raise error
            self.faults.append(folder_fault(folder.path, error))
        self._limits.progress()
        if folder.handle:
            self._session.send(packets.CLOSE, packets.string(folder.handle))
        self._requests = {n: other for n, other in self._requests.items() if other is not folder}


def _problem(below: str, name: str) -> str:
    """Return why a name of a listing cannot be used, or nothing."""
    if not name:
        return "is empty"
    return "has a slash" if "/" in name else names.problem(below + name)
