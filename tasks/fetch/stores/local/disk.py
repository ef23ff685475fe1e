"""The local file system: operations that the standard library lacks, and clear errors."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.fetch.errors import LocalError, SpaceError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2  # renameat2(2)
_MUCH_BYTES = 64 * 2**20
"""A write that fails with so much free is over a limit, as XFS has for folders, not a full disk."""


def exchange(one: Path, other: Path) -> bool:
    """Exchange the names of two paths in one step; return whether it was possible.

    Not every file system can, and a seccomp filter may forbid the call: the caller then uses
    two plain renames, which report whatever else is wrong.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    rename = getattr(libc, "renameat2", None)
    if rename is None:
        return False
    # Calls through ctypes raise no audit event of their own; the crash tests count these events.
    sys.audit("lighterage.exchange", str(one), str(other))
    failed = rename(
        _AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), ctypes.c_uint(_RENAME_EXCHANGE)
    )
    return not failed


def remove_tree(path: Path) -> None:
    """Remove a folder that only contains unfinished work of Lighterage; ignore errors."""
    shutil.rmtree(path, ignore_errors=True)


def remove_empty(folders: Iterable[Path]) -> None:
    """Remove those of the folders that are empty, in the order given."""
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


@contextlib.contextmanager
def writing(path: Path | str) -> Iterator[None]:
    """Turn an `OSError` into a `LocalError` that names `path`."""
    try:
        yield
    except OSError as error:
        raise local_error(path, error) from error


def local_error(path: Path | str, error: OSError) -> LocalError:
    """Return an `OSError` as a `LocalError` that names `path`."""
    if error.errno == errno.EDQUOT:
        return SpaceError(
            f"{path}: the quota of this account is used up",
            advice="remove files of this account there, or have the quota raised",
        )
    if error.errno == errno.ENOSPC:
        return SpaceError(f"{path}: no space left: {_free_text(path)}")
    if error.errno == errno.EROFS:
        return LocalError(
            f"{path}: the file system is read-only",
            advice="set file_save_path to one that can be written; in a container, below data/",
        )
    what = {errno.EACCES: "no permission to write"}.get(error.errno or 0)
    return LocalError(f"{path}: {what or error.strerror or error}")


def free_bytes(path: Path) -> int | None:
    """Return how many bytes the file system of a path, which need not exist, has free."""
    try:
        facts = _facts(path)
    except OSError:
        return None
    return facts.f_bavail * facts.f_frsize


def _free_text(path: Path | str) -> str:
    try:
        facts = _facts(Path(path))
    except OSError as error:
        return error.strerror or str(error)
    free = facts.f_bavail * facts.f_frsize
    if facts.f_files and not facts.f_favail:
        return f"all {facts.f_files} inodes of the file system are in use, and {free} bytes free"
    quota = "; a quota may be used up" if free >= _MUCH_BYTES else ""
    return f"{free} bytes are free{quota}"


def _facts(path: Path) -> os.statvfs_result:
    """Return what the nearest folder that exists has."""
    return os.statvfs(next(above for above in (path, *path.parents, Path()) if above.exists()))


class NewFile:
    """A file of a staging folder, made with its first byte or at its end; errors name `target`.

    Paths are texts, and the system's own calls are used: there may be 100,000 small files.
    """

    def __init__(self, staged: str, target: str) -> None:
        self._staged = staged
        self._target = target
        self._file = -1

    def write(self, block: bytes) -> None:
        """Append bytes."""
        try:
            file = self._opened()
            count = os.write(file, block)
            if count < len(block):
                rest = memoryview(block)[count:]
                while rest:
                    rest = rest[os.write(file, rest) :]
        except OSError as error:
            raise local_error(self._target, error) from error

    def close(self) -> None:
        """Complete the file."""
        try:
            file, self._file = self._opened(), -1
            os.close(file)
        except OSError as error:
            raise local_error(self._target, error) from error

    def abort(self) -> None:
        """Close and remove it: an open file takes its room on the disk even when it is removed."""
        if self._file >= 0:
            with contextlib.suppress(OSError):
                file, self._file = self._file, -1
                os.close(file)
            with contextlib.suppress(OSError):
                Path(self._staged).unlink()

    def _opened(self) -> int:
        if self._file < 0:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            try:
                self._file = os.open(self._staged, flags, 0o666)
            except FileNotFoundError:
                Path(self._staged).parent.mkdir(parents=True, exist_ok=True)
                self._file = os.open(self._staged, flags, 0o666)
        return self._file
