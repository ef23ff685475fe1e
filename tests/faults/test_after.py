"""What becomes of a source on the host once its data is published and verified."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncssh
import pytest

import hosts
from client import Client, put, tree, zipped
from need import need
from results import valid
from selection import LANDED, TREE, counts, report, sha256
from sshd import Sshd

pytestmark = pytest.mark.sshd

ARCHIVES = ("in/a.zip", "in/b.zip")


@pytest.fixture
def archives(client: Client) -> Path:
    """Give a folder of the server with two zips, beside `old` to move to."""
    client.put({name: zipped({"x.csv": name.encode()}) for name in ARCHIVES})
    folder = client.server.home / "in"
    (client.server.home / "old").mkdir()
    return folder


@pytest.fixture
def denying(client: Client) -> Iterator[str]:
    """Give the address of a host whose account may read only."""

    class Denying(asyncssh.SFTPServer):
        def remove(self, path: bytes) -> None:
            raise PermissionError(13, "no")

        def rename(self, oldpath: bytes, newpath: bytes) -> None:
            raise PermissionError(13, "no")

    client.environ["PASSWORD"] = hosts.PASSWORD
    client.options["ssh-key-file"] = None
    with hosts.host(Denying, client.known_hosts) as address:
        yield address


def names(folder: Path) -> set[str]:
    """Give the paths of the files below a folder."""
    return set(tree(folder))


def move(client: Client) -> str:
    """Give the option that moves to `old` in the server's home."""
    return f"--after=move:{client.server.home}/old"


def valid_report(client: Client, *flags: str, code: int = 0, path: str = "in/*.zip") -> Any:
    """Run task 1; return its JSON, which is documented."""
    done = client.run("1", path, "--json", *flags)
    return valid(done.out, code)


def test_sources_stay_by_default(client: Client, archives: Path) -> None:
    valid_report(client)
    assert names(archives) == {"a.zip", "b.zip"}


@pytest.mark.parametrize("path", ["in/*.zip", "in/a.zip"])
def test_landed_archives_are_deleted_and_their_data_is_kept(
    client: Client, archives: Path, path: str
) -> None:
    data = valid_report(client, "--after=delete", path=path)
    landed = tree(client.target)
    assert data["after_done"] == len(landed) == 2 - path.count("a.zip")
    assert names(archives) == ({"b.zip"} if "a.zip" in path else set())
    data = valid_report(client, "--after=delete", "--unchanged-exit-code=99", path=path, code=99)
    assert ("removed from the host" in data["arrival"][0], tree(client.target)) == (True, landed)
    put(archives, {"a.zip": zipped({"x.csv": b"new"})})
    valid_report(client, "--after=delete", path=path)
    assert b"new" in tree(client.target).values()
    assert len(tree(client.target)) == len(landed)


def test_published_data_is_flushed_before_anything_is_deleted(
    client: Client, archives: Path
) -> None:
    strace, log = need("strace", "strace", "that data is flushed"), client.folder / "log"
    command = [strace, "-f", "-qq", "-o", str(log), "-e", "trace=sync"]
    if subprocess.run([*command, "true"], check=False).returncode:
        pytest.skip("strace MAY NOT TRACE HERE: the flush is not seen")
    command += [sys.executable, "-m", "tasks"]
    command += client.arguments("1", "in/*.zip", "--after=delete")
    done = subprocess.run(
        command, cwd=client.folder, env=client.env(), capture_output=True, check=False
    )
    assert (done.returncode, "sync()" in log.read_text()) == (0, True), done.stderr


def test_tree_is_moved_with_its_folders(client: Client, home: Path) -> None:
    (home / "old").mkdir()
    report(client, move(client))
    assert names(home / "tree") == {"notes.txt"}, "what does not land stays"
    assert names(home / "old") == {f"tree/{name}" for name in (*TREE, "zips/packed.zip")}
    assert tree(client.target) == LANDED
    put(home, {"tree/new.csv": b"new\n"})
    assert counts(report(client, move(client)))[0] == 1
    assert tree(client.target) == {**LANDED, "new.csv": b"new\n"}


def test_move_replaces_nothing(client: Client, archives: Path) -> None:
    put(archives.parent, {"old/a.zip": b"precious"})
    data = valid_report(client, move(client), code=3)
    assert (data["status"], data["after_done"]) == ("landed", 1)
    assert [Path(failed["path"]).name for failed in data["after_failed"]] == ["a.zip"]
    assert "old/a.zip exists on the host (its data has landed)" in data["after_failed"][0]["error"]
    assert (archives.parent / "old/a.zip").read_bytes() == b"precious"
    assert names(archives) == {"a.zip"}
    assert len(tree(client.target)) == 2
    (archives.parent / "old/a.zip").unlink()
    data = valid_report(client, move(client))
    assert (data["status"], data["after_done"], names(archives)) == ("unchanged", 1, set())


@pytest.mark.parametrize("wrong", ["missing", "in/a.zip"])
def test_folder_that_cannot_be_moved_to_is_refused_before_anything_lands(
    client: Client, archives: Path, wrong: str
) -> None:
    done = client.run("1", "in/*.zip", f"--after=move:{archives.parent}/{wrong}")
    assert (done.code, "after: " in done.err, len(done.err.splitlines())) == (3, True, 1)
    assert not client.target.exists()


@pytest.mark.parametrize(
    ("task", "path", "folder"), [("1", "*/*.zip", "old"), ("3", "in", "in/done"), ("3", "*", "old")]
)
def test_folder_that_the_next_run_would_read_again_is_refused(
    client: Client, archives: Path, task: str, path: str, folder: str
) -> None:
    (archives / "done").mkdir()
    done = client.run(task, path, f"--after=move:{archives.parent}/./{folder}/")
    assert (done.code, "would be a source again" in done.err) == (2, True), done.err
    assert not client.target.exists()


@pytest.mark.parametrize("is_source_relative", [True, False])
def test_relative_folder_starts_where_sftp_does(
    client: Client, archives: Path, is_source_relative: bool
) -> None:
    home = archives.parent
    path = "" if is_source_relative else f"{home}/"
    other = Sshd(client.folder / "other", sftp=f"internal-sftp -d {home}")
    with other.running():
        relative = Client(client.folder, other)
        for source, folder in (("*/*.zip", "old"), ("in/*.zip", "old/../in")):
            words = (f"--remote-file-path={path}{source}", f"--after=move:./{folder}")
            done = relative.run("1", None, *words)
            assert (done.code, "would be a source again" in done.err) == (2, True), done.err
        # A command starts in the account's own home, and so finds no file to hash.
        last = (f"--remote-file-path={path}in/*.zip", "--after=move:old", "--verify=size")
        done = relative.run("1", None, *last)
        assert done.code == 0, done.err
    assert (names(archives), names(home / "old")) == (set(), {"a.zip", "b.zip"})


def test_mirror_is_refused(client: Client, archives: Path) -> None:
    done = client.run("1", "in/*.zip", "--after=delete", "--mirror")
    assert (done.code, "mirror is set" in done.err) == (2, True)


@pytest.mark.parametrize("action", ["delete", "move"])
def test_account_that_may_not_is_reported(
    client: Client, archives: Path, denying: str, action: str
) -> None:
    flag = "--after=delete" if action == "delete" else move(client)
    address = f"--remote-host-address={denying}"
    data = valid_report(client, flag, address, "--verify=size", code=3)
    assert data["status"] == "landed"
    assert len(data["after_failed"]) == 2
    assert "no permission (its data has landed)" in data["after_failed"][0]["error"]
    assert valid_report(client, flag, address, "--verify=size", code=3)["status"] == "unchanged"
    assert names(archives) == {"a.zip", "b.zip"}


def test_source_of_which_only_the_size_was_verified_stays(client: Client, archives: Path) -> None:
    flags = ("--after=delete", "--exec=never")
    data = valid_report(client, *flags, code=3)
    assert "only its size was verified" in data["after_failed"][0]["error"]
    assert names(archives) == {"a.zip", "b.zip"}
    assert valid_report(client, *flags, "--verify=size")["after_done"] == 2


def test_source_that_changed_since_it_was_read_stays(client: Client, archives: Path) -> None:
    class Changing(asyncssh.SFTPServer):
        """Changes a.zip before it is looked at for the second time, after the publishing."""

        looks = 0

        def stat(self, path: bytes) -> asyncssh.SFTPAttrs:
            if path.endswith(b"a.zip"):
                Changing.looks += 1
                if Changing.looks == 2:
                    assert client.target.exists()
                    os.utime(archives / "a.zip", (1, 1))
            return asyncssh.SFTPAttrs.from_local(Path(path.decode()).stat())

    client.environ["PASSWORD"] = hosts.PASSWORD
    client.options["ssh-key-file"] = None
    with hosts.host(Changing, client.known_hosts) as address:
        flags = ("--after=delete", "--verify=size", f"--remote-host-address={address}")
        data = valid_report(client, *flags)
    assert (Changing.looks, data["after_done"]) == (2, 1)
    assert names(archives) == {"a.zip"}


def test_broken_source_and_dry_run_leave_the_host_alone(client: Client, archives: Path) -> None:
    put(archives, {"c.zip": zipped({"x.csv": b"x" * 999})[:-20]})
    flags = ("--after=delete", "--on-error=continue")
    assert "would then do" in valid_report(client, *flags, "--dry-run")["arrival"][0]
    assert valid_report(client, "--after=delete", code=7)["status"] == "failed"
    assert names(archives) == {"a.zip", "b.zip", "c.zip"}
    assert valid_report(client, *flags, code=7)["after_done"] == 2
    assert names(archives) == {"c.zip"}


def test_source_that_fails_stays_though_it_landed_before(client: Client, archives: Path) -> None:
    valid_report(client)
    broken, facts = bytearray((archives / "a.zip").read_bytes()), (archives / "a.zip").stat()
    broken[35:38] = b"no!"
    put(archives, {"a.zip": bytes(broken)})
    os.utime(archives / "a.zip", ns=(facts.st_atime_ns, facts.st_mtime_ns))
    flags = ("--after=delete", "--on-error=continue", "--force")
    assert valid_report(client, *flags, code=7)["after_done"] == 1
    assert names(archives) == {"a.zip"}


def test_never_in_dev_unless_set_for_dev(client: Client, archives: Path) -> None:
    config = client.folder / "mine.yaml"
    flag = f"--config-file={config}"
    for text in ("common: {after: delete}", "tasks: {1: {after: delete}}"):
        config.write_text(text)
        assert "after_done" not in valid_report(client, flag)
    config.write_text("tasks: {1: {after: delete, prod: {after: keep}}}")
    client.environ["LIGHTERAGE_VARIANT"] = "prod"
    assert "after_done" not in valid_report(client, flag)
    config.write_text("common: {after: delete}")
    assert valid_report(client, flag)["after_done"] == 2


@pytest.mark.parametrize("section", ["variants: {dev: {%s}}", "tasks: {1: {dev: {%s}}}"])
def test_set_for_dev_it_applies(client: Client, archives: Path, section: str) -> None:
    config = client.folder / "mine.yaml"
    config.write_text(section % "after: delete")
    assert valid_report(client, f"--config-file={config}")["after_done"] == 2


def test_checksum_file_verifies_without_commands_on_the_host(
    client: Client, archives: Path
) -> None:
    content = (archives / "a.zip").read_bytes()
    put(archives, {"a.zip.sha256": sha256(content).encode()})
    data = valid_report(client, move(client), "--exec=never", path="in/a.zip")
    assert (data["after_done"], names(archives)) == (1, {"a.zip.sha256", "b.zip"})
