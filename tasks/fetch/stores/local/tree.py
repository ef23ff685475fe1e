"""A published tree: whether it is complete, what in it is not ours, and how it is removed.

Only what the tree's manifest lists is ever removed from it, and folders that are empty then.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import TYPE_CHECKING

from tasks.fetch import manifest
from tasks.fetch.manifest import Manifest

if TYPE_CHECKING:
    from collections.abc import Container, Iterator
    from pathlib import Path

    from tasks.fetch.manifest import File


def is_complete(folder: Path) -> bool:
    """Whether a folder has a valid manifest, and each file that this lists, with its size."""
    if not is_folder(folder):
        return False
    found = Manifest.read(folder)
    return found is not None and all(facts_of(folder, file) for file in found.all_files())


def is_folder(path: Path) -> bool:
    """Whether a path is a folder, and no link to one."""
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except OSError:
        return False


def facts_of(folder: Path, file: File) -> os.stat_result | None:
    """Return what the system knows of a listed file; None where it is not there with its size."""
    try:
        facts = os.lstat(f"{folder}/{file.path}")
    except OSError:
        return None
    return facts if stat.S_ISREG(facts.st_mode) and facts.st_size == file.size else None


def foreign(folder: Path, own: Container[str]) -> str | None:
    """Return the relative path of a file that is not in `own`; None where there is none.

    Empty folders do not count: they hold nothing that could be lost.

    Raises:
        OSError: A folder cannot be read, so that nobody knows what it holds.
    """
    for path, is_dir in _walk(str(folder)):
        if not is_dir and path not in own:
            return path
    return None


def remove(folder: Path, own: Container[str]) -> bool:
    """Remove the files in `own`, the manifest last, and the folders; return whether all is gone.

    What is not in `own` stays, and the folders that lead to it, and the manifest.

    Raises:
        OSError: A file of ours cannot be removed.
    """
    for path, is_dir in _walk(str(folder)):
        full = f"{folder}/{path}"
        if is_dir:
            _remove_folder(full)
        elif path != manifest.NAME and path in own:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(full)  # noqa: PTH108 (a string: there may be 100,000)
    with os.scandir(folder) as left:
        if any(entry.name != manifest.NAME for entry in left):
            return False
    (folder / manifest.NAME).unlink(missing_ok=True)
    return _remove_folder(str(folder))  # a file may be written into it at the last moment


def _remove_folder(path: str) -> bool:
    """Remove a folder; return False where it is not empty."""
    try:
        os.rmdir(path)  # noqa: PTH106 (a string, as above)
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno in {errno.ENOTEMPTY, errno.EEXIST}:
            return False
        raise
    return True


def _walk(top: str, below: str = "") -> Iterator[tuple[str, bool]]:
    """Yield each relative path and whether it is a folder; a folder after what is in it."""
    try:
        with os.scandir(f"{top}/{below}") as entries:
            found = list(entries)
    except FileNotFoundError:  # the watchdog removes the same tree
        return
    for entry in found:
        path = f"{below}{entry.name}"
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(top, f"{path}/")
            yield path, True
        else:
            yield path, False
