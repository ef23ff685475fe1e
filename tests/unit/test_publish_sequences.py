"""Random sequences of runs, deaths, full disks and foreign files, compared with a model.

Once data was published, a complete tree with a correct manifest exists at every step of every
run; no foreign file is ever lost; and at the end a run without faults publishes.
`LIGHTERAGE_FAULTS=1000` tries 10,000 sequences.
"""

from __future__ import annotations

import contextlib
import os
import shutil
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
    folder_in_memory,
    land,
    locked,
    somewhere,
)
from steps import Steps, disk_full, unwatched, write_manifest_in_halves
from tasks.fetch.errors import BusyError, LocalError, NetworkError
from tasks.fetch.manifest import NAME
from tasks.fetch.stores.local import disk, tree, verify

SEQUENCES = 10 * int(os.environ.get("LIGHTERAGE_FAULTS", "25"))
VERSIONS = [OLD, NEW, {SAME: b"same\n", ARCHIVE: b"packed 3"}]
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
        """Check the invariant before the step."""
        if not self.dead:
            with unwatched():
                self.model.check_step(name)
        super().step(name)


@dataclass
class Model:
    """What must be true of a target.

    Attributes:
        versions: One of these must be published after recovery; None stands for no data.
        intact: Whether no published file was edited or removed since.
        foreign: The contents of foreign files.
    """

    target: Path
    versions: list[Tree | None] = field(default_factory=lambda: [None])
    intact: bool = True
    foreign: list[bytes] = field(default_factory=list)

    # --- events ------------------------------------------------------------------------------

    def land(self, version: Tree, fault: str, at: int) -> None:
        """Run with a fault before a step: death, full disk, foreign file, a run inside."""
        acts: dict[str, Callable[[], None]] = {
            "full": disk_full, "foreign": self.write_foreign, "inside": self.land_inside
        }  # fmt: skip
        steps = Watched(self, None if fault == "none" else at, acts.get(fault))
        refused = self.has_foreign()
        error = run(self.target, version, steps)
        if steps.dead:
            self.versions = [*self.versions, version]
        elif error is None:
            assert not refused
            self.versions, self.intact = [version], True
        else:
            assert isinstance(error, LocalError), error
            assert refused or fault != "none", error
        self.check(recovered=not steps.dead)

    def recover(self, at: int | None) -> None:
        """Run without a host, to a death before step `at`, if any."""
        steps = Watched(self, at)
        error = run(self.target, None, steps)
        assert steps.dead or isinstance(error, LocalError if self.has_foreign() else NetworkError)
        self.check(recovered=not steps.dead)

    def second_run(self) -> None:
        """Run while another run has the lock."""
        if self.has_foreign():
            return
        with locked(self.target), contextlib.suppress(BusyError):
            land(self.target, NEW)
            raise AssertionError("two runs at once")
        self.check(recovered=True)

    def write_foreign(self) -> None:
        """Write a new file into the target, or into an empty folder in its place."""
        self.target.mkdir(exist_ok=True)
        self.foreign.append(b"notes %d" % len(self.foreign))
        with (self.target / f"{len(self.foreign)}{NOTES}").open("xb") as file:
            file.write(self.foreign[-1])

    def land_inside(self) -> None:
        """Publish in a folder of the target."""
        inner: Tree = {SAME: b"same\n", ARCHIVE: b"inner %d" % len(self.foreign)}
        with contextlib.suppress(LocalError):
            land(self.target / f"{len(self.foreign)}inner", inner)
            self.foreign.append(inner[ARCHIVE])

    def edit(self) -> None:
        """Edit a published file in place, to the same size."""
        with contextlib.suppress(FileNotFoundError), (self.target / SAME).open("r+b") as file:
            file.write(b"SAME")
            self.intact = False

    def remove(self) -> None:
        """Remove a published file."""
        with contextlib.suppress(FileNotFoundError):
            (self.target / ARCHIVE).unlink()
            self.intact = False

    def tidy(self) -> None:
        """Remove the foreign files, and the replaced trees that stayed because of them."""
        for path in self.target.glob(f"*{NOTES}"):
            path.unlink()
        for path in [*self.target.glob("*inner"), *self.target.parent.glob(".events.replaced*")]:
            shutil.rmtree(path)
        if self.target.is_dir() and not any(self.target.iterdir()):
            self.target.rmdir()
        self.foreign = []

    # --- checks ------------------------------------------------------------------------------

    def has_foreign(self) -> bool:
        """Whether the target contains foreign files."""
        return self.target.is_dir() and (
            any(self.target.glob(f"*{NOTES}")) or any(self.target.glob("*inner"))
        )

    def check_step(self, name: str) -> None:
        """Check the invariant of every step."""
        assert None in self.versions or not self.intact or somewhere(self.target), name

    def check(self, *, recovered: bool) -> None:
        """Check the target and the foreign files after a run."""
        files = self.target.parent.rglob("*")
        assert {path.read_bytes() for path in files if path.is_file()}.issuperset(self.foreign)
        self.check_step("end")
        unpublished = self.has_foreign() and not (self.target / NAME).exists()
        if recovered and self.intact and not unpublished:
            published = complete(self.target)
            assert published in self.versions
            self.versions = [published]

    def check_end(self) -> None:
        """Check that a run without faults publishes."""
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
    with folder_in_memory() as folder:
        yield folder


@settings(
    max_examples=SEQUENCES, derandomize=True, database=None, deadline=None,
    phases=[Phase.generate, Phase.shrink], suppress_health_check=list(HealthCheck),
)  # fmt: skip
@given(events=EVENTS, exchange=st.booleans())
def test_any_sequence_keeps_a_complete_tree_and_every_foreign_file(
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
