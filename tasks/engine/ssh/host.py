"""Host: listings, file facts and byte streams of the host that a connection leads to."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import fabric
import paramiko

from tasks.engine import names
from tasks.engine.errors import (
    ArchiveError,
    HostKeyError,
    IntegrityError,
    LighterageError,
    NetworkError,
    RemotePathError,
)
from tasks.engine.progress import human
from tasks.engine.ssh import checksums, sftp
from tasks.engine.ssh.connection import close_hops, opened, replace_by
from tasks.engine.ssh.errors import translated
from tasks.engine.ssh.remote_checksums import Sums
from tasks.engine.ssh.retry import delay_before
from tasks.engine.ssh.sftp import RemoteFile, Session
from tasks.engine.ssh.stream import Link, Pace, Stream

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Iterator, Sequence

    from tasks.settings import Settings


log = logging.getLogger(__name__)


COMMAND_SECONDS = 0.5

WORTH_PACKING = 2**23
"""Bytes that must be left: to connect again takes a handful of round trips."""
MAX_DEPTH = 64
"""Folders below folders that a listing follows; a real dataset has a few."""


def _is_glob(path: str) -> bool:
    return any(char in path for char in "*?[")


def _require_same(session: Session, file: RemoteFile) -> None:
    """Raise `IntegrityError` where a file is not as it was when it was listed."""
    if not session.stat(file.path).same_as(file):
        raise IntegrityError(
            f"{file.path}: changed on the host while it was fetched", transient=True
        )


@dataclass(frozen=True)
class Listing:
    """The files below a folder, by their path relative to it, and how many others there were."""

    files: dict[PurePosixPath, RemoteFile]
    skipped: int


class Host:
    """What a connection leads to: facts, listings, and bytes that survive a cut.

    Args:
        connection: From `connect`, open.
        settings: For the waiting and trying again.
    """

    def __init__(self, connection: fabric.Connection, settings: Settings) -> None:
        self._connection = connection
        self._settings = settings
        self._sftp: Session | None = None
        self._side: Session | None = None
        self._generation = 0
        self._lock = threading.RLock()  # of the generation, and of what connection there is
        self._compression: bool | None = None  # None: not tried

    @property
    def name(self) -> str:
        """Account, host and port, as ssh has them."""
        return f"{self._connection.user}@{self._connection.host}:{self._connection.port}"

    def explained(self) -> list[str]:
        """Say how the link is used, and why."""
        session, transport = self._session(), self._connection.transport
        trip = 1000 * session.round_trip
        lines = [
            f"{transport.remote_cipher}: the fastest of those that both sides have",
            f"one SFTP session, {session.ahead / 2**20:.1f} MiB asked for ahead: "
            f"a round trip takes {trip:.1f} ms; it needs no command on the host",
        ]
        if self._compression:
            lines.append("SSH compression: the link is slow, and what comes can be packed")
        if self._settings.max_rate:
            lines.append(f"at most {human(self._settings.max_rate)}/s: max_rate")
        return lines

    def facts(self, path: str) -> RemoteFile:
        """Say what `path` is, links followed.

        Raises:
            RemotePathError: There is none, or the account may not look.
        """
        with translated(path):
            return self._session().stat(path)

    def expand(self, patterns: Iterable[str], *, folders: bool = False) -> list[RemoteFile]:
        """Say what some paths and globs name, each once; a path that exists is no glob.

        Args:
            patterns: The paths and globs.
            folders: Whether they must be directories: then a path is not asked for, since
                `listing` will tell, and a round trip is saved.

        Raises:
            RemotePathError: There is nothing of that name, or the account may not look.
        """
        found: dict[str, RemoteFile] = {}
        for pattern in patterns:
            if folders and not _is_glob(pattern):
                found[pattern] = RemoteFile(pattern, 0, 0, folder=True)
                continue
            named = self._named(pattern)
            if not named:
                raise RemotePathError(f"{pattern}: nothing on the host matches")
            found.update((file.path, file) for file in named)
        return list(found.values())

    def _named(self, pattern: str) -> list[RemoteFile]:
        if not _is_glob(pattern):
            return [self.facts(pattern)]
        with contextlib.suppress(RemotePathError):
            return [self.facts(pattern)]
        found = ["/" if pattern.startswith("/") else ""]
        with translated(pattern):
            for part in filter(None, pattern.split("/")):
                found = [
                    path + name
                    for path in (folder and folder.rstrip("/") + "/" for folder in found)
                    for name in (self._matching(path, part) if _is_glob(part) else [part])
                ]
            return [file for file in self._session().stats(found) if isinstance(file, RemoteFile)]

    def _matching(self, folder: str, glob: str) -> list[str]:
        """List the names in a folder that match; hidden ones only where the glob says so."""
        names_there = []
        try:
            found = sftp.listing(self._session(), folder or ".", 0, deep=False)
            for count, (name, _) in enumerate(found):
                self._bound(folder, count)
                if fnmatchcase(name, glob) and (glob.startswith(".") or not name.startswith(".")):
                    if "/" in name:
                        raise ArchiveError(f"listing of {folder}: {name!r} is no name of a file")
                    names.safe(name, f"listing of {folder}")
                    names_there.append(name)
        except (OSError, RemotePathError) as error:  # a file where a folder would have to be
            log.debug("%s: %s", folder, error)
        return sorted(names_there)

    def listing(self, path: str) -> Listing:
        """List the files below a folder; links and special files are counted, not followed.

        Raises:
            ArchiveError: The host gives a name that would lead out of the folder, or no end of
                names.
            RemotePathError: It is no folder, or part of it cannot be read.
        """
        try:
            return self._listing(path)
        except RemotePathError:
            self.reset()
            if not self.facts(path).folder:
                raise RemotePathError(f"{path}: is a file: tasks 1 and 2 take archives") from None
            raise

    def _listing(self, path: str) -> Listing:
        found: dict[PurePosixPath, RemoteFile] = {}
        skipped = folders = 0
        with translated(path):
            for name, file in sftp.listing(self._session(), path, MAX_DEPTH):
                self._bound(path, max(len(found) + skipped, folders))
                relative = names.safe(name, f"listing of {path}")
                if name.count("/") != str(relative).count("/") or file.path.count("//"):
                    raise ArchiveError(f"listing of {path}: {name!r} is no name of a file")
                if file.special:
                    skipped += 1
                elif file.folder:
                    folders += 1
                else:
                    found[relative] = file
        return Listing(dict(sorted(found.items())), skipped)

    def _bound(self, path: str, count: int) -> None:
        if count >= self._settings.max_members:
            raise ArchiveError(
                f"listing of {path}: has more than {self._settings.max_members} names: "
                "set max_members higher if that is right"
            )

    def files(
        self, wanted: Iterable[tuple[RemoteFile, int]], on_bytes: Callable[[int], None]
    ) -> Iterator[Stream]:
        """Yield the bytes of each file; the next ones are asked for ahead.

        Args:
            wanted: What to read, in this order, and from which byte on.
            on_bytes: Called with the number of bytes of each block that came.

        Raises:
            LighterageError: From the streams, or here; see `Stream`. The session is of no use
                then, see `reset`.
        """
        wanted = list(wanted)
        items = self._items(wanted, on_bytes)
        for file, start in wanted:
            stream = Stream(file.path, start, items)
            yield stream
            for _ in stream:  # what nobody read
                pass

    def _items(
        self, wanted: list[tuple[RemoteFile, int]], on_bytes: Callable[[int], None]
    ) -> Iterator[bytes | None]:
        """Yield the blocks of each file and then None; go on after a cut where it was."""
        pace, link = Pace(self._settings.max_rate), Link()
        index, failures, generation = 0, 0, self._generation
        offset = wanted[0][1] if wanted else 0
        while index < len(wanted):
            file, _ = wanted[index]
            try:
                with translated(file.path):
                    if failures:
                        self._reopen(file, generation)
                    session = self._session_of(generation)
                    rest = [(file, offset), *wanted[index + 1 :]]
                    blocks = sftp.Reader(session, rest).blocks()
                while index < len(wanted) and session is self._sftp:
                    file, _ = wanted[index]
                    started = time.monotonic()
                    with translated(file.path):
                        block = next(blocks)
                    waited_s = time.monotonic() - started
                    failures = 0
                    if block is None:
                        index += 1
                        offset = wanted[index][1] if index < len(wanted) else 0
                    else:
                        offset += len(block)
                        on_bytes(len(block))
                        pace.keep(len(block))
                        judged = self._compression is None and not self._settings.max_rate
                        if judged and link.slow(block, waited_s):
                            left = sum(other.size - start for other, start in wanted[index + 1 :])
                            if file.size - offset + left >= WORTH_PACKING:
                                self._compress(file, generation)
                    yield block
            except NetworkError as error:
                if generation != self._generation:
                    raise
                failures += 1
                if not error.transient or failures >= self._settings.max_tries:
                    error.transient = False  # all tries are used up
                    raise
                delay = delay_before(self._settings, failures)
                log.warning("%s; going on at byte %d in %.1f s", error, offset, delay)
                time.sleep(delay)

    def _compress(self, file: RemoteFile, generation: int) -> None:
        """Move to a second connection, with compression; stay on the first where that fails."""
        log.info("the link is slow: opening a second connection, with compression")
        self._compression = False
        try:
            other = opened(self._settings, compress=True, prompt=False)
            try:
                with translated(file.path):
                    session = self._new_session(other)
                    _require_same(session, file)
                self._replace_connection(other, session, generation)
            except BaseException:
                close_hops(other)
                raise
        except HostKeyError:
            raise
        except LighterageError as error:
            log.info("staying on the first connection, without compression: %s", error)
        else:
            self._compression = True

    def ending(self, file: RemoteFile, start: int) -> bytes:
        """Read a file from a byte on to its end, beside what is being streamed."""
        failures, generation = 0, self._generation
        while True:
            try:
                with translated(file.path):
                    if self._side is None:
                        self._side = self._new_session(self._connection)
                    return b"".join(
                        block
                        for block in sftp.Reader(self._side, [(file, start)]).blocks()
                        if block
                    )
            except NetworkError as error:
                failures += 1
                if failures == self._settings.max_tries or not error.transient:
                    error.transient = False
                    raise
                delay = delay_before(self._settings, failures)
                log.warning("%s; asking again in %.1f s", error, delay)
                time.sleep(delay)
                self._reopen(file, generation)
            except LighterageError:
                self._side = None  # answers may still be under way
                raise

    def sums(self, files: Iterable[RemoteFile], there: Container[str] | None = None) -> Sums:
        """Begin to ask for the sha256 of some files.

        Args:
            files: Which.
            there: The paths of a listing; None where nobody has listed the folders.
        """
        files = list(files)
        paths = [file.path for file in files]
        if self._settings.verify == "size":
            return Sums(self, self._settings, [], {})
        with translated(", ".join(paths[:1])):
            known = self._told_beside(paths, there)
        missing = [path for path in paths if path not in known]
        return Sums(self, self._settings, missing, known)

    def _told_beside(self, paths: list[str], there: Container[str] | None) -> dict[str, str]:
        """Read the checksums that lie beside the data: NAME.sha256, and SHA256SUMS."""
        candidates = [place for path in paths for place in checksums.beside(path)]
        if there is not None:
            candidates = [place for place in candidates if place in there]
        facts = self._session().stats(list(dict.fromkeys(candidates)))
        sidecars = [
            file
            for file in facts
            if isinstance(file, RemoteFile) and not file.folder and file.size <= checksums.MAX_SIZE
        ]
        found: dict[str, str] = {}
        own: dict[str, str] = {}
        for place, text in self._texts(sidecars):
            alone = place.name.removesuffix(checksums.SUFFIX) if place.suffix else ""
            (own if alone else found).update(checksums.parse(text, place.parent, alone))
        told = {**found, **own}
        by_path = {path: told.get(str(PurePosixPath(path))) for path in paths}
        return {path: digest for path, digest in by_path.items() if digest}

    def _texts(self, files: Iterable[RemoteFile]) -> Iterator[tuple[PurePosixPath, str]]:
        """Read small files; those that cannot be read are passed over."""
        left = deque(files)
        while left:
            try:
                for stream in self.files([(file, 0) for file in left], lambda _: None):
                    text = b"".join(stream).decode("utf-8", "replace")
                    yield PurePosixPath(left.popleft().path), text
            except (RemotePathError, IntegrityError) as error:
                log.warning("%s; passed over", error)
                left.popleft()
                self.reset()

    def ask(self, command: bytes, seconds: Callable[[], float]) -> str | None:
        """Run a command on the host, and return what it writes; None where it runs none.

        Args:
            command: For the account's shell.
            seconds: How long may still be waited for more of its output.

        Raises:
            NetworkError: The connection is lost.
        """
        transport = self._connection.transport
        if transport is None:  # while somebody connects again
            raise NetworkError("the connection was lost", transient=True)
        try:
            channel = transport.open_session(timeout=self._settings.timeout)
            with contextlib.closing(channel):
                channel.settimeout(COMMAND_SECONDS)
                channel.exec_command(command)
                channel.shutdown_write()
                output = []
                while True:
                    try:
                        block = channel.recv(2**16)
                    except TimeoutError:
                        if seconds() <= 0:
                            return None
                        continue
                    if not block:
                        break
                    output.append(block)
                if channel.recv_exit_status():
                    return None
        except (OSError, EOFError, paramiko.SSHException) as error:
            log.debug("no command: %r", error)
            if not transport.is_active():
                raise NetworkError("the connection was lost", transient=True) from error
            return None
        return b"".join(output).decode("utf-8", "surrogateescape")

    def checksums(self, paths: Sequence[str], seconds: float) -> dict[str, str]:
        """Ask through SFTP for the sha256 of some files, of which few hosts tell any.

        Args:
            paths: Of which.
            seconds: How long may be waited for each.

        Raises:
            NetworkError: The connection is lost.
        """
        found: dict[str, str] = {}
        if not paths:
            return found
        try:
            with self._session().patient(seconds) as session:
                found.update(session.checksums(paths))
        except (OSError, EOFError, paramiko.SSHException, paramiko.SFTPError) as error:
            log.debug("no checksums through SFTP: %r", error)
            self.reset()
            transport = self._connection.transport
            if transport is None or not transport.is_active():
                raise NetworkError("the connection was lost", transient=True) from error
        return found

    def reset(self) -> None:
        """Begin a new session, since of this one answers may still be under way.

        Another thread may still read from it: that ends with an error, and does not go on.
        """
        with self._lock:
            self._generation += 1
            session, self._sftp = self._sftp, None
        if session is not None:
            session.close()

    def reconnect(self) -> None:
        """Connect again, after a cut."""
        self._reconnect(self._generation)

    def _reconnect(self, generation: int) -> None:
        with self._lock:
            self._require(generation)
            # Before the new one: a host may allow an account a single connection.
            close_hops(self._connection)
            self._sftp = self._side = None
        other = opened(self._settings, compress=bool(self._compression))
        try:
            self._replace_connection(other, None, generation)
        except NetworkError:
            close_hops(other)
            raise

    def _replace_connection(
        self, other: fabric.Connection, session: Session | None, generation: int
    ) -> None:
        """Take over another connection, and close the one so far.

        The lock is held for no longer than that takes: a new connection is opened without it.
        """
        with self._lock:
            self._require(generation)
            close_hops(self._connection)
            replace_by(self._connection, other)
            self._sftp, self._side = session, None

    def _require(self, generation: int) -> None:
        """End a thread whose data nobody reads any more, before it touches the connection."""
        if generation != self._generation:
            raise NetworkError("the download was given up")

    def _reopen(self, file: RemoteFile, generation: int) -> None:
        """Connect again, and require that the file is still the same."""
        self._reconnect(generation)
        with translated(file.path):
            _require_same(self._session_of(generation), file)

    def _session_of(self, generation: int) -> Session:
        with self._lock:
            self._require(generation)
            return self._session()

    def _session(self) -> Session:
        if self._sftp is None:
            self._sftp = self._new_session(self._connection)
        return self._sftp

    def _new_session(self, connection: fabric.Connection) -> Session:
        settings = self._settings
        return Session(connection.transport, settings.timeout, settings.max_rate)
