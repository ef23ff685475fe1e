"""What a variant is, measured: on its image, its resolved compose file and its resolved settings.

Nothing is typed in here but the names of the rows. A row's value is a text, or a list of texts.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Union

from docker.setup import envfiles, host, images
from docker.setup.engine import Engine
from docker.setup.project import Failure, Project, owner
from docker.setup.variants import EXAMPLE_LINE, Variant

Value = Union[str, "list[str]"]
Facts = dict[str, Value]

ENV_FILE = "/run/secrets/env_file"
PROBE = Path(__file__).with_name("probe.py")
SECRET = re.compile(r"PASSWORD|SECRET|TOKEN|PASSPHRASE")
# What names the machine, the clone or the moment is no property of a variant.
LEFT_OUT_SETTINGS = {"task", "variant", "remote_host_address", "password"}
ENV_FILE_IS = "LIGHTERAGE_ENV_FILE="
OF_ONE_TASK = re.compile(r" \(task \S+\)$")
# The keys of a service that have a row of another name; each further one is a row of its own.
WITH_A_ROW = {
    "image", "command", "volumes", "ports", "networks", "restart", "env_file", "user", "read_only",
    "tmpfs", "cap_drop", "cap_add", "security_opt", "mem_limit", "memswap_limit", "cpus",
    "pids_limit", "ulimits", "logging",
    "healthcheck", "stop_grace_period", "init", "secrets", "environment",
}  # fmt: skip
# As compose calls them, and as an image does.
HEALTH_TIMES = {
    "interval": "Interval", "retries": "Retries", "start_period": "StartPeriod",
    "timeout": "Timeout",
}  # fmt: skip
YAML_TO_JSON = """
import json, sys, yaml
try:
    json.dump(list(yaml.safe_load_all(sys.stdin)), sys.stdout, default=str)
except yaml.YAMLError as error:
    sys.exit(str(error).replace('in "<stdin>"', "in it"))
"""
SECTIONS_WITH_ROWS = {"services", "networks", "volumes", "secrets"}


@dataclass(frozen=True)
class Measured:
    """One variant, measured.

    Args:
        variant: which.
        service: that stands for it in running containers.
        facts: value by row.
    """

    variant: Variant
    service: Mapping[str, Any]
    facts: Facts

    def value(self, row: str) -> Value:
        """A row's value: of a setting of one task, what all have where all have the same."""
        return self.facts.get(row, self.facts.get(OF_ONE_TASK.sub("", row), "none"))


def rows(found: Sequence[Measured]) -> list[str]:
    """The names of all rows, in the order of measuring; a task's, where one has them by task."""
    names = list(dict.fromkeys(name for one in found for name in one.facts))
    by_task = {OF_ONE_TASK.sub("", name) for name in names if OF_ONE_TASK.search(name)}
    return [name for name in names if name not in by_task]


def measure(project: Project, variant: Variant, engine: Engine) -> Measured:
    """Build the variant's image if it must be, and measure all rows but the running ones."""
    envfiles.prepare(variant)
    envfiles.write_compose_env(variant, engine)
    with project.lock():
        images.up_to_date(project, engine, variant.name)
    compose = resolved(variant, engine)
    service = compose["services"][variant.service]
    tag = images.tag_of(project, variant.name)
    image = engine.inspect("image", tag)[tag]
    inside = _probe_image(variant, engine, str(service.get("user") or ""))
    facts: Facts = {
        **_of_the_dockerfile(variant),
        "copied in": inside["copied in"],
        **_of_the_compose_file(variant, compose, _written(variant)),
        "env example": sorted(EXAMPLE_LINE.findall(variant.example.read_text(encoding="utf-8"))),
        **_of_the_settings(inside["settings"]),
        "requirements": _requirements(project, inside["packages"]),
        "account": inside["account"],
        **{name: inside[name] for name in ("package managers", "compilers", "network tools")},
        **{name: inside[name] for name in ("shells", "setuid programs", "owned", "writable")},
        **_of_the_image(variant, image),
        "image size": f"{image['Size'] / 1e6:.1f} MB",
        **{name: str(inside[name]) for name in ("files", "Python", "system")},
        "packages": inside["packages"],
    }
    return Measured(variant, service, {name: facts[name] or "none" for name in facts})


def resolved(variant: Variant, engine: Engine) -> Any:
    """The compose file as compose itself resolves it.

    Raises:
        Failure: compose refuses it.
    """
    command, env = engine.compose_command(variant.compose_file, "config")
    done = subprocess.run(
        command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise Failure(f"{variant.compose_file}: {' '.join(done.stderr.split())}")
    return read_yaml(variant.project, done.stdout, "compose config")[0]


def _written(variant: Variant) -> Any:
    """The compose file as it was written, whatever env file and machine it is for."""
    path = variant.compose_file
    return read_yaml(variant.project, path.read_text(encoding="utf-8"), str(path))[0]


def read_yaml(project: Project, text: str, name: str) -> list[Any]:
    """Read each document of a YAML text, by the environment's reader: the library has none.

    Raises:
        Failure: it is no YAML.
    """
    done = subprocess.run(
        [str(host.environment(project)), "-c", YAML_TO_JSON],
        input=text, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise Failure(f"{name}: {' '.join(done.stderr.split())}")
    documents: list[Any] = json.loads(done.stdout)
    return documents


def probe(engine: Engine, command: list[str], env: Mapping[str, str]) -> Any:
    """Run the probe by a command that starts a Python on its standard input; its answer.

    Raises:
        Failure: the container did not start, or the probe failed.
    """
    done = subprocess.run(
        command, input=PROBE.read_bytes(), capture_output=True, check=False, env=dict(env)
    )
    if done.returncode:
        words = done.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"]
        raise Failure(f"{engine.kind} could not look into {command[-3]}: {words[-1]}", 1)
    return json.loads(done.stdout)


def _probe_image(variant: Variant, engine: Engine, user: str) -> Any:
    command = [engine.client, "run", "--rm", "--interactive", "--network", "none"]
    command += ["--user", user] if user else []
    command += ["--env", f"LIGHTERAGE_VARIANT={variant.name}"]
    tag = images.tag_of(variant.project, variant.name)
    with mounted_env_file(variant.env_file) as options:
        command += [*options, "--entrypoint", "python", tag, "-", "image"]
        return probe(engine, command, os.environ)


@contextlib.contextmanager
def mounted_env_file(path: Path) -> Iterator[list[str]]:
    """Give the options of `run` by which a container of any user reads an env file.

    As a file, and not with `--env-file`: the engine shows a container's variables to everybody.
    """
    with tempfile.TemporaryDirectory(prefix="lighterage-") as folder:  # closed to others
        copy = Path(folder, path.name)
        copy.write_bytes(path.read_bytes())
        copy.chmod(0o644)
        yield ["-v", f"{copy}:{ENV_FILE}:ro", "-e", f"LIGHTERAGE_ENV_FILE={ENV_FILE}"]


def _of_the_dockerfile(variant: Variant) -> Facts:
    path = images.dockerfile_of(variant.project, variant.name)
    stages = re.findall(r"^FROM .*?(?: AS (\S+))?$", path.read_text(encoding="utf-8"), re.MULTILINE)
    names = [name or "runtime" for name in stages]
    one = "a single stage" if len(stages) == 1 else f"{len(stages)} stages: {', '.join(names)}"
    return {"Dockerfile": f"docker/{variant.name}, {one}"}


def _of_the_compose_file(variant: Variant, compose: Any, written: Any) -> Facts:
    services: dict[str, dict[str, Any]] = compose["services"]
    by_row: dict[str, dict[str, Value]] = {}
    for name, service in services.items():
        facts = _of_a_service(variant, name, service, compose)
        facts.update(_as_written(written["services"].get(name) or {}))
        for row, value in facts.items():
            by_row.setdefault(row, {})[name] = value
    shared = {
        f"options of {kind}": [
            f"{name} {key} {_text(value)}"
            for name, options in (written.get(kind) or {}).items()
            for key, value in (options or {}).items()
            if key != "name"
        ]
        for kind in ("networks", "volumes")
    }
    collapsed = {
        row: _collapsed({name: values.get(name, "none") for name in services})
        for row, values in by_row.items()
    }
    beside = {
        f"compose file {key}": _text(value)
        for key, value in written.items()
        if key not in SECTIONS_WITH_ROWS and not key.startswith("x-")
    }
    return {"services": sorted(services), **collapsed, **shared, **beside}


def _as_written(service: Mapping[str, Any]) -> Facts:
    """The rows that compose mixes with an env file or adds to, and those of all other keys."""
    environment = service.get("environment") or {}
    if isinstance(environment, dict):
        environment = [f"{name}={value}" for name, value in environment.items()]
    health = service.get("healthcheck") or {}
    named = [line.partition("=")[2] for line in environment if line.startswith(ENV_FILE_IS)]
    environment = [line for line in environment if not line.startswith(ENV_FILE_IS)]
    return {
        "env file": [*named, *map(str, _listed(service.get("env_file")))],
        "variables": sorted(map(_masked, environment)),
        "health check timing": sorted(f"{key} {health[key]}" for key in health if key != "test"),
        **{f"compose {key}": _text(service[key]) for key in service if key not in WITH_A_ROW},
    }


def _listed(value: Any) -> list[Any]:
    """What compose takes as one or as a list."""
    return value if isinstance(value, list) else [value] if value else []


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _masked(line: str) -> str:
    """`NAME=value` without the value of what is a secret by its name."""
    return re.sub(r"=.*", "=********", line) if SECRET.search(line.partition("=")[0]) else line


def _collapsed(values: Mapping[str, Value]) -> Value:
    """One value where all services agree; else each one's own."""
    if len({json.dumps(value) for value in values.values()}) == 1:
        return next(iter(values.values()))
    return [
        f"{name}: {' '.join(value) if isinstance(value, list) else value or 'none'}"
        for name, value in values.items()
    ]


def _of_a_service(
    variant: Variant, name: str, service: Mapping[str, Any], compose: Mapping[str, Any]
) -> Facts:
    mounts = [_mount(variant, item, compose) for item in service.get("volumes") or []]
    data = [f"{source} -> {target}" for source, target in mounts if target != "/app"]
    health = service.get("healthcheck") or {}
    networks = sorted(service.get("networks") or ["default"])
    if str(service.get("user")) == ":".join(map(str, owner())):
        user = "the developer's"
    else:
        user = str(service.get("user") or "the image's")
    return {
        "default command": _words(service.get("command")),
        "live tree": "mounted on /app" if "/app" in dict(mounts).values() else "no",
        "data": data,
        "ports": [_port(item) for item in service.get("ports") or []],
        "networks": "its own" if networks == [name] else networks,
        "restart": str(service.get("restart") or "no"),
        "user": user,
        "root filesystem": "read-only" if service.get("read_only") else "writable",
        "tmpfs": sorted(_listed(service.get("tmpfs"))),
        "capabilities dropped": sorted(service.get("cap_drop") or []),
        "capabilities added": sorted(service.get("cap_add") or []),
        "security options": sorted(service.get("security_opt") or []),
        "limits": _limits(service),
        "log files": _log_files(service.get("logging") or {}),
        "health check": _words((health.get("test") or [])[1:]),
        "time to stop": str(service.get("stop_grace_period") or "10s"),
        "init": "yes" if service.get("init") else "no",
        "secrets": sorted(item["source"] for item in service.get("secrets") or []),
    }


def _limits(service: Mapping[str, Any]) -> list[str]:
    limits = [
        f"{limit.removesuffix('_limit')} {_size(service[limit])}"
        for limit in ("cpus", "mem_limit", "memswap_limit", "pids_limit")
        if service.get(limit)
    ]
    for name, value in sorted((service.get("ulimits") or {}).items()):
        # v2 leaves out what is 0.
        pair = (value.get("soft", 0), value.get("hard", 0)) if isinstance(value, dict) else (value,)
        limits.append(f"ulimit {name} {':'.join(map(str, dict.fromkeys(pair)))}")
    return limits


def _log_files(logging: Mapping[str, Any]) -> list[str]:
    """The log driver that a service asks for, and its options."""
    options = sorted((logging.get("options") or {}).items())
    found = [f"{key} {value}" for key, value in options]
    return [str(logging["driver"]), *found] if "driver" in logging else found


def _mount(variant: Variant, item: Any, compose: Mapping[str, Any]) -> tuple[str, str]:
    """A mount's source and target, from the short form of 1.29 or the long one of v2."""
    if isinstance(item, str):
        parts = item.split(":")
        source, target, mode = [*(parts if parts[1:] else ["a new volume", *parts]), "rw"][:3]
    else:
        source, target = str(item.get("source", "a new volume")), str(item["target"])
        mode = "ro" if item.get("read_only") else "rw"
    target += "" if mode == "rw" else f" ({mode})"
    named = (compose.get("volumes") or {}).get(source)
    if named is not None:
        name = str(named.get("name") or source)
        return f"volume {name.replace(variant.project.name, 'lighterage', 1)}", target
    root = str(variant.project.root)
    return source.replace(root, ".", 1) if source.startswith(root) else source, target


def _port(item: Any) -> str:
    if isinstance(item, str):
        return item.removesuffix("/tcp")
    protocol = item.get("protocol", "tcp")
    host = item.get("host_ip", "0.0.0.0")  # noqa: S104 - compose's default, reported
    text = f"{host}:{item.get('published', '')}:{item['target']}"
    return text if protocol == "tcp" else f"{text}/{protocol}"


def _size(value: Any) -> str:
    """Bytes as v2 writes them, in the units of 1.29."""
    text = f"{value:g}" if isinstance(value, float) else str(value)
    if text.isdigit() and int(text) >= 1 << 20:
        number = int(text)
        return f"{number >> 30}g" if number % (1 << 30) == 0 else f"{number >> 20}m"
    return text


def _words(value: Any) -> str:
    return value if isinstance(value, str) else " ".join(map(str, value or []))


def _of_the_settings(settings: Mapping[str, Mapping[str, str]]) -> Facts:
    """One row a setting; `setting (task N)` where tasks have different ones."""
    facts: Facts = {}
    first = next(iter(settings.values()))
    for name in first:
        if name in LEFT_OUT_SETTINGS:
            continue
        values = {task: own[name] for task, own in settings.items()}
        if len(set(values.values())) == 1:
            facts[f"setting {name}"] = first[name]
        else:
            facts.update({f"setting {name} (task {t})": v for t, v in values.items()})
    return facts


def _requirements(project: Project, packages: list[str]) -> str:
    """The lock file that comes nearest to what is installed, and what is besides or missing."""
    have = {_normal(line.split()[0]): line for line in packages}
    best = ""
    for path in sorted((project.root / "requirements").glob("*.in")):
        locked = path.with_suffix(".txt").read_text(encoding="utf-8")
        pins = re.findall(r"^([A-Za-z0-9._-]+)==([^ ;\\]+)", locked, re.MULTILINE)
        pinned = {(_normal(name), version) for name, version in pins}
        besides = [line for name, line in have.items() if (name, line.split()[1]) not in pinned]
        missing = [name for name in _named(path) if name not in have]
        text = f"requirements/{path.stem}.txt"
        text += "".join(f", and {line}" for line in besides)
        text += "".join(f", without {name}" for name in missing)
        best = min(best or text, text, key=lambda words: (words.count(","), words))
    return best


def _named(path: Path) -> list[str]:
    """The packages that a .in file names, and those of the files that it includes."""
    names: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("-r "):
            names += _named(path.with_name(line[3:].strip()))
        elif re.match(r"[A-Za-z]", line):
            names.append(_normal(re.split(r"[^A-Za-z0-9._-]", line)[0]))
    return names


def _normal(name: str) -> str:
    """A package's name as the index compares it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _of_the_image(variant: Variant, image: Mapping[str, Any]) -> Facts:
    config = image["Config"]
    health = config.get("Healthcheck") or image.get("HealthCheck") or {}  # docker; podman
    labels = config.get("Labels") or {}
    dockerfile = images.dockerfile_of(variant.project, variant.name).read_text(encoding="utf-8")
    set_here: set[str] = set()
    for line in re.findall(r"^ENV +(.+)$", dockerfile.replace("\\\n", " "), re.MULTILINE):
        set_here.update(re.findall(r"(?:^|\s)(\w+)=", line) or line.split()[:1])
    variables = {line.partition("=")[0]: _masked(line) for line in config.get("Env") or []}
    return {
        "base": labels.get(images.BASE_LABEL, "unknown"),
        "layers": str(len(image["RootFS"]["Layers"])),
        "image user": config.get("User") or "root",
        "entry point": _words(config.get("Entrypoint")),
        "image command": _words(config.get("Cmd")),
        "image health check": _words(health.get("Test", [])[1:]),
        "image health check timing": [
            f"{key} {_seconds(health[name])}"
            for key, name in HEALTH_TIMES.items()
            if health.get(name)
        ],
        "image ports": sorted(config.get("ExposedPorts") or {}),
        "image volumes": sorted(config.get("Volumes") or {}),
        "image environment": sorted(variables[name] for name in variables if name in set_here),
        "environment of the base": sorted(
            variables[name] for name in variables if name not in set_here
        ),
        "labels": sorted(labels),
    }


def _seconds(value: int) -> str:
    """Nanoseconds as compose writes them; a count unchanged."""
    return f"{value / 1e9:g}s" if value >= 1_000_000 else str(value)


def compressed(one: Measured, engine: Engine) -> str:
    """The image's size as a compressed file; kept by the image's id, since it takes a while."""
    project, tag = one.variant.project, images.tag_of(one.variant.project, one.variant.name)
    image_id = engine.inspect("image", tag)[tag]["Id"]
    program = ["zstd", "-3"] if shutil.which("zstd") else ["gzip", "-6"]
    kept = project.state / "compressed.json"
    known: dict[str, int] = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    key = f"{image_id} {' '.join(program)}"
    if key not in known:
        with subprocess.Popen([engine.client, "save", image_id], stdout=subprocess.PIPE) as save:
            pack = subprocess.Popen([*program, "-c"], stdin=save.stdout, stdout=subprocess.PIPE)
            size = 0
            while pack.stdout and (part := pack.stdout.read(1 << 20)):
                size += len(part)
            ended = pack.wait()
        if save.returncode or ended:
            raise Failure(f"{engine.kind} save {image_id} failed", 1)
        known = {**dict(list(known.items())[-20:]), key: size}
        kept.write_text(json.dumps(known, indent=1), encoding="utf-8")
    return f"{known[key] / 1e6:.1f} MB ({' '.join(program)})"
