"""What the tests of containers share: base images that all trees of a session take."""

from __future__ import annotations

from pathlib import Path

import pytest

import images


@pytest.fixture(scope="session", autouse=True)
def shared_bases(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> None:
    """Keep base images in a folder that all workers of this session have."""
    folder: Path = tmp_path_factory.getbasetemp()
    images.shared = folder if worker_id == "master" else folder.parent
