"""The plain copy of an object store (`publish_layout: plain`)."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import asyncssh
import pytest

import hosts
import object_server
from client import CSVS, write_datasets
from landed import NEW, OLD, SAME, Tree, stage
from results import valid
from steps import Steps
from tasks import task_1
from tasks.__main__ import main
from tasks.fetch.api import execute
from tasks.fetch.errors import ConfigError, NetworkError, StoreError
from tasks.fetch.shards.names import Hosts
from tasks.fetch.staging import staging
from tasks.fetch.stores import open_store
from tasks.fetch.stores.objects import plain as plain_module
from tasks.setting_types import StringList
from tasks.settings import Settings

pytestmark = pytest.mark.usefixtures("object_store")

Relay = Callable[[Callable[[str, str], str]], None]
NEWEST: Tree = {"a.csv": b"top\n", "f/d.csv": b"top\n", SAME: b"same\n"}
OWN_KEYS: Tree = dict.fromkeys(
    ("latest.json", "objects/x", "manifests/y.json", "plain/z", "d/manifest.json"), b"data"
)
PLAIN = "data/events/plain/"


def publish(url: str, files: Tree) -> Any:
    """Publish files, and return their store, whose plain copy is what it was before."""
    store = open_store(url, overwrite=True, layout="plain")
    with staging(store) as staged:
        staged.publish(stage(store, staged, files))
    return store


def land(url: str, files: Tree) -> None:
    assert publish(url, files).copy_published() == f"{url}/plain"


def complete(url: str) -> None:
    """Do what a run does that finds nothing new."""
    store = open_store(url, overwrite=True, layout="plain")
    with staging(store):
        store.copy_published()


def copied(bucket: str) -> Tree:
    """Return what is in the plain copy, without its manifest."""
    found = object_server.objects(bucket).items()
    files = {key.removeprefix(PLAIN): data for key, data in found if key.startswith(PLAIN)}
    files.pop("manifest.json", None)
    return files


def is_complete(url: str, bucket: str, files: Tree) -> bool:
    found = object_server.objects(bucket)
    latest = json.loads(found["data/events/latest.json"])
    is_listed = found[f"{PLAIN}manifest.json"] == found[f"data/events/{latest['manifest']}"]
    return copied(bucket) == object_server.published(url) == files and is_listed


def requests(act: Callable[[], object]) -> list[str]:
    """Return the requests of an act that change the bucket."""
    steps = Steps()
    with steps.watched():
        act()
    return [name.removeprefix("lighterage.request ") for name in steps.names]


# --- what it contains ----------------------------------------------------------------------------


@pytest.mark.parametrize("files", [OLD, {**OWN_KEYS, "ä b#.csv": b"x", "empty": b""}])
def test_copy_has_the_published_files_and_their_manifest(
    url: str, bucket: str, files: Tree
) -> None:
    land(url, files)
    assert is_complete(url, bucket, files)


def test_only_what_changed_is_copied_and_what_no_longer_exists_is_removed(
    url: str, bucket: str
) -> None:
    land(url, OLD)
    store = publish(url, NEW)
    assert copied(bucket) == OLD
    changes = requests(store.copy_published)
    assert sorted(changes[:-2]) == ["copy plain/a.csv", "copy plain/e/c.csv", "copy plain/x.zip"]
    assert changes[-2:] == ["delete", "put plain/manifest.json"]
    assert is_complete(url, bucket, NEW)
    assert requests(lambda: complete(url)) == []


def test_file_too_large_for_a_copy_is_downloaded_and_uploaded(
    url: str, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plain_module, "MAX_COPY_BYTES", 2**20)
    files = {"large.csv": bytes(range(256)) * 2**13, "small.csv": b"x"}
    store = publish(url, files)
    assert requests(store.copy_published) == [
        "copy plain/small.csv", "open plain/large.csv", "put plain/manifest.json",
    ]  # fmt: skip
    assert is_complete(url, bucket, files)
    assert requests(lambda: complete(url)) == []


def test_it_can_be_turned_on_for_data_that_is_published(url: str, bucket: str) -> None:
    object_server.land(url, OLD)
    complete(url)
    assert is_complete(url, bucket, OLD)


@pytest.mark.parametrize("harm", ["missing", "other size", "no manifest"])
def test_unchanged_run_repairs_it(url: str, bucket: str, harm: str) -> None:
    land(url, OLD)
    name = "manifest.json" if harm == "no manifest" else "d/b.csv"
    object_server.client().delete_object(Bucket=bucket, Key=PLAIN + name)
    if harm == "other size":
        key = next(key for key in object_server.objects(bucket) if key.endswith("/a.csv"))
        source = {"Bucket": bucket, "Key": key}  # which has the mark of Lighterage
        object_server.client().copy_object(Bucket=bucket, Key=PLAIN + name, CopySource=source)
    complete(url)
    assert is_complete(url, bucket, OLD)


def test_prune_leaves_it(url: str, bucket: str) -> None:
    land(url, OLD)
    land(url, NEW)
    store = open_store(url, overwrite=True)
    assert store.prune(keep_runs=0, min_age_s=0, dry_run=False).objects
    assert is_complete(url, bucket, NEW)
    assert requests(lambda: complete(url)) == []


def test_data_is_downloaded_again_where_only_the_copy_is_left(url: str, bucket: str) -> None:
    land(url, OLD)
    object_server.client().delete_object(Bucket=bucket, Key="data/events/latest.json")
    object_server.land(url, NEW)
    assert copied(bucket) == OLD
    land(url, NEWEST)
    assert is_complete(url, bucket, NEWEST)


# --- objects of others ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["thesis.tex", "a.csv", "manifest.json", "deep/x"])
@pytest.mark.parametrize("before", ["nothing", "published", "copied"])
def test_object_of_others_is_refused_before_anything_changes(
    url: str, bucket: str, name: str, before: str
) -> None:
    if before != "nothing":
        (land if before == "copied" else object_server.land)(url, OLD)
    object_server.write(bucket, {PLAIN + name: b"mine"})
    found = object_server.objects(bucket)
    error = f"not created by Lighterage.*{name}.*publish_layout"
    with pytest.raises(StoreError, match=error):
        land(url, NEW)
    with pytest.raises(StoreError, match=error):
        complete(url)
    assert object_server.objects(bucket) == found


def test_object_of_others_that_appears_during_the_run_stays(url: str, bucket: str) -> None:
    store = publish(url, NEW)
    object_server.write(bucket, {f"{PLAIN}a.csv": b"mine"})
    with pytest.raises(StoreError, match="the data is published, but"):
        store.copy_published()
    assert copied(bucket) == {"a.csv": b"mine"}
    assert object_server.published(url) == NEW


def test_without_the_setting_the_folder_must_be_empty_only_at_first(url: str, bucket: str) -> None:
    object_server.write(bucket, {f"{PLAIN}x": b"mine"})
    with pytest.raises(StoreError, match="not created by Lighterage"):
        object_server.land(url, OLD)
    object_server.clear(bucket)
    object_server.land(url, OLD)
    object_server.write(bucket, {f"{PLAIN}x": b"mine"})
    object_server.land(url, NEW)
    assert copied(bucket) == {"x": b"mine"}


def test_marker_of_an_empty_folder_is_ignored(url: str, bucket: str) -> None:
    object_server.write(bucket, {PLAIN: b"", f"{PLAIN}d/": b""})
    land(url, OLD)
    assert copied(bucket) == {**OLD, "": b"", "d/": b""}


# --- runs that end in the middle, and several ----------------------------------------------------


def test_run_that_is_killed_at_any_request_is_completed_by_the_next(url: str, bucket: str) -> None:
    land(url, OLD)
    count = len(requests(publish(url, NEW).copy_published))
    assert count == 5
    for at in range(count):
        land(url, OLD)
        store = publish(url, NEW)
        steps = Steps(at)
        with steps.watched():
            store.copy_published()
        assert steps.dead
        if at % 2:
            complete(url)
        else:
            land(url, NEWEST)
        assert is_complete(url, bucket, NEW if at % 2 else NEWEST)


@pytest.mark.parametrize("killed", [False, True])
def test_copy_is_what_is_published_when_another_run_lands_at_any_request(
    url: str, bucket: str, killed: bool
) -> None:
    """Also where the first run overwrites a copy of the other one, and is killed then."""
    land(url, OLD)
    count = len(requests(publish(url, NEW).copy_published))
    for at in range(count):
        land(url, OLD)
        store = publish(url, NEW)
        steps = Steps()

        def act(at: int = at, steps: Steps = steps) -> None:
            land(url, NEWEST)
            if killed:
                steps._at, steps._act = at + 1, steps._die

        steps._at, steps._act = at, act
        with steps.watched():
            store.copy_published()
        if steps.dead:
            complete(url)
        assert is_complete(url, bucket, NEWEST)


def test_slow_run_that_overwrites_the_copy_of_a_faster_one_repairs_it(
    url: str, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files of both have the same size, and the faster run's manifest is newer than they."""
    waits, may_copy, has_copied, is_faster_done = (threading.Event() for _ in range(4))
    slow = publish(url, {"a.csv": b"slow\n"})
    slow_copy, slow_put = slow._bucket.copy, slow._bucket.put_if

    def copy_late(source: str, key: str) -> None:
        waits.set()
        assert may_copy.wait(60)
        slow_copy(source, key)
        has_copied.set()

    def put_late(key: str, data: bytes, e_tag: str | None) -> bool:
        assert is_faster_done.wait(60)
        return bool(slow_put(key, data, e_tag))

    monkeypatch.setattr(slow._bucket, "copy", copy_late)
    monkeypatch.setattr(slow._bucket, "put_if", put_late)
    with ThreadPoolExecutor(1) as threads:
        done = threads.submit(slow.copy_published)
        assert waits.wait(60)
        fast = publish(url, {"a.csv": b"fast\n"})
        fast_put = fast._bucket.put_if

        def put_after_the_slow_copy(key: str, data: bytes, e_tag: str | None) -> bool:
            may_copy.set()
            assert has_copied.wait(60)
            time.sleep(2)  # the store's times are whole seconds
            return bool(fast_put(key, data, e_tag))

        monkeypatch.setattr(fast._bucket, "put_if", put_after_the_slow_copy)
        fast.copy_published()
        is_faster_done.set()
        done.result()
    assert is_complete(url, bucket, {"a.csv": b"fast\n"})


@pytest.mark.parametrize("request_path", ["/plain/a.csv", "/plain/manifest.json"])
def test_copy_that_fails_is_an_error_that_says_what_is_published(
    url: str, bucket: str, relay: Relay, request_path: str
) -> None:
    land(url, OLD)
    fails = True

    def fault(method: str, path: str) -> str:
        is_faulty = fails and method == "PUT" and path.endswith(request_path)
        return "503 SlowDown" if is_faulty else ""

    relay(fault)
    with pytest.raises(NetworkError, match="the data is published, but its plain copy") as caught:
        land(url, NEW)
    assert not caught.value.transient, "a second try would be `unchanged`"
    assert object_server.published(url) == NEW
    fails = False
    complete(url)
    assert is_complete(url, bucket, NEW)


# --- a run, from task to store -------------------------------------------------------------------


@pytest.fixture
def settings(url: str, tmp_path: Path) -> Iterator[Callable[..., Settings]]:
    """Give a way to make the settings of a run."""
    write_datasets(tmp_path / "home")
    with hosts.host(asyncssh.SFTPServer, tmp_path / "known_hosts") as address:

        def make(**more: Any) -> Settings:
            return Settings(
                task="1", remote_file_path=StringList([str(tmp_path / "home/csv.zip")]),
                remote_host_address=Hosts(address), username="me", password=hosts.PASSWORD,
                known_hosts_file=tmp_path / "known_hosts", ssh_config_file=tmp_path / "none",
                progress="none", publish_layout="plain", **{"file_save_path": url, **more},
            )  # fmt: skip

        yield make


def test_run_reports_where_the_copy_is(
    url: str, bucket: str, settings: Callable[..., Settings]
) -> None:
    assert execute(settings(dry_run=True), task_1.run).plain_copy == ""
    assert object_server.objects(bucket) == {}
    for status in ("landed", "unchanged"):
        report = execute(settings(), task_1.run)
        assert report.status == status
        assert valid(json.dumps(report.data()), 0)["plain_copy"] == f"{url}/plain"
        assert f"  plain copy: {url}/plain" in report.lines()
        assert is_complete(url, bucket, CSVS)
        object_server.client().delete_object(Bucket=bucket, Key=f"{PLAIN}manifest.json")
    before = object_server.objects(bucket)
    execute(settings(dry_run=True), task_1.run)
    assert object_server.objects(bucket) == before


def test_folder_has_no_plain_copy(
    tmp_path: Path, settings: Callable[..., Settings], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "target"
    with pytest.raises(ConfigError, match="publish_layout is plain, but file_save_path is"):
        execute(settings(file_save_path=folder), task_1.run)
    assert not folder.exists()
    with contextlib.suppress(SystemExit):
        assert main(["1", "--publish-layout=browsable"]) == 2
    assert "publish-layout" in capsys.readouterr().err.replace("_", "-")
