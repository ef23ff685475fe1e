"""Partial downloads: archives that are kept, until they are complete and published.

They lie in a folder `.NAME.part` beside the target, so that a later run resumes where this one
ended. Publishing links them into the new tree; only afterwards they are removed here.
"""

from __future__ import annotations

import contextlib
import errno
import os
from typing import IO, TYPE_CHECKING

from tasks.fetch.stores.local.disk import remove_tree, writing

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path


class Partials:
    """The partial downloads of a target, each in a file named after its identity.

    An identity is a file name for just one content of one remote file.
    """

    def __init__(self, target: Path) -> None:
        self._folder = target.with_name(f".{target.name}.part")

    def size(self, identity: str) -> int:
        """Return how many bytes are there; 0 where there are none."""
        try:
            return (self._folder / identity).stat().st_size
        except OSError:
            return 0

    def mtime_ns(self, identity: str) -> int:
        """Return when one was written last."""
        return (self._folder / identity).stat().st_mtime_ns

    def keep_only(self, sizes: Mapping[str, int]) -> None:
        """Remove those not in `sizes`, and those with more bytes than the complete file."""
        for part in self._folder.iterdir() if self._folder.is_dir() else []:
            if part.stat().st_size > sizes.get(part.name, -1):
                part.unlink()

    @contextlib.contextmanager
    def open(self, identity: str, name: Path) -> Iterator[IO[bytes]]:
        """Open one, to read what is there and to append; errors name the file `name`."""
        with writing(name):
            self._folder.mkdir(exist_ok=True)
            file = (self._folder / identity).open("a+b")
            file.seek(0)
        try:
            yield file
            with writing(name):
                file.flush()
        finally:
            with contextlib.suppress(OSError):
                file.close()

    def put(self, identity: str, path: Path) -> None:
        """Give a complete one the name `path` as well; move it where there are no hard links.

        Raises:
            OSError: It cannot be done; it is still here.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        part = self._folder / identity
        try:
            os.link(part, path)
        except OSError as error:
            if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EIO}:
                raise
            part.rename(path)

    def take_back(self, identity: str, path: Path) -> None:
        """Undo `put`, where it was a move."""
        part = self._folder / identity
        if not part.exists():
            with contextlib.suppress(OSError):
                path.rename(part)

    def remove(self, identity: str | None = None) -> None:
        """Remove one, or all."""
        if identity is None:
            remove_tree(self._folder)
        else:
            (self._folder / identity).unlink(missing_ok=True)

    def remove_folder(self) -> None:
        """Remove the folder, if there is nothing in it."""
        with contextlib.suppress(OSError):
            self._folder.rmdir()
