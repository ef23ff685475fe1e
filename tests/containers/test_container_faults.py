"""What a container shows of secrets, and plain messages where the engine or the surroundings fail.

In a real engine, through make; a fake client stands before the real one where the engine itself
would have to reach its limits.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from docker.tools.context import Context
from images import (
    PASSWORDS,
    VARIANTS,
    edited,
    names_of,
    running,
)
from tree import Tree, on_terminal

PROJECT = f"lighterage-faults-{os.getpid()}"
SLOW = "--force --max-rate 20kB --timeout 60"
pytestmark = pytest.mark.container


# --- secrets --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verb", "variant", "arguments"),
    [("run", "dev", SLOW), ("run", "prod", SLOW), ("shell", "prod", "-c 'exec sleep 60'")],
)
def test_no_password_of_the_env_file_is_shown_of_a_single_run(
    tree: Tree, engine: Context, verb: str, variant: str, arguments: str
) -> None:
    process = tree.start(verb, f"ENV={variant}", f"ARGS={arguments}")
    try:
        shown = engine.must("container", "inspect", running(engine, f"{variant}-run-"))
        assert "LIGHTERAGE_ENV_FILE" in shown
        assert PASSWORDS[variant] not in shown
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.communicate(timeout=60)


@pytest.mark.parametrize("variant", VARIANTS)
def test_compose_by_hand_logs_in_with_the_password_of_the_env_file(
    tree: Tree, engine: Context, variant: str
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
def test_a_password_file_wins_over_a_password_and_is_never_logged(tree: Tree, variant: str) -> None:
    secret, file = tree.folder / "envs/secrets/password", tree.folder / f"envs/{variant}.env"
    wanted = f"PASSWORD={PASSWORDS[variant]}"
    secret.write_text(PASSWORDS[variant] + "\n")
    try:
        with edited(file, (wanted, "PASSWORD=wrong\nPASSWORD_FILE=envs/secrets/password")):
            done = tree.make("run", "TASK=2", f"ENV={variant}", "ARGS=--force --log-level DEBUG")
    finally:
        secret.write_text("")
    assert done.returncode == 0, done.stderr
    assert "landed" in done.stdout
    assert PASSWORDS[variant] not in done.stdout + done.stderr


# --- what is exported for other programs ----------------------------------------------------


def test_an_exported_compose_project_is_not_the_one_that_make_acts_on(
    tree: Tree, engine: Context, tmp_path: Path
) -> None:
    (tmp_path / "compose.yaml").write_text("services: {}\n")
    exported = {
        "COMPOSE_PROJECT_NAME": f"{PROJECT}-other", "COMPOSE_FILE": str(tmp_path / "compose.yaml"),
        "COMPOSE_PROFILES": "other", "DOCKER_DEFAULT_PLATFORM": "linux/s390x",
    }  # fmt: skip

    def ids() -> dict[str, str]:
        names = names_of(engine, "container")
        return {name: engine.inspect("container", name)["Id"] for name in names}

    tree.ok("up", "ENV=prod")
    try:
        before = ids()
        tree.ok("up", "ENV=prod", env=exported)
        assert ids() == before, "no second scheduler on the same volume"
        assert "task 2 (prod): " in tree.ok("run", "TASK=2", "ENV=prod", env=exported)
        tree.ok("down", "ENV=prod", env=exported)
        assert not names_of(engine, "container", "prod")
    finally:
        tree.make("down", "ENV=prod")
        for name in names_of(engine, "container", "other"):
            engine.ask("rm", "--force", name)


# --- plain messages -------------------------------------------------------------------------


def test_a_port_in_use_is_named_with_its_service_and_setting(tree: Tree, engine: Context) -> None:
    text = (tree.folder / "docker/dev/compose.yaml").read_text()
    port = int(text.partition("task2:")[2].partition("127.0.0.1:")[2].partition(":")[0])
    with socket.create_server(("127.0.0.1", port)):
        error = tree.refused("up")
    tree.ok("down")
    assert f"lighterage: port 127.0.0.1:{port} is in use, and service task2 publishes it" in error
    assert "services.task2.ports in docker/dev/compose.yaml" in error
    for raw in ("driver failed", "ERROR:", "Bind for", "userland proxy"):
        assert raw not in error


POOL = "could not find an available, non-overlapping IPv4 address pool among the defaults to assign"
SUBNETTED = "all predefined address pools have been fully subnetted"


@pytest.mark.parametrize(
    ("words", "text"),
    [(["up"], POOL), (["run", "ENV=prod"], SUBNETTED), (["config", "TASK=3"], POOL)],
)
def test_no_address_range_for_a_network_is_explained(
    tree: Tree, engine: Context, tmp_path: Path, words: list[str], text: str
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


@pytest.mark.parametrize(("variant", "code"), [("dev", 7), ("prod", 3)])
def test_a_failures_exit_code_is_makes_failure_and_no_line_of_its_own(
    tree: Tree, variant: str, code: int
) -> None:
    done = tree.make("shell", f"ENV={variant}", f"ARGS=-c 'echo out; echo 9 >&2; exit {code}'")
    assert done.returncode == 2
    assert done.stdout == "out\n"
    lines = done.stderr.splitlines()
    assert "9" in lines, "what the container wrote is there"
    assert str(code) not in lines
    assert "ERROR" not in done.stderr


def test_ctrl_c_on_a_terminal_shows_no_error_of_compose(tree: Tree) -> None:
    words = ["run", "TASK=1", "ENV=prod", f"ARGS={SLOW}"]
    # Once the live line is there: a signal to the first process of a container that cannot handle
    # it yet is dropped by the kernel. tests/unit/test_interrupt.py has signals while modules load.
    said, _ = on_terminal(tree, words, lambda shown: b"/s, " in shown, b"\x03")
    text = said.decode(errors="replace")
    assert "ended with exit code 130" in text
    assert "ERROR" not in text


WRONG = {
    "number": ("max_tries: 3", "max_tries: many", "max_tries is 'many': expected a whole number"),
    "cron": ('schedule: "0 3 * * *"', 'schedule: "0 61 * * *"', "not a cron expression"),
    "missing": (
        "    file_save_path: data/task_2/events\n",
        "",
        "file_save_path is missing for task 2",
    ),
}


@pytest.mark.parametrize(
    ("wrong", "variant", "verbs"),
    [("number", "dev", ["config", "up"]), ("cron", "prod", ["config", "up"]),
     ("missing", "prod", ["up"])],
)  # fmt: skip
def test_no_service_starts_with_wrong_settings(
    tree: Tree, engine: Context, wrong: str, variant: str, verbs: list[str]
) -> None:
    """It would be started again for ever."""
    old, new, says = WRONG[wrong]
    tree.ok("down", f"ENV={variant}")
    with edited(tree.folder / "config.yaml", (old, new)):
        for verb in verbs:
            error = tree.refused(verb, f"ENV={variant}")
            assert says in error
            assert "Error 2" in error
    assert not names_of(engine, "container", variant)


# --- clean ----------------------------------------------------------------------------------


def test_clean_removes_every_image_that_a_build_made(tree: Tree, engine: Context) -> None:
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
