"""What a compose file asks for that would let its containers reach the machine that runs them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

# What a container has without asking (docs.docker.com, "Runtime privilege and Linux capabilities").
USUAL_CAPABILITIES = {
    "AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD",
    "NET_BIND_SERVICE", "NET_RAW", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT",
}  # fmt: skip
NAMESPACES = ("pid", "ipc", "network_mode", "userns_mode", "uts", "cgroup")
# Who can write to one of these owns the machine.
SOCKETS = (
    "/var/run/docker.sock", "/run/docker.sock", "/run/podman/podman.sock",
    "/var/run/podman/podman.sock", "/run/containerd/containerd.sock", "/run/crio/crio.sock",
)  # fmt: skip
SOCKET_NAME = re.compile(r"(docker|podman|containerd|crio)\S*\.sock")
# Kernel interfaces and devices of the machine.
KERNEL = ("/proc", "/sys", "/dev")


def reasons(compose: Mapping[str, Any]) -> list[str]:
    """Tell what a resolved compose file asks for that isolates its services from nothing.

    Args:
        compose: the file as `docker compose config` prints it, in the form of 1.29 or of v2.

    Returns:
        A line for each; none for a file whose containers are safe to start.
    """
    found = [f"a mount of {path}" for path in _shared_paths(compose) if _is_the_machines(path)]
    for name, service in (compose.get("services") or {}).items():
        found += [f"{name} asks for {what}" for what in _of_a_service(service)]
    return found


def _of_a_service(service: Mapping[str, Any]) -> Iterator[str]:
    for key in NAMESPACES:
        value = str(service.get(key) or "")
        # `service:x` shares with another service of this file, which is looked at as well.
        if value == "host" or value.startswith("container:"):
            yield f"{key}: {value}"
    hooks = [*(service.get("post_start") or []), *(service.get("pre_stop") or [])]
    if any(one.get("privileged") for one in [service, *hooks]):
        yield "privileged: true"
    for capability in service.get("cap_add") or []:
        if str(capability).upper().removeprefix("CAP_") not in USUAL_CAPABILITIES:
            yield f"cap_add: {capability}"
    for option in service.get("security_opt") or []:
        if re.search(r"unconfined|label[:=]disable", str(option)):
            yield f"security_opt: {option}"
    for key in ("devices", "device_cgroup_rules", "volumes_from", "gpus", "use_api_socket"):
        if service.get(key):
            yield f"{key}: {service[key]}"
    for item in service.get("volumes") or []:
        source = item.split(":")[0] if isinstance(item, str) else str(item.get("source") or "")
        if _is_the_machines(source):
            yield f"a mount of {source}"


def _shared_paths(compose: Mapping[str, Any]) -> Iterator[str]:
    """The paths that volumes, secrets and configs of a file are made of."""
    for volume in (compose.get("volumes") or {}).values():
        yield str(((volume or {}).get("driver_opts") or {}).get("device") or "")
    for kind in ("secrets", "configs"):
        for item in (compose.get(kind) or {}).values():
            yield str((item or {}).get("file") or "")


def _is_the_machines(source: str) -> bool:
    """Whether a path is an engine's socket, a folder that has one, or the kernel's interface."""
    if not source.startswith("/"):
        return False
    real = PurePosixPath(os.path.realpath(source))
    run = f"/run/user/{os.getuid()}"
    own = os.environ.get("DOCKER_HOST", "").removeprefix("unix://")
    known = (*SOCKETS, f"{run}/docker.sock", f"{run}/podman/podman.sock", own)
    if SOCKET_NAME.fullmatch(real.name):
        return True
    sockets = [PurePosixPath(os.path.realpath(path)) for path in known if path.startswith("/")]
    return any(socket.is_relative_to(real) for socket in sockets) or any(
        real.is_relative_to(folder) for folder in KERNEL
    )
