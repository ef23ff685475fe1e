"""Engine errors in plain words, and compose's standard error without its own lines."""

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

from docker.setup.project import say

# What engines write: docker 20.10 to 28, podman 4, compose 1.29 and 2.
PORT_TAKEN = re.compile(r"port is already allocated|address already in use")
PORT = re.compile(r"((?:\d+\.){3}\d+|\[::\d*\]):(\d+)")
NO_SUBNET = re.compile(
    r"non-overlapping IPv4 address pool|address pools have been fully subnetted"
    r"|could not find free subnet"
)
READ_ONLY = re.compile(r"(?:mkdir |mount source path ')(/[^:']+).*read-only file system")
# Lines that are held until it is known whether more follows.
PREFIXES = (b"ERROR: ", b"Error response from daemon", b"Error: ")
# Compose 1.29 writes a container's exit code as a line of its own.
EXIT_CODE = re.compile(rb"(?:ERROR: )?(\d{1,3})")
JOIN_TIMEOUT_S = 5.0
# How long to wait for the rest of a line, such as a prompt, before its start is shown.
PARTIAL_LINE_S = 0.3


def explain(text: str, compose_file: Path | None = None) -> str:
    """Return in plain words what an engine's error text means; nothing for an unknown one."""
    if NO_SUBNET.search(text):
        return (
            "the container engine has no free address range for another network: each service of"
            " each variant and clone has one; run `make down` in clones that you do not use, remove"
            " unused networks (docker network prune), or add default-address-pools to"
            " /etc/docker/daemon.json"
        )
    for line in text.splitlines():
        port = PORT.search(line) if PORT_TAKEN.search(line) else None
        if port:
            return _explain_port(port[1], port[2], compose_file)
    read_only = READ_ONLY.search(text)
    if read_only:
        return f"{read_only[1]}: the file system is read-only; use a clone that can be written to"
    return ""


def _explain_port(address: str, port: str, compose_file: Path | None) -> str:
    message = f"port {address}:{port} is in use"
    text = compose_file.read_text(encoding="utf-8") if compose_file else ""
    before = re.search(rf"(?s)^(.*)\b{port}:\d+", text)
    services = re.findall(r"(?m)^  ([A-Za-z0-9_-]+):", before[1]) if before else []
    if not (services and compose_file):
        return f"{message}: stop what listens there"
    return (
        f"{message}, and service {services[-1]} publishes it: stop what listens there, or change"
        f" services.{services[-1]}.ports in docker/{compose_file.parent.name}/compose.yaml"
    )


class Errors:
    """Copies compose's standard error to ours; holds its last lines and explains them if it fails.

    Args:
        stream: Compose's standard error.
        compose_file: Where messages look for the service that publishes a port.
        hold_all: Hold everything: no task writes to this stream.
    """

    def __init__(
        self, stream: IO[bytes] | None, compose_file: Path, *, hold_all: bool = False
    ) -> None:
        assert stream is not None  # noqa: S101 - a process has it where it was asked for
        self._stream = stream
        self._compose_file = compose_file
        self._hold_all = hold_all
        self._held = b""
        self._thread = threading.Thread(target=self._copy, daemon=True)
        self._thread.start()

    def finish(self, codes: Collection[int]) -> None:
        """Write the held lines without the exit code, or what they mean.

        Args:
            codes: The exit codes with which compose ended, or would have.
        """
        self._thread.join(JOIN_TIMEOUT_S)
        lines = [line for line in self._held.splitlines() if line.strip()]
        match = EXIT_CODE.fullmatch(lines[-1].strip()) if lines else None
        if match and int(match[1]) in codes:
            lines.pop()
        text = b"\n".join(line for line in lines if line != b"ERROR: Aborting.")
        plain = explain(text.decode("utf-8", "replace"), self._compose_file) if any(codes) else ""
        if plain:
            say(plain)
        elif text:
            write(text + b"\n")

    def _copy(self) -> None:
        line, shown = b"", False  # shown: the start of this line was written already
        while (block := self._read(wait=bool(line))) is not None:
            for piece in re.findall(rb"[^\n]*\n|[^\n]+", block):
                line += piece
                if not line.endswith(b"\n"):
                    continue
                if not shown and (self._hold_all or _is_held(line)):
                    self._held += line
                else:
                    self._release(line)
                line, shown = b"", False
            if not block and not self._hold_all:
                self._release(line)
                line, shown = b"", True
        self._held += line

    def _release(self, line: bytes) -> None:
        write(self._held + line)
        self._held = b""

    def _read(self, *, wait: bool) -> bytes | None:
        """Return the next bytes; b"" when the rest of a line is late, None at the end."""
        with contextlib.suppress(OSError, ValueError):
            if wait and not select.select([self._stream], [], [], PARTIAL_LINE_S)[0]:
                return b""
            return os.read(self._stream.fileno(), 65536) or None
        return None


def _is_held(line: bytes) -> bool:
    text = line.strip()
    if not text or EXIT_CODE.fullmatch(text) or text.startswith(PREFIXES):
        return True
    return bool(explain(text.decode("utf-8", "replace")))


def write(content: bytes) -> None:
    """Write to standard error, which may be closed."""
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.buffer.write(content)
        sys.stderr.buffer.flush()
