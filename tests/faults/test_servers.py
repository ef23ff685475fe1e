"""The tasks against other servers than OpenSSH: what they do differently changes no byte."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import sshd
from client import CSVS, Client, tree
from need import need
from sshd import Sshd

pytestmark = pytest.mark.sshd
SBIN = "/usr/sbin:/usr/local/sbin:/sbin"
PROFTPD = """\
LoadModule mod_tls.c
LoadModule mod_sftp.c
ServerType standalone
ServerName here
DefaultAddress 127.0.0.1
Port {server.port}
UseReverseDNS off
UseFtpUsers off
RootLogin on
User root
Group root
AuthOrder mod_auth_unix.c
PidFile {server.folder}/proftpd.pid
ScoreboardFile {server.folder}/scoreboard
WtmpLog off
TransferLog none
SFTPEngine on
SFTPHostKey {server.host_key}
SFTPAuthMethods publickey
SFTPAuthorizedUserKeys file:{keys}
"""


def need_server(name: str, package: str) -> str:
    """Find a server, or skip loudly."""
    if not sshd.ROOT:
        pytest.skip(f"{name} NEEDS ROOT: transfers from it go untested")
    return need(name, package, "transfers from this server")


class Dropbear(Sshd):
    """Small, with ciphers of its own choice, and OpenSSH's SFTP server."""

    def command(self) -> list[str]:
        program = need_server("dropbear", "dropbear-bin openssh-sftp-server")
        keys = self.home / ".ssh"
        keys.mkdir(mode=0o700, exist_ok=True)
        shutil.copyfile(self.user_key.with_suffix(".pub"), keys / "authorized_keys")
        (keys / "authorized_keys").chmod(0o600)
        key = self.folder / "dropbear_key"
        subprocess.run(
            ["dropbearconvert", "openssh", "dropbear", str(self.host_key), str(key)],
            check=True, capture_output=True,
        )  # fmt: skip
        return [program, "-F", "-E", "-r", str(key), "-p", self.address, "-P", str(key) + ".pid"]


class Proftpd(Sshd):
    """SFTP of its own and no commands; computes checksums through the extension check-file."""

    def command(self) -> list[str]:
        program = need_server("proftpd", "proftpd-mod-crypto")
        public = subprocess.run(
            ["ssh-keygen", "-e", "-f", f"{self.user_key}.pub"],
            check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip
        keys = self.folder / "authorized_keys.rfc4716"
        keys.write_text(public)
        config = self.folder / "proftpd.conf"
        config.write_text(PROFTPD.format(server=self, keys=keys))
        return [program, "-n", "-c", str(config)]


@pytest.fixture(scope="module", params=[Dropbear, Proftpd])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Sshd]:
    """Give a server."""
    sshd.need_sshd()
    with request.param(tmp_path_factory.mktemp("server")).running() as server:
        yield server


@pytest.mark.parametrize(("task", "path"), [("1", "csv.zip"), ("2", "csv.tar.gz")])
def test_an_archive_lands_and_its_checksum_is_compared(
    dataset_client: Client, task: str, path: str
) -> None:
    done = dataset_client.run(task, path, "--explain")
    assert done.code == 0, done.err
    assert tree(dataset_client.target) == CSVS
    assert "checked: size, sha256, archive CRC" in done.out
    assert "a remote checksum (" in done.out


def test_a_tree_lands_and_a_second_run_has_nothing_to_do(dataset_client: Client) -> None:
    done = dataset_client.run("3", "tree", "--explain")
    assert done.code == 0, done.err
    landed = tree(dataset_client.target)
    assert len(landed) == 2 * len(CSVS)
    assert {name: landed[f"plain/{name}"] for name in CSVS} == CSVS
    assert "a remote checksum (" in done.out
    again = dataset_client.run("3", "tree")
    assert again.code == 0, again.err
    assert "unchanged" in again.out


def test_a_checksum_mismatch_lands_nothing(dataset_client: Client) -> None:
    """A checksum file takes precedence over the checksum of any server."""
    beside = dataset_client.server.home / "csv.zip.sha256"
    beside.write_text(hashlib.sha256(b"something else").hexdigest() + "  csv.zip\n")
    done = dataset_client.run("1", "csv.zip")
    assert done.code == 6, done.err
    assert not dataset_client.target.exists()


def test_many_files_and_many_blocks_arrive_whole(dataset_client: Client) -> None:
    contents = {f"{n}.csv": b"%d," % n * (n * 37 % 50_000) for n in range(300)}
    contents["large.csv"] = bytes(range(256)) * 2**16  # 16 MiB, eight windows
    dataset_client.put({f"many/{name}": content for name, content in contents.items()})
    dataset_client.report("3", "many")
    assert tree(dataset_client.target) == contents


def test_faults_keep_their_kind(dataset_client: Client, tmp_path: Path) -> None:
    assert dataset_client.run("2", "absent.tar.gz").code == 3
    key = sshd.make_key(tmp_path / "another_key")
    assert dataset_client.run("2", "csv.tar.gz", ssh_key_file=str(key)).code == 4
