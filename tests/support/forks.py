"""Tasks run as forks of a process that has loaded everything: real processes, and soon there.

A fork does what `python -m tasks` does, with a folder, an environment, output and signals of its
own; only the half second of imports is spared.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

REPOSITORY = Path(__file__).parents[2]
MESSAGE_BYTES = 2**17


@dataclass
class Fork:
    """A task that runs, with the face of a `subprocess.Popen` of text."""

    pid: int
    _out: IO[str]
    _err: IO[str]
    _told: socket.socket
    returncode: int | None = None

    def send_signal(self, signum: int) -> None:
        """Send a signal, while it has not been waited for."""
        if self.returncode is None:
            os.kill(self.pid, signum)

    def kill(self) -> None:
        """End it."""
        self.send_signal(signal.SIGKILL)

    def said(self) -> str:
        """Return what it wrote to standard error so far."""
        return os.pread(self._err.fileno(), 2**20, 0).decode()

    def poll(self) -> int | None:
        """Return the code of its end; None while it runs."""
        if self.returncode is None:
            self._told.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                self._end()
        return self.returncode

    def communicate(self, timeout: float = 120) -> tuple[str, str]:
        """Wait for its end; returns what it wrote to standard output and standard error."""
        if self.returncode is None:
            self._told.settimeout(timeout)
            try:
                self._end()
            except TimeoutError:
                self.kill()
                raise
        return self._out.read(), self._err.read()

    def _end(self) -> None:
        status = int(self._told.recv(64))
        self.returncode = os.waitstatus_to_exitcode(status)
        self._told.close()
        for file in (self._out, self._err):
            file.seek(0)


class Forks:
    """The process that forks."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())],
                pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                env={"PATH": os.defpath, "PYTHONPATH": str(REPOSITORY)},
            )  # fmt: skip

    def start(self, arguments: Sequence[str], folder: Path, env: Mapping[str, str]) -> Fork:
        """Run `python -m tasks` with these arguments."""
        out = tempfile.TemporaryFile("w+")  # noqa: SIM115 (the fork's, and closed with it)
        err = tempfile.TemporaryFile("w+")  # noqa: SIM115
        status, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        request = json.dumps([[*arguments], str(folder), dict(env)]).encode()
        with theirs:
            fds = [out.fileno(), err.fileno(), theirs.fileno()]
            socket.send_fds(self._socket, [request], fds)
        status.settimeout(60)
        return Fork(int(status.recv(64)), out, err, status)

    def close(self) -> None:
        """End the process; its forks run to their own ends."""
        self._socket.close()
        self._process.wait(10)


@functools.cache
def forks() -> Forks:
    """Return the one process that forks, for all tests."""
    made = Forks()
    atexit.register(made.close)
    return made


# --- in that process ------------------------------------------------------------------------


def _serve(asked: socket.socket) -> None:
    """Fork for each message, until the other side closes."""
    import tasks.__main__
    import tasks.fetch.api
    import tasks.task_1
    import tasks.task_2
    import tasks.task_3  # noqa: F401

    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        message, fds, _, _ = socket.recv_fds(asked, MESSAGE_BYTES, 3)
        if not message:
            return
        if os.fork() == 0:
            asked.close()
            _watch(message, *fds)
        for fd in fds:
            os.close(fd)


def _watch(message: bytes, out: int, err: int, report: int) -> None:
    """Fork again, and write the process id and then the exit status to `report`."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    pid = os.fork()
    if pid == 0:
        os.close(report)
        _run(message, out, err)
    os.write(report, str(pid).encode())
    _, status = os.waitpid(pid, 0)
    os.write(report, str(status).encode())
    os._exit(0)


STEPS = {"os.link", "os.rename", "os.remove", "lighterage.request"}
"""The audit events that precede a change of a target; a folder's, and an object store's."""


def _kill_at(step: str, *, after: bool) -> None:
    """Kill this process right before the first step that a pattern finds, or before the next."""
    found = False

    def hook(event: str, args: tuple[object, ...]) -> None:
        nonlocal found
        if event not in STEPS:
            return
        is_it = re.search(step, f"{event} {args}") is not None
        if found or (is_it and not after):
            os.kill(os.getpid(), signal.SIGKILL)
        found = is_it

    sys.addaudithook(hook)


def _prepare(env: Mapping[str, str]) -> None:
    """Do what a test asks for: KILL_BEFORE, KILL_AFTER, and PATCHES of modules, as JSON."""
    for name, value in json.loads(env.get("PATCHES", "{}")).items():
        module, _, attribute = name.rpartition(".")
        setattr(importlib.import_module(module), attribute, value)
    for name in ("KILL_BEFORE", "KILL_AFTER"):
        if name in env:
            _kill_at(env[name], after=name == "KILL_AFTER")


def _run(message: bytes, out: int, err: int) -> None:
    from tasks.__main__ import _exit, main

    arguments, folder, env = json.loads(message)
    os.dup2(out, 1)
    os.dup2(err, 2)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    _prepare(env)
    _exit(main(arguments))


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
