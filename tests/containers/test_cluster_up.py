"""A swarm of one machine, from `make cluster-up` to `make cluster-down`, with the sample host."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from docker.tools.context import Context
from images import in_shell, tree_in, wait_for
from tree import Tree
from two_nodes import Node, engines, run

PROJECT = f"lighterage-{os.getpid()}"
"""Short, as Swarm has names of 64 characters at most."""
pytestmark = pytest.mark.container


@pytest.fixture(scope="module")
def node(engine: Context) -> Iterator[Node]:
    if engine.engine != "docker":
        pytest.skip("PODMAN HAS NO SWARM: shards on a cluster")
    with engines("a swarm of one machine", 1) as (node,):
        yield node


@pytest.fixture(scope="module")
def tree(engine: Context, node: Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    """Give a tree whose engine has all images, and no swarm."""
    with tree_in(tmp_path_factory.mktemp("up") / "a clone", engine, "prod") as tree:
        tree.ok("run", "ENV=prod")
        tree.ok("down", "ENV=prod")
        names = ("prod", "sample-host", "base:build", "base:runtime")
        node.load(*(f"{PROJECT}-{name}" for name in names))
        tree.env["DOCKER_HOST"] = node.socket
        yield tree
        del tree.env["DOCKER_HOST"]


@pytest.fixture(autouse=True)
def swarm_left(tree: Tree, node: Node) -> Iterator[None]:
    yield
    tree.ok("cluster-down")
    assert "inactive" in node.docker("info", "--format", "{{.Swarm.LocalNodeState}}")
    assert {*node.docker("network", "ls", "--format", "{{.Name}}").split()} <= {
        "bridge", "host", "none", f"{PROJECT}-prod-tasks",
    }  # fmt: skip


def test_a_clone_lands_from_the_sample_host_on_a_swarm_of_this_machine(
    tree: Tree, node: Node
) -> None:
    assert "make cluster-up gives it one" in tree.refused("cluster-run", "TASK=3")
    tree.ok("cluster-up")
    assert "manages a swarm already" in tree.make("cluster-up").stderr
    assert node.docker("info", "--format", "{{.Swarm.NodeAddr}}") == "127.0.0.1"
    listening = run("nsenter", f"--net=/run/netns/{node.name}", "ss", "-Hlntu")
    addresses = {line.split()[4] for line in listening.splitlines()}
    addresses -= {
        "0.0.0.0:4789",
        "[::]:4789",
    }  # the kernel's, for overlay networks: docs/cluster.md
    assert {address.rpartition(":")[0] for address in addresses} == {"127.0.0.1"}
    tree.ok("cluster-run", "TASK=3", "SHARDS=3", "RUN_ID=one")

    def complete() -> bool:
        shown = tree.ok("cluster-status")
        assert shown.count("prod-3-one") <= 6, tree.ok("cluster-logs")
        return shown.count("Complete") == 3

    wait_for(complete, 240)
    assert "the run is published" in tree.ok("cluster-logs", "RUN_ID=one")
    assert "manifest.json" in in_shell(tree, "prod", "ls data/task_3/events")
    assert "run one has a service already" in tree.refused("cluster-run", "TASK=3", "RUN_ID=one")
    assert tree.ok("cluster-status", "RUN_ID=on") == ""
    tree.ok("cluster-run", "TASK=3", "SHARDS=1", "RUN_ID=day-one")
    tree.ok("cluster-down", "RUN_ID=one")
    assert node.docker("service", "ls", "--format", "{{.Name}}") == f"{PROJECT}-prod-3-day-one"
    secrets = node.docker("secret", "ls", "--format", "{{.Name}}").split()
    assert len(secrets) == 10
    assert all(name.startswith(f"{PROJECT}-prod-3-day-one-") for name in secrets)


def test_a_shard_that_fails_is_started_again_three_times(tree: Tree, node: Node) -> None:
    tree.ok("cluster-up")
    tree.ok("cluster-run", "TASK=3", "SHARDS=1", "ARGS=--remote-file-path missing")
    wait_for(lambda: tree.ok("cluster-status").count("non-zero exit (3)") == 4, 120)
    assert "missing" in tree.make("cluster-logs").stderr


def test_a_swarm_with_a_service_of_the_users_own_stays(tree: Tree, node: Node) -> None:
    tree.ok("cluster-up")
    node.docker("service", "create", "--detach", "--replicas=0", "--name=own", f"{PROJECT}-prod")
    assert "other services or nodes, and stays" in tree.make("cluster-down").stderr
    assert node.docker("service", "ls", "--format", "{{.Name}}") == "own"
    node.docker("service", "rm", "own")


def test_a_swarm_that_the_user_made_stays(tree: Tree, node: Node) -> None:
    node.docker("swarm", "init", "--advertise-addr", "127.0.0.1")
    assert "manages a swarm already" in tree.make("cluster-up").stderr
    tree.ok("cluster-down")
    assert node.docker("info", "--format", "{{.Swarm.LocalNodeState}}") == "active"
    node.docker("swarm", "leave", "--force")
    node.docker("network", "rm", "docker_gwbridge")
