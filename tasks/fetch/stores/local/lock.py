"""The lock beside a target: one run at a time publishes there."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import threading
import time
from typing import IO, TYPE_CHECKING

from tasks.fetch import interrupt
from tasks.fetch.errors import BusyError
from tasks.fetch.stores.local.disk import remove_empty, writing

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger(__name__)

POLL_SECONDS = 0.1
"""How often a waiting run tries again."""


class Lock:
    """A lock file, locked by flock: the system releases it however its holder ends.

    The file is removed on release. So a lock counts only while its file still has its name: the
    holder before may have removed it between our opening and our locking it.
    """

    def __init__(self, target: Path) -> None:
        self.path = target.with_name(f".{target.name}.lock")
        self._target = target
        self._held: list[IO[bytes]] = []  # one file, while it is locked
        self._releasing = threading.RLock()
        self._made: list[Path] = []  # folders above it, the lowest first

    @property
    def held(self) -> bool:
        """Whether this run has it."""
        return bool(self._held)

    def acquire(self, wait_s: float) -> None:
        """Take the lock, and make the folder that it lies in.

        Raises:
            BusyError: Another run still has it after `wait_s` seconds.
            LocalError: The file or its folder cannot be made, or there are no locks here.
        """
        end = time.monotonic() + wait_s
        message = f"{self._target}: another run is landing here"
        waiting = False
        while not self._try():
            rest = end - time.monotonic()
            if rest <= 0:
                raise BusyError(f"{message}: wait for its end, or pass --wait")
            if not waiting:
                log.warning("%s; waiting for its end", message)
                waiting = True
            time.sleep(min(POLL_SECONDS, rest))

    def _try(self) -> bool:
        """Return whether the lock is ours now."""
        while True:
            with interrupt.deferred(), writing(self.path):  # a file that is opened is noted
                self._make_folders()
                try:
                    file = self.path.open("ab")
                except FileNotFoundError:  # another run that failed removed the folder
                    continue
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if os.path.samestat(os.fstat(file.fileno()), self.path.stat()):
                        self._held.append(file)
                        return True
                except FileNotFoundError:
                    pass
                except BlockingIOError:
                    return False
                finally:
                    if not self._held:
                        file.close()

    def _make_folders(self) -> None:
        folder = self.path.parent
        missing = [parent for parent in [folder, *folder.parents] if not parent.exists()]
        self._made = missing + [made for made in self._made if made not in missing]
        for parent in reversed(missing):
            parent.mkdir(exist_ok=True)

    def release(self) -> None:
        """Remove the file, unlock it, and remove the folders made for it that are empty."""
        with self._releasing:  # the watchdog may do the same, and must wait until it is done
            if self._held:
                with contextlib.suppress(OSError):
                    self.path.unlink()
                self._held.pop().close()
        remove_empty(self._made)
