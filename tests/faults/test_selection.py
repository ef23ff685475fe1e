"""What a run downloads, what it compares it with, and where it resumes.

Incremental runs, globs and lists, checksums, broken files among many, dry runs, rates, waiting,
and partial downloads: against a real OpenSSH server.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import asyncssh
import pytest

import hosts
import sshd
from client import CSVS, Client, ended, left_over, put, tarred, tree, trusted, wait_for, zipped
from landed import complete
from relay import Relay
from tasks.fetch.ssh import retry

TREE = {
    "a.csv": b"a,1\n" * 1000,
    "deep/b.csv": b"b,2\n",
    "deep/er/c.csv": b"",
}
PACKED = {"p/one.csv": b"one\n" * 5, "two.csv": b"two\n"}
LANDED = {**TREE, **{f"zips/{name}": content for name, content in PACKED.items()}}
pytestmark = pytest.mark.sshd


@pytest.fixture
def home(client: Client) -> Path:
    """Give the server's home, with a folder `tree` of three CSVs and a zip of two."""
    client.put({f"tree/{name}": content for name, content in TREE.items()})
    client.put({"tree/zips/packed.zip": zipped(PACKED), "tree/notes.txt": b"no csv"})
    return client.server.home


@pytest.fixture
def relay(client: Client) -> Iterator[Relay]:
    """Give a relay that the client's runs go through, and that counts what the server sends."""
    with Relay(client.server.port).running() as relay:
        client.options["remote-host-address"] = trusted(client, relay.address)
        yield relay


def rewrite(path: Path, content: bytes) -> None:
    """Change a file's content, and neither size nor times."""
    facts = path.stat()
    assert len(content) == facts.st_size
    path.write_bytes(content)
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))


def report(client: Client, *flags: str, task: str = "3", path: str = "tree", code: int = 0) -> Any:
    """Run a task, by default task 3 on the tree; return its JSON."""
    return client.report(task, path, *flags, code=code)


def manifest(client: Client) -> Any:
    """Read the manifest."""
    return json.loads((client.target / "manifest.json").read_text())


def counts(data: Any) -> tuple[int, int, int, int]:
    """Give how many remote files were added, changed, removed and unchanged."""
    kinds = data["remote_files"]
    return kinds["added"], kinds["changed"], kinds["removed"], kinds["unchanged"]


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


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


# --- checksums -------------------------------------------------------------------


LINES = {
    "gnu": f"{sha256(b'')}  other.zip\n{{digest}}  csv.zip\n",
    "binary": f"{sha256(b'')} *other.zip\r\n{{DIGEST}} *csv.zip\r\n",
    "bsd": f"SHA256 (other.zip) = {sha256(b'')}\nSHA256 (csv.zip) = {{digest}}\n",
    "bare": "{digest}",
}


@pytest.mark.parametrize(
    ("place", "style"),
    [("SHA256SUMS", "gnu"), ("SHA256SUMS", "binary"), ("SHA256SUMS", "bsd"),
     *(("csv.zip.sha256", style) for style in LINES)],
)  # fmt: skip
@pytest.mark.parametrize("right", [True, False])
def test_checksum_file_beside_the_data_is_compared(
    client: Client, place: str, style: str, right: bool
) -> None:
    packed = zipped(CSVS)
    digest = sha256(packed if right else b"other")
    sums = LINES[style].format(digest=digest, DIGEST=digest.upper())
    client.put({"csv.zip": packed, place: sums.encode()})
    done = client.run("1", "csv.zip", "--explain")
    if right:
        assert done.code == 0, done.err
        assert "a checksum beside the data (1)" in done.out
        assert manifest(client)["sources"][0]["verified"] == "sha256"
    else:
        assert (done.code, digest in done.err) == (6, True), done.err
        assert len(done.err.splitlines()) == 1, "no retry: the checksum file would be the same"
        assert not client.target.exists()


def test_checksum_files_apply_to_their_folder(client: Client, home: Path) -> None:
    sums = "".join(f"{sha256(TREE[name])}  {name}\n" for name in ("a.csv", "deep/b.csv"))
    put(home, {"tree/SHA256SUMS": sums.encode(), "tree/deep/b.csv.sha256": b"garbage"})
    done = client.run("3", "tree", "--explain")
    assert done.code == 0, done.err
    assert "a checksum beside the data (2), a remote checksum (2)" in done.out
    put(home, {"tree/deep/SHA256SUMS": f"SHA256 (b.csv) = {sha256(b'')}\n".encode()})
    done = client.run("3", "tree", "--force")
    assert (done.code, "deep/b.csv" in done.err) == (6, True)
    assert tree(client.target) == LANDED
    assert left_over(client) == []


GARBAGE = [b"", b"\0\xff" * 500, b"0" * 63 + b"\n", b"not a checksum\n", b"\\" + b"0" * 63]


@pytest.mark.parametrize("garbage", [*GARBAGE, None])
@pytest.mark.parametrize("place", ["csv.zip.sha256", "SHA256SUMS"])
def test_malformed_checksum_file_is_skipped(
    client: Client, place: str, garbage: bytes | None
) -> None:
    """None stands for a folder of that name."""
    client.put(
        {"csv.zip": zipped(CSVS), f"{place}/x" if garbage is None else place: garbage or b""}
    )
    data = report(client, "--verify=checksum", task="1", path="csv.zip")
    assert data["checked"] == "size, sha256, archive CRC", "the host computes the checksum"


@pytest.mark.parametrize("place", ["csv.zip.sha256", "SHA256SUMS"])
def test_unreadable_checksum_file_is_skipped(client: Client, place: str) -> None:
    client.put({"csv.zip": zipped(CSVS), place: sha256(b"").encode()})
    client.environ["PASSWORD"] = hosts.PASSWORD
    client.options["ssh-key-file"] = None
    with hosts.host(Unreadable, client.known_hosts) as address:
        done = client.run("1", "csv.zip", "--json", remote_host_address=address)
    assert done.code == 0, done.err
    assert done.data()["checked"] == "size only, archive CRC"
    assert f"{client.server.home / place}" in done.err
    assert tree(client.target) == CSVS


class Unreadable(asyncssh.SFTPServer):
    """Denies access to checksum files."""

    def open(self, path: bytes, pflags: int, attrs: asyncssh.SFTPAttrs) -> object:
        if path.endswith((b".sha256", b"SHA256SUMS")):
            raise PermissionError(13, "no")
        return super().open(path, pflags, attrs)


@pytest.mark.parametrize(("task", "path"), [("1", "csv.zip"), ("2", "csv.tar.gz"), ("3", "tree")])
def test_remote_checksum_is_compared(client: Client, home: Path, task: str, path: str) -> None:
    put(home, {"csv.zip": zipped(CSVS), "csv.tar.gz": tarred(CSVS)})
    done = client.run(task, path, "--explain")
    assert "a remote checksum" in done.out
    assert "size, sha256" in done.out
    assert {source["verified"] for source in manifest(client)["sources"]} == {"sha256"}


def test_names_with_shell_syntax_are_only_names(client: Client) -> None:
    names = ["$(touch x).csv", "`touch y`.csv", "a'b\".csv", "-n.csv", "new & old;.csv", "a b.csv"]
    files = {name: name.encode() for name in names}
    client.put({f"odd/{name}": content for name, content in files.items()})
    data = report(client, path="odd")
    assert tree(client.target) == files
    assert data["checked"] == "size, sha256"
    assert sorted(path.name for path in client.server.home.iterdir()) == ["odd"]


def test_account_without_commands_verifies_by_size(client: Client, home: Path) -> None:
    sshd.need_passwords()
    done = client.run("3", "tree", "--explain", username="sftp")
    assert done.code == 0, done.err
    assert "checked: size only, archive CRC" in done.out
    assert "size only, as the host gives no checksum (4)" in done.out
    assert {source["verified"] for source in manifest(client)["sources"]} == {"size"}
    put(home, {"tree/a.csv.sha256": sha256(TREE["a.csv"]).encode()})
    done = client.run("3", "tree", "--force", username="sftp")
    assert "checked: size, sha256 of some, archive CRC" in done.out


def test_verify_size_requests_no_checksum(client: Client, home: Path) -> None:
    put(home, {"tree/a.csv.sha256": sha256(b"other").encode()})
    assert report(client, "--verify=size")["checked"] == "size only, archive CRC"


# --- globs --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        (["--include=a.csv", "--include=B.CSV"], {"a.csv", "deep/b.csv"}),
        (["--exclude=b.csv", "--exclude=two*"], {"a.csv", "deep/er/c.csv", "zips/p/one.csv"}),
        (["--include=deep/*"], {"deep/b.csv", "deep/er/c.csv"}),
        (["--exclude=zips/*"], TREE.keys()),
        (["--exclude=*.zip"], TREE.keys()),
        (["--include=*.csv", "--include=*.txt"], LANDED.keys() | {"notes.txt"}),
        (["--include=?.csv", "--exclude=deep/*/*"], {"a.csv", "deep/b.csv"}),
    ],
)
def test_globs_select_files(client: Client, home: Path, flags: list[str], names: set[str]) -> None:
    report(client, *flags)
    assert tree(client.target).keys() == names
    assert report(client, *flags)["status"] == "unchanged"


@pytest.mark.parametrize(("task", "path"), [("1", "csv.zip"), ("2", "csv.tar.gz")])
def test_globs_select_members(client: Client, task: str, path: str) -> None:
    client.put({"csv.zip": zipped(CSVS), "csv.tar.gz": tarred(CSVS)})
    report(client, "--include=2026/*", "--exclude=02.csv", task=task, path=path)
    assert tree(client.target).keys() == {"2026/01.csv"}
    done = client.run(task, path, "--include=no*thing")
    assert (done.code, "no*thing" in done.err) == (3, True)
    assert tree(client.target).keys() == {"2026/01.csv"}


def test_config_file_lists_globs_and_paths(client: Client, home: Path) -> None:
    config = client.folder / "mine.yaml"
    config.write_text(
        "tasks:\n  3:\n    remote_file_path:\n"
        f"      - {home / 'tree/deep'}\n      - {home / 'tree/zips'}\n"
        "    include: ['*.csv']\n    exclude: [c.csv, one.*]\n"
    )
    assert client.run("3", None, f"--config-file={config}").code == 0
    assert tree(client.target).keys() == {"deep/b.csv", "zips/two.csv"}


# --- several paths --------------------------------------------------------------------------


def test_archive_whose_name_without_suffix_leads_out_of_the_target_is_refused(
    client: Client,
) -> None:
    client.put({"in/.x.zip": zipped({"a.csv": b"1"}), "in/...zip": zipped({"b.csv": b"2"})})
    done = client.run("1", "in/.*.zip")
    assert (done.code, "leads out" in done.err) == (3, True)
    assert not client.target.exists()
    assert not list(client.target.parent.glob("*.csv"))


def test_each_archive_of_a_glob_lands_in_a_folder_of_its_name(client: Client) -> None:
    one, two = {"a.csv": b"1"}, {"a.csv": b"2"}
    client.put({
        "in/x/2026-01.tar.gz": tarred(one), "in/y/2026-02.tar": tarred(two, "w:"),
        "in/.hidden/2026-03.tar.gz": b"", "in/y/other.txt": b"", "in/file.tar": b"",
    })  # fmt: skip
    assert counts(report(client, task="2", path="in/*/2026-*.tar*")) == (2, 0, 0, 0)
    assert tree(client.target) == {"2026-01/a.csv": b"1", "2026-02/a.csv": b"2"}
    client.put({"in/x/2026-04.tgz": tarred(one), "in/y/2026-05.tar.gz": tarred(one)})
    assert counts(report(client, task="2", path="in/*/2026-*.tar*")) == (1, 0, 0, 2)
    assert tree(client.target).keys() == {f"2026-0{month}/a.csv" for month in (1, 2, 5)}


def test_single_archive_of_a_glob_lands_in_its_own_folder(client: Client) -> None:
    client.put({"one.zip": zipped(CSVS)})
    report(client, task="1", path="o*.zip")
    assert tree(client.target) == {f"one/{name}": content for name, content in CSVS.items()}


def test_each_folder_of_a_list_lands_in_its_own_folder(client: Client, home: Path) -> None:
    more = f"--remote-file-path={home}/tree/zips"
    data = report(client, more, path="tree/deep")
    assert counts(data) == (3, 0, 0, 0)
    assert tree(client.target).keys() == {
        "deep/b.csv", "deep/er/c.csv", "zips/p/one.csv", "zips/two.csv"
    }  # fmt: skip
    assert report(client, more, path="tree/deep")["status"] == "unchanged"


def test_path_named_twice_is_downloaded_once(client: Client, home: Path) -> None:
    data = report(client, f"--remote-file-path={home}/tree/d*", path="tree/deep")
    assert counts(data) == (2, 0, 0, 0)


@pytest.mark.parametrize("path", ["none-*.zip", "*/none.zip", "tree/a.csv/*", "none/*/a.zip"])
def test_glob_without_matches_is_an_error(client: Client, home: Path, path: str) -> None:
    done = client.run("1", path)
    assert (done.code, path in done.err, len(done.err.splitlines())) == (3, True, 1)
    assert not client.target.parent.exists()


@pytest.mark.parametrize(("task", "path"), [("3", "tree"), ("1", "*.zip")])
def test_listing_has_a_limit(client: Client, home: Path, task: str, path: str) -> None:
    put(home, {f"{number}.zip": zipped(CSVS) for number in range(4)})
    done = client.run(task, path, "--max-members=3")
    assert (done.code, "max_members" in done.err) == (3, True)


def test_missing_path_of_a_list_is_an_error(client: Client, home: Path) -> None:
    done = client.run("3", "tree", f"--remote-file-path={home}/missing")
    assert (done.code, "missing" in done.err) == (3, True)


def test_existing_name_with_brackets_is_not_a_glob(client: Client) -> None:
    client.put({"a[1].zip": zipped({"right.csv": b"1"}), "a1.zip": zipped(CSVS)})
    report(client, task="1", path="a[1].zip")
    assert tree(client.target) == {"right.csv": b"1"}
    (client.server.home / "a[1].zip").unlink()
    report(client, "--mirror", task="1", path="a[1].zip")
    assert tree(client.target) == {f"a1/{name}": content for name, content in CSVS.items()}


# --- a broken file among many ----------------------------------------------------------------

BROKEN = zipped({"p/one.csv": b"never seen\n" * 50})[:-25]


def test_on_error_continue_lands_the_other_files(client: Client, home: Path) -> None:
    report(client)
    put(home, {"tree/zips/packed.zip": BROKEN, "tree/zips/new.zip": BROKEN, "tree/a.csv": b"new\n"})
    done = client.run("3", "tree", "--on-error=continue")
    assert done.code == 7, done.err
    assert "partial" in done.out
    assert done.out.count("failed: unsafe or broken archive") == 2
    assert tree(client.target) == {**LANDED, "a.csv": b"new\n"}, "the old data of the broken one"
    data = report(client, "--on-error=continue", code=7)
    assert (data["status"], data["exit_code"], counts(data)) == ("partial", 7, (1, 1, 0, 3))
    assert {Path(failed["path"]).name for failed in data["failed"]} == {"packed.zip", "new.zip"}
    assert {failed["exit_code"] for failed in data["failed"]} == {7}
    put(home, {"tree/zips/packed.zip": zipped({"two.csv": b"repaired\n"})})
    (home / "tree/zips/new.zip").unlink()
    report(client, "--on-error=continue")
    assert tree(client.target) == {**TREE, "a.csv": b"new\n", "zips/two.csv": b"repaired\n"}
    assert left_over(client) == []


def test_on_error_fail_lands_nothing(client: Client, home: Path) -> None:
    report(client)
    put(home, {"tree/zips/broken.zip": BROKEN, "tree/a.csv": b"new\n"})
    data = report(client, code=7)
    assert data["status"] == "failed"
    assert tree(client.target) == LANDED
    assert left_over(client) == []


def test_nothing_lands_if_all_are_broken(client: Client) -> None:
    client.put({"x.zip": BROKEN, "y.zip": BROKEN})
    assert client.run("1", "*.zip", "--on-error=continue").code == 7
    assert not client.target.parent.exists()


def test_on_error_continue_skips_a_file_with_a_wrong_checksum(client: Client, home: Path) -> None:
    put(home, {"tree/zips/packed.zip.sha256": sha256(b"other").encode()})
    data = report(client, "--on-error=continue", code=6)
    assert [Path(failed["path"]).name for failed in data["failed"]] == ["packed.zip"]
    assert tree(client.target) == TREE


def test_on_error_continue_skips_an_unreadable_file(client: Client, home: Path) -> None:
    client.environ["PASSWORD"] = hosts.PASSWORD
    client.options["ssh-key-file"] = None
    put(home, {"tree/b.csv.sha256": b"", "tree/readable.csv": b"r\n"})
    with hosts.host(Unreadable, client.known_hosts) as address:
        flags = [f"--remote-host-address={address}", "--include=*.csv", "--include=*.sha256"]
        data = report(client, "--on-error=continue", *flags, code=3)
        assert [Path(failed["path"]).name for failed in data["failed"]] == ["b.csv.sha256"]
        assert tree(client.target) == {**LANDED, "readable.csv": b"r\n"}


# --- dry runs and explanations ------------------------------------------------


def everything(folder: Path) -> dict[str, tuple[float, int]]:
    """Return the time and inode of every path in a folder."""
    facts = {str(path): path.lstat() for path in [folder, *folder.rglob("*")]}
    return {path: (fact.st_mtime_ns, fact.st_ino) for path, fact in facts.items()}


def test_dry_run_lists_the_changes_and_makes_none(client: Client, home: Path) -> None:
    before = everything(client.folder)
    done = client.run("3", "tree", "--dry-run")
    assert done.code == 0, done.err
    assert "would download 4 files" in done.out
    for name in ("a.csv", "deep/b.csv", "deep/er/c.csv", "zips/packed.zip"):
        assert f"{home}/tree/{name}" in done.out
    assert everything(client.folder) == before
    report(client)
    (home / "tree/deep/b.csv").unlink()
    put(home, {"tree/a.csv": b"new\n", "tree/new.csv": b"new\n"})
    before = everything(client.folder)
    data = report(client, "--dry-run", "--mirror")
    assert data["status"] == "planned"
    assert [Path(path).name for path in data["added"]] == ["new.csv"]
    assert [Path(path).name for path in data["changed"]] == ["a.csv"]
    assert [Path(path).name for path in data["removed"]] == ["b.csv"]
    assert data["fetched_bytes"] == 8
    assert everything(client.folder) == before
    assert tree(client.target) == LANDED


def test_dry_run_fails_where_a_run_would(client: Client, home: Path) -> None:
    put(client.target, {"mine.txt": b"precious"})
    assert client.run("3", "tree", "--dry-run").code == 8
    assert client.run("3", "missing", "--dry-run", file_save_path="out/other").code == 3


def test_explain_names_the_methods_chosen(client: Client, home: Path) -> None:
    report(client)
    put(home, {"tree/new.csv": b"new\n"})
    done = client.run("3", "tree", "--explain", "--max-rate=50MB/s")
    chosen = [line for line in done.out.splitlines() if line.startswith("  chose: ")]
    for word in ("gcm", "round trip", "50.0 MB/s", "1 to download, 4 unchanged", "verified by"):
        assert any(word in line for line in chosen), word
    assert report(client, "--explain")["explained"]


# --- rates, and waiting ---------------------------------------------------------------------


def test_rate_limit_sleeps_as_long_as_the_rate_requires(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=100.0, slept=0.0)

    def sleep(seconds: float) -> None:
        clock.now += seconds
        clock.slept += seconds

    time = SimpleNamespace(monotonic=lambda: clock.now, sleep=sleep)
    monkeypatch.setattr(retry, "time", time)
    limit = retry.RateLimit(1000)
    for _ in range(10):
        limit.wait(500)
    assert clock.slept == pytest.approx(5)
    clock.now += 60  # a pause of the host allows at most one second of data at once
    for _ in range(10):
        limit.wait(500)
    assert clock.slept == pytest.approx(5 + 4)
    free = retry.RateLimit(0)
    free.wait(10**9)
    assert clock.slept == pytest.approx(5 + 4)


@pytest.mark.parametrize("killed", [False, True])
def test_second_run_waits_for_the_first(client: Client, relay: Relay, killed: bool) -> None:
    csvs = {"big.csv": os.urandom(400_000)}
    client.put({"big.zip": zipped(csvs)})
    relay.rate = 50_000
    first = client.start("1", "big.zip", remote_host_address=relay.address)
    wait_for(lambda: relay.passed > 50_000)
    assert client.run("1", "big.zip", remote_host_address=relay.address).code == 9
    second = client.start("1", "big.zip", "--wait=60", "--json", remote_host_address=relay.address)
    wait_for(lambda: "waiting until it ends" in second.said())
    if killed:
        first.kill()
    relay.rate = 0
    assert ended(first).code == (-9 if killed else 0)
    done = ended(second)
    assert (done.code, done.data()["status"]) == (0, "landed" if killed else "unchanged")
    assert tree(client.target) == csvs
    assert left_over(client) == []


# --- partial downloads -----------------------------------------------------------------

BIG = {f"{number}.csv": os.urandom(500_000) for number in range(4)}


@pytest.fixture
def big(client: Client) -> dict[str, bytes]:
    """Give the server archives that do not shrink."""
    client.put({"big.zip": zipped(BIG), "big.tar.gz": tarred(BIG)})
    return BIG


def partial_sizes(client: Client) -> list[int]:
    """Return the sizes of the partial downloads beside the target."""
    return [path.stat().st_size for path in client.target.parent.glob(".data.part/*")]


ARCHIVES = pytest.mark.parametrize(("task", "path"), [("1", "big.zip"), ("2", "big.tar.gz")])


def cut_run(client: Client, relay: Relay, task: str, path: str) -> None:
    """Run to a cut in the middle of an archive that is kept."""
    relay.fault, relay.after, relay.times = "cut", 1_200_000, relay.connections + 1
    done = client.run(task, path, "--keep-archive", max_tries="1")
    assert done.code == 5, done.err
    assert not client.target.exists()
    relay.fault = None


def killed_run(client: Client, relay: Relay, task: str, path: str) -> None:
    """Run, and kill the run in the middle of an archive that is kept."""
    relay.rate = 2_000_000
    run = client.start(task, path, "--keep-archive")
    wait_for(lambda: sum(partial_sizes(client)) > 500_000)
    run.kill()
    assert ended(run).code == -9
    relay.rate = 0


@ARCHIVES
@pytest.mark.parametrize("interrupted_run", [cut_run, killed_run])
def test_run_resumes_the_partial_download_of_an_interrupted_run(
    client: Client, big: dict[str, bytes], relay: Relay, task: str, path: str,
    interrupted_run: Callable[[Client, Relay, str, str], None],
) -> None:  # fmt: skip
    interrupted_run(client, relay, task, path)
    (size,) = partial_sizes(client)
    assert size > 500_000
    passed = relay.passed
    data = report(client, "--keep-archive", task=task, path=path)
    rest = (client.server.home / path).stat().st_size - size
    assert rest < relay.passed - passed < rest + 200_000
    assert data["checked"] == "size, sha256, archive CRC"
    assert {name: tree(client.target)[name] for name in big} == big
    assert (client.target / path).read_bytes() == (client.server.home / path).read_bytes()
    assert left_over(client) == []


@ARCHIVES
def test_partial_download_of_other_content_is_not_used(
    client: Client, big: dict[str, bytes], relay: Relay, task: str, path: str
) -> None:
    cut_run(client, relay, task, path)
    other = {"other.csv": os.urandom(600_000)}
    packed = zipped(other) if task == "1" else tarred(other)
    client.put({path: packed})
    passed = relay.passed
    report(client, "--keep-archive", task=task, path=path)
    assert relay.passed - passed > len(packed)
    assert tree(client.target)["other.csv"] == other["other.csv"]
    assert left_over(client) == []


@ARCHIVES
def test_run_that_keeps_no_archive_uses_no_partial_download(
    client: Client, big: dict[str, bytes], relay: Relay, task: str, path: str
) -> None:
    cut_run(client, relay, task, path)
    report(client, task=task, path=path)
    assert tree(client.target) == big
    assert left_over(client) == []


@ARCHIVES
@pytest.mark.parametrize("damage", ["other bytes", "too long", "complete, but other bytes"])
def test_damaged_partial_download_is_downloaded_again(
    client: Client, big: dict[str, bytes], relay: Relay, task: str, path: str, damage: str
) -> None:
    cut_run(client, relay, task, path)
    (part,) = client.target.parent.glob(".data.part/*")
    real = (client.server.home / path).read_bytes()
    size = part.stat().st_size
    part.write_bytes(
        {
            "other bytes": os.urandom(size),
            "too long": real + b"more",
            "complete, but other bytes": real[:2000] + b"?" + real[2001:],
        }[damage]
    )
    report(client, "--keep-archive", task=task, path=path)
    assert {name: tree(client.target)[name] for name in big} == big
    assert (client.target / path).read_bytes() == real
    assert left_over(client) == []


def test_partial_download_is_removed_by_an_unchanged_run(
    client: Client, big: dict[str, bytes], relay: Relay
) -> None:
    report(client, "--keep-archive", task="2", path="big.tar.gz")
    relay.fault, relay.after, relay.times = "cut", 1_200_000, relay.connections + 1
    assert client.run("2", "big.tar.gz", "--keep-archive", "--force", max_tries="1").code == 5
    assert partial_sizes(client)
    assert report(client, "--keep-archive", task="2", path="big.tar.gz")["status"] == "unchanged"
    assert left_over(client) == []


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


# --- slow links -------------------------------------------------------------------


def test_slow_link_is_compressed_for_plain_data(client: Client) -> None:
    """CSVs over a slow link: after some of them a second connection takes over, compressed."""
    rows = {f"{n}.csv": b"2026-01-01,%d,Genova\n" % n * 300_000 for n in range(3)}
    put(client.server.home / "slow", rows)
    size = sum(map(len, rows.values()))
    with Relay(client.server.port, rate=1_500_000).running() as relay:
        client.options["remote-host-address"] = trusted(client, relay.address)
        done = client.run("3", "slow", "--explain")
        assert done.code == 0, done.err
        assert "SSH compression: the link is slow" in done.out
        assert relay.connections == 2
        assert relay.passed < size / 2
    assert tree(client.target) == rows


def test_slow_link_is_not_compressed_for_packed_data(client: Client) -> None:
    noise = os.urandom(12_000_000)
    put(client.server.home / "slow", {"noise.csv": noise})
    with Relay(client.server.port, rate=3_000_000).running() as relay:
        client.options["remote-host-address"] = trusted(client, relay.address)
        assert client.run("3", "slow").code == 0
        assert relay.connections == 1
    assert tree(client.target) == {"noise.csv": noise}
