"""What the report shows: runs and data of each variant, and the properties and size of images."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec import Struct

from docker.setup.engine import quiet
from docker.setup.project import Failure, last_line
from docker.tools.context import Context, Variant
from docker.tools.diff import differing, unshared
from docker.tools.measure import Measured, measure
from docker.tools.rows import Value
from docker.tools.saved import saved
from docker.tools.size import Content, Part
from tasks.fetch.manifest import Column
from tasks.history import Run

PROBE = Path(__file__).with_name("probe.py").read_text(encoding="utf-8")


class File(Struct, frozen=True):
    """A published file."""

    path: str
    size: int


class ColumnList(Struct, frozen=True):
    """The columns that some files have; `count` is of all, also of those that are not listed."""

    paths: list[str]
    columns: list[Column]
    count: int


class Data(Struct, frozen=True):
    """What a target has; `count` and `bytes` are of all files, also of those not listed."""

    target: str
    source: str
    finished: str
    count: int
    bytes: int
    files: list[File]
    columns: list[ColumnList]


class Task(Struct, frozen=True):
    """One task of a variant, as probe.py gives it."""

    name: str
    runs: list[Run]
    errors: list[str]
    description: str = ""
    data: Data | None = None


@dataclass(frozen=True)
class VariantFacts:
    """The tasks of a variant, or why they are not known."""

    name: str
    tasks: Sequence[Task] = ()
    error: str = ""


class Row(NamedTuple):
    """A property of the variants, and the value that each has."""

    name: str
    differs: bool
    values: list[list[str]]


class Image(NamedTuple):
    """An image: its bytes, the components, and the instructions that made its layers."""

    name: str
    bytes: int
    parts: Sequence[Part] = ()
    layers: Sequence[tuple[str, int]] = ()


@dataclass(frozen=True)
class Facts:
    """All that the page shows.

    Attributes:
        notes: What is not shown of the images, and why.
    """

    project: str
    runner: str
    variants: Sequence[VariantFacts]
    compared: Sequence[str] = ()
    rows: Sequence[Row] = ()
    images: Sequence[Image] = ()
    notes: Sequence[str] = field(default_factory=list)


def facts(context: Context, variants: Sequence[Variant]) -> Facts:
    """Return the facts of variants; what cannot be read is an error or a note in them."""
    found = [variant_facts(variant) for variant in variants]
    if not context.docker:
        note = (
            "RUNNER=host uses no images"
            if context.runner == "host"
            else "no container engine answers here; make doctor says what it takes"
        )
        return Facts(context.name, "host", found, notes=[note])
    notes: list[str] = []
    measured: Sequence[Measured] = ()
    try:
        measured = measure(variants)
    except Failure as failure:
        notes.append(str(failure))
    images = [*_images(context, variants, notes)]
    names = [one.variant.name for one in measured]
    return Facts(context.name, context.engine, found, names, rows(measured), images, notes)


def variant_facts(variant: Variant) -> VariantFacts:
    """Return the runs and the data of a variant, read where its tasks run."""
    context = variant.project
    if context.docker:
        done = variant.compose(
            "run", "--rm", "-T", "--entrypoint", "python -", variant.service, stdin=PROBE
        )
    else:
        where = ["env", f"--chdir={context.root}", f"LIGHTERAGE_VARIANT={variant.name}"]
        done = quiet(*where, sys.executable, "-B", "-", timeout=None, stdin=PROBE)
    if done.returncode:
        return VariantFacts(variant.name, error=last_line(done.stderr))
    try:
        return VariantFacts(variant.name, msgspec.json.decode(done.stdout, type=list[Task]))
    except msgspec.DecodeError as error:
        return VariantFacts(variant.name, error=f"{variant.prefix}: {error}: build the image again")


def rows(measured: Sequence[Measured]) -> list[Row]:
    """Return each measured property as `make diff` has it: of lists what only some have."""
    if not measured:
        return []
    apart = differing(measured)
    found = []
    for name in measured[0].facts:
        values: Sequence[Value] = [one.facts[name] for one in measured]
        values = unshared(values) if name in apart else values
        lists = [[value] if isinstance(value, str) else value for value in values]
        found.append(Row(name, name in apart, lists))
    return found


def _images(context: Context, variants: Sequence[Variant], notes: list[str]) -> Iterator[Image]:
    for variant in variants:
        try:
            with saved(context, variant.prefix) as layers:
                content = Content.of(layers)
        except Failure as failure:
            notes.append(f"image {variant.prefix}: {failure}")
        else:
            yield Image(variant.prefix, content.size, content.parts(), content.layers)
