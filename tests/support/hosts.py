"""Hosts that lie: SFTP servers which OpenSSH cannot be made to be (asyncssh, on loopback)."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING

import asyncssh

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PASSWORD = "liar"


class _Server(asyncssh.SSHServer):
    def begin_auth(self, username: str) -> bool:
        return True

    def password_auth_supported(self) -> bool:
        return True

    def validate_password(self, username: str, password: str) -> bool:
        return password == PASSWORD

    def public_key_auth_supported(self) -> bool:
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        return True


class Unreadable(asyncssh.SFTPServer):
    """Denies access to checksum files."""

    def open(self, path: bytes, pflags: int, attrs: asyncssh.SFTPAttrs) -> object:
        if path.endswith((b".sha256", b"SHA256SUMS")):
            raise PermissionError(13, "no")
        return super().open(path, pflags, attrs)


@contextlib.contextmanager
def host(
    sftp: Callable[[asyncssh.SSHServerChannel[bytes]], asyncssh.SFTPServer] | None,
    known_hosts: Path,
    version: str = "",
) -> Iterator[str]:
    """Serve SFTP, or none, for a block; gives `host:port`, trusted in `known_hosts`.

    The server calls itself `version`, or by its own name.
    """
    key = asyncssh.generate_private_key("ssh-ed25519")
    loop = asyncio.new_event_loop()

    async def listen() -> asyncssh.SSHAcceptor:
        return await asyncssh.listen(
            "127.0.0.1", 0, server_factory=_Server, server_host_keys=[key],
            sftp_factory=sftp, encoding=None, server_version=version or (),
        )  # fmt: skip

    listener = loop.run_until_complete(listen())
    port = listener.get_port()
    with known_hosts.open("a") as file:
        file.write(f"[127.0.0.1]:{port} {key.export_public_key().decode()}")
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        loop.call_soon_threadsafe(listener.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)
        loop.run_until_complete(_end_tasks())


async def _end_tasks() -> None:
    """Cancel the other tasks of a loop, which would be complained of at its end."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 5)
