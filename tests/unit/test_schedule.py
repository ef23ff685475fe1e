"""The prod service: times as in cron, one run of a task at a time, a quick end on a signal."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from clone import Clone
from results import valid
from tasks import schedule
from tasks.fetch.errors import ConfigError

SOON = 20.0
"""Seconds for what takes one or two."""


# --- cron expressions -----------------------------------------------------------------------


def times(cron: str, after: str, zone: str = "UTC", count: int = 1) -> list[str]:
    """Give the next times of a schedule, as wall-clock times with their offset to UTC."""
    found, now = [], datetime.fromisoformat(after).replace(tzinfo=ZoneInfo(zone))
    for _ in range(count):
        now = schedule.next_run("1", cron, now)
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
    assert f"{schedule.next_run('1', '30 2 * * *', now):%m-%d %H:%M}" == "10-26 02:30"


@pytest.mark.parametrize(
    ("zone", "offset"),
    [("Asia/Tokyo", 9), (":Asia/Tokyo", 9), ("UTC", 0), ("/usr/share/zoneinfo/Asia/Tokyo", 9)],
)
def test_schedule_is_in_the_time_zone_of_tz(
    zone: str, offset: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", zone)
    assert schedule.next_run("1", "0 3 * * *").utcoffset() == timedelta(hours=offset)


@pytest.mark.parametrize("zone", ["Europe/Zurch", "/nowhere", "../x", "/etc/passwd"])
def test_unknown_time_zone_is_refused(zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", zone)
    with pytest.raises(ConfigError, match="no such time zone"):
        schedule.next_run("1", "0 3 * * *")


@pytest.mark.parametrize(
    "cron",
    ["", "daily", "@daily", "0 3 * *", "0 3 * * * *", "60 3 * * *", "0 3 32 * *", "0 3 * * 8",
     "0 3 * * 5-3", "0 3 * * 1/0", "0 3 * * 5L/2", "0 3 * * ?", "0 3 * * \u00b2", "0 3 31 2 *",
     # cron takes either day, many schedulers only both
     "0 3 1 * 1", "0 3 1-7 * mon", "0 3 1,15 * 5"],
)  # fmt: skip
def test_invalid_cron_expression_is_refused_with_its_task(cron: str) -> None:
    with pytest.raises(ConfigError, match=r"^schedule of task 2 is ") as caught:
        schedule.next_run("2", cron)
    assert repr(cron) in str(caught.value)


def test_times_that_pass_during_a_run_are_made_up_for_by_one_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Due each minute, the first run takes ten: one run follows at once, one a minute later."""
    now, ends, starts = 0.0, [10.0, 0.0, 0.0], list[float]()

    class Run:
        def __init__(self, *_: object, **__: object) -> None:
            starts.append(now / 60)
            self.end = now + ends.pop(0) * 60

        def poll(self) -> int | None:
            return 0 if now >= self.end else None

    def next_minute(_task: str, _cron: str, after: datetime | None = None) -> datetime:
        seconds = after.timestamp() if after else now
        return datetime.fromtimestamp(seconds // 60 * 60 + 60, UTC)

    monkeypatch.setattr(schedule, "next_run", next_minute)
    monkeypatch.setattr("time.time", lambda: now)
    monkeypatch.setattr("subprocess.Popen", Run)
    job = schedule._Job("9", "* * * * *", [])
    for now in range(0, 13 * 60, 5):  # noqa: B007 (read by the others)
        job.step()
    assert starts == [1, 11, 12]


# --- the service --------------------------------------------------------------------------

EVERY_MOMENT = """
import sys
from datetime import UTC, datetime, timedelta
import tasks.schedule
from tasks.__main__ import _exit, main

tasks.schedule.HEARTBEAT_INTERVAL_S = 0.1
tasks.schedule.next_run = lambda *_: datetime.now(UTC) + timedelta(seconds=1)
_exit(main(["schedule", *sys.argv[1:]]))
"""
CONFIG = """
common: {{remote_host_address: host, file_save_path: data/out, log_level: INFO}}
tasks:
  9: {{remote_file_path: {wanted}, schedule: "0 3 * * *"}}
"""


class Service:
    """The service, its task due each second."""

    def __init__(self, folder: Path, wanted: str, *options: str) -> None:
        self.clone = Clone(folder)
        (folder / "config.yaml").write_text(CONFIG.format(wanted=wanted))
        (folder / "every_moment.py").write_text(EVERY_MOMENT)
        self.process = self.start(*options, program=["every_moment.py"])

    def start(self, *arguments: str, **more: Any) -> subprocess.Popen[str]:
        """Start a command line in a process group of its own, for `kill`."""
        return self.clone.start(*arguments, start_new_session=True, **more)

    def wait_for(self, name: str, text: str = "") -> str:
        """Wait until a file contains a text; return its content."""
        path, deadline = self.clone.folder / name, time.monotonic() + SOON
        while not path.exists() or text not in path.read_text():
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return path.read_text()

    def healthy(self) -> bool:
        """Request its health, as a container engine does."""
        return self.clone.run("health").returncode == 0

    def end(self, signum: signal.Signals = signal.SIGTERM) -> str:
        """Require that it ends soon on a signal, with exit code 0; return its log."""
        self.process.send_signal(signum)
        log = self.process.communicate(timeout=SOON)[1]
        assert self.process.returncode == 0, log
        return log

    def kill(self) -> None:
        """Kill it with its tasks, if it still runs: they hold its standard error open."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.communicate()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Service]]:
    """Give a function that starts a service, which is killed after the test."""
    services: list[Service] = []

    def start(wanted: str, *options: str) -> Service:
        services.append(Service(tmp_path, wanted, *options))
        return services[-1]

    yield start
    for service in services:
        service.kill()


def test_task_runs_repeatedly_and_never_twice_at_once(
    tmp_path: Path, start: Callable[..., Service]
) -> None:
    """Due each second, it takes longer: the next run waits for the end of the one before."""
    service = start("log 1.3")
    service.wait_for("runs", "begin\nend\nbegin\nend\n")
    assert service.healthy()
    log = service.end()
    runs = (tmp_path / "runs").read_text().split()
    assert runs[:4] == ["begin", "end", "begin", "end"]
    assert all(one != other for one, other in pairwise(runs)), runs
    assert "task 9 started" in log
    assert "task 9 ended with exit code 0" in log
    assert not service.healthy(), "an ended service is not healthy"


def test_each_run_of_the_service_writes_its_result(
    tmp_path: Path, start: Callable[..., Service]
) -> None:
    """The file is there between the runs: it is removed when one starts."""
    service, path = start("a.zip", "--result-file=results/9.json"), tmp_path / "results/9.json"
    found, deadline = set[int](), time.monotonic() + 2 * SOON
    while len(found) < 2:
        with contextlib.suppress(FileNotFoundError):
            assert valid(path.read_text(), 0)["status"] == "landed"
            found.add(path.stat().st_mtime_ns)
        assert time.monotonic() < deadline
        time.sleep(0.02)
    service.end()


@pytest.mark.parametrize(
    ("wanted", "signum"),
    [
        ("sleep", signal.SIGTERM),
        ("sleep", signal.SIGINT),
        # its watchdog acts after 1.5 seconds: the service must not have killed it by then
        ("block", signal.SIGTERM),
    ],
)
def test_signal_reaches_the_task_which_cleans_up_before_the_service_ends(
    tmp_path: Path, start: Callable[..., Service], wanted: str, signum: signal.Signals
) -> None:
    service = start(wanted)
    task = int(service.wait_for("ready", "\n"))
    log = service.end(signum)
    assert wanted == "block" or "interrupted" in log
    with pytest.raises(ProcessLookupError):
        os.kill(task, 0)
    assert not (tmp_path / "data").exists()


STOPPED_ANYWHERE = """
import signal, sys
from pathlib import Path
import tasks.schedule
from tasks.config_file import Config

tasks.schedule.HEARTBEAT_INTERVAL_S = 0.01

def run(lines):
    remaining = lines

    def trace(frame, event, arg):
        nonlocal remaining
        if event == "line" and tasks.schedule.HEARTBEAT.exists():
            remaining -= 1
            if remaining == 0:
                print(lines, frame.f_code.co_filename, frame.f_lineno, flush=True)
                signal.raise_signal(signal.SIGTERM)
        return trace

    sys.settrace(trace)
    try:
        assert tasks.schedule.serve(Config(Path("x"), {}, {}, {}), "dev", []) == 0
    finally:
        sys.settrace(None)

for lines in range(1, 120):
    run(lines)
"""


def test_signal_at_any_line_ends_the_service(tmp_path: Path) -> None:
    """A handler that waits for a lock which the interrupted thread holds would wait for ever."""
    (tmp_path / "stopped_anywhere.py").write_text(STOPPED_ANYWHERE)
    process = Clone(tmp_path).start(program=["stopped_anywhere.py"])
    try:
        lines, errors = process.communicate(timeout=3 * SOON)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    assert lines.count("\n") == 119


def test_failure_of_a_task_is_logged_and_it_runs_again(start: Callable[..., Service]) -> None:
    service = start("NetworkError")
    service.wait_for("raised", 3 * "NetworkError\n")  # the second has been logged by then
    assert service.healthy()
    log = service.end()
    assert log.count("WARNING tasks.schedule: task 9 ended with exit code 5") >= 2
    assert "lighterage: network: " in log


def test_each_run_gets_every_option_of_the_service(
    tmp_path: Path, start: Callable[..., Service]
) -> None:
    """Also those that YAML or an environment could not give, and another config file."""
    other = tmp_path / "other.yaml"
    options = [
        f"--config-file={other}", "--max-tries", "7", "--no-overwrite", "--include", "*.tsv",
        "--include=-x", "--force", "--username=é_x y", "--timeout=4", "--file_save_path",
        "data/elsewhere", "--explain", "--json",
    ]  # fmt: skip
    other.write_text(CONFIG.format(wanted="settings"))
    service = start("not this one", *options)
    service.wait_for("settings", "}")
    service.end()
    found = json.loads((tmp_path / "settings").read_text())
    assert found.items() >= {
        "max_tries": "7", "overwrite": "False", "include": "*.tsv, -x", "force": "True",
        "username": "é_x y", "timeout": "4.0", "file_save_path": "data/elsewhere",
        "explain": "True", "progress": "none",
    }.items()  # fmt: skip


SCHEDULED = "9: {schedule: 0 3 * * *}"
COMPLETE = "common: {remote_host_address: h, remote_file_path: x, file_save_path: x}\n"
BAD_CRON = CONFIG.format(wanted="x").replace("0 3 * * *", "0 25 * * *")
BAD_CRON_OF_A_VARIANT = BAD_CRON.replace("schedule: ", "dev: {schedule: ").replace('"}', '"}}')


@pytest.mark.parametrize(
    ("config", "words", "says"),
    [
        (f"{COMPLETE}tasks: {{{SCHEDULED}}}", "schedule --task=9", "schedule takes no --task"),
        *(
            (
                f"{COMPLETE}tasks: {{{SCHEDULED}, 1: {{schedule: 0 3 * * *}}}}",
                f"schedule {option}=y", f"schedule takes no {option}",
            )
            for option in ("--file-save-path", "--remote-file-path")
        ),
        (f"tasks: {{{SCHEDULED}}}", "schedule", "remote_file_path is missing for task 9"),
        (
            "tasks: {44: {schedule: 0 3 * * *}}", "schedule",
            "tasks.44 has a schedule, but there is no such task",
        ),
        *(
            (config, words, "schedule of task 9 is '0 25 * * *'")
            for config in (BAD_CRON, BAD_CRON_OF_A_VARIANT)
            for words in ("config 9", "config 1", "schedule --dry-run", "schedule")
        ),
    ],
)  # fmt: skip
def test_service_that_could_never_run_is_refused_also_where_settings_are_shown(
    tmp_path: Path, config: str, words: str, says: str
) -> None:
    clone = Clone(tmp_path)
    (tmp_path / "config.yaml").write_text(config)
    done = clone.run(*words.split(), timeout=3 * SOON)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert says in done.stderr


def test_dry_run_of_the_service_checks_it_and_starts_nothing(tmp_path: Path) -> None:
    clone = Clone(tmp_path)
    (tmp_path / "config.yaml").write_text(CONFIG.format(wanted="settings"))
    done = clone.run("schedule", "--dry-run", timeout=3 * SOON)
    assert done.returncode == 0
    assert "task 9: next run 20" in done.stdout
    assert not (tmp_path / "lighterage.heartbeat").exists()
    assert clone.run("schedule", "--dry-run", "--remote-host-address=").returncode == 2


def test_service_without_a_schedule_warns_and_keeps_running(
    tmp_path: Path, start: Callable[..., Service]
) -> None:
    service = start("x")
    service.kill()
    (tmp_path / "config.yaml").write_text("common: {}")
    service.process = service.start("schedule")
    deadline = time.monotonic() + SOON
    while not service.healthy():
        assert time.monotonic() < deadline
    assert "no task has a schedule for dev" in service.end()


# --- health -------------------------------------------------------------------------------


def test_service_without_a_recent_heartbeat_is_unhealthy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beat = tmp_path / "beat"
    monkeypatch.setattr(schedule, "HEARTBEAT", beat)
    assert not schedule.healthy(), "no heartbeat yet"
    beat.touch()
    assert schedule.healthy()
    old = time.time() - schedule.UNHEALTHY_AFTER_S - 1
    os.utime(beat, (old, old))
    assert not schedule.healthy(), "it was killed, or hangs"


def test_health_of_no_service_is_one_line(tmp_path: Path) -> None:
    done = Clone(tmp_path).run("health")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("lighterage: the scheduler does not run, or hangs")
    assert done.stderr.count("\n") == 1
