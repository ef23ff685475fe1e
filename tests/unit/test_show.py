"""The verb `show`: files, rows, columns and first rows of what landed, in every store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

import object_server
from clone import Clone
from landed import ARCHIVE, Tree
from tasks.fetch.errors import LocalError
from tasks.fetch.stores import open_store
from tasks.fetch.stores.local.store import LocalStore
from tasks.fetch.tables import duck
from tasks.settings import Settings
from tasks.show import Show
from tasks.text_table import cell_width, table

duckdb = pytest.importorskip("duckdb")

CSV = b'id,name,at\n1,Ann,2026-01-02\n2,"Bo, the ""2nd""\nof two",2026-01-03\n'
FILES: Tree = {
    "a/one.csv": CSV,
    "a/two.csv": b"id,name,at\n" + b"7,x,2026-02-03\n" * 1234,
    "other.tsv": b"k\tv\n1.5\tcaf\xe9\n",
    "notes.txt": b"no table",
    ARCHIVE: b"packed",
}


def parquet(folder: Path, sql: str = "SELECT range AS n, 'x' || range AS t FROM range(3)") -> bytes:
    """Return a Parquet file."""
    path = folder / "made.parquet"
    duckdb.sql(f"COPY ({sql}) TO '{path}' (FORMAT parquet)")
    content = path.read_bytes()
    path.unlink()
    return content


@pytest.fixture
def target(any_target: str) -> str:
    return any_target


@pytest.fixture
def local(tmp_path: Path) -> str:
    return f"{tmp_path}/da ta/events"


def show(target: str) -> Show:
    return Show(Settings(task="1", variant="dev", file_save_path=target))


def shown(target: str) -> dict[str, Any]:
    """Return what `show` has for programs, its files by path."""
    data = json.loads(json.dumps(show(target).data()))
    return {**data, "files": {file["path"]: file for file in data["files"]}}


def text(target: str, width: int = 100) -> str:
    return "\n".join(show(target).lines(width))


# --- tables ------------------------------------------------------------------------------------


def test_rows_columns_and_first_rows_of_each_store(target: str, tmp_path: Path) -> None:
    object_server.land(target, {**FILES, "p.parquet": parquet(tmp_path)})
    data = shown(target)
    files = data["files"]
    assert {path: file["rows"] for path, file in files.items()} == {
        "a/one.csv": 2, "a/two.csv": 1234, "other.tsv": 1, "p.parquet": 3, "notes.txt": None,
        ARCHIVE: None,
    }  # fmt: skip
    assert files["a/one.csv"]["columns"] == [
        {"name": "id", "type": "BIGINT"},
        {"name": "name", "type": "VARCHAR"},
        {"name": "at", "type": "DATE"},
    ]
    assert [column["type"] for column in files["p.parquet"]["columns"]] == ["BIGINT", "VARCHAR"]
    assert not files["notes.txt"]["columns"]
    assert not any(file["error"] for file in files.values())
    assert {one["path"]: one["rows"] for one in data["first_rows"]} == {
        "a/one.csv": [["1", "Ann", "2026-01-02"], ["2", 'Bo, the "2nd"\nof two', "2026-01-03"]],
        "other.tsv": [["1.5", "café"]],
        "p.parquet": [["0", "x0"], ["1", "x1"], ["2", "x2"]],
    }
    lines = text(target)
    assert "6 bytes" in lines
    assert "a/one.csv (and 1 file with the same columns)" in lines
    assert "3 columns: id BIGINT, name VARCHAR, at DATE" in lines
    assert r'Bo, the "2nd"\nof two' in lines, "on one line"


def test_a_table_that_cannot_be_read_has_its_reason(target: str) -> None:
    object_server.land(
        target,
        {
            "ragged.csv": b"a,b\n1,2\n3,4\n5,6,7\n",
            "empty.csv": b"",
            "blank.csv": b"\n\n",
            "binary.csv": b"a,b\n\0\0\n",
            "no.parquet": b"PAR0 and so on, and so on",
            "empty.parquet": b"",
            "header.csv": b"a,b\n",
            "none.csv": b"1,x\n2,y\n",
        },
    )
    files = shown(target)["files"]
    assert "line 4: Expected Number of Columns: 2" in files["ragged.csv"]["error"]
    assert [one["name"] for one in files["ragged.csv"]["columns"]] == ["a", "b"]
    assert (files["empty.csv"]["rows"], files["empty.csv"]["error"]) == (0, "it is empty")
    assert (files["blank.csv"]["rows"], files["blank.csv"]["error"]) == (0, "it is empty")
    assert files["binary.csv"]["error"] == "it is not a text"
    assert "cannot be read" in files["no.parquet"]["error"]
    assert "cannot be read" in files["empty.parquet"]["error"]
    assert (files["header.csv"]["rows"], files["header.csv"]["error"]) == (0, None)
    assert [one["name"] for one in files["none.csv"]["columns"]] == ["column1", "column2"]
    assert files["none.csv"]["rows"] == 2
    assert "no.parquet: cannot be read" in text(target)


def test_rows_are_kept_in_the_manifest_and_in_the_next_landing(local: str) -> None:
    object_server.land(local, FILES)
    before = LocalStore(local, overwrite=True).manifest()
    assert before is not None
    assert {file.rows for file in before.files} == {-1}, "a run counts nothing"
    show(local)
    after = LocalStore(local, overwrite=True).manifest()
    assert after is not None
    rows = {"a/one.csv": 2, "a/two.csv": 1234, "other.tsv": 1, "notes.txt": -1}
    assert {file.path: file.rows for file in after.files} == rows
    plain = [replace(file, rows=-1, columns="") for file in after.files]
    assert replace(after, files=plain, columns={}) == before
    store = LocalStore(local, overwrite=True)
    kept = store.verify(after.files[0], content=False)
    assert kept is not None
    assert kept.rows == 2


def test_a_file_that_was_counted_is_not_read_again(
    local: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    object_server.land(local, FILES)
    show(local)
    counted: list[object] = []
    monkeypatch.setattr(duck, "count", lambda *about: counted.append(about))
    assert shown(local)["files"]["a/two.csv"]["rows"] == 1234
    assert counted == []


def test_a_file_that_was_edited_is_not_counted(local: str) -> None:
    object_server.land(local, FILES)
    Path(local, "a/two.csv").write_bytes(b"id,name,at\n")
    Path(local, "other.tsv").unlink()
    files = shown(local)["files"]
    for path in ("a/two.csv", "other.tsv"):
        assert files[path]["rows"] is None
        assert files[path]["error"] == "it was changed or removed after it landed"
    assert files["a/one.csv"]["rows"] == 2


def test_a_target_in_use_is_shown_and_its_manifest_left_alone(local: str) -> None:
    object_server.land(local, FILES)
    run = LocalStore(local, overwrite=True)
    run.lock(0)
    try:
        assert shown(local)["files"]["a/one.csv"]["rows"] == 2
        manifest = run.manifest()
        assert manifest is not None
        assert {file.rows for file in manifest.files} == {-1}
    finally:
        run.clean_up()


def test_a_parquet_file_larger_than_a_block_is_read_in_every_store(
    target: str, tmp_path: Path
) -> None:
    content = parquet(tmp_path, "SELECT random() AS r, md5(range::TEXT) AS t FROM range(60000)")
    assert len(content) > 2**20
    object_server.land(target, {"p.parquet": content})
    assert shown(target)["files"]["p.parquet"]["rows"] == 60000


# --- without DuckDB, and without a landing -----------------------------------------------------


def test_without_duckdb_the_manifest_is_shown_and_how_to_see_rows(
    target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    object_server.land(target, FILES)
    with monkeypatch.context() as without:
        without.setattr(duck, "installed", lambda: False)
        lines = text(target)
        assert "a/two.csv" in lines
        assert "DuckDB" in lines
        assert "make show TASK=1 ENV=dev EXTRAS=parquet" in " ".join(lines.split())
        data = shown(target)
        assert (data["has_duckdb"], data["first_rows"]) == (False, [])
        assert data["files"]["a/two.csv"]["rows"] is None
    show(target)
    monkeypatch.setattr(duck, "installed", lambda: False)
    if "://" not in target:  # whose manifest can be replaced
        assert shown(target)["files"]["a/two.csv"]["rows"] == 1234
        assert "3 columns: id BIGINT" in text(target)


def test_nothing_landed_is_an_error_that_says_what_to_do(target: str) -> None:
    with pytest.raises(LocalError, match=r"nothing has landed in .*: run the task: make run"):
        show(target)


@pytest.mark.parametrize("verb", ["show", "diff-data"])
def test_exit_codes_of_the_command_line(tmp_path: Path, verb: str) -> None:
    clone = Clone(tmp_path)
    done = clone.run(verb, "1", "--file-save-path=data/none")
    assert (done.returncode, done.stdout) == (8, "")
    assert done.stderr.startswith("lighterage: local disk: nothing has landed in data/none yet")
    done = clone.run(verb, "99")
    assert (done.returncode, done.stdout) == (2, "")
    done = clone.run(verb, "1", "--file-save-path=s4://bucket/x")
    assert done.returncode == 2
    assert "no store for s4://" in done.stderr


# --- the text ----------------------------------------------------------------------------------


def test_a_name_cannot_write_to_the_terminal(local: str) -> None:
    object_server.land(local, {"a\x1b[31m.csv": b"x\x1b]0;t\x07,y\n\x1b[2J,2\n"})
    lines = text(local)
    assert "\x1b" not in lines
    assert r"a\x1b[31m.csv" in lines


@pytest.mark.parametrize("width", [60, 80, 200])
def test_each_line_fits_the_terminal(local: str, width: int) -> None:
    names = ",".join(f"column {number}" for number in range(60))
    object_server.land(
        local,
        {"wide.csv": f"{names}\n{','.join(['値' * 30] * 60)}\n".encode(), **FILES},
    )
    for line in show(local).lines(width)[2:]:
        assert cell_width(line) <= width, line


def test_many_files_are_counted_and_not_all_listed(local: str) -> None:
    object_server.land(local, {f"{number:04}.csv": b"a,b\n1,2\n" for number in range(50)})
    lines = text(local)
    assert "0019.csv" in lines
    assert "0020.csv" not in lines
    assert "... and 30 more files; ARGS=--json lists all" in lines
    assert len(shown(local)["files"]) == 50


def test_a_cell_is_shortened_at_its_end_and_a_path_at_its_start() -> None:
    rows = [("path", "text"), ("folder/of/files/2026-01.csv", "one two three four five")]
    [_, line] = table(rows, 30, path=0)
    assert line.startswith("...")
    assert "2026-01.csv" in line
    assert line.endswith("...")


def test_columns_that_do_not_fit_are_counted() -> None:
    rows = [[f"name{n:02}" for n in range(20)], ["x" * 20] * 20]
    heading, line = table(rows, 50)
    assert heading.endswith("+16")
    assert len(line) <= 50


def test_the_output_survives_an_encoding_without_the_letters(tmp_path: Path) -> None:
    target = tmp_path / "data/events"
    object_server.land(str(target), {"größe.csv": "a,b\n値,1\n".encode()})
    clone = Clone(tmp_path / "clone")
    done = clone.run("show", "1", f"--file-save-path={target}", env={"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


def test_a_manifest_that_cannot_be_replaced_is_shown_all_the_same(local: str) -> None:
    object_server.land(local, FILES)
    Path(local, "foreign.txt").write_text("mine")
    assert shown(local)["files"]["a/one.csv"]["rows"] == 2
    manifest = open_store(local, overwrite=True).manifest()
    assert manifest is not None
    assert {file.rows for file in manifest.files} == {-1}
