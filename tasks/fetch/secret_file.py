"""Secrets that are files: a password, a passphrase, a URL."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.fetch.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


def read_secret(file: Path | None, setting: str) -> str | None:
    """Read a secret that is a file; its last line ending is not part of it."""
    if file is None:
        return None
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(
            f"{setting} is {file}: there is no such file", advice="create it, or name another"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{setting} is {file}: cannot be read: {error}",
            advice="make it readable; it must be UTF-8",
        ) from error
    text = text.removesuffix("\n").removesuffix("\r")
    if not text:
        raise ConfigError(
            f"{setting} is {file}: the file is empty", advice="put the secret into it"
        )
    return text
