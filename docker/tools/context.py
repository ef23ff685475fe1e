"""The context of a tool: the clone, the variables of the command, and how to reach the engine."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

from docker.setup import variants
from docker.setup.engine import Engine, quiet
from docker.setup.project import Failure, Project


class Context(Project):
    """The clone and the `LIGHTERAGE_*` variables, with the container engine."""

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

    def ask(self, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run the engine's client for its answer, whatever its exit code."""
        return Engine.of(self).ask(*words, timeout=None, stdin=stdin)

    def must(self, *words: str) -> str:
        """Run the engine's client for its answer.

        Raises:
            Failure: it failed.
        """
        return Engine.of(self).must(*words, timeout=None)

    def inspect(self, kind: str, name: str) -> Any:
        """Return what the engine knows of an image or a container.

        Raises:
            Failure: there is none of that name.
        """
        return json.loads(self.must(kind, "inspect", name))[0]

    def variant(self, name: str) -> Variant:
        """Return the variant of a name.

        Raises:
            Failure: there is none.
        """
        known = {variant.name: variant for variant in Variant.all(self)}
        if name not in known:
            raise Failure(f"{name!r} is not a variant; known: {' '.join(known)}")
        return known[name]


class Variant(variants.Variant):
    """A build variant: its files, its image, and compose on them."""

    def __init__(self, project: Context, name: str) -> None:
        super().__init__(project, name)
        self.project: Context = project

    @property
    def folder(self) -> Path:
        """Where Dockerfile, compose file and contract are."""
        return self.compose_file.parent

    @property
    def service(self) -> str:
        """The service for the chosen task: its own, or else the first."""
        own = f"task{self.project.task}"
        return own if own in self.services else self.services[0]

    def renamed(self, name: str) -> Variant:
        """Return this variant with containers, networks and volumes of another project."""
        return Variant(self.project._replace(name=name), self.name)

    def compose(
        self, *words: str, override: str = "", stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run compose on the variant's file for its answer, whatever its exit code.

        Args:
            words: what compose is to do.
            override: a further compose file.
            stdin: what the command reads.
        """
        command = [*self.project.compose, "-p", self.prefix, "-f", str(self.compose_file)]
        command += ["-f", override] if override else []
        names = [f"LIGHTERAGE_PROJECT={self.project.name}", f"COMPOSE_PROJECT_NAME={self.prefix}"]
        return quiet("env", *names, *command, *words, timeout=None, stdin=stdin)


def written(variant: Variant, **values: str) -> Any:
    """Return a variant's compose file, with values or else the defaults of its variables.

    Raises:
        Failure: it is not YAML.
    """

    def value(match: re.Match[str]) -> str:
        return values.get(match[1], match[2])

    path = variant.compose_file
    text = re.sub(r"\$\{(\w+):-([^{}]*)\}", value, path.read_text(encoding="utf-8"))
    return read_yaml(path, text)[0]


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
        name = f"docker/{path.parent.name}/{path.name}"
        raise Failure(f"{name}: {' '.join(str(error).split())}") from None
