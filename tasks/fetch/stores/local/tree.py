"""A published tree: its manifest, whether it is complete, what is foreign in it, its removal.

Only the files that the tree's manifest lists are ever removed from it, and folders left empty.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import TYPE_CHECKING

from tasks.fetch.manifest import NAME, START_BYTES, Manifest, is_manifest

if TYPE_CHECKING:
    from collections.abc import Container, Iterator
    from pathlib import Path

    from tasks.fetch.manifest import File


def read_manifest(folder: Path) -> Manifest | None:
    """Return the manifest of a folder; None where it has none that can be read."""
    return read_file(folder / NAME)


def read_file(path: Path) -> Manifest | None:
    """Return the manifest that a file contains; None where it has none that can be read."""
    try:
        return Manifest.decode(path.read_bytes())
    except OSError:
        return None


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest of a folder."""
    with (folder / NAME).open("wb") as file:
        file.writelines(manifest.encoded())


def has_manifest(folder: Path) -> bool:
    """Whether a folder has a manifest of Lighterage, of any version; reads only its start."""
    try:
        with (folder / NAME).open("rb") as file:
            return is_manifest(file.read(START_BYTES))
    except OSError:
        return False


def is_complete(folder: Path) -> bool:
    """Whether a folder has a valid manifest, and each file that this lists, with its size."""
    if not is_folder(folder):
        return False
    found = read_manifest(folder)
    return found is not None and all(facts_of(str(folder), file) for file in found.all_files())


def is_folder(path: Path) -> bool:
    """Whether a path is a folder, and no link to one."""
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except OSError:
        return False


def facts_of(folder: str, file: File) -> os.stat_result | None:
    """Return the status of a listed file; None where it does not exist with its size."""
    try:
        facts = os.lstat(f"{folder}/{file.path}")
    except OSError:
        return None
    return facts if stat.S_ISREG(facts.st_mode) and facts.st_size == file.size else None


def foreign(folder: Path, own: Container[str]) -> str | None:
    """Return the relative path of a file that is not in `own`; None where there is none.

    Empty folders do not count: nothing in them could be lost.
    """
    for path, is_dir in _walk(str(folder)):
        if not is_dir and path not in own:
            return path
    return None


def remove(folder: Path, own: Container[str], manifest: Path | None = None) -> bool:
    """Remove the files in `own`, the manifest last, and the folders; return whether that is all.

    Other files stay, with the folders that lead to them, and the manifest.

    Args:
        folder: The tree.
        own: Relative paths.
        manifest: A name that the manifest gets instead of being removed.
    """
    for path, is_dir in _walk(str(folder)):
        full = f"{folder}/{path}"
        if is_dir:
            _remove_folder(full)
        elif path != NAME and path in own:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(full)  # noqa: PTH108 (a string: there may be 100,000)
    with os.scandir(folder) as entries:
        if any(entry.name != NAME for entry in entries):
            return False
    with contextlib.suppress(FileNotFoundError):
        (folder / NAME).replace(manifest) if manifest else (folder / NAME).unlink()
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
