"""Names that come from archives and hosts, which are not trusted to be what they seem."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from tasks.fetch.errors import ArchiveError, RemotePathError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

MAX_NAME_BYTES = 255
"""What one name may take on the file systems in use (NAME_MAX of ext4, xfs, btrfs, overlay)."""
MAX_PATH_BYTES = 4000
"""What a whole path may take, with room for the destination's own part (PATH_MAX is 4096)."""

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


class Names:
    """The names taken in one folder tree; each may be there once, on any file system.

    Two names are the same where they differ by case or by Unicode form only: some file
    systems keep one of the two, and the second file would replace the first.
    """

    def __init__(self) -> None:
        # By the folded name. Texts, not paths: there may be 100,000, and most fold to themselves.
        self._files: dict[str, str] = {}
        self._folders: dict[str, str] = {}
        self._origins: dict[str, str] = {}

    def add(self, path: PurePosixPath | str, origin: str) -> None:
        """Take the name of a file, with its folders.

        Raises:
            ArchiveError: It, or a name that means the same, is taken.
        """
        text = str(path)
        key = _folded(text)
        if other := self._files.get(key) or self._folders.get(key):
            raise ArchiveError(_collision(text, text, origin, other, self._origins[key]))
        folder = text
        while folder := folder.rpartition("/")[0]:
            above = _folded(folder)
            other = self._files.get(above) or self._folders.get(above)
            if other == folder and above not in self._files:
                break  # and so are those above it
            if other:
                raise ArchiveError(_collision(text, folder, origin, other, self._origins[above]))
            self._folders[above] = folder
            self._origins[above] = origin
        self._files[key] = text
        self._origins[key] = origin


def _collision(path: str, taken: str, origin: str, other: str, other_origin: str) -> str:
    """Say which two names collide, and of which two sources they are.

    Args:
        path: The new file.
        taken: The part of its path that collides: all of it, or a folder.
        origin: The new file's source.
        other: What was there before.
        other_origin: Its source.
    """
    mine, theirs = _described(taken, other), _described(other, taken)
    subject = mine if path == taken else f"{path!r}: its folder {mine}"
    where = "of the same source" if origin == other_origin else f"of {other_origin}"
    return f"{origin}: member {subject} collides with {theirs} {where}"


def _described(path: str, other: str) -> str:
    """Quote a name, with the code points that set it apart from one that looks the same."""
    points = [f"U+{ord(char):04X}" for char in path if char > "\x7f" and char not in other]
    return repr(path) + (f" ({' '.join(points)})" if points else "")


def _folded(path: PurePosixPath | str) -> str:
    text = str(path)
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())
    return text if folded == text else folded  # one object, where one does
