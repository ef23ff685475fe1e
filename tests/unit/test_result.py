"""The result for programs: the result file, one line of JSON, the exit code of an unchanged run."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from clone import Clone
from results import SCHEMA, last_line, valid
from tasks.fetch import errors

KINDS = sorted(errors.LighterageError.__subclasses__(), key=lambda kind: kind.exit_code)
FILE = "--result-file=results/9.json"


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return Clone(tmp_path)


def written(clone: Clone, code: int, name: str = "results/9.json") -> Any:
    """Require a result file with nothing beside it; remove it and return its content."""
    path = clone.folder / name
    data = valid(path.read_text("utf-8"), code)
    assert data["status"] in SCHEMA["properties"]["status"]["enum"]
    path.unlink()
    assert not list(path.parent.glob(".*.json*"))
    return data


def refused(done: subprocess.CompletedProcess[str], code: int, *says: str) -> None:
    """Require one line on standard error that says something."""
    assert done.returncode == code, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert all(text in done.stderr for text in says), done.stderr


def wait_for(clone: Clone, name: str, process: subprocess.Popen[str]) -> Path:
    """Wait until a process has made a file; return its path."""
    path, deadline = clone.folder / name, time.monotonic() + 60
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return path


# --- what is written ------------------------------------------------------------------------


def test_success_is_written_as_it_is_printed(clone: Clone) -> None:
    done = clone.stand_in("é.zip", "--json", FILE)
    data = written(clone, 0)
    assert data == valid(done.stdout, 0)
    assert (data["status"], data["remote_file_path"]) == ("landed", "é.zip")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_each_failure_is_written_as_it_is_printed(
    clone: Clone, kind: type[errors.LighterageError]
) -> None:
    done = clone.stand_in(kind.__name__, "--json=line", FILE, "--retry-delay=0")
    assert done.returncode == kind.exit_code
    assert written(clone, kind.exit_code) == last_line(done.stdout, kind.exit_code)


def test_bug_and_end_by_the_task_itself_are_written(clone: Clone) -> None:
    assert clone.stand_in("bug", FILE).returncode == 1
    assert written(clone, 1)["kind"] == "task"
    module = clone.folder / "tasks/task_9.py"
    text = "import sys\ndef run(fetch):\n    sys.exit(int(str(fetch.settings.remote_file_path)))\n"
    module.write_text(text)
    for code, status in ((0, "ended"), (4, "failed")):
        done = clone.stand_in(str(code), FILE, "--json=line")
        assert done.returncode == code
        data = written(clone, code)
        assert data == last_line(done.stdout, code)
        assert data["status"] == status


@pytest.mark.parametrize(
    ("config", "arguments"),
    [
        ("", ["9", "--max-trys=2"]),
        ("", ["9", "--max-tries=x"]),
        ("", ["99"]),
        ("", ["9"]),  # what a run needs is missing
        ("common: [", ["9"]),
    ],
)
def test_wrong_settings_are_written_where_the_path_is_an_option(
    clone: Clone, config: str, arguments: list[str]
) -> None:
    (clone.folder / "config.yaml").write_text(config)
    for option in (["--result-file", "results/9.json"], ["--result_file=results/9.json"]):
        done = clone.run(*option, *arguments)
        refused(done, 2)
        data = written(clone, 2)
        text = f"{data['error']}: {data['advice']}"
        assert done.stderr == f"lighterage: usage or configuration: {text}\n"


def test_wrong_settings_write_nothing_into_published_data(clone: Clone) -> None:
    published = clone.folder / "published"
    published.mkdir()
    (published / "manifest.json").write_text("{}")
    refused(clone.run("9", "--max-tries=x", "--result-file=published/deep/9.json"), 2)
    assert [path.name for path in published.iterdir()] == ["manifest.json"]


def test_verbs_write_no_result_file(clone: Clone) -> None:
    for words in (["config", "9"], ["prune", "9"], ["config", "99"], ["schedule", "--dry-run"]):
        clone.run(*words, FILE)
        assert not (clone.folder / "results").exists(), words


@pytest.mark.parametrize(
    ("how", "signum", "code"),
    [("sleep", signal.SIGTERM, 143), ("sleep", signal.SIGINT, 130), ("block", signal.SIGTERM, 143)],
)
def test_interrupted_run_is_written_also_where_a_call_never_returns(
    clone: Clone, how: str, signum: signal.Signals, code: int
) -> None:
    process = clone.start(*clone.complete(how), FILE)
    wait_for(clone, "ready", process)
    asleep = 0
    while asleep < 5:  # until the main thread is in the call
        state = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]
        asleep = asleep + 1 if state == "S" else 0
        time.sleep(0.05)
    process.send_signal(signum)
    process.communicate(timeout=30)
    assert process.returncode == code
    text = "nothing was changed" if how == "sleep" else "no data is published in part"
    data = written(clone, code)
    assert (data["kind"], data["error"]) == ("interrupted", text)


def test_interrupt_after_the_data_landed_says_so(clone: Clone) -> None:
    """The reader of standard output hangs, so that the run ends in its last `print`."""
    module = clone.folder / "tasks/task_9.py"
    module.write_text(module.read_text().replace('"a.csv", 12', '"a.csv" * 99_999, 12'))
    with_explain = module.read_text().replace(
        "seconds=1.0", "seconds=1.0, explanations=['x' * 9**6]"
    )
    module.write_text(with_explain)
    process = clone.start(*clone.complete("a.zip"), FILE, "--json")
    path = wait_for(clone, "results/9.json", process)
    assert valid(path.read_text(), 0)["status"] == "landed"
    process.terminate()
    assert process.wait(timeout=30) == 143
    process.communicate()
    assert written(clone, 143)["error"] == "the new data had landed"


def test_closed_reader_leaves_result_file_and_exit_code_alike(clone: Clone) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    for wanted, code in (("a.zip", 0), ("BusyError", 9)):
        for env in ({}, {"PYTHONUNBUFFERED": "1"}):
            done = clone.stand_in(wanted, "--json", FILE, env=env, stdout=writing, stderr=-1)
            assert done.returncode == code
            assert "Traceback" not in done.stderr
            written(clone, code)
    os.close(writing)


# --- where it is written ----------------------------------------------------------------------


def test_killed_run_leaves_no_result_of_an_earlier_one(clone: Clone) -> None:
    clone.stand_in("a.zip", FILE)
    process = clone.start(*clone.complete("sleep"), FILE)
    wait_for(clone, "ready", process)
    assert not list((clone.folder / "results").iterdir())
    process.kill()
    process.communicate()
    assert not list((clone.folder / "results").iterdir())


def test_mode_is_that_of_other_new_files_and_a_link_stays(clone: Clone) -> None:
    link = clone.folder / "link.json"
    link.symlink_to("results/9.json")
    old = os.umask(0o027)
    try:
        for _ in range(2):
            assert clone.stand_in("a.zip", "--result-file", str(link)).returncode == 0
    finally:
        os.umask(old)
    path = clone.folder / "results/9.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert link.is_symlink()
    written(clone, 0)


def test_an_empty_file_is_replaced_and_a_task_may_change_the_folder(clone: Clone) -> None:
    module = clone.folder / "tasks/task_9.py"
    module.write_text(module.read_text().replace("PLAN = ", "os.chdir('/')\nPLAN = "))
    (clone.folder / "made-by-mktemp").touch()
    assert clone.stand_in("a.zip", "--result-file=made-by-mktemp").returncode == 0
    written(clone, 0, "made-by-mktemp")


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("data", "outside of the target"),
        ("data/out", "outside of the target"),
        ("data/../data/out/deep/9.json", "outside of the target"),
        ("tasks", "not a regular file"),
        ("/dev/null", "not a regular file"),
        ("tasks/task_9.py", "is not replaced"),
        ("tasks/task_9.py/9.json", "Not a directory"),
        ("/sys/9.json", "choose a path that this run can write to; in a container, below data/"),
        (f"{'x' * 300}/9.json", "choose a path that this run can write to"),
        (f"{'x' * 250}", "choose a path that this run can write to"),
    ],
)
def test_path_that_cannot_be_written_is_refused_before_the_task_starts(
    clone: Clone, path: str, says: str
) -> None:
    module = clone.folder / "tasks/task_9.py"
    module.write_text(module.read_text() + "\nopen('started', 'w')\n")
    before = module.read_bytes()
    done = clone.stand_in("a.zip", "--json", f"--result-file={path}")
    code = 2 if "target" in says else 8
    refused(done, code, says, path[:100])
    valid(done.stdout, code)
    assert not (clone.folder / "started").exists()
    assert not (clone.folder / "data").exists()
    assert module.read_bytes() == before


def test_file_that_became_something_else_is_not_replaced(clone: Clone) -> None:
    module = clone.folder / "tasks/task_9.py"
    module.write_text(
        module.read_text().replace("def run(fetch):", "def run(fetch):\n    write('mine', 'mine')")
    )
    refused(clone.stand_in("a.zip", "--result-file=mine"), 8, "is not replaced", "data had landed")
    assert (clone.folder / "mine").read_text() == "mine"
    module.write_text(module.read_text().replace("'mine')", "'mine'); raise errors.BusyError('b')"))
    (clone.folder / "mine").unlink()
    done = clone.stand_in("a.zip", "--result-file=mine")
    assert done.returncode == 9
    assert "lighterage: busy: b: " in done.stderr
    assert "\nlighterage: local disk: result file" in done.stderr


# --- settings ---------------------------------------------------------------------------------


def test_config_file_names_a_result_file_for_each_scheduled_task(clone: Clone) -> None:
    config = clone.folder / "config.yaml"
    text = "common: {remote_host_address: h, remote_file_path: a, file_save_path: data/out}\ntasks:"
    config.write_text(f"{text}\n  9: {{result_file: results/9.json}}\n")
    assert clone.run("9").returncode == 0
    written(clone, 0)
    both = "\n  9: {schedule: 0 3 * * *}\n  1: {schedule: 0 4 * * *, result_file: r.json}\n"
    config.write_text(text + both)
    assert clone.run("schedule", "--dry-run").returncode == 0
    refused(clone.run("schedule", "--dry-run", "--result-file=r.json"), 2, "r.json: set another")
    refused(clone.run("schedule", "--unchanged-exit-code=99", timeout=60), 2, "result_file")


def test_one_line_is_the_last_of_standard_output(clone: Clone) -> None:
    module = clone.folder / "tasks/task_9.py"
    module.write_text(module.read_text().replace("PLAN = ", "print('a task prints')\nPLAN = "))
    for wanted, code in (("a\nb.zip", 0), ("BusyError", 9)):
        done = clone.stand_in(wanted, "--json=line")
        assert done.stdout.startswith("a task prints\n{")
        last_line(done.stdout, code)
    assert clone.run("--json", *clone.complete("a"), "--json=line").stdout.count("\n") == 2
    assert clone.run("config", "9", "--json=line").stdout.count("\n") == 1
    refused(clone.stand_in("a.zip", "--json=lines"), 2, "invalid choice: 'lines'")


@pytest.mark.parametrize(("status", "code"), [("unchanged", 99), ("landed", 0), ("planned", 0)])
def test_unchanged_run_has_an_exit_code_of_its_own(clone: Clone, status: str, code: int) -> None:
    module = clone.folder / "tasks/task_9.py"
    module.write_text(module.read_text().replace('Report("landed"', f'Report("{status}"'))
    done = clone.stand_in("a.zip", "--unchanged-exit-code=99", "--json", FILE)
    assert (done.returncode, done.stderr) == (code, "")
    assert written(clone, code) == valid(done.stdout, code)


@pytest.mark.parametrize("code", ["1", "9", "125", "143", "255", "256", "-1", "x", "1e1", "010"])
def test_unchanged_exit_code_with_another_meaning_is_refused(clone: Clone, code: str) -> None:
    done = clone.stand_in("a.zip", f"--unchanged-exit-code={code}")
    refused(done, 2, f"unchanged_exit_code is '{code}': expected an exit code without another")


def test_schema_refuses_what_is_no_result() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    failed = {"status": "failed", "exit_code": 5, "kind": "network", "error": "x"}
    for change in ({"status": "ok"}, {"exit_code": 0}, {"kind": "x"}, {"error": None}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(failed | change, SCHEMA)
    jsonschema.validate(json.loads(json.dumps(failed)), SCHEMA)
