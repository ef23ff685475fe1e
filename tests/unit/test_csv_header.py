"""The header of a CSV, from its first bytes."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.fetch.tables import header
from tasks.fetch.tables.header import SAMPLE_BYTES, read


@pytest.mark.parametrize(
    ("data", "names"),
    [
        (b"id,name\n1,x\n", ("id", "name")),
        (b"id,name", ("id", "name")),
        (b"id;amount, net;x\n1;2,5;3\n", ("id", "amount, net", "x")),
        (b"id;amount (1,000)\n1;2\n2;3\n", ("id", "amount (1,000)")),
        (b"id\tname\n", ("id", "name")),
        (b"id|name|x\n", ("id", "name", "x")),
        (b"id\n1\n", ("id",)),
        (b'\xef\xbb\xbf"id",name\n', ("id", "name")),
        ("id,é\n1,2\n".encode("utf-16"), ("id", "é")),
        ("id,é\n1,2\n".encode("latin-1"), ("id", "é")),
        (b'"two\r\nlines","a ""b"" c"\r\n1,2\r\n', ("two\r\nlines", 'a "b" c')),
        (b"id,name\r1,x\r", ("id", "name")),
        (b"\n\r\nid,name\n", ("id", "name")),
        (b",a,b\n0,1,2\n", ("", "a", "b")),
        (b"id,id,ID\n", ("id", "id", "ID")),
        (b"id,name,\n", ("id", "name", "")),
        (b" id , name\n", ("id", "name")),
        (b"country,2019,2020\n", ("country", "2019", "2020")),
        (b"1,x\n2,y\n", ("column1", "column2")),
        (b"2026-01-31;x\n", ("column1", "column2")),
        (b"-1.5e3,x\n", ("column1", "column2")),
        (b'"1",x\n', ("column1", "column2")),
    ],
)
def test_first_record_names_the_columns(data: bytes, names: tuple[str, ...]) -> None:
    assert read(data, complete=True).names == names


@pytest.mark.parametrize(
    ("data", "complete", "reason"),
    [
        (b"", True, "empty"),
        (b"\xef\xbb\xbf", True, "empty"),
        (b"\n \n\n", True, "empty"),
        (b",,\n", True, "is blank"),
        (b"\x00\x01,\x02\n", True, "not a text"),
        (b"PK\x03\x04\x00\x00\n", True, "not a text"),
        (b"a," * 10, False, "longer than"),
        (b'"a\n' + b"b\n" * 10, False, "longer than"),
        (b"x" * 200_000 + b",b\n", True, "cannot be read"),
    ],
)
def test_file_without_a_header_says_why(data: bytes, complete: bool, reason: str) -> None:
    found = read(data, complete=complete)
    assert found.names == ()
    assert reason in found.reason


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_size_and_lines_end_at_the_first_record_of_data(mark: bytes) -> None:
    found = read(mark + b'\n"a\nb",c\n1,2\n', complete=True)
    assert (found.size, found.lines) == (len(b'\n"a\nb",c\n'), 3)
    found = read(mark + b"\n1,2\n3,4\n", complete=True)
    assert (found.size, found.lines) == (1, 1)


def test_sample_may_end_within_a_character() -> None:
    sample = "id,né\n1,é".encode()[:-1]
    assert read(sample, complete=False).encoding == "utf-8"
    assert read(sample, complete=True).encoding == "latin-1"


def test_one_byte_that_is_not_utf_8_changes_no_delimiter() -> None:
    found = read(b"id;n\n1;2\n3;\xe9\n", complete=True)
    assert (found.names, found.delimiter, found.encoding) == (("id", "n"), ";", "latin-1")


_FIELDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
_NAMES = st.lists(_FIELDS, min_size=2, max_size=6)


@given(
    names=_NAMES,
    rows=st.lists(st.integers(), max_size=5),
    delimiter=st.sampled_from(header.DELIMITERS),
    end=st.sampled_from(["\n", "\r\n"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
def test_what_csv_writers_write_is_read_back(
    names: list[str], rows: list[int], delimiter: str, end: str, encoding: str
) -> None:
    names = [f"n{name.strip()}" for name in names]  # a name, and no number
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writerow(names)
    writer.writerows([row] * len(names) for row in rows)
    data = text.getvalue().encode(encoding)
    found = read(data, complete=True)
    assert list(found.names) == names
    assert found.delimiter == delimiter


@given(st.binary(max_size=200), st.booleans())
def test_no_bytes_raise_an_error(data: bytes, complete: bool) -> None:
    found = read(data, complete=complete)
    assert bool(found.names) != bool(found.reason)


def test_longest_sample_is_read() -> None:
    names = ",".join(f"column_{number}" for number in range(50_000))
    data = names.encode() + b"\n" + b"1," * 1000
    assert len(data) < SAMPLE_BYTES
    assert len(read(data, complete=False).names) == 50_000
