"""The page of `make report` in a real browser: widths, colors, requests and messages."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import report_facts as made_up
from browser import Browser, browser
from docker.tools.report.page import page

PAGES = {"usual": made_up.usual, "hostile": made_up.hostile, "empty": made_up.empty}
# Contrast of each text with the nearest background behind it (WCAG 2, success criterion 1.4.3).
CONTRASTS = """(() => {
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const rgba = color => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const luminance = color => {
    const [r, g, b] = color.slice(0, 3).map(x => x / 255)
      .map(x => x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = element => {
    for (; element; element = element.parentElement) {
      const color = rgba(getComputedStyle(element).backgroundColor);
      if (color[3] === 255) return color;
      if (color[3] !== 0) throw new Error("a background that is not opaque");
    }
    throw new Error("no background");
  };
  document.querySelectorAll("details").forEach(element => { element.open = true; });
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const found = [];
  while (walker.nextNode()) {
    const text = walker.currentNode.data.trim(), element = walker.currentNode.parentElement;
    if (!text) continue;
    const style = getComputedStyle(element);
    const color = rgba(element.closest("svg") ? style.fill : style.color);
    const [light, dark] = [luminance(color), luminance(behind(element))].sort((a, b) => b - a);
    found.push([(light + 0.05) / (dark + 0.05), text.slice(0, 40)]);
  }
  return found.sort((a, b) => a[0] - b[0]);
})()"""
WIDER = """[...document.querySelectorAll("body *")].filter(
  element => !element.closest(".box *, svg *")
    && element.getBoundingClientRect().right > document.documentElement.clientWidth
).map(element => element.outerHTML.slice(0, 80))"""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """Give a browser, or skip loudly."""
    with browser("the page of make report in a browser (make test-report)") as found:
        yield found


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Give the pages, in a folder with a space in its name."""
    folder = tmp_path_factory.mktemp("the pages")
    for name, facts in PAGES.items():
        (folder / f"{name}.html").write_text(page(facts(), made_up.NOW), encoding="utf-8")
    return {name: folder / f"{name}.html" for name in PAGES}


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [320, 390, 1280])
def test_page_fits_and_is_readable_and_asks_for_nothing(
    chromium: Browser, pages: dict[str, Path], name: str, width: int, dark: bool
) -> None:
    chromium.open(pages[name], width=width, dark=dark)
    size: Any = chromium.evaluate(
        "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    assert size[0] == size[1] <= width
    assert chromium.evaluate(WIDER) == []
    chromium.screenshot(pages[name].with_name(f"{name}-{width}-{'dark' if dark else 'light'}.png"))
    ratio, text = chromium.evaluate(CONTRASTS)[0]
    assert ratio >= 4.5, text
    assert chromium.evaluate(WIDER) == [], "with all details open"
    light = chromium.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (light == "rgb(255, 255, 255)") is not dark
    assert chromium.evaluate("document.title") == "Lighterage report"
    requests = [event["request"]["url"] for event in chromium.named("Network.requestWillBeSent")]
    assert requests == [pages[name].as_uri()]
    messages = ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")
    assert chromium.named(*messages, "Audits.issueAdded") == []


def test_policy_of_the_page_forbids_scripts_styles_and_requests(
    chromium: Browser, pages: dict[str, Path], tmp_path: Path
) -> None:
    """The test above sees no message only since there is nothing to forbid."""
    added = (
        "<script>document.title = 'run'</script><p style='color: red'>x</p>"
        "<style>p {color: red}</style><img src='http://127.0.0.1:9/x.png' onerror='alert(1)'>"
    )
    changed = tmp_path / "changed.html"
    text = pages["usual"].read_text(encoding="utf-8")
    changed.write_text(text.replace("<main>", f"<main>{added}"), encoding="utf-8")
    chromium.open(changed, width=1280)
    assert chromium.evaluate("document.title") == "Lighterage report"
    color = "getComputedStyle(document.querySelector('main p')).color"
    assert chromium.evaluate(color) != "rgb(255, 0, 0)"
    issues = [event["issue"]["code"] for event in chromium.named("Audits.issueAdded")]
    assert issues.count("ContentSecurityPolicyIssue") >= 4


def test_headings_captions_and_regions_have_names(
    chromium: Browser, pages: dict[str, Path]
) -> None:
    chromium.open(pages["usual"], width=1280)
    chromium.call("Accessibility.enable")
    nodes = chromium.call("Accessibility.getFullAXTree")["nodes"]
    roles = {"table", "region", "image", "heading", "columnheader", "rowheader", "navigation"}
    found: dict[str, list[str]] = {role: [] for role in roles}
    for node in nodes:
        role = node.get("role", {}).get("value")
        if role in roles and not node["ignored"]:
            found[role].append(node.get("name", {}).get("value", ""))
    assert all(names and all(names) for names in found.values()), found
    levels = chromium.evaluate("[...document.querySelectorAll('h1,h2,h3')].map(x => +x.tagName[1])")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert chromium.evaluate("document.documentElement.lang") == "en"
