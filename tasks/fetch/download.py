"""Downloads: the files of a plan, each with retries of its own, checked and staged."""

from __future__ import annotations

import hashlib
import logging
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from msgspec import structs

from tasks.fetch.archive_stream import tail_first
from tasks.fetch.errors import (
    ArchiveError,
    CsvError,
    IntegrityError,
    LighterageError,
    RemotePathError,
)
from tasks.fetch.manifest import Source
from tasks.fetch.report import Failed
from tasks.fetch.ssh.retry import delay_before

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from tasks.fetch.archive_stream import Unpacker
    from tasks.fetch.manifest import Published
    from tasks.fetch.plan import Item, Plan
    from tasks.fetch.progress import Progress
    from tasks.fetch.ssh.host import Host
    from tasks.fetch.ssh.remote_checksums import RemoteChecksums
    from tasks.fetch.ssh.remote_files import Stream
    from tasks.fetch.staging import Staging
    from tasks.settings import Settings

log = logging.getLogger(__name__)

_FILE_ERRORS = (RemotePathError, IntegrityError, ArchiveError, CsvError)
"""Errors of one remote file: the others can be downloaded all the same."""


@dataclass
class Downloads:
    """What one attempt has downloaded or kept.

    Attributes:
        unpacker: Unpacks the archives, and counts their members that are not selected.
        sources: The remote files that are staged, by path.
        failed: Remote files that could not be downloaded.
    """

    settings: Settings
    host: Host
    staging: Staging
    plan: Plan
    unpacker: Unpacker
    sources: dict[str, Source] = field(default_factory=dict)
    failed: list[Failed] = field(default_factory=list)
    _resumed: set[str] = field(default_factory=set)

    # --- published files -----------------------------------------------------------------------

    def keep(self, published: Published) -> None:
        """Take published files into the new data."""
        self.staging.keep(published)
        self.sources[published.source.path] = published.source

    def keep_old(self, published: Published) -> None:
        """Take the files of a removed or broken source; see `Staging.keep_old`."""
        if self.staging.keep_old(published):
            self.sources[published.source.path] = published.source

    # --- downloads -----------------------------------------------------------------------------

    def download_all(self, bar: Progress) -> None:
        """Download what the plan says; a file that fails or changes is downloaded again.

        Raises:
            LighterageError: One could not be downloaded, and `on_error` is `fail`.
        """
        queue, tries = deque(self.plan.downloads), Counter[str]()
        sizes: dict[str, int] = {}  # of files that are downloaded again, as the total counts them
        while queue:
            try:
                self._download(queue, sizes, bar)
            except _FILE_ERRORS as error:
                item = queue.popleft()
                size = sizes.setdefault(item.source.path, item.source.size)
                tries[item.path] += 1
                if item.path in self._resumed:  # the partial download may be what is wrong
                    error.transient = True
                retry = self._retry(item, error, tries[item.path])
                if retry:
                    queue.appendleft(retry)
                elif not self._continue_after(item, error):
                    raise
                else:
                    bar.finish(size)
            except BaseException:
                self.host.reset()  # before the connection closes: no thread is to reopen it
                raise

    def _download(self, queue: deque[Item], sizes: Mapping[str, int], bar: Progress) -> None:
        """Download what is queued, and take each from the queue once it is complete."""
        requests = [
            (item.source, offset)
            for item in queue
            for offset in (*tail_first(item), self._resume_offset(item))
        ]
        streams = self.host.files(requests, bar.add)
        while queue:
            item = queue[0]
            tail = b"".join(b"".join(next(streams)) for _ in tail_first(item))
            stream = next(streams)
            size = sizes.get(item.source.path, item.source.size)
            bar.start(item.source.path, size, stream.start)
            log.debug("%s: %d bytes, from %d", item.source.path, item.source.size, stream.start)
            if item.is_archive:
                sha256 = self.unpacker.unpack(item, stream, tail, self.key(item))
            else:
                sha256 = self._write(item, stream)
            source = item.source
            self.sources[source.path] = Source(source.path, source.size, source.mtime, sha256)
            queue.popleft()
            bar.finish(size)

    def _write(self, item: Item, stream: Stream) -> str:
        """Stage a file; return its SHA-256 if that is not the one of the staged file."""
        digest, blocks = hashlib.sha256(), iter(stream)
        is_converted = self.staging.landed_path(item.path) != item.path
        if is_converted:
            blocks = _hashed(stream, digest)
        try:
            self.staging.write(item.path, blocks, item.source.path)
        except ArchiveError as error:  # two names of a listing collide: no archive is at fault
            raise RemotePathError(error.text, advice=error.advice) from error
        return digest.hexdigest() if is_converted else ""

    def key(self, item: Item) -> str:
        """Return a name for just this content of a remote file, as far as size and time tell."""
        source = item.source
        text = f"{self.host.name}\0{source.path}\0{source.size}\0{source.mtime}"
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()

    def _resume_offset(self, item: Item) -> int:
        if not (item.is_archive and self.settings.keep_archive):
            return 0
        count = self.staging.partial_size(self.key(item))
        if count:
            self._resumed.add(item.path)
        return count

    # --- failures ------------------------------------------------------------------------------

    def _retry(self, item: Item, error: LighterageError, tries: int) -> Item | None:
        """Return the item to download again, after a delay; None if a retry cannot help."""
        self._discard(item)
        try:
            source = self.host.facts(item.source.path)
        except RemotePathError as missing:  # the next attempt lists all sources again
            raise IntegrityError(
                f"{missing.text}: it was removed during the run",
                advice="run it again when nothing changes the files on the host",
                transient=True,
            ) from missing
        if self.settings.settle and source != item.source:
            raise IntegrityError(
                f"{source.path}: changed during the run",
                advice="run it again, or set settle to a longer time",
                transient=True,
            )
        if not error.transient:
            return None
        if tries >= self.settings.max_tries:
            error.transient = False
            return None
        delay = delay_before(self.settings, tries)
        log.warning("%s; downloading it again in %.1f s", error, delay)
        time.sleep(delay)
        return structs.replace(item, source=source)

    def _continue_after(self, item: Item, error: LighterageError) -> bool:
        """Note a failure and keep the file's old data, if the other files can be published."""
        plan = self.plan
        if self.settings.on_error == "fail" or len(plan.downloads) + len(plan.unchanged) < 2:
            return False
        log.error("%s", error)
        self.failed.append(Failed(item.source.path, error))
        if item.source.path in plan.replaced:
            self.keep_old(plan.replaced[item.source.path])
        return True

    def _discard(self, item: Item) -> None:
        self.host.reset()
        self._resumed.discard(item.path)
        self.staging.drop(item.source.path)
        self.sources.pop(item.source.path, None)

    # --- checksums -----------------------------------------------------------------------------

    def verify(self, remote_checksums: RemoteChecksums, timeout_s: float) -> Mapping[str, str]:
        """Compare what was downloaded with the remote checksums; return these.

        Raises:
            IntegrityError: One differs, and `on_error` is `fail`.
        """
        staged = {file.source: file.sha256 for file in self.staging.finish()}
        checksums = remote_checksums.result(timeout_s)
        failed = {failure.path for failure in self.failed}
        for item in self.plan.downloads:
            path = item.source.path
            source = self.sources.get(path)
            if source is None or path in failed:
                continue
            sha256 = source.sha256 or staged[path]
            expected = checksums.get(path)
            if expected and expected != sha256:
                is_file = path in remote_checksums.from_files
                error = IntegrityError(
                    f"{path}: checksum mismatch: the downloaded data has sha256 {sha256}, but the "
                    f"{'checksum file beside it' if is_file else 'remote host'} states {expected}",
                    advice="check that the checksum file belongs to this file"
                    if is_file
                    else "run it again; check whether the file is being written on the host",
                    transient=not is_file or item.path in self._resumed,
                )
                self._discard(item)
                if not self._continue_after(item, error):
                    raise error
                continue
            verified: Literal["sha256", "size"] = "sha256" if expected else "size"
            self.sources[path] = Source(path, source.size, source.mtime, sha256, verified)
        return checksums


def _hashed(blocks: Iterable[bytes], digest: hashlib._Hash) -> Iterator[bytes]:
    for block in blocks:
        digest.update(block)
        yield block
