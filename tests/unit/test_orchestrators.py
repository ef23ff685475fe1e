"""The recipes of docs/orchestrators.md that need no container engine."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from clone import REPOSITORY, Clone
from need import need
from recipes import DOCS, recipe, run
from results import last_line

CONFIG = """
common: {{remote_host_address: host, file_save_path: data/out}}
tasks:
  9: {{remote_file_path: {wanted}}}
"""
HOME = '"/srv/lighterage"'


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return Clone(tmp_path)


def raised(clone: Clone) -> int:
    """Return how many runs of the task raised an error."""
    path = clone.folder / "raised"
    return len(path.read_text().split()) if path.exists() else 0


KILLED = "import os, signal\ndef run(fetch):\n    os.kill(os.getpid(), signal.SIGKILL)\n"
ENDS = [
    ("a.zip", "", 0),
    ("NetworkError", "as requested", 3),
    ("RemotePathError", "as requested", 1),
    ("killed", "the run was killed", 0),
]


def set_up(clone: Clone, wanted: str) -> None:
    """Configure task 9; there is a result of an earlier run."""
    (clone.folder / "config.yaml").write_text(CONFIG.format(wanted=wanted))
    earlier = clone.run("9", "--result-file=data/results/9.json", "--remote-file-path=a.zip")
    assert earlier.returncode == 0
    if wanted == "killed":
        (clone.folder / "tasks/task_9.py").write_text(KILLED)


@pytest.mark.parametrize(("wanted", "error", "runs"), ENDS)
def test_dagster_asset(clone: Clone, wanted: str, error: str, runs: int) -> None:
    """It lands, or fails with the error of the result; what a retry may cure is retried."""
    set_up(clone, wanted)
    text = recipe(
        "python", "from dagster", (HOME, repr(str(clone.folder))), ('"2"', '"9"'),
        ("/2.json", "/9.json"), (".venv/bin/python", sys.executable),
        ("delay=300", "delay=0"),
    )  # fmt: skip
    text += (
        "\nfrom dagster import materialize\n"
        "done = materialize([events], raise_on_error=False)\n"
        "print([e.step_failure_data.user_failure_data.description"
        " for e in done.get_step_failure_events()])\n"
        "print([m.metadata['status'].value for m in done.asset_materializations_for_node('events')])"
    )
    failures, landed = run("dagster", clone.folder, text).splitlines()[-2:]
    assert (error in failures, landed) == (True, "[]" if error else "['landed']")
    assert wanted == "killed" or raised(clone) == runs


@pytest.mark.parametrize(("wanted", "error", "runs"), ENDS)
def test_prefect_flow(clone: Clone, wanted: str, error: str, runs: int) -> None:
    set_up(clone, wanted)
    text = recipe(
        "python", "from prefect", (HOME, repr(str(clone.folder))),
        (".venv/bin/python", sys.executable), ("retry_delay_seconds=300", "retry_delay_seconds=0"),
        ("    lighterage()\n", ""),
        ('if __name__ == "__main__":\n', "state = lighterage('9', return_state=True)\n"),
    )  # fmt: skip
    text += "print('state:', state.result(raise_on_failure=False))\n"
    (line,) = (
        line
        for line in run("prefect", clone.folder, text).splitlines()
        if line.startswith("state: ")
    )
    assert (error or "'status': 'landed'") in line
    assert wanted == "killed" or raised(clone) == runs
