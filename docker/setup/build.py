"""Run a recipe's build: without output while it is quick, with it when it is slow or fails."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from docker.setup.engine import Engine
from docker.setup.project import Failure, give_to_owner, say

# A build without changes is quicker; its steps are not worth reading at each run.
QUIET_S = 2.0


def build(engine: Engine, command: Sequence[str], *, say_unchanged: bool) -> None:
    """Build an image, and remove the one that it replaces.

    Args:
        engine: To remove it from.
        command: With `--tag` and `--iidfile`, into which the client writes the image's id.
        say_unchanged: Whether an image that did not change is worth a line.

    Raises:
        Failure: A step failed; its output was shown.
    """
    tag = command[command.index("--tag") + 1]
    file = Path(command[command.index("--iidfile") + 1])
    before = file.read_text(encoding="utf-8") if file.exists() else ""
    started = time.monotonic()
    if _run(command, tag):
        raise Failure(f"image {tag} was not built; the step that failed is above", 1)
    give_to_owner(file)
    after = file.read_text(encoding="utf-8")
    if after != before:
        say(f"built image {tag} in {time.monotonic() - started:.0f} s")
        if before:  # refused, rightly, where a container still runs it
            engine.ask("image", "rm", before)
    elif say_unchanged:
        say(f"image {tag} is up to date")


def _run(command: Sequence[str], tag: str) -> int:
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert process.stdout is not None  # noqa: S101 - it was asked for
    held, shown, show_at = b"", False, time.monotonic() + QUIET_S
    while True:
        wait = None if shown else max(0.0, show_at - time.monotonic())
        block = b""
        if ready := select.select([process.stdout], [], [], wait)[0]:
            block = os.read(process.stdout.fileno(), 65536)
            held += block
        if ready and not block:
            break
        if not shown and time.monotonic() >= show_at:
            say(f"building image {tag}")
            shown = True
        if shown:
            held = _write(held)
    code = process.wait()
    if code:
        _write(held)
    return code


def _write(content: bytes) -> bytes:
    with contextlib.suppress(OSError):
        sys.stderr.buffer.write(content)
        sys.stderr.buffer.flush()
    return b""
