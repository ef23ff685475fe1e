"""What has changed between the columns of published CSVs and those of new ones."""

from __future__ import annotations

import pytest

from tasks.fetch.manifest import Column, File, Manifest
from tasks.fetch.tables.drift import drifts, listed

Files = dict[str, str]
"""Columns by path: `id:BIGINT name`; a minus for a file whose columns were not read."""


def manifest(files: Files) -> Manifest:
    columns = {
        f"={text}": tuple(Column(*word.split(":")) for word in text.split())
        for text in files.values()
    }
    return Manifest(
        "1", "dev", "me@host:22", "x.zip", "*.csv", "", keep_archive=False,
        files=[
            File(path, 1, "", "x.zip", columns="" if text == "-" else f"={text}")
            for path, text in files.items()
        ],
        columns=columns,
    )  # fmt: skip


def changes(before: Files, after: Files) -> list[str]:
    return [str(drift) for drift in drifts(manifest(before), manifest(after))]


@pytest.mark.parametrize(
    ("old", "new", "texts"),
    [
        ("id name", "id name", []),
        ("id name", "id name city", ["column 'city' is new"]),
        ("id name", "city id name", ["column 'city' is new"]),
        ("id name city", "id city", ["column 'name' is missing"]),
        ("id name", "id Name", ["column 'name' is now 'Name'"]),
        ("id name", "name id", ["column 'name' was at position 2, is at 1"]),
        ("id a b", "id b a", ["column 'b' was at position 3, is at 2"]),
        ("id a b", "id x y z", ["column 'a' is missing", "column 'b' is missing",
                                "column 'x' is new", "column 'y' is new", "column 'z' is new"]),
        ("id id", "id", ["column 'id' is missing"]),
        ("id id x", "id x x", ["column 'id' is now 'x'"]),
        ("id:BIGINT", "id:VARCHAR", ["column 'id' was BIGINT, is VARCHAR"]),
        ("id:BIGINT a", "b id:DOUBLE", ["column 'a' is missing", "column 'b' is new",
                                        "column 'id' was BIGINT, is DOUBLE"]),
        ("id:BIGINT id:DATE", "id:BIGINT id:DATE x", ["column 'x' is new"]),
        ("id:BIGINT", "id", []),
        ("id", "id:BIGINT", []),
        ("id name", "", ["column 'id' is missing", "column 'name' is missing"]),
        ("", "id", []),
        ("-", "id", []),
        ("id", "-", []),
    ],
)  # fmt: skip
def test_each_change_of_a_file_is_named(old: str, new: str, texts: list[str]) -> None:
    assert changes({"a.csv": old}, {"a.csv": new}) == [f"a.csv: {text}" for text in texts]


@pytest.mark.parametrize(
    ("path", "than"),
    [
        ("e-2026-10.csv", ""),
        ("e-2026-11.csv", "e-2026-10.csv"),
        ("e-2027-1.csv", "e-2026-10.csv"),
        ("e-2026-10.parquet", ""),
        ("e-2026-11.parquet", "e-2026-10.csv"),
        ("other.csv", None),
        ("sub/e-2026-11.csv", None),
        ("2025/e.csv", "2024/e.csv"),
    ],
)
def test_new_path_is_compared_with_the_last_one_that_differs_in_digits(
    path: str, than: str | None
) -> None:
    before = {
        "e-2026-9.csv": "old", "e-2026-10.csv": "id", "e-2026-08.csv": "older", "2024/e.csv": "id",
    }  # fmt: skip
    end = f" (compared with {than})" if than else ""
    texts = [] if than is None else [f"{path}: column 'x' is new{end}"]
    assert changes(before, {path: "id x"}) == texts


def test_path_is_compared_with_itself_also_where_its_group_differs() -> None:
    before = {"e-1.csv": "id", "e-2.csv": "id x"}
    assert changes(before, {"e-1.csv": "id", "e-2.csv": "id x", "e-3.csv": "id x"}) == []


def test_first_data_defines_the_columns() -> None:
    assert drifts(None, manifest({"e-1.csv": "id", "e-2.csv": "x"})) == []


def test_programs_get_what_people_read() -> None:
    (drift,) = drifts(manifest({"e-1.csv": "id:BIGINT"}), manifest({"e-2.csv": "id:DATE"}))
    assert drift.data() == {
        "path": "e-2.csv", "change": "type", "column": "id", "old": "BIGINT", "new": "DATE",
        "than": "e-1.csv",
    }  # fmt: skip


def test_list_is_bounded() -> None:
    names = " ".join(f"c{number}" for number in range(13))
    texts = listed(drifts(manifest({"a.csv": names}), manifest({"a.csv": ""})))
    assert len(texts) == 11
    assert texts[-1] == "3 more"
