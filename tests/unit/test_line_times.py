"""Each line of the service and its runs starts with the time and its zone; other runs are plain."""

from __future__ import annotations

import io
import time
from datetime import datetime
from pathlib import Path

import pytest

from clone import Clone
from tasks import line_times
from timed_service import FAILURE, TIMED, ended_by_force, output_of_service


def test_every_line_of_the_service_and_its_runs_has_the_time_in_the_zone_of_the_env_file(
    tmp_path: Path,
) -> None:
    (tmp_path / "envs").mkdir()
    (tmp_path / "envs/dev.env").write_text("TZ=Asia/Tokyo\n")
    out, log = output_of_service(tmp_path)
    lines = (out + log).splitlines()
    assert all(TIMED.fullmatch(line) for line in lines), lines
    assert {line[19:25] for line in lines} == {"+09:00"}
    texts = {line[26:] for line in lines}
    assert texts >= {
        "of a task", "in pieces", "", "and one more", "WARNING tasks.fetch: two", "lines",
        FAILURE, "lighterage: interrupted: nothing was changed",
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
    log = ended_by_force(clone)
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
