"""known_hosts: its lines, and which hosts each is about.

Read as sshd(8) describes it and OpenSSH does it: paramiko's own reader knows no wildcards,
negation or markers, and fails at a line that it cannot parse.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass

import paramiko

CERT_AUTHORITY = "@cert-authority"
REVOKED = "@revoked"


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
    except (ValueError, IndexError, AssertionError):  # not a hash of the only known kind
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
