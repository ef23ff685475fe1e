"""The service with a fast clock, for tests: `python fast_service.py START TASK...`.

While no task runs, the time jumps to the next run. Before it does, the service writes `idle NOW`
and waits for a line, so that a test can look at what is published and prepare a fault.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from queue import SimpleQueue

from tasks import schedule
from tasks.resolve import resolve


class FastClock:
    """A time that passes between runs in no time, and with each end of a run by a second."""

    def __init__(self, now: float) -> None:
        self._now = now

    def now(self) -> float:
        """Return the time, in seconds since 1970."""
        return self._now

    def wait(self, signals: SimpleQueue[int], seconds: float) -> int | None:
        """Wait for the end of a task that runs; else let the time pass."""
        if _has_children():
            self._now += 1
            return signals.get()
        sys.stdout.write(f"idle {self._now}\n")
        sys.stdout.flush()
        sys.stdin.readline()
        while not signals.empty():
            if (signum := signals.get()) != signal.SIGCHLD:
                return signum
        self._now += seconds
        return None


def _has_children() -> bool:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    schedule.HEARTBEAT_INTERVAL_S = 1e9  # a jump is to the next run
    scheduled = [resolve(task, {}).settings for task in sys.argv[2:]]
    sys.exit(schedule.serve(scheduled, "prod", [], FastClock(float(sys.argv[1]))))
