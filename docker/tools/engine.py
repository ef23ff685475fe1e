"""The container engine: which client answers, which one can build, which compose there is."""

from __future__ import annotations

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

from project import Failure

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
class Engine:
    """A client that answers, of the docker or of the podman kind."""

    kind: str
    client: str

    @classmethod
    def find(cls, kind: str) -> Engine | None:
        """The first client of that kind on the path whose engine answers, or None."""
        field = "{{.Server.Version}}" if kind == "docker" else "{{.Client.Version}}"
        for client in on_path(kind):
            if quiet(client, "version", "--format", field, timeout=10).returncode == 0:
                return cls(kind, client)
        return None

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
            raise Failure(f"{self.kind} {' '.join(arguments[:2])} failed: {words[-1]}", 1)
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

    def compose_command(self, file: Path, *arguments: str) -> tuple[list[str], dict[str, str]]:
        """A compose command line on one file, and the whole environment to run it in.

        Raises:
            Failure: there is no compose for this engine.
        """
        if self.compose is None:
            raise Failure(f"no compose for {self.kind}: install it, then see `make doctor`", 1)
        command, extra = self.compose
        return [*command, "-f", str(file), *arguments], {**os.environ, **extra}


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
