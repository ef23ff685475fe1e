"""A published CSV or Parquet file as a table: its columns, its rows, and how many there are."""

from __future__ import annotations

import contextlib
import csv
import io
import tempfile
from itertools import chain, islice
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from tasks.fetch.errors import CsvError
from tasks.fetch.manifest import Column
from tasks.fetch.tables import duck, header
from tasks.fetch.tables.csv_files import first_records, read_start, records
from tasks.fetch.tables.paths import is_csv, is_parquet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path


class Table(NamedTuple):
    """What a file contains.

    Attributes:
        columns: Empty where it has none that can be read.
        rows: How many it has; -1 where they were not counted.
        first: The first of them, as texts.
        error: Why something of it cannot be read.
    """

    columns: tuple[Column, ...] = ()
    rows: int = -1
    first: Sequence[list[str]] = ()
    error: str = ""


def is_table(path: str) -> bool:
    """Whether a file is a table, by its name."""
    return is_csv(path) or is_parquet(path)


def look(
    path: str,
    read: Callable[[], Iterator[bytes]],
    place: Path | None,
    *,
    count: bool = False,
    first: int = 0,
) -> Table:
    """Read a table, with DuckDB.

    Args:
        path: Its name says what it is.
        read: Yields its content; its errors pass unchanged.
        place: Where it is a local file.
        count: Whether to count its rows.
        first: How many rows to return.
    """
    if is_csv(path):
        return _look_at_csv(read(), count=count, first=first)
    try:
        with _opened(read, place) as file:
            table = duck.Parquet(file)
            return Table(table.columns, table.count() if count else -1, table.first(first))
    except CsvError as error:
        return Table(error=str(error))


def _look_at_csv(blocks: Iterator[bytes], *, count: bool, first: int) -> Table:
    sample, complete = read_start(blocks)
    head = header.read(sample, complete=complete)
    if not head.names:
        return Table(rows=-1 if sample.strip() else 0, error=head.reason)
    rows = first_records(head, sample, complete=complete)
    columns = tuple(map(Column, head.names, duck.types(head, rows).names))
    lines = io.StringIO(rows.decode(errors="replace"), newline="")
    top: list[list[str]] = []
    with contextlib.suppress(csv.Error):  # a field of more than 128 KiB
        top.extend(islice(filter(None, csv.reader(lines, delimiter=head.delimiter)), first))
    if not count:
        return Table(columns, first=top)
    try:
        stream = records(head, chain([sample], blocks))
        [(number,)] = duck.Query(duck.count(head), head).run(stream)
    except (CsvError, UnicodeDecodeError) as error:
        return Table(columns, first=top, error=str(error))
    return Table(columns, int(number), top)


@contextlib.contextmanager
def _opened(read: Callable[[], Iterable[bytes]], place: Path | None) -> Iterator[BinaryIO]:
    """Open a file that DuckDB can read at any position: itself, or a temporary copy."""
    if place:
        try:
            file = place.open("rb")
        except OSError as error:
            raise CsvError(f"cannot be read: {error.strerror}") from error
        with file:
            yield file
        return
    with tempfile.NamedTemporaryFile("w+b") as copy:
        copy.writelines(read())
        copy.flush()
        yield copy  # type: ignore[misc] # a wrapper of a file
