"""The container engine: which client answers, which one can build, which compose there is."""

from __future__ import annotations

import contextlib
import grp
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any

from docker.setup.project import Failure

# The static client 23 and later builds through the buildx plugin only; older ones have BuildKit
# inside from 18.09 on.
BUILDKIT_SINCE, BUILDKIT_UNTIL = (18, 9), (23, 0)


def on_path(name: str) -> list[str]:
    """Every program of that name on the path, each real file once, in the path's order."""
    found: dict[Path, str] = {}
    for folder in os.environ.get("PATH", os.defpath).split(os.pathsep):
        program = shutil.which(name, path=folder) if folder else None
        if program:
            found.setdefault(Path(program).resolve(), program)
    return list(found.values())


def quiet(
    *command: str, timeout: float | None = 30, stdin: IO[bytes] | int = subprocess.DEVNULL
) -> subprocess.CompletedProcess[str]:
    """Run a command for its answer; one that hangs or is missing counts as failed."""
    try:
        return subprocess.run(
            command,
            stdin=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(command, 125, "", str(error))


@dataclass(frozen=True)
class NoEngine:
    """Why no engine can be used.

    Args:
        why: what is wrong, as part of a sentence.
        fix: what to do about it.
        refused: the engine runs, but this user may not use it.
    """

    why: str
    fix: str
    refused: bool = False

    def __str__(self) -> str:
        return f"{self.why}: {self.fix}"


@dataclass(frozen=True)
class Engine:
    """A client that answers, of the docker or of the podman kind."""

    kind: str
    client: str

    @classmethod
    def find(cls, kind: str) -> Engine | None:
        """The first client of that kind on the path whose engine answers, or None."""
        found = cls.look(kind)
        return found if isinstance(found, cls) else None

    @classmethod
    def look(cls, kind: str) -> Engine | NoEngine:
        """The first client of that kind on the path whose engine answers, or why there is none."""
        field = "{{.Server.Version}}" if kind == "docker" else "{{.Client.Version}}"
        answers = []
        for client in on_path(kind):
            answer = quiet(client, "version", "--format", field, timeout=10)
            if answer.returncode == 0:
                return cls(kind, client)
            answers.append(answer.stderr)
        return _why_not(kind, answers)

    @property
    def root_is_caller(self) -> bool:
        """Whether it maps its root to the caller, as podman without root does."""
        return self.kind == "podman" and os.getuid() != 0

    def ask(self, *arguments: str, **how: Any) -> subprocess.CompletedProcess[str]:
        """Run the client for its answer, whatever its exit code; `how` goes to `quiet`."""
        return quiet(self.client, *arguments, **{"timeout": 60, **how})

    def must(self, *arguments: str, **how: Any) -> str:
        """Run the client for its answer.

        Raises:
            Failure: the engine refused, in its own words.
        """
        answer = self.ask(*arguments, **how)
        if answer.returncode:
            words = answer.stderr.strip().splitlines() or ["no reason given"]
            plain = explained(answer.stderr)
            raise Failure(plain or f"{self.kind} {' '.join(arguments[:2])} failed: {words[-1]}", 1)
        return answer.stdout.strip()

    def inspect(self, kind: str, *names: str) -> dict[str, dict[str, Any]]:
        """What the engine knows of the named images or containers; missing ones are left out.

        Args:
            kind: `image`, `container` or `network`.
            names: looked up in one call.
        """
        answer = self.ask(kind, "inspect", *names)
        facts: dict[str, dict[str, Any]] = {}
        for item in json.loads(answer.stdout or "[]"):
            known = [item.get("Name", item.get("name", "")), *(item.get("RepoTags") or [])]
            known += item.get("RepoDigests") or []
            for name in names:
                if any(_same_name(name, other) for other in known):
                    facts[name] = item
        return facts

    def pull(self, reference: str, timeout: float) -> subprocess.CompletedProcess[str]:
        """Bring an image from its registry."""
        return self.ask("pull", *self._plainly(reference), reference, timeout=timeout)

    def push(self, reference: str) -> tuple[subprocess.CompletedProcess[str], str]:
        """Bring an image to its registry; gives the digest that it has there, too."""
        if self.kind == "docker":
            answer = self.ask("push", reference, timeout=None)
            digest = re.search(r"sha256:[0-9a-f]{64}", answer.stdout)
            return answer, digest[0] if digest else ""
        with tempfile.NamedTemporaryFile("r", prefix="lighterage-") as file:
            words = ["--digestfile", file.name, *self._plainly(reference)]
            answer = self.ask("push", *words, reference, timeout=None)
            return answer, file.read().strip()

    def _plainly(self, reference: str) -> list[str]:
        """Have podman do as docker does: a registry on this machine may do without TLS."""
        host = reference.partition("/")[0].partition(":")[0]
        here = host == "localhost" or host.startswith("127.")
        return ["--tls-verify=false"] if here and self.kind == "podman" else []

    @cached_property
    def builder(self) -> tuple[str, Mapping[str, str]] | None:
        """The client that can build with BuildKit, and the environment it needs; None without."""
        if self.kind == "podman":
            return self.client, {}
        for client in on_path("docker"):
            if quiet(client, "buildx", "version").returncode == 0:
                # The context's own builder: one in a container would not see local base images.
                context = quiet(client, "context", "show").stdout.strip() or "default"
                return client, {"DOCKER_BUILDKIT": "1", "BUILDX_BUILDER": context}
            answer = quiet(client, "version", "--format", "{{.Client.Version}}").stdout
            match = re.match(r"(\d+)\.(\d+)", answer)
            if match and BUILDKIT_SINCE <= (int(match[1]), int(match[2])) < BUILDKIT_UNTIL:
                return client, {"DOCKER_BUILDKIT": "1"}
        return None

    @cached_property
    def compose(self) -> tuple[tuple[str, ...], Mapping[str, str]] | None:
        """The compose command, and the environment it needs; None where there is none."""
        if self.kind == "podman":
            return self._podman_compose()
        for client in on_path("docker"):
            if quiet(client, "compose", "version").returncode == 0:
                return (client, "compose"), {}
        standalone = shutil.which("docker-compose")
        return ((standalone,), {}) if standalone else None

    def _podman_compose(self) -> tuple[tuple[str, ...], Mapping[str, str]] | None:
        if quiet(self.client, "compose", "version").returncode == 0:
            return (self.client, "compose"), {}
        if shutil.which("podman-compose"):
            return ("podman-compose",), {}
        socket = quiet(self.client, "info", "--format", "{{.Host.RemoteSocket.Path}}").stdout
        path = socket.strip().replace("unix://", "")
        if shutil.which("docker-compose") and path and Path(path).exists():
            return ("docker-compose",), {"DOCKER_HOST": f"unix://{path}"}
        return None

    def compose_command(
        self, file: Path, *arguments: str, project: str = ""
    ) -> tuple[list[str], dict[str, str]]:
        """A compose command line on one file, and the whole environment to run it in.

        Args:
            file: The compose file.
            arguments: What compose is to do.
            project: The compose project; without one, as the `.env` beside the file has it.

        Raises:
            Failure: there is no compose for this engine.
        """
        if self.compose is None:
            raise Failure(f"no compose for {self.kind}: install it, then see `make doctor`", 1)
        command, extra = self.compose
        named = ["-p", project] if project else []
        return [*command, *named, "-f", str(file), *arguments], {**os.environ, **extra}


def _why_not(kind: str, answers: Sequence[str]) -> NoEngine:
    """Tell apart what keeps an engine from being used, by what its clients said."""
    if not answers:
        package = "docker.io" if kind == "docker" else kind
        return NoEngine(
            f"{kind} is not installed", f"install it (Debian: apt-get install {package})"
        )
    lines = [line for answer in answers for line in answer.splitlines() if line.strip()]
    for line in lines:
        if DENIED.search(line):
            found = re.search(r"unix://(/[^\s:\"]+)", line)
            return _refused(kind, found[1] if found else "")
    address = os.environ.get("DOCKER_HOST" if kind == "docker" else "CONTAINER_HOST", "")
    if address:
        fix = f"start it, or correct the exported address {address}"
    elif kind == "docker":
        fix = "start it (sudo systemctl start docker, or Docker Desktop)"
    else:
        fix = f"see what `{kind} info` reports"
    said = f"; its client says: {lines[-1].strip()}" if lines else ""
    return NoEngine(f"no {kind} engine answers", fix + said)


def _refused(kind: str, socket: str) -> NoEngine:
    """The engine runs, and its socket is closed to this user: by which group it could be opened."""
    group = ""
    with contextlib.suppress(OSError, KeyError):
        facts = Path(socket).stat()
        if facts.st_mode & 0o060 == 0o060 and facts.st_gid:
            group = grp.getgrgid(facts.st_gid).gr_name
    if group:
        fix = f"add this user to its group (sudo usermod -aG {group} $USER), then log in again"
    else:
        fix = "run make as a user that may, or give this user access"
    where = f"the socket {socket} of the {kind} engine" if socket else f"the {kind} engine"
    return NoEngine(f"no permission to use {where}", fix, refused=True)


# What engines say, docker 20.10 to 28 and podman 4.
DENIED = re.compile(
    r"(socket|connect|dial).*permission denied|permission denied.*(socket|connect)", re.IGNORECASE
)
PORT_TAKEN = re.compile(r"port is already allocated|address already in use")
PORT = re.compile(r"((?:\d+\.){3}\d+|\[::\d*\]):(\d+)")
NO_SUBNET = re.compile(
    r"non-overlapping IPv4 address pool|address pools have been fully subnetted"
    r"|could not find free subnet"
)
READ_ONLY = re.compile(r"(?:mkdir |mount source path ')(/[^:']+).*read-only file system")


def explained(text: str, compose_file: Path | None = None) -> str:
    """Return in plain words what an engine's error text means, or nothing for an unknown one.

    Args:
        text: What the client or compose wrote.
        compose_file: The file of the services that were to start.
    """
    if NO_SUBNET.search(text):
        return (
            "the container engine has no free address range for another network: each service of"
            " each variant and clone has one; run `make down` in clones that you do not use, remove"
            " unused networks (docker network prune), or add default-address-pools to"
            " /etc/docker/daemon.json"
        )
    taken = next((line for line in text.splitlines() if PORT_TAKEN.search(line)), "")
    port = PORT.search(taken)
    if port:
        return _taken(port[1], port[2], compose_file)
    read_only = READ_ONLY.search(text)
    if read_only:
        return f"{read_only[1]}: the file system is read-only; use a clone that can be written to"
    return ""


def _taken(address: str, port: str, compose_file: Path | None) -> str:
    """Say that a port is in use, and which service publishes it, by which setting."""
    message = f"port {address}:{port} is in use"
    text = compose_file.read_text(encoding="utf-8") if compose_file else ""
    service = ""
    for line in text.splitlines():
        key = re.match(r"  ([A-Za-z0-9_-]+):", line)
        service = key[1] if key else service
        if service and re.search(rf"\b{port}:\d+", line):
            place = f"docker/{compose_file.parent.name}/compose.yaml" if compose_file else ""
            return (
                f"{message}, and service {service} publishes it: stop what listens there, or change"
                f" services.{service}.ports in {place}"
            )
    return f"{message}: stop what listens there"


def _same_name(wanted: str, known: str) -> bool:
    """Whether an engine's name (`/box`, `image:latest`, `localhost/image:latest`) is that one."""
    known = known.lstrip("/")
    if known.startswith("localhost/") and not wanted.startswith("localhost/"):
        known = known[len("localhost/") :]
    return known in (wanted, f"{wanted}:latest")


def output_of(command: Sequence[str], env: Mapping[str, str]) -> tuple[int, str]:
    """Run a long command with its output collected: exit code and text."""
    done = subprocess.run(
        command,
        env=dict(env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout
