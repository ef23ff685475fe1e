"""What the tests of this folder share: a server with the S3 API."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterator

import pytest

import object_server
from tasks.fetch.stores.objects import bucket as bucket_module
from tasks.fetch.stores.objects import store as store_module


@pytest.fixture(scope="session")
def object_endpoint() -> Iterator[str]:
    """Give the URL of a server with the S3 API."""
    with object_server.running() as endpoint:
        yield endpoint


@pytest.fixture
def object_store(object_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Give the server to a run, by the environment."""
    for name, value in object_server.variables(object_endpoint).items():
        monkeypatch.setenv(name, value)
    return object_endpoint


@pytest.fixture
def bucket(object_store: str) -> str:
    """Give the name of an empty bucket."""
    name = f"bucket-{secrets.token_hex(8)}"
    object_server.client().create_bucket(Bucket=name)
    return name


@pytest.fixture
def url(bucket: str) -> str:
    """Give a target that does not exist."""
    return f"s3://{bucket}/data/events"


@pytest.fixture
def relay(
    object_store: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[Callable[[str, str], str]], None]]:
    """Give a way to put a relay with faults between runs and the server; see `object_server`."""
    monkeypatch.setattr(bucket_module, "MAX_RETRIES", 2)
    monkeypatch.setattr(bucket_module, "BACKOFF_S", 0.01)
    monkeypatch.setattr(store_module, "SWAP_DELAY_S", 0)
    client = object_server.client()
    with contextlib.ExitStack() as stack:

        def start(fault: Callable[[str, str], str]) -> None:
            endpoint = stack.enter_context(object_server.relay(object_store, fault))
            monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
            monkeypatch.setattr(object_server, "client", lambda: client)

        yield start
