"""`make report`: what is read of each variant, and what the page says of it."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest

import landed
import report_facts as made_up
from docker.setup.project import Failure
from docker.tools.context import Context, Variant
from docker.tools.report import report
from docker.tools.report.data import Facts, Task, VariantFacts, rows, variant_facts
from docker.tools.report.page import page, task_views
from tree import NO_ENGINE, Tree

PLAIN = {
    "html", "head", "meta", "title", "style", "body", "header", "h1", "h2", "h3", "p", "nav", "a",
    "main", "section", "div", "figure", "figcaption", "table", "caption", "thead", "tbody", "tr",
    "th", "td", "time", "span", "code", "bdi", "br", "details", "summary", "svg", "g", "path",
    "line", "text",
}  # fmt: skip


class Page(HTMLParser):
    """What a page has: its elements with their attributes, and its text by element."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """Give a copy of the repository, in a folder with a space in its name."""
    return Tree(tmp_path / "a clone")


def made(facts: Facts) -> Page:
    return Page(page(facts, made_up.NOW))


def record(tree: Tree, variant: str, task: str, *lines: bytes) -> Path:
    """Write the history of a task."""
    path = tree.folder / f"data/.history/{variant}/task-{task}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\n".join([*lines, b""]))
    return path


def read(tree: Tree, variant: str) -> dict[str, Task]:
    """Return the tasks of a variant, as they are read without an engine."""
    found = variant_facts(Context(tree.folder).variant(variant))
    assert not found.error
    return {task.name: task for task in found.tasks}


def test_runs_and_files_are_read_where_the_tasks_run(tree: Tree) -> None:
    line = msgspec.json.encode(made_up.run())
    record(tree, "prod", "2", line, b"{broken", line)
    record(tree, "prod", "77", line)
    landed.land(tree.folder / "data/task_2/events", {"a.csv": b"1", "b/<c>.csv": b"22"})
    found = read(tree, "prod")
    assert found["2"].runs == [made_up.run()] * 2
    assert list(found) == ["1", "2", "3", "77"], "also a task that has been removed"
    data = found["2"].data
    assert data
    assert (data.count, data.bytes, data.target) == (2, 3, "data/task_2/events")
    assert [(file.path, file.size) for file in data.files] == [("a.csv", 1), ("b/<c>.csv", 2)]
    assert not read(tree, "dev")["2"].runs, "the runs of another variant"


def test_what_cannot_be_read_of_a_task_is_in_the_report_with_the_rest(tree: Tree) -> None:
    record(tree, "dev", "1", b"").unlink()
    (tree.folder / "data/.history/dev/task-1.jsonl").mkdir()
    record(tree, "dev", "2", msgspec.json.encode(made_up.run()))
    config = tree.folder / "config.yaml"
    config.write_text(config.read_text().replace("data/task_3/events", "ftp://x/y"))
    found = read(tree, "dev")
    assert found["1"].errors == [
        "data/.history/dev/task-1.jsonl: Is a directory: make it readable"
    ]  # fmt: skip
    assert len(found["2"].runs) == 1
    assert "no store for ftp://" in found["3"].errors[0]


def test_a_variant_that_cannot_be_read_has_the_reason(tree: Tree) -> None:
    (tree.folder / "config.yaml").write_text("common: {timeout: never}\n")
    found = variant_facts(Context(tree.folder).variant("dev"))
    assert "timeout" in found.error
    assert not found.tasks


def test_make_report_prints_the_path_of_a_page_without_an_engine(tree: Tree) -> None:
    record(tree, "prod", "2", msgspec.json.encode(made_up.failed(3, "no <answer>")))
    done = tree.make("report", env={**NO_ENGINE, "RUNNER": "host"})
    assert (done.returncode, done.stdout) == (0, ".lighterage/report.html\n"), done.stderr
    assert "RUNNER=host uses no images" in done.stderr
    text = (tree.folder / ".lighterage/report.html").read_text(encoding="utf-8")
    assert "no &lt;answer&gt;" in text
    assert "No image is shown: RUNNER=host uses no images." in Page(text).text
    assert "knows no --nonsense" in tree.refused("report", "ARGS=--nonsense", "RUNNER=host")


def test_one_variant_may_be_named(tree: Tree, capsys: pytest.CaptureFixture[str]) -> None:
    context = Context(tree.folder)
    assert report(context, context.variant("prod")) == 0
    text = (tree.folder / ".lighterage/report.html").read_text(encoding="utf-8")
    assert "● prod" in text
    assert "dev" not in Page(text).text.partition("Task 1")[0]


@pytest.mark.parametrize("facts", [made_up.hostile, made_up.usual, made_up.empty])
def test_page_has_no_elements_but_its_own_and_loads_nothing(facts: Callable[[], Facts]) -> None:
    found = made(facts())
    assert {tag for tag, _ in found.elements} <= PLAIN
    names = {name for _, attributes in found.elements for name in attributes}
    assert not {name for name in names if name.startswith("on")} | {"src", "style"} & names
    links = [attributes["href"] for _, attributes in found.elements if "href" in attributes]
    identifiers = {attributes.get("id") for _, attributes in found.elements}
    assert links
    assert all(str(link).startswith("#") and str(link)[1:] in identifiers for link in links)


def test_hostile_names_are_shown_as_text_that_keeps_its_place() -> None:
    html = page(made_up.hostile(), made_up.NOW)
    assert not re.search("[\x00\x1b\u202e\u2066]", html)
    text = made(made_up.hostile()).text
    assert made_up.SCRIPT in text, "neither run nor taken for a template"
    assert "a\\u202egnp.exe\\u2066b" in text
    assert "تصدير.csv" in text
    assert "x" * 500 in text
    assert "x" * 501 not in text


def test_each_run_is_in_the_charts_and_failed_runs_have_their_error() -> None:
    found = made(made_up.usual())
    charts = [attributes for tag, attributes in found.elements if tag == "svg"]
    labels = [attributes["aria-label"] for attributes in charts]
    assert labels.count("Retries of 27 runs over time, in UTC") == 1
    assert labels.count("Rate of 22 runs over time, in UTC") == 1, "a failed run has none"
    assert {attributes["role"] for attributes in charts} == {"img"}
    errors = found.text.partition("Failed runs of all tasks")[2].partition("Data")[0]
    assert errors.count("✕ network") == 4
    assert errors.count("data.example:22: no answer in 30 s") == 4
    html = page(made_up.usual(), made_up.NOW)
    assert html.count('fill="var(--failed)"') == 8, "in the charts of duration and retries"


def test_files_and_columns_of_a_task_are_listed() -> None:
    text = made(made_up.usual()).text
    assert "Columns of 2026/01/events.csv and 1 more" in text
    assert re.search(r"id\s*BIGINT\s+name\s*not determined", text)
    data = made_up.data("a.csv", count=300, bytes=5_000)
    task = Task("2", [], [], "", data)
    found = made(Facts("p", "host", [made_up.variant("dev", task), made_up.variant("prod", task)]))
    assert "Files: the first 1 of 300" in found.text
    assert found.text.count("300 files, 5.0 kB, in data/task_2/events") == 1, "of both at once"
    assert "Task 2, dev and prod" in found.text


def test_variants_are_side_by_side_with_differences_marked() -> None:
    text = made(made_up.usual()).text
    assert re.search(r"≠ log level\s*DEBUG\s*WARNING", text)
    same = text.partition("Properties that are the same")[2]
    assert re.search(r"timeout\s*30\s*30", same)
    assert "≠" not in same.partition("Images")[0]


def test_components_of_images_are_drawn_and_listed_without_the_smallest() -> None:
    text = made(made_up.usual()).text
    assert "lighterage-dev: 250.0 MB" in text
    assert text.count("package-22") == 4, "in a chart and a table of each image"
    assert text.count("package-3\n") + text.count("package-3package") == 2, "in the tables only"


def test_nothing_recorded_landed_or_built_is_said() -> None:
    text = made(made_up.empty()).text
    for sentence in (
        "No run is recorded yet: make run TASK=1.", "No failed run is recorded.",
        "Nothing landed yet: make run.", "No image is shown: no container engine answers here",
        "No variants are compared: no container engine answers here",
    ):  # fmt: skip
        assert sentence in text
    unknown = made(Facts("p", "docker", [VariantFacts("prod", error="the volume is locked")]))
    assert "prod: runs and data cannot be read: the volume is locked" in unknown.text


def test_tasks_are_in_the_order_of_their_numbers_with_all_variants() -> None:
    dev = made_up.variant("dev", Task("10", [], []), Task("2", [made_up.run()], ["a reason"]))
    views = task_views(Facts("p", "host", [dev, made_up.variant("prod", Task("9", [], []))]))
    assert [view.name for view in views] == ["2", "9", "10"]
    assert all(list(view.runs) == ["dev", "prod"] for view in views), "a variant keeps its color"
    assert views[0].errors == [("dev", "a reason")]
    assert rows([]) == []


def test_an_engine_that_fails_leaves_runs_and_a_note(tree: Tree, tmp_path: Path) -> None:
    context = Context(tree.folder, docker=("/bin/false",), compose=("/bin/false",))
    assert report(context, *Variant.all(context)) == 0
    text = Page((tree.folder / ".lighterage/report.html").read_text(encoding="utf-8")).text
    assert "prod: runs and data cannot be read: it gave no reason" in text
    assert "No variants are compared: docker/dev/compose.yaml" in text
    with pytest.raises(Failure, match="knows no --all"):
        report(context._replace(args=("--all",)))
