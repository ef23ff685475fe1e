"""Progress: live lines on a terminal, and lines of the log, of real downloads."""

from __future__ import annotations

import re
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

import archives
from client import Client, put, tree, wait_for
from sshd import Sshd
from tasks.fetch import progress
from tasks.fetch.progress import Meter, Progress
from terminal import Terminal, below_cursor, lines

SIZE = 3_000_000
MEMBERS = {"a.csv": archives.noise(SIZE)}
FRAME = re.compile(r"(\d+) %\)?, +(\d+\.\d kB|\d+\.\d MB|\d+ bytes)/s, +(\d+|\?) [sm] left$")


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


NAMES = [
    "a",
    "exports/" + "long/" * 40 + "a.zip",
    "データ" * 30,
    "\U0001f600" * 50,
    "\x1b[2J\n\u202e",
]


@pytest.mark.parametrize("total", [0, 1, 10**12])
@pytest.mark.parametrize("width", [31, 39, 79, 200])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_line_fits_and_ends_with_rate_and_remaining_time(
    total: int, width: int, encoding: str
) -> None:
    for name in NAMES:
        for count in (0, total // 3, total):
            line = Meter(name, total, count, downloaded=min(count, 1000)).line(width, encoding)
            assert progress.columns(line) <= width
            assert len(line.encode(encoding)) > 0
            assert "\x1b" not in line
            assert "\n" not in line
            assert re.search(r"/s, +(\d+|\?) [smh] left$", line)


@pytest.mark.parametrize(
    ("width", "has_name", "has_bar"), [(31, False, False), (39, True, False), (79, True, True)]
)
def test_line_shows_the_end_of_the_name_then_a_bar_where_there_is_room(
    width: int, has_name: bool, has_bar: bool
) -> None:
    line = Meter("exports/2026/events.zip", 100, 50).line(width)
    assert ("s.zip: " in line) is has_name
    assert ("|#" in line) is has_bar


def test_bar_has_no_color_unless_it_is_asked_for() -> None:
    meter = Meter("a.zip", 100, 50)
    plain, colored = meter.line(79), meter.line(79, color=True)
    assert "\x1b" not in plain
    assert colored != plain
    assert re.sub("\x1b\\[\\d+m", "", colored) == plain


def counted(files: int, mode: progress.ProgressMode = "lines") -> None:
    """Count two files of 100 bytes, one of them resumed."""
    with progress.progress("x", 200, mode, files) as bar:
        for name, resumed in (("a", 50), ("b\n", 0)):
            bar.start(name, 100, resumed)
            bar.add(20)
            bar.add(80 - resumed)
            bar.finish(100)


def test_lines_end_at_the_total(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    with caplog.at_level("INFO", logger="tasks.fetch.progress"):
        counted(2)
    assert "x: 70 bytes of 200 bytes (35 %)" in caplog.messages[1]
    assert "200 bytes of 200 bytes (100 %)" in caplog.messages[-1]
    assert "-0" not in "".join(caplog.messages)


def test_lines_of_a_long_run_become_rare(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In ten hours, of which each second downloads a byte."""
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    counts = []
    with (
        caplog.at_level("INFO", logger="tasks.fetch.progress"),
        progress.progress("x", 36000, "lines") as bar,
    ):
        bar.start("x", 36000)
        for second in range(36000):
            now = float(second)
            bar.add(1)
            if second in {60, 3600}:
                counts.append(len(caplog.messages))
    assert counts[0] == 12
    assert counts[1] - counts[0] < 80
    assert 100 < len(caplog.messages) - counts[1] < 250


# --- in a terminal --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(server: Sshd) -> Sshd:
    """Add a zip and a tar of 3 MB, and the zip below a long path."""
    long = server.home / "quite/long/names/of/folders"
    long.mkdir(parents=True)
    for file in (server.home / "x.zip", long / "with-a-name-of-its-own.zip"):
        file.write_bytes(archives.zipped(MEMBERS, zipfile.ZIP_STORED))
    (server.home / "x.tar").write_bytes(archives.tarred(MEMBERS))
    several = {"データ.csv": MEMBERS["a.csv"], "\U0001f600.csv": MEMBERS["a.csv"][: SIZE // 2]}
    put(server.home / "several", {**several, "b.csv": MEMBERS["a.csv"][: SIZE // 2]})
    return server


@pytest.fixture
def client(tmp_path: Path, server: Sshd) -> Client:
    """Return a client of the server, slow enough for a bar."""
    return Client(tmp_path, server, {"max-rate": "2MB/s", "progress": "auto"})


def on_terminal(
    client: Client, columns: int, task: str, path: str, *flags: str,
    on_output: Callable[[Terminal], None] = lambda _: None,
) -> Terminal:  # fmt: skip
    """Run a task on a terminal of so many columns."""
    command = [sys.executable, "-m", "tasks", *client.arguments(task, path, *flags)]
    return Terminal(columns).run(command, client.folder, client.env(), on_output)


def shares(shown: Terminal) -> list[int]:
    """Return the percentages of the last live line of each frame; each has a rate and a time."""
    found = []
    for frame in shown.frames():
        match = FRAME.search(frame[-1])
        assert match, frame
        found.append(int(match[1]))
    return found


class Once:
    """Acts when the output has a text for the first time."""

    def __init__(self, text: bytes, act: Callable[[Terminal], None]) -> None:
        self._text, self._act = text, act
        self.done = False

    def __call__(self, terminal: Terminal) -> None:
        if not self.done and self._text in terminal.output:
            self.done = True
            self._act(terminal)


@pytest.mark.sshd
@pytest.mark.parametrize("columns", [40, 80, 200])
def test_live_line_shows_rate_and_remaining_time_at_any_width(client: Client, columns: int) -> None:
    name = "quite/long/names/of/folders/with-a-name-of-its-own.zip"
    shown = on_terminal(client, columns, "1", name)
    assert shown.code == 0, shown.last()
    assert len(shown.frames()) > 5
    assert {len(frame) for frame in shown.frames()} == {1}
    assert shares(shown) == sorted(shares(shown))
    assert any("n.zip: " in frame[0] for frame in shown.frames())


@pytest.mark.sshd
def test_result_alone_remains_on_the_terminal(client: Client) -> None:
    shown = on_terminal(client, 200, "1", "x.zip")
    assert shown.last()[0] == "task 1 (dev): landed 1 file, 3.0 MB, in out/data"
    assert re.match(
        r"  source: .*x\.zip, 3\.0 MB, in [\d.]+ s \([\d.]+ .B/s\); checked: ", shown.last()[1]
    )
    assert len(shown.last()) == 2


@pytest.mark.sshd
@pytest.mark.parametrize(("task", "path"), [("1", "x.zip"), ("2", "x.tar")])
def test_archive_ends_at_its_total(client: Client, task: str, path: str) -> None:
    """The end of a zip above 1 MiB is read first, and counts once."""
    shown = on_terminal(client, 80, task, path)
    assert shown.code == 0, shown.last()
    assert len(shown.frames()) > 5
    assert shares(shown)[-1] == 100
    assert all(frame[0].count(" of 3.0 MB") == 1 for frame in shown.frames())


@pytest.mark.sshd
@pytest.mark.parametrize(("task", "path"), [("1", "x.zip"), ("2", "x.tar")])
def test_resumed_archive_ends_at_its_total(client: Client, task: str, path: str) -> None:
    process = client.start(task, path, "--keep-archive", "--progress=none")
    parts = client.target.parent
    wait_for(lambda: sum(p.stat().st_size for p in parts.glob(".data.part/*")) > SIZE // 2)
    process.kill()
    process.communicate()
    shown = on_terminal(client, 80, task, path, "--keep-archive")
    assert shown.code == 0, shown.last()
    assert shares(shown)[-1] == 100
    assert max(shares(shown)[:3]) >= 50, "the partial download counts from the start"
    assert tree(client.target)["a.csv"] == MEMBERS["a.csv"]


@pytest.mark.sshd
@pytest.mark.parametrize("columns", [40, 80])
def test_several_files_have_a_line_each_and_one_for_all(client: Client, columns: int) -> None:
    shown = on_terminal(client, columns, "3", "several", "--log-level=CRITICAL")
    assert shown.code == 0, shown.last()
    frames = [frame for frame in shown.frames() if len(frame) == 2]
    assert len(frames) > 5
    assert {len(frame) for frame in shown.frames()} <= {1, 2}
    for first, last in frames:
        assert FRAME.search(first)
        assert FRAME.search(last)
    assert all(re.match(r"\d/3 files: ", last) for _, last in frames)
    if columns == 80:
        assert any("データ" in first for first, _ in frames)
        assert any("\U0001f600" in first for first, _ in frames)
    assert shares(shown)[-1] == 100


@pytest.mark.sshd
def test_name_with_control_characters_does_not_reach_the_terminal(
    client: Client, server: Sshd
) -> None:
    """A source with such a name is refused; the text of live lines is tested above."""
    (server.home / "\x1bc.zip").write_bytes(b"")
    shown = on_terminal(client, 80, "1", "\x1bc.zip")
    assert shown.code == 3
    assert b"\x1bc" not in shown.output
    assert "x1bc.zip" in "".join(shown.last())


SHORT_LOG = """
from tasks import logs
from tasks.fetch.progress import progress
logs.log_at("INFO")
with progress("x", 100, "bar", 2) as bar:
    bar.start("a", 50)
    logs.log.info("short")
"""


def test_short_line_of_the_log_replaces_the_whole_live_line(client: Client) -> None:
    shown = Terminal(80).run([sys.executable, "-c", SHORT_LOG], client.folder, client.env())
    assert [line[9:] for line in shown.last()] == ["INFO tasks: short"]


@pytest.mark.sshd
def test_log_stays_above_the_live_lines(client: Client) -> None:
    shown = on_terminal(client, 80, "3", "several", "--log-level=DEBUG")
    assert shown.code == 0, shown.last()
    log = [line for line in shown.last() if re.match(r"\d\d:\d\d:\d\d ", line)]
    assert sum(" DEBUG tasks.fetch.download: " in line for line in log) == 3
    assert not [line for line in shown.last() if FRAME.search(line)], "no live line remains"
    for screen in shown.screens()[:-1]:
        assert all(FRAME.search(line) for line in below_cursor(screen))
        assert not [line for line in screen.display[: screen.cursor.y] if FRAME.search(line)]


@pytest.mark.sshd
@pytest.mark.parametrize(
    ("variables", "colored"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True)],
    ids=["colored", "NO_COLOR", "NO_COLOR is empty"],
)
def test_no_color_is_honored(client: Client, variables: dict[str, str], colored: bool) -> None:
    client.environ.update(variables, TERM="xterm")
    shown = on_terminal(client, 80, "1", "x.zip")
    assert (b"\x1b[36m" in shown.output) is colored
    assert b"\x1b[J" in shown.output


@pytest.mark.sshd
def test_dumb_terminal_gets_plain_lines(client: Client) -> None:
    client.environ.update(TERM="dumb")
    shown = on_terminal(client, 80, "1", "x.zip")
    assert shown.code == 0
    assert b"\x1b" not in shown.output
    assert shown.last()[0].startswith("task 1 (dev): landed")


@pytest.mark.sshd
def test_smaller_window_shows_shorter_lines_and_no_rest_of_longer_ones(client: Client) -> None:
    smaller = Once(b"|\x1b[36m#", lambda terminal: terminal.resize(40))
    shown = on_terminal(client, 80, "1", "x.zip", on_output=smaller)
    assert smaller.done
    assert shown.code == 0
    screens = [screen for screen in shown.screens() if screen.columns == 40][2:-1]
    assert screens
    for screen in screens:
        assert [len(below_cursor(screen)), len(lines(screen))] == [1, 1]


@pytest.mark.sshd
@pytest.mark.parametrize(("task", "path"), [("1", "x.zip"), ("3", "several")])
def test_ctrl_c_leaves_no_half_line_and_a_visible_cursor(
    client: Client, task: str, path: str
) -> None:
    ctrl_c = Once(b"|\x1b[36m#", lambda terminal: terminal.press(b"\x03"))
    shown = on_terminal(client, 80, task, path, "--log-level=WARNING", on_output=ctrl_c)
    assert shown.code == 130
    assert shown.last() == ["lighterage: interrupted: nothing was changed"]
    screen = shown.screens()[-1]
    assert not screen.cursor.hidden
    assert screen.cursor.x == 0
    assert screen.display[screen.cursor.y].strip() == ""


@pytest.mark.sshd
def test_quiet_run_shows_nothing_but_its_errors(client: Client) -> None:
    shown = on_terminal(client, 80, "1", "x.zip", "--quiet", "--log-level=DEBUG")
    assert (shown.code, bytes(shown.output)) == (0, b"")
    failed = on_terminal(client, 80, "1", "missing.zip", "--quiet")
    assert failed.code == 3
    assert failed.last()[0].startswith("lighterage: remote path: ")
    done = client.run("1", "x.zip", "--quiet", "--json", "--force")
    assert done.data()["status"] == "landed"
