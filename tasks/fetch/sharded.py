"""One shard of a run: plans if no shard has, lands its part, and publishes once all have landed.

Every step may be repeated, by several processes at the same time; `shards.run` lists the records.
"""

from __future__ import annotations

import contextlib
import logging
import random
import socket
import time
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from msgspec import structs

from tasks.fetch.errors import BusyError, ConfigError, Interrupted, LighterageError
from tasks.fetch.plan import Plan
from tasks.fetch.report import Report, ShardNote
from tasks.fetch.shard_planning import make_plan, same_settings
from tasks.fetch.shard_publishing import Publication
from tasks.fetch.shards.lease import Lease, repeated
from tasks.fetch.shards.names import Hosts
from tasks.fetch.shards.plan import Failure
from tasks.fetch.shards.run import Landed, Progress, ShardRun
from tasks.fetch.sources import Found
from tasks.fetch.ssh.connection_limit import FREE_ADVICE, limited_by
from tasks.fetch.staging import Staging, staging
from tasks.fetch.stores import open_run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tasks.fetch import progress
    from tasks.fetch.attempt import Attempt
    from tasks.fetch.manifest import Manifest
    from tasks.fetch.report import Status
    from tasks.fetch.shards.plan import RunPlan
    from tasks.fetch.shards.run import State
    from tasks.fetch.ssh.connection_settings import ConnectionSettings
    from tasks.settings import Settings

log = logging.getLogger(__name__)

FIRST_POLL_S = 0.1
POLL_S = 1.0
"""How long a shard that waits does so until it looks again: at first, and at most; at random up to
twice as long."""
BEAT_S = 10.0
"""How often a shard writes its progress."""
START_SPREAD_S = 0.05
"""For each shard: so long after another, on average, does it connect. sshd drops connections when
10 are logging in (MaxStartups 10:30:100), and a login takes up to half a second."""


class Shard:
    """One shard of a run, in one process.

    Args:
        settings: Complete, with `shard`, `shards` and `run_id`.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = replace(settings, node=settings.node or socket.gethostname())
        self._number = settings.shard
        self._shared = open_run(str(settings.target), settings.run_id, overwrite=settings.overwrite)
        self._run = ShardRun(self._shared.records, settings.run_id, same_settings(settings))
        self._started = time.monotonic()
        self._staged: Staging | None = None
        self._bar: progress.Progress | None = None
        self._has_landed = False
        self._connections: Counter[str] = Counter()  # that are open, by host

    def execute(self, attempt: Callable[[Settings, Staging], Report]) -> Report:
        """Land this shard's part, if it has not landed, and publish the run, if it is complete.

        Args:
            attempt: Connects to the host of the settings, and calls `land`.

        Raises:
            LighterageError: This shard failed, or the run cannot be published.
        """
        # A plan of other settings is refused, before a record is written.
        if self._run.plan() and self._number in self._run.landed_shards():
            return self._finish(is_new=False)
        with limited_by(self._hold):
            try:
                self._write("running")
                self._run.clear_failed(self._number)
                with repeated(lambda: self._write("running"), BEAT_S):
                    self._land(attempt)
                    self._has_landed = True
                    return self._finish()
            except Interrupted:
                with contextlib.suppress(LighterageError):
                    self._write("stopped")
                raise
            except Exception as error:
                self._fail(error)
                raise

    def _write(self, state: State, error: Failure | None = None) -> None:
        done = self._bar.count if self._bar else 0
        run = self._staged.run if self._staged else ""
        self._run.write_progress(
            self._number, Progress(self._settings.node, state, done, run, error)
        )

    def _fail(self, error: Exception) -> None:
        """Record why this shard failed; publish the others, if that is wanted and they are done."""
        if not isinstance(error, LighterageError):
            error = LighterageError(f"{type(error).__name__}: {error}")
        with contextlib.suppress(LighterageError):
            plan = self._run.plan()  # one of other settings is refused: this is no shard of it
            failure = Failure.of(f"shard {self._number}", error)
            self._write("failed", failure)
            self._run.set_failed(self._number, failure)
            if plan and self._number not in self._run.landed_shards():
                self._finish()
            elif plan and not self._has_landed:  # another process has landed this shard
                self._write("landed")

    # --- landing -------------------------------------------------------------------------------

    def _land(self, attempt: Callable[[Settings, Staging], Report]) -> None:
        """Land this shard's part, unless it has landed; make the plan, unless there is one."""
        planner, waits = Lease(self._run.records, "planner"), _waits()
        while (plan := self._run.plan()) is None:
            if planner.try_acquire():
                with planner.held():
                    if self._run.plan() is None:
                        self._attempt(attempt, self._settings.remote_host_address.each[0])
            else:
                time.sleep(next(waits))
        if self._number in self._run.landed_shards():
            return
        time.sleep(random.uniform(0, START_SPREAD_S * (len(plan.shards) - 1)))  # noqa: S311 (no secret)
        self._attempt(attempt, plan.shards[self._number - 1].host)

    def _attempt(self, attempt: Callable[[Settings, Staging], Report], host: str) -> None:
        """Connect to a host, and record what landed of it, if this was this shard's part."""
        started = time.monotonic()
        settings = replace(self._settings, remote_host_address=Hosts(host))
        part = self._shared.part()
        with staging(part) as staged:
            self._staged = staged
            report = attempt(settings, staged)
            if not part.published:  # the plan was made, and this shard has no part of that host
                return
            landed = self._landed(report, time.monotonic() - started, host)
            if self._run.land(self._number, landed):
                self._write("landed")
            else:
                log.warning("shard %d has landed in another process", self._number)
                part.discard()

    def _landed(self, report: Report, seconds: float, host: str) -> Landed:
        manifest, plan = report.manifest, self._run.plan()
        prefix = f"{host}:" if plan and plan.prefixed else ""
        files, archives = (
            [structs.replace(file, source=prefix + file.source) for file in some]
            for some in (manifest.files, manifest.archives)
        )
        sources = [structs.replace(one, path=prefix + one.path) for one in manifest.sources]
        failed = [Failure.of(prefix + one.path, one.error) for one in report.failed]
        return Landed(
            self._settings.node, manifest.finished, round(seconds, 3), sources, files, archives,
            manifest.skipped, failed,
        )  # fmt: skip

    def land(self, attempt: Attempt, find: Callable[[Attempt], Found]) -> Report:
        """Land this shard's part of the host that the attempt is connected to.

        Args:
            attempt: Stages in this shard's part.
            find: Returns what there is on the host, once it is complete.
        """
        if self._run.plan() is None:
            store = self._shared.target()
            self._run.create_plan(*make_plan(self._settings, store, attempt, find))
        plan, found = self._run.plan(), Found()
        assert plan  # noqa: S101 (for the types: it was created)
        part = plan.shards[self._number - 1]
        is_here = part.host == attempt.settings.remote_host_address
        if is_here and self._number not in self._run.landed_shards():
            assigned = self._run.assigned(self._number)
            files = assigned.checksum_files
            found = Found(assigned.items, None if files is None else {*files})
            return replace(attempt, part=self._set_bar).land(found)
        return Report("planned", str(self._settings.target), plan.header, Plan())

    def _set_bar(self, bar: progress.Progress) -> None:
        self._bar = bar

    @contextlib.contextmanager
    def _hold(self, settings: ConnectionSettings, wait: bool) -> Iterator[None]:
        """Hold one of the `max_connections` places of a host, of all shards.

        Raises:
            BusyError: None is free, and `wait` is false, or this shard has one already.
            ConfigError: This shard has all of them: waiting would never end.
        """
        host, number = settings.remote_host_address, settings.max_connections
        lease, waits = Lease(self._run.records, f"host.{host}", number), _waits()
        is_waiting = False
        while not lease.try_acquire():
            message = f"{host}: {number} connections of shards are open (max_connections)"
            if not wait:
                raise BusyError(message, advice=FREE_ADVICE)
            if own := self._connections[host]:
                message += f", {own} of them by this shard itself"
                kind = ConfigError if own >= number else BusyError
                raise kind(message, advice="set a larger number")
            if not is_waiting:
                log.warning("%s; waiting until one ends", message)
            is_waiting = True
            time.sleep(next(waits))
        self._connections[host] += 1
        try:
            with lease.held():
                yield
        finally:
            self._connections[host] -= 1

    # --- the end -------------------------------------------------------------------------------

    def _finish(self, *, is_new: bool = True) -> Report:
        """Publish the run, if all shards have landed that can; report what this one did.

        The number of its requests does not depend on that of the shards, unless it publishes.

        Args:
            is_new: Whether this process had something to do.
        """
        plan, settings, run = self._run.plan(), self._settings, self._run
        assert plan  # noqa: S101 (for the types: there is one by now)
        missing = {*range(1, settings.shards + 1)} - run.landed_shards()
        failed = missing & run.failed_shards() if missing else set()
        is_published = not plan.changes or run.is_published()
        if not is_published and (
            not missing or (settings.on_error == "continue" and failed == missing)
        ):
            failures = run.failures(failed)
            if failures.keys() == missing:  # none has started again in between
                return self._publish(plan, failures)
        note = replace(
            self._note(missing, failed, is_published=is_published),
            was_published=is_published and not is_new,
        )
        if not plan.changes:
            manifest = self._shared.target().manifest() or plan.header
            done = plan.as_plan([], [], run.compared().removed if plan.removed else [])
            return self._report("unchanged", manifest, done, [], note)
        own = run.landed(self._number)
        if own is None:
            return self._report("shard", plan.header, plan.as_plan([], [], []), [], note)
        changed = {*run.assigned(self._number).changed} if plan.changed else {}
        manifest = structs.replace(
            plan.header, sources=own.sources, files=own.files, archives=own.archives
        )
        done = plan.as_plan(own.sources, changed, [])
        return self._report("shard", manifest, done, own.failed, note)

    def _publish(self, plan: RunPlan, missing: dict[int, Failure]) -> Report:
        """Publish the run without the shards that failed; report what was published."""
        settings = self._settings
        publication = Publication(self._shared, self._run, plan, missing, mirror=settings.mirror)
        manifest = publication.publish(settings.wait)
        failures = [*missing.values(), *publication.failed]
        note = self._note({*missing}, {*missing}, is_published=not missing)
        status: Status = "partial" if failures else "landed"
        done = plan.as_plan(publication.landed, {*publication.changed}, publication.removed)
        return self._report(status, manifest, done, failures, note)

    def _note(self, missing: set[int], failed: set[int], *, is_published: bool) -> ShardNote:
        settings = self._settings
        return ShardNote(
            str(settings.run_id), self._number, settings.shards, is_published,
            sorted(missing - failed), sorted(failed),
        )  # fmt: skip

    def _report(
        self,
        status: Status,
        manifest: Manifest,
        done: Plan,
        failures: list[Failure],
        note: ShardNote,
    ) -> Report:
        plan = self._run.plan()
        assert plan  # noqa: S101 (for the types)
        return Report(
            status,
            str(self._settings.target),
            manifest,
            done,
            [failure.failed() for failure in failures],
            seconds=time.monotonic() - self._started,
            special=plan.special,
            arrival=plan.notes,
            shard=note,
        )


def _waits() -> Iterator[float]:
    """Yield the seconds of each wait, which grow."""
    seconds = FIRST_POLL_S
    while True:
        yield seconds * random.uniform(1, 2)  # noqa: S311 (no secret)
        seconds = min(POLL_S, 2 * seconds)
