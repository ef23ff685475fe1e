"""The API for task modules.

def run(fetch: Fetch) -> Report:
    with fetch.connect() as connection:
        return fetch.archive(connection)
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from tasks.fetch.arrival import Arrival
from tasks.fetch.attempt import Attempt
from tasks.fetch.errors import ConfigError, LighterageError, MissingError
from tasks.fetch.report import Report
from tasks.fetch.sharded import Shard
from tasks.fetch.sources import Selection, Sources
from tasks.fetch.ssh.connection import connect
from tasks.fetch.ssh.host import Host
from tasks.fetch.ssh.retry import Retries
from tasks.fetch.staging import staging
from tasks.fetch.stores import open_store
from tasks.fetch.tables.csv_files import CsvFiles

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    import fabric

    from tasks.fetch.sources import Found
    from tasks.fetch.staging import Staging
    from tasks.settings import Settings

__all__ = ["Fetch", "Report", "execute"]

log = logging.getLogger(__name__)


class Fetch:
    """One run of a task: connects, lands what the task says, and reports."""

    def __init__(self, settings: Settings, staging: Staging, shard: Shard | None = None) -> None:
        self.settings = settings
        self._staging = staging
        self._shard = shard
        self._started = time.monotonic()
        self._arrival = Arrival(settings)

    def connect(self) -> AbstractContextManager[fabric.Connection]:
        """Open a Fabric connection to the host of the settings, with each host key verified."""
        return connect(self.settings)

    def archive(self, connection: fabric.Connection, include: str = "*.csv") -> Report:
        """Land the members of the archive at `remote_file_path`; its content tells the format.

        Of several, named by a glob or a list, each lands in a folder of its own name.

        Args:
            connection: From `connect`.
            include: A glob of the names that land, in any case, unless the settings have one.

        Raises:
            LighterageError: One of its kinds; the data published before is unchanged.
        """
        return self._land(connection, include, Sources.archives)

    def tree(
        self, connection: fabric.Connection, include: str = "*.csv", archives: str = "*.zip"
    ) -> Report:
        """Land the directory at `remote_file_path`, with the members of its archives.

        Members land in the folder of their archive. Of several paths, named by a glob or a list,
        each folder and archive lands in a folder of its own name, and a plain file beside those.

        Args:
            connection: From `connect`.
            include: A glob of the names that land, in any case, of files and of members, unless
                the settings have one.
            archives: A glob of the names that are unpacked.

        Raises:
            LighterageError: One of its kinds; the data published before is unchanged.
        """
        return self._land(connection, include, lambda sources: sources.tree(archives))

    def _land(
        self, connection: fabric.Connection, include: str, find: Callable[[Sources], Found]
    ) -> Report:
        settings = self.settings
        host = Host(connection, settings)
        selection = Selection(settings.include or (include,), settings.exclude)
        attempt = Attempt(settings, host, self._staging, selection, self._started)
        if self._shard:
            return self._shard.land(attempt, lambda planning: _found(planning, find))
        return attempt.land(_found(attempt, find, self._arrival))


def _found(
    attempt: Attempt, find: Callable[[Sources], Found], arrival: Arrival | None = None
) -> Found:
    """Return what an attempt finds on its host, once it is complete."""
    settings, host = attempt.settings, attempt.host
    sources = Sources(settings, host, attempt.selection)
    arrival = arrival or Arrival(settings)
    try:
        return arrival.wait(lambda: find(sources), host.reconnect, attempt.published)
    except MissingError as error:
        raise host.near(error) from error


def execute(settings: Settings, run: Callable[[Fetch], Report]) -> Report:
    """Carry out a task: lock its target, and retry after transient errors.

    Args:
        settings: Complete; see `Settings.require`.
        run: The task module's function.

    Raises:
        LighterageError: One of its kinds; the data published before is unchanged.
    """
    settings.require()
    hosts = settings.remote_host_address.each
    if settings.dry_run and len(hosts) > 1:
        raise ConfigError(
            f"remote_host_address names {len(hosts)} hosts, and a dry run lists one",
            advice=f"pass --remote-host-address {hosts[0]}, or another of them",
        )
    if settings.shards and not settings.dry_run:
        shard = Shard(settings)
        return shard.execute(lambda own, staged: _tried(run, Fetch(own, staged, shard)))
    csv_files = CsvFiles.of(settings)
    store = open_store(
        str(settings.target), overwrite=settings.overwrite, layout=settings.publish_layout
    )
    with staging(store, csv_files, wait_s=settings.wait, dry_run=settings.dry_run) as staged:
        return _tried(run, Fetch(settings, staged))


def _tried(run: Callable[[Fetch], Report], fetch: Fetch) -> Report:
    """Call a task, and again after transient errors."""
    retries = Retries(fetch.settings)
    while True:
        try:
            return run(fetch)
        except LighterageError as error:
            retries.wait(error, "starting again")
