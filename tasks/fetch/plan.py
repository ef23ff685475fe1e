"""The plan of a run: which remote files are new, changed, unchanged, and removed from the host."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from msgspec import Struct, structs

from tasks.fetch.manifest import Published
from tasks.fetch.ssh.remote_files import RemoteFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from tasks.fetch.manifest import File, Manifest

    Verify = Callable[[File, bool], File | None]
    """Returns the record of an unchanged file; see `Store.verify`."""


class Item(Struct, frozen=True, gc=False):
    """A remote file to download.

    Attributes:
        source: The remote file.
        path: The file's path in the target; of an archive, where it is kept, if it is, and in
            whose folder its members land. A text: there may be 100,000 items.
        is_archive: Whether its members land, and not the file itself.
    """

    source: RemoteFile
    path: str
    is_archive: bool

    @property
    def folder(self) -> str:
        """The folder of `path`, with a slash at its end; empty for the target itself."""
        return self.path.rpartition("/")[0] + "/" if "/" in self.path else ""


@dataclass
class Plan:
    """What a run is to do; each remote file is in one of the lists.

    Attributes:
        added: Remote files that were not published before.
        changed: Remote files that differ from what was published, or whose files here do.
        unchanged: Remote files that need no download.
        removed: What is published of remote files that do not exist any more.
        hidden: What is published of remote files that the host does not show at present.
        replaced: What is published of `changed` ones, if it is intact, by the remote path.
    """

    added: list[Item] = field(default_factory=list)
    changed: list[Item] = field(default_factory=list)
    unchanged: list[Published] = field(default_factory=list)
    removed: list[Published] = field(default_factory=list)
    hidden: list[Published] = field(default_factory=list)
    replaced: dict[str, Published] = field(default_factory=dict)

    @cached_property
    def downloads(self) -> list[Item]:
        """The remote files to download, in the order of the names; of a plan that is complete."""
        return sorted([*self.added, *self.changed], key=lambda item: item.path)

    def change(self, item: Item, published: Published) -> None:
        """Add a remote file that differs from what is published of it."""
        self.changed.append(item)
        if published.intact:
            self.replaced[item.source.path] = published

    def hide(self, paths: Iterable[str]) -> None:
        """Count what is at or below paths that cannot be read as hidden, and not as removed."""
        tops = tuple(paths)
        below = tuple(f"{top}/" for top in tops)
        removed, self.removed = self.removed, []
        for published in removed:
            path = published.source.path
            is_hidden = path in tops or path.startswith(below)
            (self.hidden if is_hidden else self.removed).append(published)

    def changes_nothing(self, *, mirror: bool) -> bool:
        """Whether the published data is what this plan leads to."""
        return (
            not self.downloads
            and not (mirror and self.removed)
            and all(published.intact for published in [*self.removed, *self.hidden])
        )


def compare(
    items: Iterable[Item],
    before: Manifest | None,
    verify: Verify,
    remote_checksums: Callable[[list[RemoteFile]], Mapping[str, str]] | None,
    *,
    force: bool,
    landed_path: Callable[[str], str] = str,
) -> Plan:
    """Compare the remote files with the published data.

    Args:
        items: All remote files that are selected.
        before: The manifest of the published data, if it is of the same selection.
        verify: Finds a published file unchanged or not; a source with a changed one has changed.
        remote_checksums: Returns the SHA-256 of remote files, to find changes by content; None to
            find them by size and time.
        force: Whether all remote files count as changed.
        landed_path: Returns where a file of a path lands.
    """
    plan = Plan()
    by_content = remote_checksums is not None
    old = before.by_source() if before else {}
    candidates: list[tuple[Item, Published]] = []
    for item in items:
        listed = old.pop(item.source.path, None)
        if listed is None:
            plan.added.append(item)
            continue
        published = verified(verify, listed, content=by_content)
        source = listed.source
        is_same = source.size == item.source.size and (
            by_content or source.mtime == item.source.mtime
        )
        if (
            not (is_same and published.intact and _has_same_paths(item, published, landed_path))
            or force
        ):
            plan.change(item, published)
        elif by_content:
            candidates.append((item, published))
        else:
            plan.unchanged.append(published)
    checksums: Mapping[str, str] = {}
    if remote_checksums is not None and candidates:
        checksums = remote_checksums([item.source for item, _ in candidates])
    for item, published in candidates:
        source = published.source
        if checksums.get(source.path) != source.sha256:
            plan.change(item, published)
            continue
        if source.mtime != item.source.mtime:
            source = structs.replace(source, mtime=item.source.mtime)
            published = structs.replace(published, source=source)  # noqa: PLW2901 - the list gets the newer record
        plan.unchanged.append(published)
    plan.removed = [verified(verify, listed, content=by_content) for listed in old.values()]
    return plan


def _has_same_paths(item: Item, published: Published, landed_path: Callable[[str], str]) -> bool:
    """Whether the files of a source have the paths that they would get now."""
    if len(published.files) == 1 and not published.archives and not item.is_archive:
        # of most, and there may be many
        return published.files[0].path == landed_path(item.path)
    start = item.folder if item.is_archive else landed_path(item.path)
    others = [archive for archive in published.archives if archive.path != item.path]
    others += [file for file in published.files if not file.path.startswith(start)]
    return not others


def verified(verify: Verify, listed: Published, *, content: bool) -> Published:
    """Return what the manifest lists of a source, without the files that have changed here."""
    files = [found for file in listed.files if (found := verify(file, content))]
    archives = [found for file in listed.archives if (found := verify(file, content))]
    if files == listed.files and archives == listed.archives:
        return listed
    intact = len(files) == len(listed.files) and len(archives) == len(listed.archives)
    return Published(listed.source, files, archives, intact)
