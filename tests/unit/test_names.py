"""Names from archives and hosts: which are safe, and which two count as equal."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.fetch.archives.registry import stem
from tasks.fetch.errors import ArchiveError
from tasks.fetch.names import Names, matches, safe

HOSTILE = {
    "/etc/passwd": "absolute",
    "//host/share": "absolute",
    "../up.csv": "leads out",
    "a/../../up.csv": "leads out",
    "a/..": "leads out",
    "..": "leads out",
    "../": "leads out",
    "": "no name",
    "///": "no name",
    "a\\..\\b.csv": "another system",
    "\\\\host\\share": "another system",
    "C:\\b.csv": "another system",
    "c:b.csv": "another system",
    "a\0b": "control characters",
    "a\nb": "control characters",
    "a\x1b[31mb": "control characters",
    "a\x7fb": "control characters",
    "a\x9bb": "control characters",
    "a\u2028b": "control characters",
    "\udcff.csv": "not UTF-8",
    "n" * 256: "too long a name",
    "é" * 128: "too long a name",
    "d/" * 2001: "too long a path",
}
GOOD = {
    "a.csv": "a.csv",
    "./a.csv": "a.csv",
    "a//b.csv": "a/b.csv",
    "a/./b.csv": "a/b.csv",
    "2026/": "2026",
    "./": ".",
    ".hidden.csv": ".hidden.csv",
    "..a/b..csv": "..a/b..csv",
    "n" * 255: "n" * 255,
    "é" * 127: "é" * 127,
    "with space, 'quotes' & $(dollars)": "with space, 'quotes' & $(dollars)",
    "-rf": "-rf",
    "~root/x": "~root/x",
    "données/🚢.csv": "données/🚢.csv",
    "12:30.csv": "12:30.csv",
}


@pytest.mark.parametrize("raw", HOSTILE, ids=lambda raw: ascii(raw)[:30])
def test_hostile_name_is_refused(raw: str) -> None:
    with pytest.raises(ArchiveError, match=HOSTILE[raw]) as caught:
        safe(raw, "x.tar")
    assert "\n" not in str(caught.value), "an error is one line, whatever the name"
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize("raw", GOOD, ids=lambda raw: ascii(raw)[:30])
def test_safe_name_is_accepted(raw: str) -> None:
    assert safe(raw, "x.tar") == GOOD[raw]


@given(st.text(st.sampled_from("./\\:~ aB\0\n\udcff\u202eé") | st.characters(), max_size=40))
@settings(derandomize=True, max_examples=500, deadline=None)
def test_accepted_name_stays_inside_the_folder(raw: str) -> None:
    """Any name is refused, or is below the folder and a valid file name."""
    try:
        path = safe(raw, "x.tar")
    except ArchiveError:
        return
    folder = Path("/nowhere/at/all")
    assert os.path.normpath(folder / path).startswith(str(folder))
    assert path == str(PurePosixPath(raw))
    assert ".." not in path.split("/")
    os.fsencode(path)


@pytest.mark.parametrize(
    ("path", "pattern", "expected"),
    [
        ("a.csv", "*.csv", True),
        ("x/A.CSV", "*.csv", True),
        ("a.csv", "*.CSV", True),
        ("a.csv.txt", "*.csv", False),
        ("x.csv/readme", "*.csv", False),
        (".csv", "*.csv", True),
        ("acsv", "*.csv", False),
        ("2026/feb/a.csv", "2026/*.csv", True),
        ("2025/a.csv", "2026/*.csv", False),
        ("a.csv", "2026/*.csv", False),
    ],
)
def test_glob_matches_the_last_part_or_with_a_slash_the_whole_path(
    path: str, pattern: str, expected: bool
) -> None:
    assert matches(path, ["*.none", pattern]) is expected


@pytest.mark.parametrize(
    ("name", "without"),
    [
        ("a.zip", "a"), ("a.tar.gz", "a"), ("a.csv.ZIP", "a.csv"), ("a.tgz", "a"),
        ("a.2026.tar.zst", "a.2026"), ("a", "a"), (".zip", ".zip"), ("a.rar", "a.rar"),
    ],
)  # fmt: skip
def test_stem_is_an_archives_name_without_its_suffixes(name: str, without: str) -> None:
    assert stem(name) == without


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("a.csv", "a.csv"),
        ("a.csv", "A.CSV"),
        ("d/a.csv", "d/A.csv"),
        ("\u00e9.csv", "e\u0301.csv"),
        ("\u00c9.csv", "e\u0301.csv"),
        ("d/a.csv", "D/b.csv"),
        ("d/e/a.csv", "d/E/b.csv"),
        ("d.csv", "d.csv/a.csv"),
        ("d.csv/a.csv", "d.csv"),
        ("D.csv", "d.csv/a.csv"),
        ("d.csv/a.csv", "D.csv"),
    ],
)
def test_names_that_are_equal_on_some_file_system_collide(first: str, second: str) -> None:
    used = Names()
    used.add(first, "x.tar")
    with pytest.raises(ArchiveError, match="collides"):
        used.add(second, "x.tar")


def test_collision_names_both_sources_and_the_code_points_of_names_that_look_the_same() -> None:
    used = Names()
    used.add("caf\u00e9/a.csv", "one.zip")
    with pytest.raises(ArchiveError, match=r"^two\.tar: .* of one\.zip: rename"):
        used.add("CAF\u00e9/A.csv", "two.tar")
    with pytest.raises(ArchiveError, match=r"\(U\+0301\).*\(U\+00E9\) of one\.zip: rename"):
        used.add("cafe\u0301/b.csv", "two.tar")


def test_removed_origin_releases_its_names_and_folders() -> None:
    used = Names()
    used.add("d/a.csv", "one.zip")
    used.add("e/b.csv", "one.zip")
    used.add("d/c.csv", "two.zip")
    assert used.remove("one.zip") == ["d/a.csv", "e/b.csv"]
    used.add("d/A.csv", "three.zip")
    used.add("E", "three.zip")
    with pytest.raises(ArchiveError, match=r"of two\.zip: rename"):
        used.add("D/x.csv", "three.zip")


def test_different_names_do_not_collide() -> None:
    used = Names()
    for name in ("a.csv", "b.csv", "d/a.csv", "d/b.csv", "d/a/a.csv", "da.csv", "é.csv", "e.csv"):
        used.add(name, "x.tar")
