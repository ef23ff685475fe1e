"""log_format json: each line on standard error is a JSON object, also those of errors."""

from __future__ import annotations

import json
import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from clone import Clone
from timed_service import CONFIG, FAILURE, TIMED, ended_by_force, output_of_service

JSON = "--log-format=json"
ALWAYS = {"time", "level", "logger", "message", "run_id"}


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return Clone(tmp_path)


def objects(text: str) -> list[dict[str, Any]]:
    """Require an object in each line, with a time that has a zone; return them."""
    found = [json.loads(line) for line in text.splitlines()]
    assert found
    for one in found:
        assert one.keys() >= ALWAYS
        assert datetime.fromisoformat(one["time"]).utcoffset() is not None
        assert one["run_id"]
    return found


def test_failure_is_one_object_with_the_fields_of_the_result(clone: Clone) -> None:
    done = clone.stand_in("NetworkError", JSON, "--json", "--max-tries=1")
    (line,) = objects(done.stderr)
    result = json.loads(done.stdout)
    assert {name: line[name] for name in result} == result
    assert line["message"].startswith("lighterage: network: as requested: check that the host")
    assert (line["level"], line["task"], line["variant"]) == ("ERROR", "9", "dev")


def test_warnings_are_objects_of_the_same_run(clone: Clone) -> None:
    (clone.folder / "data").write_text("no folder: the history cannot be written")
    done = clone.stand_in("a.zip", JSON, "--json")
    warnings = objects(done.stderr)
    assert "this run is not in the history" in warnings[0]["message"]
    assert warnings[0]["logger"] == "tasks.history"
    assert {line["run_id"] for line in warnings} == {json.loads(done.stdout)["run_id"]}


def test_run_id_of_the_settings_is_that_of_the_log(clone: Clone) -> None:
    done = clone.stand_in("a.zip", JSON, "--run-id=nightly", "--shard=x")
    assert objects(done.stderr)[0]["run_id"] != "nightly", "the settings are not known then"
    done = clone.stand_in("bug", JSON, "--run-id=nightly", "--max-tries=1")
    assert objects(done.stderr)[0]["run_id"] == "nightly"


def test_two_runs_have_different_ids(clone: Clone) -> None:
    ids = {json.loads(clone.stand_in("a.zip", "--json").stdout)["run_id"] for _ in range(2)}
    assert len(ids) == 2


@pytest.mark.parametrize(
    ("arguments", "variables", "config"),
    [
        (["22", JSON], {}, ""),
        (["9", JSON, "--max-tries=x"], {}, ""),
        (["9", "--log_format", "JSON", "--no-such-option"], {}, ""),
        (["9", "--max-tries=x"], {"LOG_FORMAT": "json"}, ""),
        (["9", "--max-tries=x"], {}, "common: {log_format: json}"),
        (["9"], {}, "tasks: {9: {log_format: json}}"),
        (["9", "--max-tries=x"], {}, "variants: {dev: {log_format: json}}"),
        (["9", JSON], {}, "["),
        (["9", JSON], {"LOG_FORMAT": "text"}, "common: {log_format: text, wrong: 1}"),
    ],
    ids=ascii,
)
def test_configuration_error_is_an_object_as_far_as_the_format_is_known(
    clone: Clone, arguments: list[str], variables: dict[str, str], config: str
) -> None:
    (clone.folder / "config.yaml").write_text(config)
    done = clone.run(*arguments, env=variables)
    (line,) = objects(done.stderr)
    assert done.returncode == line["exit_code"] == 2
    assert line["kind"] == "usage or configuration"


def test_command_line_wins_and_a_wrong_format_is_an_error_in_text(clone: Clone) -> None:
    done = clone.run("9", "--log-format=text", "--max-tries=x", env={"LOG_FORMAT": "json"})
    assert done.stderr.startswith("lighterage: usage")
    done = clone.run("9", "--log-format=xml")
    assert "log_format is 'xml': expected one of text, json" in done.stderr
    assert done.stderr.count("\n") == 1


def test_bug_has_a_traceback_only_at_debug_and_in_its_object(clone: Clone) -> None:
    (line,) = objects(clone.stand_in("bug", JSON).stderr)
    assert "Traceback" not in str(line)
    lines = objects(clone.stand_in("bug", JSON, "--log-level=DEBUG").stderr)
    assert any("Traceback" in line.get("traceback", "") for line in lines)


def test_names_cannot_break_a_line_or_a_terminal(clone: Clone) -> None:
    done = clone.stand_in("a.zip", JSON, "--max-tries=\x1b[2J\u202e\u2028x")
    assert done.stderr.isascii()
    assert "\x1b" not in done.stderr
    objects(done.stderr)


def test_service_and_its_runs_write_objects_and_their_results_the_time(tmp_path: Path) -> None:
    config = CONFIG.replace("common: {", "common: {log_format: json, ")
    out, log = output_of_service(tmp_path, config)
    lines = objects(log)
    assert all(TIMED.fullmatch(line) for line in out.splitlines())
    texts = {line["message"] for line in lines}
    assert texts >= {
        "task 9 started", "two\nlines", FAILURE,
        "lighterage: interrupted: nothing was changed",
    }  # fmt: skip
    assert len({line["run_id"] for line in lines}) == 4, "the service, and three runs"


def test_run_that_the_watchdog_ends_says_so_in_an_object(tmp_path: Path) -> None:
    log = ended_by_force(Clone(tmp_path), JSON)
    assert "ended by force" in objects(log)[-1]["message"]


def test_quiet_run_logs_warnings_and_errors_only(clone: Clone) -> None:
    done = clone.stand_in("a.zip", "--quiet", "--log-level=DEBUG")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    done = clone.stand_in("a.zip", "--quiet", "--json=line")
    assert json.loads(done.stdout)["status"] == "landed"
    shutil.rmtree(clone.folder / "data")
    (clone.folder / "data").write_text("no folder: the history cannot be written")
    done = clone.stand_in("a.zip", "--quiet")
    assert " WARNING tasks.history: " in done.stderr
    assert "lighterage: local disk: " in done.stderr
