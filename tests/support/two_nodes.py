"""Two container engines on this machine, each in a network namespace: a swarm of two nodes.

A link connects the two, another one each with this machine, on which the servers of a test listen:
without the first link the nodes do not see each other, and still reach the servers.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from images import wait_for
from need import need


def run(*words: str, stdin: int = subprocess.DEVNULL) -> str:
    """Run a command, which must go well; return its output."""
    done = subprocess.run(
        words, stdin=stdin, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"
    return done.stdout.strip()


@dataclass
class Node:
    """An engine in a network namespace.

    Attributes:
        folder: With all of its files, at a short path: its sockets have at most 108 characters.
        number: 1 or 2.
        name: Of the namespace and the cgroup; no other run of the tests has it.
        subnet: The first two numbers of all addresses.
    """

    folder: Path
    number: int
    name: str
    subnet: str
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def socket(self) -> str:
        """Where its engine listens, as DOCKER_HOST has it."""
        return f"unix://{self.folder}/docker.sock"

    @property
    def host_name(self) -> str:
        """Its name in the swarm."""
        return f"node{self.number}"

    @property
    def gateway(self) -> str:
        """This machine's address on the node's own link."""
        return f"{self.subnet}.{self.number}.1"

    @property
    def outside(self) -> str:
        """The address that servers see."""
        return f"{self.subnet}.{self.number}.2"

    @property
    def address(self) -> str:
        """The address for the other node."""
        return f"{self.subnet}.0.{self.number}"

    def docker(self, *words: str) -> str:
        """Run the client on its engine, which must go well; return the output."""
        return run("docker", "--host", self.socket, *words)

    def load(self, *images: str) -> None:
        """Copy images from this machine's engine."""
        with subprocess.Popen(["docker", "save", *images], stdout=subprocess.PIPE) as saved:
            assert saved.stdout
            run("docker", "--host", self.socket, "load", stdin=saved.stdout.fileno())

    def link(self) -> None:
        """Make the namespace, with a link to this machine."""
        run("ip", "netns", "add", self.name)
        peer = ["type", "veth", "peer", "name", "eth0", "netns", self.name]
        run("ip", "link", "add", self.name, *peer)
        run("ip", "address", "add", f"{self.gateway}/24", "dev", self.name)
        run("ip", "link", "set", self.name, "up")
        self.inside("address", "add", f"{self.outside}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            self.inside("link", "set", device, "up")
        self.inside("route", "add", "default", "via", self.gateway)

    def inside(self, *words: str) -> None:
        """Run `ip` in the namespace."""
        run("ip", "-netns", self.name, *words)

    def start(self) -> None:
        """Start the engine."""
        self.folder.mkdir()
        config = {
            "data-root": f"{self.folder}/data", "exec-root": f"{self.folder}/exec",
            "pidfile": f"{self.folder}/pid", "hosts": [self.socket],
            "cgroup-parent": f"/{self.name}", **_driver(),
        }  # fmt: skip
        (self.folder / "daemon.json").write_text(json.dumps(config))
        script = 'hostname "$0" && exec dockerd --config-file "$1/daemon.json"'
        # Not `ip netns exec`, which mounts another /sys, without the cgroups.
        with (self.folder / "log").open("wb") as log:
            process = subprocess.Popen(
                ["nsenter", f"--net=/run/netns/{self.name}", "unshare", "--uts", "sh", "-c", script,
                 self.host_name, str(self.folder)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        self.processes.append(process)

        def answers() -> bool:
            assert process.poll() is None, (self.folder / "log").read_text()[-2000:]
            asked = ["docker", "--host", self.socket, "version"]
            return subprocess.run(asked, capture_output=True, check=False).returncode == 0

        wait_for(answers)

    def containers(self) -> dict[str, int]:
        """Return the main process of each running container, by the container's name."""
        names = self.docker("ps", "--quiet").split()
        text = "{{.Name}} {{.State.Pid}}"
        lines = self.docker("inspect", "--format", text, *names).splitlines() if names else []
        return {name.lstrip("/"): int(pid) for name, pid in (line.split() for line in lines)}

    def pids(self) -> list[int]:
        """Return the processes of the engine and of its containers."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                command = (process / "cmdline").read_bytes()
                groups = (process / "cgroup").read_text()
                if f"{self.folder}/".encode() in command or f"/{self.name}/" in groups:
                    found.append(int(process.name))
        return [pid for pid in found if pid != os.getpid()]

    def kill(self) -> None:
        """Kill the node: its engine and all containers at once."""

        def dead() -> bool:
            for pid in self.pids():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return not self.pids()

        wait_for(dead)
        for process in self.processes:
            process.wait(10)

    def remove(self) -> None:
        """Remove all that `link` and `start` made."""
        self.kill()
        mounted = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        for path in reversed([path for path in mounted if path.startswith(f"{self.folder}/")]):
            subprocess.run(["umount", "--lazy", path], check=False, capture_output=True)
        for command in (["netns", "delete", self.name], ["link", "delete", self.name]):
            subprocess.run(["ip", *command], check=False, capture_output=True)
        for group in sorted(Path("/sys/fs/cgroup").glob(f"**/{self.name}"), reverse=True):
            for folder in [*sorted(group.glob("**/"), reverse=True)]:
                with contextlib.suppress(OSError):
                    folder.rmdir()


def _driver() -> dict[str, str]:
    """Return the storage driver of this machine's engine, where it is not the default."""
    driver = run("docker", "info", "--format", "{{.Driver}}")
    return {} if driver == "overlay2" else {"storage-driver": driver}


@dataclass
class Nodes:
    """Two nodes; the first one manages the swarm."""

    manager: Node
    worker: Node

    def part(self) -> None:
        """Take down the link between the nodes."""
        self.manager.inside("link", "set", "eth1", "down")

    def join(self) -> None:
        """Have the link between the nodes up."""
        self.manager.inside("link", "set", "eth1", "up")


@contextlib.contextmanager
def engines(untested: str, count: int) -> Iterator[list[Node]]:
    """Give engines of their own, which are no swarm, or skip loudly; all is removed in the end.

    Args:
        untested: What stays untested without them.
        count: How many.
    """
    if os.getuid():
        pytest.skip(f"ONLY ROOT CAN START ENGINES IN NETWORK NAMESPACES: {untested}")
    packages = {"dockerd": "docker.io", "ip": "iproute2", "nsenter": "util-linux"}
    for program, package in packages.items():
        need(program, package, untested)
    folder = Path(tempfile.mkdtemp(prefix="lw-"))
    subnet = f"10.{100 + os.getpid() % 100}"
    nodes = [
        Node(folder / str(number), number, f"lw{os.getpid()}-{number}", subnet)
        for number in range(1, count + 1)
    ]
    try:
        for node in nodes:
            node.link()
            node.start()
        yield nodes
    finally:
        for node in nodes:
            node.remove()
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def two_nodes(untested: str) -> Iterator[Nodes]:
    """Give a swarm of two nodes, as a user makes one, or skip loudly."""
    with engines(untested, 2) as (manager, worker):
        ends = ["type", "veth", "peer", "name", "eth1", "netns", worker.name]
        manager.inside("link", "add", "eth1", *ends)
        for node in (manager, worker):
            node.inside("address", "add", f"{node.address}/24", "dev", "eth1")
            node.inside("link", "set", "eth1", "up")
        manager.docker(
            "swarm", "init", "--advertise-addr", manager.address,
            "--default-addr-pool", f"{manager.subnet}.128.0/17",
        )  # fmt: skip
        token = manager.docker("swarm", "join-token", "--quiet", "worker")
        worker.docker(
            "swarm", "join", "--advertise-addr", worker.address, "--token", token,
            f"{manager.address}:2377",
        )  # fmt: skip
        yield Nodes(manager, worker)
