"""Whether a published file still has the content that its record in the manifest states.

The manifest must never state a checksum that is not the file's. A file whose size and time are
those of its record counts as unchanged; whenever the time proves nothing, the content is read.
"""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from tasks.fetch.errors import LocalError
from tasks.fetch.manifest import File
from tasks.fetch.stores.local import tree

if TYPE_CHECKING:
    from tasks.fetch.manifest import Manifest

TICK_NS = 12_000_000
"""Two writes within this time may have one modification time: a kernel's clock tick is 1-10 ms."""
COARSE_NS = 2_000_000_000
"""The same, where the file system stores whole seconds (FAT: every second one)."""


def verify_file(folder: str, file: File, *, content: bool) -> File | None:
    """Return a file's record with its present time, if it has the size and checksum stated.

    The checksum is computed if the time is not that of the record, or `content` is true.
    """
    before = tree.facts_of(folder, file)
    if before is None:
        return None
    if not content and before.st_mtime_ns == file.mtime_ns != 0:
        return file
    try:
        with Path(folder, file.path).open("rb") as opened:
            same = hashlib.file_digest(opened, "sha256").hexdigest() == file.sha256
            after = os.fstat(opened.fileno())
    except OSError:
        return None
    if not same or after.st_mtime_ns != before.st_mtime_ns:
        return None
    return with_mtime(file, after.st_mtime_ns)


def with_mtime(file: File, mtime_ns: int) -> File:
    """Return the record of a file with another time."""
    # Quicker than `replace`.
    return File(
        file.path, file.size, file.sha256, file.source, mtime_ns,
        columns=file.columns, rows=file.rows,
    )  # fmt: skip


def with_reliable_times(manifest: Manifest) -> Manifest:
    """Keep only times that a later edit of the file changes, whatever the clock's resolution.

    Other times become 0: the next run reads the file.
    """
    now = time.time_ns()
    newest = max((file.mtime_ns for file in manifest.all_files()), default=0)
    if now - TICK_NS < newest <= now:
        time.sleep((newest + TICK_NS - now) / 1e9)  # quicker than reading the file in the next run
        now = time.time_ns()

    def reliable(file: File) -> File:
        tick = TICK_NS if file.mtime_ns % 1_000_000_000 else COARSE_NS
        return file if file.mtime_ns <= now - tick else with_mtime(file, 0)

    return replace(
        manifest,
        files=[reliable(file) for file in manifest.files],
        archives=[reliable(file) for file in manifest.archives],
    )


def edited_error(path: Path) -> LocalError:
    """Return the error of a file that was edited after it was verified; a retry sees the edit."""
    return LocalError(
        f"{path}: was changed by another program during the run", advice="run again", transient=True
    )
