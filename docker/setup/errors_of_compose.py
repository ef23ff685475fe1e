"""Compose's standard error: a task's lines pass through, engine errors become plain messages."""

from __future__ import annotations

import contextlib
import os
import re
import select
import sys
import threading
from collections.abc import Collection
from pathlib import Path
from typing import IO

from docker.setup.engine import explained
from docker.setup.project import say

# How lines begin that are held back until it is known whether more follows.
BEGINNINGS = (b"ERROR: ", b"Error response from daemon", b"Error: ")
# Compose 1.29 writes a container's exit code as a line of its own.
EXIT_CODE = re.compile(rb"(?:ERROR: )?(\d{1,3})")
JOIN_SECONDS = 5.0
# How long to wait for the rest of a line before the part is shown.
PART_SECONDS = 0.3


class Errors:
    """Copies compose's standard error to ours, and holds its last lines back when they are errors.

    Args:
        stream: Compose's standard error.
        compose_file: Where messages look for the service that publishes a port.
        hold_all: Hold back everything, where no task writes.
    """

    def __init__(self, stream: IO[bytes], compose_file: Path, *, hold_all: bool = False) -> None:
        self._stream = stream
        self._compose_file = compose_file
        self._hold_all = hold_all
        self._held = b""
        self._thread = threading.Thread(target=self._copy, daemon=True)
        self._thread.start()

    def finish(self, codes: Collection[int]) -> None:
        """Write what was held back: nothing of an exit code, and an engine's error in plain words.

        Args:
            codes: The exit codes that compose ended with, or would have.
        """
        self._thread.join(JOIN_SECONDS)
        lines = [line for line in self._held.splitlines() if line.strip()]
        numbers = {str(code).encode() for code in codes}
        match = EXIT_CODE.fullmatch(lines[-1].strip()) if lines else None
        if match and match[1] in numbers:
            lines.pop()
        if b"ERROR: Aborting." in lines:
            lines.remove(b"ERROR: Aborting.")
        text = b"\n".join(lines)
        failed = any(codes)
        plain = explained(text.decode("utf-8", "replace"), self._compose_file) if failed else ""
        if plain:
            say(plain)
        elif text:
            _write(text + b"\n")

    def _copy(self) -> None:
        line, partly_written = b"", False
        while (block := self._read(wait=bool(line))) is not None:
            for piece in re.findall(rb"[^\n]*\n|[^\n]+", block):
                line += piece
                if not line.endswith(b"\n"):
                    continue
                if not partly_written and (self._hold_all or _is_held(line)):
                    self._held += line
                else:
                    _write(self._held + line)
                    self._held = b""
                line, partly_written = b"", False
            if not block and not self._hold_all:  # the rest of this line is delayed
                _write(self._held + line)
                self._held, line, partly_written = b"", b"", True
        self._held += line

    def _read(self, *, wait: bool) -> bytes | None:
        """Return what is there; b"" when the rest of a line is delayed, None at the end."""
        with contextlib.suppress(OSError, ValueError):
            if wait and not select.select([self._stream], [], [], PART_SECONDS)[0]:
                return b""
            return os.read(self._stream.fileno(), 65536) or None
        return None


def _is_held(line: bytes) -> bool:
    text = line.strip()
    if not text or EXIT_CODE.fullmatch(text) or text.startswith(BEGINNINGS):
        return True
    return bool(explained(text.decode("utf-8", "replace")))


def _write(content: bytes) -> None:
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.buffer.write(content)
        sys.stderr.buffer.flush()
