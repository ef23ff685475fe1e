"""What a container looks like from inside: read from standard input by a Python in it.

`python - image` tells of the image's files and settings, `python - running` of the limits that the
engine and the kernel put in force. Both print one JSON object; nothing is kept.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import shutil
import stat
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

PROGRAMS = {
    "shells": "sh bash dash zsh ksh busybox",
    "package managers": "apt apt-get dpkg apk dnf yum rpm pip pip3 uv npm conda",
    "compilers": "gcc cc g++ c++ clang tcc rustc go make cmake ld as strip",
    "network tools": "ssh scp curl wget nc telnet git",
}
INSTALLERS = ("pip", "setuptools", "ensurepip")
# Mounted by the engine, or made anew for each container.
NOT_THE_IMAGE = {"/proc", "/sys", "/dev", "/run/secrets", "/.dockerenv", "/run/.containerenv"}
NOT_THE_IMAGE |= {"/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/etc/mtab"}
CGROUP = Path("/sys/fs/cgroup")


def image() -> dict[str, Any]:
    """Tell of the files, programs, packages and settings."""
    facts: dict[str, Any] = {
        "Python": platform.python_version(),
        "system": platform.freedesktop_os_release().get("PRETTY_NAME", "unknown"),
        "packages": sorted(f"{d.name.lower()} {d.version}" for d in metadata.distributions()),
        "copied in": _top_of(Path("/app")),
        **_files(),
    }
    for kind, names in PROGRAMS.items():
        facts[kind] = [name for name in names.split() if shutil.which(name)]
    facts["package managers"] += [
        f"module {name}" for name in INSTALLERS if importlib.util.find_spec(name)
    ]
    tasks = sorted(path.stem.removeprefix("task_") for path in Path("tasks").glob("task_*.py"))
    facts["settings"] = {task: settings(task) for task in tasks}
    return facts


def _top_of(folder: Path) -> list[str]:
    return sorted(f"{path.name}/" if path.is_dir() else path.name for path in folder.iterdir())


def _files() -> dict[str, Any]:
    """Count the files; name what the user of this process owns, may write, or gets powers from."""
    count, owned, writable, setuid = 0, [], [], []
    for top, folders, files in os.walk("/"):
        folders[:] = sorted(f for f in folders if str(Path(top, f)) not in NOT_THE_IMAGE)
        for name in [*folders, *files]:
            path = Path(top, name)
            if str(path) in NOT_THE_IMAGE or path.is_symlink():
                continue
            count += name in files
            facts = path.stat()
            if facts.st_uid == os.getuid() and path.parent.stat().st_uid != os.getuid():
                owned.append(str(path))
            if facts.st_mode & (stat.S_ISUID | stat.S_ISGID) and path.is_file():
                setuid.append(str(path))
            if _may_write(path) and not _may_write(path.parent):
                writable.append(str(path))
    everything = ["everything"] if _may_write(Path("/")) else writable
    return {"files": count, "owned": owned, "writable": everything, "setuid programs": setuid}


def _may_write(path: Path) -> bool:
    """Whether the mode lets this user write, whatever the mount says."""
    facts = path.stat()
    if os.getuid() == 0:
        return True
    if facts.st_uid == os.getuid():
        return bool(facts.st_mode & stat.S_IWUSR)
    if facts.st_gid in {os.getgid(), *os.getgroups()}:
        return bool(facts.st_mode & stat.S_IWGRP)
    return bool(facts.st_mode & stat.S_IWOTH)


def settings(task: str) -> dict[str, str]:
    """Give each resolved setting of a task, secrets masked."""
    done = subprocess.run(
        [sys.executable, "-m", "tasks", "config", task, "--json"],
        stdout=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        sys.exit(done.returncode)  # after what it said is wrong
    return {name: row["value"] for name, row in json.loads(done.stdout).items()}


def running(task: str) -> dict[str, Any]:
    """Tell what is in force here, and what a run of the task says and keeps."""
    words = Path("/proc/self/status").read_text(encoding="utf-8").replace("\t", " ").splitlines()
    status = dict(line.split(": ", 1) for line in words if ": " in line)
    seccomp = {"0": "off", "1": "strict", "2": "filter"}
    return {
        "uid in force": f"{os.getuid()}:{os.getgid()}",
        "effective capabilities": status["CapEff"].lstrip("0") or "none",
        "capabilities that can be had": status["CapBnd"].lstrip("0") or "none",
        "NoNewPrivs": status["NoNewPrivs"],
        "seccomp": seccomp[status["Seccomp"]],
        "a write to the root filesystem": _write("/probe", "/usr/probe", "/app/tasks/probe"),
        "processes in force": _limit("pids.max", "pids/pids.max"),
        "memory in force": _limit("memory.max", "memory/memory.limit_in_bytes"),
        "environment": [f"{name}={value}" for name, value in os.environ.items()],
        **_run(task),
    }


def _write(*paths: str) -> str:
    """Try to make files; `fails`, or which could be made."""
    made = []
    for name in paths:
        path = Path(name)
        try:
            path.touch(exist_ok=False)
        except OSError:
            continue
        path.unlink()
        made.append(name)
    return " ".join(["works for", *made]) if made else "fails"


def _limit(*names: str) -> str:
    """Read a limit of this container's cgroup, version 2 or 1."""
    for name in names:
        if (CGROUP / name).is_file():
            value = (CGROUP / name).read_text(encoding="utf-8").strip()
            # Version 1 says "none" with the largest number of whole pages.
            return "none" if value == "max" or int(value) > 1 << 60 else value
    return "unknown"


def _run(task: str) -> dict[str, str]:
    """Run a task into /tmp: what it logs, and whether an archive lies beside the data."""
    target = Path("/tmp/verify")  # noqa: S108 - the one writable place in every variant
    command = [sys.executable, "-m", "tasks", task, "--file-save-path", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    levels = [level for level in ("DEBUG", "INFO") if f" {level} " in done.stderr]
    archives = [p for p in target.parent.rglob("*") if p.name.endswith((".zip", ".tar.gz"))]
    return {
        "a run": "lands" if done.returncode == 0 else f"fails: {done.stderr.strip()[-200:]}",
        "a run logs": levels[0] if levels else "WARNING and above",
        "a run keeps the archive": "yes" if archives else "no",
    }


def listening() -> list[str]:
    """Give the TCP ports that anything in this network listens on, Docker's own resolver aside."""
    ports = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        if not Path(table).exists():
            continue
        for line in Path(table).read_text(encoding="utf-8").splitlines()[1:]:
            address, state = line.split()[1], line.split()[3]
            host, port = address.split(":")
            if state == "0A" and host != "0B00007F":  # 127.0.0.11
                ports.add(str(int(port, 16)))
    return sorted(ports)


def main(words: list[str]) -> None:
    """Print what was asked for."""
    if words[0] == "image":
        print(json.dumps(image()))
    elif words[0] == "running":
        print(json.dumps({**running(words[1]), "listening": listening() or "none"}))
    else:
        print(json.dumps({"listening": listening() or "none"}))


if __name__ == "__main__":
    main(sys.argv[1:])
