"""A run in shards on a swarm of two real engines of this machine: time, requests and bytes.

    python -m benchmarks.swarm [--files N] [--rtt SECONDS] [--rounds N] [--shards N ...]

Runs task 3 over many small files of an SSH host into a bucket, without and with that round trip to
the host. All share the cores of this machine: only what waits for the link can become faster. A
time is from the creation of the service until the manifest is published. In one more run of each,
which is not timed, a relay counts the requests to the store. Needs root and a container engine.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import itertools
import json
import os
import shutil
import statistics
import sys
import time
from datetime import datetime
from typing import TYPE_CHECKING

import object_server
from benchmarks import bucket, machine, report
from benchmarks.arena import Link, relay
from benchmarks.data import digest
from benchmarks.fetch import arena_and_store
from images import context_or_skip, tree_in
from sshd import PASSWORD
from two_nodes import two_nodes

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.data import Dataset
    from tree import Tree
    from two_nodes import Node

FILE_BYTES = 2048
BUCKET = "bench"
PROJECT = f"lighterage-bench{os.getpid()}"
UNTESTED = "runs in shards on a swarm"
TIMEOUT_S = 240.0


def main(arguments: list[str] | None = None) -> int:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description="Time runs in shards on a swarm of two nodes.")
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--rtt", type=float, default=0.05, metavar="SECONDS")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shards", type=int, nargs="+", default=[1, 2, 4])
    options = parser.parse_args(arguments)
    if not bucket.PROGRAM:
        raise SystemExit("lighterage: s3s-fs is missing: install cargo, and call make bench-swarm")
    with contextlib.ExitStack() as stack:
        arena, store = stack.enter_context(arena_and_store(10**9))
        nodes = stack.enter_context(two_nodes(UNTESTED))
        host, objects = nodes.manager.gateway, arena.folder / "objects"
        endpoint = stack.enter_context(bucket.running(objects, host))
        os.environ.update(object_server.variables(endpoint))
        object_server.client().create_bucket(Bucket=BUCKET)
        counter = Counter()
        counting = stack.enter_context(object_server.relay(endpoint, counter.count, host))
        context = context_or_skip(UNTESTED, PROJECT)
        env = {"EXTRAS": "s3"}
        tree = stack.enter_context(tree_in(arena.folder / "clone", context, "prod", env=env))
        names = [f"{PROJECT}-prod", f"{PROJECT}-base:build", f"{PROJECT}-base:runtime"]
        nodes.manager.load(*names)
        nodes.worker.load(*names[:1])
        tree.env["DOCKER_HOST"] = nodes.manager.socket
        data = store.small(options.files, FILE_BYTES, 100)
        runs = Runs(tree, nodes.manager, data, objects)
        report.say("round trip  shards  median s  speed-up  requests a shard  seconds")
        for rtt in (0.0, options.rtt):
            port = stack.enter_context(relay(arena.server.port, Link(rtt), host))
            known_hosts = arena.server.known_hosts(port).replace("127.0.0.1", host)
            first = 0.0
            for shards in options.shards:
                runs.configure(f"{host}:{port}", known_hosts, endpoint)
                seconds = [runs.time(shards) for _ in range(options.rounds)]
                median = statistics.median(seconds)
                first = first or median
                runs.configure(f"{host}:{port}", known_hosts, counting)
                before = counter.requests
                runs.time(shards)
                report.say(
                    f"{1000 * rtt:>7.0f} ms  {shards:>6}  {median:>8.2f}  {first / median:>7.2f}x"
                    f"  {(counter.requests - before) / shards:>16.0f}"
                    f"  {' '.join(f'{one:.2f}' for one in seconds)}"
                )
        box = machine.facts(arena.folder)
        report.say(f"{box['cpu']}, {box['cores']} cores, load {box['load'][0]:.1f} at the end")
        del tree.env["DOCKER_HOST"]
    return 0


class Runs:
    """Runs of task 3 on the swarm, each with an id and a prefix of its own.

    Args:
        tree: With prod's image; its engine is the swarm's manager.
        manager: The node.
        data: What the runs land.
        objects: The folder of the store's buckets.
    """

    def __init__(self, tree: Tree, manager: Node, data: Dataset, objects: Path) -> None:
        self._tree = tree
        self._manager = manager
        self._data = data
        self._bucket = objects / BUCKET
        self._number = itertools.count(1)
        (tree.folder / "envs/secrets/password").write_text(PASSWORD)

    def configure(self, address: str, known_hosts: str, endpoint: str) -> None:
        """Set the host and the store of the runs that follow."""
        lines = object_server.variables(endpoint) | {
            "REMOTE_HOST_ADDRESS": address,
            "USERNAME": "full",
            "PASSWORD_FILE": "envs/secrets/password",
        }
        text = "".join(f"{name}={value}\n" for name, value in lines.items())
        (self._tree.folder / "envs/prod.env").write_text(text)
        (self._tree.folder / "envs/known_hosts").write_text(known_hosts)

    def time(self, shards: int) -> float:
        """Run it; return the seconds until its manifest was published, and check what it lists."""
        run_id = f"run-{next(self._number)}"
        words = f"--remote-file-path {self._data.source} --file-save-path s3://{BUCKET}/{run_id}"
        latest, end = self._bucket / run_id / "latest.json", time.monotonic() + TIMEOUT_S
        variables = [f"SHARDS={shards}", f"RUN_ID={run_id}"]
        self._tree.ok("cluster-run", "TASK=3", *variables, f"ARGS={words}")
        while not latest.exists():
            if time.monotonic() > end:
                raise SystemExit(self._tree.ok("cluster-logs", f"RUN_ID={run_id}"))
            time.sleep(0.02)
        service = f"{PROJECT}-prod-3-{run_id}"
        created = self._manager.docker("service", "inspect", "--format", "{{json .}}", service)
        moment = datetime.fromisoformat(json.loads(created)["CreatedAt"])
        seconds = latest.stat().st_mtime - moment.timestamp()
        self._check(run_id)
        self._tree.ok("cluster-down", f"RUN_ID={run_id}")
        shutil.rmtree(self._bucket / run_id)
        return seconds

    def _check(self, run_id: str) -> None:
        prefix = self._bucket / run_id
        latest = json.loads((prefix / "latest.json").read_bytes())
        manifest = json.loads((prefix / latest["manifest"]).read_bytes())
        contents = {
            file["path"]: hashlib.sha256(
                (prefix / "objects" / file["run"] / file["path"]).read_bytes()
            ).hexdigest()
            for file in manifest["files"]
        }
        if digest(contents) != self._data.tree:
            raise SystemExit(f"{run_id}: other bytes than the source's")


class Counter:
    """Counts the requests that pass a relay."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self.requests = 0

    def count(self, method: str, path: str) -> str:
        """Count a request; have the relay pass it on."""
        self.requests = next(self._numbers)
        return ""


if __name__ == "__main__":
    sys.exit(main())
