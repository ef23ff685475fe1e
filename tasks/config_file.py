"""config.yaml: all of it is checked, whatever part of it a run needs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.fetch.errors import ConfigError, did_you_mean
from tasks.settings import CONFIGURABLE, FIELDS, VARIANTS, convert

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

_CORRECT_YAML = "correct the line; values with special characters need quotes"
DEFAULT_CONFIG_FILE = Path("config.yaml")
_SECTIONS = ("common", "variants", "tasks")


@dataclass(frozen=True)
class Config:
    """A config file that was checked: `common`, `variants` and `tasks`."""

    path: Path
    common: Mapping[str, Any]
    variants: Mapping[str, Mapping[str, Any]]
    tasks: Mapping[str, Mapping[str, Any]]

    def layers(self, task: str, variant: str) -> list[tuple[str, Mapping[str, Any]]]:
        """Return (origin, values) of each section that applies to a task, lowest first."""
        section = self.tasks.get(task, {})
        own = {k: v for k, v in section.items() if not isinstance(v, dict)}
        return [
            (f"{self.path}: common", self.common),
            (f"{self.path}: variants.{variant}", self.variants.get(variant, {})),
            (f"{self.path}: tasks.{task}", own),
            (f"{self.path}: tasks.{task}.{variant}", section.get(variant, {})),
        ]

    def schedules(self, variant: str) -> dict[str, dict[str, Any]]:
        """Return the values of each task that has a schedule in this variant."""
        found = {}
        for task in self.tasks:
            values = {k: v for _, layer in self.layers(task, variant) for k, v in layer.items()}
            if values.get("schedule"):
                found[task] = values
        return found


def load_config(path: Path | None) -> Config:
    """Read a config file and check all of it.

    Args:
        path: The file. None is config.yaml of this folder, or no settings where there is none.

    Raises:
        ConfigError: Not readable, not YAML, an unknown key, or a value of the wrong type.
    """
    if path is None:
        if not DEFAULT_CONFIG_FILE.exists():
            return Config(DEFAULT_CONFIG_FILE, {}, {}, {})
        path = DEFAULT_CONFIG_FILE
    data = _read_yaml(path)
    for key in data:
        if key not in _SECTIONS:
            raise ConfigError(
                f"{path}: unknown section {key}{did_you_mean(str(key), _SECTIONS)}",
                advice=f"expected {', '.join(_SECTIONS)}",
            )
    common = _section(path, "common", data.get("common"))
    variants = {
        str(name): _section(path, f"variants.{name}", section)
        for name, section in _mapping(path, "variants", data.get("variants")).items()
    }
    tasks = {
        str(name): _section(path, f"tasks.{name}", section, nested={*VARIANTS, *variants})
        for name, section in _mapping(path, "tasks", data.get("tasks")).items()
    }
    return Config(path, common, variants, tasks)


def _read_yaml(path: Path) -> dict[Any, Any]:
    import yaml

    class Loader(yaml.SafeLoader):
        """A safe loader that refuses a duplicate key, of which YAML would use the last."""

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            if not isinstance(node, yaml.MappingNode):
                return super().construct_mapping(node, deep)  # raises an error that says why
            seen = set()
            for key_node, _ in node.value:
                if key_node.tag == "tag:yaml.org,2002:merge":
                    continue
                key = self.construct_object(key_node, deep=True)
                if str(key) in seen:
                    line = key_node.start_mark.line + 1
                    raise ConfigError(f"{path}:{line}: {key} is set twice", advice="remove one")
                seen.add(str(key))
            return super().construct_mapping(node, deep)

    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=Loader)  # noqa: S506 (safe)
    except FileNotFoundError as error:
        raise ConfigError(
            f"{path}: there is no such config file",
            advice="create it, or pass the path of another with --config-file",
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path}: cannot be read: {error}", advice="make it readable; it must be UTF-8"
        ) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "not YAML"
        raise ConfigError(
            f"{path}{line}: not valid YAML: {problem}", advice=_CORRECT_YAML
        ) from error
    except (TypeError, ValueError, AttributeError, RecursionError) as error:
        # errors that PyYAML does not wrap: an impossible date, a list as a key, a thousand brackets
        raise ConfigError(f"{path}: not valid YAML: {error}", advice=_CORRECT_YAML) from error
    return _mapping(path, "the file", data)


def _mapping(path: Path, where: str, data: Any) -> dict[Any, Any]:
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: {where} is {data!r}", advice="expected keys and values")
    return data


def _section(path: Path, where: str, data: Any, nested: Collection[str] = ()) -> dict[str, Any]:
    """Check one section, in which the variants `nested` may have sections of their own."""
    checked: dict[str, Any] = {}
    for key, value in _mapping(path, where, data).items():
        name = str(key)
        if name in nested:
            checked[name] = _section(path, f"{where}.{name}", value)
        elif name in CONFIGURABLE:
            checked[name] = convert(name, value, f"{path}: {where}")
        else:
            raise _unknown(f"{path}: {where}", name, value, nested)
    return checked


def _unknown(where: str, name: str, value: Any, variants: Collection[str]) -> ConfigError:
    """Return the error of a key that is neither a setting nor a variant."""
    if variants and isinstance(value, dict):
        known = ", ".join(sorted(variants))
        return ConfigError(
            f"{where}: unknown variant {name}{did_you_mean(name, variants)}",
            advice=f"expected one of {known}",
        )
    if name in FIELDS and FIELDS[name].metadata.get("secret"):
        file = " or PASSWORD_FILE" if name == "password" else ""
        return ConfigError(
            f"{where}: {name} is not allowed in a config file",
            advice=f"set {name.upper()}{file} in the env file",
        )
    return ConfigError(
        f"{where}: unknown key {name}{did_you_mean(name, [*CONFIGURABLE, *variants])}",
        advice="correct the name, or remove it; docs/reference.md lists the settings",
    )
