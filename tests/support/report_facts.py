"""Made-up facts for the page of make report, among them names that try to leave their place."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from docker.tools.report.data import ColumnList, Data, Facts, File, Image, Row, Task, VariantFacts
from docker.tools.size import Part
from tasks.fetch.manifest import Column
from tasks.history import Run

NOW = datetime(2026, 3, 30, 6, 0, tzinfo=UTC)
SCRIPT = "<script>document.title='run'</script>\"'><img src=x onerror=alert(1)>{{ 7 * 7 }}"
RTL = "a\u202egnp.exe\u2066b"
LONG = "x" * 3000
HOSTILE = (SCRIPT, RTL, LONG, "\x1b[31mred\x00\ufffe", "تصدير.csv", "</title></style>", "&lt;b&gt;")


def run(number: int = 0, **values: Any) -> Run:
    """Make a run that landed, or with other values; each number is a day."""
    started = NOW - timedelta(days=30 - number)
    whole = {
        "task": "2", "variant": "prod", "started": started, "finished": started, "seconds": 2.0,
        "status": "landed", "exit_code": 0, "files": 3, "bytes": 14_100_000 + 50_000 * number,
        "fetched_bytes": 3_000_000, **values,
    }  # fmt: skip
    return Run(**whole)


def failed(number: int, error: str, **values: Any) -> Run:
    """Make a run that failed."""
    facts = {"bytes": 0, "fetched_bytes": 0, "files": 0, "kind": "network", "retries": 3}
    return run(number, status="failed", exit_code=5, error=error, **{**facts, **values})


def data(*paths: str, **values: Any) -> Data:
    """Make what a target has: files of these paths, each with three columns."""
    columns = [Column("id", "BIGINT"), Column("name"), *(Column(name, name) for name in paths)]
    whole = {
        "target": "data/task_2/events", "source": "prod@data.example:exports/events.tar.gz",
        "finished": "2026-03-30T05:00:02+00:00", "count": len(paths), "bytes": 70 * len(paths),
        "files": [File(path, 70) for path in paths],
        "columns": [ColumnList([*paths], columns, len(columns))], **values,
    }  # fmt: skip
    return Data(**whole)


def variant(name: str, *tasks: Task) -> VariantFacts:
    """Make a variant with tasks."""
    return VariantFacts(name, tasks)


def hostile() -> Facts:
    """Make facts that have this name in each place that a host, a user or an image names."""
    joined = " ".join(HOSTILE)
    runs = [run(number) for number in range(9)]
    runs += [failed(9 + number, text, kind=text) for number, text in enumerate(HOSTILE)]
    task = Task("2", runs, [*HOSTILE], f"Task 2: {joined}", data(*HOSTILE, target=joined))
    same = Task("2", [run(4, variant="dev")], [], "", data(SCRIPT, source=joined, finished=SCRIPT))
    other = Task(SCRIPT, [run(4, variant="dev", task=SCRIPT)], [], "")
    rows = [Row(text, index % 2 == 0, [[*HOSTILE], [text]]) for index, text in enumerate(HOSTILE)]
    parts = [Part("package", text, 9_000_000 - index) for index, text in enumerate(HOSTILE)]
    images = [Image(SCRIPT, 60_000_000, parts, [(text, 70) for text in HOSTILE])]
    images += [Image("lighterage-dev", 9_000_000, parts[:2], [("COPY", 9_000_000)])]
    found = [variant("dev", same, other), variant("prod", task), VariantFacts("x", (), joined)]
    return Facts(joined, "docker", found, ["dev", "prod"], rows, images, [joined])


def usual() -> Facts:
    """Make facts of some weeks of runs, as a team has them."""
    tasks = [
        Task(
            str(task),
            [
                failed(day, "data.example:22: no answer in 30 s", task=str(task))
                if day in {7, 19}
                else run(day, task=str(task), seconds=2 + day % 3 / 4, retries=int(day % 11 == 3))
                for day in range(24)
            ],
            [],
            f"Task {task}: the export of a day.",
            data("2026/01/events.csv", "2026/02/events.csv", target=f"data/task_{task}/events"),
        )
        for task in (1, 2)
    ]
    tried = [run(day, variant="dev", fetched_bytes=20_000, bytes=69_000) for day in (2, 21, 22)]
    rows = [
        Row("log level", True, [["DEBUG"], ["WARNING"]]),
        Row("ports", True, [["127.0.0.1:5678:5678", "127.0.0.1:5679:5678"], ["none"]]),
        Row("timeout", False, [["30"], ["30"]]),
    ]
    parts = [Part("package", f"package-{size}", size * 1_000_000) for size in range(22, 2, -1)]
    images = [Image(f"lighterage-{name}", 250_000_000, parts, [("RUN install", 250_000_000)])
              for name in ("dev", "prod")]  # fmt: skip
    found = [variant("dev", Task("2", tried, [], "")), variant("prod", *tasks)]
    return Facts("lighterage", "docker", found, ["dev", "prod"], rows, images)


def empty() -> Facts:
    """Make facts of a fresh clone on a machine without an engine."""
    tasks = [Task("1", [], [], "Task 1: one zip archive."), Task("2", [], [])]
    note = "no container engine answers here; make doctor says what it takes"
    return Facts(
        "lighterage", "host", [variant("dev", *tasks), variant("prod", *tasks)], notes=[note]
    )
