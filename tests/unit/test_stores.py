"""The suite that each store must pass; a new store is one more line in `STORES` of this file.

One of the stores is made up: one module (tests/support/zip_store.py) and one line in
`tasks.fetch.stores.STORES`.
"""

from __future__ import annotations

import secrets
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncssh
import pytest
from msgspec.structs import replace

import hosts
import object_server
import zip_store
from client import CSVS, write_datasets
from landed import ARCHIVE, NEW, OLD, SAME, Tree, sha256, stage
from steps import Steps
from tasks import task_1, task_3
from tasks.fetch import stores
from tasks.fetch.api import execute
from tasks.fetch.errors import ArchiveError, BusyError, ConfigError, Interrupted, LocalError
from tasks.fetch.manifest import NAME, File, Manifest, Source
from tasks.fetch.shards.names import Hosts
from tasks.fetch.staging import staging
from tasks.fetch.stores import open_store
from tasks.fetch.stores.local import verify
from tasks.fetch.stores.protocol import Store
from tasks.setting_types import StringList
from tasks.settings import Settings


class OopsError(Exception):
    """Any failure of a run."""


class Target:
    """A target in a store, and its published files."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.url = url

    def open(self, *, overwrite: bool = True) -> Store:
        return open_store(self.url, overwrite=overwrite)

    def land(self, files: Tree, *, overwrite: bool = True) -> None:
        store = self.open(overwrite=overwrite)
        with staging(store) as staged:
            staged.publish(stage(store, staged, files))

    def files(self) -> Tree:
        """Return the published files."""
        paths = Path(self.url).rglob("*")
        files = {str(p.relative_to(self.url)): p.read_bytes() for p in paths if p.is_file()}
        files.pop(NAME, None)
        return files

    def state(self) -> Tree:
        """Return every file in and beside the target."""
        files = (path for path in self.folder.rglob("*") if path.is_file())
        return {str(path): path.read_bytes() for path in files}

    def names(self) -> set[str]:
        """Return the names in the target's parent, but the manifest before; there is no other."""
        assert {path.name for path in self.folder.iterdir()} <= {"data"}
        previous = f".{Path(self.url).name}.previous.json"
        return {path.name for path in self.folder.glob("data/*")} - {previous}

    def write_foreign_file(self) -> None:
        folder = Path(self.url.partition("://")[2] or self.url) / "b"
        folder.mkdir(parents=True)
        (folder / "thesis.tex").write_bytes(b"years")

    def copy_to(self, copy: Path) -> None:
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self.folder, copy)

    def restore(self, copy: Path | None) -> None:
        """Restore a copy, or nothing at all."""
        shutil.rmtree(self.folder)
        if copy:
            shutil.copytree(copy, self.folder)
        else:
            self.folder.mkdir()


class ZipTarget(Target):
    def files(self) -> Tree:
        try:
            with zipfile.ZipFile(self.url.removeprefix("zip://")) as archive:
                names = set(archive.namelist()) - {NAME, zip_store.PREVIOUS}
                return {name: archive.read(name) for name in names}
        except FileNotFoundError:
            return {}


class ObjectTarget(Target):
    """A prefix of a bucket: its copies are in memory."""

    def __init__(self, folder: Path, url: str) -> None:
        super().__init__(folder, url)
        self._bucket = url.split("/")[2]
        self._copies: dict[Path, Tree] = {}
        object_server.client().create_bucket(Bucket=self._bucket)

    def files(self) -> Tree:
        return object_server.published(self.url)

    def state(self) -> Tree:
        return object_server.objects(self._bucket)

    def names(self) -> set[str]:
        assert all(key.startswith("data/") for key in self.state())
        return {key.split("/")[1] for key in self.state()}

    def write_foreign_file(self) -> None:
        object_server.write(self._bucket, {"data/events/b/thesis.tex": b"years"})

    def copy_to(self, copy: Path) -> None:
        self._copies[copy] = self.state()

    def restore(self, copy: Path | None) -> None:
        object_server.clear(self._bucket)
        object_server.write(self._bucket, self._copies[copy] if copy else {})


STORES: dict[str, tuple[str, type[Target]]] = {
    "local": ("{}/data/events", Target),
    "zip": ("zip://{}/data/events.zip", ZipTarget),
    "objects": ("s3://bucket-{:x}/data/events", ObjectTarget),
}
"""The URL of a target in each store, with a field for a folder or a number; and how it is read."""


@pytest.fixture(params=STORES)
def target(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Target:
    """Give a target that does not exist."""
    monkeypatch.setattr(verify, "TICK_NS", 0)
    monkeypatch.setitem(stores.STORES, "zip", "zip_store:ZipStore")  # the one line of a new store
    url, kind = STORES[request.param]
    if kind is ObjectTarget:
        request.getfixturevalue("object_store")
        return kind(tmp_path, url.format(secrets.randbits(64)))
    return kind(tmp_path, url.format(tmp_path))


@pytest.fixture
def landed(target: Target) -> Target:
    """Give a target with published data."""
    target.land(OLD)
    return target


# --- publishing --------------------------------------------------------------------------------


def test_first_publish_shows_the_files_and_the_manifest(target: Target) -> None:
    assert target.open().manifest() is None
    target.land(OLD)
    assert target.files() == OLD
    manifest = target.open().manifest()
    assert manifest is not None
    assert {file.path: (file.size, file.sha256) for file in manifest.all_files()} == {
        name: (len(data), sha256(data)) for name, data in OLD.items()
    }


def test_publish_replaces_the_old_data_as_a_whole(landed: Target) -> None:
    landed.land(NEW)
    assert landed.files() == NEW
    assert landed.names() == {Path(landed.url).name}


def test_readers_see_the_old_data_until_publish(landed: Target) -> None:
    store = landed.open()
    with staging(store) as staged:
        manifest = stage(store, staged, NEW)
        assert landed.files() == OLD
        staged.publish(manifest)
        assert landed.files() == NEW


def test_second_attempt_contains_nothing_of_the_first(target: Target) -> None:
    store = target.open()
    with staging(store) as staged:
        stage(store, staged, OLD)
        staged.publish(stage(store, staged, NEW))
    assert target.files() == NEW


def test_files_of_a_dropped_source_are_not_published(target: Target) -> None:
    store = target.open()
    with staging(store) as staged:
        stage(store, staged, OLD)
        staged.drop(ARCHIVE)
        staged.write("e.csv", [b"", b"last"], ARCHIVE)
        staged.publish(manifest_of(staged.finish()))
    assert target.files() == {SAME: OLD[SAME], "e.csv": b"last"}


def manifest_of(files: list[File]) -> Manifest:
    """Return the manifest of staged files."""
    sources = [Source(path, 1, 0, "") for path in {file.source for file in files}]
    return Manifest("1", "dev", "h", "x", "*", "", keep_archive=False, sources=sources, files=files)


def test_names_that_collide_are_rejected(target: Target) -> None:
    for name in (NAME, NAME.upper(), f"{NAME}/a.csv", "SAME.csv"):
        with pytest.raises(ArchiveError, match="collides"):
            target.land({**OLD, name: b"{}"})
    assert target.files() == {}


# --- the manifest before, and the content of files ---------------------------------------------


def listed(manifest: Manifest | None) -> dict[str, str] | None:
    """Return the checksum of each file that a manifest lists."""
    return {file.path: file.sha256 for file in manifest.all_files()} if manifest else None


def checksums(files: Tree) -> dict[str, str]:
    return {path: sha256(data) for path, data in files.items()}


def test_manifest_before_is_that_of_the_replaced_data(target: Target) -> None:
    assert target.open().previous() is None
    landings = [OLD, NEW, {SAME: b"same\n", "x/y.csv": b"3"}]
    for number, files in enumerate(landings):
        target.land(files)
        before = listed(target.open().previous())
        assert before == (checksums(landings[number - 1]) if number else None)
        assert listed(target.open().manifest()) == checksums(files)


def test_failed_run_leaves_the_manifest_before(landed: Target) -> None:
    landed.land(NEW)
    with pytest.raises(OopsError):
        fail(landed.open(), {"b.csv": b"b"}, OopsError())
    assert listed(landed.open().previous()) == checksums(OLD)


def test_death_at_any_step_leaves_a_manifest_before_that_was_published(target: Target) -> None:
    target.land({SAME: b"same\n"})
    target.land(OLD)
    start = target.folder.with_name("start")
    target.copy_to(start)
    for at in range(400):
        target.restore(start)
        dying = Steps(at)
        with dying.watched():
            target.land(NEW)
        with staging(target.open()):
            pass
        published = listed(target.open().manifest())
        before = checksums({SAME: b"same\n"} if published == checksums(OLD) else OLD)
        assert listed(target.open().previous()) == before, dying.names
        if not dying.dead:
            break
    assert not dying.dead, "each step was tried"
    assert published == checksums(NEW)


def test_content_of_published_files_can_be_read(landed: Target) -> None:
    landed.land({**NEW, "empty.csv": b"", "large.csv": b"0123456789" * 2**18})
    store = landed.open()
    manifest = store.manifest()
    assert manifest is not None
    read = {file.path: b"".join(store.read(file)) for file in manifest.all_files()}
    assert read == landed.files()
    if store.folder:
        assert {path: (store.folder / path).read_bytes() for path in read} == read


# --- runs that fail ----------------------------------------------------------------------------


def fail(store: Store, files: Tree, error: BaseException, *, publish: bool = False) -> None:
    """Fail once the files are staged, or published."""
    with staging(store) as staged:
        manifest = stage(store, staged, files)
        if publish:
            staged.publish(manifest)
        raise error


@pytest.mark.parametrize("old", [{}, OLD], ids=["first", "replaced"])
def test_failed_run_changes_nothing(target: Target, old: Tree) -> None:
    if old:
        target.land(old)
    before = target.state()
    store = target.open()
    with pytest.raises(OopsError):
        fail(store, {"b.csv": b"b"}, OopsError())
    assert target.state() == before
    assert old or not target.names()


def test_file_that_is_aborted_can_be_written_again(landed: Target) -> None:
    def blocks() -> Iterator[bytes]:
        yield b"half"
        yield b"half"
        raise OopsError

    store = landed.open()
    with staging(store) as staged:
        staged.begin()
        with pytest.raises(OopsError):
            staged.write("a.csv", blocks(), "a")
        staged.drop("a")
        staged.write("a.csv", [b"whole"], "a")
        staged.publish(manifest_of(staged.finish()))
    assert landed.files() == {"a.csv": b"whole"}


def test_death_at_any_step_leaves_the_old_or_the_new_data(target: Target) -> None:
    """And the next run recovers and publishes."""
    steps = Steps()
    with steps.watched():
        target.land(NEW)
    start = target.folder.with_name("start")
    for old in ({}, OLD):
        target.restore(None)
        if old:
            target.land(old)
        target.copy_to(start)
        for at in range(2 * len(steps.names) + 20):
            target.restore(start)
            dying = Steps(at)
            with dying.watched():
                target.land(NEW)
            store = target.open()
            with staging(store):
                assert target.files() in (old, NEW), dying.names
                assert (store.manifest() is None) == (target.files() == {})
            target.land(NEW)
            assert target.files() == NEW
            if not dying.dead:
                break
        assert not dying.dead, "each step was tried"


def test_interrupt_states_whether_the_data_was_published(landed: Target) -> None:
    for publish in (False, True):
        store = landed.open()
        with pytest.raises(Interrupted) as caught:
            fail(store, NEW, Interrupted(15), publish=publish)
        assert caught.value.landed is publish
        assert landed.files() == (NEW if publish else OLD)


def test_small_and_large_files_can_be_written_in_any_order_and_dropped(target: Target) -> None:
    """Small ones overtake large ones: none is lost, or lands although it was dropped."""
    files = {f"d{n % 7}/{n}.csv": b"%d\n" % n * (n % 90) for n in range(400)}
    files |= {f"large/{n}.csv": b"%d" % n * 2**17 for n in range(9)}
    files |= {f"block/{n}.csv": b"%d" % n * 50_000 for n in range(9)}
    store = target.open()
    with staging(store) as staged:
        staged.begin()
        for number, path in enumerate(sorted(files, key=lambda path: sha256(path.encode()))):
            data = files[path]
            blocks = [data[start : start + 2**16] for start in range(0, len(data), 2**16)]
            staged.write(path, blocks, path)
            if number % 100 == 50:
                staged.write("dropped.csv", [b"x"], "dropped")
                staged.drop("dropped")
        records = staged.finish()
        staged.publish(manifest_of(records))
    assert target.files() == files
    assert {file.path: file.sha256 for file in records} == {
        path: sha256(data) for path, data in files.items()
    }


# --- files that are kept, and data that is not replaced ----------------------------------------


def test_unchanged_file_is_verified_and_kept(landed: Target) -> None:
    store = landed.open()
    with staging(store) as staged:
        manifest = store.manifest()
        assert manifest is not None
        for content in (False, True):
            assert all(store.verify(file, content) == file for file in manifest.all_files())
        staged.begin()
        staged.keep(manifest.by_source()[SAME])
        staged.publish(manifest_of(staged.finish()))
    assert landed.files() == {SAME: OLD[SAME]}
    manifest = landed.open().manifest()
    assert manifest is not None
    [file] = manifest.files
    assert file.sha256 == sha256(OLD[SAME])
    assert landed.open().verify(file, content=True) == file


def test_file_with_another_size_or_content_is_not_verified(landed: Target) -> None:
    store = landed.open()
    manifest = store.manifest()
    assert manifest is not None
    [file] = [file for file in manifest.files if file.path == SAME]
    for other in (
        replace(file, path="missing.csv"),
        replace(file, sha256=sha256(b"other"), mtime_ns=0),
    ):
        assert store.verify(other, content=True) is None


def test_data_is_not_replaced_without_overwrite(landed: Target) -> None:
    with pytest.raises(LocalError):
        landed.land(NEW, overwrite=False)
    with pytest.raises(LocalError):
        landed.open(overwrite=False).check()
    assert landed.files() == OLD


def test_foreign_data_is_not_replaced(target: Target) -> None:
    target.write_foreign_file()
    before = target.state()
    with pytest.raises(LocalError):
        target.open().check()
    with pytest.raises(LocalError):
        target.land(NEW)
    assert target.state() == before


def test_dry_run_changes_nothing(target: Target) -> None:
    with staging(target.open(), dry_run=True):
        pass
    assert not target.names()
    target.land(OLD)
    before = target.state()
    with staging(target.open(), dry_run=True):
        pass
    assert target.state() == before


def test_second_run_is_busy_or_decided_by_publish(landed: Target) -> None:
    """A store without locks lets both run, and both publish, or the second one is busy."""
    store = landed.open()
    with staging(store) as staged:
        manifest = stage(store, staged, NEW)
        try:
            landed.land({"b.csv": b"b"})
        except BusyError:
            assert landed.files() == OLD
        before = landed.files()
        try:
            staged.publish(manifest)
        except BusyError:
            assert landed.files() == before == {"b.csv": b"b"}
        else:
            assert landed.files() == NEW


def test_partial_download_is_resumed_where_the_store_can(landed: Target) -> None:
    with staging(landed.open()) as staged:
        staged.begin()
        writer = staged.create_archive(ARCHIVE, ARCHIVE, "key")
        writer.write(b"half")
        writer.abort()
    assert landed.files() == OLD
    store = landed.open()
    if store.partial_downloads is None:
        return
    with staging(store) as staged:
        assert staged.partial_size("key") == 4
        store.partial_downloads.keep_only({"key": 3})
        assert staged.partial_size("key") == 0, "longer than the complete file"


# --- a run, from task to store -----------------------------------------------------------------


@pytest.mark.parametrize("run", [task_1.run, task_3.run])
def test_task_lands_in_any_store(
    target: Target, tmp_path_factory: pytest.TempPathFactory, run: Any
) -> None:
    folder = tmp_path_factory.mktemp("host")
    write_datasets(folder / "home")
    path = folder / "home" / ("csv.zip" if run is task_1.run else "tree/plain")
    archive = {path.name: path.read_bytes()} if path.is_file() else {}
    with hosts.host(asyncssh.SFTPServer, folder / "known_hosts") as address:
        settings = Settings(
            task="1", remote_file_path=StringList([str(path)]), file_save_path=target.url,
            remote_host_address=Hosts(address), username="me", password=hosts.PASSWORD,
            known_hosts_file=folder / "known_hosts", ssh_config_file=folder / "none",
            keep_archive=True, progress="none",
        )  # fmt: skip
        report = execute(settings, run)
        assert report.status == "landed"
        assert target.files() == {**CSVS, **archive}
        assert execute(settings, run).status == "unchanged"
        if path.is_dir():
            (path / "more.csv").write_bytes(b"more")
            plan = execute(settings, run).plan
            assert (len(plan.added), len(plan.unchanged)) == (1, len(CSVS))
            assert target.files() == {**CSVS, "more.csv": b"more"}


def test_unknown_scheme_is_an_error_that_names_it() -> None:
    with pytest.raises(ConfigError, match="no store for s4://"):
        open_store("s4://bucket/events", overwrite=True)
