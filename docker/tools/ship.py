"""Move images to other machines: as a file, or through a registry."""

from __future__ import annotations

import gzip
import re
import shutil
import subprocess
import tempfile
import tomllib
import zlib
from pathlib import Path

from docker.setup.project import Failure, give_to_owner, say, sha256
from docker.tools.context import Context, Variant, last_line


def save(context: Context, variant: Variant) -> int:
    """Write the variant's image into one compressed file, with its SHA-256 beside it."""
    path = context.state / f"{variant.prefix}-{version(context)}.tar.gz"
    part = path.with_name(f".{path.name}")
    try:
        with (
            subprocess.Popen([*context.docker, "save", variant.prefix], stdout=-1) as saving,
            part.open("wb") as file,
            gzip.GzipFile("", "wb", 6, file, mtime=0) as packed,
        ):
            assert saving.stdout is not None  # noqa: S101 - -1 is subprocess.PIPE
            shutil.copyfileobj(saving.stdout, packed, 1 << 20)
        if saving.returncode:
            raise Failure(f"{context.engine} save {variant.prefix} failed; see above", 1)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    checksum = _checksum_file(path)
    checksum.write_text(f"{sha256(path)}  {path.name}\n", encoding="utf-8")
    for written in (path, checksum):
        give_to_owner(written)
    name = path.relative_to(context.root)
    print(name)
    say(f"{path.stat().st_size / 1e6:.1f} MB, with {checksum.name}; then: make load FILE={name}")
    return 0


def load(context: Context) -> int:
    """Load a file that `save` wrote, after checking it against its checksum.

    Raises:
        Failure: no file, no checksum, another content, or the engine refused.
    """
    if not context.file:
        raise Failure("load needs a file: make load FILE=name.tar.gz, with name.tar.gz.sha256")
    path = context.root / context.file
    checksum = _checksum_file(path)
    for needed in (path, checksum):
        if not needed.is_file():
            raise Failure(f"{needed}: there is no such file; make save writes both", 8)
    if checksum.read_text(encoding="utf-8").split()[:1] != [sha256(path)]:
        raise Failure(f"{path}: checksum mismatch with {checksum.name}: copy the file again", 6)
    # Decompressed here: podman 4.3 cannot read a compressed docker archive.
    with tempfile.TemporaryFile(dir=context.state) as archive:
        try:
            with gzip.open(path) as packed:
                shutil.copyfileobj(packed, archive, 1 << 20)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise Failure(f"{path}: not a file of make save: {error}", 7) from None
        archive.seek(0)
        say(context.must("load", stdin=archive).splitlines()[-1])
    return 0


def push(context: Context, variant: Variant) -> int:
    """Push the variant's image to a registry, and print the reference with its digest.

    Raises:
        Failure: no registry was named, or it refused.
    """
    if not context.registry:
        raise Failure("push needs a registry: make push ENV=prod REGISTRY=registry.example/team")
    reference = f"{context.registry}/{variant.prefix}:{version(context)}"
    context.must("tag", variant.prefix, reference)
    try:
        digest = _push(context, reference)
    finally:
        context.ask("image", "rm", reference)
    if not digest:
        raise Failure(f"{reference}: the registry gave no digest", 5)
    print(f"{reference}@{digest}")
    return 0


def _push(context: Context, reference: str) -> str:
    """Push a reference; returns its digest in the registry, which docker prints."""
    words: list[str] = []
    with tempfile.NamedTemporaryFile("r", prefix="lighterage-") as file:
        if context.engine == "podman":
            words = ["--digestfile", file.name]
            # docker needs no TLS for a local registry; podman needs the option.
            if re.match(r"(localhost|127\.[\d.]+)[:/]", reference):
                words.append("--tls-verify=false")
        answer = context.ask("push", *words, reference)
        if answer.returncode:
            raise Failure(f"{reference} was not pushed: {last_line(answer)}", 5)
        found = re.search(r"sha256:[0-9a-f]{64}", answer.stdout + file.read())
    return found[0] if found else ""


def version(context: Context) -> str:
    """Return the version in pyproject.toml."""
    text = (context.root / "pyproject.toml").read_text(encoding="utf-8")
    return str(tomllib.loads(text)["project"]["version"])


def _checksum_file(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")
