"""What the tests of this folder share: a server with the S3 API."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest

import object_server


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
