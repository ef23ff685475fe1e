"""Images on their way to other machines: as a file, or through a registry."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
import shutil
import subprocess
import tempfile
import zlib
from pathlib import Path

from docker.setup import images
from docker.setup.engine import Engine
from docker.setup.origin import version_of
from docker.setup.project import Failure, Project, give_to_owner, say
from docker.setup.variants import Variant

# Where the last step of each Dockerfile writes it.
SBOM = "/opt/sbom.cdx.json"


def save(project: Project, variant: Variant, engine: Engine) -> int:
    """Write the variant's image into one compressed file, with its sha256 beside it."""
    tag = images.tag_of(project, variant.name)
    path = project.state / f"{tag}-{version_of(project)}.tar.gz"
    part = path.with_name(f".{path.name}.{os.getpid()}")
    command = [engine.client, "save", tag]
    try:
        with (
            subprocess.Popen(command, stdout=subprocess.PIPE) as saving,
            part.open("wb") as file,
            gzip.GzipFile("", "wb", 6, file, mtime=0) as packed,
        ):
            assert saving.stdout is not None  # noqa: S101 - it was asked for
            shutil.copyfileobj(saving.stdout, packed, 2**20)
        if saving.returncode:
            raise Failure(f"{engine.kind} save {tag} failed; see above", 1)
        digest = _sha256(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    beside = _beside(path)
    beside.write_text(f"{digest}  {path.name}\n", encoding="utf-8")
    for made in (path, beside):
        give_to_owner(made)
    name = path.relative_to(project.root)
    print(name)
    say(f"{path.stat().st_size / 1e6:.1f} MB, with {beside.name}; there: make load FILE={name}")
    return 0


def sbom(project: Project, variant: Variant, engine: Engine) -> int:
    """Print what the variant's image is made of: the document that its Dockerfile put there."""
    tag = images.tag_of(project, variant.name)
    show = ["--entrypoint", "python", tag, "-c", f"print(open('{SBOM}').read(), end='')"]
    answer = engine.ask("run", "--rm", "--network", "none", *show)
    if answer.returncode:
        raise Failure(f"{tag} has no {SBOM}: {answer.stderr.strip().splitlines()[-1:]}", 1)
    print(answer.stdout, end="")
    return 0


def load(project: Project, engine: Engine) -> int:
    """Bring in a file that `save` wrote, if it is still what was written.

    Raises:
        Failure: no file, no checksum, another content, or the engine refused.
    """
    if not project.file:
        raise Failure("load needs a file: make load FILE=name.tar.gz, with name.tar.gz.sha256")
    path = project.root / project.file
    beside = _beside(path)
    for needed in (path, beside):
        if not needed.is_file():
            raise Failure(f"{needed}: there is no such file; make save writes both", 8)
    told = beside.read_text(encoding="utf-8").split()
    if not told or told[0] != _sha256(path):
        raise Failure(f"{path}: is not what {beside.name} says: fetch it again", 6)
    # Unpacked here: podman 4.3 reads no image of this kind that is compressed.
    with tempfile.TemporaryFile(dir=project.state) as unpacked:
        try:
            with gzip.open(path) as packed:
                shutil.copyfileobj(packed, unpacked, 2**20)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise Failure(f"{path}: is not what make save writes: {error}", 7) from None
        unpacked.seek(0)
        say(engine.must("load", stdin=unpacked, timeout=None).splitlines()[-1])
    return 0


def push(project: Project, variant: Variant, engine: Engine) -> int:
    """Bring the variant's image to a registry, and print by which digest to pull it.

    Raises:
        Failure: no registry was named, or it refused.
    """
    if not project.registry:
        raise Failure("push needs a registry: make push ENV=prod REGISTRY=registry.example/team")
    tag = images.tag_of(project, variant.name)
    there = f"{project.registry}/{tag}:{version_of(project)}"
    engine.must("tag", tag, there)
    try:
        answer, digest = engine.push(there)
        if answer.returncode:
            words = answer.stderr.strip().splitlines() or ["no reason given"]
            raise Failure(f"{there} was not pushed: {words[-1]}", 5)
    finally:
        with contextlib.suppress(Failure):
            engine.must("image", "rm", there)
    if not digest:
        raise Failure(f"{there}: the registry gave no digest", 5)
    print(f"{there}@{digest}")
    return 0


def _beside(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
