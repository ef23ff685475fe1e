"""The `SharedRun` protocol: how the shards of one run share a target.

Each shard lands its part in a store of its own; records, which are small files or objects, say who
does what and what is complete. The order of a run:

    shared = open_run("s3://bucket/events", "2026-11-28", overwrite=True)
    shared.records.create("plan.json", plan)       # of several shards one wins
    part = shared.part()                           # a store, and no reader sees what it publishes
    ...
    shared.records.create("shards/2.json", landed)
    target = shared.target()                       # the store of the target, which keeps parts
    target.publish(manifest)
    shared.remove_parts()

No clock is compared, and no lock of the file system is needed: a record is created once, and then
all read the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from tasks.fetch.stores.protocol import Store

if TYPE_CHECKING:
    from tasks.fetch.manifest import Manifest


class Records(Protocol):
    """The records of one run; a name has at most two `/`. Errors are those of the store."""

    def create(self, name: str, data: bytes) -> bytes:
        """Write a record unless it exists; return what it contains then.

        It is complete, or not there at all. Of several that create it at once, each gets the same.
        """

    def write(self, name: str, data: bytes) -> None:
        """Write or replace a record; for one that only its writer depends on."""

    def remove(self, name: str) -> None:
        """Remove a record, if it exists: one on which nothing depends, or no longer."""

    def read(self, name: str) -> bytes | None:
        """Return a record; None where there is none."""

    def names(self, folder: str) -> list[str]:
        """Return the names of the records in a folder, with the folder, sorted."""


class Part(Store, Protocol):
    """A store for what one shard lands: `publish` completes it, and each file states where it is.

    It has no published data: `manifest` returns None. No reader sees its files until a record
    names them.
    """

    def publish(self, manifest: Manifest) -> Manifest:
        """Return the manifest with the attempt (`run`) of each file."""

    def discard(self) -> None:
        """Remove it, since another attempt of the shard was first. Raise nothing."""


class SharedRun(Protocol):
    """A target, as the shards of one run share it."""

    @property
    def records(self) -> Records:
        """The records of the run."""

    def part(self) -> Part:
        """Return a new store for what one shard lands."""

    def target(self) -> Store:
        """Return the store of the target; its `keep` also takes the files of parts.

        Two shards may publish the same at the same time.
        """

    def remove_parts(self) -> None:
        """Remove what publishing copied or linked. Raise nothing."""
