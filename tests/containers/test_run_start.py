"""A run starts without BuildKit while that would do what it did the last time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from docker.setup.engine import Engine
from docker.tools.context import Context
from images import edited
from tree import ENGINE, Tree, engine_or_skip

PROJECT = f"lighterage-start-{os.getpid()}"
HELP = ("run", "ENV=prod", "ARGS=--help")
pytestmark = pytest.mark.container


class Calls:
    """What the clients on the path of a tree are asked, each of them the real one."""

    def __init__(self, tree: Tree, folder: Path, engine: Engine) -> None:
        self.log = folder / "calls"
        folder.mkdir()
        # The client that builds: it is not always the first.
        client = folder / "docker"
        client.write_text(f'#!/bin/sh\necho "$*" >> "{self.log}"\nexec {engine.build[-2]} "$@"\n')
        client.chmod(0o755)
        tree.env["PATH"] = f"{folder}:{os.environ['PATH']}"

    def of(self, work: Callable[[], Any]) -> set[str]:
        """Do it; return `build` if that was asked."""
        self.log.write_text("")
        work()
        lines = self.log.read_text().splitlines()
        return {"build" for line in lines if line.startswith("build ")}


@pytest.fixture(scope="module")
def calls(tree: Tree, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Calls]:
    """Give the calls of the module's tree."""
    engine = engine_or_skip("starts without BuildKit")
    if not engine.socket:
        pytest.skip(f"{ENGINE} HAS NO SOCKET HERE: BuildKit is always asked")
    yield Calls(tree, tmp_path_factory.mktemp("clients") / "bin", engine)
    del tree.env["PATH"]


@pytest.fixture
def warm(tree: Tree, calls: Calls) -> Calls:
    """Give the calls of the tree after a run that made all that is missing."""
    tree.ok(*HELP)
    assert calls.of(lambda: tree.ok(*HELP)) == set(), "nothing changed"
    return calls


def test_an_edit_is_never_missed(tree: Tree, warm: Calls) -> None:
    """Nor one that leaves the size."""
    shown: list[str] = []
    with edited(tree.folder / "tasks/task_1.py", ("one zip archive", "one zip archivE")):
        assert warm.of(lambda: shown.append(tree.ok(*HELP))) >= {"build"}
        assert "one zip archivE" in shown[0]
        assert warm.of(lambda: tree.ok(*HELP)) == set()
    assert warm.of(lambda: shown.append(tree.ok(*HELP))) >= {"build"}
    assert "one zip archive" in shown[1]


@pytest.mark.parametrize("name", ["tasks/fetch/extra.py", "docker/sbom/extra.py", ".dockerignore"])
def test_a_new_or_changed_file_of_a_build_is_noticed(tree: Tree, warm: Calls, name: str) -> None:
    file = tree.folder / name
    before = file.read_text() if file.exists() else None
    file.write_text((before or "") + "# more\n")
    try:
        assert "build" in warm.of(lambda: tree.ok(*HELP))
    finally:
        file.unlink() if before is None else file.write_text(before)
    assert "build" in warm.of(lambda: tree.ok(*HELP))


def test_an_image_that_was_removed_or_replaced_is_built(
    tree: Tree, engine: Context, warm: Calls
) -> None:
    image = f"{PROJECT}-prod"
    built = engine.inspect("image", image)["Id"]
    engine.must("tag", f"{PROJECT}-base:runtime", image)
    assert "build" in warm.of(lambda: tree.ok(*HELP))
    assert engine.inspect("image", image)["Id"] == built
    engine.must("image", "rm", "--force", built)
    assert "build" in warm.of(lambda: tree.ok(*HELP))


def test_another_base_or_argument_makes_another_image(
    tree: Tree, engine: Context, warm: Calls
) -> None:
    base = f"{PROJECT}-base:runtime"
    if not Engine.of(engine).inspect("image", base):
        pytest.skip("THE BASES ARE A REGISTRY'S HERE: another one under the same name")
    kept = f"{PROJECT}-kept:runtime"  # an image without a name may be removed by other tests
    engine.must("tag", base, kept)
    engine.must("tag", f"{PROJECT}-base:build", base)
    try:
        assert "build" in warm.of(lambda: tree.ok(*HELP))
    finally:
        engine.must("tag", kept, base)
        engine.must("image", "rm", kept)
    assert "build" in warm.of(lambda: tree.ok(*HELP))
    (tree.folder / "pyproject.toml").write_text(
        (tree.folder / "pyproject.toml").read_text().replace('\nversion = "', '\nversion = "9.')
    )
    assert "build" in warm.of(lambda: tree.ok(*HELP))
    labels = engine.inspect("image", f"{PROJECT}-prod")["Config"]["Labels"]
    assert labels["org.opencontainers.image.version"].startswith("9.")


def test_bases_that_the_engine_has_are_not_made_again(tree: Tree, engine: Context) -> None:
    """After a change of the time of a Dockerfile, or of what is asked for."""
    if "debian" not in (tree.folder / f".lighterage/{PROJECT}-bases/arguments").read_text():
        pytest.skip("THE BASES ARE A REGISTRY'S HERE: they are not made")
    words = ("build", "ENV=prod", "BASE=debian")
    tree.ok(*words, timeout=600)
    (tree.folder / "docker/dev/Dockerfile").touch()
    done = tree.make(*words)
    assert "base images: debian" in done.stderr, "chosen again"
    assert "making base image" not in done.stderr
    engine.must("image", "rm", f"{PROJECT}-base:build")
    assert f"making base image {PROJECT}-base:build" in tree.make(*words).stderr
    (tree.folder / "docker/base/packages.py").open("a").write("# changed\n")
    assert f"making base image {PROJECT}-base:runtime" in tree.make(*words).stderr


def test_client_that_was_removed_is_looked_for_again(tree: Tree, warm: Calls) -> None:
    client = warm.log.with_name("docker")
    client.rename(client.with_name("elsewhere"))
    try:
        assert "usage: python -m tasks" in tree.ok(*HELP)
    finally:
        client.with_name("elsewhere").rename(client)
