"""Archives: valid ones are extracted, broken and hostile ones refused with nothing published."""

from __future__ import annotations

import lzma
import re
import struct
import subprocess
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from backports import zstd

import archives
from landed import locked
from need import need
from tasks.fetch.archives import unpack
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
    members,
    refusal,
    unpacked,
)

GOOD = {
    **{f"tar: {name}": good for name, good in archives.good_tars().items()},
    **{f"zip: {name}": good for name, good in archives.good_zips().items()},
}
BAD = {
    **{f"tar: {name}": bad for name, bad in archives.bad_tars().items()},
    **{f"zip: {name}": bad for name, bad in archives.bad_zips().items()},
}
COMPRESSIONS = {"gzip": "tar.gz", "bzip2": "tar.bz2", "xz": "tar.xz", "zstd": "tar.zst"}


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


@pytest.mark.parametrize("size", [600, 2**16, 2**16 + 1], ids=["small", "largest small", "large"])
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ((1, 0, 0), "bad CRC"),
        ((0, 0, -1), r"\d+ of \d+ bytes"),
        ((0, 0, 1), r"\d+ of \d+ bytes"),
        ((0, -1, 0), "the member ends early"),
    ],
    ids=["CRC", "too small", "too large", "cut"],
)
def test_member_that_differs_from_both_headers_is_refused(
    size: int, change: tuple[int, int, int], says: str
) -> None:
    """Small members are extracted in one step, others block by block: the errors are the same."""
    content = (b"2026-01-01,12,x\n" * 2**13)[:size]
    data = archives.zipped({"a.csv": content, "b.csv": b"1"})
    assert unpacked("zip", data)["a.csv"] == content
    fields = archives.LOCAL.unpack_from(data)[archives.LOCAL_CRC : archives.LOCAL_SIZE + 1]
    wrong = [field + more for field, more in zip(fields, change, strict=True)]
    data = archives.patched(data, archives.LOCAL, dict(enumerate(wrong, archives.LOCAL_CRC)))
    data = archives.patched(data, archives.CENTRAL, dict(enumerate(wrong, archives.CENTRAL_CRC)))
    assert re.search(f"member 'a.csv': broken archive: {says}", refusal("zip", data))


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
