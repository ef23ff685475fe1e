"""The tasks against a real OpenSSH server: landing, later runs, logins, host keys, cuts."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import sshd
from client import (
    CSVS,
    Client,
    left_over,
    put,
    tarred,
    tree,
    trusted,
    wait_for,
    write_datasets,
    zipped,
)
from relay import Relay
from sshd import Sshd

pytestmark = pytest.mark.sshd


@pytest.fixture(autouse=True)
def datasets(client: Client) -> None:
    """Put the three datasets on the server."""
    write_datasets(client.server.home)


# --- the three tasks ------------------------------------------------------------------------


@pytest.mark.parametrize(("task", "path"), [("1", "csv.zip"), ("2", "csv.tar.gz")])
def test_archive_lands_as_its_csvs(client: Client, task: str, path: str) -> None:
    done = client.run(task, path)
    assert done.code == 0, done.err
    assert tree(client.target) == CSVS
    assert "landed 3 files" in done.out
    assert "out/data" in done.out
    assert "skipped: 1" in done.out
    assert left_over(client) == []


def test_directory_lands_with_the_members_of_its_zips(client: Client) -> None:
    done = client.run("3", "tree")
    assert done.code == 0, done.err
    plain = {f"plain/{name}": content for name, content in CSVS.items()}
    packed = {f"packed/deep/{name}": content for name, content in CSVS.items()}
    assert tree(client.target) == {**plain, **packed}
    assert "skipped: 1 " in done.out  # notes.txt
    assert "links and special files: 1" in done.out


@pytest.mark.parametrize(("task", "path"), [("1", "csv.zip"), ("2", "csv.tar.gz")])
def test_keep_archive_keeps_it_with_its_data(client: Client, task: str, path: str) -> None:
    assert client.run(task, path, "--keep-archive").code == 0
    assert (client.target / path).read_bytes() == (client.server.home / path).read_bytes()
    assert client.run(task, path).code == 0, "not kept any more: another result, fetched again"
    assert not (client.target / path).exists()


def test_manifest_states_source_and_checksums(client: Client) -> None:
    assert client.run("2", "csv.tar.gz").code == 0
    manifest = json.loads((client.target / "manifest.json").read_text())
    remote = client.server.home / "csv.tar.gz"
    assert manifest["sources"] == [
        {
            "path": str(remote),
            "size": remote.stat().st_size,
            "mtime": int(remote.stat().st_mtime),
            "sha256": hashlib.sha256(remote.read_bytes()).hexdigest(),
            "verified": "sha256",
        }
    ]
    assert {file["path"]: (file["size"], file["sha256"]) for file in manifest["files"]} == {
        name: (len(content), hashlib.sha256(content).hexdigest()) for name, content in CSVS.items()
    }
    assert manifest["started"] <= manifest["finished"]


# --- later runs ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("task", "path"), [("1", "csv.zip"), ("2", "csv.tar.gz"), ("3", "tree")])
def test_unchanged_source_is_not_downloaded_again(client: Client, task: str, path: str) -> None:
    assert client.run(task, path).code == 0
    before = client.target.stat().st_ino
    done = client.run(task, path)
    assert (done.code, "unchanged" in done.out) == (0, True)
    assert client.target.stat().st_ino == before
    assert client.run(task, path, "--force").code == 0
    assert client.target.stat().st_ino != before


def test_no_overwrite_fails_before_connecting(client: Client) -> None:
    assert client.run("1", "csv.zip").code == 0
    done = client.run("1", "csv.zip", "--no-overwrite", remote_host_address="127.0.0.1:1")
    assert done.code == 8
    assert "overwrite" in done.err


# --- what is on the host --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "path", "words"),
    [
        ("1", "missing.zip", "no such file"),
        ("2", "tree", "is a directory"),
        ("3", "csv.zip", "is a file"),
        ("3", "missing", "no such file"),
    ],
)
def test_wrong_remote_path_is_not_retried(client: Client, task: str, path: str, words: str) -> None:
    done = client.run(task, path)
    assert done.code == 3
    assert words in done.err
    assert len(done.err.splitlines()) == 1, "one line, and no second try"
    assert not client.target.parent.exists()


@pytest.mark.parametrize(("task", "content"), [
    ("2", zipped(CSVS)), *(("1", tarred(CSVS, mode)) for mode in ("w:gz", "w:", "w:bz2", "w:xz"))
], ids=["zip", "gz", "plain", "bz2", "xz"])  # fmt: skip
def test_archive_format_is_detected_by_content(client: Client, task: str, content: bytes) -> None:
    client.put({"misnamed.csv": content})
    assert client.run(task, "misnamed.csv").code == 0
    assert tree(client.target) == CSVS


def test_unsupported_file_is_an_error_with_the_supported_formats(client: Client) -> None:
    client.put({"page.zip": b"<html>404</html>"})
    done = client.run("1", "page.zip")
    assert done.code == 7
    assert "page.zip: not an archive: it looks like a web page" in done.err
    assert "supported: zip, tar" in done.err


NONE_SELECTED = {
    "none.zip": zipped({"a.txt": b""}),
    "none.tar.gz": tarred({"a.txt": b"", "b.txt": b""}),
    "a.txt.gz": gzip.compress(b"1"),
    "empty.zip": zipped({}),
}


@pytest.mark.parametrize("name", NONE_SELECTED)
def test_archive_without_selected_members_is_a_path_error(client: Client, name: str) -> None:
    client.put({name: NONE_SELECTED[name]})
    done = client.run("1", name)
    assert done.code == 3
    assert "*.csv" in done.err
    assert ("a.txt" in done.err) is (name != "empty.zip")
    assert left_over(client) == []


def test_zip_members_do_not_replace_other_files(client: Client) -> None:
    client.put({"colliding/A.csv": b"plain", "colliding/z.zip": zipped({"a.csv": b"packed"})})
    done = client.run("3", "colliding")
    assert (done.code, "collides" in done.err) == (7, True)


# --- logging in -----------------------------------------------------------------------------


def test_a_password_file_logs_in(client: Client) -> None:
    sshd.need_passwords()
    secret = client.secret(sshd.PASSWORD)
    assert client.run("1", "csv.zip", ssh_key_file=None, password_file=secret).code == 0


def test_password_of_the_environment_logs_in_and_is_never_shown(client: Client) -> None:
    sshd.need_passwords()
    client.environ["PASSWORD"] = sshd.PASSWORD
    done = client.run("1", "csv.zip", ssh_key_file=None, log_level="DEBUG")
    assert done.code == 0
    assert sshd.PASSWORD not in done.out + done.err
    assert sshd.PASSWORD not in (client.target / "manifest.json").read_text()


def test_a_key_with_a_passphrase_logs_in(client: Client) -> None:
    phrase = "open sesame"
    key = sshd.make_key(client.folder / "locked", phrase=phrase)
    keys = client.server.user_key.with_suffix(".pub")
    keys.write_text(keys.read_text() + key.with_suffix(".pub").read_text())
    options: dict[str, str | None] = {"ssh_key_file": str(key)}
    secret = client.secret(phrase)
    assert client.run("1", "csv.zip", **options, ssh_key_passphrase_file=secret).code == 0
    done = client.run("1", "csv.zip", "--force", **options)
    assert (done.code, "SSH_KEY_PASSPHRASE_FILE" in done.err) == (4, True)
    wrong = client.secret("wrong")
    done = client.run("1", "csv.zip", "--force", **options, ssh_key_passphrase_file=wrong)
    assert (done.code, "passphrase is wrong" in done.err) == (4, True)


@pytest.mark.parametrize("kind", ["rsa", "ecdsa"])
def test_other_kinds_of_key_log_in(client: Client, kind: str) -> None:
    key = sshd.make_key(client.folder / "key", kind)
    keys = client.server.user_key.with_suffix(".pub")
    keys.write_text(keys.read_text() + key.with_suffix(".pub").read_text())
    assert client.run("1", "csv.zip", ssh_key_file=str(key)).code == 0


def test_the_agent_logs_in(client: Client) -> None:
    started = subprocess.run(["ssh-agent", "-c"], capture_output=True, text=True, check=True)
    words = started.stdout.replace(";", "").split()
    socket, pid = words[2], words[5]
    try:
        env = {"SSH_AUTH_SOCK": socket, "PATH": os.defpath}
        key = str(client.server.user_key)
        subprocess.run(["ssh-add", "-q", key], env=env, check=True)
        client.environ["SSH_AUTH_SOCK"] = socket
        assert client.run("1", "csv.zip", ssh_key_file=None).code == 0
    finally:
        os.kill(int(pid), signal.SIGTERM)


@pytest.mark.parametrize(
    ("content", "words", "code"),
    [(None, "no such file", 2), ("no key", "not a usable private key", 4)],
)
def test_unusable_key_file_is_named(
    client: Client, content: str | None, words: str, code: int
) -> None:
    key = client.folder / "useless"
    if content is not None:
        key.write_text(content)
    done = client.run("1", "csv.zip", ssh_key_file=str(key))
    assert (done.code, words in done.err, str(key) in done.err) == (code, True, True)


# --- host keys ------------------------------------------------------------------------------


@pytest.mark.parametrize("changed", [False, True])
def test_refused_host_key_is_an_error_with_the_command_to_run(
    client: Client, changed: bool
) -> None:
    key = sshd.make_key(client.folder / "other").with_suffix(".pub").read_text()
    client.known_hosts.write_text(f"[127.0.0.1]:{client.server.port} {key}" if changed else "")
    done = client.run("1", "csv.zip")
    assert done.code == 4
    assert ("CHANGED" in done.err) == changed
    assert "make trust" in done.err
    assert changed or f"HOST={client.server.address}" in done.err
    assert fingerprint(client.server) in done.err


def fingerprint(server: Sshd) -> str:
    """Ask OpenSSH for the fingerprint of a server's key."""
    command = ["ssh-keygen", "-l", "-f", str(server.host_key)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[1]


def test_scan_shows_what_ssh_keyscan_shows(client: Client) -> None:
    command = [sys.executable, "-m", "tasks", "scan", client.server.address]
    done = subprocess.run(
        command, cwd=client.folder, env=client.env(), capture_output=True, text=True, check=True
    )
    assert done.stdout == client.server.known_hosts()
    assert fingerprint(client.server) in done.stderr


# --- jump hosts -----------------------------------------------------------------------------


@pytest.fixture
def jump_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """Give another server, to jump over."""
    sshd.need_sshd()
    with Sshd(tmp_path_factory.mktemp("jump-host") / "sshd").running() as server:
        yield server


def jump_over(client: Client, jump_host: Sshd) -> None:
    """Let the client's ssh_config name a jump host, and an alias with the server's address."""
    (client.folder / "envs/ssh_config").write_text(
        f"Host gate\n  HostName 127.0.0.1\n  Port {jump_host.port}\n  User {jump_host.user}\n"
        f"  IdentityFile {jump_host.user_key}\n"
        f"Host inner\n  HostName 127.0.0.1\n  Port {client.server.port}\n"
        f"  User {client.server.user}\n  ProxyJump gate\n"
    )
    client.options.update({"remote-host-address": "inner", "username": None})


def test_ssh_config_names_jump_host_port_and_user(client: Client, jump_host: Sshd) -> None:
    jump_over(client, jump_host)
    client.known_hosts.write_text(client.server.known_hosts() + jump_host.known_hosts())
    done = client.run("2", "csv.tar.gz")
    assert done.code == 0, done.err
    assert "Accepted publickey" in (jump_host.folder / "log").read_text()


def test_host_key_of_a_jump_host_is_verified(client: Client, jump_host: Sshd) -> None:
    jump_over(client, jump_host)
    done = client.run("2", "csv.tar.gz")
    assert (done.code, f"HOST={jump_host.address}" in done.err) == (4, True)


def test_jump_host_never_receives_the_password_of_the_target(
    client: Client, jump_host: Sshd
) -> None:
    sshd.need_passwords()
    jump_over(client, jump_host)
    config = client.folder / "envs/ssh_config"
    config.write_text(config.read_text().replace(f"  IdentityFile {jump_host.user_key}\n", ""))
    client.known_hosts.write_text(client.server.known_hosts() + jump_host.known_hosts())
    client.environ["PASSWORD"] = sshd.PASSWORD
    assert client.run("2", "csv.tar.gz", ssh_key_file=None).code == 4
    log = (jump_host.folder / "log").read_text()
    assert "Accepted" not in log
    assert "password" not in log
    secret = client.secret(sshd.PASSWORD)
    assert client.run("2", "csv.tar.gz", ssh_key_file=None, gateway_password_file=secret).code == 0


# --- faults ---------------------------------------------------------------------------------


@pytest.fixture
def big(server: Sshd) -> dict[str, bytes]:
    """Give the server an archive of some size, that does not shrink."""
    csvs = {f"{number}.csv": os.urandom(2**20) for number in range(4)}
    put(server.home, {"big.zip": zipped(csvs), "big.tar.gz": tarred(csvs)})
    return csvs


def test_refused_connection_is_retried(client: Client) -> None:
    done = client.run("1", "csv.zip", remote_host_address="127.0.0.1:1", max_tries="3")
    assert done.code == 5
    assert done.err.count("Connection refused") == 3
    assert "try 2 of 3 failed" in done.err


@pytest.mark.parametrize("after", [1000, 2_000_000, 4_000_000])
@pytest.mark.parametrize(("task", "path"), [("1", "big.zip"), ("2", "big.tar.gz")])
def test_cut_connection_is_retried_or_resumed(
    client: Client, big: dict[str, bytes], task: str, path: str, after: int
) -> None:
    with Relay(client.server.port, "cut", after).running() as relay:
        address = trusted(client, relay.address)
        done = client.run(task, path, remote_host_address=address)
    assert done.code == 0, done.err
    assert ("starting again" if after < 10_000 else "resuming at byte") in done.err
    assert tree(client.target) == big
    assert relay.passed < 7_000_000, "no byte is downloaded twice"


@pytest.mark.parametrize(("task", "path"), [("1", "big.zip"), ("2", "big.tar.gz"), ("3", "tree")])
def test_source_replaced_during_a_cut_is_downloaded_again(
    client: Client, big: dict[str, bytes], task: str, path: str
) -> None:
    other = {"other.csv": os.urandom(2**22)}
    folder, ready = client.server.home / "replaced", client.server.home / "ready"
    for place, csvs in ((folder, big), (ready, other)):
        write_datasets(place, csvs)
        put(place, {"big.zip": zipped(csvs), "big.tar.gz": tarred(csvs)})
    with Relay(client.server.port, "stall", 2_000_000).running() as relay:
        address = trusted(client, relay.address)
        name = f"replaced/{path}"
        process = client.start(task, name, remote_host_address=address, timeout="2")
        wait_for(lambda: relay.passed > 1_900_000)
        folder.rename(folder.with_name("away"))  # at once, or the next try finds the old one
        ready.rename(folder)
        shutil.rmtree(folder.with_name("away"))
        _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "changed on the host" in err or "no such file" in err
    assert set(tree(client.target).values()) == set(other.values())


def test_key_exchange_does_not_stop_a_stream(tmp_path: Path, folder: Path) -> None:
    csvs = {f"{number}.csv": os.urandom(2**23) for number in range(4)}
    with Sshd(folder, ["RekeyLimit 2M", "AllowUsers *"]).running() as server:
        put(server.home, {"big.zip": zipped(csvs)})
        client = Client(tmp_path, server)
        done = client.run("1", "big.zip", "--keep-archive", "--progress=none")
    assert (done.code, done.err) == (0, "")
    assert {name: tree(client.target)[name] for name in csvs} == csvs
