"""Images of a copy of the repository, and the engine that has them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from docker.setup import bases
from docker.setup.engine import Engine
from docker.setup.project import Project
from docker.tools.context import Context
from tree import ENGINE, REPOSITORY, Tree, engine_or_skip

VARIANTS = ("dev", "prod")
PASSWORDS = {"dev": "dev-sample-only", "prod": "prod-sample-only"}
"""What the env examples have for the accounts of the sample host."""
KINDS = {"container": "{{.Names}}", "image": "{{.Repository}}:{{.Tag}}", "network": "{{.Name}}",
         "volume": "{{.Name}}"}  # fmt: skip

shared: Path | None = None
"""The folder with base images for all trees of a session; tests/containers/conftest.py sets it."""


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
        compose=engine.compose,
        build=engine.build,
    )


@contextlib.contextmanager
def tree_in(
    folder: Path,
    context: Context,
    *built: str,
    env: dict[str, str] | None = None,
    bases_of_its_own: bool = False,
) -> Iterator[Tree]:
    """Give a copy of the repository with the images of variants; remove all of it in the end.

    Args:
        folder: Made here.
        context: With the prefix of its images, containers, networks and volumes.
        built: The variants to build.
        env: Variables that each make has besides.
        bases_of_its_own: Whether to make base images that no other tree shares.
    """
    tree = Tree(folder, context.name, env)
    packages = REPOSITORY / ".lighterage/debian"
    if packages.is_dir():
        shutil.copytree(packages, tree.folder / ".lighterage/debian")
    try:
        if shared and not bases_of_its_own:
            _take_bases(tree, shared)
        for variant in built:
            done = tree.make("build", f"ENV={variant}", timeout=600)
            assert done.returncode == 0, done.stderr
            assert f"built image {context.name}-{variant} in" in done.stderr
        yield tree
    finally:
        for example in tree.folder.glob("envs/*.env.example"):
            tree.make("clean", f"ENV={example.name.partition('.')[0]}")
        for volume in names_of(context, "volume"):
            context.ask("volume", "rm", volume)
        remaining = {kind: names_of(context, kind) for kind in KINDS}
        assert not any(remaining.values()), remaining


def _take_bases(tree: Tree, folder: Path) -> None:
    """Choose base images as make does, but make those of Debian's packages once for all trees."""
    project = Project.from_environment()
    base = tree.env.get("BASE", "")
    project = project._replace(root=tree.folder, name=tree.project, engine=ENGINE, base=base)
    make = bases._debian_base

    def take(project: Project, engine: Engine, kind: str) -> str:
        saved, common = folder / f"{kind}.tar", f"lighterage-test-{folder.name}:{kind}"
        name = f"{project.name}-base:{kind}"
        with (folder / "bases.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if saved.exists():
                engine.must("load", "--input", str(saved), timeout=None)
                engine.must("tag", common, name)
            else:
                make(project, engine, kind)
                engine.must("tag", name, common)
                engine.must("save", "--output", str(saved), common, timeout=None)
            engine.must("image", "rm", common)
        return name

    with mock.patch.object(bases, "_debian_base", take):
        bases.choose(project, engine_or_skip("base images"))


def names_of(context: Context, kind: str, part: str = "") -> list[str]:
    """Name all of a kind whose name starts as the context's do and has `part` in it."""
    every = ["--all"] if kind == "container" else []
    listed = context.must(kind, "ls", "--format", KINDS[kind], *every).split()
    return [
        name
        for name in listed
        if name.removeprefix("localhost/").startswith(context.name) and part in name
    ]


def wait_for(what: Callable[[], Any], seconds: float = 60) -> Any:
    """Wait until something is true; returns it."""
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.1)
    return found


def running(context: Context, part: str) -> str:
    """Name the one container with `part` in its name, once it runs."""

    def ask() -> str | None:
        for name in names_of(context, "container", part):
            # One that ended may be removed between the two questions: nothing is known of it then.
            if Engine.of(context).inspect("container", name).get("State", {}).get("Running"):
                return name
        return None

    name: str = wait_for(ask)
    return name


def in_shell(tree: Tree, variant: str, script: str) -> str:
    """Run a script in a variant's container; no double quotes in it."""
    return tree.ok("shell", f"ENV={variant}", f'ARGS=-c "{script}"')


def give_free_ports(tree: Tree) -> list[int]:
    """Let dev publish ports that nothing listens on, and not those that every clone has."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(3)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        ports = [one.getsockname()[1] for one in sockets]
    compose = tree.folder / "docker/dev/compose.yaml"
    text = compose.read_text()
    for number, port in enumerate(ports):
        text = text.replace(f"127.0.0.1:{5678 + number}:", f"127.0.0.1:{port}:")
    compose.write_text(text)
    return ports


@contextlib.contextmanager
def edited(path: Path, *changes: tuple[str, str]) -> Iterator[Path]:
    """Have other words in a file for a while; each of the old ones must be there.

    A Dockerfile keeps its time: make chooses base images again after an edit, which takes long.
    """
    before = text = path.read_text()
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    path.write_text(text)
    if path.name == "Dockerfile":
        os.utime(path, ns=times)
    try:
        yield path
    finally:
        path.write_text(before)
        if path.name == "Dockerfile":
            os.utime(path, ns=times)
