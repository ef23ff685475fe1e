"""The local file system: operations that the standard library lacks, and clear errors."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
import sys
from io import FileIO
from typing import TYPE_CHECKING

from tasks.fetch.errors import LocalError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2  # renameat2(2)


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
        what = {
            errno.ENOSPC: "no space left",
            errno.EDQUOT: "the quota is used up",
            errno.EACCES: "no permission to write",
            errno.EROFS: "the file system is read-only",
        }.get(error.errno or 0, error.strerror or str(error))
        raise LocalError(f"{path}: {what}") from error


class NewFile:
    """A file of a staging folder, made with its first byte or at its end; errors name `target`."""

    def __init__(self, staged: Path, target: Path) -> None:
        self._staged = staged
        self._target = target
        self._file: FileIO | None = None  # unbuffered: blocks are large, or a small file's only one

    def write(self, block: bytes) -> None:
        """Append bytes."""
        with writing(self._target):
            file, rest = self._opened(), memoryview(block)
            while rest:
                rest = rest[file.write(rest) :]

    def close(self) -> None:
        """Complete the file."""
        with writing(self._target):
            self._opened().close()

    def abort(self) -> None:
        """Close and remove it: an open file takes its room on the disk even when it is removed."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            with contextlib.suppress(OSError):
                self._staged.unlink(missing_ok=True)

    def _opened(self) -> FileIO:
        if self._file is None:
            try:
                self._file = FileIO(self._staged, "x")
            except FileNotFoundError:
                self._staged.parent.mkdir(parents=True, exist_ok=True)
                self._file = FileIO(self._staged, "x")
        return self._file
