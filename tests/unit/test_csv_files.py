"""CSVs on their way into a store: their types, and their conversion to Parquet."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

import object_server
from landed import folder_in_memory
from tasks.fetch.errors import ArchiveError, ConfigError, CsvError, LocalError
from tasks.fetch.manifest import File
from tasks.fetch.staging import Staging, staging
from tasks.fetch.stores import open_store
from tasks.fetch.tables import csv_files, duck
from tasks.fetch.tables.csv_files import CsvFiles
from tasks.settings import Settings

BIG = b"id,name\n" + b"".join(b"%d,name %d\n" % (n, n) for n in range(300_000))


def blocks(data: bytes, size: int = 2**16) -> Iterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


@pytest.fixture
def folder() -> Iterator[Path]:
    with folder_in_memory() as folder:
        yield folder


@pytest.fixture
def staged(folder: Path) -> Iterator[Callable[[str], Staging]]:
    """Give a way to stage files in a folder, with CSVs as `parquet` says."""
    stores = []

    def begin(parquet: str = "true") -> Staging:
        block = staging(open_store(str(folder / "t"), overwrite=True), CsvFiles(parquet))
        stores.append(block)
        found = block.__enter__()
        found.begin()
        return found

    yield begin
    for block in stores:
        block.__exit__(None, None, None)


def rows(folder: Path, file: File) -> list[Any]:
    """Return the rows of a staged Parquet, whose record is true."""
    path = folder / ".t.staging" / file.path
    data = path.read_bytes()
    assert (file.size, file.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    return duckdb.read_parquet(str(path)).fetchall()


def types(staged: Staging, file: File) -> list[tuple[str, str]]:
    assert staged.csv_files
    return [(column.name, column.type) for column in staged.csv_files.columns[file.columns]]


@pytest.mark.parametrize(
    ("data", "columns", "expected"),
    [
        (b"id,n,e\n1,x,\n2,,\n", "id BIGINT n VARCHAR e ", [(1, "x", None), (2, None, None)]),
        (b"id;d\r\n1;x\r\n", "id BIGINT d VARCHAR", [(1, "x")]),
        (b"zip,b\n0012,true\n", "zip VARCHAR b BOOLEAN", [("0012", True)]),
        (b"a,b\n", "a  b ", []),
        (b'"a\nb",c\n1,"x\ny"\n2,z\n', "a\nb BIGINT c VARCHAR", [(1, "x\ny"), (2, "z")]),
        (b"1,x\n2,y", "column1 BIGINT column2 VARCHAR", [(1, "x"), (2, "y")]),
        (b"\xef\xbb\xbfa,b\n1,x\n", "a BIGINT b VARCHAR", [(1, "x")]),
        ("a\té\n1\tö\n".encode("utf-16"), "a BIGINT é VARCHAR", [(1, "ö")]),
        ("a,é\n1,ö\n".encode("latin-1"), "a BIGINT é VARCHAR", [(1, "ö")]),
        (b"a,a,A,\n1,2,3,4\n", "a BIGINT a BIGINT A BIGINT  BIGINT", [(1, 2, 3, 4)]),
        (b"it's,b\n1,2\n", "it's BIGINT b BIGINT", [(1, 2)]),
        (b"\n\na,b\n\n1,2\n", "a BIGINT b BIGINT", [(1, 2)]),
        (b"a,b\r1,2\r", "a BIGINT b BIGINT", [(1, 2)]),
        (b'a,b\r\n1,"x\ny"\r\n2,z\r\n', "a BIGINT b VARCHAR", [(1, "x\ny"), (2, "z")]),
        (b'a,b\n1,"x\r\ny"\n2,z', "a BIGINT b VARCHAR", [(1, "x\r\ny"), (2, "z")]),
        (b"$PARQUET,$CSV\n1,2\n", "$PARQUET BIGINT $CSV BIGINT", [(1, 2)]),
    ],
)
@pytest.mark.parametrize("size", [1, 2**16])
def test_csv_becomes_parquet(
    staged: Callable[[], Staging], folder: Path, data: bytes, columns: str, size: int,
    expected: list[Any],
) -> None:  # fmt: skip
    run = staged()
    run.write("d/a.CSV", blocks(data, size), "/host/x.zip")
    (file,) = run.finish()
    assert (file.path, file.source) == ("d/a.parquet", "/host/x.zip")
    assert rows(folder, file) == expected
    assert " ".join(f"{name} {kind}" for name, kind in types(run, file)) == columns


def test_dates_in_another_form_are_dates(staged: Callable[[], Staging], folder: Path) -> None:
    run = staged()
    run.write("a.csv", [b"d\n" + b"25/12/2026\n" * 3], "a.csv")
    (file,) = run.finish()
    assert types(run, file) == [("d", "DATE")]
    assert str(rows(folder, file)[0][0]) == "2026-12-25"


@pytest.mark.parametrize(
    ("first", "last", "kept"),
    [("2026-01-01 00:00:00", "2026-01-01 10:00:00+05:00", "10:00:00")],
)
@pytest.mark.parametrize("parquet", ["true", "text"])
def test_only_texts_keep_each_value_as_the_page_says(
    staged: Callable[[str], Staging], folder: Path, parquet: str, first: str, last: str, kept: str
) -> None:
    run = staged(parquet)
    data = b"id,n\n" + f"1,{first}\n".encode() * 200_000 + f"2,{last}\n".encode()
    run.write("a.csv", blocks(data), "a.csv")
    (file,) = run.finish()
    assert str(rows(folder, file)[-1][1]).endswith(last if parquet == "text" else kept)


def test_whole_numbers_stay_exact(staged: Callable[[], Staging], folder: Path) -> None:
    most = 2**63 - 1
    run = staged()
    run.write("a.csv", [f'"n""x"\n{most}\n{-most}\n7\n'.encode()], "a.csv")
    (file,) = run.finish()
    assert types(run, file) == [('n"x', "BIGINT")]
    assert rows(folder, file) == [(most,), (-most,), (7,)]


def test_value_that_is_no_whole_number_is_refused(staged: Callable[[], Staging]) -> None:
    data = b"id,it's\n" + b"1,12345\n" * 200_000 + b"2,1.5\n"
    says = r"""column "it's": 1\.5 is no whole number: .* parquet: text"""
    with pytest.raises(CsvError, match=says):
        staged().write("b.csv", blocks(data), "b.csv")


def test_text_gives_no_column_a_type(staged: Callable[[str], Staging], folder: Path) -> None:
    run = staged("text")
    run.write("a.csv", [b"id,d\n0001,2026-01-01\n"], "a.csv")
    (file,) = run.finish()
    assert rows(folder, file) == [("0001", "2026-01-01")]


def test_rows_keep_their_order_and_large_files_their_rows(
    staged: Callable[[], Staging], folder: Path
) -> None:
    run = staged()
    run.write("a.csv", blocks(BIG), "a.csv")
    (file,) = run.finish()
    assert rows(folder, file) == [(n, f"name {n}") for n in range(300_000)]


@pytest.mark.parametrize("parquet", ["false", "true"])
def test_types_come_from_the_first_bytes(
    staged: Callable[[str], Staging], folder: Path, parquet: str
) -> None:
    """They are the same whether the file is converted or not, and quotes do not break the cut."""
    data = b"t,id\n" + b'"x\ny",1\n' * 200_000
    run = staged(parquet)
    run.write("a.csv", blocks(data), "a.csv")
    (file,) = run.finish()
    assert types(run, file) == [("t", "VARCHAR"), ("id", "BIGINT")]


def test_types_come_from_all_rows_of_the_first_bytes(
    staged: Callable[[], Staging], folder: Path
) -> None:
    run = staged()
    run.write("a.csv", [b"n\n" + b"1\n" * 40_000 + b"1.5\n"], "a.csv")
    (file,) = run.finish()
    assert types(run, file) == [("n", "DOUBLE")]
    assert rows(folder, file)[-1] == (1.5,)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"id,n\n1,x\ny,z\n" , "types"),
        (b"a,b\n1,2\n3\n", "line 3: Expected Number of Columns: 2 Found: 1: '3'"),
        (b'"a\nb",b\n1,2\n1,2,3\n', "line 4: Expected Number of Columns: 2 Found: 3: '1,2,3'"),
        (BIG + b"x,y\n", "line 300002: Error when converting column \"id\". Could not convert "
                         "string \"x\" to 'BIGINT': 'x,y': correct it, exclude it, or set parquet"),
        (b"a,b\n1,2\r\n3,4\n", "do not all end alike (LF, CR LF or CR): correct or exclude it"),
        (BIG + b"1\n", "line 300002: Expected Number of Columns: 2 Found: 1: '1'"),
        (BIG + b"1,\xff\n", "line 300002: Invalid unicode"),
        (BIG + b'1,"x\n', "line 300002: Value with unterminated quote found"),
        (b"", "it is empty"),
        (b"\x00\x00", "it is not a text"),
        (("a,b\n" + "1,2\n" * 300_000).encode("utf-16") + b"x", "truncated data"),
    ],
)  # fmt: skip
def test_file_that_cannot_be_parquet_is_named_with_the_line(
    staged: Callable[[], Staging], data: bytes, says: str
) -> None:
    before = threading.active_count()  # other tests may have left some
    run = staged()
    if says == "types":  # a column with a text is a text
        run.write("a.csv", [data], "/host/a.csv")
        return
    with pytest.raises(CsvError) as caught:
        run.write("a.csv", blocks(data), "/host/x.zip")
    assert str(caught.value).startswith("/host/x.zip: a.csv: cannot become Parquet: ")
    assert says in str(caught.value)
    assert threading.active_count() < before + 10
    run.drop("/host/x.zip")
    run.write("a.csv", [b"a\n1\n"], "/host/x.zip")
    assert [file.path for file in run.finish()] == ["a.parquet"]


def test_error_of_the_source_passes_unchanged(staged: Callable[[], Staging]) -> None:
    def broken() -> Iterator[bytes]:
        yield from blocks(BIG)
        raise ArchiveError("broken")

    run = staged()
    with pytest.raises(ArchiveError, match="broken"):
        run.write("a.csv", broken(), "x.zip")
    assert run.finish() == []


def test_error_of_the_store_passes_unchanged() -> None:
    def full(_: bytes) -> None:
        raise LocalError("no space left")

    csv_file = CsvFiles("true").open("a.csv", blocks(BIG), "a.csv")
    with pytest.raises(LocalError, match="no space left"):
        csv_file.convert(full)


def test_two_files_of_one_parquet_name_are_refused(staged: Callable[[], Staging]) -> None:
    run = staged()
    run.write("a.csv", [b"a\n1\n"], "x.zip")
    with pytest.raises(ArchiveError, match=r"a\.parquet"):
        run.write("a.tsv", [b"a\n1\n"], "x.zip")


def test_other_files_and_csvs_without_parquet_land_as_they_are(
    staged: Callable[[str], Staging], folder: Path
) -> None:
    run = staged("false")
    run.write("a.json", [b"{}"], "x.zip")
    run.write("b.csv", blocks(BIG, 1000), "x.zip")
    other, file = run.finish()
    assert (other.path, other.columns) == ("a.json", "")
    assert (folder / ".t.staging/b.csv").read_bytes() == BIG
    assert file.sha256 == hashlib.sha256(BIG).hexdigest()


def test_object_store_gets_parquet(url: str) -> None:
    with staging(open_store(url, overwrite=True), CsvFiles("true")) as run:
        run.begin()
        run.write("a.csv", blocks(BIG), "a.csv")
        (file,) = run.finish()
    assert file.path == "a.parquet"
    assert object_server.uploads(url.split("/")[2]) == []


@pytest.mark.parametrize("parquet", ["true", "text"])
def test_missing_package_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, parquet: str) -> None:
    monkeypatch.setattr(duck, "installed", lambda: False)
    with pytest.raises(ConfigError, match=r"needs the package duckdb.*EXTRAS=parquet"):
        CsvFiles.of(Settings(parquet=parquet))  # type: ignore[arg-type] # one of its words


def test_names_are_kept_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duck, "installed", lambda: False)
    files = CsvFiles.of(Settings(columns="freeze"))
    assert files
    found = files.columns[files.open("a.csv", [b"id,n\n1,x\n"], "a.csv").columns]
    assert [(column.name, column.type) for column in found] == [("id", ""), ("n", "")]


def test_nothing_is_read_unless_asked_for() -> None:
    assert CsvFiles.of(Settings()) is None


@pytest.mark.parametrize(
    ("rows", "whole"),
    [
        (b'1,"x\ny"\n2,"x\ny', b'1,"x\ny"\n'),
        (b'1,"x\ny"\n2,', b'1,"x\ny"\n'),
        (b"1\n2\n", b"1\n2\n"),
        (b'"x\ny', b""),
        (b"", b""),
    ],
)
def test_sample_ends_after_a_whole_record(rows: bytes, whole: bytes) -> None:
    assert csv_files._whole(rows, complete=False) == whole
    assert csv_files._whole(rows, complete=True) == rows
