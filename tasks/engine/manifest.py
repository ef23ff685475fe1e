"""The manifest: what landed in a folder, from where, and with which checksums.

`manifest.json` lies in the folder, and makes it one of the project's own: only such a folder
is ever replaced.
"""

from __future__ import annotations

import json
import typing
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

NAME = "manifest.json"
SCHEMA = "lighterage/1"
T = TypeVar("T")


_json = json.JSONEncoder(ensure_ascii=False).encode


@dataclass(frozen=True)
class Source:
    """A remote file as it was fetched: sizes in bytes, mtime in seconds since 1970.

    Attributes:
        verified: What its content was compared with: `sha256` of the host, or `size` only.
    """

    path: str
    size: int
    mtime: int
    sha256: str
    verified: str = "size"


@dataclass(frozen=True)
class File:
    """A landed file, by its path relative to the folder, and the remote file it came from."""

    path: str
    size: int
    sha256: str
    source: str


@dataclass(frozen=True)
class Kept:
    """A source, the files that came from it, and the archive where it was kept."""

    source: Source
    files: list[File]
    archives: list[File]


@dataclass(frozen=True)
class Manifest:
    """All that is known of a landed folder; times are UTC, ISO 8601."""

    task: str
    variant: str
    host: str
    remote_file_path: str
    include: str
    exclude: str
    keep_archive: bool
    sources: list[Source] = field(default_factory=list)
    files: list[File] = field(default_factory=list)
    archives: list[File] = field(default_factory=list)
    skipped: int = 0
    started: str = ""
    finished: str = ""

    def write(self, folder: Path) -> None:
        """Write it into `folder`: JSON, a line for each file, as there may be many."""
        with (folder / NAME).open("w", encoding="utf-8") as file:
            file.write(f'{{\n  "schema": {_json(SCHEMA)}')
            for key, value in vars(self).items():
                file.write(f",\n  {_json(key)}: ")
                if not isinstance(value, list) or not value:
                    file.write(_json(value))
                    continue
                for number, item in enumerate(value):
                    file.write((",\n    " if number else "[\n    ") + _json(vars(item)))
                file.write("\n  ]")
            file.write("\n}\n")

    @classmethod
    def read(cls, folder: Path) -> Manifest | None:
        """Read the manifest of `folder`; None where there is none of this schema."""
        try:
            data = json.loads((folder / NAME).read_text(encoding="utf-8"))
            if data.pop("schema") != SCHEMA:
                return None
            for key, kind in {"sources": Source, "files": File, "archives": File}.items():
                data[key] = [_checked(kind, item) for item in data[key]]
            manifest = _checked(cls, data)
            manifest.by_source()  # raises where a file is of no source
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None
        return manifest

    def same_way(self, other: Manifest) -> bool:
        """Whether both tell of the same selection from the same place, landed in the same form."""
        return all(
            getattr(self, name) == getattr(other, name)
            for name in ("host", "remote_file_path", "include", "exclude", "keep_archive")
        )

    def by_source(self) -> dict[str, Kept]:
        """Return each source with what came from it, by its remote path."""
        found = {source.path: Kept(source, [], []) for source in self.sources}
        for file in self.files:
            found[file.source].files.append(file)
        for archive in self.archives:
            found[archive.source].archives.append(archive)
        return found

    def paths(self) -> set[PurePosixPath]:
        """Every file of the folder that is the project's own."""
        own = {PurePosixPath(item.path) for item in [*self.files, *self.archives]}
        return own | {PurePosixPath(NAME)}


def _checked(kind: type[T], data: dict[str, Any]) -> T:
    """Make a dataclass of its fields; raise `TypeError` for one that is not of its type."""
    for name, wanted in typing.get_type_hints(kind).items():
        if not isinstance(data[name], typing.get_origin(wanted) or wanted):
            raise TypeError(name)
    return kind(**data)
