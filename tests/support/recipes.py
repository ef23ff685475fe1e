"""The recipes of the documentation, and the packages that they are for."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from clone import REPOSITORY

TARGETS = ("readers", "kubernetes")
"""The packages that have a make target of their own."""


def recipe(
    language: str, text: str, *changes: tuple[str, str], page: str = "orchestrators.md"
) -> str:
    """Return the one code block in a language that contains a text, with other words in it."""
    content = (REPOSITORY / "docs" / page).read_text("utf-8")
    blocks = re.findall(rf"(?ms)^```{language}\n(.*?)^```$", content)
    (found,) = (block for block in blocks if text in block)
    for old, new in changes:
        assert old in found, old
        found = found.replace(old, new)
    return str(found)


def python_of(package: str) -> Path:
    """Return the interpreter of the environment that has a package, or skip loudly."""
    python = REPOSITORY / f".lighterage/recipes/{package}/bin/python"
    if not python.exists():
        target = f"test-{package if package in TARGETS else 'orchestrators'}"
        pytest.skip(f"NO {package} HERE (make {target}): its recipe is untested")
    return python


def run(package: str, folder: Path, script: str, env: Mapping[str, str] | None = None) -> str:
    """Run a script where a package is installed, with its state in a folder; return its output."""
    environ = {
        "PATH": os.environ["PATH"], "HOME": str(folder), "AIRFLOW_HOME": str(folder / "airflow"),
        "DAGSTER_HOME": "", "PREFECT_HOME": str(folder / "prefect"), "NO_COLOR": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120", **(env or {}),
    }  # fmt: skip
    (folder / "recipe.py").write_text(script)
    done = subprocess.run(
        [python_of(package), "recipe.py"], cwd=folder, env=environ, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout
