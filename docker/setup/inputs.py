"""All that a build takes, as one digest: while it is the same, BuildKit need not be asked.

To ask it takes 0.2 s. In doubt there is no digest, and BuildKit decides.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from docker.setup.engine import Engine

WILDCARDS = set("*?[\\")


def digest(root: Path, engine: Engine, bases: Iterable[str], words: Iterable[str]) -> str:
    """Return the digest of the files, base images and words of a build; nothing if unknown.

    Args:
        root: Of the clone.
        engine: That has the bases.
        bases: The names of the base images.
        words: The build command.
    """
    try:
        return _digest(root, engine, bases, words)
    except OSError:
        return ""


def _digest(root: Path, engine: Engine, bases: Iterable[str], words: Iterable[str]) -> str:
    found = {name: engine.inspect("image", name).get("Id") for name in bases}
    roots = _copied(root)
    if not roots or not found or None in found.values():
        return ""
    paths = [root / ".dockerignore", *_dockerfiles(root), *(root / name for name in roots)]
    files = [fact for path in sorted(set(paths)) for fact in _facts(path)]
    platform = os.environ.get("DOCKER_DEFAULT_PLATFORM")
    return hashlib.sha256(json.dumps([files, found, platform, *words]).encode()).hexdigest()


def _dockerfiles(root: Path) -> Iterator[Path]:
    return root.glob("docker/*/Dockerfile*")


def _copied(root: Path) -> list[str]:
    """Return the files and folders outside of which .dockerignore lets nothing into a build.

    Nothing where its first line does not exclude everything, or a Dockerfile has its own.
    """
    lines = (root / ".dockerignore").read_text(encoding="utf-8").splitlines()
    patterns = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if patterns[:1] != ["*"] or any(path.name != "Dockerfile" for path in _dockerfiles(root)):
        return []
    found = []
    for pattern in (pattern[1:] for pattern in patterns if pattern.startswith("!")):
        parts = pattern.strip().strip("/").split("/")
        plain = next((i for i, part in enumerate(parts) if WILDCARDS & set(part)), len(parts))
        if not plain or {"", ".", ".."} & set(parts):
            return []
        found.append("/".join(parts[:plain]))
    return found


def _facts(path: Path) -> Iterator[list[object]]:
    """Give what changes with each file; its inode's time (ctime) cannot be set back."""
    try:
        facts = path.lstat()
    except FileNotFoundError:
        return
    if stat.S_ISDIR(facts.st_mode):
        yield [str(path), facts.st_mode]
        for inside in sorted(path.iterdir()):
            yield from _facts(inside)
    else:
        times = facts.st_mtime_ns, facts.st_ctime_ns
        yield [str(path), facts.st_mode, facts.st_ino, facts.st_size, *times]
