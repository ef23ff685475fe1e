"""Key scan: ask a host for its keys without logging in."""

from __future__ import annotations

import contextlib
import socket
from typing import Any

import paramiko

from tasks.fetch.errors import NetworkError
from tasks.fetch.ssh.connection import close_hops, prepare
from tasks.fetch.ssh.connection_settings import ConnectionSettings
from tasks.fetch.ssh.errors import translated
from tasks.fetch.ssh.paramiko_private import Item, set_timeout
from tasks.fetch.ssh.transport import HOST_KEY_TYPES, AlgorithmError, Transport, supported


def scan(settings: ConnectionSettings) -> list[tuple[str, paramiko.PKey]]:
    """Ask a host for its keys, one of each type, without logging in; jump hosts are verified.

    Returns:
        The name for known_hosts, and the key, of each.

    Raises:
        NetworkError: The host does not answer, or shows no key of a type that is in use.
    """
    found: list[tuple[str, paramiko.PKey]] = []
    for kinds in (HOST_KEY_TYPES[:1], HOST_KEY_TYPES[1:4], HOST_KEY_TYPES[4:]):
        connection = prepare(settings)
        host, port = connection.host, connection.port
        name = host if port == 22 else f"[{host}]:{port}"
        try:
            with translated(f"{host} port {port}"):
                sock = (
                    connection.open_gateway()
                    if connection.gateway
                    else socket.create_connection((host, port), settings.timeout)
                )
                key = _shown_key(sock, kinds, settings.timeout)
        finally:
            close_hops(connection)
        if key is not None:
            found.append((name, key))
    if not found:
        raise NetworkError(
            f"{settings.remote_host_address}: shows no host key of a type in use",
            advice="have an Ed25519, ECDSA or RSA host key set up on the host",
        )
    return found


def _shown_key(sock: Any, kinds: tuple[str, ...], timeout: float) -> paramiko.PKey | None:
    """Return the key that a host shows when only `kinds` are offered; None when it has none."""
    with contextlib.closing(Transport(sock)) as transport:
        set_timeout(transport, Item.BANNER_TIMEOUT, timeout)
        security = transport.get_security_options()
        security.key_types = supported(kinds, security.key_types)
        try:
            transport.start_client(timeout=timeout)
        except AlgorithmError as error:
            if list(error.kinds) != ["host key type"]:
                raise
            return None
        except paramiko.ssh_exception.IncompatiblePeer:  # of which kind, paramiko does not say
            return None
        return transport.get_remote_server_key()
