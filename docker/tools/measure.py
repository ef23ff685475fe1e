"""Measure a variant: on its compose file, its image and its resolved settings."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from docker.setup.project import Failure
from docker.tools.context import Variant, last_line, read_yaml
from docker.tools.rows import ENV_FILE, VARIANT_ROWS, Facts, Sample, expanded

PROBE = Path(__file__).with_name("probe.py").read_text(encoding="utf-8")
MOUNTED = "/run/secrets/env_file"


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
    path = variant.compose_file
    text = re.sub(r"\$\{\w+:-([^{}]*)\}", r"\1", path.read_text(encoding="utf-8"))
    written = read_yaml(path, text)[0]
    services = compose["services"].items()
    found = {name: written["services"][name] for name, keys in services if not keys.get("profiles")}
    sample = Sample(variant, {**written, "services": found}, image, inside)
    return Measured(variant, compose, expanded(VARIANT_ROWS, sample))


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
    return reported(variant, variant.project.ask(*command, stdin=None, input=PROBE))


def reported(variant: Variant, done: subprocess.CompletedProcess[str]) -> Any:
    """Return what the probe printed.

    Raises:
        Failure: the container did not start, or the probe failed.
    """
    if done.returncode:
        raise Failure(f"image {variant.prefix} cannot be measured: {last_line(done)}", 1)
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
