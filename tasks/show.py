"""What landed at a task's target, and what the last landing changed: `show` and `diff-data`."""

from __future__ import annotations

import textwrap
from itertools import islice
from typing import TYPE_CHECKING, Any

from tasks.fetch.errors import LocalError, printable
from tasks.fetch.landing import Landing
from tasks.fetch.progress import human
from tasks.fetch.stores import open_store
from tasks.fetch.tables import duck
from tasks.fetch.tables.drift import Drift, changes
from tasks.fetch.tables.table import is_table
from tasks.text_table import table

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from tasks.fetch.manifest import Column, File, Manifest
    from tasks.settings import Settings

FILES_SHOWN = 20
CHANGES_SHOWN = 50
TABLES_SHOWN = 3
"""Tables whose first rows are shown, each with other columns than those before."""
FIRST_ROWS = 5
COLUMNS_SHOWN = 100
ALL = "ARGS=--json lists all"
UNKNOWN = "?"


class Show:
    """What landed at the target of a task.

    Args:
        settings: Of the task.

    Raises:
        LocalError: Nothing has landed there.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        store = open_store(str(settings.target), overwrite=True)
        self._landing = _landed(settings, store.manifest(), store)
        self._landing.count()
        self._landing.record()
        self._manifest = self._landing.manifest
        self._first = [
            (file, same, self._landing.first_rows(file, FIRST_ROWS))
            for file, same in islice(self._tables(), TABLES_SHOWN)
        ]

    def _tables(self) -> Iterator[tuple[File, int]]:
        """Yield a table of each list of columns, and how many others have the same."""
        if not duck.installed():
            return
        groups: dict[tuple[Column, ...], list[File]] = {}
        for file in self._manifest.files:
            if columns := self._landing.columns(file):
                groups.setdefault(columns, []).append(file)
        yield from ((files[0], len(files) - 1) for files in groups.values())

    def data(self) -> dict[str, Any]:
        """Return all of it, for programs."""
        manifest = self._manifest
        return {
            **_heading(self._settings, manifest),
            "source": manifest.remote_file_path,
            "has_duckdb": duck.installed(),
            "files": [
                _facts(self._landing, file) | {"error": self._landing.errors.get(file.path)}
                for file in manifest.all_files()
            ],
            "missing": manifest.missing,
            "first_rows": [
                {
                    "path": file.path,
                    "columns": [column.name for column in found.columns],
                    "rows": list(found.first),
                    "error": found.error or None,
                }
                for file, _, found in self._first
            ],
        }

    def lines(self, width: int) -> list[str]:
        """Return it for people, in lines of at most `width` characters where possible."""
        manifest, files = self._manifest, self._manifest.all_files()
        lines = [
            printable(_title(self._settings)),
            printable(
                f"landed {manifest.finished} from {manifest.host}: "
                f"{_count(len(files), 'file')}, {human(sum(file.size for file in files))}"
            ),
            *[f"missing: {_count(len(manifest.missing), 'remote file')}"] * bool(manifest.missing),
            "",
            *table(
                [("file", "size", "rows", "columns"), *map(self._row, files[:FILES_SHOWN])],
                width, right=(1, 2, 3), path=0,
            ),
            *_more(len(files) - FILES_SHOWN, "file"),
        ]  # fmt: skip
        for path, error in islice(self._landing.errors.items(), FILES_SHOWN):
            lines += ["", printable(f"{path}: {error}")]
        for file, same, found in self._first:
            others = f" (and {_count(same, 'file')} with the same columns)" if same else ""
            lines += ["", printable(f"{file.path}{others}")]
            lines += _wrapped(found.columns, width)
            lines += [printable(f"  {found.error}")] if found.error else []
            lines += [f"  {line}" for line in _first_lines(found.columns, found.first, width - 2)]
        if not duck.installed():
            lines += ["", *self._without_duckdb(width)]
        return lines

    def _row(self, file: File) -> tuple[str, ...]:
        if not is_table(file.path):
            return file.path, human(file.size), "", ""
        columns = self._landing.columns(file)
        return file.path, human(file.size), _rows(file), str(len(columns) or UNKNOWN)

    def _without_duckdb(self, width: int) -> list[str]:
        """Return the columns that the manifest has, and how to see rows."""
        lists = dict.fromkeys(
            filter(None, (self._landing.columns(file) for file in self._manifest.files))
        )
        lines = [line for one in islice(lists, TABLES_SHOWN) for line in _wrapped(one, width)]
        name = self._settings.variant
        text = (
            "Rows are counted and shown by DuckDB, which is not installed here. The dev variant "
            f"has it; for {name}: make show TASK={self._settings.task} ENV={name} EXTRAS=parquet"
        )
        return [*lines, *textwrap.wrap(text, width)]


class DataDiff:
    """What the last landing of a task changed.

    Args:
        settings: Of the task.

    Raises:
        LocalError: Nothing has landed.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        store = open_store(str(settings.target), overwrite=True)
        self._after = _landed(settings, store.manifest(), store)
        before = store.previous()
        self._before = Landing(store, before) if before else None
        self._changed: list[tuple[str, File | None, File | None]] = []
        if self._before is None:
            return
        paths = set(_changed(self._before.manifest, self._after.manifest))
        self._before.count(paths)
        self._after.count(paths)
        self._after.record()
        old, new = (
            {file.path: file for file in one.manifest.all_files()}
            for one in (self._before, self._after)
        )
        self._changed = [(path, old.get(path), new.get(path)) for path in sorted(paths)]

    def data(self) -> dict[str, Any]:
        """Return all of it, for programs."""
        after, before = self._after.manifest, self._before and self._before.manifest
        found: dict[str, list[dict[str, Any]]] = {"added": [], "removed": [], "changed": []}
        for _, old, new in self._changed:
            if old is None and new:
                found["added"].append(_facts(self._after, new))
            elif new is None and old and self._before:
                found["removed"].append(_facts(self._before, old))
            elif old and new and self._before:
                found["changed"].append(
                    {
                        "path": new.path,
                        "before": _facts(self._before, old),
                        "after": _facts(self._after, new),
                        "columns": [drift.data() for drift in self._drifts(old, new)],
                    }
                )
        return {
            **_heading(self._settings, after),
            "before": before.finished if before else None,
            **found,
            "unchanged": self._unchanged() if before else None,
        }

    def lines(self, width: int) -> list[str]:
        """Return it for people."""
        lines = [printable(_title(self._settings))]
        if self._before is None:
            return [*lines, "only one landing is known: nothing to compare"]
        before, after = self._before.manifest, self._after.manifest
        lines.append(printable(f"landed {before.finished}, and then {after.finished}"))
        if self._changed:
            heading = ("change", "file", "size", "rows", "columns")
            rows = [self._row(*one) for one in self._changed[:CHANGES_SHOWN]]
            lines += ["", *table([heading, *rows], width, path=1)]
            lines += _more(len(self._changed) - CHANGES_SHOWN, "change")
        for _, old, new in self._changed[:CHANGES_SHOWN]:
            if old and new:
                lines += [printable(str(drift)) for drift in self._drifts(old, new)]
        lines += ["", f"{_count(self._unchanged(), 'file')} unchanged"]
        if any(old and is_table(old.path) and old.rows < 0 for _, old, _ in self._changed):
            lines += textwrap.wrap(
                f"{UNKNOWN}: rows of files that are no longer there are known only if "
                f"`make show TASK={self._settings.task}` counted them before.",
                width,
            )
        return lines

    def _row(self, path: str, old: File | None, new: File | None) -> tuple[str, ...]:
        kind = "changed" if old and new else "added" if new else "removed"
        sides = [(old, self._before), (new, self._after)]
        known = [(file, landing) for file, landing in sides if file and landing]
        rows = [_rows(file) if is_table(path) else "" for file, _ in known]
        counts = [
            str(len(landing.columns(file)) or UNKNOWN) if is_table(path) else ""
            for file, landing in known
        ]
        return (
            kind, path, _arrow(human(file.size) for file, _ in known), _arrow(rows), _arrow(counts)
        )  # fmt: skip

    def _drifts(self, old: File, new: File) -> list[Drift]:
        was = self._before.columns(old) if self._before else ()
        now = self._after.columns(new)
        return [Drift(new.path, *change) for change in changes(was, now)] if was and now else []

    def _unchanged(self) -> int:
        paths = {path for path, _, new in self._changed if new}
        return sum(file.path not in paths for file in self._after.manifest.all_files())


def _changed(before: Manifest, after: Manifest) -> Iterator[str]:
    """Yield the path of each file that is not in both with the same content."""
    old, new = (
        {file.path: (file.size, file.sha256) for file in one.all_files()} for one in (before, after)
    )
    return (path for path in old.keys() | new.keys() if old.get(path) != new.get(path))


def _landed(settings: Settings, manifest: Manifest | None, store: Any) -> Landing:
    if manifest is None:
        raise LocalError(
            f"nothing has landed in {settings.target} yet",
            advice=f"run the task: make run TASK={settings.task} ENV={settings.variant}",
        )
    return Landing(store, manifest)


def _heading(settings: Settings, manifest: Manifest) -> dict[str, Any]:
    return {
        "task": settings.task,
        "variant": settings.variant,
        "target": str(settings.target),
        "host": manifest.host,
        "finished": manifest.finished,
    }


def _title(settings: Settings) -> str:
    return f"task {settings.task} ({settings.variant}): {settings.target}"


def _facts(landing: Landing, file: File) -> dict[str, Any]:
    return {
        "path": file.path,
        "size": file.size,
        "sha256": file.sha256,
        "rows": file.rows if file.rows >= 0 else None,
        "columns": [{"name": one.name, "type": one.type} for one in landing.columns(file)] or None,
    }


def _rows(file: File) -> str:
    return f"{file.rows:,}" if file.rows >= 0 else UNKNOWN


def _arrow(texts: Iterable[str]) -> str:
    """Return one text where both are the same, else the old and the new one."""
    return " -> ".join(dict.fromkeys(texts))


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"


def _more(number: int, what: str) -> list[str]:
    return [f"... and {_count(number, f'more {what}')}; {ALL}"] if number > 0 else []


def _wrapped(columns: Sequence[Column], width: int) -> list[str]:
    """Return the names and types of columns, in lines."""
    texts = [printable(f"{one.name} {one.type}".strip()) for one in columns[:COLUMNS_SHOWN]]
    more = [f"... and {len(columns) - COLUMNS_SHOWN} more"] * (len(columns) > COLUMNS_SHOWN)
    text = f"{_count(len(columns), 'column')}: {', '.join([*texts, *more])}"
    return textwrap.wrap(text, max(width - 2, 20), initial_indent="  ", subsequent_indent="    ")


def _first_lines(
    columns: Sequence[Column], first: Sequence[Sequence[str]], width: int
) -> list[str]:
    """Return rows as a table; rows may have more or fewer fields than there are columns."""
    if not first:
        return []
    count = max(len(columns), *map(len, first))
    names = [*(column.name for column in columns), *[""] * (count - len(columns))]
    rows = [[*row, *[""] * (count - len(row))] for row in first]
    return table([names, *rows], width)
