"""Programs that read what landed, by the code of docs/object-stores.md."""

from __future__ import annotations

from pathlib import Path

import pytest

import landed
import object_server
from landed import Tree
from recipes import recipe, run

PAGE = "object-stores.md"
FIRST: Tree = {"2026/a b.csv": b"id,x\n1,old\n", landed.SAME: b"id,x\n3,same\n"}
SECOND: Tree = {"2026/a b.csv": b"id,x\n2,new\n", landed.SAME: b"id,x\n3,same\n"}
READERS = {
    "duckdb": "events.fetchall()",
    "pandas": "events.itertuples(index=False, name=None)",
    "polars": "events.rows()",
}


def rows(reader: str, paths: str, folder: Path, env: dict[str, str], *changes: str) -> str:
    """Return what a reader reads, without the lines of its recipe that are for other places."""
    read = recipe("python", f"import {reader}", page=PAGE)
    lines = [line for line in read.splitlines() if not any(part in line for part in changes)]
    script = "\n".join([paths, *lines, f"print(sorted(map(tuple, {READERS[reader]})))"])
    return run("readers", folder, script, env).splitlines()[-1]


@pytest.mark.parametrize("reader", READERS)
def test_reader_finds_the_published_files_of_a_bucket(
    reader: str, bucket: str, object_store: str, tmp_path: Path
) -> None:
    url = f"s3://{bucket}/data/events"
    for files in (FIRST, SECOND):
        object_server.land(url, files)
    paths = recipe(
        "python", "latest.json", ("bucket/events", f"{bucket}/data/events"), page=PAGE
    )  # fmt: skip
    env = object_server.variables(object_store)
    assert rows(reader, paths, tmp_path, env) == "[(2, 'new'), (3, 'same')]"


@pytest.mark.parametrize("reader", READERS)
def test_reader_finds_the_published_files_of_a_folder(reader: str, tmp_path: Path) -> None:
    for files in (FIRST, SECOND):
        landed.land(tmp_path / "data/task_2/events", files)
    paths = recipe("python", "manifest.json", page=PAGE)
    found = rows(reader, paths, tmp_path, {}, "only for a bucket")
    assert found == "[(2, 'new'), (3, 'same')]"
