"""Programs that tests run: found, or the test is skipped and names the Debian package."""

from __future__ import annotations

import shutil

import pytest


def need(program: str, package: str, untested: str) -> str:
    """Return the path of a program, or skip loudly.

    Args:
        program: The program.
        package: The Debian package that has it.
        untested: What stays untested without it.
    """
    found = shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/local/sbin:/sbin")
    if found is None:
        pytest.skip(f"NO {program} HERE (Debian: apt-get install {package}): {untested}")
    return found
