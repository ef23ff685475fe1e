"""The commands of README and the other pages that need no engine run as printed."""

from __future__ import annotations

import subprocess
from pathlib import Path

import documented
from tree import NO_ENGINE, Tree


def test_commands_of_the_pages_run_as_printed(tmp_path: Path) -> None:
    tree = Tree(tmp_path / "clone", env={**NO_ENGINE, "SETUP": "0"})
    try:
        for command, expected in documented.ENTRIES["as_printed"].items():
            done = subprocess.run(
                ["bash", "-c", command], cwd=tree.folder, env=tree.environ(), timeout=300,
                stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
            )  # fmt: skip
            assert done.returncode == 0, f"{command}:\n{done.stdout}{done.stderr}"
            assert expected["shows"] in done.stdout, f"{command}:\n{done.stdout}{done.stderr}"
    finally:
        tree.make("down")
        tree.make("down", "ENV=prod")
