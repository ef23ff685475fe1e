"""Unpacking in tests: an archive from memory, as a run reads it from the network."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator

import pytest

import archives
from tasks.fetch import names
from tasks.fetch.archives import unpack
from tasks.fetch.archives.format import Member
from tasks.fetch.errors import ArchiveError
from tasks.setting_types import Size
from tasks.settings import Settings


def limits(members: int = 1000, size: int = 10**9, ratio: float = 200) -> Settings:
    """Give the limits of an archive, as the settings have them."""
    return Settings(max_members=members, max_unpacked_size=Size(size), max_ratio=ratio)


LIMITS = limits()
SMALL = {"a.csv": b"date,id\n" * 30, "d/b.csv": bytes(range(256)) * 3, "e.csv": b""}
PACK: dict[str, Callable[[dict[str, bytes]], bytes]] = {
    "tar": archives.tar_gz,
    "zip": archives.zipped,
}
both_kinds = pytest.mark.parametrize("kind", PACK)


class Source:
    """A stream as the network gives it: in pieces of any size."""

    def __init__(self, data: bytes, most: int = 10_007) -> None:
        self.data = data
        self.size = len(data)
        self._file = io.BytesIO(data)
        self._most = most
        self.count = 0

    def read(self, size: int = -1) -> bytes:
        block = self._file.read(self._most if size < 0 else min(size, self._most))
        self.count += len(block)
        return block

    def end(self, start: int) -> bytes:
        return self.data[start:]


Wanted = Callable[[str], bool]


def is_csv(path: str) -> bool:
    return names.matches(path, ["*.csv"])


def everything(_: str) -> bool:
    return True


def members(
    name: str, data: bytes, most: Settings = LIMITS, wanted: Wanted = is_csv
) -> Iterator[Member | None]:
    """Yield the members of an archive of that name, and read its rest, as a run does."""
    source = Source(data)
    yield from unpack.members(source, most, name if "." in name else f"x.{name}", wanted)
    while source.read():
        pass


def unpacked(
    kind: str, data: bytes, most: Settings = LIMITS, wanted: Wanted = is_csv
) -> dict[str, bytes]:
    """Unpack into memory."""
    found = {}
    for member in members(kind, data, most, wanted):
        if member is not None:
            found[str(member.path)] = b"".join(member.blocks)
    return found


def read_all(found: Iterator[Member | None], sizes: list[int] | None = None) -> None:
    """Read every member to its end; note the size of each block."""
    for member in found:
        for block in member.blocks if member else ():
            if sizes is not None:
                sizes.append(len(block))


def refusal(name: str, data: bytes, most: Settings = LIMITS, wanted: Wanted = is_csv) -> str:
    """Require that an archive of that name is refused; give the error."""
    with pytest.raises(ArchiveError) as caught:
        read_all(members(name, data, most, wanted))
    return str(caught.value)
