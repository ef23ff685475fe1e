"""Archives that take too much, read errors of their source, and any bytes at all."""

from __future__ import annotations

import contextlib
import gzip
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import archives
from tasks.fetch import names
from tasks.fetch.archives import unpack
from tasks.fetch.archives.extraction import RATIO_FLOOR_BYTES
from tasks.fetch.archives.stream import BLOCK_BYTES
from tasks.fetch.errors import ArchiveError
from unpacking import (
    LIMITS,
    PACK,
    SMALL,
    Source,
    both_kinds,
    everything,
    is_csv,
    limits,
    members,
    read_all,
    refusal,
    unpacked,
)

bounded = settings(derandomize=True, max_examples=100, deadline=None)


# --- read errors of the source ------------------------------------------------------------------


@pytest.mark.parametrize("pack", [*PACK.values(), lambda _: gzip.compress(archives.noise(10**6))])
@pytest.mark.parametrize("error", [TimeoutError(), EOFError("x"), ValueError("x"), RuntimeError()])
def test_read_error_of_the_source_is_not_reported_as_a_broken_archive(
    pack: Callable[[dict[str, bytes]], bytes], error: Exception
) -> None:
    class Failing(Source):
        def read(self, size: int = -1) -> bytes:
            if self.count > 300_000:
                raise error
            return super().read(size)

    source = Failing(pack({"a.csv": archives.noise(10**6)}))
    with pytest.raises(type(error)) as caught:
        read_all(unpack.members(source, LIMITS, "x", lambda _: True))
    assert caught.value is error


# --- limits -------------------------------------------------------------------------------


@both_kinds
def test_as_many_members_as_the_limit_pass_and_one_more_does_not(kind: str) -> None:
    files = {f"{n}.csv": b"1" for n in range(4)}
    data = PACK[kind](files)
    assert len(unpacked(kind, data, limits(4))) == 4
    assert "more than 3 members" in refusal(kind, data, limits(3))


@pytest.mark.parametrize(
    ("entries", "declared", "says"),
    [
        # 64 MiB of entries, whether the end record has their right number or not
        (1_400_000, 1_400_000, "max_members"),
        (1_400_000, 1_400_000 % 2**16, "max_members"),
        (1_400_000, 3, "max_members"),
        # a table within its limit
        (60_000, 3, "broken archive: .* more than the 3 members declared"),
    ],
)
def test_huge_table_of_contents_takes_little_memory(entries: int, declared: int, says: str) -> None:
    source = Source(archives.huge_table(entries, declared))
    tracemalloc.start()
    try:
        with pytest.raises(ArchiveError, match=rf"^x\.zip: (?!.*broken.*max).*{says}"):
            list(unpack.members(source, limits(100_000), "x.zip", is_csv))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * 2**20


def test_as_many_members_as_max_members_allows_come_out_of_a_large_table() -> None:
    """Beyond the 65535 of the old end record, with a table that is not in the end read first."""
    files = {f"{number:0100}.csv": b"" for number in range(66_000)}
    data = archives.zipped(files, zipfile.ZIP_STORED)
    found = unpack.members(Source(data, 2**18), limits(66_000), "x.zip", lambda _: True)
    assert sum(member is not None for member in found) == 66_000


def test_folders_count_as_members() -> None:
    entries = [archives.entry(f"d{n}", type=tarfile.DIRTYPE) for n in range(10)]
    assert "max_members" in refusal("tar", archives.tar_of(entries), limits(9))


@both_kinds
def test_more_bytes_than_the_limit_are_refused_before_the_end(kind: str) -> None:
    """Enforced on the actual bytes, while they arrive."""
    data = PACK[kind]({"a.csv": archives.noise(3 * 10**6)})
    sizes: list[int] = []
    with pytest.raises(ArchiveError, match="max_unpacked_size"):
        read_all(members(kind, data, limits(10, 10**6, 200)), sizes)
    assert sum(sizes) <= 10**6


def test_zip_counts_the_members_together() -> None:
    files = {f"{n}.csv": b"-" * 400_000 for n in range(3)}
    assert "max_unpacked_size" in refusal("zip", archives.zipped(files), limits(10, 10**6, 10**6))


@both_kinds
def test_small_file_whose_rows_are_all_alike_is_no_bomb(kind: str) -> None:
    files = {"a.csv": b"2026-01-01,0,0,0\n" * (RATIO_FLOOR_BYTES // 17 - 1000)}
    data = PACK[kind](files)
    assert len(data) * LIMITS.max_ratio < len(files["a.csv"])
    assert unpacked(kind, data) == files


@both_kinds
def test_bomb_is_stopped_long_before_its_end(kind: str) -> None:
    """96 MiB from some 100 kB: stopped near the 64 MiB that any archive may give."""
    data = PACK[kind]({"a.csv": bytes(96 * 2**20)})
    sizes: list[int] = []
    with pytest.raises(ArchiveError, match="max_ratio"):
        read_all(members(kind, data), sizes)
    assert sum(sizes) <= RATIO_FLOOR_BYTES + BLOCK_BYTES


def test_ratio_of_a_tar_refers_to_the_bytes_read_so_far() -> None:
    bomb = archives.tarred({"a.csv": bytes(80 * 2**20), "b.csv": archives.noise(2**20)})
    assert "max_ratio" in refusal("tar", gzip.compress(bomb, 1), limits(10, 10**9, 70))


def test_long_extended_header_is_refused_before_it_is_parsed() -> None:
    """A PAX header of digits only: CVE-2024-6232, in the Pythons that have it."""
    header = archives.entry("x", b"0" * 2**20, type=tarfile.XHDTYPE)
    assert "extended header" in refusal("tar", archives.tar_of([header]))


# --- properties ---------------------------------------------------------------------------

parts = st.text(
    st.characters(exclude_characters="/\\:", exclude_categories=["C", "Z"]), min_size=1, max_size=12
)
paths = st.lists(parts.filter(lambda part: part not in {".", ".."}), min_size=1, max_size=3).map(
    "/".join
)
trees = st.dictionaries(paths, st.binary(max_size=2000), max_size=6)


def free_of_collisions(files: dict[str, bytes]) -> dict[str, bytes]:
    """Return the files of a tree that can exist in one folder."""
    used, found = names.Names(), {}
    for name, content in files.items():
        with contextlib.suppress(ArchiveError):
            used.add(names.safe(name, "x"), "x")
            found[name] = content
    return found


@given(
    trees.map(free_of_collisions),
    st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
    st.sampled_from(list(archives.PACKINGS)),
)
@bounded
def test_any_tree_in_a_tar_is_extracted_unchanged(
    files: dict[str, bytes], form: archives.TarForm, packing: str
) -> None:
    data = archives.PACKINGS[packing](archives.tarred(files, form))
    assert unpacked("tar", data, wanted=everything) == files


@given(
    trees.map(free_of_collisions),
    st.sampled_from(
        [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
    ),
    st.booleans(),
)
@bounded
def test_any_tree_in_a_zip_is_extracted_unchanged(
    files: dict[str, bytes], method: int, stream: bool
) -> None:
    data = archives.zipped(files, method, stream=stream)
    assert unpacked("zip", data, wanted=everything) == files


def same_or_refused(kind: str, data: bytes, files: dict[str, bytes]) -> None:
    """Require the same files or an `ArchiveError`; any other exception is a bug."""
    try:
        found = unpacked(kind, data)
    except ArchiveError:
        return
    assert found == files


FLIPPED = {
    "tar.gz": ("tar", archives.tar_gz(SMALL)),
    "tar.bz2": ("tar", archives.PACKINGS["tar.bz2"](archives.tarred(SMALL))),
    "tar.xz": ("tar", archives.PACKINGS["tar.xz"](archives.tarred(SMALL))),
    "zip, stored": ("zip", archives.zipped(SMALL, zipfile.ZIP_STORED)),
    "zip, deflate": ("zip", archives.zipped(SMALL)),
    "zip, bzip2": ("zip", archives.zipped(SMALL, zipfile.ZIP_BZIP2)),
    "zip, LZMA": ("zip", archives.zipped(SMALL, zipfile.ZIP_LZMA)),
    "zip, data descriptors": ("zip", archives.zipped(SMALL, stream=True)),
}


@pytest.mark.parametrize("name", FLIPPED)
def test_flipped_bit_never_changes_the_extracted_data(name: str) -> None:
    """Each bit in turn is flipped: the same files come out, or none."""
    kind, data = FLIPPED[name]
    for at in range(len(data)):
        for bit in range(8) if name in {"tar.gz", "zip, deflate"} else (at * 5 % 8,):
            flipped = bytearray(data)
            flipped[at] ^= 1 << bit
            same_or_refused(kind, bytes(flipped), SMALL)


@pytest.mark.parametrize("name", FLIPPED)
@given(st.lists(st.tuples(st.integers(0, 2**16), st.integers(1, 255)), min_size=1, max_size=8))
@settings(derandomize=True, max_examples=100, deadline=None)
def test_changed_bytes_never_change_the_extracted_data(
    name: str, changes: list[tuple[int, int]]
) -> None:
    kind, data = FLIPPED[name]
    changed = bytearray(data)
    for at, value in changes:
        changed[at % len(data)] ^= value
    same_or_refused(kind, bytes(changed), SMALL)


@given(
    st.binary(max_size=600),
    st.sampled_from([b"", b"\x1f\x8b\x08", b"BZh9", b"\xfd7zXZ\0", b"PK\3\4"]),
)
@bounded
def test_any_bytes_give_an_archive_error_or_nothing(rest: bytes, magic: bytes) -> None:
    same_or_refused("tar", magic + rest, {})
    same_or_refused("zip", magic + rest, {})


@given(st.integers(0, 511), st.binary(min_size=1, max_size=12))
@bounded
def test_any_tar_header_gives_an_archive_error_or_members(at: int, patch: bytes) -> None:
    """A plain tar has no checksum of its contents, but no header makes the reader break down."""
    data = bytearray(archives.tarred(SMALL))
    data[at : at + len(patch)] = patch
    data[:512] = archives.with_checksum(bytes(data[:512]))
    with contextlib.suppress(ArchiveError):
        unpacked("tar", bytes(data))
