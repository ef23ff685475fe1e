"""docs/session.svg: a session on a terminal, which `make record` writes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

from tree import REPOSITORY

PICTURE = REPOSITORY / "docs/session.svg"
MAX_BYTES = 60_000
MASKED = re.compile(r"[#\d.]+( +(?=\|))?( *(kB|MB|GB))?")


def texts(picture: Path) -> list[str]:
    """Return the lines that a reader can select."""
    root = ElementTree.fromstring(picture.read_text(encoding="utf-8"))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    return ["".join(line.itertext()) for line in root.iter("{http://www.w3.org/2000/svg}text")]


def stable(lines: list[str]) -> list[str]:
    """Return lines without what is measured: figures, bars, and who ran it where."""
    return [
        re.sub(" +", " ", MASKED.sub("N", line.replace(" RUNNER=host", "")))
        for line in lines
        if not line.startswith("lighterage: ")
    ]


def test_picture_shows_the_command_of_readme_and_its_result() -> None:
    lines = texts(PICTURE)
    assert lines[0].startswith("$ make run TASK=2 ENV=prod")
    assert "task 2 (prod): landed 3 files, 14.1 MB, in data/task_2/events" in lines
    assert any("; checked: size, sha256, archive CRC" in line for line in lines)
    assert any("unchanged since " in line for line in lines)
    assert lines[-1].startswith("2/5 files:")


def test_picture_is_small_readable_in_light_and_dark_and_names_no_place_of_a_machine() -> None:
    text = PICTURE.read_text(encoding="utf-8")
    assert len(text.encode()) < MAX_BYTES
    assert "prefers-color-scheme: dark" in text
    for place in ("/home", "/root", "/tmp", "/Users", str(REPOSITORY)):
        assert place not in text


def test_recording_again_gives_the_same_lines(tmp_path: Path) -> None:
    """Without an engine; figures, bars and the host's address are those of this run."""
    again = tmp_path / "again.svg"
    path = f"{REPOSITORY}/tests/support:{REPOSITORY}"
    subprocess.run(
        [sys.executable, REPOSITORY / "docs/record.py", again, "host"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, check=True,
    )  # fmt: skip
    here, old = stable(texts(again)), stable(texts(PICTURE))
    address = re.compile(r"prod@[\w.-]+:N:")
    assert [address.sub("", line) for line in here] == [address.sub("", line) for line in old]
