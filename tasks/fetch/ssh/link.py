"""Link: the connection to a host and its SFTP session, replaced after a cut.

Several threads may use a link. Each carries the generation in which it started: after `reset`
no thread of an earlier generation changes the connection.
"""

from __future__ import annotations

import threading

import fabric
import paramiko

from tasks.fetch.errors import NetworkError
from tasks.fetch.ssh.connection import close_hops, open_connection
from tasks.fetch.ssh.connection_limit import connection_slot
from tasks.fetch.ssh.connection_settings import ConnectionSettings
from tasks.fetch.ssh.errors import translated
from tasks.fetch.ssh.paramiko_private import use_packet_queue
from tasks.fetch.ssh.remote_files import RemoteFile
from tasks.fetch.ssh.sftp_channel import open_session
from tasks.fetch.ssh.sftp_session import Session


class Link:
    """The connection that a task holds, and the SFTP session on it.

    Args:
        connection: From `connect`, open; the same object leads to each later connection.
        settings: For timeouts, and to connect again.

    Attributes:
        generation: Changes with each reset.
        compressed: Whether connections use SSH compression; None where that was not tried.
        tar_is_proved: Whether a batch of files that the host's tar wrote was used.
        tar_faults: How many of them could not be used.
    """

    def __init__(self, connection: fabric.Connection, settings: ConnectionSettings) -> None:
        self.connection = connection
        self.settings = settings
        self.generation = 0
        self.compressed: bool | None = None
        self.tar_is_proved = False
        self.tar_faults = 0
        self._sftp: Session | None = None
        self._had_session = False
        self._lock = threading.RLock()  # of the generation, the connection and its session

    @property
    def name(self) -> str:
        """Account, host and port, as ssh has them."""
        return f"{self.connection.user}@{self.connection.host}:{self.connection.port}"

    @property
    def transport(self) -> paramiko.Transport | None:
        """The connection's transport; None while another thread connects."""
        transport: paramiko.Transport | None = self.connection.transport
        return transport

    def is_active(self) -> bool:
        """Return whether the connection is open."""
        return self.transport is not None and self.transport.is_active()

    # --- sessions -------------------------------------------------------------------------

    def session(self) -> Session:
        """Return the SFTP session, a new one where there is none."""
        if self._sftp is None:
            self._sftp = self._new_session(self.connection)
        return self._sftp

    def session_of(self, generation: int) -> Session:
        """Return the SFTP session, unless the generation is over; see `_require`."""
        with self._lock:
            self._require(generation)
            return self.session()

    def is_current(self, session: Session) -> bool:
        """Return whether a session is still the one to use."""
        return session is self._sftp

    def _new_session(self, connection: fabric.Connection) -> Session:
        settings, transport = self.settings, connection.transport
        session = open_session(
            lambda: Session(
                transport, settings.timeout, settings.max_rate, may_run=settings.exec == "auto"
            ),
            retry=self._had_session,
        )
        self._had_session = True
        return session

    def command_channel(self, transport: paramiko.Transport) -> paramiko.Channel:
        """Return a channel for a command, beside the SFTP session.

        Raises:
            SessionRefusedError: The server opens no second session on the connection.
        """
        channel = open_session(
            lambda: transport.open_session(timeout=self.settings.timeout),
            retry=self._sftp is None,
        )
        use_packet_queue(channel)
        return channel

    # --- the connection -------------------------------------------------------------------

    def require_answer(self) -> None:
        """Wait for an answer of the host, through its SFTP session if there is one.

        Raises:
            NetworkError: None arrived in time.
        """
        transport, seconds = self.transport, self.settings.timeout
        session = self._sftp  # another thread may replace it
        if session is not None:
            with translated(self.name):
                session.stat(".")
            return
        if transport is not None:
            # Paramiko waits for the answer without a time limit.
            request = threading.Thread(
                target=transport.global_request, args=("keepalive@openssh.com",), daemon=True
            )
            request.start()
            request.join(seconds)
            if not request.is_alive() and transport.is_active():
                return
        raise NetworkError(f"{self.name}: no answer in {seconds:g} s", transient=True)

    def reset(self) -> None:
        """Use a new session from now on, since answers of this one may still be under way.

        In another thread that still reads from it, reading ends with an error.
        """
        with self._lock:
            self.generation += 1
            session, self._sftp = self._sftp, None
        if session is not None:
            session.close()

    def reconnect(self, generation: int | None = None) -> None:
        """Connect again, after a cut; see `_require`."""
        if generation is None:
            generation = self.generation
        with self._lock:
            self._require(generation)
            # Before the new one: a host may allow an account a single connection.
            close_hops(self.connection)
            self._sftp = None
        other = open_connection(self.settings, compress=bool(self.compressed))
        try:
            self._replace(other, None, generation)
        except NetworkError:
            close_hops(other)
            raise

    def reopen(self, file: RemoteFile, generation: int) -> Session:
        """Connect again, and require that a file is still the same; return the new session."""
        self.reconnect(generation)
        session = self.session_of(generation)
        file.require_same(session.stat(file.path))
        return session

    def compress(self, file: RemoteFile, generation: int) -> None:
        """Move to a second connection, with compression.

        Raises:
            LighterageError: It cannot be opened, or the file is not the same; the link is as it
                was then.
        """
        with connection_slot(self.settings, wait=False):  # while there are two
            other = open_connection(self.settings, compress=True, prompt=False)
            try:
                with translated(file.path):
                    session = self._new_session(other)
                    file.require_same(session.stat(file.path))
                self._replace(other, session, generation)
            except BaseException:
                close_hops(other)
                raise

    def _replace(self, other: fabric.Connection, session: Session | None, generation: int) -> None:
        """Use `other` from now on; it was opened without the lock, which is held briefly."""
        with self._lock:
            self._require(generation)
            close_hops(self.connection)
            self.connection.gateway, self.connection.client = other.gateway, other.client
            self.connection.transport = other.transport
            self._sftp = session

    def _require(self, generation: int) -> None:
        """Raise `NetworkError` in a thread of an earlier generation, whose data is not read."""
        if generation != self.generation:
            raise NetworkError(f"{self.name}: the download was abandoned")
