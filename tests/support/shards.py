"""A run in shards, as processes of one client: in a shared folder, or in an object store."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import object_server
from client import Client, Ended, ended, tree
from forks import Fork, forks
from landed import sha256

QUICK = {
    "tasks.fetch.shards.lease.EXPIRY_S": 1.0,
    "tasks.fetch.shards.lease.RENEW_S": 0.1,
    "tasks.fetch.sharded.POLL_S": 0.1,
    "tasks.fetch.sharded.BEAT_S": 0.2,
}
"""Short times, so that a test need not wait for them."""


@dataclass
class Cluster:
    """The shards of one run.

    Attributes:
        client: Runs them, and has the target.
        shards: How many there are.
        run_id: Of the run.
        flags: Options of each.
        expected: What the run is to publish.
        task: Which task they run.
        path: Of its source.
    """

    client: Client
    shards: int = 4
    run_id: str = "r1"
    flags: list[str] = field(default_factory=list)
    expected: dict[str, bytes] = field(default_factory=dict)
    task: str = "3"
    path: str | None = "tree"

    def start(self, shard: int, *flags: str, **environ: str) -> Fork:
        """Start a shard; environ: KILL_BEFORE or KILL_AFTER, a step at which it is killed."""
        client = self.client
        client.environ.update(
            {"SHARD": str(shard), "OF": str(self.shards), "RUN_ID": self.run_id,
             "NODE": f"node-{shard}", "PATCHES": json.dumps(QUICK), **environ}
        )  # fmt: skip
        try:
            return client.start(self.task, self.path, *self.flags, *flags)
        finally:
            for name in environ:
                del client.environ[name]

    def run(self, *shards: int, **environ: str) -> list[Ended]:
        """Run shards at once, to their ends."""
        numbers = shards or tuple(range(1, self.shards + 1))
        return [ended(process) for process in [self.start(k, **environ) for k in numbers]]

    def land(self, *shards: int) -> list[Ended]:
        """Run shards at once, which all end well."""
        done = self.run(*shards)
        assert [one.code for one in done] == [0] * len(done), [one.err for one in done]
        return done

    def status(self, code: int = 0) -> Any:
        """Return the status of the run."""
        target = self.client.options["file-save-path"]
        words = ["status", self.task, f"--run-id={self.run_id}", f"--file-save-path={target}"]
        done = ended(forks().start([*words, "--json"], self.client.folder, self.client.env()))
        assert done.code == code, done.err
        return done.data()

    def states(self, code: int = 0) -> list[str]:
        """Return the state of each shard."""
        return [shard["state"] for shard in self.status(code)["shards"]]

    # --- what is published ---------------------------------------------------------------------

    @property
    def url(self) -> str:
        """The target."""
        return str(self.client.options["file-save-path"])

    def published(self) -> dict[str, bytes]:
        """Return the published files, each as its manifest states it."""
        if self.url.startswith("s3://"):
            return object_server.published(self.url)
        if not self.client.target.exists():
            return {}
        files = tree(self.client.target)
        stated = {file["path"]: (file["size"], file["sha256"])
                  for file in self.manifest()["files"] + self.manifest()["archives"]}  # fmt: skip
        assert stated == {name: (len(data), sha256(data)) for name, data in files.items()}
        return files

    def manifest(self) -> Any:
        """Return the published manifest."""
        if not self.url.startswith("s3://"):
            return json.loads((self.client.target / "manifest.json").read_text())
        bucket, _, prefix = self.url.removeprefix("s3://").partition("/")
        found = object_server.objects(bucket)
        latest = json.loads(found[f"{prefix}/latest.json"])
        return json.loads(found[f"{prefix}/{latest['manifest']}"])

    def check(self) -> None:
        """Check that all is published, each file once, from each source once."""
        assert self.published() == self.expected
        manifest = self.manifest()
        paths = [file["path"] for file in manifest["files"]]
        assert sorted(paths) == sorted(set(paths))
        sources = [source["path"] for source in manifest["sources"]]
        assert len(sources) == len(set(sources))
        assert manifest["run_id"] == self.run_id
        assert "missing" not in manifest
        assert self.status()["state"] == "published"
