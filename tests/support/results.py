"""Results for programs, checked against docs/result.schema.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema

SCHEMA = json.loads((Path(__file__).parents[2] / "docs/result.schema.json").read_text("utf-8"))
_VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
_DOCUMENTED = {
    *SCHEMA["properties"],
    *(name for part in SCHEMA["$defs"].values() for name in part.get("properties", ())),
}


def valid(text: str, code: int) -> Any:
    """Require a result of a run that ended with an exit code, all of it documented; return it."""
    data = json.loads(text)
    _VALIDATOR.validate(data)
    assert data.keys() <= _DOCUMENTED
    assert data["exit_code"] == code
    return data


def last_line(text: str, code: int) -> Any:
    """Require a result in the last of some lines."""
    assert text.endswith("}\n")
    return valid(text.splitlines()[-1], code)
