"""Checksums as text: in files beside the data, and in the output of commands on the host."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Final

from tasks.fetch.ssh.sftp_packets import encoded

SUFFIX: Final = ".sha256"
SUMS: Final = "SHA256SUMS"
MAX_SIZE: Final = 2**24
"""Bytes of a checksum file: a line takes about a hundred."""

COMMANDS: Final = ("xargs -0 openssl dgst -sha256 -r", "xargs -0 sha256sum --")
"""Compute the SHA-256 of the files whose names, each with a NUL, are in the standard input.

Plain words only: sh, csh, fish and others read them alike, and no name is read by a shell. The
first is up to four times as fast, but not everywhere.
"""
BATCH_BYTES: Final = 2**20
"""Bytes that one command writes at most, and reads less: both fit into the windows of a channel
(2 MiB with paramiko and OpenSSH), so that neither side waits for the other."""
LINE_BYTES: Final = 80
"""Bytes of a line without its name: the digest, blanks, the end of the line, and some to spare.
The name may take twice its bytes: sha256sum escapes some characters."""

_GNU_LINE: Final = re.compile(r"(\\?)([0-9A-Fa-f]{64})(?: [ *](.+))?")
_BSD_LINE: Final = re.compile(r"SHA256 \((.+)\) = ([0-9A-Fa-f]{64})")


def places(path: str) -> tuple[str, str]:
    """Return where the checksum of a path may be: in a file of its own, and in its folder's."""
    folder, slash, _ = path.rpartition("/")
    return path + SUFFIX, f"{folder}{slash}{SUMS}"


def is_checksum_file(path: str) -> bool:
    """Return whether a path may be a checksum file, by its name."""
    return path.endswith((SUFFIX, f"/{SUMS}")) or path == SUMS


def parse(text: str, folder: PurePosixPath, own_name: str = "") -> dict[str, str]:
    """Read a checksum file, as sha256sum of GNU or sha256 of BSD write it.

    Args:
        text: The content of the file.
        folder: The folder of the file: the names in it are relative to that.
        own_name: What a checksum without a name belongs to: `NAME` of `NAME.sha256`.

    Returns:
        The SHA-256, in lower case hex, by path. Other lines are ignored.
    """
    found = {}
    for line in text.splitlines():
        if match := _GNU_LINE.fullmatch(line.strip()):
            name, digest = _gnu_name(match) or own_name, match[2]
        elif match := _BSD_LINE.fullmatch(line.strip()):
            name, digest = match[1], match[2]
        else:
            continue
        if name:
            found[str(folder / name)] = digest.lower()
    return found


def _gnu_name(match: re.Match[str]) -> str:
    """Return the name in a line of sha256sum, which escapes two characters (coreutils 6.6)."""
    name = match[3] or ""
    return name.replace("\\n", "\n").replace("\\\\", "\\") if match[1] else name


def batches(paths: Sequence[str]) -> Iterator[dict[str, str]]:
    """Yield the paths in batches, each by its name in the input of the commands."""
    batch: dict[str, str] = {}
    size = 0
    for path in paths:
        if "\0" in path:
            continue
        name = input_name(path)
        more = LINE_BYTES + 2 * len(encoded(name))
        if batch and size + more > BATCH_BYTES:
            yield batch
            batch, size = {}, 0
        batch[name] = path
        size += more
    if batch:
        yield batch


def input_name(path: str) -> str:
    """Return a path as a command takes it that would read a leading dash as an option's."""
    return f"./{path}" if path.startswith("-") else path


def standard_input(names: Iterable[str]) -> bytes:
    """Return names as the commands take them."""
    return b"".join(encoded(name) + b"\0" for name in names)


def read_output(output: str, batch: Mapping[str, str]) -> dict[str, str]:
    """Read what one of the commands wrote.

    Returns:
        The SHA-256 by path, of those paths of the batch that have one. Other lines are ignored:
        the account's start-up files may write as well.
    """
    found = {}
    for line in output.split("\n"):
        if (match := _GNU_LINE.fullmatch(line)) and (path := batch.get(_gnu_name(match))):
            found[path] = match[2].lower()
    return found
