"""Landing: the only module that writes files into the destination. All appear, or none.

Files are written into a staging folder beside the target, on its own file system; at the end the
two change names (see `publish`). A lock beside them keeps a second run out.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from dataclasses import replace
from functools import partial
from pathlib import PurePosixPath
from typing import IO, TYPE_CHECKING

from tasks.fetch import interrupt
from tasks.fetch.errors import Interrupted, LocalError
from tasks.fetch.manifest import NAME as MANIFEST_NAME
from tasks.fetch.manifest import File, Kept, Manifest
from tasks.fetch.names import Names
from tasks.fetch.stores.local import records, tree
from tasks.fetch.stores.local.disk import HashedFile, writing
from tasks.fetch.stores.local.lock import Lock
from tasks.fetch.stores.local.partials import Partials
from tasks.fetch.stores.local.publish import Publication
from tasks.fetch.threads import WriteBehind

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

BLOCKS_BEHIND = 32
"""Blocks that may wait to be hashed and written: 8 MiB at most."""


class Landing:
    """A target that is locked for this run, and the tree that is to replace it; see `landing`."""

    def __init__(self, target: Path, *, overwrite: bool) -> None:
        self.target = target
        self._publication = Publication(target, overwrite=overwrite)
        self._partials = Partials(target)
        self._lock = Lock(target)
        self._names = Names()
        self._files: list[File] = []
        self._paths: dict[str, list[str]] = {}  # paths written, by remote file
        self._archives: list[File] = []
        self._in_parts: dict[PurePosixPath, str] = {}  # identities of archives not in staging yet
        self._old_paths: set[str] = set()  # of what was kept
        self._writer: WriteBehind | None = None
        self._unfinished: set[HashedFile] = set()

    @property
    def staging(self) -> Path:
        """The folder in which files are written."""
        return self._publication.staging

    @property
    def committed(self) -> bool:
        """Whether new data was published."""
        return self._publication.swapped

    def manifest(self) -> Manifest | None:
        """Return the manifest of the published data."""
        return self._publication.manifest()

    def open(self, *, wait_s: float, dry_run: bool) -> None:
        """Check that the target may be replaced, lock it, and recover what a killed run left.

        Args:
            wait_s: Seconds to wait for another run that has the lock.
            dry_run: Whether to check only.

        Raises:
            BusyError: Another run has the lock.
            LocalError: The target cannot be replaced.
        """
        self._publication.check_parents()
        if not dry_run:
            self._lock.acquire(wait_s)
            # Again: a target above, published since, holds our lock file or is not there.
            self._publication.check_parents()
            self._publication.recover()
        self._publication.check()

    def begin(self, parts: Mapping[str, int] | None = None) -> None:
        """Start with an empty staging folder; also the second time, when a try failed.

        Args:
            parts: The identities and sizes of the archives that are to be kept; partial downloads
                of others are removed.

        Raises:
            LocalError: It cannot be made.
        """
        self._stop_writing()
        self._files = []
        self._archives = []
        self._paths = {}
        self._in_parts = {}
        self._old_paths = set()
        self._take_manifests_name()
        with writing(self.staging):
            self._publication.begin()
            self._partials.keep_only(parts or {})

    def _take_manifests_name(self) -> None:
        self._names = Names()
        self._names.add(PurePosixPath(MANIFEST_NAME), "Lighterage")

    def _take(self, path: str, source: str) -> None:
        self._names.add(path, source)
        self._paths.setdefault(source, []).append(path)

    # --- what was published before ----------------------------------------------------------

    def verify(self, file: File, content: bool) -> File | None:
        """Return the record of a published file with its time of now; None where it has changed.

        Args:
            file: Its record in the manifest.
            content: Whether to compare the checksum, and not only where the time is another.
        """
        return records.verified(self.target, file, content=content)

    def keep(self, kept: Kept) -> None:
        """Take published files into the new tree: as hard links, or copies.

        Raises:
            LocalError: A file cannot be taken over.
        """
        self.written()
        for files, kept_files in ((kept.files, self._files), (kept.archives, self._archives)):
            for file in files:
                self._take(file.path, file.source)
                with writing(f"{self.target}/{file.path}"):
                    self._keep(file)
                self._old_paths.add(file.path)
                kept_files.append(file)

    def _keep(self, file: File) -> None:
        old, new = f"{self.target}/{file.path}", self.staging / file.path
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
            raise records.changed(self.target / file.path) from None

    def renew(self, before: Manifest, kept: Iterable[Kept]) -> None:
        """Note new modification times in the published manifest, once contents were compared.

        Args:
            before: What it says.
            kept: Its records as `verify` returned them.
        """
        known = {id(file) for file in before.all_files()}  # `verify` returns the same object
        times = {
            file.path: file.mtime_ns
            for one in kept
            for file in [*one.files, *one.archives]
            if id(file) not in known
        }
        if not times:
            return

        def timed(files: list[File]) -> list[File]:
            return [records.timed(file, times.get(file.path, file.mtime_ns)) for file in files]

        new = records.certain(
            replace(before, files=timed(before.files), archives=timed(before.archives))
        )
        if any(
            file.mtime_ns != old.mtime_ns
            for file, old in zip(new.all_files(), before.all_files(), strict=True)
        ):
            with contextlib.suppress(LocalError):  # it only saves time in later runs
                self._publication.renew(new)

    # --- files of the new tree --------------------------------------------------------------

    def drop(self, source: str) -> None:
        """Forget what came from a remote file so far, as if it had never been asked for."""
        self.written()
        self._abandon()
        for path in self._paths.pop(source, []):
            self._old_paths.discard(path)
            (self.staging / path).unlink(missing_ok=True)
            if identity := self._in_parts.pop(PurePosixPath(path), None):
                self._partials.remove(identity)
        self._files = [file for file in self._files if file.source != source]
        self._archives = [file for file in self._archives if file.source != source]
        self._take_manifests_name()
        for origin, paths in self._paths.items():
            for path in paths:
                self._names.add(path, origin)

    def write(self, path: PurePosixPath, blocks: Iterable[bytes], source: str) -> None:
        """Write a file of the new tree; it is hashed and written behind, see `written`.

        Args:
            path: Relative to the target; checked by `names.safe`.
            blocks: Its bytes.
            source: The remote file that they come from.

        Raises:
            ArchiveError: The name collides with another's.
            LocalError: It, or one before it, cannot be written.
        """
        self._take(str(path), source)
        writer = self._behind()
        new = HashedFile(self.staging / path, self.target / path)
        self._unfinished.add(new)
        last = b""
        for block in blocks:
            if last:
                writer.put(partial(new.write, last))
            last = block
        writer.put(partial(self._end, new, str(path), source, last))  # a small file is one job

    def _end(self, new: HashedFile, path: str, source: str, last: bytes) -> None:
        if last:
            new.write(last)
        self._files.append(File(path, new.size, new.close(), source))
        self._unfinished.discard(new)

    def _behind(self) -> WriteBehind:
        if self._writer is None:
            self._writer = WriteBehind(BLOCKS_BEHIND)
        return self._writer

    def written(self) -> list[File]:
        """Wait until all is written; return it, in the order of the writing.

        Raises:
            LocalError: Something could not be written.
        """
        if self._writer is not None:
            self._writer.finish()
            self._writer = None
        return self._files

    def _stop_writing(self) -> None:
        if self._writer is not None:
            self._writer.stop()
            self._writer = None
        self._abandon()

    def _abandon(self) -> None:
        for new in self._unfinished.copy():
            new.abandon()
        self._unfinished.clear()

    # --- archives that are kept -------------------------------------------------------------

    def begun(self, identity: str) -> int:
        """Return how many bytes an earlier run got of an archive that is kept."""
        return self._partials.size(identity)

    @contextlib.contextmanager
    def archive(self, path: PurePosixPath, source: str, identity: str) -> Iterator[IO[bytes]]:
        """Open an archive that is kept, to read what an earlier run got of it, and to append.

        Args:
            path: Where it will be, relative to the target.
            source: The remote file.
            identity: See `Partials`.
        """
        self._take(str(path), source)
        self._in_parts[path] = identity
        with self._partials.open(identity, self.target / path) as file:
            yield file

    def archived(self, file: File) -> None:
        """Note an archive that is kept, now that it is complete."""
        self._archives.append(file)

    def archives(self) -> list[File]:
        """Return which archives are kept."""
        return self._archives

    # --- the end ----------------------------------------------------------------------------

    def publish(self, manifest: Manifest) -> Manifest:
        """Put the new tree in the target's place, in one step, and remove the replaced one.

        Returns:
            The manifest as it was written: with modification times.

        Raises:
            LocalError: It cannot be done; the published data is as it was.
        """
        with writing(self.target):
            manifest = self._settled(manifest)
            manifest.write(self.staging)  # before archives move: the disk may be full
            try:
                for path, identity in self._in_parts.items():
                    self._partials.put(identity, self.staging / path)
                self._publication.swap()
            finally:
                if self._publication.unpublished:
                    for path, identity in self._in_parts.items():
                        self._partials.take_back(identity, self.staging / path)
        self._clean_up()
        return manifest

    def _settled(self, manifest: Manifest) -> Manifest:
        """Give each record the time of a file that is known to have its content.

        Raises:
            LocalError: A file that was kept has been edited since the run began.
        """

        def settled(file: File) -> File:
            if file.path in self._old_paths:
                found = records.verified(self.staging, file, content=False)
            elif self._in_parts and (identity := self._in_parts.get(PurePosixPath(file.path))):
                found = records.timed(file, self._partials.mtime_ns(identity))
            else:
                facts = tree.facts_of(self.staging, file)
                found = records.timed(file, facts.st_mtime_ns) if facts else None
            if found is None:
                raise records.changed(self.target / file.path)
            return found

        return records.certain(
            replace(
                manifest,
                files=[settled(file) for file in manifest.files],
                archives=[settled(file) for file in manifest.archives],
            )
        )

    def finish(self) -> None:
        """Remove what was to serve a later run: there is nothing left to be done."""
        self._partials.remove()

    def _clean_up(self) -> None:
        self._publication.clean_up()
        if self.committed and not self._publication.unpublished:
            self._partials.remove()

    def close(self) -> None:
        """Remove all that this run made and that is not published, and release the lock.

        Partial downloads of archives that are kept stay, for the next run.
        """
        if self._lock.held:
            self._stop_writing()
            self._clean_up()
            self._partials.remove_folder()
        self._lock.release()


@contextlib.contextmanager
def landing(
    target: Path, *, overwrite: bool, wait: float = 0, dry_run: bool = False
) -> Iterator[Landing]:
    """Lock a target, and give the way to land in it; without a publish nothing stays.

    Args:
        target: The folder that will hold the data. A link to a folder is followed.
        overwrite: Whether published data may be replaced.
        wait: Seconds to wait for another run that has the lock.
        dry_run: Only look: no lock is taken, and nothing is made or removed.

    Raises:
        BusyError: Another run has the lock.
        LocalError: The target cannot be replaced: not ours, a mount, `overwrite` is off.
    """
    with writing(target):
        try:
            target = target.resolve()
        except RuntimeError as error:
            raise LocalError(f"{target}: a link that leads back to itself") from error
        if not target.name:
            raise LocalError(f"{target}: the root folder is no place to land in")
    place = Landing(target, overwrite=overwrite)
    with interrupt.cleaned_up_by(place.close):
        try:
            place.open(wait_s=wait, dry_run=dry_run)
            yield place
        except Interrupted as stop:
            stop.landed = place.committed
            raise
