"""Commands: run one on the host, where the account may, with limits of output and time."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import paramiko

from tasks.fetch.ssh.errors import SessionRefusedError, connection_lost, first_line
from tasks.fetch.ssh.link import Link

log = logging.getLogger(__name__)

POLL_S = 0.5
"""How often to look whether the time is over, and how long to wait for the exit status."""
CHUNK = 2**16


@dataclass(frozen=True)
class CommandResult:
    """What a command wrote to its standard output, and why that may not be all.

    Attributes:
        ended: Whether its exit status arrived, and was 0.
    """

    output: bytes | bytearray
    failure: str = ""
    ended: bool = False


def run(
    link: Link, command: str, stdin: bytes, max_bytes: int, remaining_s: Callable[[float], float]
) -> CommandResult:
    """Run a command on the host.

    Args:
        link: To the host.
        command: For the account's shell, whichever it is: plain words, and no text of users.
        stdin: The command's standard input.
        max_bytes: How many bytes the command may write, to each of its outputs.
        remaining_s: Returns how long to wait for more of its output, by the time at which its last
            byte arrived, as `time.monotonic` has it.

    Raises:
        NetworkError: The connection is lost.
        SessionRefusedError: The server opens no second session on the connection.
    """
    transport = link.transport
    if transport is None:  # another thread is connecting again
        raise connection_lost(link.name)
    try:
        with contextlib.closing(link.command_channel(transport)) as channel:
            channel.settimeout(link.settings.timeout)
            channel.exec_command(command.encode())
            with contextlib.suppress(OSError):  # it need not read: a shell without the program
                channel.sendall(stdin)
                channel.shutdown_write()
            result = _result(channel, max_bytes, remaining_s)
    except SessionRefusedError:
        raise
    except (OSError, EOFError, paramiko.SSHException) as error:
        log.debug("no command: %r", error)
        result = CommandResult(b"", "the server runs no commands for this account")
    # The connection of the command: the link may have another one by now.
    if result.failure and not transport.is_active():
        raise connection_lost(link.name)
    return result


def _result(
    channel: paramiko.Channel, max_bytes: int, remaining_s: Callable[[float], float]
) -> CommandResult:
    """Read what a command writes, up to a number of bytes and for some time."""
    output, errors, failure = bytearray(), bytearray(), ""

    def take_errors() -> None:
        while channel.recv_stderr_ready() and len(errors) <= max_bytes:
            errors.extend(channel.recv_stderr(CHUNK))

    channel.settimeout(POLL_S)
    last = time.monotonic()
    while not failure:
        try:
            block = channel.recv(CHUNK)
            if not block:
                break
            output += block
            last = time.monotonic()
        except TimeoutError:
            pass
        take_errors()
        if max(len(output), len(errors)) > max_bytes:
            return CommandResult(b"", f"it wrote more than {max_bytes} bytes")
        if remaining_s(last) <= 0:
            failure = "it took too long"
    if not failure:
        status = _exit_status(channel)
        take_errors()
        if status == 0:
            return CommandResult(output, ended=True)
        if status is not None:
            text = first_line(errors.decode("utf-8", "replace"))
            failure = text or f"it ended with exit status {status}"
    return CommandResult(output, failure)


def _exit_status(channel: paramiko.Channel) -> int | None:
    """Return a command's exit status, which follows its output; None where it does not in time."""
    end = time.monotonic() + POLL_S
    while not channel.exit_status_ready():
        if time.monotonic() > end:
            return None
        time.sleep(0.005)
    return channel.recv_exit_status()
