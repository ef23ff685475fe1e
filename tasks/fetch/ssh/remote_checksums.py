"""Remote checksums: read from files beside the data, or computed by the host."""

from __future__ import annotations

import logging
import threading
import time
from collections import ChainMap, deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import PurePosixPath

import paramiko

from tasks.fetch.errors import IntegrityError, NetworkError, RemotePathError, printable
from tasks.fetch.ssh import checksums, commands
from tasks.fetch.ssh.errors import SessionRefusedError, connection_lost, translated
from tasks.fetch.ssh.link import Link
from tasks.fetch.ssh.remote_files import RemoteFile, Stream
from tasks.fetch.ssh.retry import delay_before

Read = Callable[[Sequence[RemoteFile]], Iterator[Stream]]

log = logging.getLogger(__name__)

OTHER_BYTES = 2**16
"""Bytes that a command may write besides: greetings of start-up files, say."""


class RemoteChecksums:
    """The SHA-256 of remote files, computed by the host in a thread while we download.

    Args:
        link: To the host.
        missing: The paths that the host is to be asked for.
        from_files: The checksums that files beside the data have.

    Attributes:
        from_host: The checksums that the host computed, so far.
    """

    def __init__(self, link: Link, missing: list[str], from_files: dict[str, str]) -> None:
        self.from_files = from_files
        self.from_host: dict[str, str] = {}
        self._link = link
        self._paths = missing
        self._deadline = float("inf")
        self._error: Exception | None = None
        self._refused = False  # the server grants no session beside SFTP
        self._reason = ""
        self._thread = threading.Thread()
        if missing:
            self._start()

    def result(self, seconds: float) -> Mapping[str, str]:
        """Return the SHA-256 by path, of those that have one.

        Args:
            seconds: How long to wait for it at most, and as long again after a cut.

        Raises:
            AuthError: The host denies the login after a cut.
        """
        settings, link = self._link.settings, self._link
        if isinstance(self._error, NetworkError):
            self._start()  # the download has connected again since
        reconnect = False
        for tries in range(1, settings.max_tries + 1):
            try:
                if tries > 1:
                    time.sleep(delay_before(settings, tries - 1))
                    if reconnect:
                        link.reconnect()
                    self._start()
                self._deadline = time.monotonic() + seconds
                self._wait()
                if self._refused:  # by a server that grants one session at a time
                    self._refused = False
                    link.reset()
                    self._start()
                    self._wait()
                # Only now: some hosts send nothing else while they compute.
                self.from_host.update(_computed_by_sftp(link, self._missing(), seconds))
                break
            except NetworkError as error:
                # A command that ended with its connection can run on the one that replaced it.
                reconnect = error is not self._error or not link.is_active()
                log.warning(
                    "try %d of %d to get remote checksums: %s", tries, settings.max_tries, error
                )
        self._log_missing()
        return ChainMap(self.from_files, self.from_host) if self.from_files else self.from_host

    def _missing(self) -> list[str]:
        return [path for path in self._paths if path not in self.from_host]

    def _wait(self) -> None:
        """Wait for the thread, while the host shows that it is there."""
        while self._thread.is_alive() and (remaining_s := self._deadline - time.monotonic()) > 0:
            self._thread.join(min(remaining_s, self._link.settings.timeout))
            if self._thread.is_alive():
                self._link.require_answer()
        if self._error:
            raise self._error

    def _log_missing(self) -> None:
        if missing := self._missing():
            reason = f" ({printable(self._reason)})" if self._reason else ""
            log.info(
                "no SHA-256 from the host for %d of %d files, the first is %s: compared by size "
                "only%s", len(missing), len(self._paths), printable(missing[0]), reason,
            )  # fmt: skip

    # --- in the thread --------------------------------------------------------------------

    def _start(self) -> None:
        self._error = None
        self._thread = threading.Thread(target=self._run, name="sha256sum", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            with translated(self._link.name):
                self._compute()
        except Exception as error:  # noqa: BLE001 (raised again in the main thread)
            self._error = error

    def _compute(self) -> None:
        if self._link.settings.exec == "never":
            self._reason = "exec is never"
            return
        available = list(checksums.COMMANDS)
        try:
            for batch in checksums.batches(self._missing()):
                while available and not (found := self._computed(available[0], batch)):
                    available.pop(0)  # a command that finds nothing of many is not run again
                if not available:
                    return
                self.from_host.update(found)
        except SessionRefusedError as error:
            self._refused, self._reason = True, f"the server refuses a second session: {error}"

    def _computed(self, command: str, batch: dict[str, str]) -> dict[str, str]:
        names = checksums.standard_input(batch)
        done = commands.run(
            self._link,
            command,
            names,
            2 * len(names) + checksums.LINE_BYTES * len(batch) + OTHER_BYTES,
            lambda _: self._deadline - time.monotonic(),
        )
        if done.failure:
            self._reason = f"{command.split()[2]}: {done.failure}"
            log.debug("%s: %s", command, done.failure)
        lines = done.output.rpartition(b"\n")[0]  # a line that is cut off may be another's name
        return checksums.read_output(lines.decode("utf-8", "surrogateescape"), batch)


def _computed_by_sftp(link: Link, paths: Sequence[str], seconds: float) -> dict[str, str]:
    """Ask through SFTP for the SHA-256 of some files, which few hosts compute."""
    found: dict[str, str] = {}
    if not paths:
        return found
    try:
        found.update(link.session().checksums(paths, seconds))
    except (OSError, EOFError, paramiko.SSHException) as error:
        log.debug("no checksums through SFTP: %r", error)
        link.reset()
        if not link.is_active():
            raise connection_lost(link.name) from error
    return found


def read_checksum_files(
    link: Link,
    read: Read,
    paths: list[str],
    listed: Collection[str] | None,
    facts: Mapping[str, RemoteFile | Exception],
) -> dict[str, str]:
    """Read the checksum files beside the data: NAME.sha256, and SHA256SUMS.

    Args:
        link: To the host.
        read: Yields the stream of each file.
        paths: The files whose checksums are wanted.
        listed: The paths of a listing; None where the folders were not listed.
        facts: Of checksum files, or why there are none; others are asked for.

    Returns:
        The SHA-256 in lower case hex by path, of those that have one.
    """
    if listed is not None and not listed:
        return {}
    candidates = dict.fromkeys(
        place
        for path in paths
        for place in checksums.places(path)
        if listed is None or place in listed
    )
    unknown = [place for place in candidates if place not in facts]
    found = [
        file
        for file in (*link.session().stats(unknown), *map(facts.get, candidates))
        if isinstance(file, RemoteFile) and not file.folder and file.size <= checksums.MAX_SIZE
    ]
    of_folder: dict[str, str] = {}
    of_file: dict[str, str] = {}
    for place, text in _texts(link, read, found):
        name = place.name.removesuffix(checksums.SUFFIX) if place.suffix else ""
        (of_file if name else of_folder).update(checksums.parse(text, place.parent, name))
    digests = {**of_folder, **of_file}
    by_path = {path: digests.get(str(PurePosixPath(path))) for path in paths if digests}
    return {path: digest for path, digest in by_path.items() if digest}


def _texts(link: Link, read: Read, found: list[RemoteFile]) -> Iterator[tuple[PurePosixPath, str]]:
    """Read small files; skip those that cannot be read."""
    waiting = deque(found)
    while waiting:
        try:
            for stream in read(waiting):
                text = b"".join(stream).decode("utf-8", "replace")
                yield PurePosixPath(waiting.popleft().path), text
        except (RemotePathError, IntegrityError) as error:
            log.warning("%s; the checksum file is skipped", error)
            waiting.popleft()
            link.reset()
