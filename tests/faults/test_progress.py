"""Progress: the bar and the lines, in a real terminal, of real downloads."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

import archives
from client import Client, tree, wait_for
from sshd import Sshd
from tasks.fetch import progress
from tasks.fetch.progress import Progress

SIZE = 3_000_000
MEMBERS = {"a.csv": archives.noise(SIZE)}
FRAME = re.compile(r"(\d+) %\)?, (\d+\.\d kB|\d+\.\d MB|\d+ bytes)/s, (\d+|\?) s left$")


# --- counting -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "counts"),
    [
        pytest.param(
            [("start", 100, 66), ("add", 30, 0), ("add", 4, 0), ("finish", 100, 0)],
            [66, 96, 100, 100],
            id="bytes of an earlier run count as done",
        ),
        # the tail of a zip is read before its beginning, and again in its place
        pytest.param(
            [("add", 10, 0), ("start", 50, 0), ("add", 50, 0), ("finish", 50, 0), ("add", 10, 0),
             ("start", 50, 0)],
            [0, 0, 50, 50, 50, 50],
            id="bytes outside of a file do not count",
        ),
        pytest.param(
            [("start", 60, 0), ("add", 60, 0), ("start", 60, 0), ("add", 90, 0), ("finish", 60, 0)],
            [0, 60, 0, 60, 60],
            id="a file that is downloaded again counts once",
        ),
        pytest.param(
            [("finish", 40, 0), ("start", 60, 0), ("finish", 60, 0)],
            [40, 40, 100],
            id="a file that is not downloaded counts as done",
        ),
    ],
)  # fmt: skip
def test_count_of_bytes(steps: list[tuple[str, int, int]], counts: list[int]) -> None:
    """After each step: `start size resumed`, `add count _`, `finish size _`."""
    counter, found = Progress("x", 100), []
    for what, first, second in steps:
        if what == "start":
            counter.start("x", first, second)
        else:
            getattr(counter, what)(first)
        found.append(counter.count)
    assert found == counts


@pytest.mark.parametrize("total", [0, 1, 10**15])
@pytest.mark.parametrize("width", [31, 39, 79, 200])
def test_line_fits_and_ends_with_rate_and_remaining_time(total: int, width: int) -> None:
    for name in ("a", "exports/" + "long/" * 40 + "a.zip", "データ" * 30):
        bar = progress._Bar(name, total)
        bar.bar.disable = True
        for count in (0, total // 3, total):
            bar.start(total, count)
            bar.add(0)
            line = bar.line(width)
            assert progress._columns(line) <= width
            assert line.endswith(" s left")
            assert "/s, " in line


def test_lines_end_at_the_total(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    with progress.progress("x", 100, "lines") as bar:
        bar.start(100, 50)
        bar.add(20)
        bar.add(30)
        bar.finish(100)
    lines = capsys.readouterr().err.splitlines()
    assert "70 bytes of 100 bytes (70 %)" in lines[1]
    assert "100 bytes of 100 bytes (100 %)" in lines[-1]
    assert "-0" not in "".join(lines)


# --- in a terminal --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(server: Sshd) -> Sshd:
    """Add a zip and a tar of 3 MB, and the zip below a long path."""
    long = server.home / "quite/long/names/of/folders"
    long.mkdir(parents=True)
    for file in (server.home / "x.zip", long / "with-a-name-of-its-own.zip"):
        file.write_bytes(archives.zipped(MEMBERS, zipfile.ZIP_STORED))
    (server.home / "x.tar").write_bytes(archives.tarred(MEMBERS))
    return server


@pytest.fixture
def client(tmp_path: Path, server: Sshd) -> Client:
    """Return a client of the server, slow enough for a bar."""
    return Client(tmp_path, server, {"max-rate": "2MB/s", "progress": "auto"})


@dataclass
class Shown:
    """What a terminal showed of a run."""

    code: int
    frames: list[str]

    def shares(self) -> list[int]:
        """Give the percentages, in their order; each frame has a rate and a time left."""
        found = []
        for frame in self.frames:
            match = FRAME.search(frame)
            assert match, frame
            found.append(int(match[1]))
        return found


def on_terminal(client: Client, columns: int, task: str, path: str, *flags: str) -> Shown:
    """Run a task with its standard error on a terminal of so many columns."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, columns, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "tasks", *client.arguments(task, path, *flags)],
        cwd=client.folder, env=client.env(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    text = io.BytesIO()
    try:
        while block := _read(ours):
            text.write(block)
    finally:
        os.close(ours)
        code = process.wait(60)
    shown = text.getvalue().decode().replace("\n", "\r").split("\r")
    return Shown(code, [frame.rstrip() for frame in shown if frame.strip()])


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 2**16)
    except OSError:  # the other side has closed it: EIO, on Linux
        return b""


@pytest.mark.sshd
@pytest.mark.parametrize("columns", [40, 80, 200])
def test_bar_shows_rate_and_remaining_time_at_any_width(client: Client, columns: int) -> None:
    name = "quite/long/names/of/folders/with-a-name-of-its-own.zip"
    shown = on_terminal(client, columns, "1", name)
    assert shown.code == 0, shown.frames
    assert max(map(len, shown.frames)) < columns
    assert shown.shares() == sorted(shown.shares())
    assert any("its-own.zip: " in frame for frame in shown.frames) is (columns > 40)


@pytest.mark.sshd
@pytest.mark.parametrize(("task", "path"), [("1", "x.zip"), ("2", "x.tar")])
def test_archive_ends_at_its_total(client: Client, task: str, path: str) -> None:
    """The end of a zip above 1 MiB is read first, and counts once."""
    shown = on_terminal(client, 80, task, path)
    assert shown.code == 0, shown.frames
    assert len(shown.frames) > 5
    assert shown.shares()[-1] == 100
    assert all(frame.count(" of 3.0 MB") == 1 for frame in shown.frames)


@pytest.mark.sshd
@pytest.mark.parametrize(("task", "path"), [("1", "x.zip"), ("2", "x.tar")])
def test_resumed_archive_ends_at_its_total(client: Client, task: str, path: str) -> None:
    process = client.start(task, path, "--keep-archive", "--progress=none")
    parts = client.target.parent
    wait_for(lambda: sum(p.stat().st_size for p in parts.glob(".data.part/*")) > SIZE // 2)
    process.kill()
    process.communicate()
    shown = on_terminal(client, 80, task, path, "--keep-archive")
    assert shown.code == 0, shown.frames
    assert shown.shares()[-1] == 100
    assert max(shown.shares()[:3]) >= 50, "the partial download counts from the start"
    assert tree(client.target)["a.csv"] == MEMBERS["a.csv"]
