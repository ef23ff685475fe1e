"""The lock beside a target: one run at a time publishes in it."""

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
    from collections.abc import Collection
    from pathlib import Path

log = logging.getLogger(__name__)

POLL_SECONDS = 0.1
"""How often a waiting run tries again."""


class Lock:
    """A lock file, locked by flock: the system releases it however the process ends.

    The file is removed on release. So a lock counts only while its file still has its name:
    another run may remove it between the opening and the locking.
    """

    def __init__(self, target: Path) -> None:
        self.without_lock: Collection[int] = ()  # error numbers of flock: then there is no lock
        self.path = target.with_name(f".{target.name}.lock")
        self._target = target
        self._file: IO[bytes] | None = None  # while it is locked
        self._releasing = threading.RLock()
        self._created: list[Path] = []  # folders above it, the lowest first

    @property
    def held(self) -> bool:
        """Whether this run has it."""
        return self._file is not None

    def acquire(self, wait_s: float) -> None:
        """Take the lock; raise `BusyError` if another run still has it after `wait_s` seconds."""
        end = time.monotonic() + wait_s
        message = f"{self._target}: another run is landing data here"
        waiting = False
        while not self._try():
            rest = end - time.monotonic()
            if rest <= 0:
                raise BusyError(f"{message}", advice="wait until it ends, or pass --wait=SECONDS")
            if not waiting:
                log.warning("%s; waiting until it ends", message)
                waiting = True
            time.sleep(min(POLL_SECONDS, rest))

    def _try(self) -> bool:
        """Try to take the lock; return whether this run has it now."""
        while True:
            with interrupt.deferred(), writing(self.path):  # no signal between open and self._file
                self._make_folders()
                try:
                    file = self.path.open("ab")
                except FileNotFoundError:  # another run that failed removed the folder
                    continue
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if os.path.samestat(os.fstat(file.fileno()), self.path.stat()):
                        self._file = file
                        return True
                except FileNotFoundError:
                    pass
                except BlockingIOError:
                    return False
                except OSError as error:
                    if error.errno not in self.without_lock:
                        raise
                    self._file = file
                    return True
                finally:
                    if self._file is not file:
                        file.close()

    def _make_folders(self) -> None:
        folder = self.path.parent
        missing = [parent for parent in [folder, *folder.parents] if not parent.exists()]
        self._created = missing + [path for path in self._created if path not in missing]
        for parent in reversed(missing):
            parent.mkdir(exist_ok=True)

    def release(self) -> None:
        """Remove the file, unlock it, and remove the folders created for it that are empty."""
        with self._releasing:  # the watchdog may release it, too, and must wait
            if self._file is not None:
                with contextlib.suppress(OSError):
                    self.path.unlink()
                self._file.close()
                self._file = None
        remove_empty(self._created)
