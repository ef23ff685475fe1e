"""The growth lines: the project's time and memory against the size, and against the files."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from benchmarks import machine, sides
from benchmarks.data import MB
from benchmarks.results import Line, Standing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.arena import Arena
    from benchmarks.data import Dataset, Store
    from benchmarks.sides import Kind

SIZES = (10, 40, 160, 640, 2500, 10_000)
"""MB."""
COUNTS = (1, 10, 100, 1000, 10_000, 100_000)
REPEATED = 5.0
"""Seconds: what takes less is run three times, since little moves it far."""


@dataclass(frozen=True)
class Point:
    """Some runs at one size."""

    x: float
    standing: Standing


@dataclass
class Series:
    """One growth line.

    Attributes:
        name: For --only.
        title: For people.
        unit: Of `x`.
        kind: Which task downloads it.
        xs: What to try.
        make: Gives the data of an `x`.
        copies: How many times the room of `x` the data and what is made of it take.
        left_out: What could not be tried, and why.
    """

    name: str
    title: str
    unit: str
    per: str
    kind: Kind
    xs: tuple[float, ...]
    make: Callable[[Store, float], Dataset]
    copies: float = 2.5
    points: list[Point] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    @property
    def line(self) -> Line | None:
        """The line through the points."""
        return Line.through((p.x, p.standing.median) for p in self.points if p.standing.good)

    def guess(self, x: float) -> float:
        """Say how many seconds `x` will take, from the largest before it."""
        if not self.points or not self.points[-1].standing.good:
            return 0.0
        last = self.points[-1]
        return last.standing.median * x / last.x

    def as_data(self) -> dict[str, Any]:
        """Give it for programs."""
        line = self.line
        return {
            "name": self.name,
            "title": self.title,
            "unit": self.unit,
            "points": [{"x": point.x, **point.standing.data()} for point in self.points],
            "left_out": self.left_out,
            "line": line and {"seconds": line.base, "per_unit": line.slope, "r2": line.r2},
        }


def all_series(share: float = 1.0) -> list[Series]:
    """Give the lines; `share` makes all of them smaller."""
    sizes = tuple(round(size * share, 3) for size in SIZES)
    counts = tuple(float(max(int(count * share), 1 + i)) for i, count in enumerate(COUNTS))

    def big(store: Store, x: float) -> Dataset:
        return store.random(int(x * MB))

    def tar(store: Store, x: float) -> Dataset:
        return store.repeated_tar(int(x * MB))

    def zipped(store: Store, x: float) -> Dataset:
        return store.repeated_zip(int(x * MB))

    def small(store: Store, x: float) -> Dataset:
        return store.small(int(x), 1024)

    return [
        Series("big", "one file of random bytes", "MB", "MB", "file", sizes, big, 2.05),
        Series("tar", "tar.gz of 12 CSVs, unpacked size", "MB", "MB", "tar", sizes, tar, 1.5),
        Series("zip", "zip of 12 CSVs, unpacked size", "MB", "MB", "zip", sizes, zipped, 1.5),
        Series("files", "files of 1 KiB in nested folders", "files", "file", "tree", counts, small),
    ]  # fmt: skip


def grow(
    series: Series, arena: Arena, store: Store, ends: float, most: float = float("inf")
) -> Iterator[str]:
    """Measure a line, the small first; yields what is being done.

    Args:
        series: Gets its points.
        arena: Where.
        store: Of the data, which is removed after its runs: the large ones need the room.
        ends: The moment (monotonic) after which nothing is begun that would not end before it.
        most: Only x up to here.
    """
    side = sides.ours(series.kind)
    for x in [x for x in series.xs if x <= most]:
        size = int(x * (MB if series.unit == "MB" else 4096))
        if machine.room(arena.folder) < series.copies * size:
            series.left_out.append(f"{x:g} {series.unit}: no room for it")
            continue
        guess = series.guess(x)
        if time.monotonic() + 1.3 * guess > ends:
            series.left_out.append(f"{x:g} {series.unit}: no time for it (about {guess:.0f} s)")
            continue
        yield f"{series.name} {x:g} {series.unit}"
        data = series.make(store, x)
        standing = Standing(side)
        for _ in range(3):
            standing.samples.append(arena.run(side, data, watched=True))
            if standing.samples[-1].seconds > REPEATED or standing.faults:
                break
        store.forget(data)
        series.points.append(Point(x, standing))
