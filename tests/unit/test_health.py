"""When the service is unhealthy, and what it says then."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from clone import Clone
from made_up_service import HOUR, MINUTE, Service, at, changed
from tasks import health
from tasks.schedule_state import ScheduleState
from tasks.setting_types import Duration

STATE = Path("data/.schedule/prod/state.json")


@pytest.fixture
def beating(daily: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Service:
    """Give a service whose scheduler works, at the time of its clock."""
    monkeypatch.setattr(health, "HEARTBEAT", tmp_path / "beat")
    monkeypatch.setattr(time, "time", lambda: daily.now)
    return daily


def reasons(service: Service) -> list[str]:
    """Return the reasons at the service's time, right after a heartbeat."""
    health.beat(service.kept.problem)
    os.utime(health.HEARTBEAT, (service.now, service.now))
    return health.reasons("prod")


def test_service_without_a_recent_heartbeat_is_unhealthy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(health, "HEARTBEAT", tmp_path / "beat")
    (no_beat,) = health.reasons("prod")
    assert no_beat.startswith("the scheduler does not run, or hangs")
    health.beat("")
    assert health.reasons("prod") == []
    old = time.time() - health.UNHEALTHY_AFTER_S - 1
    os.utime(health.HEARTBEAT, (old, old))
    assert health.reasons("prod") == [no_beat], "it was killed, or hangs"


def test_command_prints_a_line_for_each_reason_and_ends_with_1(tmp_path: Path) -> None:
    clone = Clone(tmp_path)
    done = clone.run("health")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith("lighterage: unhealthy: the scheduler does not run, or hangs")
    (tmp_path / "lighterage.heartbeat").touch()
    assert clone.run("health").returncode == 0
    state = tmp_path / "data/.schedule/dev/state.json"
    state.parent.mkdir(parents=True)
    task = {
        "schedule": "0 3 * * *", "time_zone": "Asia/Tokyo", "planned": 0, "due": 9, "failures": 3,
        "failing_since": 3600, "last_exit_code": -9, "awaited": 0, "overdue": 7200,
        "unhealthy_after_failures": 3,
    }  # fmt: skip
    elsewhere = {**task, "time_zone": "localtime", "overdue": None, "failing_since": None}
    state.write_text(json.dumps({"version": 1, "tasks": {"2": task, "3": elsewhere}}))
    done = clone.run("health")
    assert (done.returncode, done.stdout) == (1, "")
    end = "; see the log of the service"
    assert done.stderr.splitlines() == [
        "lighterage: unhealthy: task 2: 3 failures in a row since 1970-01-01T10:00:00+09:00, the "
        f"last with exit code -9{end}",
        "lighterage: unhealthy: task 2: overdue since 1970-01-01T11:00:00+09:00, no success since "
        f"1970-01-01T09:00:00+09:00{end}",
        "lighterage: unhealthy: task 3: 3 failures in a row since an unknown time, the last with "
        f"exit code -9{end}",
    ]
    assert clone.run("health", env={"LIGHTERAGE_VARIANT": "prod"}).returncode == 0


# --- failures ---------------------------------------------------------------------------------


def test_failures_in_a_row_are_a_reason_from_the_set_number_on_until_a_success(
    beating: Service,
) -> None:
    beating.until("03-21 03:02", step=10, ends=5)
    assert beating.job.state.failures == 2
    assert reasons(beating) == []
    beating.until("03-21 03:04", step=10, ends=8)
    beating.restart()
    assert reasons(beating) == [
        "task 2: 3 failures in a row since 2026-03-21T03:00:10+01:00, the last with exit code 8; "
        "see the log of the service"
    ]
    beating.until("03-21 03:09", step=10)
    assert reasons(beating) == []
    assert beating.job.state.failing_since is None


def test_failures_of_a_paused_task_and_with_0_are_no_reason(beating: Service) -> None:
    beating.restart(changed(unhealthy_after_failures=1))
    beating.until("03-21 03:01", step=10, ends=2)
    (reason,) = reasons(beating)
    assert reason.startswith("task 2: 1 failure since ")
    beating.kept.pause("2")
    assert reasons(beating) == []
    beating.kept.resume("2")
    assert reasons(beating) == [reason]
    beating.restart(changed(unhealthy_after_failures=0))
    beating.step()
    assert reasons(beating) == []


# --- overdue ----------------------------------------------------------------------------------


def test_task_without_a_success_so_long_after_a_scheduled_time_is_overdue(
    beating: Service,
) -> None:
    late = changed(overdue_after=Duration(2 * HOUR), unhealthy_after_failures=0)
    beating.restart(late)
    beating.until("03-21 04:59", ends=None)
    assert reasons(beating) == [], "it still runs, and is not late yet"
    beating.restart()  # which counts as a failure
    beating.until("03-21 05:00", ends=4)
    assert reasons(beating) == [
        "task 2: overdue since 2026-03-21T05:00:00+01:00, no success since "
        "2026-03-20T12:00:00+01:00; see the log of the service"
    ]
    beating.until("03-22 03:05")
    assert reasons(beating) == []
    beating.now = at("03-23 06:00")
    assert len(reasons(beating)) == 1, "the machine slept, or the service was down"
    beating.restart(changed(overdue_after=Duration(0)))
    beating.step()
    assert reasons(beating) == []


def test_jitter_is_not_late_and_times_of_a_pause_are_not_awaited(beating: Service) -> None:
    jitter = Duration(30 * MINUTE)
    beating.restart(changed(overdue_after=Duration(HOUR), schedule_jitter=jitter, catch_up=False))
    beating.until("03-21 03:29")
    assert beating.job.state.overdue == at("03-21 04:30")
    beating.kept.pause("2")
    beating.until("03-25 12:00")
    assert reasons(beating) == []
    beating.kept.resume("2")
    beating.step()
    assert reasons(beating) == []
    assert beating.job.state.overdue == at("03-26 04:30")


def test_clock_set_back_awaits_the_times_again(beating: Service) -> None:
    beating.restart(changed(overdue_after=Duration(HOUR)))
    beating.until("04-21 03:10")
    beating.now = at("03-25 12:00")
    beating.step()
    assert beating.job.state.overdue == at("03-26 04:00")


# --- the state --------------------------------------------------------------------------------


def test_state_of_the_first_version_is_healthy_until_the_service_has_run(beating: Service) -> None:
    STATE.parent.mkdir(parents=True)
    STATE.write_text(
        '{"version":1,"tasks":{"2":{"schedule":"0 3 * * *","time_zone":"Europe/Zurich",'
        f'"planned":{beating.now},"due":{beating.now + HOUR},"failures":7,"running":false}}}}}}'
    )
    assert reasons(beating) == []
    beating.restart()
    beating.step()
    (reason,) = reasons(beating)
    assert reason.startswith("task 2: 7 failures in a row since an unknown time")


def test_state_that_cannot_be_written_is_a_reason_while_it_lasts(
    beating: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk keeps failures from being counted, where they are most likely."""

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        beating.until("03-21 03:02", ends=8)
    assert reasons(beating) == [
        f"{STATE}: No space left on device: the health of the tasks is not known"
    ]
    beating.step()
    assert reasons(beating) == []
    assert ScheduleState("prod").load()["2"].failures
