"""The tasks against other servers than OpenSSH: what they do differently changes no byte."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import sshd
from client import CSVS, Client, tree, write_datasets
from sshd import Sshd

pytestmark = pytest.mark.sshd
SBIN = "/usr/sbin:/usr/local/sbin:/sbin"
MODULE = Path("/usr/lib/proftpd/mod_sftp.so")


def need_server(name: str, package: str) -> str:
    """Find a server, or skip loudly."""
    program = shutil.which(name, path=SBIN)
    if program is None or not sshd.ROOT:
        pytest.skip(f"NO {name} HERE TO TEST AGAINST: as root, apt-get install {package}")
    return program


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
        lines = [
            "LoadModule mod_tls.c",
            "LoadModule mod_sftp.c",
            "ServerType standalone",
            "ServerName here",
            "DefaultAddress 127.0.0.1",
            f"Port {self.port}",
            "UseReverseDNS off",
            "UseFtpUsers off",
            "RootLogin on",
            "User root",
            "Group root",
            "AuthOrder mod_auth_unix.c",
            f"PidFile {self.folder}/proftpd.pid",
            f"ScoreboardFile {self.folder}/scoreboard",
            "WtmpLog off",
            "TransferLog none",
            "SFTPEngine on",
            f"SFTPHostKey {self.host_key}",
            "SFTPAuthMethods publickey",
            f"SFTPAuthorizedUserKeys file:{keys}",
        ]
        config = self.folder / "proftpd.conf"
        config.write_text("\n".join(lines) + "\n")
        return [program, "-n", "-c", str(config)]


@pytest.fixture(scope="module", params=[Dropbear, Proftpd])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Sshd]:
    """Give a server."""
    sshd.need_sshd()
    with request.param(tmp_path_factory.mktemp("server")).running() as server:
        yield server


@pytest.fixture
def client(client: Client) -> Client:
    """Give a client of the server, with the three datasets in its home."""
    write_datasets(client.server.home)
    return client


@pytest.mark.parametrize(("task", "path"), [("1", "csv.zip"), ("2", "csv.tar.gz")])
def test_an_archive_lands_and_its_checksum_is_compared(
    client: Client, task: str, path: str
) -> None:
    done = client.run(task, path, "--explain")
    assert done.code == 0, done.err
    assert tree(client.target) == CSVS
    assert "checked: size, sha256, archive CRC" in done.out
    assert "checksum that the host" in done.out


def test_a_tree_lands_and_a_second_run_has_nothing_to_do(client: Client) -> None:
    done = client.run("3", "tree", "--explain")
    assert done.code == 0, done.err
    landed = tree(client.target)
    assert len(landed) == 2 * len(CSVS)
    assert {name: landed[f"plain/{name}"] for name in CSVS} == CSVS
    assert "checksum that the host" in done.out
    again = client.run("3", "tree")
    assert again.code == 0, again.err
    assert "unchanged" in again.out


def test_a_checksum_mismatch_lands_nothing(client: Client) -> None:
    """A checksum file takes precedence over the checksum of any server."""
    beside = client.server.home / "csv.zip.sha256"
    beside.write_text(hashlib.sha256(b"something else").hexdigest() + "  csv.zip\n")
    done = client.run("1", "csv.zip")
    assert done.code == 6, done.err
    assert not client.target.exists()


def test_many_files_and_many_blocks_arrive_whole(client: Client) -> None:
    contents = {f"{n}.csv": b"%d," % n * (n * 37 % 50_000) for n in range(300)}
    contents["large.csv"] = bytes(range(256)) * 2**16  # 16 MiB, eight windows
    client.put({f"many/{name}": content for name, content in contents.items()})
    client.report("3", "many")
    assert tree(client.target) == contents


def test_faults_keep_their_kind(client: Client, tmp_path: Path) -> None:
    assert client.run("2", "absent.tar.gz").code == 3
    key = sshd.make_key(tmp_path / "another_key")
    assert client.run("2", "csv.tar.gz", ssh_key_file=str(key)).code == 4
