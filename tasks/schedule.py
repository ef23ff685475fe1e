"""The prod service: runs each task at its scheduled times, one process per run.

A task never runs twice at once. Times that pass while it runs, while the machine sleeps or while
the service is down are made up for by one run afterwards (`catch_up`).

After a failure that may pass, the task starts again after a delay, which doubles with each failure
in a row; after another failure, at the first scheduled time after the delay.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import random
import signal
import subprocess
import sys
import time
from datetime import datetime
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Protocol

from tasks import health
from tasks.cron import next_run, time_zone
from tasks.fetch import interrupt
from tasks.fetch.errors import ConfigError, LocalError
from tasks.history import Recorder
from tasks.notify import Notifier
from tasks.schedule_state import ScheduleState, TaskState

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractContextManager

    from tasks.settings import Settings

log = logging.getLogger(__name__)

HEARTBEAT_INTERVAL_S = 5.0
STOP_TIMEOUT_S = 5.0
"""Time for a task to end after a signal; it promises two seconds."""
LATE_AFTER_S = 60.0
"""A run that could not start until then was missed."""
CLOCK_SET_BACK_S = 3 * 3600.0
"""A clock set back by less repeats no run, as with cron(8); by more, times are planned again."""
FIRST_BACKOFF_S = 60.0
PASSING = {5, 6, 8, 9}
"""Exit codes of failures that may pass: network, integrity, local disk, busy. Codes of signals
count, too: a run may be killed for want of memory."""

INTERRUPTED = {-signal.SIGKILL, -signal.SIGTERM, 128 + signal.SIGTERM, 128 + signal.SIGINT}
"""How a run ends that the end of the service interrupts; a terminal sends SIGINT to both."""


class Clock(Protocol):
    """The time that schedules follow; tests have a faster one."""

    def now(self) -> float:
        """Return the time, in seconds since 1970."""
        ...

    def wait(self, signals: SimpleQueue[int], seconds: float) -> int | None:
        """Wait for a signal at most so long; return its number, or None."""
        ...


class SystemClock:
    """The time of this machine."""

    def now(self) -> float:
        """Return the time, in seconds since 1970."""
        return time.time()

    def wait(self, signals: SimpleQueue[int], seconds: float) -> int | None:
        """Wait for a signal at most so long; return its number, or None."""
        with contextlib.suppress(Empty):
            return signals.get(timeout=seconds)
        return None


class Job:
    """A task with a schedule, and its process while it runs.

    Attributes:
        state: What is kept between restarts.
    """

    def __init__(
        self, settings: Settings, state: TaskState | None, arguments: Sequence[str], now: float
    ) -> None:
        self._settings = settings
        self._task = settings.task
        self._zone = time_zone(settings.time_zone)
        self._command = [
            sys.executable, "-m", "tasks", self._task, "--progress", "none",
            "--log-format", settings.log_format, *arguments,
        ]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None
        self._random = random.Random()  # noqa: S311 (no secret)
        self._paused = False
        if state is None or not applies(state, settings):
            self.state = TaskState(settings.schedule, str(self._zone), now, now)
            self._plan(now)
        else:
            self.state = state
        self._expect_success(now if self.state.awaited is None else self.state.awaited)
        if self.state.running:
            log.warning("task %s: the service ended during its last run", self._task)
            self._fail(-signal.SIGKILL, now)

    def _plan(self, now: float) -> None:
        """Determine when the task is due next by its schedule."""
        due = self._next(now)
        jitter = self._settings.schedule_jitter
        if jitter:  # less than the time to the next but one, which it must not pass
            due += self._random.uniform(0, min(jitter, self._next(due) - due))
        self.state = dataclasses.replace(self.state, due=due, planned=now)
        log.info("task %s: next run %s", self._task, self._shown(due))

    def _expect_success(self, after: float) -> None:
        """Determine when the task is overdue: so long after its next scheduled time."""
        settings, overdue = self._settings, None
        if settings.overdue_after:
            overdue = self._next(after) + settings.schedule_jitter + settings.overdue_after
        self.state = dataclasses.replace(
            self.state,
            awaited=after,
            overdue=overdue,
            unhealthy_after_failures=settings.unhealthy_after_failures,
        )

    def _next(self, after: float) -> float:
        local = datetime.fromtimestamp(after, self._zone)
        return next_run(self._task, self._settings.schedule, local).timestamp()

    def _shown(self, moment: float) -> str:
        return str(datetime.fromtimestamp(int(moment), self._zone))

    def step(self, now: float, *, paused: bool) -> None:
        """Notice the end of a run, and start the task if it is due."""
        if self._process is not None:
            code = self._process.poll()
            if code is None:
                return
            self._process = None
            self._end(code, now)
        if now < self.state.planned - CLOCK_SET_BACK_S:
            log.warning("task %s: the clock was set back, to %s", self._task, self._shown(now))
            self._plan(now)
            self._expect_success(now)
        if self._paused and not paused:
            self._expect_success(now)  # the times of the pause are no reason
        self._paused = paused
        due = now if self.state.due is None else self.state.due
        if paused or now < due:
            return
        if now >= due + LATE_AFTER_S:
            missed = f"task {self._task}: missed the run of {self._shown(due)}"
            if not self._settings.catch_up:
                log.warning("%s (catch_up is false)", missed)
                self._plan(now)
                return
            log.warning("%s: starts now", missed)
        try:
            self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL)
        except OSError as error:  # too little memory, too many processes: other tasks still run
            log.warning("task %s cannot be started: %s", self._task, error.strerror)
            self._fail(LocalError.exit_code, now)
            return
        log.info("task %s started", self._task)
        self._plan(now)
        self.state = dataclasses.replace(self.state, running=True)

    def _end(self, code: int, now: float) -> None:
        if code:
            self._fail(code, now)
        else:
            log.info("task %s ended with exit code 0", self._task)
            self.state = dataclasses.replace(
                self.state, running=False, failures=0, failing_since=None, last_exit_code=0
            )
            self._expect_success(now)

    def _fail(self, code: int, now: float) -> None:
        """Count a failure, and delay the next run."""
        if code < 0:  # a run that is killed writes nothing itself; it started when it was planned
            text = f"killed by signal {-code}, alone or with the service"
            data = {"status": "failed", "exit_code": code, "kind": "killed", "error": text}
            previous = Recorder(self._settings, self.state.planned).record(data, now)
            try:
                Notifier(self._settings).end(data, previous)
            except ConfigError as error:  # edited while the service runs: the next run reports it
                log.warning("task %s: no notification: %s", self._task, error)
        failures = self.state.failures + 1
        due = now if self.state.due is None else self.state.due
        delay = min(FIRST_BACKOFF_S * 2.0 ** min(failures - 1, 30), self._settings.max_backoff)
        if delay:  # and not for all tasks of a host at one time
            after = now + delay * self._random.uniform(0.5, 1)
            passing = code in PASSING or code < 0 or code > 128
            due = after if passing else max(due, self._next(after))
        self.state = dataclasses.replace(
            self.state,
            running=False,
            failures=failures,
            failing_since=self.state.failing_since or now,
            last_exit_code=code,
            due=due,
            planned=now,
        )
        log.warning(
            "task %s ended with exit code %d, failure %d in a row: next run %s",
            self._task, code, failures, self._shown(due),
        )  # fmt: skip

    def terminate(self) -> None:
        """Send SIGTERM to the task if it runs."""
        if self._process is not None:
            self._process.terminate()

    def wait(self, deadline: float, now: float) -> None:
        """Wait for the task's end until a time of `time.monotonic`; then kill it.

        A run that did not end by itself starts again with the service.
        """
        if self._process is None:
            return
        try:
            code = self._process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self._process = None
        if code in INTERRUPTED:
            self.state = dataclasses.replace(self.state, running=False, due=None)
        else:
            self._end(code, now)


def serve(
    tasks: Sequence[Settings],
    variant: str,
    arguments: Sequence[str],
    clock: Clock | None = None,
    metrics: AbstractContextManager[None] | None = None,
) -> int:
    """Run scheduled tasks until SIGTERM or SIGINT; return the exit code.

    Args:
        tasks: The settings of each task that has a schedule.
        variant: Whose state is kept.
        arguments: What each run gets.
        clock: The time; by default that of the system.
        metrics: Entered once no other service runs on the same data.

    Raises:
        BusyError: Another service runs on the same data.
    """
    clock = clock or SystemClock()
    # A signal handler may fill a queue of this kind; the lock of an Event may be held by the very
    # thread that the handler interrupts, which would wait for itself.
    signals: SimpleQueue[int] = SimpleQueue()
    interrupt.uninstall()  # its watchdog would end the service before its tasks
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
        signal.signal(signum, lambda number, _: signals.put(number))
    kept = ScheduleState(variant)
    with kept.locked(), metrics or contextlib.nullcontext():
        states = kept.load()
        jobs = {one.task: Job(one, states.get(one.task), arguments, clock.now()) for one in tasks}
        try:
            _loop(jobs, kept, signals, clock)
        finally:
            for job in jobs.values():
                job.terminate()
            deadline = time.monotonic() + STOP_TIMEOUT_S
            for job in jobs.values():
                job.wait(deadline, clock.now())
            kept.save({task: job.state for task, job in jobs.items()})
            health.HEARTBEAT.unlink(missing_ok=True)
    return 0


def _loop(
    jobs: Mapping[str, Job], kept: ScheduleState, signals: SimpleQueue[int], clock: Clock
) -> None:
    paused: set[str] = set()
    while True:
        health.beat(kept.problem)
        before, paused = paused, {task for task in jobs if kept.paused(task)}
        for task in sorted(before ^ paused):
            log.warning("task %s: %s", task, "paused" if task in paused else "resumed")
        for task, job in jobs.items():
            job.step(clock.now(), paused=task in paused)
        kept.save({task: job.state for task, job in jobs.items()})
        waits = [job.state.due - clock.now() for job in jobs.values() if job.state.due is not None]
        wait_s = min([HEARTBEAT_INTERVAL_S, *(seconds for seconds in waits if seconds > 0)])
        if clock.wait(signals, wait_s) in {signal.SIGTERM, signal.SIGINT}:
            break


def applies(state: TaskState, settings: Settings) -> bool:
    """Whether a state was planned by the present schedule."""
    zone = str(time_zone(settings.time_zone))
    return (state.schedule, state.time_zone) == (settings.schedule, zone)


def status(tasks: Sequence[Settings], variant: str) -> list[str]:
    """Return a line for each task that has a schedule: when it runs next, and what delays it."""
    kept = ScheduleState(variant)
    states, lines = kept.load(), []
    for settings in tasks:
        task, state = settings.task, states.get(settings.task)
        zone = time_zone(settings.time_zone)
        due: datetime | str = next_run(task, settings.schedule, datetime.now(zone))
        notes = []
        if state and applies(state, settings):
            due = "at once" if state.due is None else datetime.fromtimestamp(int(state.due), zone)
            notes += [f", failures in a row: {state.failures}"] if state.failures else []
        notes += [", paused"] if kept.paused(task) else []
        lines.append(f"task {task}: next run {due}{''.join(notes)}")
    return lines
