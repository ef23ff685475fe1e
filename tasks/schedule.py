"""The prod service: runs each task at its scheduled times, one process per run.

Times are in the time zone that TZ names, else in that of /etc/localtime: in the container UTC,
unless the env file sets TZ. When summer time begins, a run in the skipped hour starts right after
it; when it ends, a run in the repeated hour starts in the first of the two. Schedules that repeat
within the hour (`*/15 * * * *`) go by elapsed time.

A task never runs twice at once. Times that pass while it runs, or while the machine sleeps, are
made up for by one run afterwards.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from tasks.fetch import interrupt
from tasks.fetch.errors import ConfigError

if TYPE_CHECKING:
    from tasks.config_file import Config

log = logging.getLogger(__name__)

HEARTBEAT = Path(tempfile.gettempdir()) / "lighterage.heartbeat"
HEARTBEAT_INTERVAL_S = 5.0
UNHEALTHY_AFTER_S = 20.0
"""Without a heartbeat for this long the service is unhealthy."""
STOP_TIMEOUT_S = 5.0
"""Time for a task to end after a signal; it promises two seconds."""


class _Job:
    """A task with a schedule, and its process while it runs."""

    def __init__(self, task: str, cron: str, arguments: list[str]) -> None:
        self._task = task
        self._cron = cron
        self._command = [sys.executable, "-m", "tasks", task, "--progress", "none", *arguments]
        self._process: subprocess.Popen[bytes] | None = None
        self._plan()

    def _plan(self) -> None:
        self.due = next_run(self._task, self._cron)
        log.info("task %s: next run %s", self._task, self.due)

    def step(self) -> None:
        """Start the task if it is due, and log the end of a run."""
        if self._process is not None:
            code = self._process.poll()
            if code is None:
                return
            self._process = None
            level = logging.WARNING if code else logging.INFO
            log.log(level, "task %s ended with exit code %d", self._task, code)
        if time.time() >= self.due.timestamp():
            self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL)
            log.info("task %s started", self._task)
            self._plan()

    def terminate(self) -> None:
        """Send SIGTERM to the task if it runs."""
        if self._process is not None:
            self._process.terminate()

    def wait(self, deadline: float) -> None:
        """Wait for the task's end until a time of `time.monotonic`; then kill it."""
        if self._process is not None:
            try:
                self._process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                self._process.kill()


def serve(config: Config, variant: str, arguments: list[str]) -> int:
    """Run the variant's scheduled tasks until SIGTERM or SIGINT; return the exit code.

    Each run gets the `arguments`.

    Raises:
        ConfigError: A schedule is not a cron expression.
    """
    # A signal handler may fill a queue of this kind; the lock of an Event may be held by the very
    # thread that the handler interrupts, which would wait for itself.
    signals: SimpleQueue[int] = SimpleQueue()
    interrupt.uninstall()  # its watchdog would end the service before its tasks
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
        signal.signal(signum, lambda number, _: signals.put(number))
    schedules = config.schedules(variant)
    jobs = [_Job(task, cron, arguments) for task, cron in schedules.items()]
    if not jobs:
        log.warning("no task has a schedule for %s in %s: nothing to do", variant, config.path)
    try:
        while True:
            HEARTBEAT.touch()
            for job in jobs:
                job.step()
            with contextlib.suppress(Empty):
                if signals.get(timeout=_wait_s(jobs)) != signal.SIGCHLD:
                    break
    finally:
        for job in jobs:
            job.terminate()
        deadline = time.monotonic() + STOP_TIMEOUT_S
        for job in jobs:
            job.wait(deadline)
        HEARTBEAT.unlink(missing_ok=True)
    return 0


def _wait_s(jobs: list[_Job]) -> float:
    """Return for how long nothing is to be done; a task that runs wakes the loop by SIGCHLD."""
    until_due = [job.due.timestamp() - time.time() for job in jobs]
    return min([HEARTBEAT_INTERVAL_S, *(seconds for seconds in until_due if seconds > 0)])


def next_run(task: str, cron: str, after: datetime | None = None) -> datetime:
    """Return the first time after `after` (by default now) at which a task is due.

    Args:
        task: The task's name, for errors.
        cron: Its schedule: minute, hour, day of month, month, day of week.
        after: A time with a time zone.

    Raises:
        ConfigError: The schedule is not a cron expression, or TZ names no time zone.
    """
    where = f"schedule of task {task} is {cron!r}"
    fields = cron.split()
    if len(fields) != 5:
        raise ConfigError(f"{where}: expected five fields, as in '0 3 * * *'")
    if "*" not in (fields[2][0], fields[4][0]):
        # cron takes either day, other schedulers only both: a user may mean one or the other
        raise ConfigError(f"{where}: set the day of the month or the day of the week, not both")
    after = after or datetime.now(time_zone())
    with contextlib.suppress(CronSimError, ValueError, TypeError, AssertionError):
        for found in CronSim(cron, after):  # ends where no day matches, as 31 February
            # an hour that occurs twice is its first occurrence to CronSim, which may be over
            if found.timestamp() > after.timestamp():
                return found
    raise ConfigError(
        f"{where}: not a cron expression (minute, hour, day of month, month, day of week)"
    )


def time_zone() -> tzinfo:
    """Return the time zone of the schedules.

    Raises:
        ConfigError: TZ names no time zone.
    """
    name = os.environ.get("TZ", "").removeprefix(":")
    try:
        if name and not name.startswith("/"):
            return ZoneInfo(name)
        with Path(name or "/etc/localtime").open("rb") as file:
            return ZoneInfo.from_file(file, key=name or "localtime")
    except (OSError, ValueError, KeyError) as error:  # ZoneInfoNotFoundError is a KeyError
        if not name:  # no /etc/localtime
            return UTC
        raise ConfigError(
            f"TZ is {name!r}: there is no such time zone; expected a name such as Europe/Zurich"
        ) from error


def healthy() -> bool:
    """Whether the service gave a heartbeat in time."""
    try:
        return time.time() - HEARTBEAT.stat().st_mtime < UNHEALTHY_AFTER_S
    except OSError:
        return False
