"""Publish a run that has shards: one manifest of what all landed, and of what has not changed."""

from __future__ import annotations

import hashlib
from operator import attrgetter
from typing import TYPE_CHECKING

from msgspec import structs

from tasks.fetch.errors import BusyError, IntegrityError, LocalError, RemotePathError
from tasks.fetch.manifest import Manifest, Published, Source
from tasks.fetch.plan import verified
from tasks.fetch.shards.run import Outcome
from tasks.fetch.staging import Staging, staging

if TYPE_CHECKING:
    from collections.abc import Collection

    from tasks.fetch.shards.plan import RunPlan, ShardFiles
    from tasks.fetch.shards.run import Landed, ShardRun
    from tasks.fetch.stores.protocol import Store
    from tasks.fetch.stores.shared import SharedRun

_BY_PATH = attrgetter("path")
PUBLISH_WAIT_S = 60.0
"""How long to wait, at least, for another shard that publishes into the same folder."""


def digest(manifest: Manifest | None) -> str:
    """Return the SHA-256 of a published manifest; an empty text where there is none."""
    if manifest is None:
        return ""
    content = hashlib.sha256()
    for piece in manifest.encoded():
        content.update(piece)
    return content.hexdigest()


class Publication:
    """Assembles what the shards of a run landed; the same, whichever shard does it.

    Args:
        shared: The target.
        run: Its records.
        plan: The plan of the run.
        missing: The shards that failed, and are left out.
        mirror: Whether what is no longer on the host is removed.

    Attributes:
        landed: The sources that the shards landed.
        changed: The paths of those that were published in another version, and of others.
        removed: The paths of the sources that are no longer on the host.
        failed: The remote files that failed in the listing, and in shards that landed others.
    """

    def __init__(
        self,
        shared: SharedRun,
        run: ShardRun,
        plan: RunPlan,
        missing: Collection[int],
        *,
        mirror: bool,
    ) -> None:
        self._shared = shared
        self._run = run
        self._plan = plan
        self._missing_shards = sorted(missing)
        self._compared = run.compared()
        self._missing = [failure.path for failure in self._compared.failed]
        self._sources: dict[str, Source] = {}
        self._is_mirror = mirror
        self.landed: list[Source] = []
        self.changed: list[str] = []
        self.removed = self._compared.removed
        self.failed = [*self._compared.failed]
        self._skipped = plan.header.skipped
        self._finished = plan.header.started

    def publish(self, wait_s: float) -> Manifest:
        """Publish, unless another shard has; return the published manifest.

        Raises:
            BusyError: Another run has published since the plan was made.
            LighterageError: It cannot be published.
        """
        store = self._shared.target()
        with staging(store, wait_s=max(wait_s, PUBLISH_WAIT_S)) as staged:
            before = store.manifest()
            is_new = digest(before) == self._plan.base  # nothing of this plan is published yet
            is_own = not is_new and before is not None and self._is_of_plan(before)
            if is_new or is_own:
                manifest = self._assemble(store, staged, before)
                if is_own and before and manifest.missing == before.missing:
                    manifest = before  # by another shard, which may have ended right after
                else:
                    manifest = staged.publish(manifest)
            elif self._run.is_published():
                return self._plan.header  # and another run since
            else:
                raise BusyError(
                    f"run {self._run.run_id}: another run has published since its plan was made",
                    advice="start again with a new run_id",
                )
        self._run.set_published(Outcome(self._missing_shards, self.failed))
        if not self._missing_shards:
            self._shared.remove_parts()
        return manifest

    def _is_of_plan(self, manifest: Manifest) -> bool:
        """Whether this run published it, and not an earlier run whose id is used again."""
        started = self._plan.header.started
        return (manifest.run_id, manifest.started) == (self._run.run_id, started)

    def _assemble(self, store: Store, staged: Staging, before: Manifest | None) -> Manifest:
        """Stage all files; return their manifest."""
        header = self._plan.header
        staged.begin(self._run.published_key(self._missing_shards))
        old = before.by_source() if before and before.same_selection(header) else {}
        for path, mtime in self._compared.unchanged.items():
            published = verified(store.verify, old[path], content=False)
            if not published.intact:
                raise LocalError(
                    f"{path}: its published data was changed by another program during the run",
                    advice="start again with a new run_id",
                )
            self._keep(staged, published, structs.replace(published.source, mtime=mtime))
        for shard, (assigned, landed) in enumerate(self._run.results(), 1):
            self._add(staged, shard, assigned, landed)
        removed = [] if self._is_mirror else self.removed
        for path in [*removed, *self._compared.hidden, *self._missing]:
            if path in old and staged.keep_old(
                published := verified(store.verify, old[path], content=False)
            ):
                self._sources[path] = published.source
        files = staged.finish()
        if not files:
            raise RemotePathError(
                f"{header.remote_file_path}: no file matches {header.include}",
                advice="set include to the files to land",
            )
        columns = before.columns if before else {}  # of files that are kept
        return structs.replace(
            header,
            columns={key: columns[key] for key in sorted({file.columns for file in files} - {""})},
            sources=sorted(self._sources.values(), key=_BY_PATH),
            files=sorted(files, key=_BY_PATH),
            archives=sorted(staged.archives, key=_BY_PATH),
            skipped=self._skipped,
            finished=self._finished,
            missing=sorted(self._missing),
        )

    def _add(
        self, staged: Staging, shard: int, assigned: ShardFiles, landed: Landed | None
    ) -> None:
        """Stage what a shard landed; note what it did not."""
        part = self._plan.shards[shard - 1]
        prefix = f"{part.host}:" if self._plan.prefixed else ""
        paths = {prefix + item.source.path for item in assigned.items}
        self.changed += assigned.changed
        if landed is None:
            self._missing += paths
            return
        failed = {failure.path for failure in landed.failed}
        found = {source.path for source in landed.sources}
        if found != paths - failed:
            example = min(found ^ (paths - failed))
            raise IntegrityError(
                f"run {self._run.run_id}: what shard {shard} landed is not what the plan assigns "
                f"to it ({example})",
                advice="start again with a new run_id",
            )
        self._missing += failed
        self.failed += landed.failed
        self._skipped += landed.skipped
        self._finished = max(self._finished, landed.finished)
        self.landed += landed.sources
        self._sources.update((source.path, source) for source in landed.sources)
        if landed.sources:
            staged.keep(Published(landed.sources[0], landed.files, landed.archives))

    def _keep(self, staged: Staging, published: Published, source: Source) -> None:
        staged.keep(published)
        self._sources[source.path] = source
