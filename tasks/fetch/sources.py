"""The sources of a run: the remote files that `remote_file_path` names, and where each lands."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from tasks.fetch import names
from tasks.fetch.archives import registry
from tasks.fetch.errors import ConfigError, MissingError, RemotePathError
from tasks.fetch.plan import Item
from tasks.fetch.report import Failed
from tasks.fetch.rules import Rules
from tasks.fetch.ssh.checksums import is_checksum_file
from tasks.fetch.ssh.host import Host
from tasks.fetch.ssh.remote_files import Fault, Listing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tasks.fetch.ssh.remote_files import RemoteFile
    from tasks.settings import Settings

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Selection:
    """Globs of the names that land, and of those that do not."""

    include: tuple[str, ...]
    exclude: tuple[str, ...]

    def wants(self, path: str) -> bool:
        """Whether a file of that path lands."""
        return names.matches(path, self.include) and not self.excludes(path)

    def excludes(self, path: str) -> bool:
        """Whether a path is excluded."""
        return bool(self.exclude) and names.matches(path, self.exclude)

    def __str__(self) -> str:
        return " or ".join(self.include)


@dataclass
class Named:
    """A source that `remote_file_path` names: an archive, or a folder or file of a tree.

    Attributes:
        path: On the host.
        required: Whether it must be complete, as it was named by its path and not by a glob.
        start: Of its items in `Found.items`.
        end: Of its items.
        state: Changes with the size and time of each of its files; empty unless `settle` is set.
        reason: Why it is not complete; empty where it is.
    """

    path: str
    required: bool
    start: int
    end: int
    state: str = ""
    reason: str = ""


@dataclass
class Found:
    """What was found on the host.

    Attributes:
        items: The remote files that are selected.
        checksum_files: The files of checksums in the listing; None where nothing was listed.
        skipped: How many files are not selected.
        special: How many links and special files there are.
        failed: What cannot be read.
        named: The sources that `remote_file_path` names.
        late: The paths of sources that are not complete; what is published of them is kept.
        nothing: Whether a dry run found nothing yet, and all that is published is kept.
        notes: What is to be reported of the arrival.
    """

    items: list[Item] = field(default_factory=list)
    checksum_files: set[str] | None = None
    skipped: int = 0
    special: int = 0
    failed: list[Failed] = field(default_factory=list)
    named: list[Named] = field(default_factory=list)
    late: list[str] = field(default_factory=list)
    nothing: bool = False
    notes: list[str] = field(default_factory=list)

    def keep_items(self, wanted: Callable[[Item], bool]) -> int:
        """Leave out the items that are not wanted; return how many these are."""
        items, self.items = self.items, []
        for named in self.named:
            start = len(self.items)
            self.items += filter(wanted, items[named.start : named.end])
            named.start, named.end = start, len(self.items)
        return len(items) - len(self.items)

    def leave_out(self) -> None:
        """Leave out the sources that are not complete, and note why."""
        items, self.items = self.items, []
        for named in self.named:
            start = len(self.items)
            if not named.reason:
                self.items += items[named.start : named.end]
            else:
                self.late.append(named.path)
                self.notes.append(f"left out {named.path}: {named.reason}")
                log.warning("left out: %s: %s", named.path, named.reason)
            named.start, named.end = start, len(self.items)


@dataclass
class Sources:
    """Looks up on the host what `remote_file_path` names."""

    settings: Settings
    host: Host
    selection: Selection

    def archives(self) -> Found:
        """Find the archives that `remote_file_path` names.

        Raises:
            RemotePathError: One of them is not a file, or none exists.
        """
        found = Found()
        for source, folder, reason in self._expanded(found, lambda _: True):
            if source.folder:
                raise RemotePathError(
                    f"{source.path}: is a directory, but this task fetches an archive",
                    advice="set "
                    "remote_file_path to a file, or call fetch.tree() in the task for a directory",
                )
            if source.special:
                raise RemotePathError(
                    f"{source.path}: is neither a file nor a directory",
                    advice="set remote_file_path to a file or a directory",
                )
            start = len(found.items)
            if not reason:
                found.items.append(Item(source, folder + safe_name(source.path), True))
            self._name(found, source, Listing({"": source}, 0, []), start, reason)
        return found

    def tree(self, archives: str) -> Found:
        """Find the selected files and the archives below the directory of `remote_file_path`.

        Args:
            archives: A glob of the names whose members land.

        Raises:
            ConfigError: A path is inside another one.
            RemotePathError: Nothing is found.
        """
        found = Found(checksum_files=set())
        seen: set[str] = set()

        def is_archive(path: str) -> bool:
            matches = names.matches(path, [archives]) and not self.selection.excludes(path)
            return matches and not self.selection.wants(path)

        for top, folder, missing in self._expanded(found, is_archive, folders=True):
            reason, start = missing, len(found.items)
            listing = self._listing(found, top, alone=not folder)
            if top.folder and self.settings.marker:
                reason = Rules(self.settings, self.host).take_markers(listing)
            paths = [file.path for file in listing.files.values()]
            if not seen.isdisjoint(paths):
                raise ConfigError(
                    f"remote_file_path: {top.path} is inside another path of it",
                    advice="remove one of them",
                )
            seen.update(paths if folder or not top.folder else ())
            if not reason:
                self._add(found, listing, top.path, folder, is_archive)
            self._name(found, top, listing, start, reason)
            del listing, paths  # of many files much memory
        if not found.items and not any(named.reason for named in found.named):
            if found.failed:
                raise found.failed[0].error
            raise MissingError(
                f"{self.settings.remote_file_path}: contains no {self.selection} and no {archives}",
                advice="check remote_file_path, include and exclude",
            )
        return found

    def _add(
        self,
        found: Found,
        listing: Listing,
        top: str,
        folder: str,
        is_archive: Callable[[str], bool],
    ) -> None:
        """Add what a listing has."""
        assert found.checksum_files is not None  # noqa: S101 (for the types: `tree` sets it)
        found.checksum_files.update(
            file.path for file in listing.files.values() if is_checksum_file(file.path)
        )
        found.special += listing.special
        for fault in listing.faults:
            path = folder + fault.path.removeprefix(top).lstrip("/")
            if fault.folder or self.selection.wants(path) or is_archive(path):
                self._skip_failed(found, fault)
            else:
                found.skipped += 1
        for below, source in listing.files.items():
            path = folder + below
            wanted = self.selection.wants(path)
            if wanted or is_archive(path):
                found.items.append(Item(source, path, not wanted))
            else:
                found.skipped += 1

    def _expanded(
        self, found: Found, is_archive: Callable[[str], bool], *, folders: bool = False
    ) -> Iterator[tuple[RemoteFile, str, str]]:
        """Yield what `remote_file_path` names, the folder that each lands in, and why it may not.

        The reason is empty for a source that is complete, as far as `Rules` tell.

        A folder has a slash at its end; the target itself is an empty text.

        A single one lands in the target itself. Of several, each folder and archive lands in a
        folder of its own name, and plain files in none, unless two of them have one name.

        A single path must be a directory if `folders` is true.
        """
        patterns, rules = self.settings.remote_file_path, Rules(self.settings, self.host)
        files, faults = self.host.expand(patterns, folders=folders)
        for fault in faults:
            self._skip_failed(found, fault)
        if not files and found.failed:
            raise found.failed[0].error
        if self.settings.marker:
            files = rules.without_markers(files)
        if len(patterns) == 1 and [file.path for file in files] == list(patterns):
            yield from ((file, "", reason) for file, reason in rules.chosen(files))
            return
        own = {}
        for file in files:
            name = safe_name(file.path)
            is_stem = not file.folder and is_archive(name)
            own[file.path] = safe_name(registry.stem(name)) if is_stem else name
        distinct = names.distinct(own)
        for file, reason in rules.chosen(files):
            name = distinct[file.path]
            is_plain = not file.folder and not is_archive(safe_name(file.path))
            alone = is_plain and name == own[file.path]
            yield file, "" if alone else f"{name}/", reason

    def _name(
        self, found: Found, source: RemoteFile, listing: Listing, start: int, reason: str
    ) -> None:
        """Add a source whose items are those from `start` on."""
        named = Named(source.path, source.path in self.settings.remote_file_path, start,
                      len(found.items), reason=reason)  # fmt: skip
        if self.settings.settle:
            digest = hashlib.sha256(f"{listing.special} {len(listing.faults)}".encode())
            for path, file in listing.files.items():
                facts = f"{path}\0{file.size} {file.mtime}\0"
                digest.update(facts.encode("utf-8", "surrogateescape"))
            named.state = digest.hexdigest()
        found.named.append(named)

    # --- listings -------------------------------------------------------------------------------

    def _listing(self, found: Found, top: RemoteFile, *, alone: bool) -> Listing:
        """List a folder; of a plain file among folders, the file."""
        if not top.folder:
            files = {} if top.special else {safe_name(top.path): top}
            return Listing(files, int(top.special), [])
        try:
            return self.host.listing(top.path)
        except RemotePathError as error:
            if alone:
                raise
            self._skip_failed(found, Fault(top.path, True, error))
            return Listing({}, 0, [])

    def _skip_failed(self, found: Found, fault: Fault) -> None:
        """Add a fault to `failed`, or raise it if `on_error` is `fail`."""
        if self.settings.on_error == "fail":
            raise fault.error
        log.error("%s", fault.error)
        found.failed.append(Failed(fault.path, fault.error))


def safe_name(path: str) -> str:
    """Return the last name of a remote path, to use it for a local file.

    Raises:
        RemotePathError: It has none, or one that some file system cannot store safely.
    """
    name = PurePosixPath(path).name
    if reason := names.problem(name):
        raise RemotePathError(f"{path}: its name {name!r} {reason}", advice="rename it on the host")
    return name
