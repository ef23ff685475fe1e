"""Connection: a Fabric connection, each hop of which is verified and logged in to."""

from __future__ import annotations

import contextlib
import logging
import shlex
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import fabric
import paramiko

from tasks.fetch import dial
from tasks.fetch.dial import split_address
from tasks.fetch.errors import ConfigError, NetworkError
from tasks.fetch.secret_file import read_secret
from tasks.fetch.ssh.connection_limit import connection_slot
from tasks.fetch.ssh.connection_settings import ConnectionSettings
from tasks.fetch.ssh.credentials import login_arguments, private_key
from tasks.fetch.ssh.errors import CLOSED_IN_LOGIN, translated
from tasks.fetch.ssh.host_keys import verify_hop
from tasks.fetch.ssh.paramiko_private import HookedTransport
from tasks.fetch.ssh.sftp_channel import open_channel

log = logging.getLogger(__name__)


@contextlib.contextmanager
def connect(settings: ConnectionSettings) -> Iterator[fabric.Connection]:
    """Open a connection to the host of `settings`; each hop verified, closed at the end.

    Raises:
        ConfigError: A key or secret file is missing or cannot be read.
        LocalError: The places of `max_connections` cannot be used.
        AuthError: Login denied, host key unknown or changed.
        NetworkError: Not reachable.
    """
    with connection_slot(settings):
        connection = open_connection(settings)
        try:
            yield connection
        finally:
            close_hops(connection)


def open_connection(
    settings: ConnectionSettings, *, compress: bool = False, prompt: bool = True
) -> fabric.Connection:
    """Return a new connection to the host of `settings`, open; see `connect`.

    Args:
        settings: Name the host and the account.
        compress: Whether to use SSH compression.
        prompt: Whether a person at the terminal may be asked for a second factor.
    """
    connection = prepare(settings, prompt=prompt)
    if not connection.user:
        raise ConfigError(
            "USERNAME is missing",
            advice=f"set it in envs/{settings.variant}.env, or pass --username",
        )
    connection.connect_kwargs["compress"] = compress
    # Compression would start between the login and what is sent with it.
    in_steps = compress or HookedTransport.unproven
    if not in_steps:
        connection.connect_kwargs["auth_strategy"].open_session = partial(
            open_channel, timeout=settings.timeout
        )
    address = f"{connection.host} port {connection.port}"
    log.info("connecting to %s as %s", address, connection.user)
    try:
        with translated(f"{connection.user}@{address}"), _local_commands():
            sock = None if connection.gateway else dial.take(connection.host, connection.port)
            if sock:
                connection.connect_kwargs["sock"] = sock
            connection.open()
            connection.connect_kwargs.pop("sock", None)
            if isinstance(connection.transport, HookedTransport):
                connection.transport.wait_for_session()
    except BaseException as error:
        close_hops(connection)
        # A password that may be wrong is not sent again at once: a host counts what failed.
        has_password = connection.connect_kwargs["auth_strategy"].password is not None
        again = HookedTransport.unproven and not in_steps and isinstance(error, NetworkError)
        if again and not (has_password and CLOSED_IN_LOGIN in str(error)):
            log.debug("%s: logging in again, in steps", error)
            return open_connection(settings, compress=compress, prompt=prompt)
        raise
    return connection


@contextlib.contextmanager
def _local_commands() -> Iterator[None]:
    """Report a ProxyCommand that cannot be started as a fault of ssh_config."""
    try:
        yield
    except OSError as error:
        if not error.filename:  # of a socket
            raise
        raise ConfigError(
            f"ProxyCommand of ssh_config: {error.filename}: {error.strerror}",
            advice="install the program, or correct the line",
        ) from error


def prepare(settings: ConnectionSettings, *, prompt: bool = True) -> fabric.Connection:
    """Return a connection, not open yet, with every hop's policy and credentials set."""
    host, port = split_address(settings.remote_host_address)
    # Lazy, with an ssh_config of our own: files of this machine's home are not read.
    config = fabric.Config(
        lazy=True, ssh_config=_ssh_config(settings.ssh_config_file),
        overrides={"user": settings.username},
    )  # fmt: skip
    connection = fabric.Connection(host, user=settings.username or None, port=port, config=config)
    key = private_key(settings)
    password = read_secret(settings.password_file, "password_file") or settings.password or None
    jump_password = read_secret(settings.gateway_password_file, "gateway_password_file")
    hop: Any = connection
    while isinstance(hop, fabric.Connection):
        is_target = hop is connection
        hop.connect_kwargs = login_arguments(
            settings,
            hop,
            key,
            password if is_target else jump_password,
            explicit=is_target,
            prompt=prompt,
        )
        verify_hop(hop, settings)
        hop = hop.gateway
    if isinstance(hop, str):
        _check_command(hop)
    return connection


def _check_command(line: str) -> None:
    """Raise `ConfigError` where a ProxyCommand cannot be split into words."""
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise ConfigError(
            f"ProxyCommand of ssh_config: {line!r}: {error}", advice="correct the line"
        ) from error
    if not words:
        raise ConfigError(
            "ProxyCommand of ssh_config: is empty", advice="write a command, or remove the line"
        )


def _ssh_config(file: Path) -> paramiko.SSHConfig:
    config = paramiko.SSHConfig()
    if file.is_file():
        try:
            with file.open(encoding="utf-8") as text:
                config.parse(text)
        except (OSError, UnicodeDecodeError, paramiko.ConfigParseError) as error:
            raise ConfigError(
                f"{file}: cannot be read as an ssh_config: {error}",
                advice="correct it, or set ssh_config_file to another",
            ) from error
    return config


def close_hops(connection: Any) -> None:
    """Close every hop, the target first; errors of a lost connection are ignored."""
    while isinstance(connection, fabric.Connection):
        with contextlib.suppress(Exception):
            connection.close()
        # After a failed login Fabric holds no transport yet, but the client does.
        with contextlib.suppress(Exception):
            connection.client.close()
        connection = connection.gateway
