"""Whether the service is healthy: the scheduler works, and so do the tasks that it runs.

A container engine asks in a process of its own, which reads what the service last wrote: its
heartbeat, and its state (`schedule_state.py`).
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from tasks.schedule_state import ScheduleState

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tasks.schedule_state import TaskState

HEARTBEAT = Path(tempfile.gettempdir()) / "lighterage.heartbeat"
UNHEALTHY_AFTER_S = 20.0
"""Without a heartbeat for this long the service is unhealthy."""


def beat(problem: str) -> None:
    """Give a sign of life, and say what keeps the state from being written, if anything does."""
    HEARTBEAT.touch()
    with contextlib.suppress(OSError):  # a full disk has room for no text, but for the sign
        HEARTBEAT.write_text(problem, encoding="utf-8")


def reasons(variant: str) -> list[str]:
    """Return why the service is unhealthy, a line for each reason; nothing while it is healthy."""
    now = time.time()
    try:
        age_s, problem = now - HEARTBEAT.stat().st_mtime, HEARTBEAT.read_text(encoding="utf-8")
    except OSError:
        age_s, problem = UNHEALTHY_AFTER_S, ""
    if age_s >= UNHEALTHY_AFTER_S:
        return ["the scheduler does not run, or hangs: its heartbeat is missing or too old"]
    kept = ScheduleState(variant)
    return [
        *([f"{problem}: the health of the tasks is not known"] if problem else []),
        *(
            f"task {task}: {reason}; see the log of the service"
            for task, state in kept.load().items()
            if not kept.paused(task)
            for reason in _reasons(state, now)
        ),
    ]


def _reasons(state: TaskState, now: float) -> Iterator[str]:
    """Give the reasons of one task."""
    if state.failures >= state.unhealthy_after_failures > 0:
        runs = "1 failure" if state.failures == 1 else f"{state.failures} failures in a row"
        since = _shown(state.failing_since, state.time_zone)
        yield f"{runs} since {since}, the last with exit code {state.last_exit_code}"
    if state.overdue is not None and now >= state.overdue:
        awaited = _shown(state.awaited, state.time_zone)
        yield f"overdue since {_shown(state.overdue, state.time_zone)}, no success since {awaited}"


def _shown(moment: float | None, zone: str) -> str:
    """Return a time of the task's time zone, or of this process where that has no name."""
    if moment is None:
        return "an unknown time"  # counted by an earlier version of Lighterage
    try:
        return datetime.fromtimestamp(int(moment), ZoneInfo(zone)).isoformat()
    except (ValueError, LookupError, OSError):
        return datetime.fromtimestamp(int(moment)).astimezone().isoformat()
