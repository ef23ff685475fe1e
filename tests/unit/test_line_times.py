"""Each line of the service and its runs starts with the time and its zone; other runs are plain."""

from __future__ import annotations

import io
import re
import signal
import time
from datetime import datetime
from pathlib import Path

import pytest

from clone import Clone
from tasks import line_times

TIMED = re.compile(r"2\d{3}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d .*")
TASK = '''"""Task 9: print, log, and end in a way that the test chooses."""
import logging
import pathlib
import time
from tasks.fetch import errors

def run(fetch):
    turn = pathlib.Path("turns")
    turns = turn.read_text() if turn.exists() else ""
    turn.write_text(turns + "x")
    logging.getLogger("tasks.fetch").warning("two\\nlines")
    print("of a task", flush=True)
    print("in ", end="", flush=True)
    print("pieces\\n\\nand one more")
    if len(turns) == 0:
        raise errors.NetworkError("as requested")
    if len(turns) == 1:
        raise KeyError("a bug")
    time.sleep(60)
'''
EVERY_SECOND = """
import sys
from datetime import UTC, datetime, timedelta
import tasks.schedule
from tasks.__main__ import _exit, main

tasks.schedule.FIRST_BACKOFF_S = 0.1
tasks.schedule.next_run = lambda *_: datetime.now(UTC) + timedelta(seconds=1)
_exit(main(["schedule", *sys.argv[1:]]))
"""
CONFIG = """
common: {remote_host_address: host, remote_file_path: x, file_save_path: data/out}
tasks:
  9: {schedule: "0 3 * * *"}
"""


def test_every_line_of_the_service_and_its_runs_has_the_time_in_the_zone_of_the_env_file(
    tmp_path: Path,
) -> None:
    clone = Clone(tmp_path)
    (tmp_path / "config.yaml").write_text(CONFIG)
    (tmp_path / "envs").mkdir()
    (tmp_path / "envs/dev.env").write_text("TZ=Asia/Tokyo\n")
    (tmp_path / "tasks/task_9.py").write_text(TASK)
    (tmp_path / "every_second.py").write_text(EVERY_SECOND)
    process = clone.start(program=["every_second.py"])
    turns, deadline = tmp_path / "turns", time.monotonic() + 60
    try:
        while not turns.exists() or len(turns.read_text()) < 3:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        out, log = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, log
    lines = (out + log).splitlines()
    assert all(TIMED.fullmatch(line) for line in lines), lines
    assert {line[19:25] for line in lines} == {"+09:00"}
    texts = {line[26:] for line in lines}
    assert texts >= {
        "of a task", "in pieces", "", "and one more", "WARNING tasks.fetch: two", "lines",
        "lighterage: network: as requested", "lighterage: interrupted: nothing was changed",
        "INFO tasks.schedule: task 9 started",
    }  # fmt: skip
    assert any(text.startswith("lighterage: task: tasks/task_9.py:") for text in texts)


def test_result_and_forced_end_of_a_run_of_the_service_have_the_time(tmp_path: Path) -> None:
    clone = Clone(tmp_path)
    done = clone.stand_in("a\nb.zip", env={"LIGHTERAGE_LINE_TIMES": "1"})
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert len(lines) > 1
    assert all(TIMED.fullmatch(line) for line in lines)
    assert lines[0][26:].startswith("task 9 (dev): landed ")
    assert not TIMED.match(clone.stand_in("a.zip").stdout), "an interactive run is plain"


def test_run_that_the_watchdog_ends_says_so_with_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clone = Clone(tmp_path)
    plain = clone.environ()
    monkeypatch.setattr(clone, "environ", lambda: plain | {"LIGHTERAGE_LINE_TIMES": "1"})
    process = clone.start(*clone.complete("block"))
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "ready").exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.terminate()
        log = process.communicate(timeout=60)[1]
    finally:
        process.kill()
    assert process.returncode == 143
    assert TIMED.fullmatch(log.splitlines()[-1])
    assert "ended by force" in log


def test_stream_writes_one_time_for_each_line_and_returns_what_was_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(line_times, "prefix", lambda: "T ")
    raw = io.BytesIO()
    stream = line_times._TimedStream(raw, encoding="ascii", errors="backslashreplace")
    for text in ("", "a", "b\n", "\n", "c\u2028é\r\nd", "\n"):
        assert stream.write(text) == len(text)
    stream.flush()
    assert raw.getvalue().decode() == "T ab\nT \nT c\\u2028\\xe9\r\nT d\n"


def test_time_is_local_with_whole_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTERAGE_LINE_TIMES", "1")
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        text = line_times.prefix()
    finally:
        monkeypatch.undo()
        time.tzset()
    assert TIMED.fullmatch(f"{text}x")
    assert datetime.fromisoformat(text.strip()).utcoffset() is not None
    assert text[19:23] in {"-04:", "-05:"}
