"""What this project uses of paramiko beyond its documented interface, and what replaces it.

Each use is an `Item`, an attribute, or a `Text`, a message. Where a version of paramiko lacks it,
a slower way through the documented interface does the same. No other module touches such a name.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Callable
from enum import StrEnum
from operator import attrgetter
from queue import SimpleQueue
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
USERAUTH: Final = b"\0\0\0\x0cssh-userauth"
SERVICE_REQUEST: Final = b"\x05" + USERAUTH
"""SSH_MSG_SERVICE_REQUEST, for a login (RFC 4253, 10)."""
OPENSSH: Final = re.compile(r"SSH-2\.0-OpenSSH_\d")
CLOSED_DELAYS_S: Final = (0.05, 0.1, 0.2, 0.4, 0.8)
"""To wait for a server that still counts a session that was closed."""
CHANNEL_OPEN: Final = b"\x5a"
CHANNEL_REQUEST: Final = b"\x62"
"""SSH_MSG_CHANNEL_OPEN and SSH_MSG_CHANNEL_REQUEST (RFC 4254, 9)."""


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
    SERVICE_ACCEPT = "auth_handler._parse_service_accept"
    LOGIN_KEY = "auth_handler.private_key"
    SERVER_EXTENSIONS = "server_extensions"
    SERVER_VERSION = "remote_version"
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
    """A transport with larger rekey limits, two checks in key exchanges, and a login in one step.

    A login is sent with the request for its service, and to OpenSSH also with the opening of the
    SFTP session: three round trips less. A server must pass on what follows a successful login
    (RFC 4252, 5.3); after a failed one OpenSSH answers that it does not know these messages.

    Attributes:
        open_session_with_login: Called once, with the login, to open a session for SFTP.
        session: The one that was opened so, until it is used.
        round_trip: Seconds from the request for the login's service to the answer.
    """

    unproven = False
    """Whether the last session that was opened with a login has not served yet. While that is so,
    the connections of this process do without: another server may call itself OpenSSH."""

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
        self.open_session_with_login: Callable[[paramiko.Transport], paramiko.Channel] | None = None
        self.session: paramiko.Channel | None = None
        self.round_trip = float("inf")
        self._opened: SimpleQueue[paramiko.Channel | Exception] | None = None
        self._opener = threading.Thread()
        if _get(self, Item.REKEY_BYTES):
            self.packetizer.REKEY_BYTES = REKEY_BYTES

    def open_session(self, *args: Any, **options: Any) -> paramiko.Channel:
        """Open a session; where the server refuses, without the one that was opened for SFTP.

        A task may run a command before it downloads, and the server may allow only one session.
        """
        for delay_s in CLOSED_DELAYS_S:
            try:
                return super().open_session(*args, **options)
            except paramiko.ChannelException:
                session, self.session = self.session, None
                if session is not None:
                    session.close()
                elif delay_s == CLOSED_DELAYS_S[0]:
                    raise
            time.sleep(delay_s)
        return super().open_session(*args, **options)

    def wait_for_session(self) -> None:
        """Wait for the session that was opened with the login, if one was.

        Raises:
            Exception: It was not opened; the connection may be closed.
        """
        result = self._opened.get() if self._opened else None
        if isinstance(result, Exception):
            raise result
        self.session = result

    def _send_message(self, data: paramiko.Message) -> None:
        message = data.asbytes()
        log_in = self._login() if message == SERVICE_REQUEST else None
        super()._send_message(data)  # type: ignore[misc] # not in the stubs
        if log_in:
            log_in(paramiko.Message(USERAUTH))
            self._open_session()
        elif (
            message[:1] == CHANNEL_OPEN
            and self._opened is not None
            and threading.current_thread() is self._opener
        ):
            # The first channel of a connection: OpenSSH takes the lowest number that is free.
            super()._send_message(_subsystem_request(0, "sftp"))  # type: ignore[misc] # as above

    def _login(self) -> Callable[[paramiko.Message], None] | None:
        """Return what sends the login, which paramiko is then not to send at the server's answer.

        None for an RSA key while the server's algorithms are unknown (RFC 8332, 3.3).
        """
        self._opened = None  # of a login that failed
        log_in: Callable[[paramiko.Message], None] | None = _get(self, Item.SERVICE_ACCEPT)
        key = _get(self, Item.LOGIN_KEY)
        is_rsa = key is not None and "rsa" in key.get_name()
        if log_in is None or (is_rsa and not _get(self, Item.SERVER_EXTENSIONS)):
            return None
        started = time.monotonic()

        def note_accept(_: paramiko.Message) -> None:
            self.round_trip = time.monotonic() - started

        setattr(self.auth_handler, Item.SERVICE_ACCEPT.rpartition(".")[2], note_accept)
        return log_in

    def _open_session(self) -> None:
        """Start to open the session for SFTP, where the server is known to allow it by now."""
        opener, self.open_session_with_login = self.open_session_with_login, None
        version = str(_get(self, Item.SERVER_VERSION) or "")
        if opener is None or HookedTransport.unproven or not OPENSSH.match(version):
            return
        HookedTransport.unproven = True
        opened: SimpleQueue[paramiko.Channel | Exception] = SimpleQueue()
        self._opened = opened

        def open_session() -> None:
            if self._opened is not opened:  # the login has failed since
                return
            try:
                opened.put(opener(self))
            except Exception as error:  # noqa: BLE001 (raised in the thread that wants the session)
                opened.put(error)

        self._opener = threading.Thread(target=open_session, name="open session", daemon=True)
        self._opener.start()

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


def session_of_login(transport: paramiko.Transport) -> tuple[paramiko.Channel, float] | None:
    """Return the session that was opened with the login, once, and the seconds of a round trip.

    None where there is no such session.
    """
    if not isinstance(transport, HookedTransport):
        return None
    channel, transport.session = transport.session, None
    return (channel, transport.round_trip) if channel else None


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
    send(_subsystem_request(number, name))


def _subsystem_request(number: int, name: str) -> paramiko.Message:
    message = paramiko.Message()
    message.add_byte(CHANNEL_REQUEST)
    message.add_int(number)
    message.add_string("subsystem")
    message.add_boolean(True)
    message.add_string(name)
    return message


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
