"""What this project uses of paramiko beyond its documented interface, and what replaces it.

Each use is an `Item`, an attribute, or a `Text`, a message. Where a version of paramiko lacks it,
a slower way through the documented interface does the same. No other module touches such a name.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import deque
from enum import StrEnum
from operator import attrgetter
from queue import Empty, SimpleQueue
from typing import Any, Final
from weakref import WeakValueDictionary

import paramiko
from cryptography.exceptions import InvalidTag
from paramiko.buffered_pipe import BufferedPipe, PipeTimeout
from paramiko.packet import NeedRekeyException, Packetizer

Bytes = bytes | memoryview

REKEY_BYTES: Final = 2**35
"""Bytes until we ask for new keys: half of what OpenSSH takes AES for (2**32 blocks of 16 bytes).

Paramiko asks at 512 MiB, and a busy channel can then hang (paramiko #822). What the server asks
for is served all the same.
"""
CHANNEL_REQUEST: Final = b"\x62"
"""SSH_MSG_CHANNEL_REQUEST (RFC 4254, 9)."""
CHANNEL_DATA: Final = 94
GCM_TAG: Final = 16
"""Bytes after each packet (RFC 5647)."""
MAX_PACKET: Final = 2**20
SOCKET_BUFFER: Final = 2**18 + 2**10
"""Bytes taken from the socket at once: paramiko asks for each packet twice.

A packet of the largest size that is asked for fits, with what it has around its data.
"""

# A host that waits with a small packet for our acknowledgement costs 40 ms at each step of a login
# where we hold that back; Linux has a way not to.
_QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)


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


class PacketQueue:
    """Replaces paramiko's BufferedPipe: packets change hands, and no byte is moved.

    Its queue is bounded by the channel's window, which the reader opens as it reads.
    """

    def __init__(self) -> None:
        self._queue: SimpleQueue[list[Bytes]] = SimpleQueue()
        self._added: list[Bytes] = []  # by paramiko's thread, until it flushes
        self._taken: deque[Bytes] = deque()
        self._rest: Bytes = b""
        self._closed = False

    def feed(self, data: Bytes) -> None:
        """Take a packet, in paramiko's thread."""
        self.add(data)
        self.flush()

    def add(self, data: Bytes) -> None:
        """Take a packet that the reader gets with the next `flush`, in paramiko's thread."""
        if data and not self._closed:
            self._added.append(data)

    def flush(self) -> None:
        """Pass on what was added: each time costs a change of threads."""
        if self._added:
            self._queue.put(self._added)
            self._added = []

    def close(self) -> None:
        """Note the end, in paramiko's thread."""
        self.flush()
        self._closed = True
        self._queue.put([])

    def read(self, nbytes: int, timeout: float | None = None) -> Bytes:
        """Return at most `nbytes` bytes; none at the end.

        Raises:
            PipeTimeout: Nothing arrived in time.
        """
        block = self._rest
        if not block:
            if not self._taken:
                try:
                    self._taken.extend(self._queue.get(timeout=timeout))
                except Empty:
                    raise PipeTimeout from None
            if not self._taken:
                self._queue.put([])  # the end stays the end
                return b""
            block = self._taken.popleft()
        self._rest = block[nbytes:]
        return block[:nbytes]

    def read_ready(self) -> bool:
        """Return whether a read would not wait."""
        return bool(self._rest or self._taken) or not self._queue.empty()

    def __len__(self) -> int:
        return len(self._rest)

    def empty(self) -> bytes:
        """Drop nothing: only paramiko's merging of error output empties a pipe."""
        return b""

    def set_event(self, event: threading.Event) -> None:
        """Wake no thread: only `select` on the channel would wait for that."""
        if self._closed:
            event.set()


class BufferedSocket:
    """A socket that is read in large pieces, whatever size is asked for."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = memoryview(bytearray(SOCKET_BUFFER))
        self._start = self._end = 0

    def holds(self, size: int) -> bool:
        """Return whether the buffer has `size` bytes."""
        return self._end - self._start >= size

    def fill(self) -> None:
        """Receive more bytes, once.

        Raises:
            OSError: It failed; `TimeoutError` where nothing arrived in time.
            EOFError: There are no more.
        """
        if self._start:
            rest = self._end - self._start
            self._buffer[:rest] = self._buffer[self._start : self._end]
            self._start, self._end = 0, rest
        if _QUICKACK is not None:  # the system takes it back by itself, so each time
            self._sock.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)
        size = self._sock.recv_into(self._buffer[self._end :])
        if not size:
            raise EOFError
        self._end += size

    def take(self, size: int) -> memoryview:
        """Return at most `size` bytes of the buffer, which are valid until the next `fill`."""
        start, self._start = self._start, min(self._start + size, self._end)
        return self._buffer[start : self._start]

    def recv(self, size: int) -> bytes:
        """Return up to `size` bytes; from the socket only when the buffer is empty."""
        if not self.holds(1):
            try:
                self.fill()
            except EOFError:
                return b""
        return bytes(self.take(size))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


class DirectPacketizer(Packetizer):
    """Decrypts AES-GCM packets from the socket's buffer, and hands channels their data at once.

    Paramiko copies each packet five times more. With other ciphers its own way is taken.
    """

    def __init__(self, sock: BufferedSocket) -> None:
        super().__init__(sock)  # type: ignore[arg-type] # it is used as a socket
        self.queues: WeakValueDictionary[int, PacketQueue] = WeakValueDictionary()
        self._sock = sock
        self._gcm: Any = None
        self._iv = b""
        self._decompress: Any = None
        self._number = 0  # of the next packet
        self._bytes = self._packets = 0  # since the keys are in use
        self._added: PacketQueue | None = None

    def set_inbound_cipher(self, block_engine: Any, *args: Any, **options: Any) -> None:
        """Use new keys."""
        super().set_inbound_cipher(block_engine, *args, **options)
        self._gcm = block_engine if options.get("aead") else None
        self._iv = options.get("iv_in") or b""
        self._bytes = self._packets = 0

    def set_inbound_compressor(self, compressor: Any) -> None:
        """Decompress what follows."""
        super().set_inbound_compressor(compressor)
        self._decompress = compressor

    def reset_seqno_in(self) -> None:
        """Count packets from 0 (strict key exchange)."""
        super().reset_seqno_in()
        self._number = 0

    def read_message(self) -> tuple[int, paramiko.Message]:
        """Return the next message that is no data of a queue: its kind, and its content.

        Raises:
            NeedRekeyException: Keys are to be exchanged first.
            SSHException: The packet is not valid.
            EOFError: The connection was closed.
        """
        if self._gcm is None:
            kind, message = super().read_message()
            self._number = message.seqno + 1
            return int(kind), message
        try:
            while True:
                payload = self._payload()
                self._number = (self._number + 1) & 0xFFFFFFFF
                queue = None
                if payload[0] == CHANNEL_DATA:
                    queue = self.queues.get(int.from_bytes(payload[1:5], "big"))
                if queue is None:
                    message = paramiko.Message(bytes(payload[1:]))
                    message.seqno = (self._number - 1) & 0xFFFFFFFF
                    return payload[0], message
                if queue is not self._added:
                    self._flush()
                    self._added = queue
                queue.add(payload[9 : 9 + int.from_bytes(payload[5:9], "big")])
                if self.need_rekey():
                    raise NeedRekeyException
        finally:
            self._flush()

    def _flush(self) -> None:
        if self._added is not None:
            self._added.flush()
            self._added = None

    def _payload(self) -> memoryview:
        """Receive a packet, and return its payload (RFC 4253, 6; RFC 5647, 7.2)."""
        if not self._sock.holds(4):
            self._flush()
        head = self.read_all(4, check_rekey=True)
        size = int.from_bytes(head, "big")
        if not 5 <= size <= MAX_PACKET:
            raise paramiko.SSHException(f"Invalid packet of {size} bytes")
        try:
            plain = memoryview(self._gcm.decrypt(self._iv, self._received(size + GCM_TAG), head))
        except InvalidTag as error:
            raise paramiko.SSHException("Mismatched MAC") from error
        count = int.from_bytes(self._iv[4:], "big") + 1
        self._iv = self._iv[:4] + (count & (2**64 - 1)).to_bytes(8, "big")
        payload = plain[1 : size - plain[0]]
        if self._decompress is not None:
            payload = memoryview(self._decompress(bytes(payload)))
        if not payload:
            raise paramiko.SSHException("Invalid packet without a message")
        self._count(size + GCM_TAG + 4)
        return payload

    def _received(self, size: int) -> Bytes:
        """Return the next `size` bytes, which are valid until the next packet."""
        if size > SOCKET_BUFFER:
            self._flush()
            return bytes(self.read_all(size))
        while not self._sock.holds(size):
            self._flush()
            try:
                self._sock.fill()
            except TimeoutError:
                if self.closed:
                    raise EOFError from None
                self._check_keepalive()  # type: ignore[attr-defined] # not in the stubs
            except OSError:
                if self.closed:
                    raise EOFError from None
                raise
        return self._sock.take(size)

    def _count(self, size: int) -> None:
        """Ask for new keys when these have served for long (RFC 4253, 9)."""
        self._bytes += size
        self._packets += 1
        more_bytes = self._bytes - self.REKEY_BYTES
        more_packets = self._packets - self.REKEY_PACKETS
        if more_bytes < 0 and more_packets < 0:
            return
        if not self.need_rekey():
            self._trigger_rekey()  # type: ignore[attr-defined] # not in the stubs
        elif (
            more_bytes > self.REKEY_BYTES_OVERFLOW_MAX
            or more_packets > self.REKEY_PACKETS_OVERFLOW_MAX
        ):
            raise paramiko.SSHException("Remote transport is ignoring rekey requests")
