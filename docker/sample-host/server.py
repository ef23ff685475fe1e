"""The bundled SSH host: the sample datasets over read-only SFTP, without commands and shells.

    python server.py --root DIR --host-key FILE [--host ADDRESS] [--port PORT] [--ready-file FILE]
    python server.py public-key --host-key FILE

One implementation for the container and for the host runner. Each account sees its own
folder under --root as `/`, and nothing else.
"""

import argparse
import asyncio
import errno
import hmac
import json
import logging
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

import asyncssh

import datasets

PASSWORDS: Mapping[str, str] = {name: f"{name}-sample-only" for name in datasets.ACCOUNTS}
"""Each account's password, as in envs/*.env.example."""

CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "aes256-ctr", "aes128-ctr")


def _refuse(*_: object, **__: object) -> NoReturn:
    """Answer an SFTP request that would change something."""
    raise asyncssh.SFTPPermissionDenied("this host is read-only")


class ReadOnlySFTP(asyncssh.SFTPServer):
    """An account's folder over SFTP: reading only, and links only within the folder."""

    def __init__(self, channel: asyncssh.SSHServerChannel[bytes], root: Path) -> None:
        self._home = root / channel.get_extra_info("username")
        super().__init__(channel, chroot=os.fsencode(self._home))

    def map_path(self, path: bytes) -> bytes:
        """Return the real path of `path`; the base class would follow links anywhere."""
        real = os.path.realpath(super().map_path(path))
        if not Path(os.fsdecode(real)).is_relative_to(self._home):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return real

    def open(self, path: bytes, pflags: int, attrs: asyncssh.SFTPAttrs) -> object:
        """Open a file for reading."""
        if pflags & ~asyncssh.FXF_READ:
            _refuse()
        return super().open(path, asyncssh.FXF_READ, attrs)

    open56 = write = setstat = lsetstat = fsetstat = _refuse
    remove = mkdir = rmdir = rename = posix_rename = symlink = link = _refuse


class Login(asyncssh.SSHServer):
    """Lets an account in by its password."""

    def password_auth_supported(self) -> bool:
        """Offer passwords: the one way in."""
        return True

    def validate_password(self, username: str, password: str) -> bool:
        """Compare in constant time, also where there is no such account."""
        right = PASSWORDS.get(username, "")
        return hmac.compare_digest(password.encode(), right.encode()) and bool(right)


def host_key(path: Path) -> asyncssh.SSHKey:
    """Read the host's ed25519 key, made at the first use (mode 0600).

    Raises:
        OSError, asyncssh.KeyImportError: it can be neither read nor made.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(0o600)
        path.write_bytes(asyncssh.generate_private_key("ssh-ed25519").export_private_key())
    return asyncssh.read_private_key(path)


def public_line(key: asyncssh.SSHKey) -> str:
    """Give the public half as known_hosts wants it: `ssh-ed25519 AAAA...`."""
    return " ".join(key.export_public_key().decode().split()[:2])


async def serve(arguments: argparse.Namespace) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        OSError, asyncssh.KeyImportError: it cannot listen, or its files cannot be made.
    """
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    key = host_key(arguments.host_key)
    root = arguments.root.resolve()
    datasets.generate(root)
    listener = await asyncssh.listen(
        arguments.host,
        arguments.port,
        server_factory=Login,
        server_host_keys=[key],
        sftp_factory=lambda channel: ReadOnlySFTP(channel, root),
        encryption_algs=CIPHERS,
        compression_algs=["none"],  # archives do not shrink twice
        allow_pty=False,
        agent_forwarding=False,
        line_editor=False,
        kbdint_auth=False,
        public_key_auth=False,
    )
    if arguments.ready_file is not None:
        state = {"port": listener.get_port(), "pid": os.getpid(), "public_key": public_line(key)}
        arguments.ready_file.parent.mkdir(parents=True, exist_ok=True)
        part = arguments.ready_file.with_name(f".{arguments.ready_file.name}.{os.getpid()}")
        part.write_text(json.dumps(state) + "\n")
        part.replace(arguments.ready_file)
    await stop.wait()
    listener.close()
    if arguments.ready_file is not None:
        arguments.ready_file.unlink(missing_ok=True)


def main() -> None:
    """Do what the command line says; exit with 1 and a line of why where that fails."""
    parser = argparse.ArgumentParser(description="Serve the sample datasets over SSH.")
    parser.add_argument("action", nargs="?", choices=("serve", "public-key"), default="serve")
    parser.add_argument("--host-key", type=Path, required=True, help="made at the first use")
    parser.add_argument("--root", type=Path, default="/srv", help="the datasets' folder")
    parser.add_argument("--host", default="127.0.0.1", help="address (default: %(default)s)")
    parser.add_argument("--port", type=int, default=2222, help="0 is any (default: %(default)s)")
    parser.add_argument("--ready-file", type=Path, help="gets port, pid and public_key, as JSON")
    arguments = parser.parse_args()
    logging.getLogger("asyncssh").setLevel(logging.ERROR)
    try:
        if arguments.action == "public-key":
            print(public_line(host_key(arguments.host_key)))
        else:
            asyncio.run(serve(arguments))
    except asyncssh.KeyImportError as error:
        sys.exit(f"sample-host: {arguments.host_key} is no host key ({error}); delete it")
    except OSError as error:
        sys.exit(f"sample-host: {error}")


if __name__ == "__main__":
    main()
