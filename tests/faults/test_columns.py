"""Columns of CSVs that change between runs, and CSVs that land as Parquet."""

from __future__ import annotations

import gzip
import json
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pytest
import yaml

import object_server
from client import Client, ended, left_over, put, tarred, tree, trusted, wait_for, zipped
from recipes import recipe
from relay import Relay
from selection import counts, report

pytestmark = pytest.mark.sshd
Tree = dict[str, bytes]
OLD: Tree = {"2026/e-09.csv": b"id,name\n1,x\n", "2026/e-10.csv": b"id,name\n2,y\n"}
NEW: Tree = {**OLD, "2026/e-10.csv": b"id,city\n3,z\n", "2026/e-11.csv": b"id,name,x\n4,a,b\n"}
DRIFTS = [
    {"path": "2026/e-10.csv", "change": "renamed", "column": "name", "old": "name", "new": "city"},
    {"path": "2026/e-11.csv", "change": "added", "column": "x", "new": "x",
     "than": "2026/e-10.csv"},
]  # fmt: skip
PAGE = "columns.md"
PATHS = {"1": "data.zip", "2": "data.tar.gz", "3": "tree"}
BIG = b"id,name\n" + b"".join(
    b"%d,%s\n" % (n, secrets.token_hex(16).encode()) for n in range(90_000)
)


def serve(client: Client, files: Tree) -> None:
    """Give the host the same CSVs as a zip, a tar and a tree; write only what has changed."""
    served = {"data.zip": zipped(files), "data.tar.gz": tarred(files)}
    served |= {f"tree/{path}": content for path, content in files.items()}
    old = tree(client.server.home)
    client.put({path: content for path, content in served.items() if old.get(path) != content})


@dataclass
class Place:
    """A target in a folder or in a bucket."""

    client: Client
    url: str

    def files(self) -> Tree:
        """Return the published files, each of which is as the manifest says."""
        if "://" in self.url:
            return object_server.published(self.url)
        manifest = self.manifest()
        names = [file["path"] for file in manifest["files"] + manifest["archives"]]
        return {name: (self.client.target / name).read_bytes() for name in names}

    def manifest(self) -> Any:
        if "://" not in self.url:
            return json.loads((self.client.target / "manifest.json").read_text())
        bucket, _, prefix = self.url.removeprefix("s3://").partition("/")
        found = object_server.objects(bucket)
        return json.loads(
            found[f"{prefix}/{json.loads(found[f'{prefix}/latest.json'])['manifest']}"]
        )

    def columns(self) -> dict[str, str]:
        """Return the columns that the manifest states, by path."""
        known = self.manifest()["columns"]
        return {
            file["path"]: " ".join(
                f"{c['name']}:{c.get('type', '')}" for c in known[file["columns"]]
            )
            for file in self.manifest()["files"]
            if file.get("columns")
        }

    def rows(self, path: str, folder: Path) -> list[Any]:
        """Return the rows of a published Parquet."""
        (folder / "x.parquet").write_bytes(self.files()[path])
        return duckdb.read_parquet(str(folder / "x.parquet")).fetchall()


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with object_server.running() as endpoint:
        yield endpoint


@pytest.fixture
def bucket(client: Client, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Place:
    """Give a target in a bucket."""
    client.environ |= object_server.variables(endpoint)
    for name, value in object_server.variables(endpoint).items():
        monkeypatch.setenv(name, value)
    name = f"bucket-{secrets.token_hex(8)}"
    object_server.client().create_bucket(Bucket=name)
    client.options["file-save-path"] = f"s3://{name}/events"
    return Place(client, f"s3://{name}/events")


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, client: Client) -> Place:
    if request.param == "bucket":
        found: Place = request.getfixturevalue("bucket")
        return found
    return Place(client, "out/data")


# --- columns ---------------------------------------------------------------------


@pytest.mark.parametrize("task", PATHS)
def test_frozen_columns_refuse_what_differs_until_one_run_accepts_it(
    client: Client, place: Place, task: str
) -> None:
    serve(client, OLD)
    report(client, "--columns=freeze", task=task, path=PATHS[task])
    assert place.columns() == dict.fromkeys(OLD, "id:BIGINT name:VARCHAR")
    before = place.files(), place.manifest()
    serve(client, NEW)
    done = client.run(task, PATHS[task], "--columns=freeze")
    assert done.code == 10
    assert "2026/e-10.csv: column 'name' is now 'city'; " in done.err
    assert "2026/e-11.csv: column 'x' is new (compared with 2026/e-10.csv)" in done.err
    assert "--columns evolve" in done.err
    assert (place.files(), place.manifest()) == before
    assert left_over(client) == []
    data = report(client, "--columns=evolve", task=task, path=PATHS[task])
    assert data["columns"] == DRIFTS
    assert place.files() == NEW
    data = report(client, "--columns=freeze", task=task, path=PATHS[task])
    assert data["status"] == "unchanged"
    assert "columns" not in data
    serve(client, {**NEW, "2026/e-12.csv": b"id,name,x\n5,a,b\n"})
    report(client, "--columns=freeze", task=task, path=PATHS[task])


def test_evolving_columns_are_logged_and_reported(client: Client) -> None:
    serve(client, OLD)
    client.run("2", PATHS["2"], "--columns=evolve")
    serve(client, NEW)
    done = client.run("2", PATHS["2"], "--columns=evolve", "--result-file=result.json")
    assert done.code == 0
    text = "columns: 2026/e-10.csv: column 'name' is now 'city'"
    assert text in done.out
    assert text in done.err
    assert json.loads((client.folder / "result.json").read_text())["columns"] == DRIFTS


def test_types_that_change_are_refused(client: Client, place: Place) -> None:
    serve(client, {"a.csv": b"id,amount\n1,5\n"})
    report(client, "--columns=freeze")
    serve(client, {"a.csv": b"id,amount\n1,five\n"})
    done = client.run("3", "tree", "--columns=freeze")
    assert done.code == 10
    assert "a.csv: column 'amount' was BIGINT, is VARCHAR" in done.err


@pytest.mark.parametrize("flags", [[], ["--exec=never"]])
def test_many_small_files_have_their_columns(client: Client, flags: list[str]) -> None:
    """With the host's tar, and by SFTP."""
    files = {f"d{n % 7}/a{n}.csv": b"id,c%d\n1,2\n" % n for n in range(120)}
    serve(client, files)
    report(client, "--columns=freeze", *flags)
    place = Place(client, "out/data")
    assert place.columns() == {
        path: f"id:BIGINT {content.split(b',')[1].split()[0].decode()}:BIGINT"
        for path, content in files.items()
    }
    put(client.server.home, {"tree/d1/a1.csv": b"id,other\n1,22\n"})
    done = client.run("3", "tree", "--columns=freeze", *flags)
    assert (done.code, done.err.count("is now")) == (10, 1)


def test_unchanged_files_keep_their_columns(client: Client, place: Place) -> None:
    serve(client, OLD)
    report(client, "--columns=freeze")
    serve(client, {**OLD, "2026/e-10.csv": b"id,name\n22,y\n"})
    for flag in ("--columns=freeze", "--columns=ignore"):
        report(client, flag)
        assert place.columns()["2026/e-09.csv"] == "id:BIGINT name:VARCHAR"
        serve(client, {**OLD, "2026/e-10.csv": b"id,name\n333,y\n"})
    serve(client, {**OLD, "2026/e-09.csv": b"id,title\n1,x\n"})
    assert client.run("3", "tree", "--columns=freeze").code == 10


def test_file_that_landed_before_the_setting_gets_columns_when_it_changes(client: Client) -> None:
    serve(client, {"a.csv": b"id,name\n1,x\n", "b.csv": b"id\n1\n"})
    report(client)
    place = Place(client, "out/data")
    assert report(client, "--columns=freeze")["status"] == "unchanged"
    put(client.server.home, {"tree/a.csv": b"id,city\n11,x\n"})
    report(client, "--columns=freeze")
    assert place.columns() == {"a.csv": "id:BIGINT city:VARCHAR"}
    report(client, "--columns=freeze", "--force")
    assert place.columns() == {"a.csv": "id:BIGINT city:VARCHAR", "b.csv": "id:BIGINT"}


def test_another_source_is_compared_with_what_the_target_contains(client: Client) -> None:
    client.put({"e-1.zip": zipped({"e-1.csv": b"id\n1\n"})})
    client.put({"e-2.zip": zipped({"e-2.csv": b"key\n1\n"})})
    report(client, "--columns=freeze", task="1", path="e-1.zip")
    done = client.run("1", "e-2.zip", "--columns=freeze")
    assert done.code == 10
    assert "e-2.csv: column 'id' is now 'key' (compared with e-1.csv)" in done.err


def test_empty_file_has_lost_its_columns(client: Client) -> None:
    serve(client, {"a.csv": b"id,name\n1,x\n"})
    report(client, "--columns=freeze")
    serve(client, {"a.csv": b""})
    done = client.run("3", "tree", "--columns=freeze")
    assert done.code == 10
    assert "a.csv: column 'id' is missing; a.csv: column 'name' is missing" in done.err


def test_refused_archive_that_is_kept_is_not_downloaded_again(client: Client, relay: Relay) -> None:
    client.put({"e.zip": zipped({"e.csv": BIG})})
    report(client, "--columns=freeze", "--keep-archive", task="1", path="e.zip")
    client.put({"e.zip": zipped({"e.csv": BIG.replace(b"name", b"title", 1)})})
    assert client.run("1", "e.zip", "--columns=freeze", "--keep-archive").code == 10
    passed = relay.passed
    report(client, "--columns=evolve", "--keep-archive", task="1", path="e.zip")
    assert relay.passed - passed < 500_000, "the archive has 3 MB"


def test_page_shows_what_runs_say(client: Client) -> None:
    settings = yaml.safe_load(recipe("yaml", "columns:", page=PAGE))["tasks"][2]
    data = client.folder / "data/task_2/events"
    flags = [f"--{name}={str(value).lower()}" for name, value in settings.items()]
    client.options["file-save-path"] = str(data)
    first = {"events-2026-10.csv": b"id,amount\n1,2\n"}
    client.put({"events.zip": zipped(first)})
    assert client.run("2", "events.zip", *flags).code == 0
    client.put({"events.zip": zipped({**first, "events-2026-11.csv": b"id,amount,city\n2,x,y\n"})})
    done = client.run("2", "events.zip", *flags)
    assert (done.code, done.err) == (10, recipe("text", "lighterage", page=PAGE))
    evolved = client.run("2", "events.zip", "--columns=evolve", "--json").data()
    assert json.loads(recipe("json", "path", page=PAGE)) in evolved["columns"]
    assert client.run("2", "events.zip", "--columns=freeze", "--parquet=text").code == 0
    script = recipe("python", "read_parquet", page=PAGE) + "print(len(events.fetchall()))"
    words = [sys.executable, "-c", script]
    read = subprocess.run(words, cwd=client.folder, capture_output=True, check=True)
    assert read.stdout == b"2\n"


# --- Parquet ---------------------------------------------------------------------


@pytest.mark.parametrize("task", PATHS)
def test_csvs_land_as_parquet_and_unchanged_ones_are_not_written_again(
    client: Client, place: Place, task: str, tmp_path: Path
) -> None:
    serve(client, OLD)
    first = report(client, "--parquet=true", task=task, path=PATHS[task])
    assert first["files"] == 2
    assert place.rows("2026/e-09.parquet", tmp_path) == [(1, "x")]
    assert place.columns()["2026/e-09.parquet"] == "id:BIGINT name:VARCHAR"
    before = place.files()
    assert before.keys() == {"2026/e-09.parquet", "2026/e-10.parquet"}
    for flags in ([], ["--checksum"]):
        data = report(client, "--parquet=true", *flags, task=task, path=PATHS[task])
        assert data["status"] == "unchanged"
    serve(client, NEW)
    data = report(client, "--parquet=true", task=task, path=PATHS[task])
    if task == "3":
        assert counts(data) == (1, 1, 0, 1)
        assert data["checked"] == "size, sha256"
    assert place.rows("2026/e-10.parquet", tmp_path) == [(3, "z")]
    assert place.files()["2026/e-09.parquet"] == before["2026/e-09.parquet"]


def test_single_compressed_csv_lands_as_parquet(client: Client, tmp_path: Path) -> None:
    client.put({"e.csv.gz": gzip.compress(BIG)})
    report(client, "--parquet=true", "--keep-archive", task="2", path="e.csv.gz")
    place = Place(client, "out/data")
    assert len(place.rows("e.parquet", tmp_path)) == 90_000
    assert place.files().keys() == {"e.parquet", "e.csv.gz"}


def test_setting_that_changes_converts_what_is_published(client: Client, place: Place) -> None:
    serve(client, OLD)
    for flag, end in (("false", "csv"), ("true", "parquet"), ("false", "csv")):
        assert report(client, f"--parquet={flag}", "--columns=freeze")["status"] == "landed"
        assert {path.rpartition(".")[2] for path in place.files()} == {end}
    serve(client, NEW)
    assert client.run("3", "tree", "--columns=freeze", "--parquet=true").code == 10


@pytest.mark.parametrize("task", PATHS)
def test_csv_that_cannot_be_parquet_is_named_and_nothing_is_published(
    client: Client, place: Place, task: str
) -> None:
    serve(client, OLD)
    report(client, "--parquet=true", task=task, path=PATHS[task])
    before = place.files()
    serve(
        client, {**OLD, "2026/e-10.csv": b"id,name\n2,y\n3\n", "2026/e-11.csv": b"id,name\n1,x\n"}
    )
    done = client.run(task, PATHS[task], "--parquet=true")
    assert done.code == 10
    assert "2026/e-10.csv: cannot become Parquet: line 3: Expected Number of Columns: 2" in done.err
    assert place.files() == before
    assert left_over(client) == []


def test_other_files_land_where_one_cannot_be_parquet(client: Client, place: Place) -> None:
    serve(client, OLD)
    report(client, "--parquet=true")
    before = place.files()
    serve(
        client, {**OLD, "2026/e-10.csv": b"id,name\n2,y\n3\n", "2026/e-11.csv": b"id,name\n1,x\n"}
    )
    data = report(client, "--parquet=true", "--on-error=continue", code=10)
    assert [failed["kind"] for failed in data["failed"]] == ["CSV"]
    assert place.files().keys() == before.keys() | {"2026/e-11.parquet"}
    assert place.files()["2026/e-10.parquet"] == before["2026/e-10.parquet"]


@pytest.mark.parametrize("task", PATHS)
def test_cut_connection_loses_no_row(client: Client, task: str, tmp_path: Path) -> None:
    serve(client, {"e.csv": BIG})
    client.options["timeout"] = "5"
    with Relay(client.server.port, "cut", 1_000_000).running() as relay:
        client.options["remote-host-address"] = trusted(client, relay.address)
        report(client, "--parquet=true", task=task, path=PATHS[task])
        assert relay.connections > 1
    assert len(Place(client, "out/data").rows("e.parquet", tmp_path)) == 90_000


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_killed_run_publishes_nothing(client: Client, place: Place, signum: int) -> None:
    serve(client, {"e.csv": b"id,name\n1,x\n"})
    report(client, "--parquet=true")
    before = place.files()
    serve(client, {"e.csv": BIG})
    with Relay(client.server.port, rate=1_500_000).running() as relay:
        address = client.options["remote-host-address"]
        client.options["remote-host-address"] = trusted(client, relay.address)
        process = client.start("3", "tree", "--parquet=true")
        wait_for(lambda: relay.passed > 1_500_000)
        process.send_signal(signum)
        if signum == signal.SIGTERM:
            assert ended(process).code == 143
            assert left_over(client) == []
        else:
            process.communicate(60)
        client.options["remote-host-address"] = address
    assert place.files() == before
    assert report(client, "--parquet=true")["status"] == "landed"


def test_missing_package_is_refused_before_anything_is_downloaded(
    client: Client, relay: Relay, tmp_path: Path
) -> None:
    serve(client, OLD)
    broken = tmp_path / "no"
    put(broken, {"sitecustomize.py": b"import sys\nsys.modules['duckdb'] = None\n"})
    words = client.arguments("3", "tree", "--parquet=true")
    env = client.env()
    env["PYTHONPATH"] = f"{broken}:{env['PYTHONPATH']}"
    done = subprocess.run(
        [sys.executable, "-m", "tasks", *words], cwd=client.folder, env=env,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "parquet is true, which needs the package duckdb: install requirements/parquet.txt" in (
        done.stderr
    )
    assert relay.passed < 1000, "there was no login"
