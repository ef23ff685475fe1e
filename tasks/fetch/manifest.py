"""The manifest: what a target contains, where it came from, and with which checksums.

A store keeps it as `manifest.json` with the published data. It marks the target as one that
Lighterage created: only such a target is ever replaced.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal, TypeVar

import msgspec
from msgspec import Struct, field

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME = "manifest.json"
SCHEMA = "lighterage/1"
START_BYTES = 200
"""Bytes of a manifest that `is_manifest` needs."""
RECORDS = 500
"""Records that are read or written at once."""

_FIELDS_OF_SHARDS = {"run_id", "missing"}
"""Left out where they are empty."""
_START = re.compile(rb'\s*\{\s*"schema"\s*:\s*"lighterage/')
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.decode
T = TypeVar("T")


class Source(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """A remote file as it was downloaded: sizes in bytes, mtime in seconds since 1970.

    Attributes:
        verified: What its content was compared with: the remote checksum (`sha256`), or `size`.
    """

    path: str
    size: int
    mtime: int
    sha256: str
    verified: Literal["sha256", "size"] = "size"


class File(Struct, frozen=True, gc=False, forbid_unknown_fields=True, omit_defaults=True):
    """A published file, by its path in the target, and the remote file it came from.

    Attributes:
        mtime_ns: The local modification time when its content was last known to have this
            checksum; 0 where that is unknown, or the store has no such time.
        run: In an object store, the run that uploaded it: the object is `objects/<run>/<path>`.
        columns: Of a CSV, the key of its columns in `Manifest.columns`; empty where they were not
            read.
        rows: Of a table, its rows; -1 where they were not counted: no run counts them.
    """

    path: str
    size: int
    sha256: str
    source: str
    mtime_ns: int = 0
    run: str = ""
    columns: str = ""
    rows: int = -1


class Column(Struct, frozen=True, gc=False, forbid_unknown_fields=True, omit_defaults=True):
    """A column of a CSV; its type is empty where it was not determined."""

    name: str
    type: str = ""


class Published(Struct, frozen=True):
    """A source, its published files, and its archive if that was kept.

    Attributes:
        intact: Whether these are all the files that the manifest lists, and none has changed.
    """

    source: Source
    files: list[File]
    archives: list[File]
    intact: bool = True


class Manifest(Struct, frozen=True, forbid_unknown_fields=True, tag_field="schema", tag=SCHEMA):
    """All that is known of a target; times are UTC, ISO 8601.

    A new field needs a default: manifests of earlier versions stay readable.

    Attributes:
        parquet: Whether and how CSVs were converted; see the setting.
        columns: The columns that files have, each list once, by a key that it always gets.
        run_id: Of a run that had shards, its id.
        missing: The remote files that are not there, or not as they are on the host, since they or
            their shard failed (`on_error: continue`).
    """

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
    parquet: str = "false"
    columns: dict[str, tuple[Column, ...]] = field(default_factory=dict)
    run_id: str = ""
    missing: list[str] = field(default_factory=list)

    def encoded(self) -> Iterator[bytes]:
        """Yield the manifest as JSON in pieces: a line for each file, as there may be many."""
        yield b'{\n  "schema": ' + _encode(SCHEMA)
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if not value and name in _FIELDS_OF_SHARDS:
                continue
            yield b",\n  " + _encode(name) + b": "
            if not isinstance(value, list) or not value:
                yield _encode(value)
                continue
            for start in range(0, len(value), RECORDS):
                lines = b",\n    ".join(map(_encode, value[start : start + RECORDS]))
                yield (b",\n    " if start else b"[\n    ") + lines
            yield b"\n  ]"
        yield b"\n}\n"

    @classmethod
    def decode(cls, data: bytes) -> Manifest | None:
        """Return the manifest in `data`; None where it is not one of this schema."""
        if not is_manifest(data):
            return None
        try:
            fields = _decode(data, type=dict[str, msgspec.Raw])
            sources = list(_records(fields.pop("sources"), Source))
            by_path = {source.path: source for source in sources}
            files, archives = (
                [_checked(file, by_path[file.source]) for file in _records(fields.pop(name), File)]
                for name in ("files", "archives")
            )
            header = {name: _decode(value) for name, value in fields.items()}
            return msgspec.convert(
                {**header, "sources": sources, "files": files, "archives": archives}, cls
            )
        except (msgspec.DecodeError, ValueError, KeyError, RecursionError):
            return None

    def same_selection(self, other: Manifest) -> bool:
        """Whether both describe the same selection of the same source, published in one form."""
        return all(
            getattr(self, name) == getattr(other, name)
            for name in (
                "host",
                "remote_file_path",
                "include",
                "exclude",
                "keep_archive",
                "parquet",
            )
        )

    def by_source(self) -> dict[str, Published]:
        """Return each source with its published files, by its remote path."""
        found = {source.path: Published(source, [], []) for source in self.sources}
        for file in self.files:
            found[file.source].files.append(file)
        for archive in self.archives:
            found[archive.source].archives.append(archive)
        return found

    def with_run(self, run: str) -> Manifest:
        """Return the manifest with this run for each file that states none."""
        files, archives = (
            [file if file.run else msgspec.structs.replace(file, run=run) for file in some]
            for some in (self.files, self.archives)
        )
        return msgspec.structs.replace(self, files=files, archives=archives)

    def all_files(self) -> list[File]:
        """Return the files and the archives."""
        return [*self.files, *self.archives]

    def paths(self) -> set[str]:
        """Return the path of every file that Lighterage created in the target."""
        return {file.path for file in self.all_files()} | {NAME}


def is_manifest(start: bytes) -> bool:
    """Whether a file that starts with these bytes is a manifest of Lighterage, of any version."""
    return _START.match(start[:START_BYTES]) is not None


def _records(data: msgspec.Raw, kind: type[T]) -> Iterator[T]:
    """Yield records, read some at a time: all, with their JSON, take 15 MB more for 100,000."""
    decode = msgspec.json.Decoder(list[kind]).decode  # type: ignore[valid-type] # a variable
    encoded = _decode(data, type=list[msgspec.Raw])
    encoded.reverse()
    while encoded:
        some, encoded[-RECORDS:] = encoded[-RECORDS:], []
        yield from decode(b"[" + b",".join(reversed(some)) + b"]")


def _checked(file: File, source: Source) -> File:
    """Return the record of a file of `source`, whose texts it shares, to save memory.

    Raises:
        ValueError: Its path leads out of the target, or is the manifest's own.
    """
    path = file.path
    may_lead_out = "/." in path or "//" in path or path.startswith((".", "/"))
    if (
        path == NAME
        or "\0" in path
        or path[-1:] in {"", "/"}
        or (may_lead_out and not {"", ".", ".."}.isdisjoint(path.split("/")))
    ):
        raise ValueError(path)
    msgspec.structs.force_setattr(file, "source", source.path)
    if file.sha256 == source.sha256:
        msgspec.structs.force_setattr(file, "sha256", source.sha256)
    return file
