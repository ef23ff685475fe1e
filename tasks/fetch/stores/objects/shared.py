"""The object store of a run that has shards.

    runs/<run id>/...           the records; see `tasks.fetch.shards`
    objects/<attempt>/<path>    the files of one shard's attempt, as of any run

The manifest that is published names the objects of the attempts: nothing is copied.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from tasks.fetch.errors import LighterageError
from tasks.fetch.stores.objects.bucket import Bucket
from tasks.fetch.stores.objects.location import Access, Location
from tasks.fetch.stores.objects.store import ObjectStore

if TYPE_CHECKING:
    from tasks.fetch.manifest import Manifest
    from tasks.fetch.stores.shared import Part


class ObjectRecords:
    """The records of a run, as objects; see `stores.shared.Records`."""

    def __init__(self, bucket: Bucket, run_id: str) -> None:
        self._bucket = bucket
        self._run_id = run_id
        self._folder = f"runs/{run_id}"

    def create(self, name: str, data: bytes) -> bytes:
        """Write a record unless it exists; return what it contains then."""
        while not self._bucket.put_if(f"{self._folder}/{name}", data, None):
            if (found := self.read(name)) is not None:
                return found
        return data

    def write(self, name: str, data: bytes) -> None:
        """Write or replace a record."""
        self._bucket.put(f"{self._folder}/{name}", data, self._run_id)

    def remove(self, name: str) -> None:
        """Remove a record, if it exists."""
        self._bucket.delete([f"{self._folder}/{name}"])

    def read(self, name: str) -> bytes | None:
        """Return a record; None where there is none."""
        found = self._bucket.get(f"{self._folder}/{name}")
        return found[0] if found else None

    def names(self, folder: str) -> list[str]:
        """Return the names of the records in a folder."""
        keys = (key for key, _, _ in self._bucket.entries(f"{self._folder}/{folder}"))
        return sorted(key.removeprefix(f"{self._folder}/") for key in keys)


class ObjectRun:
    """A prefix of a bucket that shards share; for the methods see `stores.shared.SharedRun`."""

    def __init__(self, target: str, run_id: str, *, overwrite: bool) -> None:
        self._target = target
        self._overwrite = overwrite
        bucket = Bucket(Location.parse(target), Access.from_environment(), target)
        self.records = ObjectRecords(bucket, run_id)

    def part(self) -> Part:
        """Return a store for the objects of one shard."""
        return ObjectPart(self._target, overwrite=True)

    def target(self) -> ObjectStore:
        """Return the store of the prefix."""
        return PublishingStore(self._target, overwrite=self._overwrite)

    def remove_parts(self) -> None:
        """Do nothing: the manifest names the objects where they are."""


class ObjectPart(ObjectStore):
    """The objects of one shard's attempt; see `stores.shared.Part`."""

    def check(self) -> None:
        """Check nothing: the planner checks the target."""

    def manifest(self) -> None:
        """Return None: nothing is published here."""

    def publish(self, manifest: Manifest) -> Manifest:
        """Complete the uploads; `prune` deletes the objects if no manifest names them."""
        self._uploads.finish()
        self._require_own_objects()
        self._may_be_published = self.published = True
        return manifest.with_run(self._run)

    def discard(self) -> None:
        """Delete the objects."""
        self._may_be_published = self.published = False
        self._discard()


class PublishingStore(ObjectStore):
    """The store of the prefix, for a shard that publishes what others landed, too."""

    _has_conditions = True  # each part has proved it; another shard may publish at the same time

    def _discard(self) -> None:
        """Delete nothing: another shard may have published the same manifest."""
        with contextlib.suppress(LighterageError):
            self._uploads.stop()
