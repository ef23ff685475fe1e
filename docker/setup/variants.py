"""The variants, as the tree has them: a folder with a compose file, and an example env file."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from docker.setup.project import NAME, Failure, Project, owner, write_atomic

# A key that an env example mentions, commented out or not.
EXAMPLE_LINE = re.compile(r"^#?([A-Z_][A-Z0-9_]*)=", re.MULTILINE)


@dataclass(frozen=True)
class Variant:
    """One build variant; its files are the only place that says how it differs."""

    project: Project
    name: str

    @classmethod
    def all(cls, project: Project) -> list[Variant]:
        """Every variant of the tree, by name.

        Raises:
            Failure: a name is none that an image can have.
        """
        found = sorted(path.parent.name for path in project.root.glob("docker/*/compose.yaml"))
        examples = project.root / "envs"
        names = [name for name in found if (examples / f"{name}.env.example").exists()]
        for name in names:
            if not NAME.fullmatch(name):
                raise Failure(f"docker/{name}: name variants in lowercase letters, digits, dashes")
        return [cls(project, name) for name in names]

    @classmethod
    def named(cls, project: Project, name: str) -> Variant:
        """The variant of that name.

        Raises:
            Failure: the tree has none, or one whose name no image can have.
        """
        known = {variant.name: variant for variant in cls.all(project)}
        if name not in known:
            raise Failure(f"{name!r} is not a variant; known: {' '.join(known)}")
        return known[name]

    @property
    def compose_file(self) -> Path:
        """The compose file."""
        return self.project.root / "docker" / self.name / "compose.yaml"

    @property
    def env_file(self) -> Path:
        """The env file, made at the first use."""
        return self.project.root / "envs" / f"{self.name}.env"

    @property
    def example(self) -> Path:
        """The tracked example that it is made from."""
        return self.env_file.with_name(f"{self.name}.env.example")

    @property
    def prefix(self) -> str:
        """What the names of this variant's image, containers and networks begin with."""
        return f"{self.project.name}-{self.name}"

    @cached_property
    def services(self) -> tuple[str, ...]:
        """Service names in the file's order: the two-space keys below `services:`.

        Asking compose costs 0.4 s at each run, and the standard library has no YAML reader.
        """
        text = self.compose_file.read_text(encoding="utf-8")
        block = re.search(r"^services:\n((?:[ #].*\n|\n)+)", text, re.MULTILINE)
        names = re.findall(r"^  ([A-Za-z0-9_-]+):", block.group(1), re.MULTILINE) if block else []
        if not names:
            raise Failure(f"{self.compose_file}: no services found")
        return tuple(names)

    @property
    def service(self) -> str:
        """The service for the chosen task: its own, or else the first."""
        own = f"task{self.project.task}"
        return own if own in self.services else self.services[0]

    @cached_property
    def binds_tree(self) -> bool:
        """Whether its services see the live working tree."""
        return "../..:/app" in self.compose_file.read_text(encoding="utf-8")

    def network(self, service: str) -> str:
        """The name of a service's own network."""
        return f"{self.prefix}-{service}"

    def write_compose_env(self, files: str, *, as_root: bool) -> None:
        """Write the `.env` beside the compose file, so that compose by hand works too.

        Args:
            files: changes when a file in envs/ that containers see does.
            as_root: the engine maps its root to the caller (podman without root does).
        """
        uid, gid = (0, 0) if as_root else owner()
        lines = [
            "# Made by make: what the compose file beside it needs to know of this machine.",
            f"COMPOSE_PROJECT_NAME={self.prefix}",
            f"LIGHTERAGE_PROJECT={self.project.name}",
            f"LIGHTERAGE_UID={uid}",
            f"LIGHTERAGE_GID={gid}",
            f"LIGHTERAGE_FILES={files}",
        ]
        path, content = self.compose_file.with_name(".env"), ("\n".join(lines) + "\n").encode()
        if not path.exists() or path.read_bytes() != content:
            write_atomic(path, content, 0o644)
