"""What a command was told: the knobs of the Makefile, read once and checked.

Python 3.9 and the standard library are enough for everything in this folder, since it runs before
any environment exists.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# What engine and compose both take as a part of the names that they give.
NAME = re.compile(r"[a-z0-9][a-z0-9-]*")


class Failure(Exception):  # noqa: N818 - it is what the user reads, not a program's error
    """One line for the user: what, where, what to do.

    Args:
        message: the line.
        code: the exit code; 2 is usage or configuration, as for the tasks.
    """

    def __init__(self, message: str, code: int = 2) -> None:
        super().__init__(message)
        self.code = code


def say(line: str) -> None:
    """Print one line of the tools on standard error; standard output is the task's."""
    print(f"lighterage: {line}", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Project:
    """The clone, and the knobs that this command was given."""

    root: Path
    name: str
    task: str
    args: tuple[str, ...]
    engine: str
    runner: str
    base: str
    hub: str
    host: str
    yes: bool
    debugger: bool
    offline: bool = False
    locked: bool = False
    file: str = ""
    registry: str = ""

    @classmethod
    def from_environment(cls) -> Project:
        """Read the `LIGHTERAGE_*` variables that the Makefile exports.

        Raises:
            Failure: a value is not usable.
        """

        def knob(name: str, default: str = "") -> str:
            return os.environ.get(f"LIGHTERAGE_{name}", "").strip() or default

        name = knob("PROJECT", "lighterage")
        if not NAME.fullmatch(name):
            raise Failure(f"PROJECT={name}: use lowercase letters, digits and dashes")
        try:
            args = tuple(shlex.split(knob("ARGS")))
        except ValueError as error:
            raise Failure(f"ARGS={knob('ARGS')}: {error}; quote it as for a shell") from None
        return cls(
            root=Path(__file__).resolve().parents[2],
            name=name,
            task=knob("TASK", "1"),
            args=args,
            engine=knob("ENGINE", "docker"),
            runner=knob("RUNNER"),
            base=knob("BASE"),
            hub=knob("HUB").rstrip("/"),
            host=knob("HOST"),
            yes=knob("YES") == "1",
            debugger=knob("DEBUGGER") == "1",
            offline=knob("OFFLINE") == "1",
            locked=knob("LOCKED") == "1",
            file=knob("FILE"),
            registry=knob("REGISTRY").rstrip("/"),
        )

    @property
    def state(self) -> Path:
        """The folder of the tools' own files, made when missing; never part of an image."""
        folder = self.root / ".lighterage"
        if not folder.is_dir():
            folder.mkdir(exist_ok=True)
            give_to_owner(folder)
        return folder

    @contextlib.contextmanager
    def lock(self, name: str = "prepare") -> Iterator[None]:
        """Let one command at a time prepare; the others wait, and say so."""
        path = self.state / f"{name}.lock"
        with path.open("a", encoding="utf-8") as handle:
            give_to_owner(path)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                say("another make prepares the same things; waiting for it")
                fcntl.flock(handle, fcntl.LOCK_EX)
            yield


def owner() -> tuple[int, int]:
    """Uid and gid that files of this clone must have: the caller's; for root, the folder's."""
    if os.getuid() != 0:
        return os.getuid(), os.getgid()
    folder = Path(__file__).resolve().parents[2].stat()
    return folder.st_uid, folder.st_gid


def give_to_owner(path: Path) -> None:
    """Undo root's ownership of what the tools made in another user's clone."""
    if os.getuid() == 0 and owner() != (0, 0):
        os.chown(path, *owner())


def write_atomic(path: Path, content: bytes, mode: int) -> None:
    """Replace a file in one step, so that a run beside this one never reads half of it."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.touch(mode=0o600)
    part.write_bytes(content)
    part.chmod(mode)
    give_to_owner(part)
    part.replace(path)
