"""Two ways to let another core do the next step: read ahead, and write behind."""

from __future__ import annotations

import threading
from queue import Empty, Full, Queue
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

WAIT_SECONDS: Final = 0.1
"""How often a waiting thread looks whether the other side has gone."""


class ReadAhead:
    """Calls `read` in a thread, a few blocks before they are wanted.

    Args:
        read: Gives the next block, b"" at the end. What it raises is raised here by `read`.
        depth: Blocks that may wait.
    """

    def __init__(self, read: Callable[[], bytes], depth: int) -> None:
        self._read = read
        self._blocks: Queue[bytes | BaseException] = Queue(depth)
        self._stopped = False
        self._rest = b""
        self._thread = threading.Thread(target=self._run, name="read ahead", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        block: bytes | BaseException = b"."
        while block and not isinstance(block, BaseException):
            try:
                block = self._read()
            except BaseException as error:  # noqa: BLE001 (raised again on the other side)
                block = error
            while not self._stopped:
                try:
                    self._blocks.put(block, timeout=WAIT_SECONDS)
                    break
                except Full:
                    continue
            if self._stopped:
                return

    def read(self, size: int = -1) -> bytes:
        """Return at most `size` bytes (some, not none, before the end), or b"" at the end."""
        if not self._rest:
            block = self._blocks.get()
            if isinstance(block, BaseException):
                self._blocks.put(block)  # again, should somebody ask again
                raise block
            if not block:
                self._blocks.put(b"")
                return b""
            self._rest = block
        if not 0 <= size < len(self._rest):
            block, self._rest = self._rest, b""
            return block
        block, self._rest = self._rest[:size], self._rest[size:]
        return block

    def close(self) -> None:
        """Let the thread end once it comes back from `read`."""
        self._stopped = True


class WriteBehind:
    """Carries out jobs in a thread, in their order, a few of them behind.

    The first job that raises is the last: `put` and `finish` raise its error.
    """

    def __init__(self, depth: int) -> None:
        self._jobs: Queue[Callable[[], None] | None] = Queue(depth)
        self._error: BaseException | None = None
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="write behind", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            if self._stopped or self._error:
                continue
            try:
                job()
            except BaseException as error:  # noqa: BLE001 (raised again on the other side)
                self._error = error

    def put(self, job: Callable[[], None]) -> None:
        """Have `job` carried out after those before it; waits while many are waiting."""
        if self._error:
            raise self._error
        self._jobs.put(job)

    def finish(self) -> None:
        """Wait until every job is done."""
        self._end()
        if self._error:
            raise self._error

    def stop(self) -> None:
        """Drop the jobs that have not begun, and wait for the one that has."""
        self._stopped = True
        self._end()

    def _end(self) -> None:
        while self._thread.is_alive():
            try:
                self._jobs.put(None, timeout=WAIT_SECONDS)
                break
            except Full:
                if self._stopped:
                    self._drop()
        self._thread.join()

    def _drop(self) -> None:
        try:
            self._jobs.get_nowait()
        except Empty:
            return
