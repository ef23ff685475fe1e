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
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from landed import NEW, OLD, beside, content, land, locked, stage
from tasks.fetch import interrupt
from tasks.fetch.errors import Interrupted, LocalError
from tasks.fetch.manifest import NAME
from tasks.fetch.stores.local import disk, tree
from tasks.fetch.stores.local.disk import exchange

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


@pytest.mark.parametrize("existing", [False, True])
def test_failed_run_removes_only_folders_that_it_created(
    target: Path, tmp_path: Path, existing: bool
) -> None:
    if existing:
        target.parent.mkdir(parents=True)
    with contextlib.suppress(OopsError), locked(target) as (store, staged):
        stage(store, staged, {"b.csv": b"b"})
        raise OopsError
    assert list(tmp_path.rglob("*")) == ([target.parent.parent, target.parent] if existing else [])


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


@pytest.mark.parametrize("where", ["removing", "exchange"])
def test_interrupt_after_publishing_states_that_the_data_landed(
    landed: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the old data is removed, or just after the exchange of names."""

    def late(one: Path, other: Path) -> bool:
        interrupt._pending.append(signal.SIGTERM)  # as the handler does in `uninterrupted`
        return exchange(one, other)

    def removing(*_: object) -> None:
        monkeypatch.undo()
        raise Interrupted(signal.SIGTERM)

    if where == "exchange":
        monkeypatch.setattr(disk, "exchange", late)
    else:
        monkeypatch.setattr(tree, "remove", removing)
    with pytest.raises(Interrupted) as caught:
        land(landed, NEW)
    assert caught.value.landed
    assert content(landed) == NEW
    assert beside(landed) == set()


# --- what must not be replaced ------------------------------------------------------------


def refused(target: Path) -> str:
    """Start a run, which must be refused before it connects; return the error."""
    with pytest.raises(LocalError) as caught, locked(target):
        raise AssertionError("the run has started")
    assert beside(target) == set()
    return str(caught.value)


def test_folder_with_a_manifest_of_another_program_is_refused(target: Path) -> None:
    target.mkdir(parents=True)
    (target / NAME).write_text(json.dumps({"manifest_version": 3}))
    assert "not created by Lighterage" in refused(target)
    assert (target / NAME).exists()


@pytest.mark.parametrize("name", ["notes.txt", "d/notes.txt", "mine/notes.txt", "link"])
def test_foreign_file_in_the_target_stays(landed: Path, tmp_path: Path, name: str) -> None:
    elsewhere = tmp_path / "elsewhere/a.csv"
    elsewhere.parent.mkdir()
    elsewhere.write_text("mine")
    (landed / name).parent.mkdir(exist_ok=True)
    if name == "link":
        (landed / name).symlink_to(elsewhere.parent)
    else:
        (landed / name).write_text("mine")
    assert name in refused(landed)
    assert elsewhere.read_text() == "mine"
    assert name == "link" or (landed / name).read_text() == "mine"


@pytest.mark.parametrize("path", ["file", "file/below/events", "link", "/"])
def test_path_that_cannot_be_a_folder_is_refused(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "link")
    with pytest.raises(LocalError):
        land(tmp_path / path, NEW)
    assert (tmp_path / "file").read_text() == "mine"


def test_new_target_needs_no_overwrite(target: Path) -> None:
    land(target, NEW, overwrite=False)
    assert content(target) == NEW


def test_foreign_folder_beside_the_target_stays(target: Path) -> None:
    """A folder `.events.old` without a manifest is neither removed nor renamed to the target."""
    aside = target.with_name(".events.old")
    aside.mkdir(parents=True)
    (aside / "thesis.tex").write_text("years of work")
    land(target, OLD)
    land(target, NEW)
    assert content(aside) == {"thesis.tex": b"years of work"}
    assert content(target) == NEW


@pytest.mark.usefixtures("no_exchange")
def test_foreign_folder_with_the_name_of_the_replaced_tree_is_an_error(landed: Path) -> None:
    aside = landed.with_name(".events.old")
    aside.mkdir()
    (aside / "thesis.tex").write_text("years of work")
    with pytest.raises(LocalError, match=r"\.events\.old: Directory not empty"):
        land(landed, NEW)
    assert content(landed) == OLD
    assert content(aside) == {"thesis.tex": b"years of work"}


# --- locks --------------------------------------------------------------------------------


def test_runs_in_different_folders_are_independent(target: Path) -> None:
    with locked(target) as (store, staged):
        land(target.with_name("other"), OLD)
        staged.publish(stage(store, staged, NEW))
    assert content(target) == NEW
    assert content(target.with_name("other")) == OLD


def test_lock_file_removed_by_another_run_is_created_again(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other run removes the file between our opening and our locking it."""
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
        assert lock.exists()
    assert len(seen) == 2


def test_file_system_without_locks_is_a_local_error(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(LocalError, match="No locks"):
        land(target, NEW)


# --- full and read-only disks -------------------------------------------------------------

MOUNTED = """
set -e
mount -t tmpfs -o {options} none "$1"
cd "$2"
exec "$3" - "$1"
"""


def in_mount(options: str, program: str, folder: Path) -> str:
    """Run a program with `folder` a tmpfs that no other process sees; return its output."""
    unshare = ["unshare", "-m"] if os.getuid() == 0 else ["unshare", "-rm"]
    mount = [*unshare, "mount", "-t", "tmpfs", "none", str(folder)]
    if shutil.which("unshare") is None or subprocess.run(mount, check=False).returncode:
        pytest.skip("NO MOUNTS HERE: full and read-only disks go untested")
    command = [*unshare, "sh", "-c", MOUNTED.format(options=options), "sh", str(folder)]
    done = subprocess.run(
        [*command, str(REPOSITORY), sys.executable],
        input=PRELUDE + program, capture_output=True, text=True, check=False,
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
def land_and_print_error(files):
    try:
        land(target, files)
    except LocalError as error:
        print(error)
"""


FULL_DISK = """
land(target, OLD)
for files in ({"big.csv": bytes(2**20)}, {f"{n}.csv": b"" for n in range(100)}):
    land_and_print_error(files)
    assert content(target) == OLD and not beside(target), (content(target), beside(target))
land(target, NEW)
assert content(target) == NEW
"""


def test_full_disk_is_an_error_and_leaves_the_old_data(tmp_path: Path) -> None:
    errors = in_mount("size=256k,nr_inodes=40", FULL_DISK, tmp_path).splitlines()
    assert len(errors) == 2
    assert all("no space left" in line for line in errors)
    assert "events/big.csv" in errors[0]


@pytest.mark.parametrize(
    ("options", "target", "error"),
    [("size=1m", "mount", "is a mount point"), ("ro", "target", "read-only")],
)
def test_mount_point_and_read_only_disk_are_refused(
    tmp_path: Path, options: str, target: str, error: str
) -> None:
    program = f"target = {target}\nland_and_print_error(NEW)\nassert not list(mount.iterdir())\n"
    assert error in in_mount(options, program, tmp_path)


def test_folder_without_permission_is_an_error() -> None:
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
