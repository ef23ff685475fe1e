"""The recipes of docs/orchestrators.md that need no container engine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from clone import Clone
from need import need
from recipes import recipe, run
from tasks import env_file

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
        "made = done.asset_materializations_for_node('events')\n"
        "print([one.metadata['status'].value for one in made])"
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


def test_systemd_accepts_the_units_and_the_calendar(tmp_path: Path) -> None:
    analyze = need("systemd-analyze", "systemd", "the units of docs/orchestrators.md")
    program = shutil.which("true") or ""  # one whose path has no space
    units = {
        "lighterage@.service": recipe("ini", "[Service]", ("/usr/bin/docker", program)),
        "lighterage@.timer": recipe("ini", "[Timer]"),
    }
    for name, text in units.items():
        (tmp_path / name).write_text(text)
    done = subprocess.run(
        [analyze, "verify", *(tmp_path / name.replace("@", "@2") for name in units)],
        capture_output=True, text=True, check=False, env={"SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
    )  # fmt: skip
    ours = [line for line in done.stderr.splitlines() if "lighterage" in line]
    assert (done.returncode, ours) == (0, [])
    calendar = units["lighterage@.timer"].partition("OnCalendar=")[2].splitlines()[0]
    subprocess.run([analyze, "calendar", calendar], capture_output=True, check=True)


def test_github_workflow_is_valid_and_its_shell_steps_work(tmp_path: Path) -> None:
    path = tmp_path / "land.yml"
    path.write_text(recipe("yaml", ".github/workflows/land.yml"))
    checker = Path(sys.executable).with_name("check-jsonschema")
    command = [str(checker), "--builtin-schema", "vendor.github-workflows", str(path)]
    subprocess.run(command, check=True, capture_output=True)
    (job,) = yaml.safe_load(path.read_text())["jobs"].values()
    steps = {step.get("name"): step for step in job["steps"]}
    output = tmp_path / "output"

    def step(name: str, **env: str) -> None:
        subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", steps[name]["run"]],
            cwd=tmp_path, check=True, env={"PATH": os.environ["PATH"], **env},
        )  # fmt: skip

    assert steps["Settings"]["env"].keys() == {"PASSWORD", "KNOWN_HOSTS", "HOST", "ACCOUNT"}
    step(
        "Settings", PASSWORD="a'b c", KNOWN_HOSTS="h k 1\nh k 2", HOST="data.example", ACCOUNT="me"
    )
    assert env_file.read(tmp_path / "envs/prod.env", "prod.env") == {
        "REMOTE_HOST_ADDRESS": "data.example", "USERNAME": "me",
        "PASSWORD_FILE": "envs/secrets/password",
    }  # fmt: skip
    password = tmp_path / "envs/secrets/password"
    assert (password.read_text(), password.stat().st_mode & 0o77) == ("a'b c\n", 0)
    assert (tmp_path / "envs/known_hosts").read_text().count("\n") == 2
    step("Result", GITHUB_OUTPUT=str(output))
    (tmp_path / "result.json").write_text('{"status": "failed", "exit_code": 5}')
    step("Result", GITHUB_OUTPUT=str(output))
    assert output.read_text().splitlines() == [
        "status=killed", "exit_code=", "status=failed", "exit_code=5",
    ]  # fmt: skip
