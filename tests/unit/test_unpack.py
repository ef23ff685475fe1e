"""Archives: valid ones are extracted, broken and hostile ones refused with nothing published."""

from __future__ import annotations

import contextlib
import gzip
import io
import lzma
import struct
import subprocess
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from backports import zstd
from hypothesis import given, settings
from hypothesis import strategies as st

import archives
from landed import locked
from need import need
from tasks.fetch import names
from tasks.fetch.archives import unpack
from tasks.fetch.archives.extraction import RATIO_FLOOR_BYTES
from tasks.fetch.archives.format import Member
from tasks.fetch.archives.stream import BLOCK_BYTES
from tasks.fetch.errors import ArchiveError
from tasks.settings import Settings, Size


def limits(members: int = 1000, size: int = 10**9, ratio: float = 200) -> Settings:
    """Give the limits of an archive, as the settings have them."""
    return Settings(max_members=members, max_unpacked_size=Size(size), max_ratio=ratio)


LIMITS = limits()
SMALL = {"a.csv": b"date,id\n" * 30, "d/b.csv": bytes(range(256)) * 3, "e.csv": b""}
bounded = settings(derandomize=True, max_examples=100, deadline=None)

GOOD = {
    **{f"tar: {name}": good for name, good in archives.good_tars().items()},
    **{f"zip: {name}": good for name, good in archives.good_zips().items()},
}
BAD = {
    **{f"tar: {name}": bad for name, bad in archives.bad_tars().items()},
    **{f"zip: {name}": bad for name, bad in archives.bad_zips().items()},
}
PACK: dict[str, Callable[[dict[str, bytes]], bytes]] = {
    "tar": archives.tar_gz,
    "zip": archives.zipped,
}
COMPRESSIONS = {"gzip": "tar.gz", "bzip2": "tar.bz2", "xz": "tar.xz", "zstd": "tar.zst"}
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


def land(kind: str, data: bytes, target: Path) -> None:
    """Unpack into a target's staging folder, as a run does, and stop before the commit."""
    with locked(target) as (_, staged):
        staged.begin()
        for member in members(kind, data):
            if member is not None:
                staged.write(str(member.path), member.blocks, "x")


# --- good ones ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", GOOD)
def test_valid_archive_is_extracted_completely(name: str) -> None:
    data, files = GOOD[name]
    assert unpacked(name[:3], data) == files


@pytest.mark.parametrize("form", ["gnu", "posix", "ustar", "v7", "oldgnu"])
def test_archive_written_by_gnu_tar_is_extracted_completely(form: str, tmp_path: Path) -> None:
    tar = need("tar", "tar", "archives that GNU tar writes")
    files = {"d/a.csv": b"1\n", "d/" + "l" * 80 + "/b.csv": b"2\n" * 10**5}
    if form not in {"v7", "ustar"}:
        files["d/" + "l" * 150 + "/c.csv"] = b"3\n"
    for path, content in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(content)
    with (tmp_path / "d/sparse.csv").open("wb") as file:
        file.write(b"begin\n")
        file.seek(10**6)
        file.write(b"end\n")
    files["d/sparse.csv"] = (tmp_path / "d/sparse.csv").read_bytes()
    command = [tar, "-C", str(tmp_path), f"--format={form}", "-czf", "-"]
    sparse = [] if form in {"v7", "ustar"} else ["--sparse"]
    done = subprocess.run([*command, *sparse, "d"], capture_output=True, check=True)
    assert unpacked("tar", done.stdout) == files


@both_kinds
def test_content_comes_in_blocks_of_limited_size(kind: str) -> None:
    """Memory stays flat: no block is larger than `BLOCK_BYTES`, however long a member is."""
    for member in members(kind, PACK[kind]({"a.csv": b"1,2,3\n" * 200_000})):
        assert member is not None
        assert max(map(len, member.blocks)) <= BLOCK_BYTES


@both_kinds
def test_member_that_is_not_selected_is_counted(kind: str) -> None:
    data = PACK[kind]({"a.txt": b"1", "b.csv": b"2", "c.md": b"3"})
    given = [member and str(member.path) for member in members(kind, data)]
    assert given == [None, "b.csv", None]


@both_kinds
def test_member_that_is_not_read_does_not_affect_the_next(kind: str) -> None:
    data = PACK[kind](archives.FILES)
    found = {}
    for number, member in enumerate(members(kind, data)):
        assert member is not None
        if number != 1:
            found[str(member.path)] = b"".join(member.blocks)
    assert found == {n: c for n, c in archives.FILES.items() if n != "2026/01/b.csv"}


# --- bad ones -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", BAD)
def test_broken_or_unsafe_archive_is_refused_and_nothing_is_published(
    name: str, tmp_path: Path
) -> None:
    data, says = BAD[name]
    with pytest.raises(ArchiveError, match=f"(?s){says}"):
        land(name[:3], data, tmp_path / "data")
    assert not list(tmp_path.iterdir()), "a refused archive leaves no files"


@pytest.mark.parametrize("packing", archives.PACKINGS)
def test_tar_truncated_anywhere_is_refused(packing: str) -> None:
    """Cut within a block or at its end: an error, never fewer members."""
    data = archives.PACKINGS[packing](archives.tarred(SMALL))
    # tarfile takes one block of zeros for the end; the last bytes of gzip are its length
    complete = len(data) - tarfile.BLOCKSIZE if packing == "tar" else len(data)
    for end in {*range(0, complete, 7), *range(0, complete, tarfile.BLOCKSIZE)}:
        refusal("tar", data[:end])


@pytest.mark.parametrize(
    ("kind", "data", "end"),
    [
        ("zip", archives.zipped(SMALL), 0),
        # within a member that is not selected
        ("tar", archives.tarred({"a.csv": b"1", "z.txt": b"-" * 5000}), tarfile.BLOCKSIZE),
    ],
    ids=["zip", "tar"],
)
def test_truncated_zip_or_unselected_member_is_refused(kind: str, data: bytes, end: int) -> None:
    for size in range(0, len(data) - end, 3):
        refusal(kind, data[:size])


@pytest.mark.parametrize("at", [-8, -5, -4, -1], ids=["CRC", "CRC", "length", "length"])
def test_wrong_checksum_at_the_end_of_a_gzip_is_detected(at: int) -> None:
    """It comes after the tar's own end, where a reader of tars has stopped reading."""
    data = bytearray(archives.tar_gz(SMALL))
    data[at] ^= 1
    assert "broken" in refusal("tar", bytes(data))


@pytest.mark.parametrize("packing", archives.PACKINGS)
def test_bytes_after_an_archive_are_refused_and_zeros_are_not(packing: str) -> None:
    data = archives.PACKINGS[packing](archives.tarred(SMALL))
    assert unpacked("tar", data + bytes(512)) == SMALL
    assert "broken" in refusal("tar", data + b"more")


@pytest.mark.parametrize("packing", archives.PACKINGS)
def test_consecutive_compressed_streams_are_one(packing: str) -> None:
    pack, tar = archives.PACKINGS[packing], archives.tarred(SMALL)
    assert unpacked("tar", pack(tar[:700]) + pack(tar[700:])) == SMALL


@pytest.mark.parametrize(("name", "packing"), COMPRESSIONS.items())
def test_compressed_file_that_is_no_tar_is_its_own_member(name: str, packing: str) -> None:
    ending = packing.removeprefix("tar")
    data = archives.PACKINGS[packing](b"id,name\n" * 100_000)
    (member,) = unpack.members(Source(data), LIMITS, f"exports/events.csv{ending}", is_csv)
    assert member is not None
    assert str(member.path) == "events.csv"
    for end in range(40, len(data), 7):
        assert f"the {name} data ends early" in refusal("a.csv", data[:end])


def test_stream_that_needs_too_much_memory_is_refused() -> None:
    """A decompressor allocates the dictionary at once, in the size that the header declares."""
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 2**26 + 2**25 + 2**20}]
    xz = lzma.compress(archives.tarred(SMALL), filters=filters)
    assert "limit of 96 MiB" in refusal("tar", xz)
    parameters = {int(zstd.CompressionParameter.window_log): 27}
    packer = zstd.ZstdCompressor(options=parameters)
    far = packer.compress(archives.tarred({"a.csv": archives.noise(2**20)})) + packer.flush()
    assert "limit of 64 MiB" in refusal("tar", far)


def test_zip_that_contains_two_archives_is_refused() -> None:
    """One in the comment of another, one before another: readers disagree on what it holds."""
    outer, inner = archives.zipped(SMALL), archives.zipped({"evil.csv": b"1"})
    assert "two end records" in refusal("zip", archives.with_comment(outer, inner))
    assert "another archive precedes it" in refusal("zip", inner + outer)


@pytest.mark.parametrize(
    ("place", "changed", "says"),
    [
        (8, struct.pack("<Q", 5), "not where it should be"),
        (16, b"\2", "part of a split zip"),
    ],
)
def test_wrong_zip64_locator_is_refused(place: int, changed: bytes, says: str) -> None:
    data = archives.good_zips()["zip64"][0]
    at = data.index(b"PK\6\7") + place
    assert says in refusal("zip", data[:at] + changed + data[at + len(changed) :])


def test_zip64_with_another_number_of_members_is_refused() -> None:
    """A count of 0xFFFF sends the reader on to the zip64 end record."""
    data = archives.good_zips()["zip64"][0]
    marked = archives.patched(data, archives.END, {archives.END_COUNT: 0xFFFF})
    assert unpacked("zip", marked) == archives.FILES
    at = marked.index(b"PK\6\6") + 32
    assert "3 of 4 members" in refusal("zip", marked[:at] + b"\4" + marked[at + 1 :])


# --- what the messages say ------------------------------------------------------------------


def test_each_part_of_a_split_zip_is_reported_as_such(tmp_path: Path) -> None:
    need("zip", "zip", "archives that Info-ZIP writes")
    (tmp_path / "a.csv").write_bytes(archives.noise(300_000))
    subprocess.run(["zip", "-q", "-s", "64k", "x.zip", "a.csv"], cwd=tmp_path, check=True)
    parts = [*sorted(tmp_path.glob("x.z[0-9]*")), tmp_path / "x.zip"]
    assert len(parts) > 3
    for part in parts:
        assert "part of a split zip" in refusal(part.name, part.read_bytes())
    assert "part of a split zip" in refusal("first.zip", parts[0].read_bytes())


@pytest.mark.parametrize("size", [30, 1000, 66_000, 200_000])
def test_truncated_zip_is_reported_as_such(size: int) -> None:
    data = archives.zipped({"a.csv": archives.noise(300_000)})
    assert "truncated" in refusal("x.zip", data[:size])
    assert "truncated" in refusal("x.zip", data[:-1])


@pytest.mark.parametrize(("format_name", "packing"), COMPRESSIONS.items())
@pytest.mark.parametrize("extra", [b"more", b"\1" * 300_000, bytes(600) + b"x"])
def test_data_after_compressed_data_has_a_message_of_its_own(
    format_name: str, packing: str, extra: bytes
) -> None:
    pack = archives.PACKINGS[packing]
    for name, content in (("x.csv", b"1,2\n" * 10), (f"x.{packing}", archives.tarred(SMALL))):
        error = refusal(name, pack(content) + extra)
        assert f"other data follows the end of its {format_name} data" in error


def test_dictionary_of_lzma_above_the_limit_is_no_broken_zip() -> None:
    data = archives.zipped({"a.csv": b"1"}, zipfile.ZIP_LZMA)
    at = data.index(struct.pack("<HB", 5, 93)) + 3
    error = refusal("x.zip", data[:at] + struct.pack("<L", 2**30) + data[at + 4 :])
    assert "above the limit of 67108864" in error
    assert "broken" not in error


@pytest.mark.parametrize(
    ("name", "magic", "says"),
    [
        ("x.tar.lz4", b"\x04\x22\x4d\x18", "it looks like an LZ4 file"),
        ("x.lz4", b"\x02\x21\x4c\x18", "it looks like an LZ4 file"),
        ("x.tar", b"\x04\x22\x4d\x18", "it looks like an LZ4 file"),
        ("x.tar.br", b"", "no known format"),
    ],
)
def test_unsupported_content_is_not_reported_as_a_broken_tar_by_its_name(
    name: str, magic: bytes, says: str
) -> None:
    assert says in refusal(name, magic + archives.noise(600))


# --- members that are not selected ----------------------------------------------------------


def test_zip_that_contains_a_pipe_gives_its_other_members(tmp_path: Path) -> None:
    """zip(1) writes what it reads from standard input as `-`, with the mode of a FIFO."""
    need("zip", "zip", "archives that Info-ZIP writes")
    (tmp_path / "a.csv").write_bytes(b"1,2\n")
    subprocess.run(
        ["zip", "-q", "x.zip", "-", "a.csv"], cwd=tmp_path, input=b"from a pipe", check=True
    )
    data = (tmp_path / "x.zip").read_bytes()
    assert unpacked("zip", data) == {"a.csv": b"1,2\n"}
    assert "'-': a special file" in refusal("x.zip", data, wanted=everything)


def not_selected() -> Iterator[tuple[str, bytes]]:
    """Give archives of `a.csv` and of `other`, which would be refused if it was selected."""
    for mode in (0o120777, 0o010666, 0o020666, 0o140777):
        infos = [archives.zip_info("a.csv"), archives.zip_info("other", mode=mode)]
        yield "zip", archives.zip_of(infos, [b"1", b"a.csv"])
    data = archives.zipped({"other": b"2" * 100, "a.csv": b"1"})
    yield "zip", archives.patched(data, archives.CENTRAL, {archives.CENTRAL_FLAGS: 1})
    data = archives.patched(data, archives.CENTRAL, {archives.CENTRAL_METHOD: 9})
    yield "zip", archives.patched(data, archives.LOCAL, {archives.LOCAL_METHOD: 9})
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
        other = archives.entry("other", type=kind, linkname="a.csv")
        yield "tar", archives.tar_of([other, archives.entry("a.csv", b"1")])


@pytest.mark.parametrize(("kind", "data"), list(not_selected()), ids=lambda _: "")
def test_unsupported_member_that_is_not_selected_does_no_harm(kind: str, data: bytes) -> None:
    assert unpacked(kind, data) == {"a.csv": b"1"}
    assert "'other'" in refusal(kind, data, wanted=everything)


@pytest.mark.parametrize("name", ["../up.txt", "/etc/passwd", "a/../../b"])
def test_unsafe_name_refuses_the_archive_even_if_it_is_not_selected(name: str) -> None:
    for kind, pack in PACK.items():
        assert "nothing was extracted" in refusal(f"x.{kind}", pack({name: b"1", "a.csv": b"1"}))


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


def everything(_: str) -> bool:
    return True


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
