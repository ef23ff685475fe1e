"""Logins: what a server asks for besides a key or a password, and which faults are whose."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import shutil
import socket
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import asyncssh
import pytest

import hosts
import sshd
from client import Client, Ended, ended, wait_for, write_datasets
from sshd import Sshd

PAM = [
    "auth required pam_unix.so", "account required pam_permit.so", "session required pam_permit.so",
]  # fmt: skip


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Client]]:
    """Give what starts a server, and returns a client of it that has no credentials."""
    sshd.need_passwords()
    with contextlib.ExitStack() as stack:

        def start(*options: str, pam: Sequence[str] = ()) -> Client:
            server = Sshd(tmp_path / "sshd", [*options], [*pam])
            write_datasets(server.home)
            stack.enter_context(server.running())
            return Client(tmp_path, server, {"ssh-key-file": None})

        yield start


def login(client: Client, *credentials: str) -> Ended:
    """Run task 1 with a key, a password or both; what fails leaves only JSON on the output."""
    if "key" in credentials:
        client.options["ssh-key-file"] = str(client.server.user_key)
    if "password" in credentials:
        client.environ["PASSWORD"] = sshd.PASSWORD
    done = client.run("1", "csv.zip", "--json")
    assert done.data()["status" if done.code == 0 else "exit_code"] in {"landed", done.code}
    return done


# --- more than one factor ---------------------------------------------------------------------

FACTORS = {
    "password,keyboard-interactive": {"password": 0, "key": 4, "key password": 0},
    "publickey,keyboard-interactive": {"key": 4, "password": 4, "key password": 0},
    "publickey,password": {"key": 4, "password": 4, "key password": 0},
    "password,publickey": {"key": 4, "password": 4, "key password": 0},
    "keyboard-interactive": {"key": 4, "password": 0, "key password": 0},
    "keyboard-interactive:pam,publickey": {"key": 4, "password": 4, "key password": 0},
    "publickey,publickey": {"key": 4, "key password": 4},
    "publickey password": {"key": 0, "password": 0},
}


@pytest.mark.parametrize("methods", FACTORS)
def test_a_login_succeeds_when_the_server_says_so(
    start: Callable[..., Client], methods: str
) -> None:
    client = start(f"AuthenticationMethods {methods}", pam=PAM)
    for credentials, code in FACTORS[methods].items():
        client.options["ssh-key-file"] = None
        client.environ.clear()
        done = login(client, *credentials.split())
        assert done.code == code, (credentials, done.err)
        assert client.target.exists() == (code == 0), credentials
        shutil.rmtree(client.target.parent, ignore_errors=True)


def test_a_partial_success_names_what_the_server_still_requires(
    start: Callable[..., Client],
) -> None:
    done = login(start("AuthenticationMethods publickey,keyboard-interactive", pam=PAM), "key")
    assert done.code == 4
    assert "publickey accepted, but the server also requires keyboard-interactive" in done.err
    assert "'Password:'" in done.err, "the question, which needs a terminal"


def test_a_wrong_password_is_sent_once(start: Callable[..., Client]) -> None:
    client = start(pam=PAM)
    client.environ["PASSWORD"] = "wrong"
    assert client.run("1", "csv.zip").code == 4
    assert (client.server.folder / "log").read_text().count("Failed ") == 1


def test_a_password_that_has_expired_denies_the_login(start: Callable[..., Client]) -> None:
    client = start("AuthenticationMethods keyboard-interactive", pam=[
        "auth required pam_unix.so", "account required pam_unix.so",
        "password required pam_unix.so", "session required pam_permit.so",
    ])  # fmt: skip
    shadow = client.server.folder / "shadow"
    shadow.write_text(shadow.read_text().replace(":19000:", ":0:"))
    assert login(client, "password").code == 4


class _Expired(hosts._Server):
    def validate_password(self, username: str, password: str) -> bool:
        raise asyncssh.PasswordChangeRequired("change it")


def test_a_server_that_asks_for_a_new_password_denies_the_login(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fake server (asyncssh): OpenSSH asks for it in the session."""
    sshd.need_sshd()
    client = Client(tmp_path, Sshd(tmp_path / "sshd"))
    client.environ["PASSWORD"] = hosts.PASSWORD
    monkeypatch.setattr(hosts, "_Server", _Expired)
    with hosts.host(None, client.known_hosts) as address:
        done = client.run("1", "x.zip", ssh_key_file=None, remote_host_address=address)
    assert done.code == 4, done.err
    assert "expired" in done.err


@pytest.mark.parametrize("credential", ["key", "password"])
def test_a_server_that_only_calls_itself_openssh_is_logged_in_to_in_steps(
    tmp_path: Path, credential: str
) -> None:
    """A fake server (asyncssh): it disconnects when a session is opened with the login.

    Its disconnect may arrive before its answer to the login. A key is then tried again at once; a
    password, which may be wrong, only by the usual retry.
    """
    sshd.need_sshd()
    client = Client(tmp_path, Sshd(tmp_path / "sshd"))
    write_datasets(client.server.home)
    options: dict[str, str | None] = {}
    if credential == "password":
        client.environ["PASSWORD"] = hosts.PASSWORD
        options["ssh_key_file"] = None
    with hosts.host(asyncssh.SFTPServer, client.known_hosts, "OpenSSH_9.9") as address:
        done = client.run("1", "csv.zip", remote_host_address=address, **options)
    assert done.code == 0, done.err
    retries = [line for line in done.err.splitlines() if "closed while logging in; star" in line]
    assert done.err.splitlines() == retries
    assert len(retries) <= (credential == "password")


# --- at a terminal ----------------------------------------------------------------------------


def at_terminal(client: Client, answer: bytes) -> tuple[int, str, str]:
    """Run task 1 at a terminal, and answer its question; code, output, what the terminal shows."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        ["setsid", "--ctty", sys.executable, "-m", "tasks",
         *client.arguments("1", "csv.zip", "--json")],
        cwd=client.folder, env=client.env(), stdin=slave, stdout=subprocess.PIPE, stderr=slave,
    )  # fmt: skip
    echoes = termios.tcgetattr(slave)[3]
    shown = b""
    while b"Password: " not in shown and process.poll() is None:
        if select.select([master], [], [], 0.1)[0]:
            shown += os.read(master, 1024)
    os.write(master, answer)
    out, _ = process.communicate(timeout=60)
    assert termios.tcgetattr(slave)[3] == echoes, "the terminal is as it was"
    os.close(slave)
    with contextlib.suppress(OSError):  # the end
        while block := os.read(master, 1024):
            shown += block
    os.close(master)
    return process.returncode, out.decode(), shown.decode()


@pytest.mark.parametrize(
    ("answer", "code"),
    [(sshd.PASSWORD.encode() + b"\n", 0), (b"not the answer\n", 4), (b"\x03", 130)],
)
def test_a_second_factor_is_asked_for_at_the_terminal(
    start: Callable[..., Client], answer: bytes, code: int
) -> None:
    client = start("AuthenticationMethods publickey,keyboard-interactive", pam=PAM)
    client.options["ssh-key-file"] = str(client.server.user_key)
    returncode, out, shown = at_terminal(client, answer)
    assert returncode == code, shown
    assert out.startswith("{\n"), "standard output is for the result alone"
    assert "Password" not in out
    assert answer.decode().strip() not in shown or code == 130


# --- what is no fault of the network ------------------------------------------------------------


@pytest.mark.parametrize("command", ["no-such-program %h %p", "/etc/passwd %h", "nc 'x"])
def test_a_proxy_command_that_cannot_run_is_a_fault_of_the_configuration(
    start: Callable[..., Client], command: str
) -> None:
    client = start()
    (client.folder / "envs/ssh_config").write_text(f"Host *\n  ProxyCommand {command}\n")
    done = login(client, "key")
    assert done.code == 2, done.err
    assert command.split(maxsplit=1)[0] in done.err
    assert "ssh_config" in done.err


@pytest.mark.parametrize(
    ("option", "theirs", "ours"),
    [
        ("Ciphers chacha20-poly1305@openssh.com", "chacha20-poly1305@openssh.com", "aes128-ctr"),
        ("MACs hmac-sha1", "hmac-sha1", "hmac-sha2-256"),
        ("KexAlgorithms sntrup761x25519-sha512@openssh.com", "sntrup761x25519-sha512@openssh.com",
         "ecdh-sha2-nistp256"),
        ("HostKeyAlgorithms ssh-rsa", "ssh-rsa", "ssh-ed25519"),
    ],
)  # fmt: skip
def test_a_server_without_common_algorithms_is_answered_with_both_lists(
    start: Callable[..., Client], tmp_path: Path, option: str, theirs: str, ours: str
) -> None:
    rsa = sshd.make_key(tmp_path / "rsa", "rsa")
    client = start(option, f"HostKey {rsa}")
    done = login(client, "key")
    assert done.code == 5, done.err
    kind, _, lists = done.err.rpartition(" in common: ")
    host, _, client_has = lists.partition("; this client has ")
    assert theirs in host.split()[-1]
    assert ours in client_has
    assert kind
    assert "try 1" not in done.err, "the next try would not be another one"


def test_wrong_password_is_sent_once_where_the_server_disconnects_then(
    start: Callable[..., Client],
) -> None:
    client = start("MaxAuthTries 1", "LogLevel VERBOSE")
    client.environ["PASSWORD"] = "wrong"
    done = client.run("1", "csv.zip", max_tries="1")
    assert done.code in {4, 5}, done.err
    assert (client.server.folder / "log").read_text().count("Failed password") == 1


# --- certificates -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
@pytest.mark.parametrize(
    ("names", "validity", "code"),
    [("full", "-1h:+1h", 0), ("full", "-2h:-1h", 4), ("another", "-1h:+1h", 4)],
    ids=["valid", "expired", "of another account"],
)
def test_key_with_a_certificate_logs_in_while_it_is_valid(
    start: Callable[..., Client], tmp_path: Path, kind: str, names: str, validity: str, code: int
) -> None:
    authority, key = sshd.make_key(tmp_path / "authority"), sshd.make_key(tmp_path / "key", kind)
    subprocess.run(
        ["ssh-keygen", "-q", "-s", authority, "-I", "test", "-n", names, "-V", validity,
         f"{key}.pub"],
        check=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    client = start(f"TrustedUserCAKeys {authority}.pub")
    client.options["ssh-key-file"] = str(key)
    done = client.run("1", "csv.zip")
    assert done.code == code, done.err


# --- a host that accepts no logins -------------------------------------------------------


def test_login_waits_for_a_host_that_has_too_many(start: Callable[..., Client]) -> None:
    client = start("MaxStartups 1:100:1", "LoginGraceTime 100")
    client.options["ssh-key-file"] = str(client.server.user_key)
    with contextlib.ExitStack() as stack:

        def takes_the_only_place() -> bool:
            other = socket.create_connection(("127.0.0.1", client.server.port))
            stack.enter_context(other)
            return other.recv(100).startswith(b"SSH-2.0")

        wait_for(takes_the_only_place)
        process = client.start("1", "csv.zip", retry_delay="0.4")
        wait_for(lambda: "the host accepts no logins at present" in process.said())
    done = ended(process)
    assert done.code == 0, done.err
    delays = [float(line.split()[-2]) for line in done.err.splitlines() if " failed: " in line]
    assert all(2 <= delay <= 3 for delay in delays[:1]), done.err
    assert "it wrote 'Exceeded MaxStartups'" in done.err


@pytest.mark.parametrize(
    ("greeting", "code", "text"),
    [
        (b"Not allowed at this time\r\n", 5, "accepts no logins at present"),
        (b"go away\r\n", 5, "no greeting of an SSH server; it wrote 'go away'"),
        (b"", 5, "no greeting of an SSH server"),
    ],
)
def test_server_that_closes_instead_of_a_greeting_is_a_network_error(
    start: Callable[..., Client], greeting: bytes, code: int, text: str
) -> None:
    """A fake server: OpenSSH from 9.8 on writes the first text, and none is here."""
    client = start()
    client.options["ssh-key-file"] = str(client.server.user_key)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    connection.sendall(greeting)
                    connection.shutdown(socket.SHUT_WR)
                    connection.recv(1000)
                    connection.close()

        threading.Thread(target=serve, daemon=True).start()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        done = client.run("1", "csv.zip", remote_host_address=address, max_tries="2")
    assert (done.code, text in done.err) == (code, True), done.err
    assert done.err.count("\n") == 2, "one line for each try"
