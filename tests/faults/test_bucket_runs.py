"""Whole runs from an SSH server to a bucket: their memory, the disk, and the cloud's metadata."""

from __future__ import annotations

import json
import os
import random
import resource
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import object_server
from client import Client
from forks import REPOSITORY

MOST_BYTES = 120 * 10**6
"""The memory that a run into a bucket may take, whatever the size of its data."""
MEMBER_BYTES = 110 * 2**20
MEMBERS = ("a.csv", "b.csv", "c.csv")
KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
ASK = """
from obstore.store import S3Store
S3Store("bucket", retry_config={"max_retries": 0}).list().collect()
"""


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """Give the URL of a server with the S3 API."""
    with object_server.running() as endpoint:
        yield endpoint


def write_archive(path: Path) -> None:
    """Write a tar.gz of large members, some hundred times smaller than they are."""
    pattern = path.with_name("pattern")
    # Repeated within gzip's window of 32 KiB, and not so often that `max_ratio` refuses it.
    block = random.Random(1).randbytes(2**14) * 64  # noqa: S311 (no secret)
    with pattern.open("wb") as file:
        for _ in range(MEMBER_BYTES // len(block)):
            file.write(block)
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        for name in MEMBERS:
            tar.add(pattern, name)
    pattern.unlink()


def test_large_archive_takes_little_memory_and_no_disk(
    client: Client, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No file can grow: whatever is written to one fails."""
    write_archive(client.server.home / "large.tar.gz")
    for name, value in (variables := object_server.variables(endpoint)).items():
        monkeypatch.setenv(name, value)
    object_server.client().create_bucket(Bucket="large")
    before = sorted(client.folder.rglob("*"))
    done = subprocess.run(
        # Its own process, since a child's peak includes its parent's; the log is the pipe.
        [sys.executable, "-I", "-S", REPOSITORY / "benchmarks/launch.py", "/dev/stderr",
         sys.executable, "-m", "tasks",
         *client.arguments("2", "large.tar.gz", file_save_path="s3://large/data"),
         "--history-runs=0"],
        cwd=client.folder, capture_output=True, text=True, check=True,
        env={**client.env(), **variables, "TMPDIR": str(client.folder),
             "PYTHONDONTWRITEBYTECODE": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)),
    )  # fmt: skip
    figures = json.loads(done.stdout)
    assert figures["exit"] == 0, done.stderr
    assert sorted(client.folder.rglob("*")) == before
    assert figures["peak_bytes"] < MOST_BYTES
    found = object_server.client().list_objects_v2(Bucket="large")["Contents"]
    sizes = {item["Key"].rpartition("/")[2]: item["Size"] for item in found}
    assert {name: sizes.get(name) for name in MEMBERS} == dict.fromkeys(MEMBERS, MEMBER_BYTES)


@pytest.mark.parametrize(
    ("given", "code", "words"),
    [
        ((), 2, "AWS_ACCESS_KEY_ID is missing"),
        (KEYS[:1], 2, "AWS_SECRET_ACCESS_KEY is missing"),
        (KEYS, 4, "InvalidAccessKeyId"),
    ],
)
def test_metadata_address_is_not_asked(
    dataset_client: Client, endpoint: str, given: tuple[str, ...], code: int, words: str
) -> None:
    asked: list[str] = []

    def refuse(method: str, path: str) -> str:
        return "403 InvalidAccessKeyId"

    def metadata(method: str, path: str) -> str:
        asked.append(f"{method} {path}")
        return "404 NotFound"

    with (
        object_server.relay(endpoint, refuse) as refusing,
        object_server.relay(endpoint, metadata) as address,
    ):
        variables = object_server.variables(refusing)
        variables |= {name: "" for name in KEYS if name not in given}
        # obstore's name for another address than 169.254.169.254.
        env = {name: value for name, value in variables.items() if value}
        env["AWS_METADATA_ENDPOINT"] = address
        dataset_client.environ.update(env)
        done = dataset_client.run("2", "csv.tar.gz", file_save_path="s3://bucket/prefix")
        assert (done.code, asked) == (code, []), done.err
        assert words in done.err
        without = {name: value for name, value in env.items() if name not in KEYS}
        subprocess.run(
            [sys.executable, "-c", ASK], env={**os.environ, **without}, capture_output=True,
            check=False,
        )  # fmt: skip
        assert asked, "a library without credentials asks here: else this proves nothing"
