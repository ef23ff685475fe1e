"""Run a recipe's command with ARGS appended, pass signals on, and explain how it ended."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from docker.setup.engine import quiet
from docker.setup.messages import Errors
from docker.setup.project import Project, say

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# The tasks promise to end within two seconds of a signal; compose and the engine need some more.
STOP_TIMEOUT_S = 8.0
EXIT_MEANINGS = {
    1: "a bug, or the engine refused; see above", 2: "usage or configuration", 3: "remote path",
    4: "authentication or host key", 5: "network", 6: "integrity", 7: "unsafe or broken archive",
    8: "local disk", 9: "busy: another run of it is going on", 129: "hung up", 130: "interrupted",
    143: "terminated",
}  # fmt: skip


class _Signalled(Exception):  # noqa: N818 - a message from the signal handler, not an error
    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def task(project: Project, command: Sequence[str]) -> int:
    """Run a task's command, and explain an exit code that is not 0."""
    code = attach(project, command)
    variant = variant_of(command)
    if code:
        meaning = EXIT_MEANINGS.get(code, "see above")
        say(f"task {project.task} ({variant}) ended with exit code {code}: {meaning}")
    elif "run" in command and not _is_live(command) and not {"-h", "--help"} & set(project.args):
        volume = f"{project.name}-{variant}-data"
        say(f"data/ is in the volume {volume}; `make shell ENV={variant}` looks into it")
    return code


def variant_of(command: Sequence[str]) -> str:
    """Name the variant that a recipe's command is for."""
    found = re.search(
        r"(?m)(?:^|/)docker/([^/]+)/compose\.yaml$|^LIGHTERAGE_VARIANT=(.*)$", "\n".join(command)
    )
    return (found[1] or found[2]) if found else ""


def attach(project: Project, command: Sequence[str]) -> int:
    """Run a command in the foreground with ARGS appended; return its exit code."""
    words = [*command, *project.args]
    file = next((Path(w) for w in words if w.endswith("/compose.yaml")), None)
    if file is None:
        return _run(words, os.environ)
    if "run" not in command:
        return _run(words, os.environ, file)
    name = f"{project.name}-{file.parent.name}-run-{os.getpid()}-{os.urandom(3).hex()}"
    terminal = sys.stdin.isatty() and sys.stdout.isatty()
    options = ["--name", name, *([] if terminal else ["-T"]), *_agent(file)]
    at = words.index("run") + 1
    return _run_container([*words[:at], *options, *words[at:]], file, name, terminal)


def isolated(project: Project, command: Sequence[str]) -> int:
    """Run a command with ARGS appended, in an environment that says nothing of this make."""
    drop = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES")
    keep = ("LIGHTERAGE_FAULTS", "LIGHTERAGE_TEST_ENGINE")
    env = {
        key: value
        for key, value in os.environ.items()
        if key not in drop and (key in keep or not key.startswith("LIGHTERAGE_"))
    }
    return _run([*command, *project.args], env)


def _is_live(command: Sequence[str]) -> bool:
    """Whether the compose file in a command mounts the working tree."""
    files = [Path(word) for word in command if word.endswith("/compose.yaml")]
    return any("../..:/app" in file.read_text(encoding="utf-8") for file in files)


def _agent(file: Path) -> list[str]:
    """Return options that hand the caller's SSH agent to a container on the live tree only."""
    socket = os.environ.get("SSH_AUTH_SOCK", "")
    if not Path(socket).is_socket() or not _is_live([str(file)]):
        return []
    return ["-v", f"{socket}:/run/ssh-agent", "-e", "SSH_AUTH_SOCK=/run/ssh-agent"]


def _run(
    words: Sequence[str], env: os._Environ[str] | dict[str, str], file: Path | None = None
) -> int:
    """Run a command that ends by itself on a signal."""
    pipe = None if file is None else subprocess.PIPE
    process = subprocess.Popen(words, env=env, stderr=pipe)
    errors = Errors(process.stderr, file, hold_all="up" in words) if process.stderr else None
    # Ctrl-C reaches the whole process group by itself; the other signals are passed on.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in SIGNALS[1:]:
        signal.signal(number, lambda number, _frame: process.send_signal(number))
    code = process.wait()
    code = 128 - code if code < 0 else code
    if errors:
        errors.finish({code})
    return code


def _run_container(words: Sequence[str], file: Path, name: str, terminal: bool) -> int:
    """Run compose in the foreground and pass signals on to its container.

    Compose 1.29 answers a signal by stopping the container after ten seconds and exit code 1;
    without a terminal it therefore runs in a session of its own, where it does not see them.
    With one, the client hands Ctrl-C through as a byte.
    """

    def note(number: int, _frame: FrameType | None) -> None:
        # A terminal and make both send it: the second must not interrupt the cleaning up.
        for later in SIGNALS:
            signal.signal(later, signal.SIG_IGN)
        raise _Signalled(number)

    # Inherited: compose that still loads shows a traceback for an early Ctrl-C otherwise.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A session of its own has no terminal to read from.
    own_input = terminal or not sys.stdin.isatty()
    process = subprocess.Popen(
        words, stdin=None if own_input else subprocess.DEVNULL, stderr=subprocess.PIPE,
        start_new_session=not terminal,
    )  # fmt: skip
    assert process.stderr is not None  # noqa: S101 - it was asked for
    errors = Errors(process.stderr, file)
    try:
        for number in SIGNALS:
            signal.signal(number, note)
        code = process.wait()
    except _Signalled as signalled:
        code = 128 + signalled.number
        _stop(process, name, signalled.number)
    errors.finish({code, process.returncode})
    return code


def _stop(process: subprocess.Popen[bytes], container: str, number: int) -> None:
    """Send the signal to the container, which may not exist yet, and remove it."""
    client = shlex.split(os.environ["LIGHTERAGE_DOCKER"])
    deadline = time.monotonic() + STOP_TIMEOUT_S
    sent = False
    while process.poll() is None and time.monotonic() < deadline:
        sent = sent or quiet(*client, "kill", "--signal", str(number), container).returncode == 0
        time.sleep(0.05)
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    process.wait()
    quiet(*client, "rm", "--force", container)
    # A removal that compose or the engine began earlier can end after rm has returned.
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while time.monotonic() < deadline:
        if quiet(*client, "container", "inspect", container).returncode:
            break
        time.sleep(0.05)
