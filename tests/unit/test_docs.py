"""README and docs: links lead to something, and each make target that they name exists."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from makefile import targets
from tree import REPOSITORY

PAGES = sorted([*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md")])
NAMES = [str(page.relative_to(REPOSITORY)) for page in PAGES]
LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`[^`\n]+`")
TARGET = re.compile(r"\bmake ((?:[a-z][a-z0-9-]+ ?)+)")
VARIANT = re.compile(r"(?:dev|prod)-")


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    text = FENCED.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", NAMES)
def test_each_link_leads_to_a_file_and_a_heading(name: str) -> None:
    page = REPOSITORY / name
    for link in LINK.findall(FENCED.sub("", page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), link
        if anchor:
            assert anchor in anchors(linked), link


@pytest.mark.parametrize("name", NAMES)
def test_each_make_target_that_is_named_exists(name: str) -> None:
    text = (REPOSITORY / name).read_text(encoding="utf-8")
    known = targets()
    for code in [*FENCED.findall(text), *CODE.findall(FENCED.sub("", text))]:
        for words in TARGET.findall(code):
            goal = words.split()[0]
            assert goal in known or VARIANT.sub("", goal) in known, f"make {goal}"


def test_each_page_that_another_links_to_is_one_of_the_site() -> None:
    outside = runpy.run_path(str(REPOSITORY / "docs/site.py"))["PAGES"].values()
    for page in PAGES:
        if page.parent.name != "docs" and page.name not in outside:
            continue
        for link in LINK.findall(FENCED.sub("", page.read_text(encoding="utf-8"))):
            path = (page.parent / link.partition("#")[0]).resolve()
            if path.suffix == ".md" and ":" not in link:
                assert path.parent.name == "docs" or path.name in outside, f"{page.name}: {link}"


def test_readme_stays_short() -> None:
    assert len((REPOSITORY / "README.md").read_text(encoding="utf-8").splitlines()) <= 200


def test_the_picture_is_of_its_source() -> None:
    source = (REPOSITORY / "docs/flow.dot").read_text(encoding="utf-8")
    drawn = (REPOSITORY / "docs/flow.svg").read_text(encoding="utf-8")
    labels = re.findall(r'label="([^"]+)"', source)
    lines = {line.strip() for label in labels for line in label.split("\\n")}
    shown = {text.strip() for text in re.findall(r"<text[^>]*>([^<]*)</text>", drawn)}
    assert lines == {text.replace("&#45;", "-").replace("&#160;", "").strip() for text in shown}
