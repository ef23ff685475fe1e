"""The settings that this package reads: a protocol, so that it knows no command line."""

# ruff: noqa: D102 (the comment above each property documents it)

from __future__ import annotations

from pathlib import Path
from typing import Literal, Protocol

from tasks.fetch.rate import Rate


class ConnectionSettings(Protocol):
    """How to reach a host, log in and read from it. Times are seconds, sizes are bytes."""

    # The build variant: it names the env file in an error.
    @property
    def variant(self) -> str: ...
    # `host` or `host:port`.
    @property
    def remote_host_address(self) -> str: ...
    # The account; empty where ssh_config names it.
    @property
    def username(self) -> str: ...
    # Empty for none.
    @property
    def password(self) -> str: ...
    @property
    def password_file(self) -> Path | None: ...
    @property
    def ssh_key_file(self) -> Path | None: ...
    @property
    def ssh_key_passphrase_file(self) -> Path | None: ...
    # The password of jump hosts.
    @property
    def gateway_password_file(self) -> Path | None: ...
    @property
    def host_keys(self) -> Literal["known", "accept-new"]: ...
    @property
    def known_hosts_file(self) -> Path: ...
    @property
    def ssh_config_file(self) -> Path: ...
    # Seconds without a byte until a fault.
    @property
    def timeout(self) -> float: ...
    # Tries in all where faults are transient.
    @property
    def max_tries(self) -> int: ...
    # Seconds before the second try.
    @property
    def retry_delay(self) -> float: ...
    @property
    def max_rate(self) -> Rate: ...
    # Connections to the host at once, 0 for no limit, of all runs with the same folder.
    @property
    def max_connections(self) -> int: ...
    @property
    def connections_folder(self) -> Path: ...
    # The most names of one listing.
    @property
    def max_members(self) -> int: ...
    # Whether commands may run on the host.
    @property
    def exec(self) -> Literal["auto", "never"]: ...
    # Whether to get remote checksums.
    @property
    def verify(self) -> Literal["checksum", "size"]: ...
