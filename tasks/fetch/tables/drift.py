"""What has changed between the columns of published CSVs and those of new ones.

A file is compared with the published file of its path. A path that is new is compared with the
last published file of its group: the paths that differ in digits only, such as events-2026-11.csv
and events-2026-10.csv, in the order of their numbers.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.fetch.tables.paths import stem

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from tasks.fetch.manifest import Column, File, Manifest

_DIGITS = re.compile(r"[0-9]+")
_SHOWN = 10
"""Changes that a text lists."""


@dataclass(frozen=True)
class Drift:
    """One change of one file's columns.

    Attributes:
        path: The file, in the target.
        change: `added`, `removed`, `renamed`, `type`, or `order`.
        column: Its name; of `renamed` the old one, of `order` the first that is at another place.
        old: What it was: of `type` a type, of `order` a number from 1, and else a name.
        new: What it is.
        than: The published file that it is compared with, where that is another one.
    """

    path: str
    change: str
    column: str
    old: str = ""
    new: str = ""
    than: str = ""

    def __str__(self) -> str:
        what = f"column {self.column!r}"
        text = {
            "added": f"{what} is new",
            "removed": f"{what} is missing",
            "renamed": f"{what} is now {self.new!r}",
            "type": f"{what} was {self.old}, is {self.new}",
            "order": f"{what} was at position {self.old}, is at {self.new}",
        }[self.change]
        return f"{self.path}: {text}" + (f" (compared with {self.than})" if self.than else "")

    def data(self) -> dict[str, str]:
        """Return it for programs."""
        return {name: value for name, value in vars(self).items() if value}


def drifts(before: Manifest | None, after: Manifest) -> list[Drift]:
    """Return what has changed, by path."""
    if before is None:
        return []
    paths: dict[str, File] = {}
    groups: dict[str, File] = {}
    for file in sorted(before.files, key=_numbers):
        if before.columns.get(file.columns):
            paths[stem(file.path)] = groups[_group(file)] = file
    found: list[Drift] = []
    for file in after.files:
        old = paths.get(stem(file.path)) or groups.get(_group(file))
        if old and file.columns and file.columns != old.columns:
            than = old.path if stem(old.path) != stem(file.path) else ""
            columns = before.columns[old.columns], after.columns[file.columns]
            found += (Drift(file.path, *change, than) for change in changes(*columns))
    return found


def listed(drifts: Iterable[Drift]) -> list[str]:
    """Return the first drifts as texts, and how many more there are."""
    texts = [str(drift) for drift in drifts]
    return texts[:_SHOWN] + ([f"{len(texts) - _SHOWN} more"] if len(texts) > _SHOWN else [])


def _group(file: File) -> str:
    return _DIGITS.sub("0", stem(file.path))


def _numbers(file: File) -> tuple[list[int], str]:
    return [int(digits) for digits in _DIGITS.findall(file.path)], file.path


def changes(old: Sequence[Column], new: Sequence[Column]) -> Iterator[tuple[str, str, str, str]]:
    """Yield each change, with the column and what it was and is."""
    before, after = [column.name for column in old], [column.name for column in new]
    removed, added = Counter(before) - Counter(after), Counter(after) - Counter(before)
    if len(old) == len(new):
        for was, now in zip(before, after, strict=True):
            if removed[was] and added[now]:
                removed[was] -= 1
                added[now] -= 1
                yield "renamed", was, was, now
    yield from (("removed", name, name, "") for name in removed.elements())
    yield from (("added", name, "", name) for name in added.elements())
    if before != after and sorted(before) == sorted(after):
        place = next(i for i, name in enumerate(before) if name != after[i])
        yield "order", after[place], str(before.index(after[place]) + 1), str(place + 1)
    # Not of names that are not unique: which of them is which is not known.
    count = Counter(before) | Counter(after)
    types = {column.name: column.type for column in old if count[column.name] == 1}
    for column in new:
        kind = types.get(column.name)
        if kind and column.type and kind != column.type:
            yield "type", column.name, kind, column.type
