"""What this project uses of paramiko beyond its documented interface, and what replaces it.

Each use is an `Item`, an attribute, or a `Text`, a message. Where a version of paramiko lacks it,
a slower way through the documented interface does the same. No other module touches such a name.
"""

from __future__ import annotations

import contextlib
import threading
from enum import StrEnum
from operator import attrgetter
from typing import Any, Final

import paramiko
from paramiko.buffered_pipe import BufferedPipe
from paramiko.packet import Packetizer

from tasks.fetch.ssh.packets import BufferedSocket, DirectPacketizer, PacketQueue

REKEY_BYTES: Final = 2**35
"""Bytes until we ask for new keys: half of what OpenSSH takes AES for (2**32 blocks of 16 bytes).

Paramiko asks at 512 MiB, and a busy channel can then hang (paramiko #822). What the server asks
for is served all the same.
"""
CHANNEL_REQUEST: Final = b"\x62"
"""SSH_MSG_CHANNEL_REQUEST (RFC 4254, 9)."""


class Item(StrEnum):
    """Undocumented attributes: the path of each from a transport or a channel."""

    PACKET_QUEUE = "in_buffer"
    TRIGGER_REKEY = "packetizer._trigger_rekey"
    CHECK_KEEPALIVE = "packetizer._check_keepalive"
    CHANNEL_NUMBER = "remote_chanid"
    SEND_MESSAGE = "_send_user_message"
    REKEY_BYTES = "packetizer.REKEY_BYTES"
    KEX_INIT = "_parse_kex_init"
    VERIFY_KEY = "_verify_key"
    CIPHER = "remote_cipher"
    LOGIN_TIMEOUT = "auth_timeout"
    BANNER_TIMEOUT = "banner_timeout"


class Text(StrEnum):
    """Parts of messages by which faults of one class are distinguished."""

    LOGIN_TIMED_OUT = "Authentication timeout"
    CLOSED_IN_LOGIN = "Authentication failed: transport"
    NO_SESSION = "No existing session"
    """Paramiko proceeds without a session when the time to agree on keys is over."""
    NO_GREETING = "Error reading SSH protocol banner"
    PASSWORD_CHANGE = "info request"  # noqa: S105 (a message)
    """SSH_MSG_USERAUTH_PASSWD_CHANGEREQ (RFC 4252, 8), which paramiko takes for another."""


disabled: set[Item | Text] = set()
"""What to do without, as if paramiko lacked it: for tests."""


def _get(owner: object, item: Item) -> Any:
    """Return an undocumented attribute of a transport or channel; None where there is none."""
    try:
        return None if item in disabled else attrgetter(item)(owner)
    except AttributeError:
        return None


def says(error: BaseException, text: Text) -> bool:
    """Return whether an error has a text in its message."""
    return text in str(error) and text not in disabled


def cipher(transport: paramiko.Transport) -> str:
    """Return the name of the cipher in use; empty where paramiko does not say."""
    return str(_get(transport, Item.CIPHER) or "")


def set_timeout(transport: paramiko.Transport, item: Item, seconds: float) -> None:
    """Set how long a phase of the login may take; without it, paramiko's own limit holds."""
    if _get(transport, item) is not None:
        setattr(transport, item, seconds)


class HookedTransport(paramiko.Transport):
    """A transport with larger rekey limits, and two checks during key exchanges."""

    def __init__(self, sock: Any, **options: Any) -> None:
        needed = {Item.TRIGGER_REKEY, Item.CHECK_KEEPALIVE}
        names = {item.rpartition(".")[2] for item in needed}
        if (
            isinstance(sock, BufferedSocket)
            and not needed & disabled
            and names <= {*dir(Packetizer)}
        ):
            options["packetizer_class"] = DirectPacketizer
        super().__init__(sock, **options)
        self.first_host_key: paramiko.PKey | None = None
        if _get(self, Item.REKEY_BYTES):
            self.packetizer.REKEY_BYTES = REKEY_BYTES

    def incompatible(self, kex_init: bytes) -> paramiko.SSHException | None:
        """Return a better error for a server's SSH_MSG_KEXINIT than paramiko's, or None."""

    def _parse_kex_init(self, message: paramiko.Message) -> None:
        content = message.asbytes()
        try:
            super()._parse_kex_init(message)  # type: ignore[misc] # not in the stubs
        except paramiko.ssh_exception.IncompatiblePeer as error:
            better = None if Item.KEX_INIT in disabled else self.incompatible(content)
            raise better or error from error

    def _verify_key(self, host_key: bytes, sig: bytes) -> None:
        """Check the host's signature; in a later key exchange also that the key is the same.

        Paramiko's client compares the key with known_hosts once, after the first exchange.
        """
        before = self.host_key
        super()._verify_key(host_key, sig)  # type: ignore[misc] # not in the stubs
        if before is not None and self.host_key != before and Item.VERIFY_KEY not in disabled:
            raise paramiko.SSHException("the host showed another key in a later key exchange")


def require_same_host_key(transport: paramiko.Transport) -> None:
    """Compare the host key with the first one, where no key exchange does: before each request.

    Raises:
        SSHException: It is another key.
    """
    if not isinstance(transport, HookedTransport) or _get(paramiko.Transport, Item.VERIFY_KEY):
        return
    key = transport.get_remote_server_key()
    transport.first_host_key = transport.first_host_key or key
    if key != transport.first_host_key:
        transport.close()
        raise paramiko.SSHException("the host showed another key in a later key exchange")


def request_subsystem(channel: paramiko.Channel, name: str, timeout: float) -> None:
    """Ask for a subsystem without waiting for the answer, which saves a round trip.

    A server that has none closes the channel, or paramiko does at its refusal (RFC 4254, 6.5):
    the channel's reader then finds its end.
    """
    transport = channel.get_transport()
    number, send = _get(channel, Item.CHANNEL_NUMBER), _get(transport, Item.SEND_MESSAGE)
    if number is None or send is None:
        _invoke_subsystem(channel, name, timeout)
        return
    message = paramiko.Message()
    message.add_byte(CHANNEL_REQUEST)
    message.add_int(number)
    message.add_string("subsystem")
    message.add_boolean(True)
    message.add_string(name)
    send(message)


def _invoke_subsystem(channel: paramiko.Channel, name: str, timeout: float) -> None:
    timer = threading.Timer(timeout, channel.close)  # paramiko waits without a limit
    timer.start()
    with contextlib.suppress(paramiko.SSHException):
        channel.invoke_subsystem(name)
    if timer.finished.is_set():
        raise TimeoutError
    timer.cancel()


def use_packet_queue(channel: paramiko.Channel) -> None:
    """Let a channel pass on its packets as they are, without a copy into paramiko's buffer.

    The channel must not have been asked for anything that may still arrive.
    """
    pipe = _get(channel, Item.PACKET_QUEUE)
    if type(pipe) is not BufferedPipe or len(pipe):
        return
    queue = PacketQueue()
    setattr(channel, Item.PACKET_QUEUE, queue)
    packetizer = channel.get_transport().packetizer
    if isinstance(packetizer, DirectPacketizer):
        packetizer.queues[channel.get_id()] = queue
