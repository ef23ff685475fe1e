"""Listings of a remote folder: hostile servers, names and folders that cannot be used."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import asyncssh
import pytest

import fake_sftp
import hosts
from client import Client, tree, zipped
from sshd import Sshd

pytestmark = pytest.mark.sshd
FAKE = shlex.join([sys.executable, fake_sftp.__file__])
HANG = 60
"""Seconds after which a run is taken to hang."""


@pytest.fixture
def client(client: Client) -> Client:
    """Give a client whose runs leave out what cannot be used."""
    client.options["on-error"] = "continue"
    return client


# --- listings without an end ------------------------------------------------------------------


@pytest.fixture
def faked(tmp_path: Path, folder: Path, request: pytest.FixtureRequest) -> Iterator[Client]:
    """Give a client of a server whose SFTP is fake."""
    with Sshd(folder, [f"ForceCommand {FAKE} {request.param}"]).running() as server:
        yield Client(tmp_path, server)


@pytest.mark.parametrize(
    ("faked", "path", "code"),
    [("empty", "top", 3), ("dots", "top", 3), ("same", "top", 3), ("deep", "top", 3),
     ("unasked", "top", 5), ("slow", "top", 5), ("drip", "top", 5), ("trickle", "top", 5),
     ("empty", "top/*.csv", 3), ("same", "top/*.csv", 3), ("drip", "top/*.csv", 5)],
    indirect=["faked"],
)  # fmt: skip
def test_a_listing_ends_whatever_the_server_answers(faked: Client, path: str, code: int) -> None:
    """Also where each answer is in time: at 0.2 seconds each, with a timeout of one."""
    timeout = "1" if code == 5 else "10"
    run = faked.start("3", path, max_members="1000", max_tries="1", timeout=timeout)
    _, err = run.communicate(HANG)
    assert run.returncode == code, err
    assert not faked.target.exists()


def peak(client: Client, path: str, *flags: str) -> tuple[int, str]:
    """Run task 3 in a process of its own; return its peak of memory in bytes, and its output."""
    script = (
        "import re, sys; from tasks.__main__ import main; code = main(sys.argv[1:]); "
        "status = open('/proc/self/status').read(); "
        "print(re.search(r'VmHWM:\\s+(\\d+) kB', status)[1], file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *client.arguments("3", path, "--progress=none", *flags)],
        cwd=client.folder, env=client.env(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return int(done.stderr.split()[-1]) * 2**10, done.stdout


@pytest.mark.parametrize("faked", ["many"], indirect=True)
def test_a_listing_of_many_files_takes_little_memory(faked: Client) -> None:
    """The interpreter with all modules takes 55 MiB of it."""
    size, out = peak(faked, "top", "--dry-run")
    assert "would download 100000 files" in out
    assert size < 130 * 2**20


def test_a_run_of_many_files_takes_little_memory(client: Client) -> None:
    """Also the second one, which has nothing to do: below 200 MiB for 100,000 files.

    Of fewer files each takes more, as there are buffers as well.
    """
    client.put({"tree/a.csv": b"a"})
    one, _ = peak(client, "tree")
    files: dict[str, bytes] = {
        f"tree/folder-{n % 50}/measurement-{n:06}.csv": b"" for n in range(20_000)
    }
    client.put(files)
    for _ in range(2):
        many, out = peak(client, "tree")
        assert many - one < len(files) * 2800
    assert "unchanged" in out


# --- what cannot be listed or used ----------------------------------------------------------

TREE: dict[str, bytes] = {
    "tree/a.csv": b"a", "tree/z/z.csv": b"z", "tree/deep/secret/b.csv": b"b",
    "tree/deep/secret/er/c.zip": zipped({"c.csv": b"c"}),
}  # fmt: skip
LANDED = {"a.csv": b"a", "z/z.csv": b"z", "deep/secret/b.csv": b"b", "deep/secret/er/c.csv": b"c"}


class Locked(asyncssh.SFTPServer):
    """Refuses to list the folder `secret` while `locked`."""

    locked = False

    def listdir(self, path: bytes) -> list[bytes]:
        if self.locked and Path(os.fsdecode(path)).name == "secret":
            raise asyncssh.SFTPPermissionDenied("no")
        return os.listdir(path)  # noqa: PTH208 (bytes)


@pytest.fixture
def locked(client: Client, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """Give a client of a server that refuses to list a folder, whose files landed before."""
    client.put(TREE)
    client.environ["PASSWORD"] = hosts.PASSWORD
    client.options["ssh-key-file"] = None
    with hosts.host(Locked, client.known_hosts) as address:
        client.options["remote-host-address"] = address
        assert client.report("3", "tree")["status"] == "landed"
        assert tree(client.target) == LANDED
        monkeypatch.setattr(Locked, "locked", True)
        yield client


def test_a_folder_that_cannot_be_listed_is_named_and_stops_the_run(locked: Client) -> None:
    data = locked.report("3", "tree", "--on-error=fail", code=3)
    assert data["error"].startswith(f"{locked.server.home}/tree/deep/secret: ")
    assert tree(locked.target) == LANDED


@pytest.mark.parametrize("flags", [[], ["--mirror"], ["--mirror", "--force"]])
def test_the_rest_lands_without_a_folder_that_cannot_be_listed(
    locked: Client, flags: list[str]
) -> None:
    """What landed from it before stays, also where the target is to be a mirror."""
    home = locked.server.home
    locked.put({"tree/new.csv": b"new", "tree/a.csv": b"other"})
    data = locked.report("3", "tree", *flags, code=3)
    assert data["status"] == "partial"
    assert [failed["path"] for failed in data["failed"]] == [f"{home}/tree/deep/secret"]
    assert data["remote_files"]["removed"] == 0
    expected = {**LANDED, "new.csv": b"new", "a.csv": b"other"}
    assert tree(locked.target) == expected
    again = locked.report("3", "tree", code=3)
    assert (again["status"], len(again["failed"])) == ("partial", 1)
    assert tree(locked.target) == expected


def test_one_of_several_folders_that_cannot_be_listed_is_left_out(locked: Client) -> None:
    locked.put({"tree/deep/open/o.csv": b"o"})
    data = locked.report("3", "tree/deep/*", code=3)
    assert [Path(failed["path"]).name for failed in data["failed"]] == ["secret"]
    assert tree(locked.target) == {"open/o.csv": b"o"}


def test_a_folder_that_can_be_listed_again_is_up_to_date(
    locked: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked.report("3", "tree", code=3)
    (locked.server.home / "tree/deep/secret/b.csv").unlink()
    monkeypatch.setattr(Locked, "locked", False)
    locked.report("3", "tree", "--mirror")
    assert tree(locked.target) == {
        name: content for name, content in LANDED.items() if name != "deep/secret/b.csv"
    }


@pytest.mark.parametrize("name", ["a\nb.csv", b"\xff.csv", "back\\slash.csv", b"fold\ner/a.csv"])
@pytest.mark.parametrize("path", ["tree", "tree*"])
def test_a_name_that_cannot_be_used_stops_only_itself_where_asked(
    client: Client, path: str, name: str | bytes
) -> None:
    client.put({b"tree/" + os.fsencode(name): b"bad", "tree/good.csv": b"good"})
    data = client.report("3", path, "--on-error=fail", code=3)
    assert f"{client.server.home}/tree/" in data["error"]
    assert not client.target.exists()
    data = client.report("3", path, code=3)
    assert len(data["failed"]) == 1
    assert list(tree(client.target).values()) == [b"good"]


def test_a_name_that_cannot_be_used_and_is_not_selected_stops_nothing(client: Client) -> None:
    client.put({"tree/a\nb.txt": b"", "tree/good.csv": b"good"})
    assert client.report("3", "tree", "--on-error=fail")["skipped"] == 1


def test_names_of_a_listing_that_collide_are_no_fault_of_an_archive(client: Client) -> None:
    client.put({"tree/A.csv": b"A", "tree/a.csv": b"a"})
    assert client.report("3", "tree", "--on-error=fail", code=3)["kind"] == "remote path"
    assert not client.target.exists()


def test_a_glob_names_what_it_cannot_use(client: Client) -> None:
    client.put({"a\nb.zip": zipped({"x.csv": b""}), "c.zip": zipped({"c.csv": b"c"}),
                             "a\nb.txt": b""})  # fmt: skip
    client.report("1", "*.zip", "--on-error=fail", code=3)
    data = client.report("1", "*.zip", code=3)
    assert len(data["failed"]) == 1
    assert tree(client.target) == {"c/c.csv": b"c"}


def test_links_and_special_files_have_their_own_count(client: Client) -> None:
    home = client.server.home
    client.put({"tree/a.csv": b"a", "tree/notes.txt": b""})
    (home / "tree/link.csv").symlink_to("a.csv")
    (home / "tree/folder").symlink_to(home)
    os.mkfifo(home / "tree/fifo.csv")
    data = client.report("3", "tree")
    assert (data["skipped"], data["links_and_special_files"]) == (1, 3)
    assert tree(client.target) == {"a.csv": b"a"}
    assert "links and special files: 3" in client.run("3", "tree", "--force").out


# --- several sources: where each lands ------------------------------------------------------


def test_plain_files_and_folders_of_a_glob_land_side_by_side(client: Client) -> None:
    client.put({
        "ex/one/a.csv": b"1", "ex/two/a.csv": b"2", "ex/plain.csv": b"p", "ex/notes.txt": b"",
        "ex/packed.zip": zipped({"a.csv": b"z"}),
    })  # fmt: skip
    os.mkfifo(client.server.home / "ex/fifo.csv")
    data = client.report("3", "ex/*")
    expected = {"one/a.csv": b"1", "two/a.csv": b"2", "plain.csv": b"p", "packed/a.csv": b"z"}
    assert tree(client.target) == expected
    assert (data["skipped"], data["links_and_special_files"]) == (1, 1)
    assert client.report("3", "ex/*")["status"] == "unchanged"
    client.put({"ex/plain.csv": b"other"})
    client.report("3", "ex/*")
    assert tree(client.target) == {**expected, "plain.csv": b"other"}


def test_a_plain_file_in_a_list_lands_and_one_alone_is_refused(client: Client) -> None:
    client.put({"one/a.csv": b"1", "plain.csv": b"p"})
    client.report("3", "one", f"--remote-file-path={client.server.home}/plain.csv")
    assert tree(client.target) == {"one/a.csv": b"1", "plain.csv": b"p"}
    client.report("3", "plain.csv", code=3)


@pytest.mark.parametrize(
    ("task", "one", "two"),
    [
        ("1", "x/csv.zip", "y/csv.zip"),
        ("3", "x/data", "y/data"),
        ("3", "x/a.csv", "y/a.csv"),
        ("3", "x/data.zip", "y/Data"),
    ],
)
def test_sources_of_one_name_land_apart_and_always_in_the_same_place(
    client: Client, task: str, one: str, two: str
) -> None:
    for source in (one, two):
        path = source if Path(source).suffix else f"{source}/a.csv"
        client.put({path: zipped({"a.csv": b"a"})})
    client.report(task, one, f"--remote-file-path={client.server.home}/{two}")
    landed = tree(client.target)
    assert len(landed) == 2
    client.report(task, two, f"--remote-file-path={client.server.home}/{one}")
    assert tree(client.target) == landed


def test_a_second_source_of_a_name_moves_the_first(client: Client) -> None:
    """So that the same sources land alike, whatever landed before."""
    client.put({"x/csv.zip": zipped({"a.csv": b"x"})})
    client.report("1", "*/csv.zip")
    assert tree(client.target) == {"csv/a.csv": b"x"}
    client.put({"y/csv.zip": zipped({"a.csv": b"y"})})
    client.report("1", "*/csv.zip")
    landed = tree(client.target)
    client.report("1", "*/csv.zip", "--force")
    assert tree(client.target) == landed
    assert sorted(landed.values()) == [b"x", b"y"]
    client.put({"z/csv.zip": zipped({"a.csv": b"z"})})
    client.report("1", "*/csv.zip")
    assert landed.items() < tree(client.target).items()


def test_a_folder_and_a_file_in_it_are_refused_together(client: Client) -> None:
    client.put({"ex/one/a.csv": b"1"})
    client.report("3", "ex", f"--remote-file-path={client.server.home}/ex/one", code=2)
