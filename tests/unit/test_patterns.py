"""Patterns of the arrival: dates in names, and the names of marker files."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.fetch.errors import ConfigError
from tasks.fetch.patterns import AfterAction, DatePattern, Marker
from tasks.resolve import resolve
from tasks.settings import convert


@pytest.mark.parametrize(
    ("pattern", "path", "date"),
    [
        ("%Y-%m-%d", "2025-01-01/a-2026-02-03.zip", "2026-02-03"),
        ("%Y-%m-%d", "a-2026-02-30-2026-03-01.zip", "2026-03-01"),
        ("%Y-%m-%d", "a-2026-13-01.zip", None),
        ("%Y%m%d", "a20260203.zip", "2026-02-03"),
        ("%Y%m%d", "a120260203.zip", None),
        ("%Y%m%d", "a202602031.zip", None),
        ("%d%b%y", "a_03Feb26.zip", "2026-02-03"),
        ("%Y.%m", "a2026x02.zip", None),
        ("100%%-%Y-%j", "100%-2026-034.zip", "2026-02-03"),
        ("%Y", "no date", None),
    ],
)
def test_date_in_a_name(pattern: str, path: str, date: str | None) -> None:
    found = DatePattern.parse(pattern).date_in(path)
    assert (found and f"{found:%Y-%m-%d}") == date


@pytest.mark.parametrize("text", ["%m-%d", "date", "%Y-%q", "%Y-%Y", "%Y%", 5, True])
def test_what_is_no_date_pattern_is_refused(text: object) -> None:
    with pytest.raises(ConfigError, match="expected a date such as %Y-%m-%d"):
        convert("date_pattern", text, "config.yaml")


@pytest.mark.parametrize("text", ["*", "*.*", ".", "../done", "in/*.done", "?.done", "[a]", 5])
def test_what_is_no_marker_is_refused(text: object) -> None:
    with pytest.raises(ConfigError, match="expected a name such as _SUCCESS"):
        convert("marker", text, "config.yaml")


@pytest.mark.parametrize("text", ["", "move", "move:", "move:/", "remove", "delete:x", "Keep "])
def test_what_is_no_action_after_a_landing_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="expected keep, delete, or move:FOLDER"):
        convert("after", text, "config.yaml")


def test_folder_of_a_move() -> None:
    assert AfterAction.parse("move:/a:b/").folder == "/a:b"
    assert AfterAction.parse("delete").folder == ""


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("common: {after: delete}", "keep"),
        ("tasks: {2: {after: delete}}", "keep"),
        ("variants: {dev: {after: delete}}\ntasks: {2: {after: 'move:x'}}", "delete"),
        ("tasks: {2: {after: delete, dev: {after: 'move:x'}}}", "move:x"),
        ("variants: {dev: {after: delete}}\ntasks: {2: {after: keep}}", "keep"),
    ],
)
def test_after_applies_to_dev_only_where_it_is_set_for_dev(
    tmp_path: Path, text: str, value: str
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(text)
    rows = {row[0]: row[1:] for row in resolve("2", {}, config_file=config, environ={}).rows()}
    assert rows["after"][0] == value
    is_ignored = value == "keep" and "keep" not in text
    assert ("does not apply to dev" in rows["after"][1]) == is_ignored
    arguments = {"after": "delete"}
    assert resolve("2", arguments, config_file=config, environ={}).settings.after == "delete"


def test_empty_pattern_is_none() -> None:
    assert convert("marker", "", "x") == convert("date_pattern", "", "x") == ""


def test_places_of_a_marker() -> None:
    assert Marker("*.done").places("in/a.tar.gz", "a") == ["in/a.tar.gz.done", "in/a.done"]
    assert Marker("_SUCCESS").places("a.zip", "a") == ["_SUCCESS"]
    assert Marker("*.done").is_name_of("in/a.done")
    assert not Marker("_SUCCESS").is_name_of("in/a_SUCCESS")
