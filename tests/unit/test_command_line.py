"""The command line, as a user runs it: `python -m tasks ...`, without a network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from clone import Clone
from tasks import options, setting_types, settings
from tasks.fetch import errors
from tasks.fetch.manifest import File, Manifest, Source


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    """Give a copy of the tasks in an empty folder: no config file, no env file."""
    return Clone(tmp_path)


def refused(done: subprocess.CompletedProcess[str], code: int = 2) -> str:
    """Require one line on standard error, no traceback, nothing on standard output."""
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("lighterage: ")
    return done.stderr


# --- help ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "arguments"),
    [
        ("1", ["1", "--help"]),
        ("2", ["--help", "2"]),
        ("3", ["--task", "3", "-h"]),
        ("9", ["--max-tries", "5", "9", "--help"]),
    ],
)
def test_help_of_a_task_says_what_it_does_and_names_every_setting(
    clone: Clone, task: str, arguments: list[str]
) -> None:
    """The task and `--help` may stand anywhere; no secret of the environment is shown."""
    done = clone.run(*arguments, env={"PASSWORD": "hunter2"})
    assert (done.returncode, done.stderr) == (0, "")
    assert f"Task {task}: " in done.stdout
    assert "hunter2" not in done.stdout
    hidden = {name for name, item in settings.FIELDS.items() if item.metadata.get("cli") is False}
    assert hidden == {
        "variant", "password", "schedule", "time_zone", "catch_up", "schedule_jitter",
        "max_backoff", "unhealthy_after_failures", "overdue_after", "ping_url", "webhook_url",
        "metrics_port", "metrics_address", "notify_urls",
    }  # fmt: skip
    for name in {*settings.FIELDS, "config_file", "json"} - hidden:
        assert f"--{name.replace('_', '-')}" in done.stdout, name


def test_general_help_names_every_task_and_verb_and_exit_code(clone: Clone) -> None:
    text = clone.run("--help").stdout
    for word in (
        "config",
        "schedule",
        "pause",
        "resume",
        "health",
        "scan",
        "--json",
        "one zip archive",
        "a stand-in",
    ):
        assert word in text
    for error in errors.LighterageError.__subclasses__():
        assert f"{error.exit_code} {error.kind.split()[0]}" in text
    assert "129, 130, 143" in text


def test_help_works_with_a_broken_config_file_and_task(clone: Clone) -> None:
    """A broken config file, a broken task module, a misspelled variant."""
    (clone.folder / "config.yaml").write_text("[")
    (clone.folder / "tasks/task_4.py").write_text("def run(:\n")
    (clone.folder / "tasks/task_5.py").write_bytes(b"\xff\0")
    for arguments in (["--help"], ["2", "--help"]):
        assert clone.run(*arguments, env={"LIGHTERAGE_VARIANT": "x"}).returncode == 0


HEAVY = {"fabric", "paramiko", "invoke", "cryptography", "cronsim", "yaml"}


@pytest.mark.parametrize(
    ("arguments", "allowed"),
    [(["--help"], set()), (["2", "--help"], set()), (["config", "2"], {"yaml"}), (["22"], set())],
    ids=" ".join,
)
def test_slow_imports_happen_only_where_they_are_needed(
    clone: Clone, arguments: list[str], allowed: set[str]
) -> None:
    (clone.folder / "config.yaml").write_text("common: {}")
    done = clone.run(*arguments, python=["-X", "importtime"])
    loaded = {
        line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()
    }
    assert "argparse" in loaded, "the list of imports could be read"
    assert loaded & HEAVY == allowed


# --- arguments ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "no task given: expected one of 1, 2, 3, 9"),
        (["22"], "'22' is not a task (did you mean 2?): known are 1, 2, 3, 9"),
        (["confg", "2"], "'confg' is not a task (did you mean config?)"),
        (["1", "2"], "one task at a time: 1 2"),
        (["1", "--task", "2"], "one task at a time"),
        (["2", "--max_trys", "3"], "unknown option --max-trys (did you mean --max-tries?)"),
        (["2", "--max"], "unknown option --max"),
        (["2", "--password", "x"], "unknown option --password "),
        (["2", "--max-tries"], "expected one argument"),
        (["2", "--overwrite=false"], "--overwrite/--no-overwrite: takes no value, not 'false'"),
        (["2", "--overwrite", "false"], "'false' is not a task"),
        (["2", "--max-tries", "x"], "command line: max_tries is 'x': expected a whole number"),
        (["health", "now"], "health takes no 'now'"),
        (["schedule", "2"], "schedule takes no '2'"),
        (["scan"], "scan takes one host"),
        (["\x1b[2J"], "is not a task"),
    ],
    ids=lambda value: ascii(" ".join(value)) if isinstance(value, list) else None,
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    clone: Clone, arguments: list[str], says: str
) -> None:
    error = refused(clone.run(*arguments))
    assert error.startswith("lighterage: usage or configuration: ")
    assert says in error
    assert "\x1b" not in error


def test_options_passed_on_to_a_run_are_the_same() -> None:
    """As `schedule` does, with every option."""
    given = ["schedule", "--json", "--config-file=a b"]
    for name, item in settings.FIELDS.items():
        option = f"--{name.replace('_', '-')}"
        if item.metadata.get("cli") is False:
            continue
        if settings.TYPES[name] is bool:
            given.append(option if len(given) % 2 else f"--no-{option[2:]}")
        else:
            given += [f"{option}=-x é_{name}"] * (
                2 if settings.TYPES[name] is setting_types.StringList else 1
            )
    words, parsed = options.parse(given)
    assert words == ["schedule"]
    again = options.parse(["schedule", *options.given(parsed)])[1]
    assert again == parsed
    assert len(options.given(parsed)) == len(given) - 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["9", "--file-save-path", "x", "--max-tries", "7", "--no-overwrite"],
        ["9", "--file_save_path", "x", "--max_tries", "7", "--no_overwrite", "--username=a_b"],
        ["9", "--file_save_path=x", "--max_tries=7", "--no-overwrite"],
        ["--file-save-path", "x", "--max-tries", "7", "--no-overwrite", "9"],
        ["--task", "9", "--file-save-path", "x", "--max-tries", "7", "--no-overwrite"],
    ],
    ids=" ".join,
)
def test_options_take_dashes_and_underscores_in_any_order(
    clone: Clone, arguments: list[str]
) -> None:
    rows = json.loads(clone.run("config", *arguments, "--json").stdout)
    assert rows["file_save_path"] == {"value": "x", "origin": "command line"}
    assert rows["max_tries"]["value"] == "7"
    assert rows["overwrite"]["value"] == "False"
    assert rows["task"]["value"] == "9"
    assert rows["username"]["value"] in {"", "a_b"}, "underscores of a value stay"


# --- config -------------------------------------------------------------------------------


def test_config_shows_values_with_their_origins_and_no_secret(clone: Clone) -> None:
    (clone.folder / "config.yaml").write_text("tasks: {2: {remote_file_path: é.zip}}\n", "utf-8")
    (clone.folder / "envs").mkdir()
    (clone.folder / "envs/prod.env").write_text("USERNAME=account\nPASSWORD=hunter2\n")
    env = {"LIGHTERAGE_VARIANT": "prod", "USERNAME": "desktop"}
    expected = {
        "variant": ("prod", "LIGHTERAGE_VARIANT"),
        "remote_file_path": ("é.zip", "config.yaml: tasks.2"),
        "username": ("account", "environment (envs/prod.env)"),
        "password": ("********", "environment (envs/prod.env)"),
        "timeout": ("4.0", "command line"),
        "overwrite": ("True", "default"),
    }
    done = clone.run("config", "2", "--timeout", "4", env=env)
    assert done.returncode == 0
    lines = {tuple(line.split(maxsplit=2)) for line in done.stdout.splitlines()}
    assert lines >= {(name, *row) for name, row in expected.items()}
    rows = json.loads(clone.run("config", "2", "--timeout", "4", "--json", env=env).stdout)
    assert {name: (rows[name]["value"], rows[name]["origin"]) for name in expected} == expected


def test_error_in_the_config_file_is_one_line(clone: Clone) -> None:
    (clone.folder / "config.yaml").write_text("common:\n  max_tries: [\n")
    assert "config.yaml:3: not valid YAML" in refused(clone.run("config", "2"))


# --- running a task -----------------------------------------------------------------------


def test_task_of_a_user_runs_on_arguments_alone(clone: Clone) -> None:
    done = clone.stand_in("a.zip")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "task 9 (dev): landed 1 file, 12 bytes, in data/out",
        "  source: me@host:22:a.zip, 5 bytes, in 1.0 s (5 bytes/s); "
        "checked: size only, archive CRC",
    ]


@pytest.mark.parametrize("level", ["DEBUG", "CRITICAL"])
def test_result_is_on_standard_output_as_json_at_any_log_level(clone: Clone, level: str) -> None:
    done = clone.stand_in("a.zip", "--json", "--log-level", level)
    report = json.loads(done.stdout)
    assert (report["status"], report["task"], report["files"]) == ("landed", "9", 1)


KINDS = sorted(errors.LighterageError.__subclasses__(), key=lambda kind: kind.exit_code)


def test_exit_codes_are_distinct_and_documented() -> None:
    assert [kind.exit_code for kind in KINDS] == [2, 3, 4, 5, 6, 7, 8, 9, 10]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_each_kind_of_failure_has_its_exit_code(
    clone: Clone, kind: type[errors.LighterageError]
) -> None:
    done = clone.stand_in(kind.__name__, "--json")
    assert done.returncode == kind.exit_code
    assert done.stderr == f"lighterage: {kind.kind}: as requested: {kind.default_advice}\n"
    result = json.loads(done.stdout)
    assert result.pop("run_id")
    assert result == {
        "status": "failed", "exit_code": kind.exit_code, "kind": kind.kind,
        "error": "as requested", "advice": kind.default_advice,
    }  # fmt: skip
    assert [path.name for path in (clone.folder / "data").iterdir()] == [".history"]


def line_of(clone: Clone, text: str, file: str = "tasks/task_9.py") -> str:
    """Give `FILE:LINE` of the first line with a text."""
    lines = (clone.folder / file).read_text().splitlines()
    return f"{file}:{1 + next(n for n, line in enumerate(lines) if text in line)}: "


@pytest.mark.parametrize("level", ["INFO", "CRITICAL"])
def test_exception_of_a_task_names_file_and_line_at_any_log_level(clone: Clone, level: str) -> None:
    error = refused(clone.stand_in("bug", "--log-level", level), code=1)
    assert error.startswith("lighterage: task: " + line_of(clone, "raise KeyError") + "KeyError")
    assert "first line" in error
    assert "--log-level DEBUG shows where" in error
    failed = json.loads(clone.stand_in("bug", "--json", "--log-level", level).stdout)
    assert (failed["exit_code"], failed["kind"]) == (1, "task")


def test_exception_of_a_task_shows_its_traceback_in_debug(clone: Clone) -> None:
    done = clone.stand_in("bug", "--log-level", "DEBUG")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert line_of(clone, "raise KeyError") in done.stderr


def write_task(clone: Clone, body: str, top: str = "") -> None:
    """Write a task 9."""
    text = f'"""Task 9."""\n{top}\n\ndef run(fetch):\n    {body}\n'
    (clone.folder / "tasks/task_9.py").write_text(text)


@pytest.mark.parametrize(
    ("top", "body", "place", "says"),
    [
        # of a library: the line of the task that called it
        ("import json", "json.loads('{')", ("tasks/task_9.py", "json.loads"), "JSONDecodeError"),
        # of a helper of the task: the line of the helper
        ("from tasks import helper", "helper.fail()", ("tasks/helper.py", "1 / 0"), "ZeroDivision"),
        # of Lighterage: a bug
        (
            "from tasks.fetch import names", "names.fail()", ("tasks/fetch/names.py", "1 / 0"),
            "ZeroDivisionError: division by zero (a bug: ",
        ),
    ],
    ids=["library", "helper", "bug"],
)  # fmt: skip
def test_exception_names_the_line_that_its_reader_can_change(
    clone: Clone, top: str, body: str, place: tuple[str, str], says: str
) -> None:
    write_task(clone, body, top)
    for file in ("tasks/helper.py", "tasks/fetch/names.py"):
        with (clone.folder / file).open("a") as appended:
            appended.write("\ndef fail():\n    return 1 / 0\n")
    error = refused(clone.stand_in("x"), code=1)
    kind = "internal error" if "a bug" in says else "task"
    file, line = place
    assert error.startswith(f"lighterage: {kind}: {line_of(clone, line, file)}{says}")


@pytest.mark.parametrize("at_the_top", [True, False])
def test_missing_module_names_the_file_that_lists_packages(clone: Clone, at_the_top: bool) -> None:
    text = "import no_such_package.part"
    write_task(clone, "pass" if at_the_top else text, text if at_the_top else "")
    error = refused(clone.stand_in("x", "--log-level", "CRITICAL"), code=1)
    assert "lighterage: task: " + line_of(clone, text) in error
    assert "'no_such_package'" in error
    assert "requirements/prod.in" in error
    assert "make lock" in error


@pytest.mark.parametrize(("code", "expected"), [("4", 4), ("", 0), ("'stop: no data'", 1)])
def test_exit_of_a_task_is_no_traceback(clone: Clone, code: str, expected: int) -> None:
    write_task(clone, f"raise SystemExit({code})")
    done = clone.stand_in("x")
    assert done.returncode == expected
    assert done.stderr == ("lighterage: task: stop: no data\n" if expected == 1 else "")


def test_error_in_a_task_module_is_one_line(clone: Clone) -> None:
    assert "must return the report" in refused(clone.stand_in("nothing"))
    (clone.folder / "tasks/task_9.py").write_text('"""Task 9: nothing yet."""\n')
    assert "tasks/task_9.py: has no function run" in refused(clone.stand_in("x"))
    (clone.folder / "tasks/task_9.py").write_text("def run(:\n")
    error = refused(clone.stand_in("x"), code=1)
    assert "SyntaxError" in error
    assert "task_9.py" in error


# --- terminals and pipes ------------------------------------------------------------------------


def test_names_that_are_no_text_or_that_the_terminal_cannot_show_are_escaped(clone: Clone) -> None:
    raw: list[str | bytes] = ["config", "2", "--username=é\x1b[2J", b"--remote-file-path=\xff.zip"]
    for env in ({}, {"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "utf-8:strict"}):
        done = clone.run(*raw, env=env)
        assert done.returncode == 0, done.stderr
        assert "\\udcff.zip" in done.stdout
        assert "\x1b" not in done.stdout
        rows = json.loads(clone.run(*raw, "--json", env=env).stdout)
        assert rows["username"]["value"] == "é\x1b[2J"


def test_closed_pipe_is_no_error(clone: Clone) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    for arguments in (["--help"], ["config", "2"]):
        done = clone.run(*arguments, stdout=writing, stderr=subprocess.PIPE)
        assert (done.returncode, done.stderr) == (0, "")
    os.close(writing)


def test_output_to_a_full_disk_is_an_error(clone: Clone) -> None:
    with Path("/dev/full").open("w") as full:
        done = clone.run("config", "2", stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1
    assert done.stderr == "lighterage: cannot write the output: No space left on device\n"


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&-"])
def test_closed_streams_are_no_traceback(clone: Clone, closed: str) -> None:
    command = f'"$0" -m tasks config 2 {closed}; echo code $? >&3'
    done = subprocess.run(
        ["sh", "-c", f"exec 3>&1; {{ {command}; }} 2>errors", sys.executable],
        cwd=clone.folder, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.endswith("code 0\n")
    assert (clone.folder / "errors").read_text() == ""


# --- tasks --------------------------------------------------------------------------------------


def tasks_of(clone: Clone, **more: Any) -> dict[str, dict[str, Any]]:
    """Return the rows of `tasks`, by task; each task has a line of the table, too."""
    table = clone.run("tasks", **more)
    assert (table.returncode, table.stderr.count("Traceback")) == (0, 0), table.stderr
    rows = json.loads(clone.run("tasks", "--json", **more).stdout)["tasks"]
    assert [line.split()[1] for line in table.stdout.splitlines()] == [row["task"] for row in rows]
    return {row["task"]: row for row in rows}


def test_tasks_lists_description_schedule_and_what_landed(clone: Clone) -> None:
    (clone.folder / "config.yaml").write_text(
        "tasks:\n  2: {file_save_path: out/2, prod: {schedule: 0 3 * * *}}\n"
        "  3: {file_save_path: out/3}\n  1: {file_save_path: ftp://x}\n"
    )
    manifest = Manifest(
        "3", "dev", "me@host:22", "d", "*.csv", "", False, finished="2026-01-02T03:04:05Z",
        sources=[Source("d/a.csv", 5, 0, "")], files=[File("a.csv", 12, "", "d/a.csv")],
    )  # fmt: skip
    (clone.folder / "out/3").mkdir(parents=True)
    (clone.folder / "out/3/manifest.json").write_bytes(b"".join(manifest.encoded()))
    rows = tasks_of(clone)
    assert list(rows) == ["1", "2", "3", "9"]
    assert rows["9"]["description"] == "Task 9: a stand-in."
    assert not any(row["error"] for row in rows.values())
    assert rows["3"]["landed"] == {
        "finished": "2026-01-02T03:04:05Z", "variant": "dev", "files": 1, "bytes": 12, "missing": 0
    }  # fmt: skip
    assert rows["2"]["landed"] is None
    assert "no store for ftp://" in rows["1"]["landed_error"]
    assert rows["2"]["schedule"] == ""
    prod = {"LIGHTERAGE_VARIANT": "prod"}
    assert tasks_of(clone, env=prod)["2"]["schedule"] == "0 3 * * *"
    clone.run("pause", "2", env=prod)
    lines = clone.run("tasks", env=prod).stdout.splitlines()
    assert lines[1].startswith("task 2  0 3 * * *, paused  nothing landed yet  ")
    assert "  1 file landed 2026-01-02T03:04:05Z  " in lines[2]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"def run(:\n", "tasks/task_4.py:1: SyntaxError"),
        (b"\xff\0", "tasks/task_4.py: SyntaxError"),
        (b"x = 1\nimport nope\n", "tasks/task_4.py:2: ModuleNotFoundError: No module named 'nope'"),
        (b"print('x')\n1 / 0\n", "tasks/task_4.py:2: ZeroDivisionError"),
        (b"raise SystemExit('end')\n", "tasks/task_4.py:1: SystemExit: end"),
        (b"", "tasks/task_4.py: has no function run(fetch)"),
        (None, "tasks/task_4.py: there is no such file, but config.yaml has tasks.4"),
    ],
    ids=ascii,
)
def test_an_error_of_one_task_is_in_its_row(clone: Clone, content: bytes | None, says: str) -> None:
    (clone.folder / "config.yaml").write_text("tasks: {4: {overwrite: true}}")
    if content is not None:
        (clone.folder / "tasks/task_4.py").write_bytes(content)
    rows = tasks_of(clone)
    assert rows["4"]["error"].startswith(says)
    assert [task for task, row in rows.items() if row["error"]] == ["4"]
    assert says in clone.run("tasks").stdout


def test_tasks_refuses_a_broken_config_file_and_operands(clone: Clone) -> None:
    assert "tasks takes no '2'" in refused(clone.run("tasks", "2"))
    (clone.folder / "config.yaml").write_text("common: {max_trys: 1}")
    assert "unknown key max_trys" in refused(clone.run("tasks"))
