"""The container engine: which client answers, which one can build, which compose there is.

podman differs in its build and compose words and in its version (here), in names and TLS of
registries (bases.py, PUSH_podman in the Makefile) and in the names of hosts (sample_host.py).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from docker.setup.messages import explain
from docker.setup.project import Failure, Project, last_line

# The static client 23 and later builds through the buildx plugin only; older ones have BuildKit
# inside from 18.09 on.
BUILDKIT_SINCE, BUILDKIT_UNTIL = (18, 9), (23, 0)
# BuildKit 0.11 and newer (engine 23) and podman date image and history by it, so that the id is the
# same, too. The Dockerfiles give files the same time: any does, if it is always the same.
MOMENT = "1767225600"
CALL_TIMEOUT_S = 10.0
# What decides which client answers, and for which engine.
CLIENT_VARIABLES = ("PATH", "HOME", "DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG",
                    "CONTAINER_HOST")  # fmt: skip
DENIED = re.compile(
    r"(socket|connect|dial).*permission denied|permission denied.*(socket|connect)", re.IGNORECASE
)


def on_path(name: str) -> list[str]:
    """Return every program of that name on the path, each real file once, in the path's order."""
    found: dict[Path, str] = {}
    for folder in os.environ.get("PATH", os.defpath).split(os.pathsep):
        program = shutil.which(name, path=folder) if folder else None
        if program:
            found.setdefault(Path(program).resolve(), program)
    return list(found.values())


def quiet(
    *command: str, timeout: float | None = 30, stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run a command for its answer; one that hangs or is missing counts as failed."""
    try:
        return subprocess.run(
            command, input=stdin, capture_output=True, encoding="utf-8", errors="replace",
            timeout=timeout, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(command, 125, "", str(error))


class NoEngine(NamedTuple):
    """Why no engine can be used.

    Args:
        why: What is wrong, as part of a sentence.
        fix: What to do about it.
        refused: The engine runs, but this user may not use it.
    """

    why: str
    fix: str
    refused: bool = False

    def __str__(self) -> str:
        return f"{self.why}: {self.fix}"


class Engine(NamedTuple):
    """A client that answers, of the docker or of the podman kind.

    Args:
        kind: `docker` or `podman`.
        client: The program.
        build: The words of a build command, without options; none where nothing here can build.
        compose: The words of compose; none where there is none.
        socket: Where docker's engine listens, if that is a socket of this machine.
    """

    kind: str
    client: str
    build: tuple[str, ...] = ()
    compose: tuple[str, ...] = ()
    socket: str = ""

    @classmethod
    def of(cls, project: Project) -> Engine:
        """Return the client that the recipes use."""
        client = (project.docker or (project.engine,))[0]
        return cls(project.engine, client, socket=project.socket)

    @classmethod
    def find(cls, kind: str) -> Engine | None:
        """Return the first client of that kind on the path whose engine answers, or None."""
        found = cls.look(kind)
        return found if isinstance(found, cls) else None

    @classmethod
    def look(cls, kind: str) -> Engine | NoEngine:
        """Return the first client of that kind whose engine answers, or why there is none."""
        errors = []
        for client in on_path(kind):
            engine = cls(kind, client)
            answer = quiet(*engine.version_command, timeout=10)
            if answer.returncode == 0:
                if kind == "podman":
                    return cls(kind, client, _podman_build(client), _podman_compose(client))
                return cls(kind, client, _docker_build(), _docker_compose(), _socket(client))
            errors.append(answer.stderr)
        return _why_not(kind, errors)

    @property
    def version_command(self) -> tuple[str, ...]:
        """The cheapest question that the engine must answer itself."""
        field = "{{.Server.Version}}" if self.kind == "docker" else "{{.Client.Version}}"
        return self.client, "version", "--format", field

    @property
    def root_is_caller(self) -> bool:
        """Whether it maps its root to the caller, as podman without root does."""
        return self.kind == "podman" and os.getuid() != 0

    def ask(
        self, *arguments: str, timeout: float | None = 60, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run the client for its answer, whatever its exit code."""
        return quiet(self.client, *arguments, timeout=timeout, stdin=stdin)

    def must(self, *arguments: str, timeout: float | None = 60) -> str:
        """Run the client for its answer.

        Raises:
            Failure: The engine refused, in its own words.
        """
        answer = self.ask(*arguments, timeout=timeout)
        if answer.returncode:
            raw = f"{self.kind} {' '.join(arguments[:2])} failed: {last_line(answer.stderr)}"
            raise Failure(explain(answer.stderr) or raw, 1)
        return answer.stdout.strip()

    def inspect(self, kind: str, name: str) -> dict[str, Any]:
        """Return what the engine knows of an image, a container and so on; nothing of none."""
        if self.socket:
            with contextlib.suppress(OSError, ValueError, IndexError):
                end = "/json" if kind in ("image", "container") else ""
                status, facts = self.call("GET", f"/{kind}s/{name}{end}")
                if status in (200, 404):
                    return dict(facts) if status == 200 else {}
        found = json.loads(self.ask(kind, "inspect", name).stdout or "[]")
        return dict(found[0]) if found else {}

    def call(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """Ask the engine itself, which takes 1 ms where its client takes 30.

        Raises:
            OSError: It does not answer.
            ValueError: It answers something else.
        """
        content = json.dumps(body).encode() if body is not None else b""
        # 1.0: the answer comes in one piece, and ends the connection.
        head = f"{method} {path} HTTP/1.0\r\nContent-Type: application/json\r\n"
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(CALL_TIMEOUT_S)
            connection.connect(self.socket)
            connection.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        head, _, text = answer.decode("utf-8", "replace").partition("\r\n\r\n")
        return int(head.split()[1]), json.loads(text)


def _socket(client: str) -> str:
    where = quiet(client, "context", "inspect", "--format", "{{.Endpoints.docker.Host}}").stdout
    path = where.strip().removeprefix("unix://")
    return path if path != where.strip() and os.access(path, os.W_OK) else ""


def _docker_build() -> tuple[str, ...]:
    moment = f"SOURCE_DATE_EPOCH={MOMENT}"
    for client in on_path("docker"):
        if quiet(client, "buildx", "version").returncode == 0:
            # The context's own builder: one in a container would not see local base images.
            context = quiet(client, "context", "show").stdout.strip() or "default"
            return ("env", moment, f"BUILDX_BUILDER={context}", client, "build")
        answer = quiet(client, "version", "--format", "{{.Client.Version}}").stdout
        match = re.match(r"(\d+)\.(\d+)", answer)
        if match and BUILDKIT_SINCE <= (int(match[1]), int(match[2])) < BUILDKIT_UNTIL:
            return ("env", moment, "DOCKER_BUILDKIT=1", client, "build")
    return ()


def _docker_compose() -> tuple[str, ...]:
    for client in on_path("docker"):
        if quiet(client, "compose", "version").returncode == 0:
            return (client, "compose")
    return tuple(on_path("docker-compose")[:1])


def _podman_build(client: str) -> tuple[str, ...]:
    """Podman's own format has no HEALTHCHECK; without --layers it would build all again each time.

    Its cache (buildah 1.28) does not look into what a step mounts: after a change in docker/wheels
    or docker/sbom it takes `podman image rm` of the image.
    """
    return (client, "build", "--format", "docker", "--layers", "--timestamp", MOMENT)


def _podman_compose(client: str) -> tuple[str, ...]:
    if quiet(client, "compose", "version").returncode == 0:
        return (client, "compose")
    if shutil.which("podman-compose"):
        return ("podman-compose",)
    socket = quiet(client, "info", "--format", "{{.Host.RemoteSocket.Path}}").stdout
    path = socket.strip().replace("unix://", "")
    if shutil.which("docker-compose") and path and Path(path).exists():
        return ("env", f"DOCKER_HOST=unix://{path}", "docker-compose")
    return ()


def _why_not(kind: str, errors: Sequence[str]) -> NoEngine:
    """Tell apart what keeps an engine from being used, by what its clients wrote."""
    if not errors:
        package = "docker.io" if kind == "docker" else kind
        return NoEngine(
            f"{kind} is not installed", f"install it (Debian: apt-get install {package})"
        )
    lines = [line for error in errors for line in error.splitlines() if line.strip()]
    denied = next(filter(DENIED.search, lines), "")
    if denied:
        found = re.search(r"unix://(/[^\s:\"]+)", denied)
        where = f"the socket {found[1]} of the {kind} engine" if found else f"the {kind} engine"
        fix = "run make as a user that may, or give this user access"
        with contextlib.suppress(OSError, KeyError):
            socket = Path(found[1] if found else "")
            if socket.stat().st_mode & 0o060 == 0o060 and socket.stat().st_gid:
                group = f"add this user to its group (sudo usermod -aG {socket.group()} $USER)"
                fix = f"{group}, then log in again"
        return NoEngine(f"no permission to use {where}", fix, refused=True)
    address = os.environ.get("DOCKER_HOST" if kind == "docker" else "CONTAINER_HOST", "")
    if address:
        fix = f"start it, or correct the exported address {address}"
    elif kind == "docker":
        fix = "start it (sudo systemctl start docker, or Docker Desktop)"
    else:
        fix = f"see what `{kind} info` reports"
    reason = f"; its client says: {lines[-1].strip()}" if lines else ""
    return NoEngine(f"no {kind} engine answers", fix + reason)
