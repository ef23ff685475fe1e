"""Map what Paramiko, Fabric and sockets raise to the errors of this project."""

from __future__ import annotations

import contextlib
import errno
import logging
import re
import socket
from typing import TYPE_CHECKING, cast

import paramiko
from paramiko.ssh_exception import NoValidConnectionsError

from tasks.engine.errors import (
    AuthError,
    LighterageError,
    NetworkError,
    RemotePathError,
    printable,
)
from tasks.engine.ssh import sftp

if TYPE_CHECKING:
    from collections.abc import Iterator


log = logging.getLogger(__name__)

_EXPIRED = re.compile(
    r"password.{0,20}expired|password change required|change your password", re.IGNORECASE
)
"""What OpenSSH and PAM write in place of a session where a password has expired."""


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
    except Exception as error:  # a host that sends nonsense makes paramiko raise anything
        log.debug("%s: %r", where, error, exc_info=True)
        raise _translated(where, error) from error


def _translated(where: str, error: Exception) -> LighterageError:
    reason = printable(str(error)) or type(error).__name__
    if isinstance(error, paramiko.SSHException):
        return _of_ssh(where, error, reason)
    if isinstance(error, NoValidConnectionsError):
        first = cast("OSError", next(iter(error.errors.values())))
        return NetworkError(f"{where}: {first.strerror or first}", transient=True)
    if isinstance(error, socket.gaierror):
        again = error.errno == socket.EAI_AGAIN
        return NetworkError(f"{where}: the name is not known: {error.strerror}", transient=again)
    if isinstance(error, TimeoutError):
        return NetworkError(f"{where}: timed out: no byte came in time", transient=True)
    if isinstance(error, EOFError):
        return NetworkError(f"{where}: the host closed the connection", transient=True)
    if not isinstance(error, OSError):
        return NetworkError(f"{where}: the host's answer makes no sense: {reason}", transient=True)
    if isinstance(error, FileNotFoundError) or error.errno == errno.ENOENT:
        return RemotePathError(f"{where}: no such file or directory on the host")
    if error.errno in {errno.EACCES, errno.EPERM}:
        return RemotePathError(f"{where}: this account has no permission to read it")
    if isinstance(error, ConnectionError) or error.errno is not None:
        return NetworkError(f"{where}: {error.strerror or reason}", transient=True)
    if reason == "Socket is closed":
        return NetworkError(f"{where}: the connection was lost", transient=True)
    return RemotePathError(f"{where}: the host cannot read it: {reason}")


def _of_ssh(where: str, error: paramiko.SSHException, reason: str) -> LighterageError:
    if isinstance(error, paramiko.BadHostKeyException):
        return AuthError(
            f"{where}: the host key CHANGED: known {error.expected_key.fingerprint}, shown "
            f"{error.key.fingerprint}; somebody may be in between. If the host was set up anew, "
            f"remove its lines from envs/known_hosts, then `make trust`"
        )
    if isinstance(error, sftp.NoSftpError):
        return _of_session(where, error)
    if isinstance(error, sftp.SessionRefusedError):
        return NetworkError(
            f"{where}: the server refuses a session for SFTP: {reason}; it must allow one on each "
            "connection (MaxSessions in sshd_config)"
        )
    if isinstance(error, paramiko.AuthenticationException):
        if "timeout" in reason.lower():
            return NetworkError(f"{where}: timed out while logging in", transient=True)
        if "transport shut down" in reason:  # a cut, or a host that has seen too many wrong keys
            return NetworkError(f"{where}: closed while logging in", transient=True)
        return AuthError(f"{where}: login denied: {reason}")
    if reason == "No existing session":  # paramiko goes on without one when its time is up
        return NetworkError(f"{where}: timed out while agreeing on keys", transient=True)
    if "No authentication methods" in reason:
        return AuthError(
            f"{where}: nothing to log in with: set PASSWORD, PASSWORD_FILE or SSH_KEY_FILE"
        )
    if isinstance(error, paramiko.PasswordRequiredException) or "passphrase" in reason:
        return AuthError(f"{where}: a key has a passphrase: set SSH_KEY_PASSPHRASE_FILE")
    if isinstance(error, paramiko.ChannelException):
        refused = error.code == 2  # the gateway could not connect onwards (RFC 4254, 5.1)
        return NetworkError(f"{where}: refused by the host: {reason}", transient=refused)
    if isinstance(error, paramiko.ssh_exception.IncompatiblePeer):
        return NetworkError(f"{where}: no cipher or key type in common: {reason}")
    return NetworkError(f"{where}: {reason}", transient=True)


def _of_session(where: str, error: sftp.NoSftpError) -> LighterageError:
    """Say why a session is not one of SFTP, with the first line that the server wrote."""
    line = error.first_line
    if not line:
        return NetworkError(
            f"{where}: the server does not offer the SFTP subsystem to this account, and it is "
            "required: have it enabled (Subsystem sftp in sshd_config)"
        )
    if _EXPIRED.search(error.text):
        return AuthError(
            f"{where}: the account must change its password first; the server wrote: {line!r}"
        )
    return NetworkError(
        f"{where}: the server wrote {line!r} instead of SFTP packets: a forced command without "
        "SFTP, or a start-up file of the account's shell that writes text; have that changed"
    )
