"""When a run lands: the newest sources, those that have settled or have a marker, and waiting."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import asyncssh
import pytest

import hosts
import object_server
from client import CSVS, Client, ended, left_over, put, tree, wait_for, zipped
from forks import Fork
from relay import Relay
from results import valid
from selection import LANDED, TREE, counts, manifest, report

pytestmark = pytest.mark.sshd

EVERY_SECOND = """
from datetime import UTC, datetime, timedelta
import tasks.schedule
from tasks.__main__ import _exit, main

tasks.schedule.next_run = lambda *_: datetime.now(UTC) + timedelta(seconds=1)
_exit(main(["schedule"]))
"""
YEAR_S = 365 * 86400
NAMES = ("in/a-2026-03-01.zip", "in/b-2026-01-01.zip", "in/c-2026-02-01.zip")


def write_zips(client: Client, *names: str, mtimes: tuple[float, ...] = ()) -> None:
    """Write a zip of one CSV for each name, `x.csv` with the name in it, each in one step."""
    for name in names:
        client.put({f"{name}.new": zipped({"x.csv": name.encode()})})
        (client.server.home / f"{name}.new").rename(client.server.home / name)
    for name, mtime in zip(names, mtimes, strict=False):
        os.utime(client.server.home / name, (mtime, mtime))


def landed(client: Client) -> set[str]:
    """Give the names of the archives that landed, each in a folder of its name."""
    return {path.partition("/")[0] for path in tree(client.target)}


def refused(client: Client, task: str, path: str, *flags: str) -> str:
    """Run a task that must end with exit code 3, and one line; return the line."""
    done = client.run(task, path, *flags)
    lines = [line for line in done.err.splitlines() if " WARNING " not in line]
    assert (done.code, len(lines)) == (3, 1), done.err
    assert left_over(client) == []
    return lines[0]


@contextmanager
def growing(path: Path) -> Iterator[None]:
    """Append to a file all the time, as a sender does."""
    end = threading.Event()

    def append() -> None:
        while not end.wait(0.05):
            with path.open("ab") as file:
                file.write(b"1\n" * 100)

    thread = threading.Thread(target=append)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


def started(client: Client, task: str, path: str, *flags: str) -> Fork:
    """Start a run, and wait until it says that it waits."""
    process = client.start(task, path, "--wait-for=60s", *flags)
    wait_for(lambda: "waiting up to 60 s for" in process.said() or process.poll() is not None)
    return process


def until(log: Iterator[str], text: str) -> list[str]:
    """Return the next lines of a log, up to one with a text."""
    lines = []
    for line in log:
        lines.append(line)
        if text in line:
            return lines
    raise AssertionError(lines)


# --- newest -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        (["--newest=1"], {"c-2026-02-01"}),
        (["--newest=2"], {"b-2026-01-01", "c-2026-02-01"}),
        (["--newest=5"], {"a-2026-03-01", "b-2026-01-01", "c-2026-02-01"}),
        (["--newest=1", "--date-pattern=%Y-%m-%d"], {"a-2026-03-01"}),
        (["--newest=2", "--date-pattern=%Y-%m"], {"a-2026-03-01", "c-2026-02-01"}),
    ],
)
def test_newest_are_by_time_or_by_date_in_the_name(
    client: Client, flags: list[str], names: set[str]
) -> None:
    now = time.time() + YEAR_S  # of a host whose clock is ahead; two have one time
    write_zips(client, *NAMES, mtimes=(now - 5, now, now))
    assert report(client, *flags, task="1", path="in/*.zip")["files"] == len(names)
    assert landed(client) == names
    assert report(client, *flags, task="1", path="in/*.zip")["status"] == "unchanged"


def test_newer_source_is_added_and_with_mirror_the_older_is_removed(client: Client) -> None:
    write_zips(client, *NAMES[1:], mtimes=(1000, 2000))
    flags = ("--newest=1", "--date-pattern=%Y-%m-%d")
    report(client, *flags, task="1", path="in/*.zip")
    write_zips(client, NAMES[0], mtimes=(1,))
    report(client, *flags, task="1", path="in/*.zip")
    assert landed(client) == {"c-2026-02-01", "a-2026-03-01"}
    report(client, *flags, "--mirror", task="1", path="in/*.zip")
    assert landed(client) == {"a-2026-03-01"}


def test_newest_folder_of_some(client: Client) -> None:
    client.put({f"out/2026-0{month}/x.csv": b"%d\n" % month for month in (1, 3, 2)})
    data = report(client, "--newest=1", "--date-pattern=%Y-%m", path="out/*")
    assert (data["files"], tree(client.target)) == (1, {"2026-03/x.csv": b"3\n"})


def test_date_pattern_that_matches_nothing_is_one_error(client: Client) -> None:
    write_zips(client, "in/a-2026-13-01.zip", "in/b.zip")
    text = refused(client, "1", "in/*.zip", "--newest=1", "--date-pattern=%Y-%m-%d")
    assert "no name has a date of the form %Y-%m-%d" in text
    done = client.run("1", "in/*.zip", "--date-pattern=%Y-%m-%d")
    assert (done.code, "newest" in done.err) == (2, True)


# --- settle -----------------------------------------------------------------------------------


@pytest.mark.parametrize("offset_s", [-YEAR_S, 0, YEAR_S])
def test_settled_source_lands_whatever_the_clock_of_the_host(
    client: Client, offset_s: float
) -> None:
    write_zips(client, "a.zip", mtimes=(time.time() + offset_s,))
    done = client.run("1", "a.zip", "--settle=0.4s", "--log-level=INFO")
    assert (done.code, done.err.count("for sources to settle")) == (0, 1), done.err
    done = client.run("1", "a.zip", "--settle=60s", "--log-level=INFO")
    assert ("unchanged" in done.out, "to settle" in done.err) == (True, False), done.err


def test_source_that_changes_does_not_land(client: Client, home: Path) -> None:
    write_zips(client, "a.zip")
    with growing(home / "a.zip"):
        assert "a.zip: not unchanged for 1 s" in refused(client, "1", "a.zip", "--settle=1")
        text = refused(client, "1", "a.zip", "--settle=1", "--wait-for=2s")
        assert "(waited 2 s: wait_for)" in text
    assert not client.target.exists()


def test_tree_that_changes_anywhere_does_not_land(client: Client, home: Path) -> None:
    with growing(home / "tree/notes.txt"):
        assert "tree: not unchanged" in refused(client, "3", "tree", "--settle=0.5")
    assert not client.target.exists()
    report(client, "--settle=0.5")
    assert tree(client.target) == LANDED


def test_of_a_glob_what_has_settled_lands_and_old_data_is_kept(client: Client) -> None:
    write_zips(client, "in/a.zip", "in/b.zip")
    report(client, task="1", path="in/*.zip")
    write_zips(client, "in/c.zip")
    with growing(client.server.home / "in/b.zip"):
        data = report(client, "--settle=0.5", "--mirror", task="1", path="in/*.zip")
    assert counts(data) == (1, 0, 0, 1)
    assert [text.partition(":")[0] for text in data["arrival"]] == [
        f"left out {client.server.home}/in/b.zip"
    ]
    assert landed(client) == {"a", "b", "c"}


class Growing(asyncssh.SFTPServer):
    """Lets `b.csv` grow when it is opened for the first time; counts opened files."""

    opened: ClassVar[Counter[str]] = Counter()

    def open(self, path: bytes, pflags: int, attrs: asyncssh.SFTPAttrs) -> object:
        name = Path(path.decode()).name
        if name == "b.csv" and not self.opened[name]:
            with Path(path.decode()).open("ab") as file:
                file.write(b"more\n")
        self.opened[name] += 1
        return super().open(path, pflags, attrs)


def test_source_that_changes_during_the_download_has_to_settle_again(
    client: Client, home: Path
) -> None:
    Growing.opened.clear()
    client.environ["PASSWORD"] = hosts.PASSWORD
    client.options["ssh-key-file"] = None
    with hosts.host(Growing, client.known_hosts) as address:
        report(client, "--settle=0.3", f"--remote-host-address={address}")
    assert Growing.opened["a.csv"] == 2, "the run starts again, and not the file alone"
    assert tree(client.target) == {**LANDED, "deep/b.csv": TREE["deep/b.csv"] + b"more\n"}


# --- marker -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("marker", "name"),
    [("*.done", "in/a.zip.done"), ("*.done", "in/a.done"), ("_SUCCESS", "in/_SUCCESS")],
)
@pytest.mark.parametrize("path", ["in/a.zip", "in/*"])
def test_archive_lands_once_it_has_its_marker(
    client: Client, marker: str, name: str, path: str
) -> None:
    write_zips(client, "in/a.zip")
    client.put({"in/other.done": b"", "_SUCCESS": b"", "a.zip.done": b""})
    if path == "in/*":
        (client.server.home / "in/other.done").unlink()
    text = refused(client, "1", path, f"--marker={marker}")
    assert "in/a.zip: the host has no marker file" in text
    assert not client.target.exists()
    client.put({name: b""})
    report(client, f"--marker={marker}", task="1", path=path)
    assert len(tree(client.target)) == 1
    assert [source["path"] for source in manifest(client)["sources"]] == [
        f"{client.server.home}/in/a.zip"
    ]


@pytest.mark.parametrize("marker", ["*.done", "_SUCCESS"])
def test_tree_lands_once_its_top_folder_has_a_marker(
    client: Client, home: Path, marker: str
) -> None:
    name = marker.replace("*", "any")
    put(home, {f"tree/deep/{name}": b""})
    flags = (f"--marker={marker}", "--include=*.csv", f"--include={marker}")
    assert "it contains no marker file" in refused(client, "3", "tree", *flags)
    assert not client.target.exists()
    put(home, {f"tree/{name}": b""})
    report(client, *flags)
    assert tree(client.target) == {**LANDED, f"deep/{name}": b""}, "the marker does not land"


def test_of_a_glob_what_has_its_marker_lands_and_old_data_is_kept(client: Client) -> None:
    write_zips(client, "in/a.zip", "in/b.zip", "in/c.zip")
    client.put({"in/a.zip.done": b"", "in/b.zip.done": b""})
    report(client, "--marker=*.done", task="1", path="in/*.zip")
    assert landed(client) == {"a", "b"}
    (client.server.home / "in/b.zip.done").unlink()
    client.put({"in/c.done": b""})
    report(client, "--marker=*.done", "--mirror", task="1", path="in/*.zip")
    assert landed(client) == {"a", "b", "c"}


def test_each_path_that_is_named_must_be_complete(client: Client) -> None:
    write_zips(client, "in/a.zip", "in/b.zip")
    client.put({"in/a.done": b""})
    more = f"--remote-file-path={client.server.home}/in/b.zip"
    assert "in/b.zip: the host" in refused(client, "1", "in/*.zip", more, "--marker=*.done")
    assert not client.target.exists()


def test_glob_of_markers_only_has_no_source(client: Client) -> None:
    client.put({"in/a.zip.done": b""})
    assert "only marker files" in refused(client, "1", "in/*", "--marker=*.done")


# --- wait_for ---------------------------------------------------------------------------------


def test_run_waits_for_the_source_and_its_marker_on_one_connection(
    client: Client, relay: Relay
) -> None:
    process = started(client, "1", "a.zip", "--marker=*.done", "--settle=0.2", "--json")
    assert "no such file" in process.said()
    write_zips(client, "a.zip")
    wait_for(lambda: "no marker file" in process.said())
    assert not client.target.exists()
    client.put({"a.done": b""})
    done = ended(process)
    data = valid(done.out, 0)
    assert data["status"] == "landed"
    assert "no marker file" in data["arrival"][0]
    assert relay.connections == 1
    assert len(done.err.splitlines()) == 2


@pytest.mark.parametrize("path", ["tree", "tree/*", "t*"])
def test_run_waits_for_a_tree_and_for_a_glob(client: Client, relay: Relay, path: str) -> None:
    process = started(client, "3", path)
    client.put({f"new/{name}": content for name, content in TREE.items()})
    (client.server.home / "new").rename(client.server.home / "tree")
    assert ended(process).code == 0
    assert TREE["a.csv"] in tree(client.target).values()
    assert relay.connections == 1


@pytest.mark.parametrize("flags", [[], ["--marker=*.done"]])
def test_source_or_marker_that_never_comes_ends_the_run(client: Client, flags: list[str]) -> None:
    if flags:
        write_zips(client, "a.zip")
    path, data = "r.json", client.report
    failed = data("1", "a.zip", "--wait-for=1.5s", f"--result-file={path}", *flags, code=3)
    assert valid((client.folder / path).read_text(), 3) == failed
    assert "a.zip" in failed["error"]
    assert "(waited 1.5 s: wait_for)" in failed["error"]
    refused(client, "1", "a.zip", "--wait-for=0.5s", *flags)
    assert not client.target.exists()


def test_wrong_kind_of_source_is_not_waited_for(client: Client, home: Path) -> None:
    assert "is a directory" in refused(client, "1", "tree", "--wait-for=60s")
    client.put({"b.zip": b""})
    assert "is a file" in refused(client, "3", "b.zip", "--wait-for=60s")


def test_signal_ends_the_waiting_at_once(client: Client) -> None:
    process = started(client, "1", "a.zip")
    process.send_signal(signal.SIGINT)
    done = ended(process, 5)
    assert (done.code, "nothing was changed" in done.err) == (130, True), done.err
    assert left_over(client) == []


def test_cut_connection_is_opened_again_while_waiting(client: Client, relay: Relay) -> None:
    process = started(client, "1", "a.zip", "--max-tries=1")
    for _ in range(2):  # more often than a run tries
        relay.renew()
        wait_for(lambda: relay.connections == 1)
    write_zips(client, "a.zip")
    assert ended(process).code == 0
    assert tree(client.target) == {"x.csv": b"a.zip"}


def test_runs_of_one_object_store_wait_at_once_and_one_publishes(client: Client) -> None:
    with object_server.running() as endpoint:
        client.environ.update(object_server.variables(endpoint))
        object_server._client(endpoint).create_bucket(Bucket="bucket")
        client.options["file-save-path"] = "s3://bucket/events"
        runs = [started(client, "1", "a.zip", "--json") for _ in range(2)]
        assert [run.poll() for run in runs] == [None, None]
        write_zips(client, "a.zip")
        results = [json.loads(ended(run).out) for run in runs]
        assert {result["status"] for result in results} in (
            {"landed", "failed"}, {"landed", "unchanged"},
        )  # fmt: skip
        assert {result["exit_code"] for result in results} <= {0, 9}
        assert client.report("1", "a.zip", "--wait-for=60s")["status"] == "unchanged"


def test_scheduled_task_that_waits_does_not_start_again(client: Client) -> None:
    """It is due each second."""
    settings = {**client.options, "remote-file-path": str(client.server.home / "a.zip")}
    lines = [f"  {name.replace('-', '_')}: {value!r}" for name, value in settings.items()]
    text = "\n".join(["common:", *lines, "tasks:", "  1: {wait_for: 60s, schedule: '* * * * *'}"])
    (client.folder / "config.yaml").write_text(text.replace("'WARNING'", "INFO"))
    with subprocess.Popen(
        [sys.executable, "-c", EVERY_SECOND], cwd=client.folder, env=client.env(),
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    ) as service:  # fmt: skip
        assert service.stderr
        log = iter(service.stderr.readline, "")
        try:
            until(log, "waiting up to 60 s")
            time.sleep(2.5)
            write_zips(client, "a.zip")
            before = until(log, "ended with exit code")
            assert not any("started" in line for line in before), before
            assert "exit code 0" in before[-1]
            assert tree(client.target) == {"x.csv": b"a.zip"}
            (client.server.home / "a.zip").unlink()
            until(log, "waiting up to 60 s")
            service.terminate()
            assert "nothing was changed" in service.stderr.read()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(service.pid, signal.SIGKILL)
    assert service.returncode == 0


def test_dry_run_says_what_it_would_wait_for(client: Client) -> None:
    flags = ("--dry-run", "--marker=*.done", "--wait-for=2h", "--settle=60s")
    done = client.run("1", "a.zip", "--json", *flags)
    assert "would wait up to 7200 s for" in valid(done.out, 0)["arrival"][0]
    client.put({"a.zip": zipped(CSVS)})
    first, second, *_ = report(client, *flags, task="1", path="a.zip")["arrival"]
    assert ("no marker file" in first, "60 s apart" in second) == (True, True)
    refused(client, "1", "a.zip", *flags[:2])
    client.put({"a.done": b""})
    assert report(client, *flags, task="1", path="a.zip")["remote_files"]["added"] == 1
    assert not client.target.parent.exists()


def test_dry_run_of_a_missing_source_does_not_count_published_data_as_removed(
    client: Client,
) -> None:
    write_zips(client, "in/a.zip")
    report(client, task="1", path="in/*.zip")
    (client.server.home / "in/a.zip").unlink()
    flags = ("--dry-run", "--wait-for=2h", "--mirror")
    assert report(client, *flags, task="1", path="in/*.zip")["removed"] == []
