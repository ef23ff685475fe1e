"""The rows of `make diff` and `make verify`: the name of each, and how it is measured.

A value is a text or a list of texts; texts of lists are sorted. Every row is compared with its
declaration in a contract in the same way (contracts.py).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, Union

from docker.tools.context import Variant
from docker.tools.parity import example_keys

Value = Union[str, "list[str]"]
Facts = dict[str, Value]
Subject = TypeVar("Subject")

SECRET = re.compile(r"PASSWORD|SECRET|TOKEN|PASSPHRASE")
ENV_FILE = "LIGHTERAGE_ENV_FILE"
# What names the machine, the clone or the moment is no property of a variant.
LEFT_OUT_SETTINGS = {
    "task", "variant", "remote_host_address", "password", "ping_url", "webhook_url", "notify_urls"
}  # fmt: skip


@dataclass(frozen=True)
class Row(Generic[Subject]):
    """One property of a variant.

    Args:
        name: what diff prints and a contract declares; `*` stands for several rows.
        measure: gives the value; for a name with `*` a value for each name that replaces it.
        keys: the keys of a service that the row shows.
    """

    name: str
    measure: Callable[[Subject], Value | Mapping[str, Value]]
    keys: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sample:
    """What a variant is measured by, apart from running containers.

    Args:
        variant: which.
        compose: its compose file, with the default of each variable.
        image: what the engine's `image inspect` says.
        inside: what the probe reports of the image.
    """

    variant: Variant
    compose: Mapping[str, Any]
    image: Mapping[str, Any]
    inside: Mapping[str, Any]

    @property
    def config(self) -> Mapping[str, Any]:
        """The image's configuration."""
        config: Mapping[str, Any] = self.image["Config"]
        return config

    @property
    def dockerfile(self) -> str:
        """The text of its Dockerfile."""
        return (self.variant.folder / "Dockerfile").read_text(encoding="utf-8")


Service = Mapping[str, Any]


def expanded(rows: Iterable[Row[Subject]], subject: Subject) -> Facts:
    """Measure rows of a subject; an empty value is `none`."""
    facts: Facts = {}
    for row in rows:
        value = row.measure(subject)
        named = value if isinstance(value, Mapping) else {"": value}
        facts.update({row.name.replace("*", key): found or "none" for key, found in named.items()})
    return facts


def flat(value: Any) -> list[str]:
    """Return the leaves of a YAML value as texts, each with the keys on the way to it."""
    if isinstance(value, Mapping):
        below = {key: [words(v)] if isinstance(v, list) else flat(v) for key, v in value.items()}
        return sorted(f"{key} {leaf}" for key, leaves in below.items() for leaf in leaves)
    if isinstance(value, list):
        return sorted(words(list(x.values()) if isinstance(x, dict) else str(x)) for x in value)
    return [f"{value:g}" if isinstance(value, float) else "" if value is None else str(value)]


def collapsed(values: Mapping[str, Value]) -> Value:
    """Return the one value that all services or tasks have; else each one's own."""
    if len({json.dumps(value) for value in values.values()}) == 1:
        return next(iter(values.values()))
    texts = {k: v if isinstance(v, str) else " ".join(v) for k, v in values.items()}
    return [f"{name}: {value or 'none'}" for name, value in texts.items()]


def words(value: Any) -> str:
    """Return a command line, which may be written as a text or as a list."""
    return value if isinstance(value, str) else " ".join(map(str, value or []))


def masked(line: str) -> str:
    """Return `NAME=value` without the value where the name is one of a secret."""
    name, _, _ = line.partition("=")
    return f"{name}=********" if SECRET.search(name) else line


# --- of a service -------------------------------------------------------------------------------


def _keys(name: str, *keys: str, default: str = "") -> Row[Service]:
    """Declare a row that shows a key of a service, or several keys together with their names."""

    def measure(service: Service) -> Value:
        if len(keys) > 1:
            return flat({key: service[key] for key in keys if key in service})
        value = service.get(keys[0], default)
        return flat(value) if isinstance(value, (list, Mapping)) else flat(value)[0]

    return Row(name, measure, keys)


def _mounts(service: Service) -> dict[str, str]:
    """Return the source of each mount by its target."""
    found = {}
    for item in service.get("volumes") or []:
        if isinstance(item, str):
            source, target = item.split(":", 1) if ":" in item else ("", item)
        else:
            source, target = str(item.get("source", "")), str(item["target"])
        found[target] = source or "a new volume"
    return found


def _data(service: Service) -> Value:
    """Return the mounts but that of the tree; paths from the repository's folder."""
    found = []
    for at, source in _mounts(service).items():
        if at != "/app":
            named = source if set("/. ") & set(source) else f"volume {source}"
            found.append(f"{named.replace('../../', './', 1)} -> {at}")
    return found


def _environment(service: Service) -> dict[str, str]:
    found = service.get("environment") or {}
    return found if isinstance(found, dict) else dict(line.split("=", 1) for line in found)


def _variables(service: Service) -> Value:
    found = _environment(service).items()
    return sorted(masked(f"{name}={value}") for name, value in found if name != ENV_FILE)


def _user(service: Service) -> Value:
    user = str(service.get("user", "the image's"))
    return "the developer's" if "LIGHTERAGE_UID" in user else user


def _other_keys(service: Service) -> Mapping[str, Value]:
    shown = {"image", "labels", *(key for row in SERVICE_ROWS for key in row.keys)}
    return {key: " ".join(flat(value)) for key, value in service.items() if key not in shown}


SERVICE_ROWS: tuple[Row[Service], ...] = (
    Row("default command", lambda service: words(service.get("command")), ("command",)),
    Row("live tree", lambda service: "mounted on /app" if "/app" in _mounts(service) else "no"),
    Row("data", _data, ("volumes",)),
    _keys("ports", "ports"),
    _keys("networks", "networks"),
    _keys("restart", "restart", default="no"),
    Row("user", _user, ("user",)),
    Row(
        "root filesystem",
        lambda s: "read-only" if s.get("read_only") else "writable",
        ("read_only",),
    ),
    _keys("tmpfs", "tmpfs"),
    _keys("capabilities dropped", "cap_drop"),
    _keys("security options", "security_opt"),
    _keys("limits", "cpus", "mem_limit", "memswap_limit", "pids_limit", "ulimits"),
    _keys("log files", "logging"),
    _keys("health check", "healthcheck"),
    _keys("time to stop", "stop_grace_period", default="10s"),
    _keys("secrets", "secrets"),
    Row("env file", lambda service: _environment(service).get(ENV_FILE, ""), ("environment",)),
    Row("variables", _variables),
    Row("compose *", _other_keys),
)


def _services(sample: Sample) -> Mapping[str, Value]:
    """Measure every service; one value where all agree."""
    services = sample.compose["services"]
    found = {name: expanded(SERVICE_ROWS, service) for name, service in services.items()}
    return {
        name: collapsed({service: facts.get(name, "none") for service, facts in found.items()})
        for name in dict.fromkeys(name for facts in found.values() for name in facts)
    }


# --- of a variant -------------------------------------------------------------------------------


def _probed(name: str) -> Row[Sample]:
    """Declare a row that the probe measures in a container of the image."""
    return Row(name, lambda sample: sample.inside[name])


def _config(name: str, key: str) -> Row[Sample]:
    """Declare a row that shows a part of the image's configuration."""
    return Row(name, lambda sample: flat(sample.config.get(key) or {}))


def _stages(sample: Sample) -> Value:
    stages = re.findall(r"^FROM .*?(?: AS (\S+))?$", sample.dockerfile, re.MULTILINE)
    names = ", ".join(name or "runtime" for name in stages)
    kind = "a single stage" if len(stages) == 1 else f"{len(stages)} stages: {names}"
    return f"docker/{sample.variant.name}, {kind}"


def _sections(sample: Sample) -> Mapping[str, Value]:
    """Return the compose file's top level, apart from services and extensions."""
    found = {key: flat(value) for key, value in sample.compose.items()}
    return {k: v for k, v in found.items() if k != "services" and not k.startswith("x-")}


def _settings(sample: Sample) -> Mapping[str, Value]:
    """Return each setting; one value where all tasks have the same."""
    tasks = sample.inside["settings"]
    names = [name for name in next(iter(tasks.values())) if name not in LEFT_OUT_SETTINGS]
    return {name: collapsed({f"task {t}": tasks[t][name] for t in tasks}) for name in names}


def _requirements(sample: Sample) -> Value:
    """Return the smallest lock file that pins all installed packages, or nearly all."""
    installed = {re.sub(r"[-_.]+", "-", line) for line in sample.inside["packages"]}
    found = []
    for path in (sample.variant.project.root / "requirements").glob("*.txt"):
        pins = re.findall(r"^([\w.-]+)==([^ ;\\]+)", path.read_text(encoding="utf-8"), re.MULTILINE)
        pinned = {re.sub(r"[-_.]+", "-", f"{name.lower()} {version}") for name, version in pins}
        besides = sorted(installed - pinned)
        shown = ", and ".join([f"requirements/{path.name}", *besides])
        found.append((len(besides), len(pins), shown))
    return min(found)[-1]


def _image_health(sample: Sample) -> Value:
    """Return the image's health check; docker and podman have it in different places."""
    found = sample.config.get("Healthcheck") or sample.image.get("HealthCheck") or {}
    seconds = {k: f"{v / 1e9:g}s" for k, v in found.items() if isinstance(v, int) and v > 1e6}
    return flat({**found, **seconds})


def _image_environment(sample: Sample) -> Value:
    """Return the variables that the Dockerfile sets, without those of its base."""
    set_here = re.findall(r"^ENV +(.+)$", sample.dockerfile.replace("\\\n", " "), re.MULTILINE)
    own = set(re.findall(r"(?:^|\s)(\w+)=", "\n".join(set_here)))
    lines = sample.config.get("Env") or []
    return sorted(masked(line) for line in lines if line.partition("=")[0] in own)


VARIANT_ROWS: tuple[Row[Sample], ...] = (
    Row("Dockerfile", _stages),
    _probed("copied in"),
    Row("services", lambda sample: sorted(sample.compose["services"])),
    Row("*", _services),
    Row("compose file *", _sections),
    Row("env example", lambda sample: example_keys(sample.variant.example)),
    Row("setting *", _settings),
    Row("requirements", _requirements),
    *map(_probed, ("account", "package managers", "compilers", "network tools", "shells")),
    *map(_probed, ("setuid programs", "owned", "writable")),
    Row("base", lambda sample: (sample.config.get("Labels") or {}).get("lighterage.base", "")),
    Row("layers", lambda sample: str(len(sample.image["RootFS"]["Layers"]))),
    Row("image user", lambda sample: sample.config.get("User") or "root"),
    Row("entry point", lambda sample: words(sample.config.get("Entrypoint"))),
    Row("image command", lambda sample: words(sample.config.get("Cmd"))),
    Row("image health check", _image_health),
    _config("image ports", "ExposedPorts"),
    _config("image volumes", "Volumes"),
    Row("image environment", _image_environment),
    Row("labels", lambda sample: sorted(sample.config.get("Labels") or {})),
    Row("image size", lambda sample: f"{sample.image['Size'] / 1e6:.1f} MB"),
    *map(_probed, ("files", "Python", "system", "packages")),
)


# --- of running containers ----------------------------------------------------------------------


@dataclass(frozen=True)
class Running:
    """What a variant is measured by in running containers.

    Args:
        inside: what the probe reports of a container, by row.
        host_config: of the service's container, as the engine has it.
        restarted: whether the engine started the service again after a crash.
        environment: the `NAME=value` lines of all containers.
    """

    inside: Mapping[str, Value]
    host_config: Mapping[str, Any]
    restarted: bool
    environment: list[str]


RUNNING_ROWS: tuple[Row[Running], ...] = (
    Row("*", lambda sample: sample.inside),
    Row("log files in force", lambda sample: flat(sample.host_config["LogConfig"])),
    Row("restart in force", lambda sample: "yes" if sample.restarted else "no"),
)
