"""The CSVs of a run: their columns are read, and they are converted, while they are staged."""

from __future__ import annotations

import codecs
import hashlib
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Protocol

import msgspec

from tasks.fetch.errors import ConfigError, CsvError
from tasks.fetch.manifest import Column
from tasks.fetch.tables import duck, header
from tasks.fetch.tables.paths import parquet_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from tasks.fetch.tables.header import Header


class Options(Protocol):
    """What is to be done with CSVs, by the names of the settings."""

    @property
    def columns(self) -> str:
        """`ignore`, `evolve` or `freeze`."""

    @property
    def parquet(self) -> str:
        """`false`, `true` or `text`."""


@dataclass(frozen=True)
class CsvFile:
    """A CSV that is about to be staged.

    Attributes:
        path: Where it lands.
        columns: The key of its columns.
        blocks: Its bytes; where it is converted, its records in UTF-8 without the header.
        query: Converts it; empty where it lands as it arrives.
        name: For errors.
        header: Of it.
    """

    path: str
    columns: str
    blocks: Iterator[bytes]
    query: str
    name: str
    header: Header

    def convert(self, write: Callable[[bytes], None]) -> None:
        """Pass its Parquet to `write`.

        Raises:
            CsvError: It is not a CSV, or has a value that is not of its column's type.
        """
        try:
            duck.Query(self.query, self.header).run(self.blocks, write)
        except (CsvError, UnicodeDecodeError) as error:
            advice = "correct or exclude it"
            if duck.WRONG_VALUE in str(error):
                advice = (
                    "correct it, exclude it, or set parquet: text, which gives no column a type"
                )
            raise CsvError(f"{self.name}: cannot become Parquet: {error}", advice=advice) from error


@dataclass
class CsvFiles:
    """Reads the CSVs of a run.

    Attributes:
        parquet: The setting.
        columns: Those that were read, by key.
    """

    parquet: str
    columns: dict[str, tuple[Column, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, options: Options) -> CsvFiles | None:
        """Return what the settings ask for; None for CSVs that land as any other file.

        Raises:
            ConfigError: Parquet is asked for, and DuckDB is not installed.
        """
        if options.parquet != "false" and not duck.installed():
            raise ConfigError(
                f"parquet is {options.parquet}, which needs the package duckdb",
                advice="install requirements/parquet.txt, or build the image with EXTRAS=parquet",
            )
        wanted = options.columns != "ignore" or options.parquet != "false"
        return cls(options.parquet) if wanted else None

    @property
    def converts(self) -> bool:
        """Whether CSVs land as Parquet."""
        return self.parquet != "false"

    def open(self, path: str, blocks: Iterable[bytes], source: str) -> CsvFile:
        """Read the start of a CSV.

        Args:
            path: Where it would land as a CSV.
            blocks: Its bytes.
            source: The remote file that it comes from.

        Raises:
            CsvError: It is to be converted, and has no columns.
        """
        rest = iter(blocks)
        sample, complete = read_start(rest)
        head = header.read(sample, complete=complete)
        kinds, rows = duck.Types(("",) * len(head.names)), b""
        if head.names and duck.installed():
            rows = first_records(head, sample, complete=complete)
            kinds = duck.types(head, rows)
        columns = tuple(map(Column, head.names, kinds.names))
        key = columns_key(columns)
        self.columns[key] = columns
        name = source if source.endswith(path) else f"{source}: {path}"
        stream = chain([sample], rest)
        if not self.converts:
            return CsvFile(path, key, stream, "", name, head)
        if not head.names:
            raise CsvError(
                f"{name}: cannot become Parquet: {head.reason}", advice="correct or exclude it"
            )
        if self.parquet == "text":
            kinds = duck.Types(("",) * len(head.names))
        query = duck.conversion(head, kinds, rows)
        return CsvFile(parquet_path(path), key, records(head, stream), query, name, head)


def columns_key(columns: tuple[Column, ...]) -> str:
    """Return the key of columns in `Manifest.columns`."""
    return hashlib.sha256(msgspec.json.encode(columns)).hexdigest()[:16]


def read_start(blocks: Iterator[bytes]) -> tuple[bytes, bool]:
    """Return the first bytes of a file, and whether these are all."""
    sample, size = [], 0
    for block in blocks:
        sample.append(block)
        size += len(block)
        if size >= header.SAMPLE_BYTES:
            return b"".join(sample), False
    return b"".join(sample), True


def records(head: Header, blocks: Iterable[bytes], *, complete: bool = True) -> Iterator[bytes]:
    """Yield the records of a CSV in UTF-8, without its header.

    Args:
        head: Its header.
        blocks: The CSV; the first block contains the header.
        complete: Whether the blocks are all.

    Raises:
        UnicodeDecodeError: It is not of its encoding.
    """
    decoder = None if head.encoding == "utf-8" else codecs.getincrementaldecoder(head.encoding)()
    skip, mark = head.size, codecs.BOM_UTF8
    for block in blocks:
        yield (decoder.decode(block).encode() if decoder else block.removeprefix(mark))[skip:]
        skip, mark = 0, b""
    if decoder and complete:
        decoder.decode(b"", True)


def first_records(head: Header, sample: bytes, *, complete: bool) -> bytes:
    """Return the complete records of a CSV's first bytes, in UTF-8 and without the header."""
    return _whole(b"".join(records(head, [sample], complete=complete)), complete=complete)


def _whole(rows: bytes, *, complete: bool) -> bytes:
    """Return the records of a sample without the last one, of which a part may be missing."""
    end = len(rows)
    while not complete and end > 0:
        end = rows.rfind(b"\n", 0, end)
        if rows.count(b'"', 0, max(end, 0)) % 2 == 0:  # not inside a field
            return rows[: end + 1]
    return rows[: max(end, 0)]
