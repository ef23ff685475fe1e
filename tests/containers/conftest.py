"""What the tests of containers share: base images of a session, the engine, and a tree."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import images
from docker.tools.context import Context
from tree import Tree


@pytest.fixture(scope="session", autouse=True)
def shared_bases(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> None:
    """Keep base images in a folder that all workers of this session have."""
    folder: Path = tmp_path_factory.getbasetemp()
    images.shared = folder if worker_id == "master" else folder.parent


@pytest.fixture(scope="module")
def engine(request: pytest.FixtureRequest) -> Context:
    """Give the engine, for names that start with the module's PROJECT, or skip loudly."""
    untested = (request.module.__doc__ or "").partition("\n")[0]
    return images.context_or_skip(untested, request.module.PROJECT)


@pytest.fixture(scope="module")
def tree(engine: Context, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    """Give a tree with both images built, in a folder with a space in its name."""
    folder = tmp_path_factory.mktemp("images") / "a clone"
    with images.tree_in(folder, engine, *images.VARIANTS) as tree:
        images.give_free_ports(tree)
        yield tree
