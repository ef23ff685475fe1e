"""Publishing and recovery, stopped at every step: a complete tree exists at each.

The tests know only what is promised: what a complete tree is, and which names it may have for a
moment. Recovery never connects to a host.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from landed import (
    ARCHIVE,
    NEW,
    OLD,
    SAME,
    Tree,
    beside,
    complete,
    content,
    folder_in_memory,
    key,
    land,
    somewhere,
)
from need import need
from steps import Death, Steps, disk_full, write_manifest_in_halves
from tasks.fetch import interrupt
from tasks.fetch.errors import Interrupted, LighterageError, LocalError, NetworkError
from tasks.fetch.staging import staging
from tasks.fetch.stores.local import disk, tree, verify
from tasks.fetch.stores.local.store import LocalStore

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(params=["exchange", "renames"])
def how(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Publish with and without the exchange of two names."""
    if request.param == "renames":
        monkeypatch.setattr(disk, "exchange", lambda *_: False)
    monkeypatch.setattr(tree, "write_manifest", write_manifest_in_halves)
    monkeypatch.setattr(verify, "TICK_NS", 0)  # no run waits for the clock to tick
    return str(request.param)


class World:
    """A folder that each test case starts with a new copy of."""

    def __init__(self, folder: Path, old: Tree | None) -> None:
        self._start = folder / "start"
        self._now = folder / "now"
        (self._start / "data").mkdir(parents=True)
        (self._start / "data/beside.txt").write_bytes(b"mine")
        if old is not None:
            land(self._start / "data/events", old)

    def renew(self, start: Path | None = None) -> Path:
        """Return the target in a new copy, of the start or of another folder."""
        shutil.rmtree(self._now, ignore_errors=True)
        shutil.copytree(start or self._start, self._now)
        return self._now / "data/events"

    def save(self) -> Path:
        """Keep a copy of the folder."""
        saved = self._now.with_name("saved")
        shutil.rmtree(saved, ignore_errors=True)
        shutil.copytree(self._now, saved)
        return saved


@pytest.fixture(params=["replaced", "first"])
def world(request: pytest.FixtureRequest, how: str) -> Iterator[World]:
    """Start with published data, and without."""
    with folder_in_memory() as folder:
        yield World(folder, OLD if request.param == "replaced" else None)


def run(target: Path, files: Tree | None, steps: Steps | None = None) -> LighterageError | None:
    """Land, or recover without a host; return the error. A death has none."""
    steps = steps or Steps()
    with steps.watched():
        try:
            land(target, files)
        except LighterageError as error:
            return error
        except Interrupted:
            interrupt.clean_up()  # as the command line does
    return None


def deliver_signal() -> None:
    """Call the handler of SIGTERM."""
    interrupt._on_signal(signal.SIGTERM, None)


def cuts(world: World, act: Callable[[], None] | None = None) -> Iterator[tuple[Path, Steps]]:
    """Yield a new target and the steps of a run on it, with `act` before one of them."""
    steps = Steps()
    run(world.renew(), NEW, steps)
    count = len(steps.names)
    assert count > 12, steps.names
    for at in range(count):
        yield world.renew(), Steps(at, act)


@pytest.mark.parametrize("stop", [None, deliver_signal], ids=["death", "signal"])
def test_complete_tree_exists_after_a_death_at_any_step(
    world: World, stop: Callable[[], None] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recovery restores it without a host, and may be stopped at any step, too."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    recoveries, states = 0, list[dict[str, bytes | None]]()
    for target, steps in cuts(world):
        old = complete(target)
        run(target, NEW, steps)
        assert steps.dead
        assert old is None or somewhere(target), steps.names
        if (state := everything(target)) in states:
            continue  # recovery from the same state was tried already
        states.append(state)
        saved = world.save()
        done = Steps()
        run(world.renew(saved), None, done)
        for at in range(len(done.names)):
            world.renew(saved)
            before = somewhere(target)
            dying = Steps(at, stop)
            run(target, None, dying)
            recoveries += 1
            assert somewhere(target) or not before, (steps.names, dying.names)
            assert isinstance(run(target, None), NetworkError)
            holds = complete(target)
            assert holds in ([old, NEW] if old else [None, NEW]), (steps.names, dying.names)
            assert holds or not before
            assert holds is None or content(target) == holds
            assert beside(target) <= {".events.part"}
            assert (target.parent / "beside.txt").read_bytes() == b"mine"
        assert run(target, NEW) is None
        assert complete(target) == content(target) == NEW
        assert beside(target) == set()
    assert recoveries > 20


def everything(target: Path) -> dict[str, bytes | None]:
    """Return every path beside a target and below, with the bytes of files."""
    return {
        str(path.relative_to(target.parent)): path.read_bytes() if path.is_file() else None
        for path in target.parent.rglob("*")
    }


def test_signal_at_any_step_leaves_the_old_or_the_new_and_nothing_beside(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    for target, steps in cuts(world, deliver_signal):
        old = complete(target)
        run(target, NEW, steps)
        assert complete(target) in [old, NEW], steps.names
        assert beside(target) <= {".events.part"}, steps.names
        assert complete(target) is None or content(target) == complete(target)


def test_watchdog_may_end_the_process_at_any_step_outside_of_publishing(world: World) -> None:
    """It cleans up in another thread, and the main thread ends where it is."""
    ends: list[bool] = []

    def take_over() -> None:
        writing = threading.current_thread() is not threading.main_thread()
        publishing = interrupt._publishing._is_owned()  # type: ignore[attr-defined]
        ends.append(not writing and not publishing)
        if ends[-1]:
            interrupt.clean_up()
        steps.dead = True
        raise Death

    for target, steps in cuts(world, take_over):
        old = complete(target)
        run(target, NEW, steps)
        holds = complete(target)
        assert old is None or somewhere(target), steps.names
        if ends[-1]:
            assert holds in [old, NEW], steps.names
            assert beside(target) <= {".events.part"}, steps.names
            assert holds is None or content(target) == holds
    assert sum(ends) > 8


def test_foreign_file_written_at_any_step_stays(world: World) -> None:
    """The run refuses to replace the target, or keeps the replaced tree as `.replaced`."""
    target = world.renew()

    def write() -> None:
        with contextlib.suppress(FileNotFoundError):  # no target at this moment
            (target / "notes.txt").write_bytes(b"mine")
            written.append(target)

    aside, refusals = 0, 0
    for target, steps in cuts(world, write):
        old, written = complete(target), list[Path]()
        error = run(target, NEW, steps)
        assert error is None or isinstance(error, LocalError), error
        replaced = target.with_name(".events.replaced")
        found = [path for path in (target, replaced) if (path / "notes.txt").exists()]
        assert len(found) == len(written), steps.names
        refusals += error is not None
        aside += found == [replaced]
        assert complete(target) == (old if error else NEW)
        assert beside(target) <= {".events.part", *(path.name for path in found if path != target)}
        for path in found:
            (path / "notes.txt").unlink()
            if path != target:
                assert content(path) == OLD, "the replaced tree is complete"
        assert run(target, NEW) is None
        assert complete(target) == NEW
    if old:
        assert aside, "the file was written just before the exchange"
        assert refusals > 5


def test_run_inside_the_target_is_refused_or_its_data_stays(world: World) -> None:
    """Whichever of the two publishes first."""
    inner: Tree = {"i.csv": b"inner\n", SAME: b"same\n", ARCHIVE: b"inner"}

    def land_inside() -> None:
        try:
            land(target / "b", inner)
        except LocalError:
            landed.append(False)
        else:
            landed.append(True)

    for target, steps in cuts(world, land_inside):
        old, landed = complete(target), list[bool]()
        error = run(target, NEW, steps)
        assert len(landed) == 1
        assert landed == [False] or complete(target / "b") == inner, steps.names
        assert landed == [False] or isinstance(error, LocalError)
        assert landed == [True] or complete(target) == NEW, steps.names
        assert complete(target) == (old if error else NEW)


@pytest.mark.parametrize("name", ["events", ".events.old"])
def test_target_inside_another_is_refused_before_anything_is_created(
    tmp_path: Path, name: str
) -> None:
    """Also while the outer one is renamed, between the two renames of publishing."""
    land(tmp_path / "data/events", OLD)
    (tmp_path / "data/events").rename(tmp_path / "data" / name)
    before = everything(tmp_path / "data/events")
    for dry_run in (True, False):
        store = LocalStore(tmp_path / "data/events/x/inner", overwrite=True)
        with pytest.raises(LocalError, match="inside"), staging(store, dry_run=dry_run):
            raise AssertionError("the run has started")
    assert everything(tmp_path / "data/events") == before


def test_full_disk_at_any_step_loses_neither_data_nor_a_complete_download(world: World) -> None:
    failures = 0
    for target, steps in cuts(world, disk_full):
        old = complete(target)
        error = run(target, NEW, steps)
        assert error is None or isinstance(error, LocalError), error
        failures += error is not None
        assert complete(target) == (old if error else NEW)
        part = target.with_name(".events.part") / key(NEW)
        if error and any("manifest.json" in name for name in steps.names):
            assert part.read_bytes() == NEW[ARCHIVE]
        if error and part.exists():
            assert part.read_bytes() in {NEW[ARCHIVE], b""}
        assert run(target, NEW) is None
        assert complete(target) == content(target) == NEW
        assert beside(target) == set()
    assert failures > 8


# --- the tests' own steps and deaths ----------------------------------------------------------


@pytest.mark.parametrize("world", ["replaced"], indirect=True)
def test_imitated_death_leaves_what_sigkill_leaves(world: World) -> None:
    for target, steps in cuts(world):
        run(target, NEW, steps)
        imitated = everything(target)
        world.renew()
        pid = os.fork()
        if pid == 0:
            with contextlib.suppress(BaseException):
                dying = Steps(len(steps.names) - 1, lambda: os.kill(os.getpid(), signal.SIGKILL))
                run(target, NEW, dying)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
        assert untimed(everything(target)) == untimed(imitated), steps.names


def untimed(files: dict[str, bytes | None]) -> dict[str, bytes | None]:
    return {
        path: content and re.sub(rb'"mtime_ns":\d+', b"", content)
        for path, content in files.items()
    }


CALLS = {
    "rename": "os.rename", "renameat": "os.rename", "renameat2": "lighterage.exchange",
    "unlink": "os.remove", "unlinkat": "os.remove", "rmdir": "os.rmdir", "mkdir": "os.mkdir",
    "mkdirat": "os.mkdir", "link": "os.link", "linkat": "os.link", "symlink": "os.symlink",
    "symlinkat": "os.symlink", "truncate": "os.truncate", "openat": "open", "open": "open",
    "chmod": "os.chmod", "fchmodat": "os.chmod", "utimensat": "os.utime", "creat": "open",
}  # fmt: skip
COUNTED = """
import sys
sys.path[:0] = ["tests/support", "tests/unit"]
from pathlib import Path
from test_publish import NEW, run, Steps
steps = Steps()
run(Path(sys.argv[1]), NEW if sys.argv[2] == "publish" else None, steps)
print("\\n".join(name.split()[0] for name in steps.names))
"""


@pytest.mark.parametrize("what", ["publish", "recover"])
def test_each_system_call_that_changes_the_disk_is_a_step(tmp_path: Path, what: str) -> None:
    strace = need("strace", "strace", "that every changing system call is a step")
    target = tmp_path / "data/events"
    log = tmp_path / "calls"
    command = [strace, "-f", "-qq", "-o", str(log), "-e", f"trace={','.join(CALLS)}"]
    if subprocess.run([*command, "true"], check=False).returncode:
        pytest.skip("strace MAY NOT TRACE HERE: system calls go uncounted")
    land(target, OLD)
    if what == "recover":  # the old tree is aside, the new one half removed, one more in staging
        shutil.copytree(target, target.with_name(".events.staging"))
        shutil.copytree(target, target.with_name(".events.trash"))
        (target.with_name(".events.trash") / "a.csv").unlink()
        target.rename(target.with_name(".events.old"))
    done = subprocess.run(
        [*command, sys.executable, "-c", COUNTED, str(target), what],
        cwd=REPOSITORY, capture_output=True, text=True, check=True,
    )  # fmt: skip
    calls = []
    for line in log.read_text().splitlines():
        call = line.split(maxsplit=1)[1]
        name = call.partition("(")[0]
        changes = name not in {"open", "openat"} or re.search("O_(WRONLY|RDWR|CREAT)", call)
        if changes and (str(target.parent) in call or re.match(r"\w+\(\d", call)):
            calls.append("os.rmdir" if "AT_REMOVEDIR" in call else CALLS[name])
    assert calls == done.stdout.split()
