"""Wheels in a tree's wheelhouse that were changed."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path

from tree import Tree


@contextlib.contextmanager
def tampered(tree: Tree, package: str) -> Iterator[Path]:
    """Alter one byte of a package's wheel: of a time in it, which no unpacking notices."""
    (wheel,) = tree.folder.glob(f"docker/wheels/{package}-*.whl")
    sums = wheel.with_name("SHA256SUMS")
    kept = wheel.read_bytes(), sums.read_bytes()
    changed = bytearray(kept[0])
    changed[10] ^= 1
    wheel.write_bytes(changed)
    try:
        yield wheel
    finally:
        wheel.write_bytes(kept[0])
        sums.write_bytes(kept[1])


def cheat(wheel: Path) -> None:
    """Make the wheelhouse's sums fit the altered wheel."""
    sums = wheel.with_name("SHA256SUMS")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    lines = sums.read_text().splitlines()
    changed = [f"{digest}  {wheel.name}" if line.endswith(wheel.name) else line for line in lines]
    sums.write_text("\n".join(changed) + "\n")
