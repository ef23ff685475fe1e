"""The settings of a run, and the origin of each value.

Resolution order, lowest first: built-in default, config.yaml `common`, `variants.<variant>`,
`tasks.<n>`, `tasks.<n>.<variant>`, the environment (with the env file), the command line.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks import env_file
from tasks.config_file import load_config
from tasks.fetch.errors import ConfigError, did_you_mean
from tasks.settings import ENVIRONMENT, FIELDS, MASK, VARIANTS, Settings, convert
from tasks.shard_variables import shard_variables

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tasks.config_file import Config

DEFAULT = "default"
"""The origin of a value that nothing states."""


@dataclass(frozen=True)
class Resolved:
    """Settings, and the origin of each value.

    Attributes:
        settings: The values.
        origins: By setting name; without an entry it is the default.
        others: The env file's variables that are not settings, for the user's own tasks.
    """

    settings: Settings
    origins: Mapping[str, str]
    others: Mapping[str, str] = field(default_factory=dict)

    def rows(self) -> list[tuple[str, str, str]]:
        """Return (name, value, origin) of each setting, secrets masked."""
        rows = []
        for name, item in FIELDS.items():
            value = getattr(self.settings, name)
            shown = "" if value is None else str(value)
            if item.metadata.get("secret") and shown:
                shown = MASK
            rows.append((name, shown, self.origins.get(name, DEFAULT)))
        return rows


def resolve(
    task: str,
    arguments: Mapping[str, Any],
    *,
    config_file: Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> Resolved:
    """Resolve the settings of a task.

    Args:
        task: The task's name, `2` for tasks/task_2.py.
        arguments: Values of the command line, by setting name; None is "not given".
        config_file: The config file; without one, config.yaml of this folder if there is one.
        environ: The environment, `os.environ` by default.

    Raises:
        ConfigError: An unknown key, a wrong type, an unreadable file.
    """
    environ = os.environ if environ is None else environ
    config = load_config(config_file)
    variant = _variant(environ, config)
    os_environ = environ
    environ, from_file, name_of_file = _with_env_file(environ, variant)

    env_origin = f"environment ({name_of_file})" if name_of_file else "environment"
    given = {name: environ[key] for key, name in ENVIRONMENT.items() if environ.get(key)}
    from_arguments = {k: v for k, v in arguments.items() if v is not None and k != "task"}
    layers = [
        *config.layers(task, variant),
        _converted("environment", shard_variables(os_environ)),
        _converted(env_origin, given),
        _converted("command line", from_arguments),
    ]
    values: dict[str, Any] = {"task": task, "variant": variant}
    origins = {"task": "command line"}
    if environ.get("LIGHTERAGE_VARIANT"):
        origins["variant"] = "LIGHTERAGE_VARIANT"
    own = {f"{config.path}: variants.dev", f"{config.path}: tasks.{task}.dev", "command line"}
    for origin, layer in layers:
        applied = dict(layer)
        if variant == "dev" and origin not in own and layer.get("after", "keep") != "keep":
            del applied["after"]  # while debugging, sources stay on the host
            if "after" not in values:
                origins["after"] = f"default, as {origin} does not apply to dev"
        values.update(applied)
        origins.update(dict.fromkeys(applied, origin))
    others = {key: value for key, value in from_file.items() if key not in ENVIRONMENT}
    return Resolved(Settings(**values), origins, others)


def _converted(origin: str, layer: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    return origin, {name: convert(name, value, origin) for name, value in layer.items()}


def _variant(environ: Mapping[str, str], config: Config) -> str:
    """Return the variant that the environment names: a known one, or one of the config file."""
    variant, known = environ.get("LIGHTERAGE_VARIANT") or VARIANTS[0], {*VARIANTS, *config.variants}
    if variant not in known:
        raise ConfigError(
            f"LIGHTERAGE_VARIANT is {variant}{did_you_mean(variant, known)}",
            advice=f"expected one of {', '.join(sorted(known))}",
        )
    return variant


def _with_env_file(
    environ: Mapping[str, str], variant: str
) -> tuple[Mapping[str, str], Mapping[str, str], str]:
    """Return the environment with the variant's env file over it, that file's part, and its name.

    The file has priority: USERNAME is a variable that desktops export. LIGHTERAGE_ENV_FILE is empty
    in a container started without compose, where the container engine may have read a file.
    """
    name = environ.get("LIGHTERAGE_ENV_FILE", f"envs/{variant}.env")
    if not name:
        return environ, {}, ""
    path = Path(name)
    if not path.exists():
        if "LIGHTERAGE_ENV_FILE" in environ:
            raise ConfigError(
                f"LIGHTERAGE_ENV_FILE is {name}: there is no such file",
                advice="create it, or name another",
            )
        return environ, {}, ""
    env_file.check_names(env_file.read(path), name, ENVIRONMENT, FIELDS)
    from dotenv import dotenv_values

    values = {key: value or "" for key, value in dotenv_values(path, interpolate=False).items()}
    return {**environ, **values}, values, name
