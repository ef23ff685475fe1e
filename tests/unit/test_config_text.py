"""config.yaml is changed as a text: comments, order and all other values stay."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from docker.setup.project import Failure
from docker.tools.config_text import with_path

SHIPPED = (Path(__file__).parents[2] / "config.yaml").read_text("utf-8")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Give the shipped config file."""
    path = tmp_path / "config.yaml"
    path.write_text(SHIPPED)
    return path


@pytest.mark.parametrize("task", ["1", "2", "3"])
@pytest.mark.parametrize("path", ["a/b.zip", "a b/*.zip", "007", "x: y #z", 'é"\\', "~", "-"])
def test_the_line_of_the_task_alone_changes(config: Path, task: str, path: str) -> None:
    old, new = SHIPPED.splitlines(), with_path(config, task, path, replace=False).splitlines()
    changed = [line for line in zip(old, new, strict=True) if line[0] != line[1]]
    assert len(changed) == 1
    tasks = yaml.safe_load("\n".join(new))["tasks"]
    assert tasks[int(task)]["remote_file_path"] == path
    assert config.read_text() == SHIPPED, "the file itself is not written"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "tasks:\n  1:\n    remote_file_path: datasets/x   # mine\n    overwrite: true\n",
            "tasks:\n  1:\n    remote_file_path: new   # mine\n    overwrite: true\n",
        ),
        (
            'variants:\n  dev: {}\ntasks:\n  "1": # x\n    remote_file_path: datasets/x',
            'variants:\n  dev: {}\ntasks:\n  "1": # x\n    remote_file_path: new',
        ),
        *(
            (
                f"tasks:\n  1:\n{dev}    remote_file_path: datasets/x\n{after}",
                f"tasks:\n  1:\n{dev}    remote_file_path: new\n{after}",
            )
            for nested in ["    dev:\n      remote_file_path: datasets/y\n"]
            for dev, after in [(nested, ""), ("", nested)]
        ),
        (
            "tasks:\r\n  1:\r\n    remote_file_path: datasets/x\r\n",
            "tasks:\r\n  1:\r\n    remote_file_path: new\r\n",
        ),
    ],
    ids=ascii,
)
def test_comments_quotes_and_line_ends_stay(config: Path, text: str, expected: str) -> None:
    config.write_bytes(text.encode())
    assert with_path(config, "1", "new", replace=False) == expected


def test_a_task_without_a_section_gets_one(config: Path) -> None:
    new = with_path(config, "4", "a b", replace=False)
    assert new.startswith(SHIPPED)
    assert yaml.safe_load(new)["tasks"][4]["remote_file_path"] == "a b"


def test_a_path_of_the_users_own_is_replaced_on_request(config: Path) -> None:
    config.write_text(SHIPPED.replace("datasets/events.csv.zip", "mine.zip"))
    with pytest.raises(Failure, match=r"tasks\.1 has remote_file_path mine\.zip: YES=1 replaces"):
        with_path(config, "1", "new", replace=False)
    assert "    remote_file_path: new\n" in with_path(config, "1", "new", replace=True)
    assert with_path(config, "1", "mine.zip", replace=False) == config.read_text()


@pytest.mark.parametrize(
    "text",
    [
        "tasks: {1: {remote_file_path: datasets/x}}\n",
        "tasks:\n  1:\n    remote_file_path:\n    - datasets/x\n    - datasets/y\n",
        "tasks:\n  1:\n    overwrite: true\n",
        "tasks:\n  1:\n    dev:\n      remote_file_path: datasets/x\n",
    ],
    ids=ascii,
)
def test_a_path_that_is_not_on_a_line_is_refused(config: Path, text: str) -> None:
    config.write_text(text)
    with pytest.raises(Failure, match=r"write remote_file_path of tasks\.1 on a line of its own"):
        with_path(config, "1", "new", replace=True)
