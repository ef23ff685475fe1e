"""Unexpected exceptions, in one line: where they are from, and whether they are a bug here."""

from __future__ import annotations

import traceback
from pathlib import Path

import tasks
from tasks.fetch.errors import LighterageError

TASK = "task"
"""The kind of a failure in a task module."""
OWN_MODULES = {
    f"tasks/{name}.py"
    for name in (
        "__main__", "config_file", "cron", "env_file", "health", "history", "line_times", "logs",
        "messages", "metrics", "metrics_port", "notify", "options", "overview", "resolve", "result",
        "schedule", "schedule_state", "setting_types", "settings", "shard_variables", "show",
        "text_table", "unexpected", "verbs",
    )
}  # fmt: skip
"""The modules of `tasks` in which an unexpected exception is a bug of Lighterage."""
_ADD_PACKAGE = (
    ": add the package to requirements/prod.in (or to dev.in, where dev alone needs it), and run "
    "`make lock`"
)


def explain(error: Exception) -> tuple[str, str]:
    """Return the kind and text of an unexpected exception, in a task or in Lighterage.

    Args:
        error: It was raised; the text names the last line of this project that it passed.
    """
    file, line = _place(error)
    is_bug = _is_own(file)
    text = f"{file}:{line}: {type(error).__name__}: {error}"
    if isinstance(error, ModuleNotFoundError) and not is_bug:
        return TASK, text + _ADD_PACKAGE
    bug = "a bug: " if is_bug else ""
    text += f" ({bug}--log-level DEBUG shows where it was called from)"
    return LighterageError.kind if is_bug else TASK, text


def explain_import(error: BaseException, module: str) -> str:
    """Return why a task module cannot be imported.

    Args:
        error: It was raised at the import.
        module: The file, for an error that names no line of a task.
    """
    file, line = _place(error)
    place = module if str(file) in OWN_MODULES else f"{file}:{line}"
    text = f"{place}: {type(error).__name__}: {error}"
    return text + _ADD_PACKAGE if isinstance(error, ModuleNotFoundError) else text


def _is_own(file: Path) -> bool:
    return file.parts[:2] == ("tasks", "fetch") or str(file) in OWN_MODULES


def _place(error: BaseException) -> tuple[Path, int | None]:
    """Return the last line of this project that an exception passed."""
    root = Path(tasks.__file__).parents[1]
    places = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError):
        places.append((error.filename or "", error.lineno))
    # .venv, with the installed packages, may be below the root as well.
    below = [
        (Path(name).relative_to(root), line)
        for name, line in places
        if Path(name).is_relative_to(root) and "site-packages" not in name
    ]
    return below[-1] if below else (Path("tasks/__main__.py"), 0)
