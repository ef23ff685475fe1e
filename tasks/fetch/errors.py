"""What can go wrong, each kind with the exit code that a caller sees.

The codes are part of the public interface: README lists them, and `make` prints them.
"""

from __future__ import annotations

import unicodedata
from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class LighterageError(Exception):
    """A failure that is told to the user in one line.

    Attributes:
        exit_code: What the process exits with.
        kind: The exit code in words.
        transient: Whether the same try may succeed later, so that a retry is worth it.
    """

    exit_code = 1
    kind = "internal error"

    def __init__(self, message: str, *, transient: bool = False) -> None:
        super().__init__(printable(message))
        self.transient = transient


class ConfigError(LighterageError):
    """A wrong argument, setting, config file or environment variable."""

    exit_code = 2
    kind = "usage or configuration"


class RemotePathError(LighterageError):
    """The remote path is missing, of the wrong kind, or not readable by this account."""

    exit_code = 3
    kind = "remote path"


class AuthError(LighterageError):
    """The login was denied, or the host did not show the key that it must have."""

    exit_code = 4
    kind = "authentication or host key"


class HostKeyError(AuthError):
    """The host shows a key that must not be accepted."""


class NetworkError(LighterageError):
    """The host could not be reached, or the connection was lost."""

    exit_code = 5
    kind = "network"


class IntegrityError(LighterageError):
    """The bytes that came are not the bytes that the host has."""

    exit_code = 6
    kind = "integrity"


class ArchiveError(LighterageError):
    """The archive is broken, or holds something that must not be unpacked."""

    exit_code = 7
    kind = "unsafe or broken archive"


class LocalError(LighterageError):
    """The destination cannot be written: permission, space, or something in the way."""

    exit_code = 8
    kind = "local disk"


class BusyError(LighterageError):
    """Another run is landing in the same place."""

    exit_code = 9
    kind = "busy"


class Interrupted(BaseException):
    """SIGINT or SIGTERM arrived; not an `Exception`, so that nothing swallows it.

    Attributes:
        signum: Which.
        landed: Whether the new data was in place already.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum
        self.landed = False

    @property
    def exit_code(self) -> int:
        """128 and the signal's number, as shells have it: 130 or 143."""
        return 128 + self.signum


def printable(text: str) -> str:
    """Return `text` on one line, with control characters escaped.

    Names come from hosts and archives that are not trusted; a terminal must not obey them.
    """
    return "".join(
        char.encode("unicode_escape").decode("ascii")
        if unicodedata.category(char) in {"Cc", "Cf", "Cs", "Zl", "Zp"}
        else char
        for char in text
    )


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ` (did you mean X?)` for the known word most similar to `word`, or nothing."""
    close = get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" (did you mean {close[0]}?)" if close else ""
