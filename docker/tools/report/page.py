"""The page of facts: one HTML file that loads nothing and runs no script."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from docker.tools.report.charts import (
    MEASURES,
    SHAPES,
    SYMBOLS,
    image_chart,
    runs_chart,
)
from docker.tools.report.data import Data, Facts, Image, Task
from docker.tools.size import SHOWN
from tasks.fetch.errors import printable
from tasks.fetch.progress import human
from tasks.history import Run

FOLDER = Path(__file__).parent
RECENT = 15
"""Runs of each task in a table; the charts have more."""
FAILURES = 50
LONGEST = 500


class TaskView(NamedTuple):
    """A task of all variants: its runs by variant, and what each landed."""

    name: str
    title: str
    runs: Mapping[str, Sequence[Run]]
    data: Sequence[tuple[str, Data]]
    errors: Sequence[tuple[str, str]]

    @property
    def recent(self) -> list[Run]:
        """The newest runs of all variants, the newest first."""
        return newest(run for found in self.runs.values() for run in found)[:RECENT]

    @property
    def total(self) -> int:
        """How many runs are known."""
        return sum(map(len, self.runs.values()))


def page(facts: Facts, now: datetime | None = None) -> str:
    """Return the page as HTML.

    Args:
        facts: What it shows; no text in it is trusted.
        now: When it was made, by default the present time.
    """
    environment = Environment(
        loader=FileSystemLoader(FOLDER), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, finalize=_shown,
    )  # fmt: skip
    environment.filters.update(human=human, moment=_moment)
    style = (FOLDER / "style.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    tasks = task_views(facts)
    return environment.get_template("template.html").render(
        facts=facts, tasks=tasks, failures=_failures(tasks), charts=_charts(tasks),
        legend=[*zip((one.name for one in facts.variants), _cycle(SYMBOLS), strict=False)],
        images=[(image, image_chart(image.name, image.parts), *_split(image))
                for image in facts.images],
        style=style, digest=digest, now=now or datetime.now(UTC),
    )  # fmt: skip


def task_views(facts: Facts) -> list[TaskView]:
    """Return the tasks that any variant has, each with what every variant knows of it."""
    names = dict.fromkeys(task.name for variant in facts.variants for task in variant.tasks)
    ordered = sorted(names, key=lambda name: (len(name), name))  # task 10 after task 9
    return [_task_view(facts, name) for name in ordered]


def _task_view(facts: Facts, name: str) -> TaskView:
    found = {
        variant.name: task
        for variant in facts.variants
        for task in variant.tasks
        if task.name == name
    }
    label = f"Task {name}"
    text = next((task.description for task in found.values() if task.description), label)
    return TaskView(
        name,
        text if text.startswith(label) else f"{label}: {text}",
        # In the order of the variants, also of one without runs: it keeps its color.
        {one.name: found[one.name].runs if one.name in found else [] for one in facts.variants},
        _data(found),
        [(variant, error) for variant, task in found.items() for error in task.errors],
    )


def _data(tasks: Mapping[str, Task]) -> list[tuple[str, Data]]:
    """Return what landed, once where variants share a target, with the names of the variants."""
    names: list[tuple[list[str], Data]] = []
    for variant, task in tasks.items():
        if task.data is None:
            continue
        same = [found for found, data in names if data == task.data]
        if same:
            same[0].append(variant)
        else:
            names.append(([variant], task.data))
    return [(" and ".join(found), data) for found, data in names]


def newest(runs: Any) -> list[Run]:
    """Return runs, the newest first."""
    return sorted(runs, key=lambda run: run.started, reverse=True)


def _failures(tasks: Sequence[TaskView]) -> list[Run]:
    runs = (run for task in tasks for found in task.runs.values() for run in found)
    return newest(run for run in runs if not run.is_success)[:FAILURES]


def _charts(tasks: Sequence[TaskView]) -> dict[str, list[tuple[str, Markup]]]:
    """Return the charts of each task that has runs, with their titles."""
    return {
        task.name: [
            (measure.title, chart)
            for measure in MEASURES
            if (chart := runs_chart(task.runs, measure))
        ]
        for task in tasks
    }


def _split(image: Image) -> tuple[list[Any], int, int]:
    """Return the components worth a row, and the number and the bytes of the smaller ones."""
    large = [part for part in image.parts if part.bytes >= SHOWN * image.bytes]
    small = image.parts[len(large) :]
    return large, len(small), sum(part.bytes for part in small)


def _cycle(values: Sequence[str]) -> list[str]:
    return [*values] * len(SHAPES)


def _moment(time: datetime) -> str:
    return time.isoformat(sep=" ", timespec="seconds")


def _shown(value: Any) -> Any:
    """Show control characters and those that change the direction of text as escapes."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return printable(value if len(value) <= LONGEST else f"{value[:LONGEST]}…")
