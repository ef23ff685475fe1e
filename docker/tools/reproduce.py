"""Whether the same tree gives the same image, to the last byte of its layers: `make reproduce`."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from docker.setup import bases, images, wheelhouse
from docker.setup.engine import Engine
from docker.setup.project import Failure, Project, say
from docker.setup.variants import Variant
from docker.tools.saved import Layer, saved


def reproduce(project: Project, variant: Variant, engine: Engine) -> int:
    """Build twice without cache, from two copies that differ in place, times and modes; compare.

    Raises:
        Failure: a layer differs; the line names the first file that does.
    """
    wheels = wheelhouse.wheels(project)
    base, arguments = bases.choose(project, engine)
    tags = [f"{images.tag_of(project, variant.name)}:reproduce-{n}" for n in (1, 2)]
    more = ["--no-cache", *(["--network", "none"] if wheels else [])]
    try:
        for number, tag in enumerate(tags):
            with images.staged(project, variant.name, wheels) as context:
                _vary(context, number)
                images.build_image(
                    engine, variant.name, context, tag, arguments=arguments, more=more
                )
        facts = engine.inspect("image", *tags)
        layers = [facts[tag]["RootFS"]["Layers"] for tag in tags]
        if layers[0] != layers[1]:
            raise Failure(
                f"{variant.name} does not reproduce: {_first_difference(engine, tags)}", 1
            )
        same_id = facts[tags[0]]["Id"] == facts[tags[1]]["Id"]
    finally:
        engine.ask("image", "rm", *tags)
    also = "and the image id" if same_id else "the ids differ by the time of building alone"
    say(f"{variant.name} (base: {base}): {len(layers[0])} layers twice the same; {also}")
    return 0


def _vary(context: Path, number: int) -> None:
    """Give what a build needs other times and other modes each time."""
    for path in context.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod((path.stat().st_mode & 0o700) | (0o044 if number else 0))
            os.utime(path, (10**9 * (number + 1),) * 2)


def _first_difference(engine: Engine, tags: list[str]) -> str:
    """Name the first file in which two images differ."""
    found = []
    for tag in tags:
        with saved(engine, tag) as layers:
            found.append(dict(_files(layers)))
    for name in sorted({*found[0], *found[1]}):
        one, other = (files.get(name) for files in found)
        if one != other:
            how = "is in one of them only" if None in (one, other) else f"{one} is not {other}"
            return f"{name}: {how}"
    return "the layers' order"


def _files(layers: Iterator[Layer]) -> Iterator[tuple[str, str]]:
    """Yield each file of a saved image, by layer and name, with all that a layer says of it."""
    for number, layer in enumerate(layers):
        for info in layer.files:
            content = layer.files.extractfile(info) if info.isreg() else None
            digest = hashlib.sha256(content.read()).hexdigest()[:12] if content else ""
            facts = f"{info.mode:o} {info.uid}:{info.gid} {info.mtime:.0f} {digest}"
            yield f"layer {number}, /{info.name}", f"{facts}{info.linkname}"
