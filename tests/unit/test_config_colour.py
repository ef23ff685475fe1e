"""`config` on a terminal: defaults are dim, and values that are set are not."""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from clone import Clone

DIM = "\x1b[2m"


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return Clone(tmp_path)


def on_terminal(clone: Clone, **env: str) -> str:
    """Return what `config` writes to a terminal."""
    terminal, end = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "tasks", "config", "9", "--timeout=7"],
        cwd=clone.folder, env=clone.environ({"TERM": "xterm", **env}),
        stdin=subprocess.DEVNULL, stdout=end, stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        os.close(end)
        shown = b""
        with contextlib.suppress(OSError):  # the end of a terminal
            while block := os.read(terminal, 4096):
                shown += block
    os.close(terminal)
    assert process.returncode == 0
    return shown.decode()


def test_defaults_are_dim_on_a_terminal(clone: Clone) -> None:
    lines = on_terminal(clone).splitlines()
    dim = {line.split()[0].removeprefix(DIM) for line in lines if line.startswith(DIM)}
    assert "max_tries" in dim
    assert not dim & {"timeout", "task"}
    for line in lines:
        assert line.startswith(DIM) is line.endswith("default\x1b[0m")


@pytest.mark.parametrize("env", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_nothing_is_dim_where_that_is_not_wanted(clone: Clone, env: dict[str, str]) -> None:
    shown = on_terminal(clone, **env)
    assert "max_tries" in shown
    assert "\x1b" not in shown


def test_nothing_is_dim_in_a_pipe(clone: Clone) -> None:
    done = clone.run("config", "9", env={"TERM": "xterm"})
    assert "\x1b" not in done.stdout
    assert "default" in done.stdout
