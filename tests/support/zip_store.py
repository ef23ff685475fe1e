"""A made-up store, to show what a new one takes: a target `zip:///folder/name.zip` is one zip file.

This module, and one line in `tasks.fetch.stores.STORES`, are all that it takes.
"""

from __future__ import annotations

import contextlib
import hashlib
import zipfile
from collections.abc import Iterator
from pathlib import Path

from tasks.fetch.errors import LocalError
from tasks.fetch.manifest import NAME, File, Manifest
from tasks.fetch.stores.protocol import Layout, Pruned, Writer

PREVIOUS = ".previous.json"
"""In the zip file, the manifest of the one that it replaced."""


class ZipStore:
    """A zip file as a store; a new one replaces it by a rename. It has no partial downloads."""

    partial_downloads = None
    folder = None

    def __init__(self, target: str, *, overwrite: bool, layout: Layout = "manifest") -> None:
        self._target = Path(target.removeprefix("zip://"))
        self._staged = self._target.with_suffix(".staged")
        self._overwrite = overwrite
        self._files: dict[str, bytes] = {}
        self.published = False

    def check(self) -> None:
        if self._target.exists() and (self.manifest() is None or not self._overwrite):
            raise LocalError(f"{self._target}: is not to be replaced")

    def lock(self, wait_s: float) -> None:  # a rename decides: the last run wins
        self.check()
        self._target.parent.mkdir(parents=True, exist_ok=True)

    def manifest(self) -> Manifest | None:
        try:
            return Manifest.decode(self._read(NAME))
        except (OSError, KeyError, zipfile.BadZipFile):
            return None

    def previous(self) -> Manifest | None:
        try:
            return Manifest.decode(self._read(PREVIOUS))
        except (OSError, KeyError, zipfile.BadZipFile):
            return None

    def read(self, file: File) -> Iterator[bytes]:
        yield self._read(file.path)

    def _read(self, path: str) -> bytes:
        with zipfile.ZipFile(self._target) as archive:
            return archive.read(path)

    def begin(self, run_id: str) -> None:
        self._files = {}

    def create(self, path: str) -> Writer:
        return _Writer(self._files, path)

    def keep(self, file: File) -> None:
        self._files[file.path] = self._read(file.path)

    def remove(self, path: str) -> None:
        self._files.pop(path, None)

    def verify(self, file: File, content: bool) -> File | None:
        with contextlib.suppress(OSError, KeyError, zipfile.BadZipFile):
            if hashlib.sha256(self._read(file.path)).hexdigest() == file.sha256:
                return file
        return None

    def free_bytes(self) -> None:
        return None

    def publish(self, manifest: Manifest) -> Manifest:
        self.check()
        with zipfile.ZipFile(self._staged, "w") as archive:
            for path, content in self._files.items():
                archive.writestr(path, content)
            archive.writestr(NAME, b"".join(manifest.encoded()))
            if self._target.exists():
                archive.writestr(PREVIOUS, self._read(NAME))
        self._staged.rename(self._target)
        self.published = True
        return manifest

    def update_manifest(self, manifest: Manifest) -> None:
        """Do nothing: the published data is not changed."""

    def copy_published(self) -> str:
        return ""

    def prune(self, *, keep_runs: int, min_age_s: float, dry_run: bool) -> Pruned:
        return Pruned()

    def clean_up(self) -> None:
        self._staged.unlink(missing_ok=True)


class _Writer:
    """Keeps a file in memory until it is published."""

    def __init__(self, files: dict[str, bytes], path: str) -> None:
        self._files = files
        self._path = path
        self._blocks: list[bytes] = []

    def write(self, block: bytes) -> None:
        self._blocks.append(block)

    def close(self) -> None:
        self._files[self._path] = b"".join(self._blocks)

    def abort(self) -> None:
        self._blocks.clear()
