"""The clone and the variables of the Makefile that describe a command."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:  # Python 3.9 has none
    from typing import Self


class Failure(Exception):  # noqa: N818 - it is what the user reads, not a program's error
    """One line for the user: what failed, why, what to do.

    Args:
        message: The line.
        code: The exit code; 2 is usage or configuration, as for the tasks.
    """

    def __init__(self, message: str, code: int = 2) -> None:
        super().__init__(message)
        self.code = code


def say(line: str) -> None:
    """Print one line of the tools on standard error; standard output is the task's."""
    print(f"lighterage: {line}", file=sys.stderr, flush=True)


def last_line(text: str) -> str:
    """Return the last line of what a failed command wrote."""
    return (text.strip().splitlines() or ["it gave no reason"])[-1]


class Project(NamedTuple):
    """The clone, and the `LIGHTERAGE_*` variables that the Makefile exports."""

    root: Path
    name: str = "lighterage"
    task: str = "1"
    args: tuple[str, ...] = ()
    engine: str = "docker"
    runner: str = ""
    base: str = ""
    hub: str = ""
    debugger: bool = False
    offline: bool = False
    locked: bool = False
    # Of docker/tools: the words of client, compose and a build that lacks file, tag and context.
    docker: tuple[str, ...] = ()
    compose: tuple[str, ...] = ()
    build: tuple[str, ...] = ()
    # Where the engine listens, if it does so on this machine.
    socket: str = ""
    host: str = ""
    remote_user: str = ""
    remote_path: str = ""
    yes: bool = False
    registry: str = ""
    extras: str = ""
    # Of make new-task; NAME is the variable of the first.
    task_name: str = ""
    kind: str = "archive"
    # Of a job on a cluster.
    shards: str = "2"
    run_id: str = ""

    @classmethod
    def from_environment(cls) -> Self:
        """Read the variables.

        Raises:
            Failure: A value is not usable.
        """
        found: dict[str, Any] = {"root": Path(__file__).resolve().parents[2]}
        for field, default in cls._field_defaults.items():
            name = {"name": "PROJECT", "task_name": "NAME"}.get(field, field.upper())
            text = os.environ.get(f"LIGHTERAGE_{name}", "").strip()
            try:
                if isinstance(default, bool):
                    found[field] = text == "1"
                elif text:
                    is_text = isinstance(default, str)
                    found[field] = text if is_text else tuple(shlex.split(text))
            except ValueError as error:
                raise Failure(f"{name}={text}: {error}; quote it as for a shell") from None
        return cls(**found)

    @property
    def state(self) -> Path:
        """The folder of the tools' own files, made when missing; never part of an image."""
        folder = make_folder(self.root / ".lighterage")
        give_to_owner(folder)  # the Makefile made it
        return folder

    @contextlib.contextmanager
    def lock(self, name: str) -> Iterator[None]:
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
    """Return the uid and gid for files of this clone: the caller's; for root, the folder's."""
    if os.getuid() != 0:
        return os.getuid(), os.getgid()
    folder = Path(__file__).resolve().parents[2].stat()
    return folder.st_uid, folder.st_gid


def give_to_owner(path: Path) -> None:
    """Undo root's ownership of what the tools made in another user's clone."""
    if os.getuid() == 0 and owner() != (0, 0):
        os.chown(path, *owner(), follow_symlinks=False)


def make_folder(folder: Path, mode: int = 0o777) -> Path:
    """Make a folder of this clone when it is missing; return it."""
    if not folder.is_dir():
        folder.mkdir(mode=mode, exist_ok=True)
        give_to_owner(folder)
    return folder


def write_atomic(path: Path, content: bytes, mode: int) -> None:
    """Replace a file in one step, so that a run beside this one never reads half of it."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        part.touch(mode=0o600)
        part.write_bytes(content)
        part.chmod(mode)
        give_to_owner(part)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_changed(path: Path, text: str) -> None:
    """Write a file whose time tells make whether its content changed."""
    content = text.encode("utf-8", "surrogateescape")
    if not path.exists() or path.read_bytes() != content:
        write_atomic(path, content, 0o644)


def sha256(path: Path) -> str:
    """Return the digest of a file."""
    import hashlib  # not at the top: most steps need none, and it takes 3 ms

    return hashlib.sha256(path.read_bytes()).hexdigest()
