"""The settings that this package reads: a protocol, so that it knows no command line."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Protocol


class ConnectionSettings(Protocol):
    """How to reach a host, log in and read from it. Times are seconds, sizes are bytes."""

    @property
    def variant(self) -> str:
        """Name of the build variant: names the env file in an error."""

    @property
    def remote_host_address(self) -> str:
        """Return `host` or `host:port`."""

    @property
    def username(self) -> str:
        """Return the account; empty where ssh_config names it."""

    @property
    def password(self) -> str:
        """Return the account's password; empty for none."""

    @property
    def password_file(self) -> Path | None:
        """Return the file with the account's password."""

    @property
    def ssh_key_file(self) -> Path | None:
        """Return the private key."""

    @property
    def ssh_key_passphrase_file(self) -> Path | None:
        """Return the file with the key's passphrase."""

    @property
    def gateway_password_file(self) -> Path | None:
        """Return the file with the password for jump hosts."""

    @property
    def host_keys(self) -> Literal["known", "accept-new"]:
        """Return which host keys to trust."""

    @property
    def known_hosts_file(self) -> Path:
        """Return the file of trusted host keys."""

    @property
    def ssh_config_file(self) -> Path:
        """Return the ssh_config."""

    @property
    def timeout(self) -> float:
        """Return how long no byte may arrive."""

    @property
    def max_tries(self) -> int:
        """Return how often to try at transient faults."""

    @property
    def retry_delay(self) -> float:
        """Return how long to wait before the second try."""

    @property
    def max_rate(self) -> int:
        """Return the most bytes in a second, 0 for no limit."""

    @property
    def max_members(self) -> int:
        """Return the most names of one listing."""

    @property
    def verify(self) -> Literal["checksum", "size"]:
        """Return whether to ask for remote checksums."""
