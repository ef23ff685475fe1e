"""Charts of runs and images as SVG, drawn by Vega-Lite without a browser and without a network."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, timedelta
from typing import Any, NamedTuple

import vl_convert
from markupsafe import Markup

from docker.tools.size import MB, Part
from tasks.fetch.errors import printable
from tasks.history import Run

SHAPES = ("circle", "square", "triangle-up", "diamond")
SYMBOLS = ("●", "■", "▲", "◆")
"""The same shapes as text, in the legend of the page."""
WIDTH, HEIGHT = 272, 130
SHORTEST = timedelta(hours=1)
"""Of the time on an axis: the labels of a shorter one have seconds and no hours."""
COMPONENTS = 12
LONGEST = 60


WHOLE = "d"
FAILED = "datum.series == 'failed'"


class Measure(NamedTuple):
    """What a chart shows of each run: nothing for those that have no such value."""

    title: str
    unit: str
    value: Callable[[Run], float | None]
    format: str


def _rate(run: Run) -> float | None:
    return run.fetched_bytes / run.seconds if run.fetched_bytes and run.seconds else None


MEASURES = (
    Measure("Rate", "bytes per second", _rate, "~s"),
    Measure("Size of the data", "bytes", lambda run: run.bytes if run.is_success else None, "~s"),
    Measure("Duration", "seconds", lambda run: run.seconds, ",~r"),
    Measure("Retries", "retries", lambda run: run.retries, WHOLE),
)


def color(index: int) -> str:
    """Return the color of the variant at an index; the style sheet has it for light and dark."""
    return f"var(--series-{index % len(SHAPES)})"


def runs_chart(runs: Mapping[str, Sequence[Run]], measure: Measure) -> Markup:
    """Return a chart of the runs of a task, by variant over time; failed runs are crosses."""
    values = [
        {
            "started": run.started.astimezone(UTC).isoformat(),
            "value": value,
            "series": variant if run.is_success else "failed",
            "variant": variant,
        }
        for variant, found in runs.items()
        for run in found
        if (value := measure.value(run)) is not None
    ]
    if not values:
        return Markup()
    count, names = len(values), [*runs]
    style = {
        "domain": [*names, "failed"],
        "range": [*map(color, range(len(names))), "var(--failed)"],
    }
    shapes = [*(SHAPES[index % len(SHAPES)] for index in range(len(names))), "cross"]
    axis: dict[str, Any] = {"format": measure.format, "tickCount": 4}
    axis |= {"tickMinStep": 1} if measure.format == WHOLE else {}
    spec = {
        "data": {"values": values},
        "encoding": {
            "x": {
                "field": "started", "type": "temporal", "title": None,
                "scale": {"type": "utc", "domain": _times(runs)},
                "axis": {"tickCount": 3, "labelOverlap": True},
            },
            "y": {
                "field": "value", "type": "quantitative", "title": measure.unit, "axis": axis,
                "scale": {"domainMin": 0, **({"domainMax": 1} if _is_zero(values) else {})},
            },
        },
        "layer": [
            {
                "transform": [{"filter": f"!({FAILED})"}],
                "mark": {"type": "line", "strokeWidth": 1.5},
                "encoding": {"color": {"field": "variant", "scale": style, "legend": None}},
            },
            {
                "mark": {"type": "point", "filled": True, "opacity": 1},
                "encoding": {
                    "color": {"field": "series", "scale": style, "legend": None},
                    "shape": {
                        "field": "series", "legend": None,
                        "scale": {"domain": style["domain"], "range": shapes},
                    },
                    "size": {"condition": {"test": FAILED, "value": 110}, "value": 40},
                },
            },
        ],
    }  # fmt: skip
    return _svg(spec, f"{measure.title} of {count} run{'s' * (count != 1)} over time, in UTC")


def _times(runs: Mapping[str, Sequence[Run]]) -> list[str]:
    """Return the times between which the runs of a task started, with a margin."""
    started = [run.started.astimezone(UTC) for found in runs.values() for run in found]
    first, last = min(started), max(started)
    margin = max(SHORTEST - (last - first), (last - first) / 10) / 2
    return [(first - margin).isoformat(), (last + margin).isoformat()]


def _is_zero(values: Sequence[Mapping[str, Any]]) -> bool:
    return not any(value["value"] for value in values)


def image_chart(name: str, parts: Sequence[Part]) -> Markup:
    """Return a chart of the largest components of an image."""
    values = [
        {"name": _text(part.name), "MB": part.bytes / MB, "text": f"{part.bytes / MB:.1f} MB"}
        for part in parts[:COMPONENTS]
    ]
    if not values:
        return Markup()
    spec = {
        "data": {"values": values},
        "encoding": {
            "y": {
                "field": "name", "type": "nominal", "sort": None, "title": None,
                "axis": {"labelLimit": 105, "minExtent": 130, "domain": False, "ticks": False},
            },
            "x": {
                "field": "MB", "type": "quantitative", "axis": None,
                "scale": {"domainMax": parts[0].bytes / MB * 1.35},
            },
        },
        "layer": [
            {"mark": {"type": "bar", "color": "var(--series-0)"}},
            {
                "mark": {"type": "text", "align": "left", "dx": 4},
                "encoding": {"text": {"field": "text"}},
            },
        ],
    }  # fmt: skip
    return _svg(
        {**spec, "width": 400, "height": {"step": 18}},
        f"The largest components of the image {name}",
    )


def _text(name: str) -> str:
    """Return a name for a chart, without what XML cannot have: vl-convert 1.9 aborts on it."""
    return re.sub("[\ufffe\uffff]", "\ufffd", printable(name[:LONGEST]))


def _svg(spec: Mapping[str, Any], title: str) -> Markup:
    """Return the chart of a specification, with a title for readers that do not see it.

    Vega escapes the texts of a chart.
    """
    whole = {
        "width": WIDTH, "height": HEIGHT, "autosize": {"type": "fit", "contains": "padding"},
        **spec,
        "background": None,
        "config": {
            "aria": False, "view": {"stroke": None}, "font": "system-ui, sans-serif",
            "text": {"color": "currentColor"},
            "axis": {
                "labelColor": "currentColor", "titleColor": "currentColor", "labelFontSize": 11,
                "titleFontSize": 11, "titleFontWeight": "normal", "gridColor": "var(--line)",
                "tickColor": "var(--line)", "domainColor": "var(--line)",
            },
        },
    }  # fmt: skip
    drawn: str = vl_convert.vegalite_to_svg(whole, allowed_base_urls=[])
    start = f'<svg role="img" aria-label="{html.escape(title)}" '
    return Markup(drawn.replace("<svg ", start, 1))  # noqa: S704 - Vega escapes texts, and html.escape the title
