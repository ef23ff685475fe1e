"""Print the JSON Schema of config.yaml, for editors; made from tasks/settings.py.

`make fmt` writes docs/config.schema.json, and `make check` compares it. The schema accepts every
value that a run accepts. It cannot check all that a run checks, such as the name of a time zone.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from docker.setup.project import Failure
from docker.tools.context import Context, Variant
from tasks import setting_types as types
from tasks import settings as declared
from tasks.fetch.patterns import AfterAction, DatePattern, Marker
from tasks.fetch.rate import Rate
from tasks.fetch.shards.names import Hosts, RunId

# What editors know best: yaml-language-server reads this draft completely.
DRAFT = "http://json-schema.org/draft-07/schema#"

_TEXT = {"type": "string", "pattern": "^[^\\u0000]*$"}
_NAME = {**_TEXT, "minLength": 1}
_PATH = {"type": ["string", "null"], "pattern": "^[^\\u0000]*$"}
_TEXTS = {"anyOf": [_TEXT, {"type": "array", "items": _NAME}]}
_NUMBER = r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*"
_DURATION = r"\s*\d+(\.\d+)? *[smhdSMHD]?\s*"
_SIZE = r"\s*\d+(\.\d+)? *[kmgtKMGT]?[iI]?[bB]?(/[sS])?\s*"


def _number(kind: str, pattern: str, **more: Any) -> dict[str, Any]:
    """Return the schema of a number, which may be written as text as well."""
    return {"anyOf": [{"type": kind, **more}, {"type": "string", "pattern": f"^{pattern}$"}]}


FORMS: dict[Any, dict[str, Any]] = {
    int: _number("integer", _NUMBER),
    float: _number("number", _NUMBER, exclusiveMaximum=1e12),
    str: _TEXT,
    Path: _NAME,
    Path | None: _PATH,
    Path | str | None: _PATH,
    types.Size: _number("number", _SIZE),
    types.Duration: _number("number", _DURATION),
    types.Duration | None: {
        "anyOf": [*_number("number", f"({_DURATION})?")["anyOf"], {"type": "null"}]
    },
    types.Port: _number("integer", r"\d{1,5}", maximum=65535),
    types.StringList: _TEXTS,
    types.TimeZone: _TEXT,
    Rate: _number("number", r"\s*\d[^\u0000]*", minimum=0),
    AfterAction: {"type": "string", "pattern": r"^(keep|delete|move:/*[^/\u0000][^\u0000]*)$"},
    DatePattern: {"type": "string", "pattern": "^$|%[Yy]"},
    Marker: {"type": "string", "pattern": r"^[^/?\[\]\u0000]*$"},
    RunId: {"type": "string", "pattern": "^([A-Za-z0-9][A-Za-z0-9._-]{0,63})?$"},
    Hosts: _TEXTS,
}
"""What YAML may have for each type of a setting; `_form` adds words and limits."""


def schema(context: Context) -> int:
    """Print the schema, for the variants of this clone.

    Raises:
        Failure: A setting has a type that is not in `FORMS`.
    """
    variants = [variant.name for variant in Variant.all(context)]
    found = config_schema(variants)
    # A line for each definition, so that a change of a setting is a change of a line.
    lines = [f"    {_json(name)}: {_json(form)}" for name, form in found.pop("definitions").items()]
    head = json.dumps(found, indent=2, ensure_ascii=False).removesuffix("\n}")
    print(f'{head},\n  "definitions": {{\n' + ",\n".join(lines) + "\n  }\n}")
    return 0


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def config_schema(variants: list[str]) -> dict[str, Any]:
    """Return the schema.

    Args:
        variants: The names that may stand under `variants` and in a task's section.

    Raises:
        Failure: A setting has a type that is not in `FORMS`.
    """
    settings = {name: {"$ref": f"#/definitions/{name}"} for name in declared.CONFIGURABLE}
    own = {variant: {"$ref": "#/definitions/settings"} for variant in variants}
    return {
        "$schema": DRAFT,
        "title": "config.yaml of Lighterage",
        "description": "Made from tasks/settings.py by `make fmt`.",
        **_section(
            {
                "common": {"$ref": "#/definitions/settings"},
                "variants": _section(own, "by variant; these override `common`"),
                "tasks": {
                    "description": "by task: N of tasks/task_N.py; these override `variants`",
                    "type": ["object", "null"],
                    "additionalProperties": {"$ref": "#/definitions/task"},
                },
            }
        ),
        "definitions": {
            "settings": _section(settings, "settings"),
            "task": _section({**settings, **own}, "settings, and a section for each variant"),
            **{name: _setting(name) for name in declared.CONFIGURABLE},
        },
    }


def _section(properties: dict[str, Any], description: str = "") -> dict[str, Any]:
    about = {"description": description} if description else {}
    found = {"type": ["object", "null"], "properties": properties, "additionalProperties": False}
    return {**about, **found}


def _setting(name: str) -> dict[str, Any]:
    """Return the schema of one setting, with its line of `--help` and its default."""
    field = declared.FIELDS[name]
    found = {"description": field.metadata["help"].replace("%%", "%"), **_form(name)}
    default = field.default
    if default in (None, "", ()):
        return found
    # Plain types: the setting's own are subclasses.
    for kind in (bool, int, float):
        if isinstance(default, kind):
            return {**found, "default": kind(default)}
    return {**found, "default": str(default)}


def _form(name: str) -> dict[str, Any]:
    wanted, least = declared.TYPES[name], declared.FIELDS[name].metadata.get("least")
    if wanted is bool:
        words = "|".join(map(_in_any_case, types.BOOLEANS))
        return {"anyOf": [{"type": "boolean"}, {"type": "string", "pattern": f"^({words})$"}]}
    words_of = declared.choices(name).split("|") if declared.choices(name) else []
    if words_of:
        plain = [{"true": True, "false": False}.get(word, word) for word in words_of]
        pattern = "|".join(map(_in_any_case, words_of))
        return {"anyOf": [{"enum": plain}, {"type": "string", "pattern": f"^({pattern})$"}]}
    if wanted not in FORMS:
        raise Failure(f"docker/tools/schema.py: FORMS lacks {wanted}, the type of {name}", 1)
    form = FORMS[wanted]
    if least is None:
        return form
    number, *others = form["anyOf"]
    return {"anyOf": [{**number, "minimum": least}, *others]}


def _in_any_case(word: str) -> str:
    """Return a pattern for a word in any case: JSON Schema has no flag for it."""
    return "".join(f"[{c.upper()}{c.lower()}]" if c.isalpha() else c for c in word)
