"""A tree on the server, what it lands as, and what a run reports of it."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from client import Client

TREE = {
    "a.csv": b"a,1\n" * 1000,
    "deep/b.csv": b"b,2\n",
    "deep/er/c.csv": b"",
}
PACKED = {"p/one.csv": b"one\n" * 5, "two.csv": b"two\n"}
LANDED = {**TREE, **{f"zips/{name}": content for name, content in PACKED.items()}}


def report(client: Client, *flags: str, task: str = "3", path: str = "tree", code: int = 0) -> Any:
    """Run a task, by default task 3 on the tree; return its JSON."""
    return client.report(task, path, *flags, code=code)


def manifest(client: Client) -> Any:
    """Read the manifest."""
    return json.loads((client.target / "manifest.json").read_text())


def counts(data: Any) -> tuple[int, int, int, int]:
    """Give how many remote files were added, changed, removed and unchanged."""
    kinds = data["remote_files"]
    return kinds["added"], kinds["changed"], kinds["removed"], kinds["unchanged"]


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
