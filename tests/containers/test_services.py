"""The sample host, services, signals, and runs side by side, in both variants, through make."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from docker.tools.context import Context
from images import (
    PASSWORDS,
    VARIANTS,
    context_or_skip,
    edited,
    in_shell,
    names_of,
    running,
    tree_in,
    wait_for,
)
from tree import Tree

PROJECT = f"lighterage-services-{os.getpid()}"
pytestmark = pytest.mark.container


def crash(container: Any) -> None:
    """Kill the one process that the engine names as the container's main one."""
    pid = container["State"]["Pid"]
    cgroup = Path(f"/proc/{pid}/cgroup")
    if os.getuid() or not cgroup.exists() or container["Id"] not in cgroup.read_text():
        pytest.skip("THE ENGINE'S PROCESSES ARE NOT ROOT'S ON THIS MACHINE: crash not tested")
    os.kill(pid, signal.SIGKILL)


# --- the sample host --------------------------------------------------------------------------


def test_a_sample_host_that_cannot_be_reached_is_started_again(tree: Tree, engine: Context) -> None:
    """Running without the name that tasks use, and running in name only."""
    name = f"{PROJECT}-prod-sample-host"
    tree.ok("run", "ENV=prod")
    (network,) = engine.inspect("container", name)["NetworkSettings"]["Networks"]
    engine.must("network", "disconnect", "--force", network, name)
    engine.must("network", "connect", network, name)
    tree.ok("run", "ENV=prod")
    engine.must("pause", name)
    tree.ok("run", "ENV=prod")


def test_a_sample_host_that_stopped_is_reported_with_its_last_line(tree: Tree) -> None:
    compose = tree.folder / "docker/sample-host/compose.yaml"
    ends = "    entrypoint: [python, -c, raise SystemExit('the sample host has no harbour')]\n"
    tree.ok("down", "ENV=prod")
    with edited(compose, ("    init: true\n", f"    init: true\n{ends}")):
        error = tree.refused("run", "ENV=prod")
    assert "the sample host does not answer: the sample host has no harbour" in error
    tree.ok("run", "ENV=prod")


def test_a_clone_made_under_a_closed_umask_runs(tmp_path: Path) -> None:
    """Files of 0600 and folders of 0700, and all that make creates likewise.

    Less what only root reads, in the step of a build that installs packages and takes long.
    """
    closed = context_or_skip("a closed umask", f"{PROJECT}-closed")
    with tree_in(tmp_path / "clone", closed) as clone:
        for path in [clone.folder, *clone.folder.rglob("*")]:
            if not path.is_symlink() and not {"requirements", "wheels"} & {*path.parts}:
                path.chmod(path.stat().st_mode & 0o700)
        for variant in VARIANTS:
            done = clone.make("run", "TASK=2", f"ENV={variant}", umask=0o077, timeout=600)
            assert done.returncode == 0, done.stderr
            assert f"task 2 ({variant}): landed" in done.stdout


# --- services ---------------------------------------------------------------------------------


def test_dev_up_starts_three_services_apart_from_each_other(tree: Tree, engine: Context) -> None:
    shutil.rmtree(tree.folder / "data", ignore_errors=True)
    tree.ok("up")
    try:
        found = {
            name: engine.inspect("container", name)
            for name in names_of(engine, "container")
            if "_task" in name or "-task" in name
        }
        services = {c["Config"]["Labels"]["com.docker.compose.service"]: c for c in found.values()}
        assert set(services) == {"task1", "task2", "task3"}
        for name, container in services.items():
            assert container["Config"]["Cmd"] == [name[-1]], "its default command"
            assert container["HostConfig"]["RestartPolicy"]["Name"] in {"", "no"}
            (port,) = container["HostConfig"]["PortBindings"].values()
            assert port[0]["HostIp"] == "127.0.0.1"
            assert set(container["NetworkSettings"]["Networks"]) == {f"{PROJECT}-dev-{name}"}
            assert PASSWORDS["dev"] not in json.dumps(container)
        for task in "123":
            wait_for((tree.folder / f"data/task_{task}/events/manifest.json").exists)
        wait_for(lambda: "task 2 (dev): landed" in tree.ok("logs"))
        assert "\x1b" not in tree.ok("logs"), "no colours in a pipe"
    finally:
        tree.ok("down")
    assert names_of(engine, "container", "-dev") == []


def test_prod_up_runs_by_schedule_answers_health_comes_back_and_ends_soon(
    tree: Tree, engine: Context
) -> None:
    in_shell(tree, "prod", "rm -rf data/task_2")
    every_minute = ('schedule: "0 3 * * *"', 'schedule: "* * * * *"')
    try:
        with edited(tree.folder / "config.yaml", every_minute):
            tree.ok("up", "ENV=prod")
        (name,) = names_of(engine, "container", "tasks")
        first = engine.inspect("container", name)
        assert first["HostConfig"]["RestartPolicy"]["Name"] == "unless-stopped"
        assert not first["HostConfig"]["PortBindings"]
        assert [mount["Type"] for mount in first["Mounts"] if mount["RW"]] == ["volume"]
        assert first["HostConfig"]["PidsLimit"] == 128
        assert first["HostConfig"]["Memory"] == 2**30
        assert PASSWORDS["prod"] not in json.dumps(first)
        # It has a start-up to get through first, as its start_period says.
        health = ["exec", name, "python", "-m", "tasks", "health"]
        wait_for(lambda: engine.ask(*health).returncode == 0)
        # a crash: the main process is killed, and the engine starts another
        crash(first)
        count = first["RestartCount"]
        wait_for(lambda: engine.inspect("container", name)["RestartCount"] > count)
        wait_for(lambda: "task 2 (prod): landed" in engine.ask("logs", name).stdout, 150)
        assert "task 2 (prod): landed" in tree.ok("logs", "ENV=prod")
        begun = time.monotonic()
        engine.must("stop", name)
        assert time.monotonic() - begun < 9, "before the engine's patience ends"
        assert engine.inspect("container", name)["State"]["ExitCode"] in {0, 143}
    finally:
        tree.ok("down", "ENV=prod")


def test_a_service_is_created_again_after_its_env_file_changed(tree: Tree, engine: Context) -> None:
    def container() -> Any:
        (name,) = names_of(engine, "container", "tasks")
        return engine.inspect("container", name)

    tree.ok("up", "ENV=prod")
    try:
        first = container()
        tree.ok("up", "ENV=prod")
        assert container()["Id"] == first["Id"], "nothing changed"
        with edited(tree.folder / "envs/prod.env", ("USERNAME=prod", "USERNAME=other")):
            tree.ok("up", "ENV=prod")
            second = container()
            assert second["Id"] != first["Id"]
            words = ["exec", second["Id"], "python", "-m", "tasks", "config", "2", "--json"]
            rows = json.loads(engine.must(*words))
            assert rows["username"]["value"] == "other"
            assert rows["password"]["origin"] == "environment (envs/prod.env)"
    finally:
        tree.ok("down", "ENV=prod")


# --- interrupts, two at once, the debugger ------------------------------------------------------


@pytest.mark.parametrize(
    ("variant", "signum", "code"),
    [("dev", signal.SIGINT, 130), ("prod", signal.SIGTERM, 143)],
    ids=["dev-INT", "prod-TERM"],
)
def test_a_signal_ends_a_run_and_its_container(
    tree: Tree, engine: Context, variant: str, signum: signal.Signals, code: int
) -> None:
    where = f"--file-save-path data/task_1/s{code}"
    process = tree.start(
        "run", f"ENV={variant}", f"ARGS={where} --max-rate 20kB --progress lines --log-level DEBUG"
    )
    try:
        container = running(engine, f"-{variant}-run-")

        def logs() -> str:
            answer = engine.ask("logs", container)
            return answer.stdout + answer.stderr

        wait_for(lambda: "bytes, from 0" in logs())
        os.killpg(process.pid, signum)  # as terminals do, and init systems
        _, err = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert process.returncode != 0
    assert "nothing was changed" in err
    assert f"ended with exit code {code}" in err
    assert "ERROR:" not in err, "no error of compose"
    assert str(code) not in err.splitlines()
    assert names_of(engine, "container", "-run-") == []
    found = in_shell(tree, variant, "mkdir -p data/task_1; ls -A data/task_1").split()
    found = [name for name in found if f"s{code}" in name]
    kept = [f".s{code}.part"] if variant == "dev" else []
    assert found == kept, "nothing half-landed, but what an archive that is kept has so far"


def test_two_runs_at_once_do_not_harm_each_other(tree: Tree) -> None:
    words = ["run", "TASK=2", "ENV=prod", "ARGS=--force"]
    runs = [tree.start(*words), tree.start(*words), tree.start("run", "TASK=3", "ENV=prod")]
    ends = [run.communicate(timeout=120) for run in runs]
    codes = [run.returncode for run in runs]
    assert codes[2] == 0, ends[2]
    assert 0 in codes[:2], ends
    for code, (_, err) in zip(codes, ends, strict=True):
        assert code == 0 or "ended with exit code 9: busy" in err


def test_a_debugger_is_waited_for_in_dev_only(tree: Tree, engine: Context) -> None:
    refused = tree.refused("run", "ENV=prod", "DEBUGGER=1")
    assert "the prod variant has no debugger; use ENV=dev" in refused
    process = tree.start("run", "TASK=1", "DEBUGGER=1")
    try:
        name = running(engine, "-dev-run-")
        ports = engine.inspect("container", name)["HostConfig"]["PortBindings"]
        (port,) = ports["5678/tcp"]
        assert port["HostIp"] == "127.0.0.1"

        def answers() -> bool:
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", int(port["HostPort"])), 1) as s,
            ):
                s.settimeout(1)
                return b"Content-Length" in s.recv(100)
            return False

        wait_for(answers)
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)


def test_a_tree_of_another_user_keeps_its_owner(tree: Tree, tmp_path: Path) -> None:
    """Root's engine, another user's clone: what lands in data/ is that user's."""
    if os.getuid() or sys.platform != "linux":
        pytest.skip("ONLY ROOT CAN HAVE A CLONE OF ANOTHER USER'S")
    other = Tree(tmp_path / "theirs", PROJECT)
    bases = f".lighterage/{PROJECT}-bases"
    shutil.copytree(tree.folder / bases, other.folder / bases)
    for path in [other.folder, *other.folder.rglob("*")]:
        if not path.is_symlink():
            os.chown(path, 12345, 12346)
    tree.ok("down")
    try:
        assert "task 1 (dev): landed" in other.ok("run", "TASK=1")
        made = [other.folder / "data", *(other.folder / "data").rglob("*"), *(
            other.folder / "envs").glob("*.env")]  # fmt: skip
        assert {(p.stat().st_uid, p.stat().st_gid) for p in made} == {(12345, 12346)}
    finally:
        other.ok("down")
