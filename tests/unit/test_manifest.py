"""The manifest: read back as written, and never mistaken for one where it is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tasks.fetch.manifest import NAME, File, Kept, Manifest, Source

MANIFEST = Manifest(
    task="2",
    variant="prod",
    host="me@host:22",
    remote_file_path="données/events.tar.gz",
    include="*.csv",
    exclude="",
    keep_archive=True,
    sources=[Source("données/events.tar.gz", 100, 1_767_225_600, "ab" * 32)],
    files=[File("2026/ä.csv", 3, "cd" * 32, "données/events.tar.gz")],
    archives=[File("events.tar.gz", 100, "ab" * 32, "données/events.tar.gz")],
    skipped=2,
    started="2026-01-01T00:00:00+00:00",
    finished="2026-01-01T00:00:09+00:00",
)


def written(folder: Path, **changes: Any) -> dict[str, Any]:
    """Write the manifest, and give what the file holds with some keys changed."""
    MANIFEST.write(folder)
    data: dict[str, Any] = json.loads((folder / NAME).read_text(encoding="utf-8"))
    return {**data, **changes}


def test_manifest_comes_back_as_it_was_written(tmp_path: Path) -> None:
    MANIFEST.write(tmp_path)
    assert Manifest.read(tmp_path) == MANIFEST


def test_manifest_is_json_that_people_can_read(tmp_path: Path) -> None:
    """One key a line, names as they are; source, size, mtime and sha256 of each file."""
    data = written(tmp_path)
    assert "données" in (tmp_path / NAME).read_text(encoding="utf-8")
    assert data["sources"][0] == {
        "path": "données/events.tar.gz",
        "size": 100,
        "mtime": 1_767_225_600,
        "sha256": "ab" * 32,
        "verified": "size",
    }
    assert data["files"][0]["sha256"] == "cd" * 32


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "7",
        '"lighterage/1"',
        "{}",
        '{"schema": "lighterage/1"}',
        '{"schema": "lighterage/2"}',
        '{"manifest_version": 3, "name": "a browser\'s"}',
        "\ufeff{}",
        "[" * 100_000,
    ],
    ids=lambda text: text[:20] or "empty",
)
def test_foreign_json_is_no_manifest(text: str, tmp_path: Path) -> None:
    (tmp_path / NAME).write_text(text, encoding="utf-8")
    assert Manifest.read(tmp_path) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": "lighterage/2"},
        {"more": 1},
        {"task": 2},
        {"files": {"a.csv": 3}},
        {"files": None},
        {"files": ["a.csv"]},
        {"files": [{"path": "a.csv"}]},
        {"files": [{"path": 5, "size": 3, "sha256": "", "source": ""}]},
        {"files": [{"path": None, "size": 3, "sha256": "", "source": ""}]},
        {"files": [{"path": "a.csv", "size": "3", "sha256": "", "source": ""}]},
        {"archives": [{"path": ["a"], "size": 3, "sha256": "", "source": ""}]},
        {"sources": [{"path": "a", "size": 3, "mtime": None, "sha256": ""}]},
    ],
    ids=str,
)
def test_tampered_manifest_is_none(changes: dict[str, Any], tmp_path: Path) -> None:
    """A folder whose manifest is not as written is not the project's own: it is not replaced."""
    (tmp_path / NAME).write_text(json.dumps(written(tmp_path, **changes)), encoding="utf-8")
    assert Manifest.read(tmp_path) is None


def test_bytes_that_are_no_text_are_no_manifest(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b"\xff\xfe\0")
    assert Manifest.read(tmp_path) is None


def test_no_file_or_a_folder_in_its_place_is_no_manifest(tmp_path: Path) -> None:
    assert Manifest.read(tmp_path) is None
    (tmp_path / NAME).mkdir()
    assert Manifest.read(tmp_path) is None


def test_each_source_has_what_came_from_it() -> None:
    assert MANIFEST.by_source() == {
        "données/events.tar.gz": Kept(MANIFEST.sources[0], MANIFEST.files, MANIFEST.archives)
    }


def test_a_file_of_no_source_makes_it_no_manifest(tmp_path: Path) -> None:
    data = written(tmp_path)
    data["files"][0]["source"] = "another.zip"
    (tmp_path / NAME).write_text(json.dumps(data), encoding="utf-8")
    assert Manifest.read(tmp_path) is None


def test_paths_are_all_files_of_the_folder() -> None:
    names = {"2026/ä.csv", "events.tar.gz", "manifest.json"}
    assert MANIFEST.paths() == names
