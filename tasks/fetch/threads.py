"""Ways to let threads do the next step: read ahead, write behind, and call ahead."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

T = TypeVar("T")
R = TypeVar("R")


class ReadAhead:
    """Calls `read` in a thread, a few blocks before they are wanted.

    Args:
        read: Returns the next block, b"" at the end. It is not called again after that, nor after
            an exception, which is raised by `ReadAhead.read`.
        depth: Blocks that may wait.
    """

    def __init__(self, read: Callable[[], bytes], depth: int) -> None:
        self._read = read
        self._ended = False
        self._thread = ThreadPoolExecutor(1, "read ahead")
        self._blocks = deque(self._thread.submit(self._next) for _ in range(depth))

    def _next(self) -> bytes:
        if self._ended:
            return b""
        self._ended = True  # also where `read` raises
        block = self._read()
        self._ended = not block
        return block

    def read(self) -> bytes:
        """Return the next block, b"" at the end."""
        block = self._blocks[0].result()  # the end, or an exception, stays for the next call
        if block:
            self._blocks.popleft()
            self._blocks.append(self._thread.submit(self._next))
        return block

    def close(self) -> None:
        """Let the thread end once it returns from `read`."""
        self._ended = True
        self._thread.shutdown(wait=False, cancel_futures=True)


class WriteBehind:
    """Carries out jobs in a thread, in their order, a few of them behind.

    The first job that raises is the last: `put` and `finish` raise its error.

    Args:
        depth: Jobs that may wait or run.
        threads: More than one carry out jobs in any order.
    """

    def __init__(self, depth: int, threads: int = 1) -> None:
        self._depth = depth
        self._thread = ThreadPoolExecutor(threads, "write behind")
        self._jobs: deque[Future[None]] = deque()
        self._failed = False

    def _run(self, job: Callable[[], None]) -> None:
        if self._failed:
            return
        try:
            job()
        except BaseException:
            self._failed = True
            raise

    def put(self, job: Callable[[], None]) -> None:
        """Carry out `job` after those before it; wait while `depth` of them are unfinished."""
        while self._jobs and (self._jobs[0].done() or len(self._jobs) >= self._depth):
            self._jobs[0].result()
            self._jobs.popleft()
        self._jobs.append(self._thread.submit(self._run, job))

    def finish(self) -> None:
        """Wait until every job is done."""
        self._thread.shutdown()
        for job in self._jobs:
            job.result()

    def stop(self) -> None:
        """Drop the jobs that have not started, and wait for the one that has."""
        self._failed = True
        self._thread.shutdown(cancel_futures=True)


def call_ahead(
    call: Callable[[T], R], items: Iterable[T], threads: int, cost: Callable[[T], int], most: int
) -> Iterator[R]:
    """Yield the result of a call for each item, in their order, with the next calls under way.

    Args:
        call: May be called in any thread; its error is raised where its result would be yielded.
        items: Its arguments.
        threads: Calls at once.
        cost: Of an item: the room that its result takes.
        most: Results that wait, and the one that is next, cost at most so much; or there is one.
    """
    ahead: deque[tuple[int, Future[R]]] = deque()
    used = 0
    pool = ThreadPoolExecutor(threads, "call ahead")
    try:
        for item in items:
            own = cost(item)
            while ahead and (len(ahead) >= threads or used + own > most):
                room, future = ahead.popleft()
                yield future.result()
                used -= room
            ahead.append((own, pool.submit(call, item)))
            used += own
        while ahead:
            yield ahead.popleft()[1].result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
