"""Texts in settings of shards: the id of a run, and a list of hosts."""

from __future__ import annotations

import re

from tasks.fetch.dial import split_address

_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SEPARATOR = re.compile(r"\s*,\s*")


class RunId(str):
    """The id of a run, which its shards share: a part of keys and of file names. Empty for none."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> RunId:
        """Return the id; raise `ValueError` where it has a character that keys or names lack."""
        if text and not _RUN_ID.fullmatch(text):
            raise ValueError(text)
        return cls(text)


class Hosts(str):
    """One host, or several with commas between."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Hosts:
        """Return the hosts.

        Raises:
            ValueError: One is empty or named twice.
            ConfigError: One of several is no address; a single one is checked by who connects.
        """
        found = _SEPARATOR.split(text.strip())
        if len(found) > 1 and (not all(found) or len(set(found)) < len(found)):
            raise ValueError(text)
        for host in found if len(found) > 1 else []:
            split_address(host)
        return cls(",".join(found))

    @property
    def each(self) -> list[str]:
        """Return each host."""
        return self.split(",") if self else []
