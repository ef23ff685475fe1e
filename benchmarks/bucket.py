"""The buckets that some sides upload to: a server with the S3 API on loopback, a new one each run.

s3s-fs (crates.io), where it is on the path: it stores objects as files, and takes little time of
its own, but its conditional writes are not atomic, so it is fit for nothing but this. Else moto,
which takes longer than what is measured, and so only shows that every side works.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import re
import shutil
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import object_server
from benchmarks.data import digest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PROGRAM = shutil.which("s3s-fs")
SERVER = "s3s-fs" if PROGRAM else "moto, which is itself what these figures measure"
START_TIMEOUT_S = 20
_RUN = re.compile(r"objects/[0-9a-f]{16}/")


_number = itertools.count()


class Bucket:
    """A new bucket on a server.

    Attributes:
        variables: With which a side reaches it.
    """

    def __init__(self, endpoint: str) -> None:
        import obstore
        from obstore.store import S3Store

        name = f"bench-{next(_number)}"
        self.variables = {**object_server.variables(endpoint), "TARGET": name}
        self._api = obstore
        self._store = S3Store(
            name,
            config={
                "endpoint": endpoint,
                "access_key_id": self.variables["AWS_ACCESS_KEY_ID"],
                "secret_access_key": self.variables["AWS_SECRET_ACCESS_KEY"],
                "region": self.variables["AWS_REGION"],
            },
            client_options={"allow_http": True},
        )
        object_server._client(endpoint).create_bucket(Bucket=name)

    def clear(self) -> None:
        """Delete every object, to free the memory."""
        for items in self._api.list(self._store):
            self._api.delete(self._store, [item["path"] for item in items])

    def tree(self) -> str:
        """Return the digest of what was uploaded; see `data.tree_digest`."""
        keys = [item["path"] for items in self._api.list(self._store) for item in items]
        names = {_RUN.sub("", key): key for key in keys}
        landed = [
            name for name in names if name.partition("/")[0] not in {"latest.json", "manifests"}
        ]
        with ThreadPoolExecutor(16) as threads:
            checksums = threads.map(self._checksum, [names[name] for name in landed])
            return digest(dict(zip(landed, checksums, strict=True)))

    def _checksum(self, key: str) -> str:
        sha256 = hashlib.sha256()
        for block in self._api.get(self._store, key).stream():
            sha256.update(block)
        return sha256.hexdigest()


@contextlib.contextmanager
def running(folder: Path, address: str = "127.0.0.1") -> Iterator[str]:
    """Run a server, for a block, that stores its objects in `folder` if it can; give its URL."""
    with _s3s_fs(folder, address) if PROGRAM else object_server.running(address) as endpoint:
        yield endpoint


@contextlib.contextmanager
def _s3s_fs(folder: Path, address: str) -> Iterator[str]:
    folder.mkdir()
    with socket.create_server((address, 0)) as free:
        port = free.getsockname()[1]
    variables = object_server.variables("")
    command = [
        str(PROGRAM), "--host", address, "--port", str(port),
        "--access-key", variables["AWS_ACCESS_KEY_ID"],
        "--secret-key", variables["AWS_SECRET_ACCESS_KEY"], str(folder),
    ]  # fmt: skip
    with subprocess.Popen(
        command, env={"RUST_LOG": "error"}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            end = time.monotonic() + START_TIMEOUT_S
            while True:
                try:
                    socket.create_connection((address, port), timeout=1).close()
                except OSError:
                    if process.poll() is not None or time.monotonic() > end:
                        raise
                    time.sleep(0.05)
                else:
                    break
            yield f"http://{address}:{port}"
        finally:
            process.kill()
