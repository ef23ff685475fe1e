"""Staging: the new data of a run, on its way into a store.

What is the same for every store: names that must not collide, checksums, and writing large files
in a second thread. The bytes go to the store, see `stores.protocol`.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import secrets
from functools import partial
from typing import TYPE_CHECKING

from tasks.fetch import interrupt
from tasks.fetch.errors import ArchiveError, Interrupted
from tasks.fetch.manifest import NAME as MANIFEST_NAME
from tasks.fetch.manifest import File
from tasks.fetch.names import Names
from tasks.fetch.tables.paths import is_csv, parquet_path
from tasks.fetch.threads import WriteBehind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from tasks.fetch.manifest import Manifest, Published
    from tasks.fetch.stores.protocol import PartialFile, Store, Writer
    from tasks.fetch.tables.csv_files import CsvFile, CsvFiles

log = logging.getLogger(__name__)

WAITING_BLOCKS = 32
"""Blocks that may wait to be hashed and written: 8 MiB at most."""
SMALL_BYTES = 2**15
"""A file up to this size is written at once: two threads would wait for Python's lock, at each of
its system calls, longer than it takes."""


class Staging:
    """The files of the new data, by the remote file that they come from.

    Attributes:
        store: Where they are written.
        archives: The archives that are kept, as they are added.
        csv_files: Reads and converts CSVs; None where they land as any other file.
        run: The name of what is staged.
    """

    def __init__(self, store: Store, csv_files: CsvFiles | None = None) -> None:
        self.store = store
        self.csv_files = csv_files
        self.archives: list[File] = []
        self.run = ""
        self._names = Names()
        self._files: list[File] = []
        self._thread: WriteBehind | None = None
        self._open_files: set[Writer] = set()

    def begin(self, run: str = "") -> None:
        """Start with no files; also when an attempt failed. Without a name it gets a random one."""
        self._stop_writing()
        self.archives = []
        self._files = []
        self._names = Names()
        self._names.add(MANIFEST_NAME, "Lighterage")
        self.run = run or secrets.token_hex(8)
        self.store.begin(self.run)

    def keep(self, published: Published) -> None:
        """Take published files into the new data; raise `ArchiveError` if names collide."""
        self.finish()
        for files, staged in (
            (published.files, self._files),
            (published.archives, self.archives),
        ):
            for file in files:
                self._names.add(file.path, file.source)
                self.store.keep(file)
                staged.append(file)

    def keep_old(self, published: Published) -> bool:
        """Take the files of a removed or broken source, if no other file has one of their names."""
        if not (published.files or published.archives):
            return False
        try:
            self.keep(published)
        except ArchiveError as error:
            log.warning("%s; the new file is used", error)
            self.drop(published.source.path)
            return False
        return True

    def drop(self, source: str) -> None:
        """Remove every staged file of a remote file, and release their names."""
        self.finish()
        self._abort_open_files()
        for path in self._names.remove(source):
            self.store.remove(path)
        self._files = [file for file in self._files if file.source != source]
        self.archives = [file for file in self.archives if file.source != source]

    def write(self, path: str, blocks: Iterable[bytes], source: str) -> None:
        """Write a file of the new data; a large one in another thread, until `finish`.

        Raises:
            ArchiveError: The path collides with that of another file.
            CsvError: It is a CSV, and cannot be converted.
            LocalError: It, or a file before it, cannot be written.
        """
        columns = ""
        if self.csv_files and is_csv(path):
            csv_file = self.csv_files.open(path, blocks, source)
            if csv_file.query:
                self._convert(csv_file, source)
                return
            blocks, columns = csv_file.blocks, csv_file.columns
        self._names.add(path, source)
        writer = self.store.create(path)
        self._open_files.add(writer)
        file: _HashedFile | None = None
        last = b""
        for block in blocks:
            if last:
                if file is None:
                    file = _HashedFile(writer)
                self._put(partial(file.write, last))
            last = block
        if file is not None or len(last) > SMALL_BYTES:
            file = file or _HashedFile(writer)
            self._put(partial(self._close, file, path, source, columns, last))
            return
        if last:
            writer.write(last)
        writer.close()
        self._open_files.discard(writer)
        sha256 = hashlib.sha256(last).hexdigest()
        self._files.append(File(path, len(last), sha256, source, columns=columns))

    def _convert(self, csv_file: CsvFile, source: str) -> None:
        """Write a CSV as Parquet; at the end it is complete, unlike with `write`."""
        self._names.add(csv_file.path, source)
        file = _HashedFile(self.store.create(csv_file.path))
        self._open_files.add(file.writer)
        csv_file.convert(file.write)
        self._close(file, csv_file.path, source, csv_file.columns)

    def landed_path(self, path: str) -> str:
        """Return where a remote file or member of that path lands."""
        csv_files = self.csv_files
        return parquet_path(path) if csv_files and csv_files.converts else path

    def _put(self, job: Callable[[], None]) -> None:
        if self._thread is None:
            self._thread = WriteBehind(WAITING_BLOCKS)
        self._thread.put(job)

    def _close(
        self, file: _HashedFile, path: str, source: str, columns: str, last: bytes = b""
    ) -> None:
        if last:
            file.write(last)
        self._files.append(File(path, file.size, file.close(), source, columns=columns))
        self._open_files.discard(file.writer)

    def finish(self) -> list[File]:
        """Wait until all files are written; return them, or raise the first error."""
        if self._thread is not None:
            self._thread.finish()
            self._thread = None
        return self._files

    # --- archives that are kept ----------------------------------------------------------------

    def keep_partial_downloads(self, sizes: Mapping[str, int]) -> None:
        """Remove all but some partial downloads; see `PartialDownloads.keep_only`."""
        if downloads := self.store.partial_downloads:
            downloads.keep_only(sizes)

    def partial_size(self, key: str) -> int:
        """Return how many bytes an earlier run downloaded of an archive; see `PartialDownloads`."""
        downloads = self.store.partial_downloads
        return downloads.size(key) if downloads else 0

    def create_archive(self, path: str, source: str, key: str) -> Writer | PartialFile:
        """Create the file of an archive that is kept, or open its partial download.

        Add it to `archives` once it is complete.
        """
        self._names.add(path, source)
        downloads = self.store.partial_downloads
        return downloads.open(key, path) if downloads else self.store.create(path)

    # --- the end -------------------------------------------------------------------------------

    def publish(self, manifest: Manifest) -> Manifest:
        """Publish what was written; return the manifest as the store published it."""
        self.finish()
        return self.store.publish(manifest)

    def close(self) -> None:
        """Stop writing, and have the store remove what is not published."""
        self._stop_writing()
        self.store.clean_up()

    def _stop_writing(self) -> None:
        if self._thread is not None:
            self._thread.stop()
            self._thread = None
        self._abort_open_files()

    def _abort_open_files(self) -> None:
        for writer in self._open_files.copy():
            writer.abort()
        self._open_files.clear()


class _HashedFile:
    """A store's file that is hashed while it is written."""

    def __init__(self, writer: Writer) -> None:
        self.writer = writer
        self._digest = hashlib.sha256()
        self.size = 0

    def write(self, block: bytes) -> None:
        """Append bytes."""
        self._digest.update(block)
        self.size += len(block)
        self.writer.write(block)

    def close(self) -> str:
        """Complete the file; return its SHA-256 in hex."""
        self.writer.close()
        return self._digest.hexdigest()


@contextlib.contextmanager
def staging(
    store: Store,
    csv_files: CsvFiles | None = None,
    *,
    wait_s: float = 0,
    dry_run: bool = False,
) -> Iterator[Staging]:
    """Lock a store, and stage new data in it; what is not published at the end is removed.

    Args:
        store: Not used for another run before.
        csv_files: As in `Staging`.
        wait_s: Seconds to wait for another run that has the lock.
        dry_run: Only check the store: nothing is locked, created or removed.
    """
    staged = Staging(store, csv_files)
    with interrupt.cleaned_up_by(staged.close):
        try:
            if dry_run:
                store.check()
            else:
                store.lock(wait_s)
            yield staged
        except Interrupted as stop:
            stop.landed = store.published
            raise
