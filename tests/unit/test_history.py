"""The history of runs: what is recorded, how it is shown, and that it never fails a run."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from clone import Clone
from made_up_service import Service
from tasks import history
from tasks.history import History, Recorder, Run
from tasks.result import Result
from tasks.setting_types import StringList
from tasks.settings import Settings

FILE = "data/.history/dev/task-9.jsonl"
START = 1_774_720_800.0


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return Clone(tmp_path)


def recorded(clone: Clone) -> list[dict[str, Any]]:
    """Return the runs of task 9, as `history 9` gives them to programs."""
    done = clone.run("history", "9", "--json=line")
    assert (done.returncode, done.stderr) == (0, "")
    runs: list[dict[str, Any]] = json.loads(done.stdout)
    return runs


def a_run(number: int, status: str = "landed", **values: Any) -> Run:
    """Return a run of task 2."""
    moment = datetime(2026, 3, 28, 19, tzinfo=UTC)
    return Run("2", "prod", moment, moment, number, status, 0, **values)


# --- what is recorded ---------------------------------------------------------------------------


def test_each_ended_run_is_recorded_with_its_result(clone: Clone) -> None:
    assert clone.run("history", "9").stdout == "no run of task 9 is recorded yet\n"
    before = datetime.now().astimezone().replace(microsecond=0)
    for wanted, code in (("a.zip", 0), ("BusyError", 9), ("bug", 1), ("nothing", 2)):
        assert clone.stand_in(wanted).returncode == code
    landed, busy, bug, wrong = recorded(clone)
    started, finished = (datetime.fromisoformat(landed[name]) for name in ("started", "finished"))
    assert before <= started <= finished
    assert started.utcoffset() is not None
    assert landed == {
        "task": "9", "variant": "dev", "started": landed["started"],
        "finished": landed["finished"], "seconds": landed["seconds"], "status": "landed",
        "exit_code": 0, "kind": "", "error": "", "files": 1, "bytes": 12, "fetched_bytes": 5,
        "retries": 0, "source": "a.zip", "run_id": "", "shard": 0,
    }  # fmt: skip
    assert (busy["status"], busy["exit_code"], busy["kind"]) == ("failed", 9, "busy")
    assert (busy["error"], busy["files"]) == ("as requested", 0)
    assert (bug["exit_code"], bug["kind"]) == (1, "task")
    assert (wrong["exit_code"], wrong["kind"]) == (2, "usage or configuration")
    assert sorted(path.name for path in (clone.folder / "data/.history").iterdir()) == [
        "dev", "lock"
    ]  # fmt: skip
    assert [path.name for path in (clone.folder / FILE).parent.iterdir()] == ["task-9.jsonl"]


def test_dry_runs_verbs_and_wrong_settings_are_not_recorded(clone: Clone) -> None:
    clone.stand_in("a.zip", "--dry-run")
    clone.stand_in("a.zip", "--history-runs=0")
    clone.stand_in("a.zip", "--max-tries=x")
    clone.run("config", "9")
    assert not (clone.folder / "data/.history").exists()
    assert recorded(clone) == []


def test_task_that_ends_the_process_or_changes_the_folder_is_recorded(clone: Clone) -> None:
    module = clone.folder / "tasks/task_9.py"
    module.write_text("import os, sys\ndef run(fetch):\n    os.chdir('/')\n    sys.exit(0)\n")
    assert clone.stand_in("a.zip").returncode == 0
    (run,) = recorded(clone)
    assert (run["status"], run["exit_code"], run["kind"]) == ("ended", 0, "task")


@pytest.mark.parametrize(("how", "says"), [("sleep", "nothing was changed"), ("block", "no data")])
def test_interrupted_run_is_recorded_once_also_where_a_call_never_returns(
    clone: Clone, how: str, says: str
) -> None:
    process = clone.start(*clone.complete(how))
    deadline = time.monotonic() + 60
    while not (clone.folder / "ready").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(0.1)  # until the main thread is in the call
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    (run,) = recorded(clone)
    assert (run["exit_code"], run["kind"]) == (143, "interrupted")
    assert run["error"].startswith(says)


def test_run_that_has_a_result_is_not_recorded_again_by_its_interrupt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = Result("", None)
    result.begin(Settings("2", "prod", file_save_path=Path("out")))
    result.fail(5, "network", "cut")
    result.end_by_force(143)
    assert [run.exit_code for run in History().runs("prod", "2")] == [5]


def test_retries_are_counted_also_of_a_run_that_fails(clone: Clone) -> None:
    module = clone.folder / "tasks/task_9.py"
    text = "from tasks.fetch.errors import NetworkError\n"
    module.write_text(f"{text}def run(fetch):\n    raise NetworkError('cut', transient=True)\n")
    assert clone.stand_in("a", "--max-tries=3", "--retry-delay=0").returncode == 5
    assert recorded(clone)[0]["retries"] == 2


def test_run_in_shards_names_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shard = dataclasses.replace(
        Settings("2", "prod"), shard=2, shards=3, remote_file_path=StringList(["a", "b"])
    )
    failed = [{"path": "a", "kind": "integrity", "exit_code": 6, "error": "broken"}]
    Recorder(shard, START).record(
        {"status": "partial", "exit_code": 6, "failed": failed}, START + 2
    )
    (run,) = History().runs("prod", "2")
    assert (run.shard, run.source, run.kind, run.error) == (2, "a, b", "integrity", "broken")
    assert (run.seconds, run.is_success) == (2, False)


def test_run_with_an_exit_code_of_its_own_and_a_source_that_is_no_text_is_recorded(
    clone: Clone,
) -> None:
    module = clone.folder / "tasks/task_9.py"
    module.write_text(module.read_text().replace('Report("landed"', 'Report("unchanged"'))
    words = clone.complete("a")[1:]
    words[words.index("a")] = "\udcff"  # the byte 0xff, which is no UTF-8
    done = clone.run("9", *words, "--unchanged-exit-code=99")
    assert done.returncode == 99, done.stderr
    (run,) = recorded(clone)
    assert (run["exit_code"], run["status"], run["source"]) == (99, "unchanged", "\\udcff")


def test_killed_run_is_recorded_by_the_service(daily: Service) -> None:
    daily.until("03-21 03:00", ends=None)
    daily.runs[-1].code = -9
    daily.now += 90
    daily.step()
    (run,) = History().runs("prod", "2")
    assert (run.exit_code, run.kind, run.seconds) == (-9, "killed", 90)
    daily.until("03-22 12:00", ends=5)
    assert len(History().runs("prod", "2")) == 1, "others record themselves"


# --- how it is shown ----------------------------------------------------------------------------


def test_history_is_a_table_with_the_last_run_at_the_end(clone: Clone) -> None:
    clone.stand_in("a.zip")
    clone.stand_in("BusyError")
    done = clone.run("9", "history")
    assert (done.returncode, done.stderr) == (0, "")
    heading, landed, busy = done.stdout.splitlines()
    assert heading.split() == [
        "started", "duration", "status", "bytes", "files", "retries", "error"
    ]  # fmt: skip
    assert landed.split()[3:] == ["landed", "12", "bytes", "1", "0"]
    assert busy.endswith("busy: as requested")
    assert clone.run("history", "9", env={"LIGHTERAGE_VARIANT": "prod"}).stdout.startswith("no run")


def test_history_of_no_task_or_that_cannot_be_read_is_one_line(clone: Clone) -> None:
    for words, code in ((["history"], 2), (["history", "44"], 2), (["history", "9"], 8)):
        if code == 8:
            (clone.folder / FILE).mkdir(parents=True)
        done = clone.run(*words)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (code, "", 1)
    assert done.stderr == f"lighterage: local disk: {FILE}: Is a directory: make it readable\n"


def test_lines_that_are_no_runs_are_skipped_with_a_warning_and_later_fields_are_read(
    clone: Clone,
) -> None:
    clone.stand_in("a.zip")
    path = clone.folder / FILE
    later = path.read_bytes().replace(b'"task"', b'"later":[1],"task"')
    path.write_bytes(later + b"[]\n\xff\n" + later[:50])
    clone.stand_in("a.zip")
    done = clone.run("history", "9", "--json=line")
    assert done.returncode == 0
    assert len(json.loads(done.stdout)) == 2
    assert [line.count("not a run") for line in done.stderr.splitlines()] == [1, 1, 1]
    assert f"{FILE}:4: not a run" in done.stderr


# --- its file -----------------------------------------------------------------------------------


def test_oldest_runs_are_dropped_but_not_the_last_success(tmp_path: Path) -> None:
    kept = History(tmp_path)
    for number in range(5):
        kept.add(a_run(number), 3)
    assert [run.seconds for run in kept.runs("prod", "2")] == [2, 3, 4]
    for number in range(5, 12):
        kept.add(a_run(number, "failed"), 3)
    assert [run.seconds for run in kept.runs("prod", "2")] == [4, 9, 10, 11]
    kept.add(a_run(12), 1)
    assert [run.seconds for run in kept.runs("prod", "2")] == [12]


def test_two_processes_at_once_lose_no_run(clone: Clone) -> None:
    with ThreadPoolExecutor(4) as pool:
        for done in pool.map(clone.stand_in, [f"{number}.zip" for number in range(8)]):
            assert done.returncode in {0, 9}, done.stderr
    assert {run["source"] for run in recorded(clone)} == {f"{number}.zip" for number in range(8)}


KILLED_ANYWHERE = """
import os, signal, sys
from datetime import UTC, datetime
from tasks.history import History, Run

NOW = datetime.now(UTC)

def add(number, lines):
    def trace(frame, event, arg):
        nonlocal lines
        lines -= event == "line"
        if not lines:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace

    kept = History()
    sys.settrace(trace)
    with kept.locked():
        kept.add(Run("9", "dev", NOW, NOW, number, "landed", 0), 3)
    os._exit(0)

def runs():
    return [run.seconds for run in History().runs("dev", "9")]

found, lines, status = [], 1, 1
while status:  # until a process is not killed any more
    number = len(found) and found[-1] + 1
    pid = os.fork() or add(number, lines)
    status = os.waitpid(pid, 0)[1]
    before, found, lines = found, runs(), lines + 1
    assert found in (before, [*before, number][-3:]), (lines, before, found)
    assert status or found != before
print(lines)
"""


def test_writer_that_is_killed_at_any_line_leaves_the_old_history_or_the_new_one(
    clone: Clone,
) -> None:
    (clone.folder / "killed_anywhere.py").write_text(KILLED_ANYWHERE)
    process = clone.start(program=["killed_anywhere.py"])
    try:
        out, errors = process.communicate(timeout=120)
    finally:
        process.kill()
    assert (process.returncode, errors) == (0, "")
    assert int(out) > 30
    assert len(recorded(clone)) == 3
    assert [path.name for path in (clone.folder / FILE).parent.iterdir()] == ["task-9.jsonl"]


@pytest.mark.parametrize("in_the_way", ["data/.history", "data/.history/dev", FILE])
def test_folder_that_cannot_be_written_is_a_warning_and_the_run_succeeds(
    clone: Clone, in_the_way: str
) -> None:
    path = clone.folder / in_the_way
    if in_the_way == FILE:
        path.mkdir(parents=True)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("in the way")
    done = clone.stand_in("a.zip")
    assert done.returncode == 0
    assert done.stderr.count("\n") == 1
    assert "WARNING tasks.history: data/.history/dev: " in done.stderr
    assert "this run is not in the history" in done.stderr


def test_lock_that_is_held_for_long_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(history, "LOCK_TIMEOUT_S", 0.1)
    with History().locked():
        Recorder(Settings("2", "prod")).record({"status": "landed", "exit_code": 0})
    assert "this run is not in the history" in caplog.text
    assert History().runs("prod", "2") == []


def test_full_disk_keeps_the_history_and_leaves_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = History(tmp_path)
    kept.add(a_run(1), 3)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        kept.add(a_run(2), 3)
    assert [run.seconds for run in kept.runs("prod", "2")] == [1]
    assert [path.name for path in (tmp_path / "prod").iterdir()] == ["task-2.jsonl"]
