"""Record a session on a terminal as docs/session.svg: `make record`.

The commands run in a copy of the repository, on the bundled sample host. The last one is shown
while it downloads. Figures are what was measured; no path of this machine is in the picture.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from pathlib import Path
from xml.sax.saxutils import escape

import pyte

from terminal import Terminal, below_cursor, lines
from tree import Tree

COLUMNS = 120
RUN = "make run TASK=2 ENV=prod"
WHILE_DOWNLOADING = 'make run TASK=3 ENV=prod ARGS="--max-rate 2MB/s"'
_CELL, _ROW, _MARGIN = 8.4, 20, 16
_STYLE = """\
svg { --back: #ffffff; --edge: #d0d7de; --text: #1f2328; --dim: #59636e; --cyan: #0a6c74 }
@media (prefers-color-scheme: dark) {
  svg { --back: #0d1117; --edge: #3d444d; --text: #e6edf3; --dim: #9198a1; --cyan: #56d4dd }
}
rect { fill: var(--back); stroke: var(--edge) }
text { font: 14px ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; white-space: pre; \
fill: var(--text) }
.prompt { fill: var(--dim) }
.command { font-weight: bold }
.cyan { fill: var(--cyan) }"""
_IN_THE_MIDDLE = re.compile(r"\( *[5-9]\d %\).*\n2/5 files: ")
"""A frame that each recording has, in the third file of five."""
Line = list[tuple[str, str]]  # texts, each with its class


def session(folder: Path, runner: str) -> list[Line]:
    """Run the commands; return what the terminal shows of them."""
    more = f" RUNNER={runner}" if runner else ""
    tree = Tree(folder / "lighterage", "record")
    env = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    env |= {"LANG": "C.UTF-8", "TERM": "xterm-256color", "PROJECT": "record", "SETUP": "0"}
    shown: list[Line] = []

    def terminal(command: str) -> Terminal:
        done = Terminal(COLUMNS).run(["sh", "-c", command + more], tree.folder, env)
        if done.code:
            sys.exit("\n".join([f"record: exit code {done.code}: {command}", *done.last()]))
        return done

    try:
        for task in (2, 3):  # builds what is missing, and starts the sample host
            terminal(f"make run TASK={task} ENV=prod ARGS=--dry-run")
        for command in (RUN, RUN):
            screen = terminal(command).screens()[-1]
            shown += [_typed(command + more), *map(_plain, lines(screen)), []]
        screens = terminal(WHILE_DOWNLOADING).screens()
        screen = next(screen for screen in screens if _IN_THE_MIDDLE.search(_text(screen)))
        shown.append(_typed(WHILE_DOWNLOADING + more))
        shown += [_colored(screen, row) for row in range(len(lines(screen)))]
    finally:
        verb = "down" if runner else "clean"
        Terminal(COLUMNS).run(["make", verb, "ENV=prod", *more.split()], tree.folder, env)
    return shown


def _text(screen: pyte.Screen) -> str:
    return "\n".join(below_cursor(screen))


def _typed(command: str) -> Line:
    return [("prompt", "$ "), ("command", command)]


def _plain(line: str) -> Line:
    return [("", line)]


def _colored(screen: pyte.Screen, row: int) -> Line:
    """Return a line of a screen, in runs of one color."""
    runs: Line = []
    for column in range(screen.columns):
        cell = screen.buffer[row][column]
        kind = "cyan" if cell.fg == "cyan" else ""
        if runs and runs[-1][0] == kind:
            runs[-1] = (kind, runs[-1][1] + cell.data)
        else:
            runs.append((kind, cell.data))
    return [*runs[:-1], (runs[-1][0], runs[-1][1].rstrip())]


def svg(shown: list[Line]) -> str:
    """Draw lines as selectable text, for light and dark pages."""
    width = COLUMNS * _CELL + 2 * _MARGIN
    height = len(shown) * _ROW + 2 * _MARGIN
    rows = []
    for number, line in enumerate(shown, 1):
        spans = "".join(
            f'<tspan class="{kind}">{escape(text)}</tspan>' if kind else escape(text)
            for kind, text in line
        )
        y = _MARGIN + number * _ROW - 5
        rows.append(f'<text x="{_MARGIN}" y="{y}" xml:space="preserve">{spans}</text>')
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" '
            'role="img">',
            "<title>A session: a run that lands data, one that finds nothing new, and one that "
            "downloads</title>",
            f"<style>{_STYLE}</style>",
            f'<rect x="0.5" y="0.5" width="{width - 1:.0f}" height="{height - 1}" rx="8"/>',
            *rows,
            "</svg>\n",
        ]
    )


def main(file: Path, runner: str) -> None:
    """Record the session into a file."""
    with tempfile.TemporaryDirectory() as folder:
        file.write_text(svg(session(Path(folder), runner)), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "")
