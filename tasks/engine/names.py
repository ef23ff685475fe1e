"""Names that come from archives and hosts, which are not trusted to be what they seem."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from tasks.engine.errors import ArchiveError, RemotePathError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

MAX_NAME_BYTES = 255
"""What one name may take on the file systems in use (NAME_MAX of ext4, xfs, btrfs, overlay)."""
MAX_PATH_BYTES = 4000
"""What a whole path may take, with room for the destination's own part (PATH_MAX is 4096)."""

_PACKED = re.compile(r"(?:\.tar)?\.(?:zip|tar|tgz|tbz2?|txz|tzst|gz|bz2|xz|zst)$", re.IGNORECASE)
_DRIVE = re.compile(r"[A-Za-z]:")


def safe(raw: str, origin: str) -> PurePosixPath:
    """Return `raw` as a relative path that stays inside its folder.

    Args:
        raw: The name as the archive or the host gives it.
        origin: Where it was found, for the error's text.

    Raises:
        ArchiveError: It is absolute, leads out (`..`), or no file system could hold it safely.
    """
    if reason := problem(raw):
        raise ArchiveError(f"{origin}: member {raw!r} {reason}; nothing was unpacked")
    return PurePosixPath(raw)


def problem(raw: str) -> str:
    """Return why no file system could hold a name safely in a folder; empty where one can."""
    parts = raw.rstrip("/").split("/")
    if not raw.strip("/.") and raw not in {".", "./"}:
        return "has no name, or leads out of the folder"
    if raw.startswith("/"):
        return "is an absolute path"
    if ".." in parts:
        return "leads out of the folder (..)"
    if "\\" in raw or _DRIVE.match(raw):
        return "is a path of another system (backslash or drive)"
    if any(unicodedata.category(char) in {"Cc", "Cs", "Zl", "Zp"} for char in raw):
        return "has control characters or is not UTF-8"
    if any(len(part.encode()) > MAX_NAME_BYTES for part in parts):
        return "has too long a name"
    if len(raw.encode()) > MAX_PATH_BYTES:
        return "is too long a path"
    return ""


def matches(path: PurePosixPath, patterns: Iterable[str]) -> bool:
    """Whether `path` matches one of some globs, in any case: `A.CSV` is a `*.csv`.

    A glob with a slash is for the whole path, in which `*` goes over slashes; one without is
    for the last name.
    """
    whole, name = str(path).lower(), path.name.lower()
    return any(fnmatchcase(whole if "/" in glob else name, glob.lower()) for glob in patterns)


def distinct(own: Mapping[str, str]) -> dict[str, str]:
    """Return a name for each remote path, such that no two are the same on any file system.

    It depends on nothing but the paths: of those that share a name, each has `-` and the first
    digits of its path's SHA-256 behind it.

    Args:
        own: The name of each path.

    Raises:
        RemotePathError: Two names are still the same.
    """
    uses = Counter(_folded(name) for name in own.values())
    found = {
        path: name if uses[_folded(name)] == 1 else f"{name}-{_digits(path)}"
        for path, name in own.items()
    }
    uses = Counter(_folded(name) for name in found.values())
    for path, name in found.items():
        if uses[_folded(name)] > 1:
            raise RemotePathError(
                f"{path}: another source would land in {name!r} as well: fetch them one by one"
            )
    return found


def _digits(path: str) -> str:
    return hashlib.sha256(path.encode("utf-8", "surrogateescape")).hexdigest()[:8]


def stem(name: str) -> str:
    """Return an archive's name without its endings: `events` of `events.tar.gz`."""
    return _PACKED.sub("", name) or name


class Names:
    """The names taken in one folder tree; each may be there once, on any file system.

    Two names are the same where they differ by case or by Unicode form only: some file
    systems keep one of the two, and the second file would replace the first.
    """

    def __init__(self) -> None:
        self._files: dict[str, PurePosixPath] = {}
        self._folders: dict[str, PurePosixPath] = {}

    def add(self, path: PurePosixPath, origin: str) -> None:
        """Take the name of a file, with its folders.

        Raises:
            ArchiveError: It, or a name that means the same, is taken.
        """
        key = _folded(path)
        other = self._files.get(key) or self._folders.get(key)
        if other is not None:
            raise ArchiveError(f"{origin}: member {str(path)!r} collides with {str(other)!r}")
        for parent in path.parents[:-1]:
            folder = _folded(parent)
            other = self._files.get(folder) or self._folders.setdefault(folder, parent)
            if other != parent or folder in self._files:
                raise ArchiveError(
                    f"{origin}: member {str(path)!r}: its folder collides with {str(other)!r}"
                )
        self._files[key] = path


def _folded(path: PurePosixPath | str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", str(path)).casefold())
