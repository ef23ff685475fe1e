"""The tasks against a real OpenSSH server: logins, host keys, landing, faults, signals."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncssh
import pytest

import hosts
import sshd
from client import CSVS, Client, left_over, tarred, tree, trusted, wait_for, write_datasets, zipped
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


@pytest.mark.parametrize("mode", ["w:", "w:bz2", "w:xz"])
def test_task_2_accepts_other_tars(client: Client, mode: str) -> None:
    (client.server.home / "other.tar").write_bytes(tarred(CSVS, mode))
    assert client.run("2", "other.tar").code == 0
    assert tree(client.target) == CSVS


def test_directory_lands_with_the_members_of_its_zips(client: Client) -> None:
    done = client.run("3", "tree")
    assert done.code == 0, done.err
    plain = {f"plain/{name}": content for name, content in CSVS.items()}
    packed = {f"packed/deep/{name}": content for name, content in CSVS.items()}
    assert tree(client.target) == {**plain, **packed}
    assert "skipped: 1 " in done.out  # notes.txt
    assert "links and special files: 1" in done.out


@pytest.mark.parametrize(("task", "path"), [("1", "csv.zip"), ("2", "csv.tar.gz"), ("3", "tree")])
def test_account_without_commands_is_enough(client: Client, task: str, path: str) -> None:
    sshd.need_passwords()
    assert client.run(task, path, username="sftp").code == 0


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


def test_json_result_does_not_depend_on_the_log_level(client: Client) -> None:
    done = client.run("1", "csv.zip", "--json", log_level="CRITICAL")
    assert done.data()["status"] == "landed"
    assert done.data()["files"] == 3
    assert done.err == ""
    assert client.run("1", "csv.zip", "--json").data()["status"] == "unchanged"


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


def test_changed_source_is_downloaded_again(client: Client, tmp_path: Path) -> None:
    remote = client.server.home / "changing.zip"
    remote.write_bytes(zipped(CSVS))
    assert client.run("1", "changing.zip").code == 0
    remote.write_bytes(zipped({"new.csv": b"new"}))
    assert client.run("1", "changing.zip").code == 0
    assert tree(client.target) == {"new.csv": b"new"}


def test_missing_published_file_is_downloaded_again(client: Client) -> None:
    assert client.run("1", "csv.zip").code == 0
    (client.target / "empty.csv").unlink()
    assert client.run("1", "csv.zip").code == 0
    assert tree(client.target) == CSVS


def test_no_overwrite_fails_before_connecting(client: Client) -> None:
    assert client.run("1", "csv.zip").code == 0
    done = client.run("1", "csv.zip", "--no-overwrite", remote_host_address="127.0.0.1:1")
    assert done.code == 8
    assert "overwrite" in done.err


@pytest.mark.parametrize(
    ("name", "content"), [("broken.zip", zipped(CSVS)[:-30]), ("broken.tar.gz", tarred(CSVS)[:-9])]
)
def test_failed_run_leaves_the_old_data(client: Client, name: str, content: bytes) -> None:
    task = "1" if name.endswith("zip") else "2"
    assert client.run("1", "csv.zip").code == 0
    (client.server.home / name).write_bytes(content)
    done = client.run(task, name)
    assert done.code == 7, done.err
    assert len(done.err.splitlines()) == 1
    assert tree(client.target) == CSVS
    assert left_over(client) == []


def test_failed_first_run_leaves_nothing(client: Client) -> None:
    assert client.run("1", "nothing.zip").code == 3
    assert not client.target.parent.exists()


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


@pytest.mark.parametrize(("task", "path"), [("1", "csv.tar.gz"), ("2", "csv.zip")])
def test_archive_format_is_detected_by_content(client: Client, task: str, path: str) -> None:
    (client.server.home / "misnamed.csv").write_bytes((client.server.home / path).read_bytes())
    assert client.run(task, "misnamed.csv").code == 0
    assert tree(client.target) == CSVS


def test_unsupported_file_is_an_error_with_the_supported_formats(client: Client) -> None:
    (client.server.home / "page.zip").write_bytes(b"<html>404</html>")
    done = client.run("1", "page.zip")
    assert done.code == 7
    assert "page.zip: not an archive: it looks like a web page" in done.err
    assert "supported: zip, tar" in done.err


NONE_SELECTED: dict[str, Callable[[], bytes]] = {
    "none.zip": lambda: zipped({"a.txt": b""}),
    "none.tar.gz": lambda: tarred({"a.txt": b"", "b.txt": b""}),
    "a.txt.gz": lambda: gzip.compress(b"1"),
    "empty.zip": lambda: zipped({}),
}


@pytest.mark.parametrize("name", NONE_SELECTED)
def test_archive_without_selected_members_is_a_path_error(client: Client, name: str) -> None:
    (client.server.home / name).write_bytes(NONE_SELECTED[name]())
    done = client.run("1", name)
    assert done.code == 3
    assert "*.csv" in done.err
    assert ("a.txt" in done.err) is (name != "empty.zip")
    assert left_over(client) == []


def test_zip_members_do_not_replace_other_files(client: Client) -> None:
    folder = client.server.home / "colliding"
    folder.mkdir(exist_ok=True)
    (folder / "A.csv").write_bytes(b"plain")
    (folder / "z.zip").write_bytes(zipped({"a.csv": b"packed"}))
    done = client.run("3", "colliding")
    assert (done.code, "collides" in done.err) == (7, True)


# --- logging in -----------------------------------------------------------------------------


def test_a_password_file_logs_in(client: Client) -> None:
    sshd.need_passwords()
    secret = client.secret(sshd.PASSWORD)
    assert client.run("1", "csv.zip", ssh_key_file=None, password_file=secret).code == 0


def test_a_password_of_the_environment_logs_in_and_shows_nowhere(client: Client) -> None:
    sshd.need_passwords()
    client.environ["PASSWORD"] = sshd.PASSWORD
    done = client.run("1", "csv.zip", ssh_key_file=None, log_level="DEBUG")
    assert done.code == 0
    assert sshd.PASSWORD not in done.out + done.err
    assert sshd.PASSWORD not in (client.target / "manifest.json").read_text()


def test_a_wrong_password_fails_at_once(client: Client) -> None:
    sshd.need_passwords()
    client.environ["PASSWORD"] = "wrong"
    done = client.run("1", "csv.zip", ssh_key_file=None)
    assert (done.code, "login denied" in done.err) == (4, True)
    assert len(done.err.splitlines()) == 1


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
def test_a_useless_key_file_is_named(
    client: Client, content: str | None, words: str, code: int
) -> None:
    key = client.folder / "useless"
    if content is not None:
        key.write_text(content)
    done = client.run("1", "csv.zip", ssh_key_file=str(key))
    assert (done.code, words in done.err, str(key) in done.err) == (code, True, True)


# --- host keys ------------------------------------------------------------------------------


def test_an_unknown_host_is_refused_with_what_to_do(client: Client) -> None:
    client.known_hosts.write_text("")
    done = client.run("1", "csv.zip")
    assert done.code == 4
    assert f"make trust HOST={client.server.address}" in done.err
    assert fingerprint(client.server) in done.err
    assert client.known_hosts.read_text() == ""


def fingerprint(server: Sshd) -> str:
    """Ask OpenSSH for the fingerprint of a server's key."""
    command = ["ssh-keygen", "-l", "-f", str(server.host_key)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[1]


def test_a_new_host_is_accepted_and_remembered_where_the_variant_says_so(client: Client) -> None:
    client.known_hosts.unlink()
    assert client.run("1", "csv.zip", host_keys="accept-new").code == 0
    assert client.known_hosts.read_text() == client.server.known_hosts()
    assert client.run("1", "csv.zip", host_keys="known").code == 0


@pytest.mark.parametrize("host_keys", ["known", "accept-new"])
def test_a_changed_host_key_is_refused_in_both_variants(client: Client, host_keys: str) -> None:
    other = sshd.make_key(client.folder / "other").with_suffix(".pub").read_text().split()[:2]
    line = f"[127.0.0.1]:{client.server.port} {' '.join(other)}\n"
    client.known_hosts.write_text(line)
    done = client.run("1", "csv.zip", host_keys=host_keys)
    assert done.code == 4
    assert "CHANGED" in done.err
    assert "make trust" in done.err
    assert client.known_hosts.read_text() == line
    assert not client.target.exists()


def test_scan_shows_what_ssh_keyscan_shows(client: Client) -> None:
    command = [sys.executable, "-m", "tasks", "scan", client.server.address]
    done = subprocess.run(
        command, cwd=client.folder, env=client.env(), capture_output=True, text=True, check=True
    )
    assert done.stdout == client.server.known_hosts()
    assert fingerprint(client.server) in done.stderr


# --- gateways -------------------------------------------------------------------------------


@pytest.fixture
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """Give another server, to jump over."""
    sshd.need_sshd()
    with Sshd(tmp_path_factory.mktemp("gateway") / "sshd").running() as server:
        yield server


def jump_over(client: Client, gateway: Sshd) -> None:
    """Let the client's ssh_config name a gateway, and an alias with the server's address."""
    (client.folder / "envs/ssh_config").write_text(
        f"Host gate\n  HostName 127.0.0.1\n  Port {gateway.port}\n  User {gateway.user}\n"
        f"  IdentityFile {gateway.user_key}\n"
        f"Host inner\n  HostName 127.0.0.1\n  Port {client.server.port}\n"
        f"  User {client.server.user}\n  ProxyJump gate\n"
    )
    client.options.update({"remote-host-address": "inner", "username": None})


def test_an_ssh_config_gives_gateway_port_and_user(client: Client, gateway: Sshd) -> None:
    jump_over(client, gateway)
    client.known_hosts.write_text(client.server.known_hosts() + gateway.known_hosts())
    done = client.run("2", "csv.tar.gz")
    assert done.code == 0, done.err
    assert "Accepted publickey" in (gateway.folder / "log").read_text()


def test_a_gateway_is_verified_too(client: Client, gateway: Sshd) -> None:
    jump_over(client, gateway)
    done = client.run("2", "csv.tar.gz")
    assert (done.code, f"HOST={gateway.address}" in done.err) == (4, True)


def test_a_gateway_never_sees_the_password_of_the_target(client: Client, gateway: Sshd) -> None:
    sshd.need_passwords()
    jump_over(client, gateway)
    config = client.folder / "envs/ssh_config"
    config.write_text(config.read_text().replace(f"  IdentityFile {gateway.user_key}\n", ""))
    client.known_hosts.write_text(client.server.known_hosts() + gateway.known_hosts())
    client.environ["PASSWORD"] = sshd.PASSWORD
    assert client.run("2", "csv.tar.gz", ssh_key_file=None).code == 4
    log = (gateway.folder / "log").read_text()
    assert "Accepted" not in log
    assert "password" not in log
    secret = client.secret(sshd.PASSWORD)
    assert client.run("2", "csv.tar.gz", ssh_key_file=None, gateway_password_file=secret).code == 0


# --- faults ---------------------------------------------------------------------------------


@pytest.fixture
def big(server: Sshd) -> dict[str, bytes]:
    """Give the server an archive of some size, that does not shrink."""
    csvs = {f"{number}.csv": os.urandom(2**20) for number in range(4)}
    (server.home / "big.zip").write_bytes(zipped(csvs))
    (server.home / "big.tar.gz").write_bytes(tarred(csvs))
    return csvs


def test_refused_connection_is_retried(client: Client) -> None:
    done = client.run("1", "csv.zip", remote_host_address="127.0.0.1:1", max_tries="3")
    assert done.code == 5
    assert done.err.count("Connection refused") == 3
    assert "attempt 2 of 3" in done.err


@pytest.mark.parametrize("after", [0, 10, 1000, 2_000_000, 4_000_000])
@pytest.mark.parametrize(("task", "path"), [("1", "big.zip"), ("2", "big.tar.gz")])
def test_cut_connection_is_retried_or_resumed(
    client: Client, big: dict[str, bytes], task: str, path: str, after: int
) -> None:
    with Relay(client.server.port, "cut", after).running() as relay:
        address = trusted(client, relay.address)
        done = client.run(task, path, remote_host_address=address)
    assert done.code == 0, done.err
    assert ("attempt 1 of 3" if after < 10_000 else "resuming at byte") in done.err
    assert tree(client.target) == big
    assert relay.passed < 7_000_000, "what came once is not asked for again"


@pytest.mark.parametrize(("task", "path"), [("1", "big.zip"), ("2", "big.tar.gz"), ("3", "tree")])
def test_source_replaced_during_a_cut_is_downloaded_again(
    client: Client, big: dict[str, bytes], task: str, path: str
) -> None:
    other = {"other.csv": os.urandom(2**22)}
    folder, ready = client.server.home / "replaced", client.server.home / "ready"
    for place, csvs in ((folder, big), (ready, other)):
        shutil.rmtree(place, ignore_errors=True)
        write_datasets(place, csvs)
        (place / "big.zip").write_bytes(zipped(csvs))
        (place / "big.tar.gz").write_bytes(tarred(csvs))
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


def test_key_exchange_does_not_stop_a_stream(
    client: Client, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("rekeying")
    options = ["RekeyLimit 2M", "AllowUsers *"]
    csvs = {f"{number}.csv": os.urandom(2**23) for number in range(4)}
    with Sshd(folder / "sshd", options).running() as server:
        (server.home / "big.zip").write_bytes(zipped(csvs))
        rekeying = Client(client.folder, server)
        done = rekeying.run("1", "big.zip", "--keep-archive", "--progress=none")
    assert done.code == 0, done.err
    assert done.err == ""
    assert {name: tree(client.target)[name] for name in csvs} == csvs


class Liar(asyncssh.SFTPServer):
    """Says of each file what `lie` makes of the truth, counted by how often it was asked."""

    asked = 0

    def lie(self, facts: asyncssh.SFTPAttrs) -> None:
        raise NotImplementedError

    def stat(self, path: bytes) -> asyncssh.SFTPAttrs:
        found = super().stat(path)
        assert not isinstance(found, asyncssh.SFTPAttrs)
        facts = asyncssh.SFTPAttrs.from_local(found)  # type: ignore[arg-type]
        type(self).asked += 1
        self.lie(facts)
        return facts


class Larger(Liar):
    def lie(self, facts: asyncssh.SFTPAttrs) -> None:
        facts.size = (facts.size or 0) + 100_000


class Smaller(Liar):
    def lie(self, facts: asyncssh.SFTPAttrs) -> None:
        facts.size = (facts.size or 0) - 10


class Restless(Liar):
    def lie(self, facts: asyncssh.SFTPAttrs) -> None:
        facts.mtime = self.asked


@pytest.mark.parametrize(
    ("liar", "words"), [(Larger, "short data"), (Smaller, "more than"), (Restless, "changed")]
)
def test_a_size_or_time_that_does_not_hold_is_an_integrity_error(
    client: Client, liar: type[Liar], words: str
) -> None:
    client.environ["PASSWORD"] = hosts.PASSWORD
    with hosts.host(liar, client.known_hosts) as address:
        done = client.run("1", "csv.zip", ssh_key_file=None, remote_host_address=address)
    assert (done.code, words in done.err) == (6, True), done.err
    assert not client.target.exists()


def test_a_host_without_sftp_is_named(client: Client) -> None:
    client.environ["PASSWORD"] = hosts.PASSWORD
    with hosts.host(None, client.known_hosts) as address:
        done = client.run("1", "csv.zip", ssh_key_file=None, remote_host_address=address)
    assert (done.code, "SFTP" in done.err) == (5, True), done.err
    assert len(done.err.splitlines()) == 1


class Hostile(asyncssh.SFTPServer):
    """Lists a name that leads out of the folder."""

    def listdir(self, path: bytes) -> list[bytes]:
        return [b"../../escaped.csv"]

    def lstat(self, path: bytes) -> asyncssh.SFTPAttrs:
        return asyncssh.SFTPAttrs(permissions=0o100644, size=3, mtime=0)


def test_names_of_a_hostile_host_are_refused(client: Client) -> None:
    client.environ["PASSWORD"] = hosts.PASSWORD
    with hosts.host(Hostile, client.known_hosts) as address:
        done = client.run("3", "tree", ssh_key_file=None, remote_host_address=address)
    assert (done.code, "escaped.csv" in done.err) == (3, True), done.err
    assert not list(client.folder.rglob("escaped.csv"))


# --- signals, and two at once ---------------------------------------------------------------


@pytest.fixture
def slow(client: Client, big: dict[str, bytes]) -> Iterator[Relay]:
    """Give a relay that takes half a minute for the big archive."""
    with Relay(client.server.port, rate=150_000).running() as relay:
        client.options["remote-host-address"] = trusted(client, relay.address)
        yield relay


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize(("task", "path"), [("1", "big.zip"), ("2", "big.tar.gz")])
def test_signal_ends_a_run_soon_and_clean(
    client: Client, slow: Relay, task: str, path: str, signum: signal.Signals, code: int
) -> None:
    old = {"old.csv": b"old"}
    (client.server.home / "old.zip").write_bytes(zipped(old))
    assert client.run("1", "old.zip").code == 0
    sent = slow.passed
    process = client.start(task, path)
    wait_for(lambda: slow.passed > sent + 300_000)
    begun = time.monotonic()
    process.send_signal(signum)
    _, err = process.communicate(timeout=20)
    assert time.monotonic() - begun < 5, "a second or two, and some for a busy machine"
    assert (process.returncode, len(err.splitlines())) == (code, 1), err
    assert tree(client.target) == old
    assert left_over(client) == []


def test_second_run_into_the_same_target_is_busy(client: Client, slow: Relay) -> None:
    first = client.start("1", "big.zip")
    try:
        wait_for(lambda: slow.passed > 300_000)
        done = client.run("1", "big.zip")
        assert (done.code, "another run" in done.err) == (9, True)
    finally:
        first.kill()
        first.communicate()
    client.options["remote-host-address"] = client.server.address
    assert client.run("1", "csv.zip").code == 0, "a killed run leaves no lock behind"
    assert tree(client.target) == CSVS
    assert left_over(client) == []
