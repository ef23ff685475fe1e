"""A server with the S3 API, in a process of its own; and what its buckets contain."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import boto3

from landed import Tree, sha256, stage
from tasks.fetch.manifest import Manifest
from tasks.fetch.staging import staging
from tasks.fetch.stores import open_store

SECRET = "secret-of-the-tests"
PART_BYTES = 2**16
"""The least size of a part that is not the last; S3's is 5 MiB."""
request = threading.local()

SERVER = """
import threading
from moto import server
from moto.s3.responses import S3Response

lock, put_object = threading.Lock(), S3Response.put_object

def put_one_at_a_time(self):
    with lock:
        return put_object(self)

S3Response.put_object = put_one_at_a_time
server.main()
"""
"""moto checks a condition and writes in two steps: under load two writers pass, as never on S3."""


def variables(endpoint: str) -> dict[str, str]:
    """Return the variables with which a run uses a server."""
    return {
        "AWS_ACCESS_KEY_ID": "tester",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ALLOW_HTTP": "true",
        "AWS_REGION": "us-east-1",
    }


@contextlib.contextmanager
def running(host: str = "127.0.0.1") -> Iterator[str]:
    """Run a server on an address of this machine, and give its URL."""
    command = [sys.executable, "-c", SERVER, "-H", host, "-p", "0"]
    env = {**os.environ, "S3_UPLOAD_PART_MIN_SIZE": str(PART_BYTES)}
    with subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        try:
            for line in process.stderr:
                if found := re.search(r"Running on (http://\S+)", line):
                    break
            else:
                raise RuntimeError("the server did not start")
            # It logs each request: a full pipe would stop it.
            threading.Thread(target=process.stderr.read, daemon=True).start()
            yield found[1]
        finally:
            process.kill()


@contextlib.contextmanager
def relay(
    endpoint: str, fault: Callable[[str, str], str], host: str = "127.0.0.1"
) -> Iterator[str]:
    """Give the URL of a relay to a server, in which `fault` decides about each request.

    Args:
        endpoint: The server.
        fault: Returns, for a method and a path: an error such as `503 SlowDown`; `unconditional`
            to remove the conditions; `cut N` to close the connection at byte N of the request;
            `lose` to pass it on and close the connection without an answer; `half` to close it
            within the answer; `slow N` to answer N seconds later, `late N` to pass it on N seconds
            later; `kill N` to pass it on, and kill process N before the answer; `hang` for no
            answer; or nothing. `request.client` has the address of the client then.
        host: Where it listens.
    """
    server = urlsplit(endpoint).netloc

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_request(self) -> None:
            request.client = self.client_address
            action = fault(self.command, self.path)
            kind, _, value = action.partition(" ")
            size = int(self.headers["Content-Length"] or 0)
            if kind == "cut":
                self.rfile.read(min(int(value), size))
                self.close_connection = True
                return
            content = self.rfile.read(size)
            if kind == "late":
                time.sleep(float(value))
            if kind == "hang":
                self.rfile.read(1)
            elif kind.isdigit():
                self.answer(int(kind), f"<Error><Code>{value}</Code></Error>".encode(), {})
            else:
                self.pass_on(content, action)

        def pass_on(self, content: bytes, action: str) -> None:
            headers = dict(self.headers)
            if action == "unconditional":
                headers = {
                    key: headers[key] for key in headers if not key.lower().startswith("if-")
                }
            connection = HTTPConnection(server)
            connection.request(self.command, self.path, content, headers)
            response = connection.getresponse()
            data = response.read()
            connection.close()
            if action.startswith("kill"):
                os.kill(int(action.split()[1]), signal.SIGKILL)
            if action.startswith(("kill", "lose")):
                self.close_connection = True
                return
            dropped = {"connection", "transfer-encoding"}
            if self.command != "HEAD":
                dropped.add("content-length")
            kept = {
                key: text for key, text in response.headers.items() if key.lower() not in dropped
            }
            if action.startswith("slow"):
                time.sleep(float(action.split()[1]))
            if action == "half":
                self.close_connection = True
            self.answer(response.status, data, kept, len(data) // (2 if action == "half" else 1))

        def answer(
            self, status: int, data: bytes, headers: Mapping[str, str], sent: int | None = None
        ) -> None:
            self.send_response(status)
            for key, text in headers.items():
                self.send_header(key, text)
            if self.command != "HEAD" or "Content-Length" not in headers:
                self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data[:sent])

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_request  # noqa: N815 (http.server)

        def log_message(self, *words: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, *about: object) -> None:
            """Say nothing: clients that close the connection belong to the faults."""

    with Server((host, 0), Handler) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://{host}:{listening.server_port}"
        listening.shutdown()


@cache
def _client(endpoint: str) -> Any:
    return boto3.client(
        "s3", endpoint_url=endpoint, region_name="us-east-1",
        aws_access_key_id="tester", aws_secret_access_key=SECRET,
    )  # fmt: skip


def client() -> Any:
    """Return a client of the server that the environment names."""
    return _client(os.environ["AWS_ENDPOINT_URL"])


def keys(bucket: str) -> list[str]:
    """Return the keys of a bucket."""
    pages = client().get_paginator("list_objects_v2").paginate(Bucket=bucket)
    return [item["Key"] for page in pages for item in page.get("Contents", [])]


def read(bucket: str, key: str) -> bytes:
    """Return an object."""
    content: bytes = client().get_object(Bucket=bucket, Key=key)["Body"].read()
    return content


def objects(bucket: str) -> Tree:
    """Return every object of a bucket."""
    return {key: read(bucket, key) for key in keys(bucket)}


def write(bucket: str, files: Tree) -> None:
    for key, content in files.items():
        client().put_object(Bucket=bucket, Key=key, Body=content)


def clear(bucket: str) -> None:
    found = [{"Key": key} for key in keys(bucket)]
    for start in range(0, len(found), 1000):
        batch = {"Objects": found[start : start + 1000]}
        client().delete_objects(Bucket=bucket, Delete=batch)


def published(url: str) -> Tree:
    """Return the files that readers find, by nothing but the documented layout; each is checked."""
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    try:
        latest = json.loads(read(bucket, f"{prefix}/latest.json"))
    except client().exceptions.NoSuchKey:
        return {}
    manifest = json.loads(read(bucket, f"{prefix}/{latest['manifest']}"))
    files = {}
    for file in manifest["files"] + manifest["archives"]:
        content = read(bucket, f"{prefix}/objects/{file['run']}/{file['path']}")
        assert (len(content), sha256(content)) == (file["size"], file["sha256"])
        files[file["path"]] = content
    return files


def uploads(bucket: str) -> list[str]:
    """Return the keys of the uploads that were started and not completed."""
    found = client().list_multipart_uploads(Bucket=bucket).get("Uploads", [])
    return [upload["Key"] for upload in found]


def land(url: str, files: Tree) -> Manifest:
    """Land files in a target."""
    store = open_store(url, overwrite=True)
    with staging(store) as staged:
        return staged.publish(stage(store, staged, files))
