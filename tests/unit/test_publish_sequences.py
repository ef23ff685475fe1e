"""Random sequences of runs, deaths, full disks and other people's files, against a model.

At every step of every run a complete tree whose manifest is true is there, if one was published;
no file of somebody else is ever lost; and in the end a run without faults publishes.
`LIGHTERAGE_FAULTS=1000` tries 10,000 sequences.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from test_publish import run

from landed import (
    ARCHIVE,
    NEW,
    OLD,
    SAME,
    Tree,
    beside,
    complete,
    content,
    land,
    locked,
    somewhere,
)
from steps import Steps, unwatched, write_manifest_in_halves
from tasks.fetch.errors import BusyError, LocalError, NetworkError
from tasks.fetch.manifest import NAME
from tasks.fetch.stores.local import disk, tree, verify

SEQUENCES = 10 * int(os.environ.get("LIGHTERAGE_FAULTS", "45"))
VERSIONS = [OLD, NEW, {SAME: b"same\n", ARCHIVE: b"packed 3"}]
FAST = Path("/dev/shm")
NOTES = "notes.txt"


@dataclass
class Watched(Steps):
    """Steps before each of which the invariant is checked."""

    model: Model
    at: int | None = None
    act: Callable[[], None] | None = None

    def __post_init__(self) -> None:
        super().__init__(self.at, self.act)

    def step(self, name: str) -> None:
        """Check, and go on as always."""
        if not self.dead:
            with unwatched():
                self.model.check_step(name)
        super().step(name)


@dataclass
class Model:
    """What must be true of a target, whatever has happened to it.

    Attributes:
        may_hold: Of these one must be at the target after recovery; None is no published data.
        sound: Whether nobody has edited or removed a published file since.
        foreign: The contents of files that are somebody else's.
    """

    target: Path
    may_hold: list[Tree | None] = field(default_factory=lambda: [None])
    sound: bool = True
    foreign: list[bytes] = field(default_factory=list)

    # --- what happens ------------------------------------------------------------------------

    def land(self, version: Tree, fault: str, at: int) -> None:
        """Run with a fault before a step: death, full disk, somebody's file, a run inside."""
        acts: dict[str, Callable[[], None]] = {
            "full": self.full, "foreign": self.write_foreign, "inside": self.land_inside
        }  # fmt: skip
        steps = Watched(self, None if fault == "none" else at, acts.get(fault))
        refused = self.has_foreign()
        error = run(self.target, version, steps)
        if steps.dead:
            self.may_hold = [*self.may_hold, version]
        elif error is None:
            assert not refused
            self.may_hold, self.sound = [version], True
        else:
            assert isinstance(error, LocalError), error
            assert refused or fault != "none", error
        self.check(recovered=not steps.dead)

    def recover(self, at: int | None) -> None:
        """Run with no host, perhaps to a death."""
        steps = Watched(self, at)
        error = run(self.target, None, steps)
        assert steps.dead or isinstance(error, LocalError if self.has_foreign() else NetworkError)
        self.check(recovered=not steps.dead)

    def second_run(self) -> None:
        """Run while another run has the lock; both have a host."""
        if self.has_foreign():
            return
        with locked(self.target), contextlib.suppress(BusyError):
            land(self.target, NEW)
            raise AssertionError("two runs at once")
        self.check(recovered=True)

    def write_foreign(self) -> None:
        """Write a file into the target; where there is no target, make the folder first."""
        self.target.mkdir(exist_ok=True)
        self.foreign.append(b"notes %d" % len(self.foreign))
        path = next(
            path
            for number in itertools.count()
            if not (path := self.target / f"{number}{NOTES}").exists()
        )
        path.write_bytes(self.foreign[-1])

    def land_inside(self) -> None:
        """Publish in a folder of the target."""
        inner: Tree = {SAME: b"same\n", ARCHIVE: b"inner %d" % len(self.foreign)}
        with contextlib.suppress(LocalError):
            land(self.target / f"{len(self.foreign)}inner", inner)
            self.foreign.append(inner[ARCHIVE])

    def full(self) -> None:
        """Say that the disk is full."""
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def edit(self) -> None:
        """Edit a published file where it lies, to the same size."""
        with contextlib.suppress(FileNotFoundError), (self.target / SAME).open("r+b") as file:
            file.write(b"SAME")
            self.sound = False

    def remove(self) -> None:
        """Remove a published file."""
        with contextlib.suppress(FileNotFoundError):
            (self.target / ARCHIVE).unlink()
            self.sound = False

    def tidy(self) -> None:
        """Move other files out of the target, and remove what was kept aside for their sake."""
        for path in self.target.glob(f"*{NOTES}"):
            path.unlink()
        for path in [*self.target.glob("*inner"), *self.target.parent.glob(".events.replaced*")]:
            shutil.rmtree(path)
        if self.target.is_dir() and not any(self.target.iterdir()):
            self.target.rmdir()
        self.foreign = []

    # --- what must be true -------------------------------------------------------------------

    def has_foreign(self) -> bool:
        """Whether the target holds files that are not its own."""
        return self.target.is_dir() and (
            any(self.target.glob(f"*{NOTES}")) or any(self.target.glob("*inner"))
        )

    def check_step(self, name: str) -> None:
        """Check what must be true at every moment."""
        assert None in self.may_hold or not self.sound or somewhere(self.target), name

    def check(self, *, recovered: bool) -> None:
        """Check what must be true after a run."""
        files = self.target.parent.rglob("*")
        there = {path.read_bytes() for path in files if path.is_file()}
        assert there.issuperset(self.foreign)
        self.check_step("end")
        if recovered and self.sound and not (self.has_foreign() and not self.has_manifest()):
            holds = complete(self.target)
            assert holds in self.may_hold
            self.may_hold = [holds]

    def has_manifest(self) -> bool:
        """Whether the target is a published one."""
        return (self.target / NAME).exists()

    def check_end(self) -> None:
        """Check that all is well again after one run without faults."""
        self.tidy()
        self.recover(None)
        self.land(NEW, "none", 0)
        assert complete(self.target) == content(self.target) == NEW
        assert beside(self.target) == set()


STEP = st.integers(0, 45)
EVENTS = st.lists(
    st.one_of(
        st.tuples(
            st.just(Model.land),
            st.sampled_from(VERSIONS),
            st.sampled_from(["none", "die", "die", "die", "full", "foreign", "inside"]),
            STEP,
        ),
        st.tuples(st.just(Model.recover), st.none() | STEP),
        st.sampled_from(
            [(Model.second_run,), (Model.write_foreign,), (Model.edit,), (Model.remove,),
             (Model.tidy,), (Model.tidy,)]
        ),
    ),
    min_size=1,
    max_size=8,
)  # fmt: skip


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=FAST if os.access(FAST, os.W_OK) else None) as made:
        yield Path(made)


@settings(
    max_examples=SEQUENCES, derandomize=True, database=None, deadline=None,
    phases=[Phase.generate, Phase.shrink], suppress_health_check=list(HealthCheck),
)  # fmt: skip
@given(events=EVENTS, exchange=st.booleans())
def test_any_sequence_keeps_a_complete_tree_and_every_file_of_others(
    folder: Path, events: list[tuple[Callable[..., None], object]], exchange: bool
) -> None:
    shutil.rmtree(folder / "data", ignore_errors=True)
    (folder / "data").mkdir()
    model = Model(folder / "data/events")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tree, "write_manifest", write_manifest_in_halves)
        patch.setattr(verify, "TICK_NS", 0)
        if not exchange:
            patch.setattr(disk, "exchange", lambda *_: False)
        for event, *arguments in events:
            event(model, *arguments)
        model.check_end()
