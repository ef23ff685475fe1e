"""A new archive format is one module and one line in the registry, and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import archives
from client import Client, tree
from clone import Clone
from sshd import Sshd

PARCEL = '''"""Parcels: `PARCEL`, then for each member a line `SIZE NAME` and its bytes."""

from tasks.fetch.archives.format import Format, Member


def members(stream, extraction):
    stream.exactly(7)
    while b"\\n" in (line := stream.peek(300)):
        line = stream.exactly(line.index(b"\\n") + 1)
        size, name = line.decode().rstrip("\\n").split(" ", 1)
        path = extraction.path(name)
        blocks = _blocks(stream, int(size), name, extraction)
        yield Member(path, blocks) if extraction.wants(path) else None
        for _ in blocks:
            pass


def _blocks(stream, size, name, extraction):
    while size:
        block = stream.read(min(size, 2**18))
        if not block:
            raise extraction.broken("it ends early", name)
        size -= len(block)
        extraction.add_bytes(len(block))
        yield block


FORMAT = Format("parcel", (".parcel",), lambda head: head.startswith(b"PARCEL\\n"), members)
'''
FILES = {"a.csv": b"1,2\n" * 200_000, "read.me": b"no", "d/b.csv": b"3\n"}
CSVS = {name: content for name, content in FILES.items() if name.endswith(".csv")}


def parcel(files: dict[str, bytes]) -> bytes:
    """Write a parcel."""
    parts = [f"{len(data)} {name}\n".encode() + data for name, data in files.items()]
    return b"PARCEL\n" + b"".join(parts)


@pytest.fixture(scope="module")
def server(server: Sshd) -> Sshd:
    """Add parcels, and a zip."""
    (server.home / "tree/x").mkdir(parents=True)
    for name, content in {
        "good.parcel": parcel(FILES),
        "any-name": parcel(FILES),
        "truncated.parcel": parcel(FILES)[:-1],
        "unsafe.parcel": parcel({**FILES, "../up.csv": b"1"}),
        "bomb.csv.parcel": parcel({"a.csv": b"1" * 2_000_000}),
        "tree/x/good.zip": parcel(FILES),
        "one.parcel": parcel({"1.csv": b"1"}),
        "two.PARCEL": parcel({"2.csv": b"2"}),
        "plain.zip": archives.zipped(CSVS),
    }.items():
        (server.home / name).write_bytes(content)
    return server


@pytest.fixture
def client(tmp_path: Path, server: Sshd) -> Client:
    """Give a client whose copy of the tasks has the format: one module, one line."""
    package = Clone(tmp_path).folder / "tasks/fetch/archives"
    (package / "parcel.py").write_text(PARCEL)
    registry = package / "registry.py"
    before = registry.read_text()
    after = before.replace(
        "FORMATS: tuple[Format, ...] = (",
        "from tasks.fetch.archives import parcel; FORMATS = (parcel.FORMAT, ",
    )
    registry.write_text(after)
    changed = set(after.splitlines()) - set(before.splitlines())
    assert len(changed) == 1
    return Client(tmp_path, server)


def run(client: Client, task: str, path: str, *flags: str) -> subprocess.CompletedProcess[str]:
    """Run a task of the client's copy."""
    return subprocess.run(
        [sys.executable, "-m", "tasks", *client.arguments(task, path, "--json", *flags)],
        cwd=client.folder, env={**client.env(), "PYTHONPATH": ""}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip


@pytest.mark.sshd
@pytest.mark.parametrize("name", ["good.parcel", "any-name", "plain.zip"])
def test_it_is_detected_and_extracted_like_the_others(client: Client, name: str) -> None:
    done = run(client, "1", name)
    assert done.returncode == 0, done.stderr
    assert tree(client.target) == CSVS
    assert json.loads(done.stdout)["files"] == len(CSVS)


@pytest.mark.sshd
def test_folder_of_one_of_several_has_no_suffix(client: Client) -> None:
    done = run(client, "1", "*.[pP][aA]*[lL]", "--exclude=a.csv", "--on-error=continue")
    assert {"one/1.csv", "two/2.csv"} <= set(tree(client.target)), done.stderr


@pytest.mark.sshd
def test_it_is_extracted_within_a_directory(client: Client) -> None:
    assert run(client, "3", "tree").returncode == 0
    assert tree(client.target) == {f"x/{name}": content for name, content in CSVS.items()}


@pytest.mark.sshd
@pytest.mark.parametrize(
    ("name", "flag"),
    [
        ("truncated.parcel", "--force"),
        ("unsafe.parcel", "--force"),
        ("good.parcel", "--max-members=2"),
        ("good.parcel", "--max-depth=1"),
        ("bomb.csv.parcel", "--max-unpacked-size=1MB"),
    ],
)
def test_limits_and_name_checks_hold_for_it(client: Client, name: str, flag: str) -> None:
    assert run(client, "1", name, flag).returncode == 7
    assert not client.target.exists()
