"""The log on standard error: text for people, or one JSON object per line for programs."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

from tasks import line_times
from tasks.fetch import live

if TYPE_CHECKING:
    from collections.abc import Mapping

log = logging.getLogger("tasks")

LogFormat = Literal["text", "json"]

_PROGRESS = "tasks.fetch.progress"
"""Its lines appear at each level: the setting `progress` is what turns them off."""


@dataclass
class _Output:
    """How this process logs.

    Attributes:
        is_json: Whether each line is a JSON object.
        fields: Of each of them: the run, and the task and variant once they are known.
    """

    is_json: bool = False
    fields: dict[str, object] = field(default_factory=dict)


_output = _Output()


class _Handler(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes above the live lines."""

    def emit(self, record: logging.LogRecord) -> None:
        with live.above():
            super().emit(record)


class _Formatter(logging.Formatter):
    """Formats a record in the present format, which may change once the settings are known."""

    def format(self, record: logging.LogRecord) -> str:
        if not _output.is_json:
            return super().format(record)
        more = dict(getattr(record, "fields", {}))
        if record.exc_info:
            more["traceback"] = self.formatException(record.exc_info)
        return _json(record.levelname, record.name, record.getMessage(), more, record.created)


def begin(log_format: str) -> None:
    """Use a format until the settings are known."""
    _output.fields.clear()
    moment = datetime.now(UTC).strftime("%Y%m%dt%H%M%S")
    identify(run_id=f"{moment}-{os.urandom(4).hex()}")
    use(log_format)


def identify(**fields: str) -> None:
    """Add what is known of this run to each line in JSON: `task`, `variant`, `run_id`."""
    _output.fields.update({name: value for name, value in fields.items() if value})


def run_id() -> str:
    """Return the id of this run: that of the settings, or one that no other run has."""
    return str(_output.fields.get("run_id", ""))


def log_at(level: str, log_format: str = "text", *, quiet: bool = False) -> None:
    """Log to standard error; at DEBUG also the libraries' logs of INFO and above.

    Paramiko logs tracebacks of its threads at ERROR, which users are not shown.

    Args:
        level: From which on records are logged.
        log_format: `text` or `json`.
        quiet: Whether warnings and errors are enough.
    """
    use(log_format)
    if quiet and level in {"DEBUG", "INFO"}:
        level = "WARNING"
    handler = _Handler(sys.stderr)
    handler.setFormatter(
        _Formatter(
            f"{'' if line_times.is_on() else '%(asctime)s '}%(levelname)s %(name)s: %(message)s",
            "%H:%M:%S",
        )
    )
    logging.basicConfig(
        handlers=[handler], level=logging.INFO if level == "DEBUG" else logging.CRITICAL + 1
    )
    log.setLevel(level)
    logging.getLogger(_PROGRESS).setLevel(logging.INFO)
    # Paramiko's threads end with an exception when the connection ends.
    threading.excepthook = lambda ended: log.debug(
        "%s: %s: %s", ended.thread and ended.thread.name, ended.exc_type.__name__, ended.exc_value
    )


def error_lines(text: str, more: Mapping[str, object]) -> str:
    """Return the lines that say how a run failed, in the present format; without a line's end.

    Args:
        text: For people, `lighterage: kind: text`, of one or more lines.
        more: What a program wants to know of it.
    """
    return _json("ERROR", "tasks", text, more) if _output.is_json else text


def line_to_descriptor(text: str) -> str:
    """Return a line for a write that passes by `sys.stderr`: as JSON, or with the time."""
    if _output.is_json:
        return _json("ERROR", "tasks", text.rstrip("\n"), {}) + "\n"
    return line_times.prefix() + text


def use(log_format: str) -> None:
    """Use a format from now on."""
    _output.is_json = log_format == "json"
    line_times.time_errors(on=not _output.is_json)


def _json(
    level: str, logger: str, text: str, more: Mapping[str, object], moment: float | None = None
) -> str:
    """Return one line of JSON, in ASCII: no terminal and no reader misreads a name."""
    when = datetime.fromtimestamp(time.time() if moment is None else moment).astimezone()
    head = {"time": when.isoformat(timespec="milliseconds"), "level": level, "logger": logger}
    return json.dumps({**head, "message": text, **_output.fields, **more}, default=str)
