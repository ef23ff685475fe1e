"""A fetch: what a task module is handed, and what it does with it.

def run(fetch: Fetch) -> Report:
    with fetch.connect() as connection:
        return fetch.archive(connection)
"""

from __future__ import annotations

import logging
import time
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import tenacity

from tasks.fetch import memory, names
from tasks.fetch.attempt import Attempt, landing_name
from tasks.fetch.errors import ConfigError, LighterageError, RemotePathError
from tasks.fetch.plan import Item, Plan, compare
from tasks.fetch.progress import progress
from tasks.fetch.report import Report
from tasks.fetch.ssh import checksums
from tasks.fetch.ssh.connection import connect
from tasks.fetch.ssh.host import Host
from tasks.fetch.ssh.retry import MAX_DELAY
from tasks.fetch.stores.local.landing import landing

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator
    from contextlib import AbstractContextManager

    import fabric

    from tasks.fetch.manifest import Manifest
    from tasks.fetch.report import Status
    from tasks.fetch.ssh.sftp import RemoteFile
    from tasks.fetch.stores.local.landing import Landing
    from tasks.settings import Settings

__all__ = ["Fetch", "Report", "execute"]

log = logging.getLogger(__name__)


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
        run = Attempt(self.settings, self._place, Host(connection, self.settings), include)
        items = []
        for source, folder in self._sources(run, lambda _: True):
            if source.folder:
                raise RemotePathError(f"{source.path}: is a directory: task 3 takes those")
            if source.special:
                raise RemotePathError(f"{source.path}: is neither a file nor a directory")
            items.append(Item(source, str(folder / landing_name(source.path)), packed=True))
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
        run = Attempt(self.settings, self._place, Host(connection, self.settings), include)
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
            there.update(filter(checksums.is_beside, paths))
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
        self, run: Attempt, packed: Callable[[str], bool], *, folders: bool = False
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
            name = landing_name(file.path)
            own[file.path] = names.stem(name) if not file.folder and packed(name) else name
        distinct = names.distinct(own)
        for file in found:
            name = distinct[file.path]
            plain = (
                not file.folder and not packed(landing_name(file.path)) and name == own[file.path]
            )
            yield file, PurePosixPath() if plain else PurePosixPath(name)

    # --- the way of the data --------------------------------------------------------------

    def _land(self, run: Attempt, items: list[Item], there: Container[str] | None) -> Report:
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
        sums = run.host.sums([item.source for item in plan.fetched], there)
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

    def _report(self, status: Status, manifest: Manifest, plan: Plan, run: Attempt) -> Report:
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


def _is_transient(error: BaseException) -> bool:
    return isinstance(error, LighterageError) and error.transient


def _tell(state: tenacity.RetryCallState, most: int) -> None:
    error = state.outcome.exception() if state.outcome else None
    delay = state.next_action.sleep if state.next_action else 0
    log.warning("try %d of %d: %s; again in %.1f s", state.attempt_number, most, error, delay)
