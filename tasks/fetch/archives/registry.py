"""The archive formats, and what their names say. To add a format, add its entry here."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tasks.fetch.archives import compression, tar
from tasks.fetch.archives import zip as zip_format

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tasks.fetch.archives.format import Compression, Format

FORMATS: tuple[Format, ...] = (zip_format.FORMAT, tar.FORMAT)
COMPRESSIONS: tuple[Compression, ...] = (
    compression.GZIP,
    compression.BZIP2,
    compression.XZ,
    compression.ZSTD,
)


def stem(name: str) -> str:
    """Return an archive's name without its suffixes: `events` of `events.tar.gz`."""
    inner = _any_of(entry.suffixes for entry in FORMATS if entry.compressible)
    outer = _any_of(
        [entry.suffixes for entry in FORMATS]
        + [entry.suffixes + entry.tar_suffixes for entry in COMPRESSIONS]
    )
    return re.sub(f"{inner}?{outer}$", "", name, flags=re.IGNORECASE) or name


def tail_bytes(name: str, size: int) -> int:
    """Return how many last bytes of an archive are read before its first ones; 0 for none.

    Args:
        name: The archive's name. One without a known suffix may be of any format.
        size: Its bytes.
    """
    any_format = stem(name) == name
    return max(
        (
            entry.tail_bytes(size)
            for entry in FORMATS
            if entry.tail_bytes and (any_format or name.lower().endswith(entry.suffixes))
        ),
        default=0,
    )


def compressed_format(head: bytes, name: str) -> Format | None:
    """Return the format in a compressed stream; None for a single file.

    Args:
        head: The first decompressed bytes.
        name: The archive's name, which decides where the content is damaged.
    """
    if any(name.lower().endswith(entry.tar_suffixes) for entry in COMPRESSIONS):
        name = f"{stem(name)}.tar"
    for entry in FORMATS:
        named = entry.names.search(name) or entry.names.search(name.rpartition(".")[0])
        if entry.compressible and (named or entry.detect(head)):
            return entry
    return None


def supported() -> str:
    """List the formats, for an error."""
    alone = ", ".join(entry.name for entry in FORMATS)
    inside = " or ".join(entry.name for entry in FORMATS if entry.compressible)
    compressed = ", ".join(entry.name for entry in COMPRESSIONS)
    return f"{alone}, and a {inside} or a single file compressed by one of {compressed}"


def _any_of(suffixes: Iterable[tuple[str, ...]]) -> str:
    longest_first = sorted((suffix for group in suffixes for suffix in group), key=len)[::-1]
    return f"(?:{'|'.join(map(re.escape, longest_first))})"
