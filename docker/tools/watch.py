"""`make watch`: run a task again at each save of a file below tasks/, or of its settings.

`python -m docker.tools.watch TASK [options]`, in the dev container or on this machine. A run that
is under way at a save is ended by SIGTERM first, so that there are never two.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Collection, Iterable
from pathlib import Path
from types import FrameType

from docker.setup.__main__ import reported
from docker.setup.project import Failure, say

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
LOOK_S = 0.1
"""How often to look whether the run or the watch has ended; a save is noticed at once."""
END_TIMEOUT_S = 10.0
"""The tasks end within seconds of a signal (tasks/fetch/interrupt.py)."""


class Saves:
    """The files that were saved, as two threads notice them.

    Folders are watched and not files, which many editors replace at a save.

    Args:
        folder: Watched with all that is below it.
        files: Watched besides.
    """

    def __init__(self, folder: Path, files: Collection[Path]) -> None:
        self._saved: queue.Queue[set[Path] | Exception] = queue.Queue()
        self._stop = threading.Event()
        parents = {file.parent for file in files if file.parent.is_dir()}
        self._threads = [
            threading.Thread(target=self._watch, args=({folder}, None)),
            threading.Thread(target=self._watch, args=(parents, files)),
        ]
        for thread in self._threads:
            thread.start()

    def next(self) -> set[Path]:
        """Return the files that were saved since the last call; wait a moment for the first.

        Raises:
            Failure: The files cannot be watched.
        """
        found: set[Path] = set()
        with contextlib.suppress(queue.Empty):
            found |= self._take(LOOK_S)
            while True:
                found |= self._take(0)
        return found

    def end(self) -> None:
        """End the threads."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _take(self, seconds: float) -> set[Path]:
        saved = self._saved.get(block=bool(seconds), timeout=seconds)
        if isinstance(saved, Exception):
            raise Failure(f"cannot watch the files for saves: {saved}", 8)
        return saved

    def _watch(self, folders: Collection[Path], files: Collection[Path] | None) -> None:
        from watchfiles import DefaultFilter, watch

        accepted = DefaultFilter()  # no .pyc files, no editors' own files
        try:
            for changes in watch(
                *folders,
                watch_filter=lambda change, path: (
                    accepted(change, path) and (files is None or Path(path) in files)
                ),
                stop_event=self._stop,
                recursive=files is None,
            ):
                self._saved.put({Path(path) for _, path in changes})
        except Exception as error:  # noqa: BLE001 - of a thread: raised where it is asked for
            self._saved.put(error)


class TaskRun:
    """The latest run of the task.

    Ctrl-C at a terminal reaches it too. It ignores that until it has its own handler: Python's own
    would show a traceback.

    Args:
        words: The task and its options.
    """

    def __init__(self, words: list[str]) -> None:
        self._task = words[0]
        self._command = ["sh", "-c", 'trap "" INT; exec "$@"', "sh",
                         sys.executable, "-m", "tasks", *words]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start a run."""
        self._process = subprocess.Popen(self._command)

    def end(self) -> None:
        """End the run, if it is under way, and wait for it."""
        if self._process and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(END_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._process = None

    def report(self) -> None:
        """Say how the run ended, once it has."""
        if self._process and (code := self._process.poll()) is not None:
            code = 128 - code if code < 0 else code
            self._process = None
            say(f"task {self._task} ended with exit code {code}; waiting for a save")


def broken(files: Iterable[Path]) -> set[Path]:
    """Return the modules among the files that Python cannot parse, after a line on each."""
    found = set()
    for path in sorted(files):
        if path.suffix != ".py" or not path.is_file():
            continue
        # By time in seconds and size, Python would take an earlier save for this one.
        Path(importlib.util.cache_from_source(str(path))).unlink(missing_ok=True)
        try:
            compile(path.read_bytes(), path.name, "exec", dont_inherit=True)
        except (SyntaxError, ValueError) as error:
            line, text = getattr(error, "lineno", None), getattr(error, "msg", error)
            place = f"{_name(path)}:{line}" if line else _name(path)
            say(f"{place}: {text}: correct it and save; no run starts until then")
            found.add(path)
    return found


def _name(path: Path) -> str:
    return str(path.relative_to(Path.cwd()))


def watch(words: list[str]) -> int:
    """Run the task at each save until a signal; return 128 plus its number."""
    signals: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        signals.append(number)

    for number in SIGNALS:
        signal.signal(number, note)
    root = Path.cwd()
    variant = os.environ.get("LIGHTERAGE_VARIANT") or "dev"
    settings = ["config.yaml", os.environ.get("LIGHTERAGE_ENV_FILE") or f"envs/{variant}.env"]
    run, saves = TaskRun(words), Saves(root / "tasks", {root / name for name in settings})
    say(f"task {words[0]} runs at each save in tasks/, {' and '.join(settings)}; Ctrl-C ends it")
    wrong: set[Path] = set()
    try:
        run.start()
        while not signals:
            if saved := saves.next():
                wrong = broken(saved | wrong)
                if not wrong:
                    run.end()
                    say(f"saved {', '.join(sorted(map(_name, saved)))}; task {words[0]} runs")
                    run.start()
            run.report()
    finally:
        run.end()
        saves.end()
    return 128 + signals[0]


if __name__ == "__main__":
    sys.exit(reported(lambda: watch(sys.argv[1:])))
