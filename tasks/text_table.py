"""Tables of text that fit a terminal."""

from __future__ import annotations

import shutil
import unicodedata
from itertools import accumulate
from typing import TYPE_CHECKING

from tasks.fetch.errors import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

GAP = 2
"""Spaces between two columns."""
LEAST = 8
"""Characters to which a column is shortened before the last columns are left out."""
MOST = 200
"""Characters of a cell that are shown at most."""
_CUT = "..."


def terminal_width() -> int:
    """Return the columns of the terminal; 100 where the output is none."""
    return shutil.get_terminal_size((100, 24)).columns


def table(
    rows: Sequence[Sequence[str]],
    width: int,
    *,
    right: Sequence[int] = (),
    path: int | None = None,
) -> list[str]:
    """Return rows as lines of at most `width` characters.

    The widest cells are shortened first; then columns at the end are left out, which a last column
    `+N` says.

    Args:
        rows: The first is the heading; all have equally many cells.
        width: Of the terminal.
        right: The columns whose cells are aligned at the right.
        path: The column that has paths, whose ends are shown where they are shortened.
    """
    cells = [
        [
            printable(cell[-MOST:] if column == path else cell[:MOST])
            for column, cell in enumerate(row)
        ]
        for row in rows
    ]
    wide = [max(map(cell_width, column)) for column in zip(*cells, strict=True)]
    least = [min(one, LEAST) for one in wide]
    fits = [total - GAP for total in accumulate(one + GAP for one in least)]
    shown = len(wide)
    if fits and fits[-1] > width:
        more = GAP + len(f"+{shown}")
        shown = max(1, sum(one + more <= width for one in fits))
        cells = [[*row[:shown], ""] for row in cells]
        cells[0][-1] = f"+{len(wide) - shown}"
        wide = [*wide[:shown], len(cells[0][-1])]
    limit = _limit(wide, width - GAP * (len(wide) - 1))
    lines = []
    for row in cells:
        texts = []
        for column, (cell, whole) in enumerate(zip(row, wide, strict=True)):
            most = min(whole, limit)
            text = _shortened(cell, most, end=column == path)
            space = " " * (most - cell_width(text))
            texts.append(space + text if column in right else text + space)
        lines.append((" " * GAP).join(texts).rstrip())
    return lines


def cell_width(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1
        for char in text
    )


def _limit(wide: Sequence[int], width: int) -> int:
    """Return the greatest width of a cell with which all columns fit."""
    limit = max(wide, default=0)
    while limit > 1 and sum(min(one, limit) for one in wide) > width:
        limit -= 1
    return limit


def _shortened(text: str, most: int, *, end: bool) -> str:
    """Return a text of so many columns of a terminal; of a longer one its start, or its end."""
    if cell_width(text) <= most:
        return text
    room = max(0, most - len(_CUT))
    while cell_width(text) > room:
        text = text[1:] if end else text[:-1]
    return (_CUT + text if end else text + _CUT)[:most]
