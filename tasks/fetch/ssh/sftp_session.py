"""SFTP session: many requests under way at once, on one channel.

Paramiko's own client waits for one answer before the next request, or prefetches without a
bound. Here requests go ahead, and answers are taken as they arrive. No command on the host is
needed.
"""

from __future__ import annotations

import contextlib
import logging
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Final

import paramiko

from tasks.fetch import memory
from tasks.fetch.ssh import sftp_packets as packets
from tasks.fetch.ssh.errors import NoSftpError
from tasks.fetch.ssh.paramiko_private import (
    HookedTransport,
    request_subsystem,
    require_same_host_key,
    session_of_login,
    use_packet_queue,
)
from tasks.fetch.ssh.remote_files import RemoteFile
from tasks.fetch.ssh.sftp_channel import (
    CHANNEL_PACKET,
    MOST_AHEAD_BYTES,
    open_channel,
    text_instead,
)

AHEAD_BYTES: Final = 2 * 2**20
"""Bytes asked for ahead where the host is near."""
MAX_AHEAD_BYTES: Final = 32 * 2**20
"""The same at most, where the host is far: this much may wait in memory, or a quarter of what is
free up to `MOST_AHEAD_BYTES`."""
MIN_AHEAD_BYTES: Final = 2**16
READ_BYTES: Final = 2**16
"""Bytes of one READ where the server announces no limit."""
MAX_READ_BYTES: Final = 255 * 2**10
"""The same at most: what OpenSSH announces."""
LINK_BYTES_PER_S: Final = 400e6
"""The fastest link expected: the bytes ahead are this times the round trip."""
STATS_AHEAD: Final = 256
REQUESTS_PER_PACKET: Final = 32
"""Requests sent in one packet while answers keep arriving; else each when none is left to take."""
CHECKS_TRIED: Final = 16
"""Files of which a host that computes checksums has one; ProFTPD has none of an empty file."""
MAX_PACKET: Final = 2**20

log = logging.getLogger(__name__)


class Session:
    """An SFTP session of a transport.

    Attributes:
        round_trip: Seconds, the least that was measured.
        read_bytes: How many bytes to ask for in one READ.
        deadline: Time, as `time.monotonic` has it, at which an answer must be complete.

    Args:
        transport: Authenticated.
        timeout: Seconds without an answer until a fault.
        max_rate: Bytes per second at most, 0 for no limit; it also bounds reading ahead.
        may_run: Whether a command may be run on the host where SFTP does not start.
    """

    def __init__(
        self,
        transport: paramiko.Transport,
        timeout: float,
        max_rate: int = 0,
        *,
        may_run: bool = True,
    ) -> None:
        opened = session_of_login(transport)
        self._is_of_login = opened is not None
        if opened:
            channel, self.round_trip = opened
        else:
            started = time.monotonic()
            channel = open_channel(transport, timeout)
            self.round_trip = time.monotonic() - started
        channel.settimeout(timeout)
        use_packet_queue(channel)
        if not opened:
            request_subsystem(channel, "sftp", timeout)
        self.deadline = float("inf")
        self._channel = channel
        self._may_run = may_run
        self._transport = transport
        self._agreed = False
        self._rest = memoryview(b"")
        # Sent with the first requests: a host takes one after the other anyway.
        init = packets.HEADER.pack(5, packets.INIT, packets.VERSION_3)
        self._requests = [init]
        self._number = 0
        self._unanswered = 0
        self._limits_number = 0
        self._max_ahead = 0  # measured once it matters
        self.read_bytes = READ_BYTES
        self._max_rate = max_rate

    @property
    def ahead(self) -> int:
        """How many bytes to ask for ahead: what the link holds in a round trip."""
        trip = self.round_trip if self.round_trip < 10 else 0
        wanted = int(max(AHEAD_BYTES, trip * LINK_BYTES_PER_S))
        if self._max_rate:
            wanted = min(wanted, max(MIN_AHEAD_BYTES, self._max_rate))
        if wanted > MAX_AHEAD_BYTES and not self._max_ahead:
            self._max_ahead = min(max(memory.available() // 4, MAX_AHEAD_BYTES), MOST_AHEAD_BYTES)
        return min(wanted, self._max_ahead or MAX_AHEAD_BYTES)

    def close(self) -> None:
        """End it, whatever is still under way."""
        with contextlib.suppress(Exception):
            self._channel.close()

    # --- requests about many paths --------------------------------------------------------

    def stat(self, path: str) -> RemoteFile:
        """Return the facts of `path`, links followed; measures the round trip as well."""
        started = time.monotonic()
        (facts,) = self.stats([path])
        self.round_trip = min(self.round_trip, time.monotonic() - started)
        if isinstance(facts, Exception):
            raise facts
        return facts

    def stats(self, paths: Sequence[str]) -> list[RemoteFile | Exception]:
        """Return the facts of each path, links followed, or the error of each."""
        found: dict[str, RemoteFile | Exception] = {}
        requests = {path: packets.path_string(path) for path in paths}
        for path, kind, body in self.answers(packets.STAT, requests):
            if kind == packets.ATTRS:
                _, found[path] = packets.read_attributes(path, body)
            else:
                found[path] = packets.error_of(path, kind, body)
        return [found[path] for path in paths]

    def checksums(self, paths: Sequence[str], timeout: float) -> Iterator[tuple[str, str]]:
        """Yield the paths of which the host computes the SHA-256, and that, in hex.

        Through the extension check-file (draft-ietf-secsh-filexfer-extensions-00, 3), which needs
        no command. Hosts that have it need not announce it: it is tried with some files.

        Args:
            paths: Of files.
            timeout: Seconds without an answer until a fault: a host may compute for long.
        """
        before = self._channel.gettimeout()
        self._channel.settimeout(timeout)
        name, whole = packets.string(b"check-file-name"), packets.string(b"sha256")
        whole += packets.WHOLE_FILE
        requests = {path: name + packets.path_string(path) + whole for path in paths}
        found = False
        answers = self.answers(packets.EXTENDED, requests)
        for count, (path, kind, body) in enumerate(answers, 1):
            digest = packets.read_sha256(body) if kind == packets.EXTENDED_REPLY else b""
            if digest:
                found = True
                yield path, digest.hex()
            elif not found and count == CHECKS_TRIED:
                break
        self._channel.settimeout(before)

    def answers(self, kind: int, requests: Mapping[str, bytes]) -> Iterator[tuple[str, int, bytes]]:
        """Send a request for each path, many ahead; yield path, kind and body of each answer."""
        unanswered = {}
        waiting = iter(requests.items())
        for path, fields in islice(waiting, STATS_AHEAD):
            unanswered[self.send(kind, fields)] = path
        while unanswered:
            number, answer, body = self.receive()
            path = unanswered.pop(number, "")
            if not path:
                continue  # the answer to a request of an earlier user of the session
            yield path, answer, body
            for following, fields in islice(waiting, 1):
                unanswered[self.send(kind, fields)] = following

    # --- packets --------------------------------------------------------------------------

    def send(self, kind: int, fields: bytes) -> int:
        """Send a request, soon: with those that follow, before an answer is waited for.

        Returns:
            Its number, which its answer will have.
        """
        self._number = self._number + 1 if self._number < 2**32 - 1 else 1
        self._unanswered += 1
        self._requests.append(packets.HEADER.pack(len(fields) + 5, kind, self._number) + fields)
        return self._number

    def receive(self) -> tuple[int, int, bytes]:
        """Wait for the next answer: its number, its kind, and what follows those.

        Of DATA, that is the data alone.

        Raises:
            TimeoutError: None arrived in time.
            EOFError: The session ended.
        """
        if not self._agreed:
            self._agree()
        if len(self._requests) >= REQUESTS_PER_PACKET:
            self._flush()
        size, kind, number = packets.HEADER.unpack(self._exactly(packets.HEADER.size))
        size -= 5
        if not 0 <= size <= MAX_PACKET:
            raise packets.ProtocolError(f"a packet of {size + 5} bytes")
        self._unanswered -= 1
        if self._unanswered < 0:
            raise packets.ProtocolError("more answers than requests")
        if kind != packets.DATA:
            body = self._exactly(size)
            if number == self._limits_number and kind == packets.EXTENDED_REPLY:
                self._take_limits(body)
            return number, kind, body
        length = int.from_bytes(self._exactly(4), "big") if size >= 4 else size
        if length > size - 4:
            raise packets.ProtocolError("data ends early")
        body = self._exactly(length)
        self._exactly(size - 4 - length)  # fields of later versions
        return number, kind, body

    def _take_limits(self, body: bytes) -> None:
        """Use READs as large as the server answers (OpenSSH's PROTOCOL, 4.8)."""
        with contextlib.suppress(struct.error):
            _, length, _, _ = packets.LIMITS.unpack(body)
            most = max(self._max_rate // 8, READ_BYTES) if self._max_rate else MAX_READ_BYTES
            self.read_bytes = max(READ_BYTES, min(length, most, MAX_READ_BYTES))

    def _agree(self) -> None:
        """Take the server's answer to our version, which comes first (draft-02, 4)."""
        started = time.monotonic()
        end = started + (self._channel.gettimeout() or 0)
        head = b""
        try:
            head = self._exactly(4)
            size = int.from_bytes(head, "big")
            if 5 <= size < 2**16:
                body = self._exactly(size, end)
                if body[0] == packets.VERSION:
                    self._agreed = True
                    self.round_trip = min(self.round_trip, time.monotonic() - started)
                    if self._is_of_login:
                        HookedTransport.unproven = False
                    if packets.LIMITS_NAME in body:
                        self._limits_number = self.send(packets.EXTENDED, packets.LIMITS_NAME)
                    return
        except TimeoutError:
            if not head and not self._rest and not self._channel.recv_stderr_ready():
                raise
        except (EOFError, OSError):
            if not self._transport.is_active():
                raise  # the connection is lost, and not only the session
        start = head + bytes(self._rest)
        raise NoSftpError(text_instead(self._channel, start, may_run=self._may_run))

    def _flush(self) -> None:
        require_same_host_key(self._transport)
        try:
            self._channel.sendall(b"".join(self._requests))
        except TimeoutError:
            raise
        except (OSError, EOFError) as error:  # what arrived before is read first, then the end
            log.debug("requests cannot be sent: %s", error or "the connection is closed")
        self._requests.clear()

    def _exactly(self, size: int, end: float = float("inf")) -> bytes:
        rest = self._rest
        if len(rest) >= size:
            self._rest = rest[size:]
            return bytes(rest[:size])
        parts, missing = [rest], size - len(rest)
        end = min(end, self.deadline)
        try:
            while missing > 0:
                if self._requests and not self._channel.recv_ready():
                    self._flush()
                block = memoryview(self._channel.recv(CHANNEL_PACKET))
                if not block:
                    raise EOFError  # noqa: TRY301 (as paramiko's own reading has it)
                parts.append(block)
                missing -= len(block)
                if missing > 0 and time.monotonic() > end:
                    raise TimeoutError
        except (OSError, EOFError):
            self._rest = memoryview(b"".join(parts))
            raise
        self._rest = memoryview(b"")
        if missing < 0:
            last = parts[-1]
            parts[-1], self._rest = last[:missing], last[missing:]
        return b"".join(parts)
