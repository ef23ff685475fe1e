"""Measure a variant: on its files, its image and its settings, and in running containers."""

from __future__ import annotations

import contextlib
import json
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from docker.setup.project import Failure, last_line
from docker.setup.variants import SAMPLE_HOST
from docker.tools.cluster.compare import CLUSTER_ROWS
from docker.tools.context import Variant, read_yaml, written
from docker.tools.rows import ENV_FILE, VARIANT_ROWS, Facts, Running, Sample, expanded

PROBE = Path(__file__).with_name("probe.py").read_text(encoding="utf-8")
MOUNTED = "/run/secrets/env_file"
# The service's main process in the crash test. It ends itself: `docker kill` is no crash, since the
# engine takes it for a stop that the user wants (moby, daemon/kill.go).
CRASH = "import os, signal, time; time.sleep(0.5); os.kill(os.getpid(), signal.SIGKILL)"
RESTART_SECONDS = 60.0


@dataclass(frozen=True)
class Measured:
    """One variant with the value of each row."""

    variant: Variant
    compose: Any
    facts: Facts


def measure(variants: Sequence[Variant]) -> list[Measured]:
    """Measure all rows but those of running containers; every variant has every row."""
    found = [_measured(variant) for variant in variants]
    names = dict.fromkeys(name for one in found for name in one.facts)
    return [
        Measured(one.variant, one.compose, {name: one.facts.get(name, "none") for name in names})
        for one in found
    ]


def _measured(variant: Variant) -> Measured:
    compose = resolved(variant)
    user = str(compose["services"][variant.service].get("user") or "")
    with mounted_env_file(variant.env_file) as options:
        words = ["run", "--rm", "--interactive", "--network", "none", *options]
        words += ["--user", user] if user else []
        words += ["--env", f"LIGHTERAGE_VARIANT={variant.name}", "--entrypoint", "python"]
        inside = probe(variant, *words, variant.prefix, "-", "image")
    image = variant.project.inspect("image", variant.prefix)
    # With the default of each variable, the same on every machine.
    file = written(variant)
    services = compose["services"].items()
    found = {name: file["services"][name] for name, keys in services if not keys.get("profiles")}
    sample = Sample(variant, {**file, "services": found}, image, inside)
    return Measured(variant, compose, expanded((*VARIANT_ROWS, *CLUSTER_ROWS), sample))


def resolved(variant: Variant) -> Any:
    """Return the compose file as compose resolves it.

    Raises:
        Failure: compose rejects it.
    """
    done = variant.compose("config")
    if done.returncode:
        reason = " ".join(done.stderr.split())
        raise Failure(f"docker/{variant.name}/compose.yaml: {reason}")
    return read_yaml(variant.compose_file, done.stdout)[0]


def probe(variant: Variant, *command: str) -> Any:
    """Run the probe by a command of the engine that starts Python on its standard input."""
    return reported(variant, variant.project.ask(*command, stdin=PROBE))


def reported(variant: Variant, done: subprocess.CompletedProcess[str]) -> Any:
    """Return what the probe printed.

    Raises:
        Failure: the container did not start, or the probe failed.
    """
    if done.returncode:
        raise Failure(f"image {variant.prefix} cannot be measured: {last_line(done.stderr)}", 1)
    return json.loads(done.stdout)


@contextlib.contextmanager
def mounted_env_file(path: Path) -> Iterator[list[str]]:
    """Give the options by which a container of any user reads an env file.

    It is mounted and not given with `--env-file`: `inspect` shows a container's variables.
    """
    with tempfile.TemporaryDirectory(prefix="lighterage-") as folder:  # closed to other users
        copy = Path(folder, path.name)
        copy.write_bytes(path.read_bytes())
        copy.chmod(0o644)
        yield ["-v", f"{copy}:{MOUNTED}:ro", "-e", f"{ENV_FILE}={MOUNTED}"]


# --- in running containers, which are started apart from the user's -----------------------------


def running(variant: Variant) -> Running:
    """Measure the variant's service in containers of its own project.

    Raises:
        Failure: a container did not start.
    """
    with _own_project(variant) as own, mounted_env_file(variant.example) as options:
        words = ["run", "--rm", "-T", *options, "--entrypoint", "python -", own.service]
        inside = reported(own, own.compose(*words, "running", own.project.task, stdin=PROBE))
        facts = _state(own, _container(own))["HostConfig"]
        restarted = False
        if facts["RestartPolicy"]["Name"] not in ("", "no"):
            _up(own, "--detach", own.service)
            inside |= probe(own, "exec", "--interactive", _container(own), "python", "-", "service")
            restarted = _restarts(own)
        label = f"label=com.docker.compose.project={own.prefix}"
        names = own.project.must("ps", "--all", "--quiet", "--filter", label).split()
        environment = [line for name in names for line in _state(own, name)["Config"]["Env"]]
        return Running(inside, facts, restarted, environment + inside.pop("environment"))


@contextlib.contextmanager
def _own_project(variant: Variant) -> Iterator[Variant]:
    """Give the variant under another project's name, with a sample host of its own."""
    own, engine = variant.renamed(f"{variant.project.name}-verify"), variant.project
    images = {name: f"{own.project.name}-{name}" for name in (variant.name, SAMPLE_HOST)}
    try:
        for name, image in images.items():
            engine.must("tag", f"{engine.name}-{name}", image)
        _up(own, "--detach", SAMPLE_HOST)
        _up(own, "--no-start", own.service)
        yield own
    finally:
        own.compose("--profile", SAMPLE_HOST, "down", "--volumes")
        engine.ask("image", "rm", *images.values())


def _restarts(own: Variant) -> bool:
    """Return whether the engine restarts a service that crashes."""
    override = {"services": {own.service: {"entrypoint": ["python", "-c", CRASH]}}}
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", encoding="utf-8") as file:
        json.dump(override, file)  # JSON is YAML
        file.flush()
        _up(own, "--detach", own.service, override=file.name)
    name, deadline = _container(own), time.monotonic() + RESTART_SECONDS
    while time.monotonic() < deadline:
        if _state(own, name)["RestartCount"]:
            return True
        time.sleep(0.1)
    return False


def _up(own: Variant, *words: str, override: str = "") -> None:
    done = own.compose("up", *words, override=override)
    if done.returncode:
        raise Failure(f"{own.name} did not start: {last_line(done.stderr)}", 1)


def _container(own: Variant) -> str:
    """Return the container of the variant's service."""
    return own.compose("ps", "--all", "-q", own.service).stdout.split()[0]


def _state(own: Variant, name: str) -> Any:
    return own.project.inspect("container", name)
