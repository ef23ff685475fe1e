"""The state of a run that has shards: its records, beside the target.

assigned/<token>.<k>.json  the files that shard k is to land, by the plan with that token
assigned/<token>.compared.json  what is unchanged, removed, hidden, and cannot be listed
plan.json               how many each shard lands, and of which host; created by one of the shards
shards/<k>.json         what shard k landed; the first attempt that creates it counts
progress/<k>.json       what shard k does or why it failed; written again and again
failed/<k>.json         why shard k failed for good; removed when it is started again, and without a
                        meaning once it has landed
published/<key>.json    what was published
leases/...              who plans, and who is connected to a host; see `lease`
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal, TypeVar

import msgspec
from msgspec import Struct, field

from tasks.fetch.errors import LocalError
from tasks.fetch.manifest import File, Source
from tasks.fetch.shards.plan import Compared, Failure, RunPlan, ShardFiles
from tasks.fetch.threads import call_ahead

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from tasks.fetch.stores.shared import Records

State = Literal["waiting", "running", "landed", "failed", "stopped", "idle"]
T = TypeVar("T")
READS_AT_ONCE = 32
"""Records that are read at once: most of the time is that of the requests."""
FILES_AHEAD = 20_000
"""Files of shards whose records are read ahead, as JSON: 8 MB."""
_encode = msgspec.json.encode


class Landed(Struct, frozen=True, tag_field="schema", tag="lighterage-shard/1"):
    """The record of what a shard landed; each file states the attempt (`run`) that has it."""

    node: str
    finished: str
    seconds: float
    sources: list[Source]
    files: list[File]
    archives: list[File]
    skipped: int = 0
    failed: list[Failure] = field(default_factory=list)


class Progress(Struct, frozen=True, tag_field="schema", tag="lighterage-progress/1"):
    """The record of what a shard does.

    Attributes:
        attempt: The name of the attempt that is under way: `prune` then leaves its files.
        done: Bytes downloaded so far.
        written: When this was written, by the clock of the node.
    """

    node: str
    state: State
    done: int = 0
    attempt: str = ""
    error: Failure | None = None
    written: str = ""


class Outcome(Struct, frozen=True, tag_field="schema", tag="lighterage-published/1"):
    """The record of what was published: what the manifest lacks.

    Attributes:
        shards: Those that failed.
        failed: The remote files that could not be read, of the listing and of the other shards.
    """

    shards: list[int]
    failed: list[Failure]


class ShardState(Struct, frozen=True):
    """What `status` shows of one shard."""

    shard: int
    state: State
    node: str
    host: str
    files: int
    bytes: int
    done: int
    written: str
    error: Failure | None = None


class ShardRun:
    """A run that has shards, as its records state it.

    Args:
        records: Of the run.
        run_id: Its id, for messages.
        settings: Those that must be the same in each shard; none to accept any plan.
    """

    def __init__(self, records: Records, run_id: str, settings: Mapping[str, str]) -> None:
        self.records = records
        self.run_id = run_id
        self._settings = settings
        self._plan: RunPlan | None = None

    def plan(self) -> RunPlan | None:
        """Return the plan; None while there is none.

        Raises:
            ConfigError: It was made with other settings.
        """
        if self._plan is None and (data := self.records.read("plan.json")) is not None:
            plan = self._decoded("plan.json", data, RunPlan)
            plan.require(self.run_id, self._settings)
            self._plan = plan
        return self._plan

    def _known_plan(self) -> RunPlan:
        plan = self.plan()
        assert plan  # noqa: S101 (for the types: who asks has read it before)
        return plan

    def create_plan(self, plan: RunPlan, shards: Sequence[ShardFiles], compared: Compared) -> None:
        """Make this the plan, with what each shard lands, unless there is one by now."""
        for shard, files in enumerate(shards, 1):
            self.records.create(_part(plan, shard), _encode(files))
        self.records.create(_part(plan, "compared"), _encode(compared))
        self.records.create("plan.json", _encode(plan))

    def assigned(self, shard: int) -> ShardFiles:
        """Return what a shard lands, by the plan; raise `LocalError` if it cannot be read."""
        return self._of_plan(shard, ShardFiles)

    def compared(self) -> Compared:
        """Return what else the planner found; raise `LocalError` if it cannot be read."""
        return self._of_plan("compared", Compared)

    def _of_plan(self, what: int | str, kind: type[T]) -> T:
        plan = self._known_plan()
        name = _part(plan, what)
        return self._decoded(name, self.records.read(name) or b"", kind)

    # --- what landed ---------------------------------------------------------------------------

    def land(self, shard: int, landed: Landed) -> bool:
        """Record what a shard landed; return False where another attempt was first."""
        data = _encode(landed)
        return self.records.create(f"shards/{shard}.json", data) == data

    def landed_shards(self) -> set[int]:
        """Return the shards that have nothing more to land."""
        plan = self.plan()
        numbers = {int(name[7:-5]) for name in self.records.names("shards")}
        if plan:
            numbers |= {k for k, part in enumerate(plan.shards, 1) if not part.files}
        return numbers

    def landed(self, shard: int) -> Landed | None:
        """Return what a shard landed; None while it has not."""
        name = f"shards/{shard}.json"
        data = self.records.read(name)
        return None if data is None else self._decoded(name, data, Landed)

    def results(self) -> Iterator[tuple[ShardFiles, Landed | None]]:
        """Yield, for each shard in their order, what it was to land, and what it landed.

        Raises:
            LocalError: A record cannot be read.
        """
        plan = self._known_plan()
        parts = enumerate(plan.shards, 1)
        names = [(_part(plan, shard), f"shards/{shard}.json", part.files) for shard, part in parts]
        read = self.records.read
        found = call_ahead(
            lambda name: (name, read(name[0]), read(name[1])), names, READS_AT_ONCE,
            lambda name: name[2], FILES_AHEAD,
        )  # fmt: skip
        for (assigned, landed, _), one, other in found:
            yield (
                self._decoded(assigned, one or b"", ShardFiles),
                None if other is None else self._decoded(landed, other, Landed),
            )

    # --- progress ------------------------------------------------------------------------------

    def write_progress(self, shard: int, progress: Progress) -> None:
        """Record what a shard does."""
        progress = msgspec.structs.replace(progress, written=_now())
        self.records.write(f"progress/{shard}.json", _encode(progress))

    # --- failures ------------------------------------------------------------------------------

    def set_failed(self, shard: int, failure: Failure) -> None:
        """Record that a shard failed for good, and why."""
        self.records.write(f"failed/{shard}.json", _encode(failure))

    def clear_failed(self, shard: int) -> None:
        """Record that a shard tries again, if it had failed."""
        self.records.remove(f"failed/{shard}.json")

    def failed_shards(self) -> set[int]:
        """Return the shards that failed for good; of one that has landed this means nothing."""
        return {int(name[7:-5]) for name in self.records.names("failed")}

    def failures(self, shards: Iterable[int]) -> dict[int, Failure]:
        """Return why shards failed for good, of those that still have not started again."""
        found = self._read_each("failed", shards, Failure)
        return {shard: failure for shard, failure in found if failure}

    # --- status --------------------------------------------------------------------------------

    def states(self) -> list[ShardState]:
        """Return what each shard does."""
        plan, landed = self.plan(), self.landed_shards()
        known = {int(name[9:-5]) for name in self.records.names("progress")} | landed
        count = len(plan.shards) if plan else max(known, default=0)
        found = self._read_each("progress", range(1, count + 1), Progress)
        waiting = Progress("", "waiting")
        return [
            self._state(shard, progress or waiting, shard in landed) for shard, progress in found
        ]

    def _state(self, shard: int, progress: Progress, is_landed: bool) -> ShardState:
        plan = self.plan()
        part = plan.shards[shard - 1] if plan else None
        files, size = (part.files, part.size) if part else (0, 0)
        state, done = progress.state, progress.done
        if is_landed:
            state, done = ("landed" if files else "idle"), size
        error = progress.error if progress.state == "failed" else None
        host = part.host if part else ""
        return ShardState(
            shard, state, progress.node, host, files, size, done, progress.written, error
        )

    # --- published -----------------------------------------------------------------------------

    def published_key(self, missing: Iterable[int]) -> str:
        """Return a name for what is published without some shards: the same in each shard."""
        plan = self._known_plan()
        shards = ",".join(map(str, sorted(missing)))
        return hashlib.sha256(f"{plan.token} {shards}".encode()).hexdigest()[:16]

    def set_published(self, outcome: Outcome) -> None:
        """Record that a manifest was published, and what it lacks."""
        name = f"published/{self.published_key(outcome.shards)}.json"
        self.records.create(name, _encode(outcome))

    def published(self) -> list[Outcome]:
        """Return, for each time something was published, what it lacked."""
        names = self.records.names("published")
        found = ((name, self.records.read(name)) for name in names)
        return [self._decoded(name, data, Outcome) for name, data in found if data]

    def is_published(self) -> bool:
        """Whether something was published that lacks no shard."""
        return self.records.read(f"published/{self.published_key([])}.json") is not None

    def _read_each(
        self, folder: str, shards: Iterable[int], kind: type[T]
    ) -> Iterator[tuple[int, T | None]]:
        """Yield the record that each of some shards has in a folder; None where it has none."""
        numbers = sorted(shards)
        names = [f"{folder}/{shard}.json" for shard in numbers]
        found = call_ahead(self.records.read, names, READS_AT_ONCE, lambda _: 1, READS_AT_ONCE)
        for shard, name, data in zip(numbers, names, found, strict=True):
            yield shard, None if data is None else self._decoded(name, data, kind)

    def _decoded(self, name: str, data: bytes, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(data, type=kind)
        except msgspec.DecodeError as error:
            raise LocalError(
                f"run {self.run_id}: its record {name} cannot be read ({error})",
                advice="start a new run_id with one version of Lighterage for all shards",
            ) from error


def _part(plan: RunPlan, what: int | str) -> str:
    return f"assigned/{plan.token}.{what}.json"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
