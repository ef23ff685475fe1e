"""Records of published files: whether a file still has the content that its record states.

The manifest must never state a checksum that is not the file's. A file whose size and time are
those of its record counts as unchanged; whenever the time says nothing, the content is read.
"""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from tasks.fetch.errors import LocalError
from tasks.fetch.manifest import File
from tasks.fetch.stores.local import tree

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.fetch.manifest import Manifest

TICK_NS = 12_000_000
"""Two writes within this time may have one modification time: a kernel's clock tick is 1-10 ms."""
COARSE_NS = 2_000_000_000
"""The same, where the file system stores whole seconds (FAT: every second one)."""


def verified(folder: Path, file: File, *, content: bool) -> File | None:
    """Return a file's record with its time of now, where it has the size and the checksum.

    The checksum is computed where the time is not the one of the record, or where asked.
    """
    before = tree.facts_of(folder, file)
    if before is None:
        return None
    if not content and before.st_mtime_ns == file.mtime_ns != 0:
        return file
    try:
        with (folder / file.path).open("rb") as opened:
            same = hashlib.file_digest(opened, "sha256").hexdigest() == file.sha256
            after = os.fstat(opened.fileno())
    except OSError:
        return None
    if not same or after.st_mtime_ns != before.st_mtime_ns:
        return None
    return timed(file, after.st_mtime_ns)


def timed(file: File, mtime_ns: int) -> File:
    """Return the record of a file with another time."""
    return File(file.path, file.size, file.sha256, file.source, mtime_ns)  # quicker than `replace`


def certain(manifest: Manifest) -> Manifest:
    """Keep only times that a later edit of the file changes, whatever the clock's resolution."""
    now = time.time_ns()
    newest = max((file.mtime_ns for file in manifest.all_files()), default=0)
    if now - TICK_NS < newest <= now:
        time.sleep((newest + TICK_NS - now) / 1e9)  # sooner done than to read the file next time
        now = time.time_ns()

    def checked(file: File) -> File:
        tick = TICK_NS if file.mtime_ns % 1_000_000_000 else COARSE_NS
        return file if file.mtime_ns <= now - tick else timed(file, 0)

    return replace(
        manifest,
        files=[checked(file) for file in manifest.files],
        archives=[checked(file) for file in manifest.archives],
    )


def changed(path: Path) -> LocalError:
    """Return the error of a file that was edited after it was verified; the next try sees it."""
    return LocalError(f"{path}: was changed by another program during the run", transient=True)
