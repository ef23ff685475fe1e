"""What the Makefile has."""

from __future__ import annotations

import re
from itertools import chain

from tree import REPOSITORY


def targets() -> set[str]:
    """Return the targets of the Makefile that have a description, and files that it makes."""
    text = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    rules = re.findall(r"^([a-z][a-z0-9./ -]*):(?!=)", text, re.MULTILINE)
    return set(chain.from_iterable(rule.split() for rule in rules)) | {"check", "run", "build"}
