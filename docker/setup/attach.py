"""Run a recipe's command with ARGS appended, pass signals on, and explain how it ended."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from docker.setup.engine import Engine
from docker.setup.messages import Errors
from docker.setup.project import Project, say
from docker.setup.variants import Variant

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# The tasks promise to end within two seconds of a signal; compose and the engine need some more.
STOP_TIMEOUT_S = 8.0
SIGNALLED = {129: "hung up", 130: "interrupted", 143: "terminated"}


class _Signalled(Exception):  # noqa: N818 - a message from the signal handler, not an error
    pass


def task(project: Project, *command: str) -> int:
    """Run a task's command, and explain an exit code that is not 0."""
    code = attach(project, *command)
    variant = variant_of(command)
    if code:
        from tasks.fetch.errors import LighterageError  # not at the top: most runs need none

        kinds = {error.exit_code: error.kind for error in LighterageError.__subclasses__()}
        if any(a.replace("_", "-").startswith("--unchanged-exit-code") for a in project.args):
            kinds.update(dict.fromkeys(range(10, 125), "unchanged (--unchanged-exit-code)"))
        meaning = {**kinds, **SIGNALLED}.get(code, "a bug, or the engine refused; see above")
        say(f"task {project.task} ({variant}) ended with exit code {code}: {meaning}")
    elif (
        "run" in command
        and not {"-h", "--help"} & set(project.args)
        and not Variant(project, variant).binds_tree
    ):
        volume = f"{project.name}-{variant}-data"
        say(f"data/ is in the volume {volume}; `make shell ENV={variant}` looks into it")
    return code


def variant_of(command: Sequence[str]) -> str:
    """Name the variant that a recipe's command is for."""
    found = re.search(
        r"(?m)(?:^|/)docker/([^/]+)/compose\.yaml$|^LIGHTERAGE_VARIANT=(.*)$", "\n".join(command)
    )
    return (found[1] or found[2]) if found else ""


def attach(project: Project, *command: str) -> int:
    """Run a command in the foreground with ARGS appended; return its exit code."""
    variant = Variant(project, variant_of(command))
    if "-f" not in command:
        return _run(project, [*command, *project.args])
    if "run" not in command:
        return _run(project, [*command, *project.args], variant.compose_file)
    name = f"{variant.prefix}-run-{os.getpid()}-{os.urandom(3).hex()}"
    options = ["--name", name]
    if _on_terminal():
        options += [o for name in ("NO_COLOR", "TERM") if name in os.environ for o in ("-e", name)]
    else:
        options += ["-T"]
    socket = os.environ.get("SSH_AUTH_SOCK", "")
    if variant.binds_tree and Path(socket).is_socket():  # the caller's SSH agent
        options += ["-v", f"{socket}:/run/ssh-agent", "-e", "SSH_AUTH_SOCK=/run/ssh-agent"]
    at = command.index("run") + 1
    words = [*command[:at], *options, *command[at:], *project.args]
    return _run(project, words, variant.compose_file, name)


def isolated(project: Project, *command: str) -> int:
    """Run a command with ARGS appended, in an environment that says nothing of this make."""
    keep = ("LIGHTERAGE_FAULTS", "LIGHTERAGE_TEST_ENGINE")
    for name in list(os.environ):
        if name.startswith(("LIGHTERAGE_", "MAKE", "MFLAGS")) and name not in keep:
            del os.environ[name]
    return _run(project, [*command, *project.args])


def _on_terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


def _run(
    project: Project,
    words: Sequence[str],
    compose_file: Path | None = None,
    container: str = "",
) -> int:
    """Run a command in the foreground, and pass signals on; return its exit code.

    Compose 1.29 answers a signal by stopping the container of `run` after ten seconds and exit code
    1. Without a terminal it therefore runs in a session of its own, where it sees no signals, and
    the container gets them. With one, the client hands Ctrl-C through as a byte.

    Args:
        project: The clone.
        words: The command.
        compose_file: Of a command of compose, whose errors are explained.
        container: The one that the command runs.
    """
    own_session = bool(container) and not _on_terminal()
    stdin = subprocess.DEVNULL if own_session and sys.stdin.isatty() else None
    if container:
        # Inherited: compose that still loads shows a traceback for an early Ctrl-C otherwise.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    process = subprocess.Popen(
        words, stdin=stdin, stderr=subprocess.PIPE if compose_file else None,
        start_new_session=own_session,
    )  # fmt: skip
    errors = None
    if compose_file:
        hold_all = not container and "up" in words
        errors = Errors(process.stderr, compose_file, hold_all=hold_all)

    def pass_on(number: int, _frame: FrameType | None) -> None:
        if container:
            # A terminal and make both send it: the second must not interrupt the cleaning up.
            for later in SIGNALS:
                signal.signal(later, signal.SIG_IGN)
            raise _Signalled(number)
        if number != signal.SIGINT:  # Ctrl-C reaches the whole process group by itself
            process.send_signal(number)

    try:
        for number in SIGNALS:
            signal.signal(number, pass_on)
        code = process.wait()
    except _Signalled as signalled:
        code = 128 + signalled.args[0]
        _stop(Engine.of(project), process, container, signalled.args[0])
    code = 128 - code if code < 0 else code
    if errors:
        errors.finish({code, process.returncode})
    return code


def _stop(engine: Engine, process: subprocess.Popen[bytes], container: str, number: int) -> None:
    """Send the signal to the container, which may not exist yet, and remove it."""
    end = time.monotonic() + STOP_TIMEOUT_S
    kill = ("kill", "--signal", str(number), container)
    while process.poll() is None and engine.ask(*kill).returncode and time.monotonic() < end:
        time.sleep(0.05)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_TIMEOUT_S)
    process.kill()
    process.wait()
    engine.ask("rm", "--force", container)
    # A removal that compose or the engine began earlier can end after rm has returned.
    end = time.monotonic() + STOP_TIMEOUT_S
    while engine.inspect("container", container) and time.monotonic() < end:
        time.sleep(0.05)
