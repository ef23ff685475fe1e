"""Hostile names in archives, in every format and store: refused, or a file inside the target."""

from __future__ import annotations

import struct
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import archives
import landed
import object_server
from tasks.fetch.errors import ArchiveError
from tasks.fetch.manifest import Manifest, Source
from tasks.fetch.staging import staging
from tasks.fetch.stores import open_store
from unpacking import PACK, Wanted, everything, members

REFUSED = {
    "..": "../up.csv",
    "two ..": "../../up.csv",
    ".. in the middle": "a/../../up.csv",
    ".. that stays inside": "a/../b.csv",
    ".. after .": "./../up.csv",  # CVE-2026-59732: rclone removes the `./` only
    "more .. than folders": "a/../../../etc/cron.d/up.csv",  # CVE-2026-88014, rclone
    ".. after //": "a//../../up.csv",
    ".. at the end": "a/..",
    "absolute": "/tmp/up.csv",
    "absolute, two slashes": "//host/share/up.csv",
    "backslashes": "..\\up.csv",
    "backslashes in the middle": "a\\..\\..\\up.csv",
    "a share of Windows": "\\\\host\\share\\up.csv",
    "a drive": "C:\\up.csv",
    "a drive, slashes": "c:/up.csv",
    "a drive without a folder": "C:up.csv",
    "a line break": "a\n../up.csv",
    "only slashes": "//",
    "only dots": "...",
}
ACCEPTED = {
    "a//b.csv": "a/b.csv",
    "./a.csv": "a.csv",
    "a/./b.csv": "a/b.csv",
    "..a/b..csv": "..a/b..csv",
    # What a later step could decode or fold to `..`: stored as it stands.
    "%2e%2e/up.csv": "%2e%2e/up.csv",
    "%2Fup.csv": "%2Fup.csv",
    "\uff0e\uff0e/up.csv": "\uff0e\uff0e/up.csv",  # GHSA-7p4m-qxvv-g567: rclone decodes it to `..`
    "\u2025\u2215up.csv": "\u2025\u2215up.csv",
    "a\u2044..\u2044up.csv": "a\u2044..\u2044up.csv",
}
COLLIDING = {
    "Unicode form": ("\u00e9.csv", "e\u0301.csv"),
    "Unicode form of a folder": ("\u00e9/1.csv", "e\u0301/2.csv"),
    "Unicode form, file and folder": ("\u00e9.csv", "e\u0301.csv/1.csv"),
    "an ohm and an omega": ("\u2126.csv", "\u03a9.csv"),
    "case": ("a.csv", "A.CSV"),
    "case of a folder": ("d/1.csv", "D/2.csv"),
    "sharp s": ("stra\u00dfe.csv", "STRASSE.csv"),
    "slashes": ("a/b.csv", "a//b.csv"),
    "dots": ("a.csv", "./a.csv"),
    "the manifest": ("a.csv", "Manifest.JSON"),
}


class Place:
    """A target in a store, and all that is in and around it."""

    def __init__(self, url: str, everything_there: Callable[[], dict[str, bytes]]) -> None:
        self.url = url
        self.content = everything_there

    def land(self, kind: str, data: bytes, wanted: Wanted = everything) -> None:
        store = open_store(self.url, overwrite=True)
        with staging(store) as staged:
            staged.begin()
            for member in members(kind, data, wanted=wanted):
                if member is not None:
                    staged.write(str(member.path), member.blocks, "x")
            staged.publish(
                Manifest(
                    "1", "dev", "h", "x", "*", "", keep_archive=False,
                    sources=[Source("x", 1, 0, "")], files=staged.finish(),
                )
            )  # fmt: skip


@pytest.fixture(params=["local", "objects"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Give a target in each store, in a folder or bucket of which nothing else may change."""
    if request.param == "local":
        folder = tmp_path / "outer/data/events"
        return Place(str(folder), lambda: landed.content(tmp_path))
    bucket = request.getfixturevalue("bucket")
    return Place(f"s3://{bucket}/data/events", lambda: object_server.objects(bucket))


def landed_paths(place: Place) -> set[str]:
    """Return the paths below the folder of the files; everything must be there."""
    keys = set(place.content())
    if not place.url.startswith("s3:"):
        keys.discard("outer/data/.events.previous.json")
        assert all(key.startswith("outer/data/events/") for key in keys)
        return {key.removeprefix("outer/data/events/") for key in keys}
    keys = {key for key in keys if not key.startswith("data/events/manifests/")}
    keys.discard("data/events/latest.json")
    assert all(key.startswith("data/events/objects/") for key in keys)
    return {key.split("/", 4)[4] for key in keys}


@pytest.mark.parametrize("kind", PACK)
@pytest.mark.parametrize("name", REFUSED)
def test_name_that_leads_out_is_refused_and_creates_nothing(
    place: Place, kind: str, name: str
) -> None:
    with pytest.raises(ArchiveError, match="nothing was extracted"):
        place.land(kind, PACK[kind]({"first.csv": b"1", REFUSED[name]: b"2"}))
    assert place.content() == {}


@pytest.mark.parametrize("kind", PACK)
def test_name_that_only_looks_dangerous_is_a_file_inside(place: Place, kind: str) -> None:
    for number, (name, path) in enumerate(ACCEPTED.items()):
        content = b"%d" % number
        place.land(kind, PACK[kind]({name: content}))
        assert path in landed_paths(place)
        assert content in place.content().values()
    assert landed_paths(place) <= {*ACCEPTED.values()}


@pytest.mark.parametrize("kind", PACK)
@pytest.mark.parametrize("name", COLLIDING)
def test_names_that_are_one_on_some_file_system_are_refused(
    place: Place, kind: str, name: str
) -> None:
    with pytest.raises(ArchiveError, match="collides"):
        place.land(kind, PACK[kind](dict.fromkeys(COLLIDING[name], b"1")))
    assert place.content() == {}


# --- links, and files through them ---------------------------------------------------------------


def through_links(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Give archives of a link that leads out, and then of a file below it, or in its place."""
    for path in ("link/up.csv", "link"):
        for target in (str(folder), "../../..", ".."):
            for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
                link = archives.entry("link", type=kind, linkname=target)
                yield "tar", archives.tar_of([link, archives.entry(path, b"2")])
            infos = [archives.zip_info("link", mode=0o120777), archives.zip_info(path)]
            yield "zip", archives.zip_of(infos, [target.encode(), b"2"])


def test_file_through_a_link_lands_inside_or_is_refused(place: Place, tmp_path: Path) -> None:
    """Where the link is not selected, its name is a folder of its own."""
    outside = tmp_path / "outside"
    outside.mkdir()
    for kind, data in through_links(outside):
        with pytest.raises(ArchiveError, match=r"link|collides"):
            place.land(kind, data)
        assert place.content() == {}
    for kind, data in through_links(outside):
        place.land(kind, data, lambda path: path.endswith(".csv"))
        found = landed_paths(place)
        assert found <= {"link/up.csv"}
        assert found or b"link/up.csv" not in data
    assert not list(outside.iterdir())


# --- names that are stated twice -----------------------------------------------------------------


def stated_twice(hostile: str) -> Iterator[tuple[str, bytes]]:
    """Give archives whose second, stronger header has a name of its own."""
    entry = archives.entry("safe.csv", b"1", pax_headers={"path": hostile})
    yield "tar", archives.tar_of([entry])
    yield "tar", archives.tar_of([archives.entry(f"{'x/' * 60}{hostile}", b"1")])
    long_name = archives.entry(
        "././@LongLink", hostile.encode() + b"\0", type=tarfile.GNUTYPE_LONGNAME
    )
    yield "tar", archives.tar_of([long_name, archives.entry("safe.csv", b"1")])


@pytest.mark.parametrize("hostile", ["../up.csv", "a/../../up.csv"])
def test_name_of_an_extended_header_is_checked(place: Place, hostile: str) -> None:
    for kind, data in stated_twice(hostile):
        with pytest.raises(ArchiveError, match="nothing was extracted"):
            place.land(kind, data)
    assert place.content() == {}


def test_unicode_path_field_of_a_zip_does_not_rename_a_member(place: Place) -> None:
    """Info-ZIP's field 0x7075 (APPNOTE.TXT 4.6.9): other readers prefer its name."""
    hostile = b"../up.csv"
    info = archives.zip_info("safe.csv")
    field = struct.pack("<BL", 1, zlib.crc32(b"safe.csv")) + hostile
    info.extra = struct.pack("<HH", 0x7075, len(field)) + field
    place.land("zip", archives.zip_of([info], [b"1"]))
    assert landed_paths(place) == {"safe.csv"}
