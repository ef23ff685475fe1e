"""Images of a copy of the repository, and the engine that has them."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from docker.tools.context import Context
from tree import REPOSITORY, Tree, engine_or_skip


def context_or_skip(untested: str, project: str = "lighterage") -> Context:
    """Give a context with the engine of this machine, or skip loudly.

    Args:
        untested: What stays unproved without an engine.
        project: The prefix of images.
    """
    engine = engine_or_skip(untested)
    return Context(
        REPOSITORY,
        project,
        engine=engine.kind,
        docker=(engine.client,),
        build=engine.build,
    )


@contextlib.contextmanager
def tree_in(
    folder: Path, context: Context, *built: str, env: dict[str, str] | None = None
) -> Iterator[Tree]:
    """Give a copy of the repository with the images of variants; remove all of it in the end.

    Args:
        folder: Made here.
        context: With the prefix of its images, containers, networks and volumes.
        built: The variants to build.
        env: Variables that each make has besides.
    """
    tree = Tree(folder, context.name, env)
    packages = REPOSITORY / ".lighterage/debian"
    if packages.is_dir():
        shutil.copytree(packages, tree.folder / ".lighterage/debian")
    try:
        for variant in built:
            tree.ok("build", f"ENV={variant}", timeout=600)
        yield tree
    finally:
        for example in tree.folder.glob("envs/*.env.example"):
            tree.make("clean", f"ENV={example.name.partition('.')[0]}")
        volumes = context.ask("volume", "ls", "--format", "{{.Name}}").stdout.split()
        context.ask("volume", "rm", *(name for name in volumes if name.startswith(context.name)))
