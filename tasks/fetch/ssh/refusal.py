"""Refusal: a server that opens no session, or writes text in place of SFTP packets."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Final

import paramiko

if TYPE_CHECKING:
    from collections.abc import Callable

QUOTED_CHARACTERS: Final = 200
"""Of a server's own text in a message."""
TEXT_BYTES: Final = 2**14
TEXT_TIMEOUT_S: Final = 1.0
"""How long to wait for the end of a session that is no SFTP: error output may be on its way."""
REFUSALS: Final = 10


class SessionRefusedError(paramiko.SSHException):
    """The server opens no further session, as at its limit (`MaxSessions`)."""


class NoSftpError(paramiko.SSHException):
    """The server did not start SFTP.

    Attributes:
        text: What it wrote instead.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


def first_line(text: str) -> str:
    """Return the first line of a server's text that is not empty, shortened."""
    lines = (line.strip() for line in text.splitlines())
    return next((line[:QUOTED_CHARACTERS] for line in lines if line), "")


def text_instead(channel: paramiko.Channel, start: bytes) -> str:
    """Return what a server wrote in place of SFTP packets.

    Args:
        channel: On which SFTP was asked for.
        start: What was read of it.
    """
    text = _output(channel, start)
    if not text.strip():
        # OpenSSH sends no error output of a subsystem, as that a password has expired.
        channel.close()
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            text = _output_of_exit(channel.get_transport())
    return text.decode("utf-8", "replace")


def _output_of_exit(transport: paramiko.Transport) -> bytes:
    """Return what the server writes when a command is run that does nothing."""
    for tries in range(REFUSALS, -1, -1):
        try:
            channel = transport.open_session(timeout=TEXT_TIMEOUT_S)
            break
        except paramiko.ChannelException:  # with MaxSessions 1, while the first still counts
            if not tries:
                raise
            time.sleep(TEXT_TIMEOUT_S / REFUSALS)
    with contextlib.closing(channel):
        channel.settimeout(TEXT_TIMEOUT_S)
        channel.exec_command("exit")
        return _output(channel, b"")


def _output(channel: paramiko.Channel, start: bytes) -> bytes:
    """Return `start`, the rest of a channel's output and its error output, within a second."""
    end = time.monotonic() + TEXT_TIMEOUT_S

    def read(receive: Callable[[int], bytes]) -> bytes:
        text = b""
        with contextlib.suppress(TimeoutError):
            while len(text) < TEXT_BYTES:
                channel.settimeout(max(0.01, end - time.monotonic()))
                block = receive(TEXT_BYTES)
                if not block:
                    break
                text += block
        return text

    return start + read(channel.recv) + b"\n" + read(channel.recv_stderr)
