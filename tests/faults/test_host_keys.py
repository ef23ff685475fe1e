"""Host keys: known_hosts is read as OpenSSH reads it, and a second key is never trusted."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Event

import paramiko
import pytest

import sshd
from client import Client
from relay import Relay
from sshd import Sshd
from tasks.fetch.errors import HostKeyError
from tasks.fetch.shards.names import Hosts
from tasks.fetch.ssh import known_hosts, paramiko_private
from tasks.fetch.ssh.host_keys import HostKeyPolicy
from tasks.fetch.ssh.transport import Transport
from tasks.settings import Settings

HOSTS = ("host", "a.example.org", "host2", "[host]:2222", "[a.example.org]:2222", "[::1]:22222")
PATTERNS = (
    "host", "HOST", "h*t", "h?st", "host?", "*", "!host", "*,!host", "!host,*", "host,!h*",
    "*.example.org", "*.example.org,!a.*", "a.*,host2", "[host]:2222", "[*]:2222", "[h*]:*",
    "[host]", "[a-z]ost", "*.EXAMPLE.org", "host,", ",host", "[::1]:22222", "h**t", "hos", "",
    "|1|bad|hash", "|1|", "!", "host ", "h.st", "[*.example.org]:2222,!host",
)  # fmt: skip


def blob_of(key: Path) -> str:
    """Return type and base64 of a public key."""
    return " ".join(key.with_suffix(".pub").read_text().split()[:2])


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Give public keys of some types of no server here."""
    sshd.need_sshd()
    folder = tmp_path_factory.mktemp("keys")
    return {kind: blob_of(sshd.make_key(folder / kind, kind)) for kind in ("ed25519", "rsa")}


@pytest.mark.parametrize("name", HOSTS)
def test_a_line_applies_to_the_hosts_that_it_does_for_openssh(
    tmp_path: Path, keys: dict[str, str], name: str
) -> None:
    file = tmp_path / "known_hosts"
    file.write_text("".join(f"{host} {keys['ed25519']}\n" for host in HOSTS))
    subprocess.run(["ssh-keygen", "-H", "-f", file], check=True, capture_output=True)
    lines = file.read_text().splitlines()
    lines += [f"{pattern} {keys['ed25519']} {n}" for n, pattern in enumerate(PATTERNS)]
    lines += [f"\t {name}  \t{keys['ed25519']}", f"{name}\t{keys['rsa']} comment"]
    file.write_text("\n".join(lines) + "\n")
    command = ["ssh-keygen", "-F", name, "-f", str(file)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    expected = [line.split()[-1] for line in found.stdout.splitlines() if line[0] == "#"]
    ours = [line for line in known_hosts.parse(file.read_bytes()) if line.applies_to(name)]
    assert [str(line.number) for line in ours] == expected


# --- with a server --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """Give a server with two host keys, ed25519 and rsa."""
    sshd.need_sshd()
    folder = tmp_path_factory.mktemp("host-keys")
    rsa = sshd.make_key(folder / "rsa", "rsa")
    with Sshd(folder / "sshd", options=[f"HostKey {rsa}"]).running() as server:
        yield server


ACCEPTED = {
    "plain": "{name} {key}",
    "a comment that is not UTF-8": "{name} {key} Zo\udce9",
    "another line that is not UTF-8": "h\udcff\udcfe {other}\n{name} {key}",
    "Windows line endings and a byte order mark": "\ufeff{name} {key}\r\n",
    "tabs and several blanks": "  {name} \t {key}",
    "a wildcard": "[127.0.?.*]:* {key}",
    "a name without the port": "127.0.0.1 {key}",
    "an other key for the name without the port": "127.0.0.1 {other}\n{name} {key}",
    "negated for another host": "*,!other.example.org {key}",
    "only the key that the server prefers less": "{name} {rsa}",
    "a type that the server has not, then one that it prefers less":
        "{name} ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTY=\n{name} {rsa}",
    "another host's line without a key": "other.example.org\n{name} {key}",
    "another host's line with half a key": "other.example.org ssh-ed25519 AAA\n{name} {key}",
    "another host's line that is no base64": "other.example.org ssh-rsa *&^\n{name} {key}",
    "another host's key of an unknown type": "other sk-ssh-x@openssh.com AAAA\n{name} {key}",
    "an unknown marker": "@unknown other.example.org {other}\n{name} {key}",
    "a conflict marker": "<<<<<<< HEAD\n{name} {key}\n=======\n>>>>>>> branch",
    "a certificate authority of another host":
        "@cert-authority *.example.org {other}\n{name} {key}",
    "a certificate authority, and a plain key": "@cert-authority * {other}\n{name} {key}",
    "a revoked key that is another": "@revoked * {other}\n{name} {key}",
    "a broken line of this host beside a good one": "{name} ssh-rsa AAA\n{name} {key}",
}  # fmt: skip
REFUSED = {
    "another key": "{name} {other}",
    "another key by a wildcard": "* {other}",
    "a revoked key": "@revoked {name} {key}",
    "a revoked key that is known": "{name} {key}\n@revoked * {key}",
    "a certificate authority": "@cert-authority [127.*]:* {other}",
    "a line that cannot be parsed": "{name} ssh-ed25519 AAA",
    "a key of another type": "{name} ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTY=",
}


def write_known_hosts(client: Client, text: str, keys: dict[str, str]) -> bytes:
    """Write known_hosts, and return its content."""
    server = client.server
    content = text.format(
        name=server.known_hosts().split()[0], other=keys["ed25519"],
        key=blob_of(server.host_key), rsa=blob_of(server.folder.parent / "rsa"),
    )  # fmt: skip
    client.known_hosts.write_bytes(content.encode("utf-8", "surrogateescape") + b"\n")
    return client.known_hosts.read_bytes()


@pytest.mark.parametrize("case", ACCEPTED)
def test_a_known_host_is_accepted(dataset_client: Client, keys: dict[str, str], case: str) -> None:
    write_known_hosts(dataset_client, ACCEPTED[case], keys)
    done = dataset_client.run("1", "csv.zip", host_keys="known", log_level="DEBUG")
    assert done.code == 0, done.err


@pytest.mark.parametrize(
    ("case", "host_keys"),
    [*((case, "accept-new") for case in REFUSED), ("another key", "known"),
     ("a key of another type", "known")],
)  # fmt: skip
def test_a_key_that_is_not_the_known_one_is_refused(
    client: Client, keys: dict[str, str], case: str, host_keys: str
) -> None:
    before = write_known_hosts(client, REFUSED[case], keys)
    done = client.run("1", "csv.zip", host_keys=host_keys)
    assert done.code == 4, done.err
    assert client.known_hosts.read_bytes() == before
    assert not client.target.exists()


@pytest.mark.parametrize("content", ["@revoked * {other}", "*,!127.0.0.1,!{name} {other}", "# no"])
def test_a_host_that_no_line_knows_is_new(
    dataset_client: Client, keys: dict[str, str], content: str
) -> None:
    client = dataset_client
    before = write_known_hosts(client, content, keys)
    assert client.run("1", "csv.zip", host_keys="known").code == 4
    assert client.run("1", "csv.zip", host_keys="accept-new").code == 0
    assert client.known_hosts.read_bytes() == before + client.server.known_hosts().encode()


# --- a second key in the same run -----------------------------------------------------------


@contextlib.contextmanager
def exchanged(server: Sshd) -> Iterator[Relay]:
    """Relay to a server; cut the first connection, behind which is one with another host key."""
    folder = server.folder.parent / "other"
    folder.mkdir()
    for name in ("user_key", "user_key.pub"):
        shutil.copy(server.folder / name, folder)
    shutil.copytree(server.home, folder / "home")
    other = replace(server, folder=folder, host_key=Path(), process=None, port=sshd.free_port())

    with Relay(server.port, "cut", 2**21).running() as relay, other.running():
        relay.alarm, relay.ring = 2**20, lambda: setattr(relay, "port", other.port)
        yield relay


@pytest.mark.parametrize("remembered", [True, False])
def test_no_second_key_is_accepted_after_a_cut(tmp_path: Path, *, remembered: bool) -> None:
    sshd.need_passwords()
    server = Sshd(tmp_path / "first/sshd")
    (server.home / "big.csv").write_bytes(os.urandom(2**22))
    client = Client(tmp_path, server)
    client.known_hosts.unlink()
    client.environ["PASSWORD"] = sshd.PASSWORD
    file = str(client.known_hosts) if remembered else "/proc/nowhere/known_hosts"
    with server.running(), exchanged(server) as relay:
        done = client.run(
            "3", ".", ssh_key_file=None, host_keys="accept-new", known_hosts_file=file,
            remote_host_address=relay.address,
        )  # fmt: skip
        assert relay.connections == 2
    assert done.code == 4, done.err
    log = (tmp_path / "first/other/log").read_text()
    assert "password" not in log
    assert "Accepted" not in log


def test_no_second_key_of_a_jump_host_is_accepted(tmp_path: Path) -> None:
    sshd.need_sshd()
    server, gateway = Sshd(tmp_path / "target/sshd"), Sshd(tmp_path / "gateway/sshd")
    (server.home / "big.csv").write_bytes(os.urandom(2**22))
    client = Client(tmp_path, server)
    with server.running(), gateway.running(), exchanged(gateway) as relay:
        port = relay.address.rpartition(":")[2]
        (client.folder / "envs/ssh_config").write_text(
            f"Host gate\n HostName 127.0.0.1\n Port {port}\n User {gateway.user}\n"
            f" IdentityFile {gateway.user_key}\n"
            f"Host inner\n HostName 127.0.0.1\n Port {server.port}\n ProxyJump gate\n"
        )
        done = client.run("3", ".", host_keys="accept-new", remote_host_address="inner")
        assert relay.connections == 2
    assert done.code == 4, done.err
    assert "Accepted" not in (tmp_path / "gateway/other/log").read_text()


@pytest.mark.parametrize("hooked", [True, False])
def test_another_key_in_a_later_key_exchange_ends_the_connection(
    monkeypatch: pytest.MonkeyPatch, hooked: bool
) -> None:
    """A fake server (paramiko): OpenSSH keeps its host key for the whole of a connection."""
    if not hooked:
        monkeypatch.setattr(paramiko_private, "disabled", {paramiko_private.Item.VERIFY_KEY})
    first, second = paramiko.ECDSAKey.generate(), paramiko.ECDSAKey.generate()
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
        server = stack.enter_context(contextlib.closing(paramiko.Transport(theirs)))
        server.add_server_key(first)
        server.start_server(Event(), paramiko.ServerInterface())
        client = stack.enter_context(contextlib.closing(Transport(ours)))
        client.start_client(timeout=20)
        client.renegotiate_keys()
        paramiko_private.require_same_host_key(client)
        assert client.get_remote_server_key() == first
        server.add_server_key(second)
        with pytest.raises(paramiko.SSHException):
            renegotiate(client)
        client.join(20)
        assert not client.is_active()


def renegotiate(client: Transport) -> None:
    """Exchange keys again, and check the key as a session does before a request."""
    client.renegotiate_keys()
    paramiko_private.require_same_host_key(client)


# --- the file -------------------------------------------------------------------------------


@pytest.fixture
def policy(tmp_path: Path) -> HostKeyPolicy:
    """Give the policy of a variant that accepts new keys."""
    settings = Settings(
        known_hosts_file=tmp_path / "known_hosts", host_keys="accept-new",
        remote_host_address=Hosts("host"), username="u",
    )  # fmt: skip
    return HostKeyPolicy(settings)


def test_parallel_first_runs_lose_no_line(policy: HostKeyPolicy, tmp_path: Path) -> None:
    file = tmp_path / "known_hosts"
    key = paramiko.ECDSAKey.generate()
    names = [f"host{number}" for number in range(4)]
    for _ in range(60):
        file.unlink(missing_ok=True)
        pids = []
        for name in names:
            pid = os.fork()
            if pid == 0:
                code = 1
                try:
                    policy.missing_host_key(None, name, key)
                    code = 0
                finally:
                    os._exit(code)
            pids.append(pid)
        assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids] == [0] * 4
        lines = file.read_text().splitlines()
        assert sorted(lines) == [f"{name} {key.get_name()} {key.get_base64()}" for name in names]


def test_two_first_runs_do_not_accept_two_keys_of_one_host(
    policy: HostKeyPolicy, tmp_path: Path
) -> None:
    """The second one read the file before the first one wrote it."""
    first, second = paramiko.ECDSAKey.generate(), paramiko.ECDSAKey.generate()
    policy._remember("host", first)
    before = (tmp_path / "known_hosts").read_bytes()
    with pytest.raises(HostKeyError):
        policy._remember("host", second)
    policy._remember("host", first)
    assert (tmp_path / "known_hosts").read_bytes() == before
