"""The prod service as a process: one run of a task at a time, a quick end on a signal, health."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from clone import Clone
from results import valid

SOON = 20.0
"""Seconds for what takes one or two."""


# --- the service --------------------------------------------------------------------------

EVERY_MOMENT = """
import sys
from datetime import UTC, datetime, timedelta
import tasks.schedule
from tasks.__main__ import _exit, main

tasks.schedule.HEARTBEAT_INTERVAL_S = 0.1
tasks.schedule.FIRST_BACKOFF_S = 0.1
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

    def beats(self, count: int) -> None:
        """Wait for some heartbeats of the service."""
        beat, deadline = self.clone.folder / "lighterage.heartbeat", time.monotonic() + 2 * SOON
        for _ in range(count):
            before = beat.stat().st_mtime_ns
            while beat.stat().st_mtime_ns == before:
                assert time.monotonic() < deadline
                time.sleep(0.01)

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
    assert {path.name for path in (tmp_path / "data").iterdir()} == {".schedule", ".history"}


STOPPED_ANYWHERE = """
import signal, sys
import tasks.health
import tasks.schedule

tasks.schedule.HEARTBEAT_INTERVAL_S = 0.01

def run(lines):
    remaining = lines

    def trace(frame, event, arg):
        nonlocal remaining
        if event == "line" and tasks.health.HEARTBEAT.exists():
            remaining -= 1
            if remaining == 0:
                print(lines, frame.f_code.co_filename, frame.f_lineno, flush=True)
                signal.raise_signal(signal.SIGTERM)
        return trace

    sys.settrace(trace)
    try:
        assert tasks.schedule.serve([], "dev", []) == 0
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
    deadline = time.monotonic() + SOON
    while service.healthy():  # until the third has been counted
        assert time.monotonic() < deadline
    assert "task 9: " in service.clone.run("health").stderr
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


# --- pauses, and what outlasts a restart ----------------------------------------------------


def test_pause_and_resume_reach_a_service_that_runs(
    tmp_path: Path, start: Callable[..., Service]
) -> None:
    service = start("log 0")
    service.wait_for("runs", "end\n")
    done = service.clone.run("pause", "9")
    assert (done.returncode, done.stdout) == (
        0, "task 9 (dev): paused; the service starts no further runs of it until `resume`\n"
    )  # fmt: skip
    service.beats(3)  # it has seen the pause
    service.wait_for("data/.schedule/dev/state.json", '"running":false')
    paused = (tmp_path / "runs").read_text()
    assert service.clone.run("schedule", "--dry-run").stdout.endswith(", paused\n")
    service.beats(25)  # due each second, a beat each tenth of one
    assert (tmp_path / "runs").read_text() == paused
    assert service.clone.run("resume", "9").stdout == "task 9 (dev): runs by its schedule again\n"
    service.wait_for("runs", paused + "begin\n")
    assert "paused" not in service.clone.run("schedule", "--dry-run").stdout
    log = service.end()
    assert "WARNING tasks.schedule: task 9: paused" in log
    assert "WARNING tasks.schedule: task 9: resumed" in log


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("pause", "no task given"), ("resume", "no task given"), ("pause 44", "'44' is not a task"),
        ("resume 44", "'44' is not a task"), ("pause 1", "task 1 has no schedule for dev"),
    ],
)  # fmt: skip
def test_pause_of_what_has_no_schedule_is_refused(tmp_path: Path, words: str, says: str) -> None:
    clone = Clone(tmp_path)
    (tmp_path / "config.yaml").write_text(CONFIG.format(wanted="x"))
    done = clone.run(*words.split())
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert says in done.stderr
    assert not (tmp_path / "data").exists()


def test_interrupted_run_starts_again_with_the_service(
    tmp_path: Path, start: Callable[..., Service]
) -> None:
    service = start("sleep")
    service.wait_for("ready", "\n")
    service.end()
    (tmp_path / "ready").unlink()
    assert "next run at once" in service.clone.run("schedule", "--dry-run").stdout
    service.process = service.start("schedule")  # due at three o'clock, by the real time
    service.wait_for("ready", "\n")
    service.end()


def test_second_service_on_the_same_data_ends_with_busy(start: Callable[..., Service]) -> None:
    service = start("log 0")
    service.wait_for("runs", "end\n")
    done = service.clone.run("schedule")
    assert (done.returncode, done.stderr.count("\n")) == (9, 1)
    assert "data/.schedule/dev/lock: another service runs the schedules of this data" in done.stderr
    assert service.healthy(), "the first one's heartbeat is still there"
    service.end()


def test_dry_run_shows_failures_and_the_delayed_run(start: Callable[..., Service]) -> None:
    service = start("NetworkError")
    service.wait_for("raised", 3 * "NetworkError\n")
    service.end()
    shown = service.clone.run("schedule", "--dry-run").stdout
    assert re.fullmatch(r"task 9: next run [-0-9: +]+, failures in a row: \d+\n", shown)


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
