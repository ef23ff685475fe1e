"""Each place in the code that makes an error: what failed and why, and what to do."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from docker.tools.errors_page import Site, page, sites
from tasks.fetch import errors
from tasks.result import Result

ROOT = Path(__file__).parents[2]
KINDS = [
    kind
    for kind in vars(errors).values()
    if inspect.isclass(kind) and issubclass(kind, errors.LighterageError)
]
SPECIFIC = {errors.ConfigError, errors.HostKeyError, errors.AuthError, errors.BusyError}
"""Kinds whose errors each need their own advice: a default cannot name what is wrong."""


@pytest.fixture(scope="module")
def found() -> list[Site]:
    """Give the places in the code."""
    return list(sites(ROOT))


def test_all_places_are_found(found: list[Site]) -> None:
    files = {site.place.partition(":")[0] for site in found}
    assert len(found) > 200
    assert {
        "tasks/settings.py",
        "tasks/fetch/ssh/errors.py",
        "tasks/fetch/archives/zip.py",
    } <= files
    kinds = {site.kind for site in found}
    assert kinds == set(KINDS), "a kind that nothing raises, or one that is not found"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_each_kind_says_what_to_do(kind: type[errors.LighterageError]) -> None:
    error = kind("x.zip: is missing")
    assert error.advice == kind.default_advice != ""
    assert str(error) == "x.zip: is missing"
    error = kind("x.zip: is missing", advice="create it")
    assert (error.text, error.advice) == ("x.zip: is missing", "create it")
    assert str(error) == "x.zip: is missing: create it"


def test_each_place_says_what_to_do(found: list[Site]) -> None:
    missing = [site for site in found if site.text and site.kind in SPECIFIC and not site.advice]
    assert not missing


def test_texts_and_advice_are_parts_of_one_line(found: list[Site]) -> None:
    for site in found:
        for text in (site.text, site.advice, site.kind.default_advice):
            assert text == text.strip().removesuffix(".").removesuffix(":"), site
            assert "\n" not in text, site
        assert site.advice[:1] in {"", "-", "{"} or site.advice[0].islower(), site
        assert "set " not in site.text.partition(": ")[2][:4], f"advice is in the text: {site}"


def test_page_has_each_text_under_its_exit_code(found: list[Site]) -> None:
    sections = page(found).split("\n## Exit code ")
    codes = [int(section.split(":")[0]) for section in sections[1:]]
    assert codes == sorted(codes)
    assert set(codes) == {kind.exit_code for kind in KINDS if kind.exit_code > 1}
    lines = [
        line for line in page(found).splitlines() if line.startswith("| {where}: no such file")
    ]
    assert lines == [
        "| {where}: no such file or directory on the host "
        f"| {errors.MissingError.default_advice} |"
    ]


def test_texts_from_a_host_stay_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    error = errors.RemotePathError("a\nb: is missing", advice="rename a\x1bb")
    assert (error.text, error.advice) == ("a\\nb: is missing", "rename a\\x1bb")
    assert Result("line", None).fail(3, error.kind, error.text, error.advice) == 3
    out, err = capsys.readouterr()
    assert err == f"lighterage: remote path: {error}\n"
    assert '"error": "a\\\\nb: is missing", "advice": "rename a\\\\x1bb"' in out
