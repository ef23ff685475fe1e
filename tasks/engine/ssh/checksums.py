"""Checksums that a host tells: files beside the data, and the output of its sha256sum."""

from __future__ import annotations

import re
import shlex
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SUFFIX: Final = ".sha256"
SUMS: Final = "SHA256SUMS"
MAX_SIZE: Final = 2**24
"""Bytes of a file of checksums: a line takes about a hundred."""
COMMAND_BYTES: Final = 2**14
"""Of one command line: RFC 4253 (6.1) lets a host refuse packets above 32 KiB."""

_GNU: Final = re.compile(r"(\\?)([0-9A-Fa-f]{64})(?: [ *](.+))?")
_BSD: Final = re.compile(r"SHA256 \((.+)\) = ([0-9A-Fa-f]{64})")


def parse(text: str, folder: PurePosixPath, alone: str = "") -> dict[str, str]:
    """Read a file of checksums, as sha256sum of GNU or sha256 of BSD write it.

    Args:
        text: Its content.
        folder: Where it lies: names in it are relative to that.
        alone: What a checksum without a name belongs to: `NAME` of `NAME.sha256`.

    Returns:
        The sha256, in lower case hex, by path. Lines that are none are passed over.
    """
    found = {}
    for line in text.splitlines():
        if match := _GNU.fullmatch(line.strip()):
            name = match[3] or alone
            if match[1]:
                name = name.replace("\\n", "\n").replace("\\\\", "\\")
            digest = match[2]
        elif match := _BSD.fullmatch(line.strip()):
            name, digest = match[1], match[2]
        else:
            continue
        if name:
            found[str(folder / name)] = digest.lower()
    return found


def beside(path: str) -> tuple[str, str]:
    """Return where the checksum of a path may be: in a file of its own, and in its folder's."""
    return path + SUFFIX, str(PurePosixPath(path).parent / SUMS)


PROGRAMS: Final = (b"openssl dgst -sha256 -r", b"sha256sum --")
"""What tells a sha256, in one form: the first is up to four times as fast, but not everywhere."""


def batches(paths: Sequence[str]) -> Iterator[tuple[bytes, list[str]]]:
    """Yield the arguments of commands that name all the paths, and the paths of each."""
    batch: list[str] = []
    size = 0
    for path in paths:
        more = len(_quoted(path)) + 1
        if batch and size + more > COMMAND_BYTES:
            yield b" ".join(map(_quoted, batch)), batch
            batch, size = [], 0
        batch.append(path)
        size += more
    if batch:
        yield b" ".join(map(_quoted, batch)), batch


def told(output: str, paths: Sequence[str]) -> dict[str, str] | None:
    """Read what one of the programs wrote: a line for each path, in their order.

    Returns:
        The sha256 by path; None where it is anything else.
    """
    lines = output.splitlines()
    matches = [_GNU.fullmatch(line) for line in lines]
    if len(lines) != len(paths) or not all(matches):
        return None
    return {path: match[2].lower() for path, match in zip(paths, matches, strict=True) if match}


def _quoted(path: str) -> bytes:
    path = f"./{path}" if path.startswith("-") else path
    return shlex.quote(path).encode("utf-8", "surrogateescape")
