"""Host: file facts, listings, byte streams and remote checksums of the host of a connection."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

import fabric

from tasks.fetch.errors import MissingError, RemotePathError
from tasks.fetch.ssh import paramiko_private, remote_changes
from tasks.fetch.ssh.checksums import places as places_of_checksums
from tasks.fetch.ssh.connection_settings import ConnectionSettings
from tasks.fetch.ssh.download import Download
from tasks.fetch.ssh.errors import translated
from tasks.fetch.ssh.link import Link
from tasks.fetch.ssh.near_paths import near
from tasks.fetch.ssh.remote_checksums import RemoteChecksums, read_checksum_files
from tasks.fetch.ssh.remote_files import Fault, Listing, RemoteFile, Stream
from tasks.fetch.ssh.sftp_listing import Limits, Lister, ListingLimitError
from tasks.fetch.ssh.sftp_session import Session

log = logging.getLogger(__name__)

MAX_DEPTH = 64
"""Folders below folders that a listing follows; a real dataset has a few."""


NEAR_TIMEOUT_S = 10.0
"""For the names near a missing path, which are only a help."""


class Host:
    """The remote host of a connection; what it returns outlives a cut of the connection.

    Args:
        connection: From `connect`, open.
        settings: For timeouts, retries and limits.
    """

    def __init__(self, connection: fabric.Connection, settings: ConnectionSettings) -> None:
        self._link = Link(connection, settings)
        self._settings = settings
        self._download: Download | None = None
        self._beside: dict[str, RemoteFile | Exception] = {}  # checksum files that were asked for

    @property
    def name(self) -> str:
        """Account, host and port, as ssh has them."""
        return self._link.name

    def explain(self) -> list[str]:
        """Return how the link is used, and why, one line each."""
        session, transport = self._link.session(), self._link.transport
        cipher = paramiko_private.cipher(transport) if transport else ""
        lines = [f"{cipher}: the fastest cipher that both sides have"] if cipher else []
        lines.append(
            f"one SFTP session, {session.ahead / 2**20:.1f} MiB asked for ahead: a round trip "
            f"takes {1000 * session.round_trip:.1f} ms; it needs no command on the host"
        )
        if self._link.compressed:
            lines.append("SSH compression: the link is slow, and the data can be compressed")
        if self._settings.max_rate:
            lines.append(f"at most so many bytes per second: {self._settings.max_rate} (max_rate)")
        return lines

    def facts(self, path: str) -> RemoteFile:
        """Return the facts of `path`, links followed.

        Raises:
            RemotePathError: It does not exist, or the account has no permission.
        """
        with translated(path):
            return self._link.session().stat(path)

    def expand(
        self, patterns: Sequence[str], *, folders: bool = False
    ) -> tuple[list[RemoteFile], list[Fault]]:
        """Return what some paths and globs name, each once; a path that exists is no glob.

        Args:
            patterns: The paths and globs.
            folders: Whether a single path must be a directory: then it is not asked for, since
                `listing` will tell, and a round trip is saved.

        Returns:
            What they name, and the paths that a glob matches but that cannot be used.

        Raises:
            RemotePathError: Nothing has that name, or the account has no permission.
        """
        if folders and len(patterns) == 1 and not _is_glob(patterns[0]):
            return [RemoteFile(patterns[0], 0, 0, folder=True)], []
        with translated(", ".join(patterns[:1])):
            session = self._link.session()
            if len(patterns) == 1 and not _is_glob(patterns[0]) and self._settings.verify != "size":
                return [self._facts_and_beside(session, patterns[0])], []
        limits = self._limits()
        found: dict[str, RemoteFile] = {}
        faults: list[Fault] = []
        for pattern in patterns:
            files = _matches(session, pattern, limits, faults)
            if not files and not faults:
                raise MissingError(
                    f"{pattern}: no file or directory on the host matches", path=pattern
                )
            found.update((file.path, file) for file in files)
        return list(found.values()), faults

    def _facts_and_beside(self, session: Session, path: str) -> RemoteFile:
        """Return the facts of `path`; in the same round trip get those of its checksum files."""
        places = places_of_checksums(path)
        facts, *beside = session.stats([path, *places])
        self._beside = dict(zip(places, beside, strict=True))
        if isinstance(facts, Exception):
            raise facts
        return facts

    def facts_of(self, paths: Sequence[str]) -> dict[str, RemoteFile]:
        """Return the facts of those of some paths that exist on the host, links followed."""
        with translated(", ".join(paths[:1])):
            facts = self._link.session().stats(paths)
        return {file.path: file for file in facts if isinstance(file, RemoteFile)}

    def near(self, missing: MissingError) -> MissingError:
        """Return the error of a missing path with what the path may have been."""
        if not missing.path:
            return missing
        hint = near(self._link.session, missing.path, min(self._settings.timeout, NEAR_TIMEOUT_S))
        self.reset()
        return MissingError(missing.text + hint, advice=missing.advice)

    def home(self) -> str:
        """Return the absolute path of the folder that relative paths start from."""
        with translated("."):
            return remote_changes.home(self._link.session())

    def remove(self, paths: Sequence[str]) -> dict[str, RemotePathError | None]:
        """Remove files; see `remote_changes.remove`."""
        with translated(", ".join(paths[:1])):
            return remote_changes.remove(self._link.session(), paths)

    def move(self, moves: Mapping[str, str], folder: str) -> dict[str, RemotePathError | None]:
        """Move files to new paths in a folder; see `remote_changes.move`."""
        with translated(folder):
            return remote_changes.move(self._link.session(), moves, folder)

    def reconnect(self) -> None:
        """Connect again, after a cut.

        Raises:
            LighterageError: The host cannot be reached, or denies the login.
        """
        self._link.reconnect()

    def listing(self, path: str) -> Listing:
        """List the files below a folder; links and special files are counted, not followed.

        Raises:
            RemotePathError: It is no folder, or cannot be read, or has too many names.
        """
        found: dict[str, RemoteFile] = {}
        special = 0
        try:
            with translated(path):
                lister = Lister(self._link.session(), path, MAX_DEPTH, self._limits())
                for name, file in lister.entries():
                    if file.special:
                        special += 1
                    elif not file.folder:
                        found[name] = file
        except RemotePathError:
            self.reset()
            if not self.facts(path).folder:
                raise RemotePathError(
                    f"{path}: is a file, and a directory is required",
                    advice="call fetch.archive() for an archive",
                ) from None
            raise
        return Listing({name: found[name] for name in sorted(found)}, special, lister.faults)

    def _limits(self) -> Limits:
        return Limits(self._settings.max_members, self._settings.timeout)

    def files(
        self, wanted: Iterable[tuple[RemoteFile, int]], on_bytes: Callable[[int], None]
    ) -> Iterator[Stream]:
        """Yield the bytes of each file; the next ones are asked for ahead.

        Args:
            wanted: What to read, in this order, and from which byte on.
            on_bytes: Called with the number of bytes of each block that arrived.

        Raises:
            LighterageError: From the streams, or here; see `Stream`. Call `reset` then.
        """
        wanted = list(wanted)
        self._download = Download(self._link, wanted, on_bytes)
        items = self._download.items()
        for file, start in wanted:
            stream = Stream(file.path, start, items)
            yield stream
            while stream.read():  # what the caller did not read
                pass

    def read_tail(self, file: RemoteFile, start: int) -> bytes:
        """Read a file from a byte to its end, beside what is being streamed.

        Raises:
            LighterageError: See `Stream`.
        """
        download = self._download
        if download is None or not download.is_current():
            download = Download(self._link, [], lambda _: None)
        return download.tail(file, start)

    def remote_checksums(
        self, files: Iterable[RemoteFile], listed: Collection[str] | None = None
    ) -> RemoteChecksums:
        """Start to get the SHA-256 of some files from the host.

        Args:
            files: Which.
            listed: The paths of a listing; None where the folders were not listed.
        """
        if self._settings.verify == "size":
            return RemoteChecksums(self._link, [], {})
        paths = [file.path for file in files]
        with translated(", ".join(paths[:1])):
            from_files = read_checksum_files(
                self._link, self._read_whole, paths, listed, self._beside
            )
        missing = [path for path in paths if path not in from_files]
        return RemoteChecksums(self._link, missing, from_files)

    def _read_whole(self, files: Iterable[RemoteFile]) -> Iterator[Stream]:
        return self.files([(file, 0) for file in files], lambda _: None)

    def reset(self) -> None:
        """Use a new session from now on; in other threads that read, reading ends."""
        self._link.reset()


def _is_glob(path: str) -> bool:
    return any(char in path for char in "*?[")


def _matches(
    session: Session, pattern: str, limits: Limits, faults: list[Fault]
) -> list[RemoteFile]:
    """Return the files that a path or glob names; add matching names that cannot be used."""
    with translated(pattern):
        if not _is_glob(pattern):
            return [session.stat(pattern)]
        with contextlib.suppress(FileNotFoundError, PermissionError, RemotePathError):
            return [session.stat(pattern)]  # a path that exists is no glob
        found = ["/" if pattern.startswith("/") else ""]
        for part in filter(None, pattern.split("/")):
            found = [
                path + name
                for path in (folder and folder.rstrip("/") + "/" for folder in found)
                for name in (
                    _names(session, path, part, limits, faults) if _is_glob(part) else [part]
                )
            ]
        return [file for file in session.stats(found) if isinstance(file, RemoteFile)]


def _names(
    session: Session, folder: str, glob: str, limits: Limits, faults: list[Fault]
) -> list[str]:
    """Return the names in a folder that match; hidden ones only where the glob says so."""

    def matches(name: str) -> bool:
        return fnmatchcase(name, glob) and (glob.startswith(".") or not name.startswith("."))

    lister = Lister(session, folder or ".", 0, limits)
    try:
        return sorted(name for name, _ in lister.entries() if matches(name))
    except ListingLimitError:
        raise
    except PermissionError as error:
        log.warning("%s: cannot be listed, and is left out: %s", folder, error.strerror)
    except (FileNotFoundError, RemotePathError) as error:  # a file in place of a folder
        log.debug("%s: %s", folder, error)
    finally:
        faults += [fault for fault in lister.faults if matches(PurePosixPath(fault.path).name)]
    return []
