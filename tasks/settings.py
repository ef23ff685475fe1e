"""Settings: resolved once, in one order, into one immutable object.

Lowest first: built-in default, config.yaml `common`, `variants.<variant>`, `tasks.<n>`,
`tasks.<n>.<variant>`, the environment (with the env file), the command line.
"""

from __future__ import annotations

import dataclasses
import os
import re
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tasks import env_file
from tasks.fetch.errors import ConfigError, nearest

if typing.TYPE_CHECKING:
    from collections.abc import Collection, Mapping

DEFAULT_CONFIG_FILE = Path("config.yaml")
MASK = "********"
VARIANTS = ("dev", "prod")

LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]
ProgressMode = Literal["auto", "bar", "lines", "none"]
HostKeys = Literal["known", "accept-new"]
OnError = Literal["fail", "continue"]
Verify = Literal["checksum", "size"]

_SIZE_UNITS = ["", "k", "m", "g", "t"]
_SIZE = re.compile(r"(\d+(?:\.\d+)?) *([kmgt]?)(i?)b?(?:/s)?", re.IGNORECASE)
_TRUE, _FALSE = {"true", "yes", "on", "1"}, {"false", "no", "off", "0"}


class Size(int):
    """A number of bytes; written as a number, or with a unit: `500MB`, `2GiB`, `20MB/s`."""


class Words(tuple[str, ...]):
    """Some texts; written as one, as a list, or as an option given several times."""

    __slots__ = ()

    def __str__(self) -> str:
        return ", ".join(self)


def _setting(text: str, default: Any = None, *, env: bool = False, **more: Any) -> Any:
    """Declare a setting: what it is, its default, and whether the environment may set it."""
    about = {"help": text, "env": env, **more}
    return field(default=default, metadata=about, repr="secret" not in more)


@dataclass(frozen=True)
class Settings:
    """All that a run needs to know. Times are seconds, sizes are bytes."""

    task: str = _setting("the task's name: N of tasks/task_N.py", "")
    variant: str = _setting("the build variant whose settings apply", "dev", cli=False)
    remote_file_path: Words = _setting(
        "what to fetch, on the remote host: a path, a glob, or several", Words(), env=True
    )
    file_save_path: Path | str | None = _setting("the folder, or store URL, to land in", env=True)
    overwrite: bool = _setting("replace data that landed before", True, env=True)
    include: Words = _setting("globs of the names that land", Words())
    exclude: Words = _setting("globs of the names that do not", Words())
    keep_archive: bool = _setting("keep the archive beside its data", False, env=True)
    mirror: bool = _setting("remove what landed before and is gone from the host", False)
    on_error: OnError = _setting("whether a broken file among many stops the others", "fail")
    verify: Verify = _setting(
        "compare the host's sha256 where it tells one, or sizes only", "checksum"
    )
    force: bool = _setting("fetch even if the source has not changed", False)
    checksum: bool = _setting("tell what changed by content, not by size and time", False)
    dry_run: bool = _setting("show what would be done, and do nothing", False)
    explain: bool = _setting("say which ways were chosen, and why", False)
    max_tries: int = _setting("how often to try, at transient faults", 3, env=True, least=1)
    retry_delay: float = _setting(
        "seconds before the second try; then doubled, with jitter", 2.0, env=True, least=0
    )
    timeout: float = _setting("seconds without a byte until a fault", 30.0, least=0.1)
    wait: float = _setting("seconds to wait for another run into the same place", 0.0, least=0)
    max_rate: Size = _setting("most bytes in a second, as 20MB/s; 0: no limit", Size(0), least=0)
    log_level: LogLevel = _setting("how much to log", "INFO", env=True)
    progress: ProgressMode = _setting("how to show progress", "auto")
    schedule: str = _setting("cron form: when the prod service runs the task", "", cli=False)
    max_members: int = _setting(
        "most members of one archive, or names of one listing", 100_000, least=1
    )
    max_unpacked_size: Size = _setting("most bytes from one archive", Size(100 * 10**9), least=1)
    max_ratio: float = _setting(
        "most unpacked bytes for one packed, where more than 64 MiB are unpacked", 200.0, least=1
    )
    max_depth: int = _setting("most folders in each other in an archive", 64, least=1)
    max_unpack_time: float = _setting("most seconds for one archive", 86400.0, least=1)
    remote_host_address: str = _setting("host or host:port", "", env=True)
    username: str = _setting("the account on the host", "", env=True)
    password: str = _setting("the account's password", "", env=True, cli=False, secret=True)
    password_file: Path | None = _setting("a file that holds the password", env=True)
    ssh_key_file: Path | None = _setting("a private key", env=True)
    ssh_key_passphrase_file: Path | None = _setting("a file with the key's passphrase", env=True)
    gateway_password_file: Path | None = _setting(
        "a file with the password for the gateways of ProxyJump", env=True
    )
    host_keys: HostKeys = _setting("which host keys to trust", "known")
    known_hosts_file: Path = _setting("the trusted keys", Path("envs/known_hosts"), env=True)
    ssh_config_file: Path = _setting("an ssh_config", Path("envs/ssh_config"), env=True)

    @property
    def target(self) -> Path | str:
        """The folder, or store URL, to land in. Raises `ConfigError` where none is set."""
        if self.file_save_path is None:
            raise ConfigError(_missing(self.task, "file_save_path"))
        return self.file_save_path

    def require(self) -> Settings:
        """Return these settings; raise `ConfigError` for a value that a run cannot do without."""
        for name in ("remote_file_path", "file_save_path"):
            if not getattr(self, name):
                raise ConfigError(_missing(self.task, name))
        if not self.remote_host_address:
            raise ConfigError(
                f"REMOTE_HOST_ADDRESS is missing: set it in envs/{self.variant}.env, "
                "or pass --remote-host-address"
            )
        return self


FIELDS = {f.name: f for f in dataclasses.fields(Settings)}
TYPES: dict[str, Any] = typing.get_type_hints(Settings)
_ONCE = {"task", "variant", "password", "force", "checksum", "dry_run", "explain"}
CONFIGURABLE = [n for n in FIELDS if n not in _ONCE]
ENVIRONMENT = {n.upper(): n for n, f in FIELDS.items() if f.metadata["env"]}


@dataclass(frozen=True)
class Resolved:
    """Settings, and where each value came from.

    Attributes:
        settings: The values.
        origins: Where each came from, by setting name.
        others: The env file's variables that are no settings, for the user's own tasks.
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
            rows.append((name, shown, self.origins.get(name, "default")))
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
    environ, from_file, name_of_file = _with_env_file(environ, variant)

    layers: list[tuple[str, Mapping[str, Any]]] = list(config.layers(task, variant))
    env_origin = f"environment ({name_of_file})" if name_of_file else "environment"
    given = {name: environ[key] for key, name in ENVIRONMENT.items() if environ.get(key)}
    layers.append((env_origin, given))
    layers.append(("command line", {k: v for k, v in arguments.items() if v is not None}))

    values: dict[str, Any] = {"task": task, "variant": variant}
    origins = {"task": "command line"}
    if environ.get("LIGHTERAGE_VARIANT"):
        origins["variant"] = "LIGHTERAGE_VARIANT"
    for origin, layer in layers:
        for name, value in layer.items():
            if name == "task":
                continue
            values[name] = convert(name, value, origin)
            origins[name] = origin
    others = {key: value for key, value in from_file.items() if key not in ENVIRONMENT}
    return Resolved(Settings(**values), origins, others)


@dataclass(frozen=True)
class Config:
    """A config file, read and checked: `common`, `variants` and `tasks`."""

    path: Path
    common: Mapping[str, Any]
    variants: Mapping[str, Mapping[str, Any]]
    tasks: Mapping[str, Mapping[str, Any]]

    def layers(self, task: str, variant: str) -> list[tuple[str, Mapping[str, Any]]]:
        """Return (origin, values) of each section that holds for a task, lowest first."""
        section = self.tasks.get(task, {})
        own = {k: v for k, v in section.items() if not isinstance(v, dict)}
        return [
            (f"{self.path}: common", self.common),
            (f"{self.path}: variants.{variant}", self.variants.get(variant, {})),
            (f"{self.path}: tasks.{task}", own),
            (f"{self.path}: tasks.{task}.{variant}", section.get(variant, {})),
        ]

    def schedules(self, variant: str) -> dict[str, str]:
        """Return the cron form of each task that has one in this variant."""
        found = {}
        for task in self.tasks:
            for _, layer in self.layers(task, variant):
                if "schedule" in layer:
                    found[task] = str(layer["schedule"] or "")
        return {task: cron for task, cron in found.items() if cron}


def load_config(path: Path | None) -> Config:
    """Read a config file and check all of it; raise `ConfigError` at the first fault.

    Without a path, config.yaml of this folder is read if there is one: every task runs
    with arguments alone as well.
    """
    if path is None:
        if not DEFAULT_CONFIG_FILE.exists():
            return Config(DEFAULT_CONFIG_FILE, {}, {}, {})
        path = DEFAULT_CONFIG_FILE
    data = _read_yaml(path)
    for key in data:
        if key not in {"common", "variants", "tasks"}:
            known = ("common", "variants", "tasks")
            raise ConfigError(
                f"{path}: unknown section {key}{nearest(str(key), known)}: "
                f"expected {', '.join(known)}"
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


def convert(name: str, value: Any, origin: str) -> Any:
    """Turn a value of a config file, the environment or the command line into its type.

    Raises:
        ConfigError: The value is not of the setting's type; the line says what was expected.
    """
    wanted = TYPES[name]
    item = FIELDS[name]
    try:
        converted = _convert(wanted, value)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:  # ~nobody has no home
        shown = MASK if item.metadata.get("secret") else repr(value)
        raise ConfigError(f"{origin}: {name} is {shown}: expected {_expected(wanted)}") from error
    least = item.metadata.get("least")
    if least is not None and converted < least:
        raise ConfigError(f"{origin}: {name} is {value}: expected at least {least}")
    return converted


def _convert(wanted: Any, value: Any) -> Any:
    parts = typing.get_args(wanted)
    if typing.get_origin(wanted) is Literal:
        return next((c for c in parts if c.lower() == str(value).lower()), None) or _no()
    if wanted is bool:
        if isinstance(value, bool):
            return value
        text = str(value).lower() if isinstance(value, str) else ""
        return True if text in _TRUE else False if text in _FALSE else _no()
    if value in (None, "") and type(None) in parts:
        return None
    if wanted is Words:
        words = value if isinstance(value, list | tuple) else [value] if value != "" else []
        return Words(_convert(str, word) or _no() for word in words)
    if isinstance(value, bool | list | dict) or value is None:
        return _no()
    if wanted is int:
        return int(value) if isinstance(value, int | str) else _no()
    if wanted is float:
        number = float(value)
        return number if abs(number) < 1e12 else _no()  # neither nan nor infinite
    if wanted is Size:
        return _size(str(value))
    if not isinstance(value, str | Path):  # 007, 1.10 and 12:30 are other numbers to YAML
        return _no()
    text = str(value)
    if "\0" in text:
        return _no()
    if Path not in (wanted, *parts) or (str in parts and "://" in text):
        return text
    return Path(text).expanduser() if text else _no()


def _size(text: str) -> Size:
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        return _no()
    digits, unit, binary = match.groups()
    base = 1024 if binary else 1000
    return Size(float(digits) * base ** _SIZE_UNITS.index(unit.lower()))


def choices(name: str) -> str:
    """Return the words that a setting may be, as `a|b`; nothing where it is free."""
    wanted = TYPES[name]
    return "|".join(typing.get_args(wanted)) if typing.get_origin(wanted) is Literal else ""


def _no() -> typing.NoReturn:
    raise ValueError


def _expected(wanted: Any) -> str:
    if typing.get_origin(wanted) is Literal:
        return "one of " + ", ".join(typing.get_args(wanted))
    names = {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        Size: "a size such as 500MB",
        Words: "text, or a list of texts (in quotes, where it looks like something else)",
    }
    if wanted is str:
        return "text (in quotes, where it looks like something else)"
    return names.get(wanted, "a path")


def _variant(environ: Mapping[str, str], config: Config) -> str:
    """Return the variant that the environment names: one of ours, or of the config file's."""
    variant, known = environ.get("LIGHTERAGE_VARIANT") or VARIANTS[0], {*VARIANTS, *config.variants}
    if variant not in known:
        raise ConfigError(
            f"LIGHTERAGE_VARIANT is {variant}{nearest(variant, known)}: "
            f"expected one of {', '.join(sorted(known))}"
        )
    return variant


def _with_env_file(
    environ: Mapping[str, str], variant: str
) -> tuple[Mapping[str, str], Mapping[str, str], str]:
    """Return the environment with the variant's env file laid over it, that file's part, its name.

    The file wins: USERNAME is a name that desktops export. In a container that was started
    without compose LIGHTERAGE_ENV_FILE is empty: the engine may have read a file.
    """
    name = environ.get("LIGHTERAGE_ENV_FILE", f"envs/{variant}.env")
    if not name:
        return environ, {}, ""
    path = Path(name)
    if not path.exists():
        if "LIGHTERAGE_ENV_FILE" in environ:
            raise ConfigError(f"LIGHTERAGE_ENV_FILE is {name}: there is no such file")
        return environ, {}, ""
    values = env_file.read(path)
    env_file.check_names(values, name, ENVIRONMENT, FIELDS)
    return {**environ, **values}, values, name


def _read_yaml(path: Path) -> dict[Any, Any]:
    import yaml

    class Loader(yaml.SafeLoader):
        """A safe loader that refuses a key given twice, where YAML would keep the last."""

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            if not isinstance(node, yaml.MappingNode):
                return super().construct_mapping(node, deep)  # which says what is wrong
            seen = set()
            for key_node, _ in node.value:
                if key_node.tag == "tag:yaml.org,2002:merge":
                    continue
                key = self.construct_object(key_node, deep=True)
                if str(key) in seen:
                    line = key_node.start_mark.line + 1
                    raise ConfigError(f"{path}:{line}: {key} is given twice: keep one")
                seen.add(str(key))
            return super().construct_mapping(node, deep)

    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=Loader)  # noqa: S506 (safe)
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: there is no such config file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "not YAML"
        raise ConfigError(f"{path}{line}: not valid YAML: {problem}") from error
    except (TypeError, ValueError, AttributeError, RecursionError) as error:
        # what PyYAML lets through: a date without such a day, a list as a key, a thousand brackets
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    return _mapping(path, "the file", data)


def _mapping(path: Path, where: str, data: Any) -> dict[Any, Any]:
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: {where} is {data!r}: expected keys and values")
    return data


def _section(path: Path, where: str, data: Any, nested: Collection[str] = ()) -> dict[str, Any]:
    """Check one section: each key known, each value of its type.

    Args:
        path: The config file.
        where: The section's name in it.
        data: What it holds.
        nested: The variants that may have a section in it.
    """
    section = _mapping(path, where, data)
    checked: dict[str, Any] = {}
    for key, value in section.items():
        name = str(key)
        if name in nested:
            checked[name] = _section(path, f"{where}.{name}", value)
        elif nested and isinstance(value, dict) and name not in CONFIGURABLE:
            raise ConfigError(
                f"{path}: {where}: unknown variant {name}{nearest(name, nested)}: "
                f"expected one of {', '.join(sorted(nested))}"
            )
        elif name not in CONFIGURABLE:
            if name == "password":
                raise ConfigError(
                    f"{path}: {where}: password does not belong in a config file: "
                    "set PASSWORD or PASSWORD_FILE in the env file"
                )
            known = [*CONFIGURABLE, *nested]
            raise ConfigError(f"{path}: {where}: unknown key {name}{nearest(name, known)}")
        else:
            checked[name] = convert(name, value, f"{path}: {where}")
    return checked


def _missing(task: str, name: str) -> str:
    option = "--" + name.replace("_", "-")
    where = f"set it in config.yaml under tasks.{task}, or pass {option}"
    return f"{name} is missing for task {task}: {where}"
