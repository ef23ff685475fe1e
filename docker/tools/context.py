"""What make tells a tool: the clone, the variables of the command, and how to reach the engine."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from docker.setup.project import Failure


@dataclass(frozen=True)
class Context:
    """The `LIGHTERAGE_*` variables that the Makefile exports, read once.

    Args:
        root: the folder of the clone.
        project: prefix of every image, container, network and volume.
        engine: `docker` or `podman`.
        docker: words of the client whose engine answers; none without an engine.
        compose: words of compose.
        build: words of a build with base images and secrets; `--file`, `--tag` and the build
            context are still to be added.
    """

    root: Path
    project: str = "lighterage"
    engine: str = "docker"
    docker: tuple[str, ...] = ()
    compose: tuple[str, ...] = ()
    build: tuple[str, ...] = ()
    task: str = "1"
    args: tuple[str, ...] = ()
    runner: str = ""
    host: str = ""
    yes: bool = False
    file: str = ""
    registry: str = ""
    hub: str = ""

    @classmethod
    def from_environment(cls) -> Context:
        """Read the variables.

        Raises:
            Failure: ARGS has an unbalanced quote.
        """

        def words(name: str) -> tuple[str, ...]:
            text = os.environ.get(f"LIGHTERAGE_{name}", "")
            try:
                return tuple(shlex.split(text))
            except ValueError as error:
                raise Failure(f"{name}={text}: {error}; quote it as for a shell") from None

        def text(name: str, default: str = "") -> str:
            return os.environ.get(f"LIGHTERAGE_{name}", "").strip() or default

        return cls(
            root=Path(__file__).resolve().parents[2],
            project=text("PROJECT", "lighterage"),
            engine=text("ENGINE", "docker"),
            docker=words("DOCKER"),
            compose=words("COMPOSE"),
            build=words("BUILD"),
            task=text("TASK", "1"),
            args=words("ARGS"),
            runner=text("RUNNER"),
            host=text("HOST"),
            yes=text("YES") == "1",
            file=text("FILE"),
            registry=text("REGISTRY").rstrip("/"),
            hub=text("HUB").rstrip("/"),
        )

    def options(self, verb: str, *known: str) -> list[str]:
        """Return the options among ARGS.

        Raises:
            Failure: one is not known.
        """
        options = [word for word in self.args if word.startswith("-")]
        for option in options:
            if option not in known:
                raise Failure(f"{verb} knows no {option}; known: {' '.join(known)}")
        return options

    @property
    def state(self) -> Path:
        """The folder of the tools' own files."""
        folder = self.root / ".lighterage"
        folder.mkdir(exist_ok=True)
        return folder

    @property
    def version(self) -> str:
        """The version in pyproject.toml."""
        import tomllib

        text = (self.root / "pyproject.toml").read_text(encoding="utf-8")
        return str(tomllib.loads(text).get("project", {}).get("version", "0"))

    def image(self, name: str) -> str:
        """Return the tag of a variant's image, or of another one of the project."""
        return f"{self.project}-{name}"

    def ask(self, *words: str, **how: Any) -> subprocess.CompletedProcess[str]:
        """Run the engine's client for its answer, whatever its exit code."""
        how = {"stdin": subprocess.DEVNULL, **how}
        command = [*self.docker, *words]
        return subprocess.run(command, capture_output=True, text=True, check=False, **how)

    def must(self, *words: str, **how: Any) -> str:
        """Run the engine's client for its answer.

        Raises:
            Failure: it failed; the last line of its error.
        """
        answer = self.ask(*words, **how)
        if answer.returncode:
            raise Failure(f"{self.engine} {' '.join(words[:2])} failed: {last_line(answer)}", 1)
        return answer.stdout.strip()

    def inspect(self, kind: str, name: str) -> Any:
        """Return what the engine knows of an image or a container.

        Raises:
            Failure: there is none of that name.
        """
        return json.loads(self.must(kind, "inspect", name))[0]

    def variants(self) -> list[Variant]:
        """Return every variant: a folder with a compose file, and an env example of its name."""
        names = [path.parent.name for path in self.root.glob("docker/*/compose.yaml")]
        found = [Variant(self, name) for name in sorted(names)]
        return [variant for variant in found if variant.example.exists()]

    def variant(self, name: str) -> Variant:
        """Return the variant of a name.

        Raises:
            Failure: there is none.
        """
        known = {variant.name: variant for variant in self.variants()}
        if name not in known:
            raise Failure(f"{name!r} is not a variant; known: {' '.join(known)}")
        return known[name]


@dataclass(frozen=True)
class Variant:
    """A build variant: its files, and compose on them."""

    context: Context
    name: str

    @property
    def folder(self) -> Path:
        """Where Dockerfile, compose file and contract are."""
        return self.context.root / "docker" / self.name

    @property
    def env_file(self) -> Path:
        """The user's env file."""
        return self.context.root / "envs" / f"{self.name}.env"

    @property
    def example(self) -> Path:
        """The tracked example that it is made from."""
        return self.env_file.with_name(f"{self.name}.env.example")

    @property
    def image(self) -> str:
        """The tag of its image."""
        return self.context.image(self.name)

    @cached_property
    def services(self) -> list[str]:
        """The services of its compose file, in the file's order."""
        (document,) = read_yaml(self.folder / "compose.yaml")
        services = document.get("services") if isinstance(document, dict) else None
        return list(services or {})

    @property
    def service(self) -> str:
        """The service for the chosen task: its own, or else the first."""
        own = f"task{self.context.task}"
        return own if own in self.services else self.services[0]

    def renamed(self, project: str) -> Variant:
        """Return this variant with containers, networks and volumes of another project."""
        return Variant(replace(self.context, project=project), self.name)

    def compose(
        self, *words: str, files: Sequence[str] = (), stdin: bytes | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        """Run compose on the variant's file for its answer, whatever its exit code.

        Args:
            words: what compose is to do.
            files: further compose files, which override the variant's.
            stdin: what the command reads.

        Raises:
            Failure: there is no compose.
        """
        if not self.context.compose:
            raise Failure("no compose here; `make doctor` says what to install", 1)
        command = [*self.context.compose, "-p", self.image]
        for file in (str(self.folder / "compose.yaml"), *files):
            command += ["-f", file]
        env: Mapping[str, str] = {
            **os.environ,
            "LIGHTERAGE_PROJECT": self.context.project,
            "COMPOSE_PROJECT_NAME": self.image,
        }
        return subprocess.run(
            [*command, *words], env=env, input=stdin or b"", capture_output=True, check=False
        )


def read_yaml(path: Path, text: str | None = None) -> list[Any]:
    """Return the documents of a YAML file.

    Args:
        path: the file, for messages as well.
        text: its text, where that is not the file's.

    Raises:
        Failure: it is not YAML.
    """
    import yaml  # not at the top: doctor runs without it

    try:
        return list(yaml.safe_load_all(text or path.read_text(encoding="utf-8")))
    except yaml.YAMLError as error:
        raise Failure(
            f"docker/{path.parent.name}/{path.name}: {' '.join(str(error).split())}"
        ) from None


def last_line(answer: subprocess.CompletedProcess[str] | subprocess.CompletedProcess[bytes]) -> str:
    """Return the last line that a failed command wrote on standard error."""
    text = answer.stderr
    if isinstance(text, bytes):
        text = text.decode(errors="replace")
    return str((text.strip().splitlines() or ["it gave no reason"])[-1])
