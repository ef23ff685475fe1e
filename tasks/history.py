"""The history of a task's runs: one line of JSON for each, in `data/.history/<variant>`.

It is beside the data, not in it, so that it works with each store. The service adds the runs that
were killed, which write nothing themselves.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import sys
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from tasks.fetch.errors import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tasks.settings import Settings

log = logging.getLogger(__name__)

FOLDER = Path("data/.history")
LOCK_TIMEOUT_S = 2.0
"""How long to wait for other runs that end; each takes milliseconds."""
_Time = Annotated[datetime, msgspec.Meta(tz=True)]
SUCCESSES = {"landed", "unchanged", "shard", "ended"}
_COLUMNS = ("started", "duration", "status", "bytes", "files", "retries", "error")


@dataclass(frozen=True)
class Run:
    """One ended run. New fields have defaults: earlier lines stay readable.

    Attributes:
        started: In ISO 8601, with the zone of TZ; `finished` likewise.
        status: As in the result; `failed` also of a run that was killed.
        exit_code: Of the process; below 0 of the signal that killed it.
        kind: Of a failure, as in the result; likewise `error`.
        files: How many the target has; `bytes` likewise.
        fetched_bytes: What was downloaded.
        retries: How often something was tried again after a transient error.
        source: The source, as the settings state it.
        run_id: Of a run in shards; likewise `shard`.
    """

    task: str
    variant: str
    started: _Time
    finished: _Time
    seconds: float
    status: str
    exit_code: int
    kind: str = ""
    error: str = ""
    files: int = 0
    bytes: int = 0
    fetched_bytes: int = 0
    retries: int = 0
    source: str = ""
    run_id: str = ""
    shard: int = 0

    @property
    def is_success(self) -> bool:
        """Whether all data that was asked for is published."""
        return self.status in SUCCESSES


class History:
    """The folder of all histories.

    Args:
        folder: Absolute where the working directory may change before it is used.
    """

    def __init__(self, folder: Path = FOLDER) -> None:
        self._folder = folder

    def runs(self, variant: str, task: str) -> list[Run]:
        """Return the runs of a task, the oldest first; warn of lines that are not readable.

        Raises:
            OSError: The file cannot be read.
        """
        path = self._path(variant, task)
        runs = (_run(path, number, line) for number, line in enumerate(_lines(path), 1))
        return [run for run in runs if run]

    def all(self) -> Iterator[Sequence[Run]]:
        """Give the runs of each task of each variant."""
        for path in sorted(self._folder.glob("*/task-*.jsonl")):
            yield self.runs(path.parent.name, path.stem.removeprefix("task-"))

    def state(self) -> list[tuple[str, int, int]]:
        """Return what changes with each run that any task adds."""
        found = []
        for path in sorted(self._folder.glob("*/task-*.jsonl")):
            with contextlib.suppress(FileNotFoundError):
                facts = path.stat()
                found.append((str(path), facts.st_ino, facts.st_mtime_ns))
        return found

    def add(self, run: Run, most: int) -> Run | None:
        """Add a run, and drop the oldest of more than so many, but for the last success.

        Returns:
            The run before it, if there is one.

        The file is replaced in one step: a process that is killed leaves the old one.

        Raises:
            OSError: It cannot be written.
        """
        path = self._path(run.variant, run.task)
        before = _lines(path)
        lines = [*before, msgspec.json.encode(run)]
        dropped, lines = lines[:-most], lines[-most:]
        if dropped and not any(map(_is_success, lines)):
            lines[:0] = [line for line in dropped if _is_success(line)][-1:]
        _replace(path, b"\n".join([*lines, b""]))
        return _run(path, len(before), before[-1]) if before else None

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from adding runs, for the time of a block.

        Raises:
            OSError: The lock cannot be taken, or not in time.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + LOCK_TIMEOUT_S
        with (self._folder / "lock").open("ab") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() >= deadline:
                        raise
                time.sleep(0.02)
            yield

    def _path(self, variant: str, task: str) -> Path:
        return self._folder / variant / f"task-{task}.jsonl"


class Recorder:
    """Adds the run of a process to the history once it has ended. No failure of it fails a run."""

    def __init__(self, settings: Settings, started: float | None = None) -> None:
        """Remember the settings of a run, and when it started; without a time it starts now."""
        self._settings = settings
        self._started = time.time() if started is None else started
        # Absolute, since a task may change the working directory.
        self._history = History(FOLDER.absolute())
        path = settings.metrics_file
        self._metrics_file = Path(os.path.realpath(path)) if path else None

    def record(self, data: Mapping[str, Any], ended: float | None = None) -> Run | None:
        """Add the run, which has a result; return the run before it, where that is known.

        Args:
            data: The result; a shard of it names the run.
            ended: The time; by default that of now.
        """
        settings, ended = self._settings, time.time() if ended is None else ended
        if settings.dry_run or not settings.history_runs:
            return None
        # Only where the run came as far as importing it, which takes long.
        retries = getattr(sys.modules.get("tasks.fetch.ssh.retry"), "retries_of_process", 0)
        found = {name: data[name] for name in ("files", "bytes", "fetched_bytes") if name in data}
        failures = [*data.get("failed", ()), *data.get("after_failed", ())]
        failure = data if "error" in data else failures[0] if failures else {}
        run = Run(
            settings.task, settings.variant, _local(self._started), _local(ended),
            round(max(0.0, ended - self._started), 3), data["status"], int(data["exit_code"]),
            failure.get("kind", ""), printable(failure.get("error", "")), **found,
            retries=retries, source=printable(str(settings.remote_file_path)),
            run_id=str(settings.run_id), shard=settings.shard,
        )  # fmt: skip
        try:
            with self._history.locked():
                previous = self._history.add(run, settings.history_runs)
                if self._metrics_file:
                    self._write_metrics(self._metrics_file)
                return previous
        except OSError as error:
            log.warning(
                "%s: %s: this run is not in the history; make the folder writable, or set "
                "history_runs to 0",
                FOLDER / settings.variant,
                error.strerror,
            )
        return None

    def _write_metrics(self, path: Path) -> None:
        """Write the metrics of all tasks: several may share the file."""
        from tasks import metrics

        try:
            if path.exists() and path.stat().st_size:
                with path.open("rb") as file:
                    if file.read(len(metrics.START)) != metrics.START:
                        raise FileExistsError(0, "contains something else, which is not replaced")
            _replace(path, metrics.text(self._history.all()).encode())
        except OSError as error:
            log.warning(
                "metrics file %s: %s: choose a path that this run can write to; in a container, "
                "below data/ or another mount",
                path,
                error.strerror,
            )


def table(runs: Sequence[Run]) -> list[str]:
    """Return the runs as lines for people, with a heading."""
    from tasks.fetch.progress import human

    rows = [
        _COLUMNS,
        *(
            (
                run.started.isoformat(), f"{run.seconds:.1f} s", run.status, human(run.bytes),
                str(run.files), str(run.retries), f"{run.kind}: {run.error}" if run.error else "",
            )
            for run in runs
        ),
    ]  # fmt: skip
    wide = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    return [printable("  ".join(map(str.ljust, row, wide)).rstrip()) for row in rows]


def _lines(path: Path) -> list[bytes]:
    try:
        return path.read_bytes().splitlines()
    except FileNotFoundError:
        return []


def _run(path: Path, number: int, line: bytes) -> Run | None:
    try:
        return msgspec.json.decode(line, type=Run)
    except (ValueError, RecursionError) as error:
        log.warning("%s:%d: not a run (%s): skipped", path, number, error)
        return None


def _is_success(line: bytes) -> bool:
    try:
        return msgspec.json.decode(line, type=Run).is_success
    except (ValueError, RecursionError):
        return False


def _replace(path: Path, content: bytes) -> None:
    """Write a file in one step. Two processes that write the same one must hold the lock."""
    new = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with new.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    finally:
        with contextlib.suppress(OSError):
            new.unlink()


def _local(moment: float) -> datetime:
    return datetime.fromtimestamp(int(moment)).astimezone()
