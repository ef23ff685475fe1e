"""The examples of docs/output.md and README are what a run prints, but for figures and places."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

import archives
from client import Client, put, tarred
from sshd import Sshd
from terminal import Terminal
from tree import REPOSITORY

PAGE = (REPOSITORY / "docs/output.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(?:text|json)\n(.*?)\n```$", re.MULTILINE | re.DOTALL)
LIVE, NARROW, PLAIN, LANDED, CHANGED, UNCHANGED, FAILED, LOG = BLOCK.findall(PAGE)
PATH = "datasets/events.tar.gz"
SIZE = 200_000


@pytest.fixture
def client(tmp_path: Path, server: Sshd) -> Client:
    """Return a client of prod."""
    options: dict[str, str | None] = {"file-save-path": "data/task_2/events", "host-keys": "known"}
    return Client(tmp_path, server, options, {"LIGHTERAGE_VARIANT": "prod"})


def masked(text: str) -> str:
    """Replace figures, times, and where the host is."""
    text = re.sub(r"[\w.-]+@[\w.-]+:\d+:", "HOST:", text)
    text = re.sub(r"/\S*(?=datasets\b)", "", text)
    text = re.sub(r"20\d\d-[\dT:.+-]+\d", "TIME", text)
    text = re.sub(r"[\d.]+ (bytes|kB|MB|GB)", "SIZE", text)
    text = re.sub(r"in [\d.]+ s \(", "in N s (", text)
    return text.strip()


def pack(client: Client, **files: int) -> None:
    """Write the archive: CSVs by the number of the noise in each."""
    noise = archives.noise(SIZE + max(files.values()))
    members = {f"{name}.csv": noise[start:][:SIZE] for name, start in files.items()}
    put(client.server.home, {PATH: tarred(members)})


def test_examples_of_a_result_are_what_runs_print(client: Client) -> None:
    pack(client, north=0, south=1, west=2)
    first = client.run("2", PATH).out
    assert masked(first) == masked(LANDED)
    assert LANDED in (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert masked(client.run("2", PATH).out) == masked(UNCHANGED)
    pack(client, north=0, south=5, east=6)
    assert masked(client.run("2", PATH).out) == masked(CHANGED)


def test_changes_are_counted_by_checksum_with_their_bytes(client: Client) -> None:
    pack(client, north=0, south=1, west=2)
    assert "changes" not in client.report("2", PATH)
    pack(client, north=0, south=5, east=6)
    changes = client.report("2", PATH)["changes"]
    assert changes.pop("since").startswith("20")
    assert changes == {
        name + unit: count
        for name in ("added", "changed", "removed", "unchanged")
        for unit, count in (("", 1), ("_bytes", SIZE))
    }
    assert client.report("2", PATH, "--force")["changes"]["unchanged"] == 3


def test_example_of_an_error_is_what_a_run_prints(client: Client) -> None:
    done = client.run("2", "datasets/missing.tar.gz")
    assert masked(done.err) == masked(FAILED)
    done = client.run("2", "datasets/missing.tar.gz", "--log-format=json")
    shown, example = json.loads(done.err), json.loads(LOG)
    assert list(shown) == list(example)
    for name in (
        "level",
        "logger",
        "message",
        "task",
        "variant",
        "exit_code",
        "kind",
        "error",
        "advice",
    ):
        assert masked(str(shown[name])) == masked(str(example[name]))
    for name in ("time", "run_id"):
        assert len(shown[name]) == len(example[name])


@pytest.mark.parametrize(("columns", "example"), [(120, LIVE), (40, NARROW)])
def test_examples_of_live_lines_are_what_a_terminal_shows(
    client: Client, columns: int, example: str
) -> None:
    noise = archives.noise(1_500_000)
    put(client.server.home, {f"five/2026/0{n}/north/small.csv": noise for n in range(5)})
    command = [sys.executable, "-m", "tasks"]
    command += client.arguments("3", "five", "--max-rate=4MB/s", "--log-level=CRITICAL")
    shown = Terminal(columns).run(command, client.folder, client.env())
    assert shown.code == 0
    frames = {form("\n".join(frame)) for frame in shown.frames()}
    assert form(example) in frames


def form(text: str) -> str:
    """Replace names, figures and bars; keep the columns of what remains."""
    text = re.sub(r"^\.\.\..*?: ", "NAME: ", text, flags=re.MULTILINE)
    text = re.sub(r"\|#* *\|", "|BAR|", text)
    text = re.sub(r"[\d.]+ (kB|MB)", "SIZE", text)
    return re.sub(r" +", " ", re.sub(r"\d+", "N", text))


def test_example_of_a_line_of_the_log_is_what_is_logged(client: Client) -> None:
    """LINE_SECONDS is five: a run that takes seven has one line."""
    put(client.server.home, {PATH: tarred({"a.csv": archives.noise(700_000)})})
    done = client.run("2", PATH, "--max-rate=0.1MB/s", "--log-level=CRITICAL")
    text = re.sub(r"[\d.]+ (kB|MB|GB)", "SIZE", f"{done.err.splitlines()[0]}\n{PLAIN}")
    shown, example = re.sub(r"\d+", "N", re.sub(r"/\S*(?=datasets\b)", "", text)).splitlines()
    assert shown == example
