"""Rules of the arrival for one look at the host: the newest sources, and their marker files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.fetch.archives import registry
from tasks.fetch.errors import MissingError, RemotePathError

if TYPE_CHECKING:
    from tasks.fetch.ssh.host import Host
    from tasks.fetch.ssh.remote_files import Listing, RemoteFile
    from tasks.settings import Settings


@dataclass
class Rules:
    """The rules of a run's settings."""

    settings: Settings
    host: Host

    def chosen(self, files: list[RemoteFile]) -> list[tuple[RemoteFile, str]]:
        """Return the newest, and of each but a folder why it is not complete, if it is not.

        Raises:
            RemotePathError: No name has a date.
        """
        if self.settings.newest:
            files = self._newest(files)
        marker = self.settings.marker
        if not marker:
            return [(file, "") for file in files]
        places = {
            file.path: marker.places(file.path, registry.stem(file.path.rpartition("/")[2]))
            for file in files
            if not file.folder
        }
        existing = self.host.facts_of([path for paths in places.values() for path in paths])
        missing = {
            path: f"the host has no marker file {' or '.join(paths)}"
            for path, paths in places.items()
            if existing.keys().isdisjoint(paths)
        }
        return [(file, missing.get(file.path, "")) for file in files]

    def _newest(self, files: list[RemoteFile]) -> list[RemoteFile]:
        """Return the newest, by time or by the date in the name; of the same time by path."""
        settings, pattern = self.settings, self.settings.date_pattern
        ages = {file.path: float(file.mtime) for file in files}
        if pattern:
            dates = {path: pattern.date_in(path) for path in ages}
            ages = {path: date.timestamp() for path, date in dates.items() if date}
        if not ages:
            example = files[0].path.rpartition("/")[2]
            raise RemotePathError(
                f"{settings.remote_file_path}: no name has a date of the form {pattern}, as "
                f"{example!r}",
                advice="correct date_pattern",
            )
        ordered = sorted(ages, key=lambda path: (ages[path], path))
        newest = set(ordered[-settings.newest :])
        return [file for file in files if file.path in newest]

    def without_markers(self, files: list[RemoteFile]) -> list[RemoteFile]:
        """Return the files that are no markers; raise `MissingError` where there is none."""
        marker = self.settings.marker
        found = [file for file in files if file.folder or not marker.is_name_of(file.path)]
        if not found:
            raise MissingError(
                f"{self.settings.remote_file_path}: only marker files match, and no source",
                advice="set remote_file_path or include to the sources, not to their markers",
            )
        return found

    def take_markers(self, listing: Listing) -> str:
        """Remove the markers from a folder's listing; without one return why it is not complete."""
        marker = self.settings.marker
        found = [name for name in listing.files if "/" not in name and marker.is_name_of(name)]
        for name in found:
            del listing.files[name]
        return "" if found else f"it contains no marker file {marker}"
