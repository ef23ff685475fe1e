"""The verb `diff-data`: what the last landing changed, in every store."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import object_server
from clone import Clone
from landed import ARCHIVE, NEW, OLD, SAME, Tree
from tasks.fetch.errors import LocalError
from tasks.fetch.stores import open_store
from tasks.fetch.tables import duck
from tasks.settings import Settings
from tasks.show import DataDiff, Show

pytest.importorskip("duckdb")

FIRST: Tree = {
    "gone.csv": b"a\n1\n",
    "events.csv": b"id,name\n1,x\n2,y\n",
    SAME: b"q\n1\n",
    "notes.txt": b"1",
    ARCHIVE: b"packed",
}
SECOND: Tree = {
    "new.csv": b"a;b\n1;2\n3;4\n",
    "events.csv": b"id,title,city\nA1,x,Bonn\n",
    SAME: b"q\n1\n",
    "notes.txt": b"22",
    ARCHIVE: b"packed",
}


@pytest.fixture
def target(any_target: str) -> str:
    return any_target


def settings(target: str) -> Settings:
    return Settings(task="1", variant="dev", file_save_path=target)


def compared(target: str) -> dict[str, Any]:
    """Return what `diff-data` has for programs."""
    data: dict[str, Any] = json.loads(json.dumps(DataDiff(settings(target)).data()))
    return data


def text(target: str, width: int = 100) -> str:
    return "\n".join(DataDiff(settings(target)).lines(width))


def paths(files: list[dict[str, Any]]) -> list[str]:
    return [file["path"] for file in files]


def test_files_that_were_added_removed_and_changed(target: str) -> None:
    object_server.land(target, FIRST)
    object_server.land(target, SECOND)
    data = compared(target)
    assert paths(data["added"]) == ["new.csv"]
    assert paths(data["removed"]) == ["gone.csv"]
    assert paths(data["changed"]) == ["events.csv", "notes.txt"]
    assert data["unchanged"] == 2
    assert data["added"][0]["rows"] == 2
    assert data["changed"][0]["after"]["rows"] == 1
    assert [(one["before"]["size"], one["after"]["size"]) for one in data["changed"]] == [
        (16, 24), (1, 2)
    ]  # fmt: skip
    lines = text(target)
    assert "2 files unchanged" in lines
    assert "1 bytes -> 2 bytes" in lines


def test_rows_and_columns_of_both_where_the_first_was_shown(target: str) -> None:
    object_server.land(target, FIRST)
    Show(settings(target))
    object_server.land(target, SECOND)
    data = compared(target)
    if target.startswith("zip://"):  # it keeps neither earlier files nor what was counted
        assert data["removed"][0]["rows"] is None
        return
    assert data["removed"][0]["rows"] == 1
    changed = data["changed"][0]
    assert (changed["before"]["rows"], changed["after"]["rows"]) == (2, 1)
    changes = {(one["change"], one["column"]) for one in changed["columns"]}
    assert changes == {("removed", "name"), ("added", "title"), ("added", "city"), ("type", "id")}
    lines = text(target)
    assert "2 -> 1" in lines
    assert "2 -> 3" in lines, "columns"
    assert "events.csv: column 'id' was BIGINT, is VARCHAR" in lines


def test_rows_of_former_files_are_read_where_they_are_kept(target: str) -> None:
    object_server.land(target, FIRST)
    object_server.land(target, SECOND)
    changed = compared(target)["changed"][0]
    kept = target.startswith("s3://")
    assert changed["before"]["rows"] == (2 if kept else None)
    assert ("?: rows of files that are no longer there" in text(target)) is not kept
    assert ("? -> 1" in text(target)) is not kept


def test_the_next_landing_is_compared_with_what_this_one_counted(target: str) -> None:
    object_server.land(target, FIRST)
    object_server.land(target, SECOND)
    compared(target)
    object_server.land(target, FIRST)
    data = compared(target)
    assert paths(data["added"]) == ["gone.csv"]
    if not target.startswith("zip://"):
        assert data["removed"][0]["rows"] == 2
        assert data["changed"][0]["before"]["rows"] == 1


def test_one_landing_has_nothing_to_compare(target: str) -> None:
    object_server.land(target, FIRST)
    data = compared(target)
    assert (data["before"], data["added"], data["unchanged"]) == (None, [], None)
    assert "only one landing is known: nothing to compare" in text(target)


def test_nothing_landed_is_an_error(target: str) -> None:
    with pytest.raises(LocalError, match="nothing has landed"):
        DataDiff(settings(target))


def test_the_same_data_again_is_unchanged(target: str) -> None:
    object_server.land(target, FIRST)
    object_server.land(target, FIRST)
    data = compared(target)
    assert [data[name] for name in ("added", "removed", "changed")] == [[], [], []]
    assert data["unchanged"] == 5


def test_after_prune_one_landing_is_known(url: str) -> None:
    object_server.land(url, FIRST)
    object_server.land(url, SECOND)
    store = open_store(url, overwrite=True)
    assert store.prune(keep_runs=0, min_age_s=-60, dry_run=False).objects
    assert "only one landing is known" in text(url)
    object_server.land(url, FIRST)
    assert paths(compared(url)["removed"]) == ["new.csv"]


def test_data_that_was_removed_and_lands_again_is_the_first(tmp_path: Path) -> None:
    target = tmp_path / "data/events"
    for files in (OLD, NEW):
        object_server.land(str(target), files)
    shutil.rmtree(target)
    object_server.land(str(target), OLD)
    assert "only one landing is known" in text(str(target))


def test_a_broken_record_of_the_landing_before_counts_as_none(tmp_path: Path) -> None:
    target = tmp_path / "data/events"
    for files in (OLD, NEW):
        object_server.land(str(target), files)
    (target.parent / ".events.previous.json").write_bytes(b'{"schema": "lighterage/1", "sour')
    assert "only one landing is known" in text(str(target))
    object_server.land(str(target), OLD)
    assert paths(compared(str(target))["removed"]) == ["e/c.csv"]


def test_without_duckdb_files_and_sizes_are_compared(
    target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(duck, "installed", lambda: False)
    object_server.land(target, FIRST)
    object_server.land(target, SECOND)
    data = compared(target)
    assert paths(data["changed"]) == ["events.csv", "notes.txt"]
    assert data["changed"][0]["after"]["rows"] is None


def test_the_command_line_prints_a_table_or_json(tmp_path: Path) -> None:
    target = tmp_path / "data/events"
    option = f"--file-save-path={target}"
    clone = Clone(tmp_path / "clone")
    object_server.land(str(target), FIRST)
    done = clone.run("diff-data", "1", option)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("only one landing is known: nothing to compare\n")
    object_server.land(str(target), SECOND)
    done = clone.run("diff-data", "1", option, env={"COLUMNS": "60"})
    assert (done.returncode, done.stderr) == (0, "")
    assert max(map(len, done.stdout.splitlines()[1:])) <= 60
    assert "added    new.csv" in done.stdout
    done = clone.run("diff-data", "1", option, "--json=line")
    assert paths(json.loads(done.stdout)["added"]) == ["new.csv"]
