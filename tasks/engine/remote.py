"""The remote host: the only module that knows SSH.

Gives a Fabric connection whose every hop is verified, facts of a path, a listing, and the
bytes of a file. What goes wrong comes out as one of the errors of `tasks.engine.errors`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import re
import socket
import threading
import time
import zlib
from collections import deque
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, cast

import fabric
import paramiko
from paramiko.ssh_exception import NoValidConnectionsError

from tasks.engine import checksums, names, sftp
from tasks.engine.errors import (
    ArchiveError,
    AuthError,
    ConfigError,
    IntegrityError,
    LighterageError,
    NetworkError,
    RemotePathError,
    printable,
)
from tasks.engine.progress import human
from tasks.engine.sftp import RemoteFile, Session
from tasks.engine.transport import HOST_KEY_TYPES, Transport, known

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Iterator, Sequence

    from tasks.settings import Settings

log = logging.getLogger(__name__)

MAX_DELAY = 120.0
"""Seconds between two tries at most, however often the delay was doubled."""
COMMAND_SECONDS = 0.5
"""How often a waiting command looks whether it is still wanted."""
SLOW_RATE = 4e6
"""Bytes per second below which a link is worth packing for: a processor packs ten times as many."""
SLOW_AFTER = 2**21
"""Bytes that must have come before a link is judged."""
WORTH_PACKING = 2**23
"""Bytes that must be left: to connect again takes a handful of round trips."""
WELL_PACKED = 0.6
"""Of a block's size: what packs worse is packed already, or is not worth it."""
MAX_DEPTH = 64
"""Folders below folders that a listing follows; a real dataset has a few."""

# --- connecting ---------------------------------------------------------------------------


class _KnownOnly(paramiko.MissingHostKeyPolicy):
    """Refuse a host that is not in known_hosts."""

    def __init__(self, settings: Settings) -> None:
        self._file = settings.known_hosts_file

    def missing_host_key(self, _client: Any, hostname: str, key: paramiko.PKey) -> None:
        raise AuthError(
            f"{hostname} is not in {self._file}: it shows {key.get_name()} {key.fingerprint}; "
            f"run `make trust HOST={_address_of(hostname)}`, and compare the fingerprint"
        )


class _AcceptNew(paramiko.MissingHostKeyPolicy):
    """Accept a host that is seen for the first time, and remember its key."""

    def __init__(self, settings: Settings) -> None:
        self._file = settings.known_hosts_file

    def missing_host_key(self, _client: Any, hostname: str, key: paramiko.PKey) -> None:
        line = f"{hostname} {key.get_name()} {key.get_base64()}"
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open("r+" if self._file.exists() else "w+", encoding="utf-8") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                text = file.read()
                if line not in text.splitlines():
                    file.write(("" if text.endswith("\n") or not text else "\n") + line + "\n")
            log.warning(
                "%s is new: accepted %s %s, remembered in %s",
                hostname, key.get_name(), key.fingerprint, self._file,
            )  # fmt: skip
        except OSError as error:
            log.warning("%s is new: accepted, but not remembered in %s: %s",
                        hostname, self._file, error.strerror)  # fmt: skip


def _address_of(hostname: str) -> str:
    """Turn a name of known_hosts, `[host]:port`, into host:port."""
    match = re.fullmatch(r"\[(.+)\]:(\d+)", hostname)
    if match is None:
        return hostname
    host, port = match.groups()
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def split_address(address: str) -> tuple[str, int | None]:
    """Split `host`, `host:port`, `[v6]:port` or a bare IPv6 address.

    Raises:
        ConfigError: It is none of these.
    """
    match = re.fullmatch(r"(?:\[([^\]\s]+)\]|([^:\s\[\]@]+))(?::(\d{1,5}))?", address)
    if match:
        port = int(match[3]) if match[3] else None
        if port is None or 0 < port < 65536:
            return match[1] or match[2], port
    elif re.fullmatch(r"[0-9A-Fa-f:.%\w]*:[0-9A-Fa-f:.%\w]*:[0-9A-Fa-f:.%\w]*", address):
        return address, None
    raise ConfigError(
        f"remote_host_address is {address!r}: expected host or host:port ([address]:port for IPv6);"
        " the account goes into USERNAME"
    )


@contextlib.contextmanager
def connect(settings: Settings) -> Iterator[fabric.Connection]:
    """Open a connection to the host of `settings`; each hop verified, closed at the end.

    Raises:
        ConfigError: A key or secret file is missing or cannot be read.
        AuthError: Login denied, host key unknown or changed.
        NetworkError: Not reachable.
    """
    connection = _prepared(settings)
    if not connection.user:
        raise ConfigError(
            f"USERNAME is missing: set it in envs/{settings.variant}.env, or pass --username"
        )
    address = f"{connection.host} port {connection.port}"
    user = connection.user
    log.info("connecting to %s as %s", address, user)
    try:
        with translated(f"{user}@{address}"):
            connection.open()
        yield connection
    finally:
        _close(connection)


def _prepared(settings: Settings) -> fabric.Connection:
    """Make a connection, not open yet, with every hop's policy and credentials set."""
    host, port = split_address(settings.remote_host_address)
    # Lazy, with an ssh_config of our own: no file of this machine's home has a say.
    config = fabric.Config(
        lazy=True, ssh_config=_ssh_config(settings.ssh_config_file),
        overrides={"user": settings.username},
    )  # fmt: skip
    connection = fabric.Connection(host, user=settings.username or None, port=port, config=config)
    key = _private_key(settings)
    password = _secret(settings.password_file, "password_file") or settings.password or None
    via = _secret(settings.gateway_password_file, "gateway_password_file")
    hop: Any = connection
    while isinstance(hop, fabric.Connection):
        target = hop is connection
        hop.connect_kwargs = _credentials(
            settings, hop, key, password if target else via, explicit=target
        )
        _verify(hop.client, settings)
        hop = hop.gateway
    return connection


def _credentials(
    settings: Settings,
    hop: fabric.Connection,
    key: paramiko.PKey | None,
    password: str | None,
    *,
    explicit: bool,
) -> dict[str, Any]:
    """Give the arguments of paramiko's `connect` for one hop.

    What was named is what is tried: keys of the agent and of ~/.ssh come in only where neither
    a password nor a key was, since a host counts each wrong key as a failed login.
    """
    named = password is not None or (key is not None and explicit)
    files = hop.connect_kwargs.get("key_filename")  # IdentityFile of ssh_config
    return {
        "password": password,
        "pkey": key,
        "key_filename": files,
        "passphrase": _secret(settings.ssh_key_passphrase_file, "ssh_key_passphrase_file")
        if files
        else None,
        "look_for_keys": not named and not files,
        "allow_agent": not named,
        "timeout": settings.timeout,
        "banner_timeout": settings.timeout,
        "auth_timeout": settings.timeout,
        "channel_timeout": settings.timeout,
        "transport_factory": Transport,
    }


def _verify(client: paramiko.SSHClient, settings: Settings) -> None:
    """Let a hop's client trust known_hosts, and a new host only where the variant says so."""
    policy = _AcceptNew if settings.host_keys == "accept-new" else _KnownOnly
    client.set_missing_host_key_policy(policy(settings))
    file = settings.known_hosts_file
    if not file.exists():
        return
    try:
        client.load_host_keys(str(file))
    except (OSError, UnicodeDecodeError, paramiko.SSHException) as error:
        raise ConfigError(f"{file}: cannot be read as known_hosts: {error}") from error


def _ssh_config(file: Path) -> paramiko.SSHConfig:
    config = paramiko.SSHConfig()
    if file.is_file():
        try:
            with file.open(encoding="utf-8") as text:
                config.parse(text)
        except (OSError, UnicodeDecodeError, paramiko.ConfigParseError) as error:
            raise ConfigError(f"{file}: cannot be read as an ssh_config: {error}") from error
    return config


def _secret(file: Path | None, setting: str) -> str | None:
    """Read a secret that is a file; its last line ending is not part of it."""
    if file is None:
        return None
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(f"{setting} is {file}: there is no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{setting} is {file}: cannot be read: {error}") from error
    text = text.removesuffix("\n").removesuffix("\r")
    if not text:
        raise ConfigError(f"{setting} is {file}: the file is empty: put the secret into it")
    return text


def _private_key(settings: Settings) -> paramiko.PKey | None:
    file = settings.ssh_key_file
    if file is None:
        return None
    phrase = _secret(settings.ssh_key_passphrase_file, "ssh_key_passphrase_file")
    reason = "it is no private key that can be used"
    for kind in (paramiko.Ed25519Key, paramiko.ECDSAKey, paramiko.RSAKey):
        try:
            key: paramiko.PKey = kind.from_private_key_file(str(file), password=phrase)
            certificate = Path(f"{file}-cert.pub")
            if certificate.exists():
                key.load_certificate(str(certificate))
        except FileNotFoundError as error:
            raise ConfigError(f"ssh_key_file is {file}: there is no such file") from error
        except OSError as error:
            why = error.strerror or error
            raise ConfigError(f"ssh_key_file is {file}: cannot be read: {why}") from error
        except paramiko.PasswordRequiredException as error:
            raise AuthError(
                f"ssh_key_file is {file}: the key has a passphrase: set SSH_KEY_PASSPHRASE_FILE"
            ) from error
        except Exception as error:  # noqa: BLE001 (paramiko and cryptography raise a dozen kinds)
            log.debug("%s is no %s: %r", file, kind.__name__, error)
            if phrase:
                reason = "the passphrase is wrong, or it is no private key that can be used"
        else:
            return key
    raise AuthError(f"ssh_key_file is {file}: {reason}")


def _close(connection: Any) -> None:
    """Close every hop, the target first; a lost connection has nothing more to say."""
    while isinstance(connection, fabric.Connection):
        with contextlib.suppress(Exception):
            connection.close()
        # After a failed login Fabric holds no transport yet, but the client does.
        with contextlib.suppress(Exception):
            connection.client.close()
        connection = connection.gateway


# --- reading ------------------------------------------------------------------------------


def _is_glob(path: str) -> bool:
    return any(char in path for char in "*?[")


@dataclass(frozen=True)
class Listing:
    """The files below a folder, by their path relative to it, and how many others there were."""

    files: dict[PurePosixPath, RemoteFile]
    skipped: int


class Host:
    """What a connection leads to: facts, listings, and bytes that survive a cut.

    Args:
        connection: From `connect`, open.
        settings: For the waiting and trying again.
    """

    def __init__(self, connection: fabric.Connection, settings: Settings) -> None:
        self._connection = connection
        self._settings = settings
        self._sftp: Session | None = None
        self._side: Session | None = None
        self._generation = 0
        self._packing = False

    @property
    def name(self) -> str:
        """Account, host and port, as ssh has them."""
        return f"{self._connection.user}@{self._connection.host}:{self._connection.port}"

    def explained(self) -> list[str]:
        """Say how the link is used, and why."""
        session, transport = self._session(), self._connection.transport
        trip = 1000 * session.round_trip
        lines = [
            f"{transport.remote_cipher}: the fastest of those that both sides have",
            f"one SFTP session, {session.ahead / 2**20:.1f} MiB asked for ahead: "
            f"a round trip takes {trip:.1f} ms; it needs no command on the host",
        ]
        if self._packing:
            lines.append("SSH compression: the link is slow, and what comes can be packed")
        if self._settings.max_rate:
            lines.append(f"at most {human(self._settings.max_rate)}/s: max_rate")
        return lines

    def facts(self, path: str) -> RemoteFile:
        """Say what `path` is, links followed.

        Raises:
            RemotePathError: There is none, or the account may not look.
        """
        with translated(path):
            return self._session().stat(path)

    def expand(self, patterns: Iterable[str], *, folders: bool = False) -> list[RemoteFile]:
        """Say what some paths and globs name, each once; a path that exists is no glob.

        Args:
            patterns: The paths and globs.
            folders: Whether they must be directories: then a path is not asked for, since
                `listing` will tell, and a round trip is saved.

        Raises:
            RemotePathError: There is nothing of that name, or the account may not look.
        """
        found: dict[str, RemoteFile] = {}
        for pattern in patterns:
            if folders and not _is_glob(pattern):
                found[pattern] = RemoteFile(pattern, 0, 0, folder=True)
                continue
            named = self._named(pattern)
            if not named:
                raise RemotePathError(f"{pattern}: nothing on the host matches")
            found.update((file.path, file) for file in named)
        return list(found.values())

    def _named(self, pattern: str) -> list[RemoteFile]:
        if not _is_glob(pattern):
            return [self.facts(pattern)]
        with contextlib.suppress(RemotePathError):
            return [self.facts(pattern)]
        found = ["/" if pattern.startswith("/") else ""]
        with translated(pattern):
            for part in filter(None, pattern.split("/")):
                found = [
                    path + name
                    for path in (folder and folder.rstrip("/") + "/" for folder in found)
                    for name in (self._matching(path, part) if _is_glob(part) else [part])
                ]
            return [file for file in self._session().stats(found) if isinstance(file, RemoteFile)]

    def _matching(self, folder: str, glob: str) -> list[str]:
        """List the names in a folder that match; hidden ones only where the glob says so."""
        names_there = []
        try:
            found = sftp.listing(self._session(), folder or ".", 0, deep=False)
            for count, (name, _) in enumerate(found):
                self._bound(folder, count)
                if fnmatchcase(name, glob) and (glob.startswith(".") or not name.startswith(".")):
                    if "/" in name:
                        raise ArchiveError(f"listing of {folder}: {name!r} is no name of a file")
                    names.safe(name, f"listing of {folder}")
                    names_there.append(name)
        except (OSError, RemotePathError) as error:  # a file where a folder would have to be
            log.debug("%s: %s", folder, error)
        return sorted(names_there)

    def listing(self, path: str) -> Listing:
        """List the files below a folder; links and special files are counted, not followed.

        Raises:
            ArchiveError: The host gives a name that would lead out of the folder, or no end of
                names.
            RemotePathError: It is no folder, or part of it cannot be read.
        """
        try:
            return self._listing(path)
        except RemotePathError:
            self.reset()
            if not self.facts(path).folder:
                raise RemotePathError(f"{path}: is a file: tasks 1 and 2 take archives") from None
            raise

    def _listing(self, path: str) -> Listing:
        found: dict[PurePosixPath, RemoteFile] = {}
        skipped = folders = 0
        with translated(path):
            for name, file in sftp.listing(self._session(), path, MAX_DEPTH):
                self._bound(path, max(len(found) + skipped, folders))
                relative = names.safe(name, f"listing of {path}")
                if name.count("/") != str(relative).count("/") or file.path.count("//"):
                    raise ArchiveError(f"listing of {path}: {name!r} is no name of a file")
                if file.special:
                    skipped += 1
                elif file.folder:
                    folders += 1
                else:
                    found[relative] = file
        return Listing(dict(sorted(found.items())), skipped)

    def _bound(self, path: str, count: int) -> None:
        if count >= self._settings.max_members:
            raise ArchiveError(
                f"listing of {path}: has more than {self._settings.max_members} names: "
                "set max_members higher if that is right"
            )

    def files(
        self, wanted: Iterable[tuple[RemoteFile, int]], on_bytes: Callable[[int], None]
    ) -> Iterator[Stream]:
        """Yield the bytes of each file; the next ones are asked for ahead.

        Args:
            wanted: What to read, in this order, and from which byte on.
            on_bytes: Called with the number of bytes of each block that came.

        Raises:
            LighterageError: From the streams, or here; see `Stream`. The session is of no use
                then, see `reset`.
        """
        wanted = list(wanted)
        items = self._items(wanted, on_bytes)
        for file, start in wanted:
            stream = Stream(file.path, start, items)
            yield stream
            for _ in stream:  # what nobody read
                pass

    def _items(
        self, wanted: list[tuple[RemoteFile, int]], on_bytes: Callable[[int], None]
    ) -> Iterator[bytes | None]:
        """Yield the blocks of each file and then None; go on after a cut where it was."""
        pace, link = _Pace(self._settings.max_rate), _Link()
        index, failures, generation = 0, 0, self._generation
        offset = wanted[0][1] if wanted else 0
        while index < len(wanted):
            file, _ = wanted[index]
            try:
                with translated(file.path):
                    if failures or link.changed:
                        self._reopen(file)
                        link.changed = False
                    rest = [(file, offset), *wanted[index + 1 :]]
                    blocks = sftp.Reader(self._session(), rest).blocks()
                while index < len(wanted) and not link.changed:
                    file, _ = wanted[index]
                    with translated(file.path):
                        block = next(blocks)
                    failures = 0
                    if block is None:
                        index += 1
                        offset = wanted[index][1] if index < len(wanted) else 0
                    else:
                        offset += len(block)
                        on_bytes(len(block))
                        pace.keep(len(block))
                        if not self._packing and not self._settings.max_rate and link.slow(block):
                            left = sum(other.size - start for other, start in wanted[index + 1 :])
                            self._packing = file.size - offset + left >= WORTH_PACKING
                            link.changed = self._packing
                            if self._packing:
                                log.info("the link is slow: connecting again, with compression")
                    yield block
            except NetworkError as error:
                if generation != self._generation:
                    raise
                failures += 1
                if not error.transient or failures >= self._settings.max_tries:
                    error.transient = False  # all tries are used up
                    raise
                delay = delay_before(self._settings, failures)
                log.warning("%s; going on at byte %d in %.1f s", error, offset, delay)
                time.sleep(delay)

    def ending(self, file: RemoteFile, start: int) -> bytes:
        """Read a file from a byte on to its end, beside what is being streamed."""
        failures = 0
        while True:
            try:
                with translated(file.path):
                    if self._side is None:
                        self._side = self._new_session()
                    return b"".join(
                        block
                        for block in sftp.Reader(self._side, [(file, start)]).blocks()
                        if block
                    )
            except NetworkError as error:
                failures += 1
                if failures == self._settings.max_tries or not error.transient:
                    error.transient = False
                    raise
                delay = delay_before(self._settings, failures)
                log.warning("%s; asking again in %.1f s", error, delay)
                time.sleep(delay)
                self._reopen(file)
            except LighterageError:
                self._side = None  # answers may still be under way
                raise

    def sums(self, files: Iterable[RemoteFile], there: Container[str] | None = None) -> Sums:
        """Begin to ask for the sha256 of some files.

        Args:
            files: Which.
            there: The paths of a listing; None where nobody has listed the folders.
        """
        files = list(files)
        paths = [file.path for file in files]
        if self._settings.verify == "size":
            return Sums(self, self._settings, [], {})
        with translated(", ".join(paths[:1])):
            known = self._told_beside(paths, there)
        missing = [path for path in paths if path not in known]
        return Sums(self, self._settings, missing, known)

    def _told_beside(self, paths: list[str], there: Container[str] | None) -> dict[str, str]:
        """Read the checksums that lie beside the data: NAME.sha256, and SHA256SUMS."""
        candidates = [place for path in paths for place in checksums.beside(path)]
        if there is not None:
            candidates = [place for place in candidates if place in there]
        facts = self._session().stats(list(dict.fromkeys(candidates)))
        sidecars = [
            file
            for file in facts
            if isinstance(file, RemoteFile) and not file.folder and file.size <= checksums.MAX_SIZE
        ]
        found: dict[str, str] = {}
        own: dict[str, str] = {}
        for place, text in self._texts(sidecars):
            alone = place.name.removesuffix(checksums.SUFFIX) if place.suffix else ""
            (own if alone else found).update(checksums.parse(text, place.parent, alone))
        told = {**found, **own}
        by_path = {path: told.get(str(PurePosixPath(path))) for path in paths}
        return {path: digest for path, digest in by_path.items() if digest}

    def _texts(self, files: Iterable[RemoteFile]) -> Iterator[tuple[PurePosixPath, str]]:
        """Read small files; those that cannot be read are passed over."""
        left = deque(files)
        while left:
            try:
                for stream in self.files([(file, 0) for file in left], lambda _: None):
                    text = b"".join(stream).decode("utf-8", "replace")
                    yield PurePosixPath(left.popleft().path), text
            except (RemotePathError, IntegrityError) as error:
                log.warning("%s; passed over", error)
                left.popleft()
                self.reset()

    def ask(self, command: bytes, seconds: Callable[[], float]) -> str | None:
        """Run a command on the host, and return what it writes; None where it runs none.

        Args:
            command: For the account's shell.
            seconds: How long may still be waited for more of its output.

        Raises:
            NetworkError: The connection is lost.
        """
        transport = self._connection.transport
        if transport is None:  # while somebody connects again
            raise NetworkError("the connection was lost", transient=True)
        try:
            channel = transport.open_session(timeout=self._settings.timeout)
            with contextlib.closing(channel):
                channel.settimeout(COMMAND_SECONDS)
                channel.exec_command(command)
                channel.shutdown_write()
                output = []
                while True:
                    try:
                        block = channel.recv(2**16)
                    except TimeoutError:
                        if seconds() <= 0:
                            return None
                        continue
                    if not block:
                        break
                    output.append(block)
                if channel.recv_exit_status():
                    return None
        except (OSError, EOFError, paramiko.SSHException) as error:
            log.debug("no command: %r", error)
            if not transport.is_active():
                raise NetworkError("the connection was lost", transient=True) from error
            return None
        return b"".join(output).decode("utf-8", "surrogateescape")

    def checksums(self, paths: Sequence[str], seconds: float) -> dict[str, str]:
        """Ask through SFTP for the sha256 of some files, of which few hosts tell any.

        Args:
            paths: Of which.
            seconds: How long may be waited for each.

        Raises:
            NetworkError: The connection is lost.
        """
        found: dict[str, str] = {}
        if not paths:
            return found
        try:
            with self._session().patient(seconds) as session:
                found.update(session.checksums(paths))
        except (OSError, EOFError, paramiko.SSHException) as error:
            log.debug("no checksums through SFTP: %r", error)
            self.reset()
            transport = self._connection.transport
            if transport is None or not transport.is_active():
                raise NetworkError("the connection was lost", transient=True) from error
        return found

    def reset(self) -> None:
        """Begin a new session, since of this one answers may still be under way.

        Another thread may still read from it: that ends with an error, and does not go on.
        """
        self._generation += 1
        if self._sftp is not None:
            self._sftp.close()
        self._sftp = None

    def reconnect(self) -> None:
        """Connect again, after a cut."""
        with translated(self.name):
            _close(self._connection)
            self._sftp = self._side = None
            self._connection.connect_kwargs["compress"] = self._packing
            self._connection.open()

    def _reopen(self, file: RemoteFile) -> None:
        """Connect again, and require that the file is still the same."""
        self.reconnect()
        if not self._session().stat(file.path).same_as(file):
            raise IntegrityError(
                f"{file.path}: changed on the host while it was fetched", transient=True
            )

    def _session(self) -> Session:
        if self._sftp is None:
            self._sftp = self._new_session()
        return self._sftp

    def _new_session(self) -> Session:
        settings = self._settings
        return Session(self._connection.transport, settings.timeout, settings.max_rate)


def delay_before(settings: Settings, tries: int) -> float:
    """Return how many seconds to wait after so many tries: each time twice as long."""
    return min(settings.retry_delay * 2.0 ** (tries - 1), MAX_DELAY)


class Sums:
    """The sha256 of remote files: told beside them, or by the host's own sha256sum meanwhile.

    Args:
        host: Whose.
        settings: For the trying again.
        missing: The paths that the host is to be asked for.
        beside: What is known already.
    """

    def __init__(
        self, host: Host, settings: Settings, missing: list[str], beside: dict[str, str]
    ) -> None:
        self._host = host
        self._settings = settings
        self._missing = missing
        self._end = float("inf")
        self.beside = beside
        self.asked: dict[str, str] = {}
        self._cut: NetworkError | None = None
        self._thread = threading.Thread()
        if missing:
            self._start()

    def _start(self) -> None:
        self._cut = None
        self._thread = threading.Thread(target=self._ask, name="sha256sum", daemon=True)
        self._thread.start()

    def _ask(self) -> None:
        programs = list(checksums.PROGRAMS)
        missing = [path for path in self._missing if path not in self.asked]
        for arguments, paths in checksums.batches(missing):
            while programs:
                command = programs[0] + b" " + arguments
                try:
                    output = self._host.ask(command, lambda: self._end - time.monotonic())
                except NetworkError as error:
                    self._cut = error
                    return
                found = checksums.told(output, paths) if output is not None else None
                if found is not None:
                    self.asked.update(found)
                    break
                programs.pop(0)  # what it cannot do once, it need not be asked again

    def result(self, seconds: float) -> dict[str, str]:
        """Return the sha256 by path, of those that the host tells.

        Args:
            seconds: How long to wait for it at most, after a cut once more.

        Raises:
            AuthError: The host does not take us back after a cut.
        """
        if self._cut:  # while there was more to come, and somebody connected again
            self._start()
        most = self._settings.max_tries
        for tries in range(1, most + 1):
            try:
                if tries > 1:
                    time.sleep(delay_before(self._settings, tries - 1))
                    self._host.reconnect()
                    self._start()
                self._end = time.monotonic() + seconds
                self._wait()
                # Only now: some hosts send nothing else while they look.
                missing = [path for path in self._missing if path not in self.asked]
                self.asked.update(self._host.checksums(missing, seconds))
                break
            except NetworkError as error:
                log.warning("try %d of %d to ask for checksums: %s", tries, most, error)
        return {**self.asked, **self.beside}

    def _wait(self) -> None:
        """Wait for the answers, while the host shows that it is there."""
        while self._thread.is_alive() and (left := self._end - time.monotonic()) > 0:
            self._thread.join(min(left, self._settings.timeout))
            if self._thread.is_alive():
                self._host.facts(".")
        if self._cut:
            raise self._cut


class _Pace:
    """Keeps to a rate: bytes per second, or 0 for none."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._free = time.monotonic()  # when the bytes so far have had their time

    def keep(self, count: int) -> None:
        """Wait until so many bytes may have come."""
        if not self._rate:
            return
        now = time.monotonic()
        self._free = max(self._free, now - 1) + count / self._rate  # at most a second's worth late
        if self._free > now:
            time.sleep(self._free - now)


class _Link:
    """Tells when a link, and not a processor, is what a fetch waits for.

    Attributes:
        changed: Whether the connection is to be made anew, with what was found out.
    """

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._count = 0
        self.changed = False

    def slow(self, block: bytes) -> bool:
        """Count a block; whether the link is slow, and blocks like this one can be packed."""
        self._count += len(block)
        seconds = time.monotonic() - self._start
        if self._count < SLOW_AFTER or self._count > SLOW_RATE * seconds:
            return False
        self._start, self._count = time.monotonic(), 0  # look again later, at other data
        return len(zlib.compress(block, 1)) < len(block) * WELL_PACKED


class Stream:
    """The bytes of a remote file, in order, read once.

    Reading raises `IntegrityError` where fewer or more bytes come than the host's size, or the
    file changed meanwhile, and `NetworkError` where the connection is lost for good.
    """

    def __init__(self, path: str, start: int, items: Iterator[bytes | None]) -> None:
        self.path = path
        self.start = start
        self._items = items
        self._rest = b""
        self._ended = False

    def read(self, size: int = -1) -> bytes:
        """Return at most `size` bytes (some, not none, before the end), or b"" at the end."""
        if not self._rest and not self._ended:
            block = next(self._items)
            self._ended = block is None
            self._rest = block or b""
        if not 0 <= size < len(self._rest):
            block, self._rest = self._rest, b""
            return block
        block, self._rest = self._rest[:size], self._rest[size:]
        return block

    def __iter__(self) -> Iterator[bytes]:
        """Yield the rest, block by block."""
        while block := self.read():
            yield block


# --- host keys ----------------------------------------------------------------------------


def scan(settings: Settings) -> list[tuple[str, paramiko.PKey]]:
    """Ask a host for its keys, one of each type, without logging in; gateways are verified.

    Returns:
        The name for known_hosts, and the key, of each.

    Raises:
        NetworkError: The host does not answer, or shows no key of a type that is in use.
    """
    found: dict[str, tuple[str, paramiko.PKey]] = {}
    for kinds in (HOST_KEY_TYPES[:1], HOST_KEY_TYPES[1:4], HOST_KEY_TYPES[4:]):
        connection = _prepared(settings)
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
            _close(connection)
        if key is not None:
            found[key.get_name()] = (name, key)
    if not found:
        raise NetworkError(f"{settings.remote_host_address}: shows no host key of a type in use")
    return list(found.values())


def _shown_key(sock: Any, kinds: tuple[str, ...], timeout: float) -> paramiko.PKey | None:
    """Return the key that a host shows when only `kinds` are offered; None when it has none."""
    with contextlib.closing(Transport(sock)) as transport:
        transport.banner_timeout = timeout
        transport.get_security_options().key_types = known(
            kinds, transport.get_security_options().key_types
        )
        try:
            transport.start_client(timeout=timeout)
        except paramiko.ssh_exception.IncompatiblePeer:
            return None
        return transport.get_remote_server_key()


# --- what went wrong ----------------------------------------------------------------------


@contextlib.contextmanager
def translated(where: str) -> Iterator[None]:
    """Turn what paramiko, Fabric and the socket raise into the project's errors.

    Args:
        where: The path or address, for the error's text.
    """
    try:
        yield
    except LighterageError:
        raise
    except Exception as error:  # a host that sends nonsense makes paramiko raise anything
        log.debug("%s: %r", where, error, exc_info=True)
        raise _translated(where, error) from error


def _translated(where: str, error: Exception) -> LighterageError:
    reason = printable(str(error)) or type(error).__name__
    if isinstance(error, paramiko.SSHException):
        return _of_ssh(where, error, reason)
    if isinstance(error, NoValidConnectionsError):
        first = cast("OSError", next(iter(error.errors.values())))
        return NetworkError(f"{where}: {first.strerror or first}", transient=True)
    if isinstance(error, socket.gaierror):
        again = error.errno == socket.EAI_AGAIN
        return NetworkError(f"{where}: the name is not known: {error.strerror}", transient=again)
    if isinstance(error, TimeoutError):
        return NetworkError(f"{where}: timed out: no byte came in time", transient=True)
    if isinstance(error, EOFError):
        return NetworkError(f"{where}: the host closed the connection", transient=True)
    if not isinstance(error, OSError):
        return NetworkError(f"{where}: the host's answer makes no sense: {reason}", transient=True)
    if isinstance(error, FileNotFoundError) or error.errno == errno.ENOENT:
        return RemotePathError(f"{where}: no such file or directory on the host")
    if error.errno in {errno.EACCES, errno.EPERM}:
        return RemotePathError(f"{where}: this account has no permission to read it")
    if isinstance(error, ConnectionError) or error.errno is not None:
        return NetworkError(f"{where}: {error.strerror or reason}", transient=True)
    if reason == "Socket is closed":
        return NetworkError(f"{where}: the connection was lost", transient=True)
    return RemotePathError(f"{where}: the host cannot read it: {reason}")


def _of_ssh(where: str, error: paramiko.SSHException, reason: str) -> LighterageError:
    if isinstance(error, paramiko.BadHostKeyException):
        return AuthError(
            f"{where}: the host key CHANGED: known {error.expected_key.fingerprint}, shown "
            f"{error.key.fingerprint}; somebody may be in between. If the host was set up anew, "
            f"remove its lines from envs/known_hosts, then `make trust`"
        )
    if isinstance(error, sftp.NoSftpError):
        return NetworkError(f"{where}: the account has no SFTP, which this needs")
    if isinstance(error, paramiko.AuthenticationException):
        if "timeout" in reason.lower():
            return NetworkError(f"{where}: timed out while logging in", transient=True)
        if "transport shut down" in reason:  # a cut, or a host that has seen too many wrong keys
            return NetworkError(f"{where}: closed while logging in", transient=True)
        return AuthError(f"{where}: login denied: {reason}")
    if reason == "No existing session":  # paramiko goes on without one when its time is up
        return NetworkError(f"{where}: timed out while agreeing on keys", transient=True)
    if "No authentication methods" in reason:
        return AuthError(
            f"{where}: nothing to log in with: set PASSWORD, PASSWORD_FILE or SSH_KEY_FILE"
        )
    if isinstance(error, paramiko.PasswordRequiredException) or "passphrase" in reason:
        return AuthError(f"{where}: a key has a passphrase: set SSH_KEY_PASSPHRASE_FILE")
    if isinstance(error, paramiko.ChannelException):
        refused = error.code == 2  # the gateway could not connect onwards (RFC 4254, 5.1)
        return NetworkError(f"{where}: refused by the host: {reason}", transient=refused)
    if isinstance(error, paramiko.ssh_exception.IncompatiblePeer):
        return NetworkError(f"{where}: no cipher or key type in common: {reason}")
    return NetworkError(f"{where}: {reason}", transient=True)
