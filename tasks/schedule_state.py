"""What the service keeps between its restarts, in a folder of the data: one of each variant.

`state.json` is written by the service alone, in one step. A pause is a file of its own, so that
another process may set it, and so that it outlasts a state that cannot be read.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec

from tasks.fetch.errors import BusyError, LocalError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

log = logging.getLogger(__name__)

FOLDER = Path("data/.schedule")
_Time = Annotated[float, msgspec.Meta(ge=0, lt=2**37)]
"""Seconds since 1970, at most those that `datetime` can show."""


@dataclass(frozen=True)
class TaskState:
    """What the service knows of a task.

    Attributes:
        schedule: The cron expression that `due` follows.
        time_zone: The time zone that `due` follows.
        planned: When `due` was determined.
        due: When the task starts next; None is as soon as possible.
        failures: How many runs failed since the last success.
        running: Whether a run is in progress.
        failing_since: When the first of these failures was.
        last_exit_code: Of the last run that ended; below 0 of a signal.
        awaited: From when on a success is awaited: since the last one, or the first start.
        overdue: When the task is overdue unless it succeeds; None is never.
        unhealthy_after_failures: The setting; 0 is never.
    """

    schedule: str
    time_zone: str
    planned: _Time
    due: _Time | None
    failures: Annotated[int, msgspec.Meta(ge=0)] = 0
    running: bool = False
    failing_since: _Time | None = None
    last_exit_code: int = 0
    awaited: _Time | None = None
    overdue: _Time | None = None
    unhealthy_after_failures: int = 0


@dataclass(frozen=True)
class _File:
    version: Literal[1]
    tasks: dict[str, TaskState] = field(default_factory=dict)


class ScheduleState:
    """The folder of a variant's service.

    Attributes:
        problem: Why the state could not be written, and where; empty after a success.
    """

    def __init__(self, variant: str) -> None:
        self._folder = FOLDER / variant
        self._path = self._folder / "state.json"
        self._saved: Mapping[str, TaskState] = {}
        self.problem = ""

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Refuse a second service on the same data, for the time of a block.

        Raises:
            BusyError: There is one.
        """
        path = self._folder / "lock"
        with contextlib.ExitStack() as stack:
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
                fcntl.flock(stack.enter_context(path.open("ab")), fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise BusyError(
                    f"{path}: another service runs the schedules of this data",
                    advice="stop it first",
                ) from error
            except OSError as error:
                log.warning("%s: %s: a second service would not be noticed", path, error.strerror)
            yield

    def load(self) -> Mapping[str, TaskState]:
        """Return the state by task; nothing, and a warning, where it cannot be read."""
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=_File).tasks
        except FileNotFoundError:
            pass
        except (OSError, ValueError, RecursionError) as error:
            log.warning(
                "%s: damaged, or of another version of Lighterage (%s): the schedules start again, "
                "and missed runs are not made up for",
                self._path,
                error,
            )
        return {}

    def save(self, tasks: Mapping[str, TaskState]) -> None:
        """Write the state if it changed. Warn where that fails, and go on: the tasks may run."""
        if tasks == self._saved:
            return
        new = self._path.with_name("state.json.new")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with new.open("wb") as file:
                file.write(msgspec.json.encode(_File(1, dict(tasks))))
                file.flush()
                os.fsync(file.fileno())
            new.replace(self._path)
        except OSError as error:
            with contextlib.suppress(OSError):
                new.unlink()
            if not self.problem:
                log.warning(
                    "%s: %s: after a restart the service may repeat or miss a run",
                    self._path,
                    error.strerror,
                )
            self.problem = f"{self._path}: {error.strerror}"
            return
        self._saved, self.problem = dict(tasks), ""

    # --- pauses ---------------------------------------------------------------------------------

    def pause(self, task: str) -> None:
        """Start no further runs of a task."""
        path = self._pause(task)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            path.touch()
        except OSError as error:
            raise LocalError(
                f"{path}: {error.strerror}: task {task} is not paused",
                advice="make the folder writable",
            ) from error

    def resume(self, task: str) -> None:
        """Let the service run a task again."""
        path = self._pause(task)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise LocalError(
                f"{path}: {error.strerror}: task {task} is still paused", advice="remove this file"
            ) from error

    def paused(self, task: str) -> bool:
        """Whether a task is paused; not where that cannot be read: `load` warns of the folder."""
        return os.access(self._pause(task), os.F_OK)

    def _pause(self, task: str) -> Path:
        return self._folder / f"{task}.paused"
