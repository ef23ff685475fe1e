"""The sources of a run: the remote files that `remote_file_path` names, and where each lands."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from tasks.fetch import names
from tasks.fetch.archives import registry
from tasks.fetch.errors import ConfigError, RemotePathError
from tasks.fetch.plan import Item
from tasks.fetch.report import Failed
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

    def wants(self, path: PurePosixPath) -> bool:
        """Whether a file of that path lands."""
        return names.matches(path, self.include) and not self.excludes(path)

    def excludes(self, path: PurePosixPath) -> bool:
        """Whether a path is excluded."""
        return names.matches(path, self.exclude)

    def __str__(self) -> str:
        return " or ".join(self.include)


@dataclass
class Found:
    """What was found on the host.

    Attributes:
        items: The remote files that are selected.
        checksum_files: The files of checksums in the listing; None where nothing was listed.
        skipped: How many files are not selected.
        special: How many links and special files there are.
        failed: What cannot be read.
    """

    items: list[Item] = field(default_factory=list)
    checksum_files: set[str] | None = None
    skipped: int = 0
    special: int = 0
    failed: list[Failed] = field(default_factory=list)


class Sources:
    """Looks up on the host what `remote_file_path` names."""

    def __init__(self, settings: Settings, host: Host, selection: Selection) -> None:
        self._settings = settings
        self._host = host
        self._selection = selection

    def archives(self) -> Found:
        """Find the archives that `remote_file_path` names.

        Raises:
            RemotePathError: One of them is not a file, or none exists.
        """
        found = Found()
        for source, folder in self._expanded(found, lambda _: True):
            if source.folder:
                raise RemotePathError(
                    f"{source.path}: is a directory, but this task fetches an archive: set "
                    "remote_file_path to a file, or call fetch.tree() in the task for a directory"
                )
            if source.special:
                raise RemotePathError(f"{source.path}: is neither a file nor a directory")
            found.items.append(Item(source, str(folder / safe_name(source.path)), True))
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

        def is_archive(path: PurePosixPath) -> bool:
            matches = names.matches(path, [archives]) and not self._selection.excludes(path)
            return matches and not self._selection.wants(path)

        for top, folder in self._expanded(
            found, lambda name: is_archive(PurePosixPath(name)), folders=True
        ):
            listing = self._listing(found, top, alone=not folder.name)
            paths = [file.path for file in listing.files.values()]
            if not seen.isdisjoint(paths):
                raise ConfigError(
                    f"remote_file_path: {top.path} is inside another path of it: remove one of them"
                )
            seen.update(paths if folder.name or not top.folder else ())
            self._add(found, listing, top.path, folder, is_archive)
            del listing, paths  # of many files much memory
        if not found.items:
            raise (
                found.failed[0].error
                if found.failed
                else RemotePathError(
                    f"{self._settings.remote_file_path}: contains no {self._selection} and no "
                    f"{archives}: check remote_file_path, include and exclude"
                )
            )
        return found

    def _add(
        self,
        found: Found,
        listing: Listing,
        top: str,
        folder: PurePosixPath,
        is_archive: Callable[[PurePosixPath], bool],
    ) -> None:
        """Add what a listing has."""
        assert found.checksum_files is not None  # noqa: S101 (for the types: `tree` sets it)
        found.checksum_files.update(
            file.path for file in listing.files.values() if is_checksum_file(file.path)
        )
        found.special += listing.special
        for fault in listing.faults:
            path = folder / fault.path.removeprefix(top).lstrip("/")
            if fault.folder or self._selection.wants(path) or is_archive(path):
                self._skip_failed(found, fault)
            else:
                found.skipped += 1
        for below, source in listing.files.items():
            path = folder / below
            wanted = self._selection.wants(path)
            if wanted or is_archive(path):
                found.items.append(Item(source, str(path), not wanted))
            else:
                found.skipped += 1

    def _expanded(
        self, found: Found, is_archive: Callable[[str], bool], *, folders: bool = False
    ) -> Iterator[tuple[RemoteFile, PurePosixPath]]:
        """Yield what `remote_file_path` names, and the folder of the target that each lands in.

        A single one lands in the target itself. Of several, each folder and archive lands in a
        folder of its own name, and plain files in none, unless two of them have one name.

        Args:
            found: Receives what cannot be read.
            is_archive: Whether a file of that name is an archive.
            folders: Whether a single path must be a directory.
        """
        patterns = self._settings.remote_file_path
        files, faults = self._host.expand(patterns, folders=folders)
        for fault in faults:
            self._skip_failed(found, fault)
        if not files and found.failed:
            raise found.failed[0].error
        if len(patterns) == 1 and [file.path for file in files] == list(patterns):
            yield files[0], PurePosixPath()
            return
        own = {}
        for file in files:
            name = safe_name(file.path)
            own[file.path] = registry.stem(name) if not file.folder and is_archive(name) else name
        distinct = names.distinct(own)
        for file in files:
            name = distinct[file.path]
            is_plain = not file.folder and not is_archive(safe_name(file.path))
            alone = is_plain and name == own[file.path]
            yield file, PurePosixPath() if alone else PurePosixPath(name)

    def _listing(self, found: Found, top: RemoteFile, *, alone: bool) -> Listing:
        """List a folder; of a plain file among folders, the file."""
        if not top.folder:
            files = {} if top.special else {safe_name(top.path): top}
            return Listing(files, int(top.special), [])
        try:
            return self._host.listing(top.path)
        except RemotePathError as error:
            if alone:
                raise
            self._skip_failed(found, Fault(top.path, True, error))
            return Listing({}, 0, [])

    def _skip_failed(self, found: Found, fault: Fault) -> None:
        """Note what cannot be read, unless that fails the run.

        Raises:
            RemotePathError: The fault, unless `on_error` is `continue`.
        """
        if self._settings.on_error == "fail":
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
        raise RemotePathError(f"{path}: its name {name!r} {reason}: rename it on the host")
    return name
