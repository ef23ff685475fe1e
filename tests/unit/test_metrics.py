"""The metrics file, read with Prometheus' own parser."""

from __future__ import annotations

import os
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from clone import Clone
from made_up_service import Service, changed
from tasks import metrics
from tasks.history import FOLDER, History, Run

FILE = "--metrics-file=metrics/lighterage.prom"


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return Clone(tmp_path)


def parsed(text: str) -> dict[tuple[str, str, str], float]:
    """Return each sample by name, task and variant; each family is a gauge and says what it is."""
    found: dict[tuple[str, str, str], float] = {}
    for family in text_string_to_metric_families(text):
        assert family.type == "gauge"
        assert family.documentation.endswith(".")
        for sample in family.samples:
            key = (sample.name, sample.labels["task"], sample.labels["variant"])
            assert key not in found
            assert sample.labels.keys() == {"task", "variant"}
            found[key] = sample.value
    return found


def written(
    clone: Clone, name: str = "metrics/lighterage.prom"
) -> dict[tuple[str, str, str], float]:
    """Return what a run has written, with nothing beside it."""
    path = clone.folder / name
    assert [one.name for one in path.parent.iterdir()] == [path.name]
    return parsed(path.read_text())


def of(found: dict[tuple[str, str, str], float], task: str, variant: str) -> dict[str, float]:
    """Return the values of one task by name, without the prefix."""
    return {
        name.removeprefix("lighterage_"): value
        for (name, *labels), value in found.items()
        if labels == [task, variant]
    }


def test_run_writes_the_last_run_and_the_last_success(clone: Clone) -> None:
    before = int(datetime.now(UTC).timestamp())
    assert clone.stand_in("a.zip", FILE).returncode == 0
    first = of(written(clone), "9", "dev")
    assert first["last_success_timestamp_seconds"] == first["last_run_timestamp_seconds"] >= before
    assert clone.stand_in("BusyError", FILE).returncode == 9
    found = of(written(clone), "9", "dev")
    assert found.pop("last_run_timestamp_seconds") >= found["last_success_timestamp_seconds"]
    assert found.pop("last_run_duration_seconds") >= 0
    assert found == {
        "last_run_exit_code": 9, "last_run_fetched_bytes": 0, "last_run_retries": 0,
        "last_success_timestamp_seconds": first["last_success_timestamp_seconds"],
        "target_files": 1, "target_bytes": 12,
    }  # fmt: skip
    umask = os.umask(0)
    os.umask(umask)
    mode = stat.S_IMODE((clone.folder / "metrics/lighterage.prom").stat().st_mode)
    assert mode == 0o666 & ~umask


def test_tasks_and_variants_that_share_a_file_keep_each_others_series(clone: Clone) -> None:
    (clone.folder / "tasks/task_10.py").write_text((clone.folder / "tasks/task_9.py").read_text())
    ten = ["10", *clone.complete("NetworkError")[1:]]
    assert clone.stand_in("a.zip", FILE).returncode == 0
    assert clone.run(*ten, FILE, "--max-tries=1").returncode == 5
    assert clone.stand_in("a.zip", FILE, env={"LIGHTERAGE_VARIANT": "prod"}).returncode == 0
    found = written(clone)
    assert of(found, "9", "dev")["last_run_exit_code"] == 0
    assert of(found, "9", "prod")["last_run_exit_code"] == 0
    never = of(found, "10", "dev")
    assert never["last_run_exit_code"] == 5
    assert "last_success_timestamp_seconds" not in never
    assert "target_bytes" not in never


def test_labels_are_escaped_and_no_history_is_no_sample() -> None:
    moment = datetime(2026, 11, 28, 2, tzinfo=UTC)
    odd = 'a"b\\c\nd'
    run = Run("2", odd, moment, moment, 0.5, "landed", 0, files=3, bytes=10**12, retries=4)
    found = parsed(metrics.text([[run], []]))
    assert of(found, "2", odd)["target_bytes"] == 1e12
    assert of(found, "2", odd)["last_run_retries"] == 4
    assert of(found, "2", odd)["last_success_timestamp_seconds"] == moment.timestamp()
    assert parsed(metrics.text([])) == {}
    assert metrics.text([]).encode().startswith(metrics.START)


def test_killed_run_of_the_service_is_in_the_metrics(daily: Service, tmp_path: Path) -> None:
    daily.restart(changed(metrics_file=tmp_path / "m.prom"))
    daily.until("03-21 03:00", ends=None)
    daily.runs[-1].code = -9
    daily.step()
    found = of(parsed((tmp_path / "m.prom").read_text()), "2", "prod")
    assert (found["last_run_exit_code"], found["last_run_timestamp_seconds"]) == (-9, daily.now)


def test_path_in_the_target_or_without_a_history_is_refused(clone: Clone) -> None:
    for words, says in (
        (["--metrics-file=data/out/m.prom"], "choose a path outside of the target data/out"),
        ([FILE, "--history-runs=0"], "metrics_file is metrics/lighterage.prom, and history_runs"),
    ):
        done = clone.stand_in("a.zip", *words)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert says in done.stderr
        assert not (clone.folder / "data").exists()


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("tasks/task_9.py", "contains something else, which is not replaced"),
        ("tasks", "Is a directory"),
        ("tasks/task_9.py/x", "File exists"),
    ],
)
def test_file_that_cannot_be_written_is_a_warning_and_nothing_is_lost(
    clone: Clone, path: str, says: str
) -> None:
    before = (clone.folder / "tasks/task_9.py").read_bytes()
    done = clone.stand_in("a.zip", f"--metrics-file={path}")
    assert (done.returncode, done.stderr.count("\n")) == (0, 1)
    assert says in done.stderr
    assert "WARNING tasks.history: metrics file " in done.stderr
    assert (clone.folder / "tasks/task_9.py").read_bytes() == before
    assert len(History(clone.folder / FOLDER).runs("dev", "9")) == 1
