"""Find what in a compose file would let its containers reach the machine that runs them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

# The default capabilities (docs.docker.com, "Runtime privilege and Linux capabilities").
DEFAULT_CAPABILITIES = {
    "AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD",
    "NET_BIND_SERVICE", "NET_RAW", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT",
}  # fmt: skip
NAMESPACES = ("pid", "ipc", "network_mode", "userns_mode", "uts", "cgroup")
NEVER = ("devices", "device_cgroup_rules", "volumes_from", "gpus", "use_api_socket")
# Write access to one of these is root on the machine.
SOCKETS = (
    "/run/docker.sock", "/run/podman/podman.sock", "/run/containerd/containerd.sock",
    "/run/crio/crio.sock",
)  # fmt: skip
SOCKET_NAME = re.compile(r"(docker|podman|containerd|crio)\S*\.sock")
KERNEL = ("/proc", "/sys", "/dev")


def reasons(compose: Mapping[str, Any]) -> list[str]:
    """Return a line for each thing that makes a file's containers unsafe to start.

    Args:
        compose: the file as `docker compose config` prints it, in the form of 1.29 or of v2.
    """
    found = [f"a mount of {path}" for path in _shared_paths(compose) if _reaches_machine(path)]
    for name, service in (compose.get("services") or {}).items():
        found += [f"{name} asks for {what}" for what in _of_service(service)]
    return found


def _of_service(service: Mapping[str, Any]) -> Iterator[str]:
    for key in NAMESPACES:
        value = str(service.get(key) or "")
        # `service:x` shares with another service of this file, which is checked as well.
        if value == "host" or value.startswith("container:"):
            yield f"{key}: {value}"
    hooks = [*(service.get("post_start") or []), *(service.get("pre_stop") or [])]
    if any(part.get("privileged") for part in [service, *hooks]):
        yield "privileged: true"
    for capability in service.get("cap_add") or []:
        if str(capability).upper().removeprefix("CAP_") not in DEFAULT_CAPABILITIES:
            yield f"cap_add: {capability}"
    for option in service.get("security_opt") or []:
        if re.search(r"unconfined|label[:=]disable", str(option)):
            yield f"security_opt: {option}"
    yield from (f"{key}: {service[key]}" for key in NEVER if service.get(key))
    for item in service.get("volumes") or []:
        source = item.split(":")[0] if isinstance(item, str) else str(item.get("source") or "")
        if _reaches_machine(source):
            yield f"a mount of {source}"


def _shared_paths(compose: Mapping[str, Any]) -> Iterator[str]:
    """Yield the paths that the file's volumes, secrets and configs are made of."""
    for volume in (compose.get("volumes") or {}).values():
        yield str(((volume or {}).get("driver_opts") or {}).get("device") or "")
    for kind in ("secrets", "configs"):
        for item in (compose.get(kind) or {}).values():
            yield str((item or {}).get("file") or "")


def _reaches_machine(source: str) -> bool:
    """Return whether a path is an engine's socket, a folder that has one, or a kernel interface."""
    if not source.startswith("/"):
        return False
    real = PurePosixPath(os.path.realpath(source))
    user = f"/run/user/{os.getuid()}"
    own = os.environ.get("DOCKER_HOST", "").removeprefix("unix://")
    known = [*SOCKETS, f"{user}/docker.sock", f"{user}/podman/podman.sock", own or SOCKETS[0]]
    return (
        bool(SOCKET_NAME.fullmatch(real.name))
        or any(PurePosixPath(os.path.realpath(path)).is_relative_to(real) for path in known)
        or any(real.is_relative_to(folder) for folder in KERNEL)
    )
