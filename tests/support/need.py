"""Programs that tests run: found, or the test is skipped and names the Debian package."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

UNPACKED = Path(__file__).parents[2] / ".lighterage/programs/usr/bin"
"""Programs of packages that `make test` only unpacks, since installed they are services."""
PATH = f"/usr/sbin:/usr/local/sbin:/sbin:{UNPACKED}"


def need(program: str, package: str, untested: str) -> str:
    """Return the path of a program, or skip loudly.

    Args:
        program: The program.
        package: The Debian package that has it.
        untested: What stays untested without it.
    """
    found = shutil.which(program) or shutil.which(program, path=PATH)
    if found is None:
        pytest.skip(f"NO {program} HERE (Debian: apt-get install {package}): {untested}")
    return found
