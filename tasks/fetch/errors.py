"""The kinds of failure, and the exit code of each.

The codes are part of the public interface: README lists them, and `make` prints them.
"""

from __future__ import annotations

import unicodedata
from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class LighterageError(Exception):
    """A failure that the user is shown: what failed and why, and what to do.

    As text it is all of this in one line, without the default advice.

    Attributes:
        exit_code: The exit code of the process.
        kind: The exit code in words.
        default_advice: What to do, where a failure of this kind says nothing more specific.
        text: What failed, and why.
        advice: What to do.
        transient: Whether a retry may succeed.
        delay_factor: How many times longer than usual to wait before a retry.
    """

    exit_code = 1
    kind = "internal error"
    default_advice = "run it again with --log-level DEBUG, and report the output as a bug"
    delay_factor = 1.0

    def __init__(self, text: str, *, advice: str = "", transient: bool = False) -> None:
        self.text = printable(text)
        self.advice = printable(advice) or self.default_advice
        self.transient = transient
        super().__init__(f"{self.text}: {self.advice}" if advice else self.text)


class ConfigError(LighterageError):
    """A wrong argument, setting, config file or environment variable."""

    exit_code = 2
    kind = "usage or configuration"
    default_advice = (
        "correct it; docs/settings.md describes all settings, and --help the command line"
    )


class RemotePathError(LighterageError):
    """The remote path is missing, of the wrong kind, or not readable by this account."""

    exit_code = 3
    kind = "remote path"
    default_advice = "check remote_file_path, and the permissions of this account on the host"


class MissingError(RemotePathError):
    """There is no such remote file, or it is not complete: it may be later.

    Attributes:
        path: The path or glob that nothing on the host has, where the error is of one.
    """

    default_advice = "check remote_file_path; where the file comes later, set wait_for"

    def __init__(self, text: str, *, advice: str = "", path: str = "") -> None:
        super().__init__(text, advice=advice)
        self.path = path


class AuthError(LighterageError):
    """The login was refused, or the host did not present the expected key."""

    exit_code = 4
    kind = "authentication or host key"
    default_advice = "check USERNAME, and the key or the password"


class HostKeyError(AuthError):
    """The host presents a key that must not be accepted."""


class NetworkError(LighterageError):
    """The host could not be reached, or the connection was lost."""

    exit_code = 5
    kind = "network"
    default_advice = "check that the host is reachable from this machine, and run it again"


class IntegrityError(LighterageError):
    """The downloaded data differs from the remote file."""

    exit_code = 6
    kind = "integrity"
    default_advice = (
        "run it again; if it fails again, check whether a program writes to the file on the host"
    )


class ArchiveError(LighterageError):
    """The archive is broken, or contains something that must not be extracted."""

    exit_code = 7
    kind = "unsafe or broken archive"
    default_advice = (
        "test the archive on the host, as with `unzip -t` or `tar -tf`, and have it written again"
    )


class LocalError(LighterageError):
    """The target cannot be written: permission, space, or files of something else."""

    exit_code = 8
    kind = "local disk"
    default_advice = "check the disk, and who may write to the folder"


class SpaceError(LocalError):
    """The disk of the target is full, or the account may not use more of it."""

    default_advice = "free space there, or set file_save_path to a folder on another disk"


class StoreError(LocalError):
    """An object store refuses a request: permission, a missing bucket, objects of others."""

    kind = "object store"
    default_advice = "check the bucket, and the permissions of the account in it"


class BusyError(LighterageError):
    """Another run uses the same target."""

    exit_code = 9
    kind = "busy"
    default_advice = "run it again when the other run has ended"


class CsvError(LighterageError):
    """The columns of a CSV are not those that are published, or it cannot become Parquet."""

    exit_code = 10
    kind = "CSV"
    default_advice = "correct the CSV on the host, or leave it out with `exclude`"


class Interrupted(BaseException):
    """A signal arrived; not an `Exception`, so that no `except Exception` catches it.

    Attributes:
        signum: SIGINT, SIGTERM or SIGHUP.
        landed: Whether the new data was already published.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum
        self.landed = False

    @property
    def exit_code(self) -> int:
        """128 plus the signal's number, as in shells: 129 (SIGHUP), 130 (SIGINT), 143 (SIGTERM)."""
        return 128 + self.signum


def printable(text: str) -> str:
    """Return `text` on one line, with control characters escaped.

    Names of hosts and archives are not trusted: a terminal must not interpret them.
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
