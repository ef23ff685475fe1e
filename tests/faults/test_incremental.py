"""What a later run downloads: what is new or changed, by name, size, time or content."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import asyncssh
import pytest

import hosts
import sshd
from client import Client, left_over, put, tree, zipped
from landed import complete
from relay import Relay
from selection import LANDED, TREE, counts, manifest, report

pytestmark = pytest.mark.sshd


def rewrite(path: Path, content: bytes) -> None:
    """Change a file's content, and neither size nor times."""
    facts = path.stat()
    assert len(content) == facts.st_size
    path.write_bytes(content)
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))


# --- incremental runs ------------------------------------------------------------


def test_only_new_and_changed_files_are_downloaded(
    client: Client, home: Path, relay: Relay
) -> None:
    put(home, {"tree/big.csv": os.urandom(300_000), "tree/zips/big.zip": zipped({"z.csv": b"z"})})
    assert counts(report(client)) == (6, 0, 0, 0)
    inodes = {name: (client.target / name).stat().st_ino for name in tree(client.target)}
    put(home, {"tree/new.csv": b"new\n", "tree/deep/b.csv": b"b,changed\n"})
    passed = relay.passed
    data = report(client)
    assert relay.passed - passed < 100_000, "the big file is not downloaded again"
    assert counts(data) == (1, 1, 0, 5)
    assert data["fetched_bytes"] == len(b"new\nb,changed\n")
    landed = tree(client.target)
    assert landed["new.csv"] == b"new\n"
    assert landed["deep/b.csv"] == b"b,changed\n"
    assert {name: landed[name] for name in LANDED if name != "deep/b.csv"} == {
        name: content for name, content in LANDED.items() if name != "deep/b.csv"
    }
    same = {name for name in inodes if (client.target / name).stat().st_ino == inodes[name]}
    assert same == inodes.keys() - {"deep/b.csv"}
    assert left_over(client) == []


def test_members_that_a_changed_zip_no_longer_contains_are_removed(
    client: Client, home: Path
) -> None:
    report(client)
    put(home, {"tree/zips/packed.zip": zipped({"p/one.csv": b"another one\n"})})
    assert counts(report(client)) == (0, 1, 0, 3)
    assert tree(client.target) == {**TREE, "zips/p/one.csv": b"another one\n"}


@pytest.mark.parametrize("removed", ["deep/b.csv", "zips/packed.zip"])
def test_files_removed_from_the_host_stay_without_mirror(
    client: Client, home: Path, removed: str
) -> None:
    report(client)
    (home / "tree" / removed).unlink()
    data = report(client)
    assert (data["status"], counts(data)) == ("unchanged", (0, 0, 1, 3))
    put(home, {"tree/new.csv": b"new\n"})
    done = client.run("3", "tree")
    assert "--mirror" in done.out
    assert str(home / "tree" / removed) in done.out
    assert tree(client.target) == {**LANDED, "new.csv": b"new\n"}
    data = report(client, "--mirror")
    assert (data["status"], counts(data)) == ("landed", (0, 0, 1, 4))
    below = str(Path(removed).with_suffix("")) if removed.endswith("csv") else "zips/"
    others = {name: content for name, content in LANDED.items() if not name.startswith(below)}
    assert tree(client.target) == {**others, "new.csv": b"new\n"}
    assert report(client, "--mirror")["status"] == "unchanged"


def test_mirror_removes_files_and_their_folders(client: Client, home: Path) -> None:
    report(client)
    shutil.rmtree(home / "tree")
    put(home, {"tree/a.csv": TREE["a.csv"]})
    report(client, "--mirror")
    assert tree(client.target) == {"a.csv": TREE["a.csv"]}
    assert [path.name for path in client.target.iterdir() if path.is_dir()] == []


@pytest.mark.parametrize("content", [None, b"damaged"])
@pytest.mark.parametrize("name", ["a.csv", "zips/two.csv"])
def test_damaged_published_file_is_downloaded_again(
    client: Client, home: Path, name: str, content: bytes | None
) -> None:
    report(client)
    if content is None:
        (client.target / name).unlink()
    else:
        (client.target / name).write_bytes(content)
    assert counts(report(client)) == (0, 1, 0, 3)
    assert tree(client.target) == LANDED


def test_file_removed_here_and_on_the_host_leaves_the_manifest(client: Client, home: Path) -> None:
    report(client)
    (home / "tree/a.csv").unlink()
    (client.target / "a.csv").unlink()
    report(client)
    others = {name: content for name, content in LANDED.items() if name != "a.csv"}
    assert tree(client.target) == others
    assert "a.csv" not in {file["path"] for file in manifest(client)["files"]}
    put(home, {"tree/new.csv": b"new\n"})
    assert counts(report(client)) == (1, 0, 0, 3)


@pytest.mark.parametrize("name", ["zips/two.csv", "zips/TWO.csv", "zips/two.csv/file.csv"])
def test_new_file_takes_the_name_of_a_removed_one(client: Client, home: Path, name: str) -> None:
    report(client)
    (home / "tree/zips/packed.zip").unlink()
    put(home, {f"tree/{name}": b"unpacked there\n"})
    report(client)
    assert tree(client.target) == {**TREE, name: b"unpacked there\n"}
    assert report(client)["status"] == "unchanged"


@pytest.mark.parametrize(
    "flags",
    [["--include=*.csv", "--include=*.txt"], ["--exclude=c.csv"], ["--keep-archive"]],
)
def test_another_selection_downloads_everything(
    client: Client, home: Path, flags: list[str]
) -> None:
    report(client)
    (home / "tree/a.csv").unlink()
    data = report(client, *flags)
    assert counts(data)[1:] == (0, 0, 0)
    assert not (client.target / "a.csv").exists(), "it is of the old selection"
    assert report(client, *flags)["status"] == "unchanged"


def test_another_path_downloads_everything(client: Client, home: Path) -> None:
    report(client)
    shutil.copytree(home / "tree/deep", home / "other")
    assert counts(report(client, path="other")) == (2, 0, 0, 0)
    assert tree(client.target) == {"b.csv": TREE["deep/b.csv"], "er/c.csv": b""}


def test_force_downloads_everything_and_keeps_removed_files(client: Client, home: Path) -> None:
    report(client)
    (home / "tree/deep/b.csv").unlink()
    assert counts(report(client, "--force")) == (0, 3, 1, 0)
    assert tree(client.target) == LANDED


# --- changes found by content ----------------------------------------------------------


@pytest.mark.parametrize("user", ["full", "sftp"])
def test_checksum_finds_other_content_of_the_same_size_and_time(
    client: Client, home: Path, user: str
) -> None:
    if user == "sftp":
        sshd.need_passwords()
        client.options["username"] = user
    report(client)
    rewrite(home / "tree/a.csv", b"A,1\n" * 1000)
    assert report(client)["status"] == "unchanged"
    data = report(client, "--checksum")
    # An account that can tell no checksum has to send the content.
    assert counts(data) == ((0, 1, 0, 3) if user == "full" else (0, 4, 0, 0))
    assert tree(client.target) == {**LANDED, "a.csv": b"A,1\n" * 1000}


def test_checksum_finds_a_local_edit_of_the_same_size(client: Client, home: Path) -> None:
    report(client)
    rewrite(client.target / "zips/two.csv", b"TWO\n")
    assert report(client)["status"] == "unchanged"
    assert counts(report(client, "--checksum")) == (0, 1, 0, 3)
    assert tree(client.target) == LANDED


@pytest.mark.parametrize("old_manifest", [False, True])
def test_file_edited_in_place_is_downloaded_again(
    client: Client, home: Path, old_manifest: bool
) -> None:
    """To the same size; also with a manifest of an earlier version, without times."""
    report(client)
    if old_manifest:
        data = manifest(client)
        for file in data["files"]:
            del file["mtime_ns"]
        (client.target / "manifest.json").write_text(json.dumps(data))
    with (client.target / "a.csv").open("r+b") as file:
        file.write(b"A")
    put(home, {"tree/deep/er/c.csv": b"so that the manifest is written again\n"})
    assert counts(report(client)) == (0, 2, 0, 2)
    assert tree(client.target)["a.csv"] == TREE["a.csv"]
    assert complete(client.target) == tree(client.target), "the manifest is true"


def test_touched_file_is_not_downloaded_again(client: Client, home: Path) -> None:
    """Nor read in each later run: its new time is noted."""
    report(client)
    before = manifest(client)
    os.utime(client.target / "a.csv", (1000, 1000))
    assert report(client)["status"] == "unchanged"
    [file] = [file for file in before["files"] if file["path"] == "a.csv"]
    file["mtime_ns"] = 1000 * 10**9
    assert manifest(client) == before
    assert left_over(client) == []


def test_checksum_ignores_a_new_time_of_the_same_content(
    client: Client, home: Path, relay: Relay
) -> None:
    put(home, {"tree/big.csv": os.urandom(300_000)})
    report(client)
    for path in (home / "tree").rglob("*.*"):
        os.utime(path, (1, 1))
    passed = relay.passed
    assert report(client, "--checksum")["status"] == "unchanged"
    assert relay.passed - passed < 100_000


# --- a source that changes during the run --------------------------------------------------------


class Changing(asyncssh.SFTPServer):
    """States another time of `b.csv` for the first `changes` reads; counts opened files."""

    opened: ClassVar[Counter[str]] = Counter()
    changes = 0

    def open(self, path: bytes, pflags: int, attrs: asyncssh.SFTPAttrs) -> object:
        self.opened[Path(path.decode()).name] += 1
        return super().open(path, pflags, attrs)

    def fstat(self, file_obj: Any) -> asyncssh.SFTPAttrs:
        facts = asyncssh.SFTPAttrs.from_local(os.fstat(file_obj.fileno()))
        if file_obj.name.endswith(b"b.csv") and Changing.changes:
            Changing.changes -= 1
            facts.mtime = 12345
        return facts


@pytest.mark.parametrize(("changes", "code"), [(1, 0), (2, 0), (3, 6)])
def test_file_that_changes_during_the_run_is_downloaded_again(
    client: Client, home: Path, changes: int, code: int
) -> None:
    Changing.changes, Changing.opened = changes, Counter()
    client.environ["PASSWORD"] = hosts.PASSWORD
    with hosts.host(Changing, client.known_hosts) as address:
        done = client.run(
            "3", "tree", ssh_key_file=None, remote_host_address=address, max_tries="3"
        )
    assert (done.code, "changed on the host" in done.err) == (code, True), done.err
    assert Changing.opened["b.csv"] == min(changes + 1, 3)
    assert Changing.opened["a.csv"] == 1
    assert (tree(client.target) if client.target.exists() else {}) == (LANDED if code == 0 else {})
