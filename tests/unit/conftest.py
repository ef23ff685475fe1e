"""What the tests of this folder share: a server with the S3 API, and a made-up service."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import object_server
from made_up_service import DAILY, Service
from tasks.fetch import stores
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


@pytest.fixture(params=["local", "zip", "objects"])
def any_target(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> str:
    """Give a target in each store, with a space and a letter that is not ASCII in its path."""
    monkeypatch.setitem(stores.STORES, "zip", "zip_store:ZipStore")
    if request.param == "objects":
        return str(request.getfixturevalue("url"))
    scheme = "zip://" if request.param == "zip" else ""
    return f"{scheme}{tmp_path}/da ta é/[1] *.csv"


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


@pytest.fixture
def daily(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Service:
    """Give a service with a task that is due at three o'clock."""
    monkeypatch.chdir(tmp_path)
    service = Service(DAILY, "03-20 12:00")
    monkeypatch.setattr("subprocess.Popen", service.start)
    monkeypatch.setattr("random.Random.uniform", lambda _, low, high: high)
    return service


@pytest.fixture(params=["folder", "objects"])
def target(tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """Give a target that shards can share."""
    if request.param == "objects":
        return str(request.getfixturevalue("url"))
    return str(tmp_path / "data/events")
