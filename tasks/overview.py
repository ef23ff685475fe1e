"""What tasks there are, when they run and what they last landed: the verb `tasks`."""

from __future__ import annotations

import contextlib
import importlib
import sys
from typing import TYPE_CHECKING, Any

from tasks.fetch.errors import LighterageError, printable
from tasks.options import PREFIX, docstring, known_tasks
from tasks.unexpected import explain_import

if TYPE_CHECKING:
    from collections.abc import Callable

    from tasks.config_file import Config
    from tasks.settings import Settings


def overview(config: Config, settings_of: Callable[[str], Settings]) -> list[dict[str, Any]]:
    """Return what is known of each task; an error in one task is a text in its row.

    Args:
        config: Whose sections are compared with the task modules.
        settings_of: Resolves the settings of a task.

    Raises:
        ConfigError: A setting is wrong.
    """
    known = known_tasks()
    missing = {
        task: f"tasks/{PREFIX}{task}.py: there is no such file, but {config.path} has tasks.{task}"
        for task in config.tasks
        if task not in known
    }
    return [
        _row(task, known.get(task, ""), settings_of(task), missing.get(task, ""))
        for task in [*known, *missing]
    ]


def lines(rows: list[dict[str, Any]]) -> list[str]:
    """Return the rows as a table."""
    table = [
        (
            f"task {row['task']}",
            (row["schedule"] or "no schedule") + (", paused" if row["paused"] else ""),
            _landed(row),
            row["error"] or row["description"],
        )
        for row in rows
    ]
    wide = [max(len(cells[column]) for cells in table) for column in range(3)]
    return [
        printable(f"{a:{wide[0]}}  {b:{wide[1]}}  {c:{wide[2]}}  {d}").rstrip()
        for a, b, c, d in table
    ]


def _row(task: str, module: str, settings: Settings, error: str) -> dict[str, Any]:
    from tasks.schedule_state import ScheduleState

    landed, landed_error = None, ""
    try:
        landed = _manifest_facts(settings)
    except LighterageError as failure:
        landed_error = str(failure)
    return {
        "task": task,
        "file": f"tasks/{PREFIX}{task}.py",
        "description": docstring(f"{PREFIX}{task}").partition("\n")[0],
        "schedule": settings.schedule,
        "paused": ScheduleState(settings.variant).paused(task),
        "target": str(settings.file_save_path or ""),
        "landed": landed,
        "landed_error": landed_error,
        "error": error or _error_of(module),
    }


def _manifest_facts(settings: Settings) -> dict[str, Any] | None:
    if settings.file_save_path is None:
        return None
    from tasks.fetch.stores import open_store

    manifest = open_store(str(settings.target), overwrite=True).manifest()
    if manifest is None:
        return None
    return {
        "finished": manifest.finished,
        "variant": manifest.variant,
        "files": len(manifest.files),
        "bytes": sum(file.size for file in manifest.files),
        "missing": len(manifest.missing),
    }


def _landed(row: dict[str, Any]) -> str:
    if row["landed_error"]:
        return str(row["landed_error"])
    if row["landed"] is None:
        return "nothing landed yet"
    count, missing = row["landed"]["files"], row["landed"]["missing"]
    return (
        f"{count} file{'s' * (count != 1)} landed {row['landed']['finished']}"
        f"{f', {missing} missing' if missing else ''}"
    )


def _error_of(module: str) -> str:
    """Return what is wrong with a task module, as a run would say it; nothing if it is right."""
    try:
        with contextlib.redirect_stdout(sys.stderr):  # what it prints is no part of the list
            found = importlib.import_module(f"tasks.{module}")
    except (Exception, SystemExit) as error:  # noqa: BLE001 (a task of a user, which may raise any)
        return explain_import(error, f"tasks/{module}.py")
    return "" if hasattr(found, "run") else f"tasks/{module}.py: has no function run(fetch)"
