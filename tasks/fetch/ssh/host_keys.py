"""Host keys: which ones a connection accepts, and where new ones are remembered.

known_hosts is read as sshd(8) describes it and OpenSSH does it: paramiko's own reader knows no
wildcards, negation or markers, and fails at a line that it cannot parse.
"""

from __future__ import annotations

import base64
import errno
import fcntl
import hashlib
import logging
import os
import re
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import paramiko

from tasks.fetch.errors import (
    ConfigError,
    HostKeyError,
)
from tasks.fetch.ssh.transport import Transport

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import fabric

    from tasks.settings import Settings


log = logging.getLogger(__name__)

CERT_AUTHORITY = "@cert-authority"
REVOKED = "@revoked"

_accepted: dict[tuple[Path, str], bytes] = {}
"""The new keys that this process accepted, by known_hosts file and host: it accepts no second one
for the same host, even where the file could not be written or was emptied meanwhile."""


@dataclass(frozen=True)
class KnownKey:
    """A line of known_hosts.

    Attributes:
        number: Of the line.
        marker: `@cert-authority`, `@revoked`, or nothing.
        hosts: Its patterns, or one hashed name.
        kind: The key's type, as `ssh-ed25519`.
        blob: The key as the host shows it; empty where the line cannot be parsed.
    """

    number: int
    marker: str
    hosts: str
    kind: str = ""
    blob: bytes = b""

    @property
    def fingerprint(self) -> str:
        """The fingerprint as OpenSSH shows it."""
        digest = base64.b64encode(hashlib.sha256(self.blob).digest())
        return f"{self.kind} SHA256:{digest.decode().rstrip('=')}"

    def applies_to(self, name: str) -> bool:
        """Return whether the line is about a host: `host`, or `[host]:port`."""
        if self.hosts.startswith("|"):
            return _is_hash_of(self.hosts, name)
        found = False
        for pattern in self.hosts.split(","):
            if _matches(pattern.removeprefix("!"), name):
                if pattern.startswith("!"):
                    return False
                found = True
        return found


def _matches(pattern: str, name: str) -> bool:
    expression = re.escape(pattern.lower()).replace(r"\*", ".*").replace(r"\?", ".")
    return re.fullmatch(expression, name, re.DOTALL) is not None


def _is_hash_of(hashed: str, name: str) -> bool:
    try:
        return paramiko.HostKeys.hash_host(name, hashed) == hashed
    except (ValueError, IndexError, AssertionError):  # no hash of the one kind that there is
        return False


def parse(data: bytes) -> Iterator[KnownKey]:
    """Yield the lines of a known_hosts file, comments and empty ones aside."""
    text = data.decode("utf-8-sig", "surrogateescape")
    for number, line in enumerate(text.split("\n"), 1):
        fields = line.strip(" \t\r").replace("\t", " ").split(" ")
        fields = [field for field in fields if field]
        if not fields or fields[0].startswith("#"):
            continue
        marker = fields.pop(0) if fields[0].startswith("@") else ""
        yield _parsed(number, marker, fields)


def _parsed(number: int, marker: str, fields: list[str]) -> KnownKey:
    hosts, kind, encoded = (*fields[:3], "", "", "")[:3]
    try:
        blob = base64.b64decode(encoded, validate=True)
    except ValueError:
        blob = b""
    announced = len(kind).to_bytes(4, "big") + kind.encode("utf-8", "surrogateescape")
    if marker not in {"", CERT_AUTHORITY, REVOKED} or not blob.startswith(announced):
        return KnownKey(number, marker, hosts)
    return KnownKey(number, marker, hosts, kind, blob)


class HostKeyPolicy(paramiko.MissingHostKeyPolicy):
    """The host keys that the connections of a variant accept.

    Paramiko asks a policy about each key that its own list has not, and that list stays empty.

    Args:
        settings: Name the file, and whether new keys are accepted.
    """

    def __init__(self, settings: Settings) -> None:
        self._file = settings.known_hosts_file
        self._accept_new = settings.host_keys == "accept-new"

    def transport(self, name: str, sock: Any, **options: Any) -> Transport:
        """Make the transport of a connection to `name`, which asks for a known key first."""
        types = {line.kind for line in self._lines(self._read(), name) if not line.marker}
        return Transport(sock, known_key_types=types, **options)

    def missing_host_key(self, _client: Any, hostname: str, key: paramiko.PKey) -> None:
        """Return where a host may show this key.

        Raises:
            HostKeyError: It may not.
        """
        name = hostname.lower()
        if self._is_known(self._read(), name, key):
            return
        if not self._accept_new:
            raise HostKeyError(
                f"{name} is not in {self._file}: it shows {key.get_name()} {key.fingerprint}; "
                f"run `make trust HOST={_address_of(name)}`, and compare the fingerprint"
            )
        try:
            self._remember(name, key)
            remembered = f"remembered in {self._file}"
        except OSError as error:
            remembered = f"but not remembered in {self._file}: {error.strerror}"
        _accepted[self._file, name] = key.asbytes()
        log.warning(
            "%s is new: accepted %s %s, %s", name, key.get_name(), key.fingerprint, remembered
        )

    def _read(self) -> bytes:
        try:
            return self._file.read_bytes()
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise ConfigError(f"{self._file}: cannot be read as known_hosts: {error}") from error

    def _lines(self, data: bytes, name: str) -> list[KnownKey]:
        """Return the lines about a host."""
        found = []
        for line in parse(data):
            if line.applies_to(name):
                found.append(line)
            elif not line.blob:
                log.debug("%s:%d: cannot be parsed, skipped", self._file, line.number)
        return found

    def _is_known(self, data: bytes, name: str, key: paramiko.PKey) -> bool:
        """Return whether a host is known by this key; False where nothing is known of it.

        Raises:
            HostKeyError: It is known by another key, or this one must not be accepted.
        """
        shown, address = key.asbytes(), _address_of(name)
        lines = self._lines(data, name)
        # As OpenSSH: a line without port is also good for the same key on another port.
        host = name[1:].partition("]")[0] if name.startswith("[") else name
        portless = [line for line in parse(data) if line.applies_to(host)]
        for line in (*lines, *portless):
            if line.marker == REVOKED and line.blob == shown:
                raise HostKeyError(
                    f"{address}: the host key {line.fingerprint} is revoked: "
                    f"{self._file}:{line.number}; ask the host's administrator for the new key"
                )
        accepted = _accepted.get((self._file, name))
        if shown == accepted or any(
            not line.marker and line.blob == shown for line in (*lines, *portless)
        ):
            return True
        plain = [line.fingerprint for line in lines if line.blob and not line.marker]
        if accepted:
            plain.append("the key that this run accepted before")
        if plain:
            raise HostKeyError(
                f"{address}: the host key CHANGED: known {', '.join(plain)}, shown "
                f"{key.get_name()} {key.fingerprint}; somebody may be in between. If the host was "
                f"set up anew, remove its lines from {self._file}, then `make trust`"
            )
        for line in lines:
            if not line.blob:
                raise HostKeyError(
                    f"{self._file}:{line.number}: the line for {address} cannot be parsed: remove "
                    f"it, then `make trust HOST={address}`, and compare the fingerprint"
                )
            if line.marker == CERT_AUTHORITY:
                raise HostKeyError(
                    f"{self._file}:{line.number}: trusts {address} by {CERT_AUTHORITY}, which is "
                    f"not supported: run `make trust HOST={address}`, and compare the fingerprint "
                    f"({key.get_name()} {key.fingerprint})"
                )
        return False

    def _remember(self, name: str, key: paramiko.PKey) -> None:
        """Append a key to known_hosts, unless another process just did.

        Raises:
            HostKeyError: Another process just accepted another key for the same host.
        """
        self._file.parent.mkdir(parents=True, exist_ok=True)
        while True:
            # Not truncated, and only ever appended to: another process may write meanwhile.
            fd = os.open(self._file, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
            with os.fdopen(fd, "r+b", buffering=0) as file:
                fcntl.flock(fd, fcntl.LOCK_EX)
                if not self._file.exists() or not os.path.samestat(os.fstat(fd), self._file.stat()):
                    continue  # replaced by another file before the lock was ours
                data = file.read()
                if self._is_known(data, name, key):
                    return
                line = f"{name} {key.get_name()} {key.get_base64()}\n".encode()
                text = line if not data or data.endswith(b"\n") else b"\n" + line
                if file.write(text) != len(text):
                    file.truncate(len(data))
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return


def _address_of(hostname: str) -> str:
    """Turn a name of known_hosts, `[host]:port`, into host:port."""
    match = re.fullmatch(r"\[(.+)\]:(\d+)", hostname)
    if match is None:
        return hostname
    host, port = match.groups()
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def verify_hop(hop: fabric.Connection, settings: Settings) -> None:
    """Let a hop's connection trust known_hosts, and a new host only where the variant says so."""
    keys = HostKeyPolicy(settings)
    name = hop.host if hop.port == 22 else f"[{hop.host}]:{hop.port}"
    hop.client.set_missing_host_key_policy(keys)
    hop.connect_kwargs["transport_factory"] = partial(keys.transport, name.lower())
