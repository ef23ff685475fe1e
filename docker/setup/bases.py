"""The base images: of an image registry by digest, or made from Debian packages by their lock."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from docker.setup.engine import Engine, output_of
from docker.setup.project import Failure, Project, give_to_owner, say

# The names that the Dockerfiles have as defaults: the full Python to build, the slim one to run.
HUB_IMAGES = {"BASE": "python:3.11-bookworm", "RUNTIME": "python:3.11-slim-bookworm"}
DEBIAN_BASES = {"BASE": "build", "RUNTIME": "runtime"}
# What a label of bases ends with that are not the ones of the lock.
UNLOCKED = ", not as locked"
UNLOCKED_LABEL = "lighterage.unlocked"  # docker/base/build.py has it too
# An engine that reaches no registry may take minutes to say so.
PULL_SECONDS = 300


def scripts(project: Project) -> list[Path]:
    """What makes base images from Debian packages: script, lists of packages, locks."""
    folder = project.root / "docker" / "base"
    return sorted(path for path in folder.iterdir() if path.suffix in (".py", ".txt", ".lock"))


@cache
def choose(project: Project, engine: Engine) -> tuple[str, dict[str, str]]:
    """Which bases to build on, ready in the engine: a label for them, and the build arguments.

    Raises:
        Failure: the hub was asked for and does not answer, Debian's packages failed, or LOCKED=1
            and the bases are not the ones of the lock.
    """
    if project.base != "debian":
        arguments, pinned = _hub_references(project, engine)
        refused = _pull(engine, list(arguments.values()), offline=project.offline)
        if refused is None:
            return f"hub {project.hub}".strip() + _unlocked(project, pinned=pinned), arguments
        if project.base == "hub":
            raise Failure(f"BASE=hub, but the image registry does not serve: {refused}", 1)
        say("no image registry answers; the base images are made from Debian packages instead")
    found = {name: _debian_base(project, engine, kind) for name, kind in DEBIAN_BASES.items()}
    facts = engine.inspect("image", *found.values())
    others = any((facts[name]["Config"].get("Labels") or {}).get(UNLOCKED_LABEL) for name in facts)
    return "debian" + (UNLOCKED if others else ""), found


def labels(engine: Engine, base: str) -> dict[str, str]:
    """What an image is based on, in the OCI's terms: a registry's digest, else an image id."""
    facts = engine.inspect("image", base).get(base, {})
    prefix = "org.opencontainers.image.base."
    name, digest = _served(facts, base)
    if digest:
        return {prefix + "name": name, prefix + "digest": digest}
    return {prefix + "digest": facts["Id"]} if facts else {}


def _served(facts: Mapping[str, Any], reference: str) -> tuple[str, str]:
    """By which name and digest a registry served an image; empty where none did.

    The same image may have come from other registries, too, and podman knows digests of what none
    served: the name counts.
    """
    for known in facts.get("RepoDigests") or []:
        name, _, digest = known.partition("@")
        if reference.startswith((f"{name}@", f"{name}:")):
            return name, digest
    return "", ""


def lock(project: Project) -> None:
    """Write down which bases there are now: Debian's packages, and the registry's digests."""
    script = project.root / "docker" / "base" / "build.py"
    code, said = output_of([sys.executable, str(script), "lock"], os.environ)
    say(said.strip().removeprefix("base: ") or f"{script.name} failed: {code}")
    engine = Engine.find(project.engine)
    references = {image: _prefix(project, engine) + image for image in HUB_IMAGES.values()}
    refused = _pull_anew(engine, list(references.values())) if engine else "no engine answers"
    if engine is None or refused:
        say(f"{_hub_lock(project).name} stays as it is: {refused}")
        return
    facts = engine.inspect("image", *references.values())
    lines = [f"{image} {_served(facts[name], name)[1]}\n" for image, name in references.items()]
    comment = [line for line in _hub_lock(project).read_text("utf-8").splitlines(keepends=True)
               if line.startswith("#")]  # fmt: skip
    _hub_lock(project).write_text("".join(comment + lines), encoding="utf-8")
    give_to_owner(_hub_lock(project))
    say(f"renewed docker/base/{_hub_lock(project).name}")


# --- of a registry ------------------------------------------------------------------------------


def _hub_lock(project: Project) -> Path:
    return project.root / "docker" / "base" / "hub.lock"


def _prefix(project: Project, engine: Engine | None) -> str:
    """What stands before an image's name; podman has no registry of its own accord."""
    if project.hub:
        return f"{project.hub}/"
    return "docker.io/library/" if engine is not None and engine.kind == "podman" else ""


def _hub_references(project: Project, engine: Engine) -> tuple[dict[str, str], bool]:
    """The names to pull, with the digests that are locked; and whether all are."""
    lines = _hub_lock(project).read_text(encoding="utf-8").splitlines()
    pairs = [line.split() for line in lines if line.strip() and not line.startswith("#")]
    digests = {words[0]: words[1] for words in pairs if len(words) == 2}
    references = {}
    for name, image in HUB_IMAGES.items():
        # A registry looks for the digest alone; with a tag as well podman refuses it.
        pinned = f"{image.partition(':')[0]}@{digests[image]}" if image in digests else image
        references[name] = _prefix(project, engine) + pinned
    return references, digests.keys() >= set(HUB_IMAGES.values())


def _unlocked(project: Project, *, pinned: bool) -> str:
    """Say that bases of a registry are whatever its tags mean today.

    Raises:
        Failure: LOCKED=1.
    """
    if pinned:
        return ""
    line = "docker/base/hub.lock has no digests for the base images; make lock writes them"
    if project.locked:
        raise Failure(f"LOCKED=1, but {line}", 1)
    say(line)
    return UNLOCKED


def _pull(engine: Engine, images: list[str], *, offline: bool) -> str | None:
    """Have the images in the engine; the reason when the registry does not serve one."""
    have = engine.inspect("image", *images)
    missing = [image for image in images if image not in have]
    if missing and offline:
        return f"{missing[0]} (OFFLINE=1 asks only the engine)"
    return _pull_anew(engine, missing)


def _pull_anew(engine: Engine, images: list[str]) -> str | None:
    for image in images:
        answer = engine.pull(image, PULL_SECONDS)
        if answer.returncode:
            return (answer.stderr.strip().splitlines() or [image])[-1]
    return None


# --- of Debian's packages -----------------------------------------------------------------------


def _debian_base(project: Project, engine: Engine, kind: str) -> str:
    """The Debian-made base of that kind, built when its script changed; returns its name.

    A second tag carries the script's hash, so that the engine itself knows what is current.
    """
    script = project.root / "docker" / "base" / "build.py"
    digest = hashlib.sha256()
    for path in scripts(project):
        digest.update(path.read_bytes())
    name = f"{project.name}-base:{kind}"
    current = f"{name}-{digest.hexdigest()[:12]}"
    have = engine.inspect("image", current, name)
    if have.keys() == {current, name}:
        unlocked = (have[name]["Config"].get("Labels") or {}).get(UNLOCKED_LABEL)
        if not (unlocked and project.locked):
            return name
    output = project.state / f"base-{kind}-{os.getpid()}.tar"
    cache = project.state / "debian"
    command = [sys.executable, str(script), kind, "--tag", name]
    command += ["--output", str(output), "--cache", str(cache)]
    command += ["--locked"] if project.locked else []
    say(f"making base image {name} from Debian packages")
    try:
        code, said = output_of(command, os.environ)
        if code:
            raise Failure(f"{name}: {said.strip()[-2000:] or 'docker/base/build.py failed'}", 1)
        for line in said.splitlines():
            say(line.removeprefix("base: "))
        engine.must("load", "--input", str(output), timeout=None)
    finally:
        output.unlink(missing_ok=True)
    engine.must("tag", name, current)
    return name
