"""Published files that somebody edited are fetched again; those that were touched only are not.

No manifest states a checksum that is not the one of the file.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from landed import locked
from tasks.fetch.errors import LocalError
from tasks.fetch.manifest import NAME, File, Manifest, Source
from tasks.fetch.staging import Staging
from tasks.fetch.stores.local import tree as trees
from tasks.fetch.stores.local import verify


def is_true(folder: Path) -> bool:
    """Whether each checksum of a manifest is that of the file."""
    files: list[dict[str, Any]] = json.loads((folder / NAME).read_text())["files"]
    return all(
        hashlib.sha256((folder / file["path"]).read_bytes()).hexdigest() == file["sha256"]
        for file in files
    )


# --- edits during a run ----------------------------------------------------------------------

FILES = {"a.csv": b"aaaa", "d/b.csv": b"bbbb"}


def manifest(staged: Staging) -> Manifest:
    return Manifest(
        "1", "dev", "me@host:22", "x.zip", "*.csv", "", keep_archive=False,
        sources=[Source("x.zip", 9, 0, "")], files=staged.finish(),
    )  # fmt: skip


def published(folder: Path) -> Manifest:
    found = trees.read_manifest(folder)
    assert found is not None
    return found


@pytest.fixture
def landed(tmp_path: Path) -> Path:
    target = tmp_path / "data/events"
    with locked(target) as (_, staged):
        staged.begin()
        for name, content in FILES.items():
            staged.write(name, [content], "x.zip")
        staged.publish(manifest(staged))
    return target


def no_links(*_: object, **__: object) -> None:
    raise OSError(95, "no hard links")


@pytest.mark.parametrize("link", [os.link, no_links])
def test_file_edited_after_it_was_verified_is_not_published(
    landed: Path, link: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run fails, and is tried again: a hard link to an edited file is an edited file."""
    monkeypatch.setattr(os, "link", link)
    before = (landed / NAME).read_bytes()
    with locked(landed) as (store, staged):
        old = published(landed).by_source()["x.zip"]
        assert all(store.verify(file, False) for file in old.files)
        staged.begin()
        if link is no_links:
            (landed / "a.csv").write_bytes(b"AAAA")
        staged.keep(old)
        if link is not no_links:
            (landed / "a.csv").write_bytes(b"AAAA")
        with pytest.raises(LocalError, match=r"a\.csv") as caught:
            staged.publish(manifest(staged))
    assert caught.value.transient
    assert (landed / NAME).read_bytes() == before


@pytest.mark.parametrize("link", [os.link, no_links])
def test_manifest_states_the_time_of_a_kept_file(
    landed: Path, link: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", link)
    with locked(landed) as (_, staged):
        staged.begin()
        staged.keep(published(landed).by_source()["x.zip"])
        staged.publish(manifest(staged))
    assert [file.mtime_ns for file in published(landed).files] == [
        (landed / file.path).stat().st_mtime_ns for file in published(landed).files
    ]
    assert is_true(landed)


@pytest.mark.parametrize("age_ns", [0, 10**9])
def test_recent_time_in_whole_seconds_is_not_trusted(landed: Path, age_ns: int) -> None:
    """If the file system stores seconds, an edit may leave the time as it was."""
    now = time.time_ns() // 10**9 * 10**9
    file = File("a.csv", 4, hashlib.sha256(b"aaaa").hexdigest(), "x.zip", now - age_ns)
    before = published(landed)
    [found] = verify.with_reliable_times(replace(before, files=[file])).files
    assert found.mtime_ns == 0
    old = replace(file, mtime_ns=now - 10**10)
    assert verify.with_reliable_times(replace(before, files=[old])).files == [old]


def test_manifest_is_not_written_again_for_a_time_in_the_future(landed: Path) -> None:
    os.utime(landed / "a.csv", (2**33, 2**33))
    inodes = []
    for _ in range(2):
        with locked(landed) as (store, _):
            found = published(landed)
            files = [store.verify(file, False) for file in found.files]
            assert all(files)
            store.update_manifest(replace(found, files=[file for file in files if file]))
        inodes.append((landed / NAME).stat().st_ino)
        assert published(landed).files[0].mtime_ns == 0
    assert inodes[0] == inodes[1]
