"""The bundled SSH host: a service of each variant's compose file, or a process on loopback."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from docker.setup import envfiles
from docker.setup.engine import Engine, quiet
from docker.setup.messages import explain
from docker.setup.project import (
    Failure,
    Project,
    give_to_owner,
    last_line,
    make_folder,
    say,
    write_changed,
)
from docker.setup.variants import SAMPLE_HOST, Variant

PORT = 2222
START_TIMEOUT_S, STOP_TIMEOUT_S = 30.0, 5.0
ANSWER_TIMEOUT_S, CONNECT_TIMEOUT_S = 10.0, 2.0


def is_named(variant: Variant) -> bool:
    """Whether the variant's env file names the sample host; no for a file that is not readable."""
    with contextlib.suppress(Failure):
        return envfiles.host_of(variant) == SAMPLE_HOST
    return False


def stamp(variant: Variant) -> Path:
    """Return the file whose presence tells make that the variant's sample host answers."""
    return variant.project.state / f"{variant.sample_host}.up"


def greeting(engine: Engine, variant: Variant) -> list[str]:
    """Return a command that succeeds if the host answers in each network of the variant.

    It runs in the sample host: a container beside it would cost 0.4 s a run, and see the same.
    docker answers NAME.NETWORK from the records that it has for the containers of that network.
    podman knows no such names.
    """
    names = [f"{SAMPLE_HOST}.{variant.prefix}-{service}" for service in variant.services]
    if engine.kind == "podman":
        names = [SAMPLE_HOST]
    program = ["python", "-I", "-S", "/app/greeting.py", str(PORT), *names]
    return [engine.client, "exec", variant.sample_host, *program]


def greets(engine: Engine, variant: Variant) -> str | None:
    """Return an empty text if the host answers in each network of the variant, else None.

    Asked from here where this machine is in those networks, as with docker on Linux: that takes
    1 ms, and the container's own question 150.
    """
    facts = engine.inspect("container", variant.sample_host) if engine.socket else {}
    with contextlib.suppress(OSError, KeyError):
        networks = facts["NetworkSettings"]["Networks"]
        found = [networks[f"{variant.prefix}-{service}"] for service in variant.services]
        if all(SAMPLE_HOST in one["Aliases"] and _answers_here(one) for one in found):
            return ""
    return None if quiet(*greeting(engine, variant), timeout=ANSWER_TIMEOUT_S).returncode else ""


def _answers_here(network: Mapping[str, Any]) -> bool:
    """Whether an SSH server greets at this address, which this machine is the gateway of."""
    address, gateway = network["IPAddress"], network["Gateway"]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as way:
        way.connect((address, PORT))  # sends nothing
        if not gateway or way.getsockname()[0] != gateway:
            return False
    return _says_ssh(address, PORT)


def _says_ssh(address: str, port: int) -> bool:
    with socket.create_connection((address, port), CONNECT_TIMEOUT_S) as connection:
        return connection.recv(4) == b"SSH-"


# --- the host key ---------------------------------------------------------------------------------


def _folder(project: Project) -> Path:
    """Return the closed folder of the host key, in which containers read the file alone."""
    return make_folder(project.state / SAMPLE_HOST, 0o700)


def host_key(project: Project, *command: str) -> None:
    """Run the command that makes the host key and prints its public half; trust it.

    Raises:
        Failure: The command failed.
    """
    with project.lock(SAMPLE_HOST):
        private = _folder(project) / "host_key"
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            raise Failure(f"the sample host's key was not made: exit code {done.returncode}", 1)
        private.chmod(0o644)
        give_to_owner(private)
        write_changed(private.with_suffix(".pub"), done.stdout)
        trust(project)
        for variant in filter(is_named, Variant.all(project)):
            as_root = Engine.of(project).root_is_caller
            envfiles.write_compose_env(variant, as_root=as_root)


def trust(project: Project) -> None:
    """Make the sample host's key known by the name that tasks use, where there is a key."""
    public = project.root / ".lighterage" / SAMPLE_HOST / "host_key.pub"
    if public.exists() and envfiles.known_hosts(project).exists():
        key = public.read_text(encoding="utf-8")
        envfiles.trust_sample_host(project, f"[{SAMPLE_HOST}]:{PORT}", key)


# --- in a container -------------------------------------------------------------------------------


def sample_host(project: Project, variant_name: str, *command: str) -> None:
    """Run the command that starts the sample host, unless it answers; wait until it does.

    Raises:
        Failure: The engine refused, or the host does not answer.
    """
    engine, variant = Engine.of(project), Variant(project, variant_name)
    name, image = variant.sample_host, f"{project.name}-{SAMPLE_HOST}"
    with project.lock(SAMPLE_HOST):
        facts = engine.inspect("container", name)
        current = facts and facts["Image"] == engine.inspect("image", image).get("Id")
        question = greeting(engine, variant)[1:]
        if current and engine.ask(*question).returncode == 0:
            return
        engine.ask("rm", "--force", name)
        done = quiet(*command, timeout=None)
        if done.returncode:
            reason = explain(done.stderr, variant.compose_file) or done.stderr.strip()
            raise Failure(f"the sample host was not started: {reason}", 1)
        say(f"started the sample host ({name})")
        deadline = time.monotonic() + START_TIMEOUT_S
        while (answer := engine.ask(*question)).returncode:
            running = engine.inspect("container", name).get("State", {}).get("Running")
            if not running or time.monotonic() > deadline:
                logs = engine.ask("logs", "--tail", "20", name)
                reason = last_line(answer.stderr if running else logs.stdout + logs.stderr)
                raise Failure(
                    f"the sample host does not answer: {reason}; see `{engine.kind} logs {name}`", 5
                )
            time.sleep(0.1)


# --- on loopback ----------------------------------------------------------------------------------


def _state_file(variant: Variant) -> Path:
    return variant.project.state / f"{variant.sample_host}.json"


def _running(variant: Variant) -> dict[str, Any]:
    """Return what the sample host's process wrote when it was ready; nothing if none answers."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        facts: dict[str, Any] = json.loads(_state_file(variant).read_text(encoding="utf-8"))
        os.kill(int(facts["pid"]), 0)
        if _says_ssh("127.0.0.1", facts["port"]):
            return facts
    return {}


def loopback(project: Project, variant_name: str, *command: str) -> None:
    """Run the command that starts the sample host here, unless it runs; trust it.

    The option that points a task at it is written into a file, which the recipe of run reads.

    Raises:
        Failure: It did not start.
    """
    variant = Variant(project, variant_name)
    with project.lock(SAMPLE_HOST):
        facts = _running(variant)
        if not facts:
            _state_file(variant).unlink(missing_ok=True)
            log = _folder(project) / f"{variant.name}.log"
            with log.open("wb") as output:
                process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                    start_new_session=True, close_fds=True,
                )  # fmt: skip
            deadline = time.monotonic() + START_TIMEOUT_S
            while not facts:
                if process.poll() is not None or time.monotonic() > deadline:
                    last = last_line(log.read_text("utf-8", "replace"))
                    raise Failure(f"the sample host did not start: {last}; see {log}", 5)
                time.sleep(0.05)
                facts = _running(variant)
            say(f"started the sample host (127.0.0.1:{facts['port']}, pid {facts['pid']})")
        port, key = facts["port"], str(facts["public_key"])
        envfiles.trust_sample_host(project, f"[127.0.0.1]:{port}", key)
        option = f"--remote-host-address 127.0.0.1:{port}"
        write_changed(_state_file(variant).with_suffix(".option"), option)


def end_loopback(project: Project, variant_name: str) -> None:
    """End the variant's sample host process, if there is one."""
    variant = Variant(project, variant_name)
    facts = _running(variant)
    if not facts:
        return
    with contextlib.suppress(ProcessLookupError):
        os.kill(int(facts["pid"]), signal.SIGTERM)
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while _running(variant) and time.monotonic() < deadline:
            time.sleep(0.05)
    envfiles.trust_sample_host(project, f"[127.0.0.1]:{facts['port']}", "")
    _state_file(variant).unlink(missing_ok=True)
    say("ended the sample host on loopback")
