"""The variants: each folder of docker/ with a compose file and an env example of its name."""

from __future__ import annotations

import re
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from docker.setup.project import Failure, Project

if TYPE_CHECKING:  # Python 3.9 has none
    from typing import Self

# A key that an env example mentions, commented out or not.
EXAMPLE_LINE = re.compile(r"^#?([A-Z_][A-Z0-9_]*)=", re.MULTILINE)
SAMPLE_HOST = "sample-host"


class Variant:
    """One build variant; its files are the only place that says how it differs."""

    def __init__(self, project: Project, name: str) -> None:
        self.project = project
        self.name = name

    @classmethod
    def all(cls, project: Project) -> list[Self]:
        """Return every variant of the tree, by name.

        Raises:
            Failure: An image cannot have such a name.
        """
        names = sorted(path.parent.name for path in project.root.glob("docker/*/compose.yaml"))
        found = [variant for name in names if (variant := cls(project, name)).example.exists()]
        for name in (variant.name for variant in found):
            if not re.fullmatch("[a-z0-9][a-z0-9-]*", name):
                raise Failure(f"docker/{name}: name variants in lowercase letters, digits, dashes")
        return found

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
        """The tracked example of its env file."""
        return self.env_file.with_name(f"{self.name}.env.example")

    @property
    def container_copy(self) -> Path:
        """The copy of the env file that compose mounts where the tree is not mounted."""
        return self.env_file.parent / "secrets" / self.env_file.name

    @property
    def prefix(self) -> str:
        """The start of the names of this variant's image, containers and networks."""
        return f"{self.project.name}-{self.name}"

    @property
    def sample_host(self) -> str:
        """The name of the container of the variant's own sample host."""
        return f"{self.prefix}-{SAMPLE_HOST}"

    @cached_property
    def services(self) -> tuple[str, ...]:
        """Service names in the file's order: the two-space keys below `services:`.

        Asking compose costs 0.4 s at each run, and the standard library has no YAML reader.
        """
        text = self.compose_file.read_text(encoding="utf-8")
        block = re.search(r"^services:\n((?:[ #].*\n|\n)+)", text, re.MULTILINE)
        names = re.findall(r"^  ([A-Za-z0-9_-]+):", block.group(1), re.MULTILINE) if block else []
        return tuple(name for name in names if name != SAMPLE_HOST)

    @cached_property
    def debug_ports(self) -> dict[str, str]:
        """The ports of 127.0.0.1 that services publish for a debugger, by service."""
        text = self.compose_file.read_text(encoding="utf-8")
        blocks = re.findall(r"^  ([A-Za-z0-9_-]+):\n((?:    .*\n)+)", text, re.MULTILINE)
        published = re.compile(r"\b127\.0\.0\.1:(\d+):5678\b")
        found = ((name, published.search(block)) for name, block in blocks)
        return {name: match[1] for name, match in found if match}

    @cached_property
    def binds_tree(self) -> bool:
        """Whether its services see the live working tree."""
        return "../..:/app" in self.compose_file.read_text(encoding="utf-8")
