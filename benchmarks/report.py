"""The table for people, and the charts, drawn by hand: a library for two would be the larger."""

from __future__ import annotations

import json
import math
import shutil
import sys
from html import escape
from typing import TYPE_CHECKING, Any

from benchmarks.data import MB
from benchmarks.sides import OURS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from benchmarks.growth import Series
    from benchmarks.results import Result, Standing

_STYLE = """
  text { font: 12px system-ui, sans-serif; fill: #222 }
  .title { font-weight: 600; font-size: 13px } .faint { fill: #777 } .bad { fill: #b00 }
  .peer { fill: #b8c4d0 } .ours { fill: #0b6e8f } .range { stroke: #444; stroke-width: 1 }
  .goal { stroke: #d97706; stroke-width: 2; stroke-dasharray: 3 2 }
  .grid { stroke: #e3e3e3 } .fit { stroke: #d97706; stroke-dasharray: 5 3; fill: none }
  .line { stroke: #0b6e8f; stroke-width: 2; fill: none }
"""
ROW, LABEL, BAR = 17, 230, 420


# --- where it goes --------------------------------------------------------------------------


def write(folder: Path, name: str, data: dict[str, Any], chart: str = "") -> None:
    """Write the figures as JSON, and a chart where there is one."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(data, indent=1) + "\n")
    if chart:
        (folder / f"{name}.svg").write_text(chart)
    say(f"written: {folder / name}.json{', .svg' if chart else ''}")


def say(*lines: str) -> None:
    """Print lines of the result."""
    note("")
    for line in lines:
        sys.stdout.write(line + "\n")
    sys.stdout.flush()


def note(text: str) -> None:
    """Show on a terminal what is being done, in one line that the next one replaces."""
    if sys.stderr.isatty():
        columns = shutil.get_terminal_size().columns - 1
        sys.stderr.write(f"\r\x1b[K{text[:columns]}")
        sys.stderr.flush()


# --- tables ---------------------------------------------------------------------------------


def table(result: Result) -> Iterator[str]:
    """Give the lines of one work: every side, its goal beside it."""
    data = result.data
    shape = f"{data.files} files, {data.size / MB:.0f} MB" if data.files > 1 else ""
    packed = f"{data.packed / MB:.0f} MB packed" if data.packed != data.size else ""
    extra = ", ".join(filter(None, [shape, packed]))
    yield ""
    yield f"{result.work.name}: {result.work.title}" + (f" ({extra})" if extra else "")
    head = f"  {'side':<32} {'median':>8}  {'min..max':>13} {'ratio':>7}  {'peak':>7}"
    head += f"  {'CPU + host':>11}"
    yield f"{head}  {'cipher':<17}  goal"
    verdicts = {verdict.rival.side.name: verdict for verdict in result.verdicts()}
    for standing in result.standings:
        name = standing.side.name
        goal = ""
        if name in verdicts:
            goal = f"{verdicts[name].goal.ratio:g} {verdicts[name].verdict}"
        if standing.samples:
            yield f"  {name:<32} {_figures(result, standing)}  {goal}".rstrip()
        yield from (f"    FAILED: {fault}" for fault in standing.faults)


def _figures(result: Result, standing: Standing) -> str:
    if not standing.good:
        return ""
    ratio = f"{result.ratio(standing):.2f}x" if result.ours.good else ""
    peak = f"{standing.peak / MB:.0f} MB"
    cipher = standing.cipher.partition("@")[0]
    cpu = "{:.2f} + {:.2f}".format(*standing.cpu)
    return (
        f"{standing.median:>6.2f} s  {standing.spread:>13} {ratio:>7}  {peak:>7}  {cpu:>11}  "
        f"{cipher:<17}"
    )


def goals(results: Iterable[Result]) -> Iterator[str]:
    """Give the lines of the issue's table: goals and what was reached."""
    yield ""
    yield f"{'work':<10} {'against the best of its peers':<42} {'goal':>5} {'ratio':>6}  by round"
    for result in results:
        for verdict in result.verdicts():
            against = verdict.rival.side.name + verdict.goal.by.removeprefix(OURS)
            yield (
                f"{result.work.name:<10} {against:<42} {verdict.goal.ratio:>4g}x "
                f"{verdict.ratio:>5.2f}x  {verdict.spread:<14} {verdict.verdict}"
            )


def growth_table(series: Series) -> Iterator[str]:
    """Give the lines of one growth line."""
    yield ""
    yield f"{series.name}: {series.title}"
    yield f"  {series.unit:>8}  {'median':>9}  {'min..max':>15}  {'peak':>7}  runs"
    for point in series.points:
        runs = point.standing
        if runs.good:
            yield (
                f"  {point.x:>8.6g}  {runs.median:>7.2f} s  {runs.spread:>15}  "
                f"{runs.peak / MB:>4.0f} MB  {len(runs.good)}"
            )
        yield from (f"  {point.x:>8.6g}  FAILED: {fault}" for fault in runs.faults)
    yield from (f"  {text}" for text in series.left_out)
    if line := series.line:
        yield f"  line: {line.base:.2f} s + {line.slope:.6f} s per {series.per}; R2 {line.r2:.5f}"


# --- charts ---------------------------------------------------------------------------------


def bars(results: Iterable[Result]) -> str:
    """Draw each work's medians as bars; ours must end before the dashed marks of its goals."""
    parts: list[str] = []
    y = 30
    for result in results:
        most = max((max(s.good) for s in result.standings if s.good), default=1.0)
        scale = BAR / most
        parts.append(_text(10, y, result.work.title, "title"))
        y += 8
        for standing in result.standings:
            parts += _bar(result, standing, y, scale)
            y += ROW
        y += 26
    foot = "Seconds of wall time, medians, whiskers from least to most. Dashed: where our bar must"
    parts.append(_text(10, y, f"{foot} end for a goal.", "faint"))
    return _svg(LABEL + BAR + 210, y + 14, parts)


def _bar(result: Result, standing: Standing, y: int, scale: float) -> Iterator[str]:
    ours = standing.side.name == OURS
    yield _text(LABEL - 8, y + 12, standing.side.name, "title" if ours else "", anchor="end")
    if not standing.good:
        yield _text(LABEL, y + 12, "failed", "bad")
        return
    width = standing.median * scale
    yield (
        f'<rect class="{"ours" if ours else "peer"}" x="{LABEL}" y="{y + 2}" '
        f'width="{width:.1f}" height="{ROW - 4}"/>'
    )
    low, high = (LABEL + seconds * scale for seconds in (min(standing.good), max(standing.good)))
    yield _line(low, y + ROW / 2, high, y + ROW / 2, "range")
    text = f"{standing.median:.2f} s"
    if not ours and result.ours.good:
        text += f"   {result.ratio(standing):.2f}x"
    right = high
    for verdict in result.verdicts():
        if ours:
            mark = LABEL + verdict.rival.median / verdict.goal.ratio * scale
            right = max(right, mark)
            yield _line(mark, y, mark, y + ROW, "goal")
        elif verdict.rival is standing:
            text += f" of {verdict.goal.ratio:g}x {'✓' if verdict.met else '✗'}"
    yield _text(right + 8, y + 12, text)


def lines(all_series: Iterable[Series]) -> str:
    """Draw the growth lines: both axes logarithmic, the straight line that fits dashed."""
    parts: list[str] = []
    width, height, y = 460, 250, 40
    for series in all_series:
        points = [(p.x, p.standing.median) for p in series.points if p.standing.good]
        if len(points) < 2:
            continue
        left, right = (math.log10(x) for x in (points[0][0], points[-1][0]))
        low = math.floor(math.log10(min(seconds for _, seconds in points)))
        high = math.ceil(math.log10(max(seconds for _, seconds in points)))

        def place(
            x: float,
            seconds: float,
            *,
            top: int = y + 12,
            across: tuple[float, float] = (left, right),
            up: tuple[int, int] = (low, high),
        ) -> tuple[float, float]:
            part = (math.log10(x) - across[0]) / (across[1] - across[0])
            rise = (math.log10(max(seconds, 10.0 ** up[0])) - up[0]) / (up[1] - up[0])
            return 70 + part * width, top + height - rise * height

        fit = f"R² {series.line.r2:.4f}" if series.line else ""
        parts.append(_text(10, y, f"{series.title}   {fit}", "title"))
        for power in range(low, high + 1):
            (x1, at), (x2, _) = place(points[0][0], 10.0**power), place(points[-1][0], 1)
            parts.append(_line(x1, at, x2, at, "grid"))
            parts.append(_text(x1 - 8, at + 4, f"{10.0**power:g} s", "faint", anchor="end"))
        if line := series.line:
            steps = [10 ** (left + (right - left) * step / 60) for step in range(61)]
            parts.append(_path([place(x, line.at(x)) for x in steps], "fit"))
        parts.append(_path([place(*point) for point in points], "line"))
        for point in series.points:
            if not point.standing.good:
                continue
            x, at = place(point.x, point.standing.median)
            parts.append(f'<circle class="ours" cx="{x:.1f}" cy="{at:.1f}" r="3.5"/>')
            parts.append(_text(x, y + height + 28, f"{point.x:g}", "faint", anchor="middle"))
            memory = f"{point.standing.peak / MB:.0f} MB"
            parts.append(_text(x, y + height + 43, memory, "faint", anchor="middle"))
        parts.append(_text(70 + width + 40, y + height + 28, series.unit, "faint"))
        parts.append(_text(70 + width + 40, y + height + 43, "peak memory", "faint"))
        y += height + 90
    return _svg(690, y, parts)


def curves(title: str, series: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """Draw a curve of seconds for each name, over one axis; both axes are logarithmic."""
    points = [point for curve in series.values() for point in curve]
    left, right = (math.log10(pick(x for x, _ in points)) for pick in (min, max))
    low = math.floor(math.log10(min(seconds for _, seconds in points)))
    high = math.ceil(math.log10(max(seconds for _, seconds in points)))
    width, height, top = 460, 250, 52

    def place(x: float, seconds: float) -> tuple[float, float]:
        part = (math.log10(x) - left) / (right - left)
        return 70 + part * width, top + height * (high - math.log10(seconds)) / (high - low)

    parts = [_text(10, 24, title, "title")]
    for power in range(low, high + 1):
        (x1, y), (x2, _) = place(10**left, 10.0**power), place(10**right, 10.0**power)
        parts += [
            _line(x1, y, x2, y, "grid"),
            _text(x1 - 8, y + 4, f"{10.0**power:g} s", "faint", anchor="end"),
        ]
    for x in sorted({x for x, _ in points}):
        parts.append(_text(place(x, 1)[0], top + height + 18, f"{x:g}", "faint", anchor="middle"))
    for name, curve in series.items():
        parts.append(_path([place(*point) for point in curve], "line"))
        parts += [
            f'<circle class="ours" cx="{x:.1f}" cy="{y:.1f}" r="3"/>'
            for x, y in (place(*point) for point in curve)
        ]
        x, y = place(*curve[-1])
        parts.append(_text(x + 10, y + 4, name))
    return _svg(850, top + height + 40, parts)


def _svg(width: float, height: float, parts: Iterable[str]) -> str:
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" '
        f'width="{width:g}" height="{height:g}">\n<style>{_STYLE}</style>\n'
        f'<rect width="100%" height="100%" fill="#fff"/>\n{body}\n</svg>\n'
    )


def _text(x: float, y: float, text: str, style: str = "", anchor: str = "start") -> str:
    return (
        f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" '
        f'xml:space="preserve">{escape(text)}</text>'
    )


def _line(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
    return f'<line class="{style}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _path(points: Iterable[tuple[float, float]], style: str) -> str:
    steps = " L".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<path class="{style}" d="M{steps}"/>'
