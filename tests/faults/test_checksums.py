"""Checksums: beside the data, of the host, or none."""

from __future__ import annotations

from pathlib import Path

import pytest

import hosts
import sshd
from client import CSVS, Client, left_over, put, tarred, tree, zipped
from selection import LANDED, TREE, manifest, report, sha256

pytestmark = pytest.mark.sshd


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


@pytest.mark.parametrize(
    ("place", "garbage"),
    [*(("csv.zip.sha256", garbage) for garbage in [*GARBAGE, None]), ("SHA256SUMS", GARBAGE[1]),
     ("SHA256SUMS", None)],
)  # fmt: skip
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
    with hosts.host(hosts.Unreadable, client.known_hosts) as address:
        done = client.run("1", "csv.zip", "--json", remote_host_address=address)
    assert done.code == 0, done.err
    assert done.data()["checked"] == "size only, archive CRC"
    assert f"{client.server.home / place}" in done.err
    assert tree(client.target) == CSVS


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
