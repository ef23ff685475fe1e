"""A real OpenSSH server on loopback, with accounts of its own.

As root the server sees an account file of its own, through a mount that no other process
sees: the machine's accounts stay as they are, and passwords can be tried. As another user the
one account is the caller's, with keys only.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from need import need

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAM = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/sbin")
ROOT = os.getuid() == 0
PASSWORD = 'correct "horse" $battery #staple'
"""One that an env file cannot hold: it comes as a file."""
NOBODY = 65534


def need_sshd() -> None:
    """Skip, loudly, where there is no server to test against."""
    need("sshd", "openssh-server", "everything that needs a real OpenSSH server")


def need_passwords() -> None:
    """Skip, loudly, where a server cannot have accounts of its own."""
    need_sshd()
    if not ROOT:
        pytest.skip("PASSWORD LOGINS NEED ROOT: only root gives a test server its own accounts")


def free_port() -> int:
    """Find a TCP port of loopback that is free."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def make_key(path: Path, kind: str = "ed25519", phrase: str = "") -> Path:
    """Make a key pair; returns the private half."""
    subprocess.run(
        ["ssh-keygen", "-q", "-t", kind, "-N", phrase, "-f", str(path)],
        check=True,
        stdin=subprocess.DEVNULL,
    )
    return path


@dataclass
class Sshd:
    """A server; its accounts are `full` (SFTP and commands) and `sftp` (SFTP only).

    Attributes:
        folder: Its files: keys, logs, the accounts' home.
        options: More lines of sshd_config.
        sftp: The SFTP server, with its options.
        pam: Lines of its own /etc/pam.d/sshd: with some, it asks through keyboard-interactive.
    """

    folder: Path
    options: list[str] = field(default_factory=list)
    pam: list[str] = field(default_factory=list)
    sftp: str = "internal-sftp"
    port: int = field(default_factory=free_port)
    host_key: Path = Path()
    process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o755)
        self.home.mkdir(exist_ok=True)
        if not self.host_key.name:
            self.host_key = make_key(self.folder / "host_key")
        self.user_key = self.folder / "user_key"
        if not self.user_key.exists():
            make_key(self.user_key)
        if ROOT:
            self._write_accounts()

    @property
    def home(self) -> Path:
        """Where the accounts' files lie."""
        return self.folder / "home"

    @property
    def address(self) -> str:
        """`host:port`."""
        return f"127.0.0.1:{self.port}"

    @property
    def user(self) -> str:
        """The account with SFTP and commands."""
        return "full" if ROOT else pwd.getpwuid(os.getuid()).pw_name

    def known_hosts(self, port: int | None = None) -> str:
        """Give the line that trusts this server."""
        key = self.host_key.with_suffix(".pub").read_text().split()[:2]
        return f"[127.0.0.1]:{port or self.port} {' '.join(key)}\n"

    def _write_accounts(self) -> None:
        digest = subprocess.run(
            ["openssl", "passwd", "-6", "-stdin"],
            input=PASSWORD, text=True, capture_output=True, check=True,
        ).stdout.strip()  # fmt: skip
        passwd, shadow = ["root:x:0:0::/root:/bin/sh"], ["root:*:19000::::::"]
        for name, uid in (("sshd", NOBODY), ("full", 0), ("sftp", 0)):
            # Uid 0, so that files of any test can be read; nothing but these tests can log in.
            passwd.append(f"{name}:x:{uid}:{uid}::{self.home}:/bin/sh")
            shadow.append(f"{name}:{'*' if name == 'sshd' else digest}:19000::::::")
        (self.folder / "passwd").write_text("\n".join(passwd) + "\n")
        (self.folder / "shadow").write_text("\n".join(shadow) + "\n")
        (self.folder / "pam").write_text("\n".join(self.pam) + "\n")

    def _write_config(self) -> Path:
        lines = [
            "MaxStartups 50",  # of two such lines sshd uses the last
            f"Port {self.port}",
            "ListenAddress 127.0.0.1",
            f"HostKey {self.host_key}",
            f"AuthorizedKeysFile {self.user_key}.pub",
            f"PidFile {self.folder}/pid",
            "StrictModes no",
            f"UsePAM {'yes' if self.pam else 'no'}",
            "PermitRootLogin yes",
            f"KbdInteractiveAuthentication {'yes' if self.pam else 'no'}",
            "PasswordAuthentication yes",
            f"Subsystem sftp {self.sftp}",
            *self.options,
            "Match User sftp",
            f"  ForceCommand {self.sftp}",
        ]
        config = self.folder / "sshd_config"
        config.write_text("\n".join(lines) + "\n")
        return config

    def command(self) -> list[str]:
        """Give the command that serves, in the foreground."""
        assert PROGRAM is not None
        if ROOT:
            Path("/run/sshd").mkdir(exist_ok=True)  # sshd refuses to start without it
        return [PROGRAM, "-D", "-e", "-f", str(self._write_config())]

    def start(self) -> None:
        """Start it, and wait until it listens."""
        command = self.command()
        if ROOT:
            mounts = (
                'mount --bind "$0/passwd" /etc/passwd && mount --bind "$0/shadow" /etc/shadow'
                + (' && mount --bind "$0/pam" /etc/pam.d/sshd' if self.pam else "")
                + ' && exec "$@"'
            )
            command = ["unshare", "--mount", "sh", "-c", mounts, str(self.folder), *command]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=log)
        for _ in range(200):
            assert self.process.poll() is None, (self.folder / "log").read_text()
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", self.port), 1),
            ):
                return
            time.sleep(0.05)
        raise AssertionError((self.folder / "log").read_text())

    def stop(self) -> None:
        """End it, with the sessions that it has."""
        if self.process is None:
            return
        for child in _descendants(self.process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        self.process.terminate()
        self.process.wait(10)
        self.process = None

    @contextlib.contextmanager
    def running(self) -> Iterator[Sshd]:
        """Run it for a block."""
        self.start()
        try:
            yield self
        finally:
            self.stop()


def _descendants(pid: int) -> list[int]:
    found = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, children.read_text().split()):
                found += [*_descendants(child), child]
    return found
