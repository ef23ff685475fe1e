"""When the service starts a task: missed times, failures, pauses, a clock that is set; its state.

A made-up clock and made-up processes: `tests/faults/test_soak.py` has real ones.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from clone import REPOSITORY
from made_up_service import HOUR, MINUTE, Run, Service, at, changed
from recipes import recipe
from tasks import schedule
from tasks.fetch.errors import BusyError, LocalError
from tasks.resolve import resolve
from tasks.schedule_state import ScheduleState, TaskState
from tasks.setting_types import Duration, TimeZone
from tasks.settings import Settings

# --- times ------------------------------------------------------------------------------------


def test_task_runs_once_a_day_also_when_summer_time_begins_and_ends(daily: Service) -> None:
    assert daily.until("03-31 12:00") == [f"03-{day} 03:00" for day in range(21, 32)]
    daily.until("10-24 12:00", step=HOUR / 2)
    daily.restart(changed(schedule="30 2 * * *"))
    assert daily.until("10-27 12:00") == [f"10-{day} 02:30" for day in (25, 26, 27)]


def test_times_that_pass_during_a_run_are_made_up_for_by_one_run(daily: Service) -> None:
    daily.restart(changed(schedule="* * * * *"))
    assert daily.until("03-20 12:10", ends=None) == ["03-20 12:01"], "never twice at once"
    daily.runs[-1].code = 0
    assert daily.until("03-20 12:12") == ["03-20 12:10", "03-20 12:11", "03-20 12:12"]


@pytest.mark.parametrize(
    ("catch_up", "starts"), [(True, ["03-24 12:00", "03-25 03:00"]), (False, ["03-25 03:00"])]
)
@pytest.mark.parametrize("down", [True, False], ids=["service-down", "machine-asleep"])
def test_missed_times_are_made_up_for_by_one_run_if_catch_up_says_so(
    daily: Service, caplog: pytest.LogCaptureFixture, catch_up: bool, starts: list[str], down: bool
) -> None:
    daily.restart(changed(catch_up=catch_up))
    daily.until("03-21 12:00")
    daily.now = at("03-24 12:00")
    if down:
        daily.restart()
    assert daily.until("03-25 12:00") == starts
    (missed,) = [one for one in caplog.records if "missed the run of 2026-03-22 03:" in one.message]
    assert missed.levelname == "WARNING"


def test_first_start_and_another_schedule_make_up_for_nothing(daily: Service) -> None:
    daily.until("03-21 12:00")
    daily.now = at("03-24 12:00")
    daily.restart(changed(schedule="0 4 * * *"))
    assert daily.until("03-25 12:00") == ["03-25 04:00"]
    daily.restart(changed(schedule="0 4 * * *", time_zone=TimeZone("Asia/Tokyo")))
    assert daily.until("03-26 12:00") == ["03-25 20:00"]


def test_jitter_delays_a_run_but_not_past_the_next_time(
    daily: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    daily.restart(changed(schedule="0 * * * *", schedule_jitter=Duration(15 * MINUTE)))
    assert daily.until("03-20 14:30") == ["03-20 13:15", "03-20 14:15"]
    monkeypatch.setattr("random.Random.uniform", lambda _, low, high: (low + high) / 2)
    daily.restart(changed(schedule="5 * * * *", schedule_jitter=Duration(24 * HOUR)))
    assert daily.until("03-20 16:50") == ["03-20 15:35", "03-20 16:35"]


@pytest.mark.parametrize(
    ("back", "starts"),
    [(2 * HOUR, ["03-22 03:00"]), (9 * 24 * HOUR, ["03-13 03:00"])],
    ids=["a-little", "far"],
)
def test_clock_set_back_repeats_no_run_unless_far(
    daily: Service, back: float, starts: list[str]
) -> None:
    assert daily.until("03-21 03:10") == ["03-21 03:00"]
    daily.now -= back
    assert daily.until(at(f"{starts[0][:5]} 12:00")) == starts


def test_clock_that_was_far_ahead_and_is_right_after_a_restart_plans_anew(daily: Service) -> None:
    daily.until("12-01 12:00", step=HOUR)
    daily.now = at("03-21 12:00")
    daily.restart()
    assert daily.until("03-22 12:00") == ["03-22 03:00"]


# --- failures ---------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [5, 6, 8, 9, -9, 137, 143])
def test_failure_that_may_pass_is_retried_after_a_delay_that_doubles(
    daily: Service, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    daily.restart(changed(max_backoff=Duration(5 * MINUTE)))
    assert [start[6:] for start in daily.until("03-21 03:20", step=10, ends=code)] == [
        "03:00", "03:01", "03:03", "03:07", "03:12", "03:17"
    ]  # fmt: skip
    assert f"exit code {code}, failure 2 in a row: next run 2026-03-21 03:03:" in caplog.text
    assert daily.until("03-22 12:00") == ["03-21 03:23", "03-22 03:00"], "then by the schedule"
    assert daily.job.state.failures == 0


@pytest.mark.parametrize("code", [1, 2, 3, 4, 7, 42])
def test_other_failure_runs_at_the_first_scheduled_time_after_the_delay(
    daily: Service, code: int
) -> None:
    assert daily.until("03-22 12:00", ends=code) == ["03-21 03:00", "03-22 03:00"]
    daily.restart(changed(schedule="* * * * *"))
    daily.now = at("03-23 12:00")
    starts = [start[6:] for start in daily.until("03-23 12:20", step=10, ends=code)]
    assert starts == ["12:00", "12:02", "12:05", "12:10", "12:19"]


def test_without_back_off_a_failed_task_runs_by_its_schedule(daily: Service) -> None:
    daily.restart(changed(max_backoff=Duration(0), schedule="0 * * * *"))
    starts = daily.until("03-20 15:30", ends=5)
    assert starts == ["03-20 13:00", "03-20 14:00", "03-20 15:00"]


def test_delay_is_shortened_at_random_by_up_to_a_half(
    daily: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("random.Random.uniform", lambda _, low, high: low)
    daily.restart(changed(max_backoff=Duration(10 * HOUR)))
    starts = daily.until("03-21 09:00", ends=5)
    assert [start[6:] for start in starts[-4:]] == ["03:38", "04:11", "05:16", "07:25"]


def test_task_that_cannot_be_started_is_retried(
    daily: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fork(*_: object, **__: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    with monkeypatch.context() as patch:
        patch.setattr("subprocess.Popen", fork)
        assert daily.until("03-21 03:00") == []
    assert "task 2 cannot be started: Resource temporarily unavailable" in caplog.text
    assert daily.until("03-21 12:00") == ["03-21 03:01"]


def test_documented_exit_codes_are_those_that_are_retried() -> None:
    text = (REPOSITORY / "docs/service.md").read_text("utf-8")
    after_delay, by_schedule = re.findall(r"(?m)^\| (\d .*) \| (?:after|at) the", text)
    assert {int(code) for code in re.findall(r"\d+", after_delay)} == schedule.PASSING
    others = {int(code) for code in re.findall(r"\d+", by_schedule)}
    assert others == {*range(1, 11)} - schedule.PASSING


def test_documented_settings_are_those_of_the_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("config.yaml").write_text(recipe("yaml", "catch_up", page="service.md"))
    found = resolve("2", {}, environ={"LIGHTERAGE_VARIANT": "prod"}).settings
    assert (found.schedule, found.time_zone) == ("0 3 * * *", "Europe/Zurich")
    assert float(found.schedule_jitter) == 10 * MINUTE
    for settings in (found, Settings()):  # the defaults, which the documentation states
        assert float(settings.max_backoff) == HOUR
        assert settings.catch_up


def test_back_off_outlasts_a_restart(daily: Service) -> None:
    daily.until("03-21 03:12", step=10, ends=5)
    assert daily.job.state.failures == 4
    daily.restart()
    assert daily.until("03-21 03:30") == ["03-21 03:16"]


# --- the end of the service ------------------------------------------------------------------


@pytest.mark.parametrize("catch_up", [True, False])
def test_run_that_the_end_of_the_service_interrupts_starts_again_with_it(
    daily: Service, catch_up: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    daily.restart(changed(catch_up=catch_up))
    daily.until("03-21 03:00", ends=None)
    (run,) = daily.runs
    monkeypatch.setattr(Run, "wait", lambda *_: 143, raising=False)
    daily.job.wait(0, daily.now)
    daily.kept.save({"2": daily.job.state})
    run.code = 143
    daily.now = at("03-21 09:00")
    daily.restart()
    assert daily.until("03-22 12:00") == ["03-21 09:00", "03-22 03:00"]


def test_run_that_does_not_end_is_killed_and_starts_again_with_the_service(
    daily: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    daily.until("03-21 03:00", ends=None)
    (run,) = daily.runs

    def wait(_: Run, timeout: float | None = None) -> int:
        if run.code is None:
            raise subprocess.TimeoutExpired("", timeout or 0)
        return run.code

    monkeypatch.setattr(Run, "wait", wait, raising=False)
    monkeypatch.setattr(Run, "kill", lambda one: setattr(one, "code", -9), raising=False)
    daily.job.wait(0, daily.now)
    assert (daily.job.state.due, daily.job.state.failures) == (None, 0)


def test_run_that_ends_by_itself_while_the_service_ends_is_not_repeated(
    daily: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    daily.until("03-21 03:00", ends=None)
    monkeypatch.setattr(Run, "wait", lambda *_: 0, raising=False)
    daily.job.wait(0, daily.now)
    daily.kept.save({"2": daily.job.state})
    daily.restart()
    assert daily.until("03-22 12:00") == ["03-22 03:00"]


def test_killed_service_counts_its_run_as_failed_so_that_a_crash_does_not_repeat_at_once(
    daily: Service, caplog: pytest.LogCaptureFixture
) -> None:
    daily.until("03-21 03:00", ends=None)
    daily.restart()
    assert "task 2: the service ended during its last run" in caplog.text
    assert daily.job.state.failures == 1
    assert daily.until("03-21 12:00") == ["03-21 03:01"]


# --- pauses -----------------------------------------------------------------------------------


def test_paused_task_starts_no_run_until_it_is_resumed_also_after_a_restart(daily: Service) -> None:
    daily.kept.pause("2")
    daily.kept.pause("2")
    assert daily.until("03-22 12:00") == []
    daily.restart()
    assert daily.until("03-24 12:00") == []
    daily.kept.resume("2")
    daily.kept.resume("2")
    assert daily.until("03-25 12:00") == ["03-24 12:00", "03-25 03:00"], "one for those missed"


def test_pause_outlasts_a_state_that_is_lost(daily: Service) -> None:
    daily.kept.pause("2")
    Path("data/.schedule/prod/state.json").write_text("")
    daily.restart()
    assert daily.until("03-22 12:00") == []


def test_pause_that_cannot_be_set_is_an_error_that_names_the_file(daily: Service) -> None:
    Path("data").write_text("in the way")
    with pytest.raises(LocalError, match=r"^data/\.schedule/prod/2\.paused: .*is not paused"):
        ScheduleState("prod").pause("2")


# --- the state --------------------------------------------------------------------------------

STATE = Path("data/.schedule/prod/state.json")
PLANNED = {"schedule": "0 3 * * *", "time_zone": "Europe/Zurich", "planned": 0, "due": 0}


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\0\0\0", b"{", b"[]", b"{}", b'{"version":2,"tasks":{}}',
        b'{"version":1,"tasks":[]}',
        b'{"version":1,"tasks":{"2":{"schedule":"0 3 * * *"}}}', b"[" * 10_000, b"\xff",
        *(
            json.dumps({"version": 1, "tasks": {"2": {**PLANNED, **wrong}}}).encode()
            for wrong in ({"due": -1}, {"due": "x"}, {"planned": 1e300}, {"failures": -1})
        ),
    ],
)  # fmt: skip
def test_state_that_cannot_be_read_is_a_warning_and_the_service_runs(
    daily: Service, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    daily.until("03-21 12:00")
    STATE.write_bytes(content)
    daily.now = at("03-24 12:00")
    daily.restart()
    assert f"{STATE}: damaged, or of another version of Lighterage" in caplog.text
    assert daily.until("03-25 12:00") == ["03-25 03:00"]
    assert json.loads(STATE.read_bytes())["version"] == 1


def test_state_of_a_later_version_with_more_fields_is_read(daily: Service) -> None:
    daily.until("03-21 12:00")
    data = json.loads(STATE.read_bytes())
    data["tasks"]["2"]["later"] = data["later"] = 1
    STATE.write_text(json.dumps(data))
    daily.now = at("03-22 12:00")
    daily.restart()
    assert daily.until("03-22 13:00") == ["03-22 12:00"]


def test_state_of_the_first_version_is_read(daily: Service) -> None:
    """A volume outlasts images: this text must stay readable."""
    STATE.parent.mkdir(parents=True)
    STATE.write_text(
        '{"version":1,"tasks":{"2":{"schedule":"0 3 * * *","time_zone":"UTC","planned":1.5,'
        '"due":null,"failures":2,"running":true}}}'
    )
    expected = TaskState("0 3 * * *", "UTC", 1.5, None, failures=2, running=True)
    assert ScheduleState("prod").load() == {"2": expected}


def test_full_disk_keeps_the_old_state_warns_once_and_runs(
    daily: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    daily.until("03-21 12:00")
    before = STATE.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert daily.until("03-23 12:00") == ["03-22 03:00", "03-23 03:00"]
    assert STATE.read_bytes() == before
    assert caplog.text.count("No space left on device: after a restart") == 1
    assert {path.name for path in STATE.parent.iterdir()} == {"state.json"}
    daily.step()
    assert STATE.read_bytes() != before, "written once there is room"


def test_second_service_on_the_same_data_is_refused(daily: Service) -> None:
    with ScheduleState("prod").locked():
        with pytest.raises(BusyError, match="another service runs the schedules of this data"):
            ScheduleState("prod").locked().__enter__()
        with ScheduleState("dev").locked():
            pass
    with ScheduleState("prod").locked():
        pass


def test_data_folder_that_cannot_be_written_is_a_warning(
    daily: Service, caplog: pytest.LogCaptureFixture
) -> None:
    Path("data").write_text("in the way")
    with ScheduleState("prod").locked():
        assert daily.until("03-21 12:00") == ["03-21 03:00"]
    assert "a second service would not be noticed" in caplog.text


def test_data_folder_without_permission_is_a_warning(
    daily: Service, caplog: pytest.LogCaptureFixture
) -> None:
    """Tried as another user: root may read anything."""
    user = os.geteuid()
    Path("data").mkdir(0)
    try:
        if user == 0:
            os.seteuid(65534)
        with ScheduleState("prod").locked():
            assert daily.until("03-21 12:00") == ["03-21 03:00"]
    finally:
        os.seteuid(user)
    assert "Permission denied: after a restart the service may repeat or miss" in caplog.text
