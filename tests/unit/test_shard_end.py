"""The end of a shard: what it reads of the others, and whether it publishes."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shard_records import RecordedRun, failing
from tasks.fetch import sharded
from tasks.fetch.errors import LighterageError, NetworkError
from tasks.fetch.manifest import File
from tasks.fetch.report import Report
from tasks.fetch.shards.lease import Lease
from tasks.fetch.shards.status import RunStatus
from tasks.fetch.ssh.connection_limit import connection_slot
from tasks.fetch.staging import Staging
from tasks.fetch.stores import open_store
from tasks.fetch.stores.local import tree
from tasks.fetch.stores.local.shared import FolderRecords
from tasks.settings import Settings

CONTINUE = [("on_error", "continue")]
Fault = Callable[[str, str], str]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sharded, "START_SPREAD_S", 0)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def requests(
    target: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Counter[str]:
    """Give the requests so far: those of HTTP, and of a folder those for records."""
    counts: Counter[str] = Counter()
    if target.startswith("s3://"):

        def count(method: str, path: str) -> str:
            counts[f"{method} list" if "list-type" in path else method] += 1
            return ""

        request.getfixturevalue("relay")(count)
        return counts

    def counted(name: str) -> Callable[..., object]:
        method = getattr(FolderRecords, name)

        def call(*arguments: object) -> object:
            counts[name] += 1
            return method(*arguments)

        return call

    for name in ("create", "write", "remove", "read", "names"):
        monkeypatch.setattr(FolderRecords, name, counted(name))
    return counts


def published(target: str) -> set[str]:
    found = open_store(target, overwrite=True).manifest()
    return {file.path for file in found.files} if found else set()


# --- requests ----------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["lands", "fails", "has landed"])
def test_requests_of_a_shard_do_not_depend_on_the_number_of_shards(
    target: str, requests: Counter[str], end: str
) -> None:
    counts = {}
    for number, shards in enumerate((10, 100)):
        one = RecordedRun(f"{target}{number}", shards, options=CONTINUE)
        one.plan()
        one.land(*range(3, 7), *([2] if end == "has landed" else []))
        one.fail(8, 9)
        requests.clear()
        if end == "fails":
            with pytest.raises(NetworkError):
                one.execute(2, failing)
        else:
            note = one.execute(2).shard
            assert note
            assert (note.failed, note.waiting[:3]) == ([8, 9], [1, 7, 10])
        counts[shards] = dict(requests)
    assert counts[10] == counts[100]
    assert sum(counts[10].values()) <= 24, counts


def test_shard_reads_no_list_of_what_is_unchanged(
    target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RecordedRun(target, 2, files=3)
    run.plan(unchanged=10_000, removed=2, changed={"/d/1/2/2.csv", "/d/2/0/0.csv"})
    kind, counts = type(run.run.records), Counter[str]()
    read = kind.read

    def counted(records: Any, name: str) -> bytes | None:
        data = read(records, name)
        counts["bytes"] += len(data or b"")
        return data

    monkeypatch.setattr(kind, "read", counted)
    report = run.execute(1)
    assert 0 < counts["bytes"] < 10_000
    assert report.data()["remote_files"] == {
        "added": 2, "changed": 1, "removed": 2, "unchanged": 10_000,
    }  # fmt: skip


def test_publisher_reads_the_records_of_shards_at_once(
    target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RecordedRun(target, 8)
    run.plan()
    run.land(*range(1, 9))
    kind = type(run.run.records)
    read, together = kind.read, threading.Barrier(4)

    def read_together(records: Any, name: str) -> bytes | None:
        if name.startswith("shards/"):
            together.wait(60)  # of four: one after another, it would fail
        return read(records, name)

    monkeypatch.setattr(kind, "read", read_together)
    assert run.execute(1).status == "landed"
    assert len(published(target)) == 8


def test_publisher_states_the_times_that_shards_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And asks the file system for the time of no file: there may be 100,000."""
    run = RecordedRun(str(tmp_path / "data/events"), 3, files=4)
    run.plan()
    run.land(1, 2, 3)
    looked: list[File] = []
    facts_of = tree.facts_of

    def noted(folder: str, file: File) -> os.stat_result | None:
        looked.append(file)
        return facts_of(folder, file)

    monkeypatch.setattr(tree, "facts_of", noted)
    report = run.execute(1)
    assert looked == []
    files = report.manifest.files
    assert len(files) == 12
    for file in files:
        assert file.mtime_ns == (tmp_path / "data/events" / file.path).stat().st_mtime_ns
        assert not file.run


# --- failures ----------------------------------------------------------------------------------


def test_shard_that_failed_and_is_started_again_is_waited_for(target: str) -> None:
    run = RecordedRun(target, 2, options=CONTINUE)
    run.plan()
    with pytest.raises(NetworkError):
        run.execute(2, failing)
    assert run.run.failed_shards() == {2}
    assert RunStatus(target, "r1").state == "failed"

    def land_while_another_ends(_: Settings, staged: Staging) -> Report:
        assert run.run.failed_shards() == set()
        note = run.execute(1).shard
        assert note
        assert (note.waiting, note.failed, note.published) == ([2], [], False)
        assert published(target) == set()
        return run.stage(staged, 2)

    report = run.execute(2, land_while_another_ends)
    assert report.status == "landed"
    assert published(target) == {"1/0/0.csv", "2/0/0.csv"}


def test_copy_that_fails_beside_one_that_lands_counts_as_landed(target: str) -> None:
    run = RecordedRun(target, 3, options=CONTINUE)
    run.plan()
    run.fail(3)

    def fail_after_the_other(_: Settings, staged: Staging) -> Report:
        run.execute(2)
        raise NetworkError("no host")

    with pytest.raises(NetworkError):
        run.execute(2, fail_after_the_other)
    status = RunStatus(target, "r1")
    assert [shard.state for shard in status.shards] == ["waiting", "landed", "waiting"]
    assert status.state == "running"
    report = run.execute(1)
    assert (report.status, [one.path for one in report.failed]) == ("partial", ["shard 3"])
    assert published(target) == {"1/0/0.csv", "2/0/0.csv"}


def test_copy_that_lands_after_one_failed_is_published(target: str) -> None:
    run = RecordedRun(target, 2, options=CONTINUE)
    run.plan()

    def land_after_the_other(_: Settings, staged: Staging) -> Report:
        with pytest.raises(NetworkError):
            run.execute(2, failing)
        assert run.execute(1).status == "partial"
        return run.stage(staged, 2)

    assert run.execute(2, land_after_the_other).status == "landed"
    assert published(target) == {"1/0/0.csv", "2/0/0.csv"}
    assert RunStatus(target, "r1").state == "published"


@pytest.mark.parametrize("killed", ["set_failed", "clear_failed"])
def test_shard_that_is_killed_between_two_writes_is_started_again(
    target: str, monkeypatch: pytest.MonkeyPatch, killed: str
) -> None:
    run = RecordedRun(target, 2, options=CONTINUE)
    run.plan()
    if killed == "clear_failed":
        run.fail(2)

    def kill(*_: object) -> None:
        raise SystemExit(9)

    with monkeypatch.context() as patch:
        patch.setattr(run.run.__class__, killed, kill)
        with pytest.raises(SystemExit):
            run.execute(2, failing)
    run.execute(1)
    run.execute(2)
    assert published(target) == {"1/0/0.csv", "2/0/0.csv"}


# --- connections -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "error", "code"),
    [
        (1, "h: 1 connections of shards are open .*, 1 of them by this shard itself: set a", 2),
        (2, "h: 2 connections of shards are open .*, 1 of them by this shard itself: set a", 9),
    ],
)
def test_shard_does_not_wait_for_a_place_that_it_has(
    target: str, number: int, error: str, code: int
) -> None:
    run = RecordedRun(target, 2, options=[("max_connections", str(number))])
    run.plan()

    def connect_twice(settings: Settings, staged: Staging) -> Report:
        with connection_slot(settings), connection_slot(settings):
            raise AssertionError("there are no such places")

    others = [Lease(run.run.records, "host.h", number) for _ in range(number - 1)]
    assert all(lease.try_acquire() for lease in others)
    with pytest.raises(LighterageError, match=error) as raised:
        run.execute(1, connect_twice)
    assert raised.value.exit_code == code
    assert Lease(run.run.records, "host.h", number).try_acquire()  # its own is free again
