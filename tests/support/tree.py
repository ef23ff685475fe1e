"""A copy of the repository in a folder, in which make is run as a user would."""

from __future__ import annotations

import contextlib
import os
import pty
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from docker.setup.engine import Engine

# The engine whose containers are tested: `make test ENGINE=podman`.
ENGINE = os.environ.get("LIGHTERAGE_TEST_ENGINE", "docker")
REPOSITORY = Path(__file__).parents[2]
OF_USERS = ("task_[!123]*.py", "task_[123]?*.py")
"""Task modules that are not the bundled ones."""
LEFT_OUT = (
    ".git", ".venv", ".lighterage", "data", "__pycache__", "*.pyc", ".*_cache", ".env",
    "known_hosts", "secrets", "ssh_config", "dev.env", "prod.env", *OF_USERS,
)  # fmt: skip
NO_ENGINE = {"DOCKER_HOST": "tcp://127.0.0.1:1", "CONTAINER_HOST": "tcp://127.0.0.1:1"}
"""Where no engine answers, whatever clients there are."""


def engine_or_skip(untested: str) -> Engine:
    """Give the engine with all that it takes, or skip loudly.

    Args:
        untested: What stays untested without one.
    """
    engine = Engine.find(ENGINE)
    if engine is None or not engine.build or not engine.compose:
        pytest.skip(f"NO CONTAINER ENGINE HERE: {untested}")
    return engine


class Tree:
    """The repository's files, with no env file, no data, and the environment of this one.

    Args:
        folder: Made here.
        project: The prefix of its images, containers, networks and volumes.
        env: Variables that each command has besides.
    """

    def __init__(self, folder: Path, project: str = "", env: dict[str, str] | None = None) -> None:
        self.folder = folder
        self.project = project
        self.env = dict(env or {})
        shutil.copytree(REPOSITORY, folder, ignore=shutil.ignore_patterns(*LEFT_OUT), symlinks=True)
        # Made from the same requirements: the stamp in it says so.
        (folder / ".venv").symlink_to(sys.prefix)

    def environ(self, env: dict[str, str] | None = None) -> dict[str, str]:
        """Give an environment in which nothing of the running make's has a say."""
        kept = {"PATH", "HOME", "LANG", "TMPDIR", "PIP_CERT", "SSL_CERT_FILE"}
        kept |= {"DOCKER_HOST", "DOCKER_CONFIG"}
        base = {key: value for key, value in os.environ.items() if key in kept}
        if self.project:
            base |= {"PROJECT": self.project, "ENGINE": ENGINE}
        return {**base, **self.env, **(env or {})}

    def make(
        self, *words: str, env: dict[str, str] | None = None, **more: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run make in the folder to its end."""
        return subprocess.run(
            ["make", *words],
            cwd=more.pop("cwd", self.folder),
            env=self.environ(env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=more.pop("timeout", 300),
            **more,
        )

    def start(
        self, *words: str, env: dict[str, str] | None = None, **more: Any
    ) -> subprocess.Popen[str]:
        """Start make in the folder, in a process group of its own, as a terminal does."""
        return subprocess.Popen(
            ["make", *words],
            cwd=self.folder,
            env=self.environ(env),
            stdin=subprocess.DEVNULL,
            stdout=more.pop("stdout", subprocess.PIPE),
            stderr=more.pop("stderr", subprocess.PIPE),
            text=True,
            start_new_session=True,
            **more,
        )

    def ok(self, *words: str, **more: Any) -> str:
        """Run make, which must go well; returns its standard output."""
        done = self.make(*words, **more)
        assert done.returncode == 0, f"make {' '.join(words)}:\n{done.stdout}{done.stderr}"
        return str(done.stdout)

    def refused(self, *words: str, **more: Any) -> str:
        """Run make, which must fail; returns its standard error."""
        done = self.make(*words, **more)
        assert done.returncode != 0, f"make {' '.join(words)}:\n{done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr, done.stderr
        return str(done.stderr)


def fake_docker(tree: Tree, folder: Path, script: str) -> None:
    """Put a fake docker on the tree's path, before the others, for which no engine answers."""
    tools = folder / "bin"
    tools.mkdir()
    for name in ("docker", "podman", "docker-compose"):
        (tools / name).write_text(f"#!/bin/sh\n{script}\n")
        (tools / name).chmod(0o755)
    tree.env["PATH"] = f"{tools}:{os.environ['PATH']}"


def on_terminal(
    tree: Tree, words: list[str], ready: Callable[[bytes], bool], typed: bytes
) -> tuple[bytes, int]:
    """Run make at a terminal of its own, as a user does.

    Args:
        tree: Where.
        words: Of make.
        ready: Whether to type, after what was shown so far; asked again as more is shown.
        typed: What is typed then.

    Returns:
        What the terminal showed, and the exit code.
    """
    return in_steps_on_terminal(tree, words, (ready, typed))


def in_steps_on_terminal(
    tree: Tree, words: list[str], *steps: tuple[Callable[[bytes], bool], bytes]
) -> tuple[bytes, int]:
    """Run make at a terminal, and type more than once.

    Args:
        tree: Where.
        words: Of make.
        steps: Whether to type, by what was shown since the last step; and what is typed then.

    Returns:
        What the terminal showed, and the exit code.
    """
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(tree.folder)
        os.execvpe("make", ["make", *words], tree.environ({"TERM": "dumb"}))  # noqa: S606 - no shell
    said = b""
    try:
        deadline = time.monotonic() + 60
        for ready, typed in steps:
            start = len(said)
            while not ready(said[start:]) and time.monotonic() < deadline:
                said += os.read(terminal, 4096)
            os.write(terminal, typed)
        with contextlib.suppress(OSError):  # the end of a terminal
            while block := os.read(terminal, 4096):
                said += block
    finally:
        _, status = os.waitpid(pid, 0)
        os.close(terminal)
    return said, os.waitstatus_to_exitcode(status)
