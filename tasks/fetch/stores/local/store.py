"""The local store: a folder, replaced as a whole by a staging folder beside it.

Files are written into the staging folder, on the target's own file system; at the end the two
exchange their names (see `target`, `publish` and `recovery`). A lock file beside them keeps other
runs out.
"""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from tasks.fetch.errors import ConfigError, LocalError
from tasks.fetch.manifest import File, Manifest
from tasks.fetch.stores.local import tree
from tasks.fetch.stores.local.disk import NewFile, free_bytes, writing
from tasks.fetch.stores.local.lock import Lock
from tasks.fetch.stores.local.partial_downloads import LocalPartialDownloads
from tasks.fetch.stores.local.publish import Publication
from tasks.fetch.stores.local.recovery import recover
from tasks.fetch.stores.local.runs import prune_runs
from tasks.fetch.stores.local.target import Target
from tasks.fetch.stores.local.verify import (
    edited_error,
    verify_file,
    with_mtime,
    with_reliable_times,
)
from tasks.fetch.stores.protocol import Layout, Pruned

if TYPE_CHECKING:
    from collections.abc import Iterator

READ_BYTES = 2**18
"""Of a published file at once."""


class LocalStore:
    """A folder, or a link to one, as a store; for the methods see `stores.protocol.Store`."""

    def __init__(
        self,
        target: str | Path,
        *,
        overwrite: bool,
        layout: Layout = "manifest",
        staging: Path | None = None,
    ) -> None:
        if layout == "plain":
            raise ConfigError(
                f"publish_layout is plain, but file_save_path is {target}: a folder has plain "
                "names anyway",
                advice="set publish_layout only for a task with an s3:// target",
            )
        with writing(target):
            try:
                self.folder = self._path = Path(target).resolve()
            except RuntimeError as error:
                raise LocalError(
                    f"{target}: is a symbolic link to itself", advice="set another file_save_path"
                ) from error
        if not self._path.name:
            raise LocalError(
                f"{target}: the root folder cannot be replaced", advice="name a folder in it"
            )
        self.partial_downloads = LocalPartialDownloads(self._path)
        self._target = Target(self._path, overwrite=overwrite, staging=staging)
        self.staging = self._target.staging
        self._publication = Publication(self._target)
        self._lock = Lock(self._path)
        self._kept_paths: set[str] = set()
        # As texts: there may be 100,000 files.
        self._folder, self._staging_folder = str(self._path), str(self.staging)

    @property
    def published(self) -> bool:
        """Whether this run published new data."""
        return self._publication.published

    def check(self) -> None:
        """Check that the target may be replaced."""
        self._target.check_parents()
        self._target.check()

    def lock(self, wait_s: float) -> None:
        """Lock the target, recover from a killed run, and check that it may be replaced."""
        self._target.check_parents()  # before the lock's folders are created there
        self._lock.acquire(wait_s)
        # Again: a target above, published since, contains the lock file or has replaced it.
        self._target.check_parents()
        recover(self._target)
        self._target.check()

    def manifest(self) -> Manifest | None:
        """Return the manifest of the published data."""
        return self._target.manifest()

    def previous(self) -> Manifest | None:
        """Return the manifest of the tree that the published one replaced."""
        return tree.read_file(self._target.previous)

    def read(self, file: File) -> Iterator[bytes]:
        """Yield the content of a published file."""
        path = self._path / file.path
        try:
            with path.open("rb") as opened:
                while block := opened.read(READ_BYTES):
                    yield block
        except OSError as error:
            raise LocalError(f"{path}: cannot be read: {error.strerror}") from error

    def begin(self, run_id: str) -> None:  # noqa: ARG002 (the lock permits one run: one name)
        """Create an empty staging folder."""
        self.partial_downloads.begin()
        self._kept_paths.clear()
        with writing(self.staging):
            self._publication.begin()

    def free_bytes(self) -> int | None:
        """Return how many bytes can be written; None where the system does not say."""
        return free_bytes(self._path)

    def create(self, path: str) -> NewFile:
        """Create a file in the staging folder."""
        return NewFile(f"{self._staging_folder}/{path}", f"{self._folder}/{path}")

    def keep(self, file: File) -> None:
        """Take a published file into the staging folder: as a hard link, or a copy."""
        try:
            os.link(f"{self._folder}/{file.path}", f"{self._staging_folder}/{file.path}")
        except OSError:  # mostly, there is no such folder yet
            with writing(self._path / file.path):
                self._link_or_copy(file)
        self._kept_paths.add(file.path)

    def _link_or_copy(self, file: File) -> None:
        old, new = self._path / file.path, self.staging / file.path
        for _ in range(2):
            try:
                os.link(old, new)
            except FileNotFoundError:
                new.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:  # no hard links here, or too many of this file
                if error.errno in {errno.ENOSPC, errno.EDQUOT}:
                    raise
                break
            else:
                return
        new.parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copyfile(old, new, follow_symlinks=False)
        except FileNotFoundError:
            raise edited_error(old) from None

    def remove(self, path: str) -> None:
        """Remove a file from the staging folder."""
        self._kept_paths.discard(path)
        with writing(self._path / path):
            (self.staging / path).unlink(missing_ok=True)
            self.partial_downloads.remove(path)

    def verify(self, file: File, content: bool) -> File | None:
        """Return the record of a published file that has not changed."""
        return verify_file(self._folder, file, content=content)

    def publish(self, manifest: Manifest) -> Manifest:
        """Exchange the staging folder with the target, and remove the replaced one."""
        with writing(self._path):
            manifest = with_reliable_times(self._with_times(manifest))
            # Before archives are moved: the disk may be full, and then they stay partial downloads.
            tree.write_manifest(self.staging, manifest)
            try:
                self.partial_downloads.move_to(self.staging)
                self._publication.publish()
            finally:
                if self._publication.has_staging:
                    self.partial_downloads.move_back(self.staging)
        self._remove_leftovers()
        return manifest

    def update_manifest(self, manifest: Manifest) -> None:
        """Replace the published manifest, and leave the files as they are."""
        manifest = with_reliable_times(manifest)
        if manifest != self.manifest():
            self._publication.replace_manifest(manifest)

    def copy_published(self) -> str:
        """Do nothing: the files have plain names anyway."""
        return ""

    def _with_times(self, manifest: Manifest) -> Manifest:
        """Give each record the time of a file that is known to have its content."""
        return replace(
            manifest,
            files=[self._with_time(file) for file in manifest.files],
            archives=[self._with_time(file) for file in manifest.archives],
        )

    def _with_time(self, file: File) -> File:
        if file.path in self._kept_paths:
            found = verify_file(self._staging_folder, file, content=False)
        elif (mtime_ns := self.partial_downloads.mtime_ns(file.path)) is not None:
            found = with_mtime(file, mtime_ns)
        else:
            facts = tree.facts_of(self._staging_folder, file)
            found = with_mtime(file, facts.st_mtime_ns) if facts else None
        if found is None:
            raise edited_error(self._path / file.path)
        return found

    def _remove_leftovers(self) -> None:
        self._publication.clean_up()
        if self.published and not self._publication.has_staging:
            self.partial_downloads.remove_all()

    def prune(self, *, keep_runs: int, min_age_s: float, dry_run: bool) -> Pruned:  # noqa: ARG002 (of a folder there is one version)
        """Remove the records and parts of earlier runs that had shards."""
        return prune_runs(self._path, min_age_s, dry_run=dry_run)

    def clean_up(self) -> None:
        """Remove what is not published, but partial downloads, and release the lock."""
        if self._lock.held:
            self._remove_leftovers()
            self.partial_downloads.remove_folder()
        self._lock.release()
