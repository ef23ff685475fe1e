"""The types of settings: how each is written, read and checked.

settings.py declares the settings.
"""

from __future__ import annotations

import re
import typing
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

import msgspec

from tasks.fetch.patterns import AfterAction, DatePattern, Marker
from tasks.fetch.rate import Rate
from tasks.fetch.shards.names import Hosts, RunId

_SIZE_UNITS = ["", "k", "m", "g", "t"]
_SIZE = re.compile(r"(\d+(?:\.\d+)?) *([kmgt]?)(i?)b?(?:/s)?", re.IGNORECASE)
_DURATION = re.compile(r"(\d+(?:\.\d+)?) *([smhd]?)", re.IGNORECASE)
_DURATION_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
BOOLEANS = {
    **dict.fromkeys(("true", "yes", "on", "1"), True),
    **dict.fromkeys(("false", "no", "off", "0"), False),
}


class Size(int):
    """A number of bytes; written as a number, or with a unit: `500MB`, `2GiB`, `20MB/s`."""


class Duration(float):
    """Seconds; written as a number, or with a unit: `90s`, `15m`, `2h`, `7d`."""


class TimeZone(str):
    """The name of a time zone, such as `Europe/Zurich`; empty for that of TZ."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a name; raise an error of `zoneinfo` where there is no such time zone."""
        return cls(text and ZoneInfo(text).key)


class Url(str):
    """The URL of a web server, without a slash at its end. Empty for none."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a URL; raise `ValueError` where it is none of http or https."""
        found = urlsplit(text)
        _ = found.port  # raises for one that is no number
        if text and (found.scheme not in {"http", "https"} or not found.hostname):
            raise ValueError(text)
        if re.search(r"[\x00-\x20\x7f]", text):
            raise ValueError(text)
        return cls(text.rstrip("/"))


class Port(int):
    """A TCP port; 0 for none."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a port; raise `ValueError` where it is none."""
        if not re.fullmatch(r"\d{1,5}", text, re.ASCII) or int(text) > 65535:
            raise ValueError(text)
        return cls(text)


class ExitCode(int):
    """An exit code that a user may choose: 0, or one without another meaning, 11 to 124.

    1 to 10 are failures of Lighterage, 125 to 127 of a container engine or shell, 128 and above
    signals.
    """

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read an exit code; raise `ValueError` where it is none of these."""
        if not re.fullmatch("0|1[1-9]|[2-9][0-9]|1[01][0-9]|12[0-4]", text):
            raise ValueError(text)
        return cls(text)


class StringList(tuple[str, ...]):
    """Some texts; written as one, as a list, or as an option given several times."""

    __slots__ = ()

    def __str__(self) -> str:
        return ", ".join(self)


_TEXT = Annotated[str, msgspec.Meta(pattern="^[^\0]*$")]
_EXPECTED = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    Size: "a size such as 500MB",
    Duration: "a time such as 90s, 15m, 2h or 7d",
    Duration | None: "a time such as 0, 15m, 2h or 7d",
    Rate: "a rate such as 20MB/s, or '20MB/s 08:00-18:00, 50MB/s 18:00-22:00'",
    AfterAction: "keep, delete, or move:FOLDER",
    DatePattern: "a date such as %Y-%m-%d, of %Y %y %m %d %j %b %H %M %S, with a year",
    Marker: "a name such as _SUCCESS or '*.done', with * for the source's name",
    TimeZone: "the name of a time zone, such as Europe/Zurich",
    Url: "a URL such as https://monitor.example/ping/...",
    ExitCode: "an exit code without another meaning: 0, or 11 to 124",
    Port: "a port, 1 to 65535, or 0 for none",
    RunId: "1 to 64 letters, digits, dots, dashes and underscores, with a letter or digit first",
    Hosts: "host or host:port, or a list of different ones",
    StringList: "text, or a list of texts (in quotes, where YAML reads it as something else)",
    Path | str | None: "a path, or a store's URL",
    str: "text (in quotes, where YAML reads it as something else)",
}


def read(value: Any, wanted: Any, least: float | None) -> Any:
    """Convert a value to a type.

    Args:
        value: From YAML, the environment or the command line.
        wanted: The type.
        least: The smallest number.

    Raises:
        ValueError, OverflowError, RuntimeError, LookupError, OSError: It is none of the type.
    """
    if value == "" and type(None) in typing.get_args(wanted):
        return None
    if str in typing.get_args(wanted):  # a path, or the URL of a store
        wanted = str if isinstance(value, str) and "://" in value else Path
    converted = msgspec.convert(
        _normalized(value, wanted),
        _constrained(wanted, least),
        strict=not (wanted in {int, float} and isinstance(value, str)),
        dec_hook=_decode,
    )
    if (
        wanted in {Size, Duration} and converted < least
    ):  # msgspec checks the limits of its own types only
        raise ValueError(value)
    return converted


def choices(wanted: Any) -> tuple[str, ...]:
    """Return the words that a type consists of; nothing for other types."""
    return typing.get_args(wanted) if typing.get_origin(wanted) is Literal else ()


def expected(wanted: Any) -> str:
    """Describe what a type accepts."""
    words = ", ".join(choices(wanted))
    return f"one of {words}" if words else _EXPECTED.get(wanted, "a path")


def _normalized(value: Any, wanted: Any) -> Any:
    """Map the spellings that people use to those of msgspec."""
    if isinstance(value, bool) and str(value).lower() in choices(wanted):
        return str(value).lower()
    if not isinstance(value, str):
        return value
    if wanted is bool:
        return BOOLEANS.get(value.lower(), value)
    return next((word for word in choices(wanted) if word.lower() == value.lower()), value)


def _constrained(wanted: Any, least: float | None) -> Any:
    if wanted is str:
        return _TEXT
    if wanted is int:
        return Annotated[int, msgspec.Meta(ge=least)]
    if wanted is float:
        return Annotated[float, msgspec.Meta(ge=least, lt=1e12)]  # neither nan nor infinite
    return wanted


def _decode(wanted: Any, value: Any) -> Any:
    """Convert to a type that msgspec does not know."""
    if wanted is Rate:
        return Rate.parse(str(value).strip(), lambda text: _decode(Size, text))
    if wanted is Hosts and isinstance(value, list | tuple):
        value = ",".join(_decode(StringList, value))
    if wanted in {AfterAction, DatePattern, Marker, RunId, Hosts, TimeZone, Url}:
        return wanted.parse(msgspec.convert(value, _TEXT))
    if wanted is Duration:
        match = _DURATION.fullmatch(str(value).strip())
        if match is None:
            raise ValueError(value)
        return Duration(float(match[1]) * _DURATION_UNITS[match[2].lower()])
    if wanted is Size:
        match = _SIZE.fullmatch(str(value).strip())
        if match is None:
            raise ValueError(value)
        digits, unit, binary = match.groups()
        return Size(float(digits) * (1024 if binary else 1000) ** _SIZE_UNITS.index(unit.lower()))
    if wanted in {ExitCode, Port}:
        return wanted.parse(str(value))
    if wanted is StringList:
        texts = value if isinstance(value, list | tuple) else [value] if value != "" else []
        if "" in texts:
            raise ValueError(value)
        return StringList(msgspec.convert(texts, list[_TEXT]))
    # a number is no path: 1.10 and 12:30 are other numbers to YAML, and what was written is lost
    text = msgspec.convert(value, _TEXT)
    if not text:
        raise ValueError(value)
    return Path(text).expanduser()
