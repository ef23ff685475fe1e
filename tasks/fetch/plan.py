"""The plan of a run: what to bring, what is there already, and what the host has no more."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import filterfalse
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from tasks.fetch.manifest import Kept

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from tasks.fetch.manifest import File, Manifest
    from tasks.fetch.ssh.remote_files import RemoteFile

    Verify = Callable[[File, bool], File | None]
    """Returns the record of a published file that is as it was, compared by content where asked."""


@dataclass(frozen=True, slots=True)
class Item:
    """A remote file to bring.

    Attributes:
        source: Which.
        place: Where it lands, relative to the target; for an archive, where it is kept, and in
            whose folder its members land.
        packed: Whether it is an archive.
    """

    source: RemoteFile
    place: str
    packed: bool

    @property
    def path(self) -> PurePosixPath:
        """Its place as a path, which takes too much memory to be held for each of many items."""
        return PurePosixPath(self.place)


@dataclass
class Plan:
    """What a run is to do; each remote file is in one of the lists."""

    added: list[Item] = field(default_factory=list)
    changed: list[Item] = field(default_factory=list)
    unchanged: list[Kept] = field(default_factory=list)
    removed: list[Kept] = field(default_factory=list)
    left: list[Kept] = field(default_factory=list)
    """Of what the host has no more, what is whole here."""
    hidden: list[Kept] = field(default_factory=list)
    """What is whole here of what cannot be seen on the host now; and whether that is all."""
    hidden_intact: bool = True
    stale: dict[str, Kept] = field(default_factory=dict)
    """What is whole of the old data of those that changed, by the remote path."""

    @property
    def fetched(self) -> list[Item]:
        """What is to be brought, in the order of the names."""
        return sorted([*self.added, *self.changed], key=lambda item: item.place)

    def hide(self, paths: Iterable[str]) -> None:
        """Keep what lies at or below paths that the host does not show: it may be there still."""
        tops = tuple(paths)
        if not tops:
            return
        below = tuple(f"{top}/" for top in tops)

        def hidden(kept: Kept) -> bool:
            return kept.source.path in tops or kept.source.path.startswith(below)

        self.hidden = list(filter(hidden, self.left))
        self.hidden_intact = self.hidden == list(filter(hidden, self.removed))
        self.left = list(filterfalse(hidden, self.left))
        self.removed = list(filterfalse(hidden, self.removed))


def compare(
    items: Iterable[Item],
    before: Manifest | None,
    verify: Verify,
    remote_checksums: Callable[[list[RemoteFile]], Mapping[str, str]] | None,
    *,
    force: bool,
) -> Plan:
    """Compare what the host has with what landed before.

    Args:
        items: All that the host has, and that is wanted.
        before: Of what landed before, if it still counts.
        verify: Says whether a published file is as it was; a source of which one is not has
            changed.
        remote_checksums: Returns the SHA-256 of remote files, where contents decide; None where
            size and time do.
        force: Whether all counts as changed.
    """
    plan = Plan()
    old = before.by_source() if before else {}
    same: list[tuple[Item, Kept]] = []
    for item in items:
        kept = old.pop(item.source.path, None)
        if kept is None:
            plan.added.append(item)
            continue
        source = kept.source
        equal = source.size == item.source.size and (
            remote_checksums or source.mtime == item.source.mtime
        )
        found = _unchanged(verify, kept, content=bool(remote_checksums))
        whole = found == kept
        if whole:
            plan.stale[source.path] = found
        if equal and whole and _in_place(item, found) and not force:
            same.append((item, found))
        else:
            plan.changed.append(item)
    sums = (
        remote_checksums([item.source for item, _ in same]) if remote_checksums and same else None
    )
    for item, kept in same:
        if sums is not None and sums.get(item.source.path) != kept.source.sha256:
            plan.changed.append(item)
        else:
            if kept.source.mtime != item.source.mtime:
                now = replace(kept.source, mtime=item.source.mtime)
                kept = replace(kept, source=now)  # noqa: PLW2901
            plan.unchanged.append(kept)
    plan.removed = list(old.values())
    plan.left = [_unchanged(verify, kept, content=bool(remote_checksums)) for kept in plan.removed]
    return plan


def _in_place(item: Item, kept: Kept) -> bool:
    """Whether what came from a source lies where it would land now."""
    folder = item.place.rpartition("/")[0] + "/" if "/" in item.place else ""
    start = folder if item.packed else item.place
    return all(archive.path == item.place for archive in kept.archives) and all(
        file.path.startswith(start) for file in kept.files
    )


def _unchanged(verify: Verify, kept: Kept, *, content: bool) -> Kept:
    """Return what came from a source, less the files that have changed here since."""

    def unchanged(files: list[File]) -> list[File]:
        return [found for file in files if (found := verify(file, content))]

    return Kept(kept.source, unchanged(kept.files), unchanged(kept.archives))
