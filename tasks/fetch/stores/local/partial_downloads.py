"""Partial downloads: archives that are kept, until they are complete and published.

They are in a folder `.NAME.part` beside the target, so that a later run resumes where this one
ended. Publishing links them into the new tree, and removes them here only afterwards.
"""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING

from tasks.fetch.errors import LocalError
from tasks.fetch.stores.local.disk import remove_empty, remove_tree, writing

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class LocalPartialDownloads:
    """The partial downloads of a target, each in a file named after its key."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self._folder = target.with_name(f".{target.name}.part")
        self._keys: dict[str, str] = {}  # of those that become files of the new tree, by path

    def size(self, key: str) -> int:
        """Return how many bytes a partial download has; 0 where there is none."""
        try:
            return (self._folder / key).stat().st_size
        except OSError:
            return 0

    def open(self, key: str, path: str) -> LocalPartialFile:
        """Open or create one, which becomes the file `path`."""
        self._keys[path] = key
        name = self._target / path
        with writing(name):
            self._folder.mkdir(exist_ok=True)
            return LocalPartialFile(self._folder / key, name)

    def keep_only(self, sizes: Mapping[str, int]) -> None:
        """Remove those not in `sizes`, and those with more bytes than the complete file."""
        with writing(self._folder):
            for part in self._folder.iterdir() if self._folder.is_dir() else []:
                if part.stat().st_size > sizes.get(part.name, -1):
                    part.unlink()

    # --- for the store ----------------------------------------------------------------------

    def begin(self) -> None:
        """Forget which of them become files of the new tree."""
        self._keys.clear()

    def remove(self, path: str) -> None:
        """Remove the one that was to become the file `path`, if there is one."""
        if key := self._keys.pop(path, None):
            (self._folder / key).unlink(missing_ok=True)

    def mtime_ns(self, path: str) -> int | None:
        """Return when the one that becomes the file `path` was written last."""
        key = self._keys.get(path)
        return (self._folder / key).stat().st_mtime_ns if key else None

    def move_to(self, staging: Path) -> None:
        """Give each its path in the new tree: by a hard link, or a rename without links."""
        for path, key in self._keys.items():
            part, new = self._folder / key, staging / path
            new.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(part, new)
            except OSError as error:
                if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EIO}:
                    raise
                part.rename(new)

    def move_back(self, staging: Path) -> None:
        """Undo the renames of `move_to`."""
        for path, key in self._keys.items():
            part = self._folder / key
            if not part.exists():
                with contextlib.suppress(OSError):
                    (staging / path).rename(part)

    def remove_all(self) -> None:
        """Remove all of them: they were published."""
        remove_tree(self._folder)

    def remove_folder(self) -> None:
        """Remove the folder, if it is empty."""
        remove_empty([self._folder])


class LocalPartialFile:
    """A partial download, open to read and to append; errors quote `name`, the target's file."""

    def __init__(self, part: Path, name: Path) -> None:
        self._name = name
        self._file = part.open("a+b")
        self._file.seek(0)

    def read(self, size: int) -> bytes:
        """Return at most `size` bytes, from the start on."""
        with writing(self._name):
            block = self._file.read(size)
        if not block:
            raise LocalError(
                f"{self._name}: its partial download was truncated by another program",
                advice="run again",
            )
        return block

    def write(self, block: bytes) -> None:
        """Append bytes."""
        with writing(self._name):
            self._file.write(block)

    def close(self) -> None:
        """Complete it."""
        with writing(self._name):
            self._file.close()

    def abort(self) -> None:
        """Close it; what was written stays for a later run."""
        with contextlib.suppress(OSError):
            self._file.close()
