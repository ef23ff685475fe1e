"""Check that the same tree gives the same image, to the last byte: `make reproduce`."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from docker.setup.project import Failure, say
from docker.tools.context import Context, Variant
from docker.tools.saved import Layer, saved

NOT_BUILT = shutil.ignore_patterns(".git", ".venv", ".lighterage", ".*_cache", "data", "*.env")


def reproduce(context: Context, variant: Variant) -> int:
    """Build twice without cache, from two copies that differ in place, times and modes; compare.

    Raises:
        Failure: a layer differs; the line names the first file that does.
    """
    tags = [f"{variant.prefix}:reproduce-{number}" for number in (1, 2)]
    try:
        for number, tag in enumerate(tags):
            _build(variant, tag, number)
        images = [context.inspect("image", tag) for tag in tags]
        layers = [image["RootFS"]["Layers"] for image in images]
        if layers[0] != layers[1]:
            difference = _first_difference(context, tags)
            raise Failure(f"{variant.name} does not reproduce: {difference}", 1)
    finally:
        context.ask("image", "rm", *tags)
    same = images[0]["Id"] == images[1]["Id"]
    also = "the image ids are identical, too" if same else "the image ids differ by build time"
    say(f"{variant.name} reproduces: {len(layers[0])} identical layers in two builds; {also}")
    return 0


def _build(variant: Variant, tag: str, number: int) -> None:
    """Build from a copy of the tree with other times and other modes."""
    context = variant.project
    with tempfile.TemporaryDirectory(prefix="lighterage-") as folder:
        tree = Path(folder, "tree")
        shutil.copytree(context.root, tree, symlinks=True, ignore=NOT_BUILT)
        for path in tree.rglob("*"):
            if path.is_file() and not path.is_symlink():
                path.chmod((path.stat().st_mode & 0o700) | (0o044 if number else 0))
                os.utime(path, (10**9 * (number + 1),) * 2)
        file = tree / "docker" / variant.name / "Dockerfile"
        command = [*context.build, "--no-cache", "--file", str(file), "--tag", tag, str(tree)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failure(f"{tag} was not built: {(done.stdout + done.stderr)[-2000:]}", 1)


def _first_difference(context: Context, tags: list[str]) -> str:
    """Name the first file in which two images differ."""
    found: list[dict[str, str]] = []
    for tag in tags:
        with saved(context, tag) as layers:
            found.append(dict(_files(layers)))
    name, _ = min(found[0].items() ^ found[1].items(), default=("the layers' order", ""))
    return f"{name}: {' is not '.join(files.get(name, 'missing') for files in found)}"


def _files(layers: Iterator[Layer]) -> Iterator[tuple[str, str]]:
    """Yield each file of an image with its mode, owner, time, digest and link."""
    for number, layer in enumerate(layers):
        for info in layer.files:
            content = layer.files.extractfile(info) if info.isreg() else None
            digest = hashlib.sha256(content.read()).hexdigest()[:12] if content else ""
            facts = f"{info.mode:o} {info.uid}:{info.gid} {info.mtime:.0f} {digest}"
            yield f"layer {number}, /{info.name}", f"{facts}{info.linkname}"
