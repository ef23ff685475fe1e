"""The bundled SSH host: a container beside a variant's services, or a process on loopback."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from docker.setup import envfiles, images
from docker.setup.engine import Engine
from docker.setup.project import Failure, Project, give_to_owner, say
from docker.setup.variants import Variant

ALIAS = "sample-host"
PORT = 2222
HOST_KEY = "/var/lib/sample-host/host_key"
# How long a sample host may take to answer after its start, and one that runs already.
READY_SECONDS, RUNNING_SECONDS = 30.0, 5.0
ENDING_SECONDS = 5.0
# Run in the sample host: connect as a task does, and read what an SSH server says first.
GREETING = """
import socket, sys
for name in sys.argv[2:]:
    try:
        with socket.create_connection((name, int(sys.argv[1])), 2) as connection:
            connection.settimeout(2)
            if connection.recv(4) != b"SSH-":
                sys.exit(f"{name}: no greeting of an SSH server")
    except OSError as error:
        sys.exit(f"{name}: {error}")
"""


def container_of(variant: Variant) -> str:
    """The name of the variant's own sample host."""
    return f"{variant.prefix}-sample-host"


def up(project: Project, variant: Variant, engine: Engine, services: Sequence[str]) -> None:
    """Have the sample host running, reachable by name from those services' networks, and trusted.

    Raises:
        Failure: the engine refused, or the host did not start.
    """
    name, image = container_of(variant), images.tag_of(project, "sample-host")
    facts = engine.inspect("container", name).get(name)
    wanted = engine.inspect("image", image)[image]["Id"]
    current = facts is not None and facts["State"]["Running"] and facts["Image"] == wanted
    connected = set(facts["NetworkSettings"]["Networks"]) if facts and current else set()
    networks = [variant.network(service) for service in services]
    make_networks(variant, engine, services)
    if current:
        _connect(engine, name, [network for network in networks if network not in connected])
        reason = _unreachable(engine, name, networks, RUNNING_SECONDS)
        if reason:
            say(f"the sample host runs but cannot be reached ({reason}); starting it again")
            current, networks = False, list(dict.fromkeys([*networks, *sorted(connected)]))
    if not current:
        engine.ask("rm", "--force", name)
        engine.must(
            "run", "--detach", "--init", "--name", name,
            "--network", networks[0], "--network-alias", ALIAS,
            "--volume", f"{project.name}-sample-host:{Path(HOST_KEY).parent}",
            "--read-only", "--tmpfs", "/tmp",  # noqa: S108 - inside the container
            "--cap-drop", "ALL", "--security-opt", "no-new-privileges",
            "--pids-limit", "64", "--memory", "512m",
            image,
        )  # fmt: skip
        say(f"started the sample host ({name})")
        if facts and facts["Image"] != wanted:
            engine.ask("image", "rm", facts["Image"])
        _connect(engine, name, networks[1:])
        reason = _unreachable(engine, name, networks, READY_SECONDS)
        if reason:
            raise Failure(f"the sample host does not answer: {reason}; {_see(engine, name)}", 5)
    _trust(project, variant, engine)


def make_networks(variant: Variant, engine: Engine, services: Sequence[str]) -> None:
    """Create the services' networks as compose would, labels and all, so that compose accepts them.

    Raises:
        Failure: the engine refused.
    """
    there = engine.inspect("network", *map(variant.network, services))
    for service in services:
        if variant.network(service) in there:
            continue
        labels = {
            "com.docker.compose.project": variant.prefix,
            "com.docker.compose.network": service,
        }
        flags = [word for key, value in labels.items() for word in ("--label", f"{key}={value}")]
        engine.must("network", "create", *flags, variant.network(service))


def _connect(engine: Engine, name: str, networks: Sequence[str]) -> None:
    for network in networks:
        engine.must("network", "connect", "--alias", ALIAS, network, name)


def _unreachable(engine: Engine, name: str, networks: Sequence[str], seconds: float) -> str:
    """Wait until the sample host answers by its name in each network, as a task would ask.

    A container beside it would cost 0.4 s a run, and see the same: docker answers NAME.NETWORK from
    the records that it has for the containers of that network. podman knows no such names.

    Returns:
        Nothing, or why it could not be reached in that time.

    Raises:
        Failure: the sample host stopped.
    """
    names = [ALIAS] if engine.kind == "podman" else [f"{ALIAS}.{network}" for network in networks]
    deadline = time.monotonic() + seconds
    while True:
        answer = engine.ask("exec", name, "python", "-I", "-S", "-c", GREETING, str(PORT), *names)
        if answer.returncode == 0:
            return ""
        state = engine.inspect("container", name).get(name, {}).get("State") or {}
        if not state.get("Running"):
            logs = engine.ask("logs", "--tail", "20", name)
            last = _last_line(logs.stdout + logs.stderr) or "it logged nothing"
            code = state.get("ExitCode", "unknown")
            raise Failure(
                f"the sample host stopped with exit code {code}: {last}; {_see(engine, name)}", 1
            )
        if time.monotonic() > deadline:
            return _last_line(answer.stderr) or "no reason given"
        time.sleep(0.1)


def _last_line(text: str) -> str:
    """The last line that is not empty."""
    return ([""] + [line.strip() for line in text.splitlines() if line.strip()])[-1]


def _see(engine: Engine, name: str) -> str:
    return f"see `{engine.kind} logs {name}`"


def _trust(project: Project, variant: Variant, engine: Engine) -> None:
    """Know the key of the running sample host; at once when that container is known."""
    name = container_of(variant)
    address = f"[{ALIAS}]:{PORT}"
    started = str(engine.inspect("container", name)[name]["State"]["StartedAt"])
    stamp = project.state / f"{name}.trusted"
    mark = json.dumps([started, _known_line(project, address)])
    if stamp.exists() and stamp.read_text(encoding="utf-8") == mark:
        return
    key = engine.must(
        "exec", name, "python", "/app/server.py", "public-key", "--host-key", HOST_KEY
    )
    envfiles.trust_sample_host(project, address, key)
    stamp.write_text(json.dumps([started, _known_line(project, address)]), encoding="utf-8")
    give_to_owner(stamp)


def _known_line(project: Project, address: str) -> str | None:
    """The known_hosts line that trusts the sample host at `address`, if there."""
    for line in envfiles.known_lines(project):
        if line.startswith(f"{address} ") and line.endswith(envfiles.SAMPLE_COMMENT):
            return line
    return None


def down(variant: Variant, engine: Engine) -> None:
    """Remove the variant's sample host; its key stays in the volume."""
    engine.ask("rm", "--force", container_of(variant))


def _state_file(project: Project, variant: Variant) -> Path:
    return project.state / f"{container_of(variant)}.json"


def _running(project: Project, variant: Variant) -> dict[str, Any] | None:
    """What the sample host's process wrote when it was ready, if that process still lives."""
    path = _state_file(project, variant)
    try:
        facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        command = Path(f"/proc/{facts['pid']}/cmdline")
        if command.parent.parent.is_dir():
            alive = b"server.py" in command.read_bytes()  # a pid may be another's by now
        else:  # no /proc on this system
            os.kill(int(facts["pid"]), 0)
            alive = True
    except (OSError, ValueError, KeyError):
        return None
    return facts if alive else None


def up_on_loopback(project: Project, variant: Variant, python: Path) -> str:
    """Have the sample host running as a process here, trusted; returns its `127.0.0.1:port`.

    Raises:
        Failure: it did not come up.
    """
    facts = _running(project, variant)
    if facts is None:
        ready = _state_file(project, variant)
        ready.unlink(missing_ok=True)
        home = project.state / "sample-host"
        home.mkdir(exist_ok=True)
        give_to_owner(home)
        log = home / f"{variant.name}.log"
        command = [
            str(python), str(project.root / "docker" / "sample-host" / "server.py"),
            "--root", str(home / "root"), "--host-key", str(home / "host_key"),
            "--host", "127.0.0.1", "--port", "0", "--ready-file", str(ready),
        ]  # fmt: skip
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                close_fds=True,
            )
        deadline = time.monotonic() + READY_SECONDS
        while facts is None:
            if process.poll() is not None or time.monotonic() > deadline:
                last = _last_line(log.read_text("utf-8", "replace")) or "it logged nothing"
                raise Failure(f"the sample host did not start: {last}; see {log}", 5)
            time.sleep(0.05)
            facts = _running(project, variant)
        say(f"started the sample host (127.0.0.1:{facts['port']}, pid {facts['pid']})")
    envfiles.trust_sample_host(project, f"[127.0.0.1]:{facts['port']}", str(facts["public_key"]))
    return f"127.0.0.1:{facts['port']}"


def down_on_loopback(project: Project, variant: Variant) -> bool:
    """End the variant's sample host process; whether there was one."""
    facts = _running(project, variant)
    if facts is None:
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(int(facts["pid"]), signal.SIGTERM)
        deadline = time.monotonic() + ENDING_SECONDS
        while _running(project, variant) and time.monotonic() < deadline:
            time.sleep(0.05)
    envfiles.forget_sample_host(project, f"[127.0.0.1]:{facts['port']}")
    _state_file(project, variant).unlink(missing_ok=True)
    return True
