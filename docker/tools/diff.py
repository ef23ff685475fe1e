"""Show how variants differ, side by side: `make diff`, and the table in README."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from docker.setup.project import Failure, say
from docker.tools.context import Context, Variant
from docker.tools.measure import Measured, measure
from docker.tools.rows import Value

# Rows that are the same on every machine and base: README's table.
IN_README = (
    "Dockerfile", "copied in", "live tree", "requirements", "services", "default command",
    "ports", "data", "restart", "setting log_level", "setting keep_archive",
    "setting host_keys", "env file", "user", "root filesystem", "capabilities dropped",
    "security options", "limits", "log files", "health check",
)  # fmt: skip
BEGIN, END = "<!-- make diff ARGS=--readme -->\n", "<!-- end -->\n"


def diff(context: Context, *variants: Variant) -> int:
    """Print each property in which the named variants differ; dev and prod by default.

    Raises:
        Failure: an unknown option or variant, or nothing to compare.
    """
    options = context.options("diff", "--all", "--json", "--markdown", "--readme")
    chosen = variants or [context.variant(name) for name in ("dev", "prod")]
    if len(chosen) < 2:
        raise Failure("diff compares two variants or more: make diff dev prod")
    found = measure(chosen)
    if "--readme" in options:
        _write_readme(context, markdown(found))
    elif "--markdown" in options:
        print(markdown(found), end="")
    elif "--json" in options:
        print(json.dumps(_as_data(found), indent=2))
    else:
        _print(found, everything="--all" in options)
    return 0


def differing(found: Sequence[Measured]) -> list[str]:
    """Return the rows in which not all variants agree."""
    first, *others = found
    return [row for row in first.facts if any(one.facts[row] != first.facts[row] for one in others)]


def markdown(found: Sequence[Measured]) -> str:
    """Return README's table: those of its rows in which the variants differ."""
    rows = [row for row in IN_README if row in differing(found)]
    lines = ["| | " + " | ".join(one.variant.name for one in found) + " |"]
    lines.append("| --- " * (len(found) + 1) + "|")
    for row in rows:
        cells = [_lines(one.facts[row]).replace("|", "\\|").replace("\n", "<br>") for one in found]
        lines.append(f"| {row.removeprefix('setting ')} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _lines(value: Value) -> str:
    return value if isinstance(value, str) else "\n".join(value)


def _as_data(found: Sequence[Measured]) -> dict[str, object]:
    apart = differing(found)
    return {
        row: {"differs": row in apart, **{one.variant.name: one.facts[row] for one in found}}
        for row in found[0].facts
    }


def _print(found: Sequence[Measured], *, everything: bool) -> None:
    """Print a table as wide as the terminal; of lists only the items that not all have."""
    apart = differing(found)
    table = Table("", *(one.variant.name.upper() for one in found), box=None, pad_edge=False)
    for row in found[0].facts if everything else apart:
        values = [one.facts[row] for one in found]
        lists = unshared(values) if row in apart else values
        table.add_row(row, *(x if isinstance(x, str) else "  ".join(x) for x in lists))
    width = max(80, shutil.get_terminal_size((120, 24)).columns)
    console = Console(width=width, markup=False, emoji=False, highlight=False)
    with console.capture() as captured:
        console.print(table)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))
    same = len(found[0].facts) - len(apart)
    say(f"{len(apart)} properties differ, {same} are the same; ARGS=--all shows these too")


def unshared(values: Sequence[Value]) -> Sequence[Value]:
    """Return the values; of lists only the items that not all have, and a count of the rest."""
    lists = [set(value) for value in values if isinstance(value, list)]
    shared = set.intersection(*lists) if len(lists) == len(values) else set()
    rest = [f"({len(shared)} shared)"] if shared else []
    return [
        value if isinstance(value, str) else [x for x in value if x not in shared] + rest
        for value in values
    ]


def _write_readme(context: Context, table: str) -> None:
    path = context.root / "README.md"
    text = path.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        raise Failure(f"README.md has no {BEGIN.strip()} and {END.strip()} to write between")
    before, rest = text.split(BEGIN, 1)
    path.write_text(before + BEGIN + "\n" + table + "\n" + END + rest.split(END, 1)[1], "utf-8")
    say("wrote the table in README.md")
