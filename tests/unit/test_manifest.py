"""The manifest: decoded as encoded, and no other JSON is taken for one."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec.structs import replace

from tasks.fetch.manifest import File, Manifest, Published, Source

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


TEXT = b"".join(MANIFEST.encoded()).decode()


def changed(**changes: Any) -> bytes:
    """Return the manifest with some keys changed, or removed where they are None."""
    data = {**json.loads(TEXT), **changes}
    return json.dumps({key: value for key, value in data.items() if value is not ...}).encode()


def test_decoded_manifest_equals_the_encoded_one() -> None:
    assert Manifest.decode(TEXT.encode()) == MANIFEST


def test_manifest_of_an_earlier_version_is_readable() -> None:
    """Fields that were added since are missing."""
    files = [{k: v for k, v in f.items() if k != "mtime_ns"} for f in json.loads(TEXT)["files"]]
    sources = [{k: v for k, v in s.items() if k != "verified"} for s in json.loads(TEXT)["sources"]]
    data = changed(files=files, sources=sources, skipped=..., started=..., finished=...)
    assert Manifest.decode(data) == replace(MANIFEST, skipped=0, started="", finished="")


def test_manifest_is_json_that_people_can_read() -> None:
    """One line for each file; names are not escaped."""
    data = json.loads(TEXT)
    assert "données" in TEXT
    assert TEXT.count("\n") == 24
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
        b"", b"{", b"[]", b"null", b"7", b'"lighterage/1"', b"{}", b'{"schema": "lighterage/1"}',
        b'{"schema": "lighterage/2"}', b'{"manifest_version": 3, "name": "a browser\'s"}',
        "\ufeff{}".encode(), b"[" * 100_000, b"\xff\xfe\0", TEXT.encode("latin-1"),
    ],
    ids=lambda text: text[:20] or "empty",
)  # fmt: skip
def test_foreign_bytes_are_not_a_manifest(text: bytes) -> None:
    assert Manifest.decode(text) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": "lighterage/2"},
        {"schema": ...},
        {"task": ...},
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
def test_invalid_manifest_is_rejected(changes: dict[str, Any]) -> None:
    """A target with an invalid manifest counts as foreign: it is not replaced."""
    assert Manifest.decode(changed(**changes)) is None


@pytest.mark.parametrize("change", [
    *({"path": path} for path in ["../a", "/a", "a//b", "a/./b", "a\0", "manifest.json", ""]),
    {"source": "another.zip"},
], ids=str)  # fmt: skip
def test_manifest_with_an_unsafe_path_or_a_file_of_no_source_is_rejected(
    change: dict[str, str],
) -> None:
    files = [{**file, **change} for file in json.loads(TEXT)["files"]]
    assert Manifest.decode(changed(files=files)) is None


def test_each_source_has_the_files_that_came_from_it() -> None:
    assert MANIFEST.by_source() == {
        "données/events.tar.gz": Published(MANIFEST.sources[0], MANIFEST.files, MANIFEST.archives)
    }


def test_paths_are_all_files_of_the_target() -> None:
    assert MANIFEST.paths() == {"2026/ä.csv", "events.tar.gz", "manifest.json"}
