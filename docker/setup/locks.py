"""The locks of requirements/: which *.in each *.txt was made from, and whether that still holds."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from docker.setup.project import Project, say

NAMES = ("uv", "prod", "s3", "parquet", "apprise", "sample-host", "dev", "report")
RECORD = "# Made by `make lock` from {name}.in, whose requirements have the sha256 {digest}\n"


def record_lock(project: Project, name: str) -> None:
    """Write into a lock which requirements it was made from.

    By content, since files of a fresh clone have no times that mean anything.
    """
    path = project.root / "requirements" / f"{name}.txt"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    pins = [line for line in lines if not line.startswith(RECORD.partition(" from ")[0])]
    line = RECORD.format(name=name, digest=_digest(path.with_suffix(".in")))
    path.write_text("".join([line, *pins]), encoding="utf-8")
    say(f"renewed requirements/{name}.txt")


def stale(project: Project) -> list[str]:
    """Return the names of the locks that were not made from the requirements beside them."""
    folder = project.root / "requirements"
    found = []
    for name in NAMES:
        with (folder / f"{name}.txt").open(encoding="utf-8") as file:
            line = RECORD.format(name=name, digest=_digest(folder / f"{name}.in"))
            if file.readline() != line:
                found.append(name)
    return found


def report(project: Project) -> None:
    """Say which locks are older than their requirements, and what renews them."""
    names = stale(project)
    if names:
        files = ", ".join(f"requirements/{name}.in" for name in names)
        say(
            f"changed since the .txt beside it was made, which alone is installed: {files};"
            " to renew: make lock ARGS=--no-upgrade"
        )


def _digest(path: Path) -> str:
    """Return the sha256 of the requirements of a file and those that it includes."""
    return hashlib.sha256("\n".join(sorted(_requirements(path))).encode()).hexdigest()


def _requirements(path: Path) -> set[str]:
    found: set[str] = set()
    for line in path.read_text(encoding="utf-8").splitlines():
        requirement = " ".join(re.sub(r"(^|\s)#.*", "", line).split())
        if requirement.startswith("-r "):
            found |= _requirements(path.with_name(requirement[3:]))
        elif requirement:
            found.add(requirement)
    return found
