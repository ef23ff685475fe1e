"""After a run: remove or move the sources on the host whose data is published and verified."""

from __future__ import annotations

import glob
import logging
import os
import posixpath
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from tasks.fetch.errors import ConfigError, LighterageError, RemotePathError
from tasks.fetch.report import Failed

if TYPE_CHECKING:
    from collections.abc import Collection

    from tasks.fetch.manifest import Manifest, Source
    from tasks.fetch.sources import Found
    from tasks.fetch.ssh.host import Host
    from tasks.settings import Settings

log = logging.getLogger(__name__)


@dataclass
class After:
    """Carries out the setting `after` of one run.

    Attributes:
        done: How many sources were removed or moved.
        failed: Those that could not be; their data has landed.
    """

    settings: Settings
    host: Host
    done: int = 0
    failed: list[Failed] = field(default_factory=list)

    def require_folder(self, found: Found) -> None:
        """Check, before the download, that the folder to move to can be used.

        Raises:
            RemotePathError: It does not exist on the host.
            ConfigError: What is moved there would be a source again.
        """
        folder = self.settings.after.folder
        if not folder:
            return
        try:
            is_folder = self.host.facts(folder).folder
        except RemotePathError as error:
            raise RemotePathError(f"after: {error.text}", advice="create that directory") from error
        if not is_folder:
            raise RemotePathError(
                f"after: {folder}: is no directory on the host",
                advice="name a directory in `after`",
            )
        home = self.host.home()
        patterns = [
            posixpath.join(glob.escape(home), pattern) for pattern in self.settings.remote_file_path
        ]
        for new in self._targets(found).values():
            path = posixpath.normpath(posixpath.join(home, new))
            if any(_reads(pattern, path) for pattern in patterns):
                raise ConfigError(
                    f"after: {path} would be a source again, by remote_file_path",
                    advice="move to another directory",
                )

    def apply(self, manifest: Manifest, found: Found, failed: Collection[str]) -> None:
        """Remove or move the sources that were found on the host and landed as they are there.

        Args:
            manifest: Of the published data.
            found: What was found on the host.
            failed: The paths of sources that did not land.
        """
        action = self.settings.after
        if action == "keep":
            return
        present = {item.source.path for item in found.items}.difference(failed)
        sources = [source for source in manifest.sources if source.path in present]
        if not sources:
            return
        try:
            self._apply(sources, self._targets(found))
        except LighterageError as error:
            log.warning("after: %s", error)
            self.failed.append(Failed(self.host.name, error))

    def _apply(self, sources: list[Source], targets: dict[str, str]) -> None:
        self.host.reset()  # another thread may still use the session
        verified = []
        for source in sources:
            if source.verified == "sha256" or self.settings.verify == "size":
                verified.append(source)
            else:
                unverified = RemotePathError(
                    f"{source.path}: only its size was verified",
                    advice="set verify to size if that is enough",
                )
                self._fail(source.path, unverified)
        unchanged = self._unchanged(verified)
        action = self.settings.after
        if action.folder:
            moves = {path: targets[path] for path in unchanged}
            results = self.host.move(moves, action.folder)
        else:
            os.sync()  # after a power cut the published data must be there: no store calls fsync
            results = self.host.remove(unchanged)
        for path, error in results.items():
            if error is None:
                self.done += 1
                log.info("%s: %s", action, path)
            else:
                self._fail(path, error)

    def _unchanged(self, sources: list[Source]) -> list[str]:
        """Return the paths of sources that are on the host what they were when they were read."""
        now = self.host.facts_of([source.path for source in sources])
        paths = []
        for source in sources:
            facts = now.get(source.path)
            if facts and (facts.size, facts.mtime) == (source.size, source.mtime):
                paths.append(source.path)
            else:
                log.warning("after: %s: changed on the host since it was read", source.path)
        return paths

    def _targets(self, found: Found) -> dict[str, str]:
        """Return the new path of each source: its own, from the named path's last part on."""
        folder, targets = self.settings.after.folder, {}
        for named in found.named:
            above = named.path.rstrip("/").rpartition("/")[0]
            for item in found.items[named.start : named.end]:
                path = item.source.path
                targets[path] = f"{folder}/{path.removeprefix(above).lstrip('/')}"
        return targets

    def _fail(self, path: str, error: RemotePathError) -> None:
        log.error("after: %s", error)
        landed = RemotePathError(f"{error.text} (its data has landed)", advice=error.advice)
        self.failed.append(Failed(path, landed))


def _reads(pattern: str, path: str) -> bool:
    """Whether a path of the settings names this path, or a folder that it is in."""
    globs, parts = posixpath.normpath(pattern).split("/"), path.split("/")
    return len(globs) <= len(parts) and all(map(fnmatchcase, parts, globs))
