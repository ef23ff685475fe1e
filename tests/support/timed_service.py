"""A service whose task 9 is due each second, in a process of its own, and what it writes."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from pathlib import Path

from clone import Clone
from tasks.fetch import errors

TIMED = re.compile(r"2\d{3}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d .*")
TASK = '''"""Task 9: print, log, and end in a way that the test chooses."""
import logging
import pathlib
import time
from tasks.fetch import errors

def run(fetch):
    turn = pathlib.Path("turns")
    turns = turn.read_text() if turn.exists() else ""
    turn.write_text(turns + "x")
    logging.getLogger("tasks.fetch").warning("two\\nlines")
    print("of a task", flush=True)
    print("in ", end="", flush=True)
    print("pieces\\n\\nand one more")
    if len(turns) == 0:
        raise errors.NetworkError("as requested")
    if len(turns) == 1:
        raise KeyError("a bug")
    time.sleep(60)
'''
FAILURE = f"lighterage: network: as requested: {errors.NetworkError.default_advice}"
"""The line of its first run."""
EVERY_SECOND = """
import sys
from datetime import UTC, datetime, timedelta
import tasks.schedule
from tasks.__main__ import _exit, main

tasks.schedule.FIRST_BACKOFF_S = 0.1
tasks.schedule.next_run = lambda *_: datetime.now(UTC) + timedelta(seconds=1)
_exit(main(["schedule", *sys.argv[1:]]))
"""
CONFIG = """
common: {remote_host_address: host, remote_file_path: x, file_save_path: data/out}
tasks:
  9: {schedule: "0 3 * * *"}
"""


def output_of_service(folder: Path, config: str = CONFIG) -> tuple[str, str]:
    """Run the service in a clone until task 9 runs for the third time; return what it wrote."""
    clone = Clone(folder)
    (folder / "config.yaml").write_text(config)
    (folder / "tasks/task_9.py").write_text(TASK)
    (folder / "every_second.py").write_text(EVERY_SECOND)
    process = clone.start(program=["every_second.py"])
    try:
        _wait_for(process, folder / "turns", 3)
        process.send_signal(signal.SIGTERM)
        out, log = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, log
    return out, log


def ended_by_force(clone: Clone, *arguments: str) -> str:
    """Send SIGTERM to a run that hangs in a call into C; return what its watchdog wrote."""
    process = clone.start(*clone.complete("block"), *arguments)
    try:
        _wait_for(process, clone.folder / "ready", 1)
        process.terminate()
        log = process.communicate(timeout=60)[1]
    finally:
        process.kill()
    assert process.returncode == 143
    return log


def _wait_for(process: subprocess.Popen[str], file: Path, size: int) -> None:
    deadline = time.monotonic() + 60
    while not file.exists() or file.stat().st_size < size:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
