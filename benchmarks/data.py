"""What is fetched: made once, the same at every machine, and known by the digest of its tree.

CSV of events with names, amounts and notes, that gzip packs to about a quarter as it does real
ones; random bytes, that nothing packs. The large ones of the growth lines repeat a block: their
size is what counts, and they are made as fast as they can be written.
"""

from __future__ import annotations

import gzip
import hashlib
import lzma
import random
import shutil
import struct
import tarfile
import zipfile
import zlib
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

MB, MIB = 10**6, 2**20
MEMBERS = 12
"""CSVs of one archive: a month each."""
LEVEL = 6
"""Deflate's level: the default of gzip and zip, so what people have."""
_STAMP = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp())
_SEED = "lighterage benchmarks 1"
"""Part of each dataset's name in the cache: change it when what is generated changes."""
_BLOCK = 16 * MIB
Facts = tuple[str, int, int]
"""What a dataset becomes: digest of the tree, bytes, files."""

_WORDS = (  # noqa: SIM905 (as a list it would fill half a screen)
    "crate pallet harbour lighter tide quay manifest seal customs delayed reloaded inspected "
    "signed forwarded returned weighed damp fragile urgent café naïve 船 Straße container bulk"
).split()
_NAMES = ("Ada Lovelace", "Zoë Brontë", "Nguyễn Văn An", "山田 太郎", '"O\'Brien, Máire"', "Li Wei")


@dataclass(frozen=True)
class Dataset:
    """Something on the server.

    Attributes:
        top: The folder of all that belongs to it.
        source: The file or folder in it to fetch.
        tree: The digest of what it must become; see `tree_digest`.
        packed: Bytes that lie on the server.
        size: Bytes that must land.
        files: How many files those are.
    """

    top: Path
    source: Path
    tree: str
    packed: int
    size: int
    files: int


def tree_digest(folder: Path) -> str:
    """Hash every file of a folder, names and contents; a manifest of ours does not count."""
    contents = {}
    for path in folder.rglob("*"):
        if path.is_file() and path.name != "manifest.json":
            with path.open("rb") as file:
                contents[str(path.relative_to(folder))] = hashlib.file_digest(file, "sha256")
    return digest({name: content.hexdigest() for name, content in contents.items()})


def digest(contents: Mapping[str, str]) -> str:
    """Hash the names of files, and the sha256 of each."""
    text = "".join(f"{contents[name]}  {name}\n" for name in sorted(contents))
    return hashlib.sha256(text.encode()).hexdigest()


class Store:
    """The datasets, in a folder that outlives a run where the caller wants it to."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def tar(self, size: int) -> Dataset:
        """Give a tar.gz of MEMBERS CSVs of `size` bytes together."""
        return self._made(f"tar-{size}", "events.tar.gz", lambda top: _pack(top, size, _write_tar))

    def zip(self, size: int) -> Dataset:
        """Give a zip of the same CSVs."""
        return self._made(f"zip-{size}", "events.zip", lambda top: _pack(top, size, _write_zip))

    def random(self, size: int) -> Dataset:
        """Give one file, `big.csv` in a folder of its own, of `size` random bytes."""
        return self._made(f"random-{size}", "tree/big.csv", lambda top: _write_random(top, size))

    def small(self, files: int, size: int = 8192, together: int = 25) -> Dataset:
        """Give nested folders with `files` CSVs of `size` bytes each, `together` in a folder."""
        return self._made(
            f"small-{files}-{size}-{together}", "tree",
            lambda top: _small(top, files, size, together),
        )  # fmt: skip

    def tiny_members(self, files: int) -> Dataset:
        """Give a zip of `files` CSVs of 200 bytes each."""
        return self._made(f"tiny-{files}", "events.zip", lambda top: _tiny_members(top, files))

    def zips(self, count: int) -> Dataset:
        """Give a folder of `count` zips of about 100 KB with a CSV each."""
        return self._made(f"zips-{count}", "tree", lambda top: _zips(top, count))

    def tar_xz(self, size: int) -> Dataset:
        """Give a tar.xz of the CSVs of `tar`."""
        return self._made(f"xz-{size}", "events.tar.xz", lambda top: _pack(top, size, _write_xz))

    def repeated_tar(self, size: int, members: int = MEMBERS) -> Dataset:
        """Give a tar.gz of about `size` bytes, of any size in no time."""
        return self._made(
            f"repeated-tar-{size}-{members}", "events.tar.gz",
            lambda top: _long_tar(top, size, members),
        )  # fmt: skip

    def repeated_zip(self, size: int) -> Dataset:
        """Give a zip of the same CSVs."""
        return self._made(f"repeated-zip-{size}", "events.zip", lambda top: _long_zip(top, size))

    def forget(self, dataset: Dataset) -> None:
        """Remove a dataset that takes much room."""
        shutil.rmtree(dataset.top)

    def _made(self, name: str, source: str, make: Callable[[Path], Facts]) -> Dataset:
        """Make a dataset where it is missing; what it becomes is noted beside it."""
        top = self._folder / f"{name}-{hashlib.sha256(_SEED.encode()).hexdigest()[:8]}"
        done = top / "becomes"
        if not done.exists():
            shutil.rmtree(top, ignore_errors=True)
            top.mkdir(parents=True)
            done.write_text("\n".join(map(str, make(top))))
        tree, size, files = done.read_text().split()
        return Dataset(top, top / source, tree, warm(top / source), int(size), int(files))


def _facts(folder: Path) -> Facts:
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return tree_digest(folder), sum(sizes), len(sizes)


def warm(path: Path) -> int:
    """Read all of a file or folder, so that the page cache has it; returns the bytes."""
    count = 0
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            with file.open("rb") as opened:
                while block := opened.read(_BLOCK):
                    count += len(block)
    return count


# --- contents -------------------------------------------------------------------------------


def csv(seed: str, size: int) -> bytes:
    """Make a CSV of about `size` bytes: its rows are drawn from a stock of row endings."""
    draw = random.Random(f"{_SEED} {seed}").random  # noqa: S311 (no secret is made here)
    endings = [_ending(draw) for _ in range(min(8192, size // 64 + 1))]
    width = 18 + sum(map(len, map(str.encode, endings))) // len(endings)
    count = size // width
    first = date(2026, 1, 1)
    days = [(first + timedelta(days=day)).isoformat() for day in range(365)]
    rows = [
        f"{days[row * 365 // count]},{row:06},{endings[int(draw() * len(endings))]}"
        for row in range(count)
    ]
    return ("date,id,name,amount,weight,note\n" + "".join(rows)).encode()


def _ending(draw: Callable[[], float]) -> str:
    note = " ".join(_WORDS[int(draw() * len(_WORDS))] for _ in range(2 + int(draw() * 6)))
    name = _NAMES[int(draw() * len(_NAMES))]
    return f"{name},{draw() * 100_000 - 5_000:.2f},{draw() * 30:.3f},{note}\n"


def _random_blocks(size: int, distinct: int) -> Iterator[bytes]:
    """Yield `size` random bytes; after `distinct` of them the same again."""
    draw = random.Random(_SEED)  # noqa: S311 (no secret is made here)
    blocks = [draw.randbytes(_BLOCK) for _ in range(-(-min(size, distinct) // _BLOCK))]
    for start in range(0, size, _BLOCK):
        yield blocks[start // _BLOCK % len(blocks)][: size - start]


def _write_random(top: Path, size: int) -> Facts:
    (top / "tree").mkdir()
    with (top / "tree/big.csv").open("wb") as file:
        file.writelines(_random_blocks(size, 512 * MIB))
    return _facts(top / "tree")


def _small(top: Path, files: int, size: int, together: int) -> Facts:
    """Write the files, `together` in a folder and 20 folders in a folder."""
    stock = csv("small", size * 64)
    for number in range(files):
        start = number * 997 % (len(stock) - size)
        day = number // together
        folder = top / "tree" / f"region-{day // 20:03}" / f"day-{day % 20:02}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"events-{number:06}.csv").write_bytes(stock[start : start + size])
    return _facts(top / "tree")


# --- archives -------------------------------------------------------------------------------


def _pack(top: Path, size: int, write: Callable[[Path, list[Path]], None]) -> Facts:
    members = []
    for month in range(1, MEMBERS + 1):
        path = top / "as" / _member(month)
        path.parent.mkdir(parents=True)
        path.write_bytes(csv(f"month {month}", size // MEMBERS))
        members.append(path)
    write(top, members)
    facts = _facts(top / "as")
    shutil.rmtree(top / "as")
    return facts


def _member(month: int) -> str:
    return f"2026/{month:02}/events.csv"


def _write_tar(top: Path, members: list[Path]) -> None:
    with gzip.GzipFile(top / "events.tar.gz", "wb", LEVEL, mtime=0) as packed:
        _add_members(packed, top, members)


def _write_xz(top: Path, members: list[Path]) -> None:
    with lzma.open(top / "events.tar.xz", "wb", preset=1) as packed:
        _add_members(packed, top, members)


def _add_members(packed: gzip.GzipFile | lzma.LZMAFile, top: Path, members: list[Path]) -> None:
    with tarfile.open(fileobj=packed, mode="w|", format=tarfile.USTAR_FORMAT) as archive:
        for path in members:
            with path.open("rb") as file:
                archive.addfile(_info(str(path.relative_to(top / "as")), path), file)


def _tiny_members(top: Path, files: int) -> Facts:
    stock = csv("tiny", 2**16)
    contents = {
        f"2026/{number % 12 + 1:02}/{number:06}.csv": stock[number % 60_000 :][:200]
        for number in range(files)
    }
    with zipfile.ZipFile(top / "events.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return _facts_of(contents)


def _zips(top: Path, count: int) -> Facts:
    (top / "tree").mkdir()
    contents = {}
    for number in range(count):
        name = f"events-{number:04}.csv"
        contents[name] = csv(f"zip {number % 16}", 400_000)
        with zipfile.ZipFile(
            top / f"tree/events-{number:04}.zip", "w", zipfile.ZIP_DEFLATED
        ) as archive:
            archive.writestr(name, contents[name])
    return _facts_of(contents)


def _facts_of(contents: Mapping[str, bytes]) -> Facts:
    tree = digest({name: hashlib.sha256(c).hexdigest() for name, c in contents.items()})
    return tree, sum(map(len, contents.values())), len(contents)


def _info(name: str, size: Path | int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size = size if isinstance(size, int) else size.stat().st_size
    info.mtime = _STAMP
    return info


def _write_zip(top: Path, members: list[Path]) -> None:
    with zipfile.ZipFile(top / "events.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=LEVEL) as a:
        for path in members:
            a.write(path, path.relative_to(top / "as"))


@dataclass(frozen=True)
class _Repeated:
    """A CSV that is one block over and over, and the same deflated.

    What deflate gives up to a full flush does not look back, so it can be written as often as
    one likes: gigabytes of an archive come as fast as the disk takes them.
    """

    block: bytes
    times: int

    @classmethod
    def of(cls, size: int) -> _Repeated:
        """Make one of about `size` bytes, a multiple of tar's 512."""
        times = -(-size // _BLOCK)
        length = max(size // times // 512, 1) * 512
        return cls(csv("repeated", length + 4096)[:length], times)

    @property
    def size(self) -> int:
        """Bytes of the CSV."""
        return len(self.block) * self.times

    def sha256(self) -> str:
        """Hash the CSV."""
        digest = hashlib.sha256()
        for _ in range(self.times):
            digest.update(self.block)
        return digest.hexdigest()

    def crc(self, value: int = 0) -> int:
        """Give the CRC of the CSV behind what `value` is the CRC of."""
        for _ in range(self.times):
            value = zlib.crc32(self.block, value)
        return value

    def facts(self, members: int = MEMBERS) -> Facts:
        """Say what so many of it become."""
        sha256 = self.sha256()
        tree = digest({_member(month): sha256 for month in range(1, members + 1)})
        return tree, members * self.size, members


def _deflated(content: bytes) -> bytes:
    packer = zlib.compressobj(LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    return packer.compress(content) + packer.flush(zlib.Z_FULL_FLUSH)


_DEFLATE_END = b"\x03\x00"
"""A last block, empty (RFC 1951, 3.2.6)."""


def _long_tar(top: Path, size: int, members: int) -> Facts:
    csv = _Repeated.of(size // members)
    packed, crc, count = _deflated(csv.block), 0, 0
    with (top / "events.tar.gz").open("wb") as file:
        file.write(b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff")  # RFC 1952, 2.3
        for month in range(1, members + 1):
            header = _info(_member(month), csv.size).tobuf(tarfile.USTAR_FORMAT)
            file.write(_deflated(header))
            file.writelines([packed] * csv.times)
            crc, count = csv.crc(zlib.crc32(header, crc)), count + len(header) + csv.size
        end = bytes(2 * tarfile.BLOCKSIZE)
        file.write(_deflated(end) + _DEFLATE_END)
        file.write(struct.pack("<II", zlib.crc32(end, crc), (count + len(end)) % 2**32))
    return csv.facts(members)


def _long_zip(top: Path, size: int) -> Facts:
    """Write it by hand (APPNOTE.TXT 4.3.7, 4.3.12, 4.3.16): zipfile takes nothing deflated."""
    csv = _Repeated.of(size // MEMBERS)
    packed, crc, central = _deflated(csv.block), csv.crc(), []
    length = len(packed) * csv.times + len(_DEFLATE_END)
    day = (2026 - 1980) << 9 | 1 << 5 | 1
    with (top / "events.zip").open("wb") as file:
        for month in range(1, MEMBERS + 1):
            name = _member(month).encode()
            facts = struct.pack(
                "<HHHHHIIIHH", 20, 0, 8, 0, day, crc, length, csv.size, len(name), 0
            )
            made_by = struct.pack("<H", 3 << 8 | 20)  # Unix, so that the mode counts
            place = struct.pack("<HHHII", 0, 0, 0, 0o100644 << 16, file.tell())
            central.append(b"PK\x01\x02" + made_by + facts + place + name)
            file.write(b"PK\x03\x04" + facts + name)
            file.writelines([packed] * csv.times)
            file.write(_DEFLATE_END)
        start = file.tell()
        table = b"".join(central)
        counts = struct.pack("<HHHHIIH", 0, 0, MEMBERS, MEMBERS, len(table), start, 0)
        file.write(table + b"PK\x05\x06" + counts)
    return csv.facts()
