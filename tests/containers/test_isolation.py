"""A compose file whose containers could reach the machine is reported, and not started."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from docker.tools import isolation


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
