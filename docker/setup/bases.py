"""The base images: of an image registry by digest, or made from Debian packages by their lock."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from docker.setup.engine import Engine
from docker.setup.project import (
    Failure,
    Project,
    last_line,
    make_folder,
    say,
    sha256,
    write_atomic,
    write_changed,
)

# The names that the Dockerfiles have as defaults: the full Python to build, the slim one to run.
HUB_IMAGES = {"BASE": "python:3.11-bookworm", "RUNTIME": "python:3.11-slim-bookworm"}
DEBIAN_BASES = {"BASE": "build", "RUNTIME": "runtime"}
# How the label of bases ends that are not those of the lock.
UNLOCKED = ", not as locked"
OCI = "org.opencontainers.image.base."
# An engine that reaches no registry may take minutes to say so.
PULL_TIMEOUT_S = 300


def folder_of(project: Project) -> Path:
    """Return the folder with the words for builds, by image, and the stamp for make."""
    return make_folder(project.state / f"{project.name}-bases")


def references(project: Project) -> list[str]:
    """Return the bases chosen last, if the same was asked for then."""
    with contextlib.suppress(OSError, ValueError):
        wanted, images = json.loads((folder_of(project) / "stamp").read_text(encoding="utf-8"))
        return list(images) if wanted == _wanted(project) else []
    return []


def _wanted(project: Project) -> list[Any]:
    return [project.engine, project.base, project.hub, project.locked]


def bases(project: Project) -> None:
    """Choose the bases, one make at a time."""
    with project.lock("bases"):
        choose(project, Engine.of(project))


def choose(project: Project, engine: Engine) -> tuple[str, dict[str, str]]:
    """Choose the bases, and write the words that builds on them take: a file for each image.

    Returns:
        A label for the bases, and the build arguments.
    """
    label, arguments = _choose(project, engine)
    words = [f"--build-arg={name}={image}" for name, image in arguments.items()]
    words.append(f"--label=lighterage.base={label}")
    files = {"arguments": words, "build": [arguments["BASE"]]}
    for dockerfile in project.root.glob("docker/*/Dockerfile"):
        two = "{RUNTIME}" in dockerfile.read_text(encoding="utf-8")
        name = arguments["RUNTIME" if two else "BASE"]
        files[dockerfile.parent.name] = [*words, *labels(engine.inspect("image", name), name)]
    folder = folder_of(project)
    for file, content in files.items():
        write_changed(folder / file, shlex.join(content))
    stamp = json.dumps([_wanted(project), list(arguments.values())])
    write_atomic(folder / "stamp", stamp.encode(), 0o644)
    say(f"base images: {label}")
    return label, arguments


def labels(facts: Mapping[str, Any], reference: str) -> list[str]:
    """Return the OCI's labels for an image's base: a registry's digest, else an image id."""
    name, digest = _served(facts, reference)
    found = {"name": name, "digest": digest or facts.get("Id", "")}
    return [f"--label={OCI}{key}={value}" for key, value in found.items() if value]


def _served(facts: Mapping[str, Any], reference: str) -> tuple[str, str]:
    """Return by which name and digest a registry served an image; empty where none did.

    The same image may come from other registries, too, and podman knows digests of what none
    served: the name counts.
    """
    for known in facts.get("RepoDigests") or []:
        name, _, digest = known.partition("@")
        if reference.startswith((f"{name}@", f"{name}:")):
            return name, digest
    return "", ""


def _choose(project: Project, engine: Engine) -> tuple[str, dict[str, str]]:
    """Return a label for the bases, ready in the engine, and the build arguments.

    Raises:
        Failure: The hub was asked for and does not answer, Debian's packages failed, or LOCKED=1
            and the bases are not the ones of the lock.
    """
    if project.base != "debian":
        arguments, pinned = hub_references(project)
        refused = _pull(engine, list(arguments.values()), offline=project.offline)
        if refused is None:
            return f"hub {project.hub}".strip() + _unlocked(project, pinned=pinned), arguments
        if project.base == "hub":
            raise Failure(f"BASE=hub, but the image registry does not serve: {refused}", 1)
        say("no image registry answers; the base images are made from Debian packages instead")
    found = {name: _debian_base(project, engine, kind) for name, kind in DEBIAN_BASES.items()}
    configs = [engine.inspect("image", name)["Config"] for name in found.values()]
    others = any("lighterage.unlocked" in (config.get("Labels") or {}) for config in configs)
    return "debian" + (UNLOCKED if others else ""), found


# --- of a registry ------------------------------------------------------------------------------


def hub_references(project: Project) -> tuple[dict[str, str], bool]:
    """Return the names to pull, with the digests that are locked; and whether all are."""
    lines = (project.root / "docker/base/hub.lock").read_text(encoding="utf-8").splitlines()
    digests = dict(line.split() for line in lines if line and not line.startswith("#"))
    found = {}
    for name, image in HUB_IMAGES.items():
        # A registry looks for the digest alone; with a tag as well podman refuses it.
        pinned = f"{image.partition(':')[0]}@{digests[image]}" if image in digests else image
        found[name] = _prefix(project) + pinned
    return found, digests.keys() >= set(HUB_IMAGES.values())


def _prefix(project: Project) -> str:
    """Return the start of the hub's names; podman has no default registry."""
    if project.hub:
        return f"{project.hub.rstrip('/')}/"
    return "docker.io/library/" if project.engine == "podman" else ""


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


def _pull(
    engine: Engine, images: Sequence[str], *, offline: bool = False, again: bool = False
) -> str | None:
    """Have the images in the engine; return the reason when the registry does not serve one."""
    for image in images:
        if not again and engine.inspect("image", image):
            continue
        if offline:
            return f"{image} (OFFLINE=1 asks only the engine)"
        # As docker does by itself: a registry on this machine may do without TLS.
        host = image.partition("/")[0].partition(":")[0]
        here = engine.kind == "podman" and (host == "localhost" or host.startswith("127."))
        options = ["--tls-verify=false"] if here else []
        answer = engine.ask("pull", *options, image, timeout=PULL_TIMEOUT_S)
        if answer.returncode:
            return last_line(answer.stderr)
    return None


# --- of Debian's packages -----------------------------------------------------------------------


def _debian_base(project: Project, engine: Engine, kind: str) -> str:
    """Make the Debian-made base of that kind unless the engine has it; return its name."""
    from docker.base.build import build

    name = f"{project.name}-base:{kind}"
    record = folder_of(project) / f"{kind}.made"
    files = sorted(path for path in (project.root / "docker/base").iterdir() if path.is_file())
    inputs = [str(project.locked), *(f"{path.name} {sha256(path)}" for path in files)]

    def made() -> str:
        return "\n".join([*inputs, str(engine.inspect("image", name).get("Id"))])

    if record.exists() and record.read_text(encoding="utf-8") == made():
        return name
    output = project.state / f"base-{kind}-{os.getpid()}.tar"
    say(f"making base image {name} from Debian packages")
    # So that temporary folders are removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        build(kind, name, output, project.state / "debian", strictly=project.locked)
        engine.must("load", "--input", str(output), timeout=None)
    except Failure as failure:
        raise Failure(f"{name}: {failure}", 1) from None
    finally:
        output.unlink(missing_ok=True)
    write_changed(record, made())
    return name


def lock_bases(project: Project) -> None:
    """Write down which bases there are now: Debian's packages, and the registry's digests."""
    from docker.base.packages import write_lock

    try:
        write_lock(project.state / "debian")
    except Failure as failure:
        say(str(failure))
    path = project.root / "docker/base/hub.lock"
    engine = Engine.find(project.engine)
    names = {image: _prefix(project) + image for image in HUB_IMAGES.values()}
    refused = _pull(engine, list(names.values()), again=True) if engine else "no engine answers"
    if engine is None or refused:
        say(f"{path.name} is unchanged: {refused}")
        return
    old = path.read_text(encoding="utf-8").splitlines(keepends=True)
    comments = [line for line in old if line.startswith("#")]
    digests = {
        image: _served(engine.inspect("image", name), name)[1] for image, name in names.items()
    }
    lines = [f"{image} {digest}\n" for image, digest in digests.items()]
    write_changed(path, "".join(comments + lines))
    say(f"renewed docker/base/{path.name}")
