"""Remote checksums: read from files beside the data, or computed by the host meanwhile."""

from __future__ import annotations

import logging
import threading
import time
from collections import ChainMap
from typing import TYPE_CHECKING

from tasks.fetch.errors import NetworkError, printable
from tasks.fetch.ssh import checksums
from tasks.fetch.ssh.errors import translated
from tasks.fetch.ssh.retry import delay_before
from tasks.fetch.ssh.sftp import SessionRefusedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tasks.fetch.ssh.host import Host
    from tasks.settings import Settings


log = logging.getLogger(__name__)

OTHER_BYTES = 2**16
"""Bytes that a command may write besides: greetings of start-up files, say."""


class Sums:
    """The sha256 of remote files: told beside them, or by the host's own sha256sum meanwhile.

    Args:
        host: Whose.
        settings: For the trying again.
        missing: The paths that the host is to be asked for.
        beside: What is known already.
    """

    def __init__(
        self, host: Host, settings: Settings, missing: list[str], beside: dict[str, str]
    ) -> None:
        self._host = host
        self._settings = settings
        self._missing = missing
        self._end = float("inf")
        self.beside = beside
        self.asked: dict[str, str] = {}
        self._cut: Exception | None = None
        self._refused = False  # the server grants no session beside SFTP
        self._reason = ""
        self._thread = threading.Thread()
        if missing:
            self._start()

    def _start(self) -> None:
        self._cut = None
        self._thread = threading.Thread(target=self._run, name="sha256sum", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            with translated(self._host.name):
                self._ask()
        except Exception as error:  # noqa: BLE001 (raised again in the main thread)
            self._cut = error

    def _ask(self) -> None:
        commands = list(checksums.COMMANDS)
        missing = [path for path in self._missing if path not in self.asked]
        try:
            for batch in checksums.batches(missing):
                while commands and not (found := self._computed(commands[0], batch)):
                    commands.pop(0)  # what finds nothing of many need not be asked again
                if not commands:
                    return
                self.asked.update(found)
        except SessionRefusedError as error:
            self._refused, self._reason = True, f"the server refuses a second session: {error}"

    def _computed(self, command: str, batch: dict[str, str]) -> dict[str, str]:
        done = self._host.run(
            command,
            checksums.standard_input(batch),
            checksums.output_bytes(batch) + OTHER_BYTES,
            lambda: self._end - time.monotonic(),
        )
        if done.failure:
            self._reason = f"{command.split()[2]}: {done.failure}"
            log.debug("%s: %s", command, done.failure)
        return checksums.computed(done.output, batch)

    def result(self, seconds: float) -> Mapping[str, str]:
        """Return the sha256 by path, of those that the host tells.

        Args:
            seconds: How long to wait for it at most, after a cut once more.

        Raises:
            AuthError: The host does not take us back after a cut.
        """
        if isinstance(self._cut, NetworkError):
            self._start()  # somebody connected again, and there is more to ask for
        most = self._settings.max_tries
        for tries in range(1, most + 1):
            try:
                if tries > 1:
                    time.sleep(delay_before(self._settings, tries - 1))
                    self._host.reconnect()
                    self._start()
                self._end = time.monotonic() + seconds
                self._wait()
                if self._refused:
                    self._wait_alone()
                # Only now: some hosts send nothing else while they look.
                missing = [path for path in self._missing if path not in self.asked]
                self.asked.update(self._host.checksums(missing, seconds))
                break
            except NetworkError as error:
                log.warning("try %d of %d to ask for checksums: %s", tries, most, error)
        self._explain()
        return ChainMap(self.beside, self.asked)

    def _wait(self) -> None:
        """Wait for the answers, while the host shows that it is there."""
        while self._thread.is_alive() and (left := self._end - time.monotonic()) > 0:
            self._thread.join(min(left, self._settings.timeout))
            if self._thread.is_alive():
                self._host.alive()
        if self._cut:
            raise self._cut

    def _wait_alone(self) -> None:
        """Ask again, once the SFTP session is closed: for a server that grants one at a time."""
        self._refused = False
        self._host.reset()
        self._start()
        self._wait()

    def _explain(self) -> None:
        """Log how many files have no checksum, and the reason."""
        missing = [path for path in self._missing if path not in self.asked]
        if missing:
            reason = f" ({printable(self._reason)})" if self._reason else ""
            log.info(
                "no SHA-256 from the host for %d of %d files, the first is %s: compared by size "
                "only%s", len(missing), len(self._missing), printable(missing[0]), reason,
            )  # fmt: skip
