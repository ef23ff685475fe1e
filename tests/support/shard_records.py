"""A run in shards without a host, by its records: a plan, what shards landed, the next shard."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cached_property

from msgspec.structs import replace

from landed import sha256
from tasks.fetch.errors import NetworkError
from tasks.fetch.manifest import Manifest, Source
from tasks.fetch.plan import Item, Plan
from tasks.fetch.report import Report
from tasks.fetch.shard_planning import same_settings
from tasks.fetch.sharded import Shard
from tasks.fetch.shards.plan import Assigned, Compared, Failure, RunPlan, ShardFiles
from tasks.fetch.shards.run import Landed, ShardRun
from tasks.fetch.ssh.remote_files import RemoteFile
from tasks.fetch.staging import Staging, staging
from tasks.fetch.stores import open_run
from tasks.resolve import resolve
from tasks.settings import Settings

HOST = "h"
HEADER = Manifest(
    "3", "dev", "me@h:22", "/d", "*.csv", "", keep_archive=False, run_id="r1",
    started="2026-01-01T00:00:00+00:00",
)  # fmt: skip


@dataclass
class RecordedRun:
    """A run of shards that land some files each, of which one is `/d/<shard>/<n % 100>/<n>.csv`.

    Attributes:
        target: Of the run.
        shards: How many there are.
        files: How many each lands.
        options: More settings.
    """

    target: str
    shards: int
    files: int = 1
    options: Sequence[tuple[str, str]] = ()

    def settings(self, shard: int) -> Settings:
        """Return the settings of a shard."""
        environ = {"SHARD": str(shard), "OF": str(self.shards), "RUN_ID": "r1", "NODE": "n"}
        values = {
            "remote_file_path": "/d", "file_save_path": self.target, "remote_host_address": HOST,
            **dict(self.options),
        }  # fmt: skip
        return resolve("3", values, environ=environ).settings.require()

    @cached_property
    def run(self) -> ShardRun:
        """The records."""
        shared = open_run(self.target, "r1", overwrite=True)
        return ShardRun(shared.records, "r1", same_settings(self.settings(1)))

    def items(self, shard: int) -> list[Item]:
        """Return what a shard is to land."""
        names = (f"{shard}/{number % 100}/{number}.csv" for number in range(self.files))
        return [Item(RemoteFile(f"/d/{name}", 1, 0), name, is_archive=False) for name in names]

    def plan(self, unchanged: int = 0, removed: int = 0, changed: Collection[str] = ()) -> None:
        """Create the plan.

        Args:
            unchanged: How many sources need no download.
            removed: How many are published, and no longer on the host.
            changed: The sources that are published in another version.
        """
        plan = RunPlan(
            token="t", node="n", settings=same_settings(self.settings(1)), base="", changes=True,
            prefixed=False, header=HEADER, special=0, notes=[], unchanged=unchanged,
            changed=len(changed), removed=removed,
            shards=[Assigned(HOST, self.files, self.files)] * self.shards,
        )  # fmt: skip
        files = []
        for shard in range(1, self.shards + 1):
            items = self.items(shard)
            paths = [item.source.path for item in items]
            files.append(ShardFiles(items, [path for path in paths if path in changed]))
        old, new = ([f"/d/{what}/{n}.csv" for n in range(count)]
                    for what, count in (("old", removed), ("same", unchanged)))  # fmt: skip
        self.run.create_plan(plan, files, Compared(dict.fromkeys(new, 0), old, [], []))

    def land(self, *shards: int) -> None:
        """Have shards land, in records and in parts."""
        for shard in shards:
            part = open_run(self.target, "r1", overwrite=True).part()
            with staging(part) as staged:
                done = self.stage(staged, shard).manifest
                landed = Landed("n", HEADER.started, 1.0, done.sources, done.files, [])
                self.run.land(shard, landed)

    def stage(self, staged: Staging, shard: int) -> Report:
        """Land the part of a shard in a store, as a task does: each file has the content `1`."""
        staged.begin()
        items, digest = self.items(shard), sha256(b"1")
        for item in items:
            staged.write(item.path, [b"1"], item.source.path)
        sources = [Source(item.source.path, 1, 0, digest) for item in items]
        manifest = replace(HEADER, sources=sources, files=staged.finish())
        return Report("landed", self.target, staged.publish(manifest), Plan())

    def fail(self, *shards: int) -> None:
        """Have shards fail for good."""
        for shard in shards:
            error = NetworkError("no host")
            self.run.set_failed(shard, Failure.of(f"shard {shard}", error))

    def execute(
        self, shard: int, attempt: Callable[[Settings, Staging], Report] | None = None
    ) -> Report:
        """Run a shard; its attempt lands its part, unless another is given."""
        return Shard(self.settings(shard)).execute(
            attempt or (lambda _, staged: self.stage(staged, shard))
        )


def failing(settings: Settings, staged: Staging) -> Report:
    """Fail for good, as an attempt."""
    raise NetworkError(f"no host for {os.getpid()}")
