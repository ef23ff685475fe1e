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
from typing import TYPE_CHECKING, TypeVar

import fabric
import paramiko

from tasks.fetch.errors import (
    HostKeyError,
    IntegrityError,
    LighterageError,
    NetworkError,
    RemotePathError,
)
from tasks.fetch.progress import human
from tasks.fetch.ssh import checksums, sftp
from tasks.fetch.ssh.connection import close_hops, opened, replace_by
from tasks.fetch.ssh.errors import translated
from tasks.fetch.ssh.remote_checksums import Sums
from tasks.fetch.ssh.retry import delay_before
from tasks.fetch.ssh.sftp import RemoteFile, Session, SessionRefusedError
from tasks.fetch.ssh.stream import Link, Pace, Stream

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Iterator, Sequence

    from tasks.settings import Settings


log = logging.getLogger(__name__)
T = TypeVar("T")


COMMAND_SECONDS = 0.5
SESSION_DELAYS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
"""Seconds to wait for a server that refuses a session because a closed one still counts."""

WORTH_PACKING = 2**23
"""Bytes that must be left: to connect again takes a handful of round trips."""
MAX_DEPTH = 64
"""Folders below folders that a listing follows; a real dataset has a few."""


def _is_glob(path: str) -> bool:
    return any(char in path for char in "*?[")


@dataclass(frozen=True, slots=True)
class Fault:
    """A path that a listing leaves out, and the reason."""

    path: str
    folder: bool
    error: RemotePathError


def _require_same(session: Session, file: RemoteFile) -> None:
    """Raise `IntegrityError` where a file is not as it was when it was listed."""
    if not session.stat(file.path).same_as(file):
        raise IntegrityError(
            f"{file.path}: changed on the host while it was fetched", transient=True
        )


@dataclass(frozen=True)
class Listing:
    """What lies below a folder.

    Attributes:
        files: The files, by their path relative to it, sorted.
        special: How many links and special files there are.
        faults: What was left out.
    """

    files: dict[str, RemoteFile]
    special: int
    faults: list[Fault]


@dataclass(frozen=True)
class CommandResult:
    """What a command wrote to its standard output, and why that may not be all."""

    output: str
    failure: str = ""


def _fault(path: str, is_folder: bool, error: Exception) -> Fault:
    try:
        with translated(path):
            raise error
    except RemotePathError as reason:
        return Fault(path, is_folder, reason)


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
        self._reader: sftp.Reader | None = None
        self._had_session = False
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

    def expand(
        self, patterns: Sequence[str], *, folders: bool = False
    ) -> tuple[list[RemoteFile], list[Fault]]:
        """Say what some paths and globs name, each once; a path that exists is no glob.

        Args:
            patterns: The paths and globs.
            folders: Whether a single path must be a directory: then it is not asked for, since
                `listing` will tell, and a round trip is saved.

        Returns:
            What they name, and the paths that a glob matches but that cannot be used.

        Raises:
            RemotePathError: There is nothing of that name, or the account may not look.
        """
        if folders and len(patterns) == 1 and not _is_glob(patterns[0]):
            return [RemoteFile(patterns[0], 0, 0, folder=True)], []
        found: dict[str, RemoteFile] = {}
        faults: list[Fault] = []
        for pattern in patterns:
            named = self._named(pattern, faults)
            if not named and not faults:
                raise RemotePathError(f"{pattern}: nothing on the host matches")
            found.update((file.path, file) for file in named)
        return list(found.values()), faults

    def _named(self, pattern: str, faults: list[Fault]) -> list[RemoteFile]:
        if not _is_glob(pattern):
            return [self.facts(pattern)]
        with contextlib.suppress(RemotePathError):
            return [self.facts(pattern)]
        bounds = self._bounds()
        found = ["/" if pattern.startswith("/") else ""]
        with translated(pattern):
            for part in filter(None, pattern.split("/")):
                found = [
                    path + name
                    for path in (folder and folder.rstrip("/") + "/" for folder in found)
                    for name in (
                        self._matching(path, part, bounds, faults) if _is_glob(part) else [part]
                    )
                ]
            return [file for file in self._session().stats(found) if isinstance(file, RemoteFile)]

    def _matching(
        self, folder: str, glob: str, bounds: sftp.Bounds, faults: list[Fault]
    ) -> list[str]:
        """List the names in a folder that match; hidden ones only where the glob says so."""

        def matches(name: str) -> bool:
            return fnmatchcase(name, glob) and (glob.startswith(".") or not name.startswith("."))

        def on_fault(path: str, is_folder: bool, error: Exception) -> None:
            if matches(PurePosixPath(path).name):
                faults.append(_fault(path, is_folder, error))

        try:
            lister = sftp.Lister(self._session(), folder or ".", 0, bounds, on_fault)
            return sorted(name for name, _ in lister.entries() if matches(name))
        except sftp.ListingLimitError:
            raise
        except PermissionError as error:
            log.warning("%s: cannot be listed, and is left out: %s", folder, error.strerror)
        except (FileNotFoundError, RemotePathError) as error:  # a file in a folder's place
            log.debug("%s: %s", folder, error)
        return []

    def listing(self, path: str) -> Listing:
        """List the files below a folder; links and special files are counted, not followed.

        Raises:
            RemotePathError: It is no folder, or cannot be read, or has too many names.
        """
        try:
            return self._listing(path)
        except RemotePathError:
            self.reset()
            if not self.facts(path).folder:
                raise RemotePathError(f"{path}: is a file: tasks 1 and 2 take archives") from None
            raise

    def _listing(self, path: str) -> Listing:
        found: dict[str, RemoteFile] = {}
        faults: list[Fault] = []
        special = 0

        def on_fault(path: str, is_folder: bool, error: Exception) -> None:
            faults.append(_fault(path, is_folder, error))

        with translated(path):
            lister = sftp.Lister(self._session(), path, MAX_DEPTH, self._bounds(), on_fault)
            for name, file in lister.entries():
                if file.special:
                    special += 1
                elif not file.folder:
                    found[name] = file
        return Listing(dict(sorted(found.items())), special, faults)

    def _bounds(self) -> sftp.Bounds:
        return sftp.Bounds(self._settings.max_members, self._settings.timeout)

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
                    self._reader = sftp.Reader(session, rest)
                    blocks = self._reader.blocks()
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
                    if self._reader is None:
                        self._reader = sftp.Reader(self._session_of(generation), [])
                    return self._reader.tail(file, start)
            except NetworkError as error:
                failures += 1
                if failures == self._settings.max_tries or not error.transient:
                    error.transient = False
                    raise
                delay = delay_before(self._settings, failures)
                log.warning("%s; asking again in %.1f s", error, delay)
                time.sleep(delay)
                self._reopen(file, generation)

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
        candidates = [
            place
            for path in paths
            for place in checksums.beside(path)
            if there is None or place in there
        ]
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
        by_path = {path: told.get(str(PurePosixPath(path))) for path in paths if told}
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

    def run(
        self, command: str, names_in: bytes, most: int, seconds: Callable[[], float]
    ) -> CommandResult:
        """Run a command on the host.

        Args:
            command: For the account's shell, whichever it is: plain words, and no text of users.
            names_in: Its standard input.
            most: How many bytes it may write.
            seconds: How long to wait for more of its output.

        Raises:
            NetworkError: The connection is lost.
            SessionRefusedError: The server opens no second session on the connection.
        """
        transport = self._connection.transport
        if transport is None:  # while somebody connects again
            raise NetworkError("the connection was lost", transient=True)
        try:
            channel = self._opened(
                lambda: transport.open_session(timeout=self._settings.timeout),
                again=self._sftp is None,
            )
            channel.settimeout(self._settings.timeout)
            with contextlib.closing(channel):
                channel.exec_command(command.encode())
                with contextlib.suppress(OSError):  # it need not read: a shell without the program
                    channel.sendall(names_in)
                    channel.shutdown_write()
                return _result(channel, most, seconds)
        except SessionRefusedError:
            raise
        except (OSError, EOFError, paramiko.SSHException) as error:
            log.debug("no command: %r", error)
            if not transport.is_active():
                raise NetworkError("the connection was lost", transient=True) from error
            return CommandResult("", "the server runs no commands for this account")

    def _opened(self, opened: Callable[[], T], *, again: bool) -> T:
        """Open a session.

        Args:
            opened: Opens it.
            again: Whether to try again where the server refuses: it takes a moment until a closed
                session counts no more.

        Raises:
            SessionRefusedError: The server opens no further one.
        """
        for delay in (*(SESSION_DELAYS if again else ()), None):
            try:
                return opened()
            except paramiko.ChannelException as error:
                if delay is None:
                    raise SessionRefusedError(error.text) from error
                time.sleep(delay)
        raise AssertionError

    def alive(self) -> None:
        """Wait for an answer of the host, through its SFTP session if there is one.

        Raises:
            NetworkError: None came in time.
        """
        transport, seconds = self._connection.transport, self._settings.timeout
        if self._sftp is not None:
            self.facts(".")
            return
        if transport is not None:
            # Paramiko waits for the answer without a time limit.
            asking = threading.Thread(
                target=transport.global_request, args=("keepalive@openssh.com",), daemon=True
            )
            asking.start()
            asking.join(seconds)
            if not asking.is_alive() and transport.is_active():
                return
        raise NetworkError(f"{self.name}: no answer in {seconds:g} s", transient=True)

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
            session, self._sftp, self._reader = self._sftp, None, None
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
            self._sftp = self._reader = None
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
            self._sftp, self._reader = session, None

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
        settings, transport = self._settings, connection.transport
        session = self._opened(
            lambda: Session(transport, settings.timeout, settings.max_rate),
            again=self._had_session,
        )
        self._had_session = True
        return session


def _result(channel: paramiko.Channel, most: int, seconds: Callable[[], float]) -> CommandResult:
    """Read what a command writes, up to a number of bytes and for some time."""
    output, errors, failure = bytearray(), bytearray(), ""
    channel.settimeout(COMMAND_SECONDS)
    while not failure:
        try:
            block = channel.recv(2**16)
            if not block:
                break
            output += block
        except TimeoutError:
            pass
        while channel.recv_stderr_ready() and len(errors) <= most:
            errors += channel.recv_stderr(2**16)
        if max(len(output), len(errors)) > most:
            return CommandResult("", f"it wrote more than {most} bytes")
        if seconds() <= 0:
            failure = "it took too long"
    if not failure:
        channel.status_event.wait(COMMAND_SECONDS)
        while channel.recv_stderr_ready() and len(errors) <= most:
            errors += channel.recv_stderr(2**16)
        if channel.exit_status:
            text = sftp.first_line(errors.decode("utf-8", "replace"))
            failure = text or f"it ended with exit status {channel.exit_status}"
    lines = bytes(output).rpartition(b"\n")[0]  # a line that is cut off may be another's name
    return CommandResult(lines.decode("utf-8", "surrogateescape"), failure)
