"""The plan of a run that has shards: list the hosts once, compare, and assign what is new."""

from __future__ import annotations

import re
import secrets
from dataclasses import replace
from typing import TYPE_CHECKING

from msgspec import structs

from tasks.fetch.errors import ArchiveError, ConfigError, RemotePathError
from tasks.fetch.names import Names
from tasks.fetch.plan import Item
from tasks.fetch.shard_publishing import digest
from tasks.fetch.shards.names import Hosts
from tasks.fetch.shards.plan import Assigned, Compared, Failure, RunPlan, ShardFiles, Share, assign
from tasks.fetch.sources import Found
from tasks.fetch.ssh.checksums import places
from tasks.fetch.ssh.connection import connect
from tasks.fetch.ssh.host import Host
from tasks.fetch.staging import Staging

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from tasks.fetch.attempt import Attempt
    from tasks.fetch.ssh.remote_files import RemoteFile
    from tasks.fetch.stores.protocol import Store
    from tasks.settings import Settings


_SAME = (
    "task", "shards", "remote_host_address", "hosts_hold", "remote_file_path", "include", "exclude",
    "keep_archive", "mirror", "on_error", "force", "checksum",
)  # fmt: skip


def same_settings(settings: Settings) -> dict[str, str]:
    """Return the settings that must be the same in all shards of a run."""
    return {name: str(getattr(settings, name)) for name in _SAME}


def make_plan(
    settings: Settings,
    store: Store,
    attempt: Attempt,
    find: Callable[[Attempt], Found],
) -> tuple[RunPlan, list[ShardFiles], Compared]:
    """List the hosts, compare them with what is published, and assign what is new to shards.

    Args:
        settings: Of the run, with all hosts.
        store: Of the target.
        attempt: Is connected to the first host.
        find: Returns what there is on the host of an attempt, once it is complete.

    Returns:
        The plan, what each shard lands, and what else there is.

    Raises:
        ConfigError: The hosts need more shards, or a setting is not possible with several hosts.
        LighterageError: A host cannot be read, or the target not be replaced.
    """
    hosts = settings.remote_host_address.each
    prefixed = len(hosts) > 1 and settings.hosts_hold == "own"
    assign({host: [] for host in hosts}, settings.shards, settings.hosts_hold)  # are they enough?
    if prefixed and settings.checksum:
        raise ConfigError(
            "checksum is set, and is not possible with several hosts that hold their own files",
            advice="leave out --checksum, or name one host",
        )
    store.check()
    name = str(settings.remote_host_address) if len(hosts) > 1 else ""
    planning = replace(attempt, staging=Staging(store), name=name)
    listed = {hosts[0]: find(planning)}
    for host in hosts[1:] if prefixed else []:
        own = replace(settings, remote_host_address=Hosts(host))
        with connect(own) as connection:
            listed[host] = find(replace(planning, settings=own, host=Host(connection, own)))
    found = _merged(listed) if prefixed else listed[hosts[0]]
    before, plan = planning.compare(found)
    _check_names(plan.downloads)
    items: dict[str, list[Item]] = {host: [] for host in hosts}
    for item in plan.downloads:
        if prefixed:
            host, path = _split(item.source.path, hosts)
            items[host].append(structs.replace(item, source=_renamed(item, path)))
        else:
            items[hosts[0]].append(item)
    shares = assign(items, settings.shards, settings.hosts_hold)
    run_plan = RunPlan(
        token=secrets.token_hex(8),
        node=settings.node,
        settings=same_settings(settings),
        base=digest(store.manifest()),
        changes=not (before and plan.changes_nothing(mirror=settings.mirror)),
        prefixed=prefixed,
        header=structs.replace(
            planning.header(), skipped=found.skipped, run_id=str(settings.run_id)
        ),
        special=found.special,
        notes=found.notes,
        unchanged=len(plan.unchanged),
        changed=len(plan.changed),
        removed=len(plan.removed),
        shards=[
            Assigned(host, len(some), sum(item.source.size for item in some))
            for host, some in shares
        ],
    )
    changed = {item.source.path for item in plan.changed}
    files = [
        _shard_files(share, listed.get(share.host, listed[hosts[0]]), changed, prefixed=prefixed)
        for share in shares
    ]
    compared = Compared(
        unchanged={one.source.path: one.source.mtime for one in plan.unchanged},
        removed=[one.source.path for one in plan.removed],
        hidden=[one.source.path for one in plan.hidden],
        failed=[Failure.of(one.path, one.error) for one in found.failed],
    )
    return run_plan, files, compared


def _shard_files(
    share: Share, listed: Found, changed: Collection[str], *, prefixed: bool
) -> ShardFiles:
    """Return the record of what a shard lands of what a host has."""
    paths = [item.source.path for item in share.items]
    known, checksum_files = listed.checksum_files, None
    if known is not None:
        checksum_files = sorted({place for path in paths for place in places(path)} & known)
    prefix = f"{share.host}:" if prefixed else ""
    own = [prefix + path for path in paths]
    return ShardFiles(share.items, [path for path in own if path in changed], checksum_files)


def _merged(listed: Mapping[str, Found]) -> Found:
    """Return what several hosts have, each path after its host, each target in a folder of it."""
    merged = Found()
    for host, found in listed.items():
        folder = re.sub(r"[^\w.-]", "_", host)
        merged.items += [
            Item(
                _renamed(item, f"{host}:{item.source.path}"),
                f"{folder}/{item.path}",
                item.is_archive,
            )
            for item in found.items
        ]
        merged.failed += [replace(one, path=f"{host}:{one.path}") for one in found.failed]
        merged.late += [f"{host}:{path}" for path in found.late]
        merged.notes += [f"{host}: {note}" for note in found.notes]
        merged.skipped += found.skipped
        merged.special += found.special
    return merged


def _renamed(item: Item, path: str) -> RemoteFile:
    return structs.replace(item.source, path=path)


def _split(path: str, hosts: Iterable[str]) -> tuple[str, str]:
    """Return the host of a path of `_merged`, and the path without it."""
    host = max((host for host in hosts if path.startswith(f"{host}:")), key=len)
    return host, path.removeprefix(f"{host}:")


def _check_names(items: Iterable[Item]) -> None:
    """Raise `RemotePathError` where two files would have one name in the target."""
    names = Names()
    try:
        for item in items:
            if not item.is_archive:
                names.add(item.path, item.source.path)
    except ArchiveError as error:  # of a listing: no archive is at fault
        raise RemotePathError(error.text, advice=error.advice) from error
