"""Host keys: which ones a connection accepts, and where new ones are remembered."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
from functools import partial
from pathlib import Path
from typing import Any

import fabric
import paramiko

from tasks.fetch.errors import ConfigError, HostKeyError
from tasks.fetch.ssh.connection_settings import ConnectionSettings
from tasks.fetch.ssh.known_hosts import CERT_AUTHORITY, REVOKED, KnownKey, parse
from tasks.fetch.ssh.transport import Transport

log = logging.getLogger(__name__)

_accepted: dict[tuple[Path, str], bytes] = {}
"""The new keys that this process accepted, by known_hosts file and host: it accepts no second one
for the same host, even where the file could not be written or was emptied since."""


class HostKeyPolicy(paramiko.MissingHostKeyPolicy):
    """The host keys that the connections of a variant accept.

    Paramiko asks a policy about each key that is not in its own list, which stays empty.
    """

    def __init__(self, settings: ConnectionSettings) -> None:
        self._file = settings.known_hosts_file
        self._accept_new = settings.host_keys == "accept-new"

    def transport(self, name: str, sock: Any, **options: Any) -> Transport:
        """Make the transport of a connection to `name`, which asks for a known key first."""
        types = {line.kind for line in self._lines(self._read(), name) if not line.marker}
        return Transport(sock, known_key_types=types, **options)

    def missing_host_key(self, _client: Any, hostname: str, key: paramiko.PKey) -> None:
        """Accept the key of a host, as paramiko asks for each.

        Raises:
            HostKeyError: The key is not trusted.
        """
        name = hostname.lower()
        if self._is_known(self._read(), name, key):
            return
        if not self._accept_new:
            raise HostKeyError(
                f"{name} is not in {self._file}: it shows {key.get_name()} {key.fingerprint}",
                advice=f"run `make trust HOST={_address_of(name)}`, and compare the fingerprint",
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
            raise ConfigError(
                f"{self._file}: cannot be read as known_hosts: {error}",
                advice="correct it, or remove it and run `make trust`",
            ) from error

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
        """Return whether the key is known, False where no line is about the host; else raise."""
        offered, address = key.asbytes(), _address_of(name)
        lines = self._lines(data, name)
        # As OpenSSH: a line without port is also good for the same key on another port.
        host = name[1:].partition("]")[0] if name.startswith("[") else name
        portless = [line for line in parse(data) if line.applies_to(host)]
        for line in (*lines, *portless):
            if line.marker == REVOKED and line.blob == offered:
                raise HostKeyError(
                    f"{address}: the host key {line.fingerprint} is revoked: "
                    f"{self._file}:{line.number}",
                    advice="ask the host's administrator for the new key",
                )
        accepted = _accepted.get((self._file, name))
        if offered == accepted or any(
            not line.marker and line.blob == offered for line in (*lines, *portless)
        ):
            return True
        plain = [line.fingerprint for line in lines if line.blob and not line.marker]
        if accepted:
            plain.append("the key that this run accepted before")
        if plain:
            raise HostKeyError(
                f"{address}: the host key CHANGED: known {', '.join(plain)}, shown "
                f"{key.get_name()} {key.fingerprint}; an attacker may intercept the connection",
                advice=f"if the host was reinstalled, remove its lines from {self._file}, then run "
                "`make trust`; else ask the host's administrator",
            )
        for line in lines:
            if not line.blob:
                raise HostKeyError(
                    f"{self._file}:{line.number}: the line for {address} cannot be parsed",
                    advice=f"remove it, then run `make trust HOST={address}`, and compare the "
                    "fingerprint",
                )
            if line.marker == CERT_AUTHORITY:
                raise HostKeyError(
                    f"{self._file}:{line.number}: trusts {address} by {CERT_AUTHORITY}, which is "
                    "not supported",
                    advice=f"run `make trust HOST={address}`, and compare the fingerprint "
                    f"({key.get_name()} {key.fingerprint})",
                )
        return False

    def _remember(self, name: str, key: paramiko.PKey) -> None:
        """Append a key to known_hosts, unless another process just did so for the host."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        while True:
            # Not truncated, and only ever appended to: another process may write at the same time.
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


def verify_hop(hop: fabric.Connection, settings: ConnectionSettings) -> None:
    """Let a hop's connection trust known_hosts, and a new host only where the variant says so."""
    keys = HostKeyPolicy(settings)
    name = hop.host if hop.port == 22 else f"[{hop.host}]:{hop.port}"
    hop.client.set_missing_host_key_policy(keys)
    hop.connect_kwargs["transport_factory"] = partial(keys.transport, name.lower())
