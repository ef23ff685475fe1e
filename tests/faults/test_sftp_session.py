"""SFTP sessions: short answers, one session at a time, and other text than SFTP.

And the commands that compute checksums, whatever shell the account has.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
import zipfile
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar

import asyncssh
import paramiko
import pytest

import hosts
import sshd
from client import CSVS, Client, put, tarred, tree, trusted, wait_for, zipped
from need import need
from relay import Relay
from sshd import Sshd
from tasks.fetch.ssh import sftp_packets as packets
from tasks.fetch.ssh.sftp_session import REQUESTS_PER_PACKET, Session
from tasks.fetch.ssh.transport import Transport

pytestmark = pytest.mark.sshd
NOISE = random.Random(1)  # noqa: S311 (no secret)


# --- a connection that is cut ------------------------------------------------------------------


def test_what_arrived_before_a_cut_is_read(client: Client) -> None:
    """A request that can no longer be sent does not hide the answers that arrived."""
    client.put({"big.csv": os.urandom(1_000_000)})
    with Relay(client.server.port, fault="cut", after=700_000).running() as relay:
        sock = socket.create_connection(relay.listener.getsockname())
        with contextlib.closing(Transport(sock)) as transport:
            transport.connect(
                username=client.server.user,
                pkey=paramiko.Ed25519Key(filename=str(client.server.user_key)),
            )
            session = Session(transport, timeout=10)
            session.send(packets.OPEN, packets.path_string("big.csv") + packets.READ_ONLY)
            handle = packets.string(packets.read_handle(session.receive()[2]))
            for offset in range(0, 1_000_000, 2**15):
                session.send(packets.READ, handle + packets.RANGE.pack(offset, 2**15))
            received = len(session.receive()[2])
            wait_for(lambda: not transport.is_active())
            for _ in range(REQUESTS_PER_PACKET):
                session.send(packets.FSTAT, handle)
            with contextlib.suppress(EOFError, OSError):  # the cut
                while True:
                    received += len(session.receive()[2])
    assert received > 600_000


# --- servers that answer a READ with less than was asked for ---------------------------------


class Short(asyncssh.SFTPServer):
    """Gives what `cap` says of the bytes that a READ asks for; counts the READs."""

    cap: ClassVar[Callable[[int], int]] = staticmethod(lambda size: size)
    reads: ClassVar[int] = 0

    def read(self, file_obj: Any, offset: int, size: int) -> bytes:
        Short.reads += 1
        file_obj.seek(offset)
        return bytes(file_obj.read(max(1, Short.cap(size))))


def once(small: int) -> Callable[[int], int]:
    """Give a cap that holds for the tenth READ only."""
    return lambda size: min(size, small) if Short.reads == 10 else size


def drawn(size: int) -> int:
    return min(size, NOISE.randrange(1, 60_000))


@pytest.fixture
def short(tmp_path: Path, folder: Path) -> Iterator[Client]:
    """Give a client of a server that gives less than was asked for."""
    server = Sshd(folder)
    client = Client(tmp_path, server, {"ssh-key-file": None}, {"PASSWORD": hosts.PASSWORD})
    with hosts.host(Short, client.known_hosts) as address:
        client.options["remote-host-address"] = address
        yield client


Cap = Callable[[int], int]
CAPS: dict[str, tuple[Cap, int, Callable[[float, int], float]]] = {
    "1": (lambda _: 1, 12_000, lambda size, files: size + 3 * files),
    "100": (lambda size: min(size, 100), 300_000, lambda size, files: size / 50 + 3 * files),
    "1000": (lambda size: min(size, 1000), 3_000_000, lambda size, files: size / 500 + 3 * files),
    "30000": (lambda size: min(size, 30_000), 6_000_000, lambda size, files: size / 15_000 + 20),
    "random": (drawn, 6_000_000, lambda size, files: size / 10_000 + 100),
    "once": (once(50), 6_000_000, lambda size, files: size / 65_536 + 3 * files + 3),
    "none": (lambda size: size, 6_000_000, lambda size, files: size / 65_536 + 3 * files),
}


@pytest.mark.parametrize(("task", "path"), [("1", "data.zip"), ("2", "data.tar.gz"), ("3", "tree")])
@pytest.mark.parametrize("cap", CAPS)
def test_a_short_answer_is_normal(short: Client, task: str, path: str, cap: str) -> None:
    """Every byte arrives, and not with many more READs than it takes."""
    Short.cap, size, most = CAPS[cap]
    csvs = {f"{n}.csv": NOISE.randbytes(size // 4 - 2 * n) for n in range(4)} | {"empty.csv": b""}
    packed = {"data.zip": zipped(csvs), "data.tar.gz": tarred(csvs)}
    short.put(packed if task != "3" else {f"tree/{n}": c for n, c in csvs.items()})
    Short.reads = 0
    short.report(task, path)
    assert tree(short.target) == csvs
    size = len(packed[path]) if task != "3" else sum(map(len, csvs.values()))
    assert Short.reads <= most(size * (1.1 if task == "1" else 1), len(csvs))  # a zip's end twice


def test_a_file_that_grows_while_short_answers_arrive_is_noticed(short: Client) -> None:
    path = short.server.home / "tree/a.csv"
    short.put({"tree/a.csv": b"1" * 200_000})

    def grow(size: int) -> int:
        if Short.reads == 3:
            path.write_bytes(b"2" * 200_000 + b"more")
        return min(size, 30_000)

    Short.cap, Short.reads = grow, 0
    done = short.run("3", "tree", max_tries="1")
    assert done.code == 6, done.err
    assert not short.target.exists()


# --- one session at a time ----------------------------------------------------------------------


def large_table() -> bytes:
    """Pack a zip whose table of contents is larger than what is read of its end at first."""
    packed = BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for number in range(8000):
            archive.writestr(f"{'folder/' * 10}{number:080}.txt", b"")
        archive.writestr("a.csv", NOISE.randbytes(300_000))
    return packed.getvalue()


@pytest.mark.parametrize("sessions", [1, 2])
@pytest.mark.parametrize(
    ("task", "path"), [("1", "large.zip"), ("2", "csv.tar.gz"), ("3", "tree"), ("3", "many")]
)
def test_one_session_is_enough(
    tmp_path: Path, folder: Path, task: str, path: str, sessions: int
) -> None:
    """With a checksum of the host's own."""
    with Sshd(folder, [f"MaxSessions {sessions}"]).running() as server:
        client = Client(tmp_path, server)
        put(server.home, {
            "csv.tar.gz": tarred(CSVS), "large.zip": large_table() if path == "large.zip" else b"",
            "tree/a.csv": b"a", "tree/zips/z.zip": zipped(CSVS),
            **{f"many/{n}.csv": b"%d" % n for n in range(300)},
        })  # fmt: skip
        data = client.report(task, path)
        assert data["checked"].startswith("size, sha256")
        assert data["status"] == "landed"
        assert client.report(task, path, "--checksum")["status"] == "unchanged"


def test_a_broken_file_among_others_is_fetched_again_in_one_session(
    tmp_path: Path, folder: Path
) -> None:
    """Each fault takes a new session, of a server that counts the old one for a moment."""
    with Sshd(folder, ["MaxSessions 1"]).running() as server:
        client = Client(tmp_path, server)
        put(server.home, {f"tree/{n}.zip": zipped(CSVS)[:-30] for n in range(5)})
        put(server.home, {"tree/z.csv": b"z"})
        data = client.report("3", "tree", "--on-error=continue", code=7)
        assert len(data["failed"]) == 5
        assert tree(client.target) == {"z.csv": b"z"}


# --- other answers than SFTP --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["MaxSessions 0"], "MaxSessions"),
        (['ForceCommand echo "not available"'], "'not available'"),
        (['ForceCommand echo "not available" >&2; exit 1'], "'not available'"),
        (["ForceCommand echo Welcome; exec /usr/lib/openssh/sftp-server"], "'Welcome'"),
        (["ForceCommand echo Hi; sleep 60"], "'Hi'"),
        (["ForceCommand exit 1"], "does not offer the SFTP subsystem"),
    ],
)
def test_a_server_without_sftp_is_quoted(
    tmp_path: Path, folder: Path, options: list[str], words: str
) -> None:
    with Sshd(folder, options).running() as server:
        put(server.home, {"csv.zip": zipped(CSVS)})
        done = Client(tmp_path, server).run("1", "csv.zip", timeout="3")
    assert (done.code, words in done.err) == (5, True), done.err
    assert len(done.err.splitlines()) == 1, "not tried again"


def test_an_expired_password_is_a_fault_of_the_login(tmp_path: Path, folder: Path) -> None:
    sshd.need_passwords()
    server = Sshd(folder, ["MaxSessions 1"])
    shadow = folder / "shadow"
    shadow.write_text(shadow.read_text().replace(":19000:", ":0:"))
    with server.running():
        client = Client(tmp_path, server)
        secret = client.secret(sshd.PASSWORD)
        done = client.run("1", "csv.zip", ssh_key_file=None, password_file=secret)
    assert (done.code, "expired" in done.err) == (4, True), done.err


# --- commands that compute checksums -------------------------------------------------------------


def script(path: Path, text: str) -> str:
    """Write an executable."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def with_shell(tmp_path: Path, folder: Path) -> Iterator[Callable[[str], Client]]:
    """Give what starts a server whose accounts have a shell, and returns a client of it."""
    sshd.need_passwords()
    with contextlib.ExitStack() as stack:

        def start(shell: str) -> Client:
            server, accounts = Sshd(folder), folder / "passwd"
            home = f"{server.home}:"
            accounts.write_text(accounts.read_text().replace(f"{home}/bin/sh", f"{home}{shell}"))
            stack.enter_context(server.running())
            return Client(tmp_path, server, {"log-level": "INFO"})

        yield start


ODD = ["it's.csv", "wow!.csv", "!!.csv", "$(touch pwned).csv", "`touch pwned`.csv", "-n.csv",
       "a b.csv", "%PATH%.csv", "x;touch pwned;.csv", "{a,b}.csv", "~.csv", "*.csv"]  # fmt: skip


@pytest.mark.parametrize("shell", ["sh", "bash", "dash", "fish", "csh", "tcsh"])
def test_no_shell_reads_a_name(with_shell: Callable[[str], Client], shell: str) -> None:
    program = need(shell, shell, "accounts with this shell")
    client = with_shell(program)
    home = client.server.home
    top = "x\\'\"; touch pwned; #"  # what fish takes for a quote, sh does not
    files = {name: name.encode() for name in ODD}
    client.put({f"{top}/{name}": content for name, content in files.items()})
    data = client.report("3", top)
    assert tree(client.target) == files
    assert [path.name for path in home.iterdir() if path.name[0] not in {".", "x"}] == []
    assert data["checked"] == "size, sha256"


@pytest.mark.parametrize(
    ("text", "checked"),
    [
        # Windows' cmd.exe, as OpenSSH for Windows starts it
        ("echo \"'xargs' is not recognized as an internal or external command,\" >&2; exit 1",
         "size only"),
        ("exit 127", "size only"),
        ("cat; exit 0", "size only"),
        ("echo This account is currently not available.; exit 1", "size only"),
        ("exec sleep 600 < /dev/null > /dev/null", "size only"),
        # Text of start-up files.
        ('echo "Welcome!"; exec /bin/sh "$@"', "size, sha256"),
        # A file that was removed, or may not be read by the commands.
        ('/bin/sh "$@" | grep -v b.csv; exit 123', "size, sha256 of some"),
    ],
)  # fmt: skip
def test_a_shell_that_runs_no_command_or_writes_other_text_is_no_fault(
    with_shell: Callable[[str], Client], tmp_path: Path, text: str, checked: str
) -> None:
    client = with_shell(script(tmp_path / "shell", text))
    client.put({f"tree/{name}.csv": b"" for name in "abc"})
    done = client.run("3", "tree", "--json", timeout="2")
    assert done.code == 0, done.err
    assert done.data()["checked"] == checked
    assert ("no SHA-256 from the host for" in done.err) == (checked != "size, sha256")


@pytest.mark.parametrize("to", ["", " >&2"])
def test_endless_output_of_a_command_is_cut(
    with_shell: Callable[[str], Client], tmp_path: Path, to: str
) -> None:
    client = with_shell(script(tmp_path / "shell", f"exec yes{to}"))
    content = os.urandom(3_000_000)
    client.put({"tree/a.csv": content})
    with Relay(client.server.port, rate=1_000_000).running() as relay:
        client.options["remote-host-address"] = trusted(client, relay.address)
        data = client.report("3", "tree", "--max-tries=1")
        assert relay.passed < len(content) + 6_000_000  # two windows, of two commands
    assert data["checked"] == "size only"
    assert tree(client.target) == {"a.csv": content}
