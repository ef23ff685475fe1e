"""One task of the service, with a made-up clock and made-up processes."""

from __future__ import annotations

import dataclasses
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from tasks import schedule
from tasks.schedule_state import ScheduleState
from tasks.setting_types import TimeZone
from tasks.settings import Settings

ZURICH = ZoneInfo("Europe/Zurich")
MINUTE, HOUR = 60.0, 3600.0
DAILY = Settings("2", "prod", schedule="0 3 * * *", time_zone=TimeZone(ZURICH.key))


def at(text: str) -> float:
    """Return a time of Zurich, in seconds since 1970."""
    return datetime.fromisoformat(f"2026-{text}").replace(tzinfo=ZURICH).timestamp()


class Run:
    """A made-up process, which ends when a test says so."""

    def __init__(self) -> None:
        self.code: int | None = None

    def poll(self) -> int | None:
        return self.code


class Service:
    """One task of the service, at a time that a test sets."""

    def __init__(self, settings: Settings, now: str) -> None:
        self.settings, self.runs, self.starts = settings, list[Run](), list[float]()
        self.now = at(now)
        self.restart()

    def restart(self, settings: Settings | None = None) -> None:
        """Start the service, with what was saved."""
        self.settings = settings or self.settings
        self.kept = ScheduleState("prod")
        state = self.kept.load().get("2")
        self.job = schedule.Job(self.settings, state, [], self.now)

    def start(self, *_: object, **__: object) -> Run:
        """Stand in for `subprocess.Popen`."""
        self.starts.append(self.now)
        self.runs.append(Run())
        return self.runs[-1]

    def until(self, time: str | float, *, step: float = MINUTE, ends: int | None = 0) -> list[str]:
        """Let the time pass; return when runs started. Each ends in the next step, with a code."""
        self.starts, end = [], at(time) if isinstance(time, str) else time
        while True:
            self.step()
            if self.runs:
                self.runs[-1].code = ends
            if self.now >= end:
                break
            self.now = min(self.now + step, end)
        return [f"{datetime.fromtimestamp(start, ZURICH):%m-%d %H:%M}" for start in self.starts]

    def step(self) -> None:
        """Do what the service does at the time."""
        self.job.step(self.now, paused=self.kept.paused("2"))
        self.kept.save({"2": self.job.state})


def changed(**values: Any) -> Settings:
    """Return the settings with other values."""
    return dataclasses.replace(DAILY, **values)
