"""What it ran on: figures mean nothing without it."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.sides import REPOSITORY

_ASK = {
    "ssh": ["ssh", "-V"],
    "rsync": ["rsync", "--version"],
    "rclone": ["rclone", "version"],
    "xz": ["xz", "--version"],
    "lftp": ["lftp", "--version"],
    "igzip": ["igzip", "--version"],
    "tar": ["tar", "--version"],
    "gzip": ["gzip", "--version"],
    "unzip": ["unzip", "-v"],
}
_MEMORY_DISK = Path("/dev/shm")
_SPARE = 2 * 2**30
"""Bytes of memory that the processes and everybody else keep."""


def facts(folder: Path) -> dict[str, Any]:
    """Give the machine's facts, for programs; `folder` is where the sides fetch into."""
    cpu = re.search(r"^model name\s*:\s*(.+)$", _text("/proc/cpuinfo"), re.MULTILINE)
    return {
        "cpu": cpu[1] if cpu else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": _memory("MemTotal"),
        "kernel": platform.release(),
        "system": _system(),
        "file_system": file_system(folder),
        "load": list(os.getloadavg()),
    }


def versions() -> dict[str, str]:
    """Give the version of each tool that is there."""
    asked = {name: command for name, command in _ASK.items() if shutil.which(command[0])}
    return {
        "lighterage": commit(),
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in ("fabric", "paramiko", "cryptography")},
        **{name: _version(command) for name, command in asked.items()},
    }


def flushes() -> bool:
    """Whether the project flushes what it lands to the disk; none of the peers does."""
    return any("fsync(" in path.read_text() for path in (REPOSITORY / "tasks").rglob("*.py"))


def workplace(need: int) -> tempfile.TemporaryDirectory[str]:
    """Make a folder to work in: in memory where that has room for `need` bytes, else on disk."""
    place = _MEMORY_DISK if room(_MEMORY_DISK) >= need else None
    return tempfile.TemporaryDirectory(prefix="lighterage-bench-", dir=place)


def room(folder: Path) -> int:
    """Give the bytes that may be written below a folder."""
    if not os.access(folder, os.W_OK):
        return 0
    free = shutil.disk_usage(folder).free
    if file_system(folder) == "tmpfs":
        return min(free, _memory("MemAvailable") - _SPARE)
    return free


def file_system(folder: Path) -> str:
    """Give the type of the file system that a folder is on."""
    kind, longest = "unknown", -1
    for line in _text("/proc/mounts").splitlines():
        _, mount, type_, *_ = line.split()
        top = Path(re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), mount))
        if folder.resolve().is_relative_to(top) and len(top.parts) > longest:
            kind, longest = type_, len(top.parts)
    return kind


def _memory(key: str) -> int:
    match = re.search(rf"^{key}:\s*(\d+) kB$", _text("/proc/meminfo"), re.MULTILINE)
    return int(match[1]) * 1024 if match else 0


def _system() -> str:
    match = re.search(r'^PRETTY_NAME="?([^"\n]+)', _text("/etc/os-release"), re.MULTILINE)
    return match[1] if match else sys.platform


def _text(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def _said(command: list[str]) -> str:
    """Give what a command says of itself; nothing where it fails without saying a version."""
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, check=False,
    )  # fmt: skip
    return done.stdout


def _version(command: list[str]) -> str:
    match = re.search(r"\d+\.\d+[.\dp]*", _said(command))
    return match[0].rstrip(".") if match else "unknown"


def commit() -> str:
    """Give the project's commit, and whether its sources differ from it."""
    git = ["git", "-C", str(REPOSITORY)]
    if shutil.which("git") is None or not (REPOSITORY / ".git").exists():
        return "unknown"
    changed = _said([*git, "status", "--porcelain", "tasks"])
    return _said([*git, "rev-parse", "--short", "HEAD"]).strip() + (changed and " with changes")
