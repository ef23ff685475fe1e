"""One attempt of a run: plan, download, verify, publish, report."""

from __future__ import annotations

import contextlib
import logging
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from operator import attrgetter
from typing import TYPE_CHECKING

from msgspec import structs

from tasks.fetch.after import After
from tasks.fetch.archive_stream import Unpacker
from tasks.fetch.download import Downloads
from tasks.fetch.errors import CsvError, LocalError, RemotePathError, SpaceError
from tasks.fetch.manifest import File, Manifest
from tasks.fetch.plan import Plan, compare
from tasks.fetch.progress import progress
from tasks.fetch.report import Changes, Report
from tasks.fetch.tables.drift import drifts, listed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from tasks.fetch.manifest import Source
    from tasks.fetch.plan import Item
    from tasks.fetch.progress import Progress
    from tasks.fetch.report import Status
    from tasks.fetch.sources import Found, Selection
    from tasks.fetch.ssh.host import Host
    from tasks.fetch.ssh.remote_checksums import RemoteChecksums
    from tasks.fetch.ssh.remote_files import RemoteFile
    from tasks.fetch.staging import Staging
    from tasks.fetch.tables.drift import Drift
    from tasks.settings import Settings

log = logging.getLogger(__name__)

_BY_PATH = attrgetter("path")
CHECKSUM_TIMEOUT_S = 86400.0
"""How long the host may compute checksums while nothing is downloaded."""


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass
class Attempt:
    """One attempt to land what was found on the host.

    Attributes:
        staging: Locked, unless it is a dry run.
        run_started: When the run started, by the monotonic clock.
        name: Of the source's host in the manifest; empty for that of the connection.
        part: Of a shard, what is called with its progress; others may land what this one does not.
    """

    settings: Settings
    host: Host
    staging: Staging
    selection: Selection
    run_started: float
    name: str = ""
    part: Callable[[Progress], None] | None = None
    _started: str = field(default_factory=_now)
    _reasons: list[str] = field(default_factory=list)
    _plain_copy: str = ""
    _replaced: Manifest | None = None  # of the published data, of whatever selection
    _drifts: list[Drift] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._after = After(self.settings, self.host)

    def land(self, found: Found) -> Report:
        """Download what is new or changed, verify it and publish it.

        Raises:
            LighterageError: The data published before is unchanged then.
        """
        settings = self.settings
        before, plan = self.compare(found)
        if plan.unchanged:
            how = "sha256" if settings.checksum else "size and time"
            self._reasons.append(
                f"{len(plan.downloads)} to download, {len(plan.unchanged)} unchanged by {how}"
            )
        log.debug(
            "%s: %d added, %d changed, %d unchanged, %d removed", settings.remote_file_path,
            len(plan.added), len(plan.changed), len(plan.unchanged), len(plan.removed),
        )  # fmt: skip
        unpacker = Unpacker(settings, self.host, self.staging, self.selection, found.skipped)
        downloads = Downloads(
            settings, self.host, self.staging, plan, unpacker, failed=[*found.failed]
        )
        if settings.dry_run:
            manifest = before or self.header()
            if settings.after != "keep":
                found.notes.append(f"would then do with what landed on the host: {settings.after}")
            return self._report("planned", manifest, plan, downloads, found)
        if before and plan.changes_nothing(mirror=settings.mirror):
            self.staging.keep_partial_downloads({})
            self._update_times(before, plan)
            self._plain_copy = self.staging.store.copy_published()
            self._after.apply(before, found, [failure.path for failure in downloads.failed])
            return self._report("unchanged", before, plan, downloads, found)
        with self._space(plan.downloads):
            self._download(plan, downloads, found)
        manifest = self._complete_manifest(plan, downloads)
        self._check_columns(manifest)
        manifest = self.staging.publish(manifest)
        self._plain_copy = self.staging.store.copy_published()
        self._after.apply(manifest, found, [failure.path for failure in downloads.failed])
        return self._report("landed", manifest, plan, downloads, found)

    def compare(self, found: Found) -> tuple[Manifest | None, Plan]:
        """Return the manifest of the published data, if it is of the same selection, and the plan.

        Raises:
            LighterageError: The host cannot be asked for checksums, or `after` cannot be done.
        """
        settings, before = self.settings, self._before()
        checksums = self._host_checksums if settings.checksum else None
        verify = self.staging.store.verify
        plan = compare(
            found.items, before, verify, checksums, force=settings.force,
            landed_path=self.staging.landed_path,
        )  # fmt: skip
        plan.hide([*(failure.path for failure in found.failed), *found.late])
        self._after.require_folder(found)
        if found.nothing or settings.after != "keep":
            plan.hide([published.source.path for published in plan.removed])
        return before, plan

    def published(self) -> Mapping[str, Source]:
        """Return the published sources of the same selection, by path."""
        before = self._before()
        return {source.path: source for source in before.sources} if before else {}

    def _before(self) -> Manifest | None:
        """Return the manifest of the published data, if it is of the same selection."""
        before = self._replaced = self.staging.store.manifest()
        return before if before and before.same_selection(self.header()) else None

    def _download(self, plan: Plan, downloads: Downloads, found: Found) -> None:
        settings, items = self.settings, plan.downloads
        self.staging.begin()
        self.staging.keep_partial_downloads(
            {downloads.key(item): item.source.size for item in items if item.is_archive}
            if settings.keep_archive
            else {}
        )
        for published in plan.unchanged:
            downloads.keep(published)
        files = [item.source for item in items]
        remote_checksums = self.host.remote_checksums(files, found.checksum_files)
        started = time.monotonic()
        total = sum(item.source.size for item in items)
        name, mode = str(settings.remote_file_path), settings.progress
        with progress(name, total, "none" if settings.quiet else mode, len(items)) as bar:
            if self.part:
                self.part(bar)
            downloads.download_all(bar)
        for published in [*([] if settings.mirror else plan.removed), *plan.hidden]:
            downloads.keep_old(published)
        self.staging.finish()
        timeout_s = max(settings.timeout, time.monotonic() - started)
        checksums = downloads.verify(remote_checksums, timeout_s)
        if settings.explain:
            self._reasons.append(self._explain_checksums(plan, remote_checksums, checksums))

    @contextlib.contextmanager
    def _space(self, items: Sequence[Item]) -> Iterator[None]:
        """Warn where the downloads may not fit; where they do not, say what they need."""
        free = self.staging.store.free_bytes()
        keeps = self.settings.keep_archive
        needed = sum(item.source.size for item in items if keeps or not item.is_archive)
        if free is not None and free < needed:
            text = "%s: %d bytes are free, and the files to download have %d: they may not fit"
            log.warning(text, self.settings.target, free, needed)
        try:
            yield
        except SpaceError as error:
            total = sum(item.source.size for item in items)
            raise SpaceError(
                f"{error.text}; {free} were free before, and the files to download have {total}",
                advice=error.advice,
            ) from error

    def _host_checksums(self, files: list[RemoteFile]) -> Mapping[str, str]:
        return self.host.remote_checksums(files).result(CHECKSUM_TIMEOUT_S)

    def _update_times(self, before: Manifest, plan: Plan) -> None:
        """Note new times of files whose content was compared: the next run need not do it."""
        found: dict[str, File] = {}
        for published in [*plan.unchanged, *plan.removed, *plan.hidden]:
            found.update((file.path, file) for file in [*published.files, *published.archives])
        manifest = structs.replace(
            before,
            files=[found[file.path] for file in before.files],
            archives=[found[file.path] for file in before.archives],
        )
        if manifest != before:
            with contextlib.suppress(LocalError):
                self.staging.store.update_manifest(manifest)

    # --- manifest and report -------------------------------------------------------------------

    def header(self) -> Manifest:
        """Return the manifest of this selection, without files."""
        settings = self.settings
        return Manifest(
            task=settings.task,
            variant=settings.variant,
            host=self.name or self.host.name,
            remote_file_path=str(settings.remote_file_path),
            include=", ".join(self.selection.include),
            exclude=", ".join(self.selection.exclude),
            keep_archive=settings.keep_archive,
            parquet=settings.parquet,
            started=self._started,
            finished=_now(),
        )

    def _manifest(self, downloads: Downloads) -> Manifest:
        """Return the manifest of what is staged."""
        files = sorted(self.staging.finish(), key=_BY_PATH)
        known = dict(self._replaced.columns) if self._replaced else {}
        if self.staging.csv_files:
            known.update(self.staging.csv_files.columns)
        return structs.replace(
            self.header(),
            sources=sorted(downloads.sources.values(), key=_BY_PATH),
            files=files,
            archives=sorted(self.staging.archives, key=_BY_PATH),
            skipped=downloads.unpacker.skipped,
            columns={key: known[key] for key in sorted({file.columns for file in files} - {""})},
        )

    def _check_columns(self, manifest: Manifest) -> None:
        """Compare the columns of CSVs with those that are published.

        Raises:
            CsvError: They differ, and `columns` is `freeze`.
        """
        columns = self.settings.columns
        if columns == "ignore":
            return
        self._drifts = drifts(self._replaced, manifest)
        texts = listed(self._drifts)
        if texts and columns == "freeze":
            raise CsvError(
                f"the columns of CSVs have changed, and columns is freeze: {'; '.join(texts)}: "
                "nothing was published",
                advice="have the host correct them, or accept them by one run with "
                "--columns evolve",
            )
        for text in texts:
            log.warning("columns: %s", text)

    def _complete_manifest(self, plan: Plan, downloads: Downloads) -> Manifest:
        """Return the manifest of the downloads; raise an error if there is no file to publish."""
        manifest = self._manifest(downloads)
        if manifest.files or self.part:
            return manifest
        if len(downloads.failed) >= len(plan.downloads) > 0:
            raise downloads.failed[0].error
        names = ", ".join(repr(path) for path in downloads.unpacker.examples)
        raise RemotePathError(
            f"{self.settings.remote_file_path}: no file matches {self.selection}"
            f"{f', but it contains {names}' if names else ''}",
            advice="set include to the files to land",
        )

    def _report(
        self, status: Status, manifest: Manifest, plan: Plan, downloads: Downloads, found: Found
    ) -> Report:
        return Report(
            "partial" if downloads.failed and status != "planned" else status,
            str(self.settings.target),
            manifest,
            plan,
            downloads.failed,
            self._explanations(downloads) if self.settings.explain else [],
            time.monotonic() - self.run_started,
            found.special,
            found.notes,
            self._after.done,
            self._after.failed,
            self._plain_copy,
            self._drifts,
            changes=(
                Changes.between(self._replaced, manifest)
                if status == "landed" and self._replaced and not self.part
                else None
            ),
        )

    def _explanations(self, downloads: Downloads) -> list[str]:
        reasons = [*self.host.explain(), *self._reasons]
        if count := downloads.unpacker.archives:
            keep = self.settings.keep_archive
            reasons.append(
                f"archives ({count}) unpacked while they are downloaded, a zip's table of contents "
                f"first, and {'stored at the same time (keep_archive)' if keep else 'never stored'}"
            )
        return reasons

    def _explain_checksums(
        self, plan: Plan, remote: RemoteChecksums, checksums: Mapping[str, str]
    ) -> str:
        """Say what the downloads were compared with, and why with nothing better."""
        settings = self.settings
        why = "exec is never" if settings.exec == "never" else "the host gives no checksum"
        if settings.verify == "size":
            why = "verify is size"
        paths = [item.source.path for item in plan.downloads]
        counts = {
            "a checksum beside the data": sum(path in remote.from_files for path in paths),
            "a remote checksum": sum(path in remote.from_host for path in paths),
            f"size only, as {why}": sum(path not in checksums for path in paths),
        }
        return "verified by " + ", ".join(f"{how} ({n})" for how, n in counts.items() if n)
