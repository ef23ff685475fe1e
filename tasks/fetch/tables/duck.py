"""DuckDB: the types of a CSV's columns, and its conversion to Parquet; all that is known of it.

A CSV reaches DuckDB through a pipe, and its Parquet comes out of another: nothing is on the disk.
DuckDB reads its header never: it may be of several lines, and its names may not be unique.
"""

from __future__ import annotations

import contextlib
import csv
import functools
import io
import os
import re
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from tasks.fetch import interrupt
from tasks.fetch.errors import CsvError
from tasks.fetch.manifest import Column

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from io import FileIO

    import duckdb

    from tasks.fetch.tables.header import Header

_PIPE_BYTES = 2**20
_READ_BYTES = 2**18
_GROUP_BYTES = 2**24
"""Bytes of a CSV that make a row group, about: DuckDB has one in memory."""
_GROUP_ROWS = 2048, 122_880
_BUFFER_BYTES = 2**23
"""Of a CSV at once: DuckDB's default is four times as much, and takes 50 MB more."""
_TEXT = "VARCHAR"
_WHOLE, _EXACT = "BIGINT", "DECIMAL(38, 9)"
"""DuckDB rounds what it reads as whole numbers: they are read as the second one, and compared."""
_INPUT, _OUTPUT = "\0csv", "\0parquet"
"""Of a query; the name of a column never has a NUL."""
# Neither the disk nor a network: DuckDB would use both.
_CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "threads": "1",
    "memory_limit": "512MB",  # a file of 1.5 GB takes 200; of 1000 columns and more, twice that
    "temp_directory": "",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
}
_SNIFF = "SELECT Columns, DateFormat, TimestampFormat FROM sniff_csv("
WRONG_VALUE = "Error when converting"
"""In the error of a value that is not of its column's type."""
_STATE = "CSV Parser state machine"
_LINE = re.compile(r"CSV Error on Line: (\d+)\n(?:Original Line: (.*))?")
_REASON = re.compile(
    r"(?m)(?:^|(?<=^Invalid Input Error: ))"
    r"(?:Expected Number of|Error when converting|Invalid unicode|Value with|Maximum line).*"
)


class Types(NamedTuple):
    """The types of columns, and the formats of their dates where DuckDB found others than its own.

    A type is empty where all values of the sample are, and all are where they cannot be determined.
    """

    names: tuple[str, ...]
    date: str | None = None
    timestamp: str | None = None


@functools.cache
def installed() -> bool:
    """Whether DuckDB is installed, with the libraries that it needs of the system."""
    try:
        import duckdb  # noqa: F401 (only whether it is there)
    except ImportError:
        return False
    return True


@functools.cache
def _connection() -> duckdb.DuckDBPyConnection:
    import duckdb

    return duckdb.connect(":memory:", config=_CONFIG)


def types(header: Header, rows: bytes) -> Types:
    """Return the types of the columns of a CSV.

    Args:
        header: Of the CSV.
        rows: Its first records in UTF-8, without the header.
    """
    count = len(header.names)
    unknown = Types(("",) * count)
    if not rows:
        return unknown
    # All rows: without sample_size it would look at the first 20,480.
    query = Query(f"{_SNIFF}{_INPUT}, {_dialect(header)}, sample_size=-1)", header)
    try:
        [(columns, date, timestamp)] = query.run([rows])
    except CsvError:  # the records have not equally many fields
        return unknown
    if len(columns) != count:
        return unknown
    found = tuple(column["type"] for column in columns)
    if _TEXT in found:
        filled = _filled(header, rows)
        found = tuple(kind if number in filled else "" for number, kind in enumerate(found))
    return Types(found, date, timestamp)


def _filled(header: Header, rows: bytes) -> set[int]:
    """Return the columns that have a value in some record."""
    filled: set[int] = set()
    lines = io.StringIO(rows.decode(errors="replace"), newline="")
    with contextlib.suppress(csv.Error):
        for record in csv.reader(lines, delimiter=header.delimiter):
            filled.update(number for number, value in enumerate(record) if value)
            if len(filled) >= len(header.names):
                break
    return filled


def conversion(header: Header, kinds: Types, rows: bytes) -> str:
    """Return the query that converts a CSV to Parquet.

    Args:
        header: Of the CSV.
        kinds: The types that its columns get; those without one become texts.
        rows: Some of its records.
    """
    names = list(_distinct(header.names))
    typed = list(zip(names, (kind or _TEXT for kind in kinds.names), strict=True))
    columns = ", ".join(
        f"{_quoted(name)}: {_quoted(_EXACT if kind == _WHOLE else kind)}" for name, kind in typed
    )
    whole = ", ".join(_whole(name) for name, kind in typed if kind == _WHOLE)
    replaced = f"SELECT * REPLACE ({whole}) " if whole else ""
    formats = "".join(
        f", {option}={_quoted(value)}"
        for option, value in (("dateformat", kinds.date), ("timestampformat", kinds.timestamp))
        if value
    )
    row_bytes = len(rows) // (rows.count(b"\n") + 1) + 1
    least, most = _GROUP_ROWS
    group = max(least, min(most, _GROUP_BYTES // row_bytes))
    return (
        f"COPY ({replaced}FROM read_csv({_INPUT}, {_dialect(header)}, auto_detect=false, "
        f"buffer_size={_BUFFER_BYTES}, columns={{{columns}}}{formats})) "
        f"TO {_OUTPUT} (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {group})"
    )


def count(header: Header) -> str:
    """Return the query that counts the records of a CSV."""
    columns = ", ".join(f"{_quoted(name)}: '{_TEXT}'" for name in _distinct(header.names))
    options = f"auto_detect=false, buffer_size={_BUFFER_BYTES}, columns={{{columns}}}"
    return f"SELECT count(*) FROM read_csv({_INPUT}, {_dialect(header)}, {options})"  # noqa: S608


class Parquet:
    """A Parquet file that is open for reading: it is read by its number, whatever its name is.

    Raises:
        CsvError: It is not a Parquet file; so do the methods.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._input = f"read_parquet('/dev/fd/{file.fileno()}')"
        described = self._rows(f"DESCRIBE SELECT * FROM {self._input}")  # noqa: S608
        self.columns = tuple(Column(row[0], row[1]) for row in described)

    def count(self) -> int:
        """Return how many rows it has."""
        return int(self._rows(f"SELECT count(*) FROM {self._input}")[0][0])  # noqa: S608

    def first(self, count: int) -> list[list[str]]:
        """Return the first rows, as texts."""
        rows = self._rows(f"SELECT COLUMNS(*)::{_TEXT} FROM {self._input} LIMIT {count}")  # noqa: S608
        return [["" if value is None else value for value in row] for row in rows]

    @staticmethod
    def _rows(sql: str) -> list[Any]:
        import duckdb

        try:
            with _connection().cursor() as cursor:
                return cursor.execute(sql).fetchall()
        except duckdb.Error as error:
            raise CsvError(f"cannot be read: {str(error).partition(chr(10))[0]}") from error


def _whole(name: str) -> str:
    """Return the expression of a column of whole numbers, which refuses others."""
    column = '"' + name.replace('"', '""') + '"'
    where = _quoted(f"{WRONG_VALUE} column {name!r}: ")
    return (
        f"CASE WHEN {column} <> trunc({column}) "
        f"THEN error({where} || rtrim({column}::VARCHAR, '0') || ' is no whole number') "
        f"ELSE {column}::{_WHOLE} END AS {column}"
    )


def _dialect(header: Header) -> str:
    # DuckDB would take the first line end, also one in quotes, for that of all lines.
    escaped = header.line_end.encode("unicode_escape").decode()
    line_end = f", new_line={_quoted(escaped)}" if escaped else ""
    return f"header=false, quote='\"', escape='\"', delim={_quoted(header.delimiter)}{line_end}"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _distinct(names: Iterable[str]) -> Iterator[str]:
    """Give each column a name of its own: DuckDB compares them without case."""
    seen: set[str] = set()
    for number, name in enumerate(names, 1):
        base = name or f"column{number}"
        candidates = (base, *(f"{base}_{n}" for n in range(1, number + 1)))
        distinct = next(text for text in candidates if text.casefold() not in seen)
        seen.add(distinct.casefold())
        yield distinct


class Query:
    """One query on one CSV, in a thread of its own.

    Args:
        sql: Has `_INPUT`, and `_OUTPUT` if it has an output.
        header: Of the CSV.
    """

    def __init__(self, sql: str, header: Header) -> None:
        self._sql = sql
        self._header = header
        self._cursor = _connection().cursor()
        self._ends: list[int] = []  # of pipes: those that DuckDB uses

    def run(self, blocks: Iterable[bytes], write: Callable[[bytes], None] | None = None) -> Any:
        """Return the rows of the result.

        Args:
            blocks: The CSV; its errors pass unchanged.
            write: Receives what the query writes, in another thread; so do its errors.

        Raises:
            CsvError: The CSV cannot be read.
        """
        import duckdb

        with contextlib.ExitStack() as stack:
            with interrupt.deferred():  # each thread ends once the pipe to the other is closed
                threads = stack.enter_context(ThreadPoolExecutor(2, "duckdb"))
                end = self._pipe(_INPUT, reads=True)
                source = stack.enter_context(os.fdopen(end, "wb", buffering=0))
                output = self._pipe(_OUTPUT, reads=False) if write else -1
                written = threads.submit(_drain, output, write) if write else None
                result = threads.submit(self._execute)
            _feed(blocks, source)
            source.close()
            if written:
                written.result()
            try:
                return result.result()
            except duckdb.Error as error:
                raise CsvError(_explained(str(error), self._header.lines)) from error

    def _pipe(self, name: str, *, reads: bool) -> int:
        """Put one end of a new pipe into the query; return the other one."""
        reader, writer = os.pipe()
        with contextlib.suppress(ImportError, AttributeError, OSError):  # Linux has it
            import fcntl

            fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        end, other = (reader, writer) if reads else (writer, reader)
        self._ends.append(end)
        self._sql = self._sql.replace(name, f"'/dev/fd/{end}'")
        return other

    def _execute(self) -> list[Any]:
        try:
            return self._cursor.execute(self._sql).fetchall()
        finally:
            self._cursor.close()
            for end in self._ends:  # so that neither end of the run waits for it
                os.close(end)


def _feed(blocks: Iterable[bytes], pipe: FileIO) -> None:
    """Write blocks until DuckDB has failed, or read enough; a pipe may take a part of one."""
    for block in blocks:
        rest = memoryview(block)
        while rest:
            try:
                rest = rest[pipe.write(rest) :]
            except BrokenPipeError:
                return


def _drain(end: int, write: Callable[[bytes], None]) -> None:
    with os.fdopen(end, "rb", buffering=0) as pipe:
        while block := pipe.read(_READ_BYTES):
            write(block)


def _explained(text: str, lines: int) -> str:
    """Return what DuckDB says of a CSV's line, after so many of the header; or its first line."""
    text = text.replace("'DECIMAL'", f"'{_WHOLE}'")  # see `_EXACT`
    place, reason = _LINE.search(text), _REASON.search(text)
    if _STATE in text:  # what DuckDB says of lines that end in CR LF after others that do not
        return "its lines do not all end alike (LF, CR LF or CR)"
    if place is None:
        return reason[0] if reason else text.partition("\n")[0]
    where = f"line {int(place[1]) + lines}: {reason[0] if reason else 'cannot be read'}"
    return where + (f": {place[2][:80]!r}" if place[2] else "")
