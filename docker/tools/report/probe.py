"""Print the runs and the manifest of each task as JSON, of the variant that this process is.

It is read from standard input by a Python that has `tasks`: in a container of the variant, which
sees the data, or in .venv.
"""

from __future__ import annotations

import sys
from typing import Any

import msgspec

from tasks.fetch.errors import LighterageError
from tasks.fetch.stores import open_store
from tasks.history import FOLDER, History
from tasks.options import docstring, known_tasks, parse
from tasks.settings import Settings
from tasks.verbs import settings_of

RUNS = 200
"""The newest runs that are given of a task; likewise files, lists of columns and columns."""
FILES = 200
LISTS = 10
COLUMNS = 200
OPTIONS = parse([])[1]


def main() -> None:
    """Print one JSON document."""
    known = known_tasks()
    variant = settings_of(next(iter(known)), OPTIONS).settings.variant
    recorded = {path.stem.removeprefix("task-") for path in (FOLDER / variant).glob("task-*.jsonl")}
    tasks = [_task(name, known.get(name, ""), variant) for name in [*known, *recorded - {*known}]]
    sys.stdout.buffer.write(msgspec.json.encode(tasks))


def _task(name: str, module: str, variant: str) -> dict[str, Any]:
    """Return what is known of a task; what cannot be read is an error in it."""
    errors: list[str] = []
    found: dict[str, Any] = {"name": name, "runs": [], "errors": errors}
    try:
        found["runs"] = History().runs(variant, name)[-RUNS:]
    except OSError as error:
        errors.append(f"{error.filename}: {error.strerror}: make it readable")
    if module:
        found["description"] = docstring(module).partition("\n")[0]
        try:
            found["data"] = _data(settings_of(name, OPTIONS).settings)
        except LighterageError as error:
            errors.append(str(error))
    return found


def _data(settings: Settings) -> dict[str, Any] | None:
    """Return what the target of a task has; None where nothing landed."""
    if settings.file_save_path is None:
        return None
    manifest = open_store(str(settings.target), overwrite=True).manifest()
    if manifest is None:
        return None
    keys = [*dict.fromkeys(file.columns for file in manifest.files if file.columns)][:LISTS]
    return {
        "target": str(settings.file_save_path),
        "source": f"{manifest.host}:{manifest.remote_file_path}",
        "finished": manifest.finished,
        "count": len(manifest.files),
        "bytes": sum(file.size for file in manifest.files),
        "files": [{"path": file.path, "size": file.size} for file in manifest.files[:FILES]],
        "columns": [
            {
                "paths": [file.path for file in manifest.files if file.columns == key][:FILES],
                "columns": manifest.columns[key][:COLUMNS],
                "count": len(manifest.columns[key]),
            }
            for key in keys
            if key in manifest.columns
        ],
    }


main()
