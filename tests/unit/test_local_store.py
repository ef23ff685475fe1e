"""The local store: what is its own beside test_stores.py, which tests what any store must do."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from landed import NEW, OLD, beside, content, land, locked, stage
from tasks.fetch import interrupt
from tasks.fetch.errors import BusyError, Interrupted, LocalError
from tasks.fetch.manifest import NAME
from tasks.fetch.staging import staging
from tasks.fetch.stores.local import disk, tree
from tasks.fetch.stores.local.disk import exchange
from tasks.fetch.stores.local.store import LocalStore

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """Give a target that does not exist, two folders down."""
    return tmp_path / "data/task_1/events"


@pytest.fixture
def landed(target: Path) -> Path:
    """Give a target where old data landed."""
    land(target, OLD)
    return target


@pytest.fixture
def no_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away the exchange of two names: a file system or a kernel without renameat2."""
    monkeypatch.setattr(disk, "exchange", lambda *_: False)


# --- what a run that ends well leaves -----------------------------------------------------


@pytest.mark.usefixtures("no_exchange")
def test_new_data_replaces_the_old_where_names_cannot_be_exchanged(landed: Path) -> None:
    land(landed, NEW)
    assert content(landed) == NEW
    assert beside(landed) == set()


def test_names_are_exchanged_in_one_step_here(
    landed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the system has renameat2, the target is there at every moment: no rename of it."""
    one, other = landed.with_name("one"), landed.with_name("other")
    one.mkdir()
    other.mkdir()
    if not exchange(one, other):
        pytest.skip("THIS FILE SYSTEM HAS NO renameat2: the exchange goes untested")
    rename = Path.rename

    def no_target(self: Path, target: Path) -> Path:
        assert landed not in {self, target}
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", no_target)
    land(landed, NEW)
    assert content(landed) == NEW


def test_empty_folder_is_replaced(target: Path) -> None:
    target.mkdir(parents=True)
    land(target, NEW)
    assert content(target) == NEW


def test_link_to_a_folder_is_followed_and_stays(landed: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(landed)
    land(link, NEW)
    assert link.is_symlink()
    assert content(landed) == NEW
    assert beside(link) == {"data"}


# --- runs that fail ------------------------------------------------------------------------


class OopsError(Exception):
    """Any failure of a run."""


def fail(target: Path) -> None:
    """Fail in the middle of a run."""
    with locked(target) as (store, staged):
        stage(store, staged, {"b.csv": b"b"})
        raise OopsError


def test_failed_run_leaves_no_folders_that_it_made(target: Path, tmp_path: Path) -> None:
    with pytest.raises(OopsError):
        fail(target)
    assert not list(tmp_path.iterdir())


def test_failed_run_leaves_folders_that_were_there(target: Path, tmp_path: Path) -> None:
    target.parent.mkdir(parents=True)
    with pytest.raises(OopsError):
        fail(target)
    assert target.parent.is_dir()
    assert not list(target.parent.iterdir())


def test_parents_that_cannot_all_be_made_are_not_half_made(tmp_path: Path) -> None:
    with pytest.raises(LocalError):
        land(tmp_path / "one/two" / ("n" * 300) / "events", NEW)
    assert not list(tmp_path.iterdir())


def test_rename_that_fails_leaves_the_old_data(
    landed: Path, no_exchange: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second of the two renames fails: the first is undone."""
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if self.name == ".events.staging":
            raise OSError(errno.EIO, "the disk gave up")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(LocalError, match="the disk gave up"):
        land(landed, NEW)
    assert content(landed) == OLD
    assert beside(landed) == {".events.part"}


def test_interrupt_before_the_data_landed_says_so(
    landed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree, "write_manifest", interrupted)
    with pytest.raises(Interrupted) as caught:
        land(landed, NEW)
    assert not caught.value.landed
    assert content(landed) == OLD


@pytest.mark.parametrize("where", ["removing", "exchange"])
def test_interrupt_after_the_data_landed_says_so(
    landed: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the old data is removed, or names were just exchanged: the new data is there."""
    if where == "exchange":

        def late(one: Path, other: Path) -> bool:
            interrupt._pending.append(signal.SIGTERM)  # as the handler does in `uninterrupted`
            return exchange(one, other)

        monkeypatch.setattr(disk, "exchange", late)
    else:

        def removing(*_: object) -> None:
            monkeypatch.undo()
            interrupted()

        monkeypatch.setattr(tree, "remove", removing)
    with pytest.raises(Interrupted) as caught:
        land(landed, NEW)
    assert caught.value.landed
    assert content(landed) == NEW
    assert beside(landed) == set()


def interrupted(*_: object) -> None:
    """Do what a signal does."""
    raise Interrupted(signal.SIGTERM)


# --- what must not be replaced ------------------------------------------------------------


def refused(target: Path, *, overwrite: bool = True) -> str:
    """Land, which must be refused before anything is asked of the host; gives the error."""
    with (
        pytest.raises(LocalError) as caught,
        staging(LocalStore(target, overwrite=overwrite)),
    ):
        raise AssertionError("the run would have begun")
    assert beside(target) <= {"beside"}
    return str(caught.value)


def test_folder_with_a_manifest_of_another_program_is_refused(target: Path) -> None:
    target.mkdir(parents=True)
    (target / NAME).write_text(json.dumps({"manifest_version": 3}))
    assert "not created by Lighterage" in refused(target)
    assert (target / NAME).exists()


@pytest.mark.parametrize("name", ["notes.txt", "d/notes.txt", "mine/notes.txt"])
def test_file_that_was_added_is_not_lost(landed: Path, name: str) -> None:
    (landed / name).parent.mkdir(exist_ok=True)
    (landed / name).write_text("mine")
    assert "not created by Lighterage" in refused(landed)
    assert name in refused(landed)
    assert (landed / name).read_text() == "mine"


def test_link_that_was_added_is_not_lost_nor_followed(landed: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "a.csv").write_text("mine")
    (landed / "link").symlink_to(elsewhere)
    assert "link" in refused(landed)
    assert (elsewhere / "a.csv").read_text() == "mine"


def test_file_in_the_targets_place_is_refused(target: Path) -> None:
    target.parent.mkdir(parents=True)
    target.write_text("mine")
    assert "is not a folder" in refused(target)
    assert target.read_text() == "mine"


def test_file_in_a_parents_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(LocalError, match=r"(?i)not a directory|file exists"):
        land(tmp_path / "file/below/events", NEW)
    assert (tmp_path / "file").read_text() == "mine"


def test_root_folder_is_refused() -> None:
    with pytest.raises(LocalError, match="the root folder"):
        land(Path("/"), NEW)


def test_link_to_itself_is_refused(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(link)
    with pytest.raises(LocalError):
        land(link, NEW)


def test_target_that_does_not_exist_is_taken_without_overwrite(target: Path) -> None:
    land(target, NEW, overwrite=False)
    assert content(target) == NEW


def test_folder_that_only_looks_like_one_put_aside_is_not_lost(target: Path) -> None:
    """`.events.old` may be anybody's: neither removed, nor renamed to the target."""
    aside = target.with_name(".events.old")
    aside.mkdir(parents=True)
    (aside / "thesis.tex").write_text("years of work")
    land(target, OLD)
    land(target, NEW)
    assert content(aside) == {"thesis.tex": b"years of work"}
    assert content(target) == NEW


@pytest.mark.usefixtures("no_exchange")
def test_folder_in_the_way_of_putting_aside_is_named(landed: Path) -> None:
    aside = landed.with_name(".events.old")
    aside.mkdir()
    (aside / "thesis.tex").write_text("years of work")
    with pytest.raises(LocalError, match=r"\.events\.old: Directory not empty"):
        land(landed, NEW)
    assert content(landed) == OLD
    assert content(aside) == {"thesis.tex": b"years of work"}


# --- locks, and runs that were killed -----------------------------------------------------


def test_second_run_is_busy(target: Path) -> None:
    with locked(target) as (store, staged):
        manifest = stage(store, staged, NEW)
        with pytest.raises(BusyError, match="another run"):
            land(target, OLD)
        staged.publish(manifest)
    assert content(target) == NEW, "the first run was not disturbed"


def test_runs_in_different_folders_are_independent(target: Path) -> None:
    with locked(target) as (store, staged):
        land(target.with_name("other"), OLD)
        staged.publish(stage(store, staged, NEW))
    assert content(target) == NEW
    assert content(target.with_name("other")) == OLD


def test_lock_that_was_removed_under_a_holder_is_taken_anew(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last holder removes the file between our opening and our locking it."""
    target.parent.mkdir(parents=True)
    lock, seen = target.with_name(".events.lock"), list[int]()
    flock = fcntl.flock

    def racing(file: IO[str], operation: int) -> None:
        if not seen:
            lock.unlink()
        seen.append(operation)
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", racing)
    with locked(target):
        assert lock.exists(), "the lock that is held must have its name"
    assert len(seen) == 2


def test_file_system_without_locks_is_not_called_busy(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(LocalError, match="No locks"):
        land(target, NEW)


SCRIPT = """
import pathlib, sys, time
sys.path[:0] = ["tests/support"]
from landed import locked
with locked(pathlib.Path(sys.argv[1])) as (_, staged):
    staged.begin()
    staged.write("half.csv", [b"half"], "x"); staged.finish()
    print("ready", flush=True)
    time.sleep(60)
"""


def test_killed_run_leaves_no_lock_and_the_next_cleans_up(landed: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(landed)], cwd=REPOSITORY, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        with pytest.raises(BusyError):
            land(landed, NEW)
    finally:
        process.kill()
        process.communicate()
    assert content(landed) == OLD
    assert ".events.staging" in beside(landed), "the kill came in the middle"
    land(landed, NEW)
    assert content(landed) == NEW
    assert beside(landed) == set()


def test_run_killed_between_the_two_renames_is_undone(landed: Path) -> None:
    """The old data is aside, the new is not there yet: the next run puts the old back first."""
    landed.rename(landed.with_name(".events.old"))
    shutil.copytree(landed.with_name(".events.old"), landed.with_name(".events.staging"))
    with pytest.raises(OopsError):
        fail(landed)
    assert content(landed) == OLD
    assert beside(landed) == set()


def test_run_killed_after_the_two_renames_is_finished(landed: Path) -> None:
    """The new data is there, the old was not removed yet."""
    old = landed.with_name(".events.old")
    landed.rename(old)
    land(landed.with_name("other"), NEW)
    landed.with_name("other").rename(landed)
    with pytest.raises(OopsError):
        fail(landed)
    assert content(landed) == NEW
    assert beside(landed) == set()


# --- disks that say no --------------------------------------------------------------------

MOUNTED = """
set -e
mount -t tmpfs -o {options} none "$1"
cd "$2"
exec "$3" - "$1"
"""


def in_mount(options: str, program: str, folder: Path) -> str:
    """Run a program with `folder` a tmpfs that no other process sees; gives its output."""
    shell = ["sh", "-c", MOUNTED.format(options=options), "sh", str(folder)]
    unshare = ["unshare", "-m"] if os.getuid() == 0 else ["unshare", "-rm"]
    if (
        shutil.which("unshare") is None
        or subprocess.run(
            [*unshare, "mount", "-t", "tmpfs", "none", str(folder)],
            capture_output=True,
            check=False,
        ).returncode
    ):
        pytest.skip("NO MOUNTS HERE: full and read-only disks go untested")
    done = subprocess.run(
        [*unshare, *shell, str(REPOSITORY), sys.executable],
        input=textwrap.dedent(program), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


PRELUDE = """
import pathlib, sys
sys.path[:0] = ["tests/support"]
from landed import NEW, OLD, beside, content, land
from tasks.fetch.errors import LocalError
mount = pathlib.Path(sys.argv[1])
target = mount / "task_1/events"
def tell(files):
    try:
        land(target, files)
    except LocalError as error:
        print(error)
"""


def test_full_disk_is_told_and_leaves_the_old_data(tmp_path: Path) -> None:
    program = (
        PRELUDE
        + """
land(target, OLD)
tell({"big.csv": bytes(2**20)})
assert content(target) == OLD and not beside(target), (content(target), beside(target))
tell({f"{n}.csv": b"" for n in range(100)})
assert content(target) == OLD and not beside(target), (content(target), beside(target))
land(target, NEW)
assert content(target) == NEW
"""
    )
    told = in_mount("size=256k,nr_inodes=40", program, tmp_path).splitlines()
    assert len(told) == 2
    assert all("no space left" in line for line in told)
    assert "events/big.csv" in told[0], "the error names the file as the user knows it"


def test_disk_that_fills_up_in_the_last_flush_is_told(tmp_path: Path) -> None:
    """The last bytes leave the buffer when the file is closed: that error counts too."""
    program = (
        PRELUDE
        + """
(mount / "filler").write_bytes(bytes(250 * 1024))
tell({"a.csv": b"-" * 7000, "b.csv": b"-" * 7000})
assert beside(mount / "x") == {"filler"}
"""
    )
    assert "no space left" in in_mount("size=256k", program, tmp_path)


def test_mount_is_refused_with_what_to_do(tmp_path: Path) -> None:
    program = (
        PRELUDE
        + """
target = mount
tell(NEW)
assert not list(mount.iterdir())
"""
    )
    assert "is a mount point" in in_mount("size=1m", program, tmp_path)


def test_read_only_disk_is_told(tmp_path: Path) -> None:
    told = in_mount("ro", PRELUDE + "tell(NEW)\n", tmp_path)
    assert "read-only" in told


def test_folder_without_permission_is_told() -> None:
    """Tried as another user: root may write anywhere."""
    user = os.geteuid()
    folder = Path(tempfile.mkdtemp(prefix="lighterage-"))
    try:
        folder.chmod(0o555)
        if user == 0:
            os.seteuid(65534)
        with pytest.raises(LocalError, match="no permission"):
            land(folder / "events", NEW)
        assert not list(folder.iterdir())
    finally:
        os.seteuid(user)
        folder.rmdir()


def test_failed_write_leaves_no_file_open(landed: Path) -> None:
    """The next attempt needs the room that a removed file takes while it is open."""

    def blocks() -> Iterator[bytes]:
        yield b"half"
        yield b"half"
        raise OopsError

    def opened() -> int:
        count = 0
        for link in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(OSError):
                count += ".staging" in str(link.readlink())
        return count

    with locked(landed) as (_, staged):
        staged.begin()
        with pytest.raises(OopsError):
            staged.write("a.csv", blocks(), "x.zip")
        staged.drop("x.zip")
        assert opened() == 0
        with pytest.raises(OopsError):
            staged.write("a.csv", blocks(), "x.zip")
        staged.begin()
        assert opened() == 0
