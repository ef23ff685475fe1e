"""The status of a run that has shards: a line for each shard, or JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import msgspec

from tasks.fetch.errors import ConfigError
from tasks.fetch.progress import human
from tasks.fetch.shards.run import ShardRun
from tasks.fetch.stores import open_run

if TYPE_CHECKING:
    from tasks.fetch.shards.plan import Failure
    from tasks.fetch.shards.run import ShardState

RunState = Literal["planning", "running", "failed", "published", "partial", "unchanged"]


class RunStatus:
    """The status of a run, as its records state it now.

    Args:
        target: `file_save_path`.
        run_id: Of the run.

    Raises:
        ConfigError: No shard of it has started.
    """

    def __init__(self, target: str, run_id: str) -> None:
        run = ShardRun(open_run(target, run_id, overwrite=True).records, run_id, {})
        self._run_id = run_id
        self._plan = run.plan()
        self.shards = run.states()
        self._published = run.published()
        if not self.shards:
            raise ConfigError(
                f"run {run_id}: no shard of it has started in {target}",
                advice="check run_id and the task",
            )

    @property
    def _failed(self) -> list[Failure]:
        """The remote files that are not in what was published, though their shards landed."""
        complete = (outcome.failed for outcome in self._published if not outcome.shards)
        return next(complete, [])

    @property
    def state(self) -> RunState:
        """What the run as a whole does; `partial` is published without what failed."""
        if any(not (outcome.shards or outcome.failed) for outcome in self._published):
            return "published"
        if self._plan and not self._plan.changes:
            return "unchanged"
        if self._published:
            return "partial"
        if any(shard.error for shard in self.shards):
            return "failed"
        return "running" if self._plan else "planning"

    @property
    def exit_code(self) -> int:
        """0, or the exit code of the first shard or remote file that failed."""
        errors = [*(shard.error for shard in self.shards if shard.error), *self._failed]
        return errors[0].exit_code if errors and self.state in {"failed", "partial"} else 0

    def data(self) -> dict[str, Any]:
        """Return the status for programs."""
        return {
            "run_id": self._run_id,
            "state": self.state,
            "exit_code": self.exit_code,
            "planner": self._plan.node if self._plan else "",
            "shards": msgspec.to_builtins(self.shards),
        }

    def lines(self) -> list[str]:
        """Return the status for people."""
        landed = sum(shard.state in {"landed", "idle"} for shard in self.shards)
        head = ("shard", "state", "node", "host", "files", "bytes", "written")
        rows = [head, *(_row(shard) for shard in self.shards)]
        wide = [max(len(row[column]) for row in rows) for column in range(len(head))]
        errors = [
            f"  shard {shard.shard} failed: {shard.error.kind}: {shard.error.error}"
            for shard in self.shards
            if shard.error and self.state != "published"
        ] + [f"  failed: {failure.kind}: {failure.error}" for failure in self._failed]
        return [
            f"run {self._run_id}: {self.state}; {landed} of {len(self.shards)} shards landed",
            *("  " + "  ".join(map(str.ljust, row, wide)).rstrip() for row in rows),
            *errors,
        ]


def _row(shard: ShardState) -> tuple[str, ...]:
    size = human(shard.bytes)
    if shard.state not in {"landed", "idle"}:
        size = f"{human(shard.done)} of {size}"
    number, files = str(shard.shard), str(shard.files)
    return number, shard.state, shard.node, shard.host, files, size, shard.written
