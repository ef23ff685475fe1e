"""Texts in settings of the arrival: a date in a name, a marker file, what follows a landing."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from fnmatch import fnmatchcase

_DIRECTIVES = {
    "Y": r"\d{4}", "y": r"\d{2}", "m": r"\d{2}", "d": r"\d{2}", "j": r"\d{3}", "H": r"\d{2}",
    "M": r"\d{2}", "S": r"\d{2}", "b": "[A-Za-z]{3}", "%": "%",
}  # fmt: skip
"""Those of a fixed width."""


class DatePattern(str):
    """A date's form, such as `%Y-%m-%d` or `%Y%m%d_%H%M`; empty for none."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> DatePattern:
        """Return the pattern; raise `ValueError` unless it has a year and known directives."""
        used = re.findall("%(.?)", text.replace("%%", ""))
        is_known = all(letter in _DIRECTIVES and used.count(letter) == 1 for letter in used)
        if text and not (is_known and {"Y", "y"} & set(used)):
            raise ValueError(text)
        return cls(text)

    def date_in(self, path: str) -> datetime | None:
        """Return the first date of this form in a path's name, not within a longer number."""
        parts = re.split("%(.)", self)
        expression = "".join(
            _DIRECTIVES[part] if number % 2 else re.escape(part)
            for number, part in enumerate(parts)
        )
        name = path.rpartition("/")[2]
        for match in re.finditer(rf"(?=((?<!\d){expression}(?!\d)))", name):
            try:
                return datetime.strptime(match[1], self).replace(tzinfo=UTC)
            except ValueError:  # as month 13
                continue
        return None


class Marker(str):
    """The name of a marker file; `*` stands for the name of the source. Empty for none."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Marker:
        """Return the name; raise `ValueError` where it has a path or other wildcards."""
        if text and (not text.strip("*.") or text.count("*") > 1 or set(text) & set("/?[]")):
            raise ValueError(text)
        return cls(text)

    def is_name_of(self, path: str) -> bool:
        """Whether a path is that of a marker of any source."""
        return fnmatchcase(path.rpartition("/")[2], self)

    def places(self, path: str, stem: str) -> list[str]:
        """Return where the marker of a file may be: beside it, by its name or by its stem."""
        folder, slash, name = path.rpartition("/")
        wanted = dict.fromkeys(self.replace("*", text) for text in (name, stem))
        return [folder + slash + one for one in wanted]


class AfterAction(str):
    """What to do with a source on the host once it has landed: `keep`, `delete`, `move:FOLDER`."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> AfterAction:
        """Return the action; raise `ValueError` where it is none of these."""
        action, colon, folder = text.partition(":")
        if text not in {"keep", "delete"} and not (
            action == "move" and colon and folder.strip("/")
        ):
            raise ValueError(text)
        return cls(text.rstrip("/"))

    @property
    def folder(self) -> str:
        """The folder to move to; empty for the other actions."""
        return self.partition(":")[2]
