"""SFTP channel: the session of a connection that SFTP runs in, and what is there in its place."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from functools import partial
from typing import Final, TypeVar

import paramiko

from tasks.fetch.ssh.errors import SessionRefusedError

MOST_AHEAD_BYTES: Final = 256 * 2**20
"""Bytes that may be asked for ahead, where much memory is free."""
CHANNEL_WINDOW: Final = 2 * MOST_AHEAD_BYTES
CHANNEL_PACKET: Final = 2**18
TEXT_BYTES: Final = 2**14
TEXT_TIMEOUT_S: Final = 1.0
"""How long to wait for the end of a session that is no SFTP: error output may be on its way."""
SESSION_DELAYS_S: Final = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
"""To wait for a server that refuses a session because a closed one still counts."""

T = TypeVar("T")


def open_channel(transport: paramiko.Transport, timeout: float) -> paramiko.Channel:
    """Open a channel for SFTP, with a large window."""
    return transport.open_session(
        window_size=CHANNEL_WINDOW, max_packet_size=CHANNEL_PACKET, timeout=timeout
    )


def open_session(opener: Callable[[], T], *, retry: bool) -> T:
    """Open a session of a transport with `opener`, and return what it returns.

    Args:
        opener: Called again where the server refuses.
        retry: Whether to do that: after a session was closed, it may still count for a moment.

    Raises:
        SessionRefusedError: The server opens no further session.
    """
    for delay_s in SESSION_DELAYS_S if retry else ():
        with contextlib.suppress(paramiko.ChannelException):
            return opener()
        time.sleep(delay_s)
    try:
        return opener()
    except paramiko.ChannelException as error:
        raise SessionRefusedError(error.text) from error


def text_instead(channel: paramiko.Channel, start: bytes, *, may_run: bool) -> str:
    """Return what a server wrote in place of SFTP packets, after `start`.

    Args:
        channel: Of the session.
        start: What was read of it.
        may_run: Whether a command may be run to find out.
    """
    text = _output(channel, start)
    if may_run and not text.strip():
        # OpenSSH sends no error output of a subsystem, as that a password has expired.
        channel.close()
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            text = _output_of_exit(channel.get_transport())
    return text.decode("utf-8", "replace")


def _output_of_exit(transport: paramiko.Transport) -> bytes:
    """Return what the server writes when a command is run that does nothing."""
    opener = partial(transport.open_session, timeout=TEXT_TIMEOUT_S)
    with contextlib.closing(open_session(opener, retry=True)) as channel:
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
