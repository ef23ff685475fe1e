"""The steps in which a run changes the file system: counted, and stopped before any of them.

Python raises an audit event before each call that changes the file system, and `disk.exchange`,
which uses ctypes, raises one of its own. The death of a process is imitated by an exception that
the product never catches, and every later change is refused, too: the disk then contains what it
does after SIGKILL (`test_publish.py` compares the two).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tasks.fetch import interrupt
from tasks.fetch.manifest import NAME, Manifest

CHANGES = {
    "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate",
    "os.chmod", "os.chown", "os.utime", "lighterage.exchange", "lighterage.request", "steps.half",
}  # fmt: skip
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


class Death(BaseException):
    """The process was killed."""


class Steps:
    """The steps of a run, and what happens before one of them.

    Args:
        at: Which step; none by default.
        act: What happens before it; by default the process dies.
    """

    def __init__(self, at: int | None = None, act: Callable[[], None] | None = None) -> None:
        self.names: list[str] = []
        self.dead = False
        self.locked: list[int] = []
        self._at = at
        self._act = act or self._die

    def _die(self) -> None:
        self.dead = True
        raise Death

    def step(self, name: str) -> None:
        """Record the step that comes next, and act."""
        if self.dead:
            raise Death
        self.names.append(name)
        if len(self.names) - 1 == self._at:
            with unwatched():
                self._act()

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Record the steps of the block; a death ends it."""
        _install()
        _now.append(self)
        try:
            with contextlib.suppress(Death):
                yield
        finally:
            _now.remove(self)
            if self.dead:  # a dead process has neither locks nor clean-ups
                for fd in self.locked:
                    with contextlib.suppress(OSError):
                        fcntl.flock(fd, fcntl.LOCK_UN)
                interrupt._clean_ups.clear()
                interrupt._deferrals.clear()
                interrupt._pending.clear()


@contextlib.contextmanager
def unwatched() -> Iterator[None]:
    """Act as another process: steps of the block are not recorded."""
    watched = _now.copy()
    _now.clear()
    try:
        yield
    finally:
        _now[:] = watched


def disk_full() -> None:
    """Raise what a system call does on a full disk."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


_now: list[Steps] = []
_installed: list[bool] = []


def _install() -> None:
    """Add the hook, once: Python has no way to remove it."""
    if not _installed:
        _installed.append(True)
        sys.addaudithook(_hook)


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if _now and event == "fcntl.flock":
        _now[-1].locked.append(args[0])
    if _now and (event in CHANGES or (event == "open" and args[2] & WRITES)):
        _now[-1].step(f"{event} {' '.join(str(arg) for arg in args[:2])}")


def write_manifest_in_halves(folder: Path, manifest: Manifest) -> None:
    """Do what `tree.write_manifest` does, with a step between the two halves of the text."""
    data = b"".join(manifest.encoded())
    half = len(data) // 2
    with (folder / NAME).open("wb") as file:
        file.write(data[:half])
        file.flush()
        sys.audit("steps.half", str(folder))
        file.write(data[half:])
