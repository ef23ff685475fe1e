"""The commands that README and the other pages print."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import yaml

from tree import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ENTRIES: dict[str, dict[str, Any]] = yaml.safe_load(
    (REPOSITORY / "tests/documented_commands.yaml").read_text(encoding="utf-8")
)
"""By what runs them; tests/documented_commands.yaml explains the parts."""
PAGES = sorted([*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md")])
_BLOCK = re.compile(r"^ *```sh\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_FENCED = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`((?:make|docker|docker-compose|\.venv/bin/\S+) [^`]+)`")
_COMMENT = re.compile(r"\s+# .*$")


def commands() -> dict[str, str]:
    """Return each command, on one line and without its comment, and the page that prints it first.

    CHANGELOG.md is left out: it may name what a later version no longer has.
    """
    found: dict[str, str] = {}
    for page in PAGES:
        if page.name != "CHANGELOG.md":
            for command in _of(page):
                found.setdefault(command, str(page.relative_to(REPOSITORY)))
    return found


def _of(page: Path) -> Iterator[str]:
    text = page.read_text(encoding="utf-8")
    for block in _BLOCK.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            if line.strip() and not line.lstrip().startswith("#"):
                yield " ".join(_COMMENT.sub("", line).split())
    for code in _INLINE.findall(_FENCED.sub("", text)):
        yield " ".join(code.split())
