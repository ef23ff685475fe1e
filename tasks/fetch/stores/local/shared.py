"""The local store of a run that has shards: a folder that all of them reach, as on NFS.

Beside a target NAME there is for each run

    .NAME.runs/<run id>/...                     the records; see `tasks.fetch.shards`
    .NAME.runs/<run id>/parts/<attempt>/<path>  the files of one shard's attempt
    .NAME.runs/<run id>/tree.<token>/           the new tree, of hard links, until it is published

A record is created by link(2), which NFS carries out in one step. A lock of the target is taken
where the file system has locks; without one, shards that publish at the same time still publish
the same, since each has a tree of its own.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from tasks.fetch.errors import LocalError
from tasks.fetch.stores.local import tree
from tasks.fetch.stores.local.disk import NewFile, free_bytes, local_error, remove_tree, writing
from tasks.fetch.stores.local.runs import runs_folder
from tasks.fetch.stores.local.store import LocalStore
from tasks.fetch.stores.local.verify import edited_error, with_mtime
from tasks.fetch.stores.protocol import Pruned

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tasks.fetch.manifest import File, Manifest
    from tasks.fetch.stores.shared import Part

PARTS = "parts"
NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS}
"""What flock(2) says on a file system that has none."""


class FolderRecords:
    """The records of a run, as files; see `stores.shared.Records`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def create(self, name: str, data: bytes) -> bytes:
        """Write a record unless it exists; return what it contains then."""
        path = self._folder / name
        with writing(path), self._new(path, data) as new:
            try:
                os.link(new, path)
            except FileExistsError:
                # NFS may lose the answer and try again: then the file has both names all the same.
                if new.stat().st_nlink == 1:
                    return path.read_bytes()
            except OSError as error:
                if error.errno in {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS}:
                    raise LocalError(
                        f"{path}: the file system has no hard links, which shards need",
                        advice="share another folder, or use an s3:// target",
                    ) from error
                raise
        return data

    def write(self, name: str, data: bytes) -> None:
        """Write or replace a record."""
        path = self._folder / name
        with writing(path), self._new(path, data) as new:
            new.replace(path)

    def remove(self, name: str) -> None:
        """Remove a record, if it exists."""
        with writing(self._folder / name):
            (self._folder / name).unlink(missing_ok=True)

    @contextlib.contextmanager
    def _new(self, path: Path, data: bytes) -> Iterator[Path]:
        """Give a new file beside `path`; remove it at the end unless it was renamed."""
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        try:
            new.write_bytes(data)
            yield new
        finally:
            new.unlink(missing_ok=True)

    def read(self, name: str) -> bytes | None:
        """Return a record; None where there is none."""
        with writing(self._folder / name):
            try:
                return (self._folder / name).read_bytes()
            except FileNotFoundError:
                return None

    def names(self, folder: str) -> list[str]:
        """Return the names of the records in a folder."""
        with writing(self._folder / folder):
            try:
                found = [path.name for path in (self._folder / folder).iterdir()]
            except FileNotFoundError:
                return []
        return sorted(f"{folder}/{name}" for name in found if not name.startswith("."))


class LocalRun:
    """A folder that shards share; for the methods see `stores.shared.SharedRun`."""

    def __init__(self, target: str, run_id: str, *, overwrite: bool) -> None:
        self._target = target
        self._overwrite = overwrite
        self._folder = runs_folder(LocalStore(target, overwrite=overwrite).folder) / run_id
        self.records = FolderRecords(self._folder)

    def part(self) -> Part:
        """Return a store for the files of one shard."""
        return LocalPart(self._folder / PARTS)

    def target(self) -> LocalStore:
        """Return the store of the target, with a staging folder of this shard's own."""
        return PublishingStore(self._target, self._folder, overwrite=self._overwrite)

    def remove_parts(self) -> None:
        """Remove the files of the parts: the target has links to those that were published."""
        remove_tree(self._folder / PARTS)


class LocalPart:
    """The files of one shard's attempt; see `stores.shared.Part`."""

    partial_downloads = None
    folder = None

    def __init__(self, folder: Path) -> None:
        self.published = False
        self._parts = folder
        self._run = ""

    @property
    def _folder(self) -> Path:
        return self._parts / self._run

    def check(self) -> None:
        """Check nothing: the planner checks the target."""

    def free_bytes(self) -> int | None:
        """Return how many bytes can be written; None where the system does not say."""
        return free_bytes(self._parts)

    def lock(self, wait_s: float) -> None:
        """Lock nothing: an attempt has a folder of its own."""

    def manifest(self) -> None:
        """Return None: nothing is published here."""

    previous = manifest

    def read(self, file: File) -> Iterator[bytes]:
        """Read nothing: nothing is published here."""
        raise AssertionError(file.path)

    def begin(self, run_id: str) -> None:
        """Create the folder of an attempt; remove that of an earlier one."""
        self.clean_up()
        self._run = run_id
        with writing(self._folder):
            self._folder.mkdir(parents=True)

    def create(self, path: str) -> NewFile:
        """Create a file."""
        name = f"{self._folder}/{path}"
        return NewFile(name, name)

    def keep(self, file: File) -> None:
        """Keep nothing: nothing is published here."""
        raise AssertionError(file.path)

    def remove(self, path: str) -> None:
        """Remove a file."""
        with writing(self._folder / path):
            (self._folder / path).unlink(missing_ok=True)

    def verify(self, file: File, content: bool) -> None:
        """Return None: nothing is published here."""

    def publish(self, manifest: Manifest) -> Manifest:
        """Let the files stay until the run is published, and note their times for then."""
        files, archives = (
            [self._with_time(file) for file in some] for some in (manifest.files, manifest.archives)
        )
        self.published = True
        return replace(manifest, files=files, archives=archives)

    def _with_time(self, file: File) -> File:
        if (facts := tree.facts_of(str(self._folder), file)) is None:
            raise edited_error(self._folder / file.path)
        return replace(file, mtime_ns=facts.st_mtime_ns, run=self._run)

    def copy_published(self) -> str:
        """Return an empty text: there is no copy."""
        return ""

    def update_manifest(self, manifest: Manifest) -> None:
        """Update nothing: nothing is published here."""

    def prune(self, **_: float) -> Pruned:
        """Remove nothing; see `LocalStore.prune`."""
        return Pruned()

    def discard(self) -> None:
        """Remove the files."""
        self.published = False
        self.clean_up()

    def clean_up(self) -> None:
        """Remove the files, unless they are to be published."""
        if self._run and not self.published:
            remove_tree(self._folder)


class PublishingStore(LocalStore):
    """The store of the target, for a shard that publishes what others landed, too."""

    def __init__(self, target: str, folder: Path, *, overwrite: bool) -> None:
        staging = folder / f"tree.{secrets.token_hex(8)}"
        super().__init__(target, overwrite=overwrite, staging=staging)
        self._parts_folder = str(folder / PARTS)
        self._lock.without_lock = NO_LOCKS

    def keep(self, file: File) -> None:
        """Take a file of a part, or a published one, into the staging folder as a hard link."""
        if not file.run:
            super().keep(file)
            return
        # As texts: there may be 100,000 files.
        old, new = (
            f"{self._parts_folder}/{file.run}/{file.path}",
            f"{self._staging_folder}/{file.path}",
        )
        try:
            os.link(old, new)
        except FileNotFoundError:  # mostly, there is no such folder yet
            with writing(old):
                Path(new).parent.mkdir(parents=True, exist_ok=True)
                if Path(old).exists():
                    os.link(old, new)
                    return
            super().keep(replace(file, run=""))  # published before, when other shards had failed
        except OSError as error:
            raise local_error(old, error) from error

    def _with_time(self, file: File) -> File:
        """Use the time that its shard noted, where the file is of a part: it was linked since."""
        if file.run and file.mtime_ns and file.path not in self._kept_paths:
            return with_mtime(file, file.mtime_ns)
        return super()._with_time(file)
