"""The manifest: what landed in a folder, from where, and with which checksums.

`manifest.json` lies in the folder, and makes it one of the project's own: only such a folder
is ever replaced.
"""

from __future__ import annotations

import dataclasses
import json
import re
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

NAME = "manifest.json"
SCHEMA = "lighterage/1"
T = TypeVar("T")

_json = json.JSONEncoder(ensure_ascii=False).encode
_HEAD = re.compile(rb'\s*\{\s*"schema"\s*:\s*"lighterage/')


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class File:
    """A landed file, by its path relative to the folder, and the remote file it came from.

    Attributes:
        mtime_ns: The local modification time when its content was last known to have this
            checksum; 0 where that is unknown. Two records are equal whatever it is.
    """

    path: str
    size: int
    sha256: str
    source: str
    mtime_ns: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
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
                    file.write((",\n    " if number else "[\n    ") + _json(_record(item)))
                file.write("\n  ]")
            file.write("\n}\n")

    @classmethod
    def read(cls, folder: Path) -> Manifest | None:
        """Read the manifest of `folder`; None where there is none of this schema.

        A field that has a default may be missing: manifests of earlier versions stay readable.
        """
        try:
            text = (folder / NAME).read_text(encoding="utf-8")
            manifest = _read(text)
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

    def all_files(self) -> list[File]:
        """Return the files and the archives."""
        return [*self.files, *self.archives]

    def paths(self) -> set[str]:
        """Return the relative path of every file of the folder that is the project's own."""
        return {file.path for file in self.all_files()} | {NAME}


def present(folder: Path) -> bool:
    """Whether `folder` has a manifest of this project, of any version; reads its start only."""
    try:
        with (folder / NAME).open("rb") as file:
            return _HEAD.match(file.read(200)) is not None
    except OSError:
        return False


def _record(item: object) -> dict[str, Any]:
    return {name: getattr(item, name) for name, _, _ in _FIELDS[type(item)]}


def _read(text: str) -> Manifest:
    """Read a manifest; raise an exception of many kinds where it is not as `write` makes it.

    Records are made while the JSON is parsed, and share strings: 100,000 files in 70 MiB.
    """
    share: dict[str, str] = {}

    def made(data: dict[str, Any]) -> Any:
        if "schema" in data:
            return data
        for name in ("path", "sha256", "source"):
            if name in data:
                data[name] = share.setdefault(data[name], data[name])
        return _checked(Source if "mtime" in data else File, data)

    data = json.loads(text, object_hook=made)
    if data.pop("schema") != SCHEMA:
        raise ValueError("another schema")
    for key, kind in {"sources": Source, "files": File, "archives": File}.items():
        if not all(isinstance(item, kind) for item in data[key]):
            raise TypeError(key)
    manifest = _checked(Manifest, data)
    known = {source.path for source in manifest.sources}
    for file in manifest.all_files():
        _check_path(file.path)
        if file.source not in known:
            raise ValueError(file.source)
    return manifest


def _check_path(path: str) -> None:
    """Raise `ValueError` where a path would lead out of the folder, or names its manifest."""
    if path == NAME or "\0" in path or not {"", ".", ".."}.isdisjoint(path.split("/")):
        raise ValueError(path)


def _fields(kind: type[Any]) -> tuple[tuple[str, type, bool], ...]:
    """Return the name of each field, its type, and whether it must be given."""
    hints = typing.get_type_hints(kind)
    return tuple(
        (
            each.name,
            typing.get_origin(hints[each.name]) or hints[each.name],
            each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING,
        )
        for each in dataclasses.fields(kind)
    )


_FIELDS: dict[type, tuple[tuple[str, type, bool], ...]] = {
    kind: _fields(kind) for kind in (Source, File, Manifest)
}
"""Looked up once: a manifest may have 100,000 records."""


def _checked(kind: type[T], data: dict[str, Any]) -> T:
    """Make a dataclass of its fields; raise `TypeError` for one that is not of its type."""
    for name, wanted, needed in _FIELDS[kind]:
        if (needed or name in data) and not isinstance(data[name], wanted):
            raise TypeError(name)
    return kind(**data)
