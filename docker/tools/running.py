"""Measure a variant in running containers, which are started apart from the user's."""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from docker.setup.project import Failure
from docker.tools.context import Variant, last_line
from docker.tools.measure import PROBE, mounted_env_file, probe, reported
from docker.tools.rows import Running

# The service's main process in the crash test. It ends itself: `docker kill` is no crash, since the
# engine takes it for a stop that the user wants (moby, daemon/kill.go).
CRASH = "import os, signal, time; time.sleep(0.5); os.kill(os.getpid(), signal.SIGKILL)"
RESTART_SECONDS = 60.0


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
            _up(own)
            inside |= probe(own, "exec", "--interactive", _container(own), "python", "-", "service")
            restarted = _restarts(own)
        label = f"label=com.docker.compose.project={own.prefix}"
        names = own.project.must("ps", "--all", "--quiet", "--filter", label).split()
        environment = [line for name in names for line in _state(own, name)["Config"]["Env"]]
        return Running(inside, facts, restarted, environment + inside.pop("environment"))


@contextlib.contextmanager
def _own_project(variant: Variant) -> Iterator[Variant]:
    """Give the variant under another project's name, its networks joined by the sample host."""
    own, engine = variant.renamed(f"{variant.project.name}-verify"), variant.project
    sample_host = f"{engine.name}-sample-host"
    hosts = engine.must("ps", "--quiet", "--filter", f"ancestor={sample_host}").split()
    if not hosts:
        raise Failure("the sample host does not run; `make run` starts it", 1)
    engine.must("tag", variant.prefix, own.prefix)
    try:
        # compose creates the networks together with the containers.
        _up(own, "--no-start")
        networks = _state(own, _container(own))["NetworkSettings"]["Networks"]
        for network in networks:
            engine.must("network", "connect", "--alias", "sample-host", network, hosts[0])
        yield own
    finally:
        for network in engine.ask("network", "ls", "--format", "{{.Name}}").stdout.split():
            if network.startswith(f"{own.prefix}-"):
                engine.ask("network", "disconnect", "--force", network, hosts[0])
        own.compose("down", "--volumes")
        engine.ask("image", "rm", own.prefix)


def _restarts(own: Variant) -> bool:
    """Return whether the engine restarts a service that crashes."""
    override = {"services": {own.service: {"entrypoint": ["python", "-c", CRASH]}}}
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", encoding="utf-8") as file:
        json.dump(override, file)  # JSON is YAML
        file.flush()
        _up(own, override=file.name)
    name, deadline = _container(own), time.monotonic() + RESTART_SECONDS
    while time.monotonic() < deadline:
        if _state(own, name)["RestartCount"]:
            return True
        time.sleep(0.1)
    return False


def _up(own: Variant, option: str = "--detach", override: str = "") -> None:
    """Start the variant's service."""
    done = own.compose("up", option, own.service, override=override)
    if done.returncode:
        raise Failure(f"{own.name} did not start: {last_line(done)}", 1)


def _container(own: Variant) -> str:
    """Return the container of the variant's service."""
    return own.compose("ps", "--all", "-q", own.service).stdout.split()[0]


def _state(own: Variant, name: str) -> Any:
    return own.project.inspect("container", name)
