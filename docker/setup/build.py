"""Run a recipe's build: without output while it is quick, with it when it is slow or fails."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from docker.setup.bases import references
from docker.setup.engine import Engine
from docker.setup.inputs import digest
from docker.setup.messages import write
from docker.setup.project import Failure, Project, give_to_owner, say, write_changed

# A build without changes is quicker; its steps are not worth reading at each run.
QUIET_S = 2.0


def build(project: Project, *command: str) -> None:
    """Build an image, and say so also where it did not change."""
    tag = command[command.index("--tag") + 1]
    if not _changed(project, command, tag):
        say(f"image {tag} is up to date")


def build_quietly(project: Project, *command: str) -> None:
    """Build an image that another command needs."""
    _changed(project, command, command[command.index("--tag") + 1])


def _changed(project: Project, command: Sequence[str], tag: str) -> bool:
    """Build an image unless it is current, and remove the one that it replaces.

    Args:
        project: The clone.
        command: With `--iidfile`, into which the client writes the image's id.
        tag: Of the image.

    Returns:
        Whether the image changed.

    Raises:
        Failure: A step failed; its output was shown.
    """
    engine = Engine.of(project)
    file = Path(command[command.index("--iidfile") + 1])
    record = file.with_suffix(".inputs")
    bases = references(project)
    if _is_current(engine, tag, record, digest(project.root, engine, bases, command)):
        return False
    with project.lock(f"{tag}-build"):
        before = file.read_text(encoding="utf-8") if file.exists() else ""
        inputs = digest(project.root, engine, bases, command)
        started = time.monotonic()
        if _run(command, tag):
            raise Failure(f"image {tag} was not built; the step that failed is above", 1)
        give_to_owner(file)
        image = file.read_text(encoding="utf-8")
        built = engine.inspect("image", image).get("Id", "")
        write_changed(record, f"{inputs} {built}" if inputs and built else "")
    if image == before:
        return False
    say(f"built image {tag} in {time.monotonic() - started:.0f} s")
    if before:  # refused, rightly, where a container still runs it
        engine.ask("image", "rm", before)
    return True


def _is_current(engine: Engine, tag: str, record: Path, inputs: str) -> bool:
    """Whether the engine's image of that tag is the one that these inputs made."""
    with contextlib.suppress(OSError, ValueError):
        was, made = record.read_text(encoding="utf-8").split()
        return was == inputs and made == engine.inspect("image", tag).get("Id")
    return False


def _run(command: Sequence[str], tag: str) -> int:
    """Run a command; show what it writes when it takes longer or fails."""
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert process.stdout is not None  # noqa: S101 - it was asked for
    output, held, end = process.stdout.fileno(), b"", time.monotonic() + QUIET_S
    while (rest := end - time.monotonic()) > 0 and select.select([output], [], [], rest)[0]:
        if not (block := os.read(output, 65536)):
            break
        held += block
    else:
        say(f"building image {tag}")
        write(held)
        held = b""
        while block := os.read(output, 65536):
            write(block)
    if code := process.wait():
        write(held)
    return code
