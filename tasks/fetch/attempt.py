"""One attempt of a run: downloads, unpacks and checks what the plan says."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import time
from collections import Counter, deque
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from tasks.fetch import names
from tasks.fetch.archive_stream import ArchiveStream, end_first
from tasks.fetch.archives import limits, unpack
from tasks.fetch.errors import ArchiveError, IntegrityError, LighterageError, RemotePathError
from tasks.fetch.manifest import File, Kept, Manifest, Source
from tasks.fetch.report import Failed
from tasks.fetch.ssh.host import Fault, Host, Listing
from tasks.fetch.ssh.retry import delay_before

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from tasks.fetch.plan import Item, Plan
    from tasks.fetch.progress import Progress
    from tasks.fetch.ssh.remote_checksums import Sums
    from tasks.fetch.ssh.sftp import RemoteFile
    from tasks.fetch.ssh.stream import Stream
    from tasks.fetch.stores.local.landing import Landing
    from tasks.settings import Settings

log = logging.getLogger(__name__)

HOURS = 86400.0
"""How long contents may be asked for, in seconds, where nothing else goes on meanwhile."""
EXAMPLES = 3
"""Members that an error names where none was selected."""
_OWN_FAULTS = (RemotePathError, IntegrityError, ArchiveError)
"""Errors that are one remote file's own: the next one may come all the same."""


class Attempt:
    """One try: what has come so far, and how each kind of file is brought."""

    def __init__(
        self,
        settings: Settings,
        place: Landing,
        host: Host,
        include: str,
    ) -> None:
        self.host = host
        self.skipped = 0
        self.special = 0
        self.failed: list[Failed] = []
        self._settings = settings
        self._place = place
        self._include = settings.include or (include,)
        self._sources: dict[str, Source] = {}
        self._ways: list[str] = []
        self._unpacked = 0
        self._resumed: set[PurePosixPath] = set()
        self._others: list[PurePosixPath] = []
        self._started = now()

    def leave_out(self, fault: Fault) -> None:
        """Note what a listing leaves out, where that is not to stop the others.

        Raises:
            RemotePathError: The fault, unless `on_error` says `continue`.
        """
        if self._settings.on_error == "fail":
            raise fault.error
        log.error("%s", fault.error)
        self.failed.append(Failed(fault.path, fault.error))

    def listed(self, top: RemoteFile, *, alone: bool) -> Listing:
        """List what a source has: a folder, or a plain file among folders."""
        if not top.folder:
            return Listing(
                {} if top.special else {landing_name(top.path): top}, int(top.special), []
            )
        try:
            return self.host.listing(top.path)
        except RemotePathError as error:
            if alone:
                raise
            self.leave_out(Fault(top.path, True, error))
            return Listing({}, 0, [])

    # --- what is wanted, and what is there --------------------------------------------------

    @property
    def selection(self) -> str:
        """The globs of what lands, for people."""
        return " or ".join(self._include)

    def wants(self, path: PurePosixPath) -> bool:
        """Whether a file of that name lands."""
        return names.matches(path, self._include) and not self.excludes(path)

    def excludes(self, path: PurePosixPath) -> bool:
        """Whether a name was excluded."""
        return names.matches(path, self._settings.exclude)

    def comparable(self, before: Manifest | None) -> Manifest | None:
        """Return `before` where it tells of the same selection, landed in the same form."""
        return before if before and before.same_way(self.manifest()) else None

    @property
    def remote_checksums(self) -> Callable[[list[RemoteFile]], Mapping[str, str]] | None:
        """Asks for the sha256 of remote files, where contents decide what has changed."""
        if not self._settings.checksum:
            return None
        return lambda files: self.host.sums(files).result(HOURS)

    def identity(self, item: Item) -> str:
        """Give a name for just this content of a remote file, as far as size and time tell."""
        source = item.source
        text = f"{self.host.name}\0{source.path}\0{source.size}\0{source.mtime}"
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()

    def manifest(self) -> Manifest:
        """Give the manifest of what has come, once it is written."""
        settings, place = self._settings, self._place
        return Manifest(
            task=settings.task,
            variant=settings.variant,
            host=self.host.name,
            remote_file_path=str(settings.remote_file_path),
            include=", ".join(self._include),
            exclude=str(settings.exclude),
            keep_archive=settings.keep_archive,
            sources=sorted(self._sources.values(), key=lambda source: source.path),
            files=sorted(place.written(), key=lambda file: file.path),
            archives=sorted(place.archives(), key=lambda file: file.path),
            skipped=self.skipped,
            started=self._started,
            finished=now(),
        )

    # --- bringing ---------------------------------------------------------------------------

    def keep(self, kept: Kept) -> None:
        """Take over what landed before."""
        self._place.keep(kept)
        self._sources[kept.source.path] = kept.source

    def keep_old(self, kept: Kept) -> None:
        """Take over what the host has no more, or what is broken there now, if there is room."""
        try:
            if kept.files or kept.archives:
                self.keep(kept)
        except ArchiveError as error:  # what the host has now has its name
            log.warning("%s; the new one stays", error)
            self._place.drop(kept.source.path)

    def bring_all(self, plan: Plan, bar: Progress) -> None:
        """Bring what is to be fetched; each file again where it changed meanwhile."""
        left, tries = deque(plan.fetched), Counter[PurePosixPath]()
        sizes: dict[str, int] = {}  # of files that are downloaded again, as the total has them
        while left:
            try:
                ends = {item.source.path: ends for item in left if (ends := end_first(item))}
                wanted = [
                    (item.source, start)
                    for item in left
                    for start in (*ends.get(item.source.path, []), self._begun(item))
                ]
                streams = self.host.files(wanted, bar.add)
                while left:
                    item = left[0]
                    end = [b"".join(next(streams)) for _ in ends.get(item.source.path, [])]
                    stream = next(streams)
                    size = sizes.get(item.source.path, item.source.size)
                    bar.start(size, stream.start)
                    self._bring(item, stream, b"".join(end))
                    left.popleft()
                    bar.finish(size)
            except _OWN_FAULTS as error:
                item = left.popleft()
                size = sizes.setdefault(item.source.path, item.source.size)
                tries[item.path] += 1
                if item.path in self._resumed:  # what was there of it may be the fault
                    error.transient = True
                again = self._again(item, error, tries[item.path])
                if again:
                    left.appendleft(again)
                elif not self._goes_on(plan, item, error):
                    raise
                else:
                    bar.finish(size)
            except BaseException:
                self.host.reset()  # before the connection goes: nobody is to open it again
                raise

    def _begun(self, item: Item) -> int:
        """Return how many bytes an earlier run got of an archive that is kept."""
        count = self._place.begun(self.identity(item))
        if count:
            self._resumed.add(item.path)
        return count

    def _again(self, item: Item, error: LighterageError, tries: int) -> Item | None:
        """Prepare another try of one file, where its fault may pass."""
        self._forget(item)
        try:
            source = self.host.facts(item.source.path)
        except RemotePathError as gone:  # so what else is there has to be looked at anew
            raise IntegrityError(f"{gone} any more", transient=True) from gone
        if not error.transient:
            return None
        if tries >= self._settings.max_tries:
            error.transient = False  # all tries are used up
            return None
        delay = delay_before(self._settings, tries)
        log.warning("%s; fetching it again in %.1f s", error, delay)
        time.sleep(delay)
        return replace(item, source=source)

    def _goes_on(self, plan: Plan, item: Item, error: LighterageError) -> bool:
        """Whether the others land without this one; of which the old data stays then."""
        if self._settings.on_error == "fail" or len(plan.fetched) + len(plan.unchanged) < 2:
            return False
        log.error("%s", error)
        self.failed.append(Failed(item.source.path, error))
        if item.source.path in plan.stale:
            self.keep_old(plan.stale[item.source.path])
        return True

    def _forget(self, item: Item) -> None:
        self.host.reset()
        self._resumed.discard(item.path)
        self._place.drop(item.source.path)
        self._sources.pop(item.source.path, None)

    def _bring(self, item: Item, stream: Stream, end: bytes) -> None:
        log.debug("%s: %d bytes, from %d", item.source.path, item.source.size, stream.start)
        if item.packed:
            self._archive(item, stream, end)
        else:
            self._place.write(item.path, stream, item.source.path)
            self._note(item, "")

    def _note(self, item: Item, sha256: str) -> None:
        source = item.source
        self._sources[source.path] = Source(source.path, source.size, source.mtime, sha256)

    def _archive(self, item: Item, stream: Stream, end: bytes) -> None:
        """Bring an archive, and land its members in its folder; keep it there where asked."""
        source = item.source
        skipped = self.skipped
        with contextlib.ExitStack() as stack:
            copy, begun = None, 0
            if self._settings.keep_archive:
                identity = self.identity(item)
                begun = self._place.begun(identity)
                copy = stack.enter_context(self._place.archive(item.path, source.path, identity))
            ending = partial(self.host.ending, source)
            tee = ArchiveStream(stream, copy, begun=begun, size=source.size, end=end, ending=ending)
            wanted = self._wanted_in(item.path.parent)
            members = unpack.members(tee, limits.Limits.of(self._settings), source.path, wanted)
            try:
                self._members(members, item.path.parent, source.path)
                tee.drain()  # what comes behind the archive's own end is part of its checksum
            except BaseException:
                self.skipped = skipped
                raise
        self._unpacked += 1
        sha256 = tee.digest.hexdigest()
        self._note(item, sha256)
        if self._settings.keep_archive:
            self._place.archived(File(item.place, source.size, sha256, source.path))

    def _members(
        self, members: Iterator[limits.Member | None], folder: PurePosixPath, origin: str
    ) -> None:
        for member in members:
            if member is None:
                self.skipped += 1
                continue
            self._place.write(folder / member.path, member.blocks, origin)

    def _wanted_in(self, folder: PurePosixPath) -> Callable[[PurePosixPath], bool]:
        def wanted(path: PurePosixPath) -> bool:
            if self.wants(folder / path):
                return True
            if len(self._others) < EXAMPLES and path not in self._others:
                self._others.append(path)
            return False

        return wanted

    def examples(self) -> str:
        """Name some members that were not selected, for people."""
        return (
            f", but it has {', '.join(map(repr, map(str, self._others)))}" if self._others else ""
        )

    # --- checking -----------------------------------------------------------------------------

    def check(self, plan: Plan, sums: Sums, seconds: float) -> None:
        """Compare what came with the checksums that the host tells.

        Args:
            plan: Says what was fetched.
            sums: Asked for when the fetch began.
            seconds: How long to wait for them.

        Raises:
            IntegrityError: Something else came.
        """
        landed = {file.source: file.sha256 for file in self._place.written()}
        checksums = sums.result(seconds)
        for item in plan.fetched:
            path = item.source.path
            source = self._sources.get(path)
            if source is None or path in {failed.path for failed in self.failed}:
                continue
            sha256 = source.sha256 or landed[path]
            expected = checksums.get(path)
            if expected and expected != sha256:
                where = "beside it" if path in sums.beside else "that the host tells"
                error = IntegrityError(
                    f"{path}: came with sha256 {sha256}, but the one {where} is {expected}",
                    transient=path not in sums.beside or item.path in self._resumed,
                )
                self._forget(item)
                if not self._goes_on(plan, item, error):
                    raise error
                continue
            verified = "sha256" if expected else "size"
            self._sources[path] = replace(source, sha256=sha256, verified=verified)
        self._ways.append(_of_checksums(plan, sums, checksums))

    # --- explaining -----------------------------------------------------------------------------

    def explain_plan(self, plan: Plan) -> None:
        """Note how the plan was made."""
        if plan.unchanged:
            how = "sha256" if self._settings.checksum else "size and time"
            self._ways.append(
                f"{len(plan.fetched)} to fetch, {len(plan.unchanged)} as they were: by {how}"
            )

    def explained(self) -> list[str]:
        """Say which ways were chosen, and why."""
        return [*self.host.explained(), *self._ways, *self._of_archives()]

    def _of_archives(self) -> list[str]:
        if not self._unpacked:
            return []
        kept = self._settings.keep_archive
        disk = "written while they come, as keep_archive asks" if kept else "never on the disk"
        return [
            f"archives ({self._unpacked}) unpacked as they come, of a zip its table of contents "
            f"first, and {disk}"
        ]


def landing_name(path: str) -> str:
    """Return the last name of a remote path, to land under it.

    Raises:
        RemotePathError: It has none, or one that no file system could hold safely.
    """
    name = PurePosixPath(path).name
    if reason := names.problem(name):
        raise RemotePathError(f"{path}: cannot land under the name {name!r}, which {reason}")
    return name


def _of_checksums(plan: Plan, sums: Sums, checksums: Mapping[str, str]) -> str:
    """Say what contents were compared with, and why no better."""
    paths = [item.source.path for item in plan.fetched]
    ways = {
        "a checksum beside the data": sum(path in sums.beside for path in paths),
        "a checksum that the host tells": sum(path in sums.asked for path in paths),
        "size only, as the host tells no checksum": sum(path not in checksums for path in paths),
    }
    return "verified by " + ", ".join(f"{way} ({n})" for way, n in ways.items() if n)


def now() -> str:
    """Return the time in UTC, as ISO 8601 has it."""
    return datetime.now(UTC).isoformat(timespec="seconds")
