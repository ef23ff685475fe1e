"""Publishing and recovering, stopped at every step: a complete tree is always there.

Each test of this file knows only what is promised: what a complete tree is, and under which names
a tree may lie for a moment. Recovery never has a host to ask.
"""

from __future__ import annotations

import contextlib
import errno
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

from landed import ARCHIVE, NEW, OLD, SAME, Tree, beside, complete, content, key, land, somewhere
from steps import Death, Steps, write_manifest_in_halves
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
    """A folder that is as it was at the start, again and again."""

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
        """Keep the folder as it is now."""
        saved = self._now.with_name("saved")
        shutil.rmtree(saved, ignore_errors=True)
        shutil.copytree(self._now, saved)
        return saved


@pytest.fixture(params=["replaced", "first"])
def world(request: pytest.FixtureRequest, how: str, tmp_path: Path) -> World:
    """Start with published data, and without."""
    return World(tmp_path, OLD if request.param == "replaced" else None)


def run(target: Path, files: Tree | None, steps: Steps | None = None) -> LighterageError | None:
    """Land, or recover with no host; returns the error. A death has none."""
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
    """Do what SIGTERM does, in the main thread."""
    interrupt._on_signal(signal.SIGTERM, None)


def cuts(world: World, act: Callable[[], None] | None = None) -> Iterator[tuple[Path, Steps]]:
    """Give a fresh target, and the steps of a run on it with something before each of them."""
    steps = Steps()
    run(world.renew(), NEW, steps)
    count = len(steps.names)
    assert count > 12, steps.names
    for at in range(count):
        yield world.renew(), Steps(at, act)


@pytest.mark.parametrize("stop", [None, deliver_signal], ids=["death", "signal"])
def test_a_complete_tree_is_there_after_a_death_at_any_step(
    world: World, stop: Callable[[], None] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And recovery, which may be stopped at any of its steps too, puts it back without a host."""
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


def test_a_signal_at_any_step_leaves_the_old_or_the_new_and_nothing_beside(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    for target, steps in cuts(world, deliver_signal):
        old = complete(target)
        run(target, NEW, steps)
        assert complete(target) in [old, NEW], steps.names
        assert beside(target) <= {".events.part"}, steps.names
        assert complete(target) is None or content(target) == complete(target)


def test_the_watchdog_may_end_the_process_at_any_step_but_those_of_a_publish(world: World) -> None:
    """It cleans up in another thread, and the main thread does not come back."""
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


def test_a_file_of_somebody_else_stays_whenever_it_is_written(world: World) -> None:
    """The run refuses to replace the target, or keeps the replaced tree aside and names it."""
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
        kept = [path for path in (target, target.with_name(".events.replaced"))
                if (path / "notes.txt").exists()]  # fmt: skip
        assert len(kept) == len(written), steps.names
        refusals += error is not None
        aside += kept == [target.with_name(".events.replaced")]
        assert complete(target) == (old if error else NEW)
        assert beside(target) <= {".events.part", *(path.name for path in kept if path != target)}
        for path in kept:
            (path / "notes.txt").unlink()
            if path != target:
                assert content(path) == OLD, "the replaced tree is kept as a whole"
        assert run(target, NEW) is None
        assert complete(target) == NEW
    if old:
        assert aside, "the file was written just before the exchange"
        assert refusals > 5


def test_another_landing_inside_the_target_is_refused_or_stays(world: World) -> None:
    """Whichever of the two comes first."""
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
def test_a_target_inside_another_is_refused_before_anything_is_made(
    tmp_path: Path, name: str
) -> None:
    """Also while the one above has no name for a moment, between two renames."""
    land(tmp_path / "data/events", OLD)
    (tmp_path / "data/events").rename(tmp_path / "data" / name)
    before = everything(tmp_path / "data/events")
    for dry_run in (True, False):
        with (
            pytest.raises(LocalError, match="inside"),
            staging(LocalStore(tmp_path / "data/events/x/inner", overwrite=True), dry_run=dry_run),
        ):
            raise AssertionError("the run would have connected")
    assert everything(tmp_path / "data/events") == before


def test_a_disk_that_is_full_at_any_step_loses_neither_data_nor_a_finished_download(
    world: World,
) -> None:
    failures = 0

    def full() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for target, steps in cuts(world, full):
        old = complete(target)
        error = run(target, NEW, steps)
        assert error is None or isinstance(error, LocalError), error
        failures += error is not None
        assert complete(target) == (old if error else NEW)
        part = target.with_name(".events.part") / key(NEW)
        if error and any("manifest.json" in name for name in steps.names):
            assert part.read_bytes() == NEW[ARCHIVE], "it was finished"
        if error and part.exists():
            # so the next run downloads nothing of it
            assert part.read_bytes() in {NEW[ARCHIVE], b""}
        assert run(target, NEW) is None
        assert complete(target) == content(target) == NEW
        assert beside(target) == set()
    assert failures > 8


# --- that the steps are all there are, and a death what SIGKILL does ------------------------


@pytest.mark.usefixtures("how")
def test_a_death_leaves_what_sigkill_leaves(tmp_path: Path) -> None:
    world = World(tmp_path, OLD)
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
    """So that a death before each step is one between each two system calls."""
    strace = shutil.which("strace")
    target = tmp_path / "data/events"
    log = tmp_path / "calls"
    command = [str(strace), "-f", "-qq", "-o", str(log), "-e", f"trace={','.join(CALLS)}"]
    if strace is None or subprocess.run([*command, "true"], check=False).returncode:
        pytest.skip("NO strace HERE (Debian: apt-get install strace): system calls go uncounted")
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
