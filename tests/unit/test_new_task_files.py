"""`make new-task`: what it adds to config.yaml, and that a failure changes nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from docker.setup.project import Failure
from docker.tools import new_task as module
from docker.tools.context import Context
from docker.tools.new_task import new_task

ROOT = Path(__file__).parents[2]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """Give the files that a new task is written beside."""
    (tmp_path / "tests/faults").mkdir(parents=True)
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks/task_1.py").touch()
    shutil.copy(ROOT / "config.yaml", tmp_path)
    return tmp_path


def make(clone: Path, name: str, kind: str = "archive") -> int:
    """Write a new task."""
    return new_task(Context(clone, task_name=name, kind=kind))


def contents(clone: Path) -> dict[str, bytes]:
    """Return all files of the clone."""
    return {str(path): path.read_bytes() for path in clone.rglob("*") if path.is_file()}


def refusal(clone: Path, name: str, kind: str = "archive") -> str:
    """Write a task, which must be refused in one line and change nothing."""
    before = contents(clone)
    with pytest.raises(Failure) as caught:
        make(clone, name, kind)
    assert "\n" not in str(caught.value)
    assert contents(clone) == before
    return str(caught.value)


@pytest.mark.parametrize("kind", ["archive", "tree"])
@pytest.mark.parametrize("name", ["4", "10", "orders", "04", "on", "null", "0x1f"])
def test_each_name_and_kind_adds_lines_and_changes_none(clone: Path, name: str, kind: str) -> None:
    old = (clone / "config.yaml").read_text()
    assert make(clone, name, kind) == 0
    new = (clone / "config.yaml").read_text()
    assert new.startswith(old), "the section is the last one"
    added = {str(key): value for key, value in yaml.safe_load(new)["tasks"].items()}
    assert list(added) == ["1", "2", "3", name]
    assert added[name]["file_save_path"] == f"data/task_{name}/events"
    assert (clone / f"tasks/task_{name}.py").read_text().startswith(f'"""Task {name}: ')
    assert f'TASK = "{name}"' in (clone / f"tests/faults/test_task_{name}.py").read_text()
    assert "exists: choose another NAME" in refusal(clone, name)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("tasks:\n  1: {overwrite: true}\n", ""),
        ("# top\ntasks:   # mine\n    1:\n        overwrite: true\n    # of 1\n\n# end\n", ""),
        ("tasks:\n  1:\n    overwrite: true", ""),
        ("tasks:\n  1:\n    overwrite: true\n\n", "# the rest\ncommon:\n  max_tries: 2\n"),
        ("tasks:\n\n", "common: {}\n"),
        ("tasks:\r\n  1:\r\n    overwrite: true\r\n", "common: {}\r\n"),
        ("common: {}\n", ""),
        ("", ""),
    ],
    ids=ascii,
)
def test_a_section_is_inserted_after_the_last_task(clone: Path, before: str, after: str) -> None:
    config = clone / "config.yaml"
    config.write_bytes((before + after).encode())
    config.chmod(0o640)
    make(clone, "4")
    text = config.read_bytes().decode()
    assert "4" in map(str, yaml.safe_load(text)["tasks"])
    assert text.endswith(after)
    assert text.count("\r\n") in {0, text.count("\n")}, "one kind of line ends"
    old_lines = (before + after).splitlines()
    new_lines = iter(text.splitlines())
    assert all(line in new_lines for line in old_lines), "all lines, in the same order"
    assert config.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("name", ["", "A", "a b", "a-b", "a/b", "../x", "é", "$(x)", "x" * 31])
def test_a_name_that_is_none_is_refused(clone: Path, name: str) -> None:
    assert "lowercase letters and digits" in refusal(clone, name)


@pytest.mark.parametrize(
    ("name", "kind", "text", "says"),
    [
        ("config", "archive", None, "config is a verb"),
        ("4", "zip", None, "KIND=zip is not known; allowed: archive, tree"),
        ("1", "archive", None, "tasks/task_1.py exists"),
        ("2", "archive", None, "has a section tasks.2"),
        ("4", "archive", "tasks: {1: {}}\n", "write tasks as a block"),
        ("4", "archive", "tasks:\n  {1: {}}\n", "write tasks as a block"),
        ("4", "archive", "tasks: &x\n  1: {}\n", "write tasks as a block"),
        ("4", "archive", "tasks: [\n", "config.yaml:2: not valid YAML"),
        ("4", "archive", "common: {max_trys: 1}\n", "config.yaml: common: unknown key max_trys"),
    ],
)
def test_what_cannot_be_added_is_refused(
    clone: Path, name: str, kind: str, text: str | None, says: str
) -> None:
    if text is not None:
        (clone / "config.yaml").write_text(text)
    assert says in refusal(clone, name, kind)


@pytest.mark.parametrize("failing", ["task_4.py", "test_task_4.py", "config.yaml"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_in_the_middle_leaves_nothing(
    clone: Path, monkeypatch: pytest.MonkeyPatch, failing: str, error: BaseException
) -> None:
    before = contents(clone)
    write_bytes = Path.write_bytes

    def fail(path: Path, content: bytes) -> int:
        if path.name.startswith(f".{failing}."):
            write_bytes(path, content[:10])
            raise error
        return write_bytes(path, content)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", fail)
        with pytest.raises(type(error)):
            make(clone, "4")
    assert contents(clone) == before
    assert make(clone, "4") == 0


def test_a_link_to_the_config_file_stays_one(clone: Path, tmp_path: Path) -> None:
    shutil.move(clone / "config.yaml", clone / "mine.yaml")
    (clone / "config.yaml").symlink_to("mine.yaml")
    make(clone, "4")
    assert (clone / "config.yaml").is_symlink()
    assert "  4:\n" in (clone / "mine.yaml").read_text()


def test_templates_are_those_of_the_kinds() -> None:
    assert {path.stem for path in module.TEMPLATES.glob("*.py")} == {
        "__init__", "test", *module.KINDS
    }  # fmt: skip
