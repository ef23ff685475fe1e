"""Host keys: which ones a connection accepts, and where new ones are remembered."""

from __future__ import annotations

import fcntl
import logging
import re
from typing import TYPE_CHECKING, Any

import paramiko

from tasks.engine.errors import (
    AuthError,
    ConfigError,
)

if TYPE_CHECKING:
    from tasks.settings import Settings


log = logging.getLogger(__name__)


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


def verify_hop(client: paramiko.SSHClient, settings: Settings) -> None:
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
