"""Prune: what it deletes from an object store, and what it never does."""

from __future__ import annotations

import json

import pytest
from msgspec.structs import replace

import object_server
from landed import NEW, OLD, SAME, Tree, stage
from object_server import land
from tasks.__main__ import main
from tasks.fetch.errors import LighterageError, NetworkError, StoreError
from tasks.fetch.staging import staging
from tasks.fetch.stores import open_store
from tasks.fetch.stores.objects import prune as prune_module
from tasks.fetch.stores.objects import store as store_module
from tasks.fetch.stores.objects.bucket import Bucket
from tasks.fetch.stores.protocol import Pruned

pytestmark = pytest.mark.usefixtures("object_store")

NEWEST: Tree = {"a.csv": b"newest\n", SAME: b"same\n"}
ORPHAN = "data/events/objects/0123456789abcdef/d/x.csv"
FOREIGN = ("data/events/objects/readme.txt", "data/events/manifests/notes.json", "data/other/x")


def prune(url: str, *, keep_runs: int = 0, min_age_s: float = 0, dry_run: bool = False) -> Pruned:
    store = open_store(url, overwrite=False)
    return store.prune(keep_runs=keep_runs, min_age_s=min_age_s, dry_run=dry_run)


def runs(bucket: str) -> set[str]:
    """Name the runs whose manifest exists."""
    keys = object_server.objects(bucket)
    return {key.rpartition("/")[2].removesuffix(".json") for key in keys if "/manifests/" in key}


@pytest.fixture
def three(url: str, bucket: str) -> list[str]:
    """Land three versions, of which the last one uses a file of the first; name the runs."""
    found: list[str] = []
    for files in (OLD, NEW, NEWEST):
        land(url, files)
        found += runs(bucket) - set(found)
    return found


@pytest.mark.parametrize("keep_runs", [0, 1, 2, 3])
def test_published_data_and_the_newest_runs_stay(
    url: str, bucket: str, three: list[str], keep_runs: int
) -> None:
    before = object_server.objects(bucket)
    manifests = {run: json.loads(before[f"data/events/manifests/{run}.json"]) for run in three}
    planned = prune(url, keep_runs=keep_runs, dry_run=True)
    assert object_server.objects(bucket) == before
    assert prune(url, keep_runs=keep_runs) == planned
    after = object_server.objects(bucket)
    gone = {key: before[key] for key in before.keys() - after.keys()}
    assert (planned.objects, planned.size) == (len(gone), sum(map(len, gone.values())))
    kept = three[-1 - keep_runs :]
    assert runs(bucket) == set(kept)
    needed = {
        f"data/events/objects/{file['run']}/{file['path']}"
        for run in kept
        for file in manifests[run]["files"] + manifests[run]["archives"]
    }
    assert {key for key in after if "/objects/" in key} == needed
    assert object_server.published(url) == NEWEST
    assert prune(url, keep_runs=keep_runs) == Pruned(), "a second time there is nothing"
    land(url, NEWEST)
    assert object_server.published(url) == NEWEST


def test_what_was_written_of_late_stays(url: str, bucket: str, three: list[str]) -> None:
    object_server.write(bucket, {ORPHAN: b"of a run in progress"})
    before = object_server.objects(bucket)
    assert prune(url, min_age_s=3600) == Pruned()
    assert object_server.objects(bucket) == before


def test_objects_of_a_killed_run_are_deleted_and_foreign_ones_are_not(
    url: str, bucket: str
) -> None:
    land(url, OLD)
    published = object_server.objects(bucket)
    foreign = dict.fromkeys(FOREIGN, b"mine")
    object_server.write(bucket, {ORPHAN: b"orphan", **foreign})
    assert prune(url) == Pruned(1, 1, len(b"orphan"))
    assert object_server.objects(bucket) == {**published, **foreign}


def test_nothing_is_deleted_where_nothing_is_published(url: str, bucket: str) -> None:
    object_server.write(bucket, {ORPHAN: b"orphan"})
    with pytest.raises(StoreError, match="nothing is published"):
        prune(url)
    assert object_server.objects(bucket) == {ORPHAN: b"orphan"}


def test_manifest_that_cannot_be_read_ends_it(url: str, bucket: str, three: list[str]) -> None:
    object_server.write(bucket, {f"data/events/manifests/{three[1]}.json": b"{"})
    before = object_server.objects(bucket)
    with pytest.raises(StoreError, match="cannot be read"):
        prune(url, keep_runs=1)
    assert object_server.objects(bucket) == before


def test_run_that_publishes_at_the_same_time_ends_it(
    url: str, three: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prune_module, "DELETED_AT_ONCE", 1)
    delete = Bucket.delete

    def publish_first(self: Bucket, keys: list[str]) -> None:
        monkeypatch.setattr(Bucket, "delete", delete)
        delete(self, keys)
        land(url, NEW)

    monkeypatch.setattr(Bucket, "delete", publish_first)
    with pytest.raises(StoreError, match="another run has published"):
        prune(url)
    assert object_server.published(url) == NEW


def test_prune_that_is_killed_at_any_deletion_loses_nothing(
    url: str, bucket: str, three: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prune_module, "DELETED_AT_ONCE", 1)
    delete, left = Bucket.delete, 0

    def cut(self: Bucket, keys: list[str]) -> None:
        nonlocal left
        if not left:
            raise NetworkError("cut")
        left -= 1
        delete(self, keys)

    monkeypatch.setattr(Bucket, "delete", cut)
    count = prune(url, dry_run=True).objects
    assert count > 3
    for number in range(count):
        left = number % 2  # none, one, none, ...
        try:
            prune(url)
        except LighterageError:
            assert object_server.published(url) == NEWEST
            for run in runs(bucket):  # each manifest that is left has all of its files
                manifest = object_server.objects(bucket)[f"data/events/manifests/{run}.json"]
                files = json.loads(manifest)["files"]
                keys = {f"data/events/objects/{file['run']}/{file['path']}" for file in files}
                assert keys <= object_server.objects(bucket).keys()
    left = count
    prune(url)
    assert runs(bucket) == {three[-1]}


def test_long_run_whose_objects_were_deleted_publishes_nothing(
    url: str, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "LONG_RUN_S", 0)
    land(url, OLD)
    entries = Bucket.entries

    def pruned(self: Bucket, folder: str) -> object:
        if folder.startswith("objects/") and runs(bucket):
            monkeypatch.setattr(Bucket, "entries", entries)
            prune(url)
        return entries(self, folder)

    monkeypatch.setattr(Bucket, "entries", pruned)
    with pytest.raises(StoreError, match="was deleted during the run"):
        land(url, {"new.csv": b"new"})
    assert object_server.published(url) == OLD


def test_long_run_that_dropped_a_file_publishes(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "LONG_RUN_S", 0)
    store = open_store(url, overwrite=True)
    with staging(store) as staged:
        manifest = stage(store, staged, {"a.csv": b"a"})
        staged.write("broken.csv", [b"half"], "another source")
        staged.drop("another source")
        staged.publish(replace(manifest, files=staged.finish()))
    assert object_server.published(url) == {"a.csv": b"a"}


@pytest.mark.parametrize("words", [["2", "prune"], ["prune", "2"]])
@pytest.mark.parametrize("dry_run", [True, False])
def test_prune_is_a_verb_of_a_task(
    url: str, bucket: str, three: list[str], words: list[str], dry_run: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    before = object_server.objects(bucket)
    options = [f"--file-save-path={url}", "--keep-runs=0", *(["--dry-run"] if dry_run else [])]
    assert main([*words, *options]) == 0
    verb = "would delete 0 objects" if dry_run else "deleted 0 objects"
    assert f"{verb} of 0 earlier runs" in capsys.readouterr().out, "min_age is a day"
    assert main([*words, *options, "--json"]) == 0
    status = "planned" if dry_run else "pruned"
    assert json.loads(capsys.readouterr().out) == {
        "status": status, "runs": 0, "objects": 0, "bytes": 0,
    }  # fmt: skip
    assert object_server.objects(bucket) == before
    assert main([*words, *options, "--min-age=59m"]) == 2
    assert "min_age is '59m': expected a time" in capsys.readouterr().err
