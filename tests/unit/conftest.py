"""What the tests of this folder share: a server with the S3 API."""

from __future__ import annotations

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
