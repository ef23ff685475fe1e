"""The prod service: runs tasks by their schedule, one process each, and says that it lives."""

from __future__ import annotations

import contextlib
import logging
import signal
import subprocess
import sys
import tempfile
import threading
import time
from datetime import datetime
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, cast

from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.cron import CronTrigger

from tasks.fetch import interrupt
from tasks.fetch.errors import ConfigError

if TYPE_CHECKING:
    from tasks.settings import Config

log = logging.getLogger(__name__)

HEARTBEAT = Path(tempfile.gettempdir()) / "lighterage.heartbeat"
BEAT_SECONDS = 5.0
DEAD_SECONDS = 20.0
"""Without a beat for this long the service counts as ill."""
ENDING_SECONDS = 5.0
"""What a task has to end after a signal; it promises two seconds."""

_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat", "sun")


class _Runs:
    """The tasks that run now, each as a process of its own."""

    def __init__(self) -> None:
        self._processes: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._ending = False

    def run(self, task: str, arguments: list[str]) -> None:
        """Run a task to its end."""
        with self._lock:
            if self._ending:
                return
            process = subprocess.Popen(
                [sys.executable, "-m", "tasks", task, "--progress", "none", *arguments],
                stdin=subprocess.DEVNULL,
            )
            self._processes.add(process)
        log.info("task %s started", task)
        code = process.wait()
        with self._lock:
            self._processes.discard(process)
        level = logging.WARNING if code else logging.INFO
        log.log(level, "task %s ended with exit code %d", task, code)

    def end(self) -> None:
        """Tell every task to end, and wait for that."""
        with self._lock:
            self._ending = True
            running = set(self._processes)
        for process in running:
            process.terminate()
        deadline = time.monotonic() + ENDING_SECONDS
        for process in running:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()


def serve(config: Config, variant: str, arguments: list[str]) -> int:
    """Run the variant's scheduled tasks until SIGTERM or SIGINT; returns the exit code.

    Args:
        config: Says which task has a `schedule`.
        variant: Whose.
        arguments: Handed on to each run.

    Raises:
        ConfigError: A schedule is not in cron form.
    """
    # A queue of this kind may be filled by a handler; an Event's lock may be held by the very
    # thread that the handler interrupts, which would wait for itself.
    signals: SimpleQueue[int] = SimpleQueue()
    interrupt.uninstall()  # the tasks are given longer than a single run gives itself
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda number, _: signals.put(number))
    scheduler, runs = BackgroundScheduler(), _Runs()
    schedules = config.schedules(variant)
    for task, cron in schedules.items():
        # A run that was missed, since the one before took long, is made up for once.
        scheduler.add_job(
            runs.run, trigger(task, cron), [task, arguments],
            id=task, max_instances=1, coalesce=True, misfire_grace_time=None,
        )  # fmt: skip
    if not schedules:
        log.warning("no task has a schedule for %s in %s: nothing to do", variant, config.path)
    scheduler.start()
    for job in scheduler.get_jobs():
        log.info("task %s: next run %s", job.id, job.next_run_time)
    try:
        while scheduler.running:
            HEARTBEAT.touch()
            with contextlib.suppress(Empty):
                signals.get(timeout=BEAT_SECONDS)
                break
    finally:
        scheduler.shutdown(wait=False)
        runs.end()
        HEARTBEAT.unlink(missing_ok=True)
    return 0


def next_run(task: str, cron: str) -> datetime:
    """Return the time of a task's next run.

    Raises:
        ConfigError: The schedule is not in cron form.
    """
    found = trigger(task, cron)
    return cast("datetime", found.get_next_fire_time(None, datetime.now(found.timezone)))


def trigger(task: str, cron: str) -> CronTrigger:
    """Turn a cron form of five fields into a trigger, as cron means it.

    Raises:
        ConfigError: It is none.
    """
    where = f"schedule of task {task} is {cron!r}"
    fields = cron.split()
    if len(fields) != 5:
        raise ConfigError(f"{where}: expected five fields, as in '0 3 * * *'")
    if "*" not in (fields[2][0], fields[4][0]):
        # cron takes either day, the scheduler only both: neither is what one half of users means
        raise ConfigError(f"{where}: give a day of the month or of the week, not both")
    with contextlib.suppress(ValueError):
        fields[4] = ",".join(_weekdays(part) for part in fields[4].lower().split(","))
        found = CronTrigger.from_crontab(" ".join(fields))
        if found.get_next_fire_time(None, datetime.now(found.timezone)):  # no 31 February
            return found
    raise ConfigError(f"{where}: not in cron form (minute hour day month weekday)")


def _weekdays(part: str) -> str:
    """Name the days of a part of cron's fifth field: 0 is Sunday there, Monday in APScheduler."""
    span, slash, step = part.partition("/")
    first, dash, last = ("0-6" if span == "*" else span).partition("-")
    begin = _weekday(first)
    end = _weekday(last) if dash else 6 if slash else begin
    every = int(step) if slash else 1
    if slash and not step.isdecimal():
        raise ValueError(part)
    if dash and end == 0 < begin:  # as in fri-sun
        end = 7
    days = range(begin, end + 1, every)
    if not days:
        raise ValueError(part)
    return ",".join(dict.fromkeys(_DAYS[day] for day in days))


def _weekday(text: str) -> int:
    """Return the number that cron has for a day, given as a number or by its name."""
    if text in _DAYS:
        return _DAYS.index(text)
    if not (text.isascii() and text.isdecimal()) or int(text) >= len(_DAYS):
        raise ValueError(text)
    return int(text)


def healthy() -> bool:
    """Whether the service gave a sign of life in time."""
    try:
        return time.time() - HEARTBEAT.stat().st_mtime < DEAD_SECONDS
    except OSError:
        return False
