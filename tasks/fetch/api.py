"""A fetch: what a task module is handed, and what it does with it.

def run(fetch: Fetch) -> Report:
    with fetch.connect() as connection:
        return fetch.archive(connection)
"""

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
from typing import IO, TYPE_CHECKING

import tenacity

from tasks.fetch import memory, names
from tasks.fetch.archives import limits, unpack
from tasks.fetch.archives import zip as unzip
from tasks.fetch.errors import (
    ArchiveError,
    ConfigError,
    IntegrityError,
    LighterageError,
    LocalError,
    RemotePathError,
)
from tasks.fetch.manifest import File, Kept, Manifest, Source
from tasks.fetch.plan import Item, Plan, compare
from tasks.fetch.progress import Progress, progress
from tasks.fetch.report import Failed, Report
from tasks.fetch.ssh.checksums import is_checksum_file
from tasks.fetch.ssh.connection import connect
from tasks.fetch.ssh.host import Host
from tasks.fetch.ssh.remote_files import Fault, Listing
from tasks.fetch.ssh.retry import MAX_DELAY, delay_before
from tasks.fetch.stores.local.disk import writing
from tasks.fetch.stores.local.landing import landing

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator, Mapping
    from contextlib import AbstractContextManager

    import fabric

    from tasks.fetch.report import Status
    from tasks.fetch.ssh.remote_checksums import RemoteChecksums
    from tasks.fetch.ssh.remote_files import RemoteFile, Stream
    from tasks.fetch.stores.local.landing import Landing
    from tasks.settings import Settings

__all__ = ["Fetch", "Report", "execute"]

log = logging.getLogger(__name__)

HOURS = 86400.0
"""How long contents may be asked for, in seconds, where nothing else goes on meanwhile."""
AT_ONCE = 2**20
"""Bytes of an archive that is small enough to be looked at as a whole: asking for its end apart
would take longer."""
EXAMPLES = 3
"""Members that an error names where none was selected."""
_OWN_FAULTS = (RemotePathError, IntegrityError, ArchiveError)
"""Errors that are one remote file's own: the next one may come all the same."""


class Fetch:
    """One run of a task: connects, lands what the task says, and reports."""

    def __init__(self, settings: Settings, place: Landing) -> None:
        self.settings = settings
        self._place = place
        self._started = time.monotonic()

    # --- for task modules -----------------------------------------------------------------

    def connect(self) -> AbstractContextManager[fabric.Connection]:
        """Open a Fabric connection to the settings' host, each hop verified."""
        return connect(self.settings)

    def archive(
        self,
        connection: fabric.Connection,
        include: str = "*.csv",
    ) -> Report:
        """Land the members of the archive at `remote_file_path`; of which kind, its content says.

        Of several, named by a glob or a list, each lands in a folder of its own name.

        Args:
            connection: From `connect`.
            include: A glob of the names that land, in any case, where the settings have none.

        Raises:
            LighterageError: One of its kinds; nothing has changed then.
        """
        run = _Run(self.settings, self._place, Host(connection, self.settings), include)
        items = []
        for source, folder in self._sources(run, lambda _: True):
            if source.folder:
                raise RemotePathError(f"{source.path}: is a directory: task 3 takes those")
            if source.special:
                raise RemotePathError(f"{source.path}: is neither a file nor a directory")
            items.append(Item(source, str(folder / _name(source.path)), packed=True))
        return self._land(run, items, None)

    def tree(
        self,
        connection: fabric.Connection,
        include: str = "*.csv",
        archives: str = "*.zip",
    ) -> Report:
        """Land the directory at `remote_file_path`: its files, and each zip's members in its place.

        Of several, named by a glob or a list, each folder and zip lands in a folder of its own
        name, and a plain file beside those.

        Args:
            connection: From `connect`.
            include: A glob of the names that land, in any case, of files and of members, where
                the settings have none.
            archives: A glob of the names that are unpacked where they lie.

        Raises:
            LighterageError: One of its kinds; nothing has changed then.
        """
        run = _Run(self.settings, self._place, Host(connection, self.settings), include)
        items: list[Item] = []
        there: set[str] = set()  # files of checksums
        seen: set[str] = set()

        def packed(path: PurePosixPath) -> bool:
            unpacked = names.matches(path, [archives]) and not run.excludes(path)
            return unpacked and not run.wants(path)

        for top, folder in self._sources(
            run, lambda name: packed(PurePosixPath(name)), folders=True
        ):
            found = run.listed(top, alone=not folder.name)
            paths = [file.path for file in found.files.values()]
            if not seen.isdisjoint(paths):
                raise ConfigError(f"remote_file_path: {top.path} is part of another path of it")
            seen.update(paths if folder.name or not top.folder else ())
            there.update(filter(is_checksum_file, paths))
            run.special += found.special
            for fault in found.faults:
                path = folder / fault.path.removeprefix(top.path).lstrip("/")
                if fault.folder or run.wants(path) or packed(path):
                    run.leave_out(fault)
                else:
                    run.skipped += 1
            for below, source in found.files.items():
                path = folder / below
                if run.wants(path) or packed(path):
                    items.append(Item(source, str(path), packed=not run.wants(path)))
                else:
                    run.skipped += 1
            del found, paths  # of many files much memory
        if not items and run.failed:
            raise run.failed[0].error
        if not items:
            raise RemotePathError(
                f"{self.settings.remote_file_path}: holds no {run.selection} and no {archives}"
            )
        return self._land(run, items, there)

    def _sources(
        self, run: _Run, packed: Callable[[str], bool], *, folders: bool = False
    ) -> Iterator[tuple[RemoteFile, PurePosixPath]]:
        """Yield what `remote_file_path` names, and the folder that each lands in.

        One alone lands in the target itself. Of several each folder and archive has a folder, by
        its own name, and plain files have none, unless two of them have one name.

        Args:
            run: Of this try.
            packed: Whether a file of that name is an archive.
            folders: Whether a single path must be a directory.
        """
        asked = self.settings.remote_file_path
        found, faults = run.host.expand(asked, folders=folders)
        for fault in faults:
            run.leave_out(fault)
        if not found and run.failed:
            raise run.failed[0].error
        if len(asked) == 1 and [file.path for file in found] == list(asked):
            yield found[0], PurePosixPath()
            return
        own = {}
        for file in found:
            name = _name(file.path)
            own[file.path] = names.stem(name) if not file.folder and packed(name) else name
        distinct = names.distinct(own)
        for file in found:
            name = distinct[file.path]
            plain = not file.folder and not packed(_name(file.path)) and name == own[file.path]
            yield file, PurePosixPath() if plain else PurePosixPath(name)

    # --- the way of the data --------------------------------------------------------------

    def _land(self, run: _Run, items: list[Item], there: Container[str] | None) -> Report:
        """Fetch what is new or changed into the staging folder, check it, and put it in place.

        Args:
            run: Of this try.
            items: All that the host has.
            there: The files of checksums in the host's listing, where there was one.
        """
        settings, place = self.settings, self._place
        before = run.comparable(place.manifest())
        plan = compare(items, before, place.verify, run.remote_checksums, force=settings.force)
        plan.hide(failed.path for failed in run.failed)
        run.explain_plan(plan)
        log.debug(
            "%s: %d added, %d changed, %d unchanged, %d removed", settings.remote_file_path,
            len(plan.added), len(plan.changed), len(plan.unchanged), len(plan.removed),
        )  # fmt: skip
        if settings.dry_run:
            return self._report("planned", before or run.manifest(), plan, run)
        left = [] if settings.mirror else plan.left
        if before and not plan.fetched and left == plan.removed and plan.hidden_intact:
            place.finish()
            place.renew(before, [*plan.unchanged, *left, *plan.hidden])
            return self._report("partial" if run.failed else "unchanged", before, plan, run)
        parts = plan.fetched if settings.keep_archive else []
        place.begin({run.identity(item): item.source.size for item in parts})
        for one in plan.unchanged:
            run.keep(one)
        sums = run.host.remote_checksums([item.source for item in plan.fetched], there)
        began = time.monotonic()
        total = sum(item.source.size for item in plan.fetched)
        with progress(str(settings.remote_file_path), total, settings.progress) as bar:
            run.bring_all(plan, bar)
        for one in [*left, *plan.hidden]:
            run.keep_old(one)
        place.written()
        run.check(plan, sums, max(settings.timeout, time.monotonic() - began))
        del sums  # of many files much memory
        manifest = run.manifest()
        if len(run.failed) >= len(plan.fetched) > 0 and not manifest.files:
            raise run.failed[0].error
        if not manifest.files:
            raise RemotePathError(
                f"{settings.remote_file_path}: nothing in it matches {run.selection}"
                f"{run.examples()}: set include to what is to land"
            )
        manifest = place.publish(manifest)
        return self._report("partial" if run.failed else "landed", manifest, plan, run)

    def _report(self, status: Status, manifest: Manifest, plan: Plan, run: _Run) -> Report:
        return Report(
            status,
            str(self.settings.target),
            manifest,
            plan,
            run.failed,
            run.explained() if self.settings.explain else [],
            time.monotonic() - self._started,
            run.special,
        )


class _Run:
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
        self._started = _now()

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
            return Listing({} if top.special else {_name(top.path): top}, int(top.special), [])
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
        return lambda files: self.host.remote_checksums(files).result(HOURS)

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
            finished=_now(),
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
                ends = {item.source.path: ends for item in left if (ends := _end_first(item))}
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
            try:
                self._place.write(item.path, stream, item.source.path)
            except ArchiveError as error:  # two names of a listing collide: no archive is at fault
                raise RemotePathError(str(error)) from error
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
            ending = partial(self.host.read_tail, source)
            tee = _Tee(stream, copy, begun=begun, size=source.size, end=end, ending=ending)
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

    def check(self, plan: Plan, sums: RemoteChecksums, seconds: float) -> None:
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
                where = "beside it" if path in sums.from_files else "that the host tells"
                error = IntegrityError(
                    f"{path}: came with sha256 {sha256}, but the one {where} is {expected}",
                    transient=path not in sums.from_files or item.path in self._resumed,
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
        return [*self.host.explain(), *self._ways, *self._of_archives()]

    def _of_archives(self) -> list[str]:
        if not self._unpacked:
            return []
        kept = self._settings.keep_archive
        disk = "written while they come, as keep_archive asks" if kept else "never on the disk"
        return [
            f"archives ({self._unpacked}) unpacked as they come, of a zip its table of contents "
            f"first, and {disk}"
        ]


def _name(path: str) -> str:
    """Return the last name of a remote path, to land under it.

    Raises:
        RemotePathError: It has none, or one that no file system could hold safely.
    """
    name = PurePosixPath(path).name
    if reason := names.problem(name):
        raise RemotePathError(f"{path}: cannot land under the name {name!r}, which {reason}")
    return name


class _Tee:
    """A stream that is hashed as it is read, and written to `copy` where there is one.

    Args:
        stream: What follows on the first `begun` bytes, which `copy` has already.
        copy: A file for reading and appending.
        begun: How many bytes of it come first.
        size: Of the whole.
        end: Its last bytes, where they were read beforehand.
        ending: Gives what comes from a byte on, beside the stream.
    """

    def __init__(
        self,
        stream: Stream,
        copy: IO[bytes] | None,
        *,
        begun: int,
        size: int,
        end: bytes,
        ending: Callable[[int], bytes],
    ) -> None:
        self._stream = stream
        self._copy = copy
        self._begun = begun
        self._end = end
        self._ending = ending
        self._seen: list[bytes] | None = [] if size <= AT_ONCE else None
        self._ahead = b""
        self.digest = hashlib.sha256()
        self.size = size
        self.count = 0

    def read(self, size: int = -1) -> bytes:
        """Return at most `size` bytes, b"" at the end."""
        if not self._ahead:
            return self._next(size)
        most = size if size >= 0 else len(self._ahead)
        block, self._ahead = self._ahead[:most], self._ahead[most:]
        return block

    def _next(self, size: int) -> bytes:
        if self._copy is not None and self.count < self._begun:
            left = self._begun - self.count
            block = self._copy.read(min(size if size >= 0 else limits.BLOCK, left))
            if not block:
                raise LocalError(f"{self._stream.path}: what came of it before is gone")
        else:
            block = self._stream.read(size)
            if self._copy is not None:
                with writing(self._stream.path):
                    self._copy.write(block)
        self.digest.update(block)
        self.count += len(block)
        if self._seen is not None:
            self._seen.append(block)
        return block

    def end(self, start: int) -> bytes:
        """Return all from byte `start` on, without taking it from the stream."""
        if self.size - start <= len(self._end):
            return self._end[start - self.size :]
        if self._seen is None:
            return self._ending(start)
        ahead = [self._ahead]
        while block := self._next(-1):
            ahead.append(block)
        self._ahead = b"".join(ahead)
        return b"".join(self._seen)[start:]

    def drain(self) -> None:
        """Read to the end."""
        while self.read():
            pass


def _end_first(item: Item) -> list[int]:
    """Say from which byte on to read an archive's end before its beginning, if at all."""
    size = item.source.size
    if not item.packed or size <= AT_ONCE or not unpack.may_be_zip(item.source.path):
        return []
    return [size - unzip.end_size(size)]


def execute(settings: Settings, run: Callable[[Fetch], Report]) -> Report:
    """Carry out a task: its place locked, tried again at transient faults.

    Args:
        settings: Complete; see `Settings.require`.
        run: The task module's function.

    Raises:
        LighterageError: One of its kinds; what landed before is untouched then.
    """
    settings.require()
    memory.keep_freed()
    wait = tenacity.wait_exponential_jitter(
        initial=settings.retry_delay, max=MAX_DELAY, jitter=settings.retry_delay / 2
    )
    tries = tenacity.Retrying(
        retry=tenacity.retry_if_exception(_is_transient),
        stop=tenacity.stop_after_attempt(settings.max_tries),
        wait=wait,
        before_sleep=lambda state: _tell(state, settings.max_tries),
        reraise=True,
    )
    with landing(
        settings.target,
        overwrite=settings.overwrite,
        wait=settings.wait,
        dry_run=settings.dry_run,
    ) as place:
        fetch = Fetch(settings, place)
        return tries(run, fetch)


def _of_checksums(plan: Plan, sums: RemoteChecksums, checksums: Mapping[str, str]) -> str:
    """Say what contents were compared with, and why no better."""
    paths = [item.source.path for item in plan.fetched]
    ways = {
        "a checksum beside the data": sum(path in sums.from_files for path in paths),
        "a checksum that the host tells": sum(path in sums.from_host for path in paths),
        "size only, as the host tells no checksum": sum(path not in checksums for path in paths),
    }
    return "verified by " + ", ".join(f"{way} ({n})" for way, n in ways.items() if n)


def _is_transient(error: BaseException) -> bool:
    return isinstance(error, LighterageError) and error.transient


def _tell(state: tenacity.RetryCallState, most: int) -> None:
    error = state.outcome.exception() if state.outcome else None
    delay = state.next_action.sleep if state.next_action else 0
    log.warning("try %d of %d: %s; again in %.1f s", state.attempt_number, most, error, delay)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
