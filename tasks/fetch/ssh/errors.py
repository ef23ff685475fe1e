"""Map what Paramiko, Fabric and sockets raise to the errors of this project."""

from __future__ import annotations

import contextlib
import errno
import logging
import re
import socket
import traceback
from collections.abc import Iterator
from typing import cast

import paramiko
from paramiko.ssh_exception import NoValidConnectionsError

from tasks.fetch.errors import (
    AuthError,
    LighterageError,
    MissingError,
    NetworkError,
    RemotePathError,
    printable,
)
from tasks.fetch.ssh.login import SHOWN_CHARACTERS, NoCredentialsError
from tasks.fetch.ssh.paramiko_private import Text, says
from tasks.fetch.ssh.remote_files import Fault
from tasks.fetch.ssh.transport import AlgorithmError

log = logging.getLogger(__name__)

_EXPIRED = re.compile(
    r"password.{0,20}expired|password change required|change your password", re.IGNORECASE
)
"""What OpenSSH and PAM write in place of a session where a password has expired."""
_BUSY = re.compile(r"Exceeded MaxStartups|Not allowed at this time")
"""What OpenSSH writes in place of its greeting where it refuses logins for a while."""
_SLOW = "check that the host answers; set timeout higher if it is that slow"
CLOSED_IN_LOGIN = "closed while logging in"
BUSY_DELAY_FACTOR = 5.0
"""How many times longer than usual to wait then: 10 s at first, with the default delay."""

_EXPECTED = (OSError, EOFError, paramiko.SSHException, paramiko.SFTPError)


class SessionRefusedError(paramiko.SSHException):
    """The server opens no further session, as at its limit (`MaxSessions`)."""


class NoSftpError(paramiko.SSHException):
    """The server did not start SFTP; `text` is what it wrote instead."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


def first_line(text: str) -> str:
    """Return the first line of a server's text that is not empty, shortened."""
    lines = (line.strip() for line in text.splitlines())
    return next((line[:SHOWN_CHARACTERS] for line in lines if line), "")


@contextlib.contextmanager
def translated(where: str) -> Iterator[None]:
    """Turn what paramiko, Fabric and the socket raise into the project's errors.

    Args:
        where: The path or address, for the error's text.
    """
    try:
        yield
    except LighterageError:
        raise
    except Exception as error:
        if not isinstance(error, _EXPECTED) and not _raised_by_paramiko(error):
            raise  # a bug, not a fault of the network: it is not retried
        log.debug("%s: %r", where, error, exc_info=True)
        raise _translated(where, error) from error


def folder_fault(path: str, error: Exception) -> Fault:
    """Return why a listing leaves out a folder; raise errors that are not the folder's own."""
    try:
        with translated(path):
            raise error
    except RemotePathError as reason:
        return Fault(path, True, reason)


def connection_lost(name: str) -> NetworkError:
    """Return the error of a connection that ended unexpectedly."""
    return NetworkError(f"{name}: the connection was lost", transient=True)


def _raised_by_paramiko(error: Exception) -> bool:
    """Return whether an exception is the host's fault rather than a bug of ours.

    What a host sends can make paramiko's and cryptography's parsers raise any exception, as
    struct.error or IndexError. Our own code raises its protocol errors explicitly, so of the
    frames that an exception passed through, the innermost one of either side decides.
    """
    owner = ""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        package = frame.f_globals.get("__name__", "").partition(".")[0]
        owner = package if package in {"tasks", "paramiko", "cryptography"} else owner
    return owner in {"paramiko", "cryptography"}


def _translated(where: str, error: Exception) -> LighterageError:
    reason = printable(str(error)) or type(error).__name__
    if isinstance(error, paramiko.SSHException):
        return _of_ssh(where, error, reason)
    if isinstance(error, NoValidConnectionsError):
        first = cast("OSError", next(iter(error.errors.values())))
        return NetworkError(f"{where}: {first.strerror or first}", transient=True)
    if isinstance(error, socket.gaierror):
        temporary = error.errno == socket.EAI_AGAIN
        return NetworkError(
            f"{where}: the host name cannot be resolved: {error.strerror}",
            advice="check remote_host_address, and the DNS of this machine",
            transient=temporary,
        )
    if isinstance(error, TimeoutError):
        return NetworkError(
            f"{where}: timed out: no byte arrived in time", advice=_SLOW, transient=True
        )
    if isinstance(error, EOFError):
        return NetworkError(f"{where}: the host closed the connection", transient=True)
    if not isinstance(error, OSError):
        return NetworkError(
            f"{where}: unexpected response from the server: {reason}", transient=True
        )
    if isinstance(error, FileNotFoundError) or error.errno == errno.ENOENT:
        return MissingError(f"{where}: no such file or directory on the host", path=where)
    if error.errno in {errno.EACCES, errno.EPERM} and error.filename:  # not of a socket
        return RemotePathError(
            f"{where}: this account has no permission to read it",
            advice="have it made readable for this account, with the directories above it",
        )
    if error.errno is None:  # paramiko's, of a closed channel
        return connection_lost(where)
    return NetworkError(f"{where}: {error.strerror or reason}", transient=True)


def _of_ssh(where: str, error: paramiko.SSHException, reason: str) -> LighterageError:
    if isinstance(error, NoSftpError):
        return _of_session(where, error)
    if isinstance(error, SessionRefusedError):
        return NetworkError(
            f"{where}: the server refuses a session for SFTP: {reason}",
            advice="have one allowed on each connection (MaxSessions in sshd_config)",
        )
    if isinstance(error, NoCredentialsError):
        return AuthError(
            f"{where}: no credentials to log in with",
            advice="set PASSWORD, PASSWORD_FILE or SSH_KEY_FILE",
        )
    if isinstance(error, paramiko.AuthenticationException):
        if says(error, Text.LOGIN_TIMED_OUT):
            return NetworkError(
                f"{where}: timed out while logging in", advice=_SLOW, transient=True
            )
        if says(error, Text.CLOSED_IN_LOGIN):  # a cut, or too many wrong keys for the host
            return NetworkError(f"{where}: {CLOSED_IN_LOGIN}", transient=True)
        return AuthError(
            f"{where}: login denied: {reason}",
            advice="check USERNAME, and set PASSWORD_FILE or SSH_KEY_FILE for a method that the "
            "server offers",
        )
    if says(error, Text.NO_SESSION):
        return NetworkError(
            f"{where}: timed out while agreeing on keys", advice=_SLOW, transient=True
        )
    if says(error, Text.NO_GREETING):
        return _of_greeting(where, str(error).partition(Text.NO_GREETING)[2])
    if isinstance(error, paramiko.ChannelException):
        refused = error.code == 2  # the jump host could not connect onwards (RFC 4254, 5.1)
        return NetworkError(
            f"{where}: refused by the host: {reason}",
            advice="check that the jump host may connect to this address (AllowTcpForwarding in "
            "its sshd_config)",
            transient=refused,
        )
    if isinstance(error, AlgorithmError | paramiko.ssh_exception.IncompatiblePeer):
        return NetworkError(
            f"{where}: {reason}",
            advice="have the server offer an algorithm that this side has (sshd_config)",
        )
    return NetworkError(f"{where}: {reason}", transient=True)


def _of_greeting(where: str, text: str) -> NetworkError:
    """Return why a server closed a connection before it said who it is; `text` is what it wrote."""
    line = printable(text.removeprefix(": "))
    if not _BUSY.search(line):
        written = f"; it wrote {line!r}" if line else ""
        return NetworkError(
            f"{where}: no greeting of an SSH server{written}",
            advice="check that an SSH server listens on this host and port",
            transient=True,
        )
    error = NetworkError(
        f"{where}: the host accepts no logins at present; it wrote {line!r} (MaxStartups, "
        "PerSourcePenalties in sshd_config)",
        advice="run it again later, or set max_connections so that fewer runs log in at once",
        transient=True,
    )
    error.delay_factor = BUSY_DELAY_FACTOR
    return error


def _of_session(where: str, error: NoSftpError) -> LighterageError:
    """Return why a session is not one of SFTP, with the first line that the server wrote."""
    line = first_line(error.text)
    if not line:
        return NetworkError(
            f"{where}: the server does not offer the SFTP subsystem to this account, and it is "
            "required",
            advice="have it enabled (Subsystem sftp in sshd_config)",
        )
    if _EXPIRED.search(error.text):
        return AuthError(
            f"{where}: the account must change its password first; the server wrote: {line!r}",
            advice="log in with ssh and change it, then put the new one into PASSWORD_FILE",
        )
    return NetworkError(
        f"{where}: the server wrote {line!r} instead of SFTP packets: a forced command without "
        "SFTP, or a start-up file of the account's shell that writes text",
        advice="have that changed",
    )
