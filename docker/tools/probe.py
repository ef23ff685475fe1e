"""What a container looks like from inside: read from standard input by a Python in it.

`python - image` reports files, packages and settings of the image. `python - running TASK` reports
the limits in force and runs the task. Both print one JSON object. Standard library only.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import pwd
import resource
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
# Mounted by the engine, or written for each container.
NOT_IN_IMAGE = {"/proc", "/sys", "/dev", "/run/secrets", "/.dockerenv", "/run/.containerenv"}
NOT_IN_IMAGE |= {"/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/etc/mtab"}
CGROUP = Path("/sys/fs/cgroup")
SECCOMP = {"0": "off", "1": "strict", "2": "filter"}


def image() -> dict[str, Any]:
    """Return the image's files, programs, packages and settings."""
    facts: dict[str, Any] = {
        "Python": platform.python_version(),
        "system": platform.freedesktop_os_release().get("PRETTY_NAME", "unknown"),
        "account": account(),
        "packages": sorted(f"{d.name.lower()} {d.version}" for d in metadata.distributions()),
        "copied in": sorted(f"{p.name}/" if p.is_dir() else p.name for p in Path("/app").iterdir()),
        **files(),
    }
    for kind, names in PROGRAMS.items():
        facts[kind] = [name for name in names.split() if shutil.which(name)]
    facts["package managers"] += [f"module {n}" for n in INSTALLERS if importlib.util.find_spec(n)]
    tasks = sorted(path.stem.removeprefix("task_") for path in Path("tasks").glob("task_*.py"))
    return {**facts, "settings": {task: settings(task) for task in tasks}}


def account() -> str:
    """Return this user's entry in /etc/passwd, which shells and libraries look up."""
    try:
        entry = pwd.getpwuid(os.getuid())
    except KeyError:
        return "none"
    return f"{entry.pw_name}, home {entry.pw_dir}, shell {entry.pw_shell}"


def files() -> dict[str, Any]:
    """Count the files; list the paths that this user owns, may write, or gets privileges from."""
    count, owned, writable, setuid = 0, [], [], []
    for top, folders, names in os.walk("/"):
        folders[:] = sorted(name for name in folders if str(Path(top, name)) not in NOT_IN_IMAGE)
        for name in [*folders, *names]:
            path = Path(top, name)
            if str(path) in NOT_IN_IMAGE or path.is_symlink():
                continue
            count += name in names
            facts = path.stat()
            if facts.st_uid == os.getuid() != path.parent.stat().st_uid:
                owned.append(str(path))
            if facts.st_mode & (stat.S_ISUID | stat.S_ISGID) and path.is_file():
                setuid.append(str(path))
            if os.access(path, os.W_OK) and not os.access(top, os.W_OK):
                writable.append(str(path))
    writable = ["everything"] if os.access("/", os.W_OK) else writable
    return {"files": str(count), "owned": owned, "writable": writable, "setuid programs": setuid}


def settings(task: str) -> dict[str, str]:
    """Return each resolved setting of a task, with secrets masked."""
    command = [sys.executable, "-m", "tasks", "config", task, "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(done.returncode)  # its own message is on standard error
    return {name: row["value"] for name, row in json.loads(done.stdout).items()}


def running(task: str) -> dict[str, Any]:
    """Return what is in force in this container, and what a run of the task logs and keeps."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").replace("\t", " ").splitlines()
    status = dict(line.split(": ", 1) for line in lines if ": " in line)
    return {
        "uid in force": f"{os.getuid()}:{os.getgid()}",
        "effective capabilities": status["CapEff"].lstrip("0") or "none",
        "available capabilities": status["CapBnd"].lstrip("0") or "none",
        "NoNewPrivs": status["NoNewPrivs"],
        "seccomp": SECCOMP[status["Seccomp"]],
        "a write to the root filesystem": write("/probe", "/usr/probe", "/app/tasks/probe"),
        "processes in force": limit("pids.max", "pids/pids.max"),
        "memory in force": limit("memory.max", "memory/memory.limit_in_bytes"),
        "swap in force": swap(),
        "cpus in force": cpus(),
        "open files in force": soft_and_hard(resource.RLIMIT_NOFILE),
        "core dumps in force": soft_and_hard(resource.RLIMIT_CORE),
        "environment": [f"{name}={value}" for name, value in os.environ.items()],
        **run(task),
    }


def write(*paths: str) -> str:
    """Try to create files: `fails`, or which could be created."""
    created = []
    for name in paths:
        try:
            Path(name).touch(exist_ok=False)
        except OSError:
            continue
        Path(name).unlink()
        created.append(name)
    return " ".join(["works for", *created]) if created else "fails"


def limit(*names: str) -> str:
    """Return a limit of this container's cgroup, from the first file that exists (v2, v1)."""
    for path in (CGROUP / name for name in names):
        if path.is_file():
            value = path.read_text(encoding="utf-8").strip()
            # Version 1 has the largest number of whole pages where there is no limit.
            return "none" if value == "max" or int(value) > 1 << 60 else value
    return "unknown"


def swap() -> str:
    """Return the bytes that may be swapped out; version 1 counts memory and swap together."""
    both, memory = (
        limit("memory/memory.memsw.limit_in_bytes"),
        limit("memory/memory.limit_in_bytes"),
    )
    if both.isdecimal() and memory.isdecimal():
        return str(int(both) - int(memory))
    known = [value for value in (limit("memory.swap.max"), both) if value != "unknown"]
    return known[0] if known else "not counted"


def cpus() -> str:
    """Return how many processors' time this container may use."""
    if (CGROUP / "cpu.max").is_file():
        quota, period = (CGROUP / "cpu.max").read_text(encoding="utf-8").split()
    else:
        quota, period = limit("cpu/cpu.cfs_quota_us"), limit("cpu/cpu.cfs_period_us")
    return f"{int(quota) / int(period):g}" if quota.isdecimal() and period.isdecimal() else "all"


def soft_and_hard(kind: int) -> str:
    """Return a resource limit of this process: one number where soft and hard are the same."""
    limits = ["none" if n == resource.RLIM_INFINITY else str(n) for n in resource.getrlimit(kind)]
    return ":".join(dict.fromkeys(limits))


def run(task: str) -> dict[str, str]:
    """Run a task into /tmp: how it ends, its log level, and whether an archive stays."""
    target = Path("/tmp/verify")  # noqa: S108 - the one folder that every variant may write
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
    """Return the TCP ports that are open in this network namespace, Docker's resolver aside."""
    ports = set()
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        for line in table.read_text("utf-8").splitlines()[1:] if table.exists() else []:
            _, address, _, state, *_ = line.split()
            host, port = address.split(":")
            if state == "0A" and host != "0B00007F":  # 127.0.0.11
                ports.add(str(int(port, 16)))
    return sorted(ports)


if __name__ == "__main__":
    kind, *arguments = sys.argv[1:]
    report = image() if kind == "image" else running(*arguments) if kind == "running" else {}
    print(json.dumps({**report, "listening": listening()}))
