"""When a task is due: cron expressions, time zones, summer time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from tasks.config_file import load_config
from tasks.cron import next_run, time_zone
from tasks.fetch.errors import ConfigError
from tasks.setting_types import TimeZone
from tasks.settings import convert


def times(cron: str, after: str, zone: str = "UTC", count: int = 1) -> list[str]:
    """Give the next times of a schedule, as wall-clock times with their offset to UTC."""
    found, now = [], datetime.fromisoformat(after).replace(tzinfo=ZoneInfo(zone))
    for _ in range(count):
        now = next_run("1", cron, now)
        found.append(f"{now:%a %Y-%m-%d %H:%M %z}")
    return found


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ("0", "Sun"), ("7", "Sun"), ("mon-fri", "Mon Tue Wed Thu Fri"), ("5-7", "Fri Sat Sun"),
        ("1,3-4", "Mon Wed Thu"), ("*/2", "Sun Tue Thu Sat"), ("mon-fri/2", "Mon Wed Fri"),
    ],
)  # fmt: skip
def test_weekday_is_what_cron_means_by_it(field: str, expected: str) -> None:
    days = {time[:3] for time in times(f"0 3 * * {field}", "2026-01-03 12:00", count=7)}
    assert days == set(expected.split())


@pytest.mark.parametrize(
    ("cron", "after", "expected"),
    [
        ("0 3 * * *", "2026-01-04 02:59", ["01-04 03:00 +0100", "01-05 03:00 +0100"]),
        ("  */15 * *  * * ", "2026-01-04 03:01", ["01-04 03:15 +0100", "01-04 03:30 +0100"]),
        ("0 0 1 jan,jul *", "2026-01-04 00:00", ["07-01 00:00 +0200", "01-01 00:00 +0100"]),
        ("0 0 29 2 *", "2027-01-04 00:00", ["02-29 00:00 +0100", "02-29 00:00 +0100"]),
        # summer time begins on 2026-03-29: 2:00 to 3:00 is skipped
        ("30 2 * * *", "2026-03-28 12:00", ["03-29 03:00 +0200", "03-30 02:30 +0200"]),
        ("0 3 * * *", "2026-03-28 12:00", ["03-29 03:00 +0200", "03-30 03:00 +0200"]),
        # and ends on 2026-10-25: 2:00 to 3:00 occurs twice
        ("30 2 * * *", "2026-10-24 12:00", ["10-25 02:30 +0200", "10-26 02:30 +0100"]),
        ("*/30 * * * *", "2026-10-25 02:29", ["10-25 02:30 +0200", "10-25 02:00 +0100"]),
    ],
)
def test_next_runs_are_at_the_times_of_cron_also_when_summer_time_begins_or_ends(
    cron: str, after: str, expected: list[str]
) -> None:
    found = times(cron, after, "Europe/Zurich", count=2)
    assert [time[9:] for time in found] == expected


def test_run_in_the_first_of_two_equal_hours_is_not_repeated_in_the_second() -> None:
    now = datetime(2026, 10, 25, 2, 10, fold=1, tzinfo=ZoneInfo("Europe/Zurich"))
    assert f"{next_run('1', '30 2 * * *', now):%m-%d %H:%M}" == "10-26 02:30"


@pytest.mark.parametrize(
    ("zone", "offset"),
    [("Asia/Tokyo", 9), (":Asia/Tokyo", 9), ("UTC", 0), ("/usr/share/zoneinfo/Asia/Tokyo", 9)],
)
def test_schedule_is_in_the_time_zone_of_tz(
    zone: str, offset: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", zone)
    assert datetime.now(time_zone()).utcoffset() == timedelta(hours=offset)
    assert str(time_zone(TimeZone("Europe/Zurich"))) == "Europe/Zurich", "the setting overrides it"


@pytest.mark.parametrize("zone", ["Europe/Zurch", "/nowhere", "../x", "/etc/passwd"])
def test_unknown_time_zone_is_refused(zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", zone)
    with pytest.raises(ConfigError, match="no such time zone"):
        time_zone()


@pytest.mark.parametrize(
    "cron",
    ["", "daily", "@daily", "0 3 * *", "0 3 * * * *", "60 3 * * *", "0 3 32 * *", "0 3 * * 8",
     "0 3 * * 5-3", "0 3 * * 1/0", "0 3 * * 5L/2", "0 3 * * ?", "0 3 * * \u00b2", "0 3 31 2 *",
     # cron takes either day, many schedulers only both
     "0 3 1 * 1", "0 3 1-7 * mon", "0 3 1,15 * 5"],
)  # fmt: skip
def test_invalid_cron_expression_is_refused_with_its_task(cron: str) -> None:
    with pytest.raises(ConfigError, match=r"^schedule of task 2 is ") as caught:
        next_run("2", cron, datetime.now(UTC))
    assert repr(cron) in str(caught.value)


# --- in config.yaml -----------------------------------------------------------------------


def test_schedules_are_those_of_the_variant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = """
common: {time_zone: Asia/Tokyo}
variants: {dev: {}, prod: {}}
tasks:
  1: {schedule: "0 1 * * *"}
  2: {prod: {schedule: "0 2 * * *", time_zone: Europe/Zurich}}
  3: {schedule: "0 3 * * *", dev: {schedule: ""}}
"""
    monkeypatch.chdir(tmp_path)
    Path("config.yaml").write_text(text)
    found = {
        variant: [(task, *values.values()) for task, values in config.schedules(variant).items()]
        for config in [load_config(None)]
        for variant in ("dev", "prod")
    }
    assert found == {
        "dev": [("1", "Asia/Tokyo", "0 1 * * *")],
        "prod": [
            ("1", "Asia/Tokyo", "0 1 * * *"),
            ("2", "Europe/Zurich", "0 2 * * *"),
            ("3", "Asia/Tokyo", "0 3 * * *"),
        ],
    }


@pytest.mark.parametrize("zone", ["Europe/Zurch", "Europe", "../x", "/etc/passwd", 1, "a" * 5000])
def test_time_zone_that_does_not_exist_is_refused_where_it_is_set(zone: str) -> None:
    with pytest.raises(ConfigError) as caught:
        convert("time_zone", zone, "config.yaml: common")
    assert str(caught.value) == (
        f"config.yaml: common: time_zone is {zone!r}: "
        "expected the name of a time zone, such as Europe/Zurich"
    )
