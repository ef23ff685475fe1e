"""A compose file whose containers could reach the machine is reported, and not started."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from docker.setup.engine import on_path
from docker.tools import isolation
from images import context_or_skip, tree_in
from tree import Tree

PROJECT = f"lighterage-test-isolation-{os.getpid()}"
# A client that starts nothing of a compose file, and runs nothing in a container of one. It writes
# down each command that it refuses.
GUARD = """#!/bin/sh
case " $* " in
*" exec "*-sample-host" "* | *" up --detach sample-host "*) ;;
*" exec "* | *" kill "*) refused=yes ;;
*" compose "* | *" -f "*)
    case " $* " in *" run "* | *" up "* | *" start "* | *" create "*) refused=yes ;; esac ;;
esac
[ -z "${refused:-}" ] || { echo "$*" >>'%(log)s'; exit 99; }
exec '%(program)s' "$@"
"""


def of_a_service(**keys: Any) -> dict[str, Any]:
    return {"services": {"tasks": {"image": "x", **keys}}}


@pytest.mark.parametrize(
    "compose",
    [
        of_a_service(pid="host"),
        of_a_service(pid="container:other"),
        of_a_service(ipc="host"),
        of_a_service(network_mode="host"),
        of_a_service(userns_mode="host"),
        of_a_service(uts="host"),
        of_a_service(cgroup="host"),
        of_a_service(privileged=True),
        of_a_service(post_start=[{"command": "id", "privileged": True}]),
        of_a_service(cap_add=["SYS_ADMIN"]),
        of_a_service(cap_add=["CAP_SYS_PTRACE"]),
        of_a_service(cap_add=["ALL"]),
        of_a_service(devices=["/dev/sda:/dev/sda"]),
        of_a_service(security_opt=["seccomp:unconfined"]),
        of_a_service(security_opt=["no-new-privileges:true", "apparmor=unconfined"]),
        of_a_service(volumes=["/var/run/docker.sock:/var/run/docker.sock"]),
        of_a_service(volumes=[{"type": "bind", "source": "/run/docker.sock", "target": "/d"}]),
        of_a_service(volumes=["/run:/machine:ro"]),
        of_a_service(volumes=["/:/machine:ro"]),
        of_a_service(volumes=["/proc:/machine"]),
        of_a_service(volumes=["/srv/user/podman/podman.sock:/s"]),
        {
            **of_a_service(volumes=["data:/data"]),
            "volumes": {"data": {"driver_opts": {"type": "none", "o": "bind", "device": "/run"}}},
        },
        {**of_a_service(), "secrets": {"key": {"file": "/var/run/docker.sock"}}},
        {"services": {"tasks": {}, "other": {"pid": "host"}}},
    ],
    ids=str,
)
def test_what_lets_a_container_reach_the_machine_is_reported(compose: dict[str, Any]) -> None:
    assert len(isolation.reasons(compose)) == 1


def test_a_link_to_the_engines_socket_is_reported(tmp_path: Path) -> None:
    (tmp_path / "harmless").symlink_to("/var/run/docker.sock")
    found = isolation.reasons(of_a_service(volumes=[f"{tmp_path}/harmless:/x"]))
    assert len(found) == 1


@pytest.mark.parametrize(
    "compose",
    [
        of_a_service(),
        of_a_service(cap_drop=["ALL"], cap_add=["CHOWN", "CAP_NET_BIND_SERVICE"]),
        of_a_service(security_opt=["no-new-privileges:true"], pid="", ipc="private"),
        of_a_service(network_mode="none", privileged=False, devices=[]),
        {
            **of_a_service(volumes=["/srv/clone:/app", "data:/data", "/scratch"]),
            "volumes": {"data": {"name": "x"}, "other": None},
            "secrets": {"key": {"file": "/srv/clone/envs/secrets/ssh_key"}},
        },
    ],
    ids=str,
)
def test_a_safe_compose_file_has_no_reasons(compose: dict[str, Any]) -> None:
    assert isolation.reasons(compose) == []


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    """Give a tree whose clients start no container of a compose file."""
    context = context_or_skip("that verify starts no unsafe container", PROJECT)
    guards = tmp_path / "guards"
    for name in ("docker", "docker-compose", "podman", "podman-compose"):
        for number, program in enumerate(on_path(name)):
            # A folder each: there may be several clients of one name, each for something else.
            guard = guards / str(number) / name
            guard.parent.mkdir(parents=True, exist_ok=True)
            guard.write_text(GUARD % {"log": tmp_path / "started", "program": program})
            guard.chmod(0o755)
    path = [*map(str, sorted(guards.iterdir())), os.environ["PATH"]]
    env = {"PATH": os.pathsep.join(path)}
    with tree_in(tmp_path / "clone", context, env=env) as tree:
        yield tree


@pytest.mark.container
def test_verify_reports_an_unsafe_compose_file_and_starts_nothing(
    tree: Tree, tmp_path: Path
) -> None:
    compose = tree.folder / "docker/prod/compose.yaml"
    unsafe = "    pid: ${PID_OF:-host}\n    volumes:\n      - /var/run/docker.sock:/tmp/s\n"
    text = compose.read_text()
    assert "    volumes:\n" in text
    compose.write_text(text.replace("    volumes:\n", unsafe, 1))
    done = tree.make("verify", "ENV=prod", timeout=600)
    started = tmp_path / "started"
    assert not started.exists(), started.read_text()
    assert done.returncode == 2, done.stdout + done.stderr
    assert "FAIL containers of prod: not started" in done.stdout
    assert "tasks asks for pid: host" in done.stdout
    assert "tasks asks for a mount of /var/run/docker.sock" in done.stdout
    assert "compose pid: " in done.stdout, "the differences are reported as well"
