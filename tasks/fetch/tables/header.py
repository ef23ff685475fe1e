"""The header of a CSV, read from its first bytes.

- The text is UTF-8, or UTF-16 with a byte order mark; what is neither is read as Latin-1.
- The delimiter is that of , ; tab and | which splits the first records into equally many fields,
  and of several the one that gives the most.
- The first record that is not blank is the header. It is data if its first field is a number or a
  date: the columns are then named column1, column2, ...
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import io
import re
from dataclasses import dataclass
from itertools import islice

SAMPLE_BYTES = 2**20
"""How much of a CSV is read ahead: header and types come from it."""
DELIMITERS = ",;\t|"
_RECORDS = 20
"""Records that a delimiter must split alike."""
_SCORED = 2**16
"""Characters that they are taken from."""
_LINE_END = re.compile(r"(?:\r\n?|\n)\Z")
_DATA = re.compile(
    r"[+-]?[\d.,]*\d(e[+-]?\d+)?%?|\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}([T ].*)?", re.IGNORECASE
)


@dataclass(frozen=True)
class Header:
    """The header of a CSV.

    Attributes:
        names: Of the columns; empty where no header can be read.
        reason: Why not.
        delimiter: Between fields.
        encoding: Of the text, without the byte order mark.
        size: Bytes up to the first record of data, in UTF-8, without the byte order mark.
        lines: Lines up to there.
        line_end: Of the record after the header: CR, LF or both; empty where there is none.
    """

    names: tuple[str, ...] = ()
    reason: str = ""
    delimiter: str = ","
    encoding: str = "utf-8"
    size: int = 0
    lines: int = 0
    line_end: str = ""


def read(sample: bytes, *, complete: bool) -> Header:
    """Return the header of a CSV that starts with `sample`.

    Args:
        sample: Its first bytes: `SAMPLE_BYTES` are enough.
        complete: Whether that is the whole file.
    """
    encoding, text = decoded(sample, complete=complete)
    if not text.strip():
        return Header(reason="it is empty", encoding=encoding)
    if "\0" in text:
        return Header(reason="it is not a text", encoding=encoding)
    delimiter = max(DELIMITERS, key=lambda delimiter: _score(text[:_SCORED], delimiter))
    lines = io.StringIO(text, newline="")
    records = csv.reader(lines, delimiter=delimiter)
    start = start_line = 0
    try:
        for record in records:
            if any(record):
                break
            start, start_line = lines.tell(), records.line_num
        else:
            return Header(reason="its header is blank", encoding=encoding)
    except csv.Error as error:
        return Header(reason=f"its header cannot be read: {error}", encoding=encoding)
    end, end_line = lines.tell(), records.line_num
    if end == len(text) and not complete:
        return Header(reason=f"its header is longer than {SAMPLE_BYTES} bytes", encoding=encoding)
    if _DATA.fullmatch(record[0].strip()):
        names = tuple(f"column{number + 1}" for number in range(len(record)))
        end, end_line = start, start_line
    else:
        names = tuple(name.strip() for name in record)
    size = len(text[:end].encode())
    with contextlib.suppress(csv.Error):
        next(records, None)
    line_end = _LINE_END.search(text[max(0, lines.tell() - 2) : lines.tell()])
    return Header(names, "", delimiter, encoding, size, end_line, line_end[0] if line_end else "")


def decoded(sample: bytes, *, complete: bool) -> tuple[str, str]:
    """Return the encoding of a file's first bytes, and their text without a byte order mark."""
    marks = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    encoding = "utf-16" if sample.startswith(marks) else "utf-8"
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(sample, complete)
    except UnicodeDecodeError:
        return "latin-1", sample.decode("latin-1")
    return encoding, text.removeprefix("\ufeff")


def _score(text: str, delimiter: str) -> tuple[bool, int]:
    """Return whether a delimiter splits the first records alike, and into how many fields."""
    try:
        records = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        counts = [len(record) for record in islice(filter(None, records), _RECORDS)]
    except csv.Error:
        return False, 0
    first = counts[0] if counts else 0
    return first > 1 and all(count == first for count in counts), first
