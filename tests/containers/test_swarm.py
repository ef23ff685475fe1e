"""A task as four shards on a swarm of two real engines, one of which is lost, killed or cut off.

A relay in front of the store sees each request, and so acts at one step of a run.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import object_server
from docker.tools.context import Context
from images import tree_in, wait_for
from sshd import PASSWORD, Sshd, need_passwords
from tree import Tree
from two_nodes import Node, Nodes, two_nodes

PROJECT = f"lighterage-{os.getpid()}"
"""Short, as Swarm has names of 64 characters at most."""
pytestmark = pytest.mark.container
FILES = 2000
SHARDS = 4
BUCKET = "shards"
DATA = {f"{n % 20:02}/{n:04}.csv": f"id,x\n{n},{n * 37}\n".encode() * 20 for n in range(FILES)}


class Store:
    """The store behind a relay; `before` is called with method and path of each request.

    Attributes:
        endpoint: Of the relay.
        uploads: How many requests for files there were.
        early: The records that were missing when a manifest was published.
    """

    def __init__(self) -> None:
        self.endpoint = ""
        self.reset()

    def reset(self) -> None:
        self.before: Callable[[str, str], str] = lambda method, path: ""
        self.uploads = 0
        self.early: list[str] = []

    def fault(self, method: str, path: str) -> str:
        if method == "PUT" and "/objects/" in path:
            self.uploads += 1
        if method == "PUT" and path.endswith("/latest.json"):
            have = {key.partition("/runs/")[2] for key in object_server.keys(BUCKET)}
            run = path.split("/")[2]
            wanted = {f"{run}/shards/{k}.json" for k in range(1, SHARDS + 1)}
            self.early += sorted(wanted - have)
        return self.before(method, path)


@pytest.fixture(scope="module")
def nodes(engine: Context) -> Iterator[Nodes]:
    need_passwords()
    if engine.engine != "docker":
        pytest.skip("PODMAN HAS NO SWARM: shards on a cluster")
    with two_nodes("shards on two engines") as nodes:
        yield nodes


@pytest.fixture(scope="module")
def store(nodes: Nodes) -> Iterator[Store]:
    host = nodes.manager.gateway
    with object_server.running() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in object_server.variables(server).items():
            patch.setenv(name, value)
        object_server.client().create_bucket(Bucket=BUCKET)
        store = Store()
        with object_server.relay(server, store.fault, host) as store.endpoint:
            yield store


@pytest.fixture(scope="module")
def tree(
    engine: Context, nodes: Nodes, store: Store, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Tree]:
    """Give a tree whose engine is the manager, with the image on both nodes and 2,000 files."""
    folder = tmp_path_factory.mktemp("swarm")
    address = nodes.manager.gateway
    sshd = Sshd(folder / "sshd", options=[f"ListenAddress {address}"])
    for path, content in DATA.items():
        (sshd.home / "data" / path).parent.mkdir(parents=True, exist_ok=True)
        (sshd.home / "data" / path).write_bytes(content)
    env = {"EXTRAS": "s3"}
    with sshd.running(), tree_in(folder / "clone", engine, "prod", env=env) as tree:
        (tree.folder / "envs/known_hosts").write_text(
            sshd.known_hosts().replace("127.0.0.1", address)
        )
        (tree.folder / "envs/secrets/password").write_text(PASSWORD)
        lines = object_server.variables(store.endpoint) | {
            "REMOTE_HOST_ADDRESS": f"{address}:{sshd.port}",
            "USERNAME": "full",
            "PASSWORD_FILE": "envs/secrets/password",
        }
        text = "".join(f"{name}={value}\n" for name, value in lines.items())
        (tree.folder / "envs/prod.env").write_text(text)
        names = [f"{PROJECT}-prod", f"{PROJECT}-base:build", f"{PROJECT}-base:runtime"]
        nodes.manager.load(*names)
        nodes.worker.load(*names[:1])
        tree.env["DOCKER_HOST"] = nodes.manager.socket
        yield tree
        del tree.env["DOCKER_HOST"]


@pytest.fixture
def run_id(request: pytest.FixtureRequest, tree: Tree, nodes: Nodes, store: Store) -> Iterator[str]:
    """Give the id of a run, which is removed with all of its objects in the end."""
    store.reset()
    nodes.join()
    wait_for(lambda: nodes.manager.docker("node", "ls").count("Ready") == 2)
    run_id = f"run-{request.session.items.index(request.node)}"
    yield run_id
    store.reset()
    tree.ok("cluster-down", f"RUN_ID={run_id}")
    wait_for(lambda: not nodes.manager.containers())
    object_server.clear(BUCKET)


def start(tree: Tree, run_id: str) -> None:
    options = f"--remote-file-path data --file-save-path s3://{BUCKET}/{run_id}"
    tree.ok("cluster-run", "TASK=3", f"SHARDS={SHARDS}", f"RUN_ID={run_id}", f"ARGS={options}")


def states(tree: Tree, run_id: str) -> dict[str, list[str]]:
    """Return the states of each shard's tasks, the last one first, as `cluster-status` has them."""
    found: dict[str, list[str]] = {}
    for line in tree.ok("cluster-status", f"RUN_ID={run_id}").splitlines()[1:]:
        slot = line.replace("\\_", "").split()[0].rpartition(".")[2]
        found.setdefault(slot, []).append(line)
    return found


def landed(tree: Tree, store: Store, run_id: str) -> None:
    """Wait until all shards ended; each file landed once, and nothing before all was there."""

    def ended() -> bool:
        found = states(tree, run_id)
        assert all(len(lines) < 4 for lines in found.values()), tree.ok("cluster-logs")
        return len(found) == SHARDS and all("Complete" in lines[0] for lines in found.values())

    wait_for(ended, 240)
    assert object_server.published(f"s3://{BUCKET}/{run_id}") == DATA
    latest = json.loads(object_server.read(BUCKET, f"{run_id}/latest.json"))
    manifest = json.loads(object_server.read(BUCKET, f"{run_id}/{latest['manifest']}"))
    assert len(manifest["files"]) == FILES
    assert not store.early


def sender(nodes: Nodes) -> int:
    """Return the main process of the container that the present request is from.

    Its network namespace has the port that the relay sees, since the node's own address is used
    with the container's port where that is free.
    """
    host, port = object_server.request.client
    (node,) = (node for node in (nodes.manager, nodes.worker) if node.outside == host)
    (pid,) = (pid for pid in node.containers().values() if port in _ports(pid))
    return pid


def _ports(pid: int) -> set[int]:
    lines = Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]
    return {int(line.split()[1].rpartition(":")[2], 16) for line in lines}


def test_shards_land_on_two_nodes_and_their_containers_keep_the_contract(
    tree: Tree, nodes: Nodes, store: Store, run_id: str
) -> None:
    shown: list[Any] = []

    def look(method: str, path: str) -> str:
        if not shown and store.uploads > 200:
            shown.append(None)
            for node in (nodes.manager, nodes.worker):
                shown.extend(json.loads(node.docker("inspect", *node.containers())))
        return ""

    store.before = look
    start(tree, run_id)
    landed(tree, store, run_id)
    assert len(shown) == SHARDS + 1
    nodes_used = {line.split()[1] for lines in states(tree, run_id).values() for line in lines}
    assert nodes_used == {"node1", "node2"}
    image = nodes.manager.docker("image", "inspect", "--format", "{{.Id}}", f"{PROJECT}-prod")
    for container in shown[1:]:
        host = container["HostConfig"]
        assert container["Config"]["User"] == "10001:10001"
        assert container["Config"]["Image"] == image
        assert host["ReadonlyRootfs"]
        assert host["CapDrop"] in (["ALL"], ["CAP_ALL"])
        assert not host["Privileged"]
        assert (host["Memory"], host["PidsLimit"], host["NanoCpus"]) == (2**30, 128, 10**9)
        assert PASSWORD not in json.dumps(container)
        assert object_server.SECRET not in json.dumps(container)


def test_a_planner_killed_right_after_its_plan_is_started_again(
    tree: Tree, nodes: Nodes, store: Store, run_id: str
) -> None:
    killed: list[int] = []

    def kill(method: str, path: str) -> str:
        if method == "PUT" and path.endswith("/plan.json") and not killed:
            killed.append(sender(nodes))
            return f"kill {killed[0]}"
        return ""

    store.before = kill
    start(tree, run_id)
    landed(tree, store, run_id)
    assert killed
    assert any("Failed" in line for lines in states(tree, run_id).values() for line in lines[1:])


def test_a_shard_killed_right_before_its_last_write_is_started_again(
    tree: Tree, nodes: Nodes, store: Store, run_id: str
) -> None:
    killed: list[int] = []

    def kill(method: str, path: str) -> str:
        if method == "PUT" and "/shards/" in path and not killed:
            killed.append(sender(nodes))
            os.kill(killed[0], signal.SIGKILL)
            return "cut 0"
        return ""

    store.before = kill
    start(tree, run_id)
    landed(tree, store, run_id)
    assert killed
    assert any("Failed" in line for lines in states(tree, run_id).values() for line in lines[1:])


def hold(store: Store, node: Node) -> tuple[threading.Event, threading.Event]:
    """Have the node's uploads wait from the 300th on; return what is set then, and what ends it."""
    held, proceed = threading.Event(), threading.Event()

    def wait(method: str, path: str) -> str:
        if store.uploads >= 300 and object_server.request.client[0] == node.outside:
            held.set()
            proceed.wait(120)
        return ""

    store.before = wait
    return held, proceed


def shards_on(node: Node) -> int:
    return len(node.containers())


def test_both_copies_of_a_shard_run_while_the_nodes_do_not_see_each_other(
    tree: Tree, nodes: Nodes, store: Store, run_id: str
) -> None:
    held, proceed = hold(store, nodes.worker)
    start(tree, run_id)
    assert held.wait(120)
    there = shards_on(nodes.worker)
    nodes.part()
    seen = shards_on(nodes.manager)
    wait_for(lambda: any(len(lines) > 1 for lines in states(tree, run_id).values()), 120)
    assert there
    assert shards_on(nodes.worker) == there, "both run"
    proceed.set()
    landed(tree, store, run_id)
    assert seen


def test_shards_of_a_killed_node_run_on_the_other_one(
    tree: Tree, nodes: Nodes, store: Store, run_id: str
) -> None:
    """The last test: the node is not started again."""
    held, proceed = hold(store, nodes.worker)
    start(tree, run_id)
    assert held.wait(120)
    assert shards_on(nodes.worker)
    nodes.worker.kill()
    proceed.set()
    landed(tree, store, run_id)
    assert all(" node1 " in lines[0] for lines in states(tree, run_id).values())
