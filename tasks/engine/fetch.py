"""A fetch: what a task module is handed, and what it does with it.

def run(fetch: Fetch) -> Report:
    with fetch.connect() as connection:
        return fetch.archive(connection, "tar")
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import IO, TYPE_CHECKING, Literal

import tenacity

from tasks.engine import names, remote, unpack
from tasks.engine.errors import ArchiveError, LighterageError, RemotePathError
from tasks.engine.landing import landing, writing
from tasks.engine.manifest import File, Manifest, Source
from tasks.engine.progress import human, progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    import fabric

    from tasks.engine.landing import Landing
    from tasks.engine.sftp import RemoteFile
    from tasks.settings import Settings

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Report:
    """How a run ended: what is where, and how it got there.

    Attributes:
        status: `landed`, or `unchanged` where nothing had to be done.
        target: The folder with the data.
        manifest: What is in it.
        seconds: What the run took.
    """

    status: Literal["landed", "unchanged"]
    target: str
    manifest: Manifest
    seconds: float = 0.0

    def lines(self) -> list[str]:
        """Give the report for people."""
        manifest = self.manifest
        size = human(sum(file.size for file in manifest.files))
        count = f"{len(manifest.files)} file{'' if len(manifest.files) == 1 else 's'}"
        packed = human(sum(source.size for source in manifest.sources))
        where = f"{manifest.host}:{manifest.remote_file_path}"
        name = f"task {manifest.task} ({manifest.variant})"
        if self.status == "unchanged":
            return [
                f"{name}: unchanged since {manifest.finished}: {count}, {size}, in {self.target}",
                f"  source: {where}; --force fetches it again",
            ]
        lines = [
            f"{name}: landed {count}, {size}, in {self.target}",
            f"  source: {where}, {packed}, in {self.seconds:.1f} s; checked: size, archive CRC",
        ]
        if manifest.archives:
            kept = ", ".join(archive.path for archive in manifest.archives)
            lines.append(f"  kept: {kept}")
        if manifest.skipped:
            lines.append(f"  skipped: {manifest.skipped} not matching {manifest.include}")
        return lines

    def data(self) -> dict[str, object]:
        """Give the report for programs."""
        manifest = self.manifest
        return {
            "status": self.status,
            "task": manifest.task,
            "variant": manifest.variant,
            "target": self.target,
            "files": len(manifest.files),
            "bytes": sum(file.size for file in manifest.files),
            "host": manifest.host,
            "remote_file_path": manifest.remote_file_path,
            "remote_bytes": sum(source.size for source in manifest.sources),
            "archives": [archive.path for archive in manifest.archives],
            "skipped": manifest.skipped,
            "seconds": round(self.seconds, 3),
        }


class Fetch:
    """One run of a task: connects, lands what the task says, and reports."""

    def __init__(self, settings: Settings, place: Landing) -> None:
        self.settings = settings
        self._place = place
        self._started = time.monotonic()

    # --- for task modules -----------------------------------------------------------------

    def connect(self) -> AbstractContextManager[fabric.Connection]:
        """Open a Fabric connection to the settings' host, each hop verified."""
        return remote.connect(self.settings)

    def archive(
        self,
        connection: fabric.Connection,
        kind: Literal["zip", "tar"],
        include: str = "*.csv",
    ) -> Report:
        """Land the members of the one archive at `remote_file_path`.

        Args:
            connection: From `connect`.
            kind: What it is: a zip, or a tar that may be packed.
            include: A glob of the member names that land, in any case.

        Raises:
            LighterageError: One of its kinds; nothing has changed then.
        """
        host = remote.Host(connection, self.settings)
        source = host.facts(self.settings.remote_file_path)
        if source.folder:
            raise RemotePathError(f"{source.path}: is a directory: task 3 takes those")
        run = _Run(self.settings, self._place, host, include)
        return self._land(
            run, [source], lambda stream: run.archive(source, stream, kind, PurePosixPath())
        )

    def tree(
        self,
        connection: fabric.Connection,
        include: str = "*.csv",
        archives: str = "*.zip",
    ) -> Report:
        """Land the directory at `remote_file_path`: its files, and each zip's members in its place.

        Args:
            connection: From `connect`.
            include: A glob of the names that land, in any case, of files and of members.
            archives: A glob of the names that are unpacked where they lie.

        Raises:
            LighterageError: One of its kinds; nothing has changed then.
        """
        host = remote.Host(connection, self.settings)
        top = host.facts(self.settings.remote_file_path)
        if not top.folder:
            raise RemotePathError(f"{top.path}: is a file: tasks 1 and 2 take archives")
        found = host.listing(top.path)
        run = _Run(self.settings, self._place, host, include)
        wanted = {
            file.path: path
            for path, file in found.files.items()
            if names.matches(path, include) or names.matches(path, archives)
        }
        run.skipped = found.skipped + len(found.files) - len(wanted)
        if not wanted:
            raise RemotePathError(f"{top.path}: holds no {include} and no {archives}")

        def bring(stream: remote.Stream) -> None:
            path = wanted[stream.path]
            source = found.files[path]
            if names.matches(path, include):
                run.plain(source, stream, path)
            else:
                run.archive(source, stream, "zip", path.parent)

        return self._land(run, [found.files[path] for path in wanted.values()], bring)

    # --- the way of the data --------------------------------------------------------------

    def _land(
        self, run: _Run, sources: list[RemoteFile], bring: Callable[[remote.Stream], None]
    ) -> Report:
        """Fetch what changed into the staging folder, check it, and put it in place."""
        before = self._place.landed()
        if before and not self.settings.force and run.same(before, sources):
            return self._report("unchanged", before)
        self._place.begin()
        total = sum(source.size for source in sources)
        with progress(self.settings.remote_file_path, total, self.settings.progress) as bar:
            for _, stream in run.host.files(sources, bar.add):
                bring(stream)
        manifest = run.manifest()
        if not manifest.files:
            raise ArchiveError(
                f"{self.settings.remote_file_path}: holds no {manifest.include}: nothing to land"
            )
        self._place.commit(manifest)
        return self._report("landed", manifest)

    def _report(self, status: Literal["landed", "unchanged"], manifest: Manifest) -> Report:
        target = str(self.settings.target)
        return Report(status, target, manifest, time.monotonic() - self._started)


class _Run:
    """One try: what has come so far, and how each kind of file is brought."""

    def __init__(self, settings: Settings, place: Landing, host: remote.Host, include: str) -> None:
        self.host = host
        self.skipped = 0
        self._settings = settings
        self._place = place
        self._sources: list[tuple[RemoteFile, str | None]] = []  # None: as the file that it is
        self._archives: list[File] = []
        self._manifest = Manifest(
            task=settings.task,
            variant=settings.variant,
            host=host.name,
            remote_file_path=settings.remote_file_path,
            include=include,
            keep_archive=settings.keep_archive,
            started=_now(),
        )

    def manifest(self) -> Manifest:
        """Give the manifest of what has come, once it is written."""
        files = self._place.written()
        landed = {file.source: file.sha256 for file in files}
        return replace(
            self._manifest,
            sources=[
                Source(source.path, source.size, source.mtime, sha256 or landed[source.path])
                for source, sha256 in self._sources
            ],
            files=files,
            archives=self._archives,
            skipped=self.skipped,
            finished=_now(),
        )

    def same(self, before: Manifest, sources: list[RemoteFile]) -> bool:
        """Whether `before` tells of the same sources, landed in the same way."""
        now = self._manifest
        return (before.host, before.remote_file_path, before.include, before.keep_archive) == (
            now.host, now.remote_file_path, now.include, now.keep_archive
        ) and {(old.path, old.size, old.mtime) for old in before.sources} == {
            (new.path, new.size, new.mtime) for new in sources
        }  # fmt: skip

    def plain(self, source: RemoteFile, stream: remote.Stream, path: PurePosixPath) -> None:
        """Bring a file as it is."""
        self._place.write(path, stream, source.path)
        self._sources.append((source, None))

    def archive(
        self,
        source: RemoteFile,
        stream: remote.Stream,
        kind: Literal["zip", "tar"],
        folder: PurePosixPath,
    ) -> None:
        """Bring an archive, and land its members in `folder`; keep it there where asked."""
        path = folder / PurePosixPath(source.path).name
        limits = unpack.Limits.of(self._settings)
        with contextlib.ExitStack() as stack:
            copy = None
            if self._settings.keep_archive:
                copy = stack.enter_context(self._place.open(path, source.path))
            elif kind == "zip":  # its table of contents is at its end
                copy = stack.enter_context(self._place.scratch())
            tee = _Tee(stream, copy)
            if copy is not None and kind == "zip":
                tee.drain()
                members = unpack.zip_members(copy, limits, source.path, self._wanted)
            else:
                members = unpack.tar_members(tee, limits, source.path, self._wanted)
            self._members(members, folder, source.path)
            tee.drain()  # what comes behind the archive's own end is part of its checksum
        sha256 = tee.digest.hexdigest()
        self._sources.append((source, sha256))
        if self._settings.keep_archive:
            self._archives.append(File(str(path), source.size, sha256, source.path))

    def _members(
        self, members: Iterator[unpack.Member | None], folder: PurePosixPath, origin: str
    ) -> None:
        for member in members:
            if member is None:
                self.skipped += 1
                continue
            self._place.write(folder / member.path, member.blocks, origin)

    def _wanted(self, path: PurePosixPath) -> bool:
        return names.matches(path, self._manifest.include)


class _Tee:
    """A stream that is hashed as it is read, and written to `copy` where there is one."""

    def __init__(self, stream: remote.Stream, copy: IO[bytes] | None) -> None:
        self._stream = stream
        self._copy = copy
        self.digest = hashlib.sha256()
        self.count = 0

    def read(self, size: int = -1) -> bytes:
        """Return at most `size` bytes, b"" at the end."""
        block = self._stream.read(size)
        self.digest.update(block)
        self.count += len(block)
        if self._copy is not None:
            with writing(self._stream.path):
                self._copy.write(block)
        return block

    def drain(self) -> None:
        """Read to the end."""
        while self.read():
            pass


def execute(settings: Settings, run: Callable[[Fetch], Report]) -> Report:
    """Carry out a task: its place locked, tried again at transient faults.

    Args:
        settings: Complete; see `Settings.require`.
        run: The task module's function.

    Raises:
        LighterageError: One of its kinds; what landed before is untouched then.
    """
    settings.require()
    wait = tenacity.wait_exponential_jitter(
        initial=settings.retry_delay, max=remote.MAX_DELAY, jitter=settings.retry_delay / 2
    )
    tries = tenacity.Retrying(
        retry=tenacity.retry_if_exception(_is_transient),
        stop=tenacity.stop_after_attempt(settings.max_tries),
        wait=wait,
        before_sleep=lambda state: _tell(state, settings.max_tries),
        reraise=True,
    )
    with landing(settings.target, overwrite=settings.overwrite) as place:
        fetch = Fetch(settings, place)
        return tries(run, fetch)


def _is_transient(error: BaseException) -> bool:
    return isinstance(error, LighterageError) and error.transient


def _tell(state: tenacity.RetryCallState, most: int) -> None:
    error = state.outcome.exception() if state.outcome else None
    delay = state.next_action.sleep if state.next_action else 0
    log.warning("try %d of %d: %s; again in %.1f s", state.attempt_number, most, error, delay)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
