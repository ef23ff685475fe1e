"""Compose's standard error: a task's lines pass through, engine errors become plain messages."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import threading
from collections.abc import Collection
from pathlib import Path
from typing import IO

from engine import explained
from project import say

# How lines begin that are held back until it is known whether more follows.
BEGINNINGS = (b"ERROR: ", b"Error response from daemon", b"Error: ")
# Compose 1.29 writes a container's exit code as a line of its own.
EXIT_CODE = re.compile(rb"(?:ERROR: )?(\d{1,3})")
JOIN_SECONDS = 5.0


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
        while block := self._read():
            for piece in re.findall(rb"[^\n]*\n|[^\n]+", block):
                line += piece
                ended = line.endswith(b"\n")
                if not partly_written and (self._hold_all or _may_be_held(line)):
                    if ended:
                        self._held, line = self._held + line, b""
                    continue
                _write(self._held + line)
                self._held, line, partly_written = b"", b"", not ended
        self._held += line

    def _read(self) -> bytes:
        with contextlib.suppress(OSError):
            return os.read(self._stream.fileno(), 65536)
        return b""


def _may_be_held(line: bytes) -> bool:
    text = line.strip()
    if EXIT_CODE.fullmatch(text) or (not text and line):
        return True
    return any(text.startswith(words) or words.startswith(text) for words in BEGINNINGS)


def _write(content: bytes) -> None:
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.buffer.write(content)
        sys.stderr.buffer.flush()
