"""Remote checksums: read from files beside the data, or computed by the host meanwhile."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

from tasks.engine.errors import (
    NetworkError,
)
from tasks.engine.ssh import checksums
from tasks.engine.ssh.errors import translated
from tasks.engine.ssh.retry import delay_before

if TYPE_CHECKING:
    from tasks.engine.ssh.host import Host
    from tasks.settings import Settings


log = logging.getLogger(__name__)


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
        programs = list(checksums.PROGRAMS)
        missing = [path for path in self._missing if path not in self.asked]
        for arguments, paths in checksums.batches(missing):
            while programs:
                command = programs[0] + b" " + arguments
                output = self._host.ask(command, lambda: self._end - time.monotonic())
                found = checksums.told(output, paths) if output is not None else None
                if found is not None:
                    self.asked.update(found)
                    break
                programs.pop(0)  # what it cannot do once, it need not be asked again

    def result(self, seconds: float) -> dict[str, str]:
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
                # Only now: some hosts send nothing else while they look.
                missing = [path for path in self._missing if path not in self.asked]
                self.asked.update(self._host.checksums(missing, seconds))
                break
            except NetworkError as error:
                log.warning("try %d of %d to ask for checksums: %s", tries, most, error)
        return {**self.asked, **self.beside}

    def _wait(self) -> None:
        """Wait for the answers, while the host shows that it is there."""
        while self._thread.is_alive() and (left := self._end - time.monotonic()) > 0:
            self._thread.join(min(left, self._settings.timeout))
            if self._thread.is_alive():
                self._host.facts(".")
        if self._cut:
            raise self._cut
