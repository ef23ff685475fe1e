"""The plan of a run that has shards: which shard lands which remote file, from which host."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Literal, NamedTuple

from msgspec import Struct

from tasks.fetch.errors import ConfigError, LighterageError
from tasks.fetch.manifest import Manifest, Published, Source
from tasks.fetch.plan import Item, Plan
from tasks.fetch.report import Failed
from tasks.fetch.ssh.remote_files import RemoteFile

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

FILE_COST_BYTES = 2**15
"""What a file costs beside its bytes: a request, a name in the target."""


class Failure(Struct, frozen=True):
    """A remote file that could not be read, as the records state it."""

    path: str
    kind: str
    exit_code: int
    error: str
    advice: str = ""

    @classmethod
    def of(cls, path: str, error: LighterageError) -> Failure:
        """Return the failure of a remote file, or of a shard."""
        return cls(path, error.kind, error.exit_code, error.text, error.advice)

    def failed(self) -> Failed:
        """Return it for a report."""
        error = LighterageError(self.error, advice=self.advice)
        error.kind, error.exit_code = self.kind, self.exit_code
        return Failed(self.path, error)


class Assigned(Struct, frozen=True):
    """How much one shard lands, of which host; its files are in a record of their own."""

    host: str
    files: int
    size: int


class ShardFiles(Struct, frozen=True):
    """The record of what one shard is to land.

    Attributes:
        items: Its files.
        changed: Those of its sources that are published in another version, each after its host
            where the plan is `prefixed`.
        checksum_files: Those of the listing that may have checksums of its files; None where no
            folders were listed.
    """

    items: list[Item]
    changed: list[str]
    checksum_files: list[str] | None = None


class Compared(Struct, frozen=True):
    """The record of all else that the planner found, which only the shard that publishes needs.

    Attributes:
        unchanged: The modification time of each source that needs no download.
        removed: Sources that are published and no longer on the host.
        hidden: Sources that are published and that the host does not show at present.
        failed: What could not be listed.
    """

    unchanged: dict[str, int]
    removed: list[str]
    hidden: list[str]
    failed: list[Failure]


class RunPlan(Struct, frozen=True, tag_field="schema", tag="lighterage-plan/1"):
    """The record `plan.json`: each shard reads it, so it has no list of files.

    Attributes:
        token: A text that no other plan has.
        node: The machine of the planner.
        settings: Those that must be the same in each shard.
        base: The checksum of the manifest that the host was compared with.
        changes: Whether there is anything to publish.
        prefixed: Whether each path of a source starts with its host.
        header: The manifest of the run, without files.
        special: How many links and special files the listing has.
        notes: What is to be reported of the arrival.
        unchanged: How many sources need no download.
        changed: How many sources are published in another version.
        removed: How many are published and no longer on the host.
        shards: What each lands.
    """

    token: str
    node: str
    settings: dict[str, str]
    base: str
    changes: bool
    prefixed: bool
    header: Manifest
    special: int
    notes: list[str]
    unchanged: int
    changed: int
    removed: int
    shards: list[Assigned]

    def as_plan(
        self, landed: Iterable[Source], changed: Collection[str], removed: Iterable[str]
    ) -> Plan:
        """Return a plan for a report: of what is unchanged it has the number only.

        Args:
            landed: The downloads.
            changed: Those that were published before.
            removed: Sources that are no longer on the host; none where only their number is known.
        """
        plan = Plan()
        for source in landed:
            file = RemoteFile(source.path, source.size, source.mtime)
            item = Item(file, source.path, is_archive=False)
            (plan.changed if source.path in changed else plan.added).append(item)
        plan.unchanged = [_published("")] * self.unchanged
        plan.removed = [*map(_published, removed)] or [_published("")] * self.removed
        return plan

    def require(self, run_id: str, settings: Mapping[str, str]) -> None:
        """Raise `ConfigError` where the plan was made with other settings."""
        for name, value in settings.items():
            planned = self.settings.get(name, "")
            if planned != value:
                raise ConfigError(
                    f"run {run_id}: its plan was made with {name} {planned or 'unset'}, and here "
                    f"{name} is {value or 'unset'}",
                    advice="start all shards of a run with the same "
                    "settings, or take another run_id",
                )


def _published(path: str) -> Published:
    return Published(Source(path, 0, 0, ""), [], [])


class Share(NamedTuple):
    """What one shard is to land, of one host."""

    host: str
    items: list[Item]


def assign(
    items: Mapping[str, Sequence[Item]], shards: int, hold: Literal["own", "same"]
) -> list[Share]:
    """Divide files among shards: the largest first, each to the shard that has least so far.

    Args:
        items: By host. Where all hosts hold the same, each has the same list.
        shards: How many there are.
        hold: Whether each file is on its own host, or on all.

    Raises:
        ConfigError: There are fewer shards than hosts with files of their own: each has one host.
    """
    hosts = [*items]
    if hold == "same":
        parts = _divided(items[hosts[0]], shards)
        return [Share(hosts[k % len(hosts)], part) for k, part in enumerate(parts)]
    if shards < len(hosts):
        raise ConfigError(
            f"shards is {shards}, but remote_host_address names {len(hosts)} hosts, and a shard "
            f"reads one",
            advice=f"start at least {len(hosts)} shards",
        )
    counts = dict.fromkeys(hosts, 1)
    costs = {host: sum(map(_cost, some)) for host, some in items.items()}
    for _ in range(shards - len(hosts)):
        counts[max(hosts, key=lambda host: costs[host] / counts[host])] += 1
    return [Share(host, part) for host in hosts for part in _divided(items[host], counts[host])]


def _cost(item: Item) -> int:
    return item.source.size + FILE_COST_BYTES


def _divided(items: Iterable[Item], count: int) -> list[list[Item]]:
    parts: list[list[Item]] = [[] for _ in range(count)]
    heap = [(0, number) for number in range(count)]
    for item in sorted(items, key=lambda item: (-item.source.size, item.path)):
        cost, number = heap[0]
        parts[number].append(item)
        heapq.heapreplace(heap, (cost + _cost(item), number))
    return [sorted(part, key=lambda item: item.path) for part in parts]
