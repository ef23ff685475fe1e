"""What the shards of a run agree on, in each store that they can share."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path

import pytest

import object_server
from landed import OLD, stage
from tasks.fetch.errors import ConfigError, LocalError
from tasks.fetch.shards import lease as lease_module
from tasks.fetch.shards.lease import Lease
from tasks.fetch.staging import staging
from tasks.fetch.stores import SHARED, STORES, open_run, open_store
from tasks.fetch.stores.objects.bucket import Bucket
from tasks.fetch.stores.shared import Records, SharedRun


@pytest.fixture
def shared(target: str) -> SharedRun:
    return open_run(target, "r1", overwrite=True)


@pytest.fixture
def records(shared: SharedRun) -> Records:
    return shared.records


# --- records -----------------------------------------------------------------------------------


def test_first_that_creates_a_record_wins(records: Records) -> None:
    assert records.read("plan.json") is None
    assert records.create("plan.json", b"one") == b"one"
    assert records.create("plan.json", b"two") == b"one"
    assert records.read("plan.json") == b"one"


def test_one_of_many_that_create_a_record_at_once_wins(target: str) -> None:
    start = threading.Barrier(4)

    def create(number: int) -> list[bytes]:
        records = open_run(target, "r1", overwrite=True).records
        found = []
        for row in range(10):
            start.wait(60)
            found.append(records.create(f"shards/{row}.json", b"%d" % number * 1000))
        return found

    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(create, range(4)))
    assert found == [found[0]] * 4


def test_record_may_be_replaced(records: Records) -> None:
    records.write("progress/1.json", b"one")
    records.write("progress/1.json", b"two")
    assert records.read("progress/1.json") == b"two"


def test_record_may_be_removed(records: Records) -> None:
    records.write("failed/1.json", b"one")
    records.write("failed/2.json", b"two")
    for _ in range(2):  # one that is not there is no error
        records.remove("failed/1.json")
    assert (records.read("failed/1.json"), records.names("failed")) == (None, ["failed/2.json"])
    assert records.create("failed/1.json", b"new") == b"new"


def test_names_are_those_of_a_folder(records: Records, target: str) -> None:
    assert records.names("shards") == []
    for name in ("shards/2.json", "shards/10.json", "progress/1.json"):
        records.create(name, b"")
    open_run(target, "r10", overwrite=True).records.create("shards/3.json", b"")
    assert records.names("shards") == ["shards/10.json", "shards/2.json"]


def test_create_counts_where_nfs_lost_the_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = os.link

    def link_twice(old: Path, new: Path) -> None:
        link(old, new)
        link(old, new)

    monkeypatch.setattr(os, "link", link_twice)
    records = open_run(str(tmp_path / "data"), "r1", overwrite=True).records
    assert records.create("plan.json", b"one") == b"one"


def test_folder_without_hard_links_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(*_: object) -> None:
        raise OSError(errno.EPERM, "not permitted")

    monkeypatch.setattr(os, "link", link)
    records = open_run(str(tmp_path / "data"), "r1", overwrite=True).records
    with pytest.raises(LocalError, match="has no hard links, which shards need"):
        records.create("plan.json", b"")
    assert records.names("") == []


def test_store_that_shards_cannot_share_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STORES, "zip", "zip_store:ZipStore")
    assert "zip" not in SHARED
    with pytest.raises(ConfigError, match="zip://x: shards cannot share it"):
        open_run("zip://x", "r1", overwrite=True)


# --- parts -------------------------------------------------------------------------------------


def publish(shared: SharedRun, files: dict[str, bytes], *, lose: bool = False) -> list[str]:
    """Land files as a part, and publish it; return the attempts."""
    part = shared.part()
    with staging(part) as staged:
        manifest = staged.publish(stage(part, staged, files))
        if lose:
            part.discard()
    target = shared.target()
    with staging(target) as staged:
        staged.begin()
        for file in [] if lose else manifest.all_files():
            target.keep(file)
        if not lose:
            staged.publish(manifest)
    return [file.run for file in manifest.files]


def test_part_is_published_by_the_target(shared: SharedRun, target: str) -> None:
    attempts = publish(shared, OLD)
    assert set(map(len, attempts)) == {16}
    found = open_store(target, overwrite=True).manifest()
    assert found
    assert {file.path for file in found.all_files()} == OLD.keys()


def test_part_that_was_second_is_removed(shared: SharedRun, target: str, tmp_path: Path) -> None:
    publish(shared, OLD, lose=True)
    if target.startswith("s3://"):
        assert object_server.objects(target.split("/")[2]) == {}
    else:
        assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_folder_is_published_where_there_are_no_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def flock(*_: object) -> None:
        raise OSError(number, "no locks")

    monkeypatch.setattr(fcntl, "flock", flock)
    target = str(tmp_path / "data/events")
    publish(open_run(target, "r1", overwrite=True), OLD)
    with pytest.raises(LocalError, match="no locks"):
        open_store(target, overwrite=True).lock(0)


# --- leases ------------------------------------------------------------------------------------


@pytest.fixture
def expire(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Give a way to let the time of a lease pass, on the clock of those that wait."""
    offset = 0.0
    monotonic = time.monotonic

    def pass_by() -> None:
        nonlocal offset
        offset += lease_module.EXPIRY_S + 1

    monkeypatch.setattr(time, "monotonic", lambda: monotonic() + offset)
    return pass_by


def test_lease_has_as_many_places_as_it_says(records: Records) -> None:
    leases = [Lease(records, "host.a:22", 2) for _ in range(3)]
    assert [lease.try_acquire() for lease in leases] == [True, True, False]
    assert Lease(records, "host.b:22", 2).try_acquire()
    with leases[0].held():
        assert not leases[2].try_acquire()
    assert leases[2].try_acquire()


def test_lease_of_a_dead_shard_expires(records: Records, expire: Callable[[], None]) -> None:
    assert Lease(records, "planner").try_acquire()
    waiting = Lease(records, "planner")
    assert not waiting.try_acquire()  # it has seen it once
    expire()
    assert waiting.try_acquire()
    assert not Lease(records, "planner").try_acquire()


def test_lease_that_is_renewed_does_not_expire(
    records: Records, expire: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "RENEW_S", 0.01)
    holder, waiting = Lease(records, "planner"), Lease(records, "planner")
    assert holder.try_acquire()
    with holder.held():
        for _ in range(3):
            assert not waiting.try_acquire()
            before = records.read("leases/planner/1.1")  # as it was seen, or later
            while records.read("leases/planner/1.1") == before:
                time.sleep(0.01)
            expire()


def test_one_of_many_takes_a_place(target: str) -> None:
    def acquire(_: int) -> bool:
        return Lease(open_run(target, "r1", overwrite=True).records, "planner").try_acquire()

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(acquire, range(8))) == 1


def test_each_place_keeps_one_record(records: Records) -> None:
    """However often it is taken: also one of a holder that died or paused."""
    for _ in range(5):
        lease = Lease(records, "host.a:22", 2)
        assert lease.try_acquire()
        with lease.held():
            pass
    taken = [Lease(records, "host.a:22", 2) for _ in range(2)]
    assert [lease.try_acquire() for lease in taken] == [True, True]
    with taken[0].held(), taken[1].held():
        places = [
            name.rpartition("/")[2].split(".")[0] for name in records.names("leases/host.a_22")
        ]
        assert places == ["1", "2"]


def test_shard_that_paused_does_not_take_a_place_that_others_took_since(
    records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, other, paused = (Lease(records, "planner") for _ in range(3))
    assert first.try_acquire()
    with first.held():
        pass
    create = type(records).create

    def create_later(self: Records, name: str, data: bytes) -> bytes:
        monkeypatch.setattr(type(records), "create", create)
        for _ in range(2):  # the generation that it is about to create is taken, and removed
            assert other.try_acquire()
            with other.held():
                pass
        assert other.try_acquire()
        assert records.read(name) is None
        return create(self, name, data)

    monkeypatch.setattr(type(records), "create", create_later)
    assert not paused.try_acquire()
    with other.held():
        assert not paused.try_acquire()
    assert paused.try_acquire()


def test_places_that_are_taken_again_and_again_have_one_holder_each(target: str) -> None:
    lock, holders, most = threading.Lock(), 0, 0

    def work(_: int) -> int:
        nonlocal holders, most
        taken = 0
        while taken < 6:
            lease = Lease(open_run(target, "r1", overwrite=True).records, "host.a", 2)
            while not lease.try_acquire():
                time.sleep(0.001)
            with lock:
                holders += 1
                most = max(most, holders)
            time.sleep(0.001)
            with lock:
                holders -= 1
            with lease.held():
                taken += 1
        return taken

    with ThreadPoolExecutor(5) as threads:
        assert sum(threads.map(work, range(5))) == 30
    assert most <= 2
    assert len(open_run(target, "r1", overwrite=True).records.names("leases/host.a")) <= 2


# --- prune -------------------------------------------------------------------------------------


def test_prune_of_a_folder_removes_old_runs(tmp_path: Path) -> None:
    target = str(tmp_path / "data/events")
    for run in ("old", "new"):
        shared = open_run(target, run, overwrite=True)
        shared.records.create("plan.json", b"12345")
    old = tmp_path / "data/.events.runs/old"
    for path in [*old.iterdir(), old]:
        os.utime(path, (0, 0))
    store = open_store(target, overwrite=True)
    for dry_run in (True, False):
        assert store.prune(keep_runs=1, min_age_s=3600, dry_run=dry_run) == (1, 1, 5)
        assert old.exists() == dry_run
    assert (tmp_path / "data/.events.runs/new/plan.json").exists()


def test_prune_of_a_bucket_leaves_a_run_in_progress(
    url: str, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    object_server.land(url, OLD)
    attempts = []
    for run in ("old", "new"):
        shared = open_run(url, run, overwrite=True)
        part = shared.part()
        with staging(part) as staged:
            staged.publish(stage(part, staged, {f"{run}.csv": b"1"}))
            attempts.append(staged.run)
        shared.records.write("progress/1.json", b'{"attempt": "%s"}' % staged.run.encode())
    entries = Bucket.entries

    def aged(self: Bucket, folder: str) -> Iterator[tuple[str, int, datetime]]:
        for key, size, modified in entries(self, folder):
            is_new = key.startswith("runs/new/")
            yield key, size, modified if is_new else modified - timedelta(days=2)

    monkeypatch.setattr(Bucket, "entries", aged)
    store = open_store(url, overwrite=True)
    assert store.prune(keep_runs=1, min_age_s=86400, dry_run=False).objects == 2
    keys = {key.removeprefix("data/events/") for key in object_server.objects(bucket)}
    assert f"objects/{attempts[1]}/new.csv" in keys
    assert not {key for key in keys if attempts[0] in key or key.startswith("runs/old")}
    assert object_server.published(url) == OLD
