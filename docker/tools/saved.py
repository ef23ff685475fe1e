"""Read the layers of an image, as the engine saves it."""

from __future__ import annotations

import contextlib
import json
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from docker.setup.project import Failure
from docker.tools.context import Context


@dataclass(frozen=True)
class Layer:
    """One layer of an image.

    Args:
        made_by: the instruction, from the image's history.
        files: its archive, open.
    """

    made_by: str
    files: tarfile.TarFile


@contextlib.contextmanager
def saved(context: Context, image: str) -> Iterator[Iterator[Layer]]:
    """Save an image, and give its layers, the lowest first."""
    with tempfile.TemporaryDirectory(prefix="lighterage-") as folder:
        path = Path(folder) / "image.tar"
        context.must("save", "--output", str(path), image)
        with tarfile.open(path) as archive:
            yield _layers(archive)


def _layers(archive: tarfile.TarFile) -> Iterator[Layer]:
    manifest: Any = json.load(_member(archive, "manifest.json"))
    names: list[str] = manifest[0]["Layers"]
    config: Any = json.load(_member(archive, manifest[0]["Config"]))
    steps = [step for step in config.get("history") or [] if not step.get("empty_layer")]
    for number, name in enumerate(names):
        # An image that was squashed or imported has no history.
        made_by = str(steps[number].get("created_by")) if len(steps) == len(names) else "unknown"
        with tarfile.open(fileobj=_member(archive, name)) as files:
            yield Layer(made_by, files)


def _member(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    file = archive.extractfile(name)
    if file is None:
        raise Failure(f"a saved image without {name}", 1)
    return file
