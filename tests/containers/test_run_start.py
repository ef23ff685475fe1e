"""A run starts without compose and BuildKit while both would do what they did the last time."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from docker.setup.engine import Engine
from docker.setup.oneoff import SLUG
from docker.tools.context import Context
from images import VARIANTS, edited, running, wait_for
from tree import ENGINE, Tree, engine_or_skip, on_terminal

PROJECT = f"lighterage-start-{os.getpid()}"
HELP = ("run", "ENV=prod", "ARGS=--help")
pytestmark = pytest.mark.container


class Calls:
    """What the clients on the path of a tree are asked, each of them the real one."""

    def __init__(self, tree: Tree, folder: Path, engine: Engine) -> None:
        self.log = folder / "calls"
        folder.mkdir()
        # The client that builds: it is not always the first.
        clients = {"docker": engine.build[-2], "docker-compose": shutil.which("docker-compose")}
        for name, client in clients.items():
            script = f'#!/bin/sh\necho "$*" >> "{self.log}"\nexec {client} "$@"\n'
            (folder / name).write_text(script)
            (folder / name).chmod(0o755 if client else 0)
        tree.env["PATH"] = f"{folder}:{os.environ['PATH']}"

    def of(self, work: Callable[[], Any]) -> set[str]:
        """Do it; return which of `build` and `compose` were asked."""
        self.log.write_text("")
        work()
        lines = self.log.read_text().splitlines()
        builds = {"build" for line in lines if line.startswith("build ")}
        return builds | {"compose" for line in lines if "compose.yaml run " in line}


@pytest.fixture(scope="module")
def calls(tree: Tree, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Calls]:
    """Give the calls of the module's tree."""
    engine = engine_or_skip("starts without compose")
    if not engine.socket:
        pytest.skip(f"{ENGINE} HAS NO SOCKET HERE: compose and BuildKit are always asked")
    yield Calls(tree, tmp_path_factory.mktemp("clients") / "bin", engine)
    del tree.env["PATH"]


@pytest.fixture
def warm(tree: Tree, calls: Calls) -> Calls:
    """Give the calls of the tree after a run that made all that is missing."""
    tree.ok(*HELP)
    assert calls.of(lambda: tree.ok(*HELP)) == set(), "nothing changed"
    return calls


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_second_run_is_the_first_one_again(tree: Tree, calls: Calls, variant: str) -> None:
    words = ("run", f"ENV={variant}", "TASK=2")
    tree.ok(*words)
    assert calls.of(lambda: tree.ok(*words)) == set()
    done = tree.make(*words, "ARGS=--remote-file-path missing.tar.gz")
    assert f"task 2 ({variant}) ended with exit code 3: remote path" in done.stderr
    assert "usage: python -m tasks 3 " in tree.ok(*words[:2], "TASK=3", "ARGS=--help")


def described(facts: dict[str, Any]) -> dict[str, Any]:
    """Leave out what differs between two containers of the same command, and how they end."""
    config, host = dict(facts["Config"]), dict(facts["HostConfig"])
    assert config.pop("Hostname") == facts["Id"][:12]
    config["Labels"] = {key: text for key, text in config["Labels"].items() if key != SLUG}
    host.pop("AutoRemove")
    networks = facts["NetworkSettings"]["Networks"].items()
    return {
        "config": config,
        "host": host,
        "image": facts["Image"],
        "mounts": sorted(json.dumps(mount, sort_keys=True) for mount in facts["Mounts"]),
        "networks": {
            name: (network["NetworkID"], network["IPAMConfig"],
                   [alias for alias in network["Aliases"] or [] if alias != facts["Id"][:12]])
            for name, network in networks
        },
    }  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("terminal", [False, True])
def test_the_engine_knows_no_difference(
    tree: Tree, engine: Context, calls: Calls, variant: str, *, terminal: bool
) -> None:
    """Of a shell, whose entrypoint is given, and whose command differs."""
    found = []

    def shell(seconds: int) -> None:
        words = ["shell", f"ENV={variant}", f"ARGS=-c 'sleep {seconds}'"]

        def look(*_: Any) -> bool:
            name = running(engine, f"{variant}-run-")
            found.append(engine.inspect("container", name))
            return True

        if terminal:
            on_terminal(tree, words, look, b"\x03")
            return
        process = tree.start(*words)
        look()
        os.killpg(process.pid, signal.SIGTERM)
        process.communicate(timeout=60)

    assert calls.of(lambda: shell(60)) >= {"compose"}
    assert "compose" not in calls.of(lambda: shell(61))
    first, second = found
    assert first["Config"]["Cmd"] == ["-c", "sleep 60"]
    assert second["Config"]["Cmd"] == ["-c", "sleep 61"]
    assert second["Config"]["Tty"] == terminal
    first["Config"]["Cmd"] = second["Config"]["Cmd"] = None
    assert described(first) == described(second)
    assert first["Config"]["Labels"].get(SLUG, "1") != second["Config"]["Labels"].get(SLUG, "2")
    wait_for(lambda: not engine.must("ps", "--all", "--quiet", "--filter", f"id={second['Id']}"))


# --- what compose must do -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("docker/prod/compose.yaml", ("pids_limit: 128", "pids_limit: 127")),
        ("envs/prod.env", ("USERNAME=prod", "USERNAME=other")),
        ("docker/sample-host/compose.yaml", ("pids_limit: 64", "pids_limit: 65")),
    ],
)
def test_compose_reads_a_file_again_that_changed(
    tree: Tree, warm: Calls, file: str, change: tuple[str, str]
) -> None:
    with edited(tree.folder / file, change):
        assert "compose" in warm.of(lambda: tree.ok(*HELP))
        assert warm.of(lambda: tree.ok(*HELP)) == set()


@pytest.mark.parametrize(
    "more",
    [
        "    env_file: [../../config.yaml]\n",
        "    env_file: [../../envs/dev.env.example]\n",
        "    depends_on: [sample-host]\n",
        "    volumes_from: [sample-host]\n",
    ],
)
def test_compose_does_what_is_more_than_a_container(tree: Tree, warm: Calls, more: str) -> None:
    service = '    command: ["schedule"]\n'
    with edited(tree.folder / "docker/prod/compose.yaml", (service, service + more)):
        for _ in range(2):
            assert "compose" in warm.of(lambda: tree.make(*HELP))


def test_compose_makes_networks_and_volumes_that_were_removed(
    tree: Tree, engine: Context, warm: Calls
) -> None:
    tree.ok("down", "ENV=prod")
    assert warm.of(lambda: tree.ok(*HELP)) == {"compose"}
    engine.must("volume", "rm", f"{PROJECT}-prod-data")
    assert warm.of(lambda: tree.ok(*HELP)) == {"compose"}
    volume = engine.inspect("volume", f"{PROJECT}-prod-data")
    assert volume["Labels"]["com.docker.compose.project"] == f"{PROJECT}-prod"


# --- what BuildKit must do ------------------------------------------------------------------


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
    before = engine.inspect("image", base)["Id"]
    engine.must("tag", f"{PROJECT}-base:build", base)
    try:
        assert "build" in warm.of(lambda: tree.ok(*HELP))
    finally:
        engine.must("tag", before, base)
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
