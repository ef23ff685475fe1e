"""How variants differ, side by side: `make diff`, and the table in README."""

from __future__ import annotations

import json
import shutil
import textwrap
from collections.abc import Sequence

from docker.setup import front
from docker.setup.project import Failure, Project, say
from docker.setup.variants import Variant
from docker.tools.measure import Measured, Value, compressed, measure, rows

# Rows that are the same on every machine and base: README's table.
IN_README = (
    "Dockerfile", "copied in", "live tree", "requirements", "services", "default command",
    "ports", "data", "restart", "setting log_level", "setting keep_archive",
    "setting host_keys", "env file", "user", "root filesystem", "capabilities dropped",
    "security options", "limits", "log files", "health check",
)  # fmt: skip
BEGIN, END = "<!-- make diff ARGS=--readme -->\n", "<!-- end -->\n"
OPTIONS = ("--all", "--json", "--markdown", "--readme")


def diff(project: Project, names: Sequence[str]) -> int:
    """Print each property in which the named variants differ; dev and prod by default.

    Raises:
        Failure: an unknown option or variant, or nothing to compare.
    """
    options = [word for word in project.args if word.startswith("-")]
    names = [*names, *(word for word in project.args if not word.startswith("-"))]
    for option in options:
        if option not in OPTIONS:
            raise Failure(f"diff knows no {option}; known: {' '.join(OPTIONS)}")
    chosen = [Variant.named(project, name) for name in names or ("dev", "prod")]
    if len({variant.name for variant in chosen}) < 2:
        raise Failure("diff compares two variants or more: make diff dev prod")
    engine = front.engine_for(project, "diff")
    found = [measure(project, variant, engine) for variant in chosen]
    if not {"--markdown", "--readme"} & set(options):
        for one in found:
            one.facts["compressed"] = compressed(one, engine)
    if "--json" in options:
        print(json.dumps(_as_data(found), indent=2))
    elif "--markdown" in options:
        print(markdown(found), end="")
    elif "--readme" in options:
        _into_readme(project, markdown(found))
    else:
        _print(found, everything="--all" in options)
    return 0


def differing(found: Sequence[Measured]) -> list[str]:
    """The names of the rows in which not all agree."""
    return [name for name in rows(found) if len({json.dumps(one.value(name)) for one in found}) > 1]


def markdown(found: Sequence[Measured]) -> str:
    """The rows of README's table in which these variants differ."""
    apart = set(differing(found))
    lines = ["| | " + " | ".join(one.variant.name for one in found) + " |"]
    lines.append("| --- " * (len(found) + 1) + "|")
    for name in IN_README:
        if name in apart:
            cells = [_cell(one.value(name)) for one in found]
            lines.append(f"| {name.removeprefix('setting ')} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(value: Value) -> str:
    text = value if isinstance(value, str) else "<br>".join(value)
    return text.replace("|", "\\|")


def _as_data(found: Sequence[Measured]) -> dict[str, object]:
    apart = set(differing(found))
    return {
        name: {
            "differs": name in apart,
            **{one.variant.name: one.value(name) for one in found},
        }
        for name in rows(found)
    }


def _print(found: Sequence[Measured], everything: bool) -> None:
    """Print a table as wide as the terminal; of lists only what not all have."""
    apart = differing(found)
    shown = rows(found) if everything else apart
    wide = max(map(len, shown), default=8)
    total = max(80, shutil.get_terminal_size((120, 24)).columns)
    column = (total - wide - 2 * len(found)) // len(found)
    _line("", [one.variant.name.upper() for one in found], wide, column)
    for name in shown:
        values = [one.value(name) for one in found]
        if name in apart:
            values = _own(values)
        cells = ["  ".join(v) if isinstance(v, list) else v for v in values]
        _line(name, cells, wide, column)
    same = len(rows(found)) - len(apart)
    say(f"{len(apart)} properties differ, {same} are the same; ARGS=--all shows these too")


def _own(values: list[Value]) -> list[Value]:
    """Lists with the items that all of them have as a number."""
    lists = [set(value) for value in values if isinstance(value, list)]
    common = set.intersection(*lists) if len(lists) == len(values) else set()
    shared = [f"({len(common)} shared)"] if common else []
    return [
        [item for item in value if item not in common] + shared
        if isinstance(value, list)
        else value
        for value in values
    ]


def _line(name: str, cells: Sequence[str], wide: int, column: int) -> None:
    wrapped = [textwrap.wrap(cell, column, break_on_hyphens=False) or [""] for cell in cells]
    for number in range(max(map(len, wrapped))):
        parts = [lines[number] if number < len(lines) else "" for lines in wrapped]
        head = name if number == 0 else ""
        print(f"{head:{wide}}  " + "  ".join(f"{part:{column}}" for part in parts).rstrip())


def _into_readme(project: Project, table: str) -> None:
    path = project.root / "README.md"
    text = path.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        raise Failure(f"README.md has no {BEGIN.strip()} and {END.strip()} to write between")
    before, rest = text.split(BEGIN, 1)
    path.write_text(before + BEGIN + "\n" + table + "\n" + END + rest.split(END, 1)[1], "utf-8")
    say("README.md has the table now")
