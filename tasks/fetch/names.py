"""Names of files in archives and on hosts, which are not trusted."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from fnmatch import translate
from functools import lru_cache
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from tasks.fetch.errors import ArchiveError, RemotePathError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

MAX_NAME_BYTES = 255
"""The longest name on common file systems (NAME_MAX of ext4, xfs, btrfs, overlay)."""
MAX_PATH_BYTES = 4000
"""The longest path, with room for the target's own (PATH_MAX is 4096)."""

_DRIVE = re.compile(r"[A-Za-z]:")
_PLAIN = re.compile(r"[\w-][\w. -]*(?:/[\w-][\w. -]*)*", re.ASCII)
"""Most paths: found safe in one step, if they are short."""


def safe(raw: str, origin: str) -> str:
    """Return `raw` as a relative path that stays inside its folder, in its normal form.

    Args:
        raw: The name in the archive or on the host.
        origin: Where it was found, for the error.

    Raises:
        ArchiveError: It is absolute, leads out of the folder (`..`), or is no safe file name.
    """
    if reason := problem(raw):
        raise ArchiveError(
            f"{origin}: member {raw!r} {reason}; nothing was extracted",
            advice="have the archive written with relative names that all systems can use",
        )
    if "//" in raw or "/." in raw or raw.startswith(".") or raw.endswith("/"):
        return str(PurePosixPath(raw))
    return raw


def problem(raw: str) -> str:
    """Return why a name is no safe path in a folder; an empty text if it is one."""
    if len(raw) <= MAX_NAME_BYTES and _PLAIN.fullmatch(raw):
        return ""
    parts = raw.rstrip("/").split("/")
    if not raw.strip("/.") and raw not in {".", "./"}:
        return "has no name, or leads out of the folder"
    if raw.startswith("/"):
        return "is an absolute path"
    if ".." in parts:
        return "leads out of the folder (..)"
    if "\\" in raw or _DRIVE.match(raw):
        return "is a path of another system (backslash or drive)"
    if not raw.isprintable() and any(
        unicodedata.category(char) in {"Cc", "Cs", "Zl", "Zp"} for char in raw
    ):
        return "has control characters or is not UTF-8"
    if len(raw.encode()) <= MAX_NAME_BYTES:
        return ""
    if any(len(part.encode()) > MAX_NAME_BYTES for part in parts):
        return "has too long a name"
    if len(raw.encode()) > MAX_PATH_BYTES:
        return "is too long a path"
    return ""


def matches(path: str, patterns: Iterable[str]) -> bool:
    """Whether `path` matches one of some globs, in any case: `A.CSV` is a `*.csv`.

    A glob with a slash is compared with the whole path, where `*` also matches slashes; one
    without is compared with the last name.
    """
    of_path, of_name = _compiled(tuple(patterns))
    whole = path.lower()
    return bool(
        (of_name and of_name.match(whole.rpartition("/")[2])) or (of_path and of_path.match(whole))
    )


@lru_cache
def _compiled(globs: tuple[str, ...]) -> tuple[re.Pattern[str] | None, re.Pattern[str] | None]:
    """Return one expression for the globs with a slash, and one for the others."""
    with_slash = "|".join(translate(glob.lower()) for glob in globs if "/" in glob)
    others = "|".join(translate(glob.lower()) for glob in globs if "/" not in glob)
    return (
        re.compile(with_slash) if with_slash else None,
        re.compile(others) if others else None,
    )


def distinct(own: Mapping[str, str]) -> dict[str, str]:
    """Return a name for each remote path, no two of which are equal on any file system.

    Of paths that share a name, each gets `-` and the first digits of its path's SHA-256, so that
    the names depend on the paths alone.

    Args:
        own: The last name of each path.

    Raises:
        RemotePathError: Two names are still equal.
    """
    uses = Counter(_folded(name) for name in own.values())
    found = dict(own)
    for path, name in own.items():
        if uses[_folded(name)] > 1:
            digits = hashlib.sha256(path.encode("utf-8", "surrogateescape")).hexdigest()[:8]
            found[path] = f"{name}-{digits}"
    uses = Counter(_folded(name) for name in found.values())
    for path, name in found.items():
        if uses[_folded(name)] > 1:
            raise RemotePathError(
                f"{path}: another source has the name {name!r} in the target as well",
                advice="download them in two tasks",
            )
    return found


class Names:
    """The names used in one folder tree, of which no two may be equal on any file system.

    Names that differ only by case or Unicode form count as equal: on some file systems the second
    file would replace the first.
    """

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        # By the folded name. Strings, not paths: there may be 100,000, and most fold to themselves.
        self._files: dict[str, str] = {}
        self._folders: dict[str, str] = {}
        self._origins: dict[str, str] = {}

    def add(self, path: str, origin: str) -> None:
        """Add the name of a file, with its folders.

        Raises:
            ArchiveError: It, or an equal name, is already used.
        """
        key = _folded(path)
        if other := self._files.get(key) or self._folders.get(key):
            raise _collision(path, path, origin, other, self._origins[key])
        folder = path
        while folder := folder.rpartition("/")[0]:
            above = _folded(folder)
            other = self._files.get(above) or self._folders.get(above)
            if other == folder and above not in self._files:
                break  # the folders above it were added with it
            if other:
                raise _collision(path, folder, origin, other, self._origins[above])
            self._folders[above] = folder
            self._origins[above] = origin
        self._files[key] = path
        self._origins[key] = origin

    def remove(self, origin: str) -> list[str]:
        """Release the names of an origin, and those of its folders; return its files."""
        files = [(path, self._origins[key]) for key, path in self._files.items()]
        self._clear()
        for path, other in files:
            if other != origin:
                self.add(path, other)
        return [path for path, other in files if other == origin]


def _collision(path: str, part: str, origin: str, other: str, other_origin: str) -> ArchiveError:
    """Return an error that names two paths, and the part of the first (a folder, or all of it)."""
    mine, theirs = _described(part, other), _described(other, part)
    subject = mine if path == part else f"{path!r}: its folder {mine}"
    where = "of the same source" if origin == other_origin else f"of {other_origin}"
    return ArchiveError(
        f"{origin}: member {subject} collides with {theirs} {where}",
        advice="rename one of them, or leave one out with `exclude`",
    )


def _described(path: str, other: str) -> str:
    """Quote a name, with the code points that distinguish it from one that looks the same."""
    points = [f"U+{ord(char):04X}" for char in path if char > "\x7f" and char not in other]
    return repr(path) + (f" ({' '.join(points)})" if points else "")


def _folded(text: str) -> str:
    if text.isascii():
        folded = text.lower()
    else:
        folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())
    return text if folded == text else folded  # one object for equal texts, to save memory
