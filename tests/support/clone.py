"""A copy of the task package in a folder, with a task 9 that stands in for a real one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from tree import OF_USERS

REPOSITORY = Path(__file__).parents[2]
STAND_IN = '''"""Task 9: a stand-in.

What it does is what remote_file_path says.
"""
import ctypes
import json
import os
import pathlib
import time

from tasks.fetch import errors
from tasks.fetch.api import Report
from tasks.fetch.manifest import File, Manifest, Source
from tasks.fetch.plan import Item, Plan
from tasks.fetch.ssh.remote_files import RemoteFile

PLAN = Plan([Item(RemoteFile("a.zip", 5, 0), "a.zip", True)])

def run(fetch):
    wanted = str(fetch.settings.remote_file_path)
    if wanted == "bug":
        raise KeyError("first line\\nsecond line")
    if wanted == "nothing":
        return None
    if hasattr(errors, wanted):
        with open("raised", "a") as log:
            print(wanted, file=log, flush=True)
        raise getattr(errors, wanted)("as requested")
    if wanted in {"sleep", "block"}:
        wait_in_staging(fetch, wanted)
    if wanted == "settings":
        values = {name: str(value) for name, value in vars(fetch.settings).items()}
        write("settings", json.dumps(values))
    if wanted.startswith("log"):
        log_a_run(wanted)
    manifest = Manifest(
        "9", fetch.settings.variant, "me@host:22", wanted, "*.csv", "", False,
        sources=[Source(wanted, 5, 0, "")], files=[File("a.csv", 12, "", wanted)],
    )
    return Report("landed", str(fetch.settings.target), manifest, PLAN, seconds=1.0)

def wait_in_staging(fetch, how):
    """Wait in Python, or in a call into C that no signal ends, with half a file in staging."""
    fetch._staging.begin()
    (fetch._staging.store.staging / "half.csv").write_text("half")
    write("ready", f"{os.getpid()}\\n")
    if how == "sleep":
        time.sleep(60)
    libc, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)
    libc.pthread_mutex_lock(mutex)
    libc.pthread_mutex_lock(mutex)

def write(name, text):
    """Write a file that is complete as soon as it is there: a test waits for it."""
    pathlib.Path(name + ".new").write_text(text)
    os.rename(name + ".new", name)

def log_a_run(wanted):
    with open("runs", "a") as log:
        print("begin", file=log, flush=True)
        time.sleep(float(wanted.partition(" ")[2]))
        print("end", file=log, flush=True)
'''


class Clone:
    """The tasks as a user has them, with no config file and no env file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copytree(
            REPOSITORY / "tasks",
            folder / "tasks",
            ignore=shutil.ignore_patterns("__pycache__", *OF_USERS),
        )
        (folder / "tasks/task_9.py").write_text(STAND_IN, encoding="utf-8")

    def environ(self, env: dict[str, str] | None = None) -> dict[str, str]:
        """Return an environment without the variables of this one."""
        own = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "TMPDIR": str(self.folder)}
        return own | (env or {})

    def run(
        self, *arguments: str | bytes, env: dict[str, str] | None = None, **more: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run a command line to its end."""
        return subprocess.run(
            [sys.executable, *more.pop("python", ()), "-m", "tasks", *arguments],
            cwd=self.folder,
            env=self.environ(env),
            stdin=subprocess.DEVNULL,
            capture_output="stdout" not in more,
            text=True,
            check=False,
            **more,
        )

    def stand_in(
        self, wanted: str, *arguments: str, **more: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run task 9 with all required arguments."""
        return self.run(*self.complete(wanted), *arguments, **more)

    def complete(self, wanted: str) -> list[str]:
        """Return the required arguments of task 9."""
        given = ["9", "--remote-file-path", wanted, "--file-save-path", "data/out"]
        return [*given, "--remote-host-address", "host"]

    def start(self, *arguments: str, **more: Any) -> subprocess.Popen[str]:
        """Start a command line, or with `program` another one of this folder's."""
        program = more.pop("program", ["-m", "tasks"])
        return subprocess.Popen(
            [sys.executable, *program, *arguments],
            cwd=self.folder,
            env=self.environ(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **more,
        )
