"""The prod service's state is in its volume: it outlasts a kill, a stop and another image."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from docker.tools.context import Context
from images import edited, names_of, tree_in, wait_for
from tree import Tree

PROJECT = f"lighterage-state-{os.getpid()}"
pytestmark = pytest.mark.container

SCHEDULE = 'schedule: "0 3 * * *"'
PATH = "data/.schedule/prod/state.json"
MISSED = {
    "version": 1,
    "tasks": {
        "2": {
            "schedule": "0 0 1 1 *",
            "time_zone": "Europe/Zurich",
            "planned": 0,
            "due": 0,
            "failures": 0,
            "running": False,
        }
    },
}


@pytest.fixture
def tree(engine: Context, tmp_path: Path) -> Iterator[Tree]:
    """Give a tree with the prod image built."""
    with tree_in(tmp_path / "clone", engine, "prod") as tree:
        yield tree


def in_volume(engine: Context, program: str) -> str:
    """Run a Python program beside the service, with its volume."""
    volume = f"{PROJECT}-prod-data:/app/data"
    command = ["run", "--rm", "--network=none", "--volume", volume, "--entrypoint=python"]
    return engine.must(*command, f"{PROJECT}-prod", "-c", program)


def state(engine: Context) -> Any:
    """Return what the service keeps of task 2."""
    return json.loads(in_volume(engine, f"print(open('{PATH}').read())"))["tasks"]["2"]


def landed(engine: Context) -> str:
    """List the folder of task 2."""
    return in_volume(
        engine, "from pathlib import Path; print([p.name for p in Path('data/task_2').glob('*')])"
    ).strip()


def test_state_in_the_volume_outlasts_a_kill_a_stop_and_another_image(
    tree: Tree, engine: Context
) -> None:
    """A run that would take minutes is stopped, killed, and at last lands with another image."""

    def service() -> Any:
        (name,) = names_of(engine, "container", "tasks")
        return engine.inspect("container", name)

    def runs() -> bool:
        return bool(state(engine)["running"])

    config = tree.folder / "config.yaml"
    try:
        with edited(config, (SCHEDULE, 'schedule: "0 0 1 1 *"\n      time_zone: Europe/Zurich\n'
                                       "      max_rate: 20kB")):  # fmt: skip
            assert "task 2 (prod): paused" in tree.ok("pause", "TASK=2", "ENV=prod")
            in_volume(engine, f"open('{PATH}', 'w').write('{json.dumps(MISSED)}')")
            tree.ok("up", "ENV=prod")
            first = service()
            shown = tree.ok("schedule", "ENV=prod")
            assert shown == "task 2: next run 1970-01-01 01:00:00+01:00, paused\n"
            tree.ok("resume", "TASK=2", "ENV=prod")
            wait_for(lambda: ".events.staging" in landed(engine))
            assert "missed the run of 1970-01-01 01:00:00+01:00: starts now" in tree.ok(
                "logs", "ENV=prod"
            )
            engine.must("stop", first["Id"])
            assert service()["State"]["ExitCode"] == 0, "it was not killed after ten seconds"
            after = state(engine)
            assert (after["running"], after["due"], after["failures"]) == (False, None, 0)
            assert landed(engine) == "[]"
            engine.must("start", first["Id"])
            wait_for(lambda: ".events.staging" in landed(engine))
            engine.must("kill", first["Id"])
            engine.must("start", first["Id"])
            wait_for(lambda: state(engine)["failures"] == 1)
        with edited(config, (SCHEDULE, 'schedule: "0 0 1 1 *"\n      time_zone: Europe/Zurich')):
            tree.ok("up", "ENV=prod")
            second = service()
            assert second["Image"] != first["Image"]
            # After a delay of at most a minute.
            wait_for(lambda: "task 2 (prod): landed" in tree.ok("logs", "ENV=prod"), 150)
            wait_for(lambda: not runs())
            assert state(engine)["failures"] == 0
            assert landed(engine) == "['events']"
    finally:
        tree.ok("down", "ENV=prod")
