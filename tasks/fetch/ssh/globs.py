"""Globs: the remote paths that patterns match."""

from __future__ import annotations

import contextlib
import logging
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from tasks.fetch.errors import RemotePathError
from tasks.fetch.ssh.errors import fault_of, translated
from tasks.fetch.ssh.remote_files import Fault, RemoteFile
from tasks.fetch.ssh.sftp_listing import Limits, Lister, ListingLimitError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tasks.fetch.ssh.sftp_session import Session

log = logging.getLogger(__name__)


def is_glob(path: str) -> bool:
    """Return whether a path has a character of globs."""
    return any(char in path for char in "*?[")


def expand(
    session: Session, patterns: Sequence[str], limits: Limits
) -> tuple[list[RemoteFile], list[Fault]]:
    """Return the files that some paths and globs name; see `Host.expand`."""
    found: dict[str, RemoteFile] = {}
    faults: list[Fault] = []
    for pattern in patterns:
        files = _named(session, pattern, limits, faults)
        if not files and not faults:
            raise RemotePathError(f"{pattern}: no file or directory on the host matches")
        found.update((file.path, file) for file in files)
    return list(found.values()), faults


def _named(session: Session, pattern: str, limits: Limits, faults: list[Fault]) -> list[RemoteFile]:
    with translated(pattern):
        if not is_glob(pattern):
            return [session.stat(pattern)]
        with contextlib.suppress(FileNotFoundError, PermissionError, RemotePathError):
            return [session.stat(pattern)]  # a path that exists is no glob
        found = ["/" if pattern.startswith("/") else ""]
        for part in filter(None, pattern.split("/")):
            found = [
                path + name
                for path in (folder and folder.rstrip("/") + "/" for folder in found)
                for name in (
                    _matching(session, path, part, limits, faults) if is_glob(part) else [part]
                )
            ]
        return [file for file in session.stats(found) if isinstance(file, RemoteFile)]


def _matching(
    session: Session, folder: str, glob: str, limits: Limits, faults: list[Fault]
) -> list[str]:
    """Return the names in a folder that match; hidden ones only where the glob says so."""

    def matches(name: str) -> bool:
        return fnmatchcase(name, glob) and (glob.startswith(".") or not name.startswith("."))

    def on_fault(path: str, is_folder: bool, error: Exception) -> None:
        if matches(PurePosixPath(path).name):
            faults.append(fault_of(path, is_folder, error))

    try:
        lister = Lister(session, folder or ".", 0, limits, on_fault)
        return sorted(name for name, _ in lister.entries() if matches(name))
    except ListingLimitError:
        raise
    except PermissionError as error:
        log.warning("%s: cannot be listed, and is left out: %s", folder, error.strerror)
    except (FileNotFoundError, RemotePathError) as error:  # a file in place of a folder
        log.debug("%s: %s", folder, error)
    return []
