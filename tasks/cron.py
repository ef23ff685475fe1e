"""When a task is due: cron expressions in a time zone.

When summer time begins, a run in the skipped hour starts right after it; when it ends, a run in the
repeated hour starts in the first of the two. Schedules that repeat within the hour (`*/15 * * * *`)
go by elapsed time.
"""

from __future__ import annotations

import contextlib
import os
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from tasks.fetch.errors import ConfigError


def next_run(task: str, cron: str, after: datetime) -> datetime:
    """Return the first time after `after` at which a task is due.

    Args:
        task: The task's name, for errors.
        cron: Its schedule: minute, hour, day of month, month, day of week.
        after: A time with a time zone, which is that of the schedule.

    Raises:
        ConfigError: The schedule is not a cron expression.
    """
    where = f"schedule of task {task} is {cron!r}"
    fields = cron.split()
    if len(fields) != 5:
        raise ConfigError(
            f"{where}: {len(fields)} fields", advice="expected five fields, as in '0 3 * * *'"
        )
    if "*" not in (fields[2][0], fields[4][0]):
        # cron takes either day, other schedulers only both: a user may mean one or the other
        raise ConfigError(
            f"{where}: sets the day of the month and the day of the week, which cron programs "
            "read differently",
            advice="set the day of the month or the day of the week, not both",
        )
    with contextlib.suppress(CronSimError, ValueError, TypeError, AssertionError):
        for found in CronSim(cron, after):  # ends where no day matches, as 31 February
            # an hour that occurs twice is its first occurrence to CronSim, which may be over
            if found.timestamp() > after.timestamp():
                return found
    raise ConfigError(
        f"{where}: not a cron expression, or no day matches it",
        advice="expected minute, hour, day of month, month and day of week, as in '0 3 * * *'",
    )


def time_zone(setting: str = "") -> tzinfo:
    """Return the time zone of a schedule: the setting's, else that of TZ, else of /etc/localtime.

    Raises:
        ConfigError: TZ names no time zone.
    """
    if setting:
        return ZoneInfo(str(setting))  # a TimeZone would be its key
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
            f"TZ is {name!r}: there is no such time zone",
            advice="expected a name such as Europe/Zurich",
        ) from error
