"""docs/config.schema.json, with which editors complete and check config.yaml."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from docker.setup.project import Failure
from docker.tools import schema
from tasks.fetch.errors import ConfigError
from tasks.settings import CONFIGURABLE, FIELDS, TYPES, choices, convert

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((ROOT / "docs/config.schema.json").read_text("utf-8"))
VALIDATOR = jsonschema.Draft7Validator(SCHEMA)
VALUE_VALIDATORS = {
    name: jsonschema.Draft7Validator(SCHEMA["definitions"][name]) for name in CONFIGURABLE
}
PLACES = ["common", "variants.dev", "variants.prod", "tasks.2", "tasks.2.dev", "tasks.10.prod"]


def at(place: str, value: Any) -> dict[str, Any]:
    """Return a config file with a value at a place."""
    for key in reversed(place.split(".")):
        value = {key: value}
    return dict(value)


def accepts(text: str) -> bool:
    """Whether the schema accepts a YAML text; JSON has texts as keys."""
    return bool(VALIDATOR.is_valid(json.loads(json.dumps(yaml.safe_load(text)))))


def is_converted(name: str, value: Any) -> bool:
    """Whether a run accepts a value."""
    try:
        convert(name, value, "config.yaml")
    except ConfigError:
        return False
    return True


def test_schema_is_one_and_that_of_the_settings() -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    assert schema.config_schema(["dev", "prod"]) == SCHEMA


def test_config_file_names_the_schema_and_is_valid() -> None:
    text = (ROOT / "config.yaml").read_text("utf-8")
    assert "\n# yaml-language-server: $schema=docs/config.schema.json\n" in text
    assert accepts(text)


@pytest.mark.parametrize("place", PLACES)
def test_a_key_is_in_the_schema_where_a_run_accepts_it(place: str) -> None:
    """The values are the defaults, or else empty texts."""
    for name in {*FIELDS, "max_trys", "password", "dev"}:
        value: Any = SCHEMA["definitions"].get(name, {}).get("default", "")
        is_variant_of_task = name == "dev" and place.startswith("tasks.") and place.count(".") == 1
        found = at(place, {name: {} if is_variant_of_task else value})
        wanted = name in CONFIGURABLE or is_variant_of_task
        assert VALIDATOR.is_valid(found) == wanted, (name, value)


@pytest.mark.parametrize(
    "text",
    [
        "comon: {}",
        "max_tries: 1",
        "variants: {prd: {}}",
        "variants: {dev: {typo: 1}}",
        "tasks: {2: {prd: {schedule: x}}}",
        "tasks: {2: {dev: {prod: {}}}}",
        "common: 5",
        "tasks: [1, 2]",
        "just words",
        "common: {max_tries: many}",
        "common: {max_tries: 2.5}",
        "common: {max_tries: true}",
        "common: {max_tries: 0}",
        "common: {max_tries: }",
        "common: {retry_delay: -1}",
        "common: {overwrite: 1}",
        "common: {overwrite: maybe}",
        "common: {log_level: LOUD}",
        "common: {max_unpacked_size: 1 PB}",
        "common: {max_unpacked_size: 0}",
        "common: {min_age: soon}",
        "common: {settle: true}",
        "common: {since_last: [1h]}",
        "common: {max_rate: fast}",
        "common: {file_save_path: 5}",
        "common: {known_hosts_file: ''}",
        "common: {remote_file_path: [1]}",
        "common: {include: ['']}",
        "common: {username: 007}",
        "common: {after: move}",
        "common: {date_pattern: '%m-%d'}",
        "common: {marker: '[a]'}",
        "common: {run_id: a/b}",
        "common: {columns: thaw}",
    ],
)
def test_schema_refuses_what_a_run_refuses(text: str) -> None:
    assert not accepts(text)


WRITTEN = [
    *["", " ", "yes", "OFF", "1", "0", "5e0", "-1", "2.5", "nan", "Debug", "TRUE", "text", "a\0b"],
    *["move:done/", "move:/", "%Y-%m-%d", "%y%%", "*.done", "_SUCCESS", "90s", "1.5 H", "500 mb"],
    *[
        "1KiB/s",
        "20MB/s 08:00-18:00, 5MB/s 18:00-22:00",
        "a,b",
        "a, a",
        "h:22",
        "run-1",
        "s3://b/p",
    ],
    *["Europe/Zurich", "~/x", "0 3 * * *"],
    *sorted({word for name in CONFIGURABLE for word in choices(name).split("|")}),
]
VALUES = st.one_of(
    st.sampled_from(WRITTEN),
    st.booleans(),
    st.none(),
    st.integers(-2, 200_000),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=5),
    st.lists(st.one_of(st.sampled_from(WRITTEN), st.integers(), st.text(max_size=3)), max_size=2),
    st.dictionaries(st.text(max_size=2), st.integers(), max_size=1),
)


@given(st.sampled_from(CONFIGURABLE), VALUES)
@settings(derandomize=True, max_examples=300, deadline=None)
def test_schema_accepts_each_value_that_a_run_accepts(name: str, value: Any) -> None:
    if is_converted(name, value):
        assert VALUE_VALIDATORS[name].is_valid(value)


@pytest.mark.parametrize("name", CONFIGURABLE)
def test_each_setting_has_a_description_and_values_of_its_type(name: str) -> None:
    about = SCHEMA["definitions"][name]
    assert about["description"] == FIELDS[name].metadata["help"] % ()
    if "default" in about:
        assert convert(name, about["default"], "") == FIELDS[name].default
    accepted = [text for text in WRITTEN if is_converted(name, text)]
    assert accepted, "a text of each type is tried"
    assert [text for text in accepted if not VALUE_VALIDATORS[name].is_valid(text)] == []
    for wrong in ({"a": 1}, [[1]]):
        assert not VALIDATOR.is_valid({"common": {name: wrong}})


def test_a_type_without_a_form_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TYPES, "max_tries", complex)
    with pytest.raises(Failure, match=r"FORMS lacks .*complex.*, the type of max_tries"):
        schema.config_schema(["dev"])
