"""Env files: one syntax check for the tasks and for make.

Only what docker, compose 1.29, compose v2 and python-dotenv parse alike is accepted. Python 3.9
is enough: make checks env files before .venv exists, and reads the checked values; tasks read
them with python-dotenv.
"""

from __future__ import annotations

import codecs
import re
import unicodedata
from typing import TYPE_CHECKING

from tasks.fetch.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

_LINE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL)
_DIFFERS = re.compile(r"[\"'$#`\\]")
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read(path: Path, name: str = "") -> dict[str, str]:
    """Check the syntax of an env file, and return its variables.

    Args:
        path: The file.
        name: Its name in messages; the path by default.

    Raises:
        ConfigError: The file is not readable, or readers parse one of its lines differently.
    """
    name = name or str(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{name}: cannot be read: {error.strerror or error}", advice="make it readable"
        ) from error
    if content.startswith(_UTF_16):
        raise ConfigError(f"{name}: is UTF-16", advice="save it as UTF-8 without a byte order mark")
    if content.startswith(codecs.BOM_UTF8):
        raise ConfigError(
            f"{name}:1: starts with a byte order mark (BOM)", advice="save it as UTF-8 without one"
        )
    values: dict[str, str] = {}
    for number, line in enumerate(content.split(b"\n"), 1):
        values.update(_variable(line, f"{name}:{number}"))
    return values


def check_names(
    values: Mapping[str, str], name: str, known: Collection[str], settings: Collection[str]
) -> None:
    """Reject a misspelt variable, and a setting that only config.yaml may contain.

    A variable that resembles no setting is for the user's own tasks.

    Args:
        values: What `read` returned.
        name: The file's name in messages.
        known: The variables that the settings read, such as USERNAME.
        settings: The name of each setting, such as max_rate.

    Raises:
        ConfigError: Such a variable, with the most similar name.
    """
    for key in values:
        if key in known:
            continue
        if key.isupper() and key.lower() in settings:
            raise ConfigError(
                f"{name}: {key} is not read from the environment",
                advice=f"set {key.lower()} in config.yaml",
            )
        hint = did_you_mean(key.upper(), known)
        if hint:
            raise ConfigError(
                f"{name}: unknown variable {key}{hint}",
                advice="correct the name, or remove the line; docs/reference.md lists them",
            )


def _variable(line: bytes, where: str) -> dict[str, str]:
    """Return the variable that one line sets, if it sets one."""
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{where}: byte {line[error.start]:#04x} is not UTF-8", advice="save the file as UTF-8"
        ) from None
    if text.endswith("\r"):
        raise ConfigError(
            f"{where}: ends with CRLF (Windows line endings)",
            advice="save the file with LF line endings",
        )
    if not text.strip() or text.startswith("#"):
        return {}
    match = _LINE.fullmatch(text)
    if match is None:
        raise ConfigError(
            f"{where}: not an assignment",
            advice="expected KEY=value, without `export` or spaces around KEY",
        )
    key, value = match.groups()
    if _DIFFERS.search(value) or value != value.strip():
        raise ConfigError(
            f"{where}: the value of {key} has a quote, $, #, `, \\ or a space at an end, which env"
            " file readers parse differently",
            advice="write such a password to envs/secrets/password, and"
            " set PASSWORD_FILE=envs/secrets/password",
        )
    if any(unicodedata.category(char) in {"Cc", "Zl", "Zp"} for char in value.replace("\t", "")):
        raise ConfigError(
            f"{where}: the value of {key} has a control character", advice="remove it"
        )
    return {key: value}
