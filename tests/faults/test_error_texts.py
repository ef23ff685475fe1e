"""Texts of errors: each names what failed and why, and what to do."""

from __future__ import annotations

import errno
import os
import random
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from backports import zstd

import sshd
from client import Client, tarred, zipped
from small_disk import disk
from sshd import Sshd
from tasks.fetch.ssh.near_paths import MAX_NAMES, near
from tasks.fetch.ssh.sftp_session import Session
from tasks.fetch.stores.local.disk import local_error


def failure(client: Client, task: str, path: str, *flags: str, code: int) -> tuple[str, str]:
    """Run a task that fails; give the error and the advice of its result, which are also shown."""
    done = client.run(task, path, "--json", *flags)
    assert done.code == code, done.err
    data: dict[str, Any] = done.data()
    assert done.err.endswith(f"{data['error']}: {data['advice']}\n"), done.err
    return data["error"], data["advice"]


# --- a missing path --------------------------------------------------------------------------


def test_missing_file_names_the_near_ones(dataset_client: Client) -> None:
    home = dataset_client.server.home
    error, advice = failure(dataset_client, "1", "cvs.zip", code=3)
    assert error.startswith(f"{home}/cvs.zip: no such file or directory on the host (did you mean")
    assert f"{home}/csv.zip" in error
    assert advice == "check remote_file_path; where the file comes later, set wait_for"


def test_missing_directory_names_the_near_one_in_what_exists(dataset_client: Client) -> None:
    home = dataset_client.server.home
    error, _ = failure(dataset_client, "3", "TREE/plain", code=3)
    assert error.endswith(f"(did you mean {home}/tree?)")
    error, _ = failure(dataset_client, "1", "tree/plian/01.zip", code=3)
    assert error.endswith(f"(did you mean {home}/tree/plain?)")


def test_missing_path_with_no_near_name_lists_some_of_the_directory(dataset_client: Client) -> None:
    home = dataset_client.server.home
    for path in ("tree/packed/quite-another.zip", "tree/packed/q*.zip"):
        error, _ = failure(dataset_client, "1", path, code=3)
        assert error.endswith(f"; {home}/tree/packed contains deep"), path
    (home / "void").mkdir()
    error, _ = failure(dataset_client, "1", "void/a.zip", code=3)
    assert error.endswith(f"; {home}/void is empty")
    dataset_client.put({f"many/{number}": b"" for number in range(7)})
    error, _ = failure(dataset_client, "1", "many/x.zip", code=3)
    assert error.endswith(f"; {home}/many contains 0, 1, 2, 3, 4, ...")


def test_missing_path_in_a_large_directory_is_compared_with_some_names(client: Client) -> None:
    client.put({f"full/{number:05}.csv": b"" for number in range(MAX_NAMES + 200)})
    error, _ = failure(client, "1", "full/00001.csw", code=3)
    assert error.startswith(f"{client.server.home}/full/00001.csw: no such file or directory")
    assert re.search(r" \(did you mean \S+/full/\d{5}\.csv or ", error)


def test_fault_while_names_are_looked_for_hides_no_error() -> None:
    def lost() -> Session:
        raise EOFError

    assert near(lost, "folder/a.zip", 1.0) == ""


# --- a denied login --------------------------------------------------------------------------


def test_denied_login_names_the_methods_of_the_server_and_what_was_tried(tmp_path: Path) -> None:
    sshd.need_passwords()
    server = Sshd(tmp_path / "sshd")
    other = tmp_path / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", other], check=True)
    shown = subprocess.run(
        ["ssh-keygen", "-l", "-f", other], check=True, capture_output=True, text=True
    ).stdout.split()[1]
    with server.running():
        client = Client(tmp_path, server, {"ssh-key-file": str(other)})
        error, advice = failure(client, "1", "csv.zip", code=4)
        assert "publickey denied; the server offers publickey, password" in error
        assert error.endswith(f"there was ssh-ed25519 {shown} and no password")
        assert "USERNAME" in advice
        client.environ["PASSWORD"] = "a-wrong-secret"
        error, _ = failure(client, "1", "csv.zip", code=4)
        assert "publickey, password denied; the server offers publickey, password" in error
        assert error.endswith("and a password")
        assert "a-wrong-secret" not in error


def test_login_without_a_method_of_the_server_names_what_there_was(tmp_path: Path) -> None:
    sshd.need_passwords()
    server = Sshd(tmp_path / "sshd", ["AuthenticationMethods password"])
    with server.running():
        error, _ = failure(Client(tmp_path, server), "1", "csv.zip", code=4)
    assert "the server accepts only password; there was ssh-ed25519 SHA256:" in error
    assert error.endswith("and no password")


# --- a full disk -----------------------------------------------------------------------------


def test_full_disk_names_free_and_needed_space(client: Client) -> None:
    client.put({"tree/big.csv": b"a,b\n" * 100_000, "tree/small.csv": b"a\n"})
    with disk(client, "size=200k") as change:
        done = client.run("3", "tree", "--json")
        data = done.data()
        assert (done.code, data["kind"]) == (8, "local disk")
        says = r": no space left: \d+ bytes are free; (\d+) were free before, "
        says += "and the files to download have 400002"
        found = re.search(says, data["error"])
        assert found, data["error"]
        free = int(found[1])
        assert 0 < free <= 200 * 1024
        assert f"{free} bytes are free, and the files to download have 400002: they may" in done.err
        assert (
            data["advice"] == "free space there, or set file_save_path to a folder on another disk"
        )
        change("size=2m")
        assert client.run("3", "tree").code == 0


def test_disk_without_inodes_is_no_disk_without_space(client: Client) -> None:
    client.put({f"tree/{number}.csv": b"a\n" for number in range(30)})
    with disk(client, "size=2m,nr_inodes=20"):
        error, _ = failure(client, "3", "tree", code=8)
    assert ": no space left: all 20 inodes of the file system are in use, and " in error


def test_limit_of_a_file_system_with_free_space_is_named_as_a_quota(tmp_path: Path) -> None:
    text = str(local_error(tmp_path / "new" / "a", OSError(errno.EDQUOT, "")))
    assert text.endswith("the quota of this account is used up: remove files of this account "
                         "there, or have the quota raised")  # fmt: skip
    if os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize > 2**27:
        error = local_error(tmp_path / "new" / "a", OSError(errno.ENOSPC, ""))
        assert error.text.endswith(" bytes are free; a quota may be used up")


# --- a broken archive ------------------------------------------------------------------------

NOISE = random.Random(1).randbytes(600_000)  # noqa: S311 (data, no secret)
MEMBERS = {"first.csv": b"a\n" * 2000, "second.csv": NOISE, "third.csv": b"b\n"}
PACKED = {
    "zip": zipped(MEMBERS),
    "tar": tarred(MEMBERS, "w:"),
    **{kind: tarred(MEMBERS, f"w:{kind}") for kind in ("gz", "bz2", "xz")},
    "zst": zstd.compress(
        tarred(MEMBERS, "w:"), options={zstd.CompressionParameter.checksum_flag: True}
    ),
}


@pytest.mark.parametrize("kind", PACKED)
@pytest.mark.parametrize("damage", ["truncated", "corrupted"])
def test_broken_archive_names_member_and_byte(client: Client, kind: str, damage: str) -> None:
    whole = PACKED[kind]
    data = bytearray(whole)
    if damage == "truncated":
        del data[300_000:]
    else:
        at = whole.rindex(b"third.csv") if kind == "tar" else 300_000  # a tar has no checksums
        data[at : at + 100] = bytes(100)
    client.put({f"packed.{kind}": bytes(data)})
    task = "1" if kind == "zip" else "2"
    error, advice = failure(client, task, f"packed.{kind}", "--include=*", code=7)
    assert error.startswith(f"{client.server.home}/packed.{kind}: "), error
    assert "broken archive: " in error, error
    if damage == "truncated" and kind == "zip":  # its table of contents is at its end
        assert "ends after 300000 bytes without an end record" in error
        return
    assert re.search(rf"; \d+ of {len(data)} bytes were read(, \d+ of the content)?$", error), error
    assert "have it written again" in advice
    if kind != "bz2" and (kind, damage) != ("tar", "corrupted"):  # not damaged in a member
        begin = "63" if kind == "zip" else "4608" if kind == "tar" else "4608 of the content"
        assert "member 'second.csv': broken archive: " in error, error
        assert f"; the member begins at byte {begin}; " in error, error
