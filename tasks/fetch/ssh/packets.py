"""Packets: AES-GCM packets of a connection, decrypted where they arrive, and the queues they go to.

The methods that are replaced here are those of paramiko's documented `packetizer_class`. What else
is used of it is in `paramiko_private.Item`.
"""

from __future__ import annotations

import socket
import threading
from collections import deque
from queue import Empty, SimpleQueue
from typing import Any, Final
from weakref import WeakValueDictionary

import paramiko
from cryptography.exceptions import InvalidTag
from paramiko.buffered_pipe import PipeTimeout
from paramiko.packet import NeedRekeyException, Packetizer

Bytes = bytes | memoryview

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
            EOFError: The other side has closed the connection.
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
        self._greeting = ""
        self._gcm: Any = None
        self._iv = b""
        self._decompress: Any = None
        self._number = 0  # of the next packet
        self._bytes = self._packets = 0  # since the keys are in use
        self._added: PacketQueue | None = None

    def readline(self, timeout: float) -> str:
        """Return a line of the greeting; an error has the line before it."""
        try:
            self._greeting = line = super().readline(timeout)
        except EOFError as error:
            raise EOFError(f": {self._greeting}" if self._greeting else "") from error
        return line

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
