"""Transport: the algorithms that may be negotiated, and a socket without needless delays."""

from __future__ import annotations

import socket
from collections.abc import Collection
from typing import Any

import paramiko

from tasks.fetch.ssh.packets import BufferedSocket
from tasks.fetch.ssh.paramiko_private import HookedTransport

# OpenSSH 9.2's own defaults, less what paramiko lacks; AES-GCM first, which is its fastest by far.
CIPHERS = (
    "aes128-gcm@openssh.com", "aes256-gcm@openssh.com",
    "aes128-ctr", "aes192-ctr", "aes256-ctr",
)  # fmt: skip
MACS = (
    "hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com",
    "hmac-sha2-256", "hmac-sha2-512",
)  # fmt: skip
HOST_KEY_TYPES = (
    "ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521",
    "rsa-sha2-512", "rsa-sha2-256",
)  # fmt: skip

_NO_ALGORITHMS = ("ext-info-", "kex-strict-")
"""Flags that stand in the list of key exchanges (RFC 8308, and OpenSSH's PROTOCOL)."""


class AlgorithmError(paramiko.SSHException):
    """The host and this client share no algorithm of some kinds: `kinds`, with those of both."""

    def __init__(self, kinds: dict[str, str]) -> None:
        super().__init__(". ".join(f"No {kind} in common: {text}" for kind, text in kinds.items()))
        self.kinds = kinds


class Transport(HookedTransport):
    """Paramiko's transport, without Nagle's delay, and with nothing weaker than OpenSSH's own.

    Args:
        sock: Connected to the host.
        known_key_types: Types of the host's known keys: asked for before the other types, since
            a host shows only one of its keys.
        options: Paramiko's own.
    """

    def __init__(self, sock: Any, known_key_types: Collection[str] = (), **options: Any) -> None:
        if isinstance(sock, socket.socket):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock = BufferedSocket(sock)
        super().__init__(sock, **options)
        security = self.get_security_options()
        security.ciphers = supported(CIPHERS, security.ciphers)
        security.digests = supported(MACS, security.digests)
        types = supported(HOST_KEY_TYPES, security.key_types)
        security.key_types = sorted(types, key=lambda name: _key_type(name) not in known_key_types)
        security.kex = [name for name in security.kex if not name.endswith("-sha1")]

    def incompatible(self, kex_init: bytes) -> AlgorithmError | None:
        """Return an error with the lists of both sides, for each kind that they share none of."""
        message = paramiko.Message(kex_init)
        message.get_bytes(16)  # the cookie; the lists that follow are those of RFC 4253, 7.1
        security = self.get_security_options()
        kinds = (
            ("key exchange", security.kex),
            ("host key type", security.key_types),
            ("cipher", security.ciphers), ("cipher", security.ciphers),
            ("MAC", security.digests), ("MAC", security.digests),
        )  # fmt: skip
        found = {}
        for kind, ours in kinds:
            theirs = [name for name in message.get_list() if not name.startswith(_NO_ALGORITHMS)]
            if not set(theirs) & set(ours):
                found[kind] = f"the host has {', '.join(theirs)}; this client has {', '.join(ours)}"
        return AlgorithmError(found) if found else None


def _key_type(algorithm: str) -> str:
    """Return the type of key that a host key algorithm signs with."""
    return "ssh-rsa" if algorithm.startswith("rsa-") else algorithm


def supported(wanted: tuple[str, ...], available: Any) -> list[str]:
    """Return those of `wanted` that are available, in their order."""
    return [name for name in wanted if name in available]
