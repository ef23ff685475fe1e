"""The result of a run for programs: JSON on standard output, and the result file.

docs/result.schema.json describes it. The result file does not exist during a run: a run that was
killed leaves none, so a reader never takes the result of an earlier run for its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks import logs
from tasks.fetch import interrupt
from tasks.fetch.errors import ConfigError, LocalError, printable
from tasks.fetch.manifest import NAME as MANIFEST_NAME
from tasks.history import Recorder
from tasks.notify import Notifier

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tasks.fetch.report import Report
    from tasks.settings import Settings

_START = re.compile(rb'\{\s*"status": "')
"""How each result starts. A file that starts otherwise belongs to something else."""
_PROBE_BYTES = 4096


class Result:
    """Where the result of one command line goes.

    Attributes:
        running: Whether a run has started and has no result yet.
        landed: Whether the run has published new data.
    """

    def __init__(self, form: str, path: Path | None) -> None:
        """Remember the form of --json, empty without it, and the result file as far as known."""
        self.running = False
        self.landed = False
        self._recorder: Recorder | None = None
        self._notifier: Notifier | None = None
        self._form = form
        self._is_quiet = False
        self._path = path
        self._is_checked = False

    def begin(self, settings: Settings) -> None:
        """Check that the result file can be written, and remove that of an earlier run.

        Raises:
            ConfigError: It is in the target, where only Lighterage writes; or the metrics file is.
            LocalError: It cannot be written, or is a file of something else.
        """
        self.running, self._is_quiet = True, settings.quiet
        self._path, path = None, settings.result_file
        _require_outside("result_file", path, settings.target)
        _require_outside("metrics_file", settings.metrics_file, settings.target)
        if path is not None:
            self._check(path)
        self._recorder, self._notifier = Recorder(settings), Notifier(settings)
        self._notifier.begin()

    def _check(self, path: Path) -> None:
        # Absolute, since a task may change the working directory.
        place = Path(os.path.realpath(path))
        with _errors_named(path):
            _require_replaceable(path)
            with _new_file(place) as new:
                new.write_bytes(bytes(_PROBE_BYTES))
            place.unlink(missing_ok=True)
        self._path, self._is_checked = place, True

    def succeed(self, report: Report, code: int) -> None:
        """Write and print the report of a run that ends with an exit code.

        Raises:
            LocalError: The result file can no longer be written.
        """
        self.landed = report.status in {"landed", "partial"}
        data = {**report.data(), "exit_code": code, "run_id": logs.run_id()}
        with interrupt.deferred():
            try:
                self._write(data)
            except LocalError as error:
                if not self.landed:
                    raise
                raise LocalError(
                    f"{error.text} (the new data had landed)", advice=error.advice
                ) from error
            self._record(data)
            self.running = False
        with contextlib.suppress(BrokenPipeError):  # the exit code stays that of the result
            if self._form:
                print(self.text(data))
            elif not self._is_quiet:
                print("\n".join(map(printable, report.lines())))

    def fail(self, code: int, kind: str, text: str, advice: str = "") -> int:
        """Write and print a failure, and what to do about it; return the exit code."""
        lines = [_line(kind, text, advice)]
        data = _failure(code, kind, text, advice)
        try:
            self._write(data)
        except LocalError as error:
            if error.text not in text:
                lines.append(_line(error.kind, error.text, error.advice))
        self._record(data)
        with contextlib.suppress(BrokenPipeError):
            print(logs.error_lines("\n".join(lines), data), file=sys.stderr)
            if self._form:
                print(self.text(data))
        return code

    def end(self, code: int) -> int:
        """Write and print that a task ended the process itself; return the exit code."""
        if self.running:
            text = "the task ended the process and gave no report"
            data = _failure(code, "task", text) | {"status": "failed" if code else "ended"}
            self._record(data)
            with contextlib.suppress(LocalError):
                self._write(data)
            if self._form:
                print(self.text(data))
        return code

    def end_by_force(self, code: int) -> None:
        """Write that a signal ends the process by force; called in another thread."""
        text = "the new data had landed" if self.landed else "no data is published in part"
        data = _failure(code, "interrupted", text)
        with contextlib.suppress(LocalError):
            self._write(data)
        self._record(data)

    def text(self, data: object) -> str:
        """Return JSON in the form of --json; in ASCII where the output cannot encode a name."""
        return _json(data, self._form, sys.stdout.encoding if sys.stdout else "utf-8")

    def _record(self, data: Mapping[str, Any]) -> None:
        """Add the run to the history, and notify others of it, once."""
        recorder, self._recorder = self._recorder, None
        if recorder and self._notifier:
            self._notifier.end(data, recorder.record(data))

    def _write(self, data: object) -> None:
        if self._path is None or not (self._is_checked or _is_outside_published(self._path)):
            return
        with _errors_named(self._path):
            _require_replaceable(self._path)
            with _new_file(self._path) as new:
                new.write_bytes((_json(data, self._form, "utf-8") + "\n").encode())
                new.replace(self._path)


def _failure(code: int, kind: str, text: str, advice: str = "") -> dict[str, object]:
    data = {"status": "failed", "exit_code": code, "kind": kind, "error": text}
    if advice:
        data["advice"] = advice
    return {**data, "run_id": logs.run_id()}


def _line(kind: str, text: str, advice: str) -> str:
    """Return a failure as it is printed: what failed and why, and what to do."""
    return f"lighterage: {kind}: {printable(text)}" + (advice and f": {printable(advice)}")


def _require_outside(setting: str, path: Path | None, target: Path | str) -> None:
    """Raise `ConfigError` where a setting's path is in the target, or the other way round."""
    if path is not None and isinstance(target, Path):
        place, folder = Path(os.path.realpath(path)), Path(os.path.realpath(target))
        if place.is_relative_to(folder) or folder.is_relative_to(place):
            raise ConfigError(
                f"{setting} is {path}: the target has published data only",
                advice=f"choose a path outside of the target {target}",
            )


def _is_outside_published(path: Path) -> bool:
    """Whether a path is in no published data: the target is not known while settings are wrong."""
    folders = Path(os.path.realpath(path)).parents
    return not any((folder / MANIFEST_NAME).exists() for folder in folders)


def _json(data: object, form: str, encoding: str) -> str:
    indent = None if form == "line" else 2
    text = json.dumps(data, ensure_ascii=False, indent=indent)
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return json.dumps(data, indent=indent)
    return text


@contextlib.contextmanager
def _errors_named(path: Path) -> Iterator[None]:
    """Turn an `OSError` into a `LocalError` that names the result file."""
    try:
        yield
    except OSError as error:
        raise LocalError(
            f"result file {path}: {error.strerror}",
            advice="choose a path that this run can write to; in a "
            "container, below data/ or another mount",
        ) from error


def _require_replaceable(path: Path) -> None:
    """Raise `LocalError` where the path is neither free, nor an empty file, nor a result."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return
    if not stat.S_ISREG(found.st_mode):
        raise LocalError(f"result file {path}: not a regular file", advice="choose another path")
    with path.open("rb") as file:
        start = file.read(64)
    if start and not _START.match(start):
        raise LocalError(
            f"result file {path}: contains something else than a result, which is not replaced",
            advice="choose another path, or remove it",
        )


@contextlib.contextmanager
def _new_file(path: Path) -> Iterator[Path]:
    """Give the path of a new file beside `path`; remove it at the end unless it was renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
    try:
        yield new
    finally:
        with contextlib.suppress(OSError):
            new.unlink()
