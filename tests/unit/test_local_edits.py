"""Published files that somebody edited are fetched again; those that were touched only are not.

No manifest states a checksum that is not the one of the file.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

import sshd
from client import CSVS, Client, tree, write_datasets
from landed import locked
from sshd import Sshd
from tasks.fetch.errors import LocalError
from tasks.fetch.manifest import NAME, File, Manifest, Source
from tasks.fetch.staging import Staging
from tasks.fetch.stores.local import tree as trees
from tasks.fetch.stores.local import verify


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """Give a real OpenSSH server with a tree of CSVs and zips."""
    sshd.need_sshd()
    server = Sshd(tmp_path_factory.mktemp("sshd"))
    write_datasets(server.home)
    with server.running():
        yield server


def is_true(folder: Path) -> bool:
    """Whether each checksum of a manifest is that of the file."""
    files: list[dict[str, Any]] = json.loads((folder / NAME).read_text())["files"]
    return all(
        hashlib.sha256((folder / file["path"]).read_bytes()).hexdigest() == file["sha256"]
        for file in files
    )


@pytest.mark.sshd
@pytest.mark.parametrize("old_manifest", [False, True])
def test_a_file_edited_in_place_is_fetched_again(
    server: Sshd, tmp_path: Path, old_manifest: bool
) -> None:
    """Of the same size; also with a manifest of an earlier version, without times."""
    client = Client(tmp_path, server)
    assert client.run("3", "tree").code == 0
    whole = tree(client.target)
    if old_manifest:
        path = client.target / NAME
        data = json.loads(path.read_text())
        for file in data["files"]:
            del file["mtime_ns"]
        path.write_text(json.dumps(data))
    edited = client.target / "plain/2026/feb/02.CSV"
    with edited.open("r+b") as file:
        file.write(b"DATE")
    (server.home / "tree/plain/empty.csv").write_bytes(b"so that something else has changed\n")
    done = client.run("3", "tree", "--json")
    assert done.data()["remote_files"]["changed"] == 2
    assert tree(client.target) == {
        **whole,
        "plain/empty.csv": b"so that something else has changed\n",
    }
    assert is_true(client.target)
    (server.home / "tree/plain/empty.csv").write_bytes(CSVS["empty.csv"])


@pytest.mark.sshd
def test_a_file_that_was_only_touched_is_not_fetched_again(server: Sshd, tmp_path: Path) -> None:
    """Nor compared in each later run: its new time is noted."""
    client = Client(tmp_path, server)
    assert client.run("3", "tree").code == 0
    before = json.loads((client.target / NAME).read_text())
    touched = client.target / "plain/2026/feb/02.CSV"
    os.utime(touched, (1000, 1000))
    assert client.run("3", "tree", "--json").data()["status"] == "unchanged"
    [file] = [file for file in before["files"] if file["path"] == "plain/2026/feb/02.CSV"]
    file["mtime_ns"] = 1000 * 10**9
    assert json.loads((client.target / NAME).read_text()) == before
    assert {path.name for path in client.target.parent.iterdir()} == {"data"}


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
