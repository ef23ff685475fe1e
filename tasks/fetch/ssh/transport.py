"""What makes paramiko fast, and what it may negotiate: each thing once, at its narrowest place."""

from __future__ import annotations

import socket
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

import paramiko
from paramiko.buffered_pipe import BufferedPipe, PipeTimeout

if TYPE_CHECKING:
    import threading
    from collections.abc import Collection

REKEY_BYTES = 2**35
"""Bytes until we ask for new keys: half of what OpenSSH takes AES for (2**32 blocks of 16 bytes).

Paramiko asks at 512 MiB, and a busy channel can then hang (paramiko #822). What the server asks
for is served as ever.
"""
SOCKET_BUFFER = 2**18
"""Bytes taken from the socket at once: paramiko asks for each packet twice."""

# A host that waits with a small packet for our acknowledgement costs 40 ms at each step of a login
# where we hold that back; Linux has a way not to.
_QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)

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
    """The host and this client share no algorithm of some kind.

    Attributes:
        kinds: For each such kind, the algorithms of both.
    """

    def __init__(self, kinds: dict[str, str]) -> None:
        super().__init__(". ".join(f"No {kind} in common: {text}" for kind, text in kinds.items()))
        self.kinds = kinds


class Transport(paramiko.Transport):
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
            sock = _BufferedSocket(sock)
        super().__init__(sock, **options)
        self.packetizer.REKEY_BYTES = REKEY_BYTES
        security = self.get_security_options()
        security.ciphers = known(CIPHERS, security.ciphers)
        security.digests = known(MACS, security.digests)
        types = known(HOST_KEY_TYPES, security.key_types)
        security.key_types = sorted(types, key=lambda name: _key_type(name) not in known_key_types)
        security.kex = [name for name in security.kex if not name.endswith("-sha1")]

    def _verify_key(self, host_key: bytes, sig: bytes) -> None:
        """Check the host's signature; in a later key exchange also that the key is the same.

        Paramiko's client compares the key with known_hosts once, after the first exchange.
        """
        before = self.host_key
        super()._verify_key(host_key, sig)  # type: ignore[misc]
        if before is not None and self.host_key != before:
            raise paramiko.SSHException("the host showed another key in a later key exchange")

    def _parse_kex_init(self, message: paramiko.Message) -> None:
        """Agree on algorithms, or name those of both sides where they have none in common."""
        content = message.asbytes()
        try:
            super()._parse_kex_init(message)  # type: ignore[misc]
        except paramiko.ssh_exception.IncompatiblePeer as error:
            kinds = self._without_agreement(content)
            raise (AlgorithmError(kinds) if kinds else error) from error

    def _without_agreement(self, kex_init: bytes) -> dict[str, str]:
        """Return each kind of algorithm that the host and this client share none of."""
        message = paramiko.Message(kex_init)
        message.get_bytes(16)  # the cookie; the lists that follow are those of RFC 4253, 7.1
        security = self.get_security_options()
        kinds = (
            ("key exchange", security.kex),
            ("host key type", list(self.preferred_keys)),
            ("cipher", security.ciphers), ("cipher", security.ciphers),
            ("MAC", security.digests), ("MAC", security.digests),
        )  # fmt: skip
        found = {}
        for kind, ours in kinds:
            theirs = [name for name in message.get_list() if not name.startswith(_NO_ALGORITHMS)]
            if not set(theirs) & set(ours):
                found[kind] = f"the host has {', '.join(theirs)}; this client has {', '.join(ours)}"
        return found


def _key_type(algorithm: str) -> str:
    """Return the type of key that a host key algorithm signs with."""
    return "ssh-rsa" if algorithm.startswith("rsa-") else algorithm


def known(wanted: tuple[str, ...], supported: Any) -> list[str]:
    """Return those of `wanted` that are supported, in their order."""
    return [name for name in wanted if name in supported]


class _BufferedSocket:
    """A socket that is read in large pieces, whatever size is asked for."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = bytearray(SOCKET_BUFFER)
        self._view = memoryview(self._buffer)
        self._start = self._end = 0

    def recv(self, size: int) -> bytes:
        """Return up to `size` bytes; from the socket only when none are left here."""
        if self._start == self._end:
            if _QUICKACK is not None:  # the system takes it back by itself, so each time
                self._sock.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)
            self._end = self._sock.recv_into(self._buffer)
            self._start = 0
        end = min(self._start + size, self._end)
        block = bytes(self._view[self._start : end])
        self._start = end
        return block

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


def ask_for_subsystem(channel: paramiko.Channel, name: str) -> None:
    """Ask for a subsystem, and do not wait: paramiko's own way costs a round trip more.

    A host that has none closes the channel, or paramiko does at its refusal (RFC 4254, 6.5).
    """
    message = paramiko.Message()
    message.add_byte(paramiko.common.cMSG_CHANNEL_REQUEST)
    message.add_int(channel.remote_chanid)
    message.add_string("subsystem")
    message.add_boolean(True)
    message.add_string(name)
    transport: Any = channel.transport
    transport._send_user_message(message)


def hand_over(channel: paramiko.Channel) -> None:
    """Let a channel hand its packets over as they are, where paramiko still keeps them as known.

    The channel must not have been asked for anything that may still come.
    """
    if type(channel.in_buffer) is BufferedPipe and not len(channel.in_buffer):
        channel.in_buffer = _Pipe()  # type: ignore[assignment]


class _Pipe:
    """Stands in for paramiko's BufferedPipe: packets change hands, and no byte is moved.

    Its queue is bounded by the channel's window, which the reader opens as it reads.
    """

    def __init__(self) -> None:
        self._queue: SimpleQueue[bytes] = SimpleQueue()
        self._rest = b""
        self._closed = False

    def feed(self, data: bytes) -> None:
        """Take a packet, in paramiko's thread."""
        if data:
            self._queue.put(data)

    def close(self) -> None:
        """Note the end, in paramiko's thread."""
        self._closed = True
        self._queue.put(b"")

    def read(self, nbytes: int, timeout: float | None = None) -> bytes:
        """Return at most `nbytes` of what came; b"" at the end.

        Raises:
            PipeTimeout: Nothing came in time.
        """
        block = self._rest
        if not block:
            try:
                block = self._queue.get(timeout=timeout)
            except Empty:
                raise PipeTimeout from None
            if not block:
                self._queue.put(b"")  # the end stays the end
        self._rest = block[nbytes:]
        return block[:nbytes]

    def read_ready(self) -> bool:
        """Whether a read would not wait."""
        return bool(self._rest) or not self._queue.empty()

    def __len__(self) -> int:
        return len(self._rest)

    def empty(self) -> bytes:
        """Drop nothing: only paramiko's merging of error output empties a pipe."""
        return b""

    def set_event(self, event: threading.Event) -> None:
        """Wake nobody: only `select` on the channel would wait for that."""
        if self._closed:
            event.set()
