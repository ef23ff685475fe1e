"""Checksum files beside the data: NAME.sha256 and SHA256SUMS, of GNU or of BSD."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Final

SUFFIX: Final = ".sha256"
SUMS: Final = "SHA256SUMS"
MAX_SIZE: Final = 2**24
"""Bytes of a checksum file: a line takes about a hundred."""

GNU_LINE: Final = re.compile(r"(\\?)([0-9A-Fa-f]{64})(?: [ *](.+))?")
_BSD_LINE: Final = re.compile(r"SHA256 \((.+)\) = ([0-9A-Fa-f]{64})")


def places(path: str) -> tuple[str, str]:
    """Return where the checksum of a path may be: in a file of its own, and in its folder's."""
    return path + SUFFIX, str(PurePosixPath(path).parent / SUMS)


def is_checksum_file(path: str) -> bool:
    """Return whether a path may be a checksum file, by its name."""
    return path.endswith(SUFFIX) or path.rpartition("/")[2] == SUMS


def parse(text: str, folder: PurePosixPath, own_name: str = "") -> dict[str, str]:
    """Read a checksum file, as sha256sum of GNU or sha256 of BSD write it.

    Args:
        text: Its content.
        folder: Its own: names in it are relative to that.
        own_name: What a checksum without a name belongs to: `NAME` of `NAME.sha256`.

    Returns:
        The SHA-256, in lower case hex, by path. Other lines are ignored.
    """
    found = {}
    for line in text.splitlines():
        if match := GNU_LINE.fullmatch(line.strip()):
            name, digest = gnu_name(match) or own_name, match[2]
        elif match := _BSD_LINE.fullmatch(line.strip()):
            name, digest = match[1], match[2]
        else:
            continue
        if name:
            found[str(folder / name)] = digest.lower()
    return found


def gnu_name(match: re.Match[str]) -> str:
    """Return the name in a line of sha256sum, which escapes two characters (coreutils 6.6)."""
    name = match[3] or ""
    return name.replace("\\n", "\n").replace("\\\\", "\\") if match[1] else name
