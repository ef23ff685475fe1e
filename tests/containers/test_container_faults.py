"""What a container shows of secrets, and plain messages where the engine or the surroundings fail.

In a real engine, through make; a fake client stands before the real one where the engine itself
would have to reach its limits.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from docker.setup.engine import Engine
from tree import REPOSITORY, Tree, engine_or_skip

PROJECT = f"lighterage-faults-{os.getpid()}"
VARIANTS = ("dev", "prod")
PASSWORDS = {"dev": "dev-sample-only", "prod": "prod-sample-only"}
SLOW = "--force --max-rate 20kB --timeout 60"
pytestmark = pytest.mark.container


@pytest.fixture(scope="module")
def engine() -> Engine:
    """Give the engine, or skip loudly."""
    return engine_or_skip("what containers show of secrets, and messages about engine faults")


@pytest.fixture(scope="module")
def tree(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    """Give a tree with both images; dev without its many packages, which nothing here uses."""
    tree = Tree(tmp_path_factory.mktemp("faults") / "clone", PROJECT)
    packages = REPOSITORY / ".lighterage/debian"
    if packages.is_dir():
        shutil.copytree(packages, tree.folder / ".lighterage/debian")
    shutil.copy(tree.folder / "requirements/prod.txt", tree.folder / "requirements/dev.txt")
    ports = free_ports(3)
    dev = tree.folder / "docker/dev/compose.yaml"
    text = dev.read_text()
    for port in ports:
        text = text.replace(f"127.0.0.1:{5678 + ports.index(port)}:", f"127.0.0.1:{port}:")
    dev.write_text(text)
    try:
        for variant in VARIANTS:
            tree.ok("config", f"ENV={variant}", timeout=600)
        yield tree
    finally:
        for variant in VARIANTS:
            tree.make("clean", f"ENV={variant}")
        for volume in names_of(engine, "volume"):
            engine.ask("volume", "rm", volume)
        remaining = {kind: names_of(engine, kind) for kind in ("container", "image", "network")}
        assert not any(remaining.values()), remaining


def free_ports(count: int) -> list[int]:
    """Give ports of 127.0.0.1 that nothing listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def names_of(engine: Engine, kind: str, part: str = "") -> list[str]:
    """Name all of a kind that is this test's, and has `part` in its name."""
    fields = {"container": "{{.Names}}", "image": "{{.Repository}}:{{.Tag}}"}
    words = [kind, "ls", "--format", fields.get(kind, "{{.Name}}")]
    listed = engine.must(*words, *(["--all"] if kind == "container" else [])).split()
    return [name for name in listed if PROJECT in name and part in name]


def inspect(engine: Engine, name: str) -> Any:
    """Give what the engine shows of a container."""
    return json.loads(engine.must("container", "inspect", name))[0]


def wait_for(what: Callable[[], Any], seconds: float = 60) -> Any:
    """Wait until something is true; returns it."""
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.1)
    return found


def running(engine: Engine, part: str) -> Callable[[], str]:
    """Give a question for the one container with `part` in its name, if it runs."""

    def ask() -> str:
        names = names_of(engine, "container", part)
        return names[0] if names and inspect(engine, names[0])["State"]["Running"] else ""

    return ask


@contextlib.contextmanager
def edited(path: Path, old: str, new: str) -> Iterator[None]:
    """Have other words in a file for a while."""
    before = path.read_text()
    assert old in before
    path.write_text(before.replace(old, new))
    try:
        yield
    finally:
        path.write_text(before)


# --- secrets --------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("verb", ["run", "shell"])
def test_no_password_of_the_env_file_is_shown_of_a_single_run(
    tree: Tree, engine: Engine, verb: str, variant: str
) -> None:
    arguments = {"run": SLOW, "shell": "-c 'exec sleep 60'"}[verb]
    process = tree.start(verb, f"ENV={variant}", f"ARGS={arguments}")
    try:
        shown = engine.must("container", "inspect", wait_for(running(engine, f"{variant}-run-")))
        assert "LIGHTERAGE_ENV_FILE" in shown
        assert PASSWORDS[variant] not in shown
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.communicate(timeout=60)


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_password_of_the_env_file_is_shown_of_a_service(
    tree: Tree, engine: Engine, variant: str
) -> None:
    tree.ok("up", f"ENV={variant}")
    try:
        services = names_of(engine, "container", "_task") + names_of(engine, "container", "-task")
        assert len(services) == {"dev": 3, "prod": 1}[variant]
        for name in services:
            assert PASSWORDS[variant] not in engine.must("container", "inspect", name)
    finally:
        tree.ok("down", f"ENV={variant}")


@pytest.mark.parametrize("variant", VARIANTS)
def test_compose_by_hand_logs_in_with_the_password_of_the_env_file(
    tree: Tree, engine: Engine, variant: str
) -> None:
    tree.ok("run", "TASK=2", f"ENV={variant}")
    service = {"dev": "task2", "prod": "tasks"}[variant]
    file = str(tree.folder / f"docker/{variant}/compose.yaml")
    command = [*engine.compose, "-f", file, "run", "--rm", service, "2", "--force"]
    done = subprocess.run(
        command, env=tree.environ(), cwd=tree.folder, capture_output=True, text=True, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"task 2 ({variant}): landed" in done.stdout
    assert PASSWORDS[variant] not in done.stdout + done.stderr


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_password_file_wins_over_a_password(tree: Tree, variant: str) -> None:
    secret, file = tree.folder / "envs/secrets/password", tree.folder / f"envs/{variant}.env"
    wanted = f"PASSWORD={PASSWORDS[variant]}"
    secret.write_text(PASSWORDS[variant] + "\n")
    try:
        with edited(file, wanted, "PASSWORD=wrong\nPASSWORD_FILE=envs/secrets/password"):
            out = tree.ok("run", "TASK=2", f"ENV={variant}", "ARGS=--force")
        assert "landed" in out
    finally:
        secret.write_text("")


def test_a_service_is_created_again_after_its_env_file_changed(tree: Tree, engine: Engine) -> None:
    tree.ok("up", "ENV=prod")
    try:
        first = inspect(engine, running(engine, "prod_tasks")() or running(engine, "prod-tasks")())
        tree.ok("up", "ENV=prod")
        same = inspect(engine, first["Name"].lstrip("/"))
        assert same["Id"] == first["Id"], "nothing changed"
        with edited(tree.folder / "envs/prod.env", "USERNAME=prod", "USERNAME=other"):
            tree.ok("up", "ENV=prod")
            name = running(engine, "prod_tasks")() or running(engine, "prod-tasks")()
            assert inspect(engine, name)["Id"] != first["Id"]
            words = ["exec", name, "python", "-m", "tasks", "config", "2", "--json"]
            rows = json.loads(engine.must(*words))
            assert rows["username"]["value"] == "other"
            assert rows["password"]["origin"] == "environment (envs/prod.env)"
    finally:
        tree.ok("down", "ENV=prod")


# --- what is exported for other programs ----------------------------------------------------


def test_an_exported_compose_project_is_not_the_one_that_make_acts_on(
    tree: Tree, engine: Engine, tmp_path: Path
) -> None:
    (tmp_path / "compose.yaml").write_text("services: {}\n")
    exported = {
        "COMPOSE_PROJECT_NAME": f"{PROJECT}-other", "COMPOSE_FILE": str(tmp_path / "compose.yaml"),
        "COMPOSE_PROFILES": "other", "DOCKER_DEFAULT_PLATFORM": "linux/s390x",
    }  # fmt: skip
    tree.ok("up", "ENV=prod")
    try:
        before = {name: inspect(engine, name)["Id"] for name in names_of(engine, "container")}
        tree.ok("up", "ENV=prod", env=exported)
        after = {name: inspect(engine, name)["Id"] for name in names_of(engine, "container")}
        assert after == before, "no second scheduler on the same volume"
        assert "task 2 (prod): " in tree.ok("run", "TASK=2", "ENV=prod", env=exported)
        tree.ok("down", "ENV=prod", env=exported)
        assert not names_of(engine, "container", "prod")
    finally:
        tree.make("down", "ENV=prod")
        for name in names_of(engine, "container", "other"):
            engine.ask("rm", "--force", name)


# --- plain messages -------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["up", "run"])
def test_a_port_in_use_is_named_with_its_service_and_setting(
    tree: Tree, engine: Engine, verb: str
) -> None:
    text = (tree.folder / "docker/dev/compose.yaml").read_text()
    port = int(text.partition("task2:")[2].partition("127.0.0.1:")[2].partition(":")[0])
    words = {"up": ["up"], "run": ["run", "TASK=2", "DEBUGGER=1"]}[verb]
    with socket.create_server(("127.0.0.1", port)):
        error = tree.refused(*words)
    tree.ok("down")
    assert f"lighterage: port 127.0.0.1:{port} is in use, and service task2 publishes it" in error
    assert "services.task2.ports in docker/dev/compose.yaml" in error
    for raw in ("driver failed", "ERROR:", "Bind for", "userland proxy"):
        assert raw not in error
    assert not names_of(engine, "container", "dev-run-")


@pytest.mark.parametrize(
    "text",
    [
        "could not find an available, non-overlapping IPv4 address pool among the defaults to"
        " assign to the network",
        "all predefined address pools have been fully subnetted",
    ],
)
@pytest.mark.parametrize("words", [["up"], ["run", "ENV=prod"], ["config", "TASK=3"]])
def test_no_address_range_for_a_network_is_explained(
    tree: Tree, engine: Engine, tmp_path: Path, words: list[str], text: str
) -> None:
    """A fake compose answers for the engine: to use up its ranges would harm who shares it."""
    compose = Path(shutil.which(engine.compose[0]) or engine.compose[0])
    fake = tmp_path / compose.name
    fake.write_text(
        '#!/bin/sh\ncase " $* " in *" up "* | *" run "*)\n'
        f'echo "ERROR: {text}" >&2; exit 1 ;;\nesac\nexec {compose} "$@"\n'
    )
    fake.chmod(0o755)
    error = tree.refused(*words, env={"PATH": f"{tmp_path}:{os.environ['PATH']}"})
    assert "no free address range for another network" in error
    assert "make down" in error
    assert text not in error


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("code", [2, 3, 7])
def test_a_failures_exit_code_is_no_line_of_its_own(tree: Tree, variant: str, code: int) -> None:
    done = tree.make("shell", f"ENV={variant}", f"ARGS=-c 'echo out; echo 9 >&2; exit {code}'")
    assert done.returncode == 2
    assert done.stdout == "out\n"
    lines = done.stderr.splitlines()
    assert "9" in lines, "what the container wrote is there"
    assert str(code) not in lines
    assert "ERROR" not in done.stderr


def test_ctrl_c_on_a_terminal_shows_no_error_of_compose(tree: Tree, engine: Engine) -> None:
    import pty

    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(tree.folder)
        words = ["make", "run", "TASK=1", "ENV=prod", f"ARGS={SLOW}"]
        os.execvpe("make", words, tree.environ({"TERM": "dumb"}))  # noqa: S606
    said = b""
    try:
        wait_for(running(engine, "prod-run-"))
        time.sleep(2)  # the task has begun, or not yet: both end well
        os.write(terminal, b"\x03")
        with contextlib.suppress(OSError):  # the end of a terminal
            while block := os.read(terminal, 4096):
                said += block
    finally:
        os.waitpid(pid, 0)
        os.close(terminal)
    text = said.decode(errors="replace")
    assert "ended with exit code 130" in text
    assert "ERROR" not in text


WRONG = {
    "number": ("max_tries: 3", "max_tries: many", "max_tries is 'many': expected a whole number"),
    "cron": ('schedule: "0 3 * * *"', 'schedule: "0 61 * * *"', "not a cron expression"),
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("wrong", WRONG)
def test_no_service_starts_with_wrong_settings(
    tree: Tree, engine: Engine, wrong: str, variant: str
) -> None:
    """It would be started again for ever."""
    old, new, says = WRONG[wrong]
    tree.ok("down", f"ENV={variant}")
    with edited(tree.folder / "config.yaml", old, new):
        for verb in ("config", "up"):
            error = tree.refused(verb, f"ENV={variant}")
            assert says in error
            assert "Error 2" in error
    assert not names_of(engine, "container", variant)


def test_no_scheduler_starts_for_a_task_that_lacks_a_setting(tree: Tree, engine: Engine) -> None:
    tree.ok("down", "ENV=prod")
    with edited(tree.folder / "config.yaml", "    file_save_path: data/task_2/events\n", ""):
        error = tree.refused("up", "ENV=prod")
    assert "file_save_path is missing for task 2" in error
    assert "Error 2" in error
    assert not names_of(engine, "container", "prod")


# --- clean ----------------------------------------------------------------------------------


def test_clean_removes_every_image_that_a_build_made(tree: Tree, engine: Engine) -> None:
    tree.ok("run", "ENV=prod")
    assert names_of(engine, "image", "sample-host")
    for variant in VARIANTS:
        tree.ok("clean", f"ENV={variant}")
        kept = names_of(engine, "image")
        assert not [name for name in kept if f"{PROJECT}-{variant}:" in name]
        assert not [name for name in kept if "-base:" in name]
    assert names_of(engine, "image") == []
    assert names_of(engine, "network") == []
    assert (tree.folder / "envs/prod.env").exists()
    assert not (tree.folder / "envs/secrets/prod.env").exists(), "the copy for containers"
