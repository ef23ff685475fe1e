"""Checksum commands: their input and output, for any shell that the account may have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tasks.fetch.ssh.checksum_files import GNU_LINE, gnu_name
from tasks.fetch.ssh.sftp_packets import encoded

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

COMMANDS: Final = ("xargs -0 openssl dgst -sha256 -r", "xargs -0 sha256sum --")
"""Compute the SHA-256 of the files whose names, each with a NUL, are in the standard input.

Plain words only: sh, csh, fish and others read them alike, and no name is read by a shell. The
first is up to four times as fast, but not everywhere.
"""
BATCH_BYTES: Final = 2**20
"""Bytes that one command writes at most, and reads less: both fit into the windows of a channel
(2 MiB with paramiko and OpenSSH), so that neither side waits for the other."""
LINE_BYTES: Final = 80
"""Bytes of a line without its name: the digest, blanks, the end of the line, and some to spare."""


def batches(paths: Sequence[str]) -> Iterator[dict[str, str]]:
    """Yield the paths in batches, each by the name that is given to the commands."""
    batch: dict[str, str] = {}
    size = 0
    for path in paths:
        if "\0" in path:
            continue
        name = f"./{path}" if path.startswith("-") else path
        more = output_bytes([name])
        if batch and size + more > BATCH_BYTES:
            yield batch
            batch, size = {}, 0
        batch[name] = path
        size += more
    if batch:
        yield batch


def standard_input(names: Iterable[str]) -> bytes:
    """Return names as the commands take them."""
    return b"".join(encoded(name) + b"\0" for name in names)


def output_bytes(names: Iterable[str]) -> int:
    """Return how many bytes a command writes at most; sha256sum escapes some characters."""
    return sum(LINE_BYTES + 2 * len(encoded(name)) for name in names)


def read_output(output: str, batch: Mapping[str, str]) -> dict[str, str]:
    """Read what one of the commands wrote.

    Returns:
        The SHA-256 by path, of those paths of the batch that have one. Other lines are ignored:
        the account's start-up files may write as well.
    """
    found = {}
    for line in output.split("\n"):
        if (match := GNU_LINE.fullmatch(line)) and (path := batch.get(gnu_name(match))):
            found[path] = match[2].lower()
    return found
