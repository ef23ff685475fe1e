"""The wheelhouse: all wheels that requirements/*.txt pin, for builds without a network."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from docker.setup.project import Failure, Project, give_to_owner

# In the form of sha256sum: `sha256sum -c SHA256SUMS` in that folder says the same as OFFLINE=1.
SUMS = "SHA256SUMS"


def folder_of(project: Project) -> Path:
    """Where it is, made when missing."""
    folder = project.state / "wheels"
    if not folder.is_dir():
        folder.mkdir()
        give_to_owner(folder)
    return folder


def requirements(project: Project) -> list[Path]:
    """The files that pin what is in it."""
    return sorted((project.root / "requirements").glob("*.txt"))


def record(project: Project) -> list[Path]:
    """Write down of which wheels, for which requirements, it is; remove what nothing pins.

    Returns:
        The wheels.
    """
    folder, files = folder_of(project), requirements(project)
    text = "".join(file.read_text(encoding="utf-8") for file in files)
    pinned = set(re.findall(r"--hash=sha256:([0-9a-f]{64})", text))
    digests = {wheel: _sha256(wheel) for wheel in sorted(folder.glob("*.whl"))}
    for wheel in [wheel for wheel, digest in digests.items() if digest not in pinned]:
        wheel.unlink()
        del digests[wheel]
    seen = {**{file: _sha256(file) for file in files}, **digests}
    lines = (f"{digest}  {os.path.relpath(path, folder)}\n" for path, digest in seen.items())
    (folder / SUMS).write_text("".join(lines), encoding="utf-8")
    for path in [*digests, folder / SUMS]:
        give_to_owner(path)
    return list(digests)


def wheels(project: Project) -> list[Path]:
    """The wheels that a build installs from; none where it asks the index.

    Raises:
        Failure: OFFLINE=1, and they are not there, or not what `make vendor` brought.
    """
    if not project.offline:
        return []
    folder = project.state / "wheels"
    if not (folder / SUMS).is_file():
        raise Failure("OFFLINE=1 takes a wheelhouse: run make vendor where there is a network")
    found = []
    for line in (folder / SUMS).read_text(encoding="utf-8").splitlines():
        digest, _, name = line.partition("  ")
        path = Path(os.path.normpath(folder / name))
        shown = path.relative_to(project.root)
        if not path.is_file():
            raise Failure(f"OFFLINE=1, but {shown} is missing; run make vendor again", 8)
        if _sha256(path) != digest:
            raise Failure(f"{shown} is not what make vendor saw: hash mismatch; run it again", 6)
        if path.suffix == ".whl":
            found.append(path)
    return found


def lay_out(found: Sequence[Path], context: Path) -> None:
    """Put wheels where a build from that folder sees them; without any, the place alone."""
    seen = context / "docker" / "wheels"
    seen.mkdir(parents=True, exist_ok=True)
    for wheel in found:
        shutil.copyfile(wheel, seen / wheel.name)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
